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
	// alone says that nothing else is answered.
	alone bool
}

const (
	fixed        = "cannot be changed: create a new NotificationRequest instead"
	badDirectory = "must be a relative path of names that begin with a letter or a digit and go on with letters, digits, '.', '_' and '-'"
	noDuration   = "must be a duration such as 500ms, 30s, 15m or 1h30m: whole numbers, each with ms, s, m or h"
	badName      = "has a name that is empty, longer than 63 characters, or contains a NUL character"
	noName       = "must be the name of a NotificationChannel, such as slack-alerts, or console: lower case letters, digits, '-' and '.', beginning and ending with a letter or a digit"
	noNamespace  = "must be the name of a namespace, such as platform: lower case letters, digits and '-', beginning and ending with a letter or a digit"
	noTime       = "must be a time such as 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00"
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
  mode: DryRun
  notBefore: "2026-01-01T00:00:00Z"
  ttlSecondsAfterFinished: 60
  dedup: {key: disk-full/node-1, window: 5m}
  acknowledge: {required: true, within: 15m, escalateTo: [{name: b, namespace: team}]}
  suspend: true
`

const validWebhook = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Webhook
  webhook:
    url: https://example.com/@team?to=ops@example.com
    format: Alertmanager
    signingSecretRef: {name: s, key: k}
    headers: [{name: X-Team, value: a}, {name: Authorization, valueSecretRef: {name: s, key: k}}]
    idempotent: true
  template: {subject: "[{{ .Priority }}] {{ .Subject }}", body: "{{ .Body }}"}
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

const validSlackFollowUps = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Slack
  slack: {botTokenSecretRef: {name: s, key: k}, channel: C0123456789, followUps: Update}
`

const validDiscord = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Discord
  discord: {webhookURLSecretRef: {name: s, key: k}, threadID: "1187452905223458876", username: On call}
  proxy: {url: "http://proxy.example.com:3128"}
`

const validTeams = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Teams
  teams: {webhookURLSecretRef: {name: s, key: k}}
  tls: {caSecretRef: {name: s, key: ca}}
`

const validEmail = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Email
  email:
    host: smtp.example.com
    port: 465
    encryption: TLS
    from: "o'brien+alerts@mail.example.com"
    to: [ops@example.com, on-call@example.com]
    cc: [archive@localhost, "a.b!c@xn--bcher-kva.example"]
    replyTo: help@example.com
    auth: {mechanism: XOAUTH2, username: robot@example.com, passwordSecretRef: {name: s, key: k}}
  tls: {caSecretRef: {name: s, key: ca}}
`

const validRelay = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: Email
  email: {host: "2001:db8::25", encryption: None, from: a@b.c, to: [d@e.f]}
`

const validPagerDuty = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: valid}
spec:
  type: PagerDuty
  pagerDuty:
    routingKeySecretRef: {name: s, key: k}
    region: EU
    dedupBy: Correlation
    source: prod-1
    component: mysql
    group: app-stack
    class: cpu load
    clientURL: https://grafana.example.com/d/1
  tls: {caSecretRef: {name: s, key: ca}}
  proxy: {url: "http://proxy.example.com:3128"}
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
	refusals := append(text(path, 1, 32),
		refusal{path: path, value: first, want: message},
		refusal{path: path, value: last, want: message})
	for _, value := range []string{"1 day", "-5s", "2d", "5", "15 m", "1.5h", "m"} {
		refusals = append(refusals, refusal{path: path, value: value, want: noDuration})
	}
	return refusals
}

