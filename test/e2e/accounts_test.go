//go:build e2e

package e2e

import (
	"crypto/tls"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// Words in credentials. All of them have "hush", which must be seen nowhere else.
const (
	oldWord = "oldhush"
	newWord = "newhush"
)

// account is one at a provider's stand-in.
type account struct {
	// server is what the provider's name leads to, nil for mail.
	server http.Handler
	spec   v1alpha1.NotificationChannelSpec
	// grant makes a credential with the word the only valid one. denied is the reason
	// that status gives for any other.
	grant  func(word string) (credential string)
	denied string
	taken  func() int
	// answers are those to the next message that end as the fate of the same name.
	answers map[string]answer
}

// answer is something that a provider says, and what status has to say of it.
type answer struct {
	class        v1alpha1.ErrorClass
	reason, code string
	tell         func()
}

// providers make accounts, each with a channel's name. A mail server shows what the
// configuration says.
var providers = map[string]func(s *suite, name string, server *tls.Config) account{
	"slack-webhook": slackWebhook, "slack-bot": slackBot, "teams": teams, "discord": discord, "pagerduty": pagerDuty, "webhook": webhook,
	"mail": func(s *suite, name string, server *tls.Config) account {
		return mail(s, name, server, v1alpha1.EmailStartTLS)
	},
	"mail-tls": func(s *suite, name string, server *tls.Config) account {
		return mail(s, name, server, v1alpha1.EmailTLS)
	},
}

var providerNames = slices.Sorted(maps.Keys(providers))

const (
	slackHost     = "slack.com"
	slackHookHost = "hooks.slack.com"
	teamsHost     = "prod-1.westeurope.logic.azure.com"
	discordHost   = "discord.com"
	pagerDutyHost = "events.pagerduty.com"
	webhookHost   = "hooks.example.com"
)

// certificate returns one for all providers that is good for so long.
func (s *suite) certificate(good time.Duration) standin.Certificate {
	return standin.NewCertificate(s.T, good, standin.Host, slackHost, slackHookHost, teamsHost, discordHost, pagerDutyHost, webhookHost)
}

// open makes a channel to an account, whose server is as the configuration says. It
// trusts an authority, the system's where that is nil. Its Secret has the same name.
func (s *suite) open(name string, a account, server *tls.Config, ca []byte) {
	s.Helper()
	secret := map[string]string{"credential": a.grant(oldWord)}
	if ca != nil {
		secret["ca"] = string(ca)
		a.spec.TLS.CASecretRef = v1alpha1.SecretKeyRef{Name: name, Key: "ca"}
	}
	if a.server != nil {
		a.spec.Proxy = &v1alpha1.ProxyConfig{URL: standin.Impersonate(s.T, server, a.server)}
	}
	s.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: secret})
	s.create(&v1alpha1.NotificationChannel{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: a.spec})
}

func credential(name string) v1alpha1.SecretKeyRef {
	return v1alpha1.SecretKeyRef{Name: name, Key: "credential"}
}

// later has a gateway before a provider answer, with a date.
var later = harness.RetryAt(http.StatusServiceUnavailable, 5*time.Second)

func slackWebhook(s *suite, name string, _ *tls.Config) account {
	p := standin.NewSlack(s.T)
	return account{
		server: p,
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelSlack, Slack: &v1alpha1.SlackChannel{WebhookURLSecretRef: credential(name)},
		},
		grant:  func(word string) string { return "https://" + slackHookHost + p.SetWebhooks(word) },
		denied: "NotFound",
		taken:  func() int { return len(p.Messages()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "BadRequest", "invalid_blocks", func() { p.Refuse("invalid_blocks") }},
			"config":    {v1alpha1.ErrorConfig, "Gone", "channel_is_archived", func() { p.Refuse("channel_is_archived") }},
			"seconds":   {v1alpha1.ErrorTransient, "RateLimited", "rate_limited", func() { p.Limit("2") }},
			"date":      {v1alpha1.ErrorTransient, "ServerError", "503", func() { p.Answer(later) }},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "rollup_error", func() { p.Refuse("rollup_error") }},
			"doubt":     {v1alpha1.ErrorAmbiguous, "NoAnswer", "", p.Lose},
		},
	}
}

