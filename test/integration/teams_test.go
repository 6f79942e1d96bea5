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

// teams creates a channel to a workflow whose URL is in a Secret of the same name.
func (s *stack) teams(name, address string) {
	s.t.Helper()
	s.secret(name, map[string]string{"url": address})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type:  v1alpha1.ChannelTeams,
			Teams: v1alpha1.TeamsChannel{WebhookURLSecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "url"}},
		},
	})
}

func TestTeamsGetsEachMessageAndStatusSaysWhatItAnswered(t *testing.T) {
	t.Parallel()
	s := run(t)
	teams := standin.NewTeams(t)
	s.teams("limited", teams.URL)
	s.teams("refused", teams.URL)
	s.teams("gone", strings.Replace(teams.URL, "6d922add", "6d922ade", 1))
	s.teams("retired", "https://contoso.webhook.office.com/webhookb2/planted")

	teams.Limit("2")
	nr := request("limited", "limited")
	nr.Spec.BodyFormat, nr.Spec.Body = "Markdown", "**Hello** <at>you</at>"
	nr.Spec.Fields = map[string]v1alpha1.FieldValue{"node": "<at>you</at>"}
	s.create(nr)
	sent := s.wait("limited", isSent, isAudited)
	d := delivery(t, sent, "limited")
	if d.Attempts != 2 || d.ContentDigest == "" || d.ExternalID != "08584661236364846013464561000001CU16" {
		t.Errorf("%d attempts, digest %q, external ID %q; want 2, one and that of the run", d.Attempts, d.ContentDigest, d.ExternalID)
	}
	if waited := d.SentTime.Sub(d.AttemptFailures[0].Time.Time).Seconds(); waited < 2 {
		t.Errorf("sent %gs after the service had asked for 2s", waited)
	}
	got := teams.Messages()
	if len(got) != 1 || len(got[0].Mentions) > 0 || !strings.Contains(string(got[0].Content), `"text":"Hello","weight":"Bolder"},{"type":"TextRun","text":" <at>you</at>"`) {
		t.Errorf("what arrived: %s", got)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "limited"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})

	teams.Refuse("InvalidRequestContent")
	s.send("refused", "refused")
	failed := s.wait("refused", isFailed, isAudited)
	if e := delivery(t, failed, "refused").LastError; e.Class != v1alpha1.ErrorPermanent || e.Code != "InvalidRequestContent" {
		t.Errorf("last error %+v, want a permanent one with the service's word", e)
	}

	s.send("gone", "gone")
	held := s.wait("gone", isStalled("NotFound"))
	if e := delivery(t, held, "gone").LastError; e.Code != "WorkflowNotFound" || !strings.Contains(e.Message, "create a new one and put its URL into the Secret") {
		t.Errorf("last error %+v, want the service's word and what to do", e)
	}
	secret := s.secretNamed("gone")
	s.change(secret, func() { secret.StringData = map[string]string{"url": teams.URL} })
	if d := delivery(t, s.wait("gone", isSent, isAudited), "gone"); d.UncountedAttempts != d.Attempts-1 {
		t.Errorf("%d attempts, %d of them not counted", d.Attempts, d.UncountedAttempts)
	}

	s.send("retired", "retired")
	held = s.wait("retired", isStalled("InvalidURL"))
	if e := delivery(t, held, "retired").LastError; strings.Contains(e.Message, "planted") || !strings.Contains(e.Message, "which Microsoft has retired") {
		t.Errorf("last error %+v, want what to do, without the URL", e)
	}
}
