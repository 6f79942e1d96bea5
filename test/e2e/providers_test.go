//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// providers are stand-ins for what people use, which are as strict as they.
type providers struct {
	slack     *standin.Slack
	teams     *standin.Teams
	discord   *standin.Discord
	pagerDuty *standin.PagerDuty
	mail      *standin.SMTP
}

var providerNames = []string{"slack", "teams", "discord", "pagerduty", "mail"}

func (p *providers) taken() map[string]int {
	return map[string]int{
		"slack": len(p.slack.Messages()), "teams": len(p.teams.Messages()), "discord": len(p.discord.Messages()),
		"pagerduty": len(p.pagerDuty.Events()), "mail": len(p.mail.Mails()),
	}
}

// startProviders starts each provider and makes a channel to it, with its
// credentials in a Secret of the channel's name.
func (s *suite) startProviders() *providers {
	s.Helper()
	config, ca := s.certificate(time.Hour)
	p := &providers{
		slack: standin.NewSlack(s.T), teams: standin.NewTeams(s.T), discord: standin.NewDiscord(s.T), pagerDuty: standin.NewPagerDuty(s.T),
		mail: standin.NewSMTP(s.T, standin.SMTPOptions{TLS: config, Username: "robot", Password: "right-hush"}),
	}
	for name, secret := range map[string]map[string]string{
		"slack": {"url": p.slack.URL + "/services/alerts"}, "teams": {"url": p.teams.URL}, "discord": {"url": p.discord.URL},
		"pagerduty": {"key": standin.PagerDutyKey, "ca": string(p.pagerDuty.CA)}, "mail": {"password": "right-hush", "ca": ca},
	} {
		s.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, StringData: secret})
	}
	ref := func(name, key string) v1alpha1.SecretKeyRef { return v1alpha1.SecretKeyRef{Name: name, Key: key} }
	for name, spec := range map[string]v1alpha1.NotificationChannelSpec{
		"slack":   {Type: v1alpha1.ChannelSlack, Slack: &v1alpha1.SlackChannel{WebhookURLSecretRef: ref("slack", "url")}},
		"teams":   {Type: v1alpha1.ChannelTeams, Teams: v1alpha1.TeamsChannel{WebhookURLSecretRef: ref("teams", "url")}},
		"discord": {Type: v1alpha1.ChannelDiscord, Discord: v1alpha1.DiscordChannel{WebhookURLSecretRef: ref("discord", "url")}},
		"pagerduty": {
			Type:      v1alpha1.ChannelPagerDuty,
			PagerDuty: v1alpha1.PagerDutyChannel{RoutingKeySecretRef: ref("pagerduty", "key")},
			TLS:       v1alpha1.TLSConfig{CASecretRef: ref("pagerduty", "ca")},
			Proxy:     &v1alpha1.ProxyConfig{URL: p.pagerDuty.Proxy},
		},
		"mail": {
			Type: v1alpha1.ChannelEmail,
			Email: v1alpha1.EmailChannel{
				Host: p.mail.Host, Port: p.mail.Port, From: "robot@example.com", To: []v1alpha1.EmailAddress{"ops@example.com"},
				Auth: v1alpha1.EmailAuth{Username: "robot", PasswordSecretRef: ref("mail", "password")},
			},
			TLS: v1alpha1.TLSConfig{CASecretRef: ref("mail", "ca")},
		},
	} {
		s.create(&v1alpha1.NotificationChannel{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: spec})
	}
	return p
}

