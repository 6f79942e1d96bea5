package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// isHeld says of a request that it waits for DataStorage, unsent, and says so.
func isHeld(nr *v1alpha1.NotificationRequest) error {
	ready := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || len(nr.Status.Deliveries) == 0 {
		return fmt.Errorf("it has no status")
	}
	for _, d := range nr.Status.Deliveries {
		if d.State != v1alpha1.DeliveryPending || d.Attempts != 0 || d.LastError.Class != v1alpha1.ErrorTransient || d.LastError.Reason != "AuditOutage" {
			return fmt.Errorf("%s is %s after %d attempts for %+v", d.Channel, d.State, d.Attempts, d.LastError)
		}
	}
	if !strings.Contains(ready.Message, "AuditOutage: nothing is sent while DataStorage cannot record it: ") {
		return fmt.Errorf("ready says %q", ready.Message)
	}
	return nil
}

func TestWithHoldNothingIsSentDuringAnOutageAndAllOfItSoonAfter(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.startStorage()
	s.startManager("--on-audit-outage=hold")
	s.webhook("hook")
	s.webhook("slow")
	s.sink.Answer("/slow", harness.After(2*time.Second, harness.Status(200)))
	s.send("before", "hook")
	s.wait("before", isSent, isAudited)

	// The outage begins in the middle of an attempt, which is finished.
	s.send("slow", "slow")
	harness.Eventually(t, soon, func() error {
		if len(s.sink.Received("/slow")) == 0 {
			return fmt.Errorf("the slow message has not arrived")
		}
		return nil
	})
	s.storageProcess.Kill()
	s.wait("slow", isSent, notAudited)

	n := many(100)
	s.sendMany(n, "hook", v1alpha1.ConsoleChannel)
	s.waitAll(60*time.Second, func(nr *v1alpha1.NotificationRequest) error {
		if nr.Name == "before" || nr.Name == "slow" {
			return nil
		}
		return isHeld(nr)
	})
	s.wantEachArrivedOnce(2)

	s.startStorage()
	for _, nr := range s.waitAll(60*time.Second, isAudited) {
		for _, d := range nr.Status.Deliveries {
			if d.Attempts != 1 {
				t.Errorf("%s took %d attempts on %s", nr.Name, d.Attempts, d.Channel)
			}
		}
	}
	s.wantEachArrivedOnce(n + 2)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 2*n + 2})
	// None of them waited for a time of its own.
	if line := s.manager.WaitLog(soon, "Attempts begin again"); !strings.Contains(line, fmt.Sprintf(`"requests":%d`, n)) {
		t.Errorf("want all %d woken at once: %s", n, line)
	}
}
