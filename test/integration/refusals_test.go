package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// refusal is one change of a valid object and the API server's word about it. A
// path is as the API server writes it; the value nil takes the field away.
type refusal struct {
	path  string
	value any
	// at is the path that the answer names, path where it is empty.
	at   string
	want string
}

const (
	fixed        = "cannot be changed: create a new NotificationRequest instead"
	badDirectory = "must be a relative path of names that begin with a letter or a digit and go on with letters, digits, '.', '_' and '-'"
	badName      = "has a name that is empty, longer than 63 characters, or contains a NUL character"
	gained       = "cannot gain or lose a field, suspend excepted: create a new NotificationRequest instead"
)

const validRequest = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationRequest
metadata: {name: valid}
spec:
  subject: Disk is full
  body: The disk of node-1 is full.
  bodyFormat: Markdown
  type: Escalation
  priority: High
  severity: page
  correlationID: incident-1
  regarding: {apiVersion: v1, kind: Node, namespace: none, name: node-1}
  channels: [{name: a, namespace: team}, {name: console}]
  links: [{label: runbook, url: "https://example.com/"}]
  fields: {node: node-1}
  retry: {maxAttempts: 3, initialDelay: 1s, maxDelay: 1m30s}
  deadline: 1h
  onAmbiguous: Hold
  notBefore: "2026-01-01T00:00:00Z"
  ttlSecondsAfterFinished: 60
  suspend: true
`

const validWebhook = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Webhook
  webhook:
    url: https://example.com/
    signingSecretRef: {name: s, key: k}
    headers: [{name: X-Team, value: a}, {name: Authorization, valueSecretRef: {name: s, key: k}}]
    idempotent: true
  timeout: 5s
  tls: {caSecretRef: {name: s, key: ca}, certSecretRef: {name: s, key: cert}, keySecretRef: {name: s, key: key}}
  proxy: {url: "http://proxy.example.com:3128"}
  rateLimit: {messages: 30, interval: 1m, burst: 5}
  allowedNamespaces: [team, "*"]
  suspend: false
`

const validSecretWebhook = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Webhook
  webhook: {urlSecretRef: {name: s, key: k}}
  proxy: {urlSecretRef: {name: s, key: k}}
`

const validSlackHook = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Slack
  slack: {webhookURLSecretRef: {name: s, key: k}}
  tls: {caSecretRef: {name: s, key: ca}}
  proxy: {url: "http://proxy.example.com:3128"}
`

const validSlackBot = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Slack
  slack: {botTokenSecretRef: {name: s, key: k}, channel: "#alerts"}
`

const validFile = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: File
  file: {directory: team-a/incidents}
`

// text refuses texts that are shorter or longer than the limits.
func text(path string, shortest, longest int) []refusal {
	x := strings.Repeat("x", longest+1)
	return []refusal{
		{path: path, value: x[:shortest-1], want: fmt.Sprintf("should be at least %d chars long", shortest)},
		{path: path, value: x, want: fmt.Sprintf("Too long: may not be more than %d bytes", longest)},
	}
}

// word refuses a word that is not one of those allowed.
func word(path string, allowed ...string) []refusal {
	return []refusal{{path: path, value: "Nonsense", want: `Unsupported value: "Nonsense": supported values: "` + strings.Join(allowed, `", "`) + `"`}}
}

func number(path string, least, most int64) []refusal {
	return []refusal{
		{path: path, value: least - 1, want: fmt.Sprintf("should be greater than or equal to %d", least)},
		{path: path, value: most + 1, want: fmt.Sprintf("should be less than or equal to %d", most)},
	}
}

// duration refuses what is no duration; first and last are just out of bounds.
func duration(path, first, last, message string) []refusal {
	return append(text(path, 2, 32),
		refusal{path: path, value: "1 day", want: "should match '^([0-9]+(ms|s|m|h))+$'"},
		refusal{path: path, value: "-5s", want: "should match '^([0-9]+(ms|s|m|h))+$'"},
		refusal{path: path, value: first, want: message},
		refusal{path: path, value: last, want: message})
}