// certificate returns one for this machine, as a server has it and as a client
// trusts it, that is good for so long.
func (s *suite) certificate(good time.Duration) (server *tls.Config, ca string) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(good), IPAddresses: []net.IP{net.ParseIP(harness.Host)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// delivery returns a request's delivery to a channel.
func (s *suite) delivery(nr *v1alpha1.NotificationRequest, channel string) v1alpha1.Delivery {
	s.Helper()
	for _, d := range nr.Status.Deliveries {
		if d.Channel == channel {
			return d
		}
	}
	s.Fatalf("%s has no delivery to %s", nr.Name, channel)
	return v1alpha1.Delivery{}
}

func (s *suite) setSecret(name, key, value string) {
	s.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	patch := fmt.Sprintf(`{"stringData":{%q:%q}}`, key, value)
	if err := s.kube.Patch(s.Context(), secret, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		s.Fatal(err)
	}
}

// eachProvider sends what is short, what is longer than any of them takes, and what
// each refuses in a way of its own.
func eachProvider(s suite) {
	p := s.startProviders()
	s.send("short", providerNames)
	s.send("long", providerNames, func(spec *v1alpha1.NotificationRequestSpec) {
		spec.Subject = strings.Repeat("Wörter, ", 62)
		spec.BodyFormat, spec.Body = "Markdown", strings.Repeat("- **ein** `Satz` über <!channel> & @everyone \U0001F6A8\n", 600)
	})
	for _, name := range []string{"short", "long"} {
		nr := s.wait(name, soon, sent, audited)
		harness.WantEvents(s.T, s.events(name), map[string]int{audit.TypeMessageSent: len(providerNames)})
		for _, provider := range []string{"teams", "discord", "pagerduty", "mail"} {
			if d := s.delivery(nr, provider); d.ExternalID == "" {
				s.Errorf("%s: %s has left no receipt", name, provider)
			}
		}
	}
	for name, n := range p.taken() {
		if n != 2 {
			s.Errorf("%s got %d messages, want 2", name, n)
		}
	}

	p.discord.Limit(2)
	s.send("limited", []string{"discord"})
	nr := s.wait("limited", soon, sent, audited)
	if d := s.delivery(nr, "discord"); d.Attempts != 2 || d.SentTime.Sub(d.AttemptFailures[0].Time.Time) < 2*time.Second {
		s.Errorf("a limited delivery: %+v, want a second attempt after two seconds", d)
	}
	p.mail.Answer("RCPT", "550 5.1.1 no such user")
	s.send("unknown", []string{"mail"})
	nr = s.wait("unknown", soon, failed, audited)
	if e := s.delivery(nr, "mail").LastError; e.Class != v1alpha1.ErrorPermanent || e.Code != "550 5.1.1" {
		s.Errorf("a recipient that does not exist: %+v", e)
	}
	p.teams.Limit("1")
	s.send("teams-limited", []string{"teams"})
	s.wait("teams-limited", soon, sent, audited)
	rotated(s, p)
}

// rotated changes credentials at the provider first and in the Secret after.
func rotated(s suite, p *providers) {
	p.mail.SetPassword("new-hush")
	p.pagerDuty.SetKey("0123456789abcdef0123456789abcdef")
	s.send("rotated", []string{"mail", "pagerduty"})
	s.wait("rotated", soon, stalled("Unauthorized"))
	s.setSecret("mail", "password", "new-hush")
	s.setSecret("pagerduty", "key", "0123456789abcdef0123456789abcdef")
	nr := s.wait("rotated", soon, sent, audited)
	for _, d := range nr.Status.Deliveries {
		if d.UncountedAttempts != d.Attempts-1 {
			s.Errorf("%s: %d of %d attempts are not counted, want all but the last", d.Channel, d.UncountedAttempts, d.Attempts)
		}
	}
	if log := s.managerLog(); strings.Contains(log, "hush") || strings.Contains(log, standin.PagerDutyKey) {
		s.Error("the manager's log has a credential")
	}
}

// untrusted has mail servers with certificates that are no good.
func untrusted(s suite) {
	expired, expiredCA := s.certificate(-time.Hour)
	unknown, _ := s.certificate(time.Hour)
	_, otherCA := s.certificate(time.Hour)
	for name, c := range map[string]struct {
		config *tls.Config
		ca     string
		reason string
	}{
		"expired-certificate": {expired, expiredCA, "CertificateInvalid"},
		"unknown-authority":   {unknown, otherCA, "UnknownAuthority"},
	} {
		server := standin.NewSMTP(s.T, standin.SMTPOptions{TLS: c.config})
		s.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, StringData: map[string]string{"ca": c.ca}})
		s.create(&v1alpha1.NotificationChannel{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
			Spec: v1alpha1.NotificationChannelSpec{
				Type:  v1alpha1.ChannelEmail,
				Email: v1alpha1.EmailChannel{Host: server.Host, Port: server.Port, From: "robot@example.com", To: []v1alpha1.EmailAddress{"ops@example.com"}},
				TLS:   v1alpha1.TLSConfig{CASecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "ca"}},
			},
		})
		s.send(name, []string{name})
		s.wait(name, soon, stalled(c.reason))
		if got := len(server.Mails()); got != 0 {
			s.Errorf("%s: %d mails were sent to a server that is not trusted", name, got)
		}
		s.kubectl("-n", namespace, "delete", "nr", name, "--wait=false")
	}
}

