package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// second returns the stack as another manager of the same namespace has it.
func (s *stack) second() *stack {
	other := *s
	other.dir = s.t.TempDir()
	return &other
}

// Without leader election nothing but the optimistic lock keeps two managers apart.
func TestTwoManagersAtOnceSendAndRecordOnce(t *testing.T) {
	t.Parallel()
	s := run(t)
	other := s.second()
	other.startManager()
	s.webhook("hook")
	s.waitReady()
	other.waitReady()
	n := many(60)
	s.sendMany(n, "hook")
	s.waitAll(60*time.Second, isAudited)
	s.wantEachArrivedOnce(n)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n})
	for _, m := range []*stack{s, other} {
		if got := m.metric("notification_audit_conflicts_total"); got != "0" {
			t.Errorf("two managers have built %s events differently", got)
		}
		if len(m.family("notification_deliveries_total")) == 0 {
			t.Log("one of the managers has delivered nothing")
		}
	}
}

func TestAStandbyTakesOverWhereTheLeaderStops(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "notification-system"}})
	s.bind("leader_election.yaml", "notification-system")
	s.bind("witness.yaml", "notification-system")
	s.startStorage()
	flags := []string{"--leader-elect", "--leader-elect-namespace", "notification-system"}
	s.startManager(flags...)
	s.waitReady()
	other := s.second()
	other.startManager(flags...)
	// A standby is ready, or it could not be rolled out.
	harness.Eventually(t, soon, func() error {
		if code, body := other.get(other.probe, "/readyz?verbose"); code != http.StatusOK {
			return fmt.Errorf("/readyz: %d %s", code, body)
		}
		return nil
	})
	s.webhook("hook")
	s.sink.Answer("/hook", harness.After(100*time.Millisecond, harness.Status(http.StatusOK)))
	n := many(60)
	s.sendMany(n, "hook")
	harness.Eventually(t, soon, func() error {
		if got := len(s.sink.Received("")); got < n/4 {
			return fmt.Errorf("%d messages arrived", got)
		}
		return nil
	})
	s.manager.Stop(soon)
	s.waitAll(60*time.Second, isAudited)
	s.wantEachArrivedOnce(n)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n})
}

func TestASlowChannelHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("slow", timeout("2m"))
	s.webhook("fast")
	s.sink.Answer("/slow", harness.Hang)
	s.waitReady()
	for i := range 40 {
		s.send(fmt.Sprint("slow-", i), "slow")
	}
	harness.Eventually(t, soon, func() error {
		if got := len(s.sink.Received("/slow")); got < 16 {
			return fmt.Errorf("%d messages are held up", got)
		}
		return nil
	})
	// The slow channel gives nothing back for longer than the test waits.
	both := request("both", "slow", "fast")
	s.create(both)
	s.send("alone", "fast")
	s.wait("both", inState("fast", v1alpha1.DeliverySent))
	s.wait("alone", isSent, isAudited)
}

func TestRetryAfterOutlastsTheManager(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.sink.Answer("/hook", harness.RetryAt(http.StatusTooManyRequests, 4*time.Second), harness.Status(http.StatusOK))
	s.send("patient", "hook")
	s.wait("patient", inState("hook", v1alpha1.DeliveryRetrying))
	s.manager.Kill()
	s.startManager()
	s.wait("patient", isSent, isAudited)
	if got := s.sink.Received("/hook"); len(got) != 2 || got[1].At.Sub(got[0].At) < 4*time.Second {
		t.Errorf("%d messages arrived, the last %s after the first, want 2 and not before 4s", len(got), got[len(got)-1].At.Sub(got[0].At))
	}
}