func slackBot(s *suite, name string, _ *tls.Config) account {
	p := standin.NewSlack(s.T)
	return account{
		server: p,
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelSlack, Slack: &v1alpha1.SlackChannel{BotTokenSecretRef: credential(name), Channel: "C0000000002"},
		},
		grant: func(word string) string {
			p.SetToken("xoxb-" + word)
			return "xoxb-" + word
		},
		denied: "Unauthorized",
		taken:  func() int { return len(p.Messages()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "TooLarge", "msg_too_long", func() { p.Refuse("msg_too_long") }},
			"config":    {v1alpha1.ErrorConfig, "Forbidden", "not_in_channel", func() { p.Refuse("not_in_channel") }},
			"seconds":   {v1alpha1.ErrorTransient, "RateLimited", "ratelimited", func() { p.Limit("2") }},
			"date":      {v1alpha1.ErrorTransient, "ServerError", "503", func() { p.Answer(later) }},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "service_unavailable", func() { p.Refuse("service_unavailable") }},
			"doubt":     {v1alpha1.ErrorAmbiguous, "NoAnswer", "", p.Lose},
		},
	}
}

func teams(s *suite, name string, _ *tls.Config) account {
	p := standin.NewTeams(s.T)
	return account{
		server: p,
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelTeams, Teams: v1alpha1.TeamsChannel{WebhookURLSecretRef: credential(name)},
		},
		grant:  func(word string) string { return "https://" + teamsHost + p.SetSignature(word) },
		denied: "Unauthorized",
		taken:  func() int { return len(p.Messages()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "BadRequest", "InvalidRequestContent", func() { p.Refuse("InvalidRequestContent") }},
			"config":    {v1alpha1.ErrorConfig, "Gone", "WorkflowTriggerIsNotEnabled", func() { p.Refuse("WorkflowTriggerIsNotEnabled") }},
			"seconds":   {v1alpha1.ErrorTransient, "RateLimited", "TooManyRequests", func() { p.Limit("2") }},
			"date":      {v1alpha1.ErrorTransient, "ServerError", "503", func() { p.Answer(later) }},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "ServerTimeout", func() { p.Refuse("ServerTimeout") }},
			"doubt":     {v1alpha1.ErrorAmbiguous, "NoAnswer", "", p.Lose},
		},
	}
}

func discord(s *suite, name string, _ *tls.Config) account {
	p := standin.NewDiscord(s.T)
	return account{
		server: p,
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelDiscord, Discord: v1alpha1.DiscordChannel{WebhookURLSecretRef: credential(name)},
		},
		grant:  func(word string) string { return "https://" + discordHost + p.SetToken(word) },
		denied: "Unauthorized",
		taken:  func() int { return len(p.Messages()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "BadRequest", "50035", func() { p.Refuse(50035) }},
			"config":    {v1alpha1.ErrorConfig, "Forbidden", "50013", func() { p.Refuse(50013) }},
			"seconds":   {v1alpha1.ErrorTransient, "RateLimited", "429", func() { p.Limit(2) }},
			"date":      {v1alpha1.ErrorTransient, "ServerError", "503", func() { p.Answer(later) }},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "130000", func() { p.Refuse(130000) }},
			"doubt":     {v1alpha1.ErrorAmbiguous, "NoAnswer", "", p.Lose},
		},
	}
}

func pagerDuty(s *suite, name string, _ *tls.Config) account {
	p := standin.NewPagerDuty(s.T)
	return account{
		server: p,
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelPagerDuty, PagerDuty: v1alpha1.PagerDutyChannel{RoutingKeySecretRef: credential(name)},
		},
		grant: func(word string) string {
			key := strings.Repeat("0", 32-len(word)) + word
			p.SetKey(key)
			return key
		},
		denied: "Unauthorized",
		taken:  func() int { return len(p.Events()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "BadRequest", "400", func() { p.Refuse("'payload.source' is missing or blank") }},
			"config":    {v1alpha1.ErrorConfig, "Unauthorized", "400", func() { p.Refuse("'routing_key' is missing or blank") }},
			"seconds":   {v1alpha1.ErrorTransient, "RateLimited", "429", func() { p.Limit("2") }},
			"date":      {v1alpha1.ErrorTransient, "ServerError", "503", func() { p.Answer(later) }},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "500", func() { p.Answer(harness.Status(http.StatusInternalServerError)) }},
			"again":     {v1alpha1.ErrorAmbiguous, "NoAnswer", "", p.Lose},
		},
	}
}

