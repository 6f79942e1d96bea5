package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

const mailPassword = "plantedMailPassword2"

// mail creates a channel to a mail server that asks for a password, both in a Secret
// of the channel's name.
func (s *stack) mail(name string, server *standin.SMTP, ca []byte, change ...func(*v1alpha1.NotificationChannelSpec)) {
	s.t.Helper()
	s.secret(name, map[string]string{"password": mailPassword, "ca": string(ca)})
	ch := &v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelEmail,
			Email: v1alpha1.EmailChannel{
				Host: server.Host, Port: server.Port, From: "robot@example.com", To: []v1alpha1.EmailAddress{"ops@example.com", "on-call@example.com"},
				Auth: v1alpha1.EmailAuth{Username: "robot", PasswordSecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "password"}},
			},
			TLS: v1alpha1.TLSConfig{CASecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "ca"}},
		},
	}
	for _, f := range change {
		f(&ch.Spec)
	}
	s.create(ch)
}

func TestEmailArrivesAndStatusSaysWhatTheServerAnswered(t *testing.T) {
	t.Parallel()
	s := run(t)
	certificate := standin.NewCertificate(t, time.Hour, standin.Host)
	ca := certificate.PEM
	start := func() *standin.SMTP {
		return standin.NewSMTP(t, standin.SMTPOptions{TLS: certificate.Server, Username: "robot", Password: mailPassword})
	}

	later := start()
	later.Answer("RCPT", "450 4.2.0 greylisted")
	s.mail("later", later, ca)
	nr := request("later", "later")
	nr.Spec.BodyFormat, nr.Spec.Body = "Markdown", "**Hello** <script>"
	s.create(nr)
	d := delivery(t, s.wait("later", isSent, isAudited), "later")
	if d.Attempts != 2 || d.ContentDigest == "" || d.ExternalID != "4F1C0001" || d.AttemptFailures[0].Error.Code != "450 4.2.0" {
		t.Errorf("%d attempts, digest %q, external ID %q, failures %+v", d.Attempts, d.ContentDigest, d.ExternalID, d.AttemptFailures)
	}
	if got := later.Mails(); len(got) != 1 || len(got[0].To) != 2 || !got[0].Encrypted || !bytes.Contains(got[0].Content, []byte("<b>Hello</b> &lt;script&gt;")) {
		t.Errorf("what arrived: %+v", got)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "later"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})

	refusing := start()
	refusing.Answer("RCPT on-call@example.com", "550 5.1.1 <on-call@example.com>: no such user, "+mailPassword)
	s.mail("refusing", refusing, ca)
	s.send("refusing", "refusing")
	e := delivery(t, s.wait("refusing", isFailed, isAudited), "refusing").LastError
	if e.Class != v1alpha1.ErrorPermanent || e.Code != "550 5.1.1" || !strings.Contains(e.Message, "refused o***@example.com, so that nobody was sent anything") {
		t.Errorf("last error %+v", e)
	}
	if got := refusing.Mails(); len(got) != 0 {
		t.Errorf("what arrived: %+v", got)
	}

	doubt := start()
	doubt.Answer(".", standin.Drop)
	s.mail("doubt", doubt, ca)
	s.send("doubt", "doubt")
	if d := delivery(t, s.wait("doubt", isSent, isAudited), "doubt"); d.PossibleDuplicate == nil || !*d.PossibleDuplicate || d.Attempts != 2 {
		t.Errorf("possible duplicate %v after %d attempts", d.PossibleDuplicate, d.Attempts)
	}
	if got := doubt.Mails(); len(got) != 2 || !bytes.Equal(got[0].Content, got[1].Content) {
		t.Errorf("what arrived: %+v, want the same mail twice", got)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "doubt"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1})

	wrong := start()
	wrong.SetPassword("another")
	wrong.Answer("AUTH", "535 5.7.8 not "+mailPassword+" or "+base64.StdEncoding.EncodeToString([]byte("\x00robot\x00"+mailPassword)))
	s.mail("wrong", wrong, ca)
	s.send("wrong", "wrong")
	held := s.wait("wrong", isStalled("Unauthorized"))
	if e := delivery(t, held, "wrong").LastError; !strings.Contains(e.Message, "correct username, password and mechanism: not [redacted] or [redacted]") {
		t.Errorf("last error %+v, want what to do", e)
	}
	secret := s.secretNamed("wrong")
	s.change(secret, func() { secret.StringData = map[string]string{"password": "another"} })
	if d := delivery(t, s.wait("wrong", isSent, isAudited), "wrong"); d.UncountedAttempts != d.Attempts-1 {
		t.Errorf("%d attempts, %d of them not counted", d.Attempts, d.UncountedAttempts)
	}
	events, err := json.Marshal(s.storage.Events(t))
	if err != nil {
		t.Fatal(err)
	}
	requests, err := json.Marshal([]*v1alpha1.NotificationRequest{held, s.wait("refusing")})
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range map[string]string{"log": s.manager.Log(), "audit events": string(events), "requests": string(requests)} {
		if strings.Contains(text, mailPassword) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("\x00robot\x00"+mailPassword))) {
			t.Errorf("the password is in the %s", place)
		}
	}
}

