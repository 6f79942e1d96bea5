package integration

import (
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

var (
	wouldBeSent = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonDryRun)
	wouldNot    = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonDryRunFailed)
)

// dryRun creates a dry run.
func (s *stack) dryRun(name string, channels ...string) {
	s.t.Helper()
	nr := request(name, channels...)
	nr.Spec.Mode = v1alpha1.ModeDryRun
	s.create(nr)
}

func TestADryRunSendsNothingAndSaysWhatItWouldSend(t *testing.T) {
	t.Parallel()
	s := run(t)
	slack := standin.NewSlack(t)
	s.webhook("hook", template("{{ .Subject | upper }}", ""))
	s.addressed("slack", slack.URL+"/services/general", toSlack)
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: "file"},
		Spec:       v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelFile, File: v1alpha1.FileChannel{Directory: "tried"}},
	})
	s.dryRun("try-1", "hook", "slack", "file", "console")
	tried := s.wait("try-1", wouldBeSent, isAudited)
	for _, d := range tried.Status.Deliveries {
		if d.State != v1alpha1.DeliverySkipped || d.ContentSize == 0 || d.ContentDigest == "" || d.LastError.Reason != v1alpha1.ReasonDryRun || d.Attempts != 0 {
			t.Errorf("%s: %+v, want it skipped with a digest and a size", d.Channel, d)
		}
	}

	s.dryRun("try-3", "hook", "missing", "unknown")
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: "missing"},
		Spec: v1alpha1.NotificationChannelSpec{
			Type:  v1alpha1.ChannelTeams,
			Teams: v1alpha1.TeamsChannel{WebhookURLSecretRef: v1alpha1.SecretKeyRef{Name: "nothing", Key: "url"}},
		},
	})
	s.wait("try-3", wouldNot, isAudited, isStalled(v1alpha1.ReasonDryRunFailed))
	s.dryRun("try-4", "hook", "missing")
	failed := s.wait("try-4", wouldNot, isAudited)
	if e := delivery(t, failed, "missing").LastError; e.Reason != v1alpha1.ReasonSecretNotFound || e.Class != v1alpha1.ErrorConfig {
		t.Errorf("the channel without a Secret: %+v", e)
	}

	s.leads("to-hook", []string{"hook"})
	s.dryRun("try-5")
	s.wait("try-5", wouldBeSent, isAudited, isRouted(v1alpha1.ReasonRouteMatched, "the route to-hook leads to hook"))

	if got := s.sink.Received("/hook"); len(got) != 0 {
		t.Errorf("%d messages arrived at the webhook", len(got))
	}
	if got := slack.Messages(); len(got) != 0 {
		t.Errorf("%d messages arrived at Slack", len(got))
	}
	if _, err := os.Stat(filepath.Join(s.dir, "files", s.namespace, "tried")); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageDryRun: 10})

	s.send("try-2", "hook")
	sent := s.wait("try-2", isSent, isAudited)
	arrived := s.sink.Received("/hook")
	if len(arrived) != 1 {
		t.Fatalf("%d messages arrived, want 1", len(arrived))
	}
	was, would := delivery(t, sent, "hook").ContentSize, delivery(t, tried, "hook").ContentSize
	if want := int64(len(arrived[0].Body)); was != want || would != want {
		t.Errorf("sent %d bytes and would have sent %d, of which %d arrived", was, would, want)
	}
}

func TestADryRunIsOverThoughTheManagerWasKilled(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.startStorage()
	for _, name := range []string{"one", "two", "three"} {
		s.dryRun(name, "console")
	}
	s.startManager()
	s.wait("one", wouldBeSent)
	s.manager.Kill()
	s.startManager()
	for _, name := range []string{"one", "two", "three"} {
		s.wait(name, wouldBeSent, isAudited)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageDryRun: 3})
}