func mail(s *suite, name string, server *tls.Config, encryption v1alpha1.EmailEncryption) account {
	p := standin.NewSMTP(s.T, standin.SMTPOptions{TLS: server, Implicit: encryption == v1alpha1.EmailTLS, Username: "robot", Password: oldWord})
	return account{
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelEmail,
			Email: v1alpha1.EmailChannel{
				Host: p.Host, Port: p.Port, Encryption: encryption, From: "robot@example.com", To: []v1alpha1.EmailAddress{"ops@example.com"},
				Auth: v1alpha1.EmailAuth{Username: "robot", PasswordSecretRef: credential(name)},
			},
		},
		grant: func(word string) string {
			p.SetPassword(word)
			return word
		},
		denied: "Unauthorized",
		taken:  func() int { return len(p.Mails()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "NotFound", "550 5.1.1", func() { p.Answer("RCPT", "550 5.1.1 no such user") }},
			"config":    {v1alpha1.ErrorConfig, "Forbidden", "550 5.7.1", func() { p.Answer("MAIL", "550 5.7.1 not allowed to send as this") }},
			"limited":   {v1alpha1.ErrorTransient, "RateLimited", "450 4.7.28", func() { p.Answer("MAIL", "450 4.7.28 too much mail") }},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "451 4.3.0", func() { p.Answer("DATA", "451 4.3.0 try again later") }},
			"doubt":     {v1alpha1.ErrorAmbiguous, "NoAnswer", "", func() { p.Answer(".", standin.Drop) }},
		},
	}
}

func webhook(s *suite, name string, _ *tls.Config) account {
	var valid atomic.Value
	var taken atomic.Int32
	take := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != valid.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		taken.Add(1)
	}
	s.sink.Answer("/"+name, take)
	first := func(answer harness.Answer) func() { return func() { s.sink.Answer("/"+name, answer, take) } }
	return account{
		server: s.sink,
		spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelWebhook,
			Webhook: &v1alpha1.WebhookChannel{
				URL: "https://" + webhookHost + "/" + name, Headers: []v1alpha1.Header{{Name: "Authorization", ValueSecretRef: credential(name)}},
			},
		},
		grant: func(word string) string {
			valid.Store("Bearer " + word)
			return "Bearer " + word
		},
		denied: "Unauthorized",
		taken:  func() int { return int(taken.Load()) },
		answers: map[string]answer{
			"permanent": {v1alpha1.ErrorPermanent, "Unprocessable", "422", first(harness.Status(http.StatusUnprocessableEntity))},
			"config":    {v1alpha1.ErrorConfig, "Forbidden", "403", first(harness.Status(http.StatusForbidden))},
			"seconds":   {v1alpha1.ErrorTransient, "RateLimited", "429", first(harness.RetryAfter(http.StatusTooManyRequests, 2))},
			"date":      {v1alpha1.ErrorTransient, "ServerError", "503", first(later)},
			"transient": {v1alpha1.ErrorTransient, "ServerError", "502", first(harness.Status(http.StatusBadGateway))},
			"doubt": {v1alpha1.ErrorAmbiguous, "NoAnswer", "", first(func(w http.ResponseWriter, r *http.Request) {
				take(w, r)
				harness.Reset(w, r)
			})},
		},
	}
}

// setSecret changes a value in the Secret of a channel.
func (s *suite) setSecret(name, key, value string) {
	s.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}}
	base := secret.DeepCopy()
	secret.StringData = map[string]string{key: value}
	if err := s.kube.Patch(s.Context(), secret, client.MergeFrom(base)); err != nil {
		s.Fatal(err)
	}
}

// change changes a channel as kubectl patch does.
func (s *suite) change(channel, patch string) {
	s.Helper()
	ch := &v1alpha1.NotificationChannel{ObjectMeta: metav1.ObjectMeta{Name: channel, Namespace: s.namespace}}
	if err := s.kube.Patch(s.Context(), ch, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		s.Fatal(err)
	}
}