func secretRef(path string) []refusal {
	return slices.Concat(text(path+".name", 1, 253), text(path+".key", 1, 253))
}

// copies returns n objects, each with another value of the field that tells them apart.
func copies(n int, field string, object map[string]any) []any {
	var list []any
	for i := range n {
		o := maps.Clone(object)
		o[field] = fmt.Sprint("n", i)
		list = append(list, o)
	}
	return list
}

func properties(n int) map[string]any {
	m := map[string]any{}
	for i := range n {
		m[fmt.Sprint("n", i)] = "v"
	}
	return m
}

var requestRefusals = slices.Concat(
	text("spec.subject", 1, 500),
	text("spec.body", 1, 32768),
	word("spec.bodyFormat", "Plain", "Markdown"),
	word("spec.type", "Simple", "Escalation", "StatusUpdate", "Approval", "ManualReview", "Completion"),
	word("spec.priority", "Critical", "High", "Medium", "Low"),
	text("spec.severity", 1, 64),
	text("spec.correlationID", 1, 253),
	text("spec.regarding.apiVersion", 1, 317),
	text("spec.regarding.kind", 1, 63),
	text("spec.regarding.namespace", 1, 63),
	text("spec.regarding.name", 1, 253),
	text("spec.channels[0].name", 1, 253),
	text("spec.channels[0].namespace", 1, 63),
	text("spec.links[0].label", 1, 128),
	text("spec.links[0].url", 8, 2048),
	duration("spec.retry.initialDelay", "0s", "24h1ms", "must be more than 0 and at most 24h"),
	duration("spec.retry.maxDelay", "0s", "24h1ms", "must be more than 0 and at most 24h"),
	duration("spec.deadline", "0s", "720h1ms", "must be more than 0 and at most 720h"),
	number("spec.retry.maxAttempts", 1, 20),
	number("spec.ttlSecondsAfterFinished", 0, 31536000),
	word("spec.onAmbiguous", "Retry", "Hold", "AssumeSent"),
	[]refusal{
		// DataStorage cannot store a NUL: such a message could be sent and never audited.
		{path: "spec.subject", value: "a\x00b", want: "contains a NUL character: remove it"},
		{path: "spec.body", value: "a\x00b", want: "contains a NUL character: remove it"},
		{path: "spec.severity", value: "a\x00b", want: "contains a NUL character: remove it"},
		{path: "spec.correlationID", value: "a\x00b", want: "contains a NUL character: remove it"},
		{path: "spec.channels[0].name", value: "a\x00b", want: "should match"},
		{path: "spec.channels[0].name", value: "Team A", want: "should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'"},
		{path: "spec.fields.node", value: "a\x00b", at: "spec.fields[node]", want: "contains a NUL character: remove it"},
		{path: "spec.fields", value: map[string]any{"a\x00b": "v"}, want: badName},
		{path: "spec.colour", value: "red", want: `unknown field "spec.colour"`},
		{path: "spec.subject", want: "Required value"},
		{path: "spec.body", want: "Required value"},
		{path: "spec.channels", value: copies(17, "name", map[string]any{}), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.channels[1].name", value: "a", at: "spec.channels[1]", want: `Duplicate value: {"name":"a"}`},
		{path: "spec.channels[1].namespace", value: "team", at: "spec.channels[1]", want: "the channel console is built in and lives in no namespace: remove namespace"},
		{path: "spec.links", value: copies(17, "label", map[string]any{"url": "https://example.com/"}), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.links[0].url", value: "ftp://example.com/", want: "must start with https:// or http://"},
		{path: "spec.fields", value: properties(33), want: "Too many: 33: must have at most 32 items"},
		{path: "spec.fields", value: map[string]any{strings.Repeat("n", 64): "v"}, want: badName},
		{path: "spec.fields", value: map[string]any{"": "v"}, want: badName},
		{path: "spec.fields.node", value: strings.Repeat("v", 1025), want: "Too long: may not be more than 1024 bytes"},
		{path: "spec.retry", value: map[string]any{"initialDelay": "2m", "maxDelay": "1m"}, want: "has an initialDelay longer than its maxDelay: raise maxDelay or lower initialDelay"},
	},
)

// changes are refused to a request that exists.
var changes = []refusal{
	{path: "spec.subject", value: "other", want: fixed},
	{path: "spec.body", value: "other", want: fixed},
	{path: "spec.bodyFormat", value: "Plain", want: fixed},
	{path: "spec.type", value: "Simple", want: fixed},
	{path: "spec.priority", value: "Low", want: fixed},
	{path: "spec.severity", value: "other", want: fixed},
	{path: "spec.correlationID", value: "other", want: fixed},
	{path: "spec.regarding.name", value: "other", at: "spec.regarding", want: fixed},
	{path: "spec.channels[0].name", value: "other", at: "spec.channels", want: fixed},
	{path: "spec.links[0].label", value: "other", at: "spec.links", want: fixed},
	{path: "spec.fields.node", value: "other", at: "spec.fields", want: fixed},
	{path: "spec.retry.maxAttempts", value: int64(4), at: "spec.retry", want: fixed},
	{path: "spec.deadline", value: "2h", want: fixed},
	{path: "spec.onAmbiguous", value: "Retry", want: fixed},
	{path: "spec.notBefore", value: "2026-01-02T00:00:00Z", want: fixed},
	{path: "spec.ttlSecondsAfterFinished", value: int64(61), want: fixed},
	{path: "spec.severity", at: "spec", want: gained},
	{path: "spec.correlationID", at: "spec", want: gained},
	{path: "spec.regarding", at: "spec", want: gained},
	{path: "spec.channels", at: "spec", want: gained},
	{path: "spec.links", at: "spec", want: gained},
	{path: "spec.fields", at: "spec", want: gained},
	{path: "spec.notBefore", at: "spec", want: gained},
	{path: "spec.ttlSecondsAfterFinished", at: "spec", want: gained},
	// Taken away, these get their defaults.
	{path: "spec.bodyFormat", want: fixed},
	{path: "spec.retry", want: fixed},
	{path: "spec.deadline", want: fixed},
}

const oneAddress = "needs exactly one of url and urlSecretRef"

var webhookRefusals = slices.Concat(
	word("spec.type", "Webhook", "Slack", "File"),
	text("spec.webhook.url", 8, 2048),
	secretRef("spec.webhook.signingSecretRef"),
	text("spec.webhook.headers[0].name", 1, 128),
	text("spec.webhook.headers[0].value", 1, 1024),
	secretRef("spec.webhook.headers[1].valueSecretRef"),
	duration("spec.timeout", "99ms", "2m1ms", "must be from 100ms to 2m"),
	secretRef("spec.tls.caSecretRef"),
	secretRef("spec.tls.certSecretRef"),
	secretRef("spec.tls.keySecretRef"),
	text("spec.proxy.url", 8, 2048),
	number("spec.rateLimit.messages", 1, 10000),
	duration("spec.rateLimit.interval", "999ms", "24h1ms", "must be from 1s to 24h"),
	number("spec.rateLimit.burst", 1, 1000),
	text("spec.allowedNamespaces[0]", 1, 63),
	[]refusal{
		{path: "metadata.name", value: "console", at: "<nil>", want: "the name console belongs to the built-in channel: choose another"},
		{path: "spec.type", want: "Required value"},
		{path: "spec.webhook.url", value: "example.com/hook", want: "must be an http or https URL with a host"},
		{path: "spec.webhook.url", value: "ftp://example.com/", want: "must be an http or https URL with a host"},
		{path: "spec.webhook.url", value: "https:///path", want: "must be an http or https URL with a host"},
		{path: "spec.webhook.url", at: "spec.webhook", want: oneAddress},
		{path: "spec.webhook.urlSecretRef", value: map[string]any{"name": "s", "key": "k"}, at: "spec.webhook", want: oneAddress},
		{path: "spec.webhook.headers", value: copies(17, "name", map[string]any{"value": "v"}), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.webhook.headers[0].name", value: "X Team", want: "should match '^[A-Za-z0-9!#$%&'*+.^_|~-]+$'"},
		{path: "spec.webhook.headers[0].name", value: "Idempotency-Key", at: "spec.webhook.headers[0]", want: "names a header that the controller sets itself: remove it"},
		{path: "spec.webhook.headers[0].value", at: "spec.webhook.headers[0]", want: "needs exactly one of value and valueSecretRef"},
		{path: "spec.webhook.headers[1].value", value: "v", at: "spec.webhook.headers[1]", want: "needs exactly one of value and valueSecretRef"},
		{path: "spec.tls", value: map[string]any{}, want: "should have at least 1 properties"},
		{path: "spec.tls.keySecretRef", at: "spec.tls", want: "needs both certSecretRef and keySecretRef, or neither"},
		{path: "spec.proxy.url", value: "proxy:3128/", want: "must be an http or https URL with a host"},
		{path: "spec.proxy", value: map[string]any{}, want: oneAddress},
		{path: "spec.proxy.urlSecretRef", value: map[string]any{"name": "s", "key": "k"}, at: "spec.proxy", want: oneAddress},
		{path: "spec.allowedNamespaces", value: slices.Repeat([]any{"a"}, 65), want: "Too many: 65: must have at most 64 items"},
		{path: "spec.allowedNamespaces[1]", value: "team", want: `Duplicate value: "team"`},
		{path: "spec.webhook", at: "spec", want: "needs webhook where type is Webhook, and must not have it otherwise"},
		{path: "spec.slack", value: map[string]any{"webhookURLSecretRef": someKey}, at: "spec", want: "needs slack where type is Slack, and must not have it otherwise"},
		{path: "spec.file", value: map[string]any{"directory": "d"}, at: "spec", want: "needs file where type is File, and must not have it otherwise"},
	},
)

var someKey = map[string]any{"name": "s", "key": "k"}

const (
	oneCredential = "needs exactly one of webhookURLSecretRef and botTokenSecretRef"
	withChannel   = "needs channel where it has botTokenSecretRef, and must not have it otherwise"
	badChannel    = "must be a channel's ID, such as C0123456789, or its name"
)

var slackHookRefusals = slices.Concat(
	secretRef("spec.slack.webhookURLSecretRef"),
	[]refusal{
		{path: "spec.slack", at: "spec", want: "needs slack where type is Slack, and must not have it otherwise"},
		{path: "spec.slack.webhookURLSecretRef", at: "spec.slack", want: oneCredential},
		{path: "spec.slack.botTokenSecretRef", value: someKey, at: "spec.slack", want: oneCredential},
		{path: "spec.slack.channel", value: "C0123456789", at: "spec.slack", want: withChannel},
		{path: "spec.slack.webhookURL", value: "https://hooks.slack.com/services/T/B/x", want: `unknown field "spec.slack.webhookURL"`},
	},
)

var slackBotRefusals = slices.Concat(
	secretRef("spec.slack.botTokenSecretRef"),
	text("spec.slack.channel", 1, 81),
	[]refusal{
		{path: "spec.slack.channel", at: "spec.slack", want: withChannel},
		{path: "spec.slack.channel", value: "#", want: badChannel},
		{path: "spec.slack.channel", value: "#a#b", want: badChannel},
		{path: "spec.slack.channel", value: "@somebody", want: badChannel},
		{path: "spec.slack.channel", value: "two words", want: badChannel},
		{path: "spec.slack.channel", value: "<!channel>", want: badChannel},
		{path: "spec.slack.channel", value: "alerts\n", want: badChannel},
	},
)

var fileRefusals = slices.Concat(
	text("spec.file.directory", 1, 255),
	[]refusal{
		{path: "spec.file.directory", value: "../up", want: badDirectory},
		{path: "spec.file.directory", value: "/abs", want: badDirectory},
		{path: "spec.file", at: "spec", want: "needs file where type is File, and must not have it otherwise"},
		{path: "spec.tls", value: map[string]any{"caSecretRef": map[string]any{"name": "s", "key": "k"}}, at: "spec", want: "has tls or proxy, which the type File does not use: remove them"},
		{path: "spec.proxy", value: map[string]any{"url": "http://example.com/"}, at: "spec", want: "has tls or proxy, which the type File does not use: remove them"},
	},
)