func TestAMailServerThatCannotBeTrustedGetsNothing(t *testing.T) {
	t.Parallel()
	s := run(t)
	good := standin.NewCertificate(t, time.Hour, standin.Host)
	other := standin.NewCertificate(t, time.Hour, standin.Host)
	expired := standin.NewCertificate(t, -time.Minute, standin.Host)
	elsewhere := standin.NewCertificate(t, time.Hour, "127.0.0.2")
	implicit := func(spec *v1alpha1.NotificationChannelSpec) { spec.Email.Encryption = v1alpha1.EmailTLS }
	cases := map[string]struct {
		server *tls.Config
		ca     []byte
		reason string
	}{
		"self-signed": {good.Server, other.PEM, "UnknownAuthority"},
		"expired":     {expired.Server, expired.PEM, "CertificateInvalid"},
		"elsewhere":   {elsewhere.Server, elsewhere.PEM, "CertificateInvalid"},
	}
	servers := map[string]*standin.SMTP{}
	for name, c := range cases {
		for suffix, change := range map[string]func(*v1alpha1.NotificationChannelSpec){"-starttls": func(*v1alpha1.NotificationChannelSpec) {}, "-tls": implicit} {
			server := standin.NewSMTP(t, standin.SMTPOptions{TLS: c.server, Implicit: suffix == "-tls", Username: "robot", Password: mailPassword})
			servers[name+suffix] = server
			s.mail(name+suffix, server, c.ca, change)
			s.send(name+suffix, name+suffix)
		}
	}
	cut := standin.NewSMTP(t, standin.SMTPOptions{TLS: good.Server, Username: "robot", Password: mailPassword})
	cut.Answer("TLS", standin.Drop)
	s.mail("cut", cut, good.PEM)
	s.send("cut", "cut")

	for name, c := range cases {
		for _, suffix := range []string{"-starttls", "-tls"} {
			s.wait(name+suffix, isStalled(c.reason))
			for _, line := range servers[name+suffix].Asked() {
				if verb, _, _ := strings.Cut(line, " "); verb != "EHLO" && verb != "STARTTLS" {
					t.Errorf("%s was sent %q", name+suffix, line)
				}
			}
		}
	}
	d := delivery(t, s.wait("cut", isSent, isAudited), "cut")
	if e := d.AttemptFailures[0].Error; d.Attempts != 2 || e.Class != v1alpha1.ErrorTransient || e.Reason != "ConnectionReset" {
		t.Errorf("%d attempts, the first failed with %+v", d.Attempts, e)
	}
}