// moment refuses what is no time, and what is one to the API server's date-time but
// not to Go.
func moment(path string) []refusal {
	refusals := []refusal{{path: path, value: strings.Repeat("1", 65), want: "Too long: may not be more than 64 bytes"}}
	for _, value := range []string{
		"", "tomorrow", "2026-01-01", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T00:00Z", "2026-01-01T00:00:00+0100",
		"2026-01-01t00:00:00Z", "2026-01-01T00:00:00z", "2026-01-01T00:00:00,5Z", "2026-13-01T00:00:00Z", "2026-01-32T00:00:00Z",
		"2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00+99:99",
	} {
		refusals = append(refusals, refusal{path: path, value: value, want: fmt.Sprintf("Invalid value: %q: %s", value, noTime), alone: true})
	}
	for _, value := range []string{
		"2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
	} {
		refusals = append(refusals, refusal{path: path, value: value, want: noTime, alone: true})
	}
	return refusals
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
	word("spec.mode", "Send", "DryRun"),
	moment("spec.notBefore"),
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
	text("spec.dedup.key", 1, 253),
	text("spec.acknowledge.escalateTo[0].name", 1, 253),
	text("spec.acknowledge.escalateTo[0].namespace", 1, 63),
	duration("spec.acknowledge.within", "59s", "24h1ms", "must be from 1m to 24h"),
	duration("spec.dedup.window", "999ms", "24h1ms", "must be from 1s to 24h"),
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
		{path: "spec.acknowledge.required", value: false, want: "must be true: leave acknowledge out where nobody has to acknowledge"},
		{path: "spec.acknowledge.within", value: "61m", at: "spec", want: "has an acknowledge.within longer than its deadline: raise deadline or lower acknowledge.within"},
		{path: "spec.acknowledge.escalateTo", value: copies(9, "name", map[string]any{}), want: "Too many: 9: must have at most 8 items"},
		{path: "spec.acknowledge.escalateTo[0].name", value: "Team A", want: noName, alone: true},
		{path: "spec.acknowledge.escalateTo[0].namespace", value: "Team A", want: noNamespace, alone: true},
		{path: "spec.acknowledge.escalateTo[0].name", value: "console", at: "spec.acknowledge.escalateTo[0]", want: "the channel console is built in and lives in no namespace: remove namespace"},
		{path: "spec.acknowledge.escalateTo[0].name", value: "a", at: "spec", want: "has a channel in acknowledge.escalateTo that is among channels too: name it in one of them"},
		{path: "spec.dedup.key", value: "a\x00b", want: "contains a NUL character: remove it"},
		{path: "spec.channels[0].name", value: "a\x00b", want: noName, alone: true},
		{path: "spec.channels[0].namespace", value: "Team A", want: noNamespace, alone: true},
		{path: "spec.channels[0].namespace", value: "team.a", want: noNamespace, alone: true},
		{path: "spec.channels[0].namespace", value: "team-", want: noNamespace, alone: true},
		{path: "spec.channels[0].name", value: "slack_alerts", want: noName, alone: true},
		{path: "spec.channels[0].name", value: "-slack", want: noName, alone: true},
		{path: "spec.channels[0].name", value: "Team A", want: noName, alone: true},
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
	{path: "spec.mode", value: "Send", want: fixed},
	{path: "spec.notBefore", value: "2026-01-02T00:00:00Z", want: fixed},
	{path: "spec.ttlSecondsAfterFinished", value: int64(61), want: fixed},
	{path: "spec.dedup.key", value: "other", at: "spec.dedup", want: fixed},
	{path: "spec.dedup", at: "spec", want: gained},
	{path: "spec.acknowledge.within", value: "10m", at: "spec.acknowledge", want: fixed},
	{path: "spec.acknowledge", at: "spec", want: gained},
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
	{path: "spec.mode", want: fixed},
}

const (
	oneAddress = "needs exactly one of url and urlSecretRef"
	noHeader   = "must be the name of a header, such as X-Team: letters, digits and !#$%&'*+-.^_|~"
	openSecret = "has a user name or a password, which anybody who can read the channel could read: keep the whole URL in a Secret and name that in urlSecretRef"
	oneMember  = "needs exactly one of webhook, slack, teams, discord, email, pagerDuty and file: the one that type names"
)

// userinfo refuses URLs with a user name or a password, wherever a URL can have one.
func userinfo(path, message string) []refusal {
	var refusals []refusal
	for _, value := range []string{
		"https://me:word@example.com/", "http://me@example.com", "https://me:w%40rd@example.com:8443/a?b#c", "https://:word@[2001:db8::1]/", "HTTPS://@example.com/",
	} {
		refusals = append(refusals, refusal{path: path, value: value, want: message, alone: true})
	}
	return refusals
}

