package integration

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
	"kubernaut.ai/notification/test/testenv"
)

// slackBot creates a channel to the stand-in, as a bot whose token is in a Secret of
// the same name.
func (s *stack) slackBot(name string, slack *standin.Slack, followUps v1alpha1.FollowUpMode) {
	s.t.Helper()
	s.secret(name, map[string]string{"token": "xoxb-valid", "ca.crt": string(slack.CA)})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelSlack,
			Slack: &v1alpha1.SlackChannel{
				BotTokenSecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "token"}, Channel: "C0000000002", FollowUps: followUps,
			},
			TLS:   v1alpha1.TLSConfig{CASecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "ca.crt"}},
			Proxy: &v1alpha1.ProxyConfig{URL: slack.Proxy},
		},
	})
}

func TestSlackShowsAnIncidentAsOneConversation(t *testing.T) {
	t.Parallel()
	s := run(t)
	slack := standin.NewSlack(t)
	s.slackBot("incidents", slack, v1alpha1.FollowUpUpdate)
	begin := func(name string, kind v1alpha1.RequestType, change ...func(*v1alpha1.NotificationRequest)) {
		t.Helper()
		nr := request(name, "incidents")
		nr.Spec.Type, nr.Spec.CorrelationID = kind, "incident-42"
		for _, c := range change {
			c(nr)
		}
		s.create(nr)
	}
	sent := func(name string) v1alpha1.Delivery {
		t.Helper()
		return delivery(t, s.wait(name, isSent, isAudited), "incidents")
	}
	begin("begins", "Escalation")
	first := sent("begins")

	// In doubt it is sent again, whatever onAmbiguous says: it takes the same place.
	slack.Lose()
	begin("progress", "StatusUpdate", func(nr *v1alpha1.NotificationRequest) { nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold })
	d := sent("progress")
	if d.Attempts != 2 || d.PossibleDuplicate != nil || d.ExternalID != first.ExternalID {
		t.Errorf("%d attempts, possible duplicate %v, receipt %q; want 2, none and that of the first", d.Attempts, d.PossibleDuplicate, d.ExternalID)
	}
	if all := slack.Messages(); len(all) != 1 || len(all[0].Before) != 2 {
		t.Errorf("messages after an update: %+v", all)
	}

	// What was decided outlives the process that has decided it, and the requests by
	// which it was.
	slack.Refuse("service_unavailable")
	begin("call", "Escalation", func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Priority, nr.Spec.Retry = "High", v1alpha1.RetryPolicy{InitialDelay: "10s", MaxDelay: "10s"}
	})
	s.wait("call", hasReason("incidents", "ServerError"))
	s.manager.Kill()
	for _, name := range []string{"begins", "progress"} {
		s.delete(&v1alpha1.NotificationRequest{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}})
	}
	s.startManager()
	d = sent("call")
	if want := (v1alpha1.FollowUp{Mode: v1alpha1.FollowUpReply, ExternalID: first.ExternalID}); d.FollowUp != want || d.ContentDigest != d.AttemptFailures[0].ContentDigest {
		t.Errorf("it follows %+v, want %+v, and its digest is %s, of the first attempt %s", d.FollowUp, want, d.ContentDigest, d.AttemptFailures[0].ContentDigest)
	}
	if all := slack.Messages(); len(all) != 2 || !strings.HasSuffix(first.ExternalID, "/"+all[1].Thread) || !all[1].Shown {
		t.Errorf("messages after a reply: %+v", all)
	}

	// Somebody has deleted the message: nothing is lost with it.
	slack.Delete(first.ExternalID)
	begin("ends", "Completion", func(nr *v1alpha1.NotificationRequest) { nr.Spec.Retry.MaxAttempts = 1 })
	d = sent("ends")
	if d.Attempts != 2 || d.UncountedAttempts != 1 || d.FollowUp.Mode != v1alpha1.FollowUpSeparate || d.AttemptFailures[0].Error.Code != "message_not_found" {
		t.Errorf("the message that could not follow: %+v", d)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "ends"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})
}

// With several namespaces the manager asks the API server who has said what.
func TestAConversationGoesOnWhereSeveralNamespacesAreWatched(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.namespaces += "," + testenv.Namespace(t)
	s.startStorage()
	s.startManager()
	slack := standin.NewSlack(t)
	s.slackBot("incidents", slack, v1alpha1.FollowUpReply)
	var follows []v1alpha1.FollowUp
	for _, name := range []string{"begins", "goes-on"} {
		nr := request(name, "incidents")
		nr.Spec.CorrelationID = "incident-42, in earnest"
		s.create(nr)
		d := delivery(t, s.wait(name, isSent, isAudited), "incidents")
		follows = append(follows, d.FollowUp, v1alpha1.FollowUp{Mode: v1alpha1.FollowUpReply, ExternalID: d.ExternalID})
	}
	if follows[0] != (v1alpha1.FollowUp{}) || follows[2] != follows[1] {
		t.Errorf("the first follows %+v, the second %+v, want nothing and %+v", follows[0], follows[2], follows[1])
	}
}
