package integration

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// discord creates a channel to a webhook whose URL is in a Secret of the same name.
func (s *stack) discord(name, address string) {
	s.t.Helper()
	s.secret(name, map[string]string{"url": address})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type:    v1alpha1.ChannelDiscord,
			Discord: v1alpha1.DiscordChannel{WebhookURLSecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "url"}},
		},
	})
}

func TestDiscordGetsEachMessageAndStatusSaysWhatItAnswered(t *testing.T) {
	t.Parallel()
	s := run(t)
	discord := standin.NewDiscord(t)
	s.discord("limited", discord.URL)
	s.discord("gone", strings.Replace(discord.URL, "/223704706495545344/", "/223704706495545345/", 1))
	s.discord("refused", discord.URL)

	discord.Limit(1.8)
	nr := request("limited", "limited")
	nr.Spec.BodyFormat, nr.Spec.Body = "Markdown", "**Hello** @everyone"
	nr.Spec.Fields = map[string]v1alpha1.FieldValue{"node": "db-0"}
	s.create(nr)
	sent := s.wait("limited", isSent, isAudited)
	d := delivery(t, sent, "limited")
	if d.Attempts != 2 || d.ContentDigest == "" || d.ExternalID != standin.DiscordChannel+"/1200000000000000001" {
		t.Errorf("%d attempts, digest %q, external ID %q; want 2, one and that of the message", d.Attempts, d.ContentDigest, d.ExternalID)
	}
	if waited := d.SentTime.Sub(d.AttemptFailures[0].Time.Time).Seconds(); waited < 1.8 {
		t.Errorf("sent %gs after Discord had asked for 1.8s", waited)
	}
	got := discord.Messages()
	if len(got) != 1 || len(got[0].Mentions) > 0 || !strings.Contains(string(got[0].Content), `**Hello** \\@everyone`) {
		t.Errorf("what arrived: %s", got)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "limited"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})

	discord.Refuse(50035)
	s.send("refused", "refused")
	failed := s.wait("refused", isFailed, isAudited)
	if e := delivery(t, failed, "refused").LastError; e.Class != v1alpha1.ErrorPermanent || e.Code != "50035" {
		t.Errorf("last error %+v, want a permanent one with Discord's code", e)
	}

	s.send("gone", "gone")
	held := s.wait("gone", isStalled("NotFound"))
	if e := delivery(t, held, "gone").LastError; e.Code != "10015" || !strings.Contains(e.Message, "create a new one and put its URL into the Secret") {
		t.Errorf("last error %+v, want Discord's code and what to do", e)
	}
	secret := s.secretNamed("gone")
	s.change(secret, func() { secret.StringData = map[string]string{"url": discord.URL} })
	if d := delivery(t, s.wait("gone", isSent, isAudited), "gone"); d.UncountedAttempts != d.Attempts-1 {
		t.Errorf("%d attempts, %d of them not counted", d.Attempts, d.UncountedAttempts)
	}
}