// members refuses a channel whose member is not the one of its type, or not the only
// one.
func members(own string) []refusal {
	other := "Slack"
	if own == "slack" {
		other = "Teams"
	}
	refusals := []refusal{
		{path: "spec." + own, at: "spec", want: oneMember, alone: true},
		{path: "spec.type", value: other, at: "spec", want: oneMember, alone: true},
	}
	for member, value := range map[string]map[string]any{
		"webhook": {"url": "https://example.com/"}, "slack": {"webhookURLSecretRef": someKey}, "teams": {"webhookURLSecretRef": someKey},
		"discord": {"webhookURLSecretRef": someKey}, "pagerDuty": {"routingKeySecretRef": someKey}, "file": {"directory": "d"},
		"email": {"host": "smtp.example.com", "from": "a@b.c", "to": []any{"d@e.f"}},
	} {
		if member != own {
			refusals = append(refusals, refusal{path: "spec." + member, value: value, at: "spec", want: oneMember, alone: true})
		}
	}
	return refusals
}

var webhookRefusals = slices.Concat(
	members("webhook"),
	word("spec.type", "Webhook", "Slack", "Teams", "Discord", "Email", "PagerDuty", "File"),
	text("spec.webhook.url", 8, 2048),
	userinfo("spec.webhook.url", openSecret),
	word("spec.webhook.format", "JSON", "Alertmanager", "CloudEvents"),
	secretRef("spec.webhook.signingSecretRef"),
	text("spec.webhook.headers[0].name", 1, 128),
	text("spec.webhook.headers[0].value", 1, 1024),
	secretRef("spec.webhook.headers[1].valueSecretRef"),
	text("spec.template.subject", 1, 1024),
	text("spec.template.body", 1, 8192),
	duration("spec.timeout", "99ms", "2m1ms", "must be from 100ms to 2m"),
	secretRef("spec.tls.caSecretRef"),
	secretRef("spec.tls.certSecretRef"),
	secretRef("spec.tls.keySecretRef"),
	text("spec.proxy.url", 8, 2048),
	userinfo("spec.proxy.url", openSecret),
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
		{path: "spec.webhook.headers[0].name", value: "X Team", want: noHeader, alone: true},
		{path: "spec.webhook.headers[0].name", value: "X-Team:", want: noHeader, alone: true},
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
		{path: "spec.allowedNamespaces[0]", value: "team-*", want: "must be a namespace's name, such as team-a, or * for all; no other pattern is known"},
		{path: "spec.allowedNamespaces[0]", value: "Team", want: "must be a namespace's name, such as team-a, or * for all; no other pattern is known"},
		{path: "spec.template", value: map[string]any{}, want: "should have at least 1 properties"},
	},
)

var someKey = map[string]any{"name": "s", "key": "k"}

const (
	oneCredential = "needs exactly one of webhookURLSecretRef and botTokenSecretRef"
	withChannel   = "needs channel where it has botTokenSecretRef, and must not have it otherwise"
	badChannel    = "must be a channel's ID, such as C0123456789, or its name"
	withBot       = "needs botTokenSecretRef where followUps is Reply or Update: a webhook can neither reply nor update"
	withID        = "needs channel to be an ID, such as C0123456789, where followUps is Reply or Update"
)

