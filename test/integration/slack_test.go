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

// slack creates a channel to an incoming webhook whose URL is in a Secret of the
// same name.
func (s *stack) slack(name, address string) {
	s.t.Helper()
	s.secret(name, map[string]string{"url": address})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type:  v1alpha1.ChannelSlack,
			Slack: &v1alpha1.SlackChannel{WebhookURLSecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "url"}},
		},
	})
}

func TestSlackGetsEachMessageAndStatusSaysWhatItAnswered(t *testing.T) {
	t.Parallel()
	s := run(t)
	slack := standin.NewSlack(t)
	s.slack("limited", slack.URL+"/services/general")
	s.slack("gone", slack.URL+"/services/nowhere")
	s.slack("refused", slack.URL+"/services/alerts")

	slack.Limit("2")
	nr := request("limited", "limited")
	nr.Spec.BodyFormat, nr.Spec.Body = "Markdown", "**Hello** <!channel>"
	nr.Spec.Fields = map[string]v1alpha1.FieldValue{"node": "db-0"}
	s.create(nr)
	sent := s.wait("limited", isSent, isAudited)
	d := delivery(t, sent, "limited")
	if d.Attempts != 2 || d.ContentDigest == "" || d.ExternalID != "" {
		t.Errorf("%d attempts, digest %q, external ID %q; want 2, one and none", d.Attempts, d.ContentDigest, d.ExternalID)
	}
	if waited := d.SentTime.Sub(d.AttemptFailures[0].Time.Time).Seconds(); waited < 2 {
		t.Errorf("sent %gs after Slack had asked for 2s", waited)
	}
	got := slack.Messages()
	if len(got) != 1 || got[0].Channel != "C0000000001" || len(got[0].Mentions) > 0 || !strings.Contains(string(got[0].Content), "*Hello* &lt;!channel&gt;") {
		t.Errorf("what arrived: %s", got)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "limited"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})

	slack.Refuse("invalid_blocks")
	s.send("refused", "refused")
	failed := s.wait("refused", isFailed, isAudited)
	if e := delivery(t, failed, "refused").LastError; e.Class != v1alpha1.ErrorPermanent || e.Code != "invalid_blocks" {
		t.Errorf("last error %+v, want a permanent one with Slack's word", e)
	}

	s.send("gone", "gone")
	held := s.wait("gone", isStalled("NotFound"))
	if e := delivery(t, held, "gone").LastError; e.Code != "no_service" || !strings.Contains(e.Message, "create a new one and put its URL into the Secret") {
		t.Errorf("last error %+v, want Slack's word and what to do", e)
	}
	secret := s.secretNamed("gone")
	s.change(secret, func() { secret.StringData = map[string]string{"url": slack.URL + "/services/alerts"} })
	if d := delivery(t, s.wait("gone", isSent, isAudited), "gone"); d.UncountedAttempts != d.Attempts-1 {
		t.Errorf("%d attempts, %d of them not counted", d.Attempts, d.UncountedAttempts)
	}
}
