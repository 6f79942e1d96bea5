package integration

import (
	"fmt"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// work is what a manager has done so far.
type work struct {
	requests   map[string]float64 // to the API server, by method
	reconciles float64            // of NotificationRequests
}

func (s *stack) work() work {
	s.t.Helper()
	w := work{requests: map[string]float64{}}
	for _, m := range s.family("rest_client_requests_total") {
		for _, label := range m.GetLabel() {
			if label.GetName() == "method" {
				w.requests[label.GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	for _, m := range s.family("controller_runtime_reconcile_total") {
		for _, label := range m.GetLabel() {
			if label.GetName() == "controller" && label.GetValue() == "notificationrequest" {
				w.reconciles += m.GetCounter().GetValue()
			}
		}
	}
	return w
}

// workUntil returns what the manager has done once all of a request is done. The
// step that took the finalizer off may not have been counted yet.
func (s *stack) workUntil(name string) work {
	s.t.Helper()
	s.settle(name)
	harness.Eventually(s.t, soon, func() error {
		for _, m := range s.family("controller_runtime_active_workers") {
			if n := m.GetGauge().GetValue(); n > 0 {
				return fmt.Errorf("%v workers are at work", n)
			}
		}
		return nil
	})
	return s.work()
}

// eventsOf returns the Kubernetes Events about a request.
func (s *stack) eventsOf(name string) []eventsv1.Event {
	s.t.Helper()
	var list eventsv1.EventList
	if err := s.kube.List(s.t.Context(), &list, client.InNamespace(s.namespace)); err != nil {
		s.t.Fatal(err)
	}
	var found []eventsv1.Event
	for _, e := range list.Items {
		if e.Regarding.Name == name {
			found = append(found, e)
		}
	}
	return found
}

// settle waits until all of a request is done: the finalizer is gone and its one
// Event is there.
func (s *stack) settle(name string) {
	s.t.Helper()
	s.wait(name, isSent, isAudited, func(nr *v1alpha1.NotificationRequest) error {
		if len(nr.Finalizers) > 0 {
			return fmt.Errorf("it has finalizers: %v", nr.Finalizers)
		}
		return nil
	})
	harness.Eventually(s.t, soon, func() error {
		if n := len(s.eventsOf(name)); n == 0 {
			return fmt.Errorf("there is no Event about %s", name)
		}
		return nil
	})
}

func TestAConsoleRequestCostsFourWritesAndOneEventAndThenNoMore(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.waitReady()
	s.witnessed() // or it would write in between
	s.send("first")
	before := s.workUntil("first")
	s.send("second")
	one := s.workUntil("second")
	if got := one.requests["PATCH"] + one.requests["PUT"] + one.requests["DELETE"] -
		before.requests["PATCH"] - before.requests["PUT"] - before.requests["DELETE"]; got > 4 {
		t.Errorf("a console request cost %v writes, want at most 4", got)
	}
	if got := one.requests["POST"] - before.requests["POST"]; got != 1 {
		t.Errorf("a console request cost %v POSTs, want the one of its Event", got)
	}

	nr := &v1alpha1.NotificationRequest{ObjectMeta: metav1.ObjectMeta{Name: "second", Namespace: s.namespace}}
	for i := range 50 {
		s.change(nr, func() { nr.Labels = map[string]string{"touched": fmt.Sprint(i)} })
	}
	// Somebody else's word in status is not worth a look either.
	base := nr.DeepCopy()
	meta.SetStatusCondition(&nr.Status.Conditions, metav1.Condition{Type: "Seen", Status: metav1.ConditionTrue, Reason: "ByMe", Message: "by a person"})
	if err := s.kube.Status().Patch(t.Context(), nr, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	// What the touches cause would be done before what comes after them.
	s.send("third")
	after := s.workUntil("third")
	for method := range after.requests {
		if method == "GET" {
			continue // of watches, which begin again from time to time
		}
		if got, want := after.requests[method]-one.requests[method], one.requests[method]-before.requests[method]; got != want {
			t.Errorf("50 touches and a request cost %v %ss, the request alone %v", got, method, want)
		}
	}
	if got, want := after.reconciles-one.reconciles, one.reconciles-before.reconciles; got != want {
		t.Errorf("50 touches and a request cost %v reconciles, the request alone %v", got, want)
	}
	t.Logf("a console request costs %v PATCHes, %v POSTs and %v reconciles", one.requests["PATCH"]-before.requests["PATCH"],
		one.requests["POST"]-before.requests["POST"], one.reconciles-before.reconciles)
	for _, name := range []string{"first", "second", "third"} {
		events := s.eventsOf(name)
		if len(events) != 1 || events[0].Type != "Normal" || events[0].Reason != v1alpha1.ReasonSent {
			t.Errorf("%s has %d Events, want one that it was sent: %+v", name, len(events), events)
		}
	}
	if got := strings.Count(s.manager.Log(), "--- message "); got != 3 {
		t.Errorf("the console printed %d messages, want 3", got)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 3})
	if got := countWrites(t, s, "fourth"); got > 4 {
		t.Errorf("a console request was written %d times, want at most 4", got)
	}
}

// countWrites counts the versions of a request's object after the first.
func countWrites(t *testing.T, s *stack, name string) int {
	t.Helper()
	nr := s.send(name)
	s.settle(name)
	w, err := s.kube.Watch(t.Context(), &v1alpha1.NotificationRequestList{}, &client.ListOptions{
		Namespace: s.namespace,
		Raw:       &metav1.ListOptions{ResourceVersion: nr.ResourceVersion, FieldSelector: "metadata.name=" + name},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	writes := 0
	for e := range w.ResultChan() {
		writes++
		if o, ok := e.Object.(client.Object); ok && len(o.GetFinalizers()) == 0 {
			break
		}
	}
	return writes
}