var slackHookRefusals = slices.Concat(
	members("slack"),
	secretRef("spec.slack.webhookURLSecretRef"),
	[]refusal{
		{path: "spec.slack.webhookURLSecretRef", at: "spec.slack", want: oneCredential},
		{path: "spec.slack.botTokenSecretRef", value: someKey, at: "spec.slack", want: oneCredential},
		{path: "spec.slack.channel", value: "C0123456789", at: "spec.slack", want: withChannel},
		{path: "spec.slack.followUps", value: "Reply", at: "spec.slack", want: withBot},
		{path: "spec.slack.followUps", value: "Update", at: "spec.slack", want: withBot},
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

var slackFollowUpsRefusals = slices.Concat(
	word("spec.slack.followUps", "Separate", "Reply", "Update"),
	[]refusal{
		{path: "spec.slack.channel", value: "#alerts", at: "spec.slack", want: withID},
		{path: "spec.slack.channel", value: "alerts", at: "spec.slack", want: withID},
		{path: "spec.slack.channel", value: "U0123456789", at: "spec.slack", want: withID},
		{path: "spec.slack.channel", at: "spec.slack", want: withChannel},
	},
)

const (
	badThread = "must be a thread's ID, which has 15 to 20 digits"
	badAuthor = "must be a name in one line, and not have clyde or discord in it, which Discord refuses"
)

var discordRefusals = slices.Concat(
	members("discord"),
	secretRef("spec.discord.webhookURLSecretRef"),
	text("spec.discord.threadID", 1, 20),
	text("spec.discord.username", 1, 80),
	[]refusal{
		{path: "spec.discord.webhookURLSecretRef", want: "Required value"},
		{path: "spec.discord.threadID", value: "general", want: badThread},
		{path: "spec.discord.threadID", value: "12345678901234", want: badThread},
		{path: "spec.discord.username", value: "My Discord", want: badAuthor},
		{path: "spec.discord.username", value: "CLYDE", want: badAuthor},
		{path: "spec.discord.username", value: "two\nlines", want: badAuthor},
		{path: "spec.discord.username", value: "  ", want: badAuthor},
		{path: "spec.discord.webhookURL", value: "https://discord.com/api/webhooks/1/x", want: `unknown field "spec.discord.webhookURL"`},
	},
)

var teamsRefusals = slices.Concat(
	members("teams"),
	secretRef("spec.teams.webhookURLSecretRef"),
	[]refusal{
		{path: "spec.teams.webhookURLSecretRef", want: "Required value"},
		{path: "spec.teams.webhookURL", value: "https://x.environment.api.powerplatform.com/", want: `unknown field "spec.teams.webhookURL"`},
	},
)

var pagerDutyRefusals = slices.Concat(
	members("pagerDuty"),
	secretRef("spec.pagerDuty.routingKeySecretRef"),
	word("spec.pagerDuty.region", "US", "EU"),
	word("spec.pagerDuty.dedupBy", "Request", "Correlation"),
	text("spec.pagerDuty.source", 1, 255),
	text("spec.pagerDuty.component", 1, 255),
	text("spec.pagerDuty.group", 1, 255),
	text("spec.pagerDuty.class", 1, 255),
	text("spec.pagerDuty.clientURL", 8, 1024),
	userinfo("spec.pagerDuty.clientURL", "has a user name or a password, which everybody who gets an alert could read: remove it"),
	[]refusal{
		{path: "spec.pagerDuty.routingKeySecretRef", want: "Required value"},
		{path: "spec.pagerDuty.routingKey", value: "e93facc04764012d7bfb002500d5d1a6", want: `unknown field "spec.pagerDuty.routingKey"`},
		{path: "spec.pagerDuty.clientURL", value: "grafana.example.com", want: "must be an http or https URL with a host"},
		{path: "spec.pagerDuty.clientURL", value: "javascript:alert(1)", want: "must be an http or https URL with a host"},
	},
)

const (
	badAddress = "must be an address such as ops@example.com, and nothing else"
	badHost    = "must be a host's name, such as smtp.example.com, or an IP address"
	clearAuth  = "has auth and the encryption None, with which the password could be read on the way: remove auth, or set encryption to StartTLS or TLS"
)

// address refuses what is no address.
func address(path string) []refusal {
	refusals := text(path, 3, 254)
	for _, value := range []string{
		"ops", "ops@", "@example.com", "Ops <ops@example.com>", "<ops@example.com>", "a@b@c.d", "a b@c.d", "a@b.c\r\nBcc: d@e.f", "a@b.c\n",
		"a@b.c,d@e.f", "a..b@c.d", ".a@b.c", `"a b"@c.d`, "a@[127.0.0.1]", "a@-b.c", "a@b..c", "ü@example.com", "a@bücher.example",
	} {
		refusals = append(refusals, refusal{path: path, value: value, want: badAddress})
	}
	return refusals
}

var emailRefusals = slices.Concat(
	members("email"),
	text("spec.email.host", 1, 253),
	number("spec.email.port", 1, 65535),
	word("spec.email.encryption", "StartTLS", "TLS", "None"),
	address("spec.email.from"),
	address("spec.email.to[0]"),
	address("spec.email.cc[0]"),
	address("spec.email.replyTo"),
	word("spec.email.auth.mechanism", "Plain", "Login", "XOAUTH2"),
	text("spec.email.auth.username", 1, 254),
	secretRef("spec.email.auth.passwordSecretRef"),
	[]refusal{
		{path: "spec.email.host", value: "smtp.example.com:587", want: badHost},
		{path: "spec.email.host", value: "smtp://smtp.example.com", want: badHost},
		{path: "spec.email.host", value: "smtp.example.com\n", want: badHost},
		{path: "spec.email.from", want: "Required value"},
		{path: "spec.email.to", want: "Required value"},
		{path: "spec.email.to", value: []any{}, want: "should have at least 1 items"},
		{path: "spec.email.to", value: slices.Repeat([]any{"a@b.c"}, 51), want: "Too many: 51: must have at most 50 items"},
		{path: "spec.email.to[1]", value: "ops@example.com", want: `Duplicate value: "ops@example.com"`},
		{path: "spec.email.cc", value: slices.Repeat([]any{"a@b.c"}, 51), want: "Too many: 51: must have at most 50 items"},
		{path: "spec.email.encryption", value: "None", at: "spec.email", want: clearAuth},
		{path: "spec.email.auth.username", value: "robot\r\n", want: "has a control character, such as a line break: remove it"},
		{path: "spec.email.auth.passwordSecretRef", want: "Required value"},
		{path: "spec.email.auth.password", value: "secret", want: `unknown field "spec.email.auth.password"`},
		{path: "spec.proxy", value: map[string]any{"url": "http://example.com/"}, at: "spec", want: "has proxy, which the type Email does not use: remove it"},
	},
)

var fileRefusals = slices.Concat(
	members("file"),
	text("spec.file.directory", 1, 255),
	[]refusal{
		{path: "spec.file.directory", value: "../up", want: badDirectory},
		{path: "spec.file.directory", value: "/abs", want: badDirectory},
		{path: "spec.tls", value: map[string]any{"caSecretRef": map[string]any{"name": "s", "key": "k"}}, at: "spec", want: "has tls or proxy, which the type File does not use: remove them"},
		{path: "spec.proxy", value: map[string]any{"url": "http://example.com/"}, at: "spec", want: "has tls or proxy, which the type File does not use: remove them"},
	},
)

const validRoute = `
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationRoute
metadata: {name: valid}
spec:
  order: 10
  match:
  - {attribute: Priority, in: [Critical, High]}
  - {attribute: Type, notIn: [Simple]}
  - {attribute: Field, key: node, equals: node-1}
  - {attribute: Label, key: example.com/app, matches: "(?i)checkout(-.+)?"}
  - {attribute: Severity, exists: false}
  channels: [{name: a, namespace: team}, {name: console}]
  continue: true
  timeZone: Europe/Berlin
  activeWindows: [{days: [Monday], start: "09:00", end: "17:30"}]
  quietHours: [{days: [Friday], start: "22:00", end: "24:00"}, {start: "00:00", end: "07:00"}]
`

const (
	oneTest    = "needs exactly one of equals, in, notIn, exists and matches"
	keyOrNot   = "needs key where attribute is Field or Label, and must not have it otherwise"
	noPriority = "names a priority that does not exist: use Critical, High, Medium or Low"
	noType     = "names a type that does not exist: use Simple, Escalation, StatusUpdate, Approval, ManualReview or Completion"
	noStart    = "must be a time of day from 00:00 to 23:59, such as 07:00"
	noEnd      = "must be a time of day from 00:00 to 24:00, such as 07:00"
	noZone     = "must be the name of a time zone in the IANA database, such as Europe/Berlin"
)

// window refuses what is no window.
func window(path string) []refusal {
	return slices.Concat(
		text(path+".start", 1, 32), text(path+".end", 1, 32),
		word(path+".days[0]", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
		[]refusal{
			{path: path + ".days", value: []any{"Monday", "Monday"}, at: path + ".days[1]", want: `Duplicate value: "Monday"`},
			{path: path + ".days", value: slices.Repeat([]any{"Monday"}, 8), want: "Too many: 8: must have at most 7 items"},
			{path: path + ".start", value: "24:00", want: noStart},
			{path: path + ".start", value: "7:00", want: noStart},
			{path: path + ".start", value: "07:00:00", want: noStart},
			{path: path + ".start", value: "7pm", want: noStart},
			{path: path + ".start", want: "Required value"},
			{path: path + ".end", value: "24:01", want: noEnd},
			{path: path + ".end", value: "7h:00", want: noEnd},
			{path: path + ".end", value: "7:00", want: noEnd},
			{path: path + ".end", want: "Required value"},
			{path: path, value: map[string]any{"start": "07:00", "end": "07:00"}, want: "has a start that is its end: write 00:00 and 24:00 for a whole day"},
		},
	)
}

var routeRefusals = slices.Concat(
	number("spec.order", 1, 1000),
	word("spec.match[0].attribute", "Type", "Priority", "Severity", "CorrelationID", "Field", "Label"),
	text("spec.match[2].key", 1, 317),
	text("spec.match[2].equals", 1, 1024),
	text("spec.match[0].in[0]", 1, 1024),
	text("spec.match[1].notIn[0]", 1, 1024),
	text("spec.match[3].matches", 1, 256),
	text("spec.channels[0].name", 1, 253),
	text("spec.channels[0].namespace", 1, 63),
	text("spec.timeZone", 1, 64),
	window("spec.activeWindows[0]"),
	window("spec.quietHours[0]"),
	[]refusal{
		{path: "spec.match", value: slices.Repeat([]any{map[string]any{"attribute": "Severity", "exists": true}}, 17), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.match[0].attribute", want: "Required value"},
		{path: "spec.match[0].attribute", value: "Label", at: "spec.match[0]", want: keyOrNot},
		{path: "spec.match[0].key", value: "node", at: "spec.match[0]", want: keyOrNot},
		{path: "spec.match[2].key", at: "spec.match[2]", want: keyOrNot},
		{path: "spec.match[2].equals", at: "spec.match[2]", want: oneTest},
		{path: "spec.match[2].exists", value: true, at: "spec.match[2]", want: oneTest},
		{path: "spec.match[0].in", value: []any{}, want: "should have at least 1 items"},
		{path: "spec.match[0].in", value: []any{"High", "High"}, at: "spec.match[0].in[1]", want: `Duplicate value: "High"`},
		{path: "spec.match[0].in", value: slices.Repeat([]any{"High"}, 17), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.match[0].in[1]", value: "high", at: "spec.match[0]", want: noPriority},
		{path: "spec.match[0]", value: map[string]any{"attribute": "Priority", "equals": "Urgent"}, want: noPriority},
		{path: "spec.match[0]", value: map[string]any{"attribute": "Priority", "notIn": []any{"Urgent"}}, want: noPriority},
		{path: "spec.match[1].notIn", value: []any{}, want: "should have at least 1 items"},
		{path: "spec.match[1].notIn", value: slices.Repeat([]any{"Simple"}, 17), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.match[1].notIn[0]", value: "simple", at: "spec.match[1]", want: noType},
		{path: "spec.match[1]", value: map[string]any{"attribute": "Type", "equals": "Alert"}, want: noType},
		{path: "spec.match[1]", value: map[string]any{"attribute": "Type", "in": []any{"Alert"}}, want: noType},
		{path: "spec.match[3].matches", value: "checkout(", want: "must be a regular expression of RE2"},
		{path: "spec.match[3].matches", value: "checkout(", want: "missing closing ): `checkout(`"},
		{path: "spec.match[3].matches", value: "(?=x)", want: "must be a regular expression of RE2"},
		{path: "spec.channels", want: "Required value"},
		{path: "spec.channels", value: []any{}, want: "should have at least 1 items"},
		{path: "spec.channels", value: copies(18, "name", map[string]any{}), want: "Too many: 18: must have at most 16 items"},
		{path: "spec.channels[0].name", value: "Team A", want: noName, alone: true},
		{path: "spec.channels[0].namespace", value: "Team A", want: noNamespace, alone: true},
		{path: "spec.channels[1].name", value: "a", at: "spec.channels[1]", want: `Duplicate value: {"name":"a"}`},
		{path: "spec.channels[1].namespace", value: "team", at: "spec.channels[1]", want: "the channel console is built in and lives in no namespace: remove namespace"},
		{path: "spec.timeZone", value: "Mars/Olympus", want: noZone},
		{path: "spec.timeZone", value: "+02:00", want: noZone},
		{path: "spec.timeZone", value: "Local", want: noZone},
		{path: "spec.activeWindows", value: slices.Repeat([]any{map[string]any{"start": "01:00", "end": "02:00"}}, 17), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.quietHours", value: slices.Repeat([]any{map[string]any{"start": "01:00", "end": "02:00"}}, 17), want: "Too many: 17: must have at most 16 items"},
		{path: "spec.colour", value: "red", want: `unknown field "spec.colour"`},
	},
)