// routed has requests that name no channel, repeat one another, or come faster than
// their channel takes them.
func routed(s suite) {
	s.webhook("routed")
	s.create(&v1alpha1.NotificationRoute{
		ObjectMeta: metav1.ObjectMeta{Name: "high", Namespace: namespace},
		Spec: v1alpha1.NotificationRouteSpec{
			Match:    []v1alpha1.RouteMatcher{{Attribute: v1alpha1.AttributePriority, In: []v1alpha1.RouteValue{"High", "Critical"}}},
			Channels: []v1alpha1.ChannelReference{{Name: "routed"}},
		},
	})
	high := func(spec *v1alpha1.NotificationRequestSpec) { spec.Priority = "High" }
	s.send("routed-high", nil, high)
	s.send("routed-low", nil)
	if nr := s.wait("routed-high", soon, sent, audited); nr.Status.Deliveries[0].Channel != "routed" {
		s.Errorf("routed to %+v, want what the route says", nr.Status.Deliveries)
	}
	if nr := s.wait("routed-low", soon, sent, audited); nr.Status.Deliveries[0].Channel != v1alpha1.ConsoleChannel {
		s.Errorf("routed to %+v, want the console where no route matches", nr.Status.Deliveries)
	}
	repeats := func(spec *v1alpha1.NotificationRequestSpec) {
		spec.Dedup = v1alpha1.Dedup{Key: "disk-full", Window: "1h"}
	}
	for i := range 5 {
		s.send(fmt.Sprint("repeated-", i), nil, high, repeats)
	}
	originals := 0
	for i := range 5 {
		if nr := s.wait(fmt.Sprint("repeated-", i), soon, audited); nr.Status.DuplicateOf.Name == "" {
			originals++
		}
	}
	if got := len(s.sink.Received("/routed")); originals != 1 || got != 2 {
		s.Errorf("%d of 5 requests that repeat one another were sent, and %d messages arrived; want 1 and 2", originals, got)
	}

	s.webhook("paced", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.RateLimit = v1alpha1.RateLimit{Messages: 1, Interval: "1s"}
	})
	for i := range 4 {
		s.send(fmt.Sprint("paced-", i), []string{"paced"})
	}
	for i := range 4 {
		nr := s.wait(fmt.Sprint("paced-", i), soon, sent, audited)
		if d := nr.Status.Deliveries[0]; d.Attempts != 1 {
			s.Errorf("paced-%d took %d attempts: a wait is none", i, d.Attempts)
		}
	}
	if got := s.sink.Received("/paced"); len(got) != 4 || got[3].At.Sub(got[0].At) < 2500*time.Millisecond {
		s.Errorf("%d messages arrived, want 4 in at least three seconds", len(got))
	}
}
