package integration

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

func (s *stack) delete(o client.Object) {
	s.t.Helper()
	if err := s.kube.Delete(s.t.Context(), o); err != nil {
		s.t.Fatal(err)
	}
}

// inState waits for a delivery's state.
func inState(channel string, state v1alpha1.DeliveryState) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		for _, d := range nr.Status.Deliveries {
			if d.Channel == channel && d.State == state {
				return nil
			}
		}
		return fmt.Errorf("%s is not %s", channel, state)
	}
}

func TestADeletedRequestGoesOnlyWhenAllOfItIsRecorded(t *testing.T) {
	t.Parallel()
	s := run(t)
	release := make(chan struct{})
	s.sink.Answer("/slow", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s.sink.Answer("/busy", harness.Status(http.StatusServiceUnavailable))
	s.webhook("slow")
	s.webhook("busy")

	suspended := request("suspended", "slow")
	suspended.Spec.Suspend = new(true)
	retrying := request("retrying", "busy")
	retrying.Spec.Retry = v1alpha1.RetryPolicy{InitialDelay: "24h", MaxDelay: "24h"}
	inFlight := request("in-flight", "slow")
	half := request("half", v1alpha1.ConsoleChannel, "busy")
	half.Spec.Retry = retrying.Spec.Retry
	s.create(suspended, retrying, inFlight, half)
	s.wait("suspended", inState("slow", v1alpha1.DeliveryPending))
	s.wait("retrying", inState("busy", v1alpha1.DeliveryRetrying))
	s.wait("in-flight", inState("slow", v1alpha1.DeliveryInFlight))
	s.wait("half", inState("busy", v1alpha1.DeliveryRetrying), inState(v1alpha1.ConsoleChannel, v1alpha1.DeliverySent))
	harness.Eventually(t, soon, func() error {
		if len(s.sink.Received("/slow")) == 0 {
			return fmt.Errorf("the message in flight has not arrived")
		}
		return nil
	})
	for _, nr := range []client.Object{suspended, retrying, inFlight, half} {
		s.delete(nr)
	}
	for _, name := range []string{"suspended", "retrying", "half"} {
		harness.WaitGone(t, s.kube, s.key(name), soon)
	}
	// The attempt in flight is not cut off, and its outcome is recorded.
	nr := s.wait("in-flight", func(nr *v1alpha1.NotificationRequest) error {
		if nr.Status.Cancellation.Time == nil {
			return fmt.Errorf("the deletion is not in status")
		}
		return nil
	})
	if got := delivery(t, nr, "slow").State; got != v1alpha1.DeliveryInFlight {
		t.Errorf("the attempt in flight is %s after the deletion", got)
	}
	close(release)
	harness.WaitGone(t, s.kube, s.key("in-flight"), soon)

	for name, want := range map[string]map[string]int{
		"suspended": {audit.TypeRequestCancelled: 1, audit.TypeMessageFailed: 1},
		"retrying":  {audit.TypeRequestCancelled: 1, audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1},
		"in-flight": {audit.TypeRequestCancelled: 1, audit.TypeMessageSent: 1},
		"half": {
			audit.TypeRequestCancelled: 1, audit.TypeMessageSent: 1, audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			harness.WantEvents(t, s.storage.Events(t, "resource_id", name), want)
		})
	}
	if got := len(s.sink.Received("/slow")); got != 1 {
		t.Errorf("%d messages arrived on the slow channel, want 1", got)
	}
}

func TestTheOutcomeOfAnAttemptIsRecordedThoughTheRequestWasTornAway(t *testing.T) {
	t.Parallel()
	s := run(t)
	release := make(chan struct{})
	s.sink.Answer("/slow", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s.webhook("slow")
	nr := s.send("torn", "slow")
	harness.Eventually(t, soon, func() error {
		if len(s.sink.Received("/slow")) == 0 {
			return fmt.Errorf("the message has not arrived")
		}
		return nil
	})
	s.delete(nr)
	s.change(nr, func() { nr.Finalizers = nil })
	harness.WaitGone(t, s.kube, s.key("torn"), soon)
	close(release)
	s.manager.WaitLog(soon, "A request vanished with a message on its way")
	s.manager.Stop(soon) // it delivers what it has taken
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1, audit.TypeRequestCancelled: 1})
	s.wantEachArrivedOnce(1)
}

func TestTheFinalizerHoldsASentRequestUntilDataStorageIsBack(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.waitReady()
	s.storageProcess.Kill()
	nr := s.send("held")
	s.wait("held", isSent, notAudited)
	s.delete(nr)
	held := s.wait("held", func(nr *v1alpha1.NotificationRequest) error {
		const why = "1 event not recorded in DataStorage yet, and the deletion waits for that"
		if c := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionAudited); c.Message != why {
			return fmt.Errorf("audited: %s, want %s", c.Message, why)
		}
		return nil
	})
	if !slices.Contains(held.Finalizers, v1alpha1.Finalizer) {
		t.Errorf("the finalizers are %v while nothing is recorded", held.Finalizers)
	}
	s.startStorage()
	harness.WaitGone(t, s.kube, s.key("held"), soon)
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "held"), map[string]int{audit.TypeMessageSent: 1})
}

func TestARequestThatIsMadeAgainUnderItsNameIsAnotherOne(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	uids := map[string]bool{}
	for range 2 {
		nr := s.send("again", "hook")
		uids[string(nr.UID)] = true
		s.wait("again", isSent, isAudited)
		s.delete(nr)
		harness.WaitGone(t, s.kube, s.key("again"), soon)
	}
	events := s.storage.Events(t, "resource_id", "again")
	harness.WantEvents(t, events, map[string]int{audit.TypeMessageSent: 2})
	for _, e := range events {
		if !uids[e.Data.UID] {
			t.Errorf("event %s is about the unknown request %s", e.EventID, e.Data.UID)
		}
		delete(uids, e.Data.UID)
	}
	s.wantEachArrivedOnce(2)
}

func TestARequestWithATTLGoesByItselfAndLeavesItsEvents(t *testing.T) {
	t.Parallel()
	s := run(t)
	nr := request("short-lived")
	nr.Spec.TTLSecondsAfterFinished = new(int32(1))
	s.create(nr)
	s.wait("short-lived", isSent, isAudited)
	harness.WaitGone(t, s.kube, s.key("short-lived"), soon)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1})
}
