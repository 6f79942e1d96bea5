//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// foundingReport is the scene that this project began with: the controller is
// there first, DataStorage comes 20 seconds later and resets its first connections.
func foundingReport(s suite) {
	s.webhook("founding")
	s.send("founding-webhook", []string{"founding"})
	s.send("founding-console", nil)
	s.step("waiting for the manager to wait for 20 seconds")
	harness.Eventually(s.T, restart, func() error {
		// It says every 5 seconds what it waits for.
		if n := strings.Count(s.managerLog(), "Waiting for DataStorage before any request is handled"); n < 5 {
			return fmt.Errorf("the manager has said %d times that it waits", n)
		}
		return nil
	})
	for _, name := range []string{"founding-webhook", "founding-console"} {
		nr := s.wait(name, soon)
		if nr.Status.Deliveries != nil {
			s.Errorf("%s was handled before DataStorage was ready: %+v", name, nr.Status)
		}
	}
	if got := s.sink.Received(""); len(got) > 0 {
		s.Fatalf("%d messages were sent before DataStorage was ready", len(got))
	}
	s.proxy.Set(harness.ResetConnections, 3)
	s.kubectl("-n", system, "scale", "statefulset/datastorage", "--replicas=1")
	s.kubectl("-n", system, "rollout", "status", "statefulset/datastorage", "--timeout=180s")
	s.kubectl("-n", system, "rollout", "status", "deployment/notification-manager", "--timeout=180s")
	for _, name := range []string{"founding-webhook", "founding-console"} {
		s.wait(name, soon, sent, audited)
	}
	harness.WantEvents(s.T, s.events(""), map[string]int{audit.TypeMessageSent: 2})
	if got := s.sink.ByKey("/founding"); len(got) != 1 {
		s.Errorf("the webhook got %v, want one message once", got)
	}
}

// countedOnce repeats the report's counts: it expected 9 events and found 27.
func countedOnce(s suite) {
	for i := range 3 {
		name := fmt.Sprintf("remediation-%d", i)
		s.webhook(name)
		s.send(name, []string{name}, func(spec *v1alpha1.NotificationRequestSpec) { spec.CorrelationID = "e2e-remediation" })
	}
	nine := []string{v1alpha1.ConsoleChannel}
	for i := range 8 {
		name := fmt.Sprintf("nine-%d", i)
		s.webhook(name)
		nine = append(nine, name)
	}
	s.send("nine", nine, func(spec *v1alpha1.NotificationRequestSpec) { spec.CorrelationID = "e2e-nine" })
	for i := range 3 {
		s.wait(fmt.Sprintf("remediation-%d", i), soon, sent, audited)
	}
	s.wait("nine", soon, sent, audited)
	harness.WantEvents(s.T, s.storage.Events(s.T, "correlation_id", "e2e-remediation"), map[string]int{audit.TypeMessageSent: 3})
	harness.WantEvents(s.T, s.storage.Events(s.T, "correlation_id", "e2e-nine"), map[string]int{audit.TypeMessageSent: 9})
}

func webhookAnswers(s suite) {
	for _, c := range []struct {
		name     string
		answers  []harness.Answer
		end      func(*v1alpha1.NotificationRequest) error
		arrivals int
		events   map[string]int
		waits    []time.Duration // the longest that the policy allows between arrivals
		least    time.Duration   // the shortest
	}{
		{
			name:     "unavailable-twice",
			answers:  []harness.Answer{harness.Status(503), harness.Status(503), harness.Status(200)},
			end:      sent,
			arrivals: 3,
			events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 2},
			waits:    []time.Duration{time.Second, 2 * time.Second},
		},
		{
			name:     "refused",
			answers:  []harness.Answer{harness.Status(400)},
			end:      failed,
			arrivals: 1,
			events:   map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1},
		},
		{
			name:     "asked-to-wait",
			answers:  []harness.Answer{harness.RetryAfter(429, 3), harness.Status(200)},
			end:      sent,
			arrivals: 2,
			events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1},
			waits:    []time.Duration{3 * time.Second},
			least:    3 * time.Second,
		},
	} {
		s.sink.Answer("/"+c.name, c.answers...)
		s.webhook(c.name)
		s.send(c.name, []string{c.name})
		nr := s.wait(c.name, soon, c.end, audited)
		harness.WantEvents(s.T, s.events(c.name), c.events)
		got := s.sink.Received("/" + c.name)
		if len(got) != c.arrivals || int(nr.Status.Deliveries[0].Attempts) != c.arrivals {
			s.Fatalf("%s: %d arrivals and %d attempts in status, want %d", c.name, len(got), nr.Status.Deliveries[0].Attempts, c.arrivals)
		}
		for i, longest := range c.waits {
			// What a busy machine adds is no concern of the policy.
			const slack = 5 * time.Second
			if waited := got[i+1].At.Sub(got[i].At); waited < c.least || waited > longest+slack {
				s.Errorf("%s: attempt %d came %s after the one before, want %s to %s", c.name, i+2, waited, c.least, longest)
			}
		}
	}
}

func inDoubt(s suite) {
	policy := func(p v1alpha1.AmbiguousPolicy) func(*v1alpha1.NotificationRequestSpec) {
		return func(spec *v1alpha1.NotificationRequestSpec) { spec.OnAmbiguous = p }
	}
	for _, c := range []struct {
		name      string
		policy    v1alpha1.AmbiguousPolicy
		word      string
		arrivals  int
		duplicate bool
	}{
		{name: "doubt-retry", policy: v1alpha1.AmbiguousRetry, arrivals: 2, duplicate: true},
		{name: "doubt-assume", policy: v1alpha1.AmbiguousAssumeSent, arrivals: 1},
		{name: "doubt-hold-sent", policy: v1alpha1.AmbiguousHold, word: "Sent", arrivals: 1},
		{name: "doubt-hold-retry", policy: v1alpha1.AmbiguousHold, word: "Retry", arrivals: 2, duplicate: true},
	} {
		s.sink.Answer("/"+c.name, harness.Reset, harness.Status(200))
		s.webhook(c.name)
		s.send(c.name, []string{c.name}, policy(c.policy))
		if c.word != "" {
			s.wait(c.name, soon, stalled(v1alpha1.ReasonAmbiguous))
			s.kubectl("-n", namespace, "annotate", "nr", c.name, v1alpha1.ResolveAnnotation+"="+c.name+"="+c.word)
		}
		nr := s.wait(c.name, soon, sent, audited)
		harness.WantEvents(s.T, s.events(c.name), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1})
		d := nr.Status.Deliveries[0]
		if got := len(s.sink.Received("/" + c.name)); got != c.arrivals {
			s.Errorf("%s: %d arrivals, want %d", c.name, got, c.arrivals)
		}
		if got := d.PossibleDuplicate != nil && *d.PossibleDuplicate; got != c.duplicate {
			s.Errorf("%s: possibleDuplicate is %t, want %t", c.name, got, c.duplicate)
		}
	}
}

func answerLost(s suite) {
	s.webhook("answer-lost")
	s.proxy.Set(harness.CutAnswers, 2)
	s.send("answer-lost", []string{"answer-lost"})
	s.wait("answer-lost", soon, sent, audited)
	harness.WantEvents(s.T, s.events("answer-lost"), map[string]int{audit.TypeMessageSent: 1})
}

// quietHours leaves a message behind that waits for what is half a minute off, or a
// minute: windows end with a minute.
func quietHours(s suite) {
	s.webhook("night")
	now := time.Now().UTC()
	end := now.Add(75 * time.Second).Truncate(time.Minute)
	s.route("night", v1alpha1.NotificationRouteSpec{
		Match:      []v1alpha1.RouteMatcher{{Attribute: v1alpha1.AttributeCorrelationID, Equals: "night"}},
		Channels:   []v1alpha1.ChannelReference{{Name: "night"}},
		QuietHours: []v1alpha1.TimeWindow{{Start: now.Add(-time.Hour).Format("15:04"), End: end.Format("15:04")}},
	})
	atNight := func(priority v1alpha1.Priority) func(*v1alpha1.NotificationRequestSpec) {
		return func(spec *v1alpha1.NotificationRequestSpec) { spec.CorrelationID, spec.Priority = "night", priority }
	}
	s.send("night-waits", nil, atNight("High"))
	s.send("night-critical", nil, atNight("Critical"))
	s.wait("night-critical", soon, sent, audited)
	s.wait("night-waits", soon, func(nr *v1alpha1.NotificationRequest) error {
		for _, d := range nr.Status.Deliveries {
			if until := nr.Status.RoutedChannels[0].QuietUntil; d.LastError.Reason == v1alpha1.ReasonQuietHours && until.Equal(&metav1.Time{Time: end}) {
				return nil
			}
		}
		return fmt.Errorf("it does not wait until %s: %+v", end, nr.Status)
	})
	if got := len(s.sink.Received("/night")); got != 1 {
		s.Errorf("%d messages were sent in the quiet hours, want the critical one", got)
	}
}

func quietHoursOver(s suite) {
	nr := s.wait("night-waits", restart, sent, audited)
	got := s.sink.Received("/night")
	if until := nr.Status.RoutedChannels[0].QuietUntil.Time; len(got) != 2 || !got[0].At.Before(until) || got[1].At.Before(until) {
		s.Errorf("%d messages arrived, want one before %s and one after: %+v", len(got), until, got)
	}
	for _, name := range []string{"night-waits", "night-critical"} {
		harness.WantEvents(s.T, s.events(name), map[string]int{audit.TypeMessageSent: 1})
	}
}

func storageDown(s suite) {
	const n = 200
	s.webhook("outage")
	down := time.Now()
	s.kubectl("-n", system, "scale", "statefulset/datastorage", "--replicas=0")
	s.kubectl("-n", system, "wait", "--for=delete", "pod/datastorage-0", "--timeout=120s")
	for i := range n {
		s.send(fmt.Sprintf("outage-%03d", i), []string{"outage"})
	}
	for i := range n {
		s.wait(fmt.Sprintf("outage-%03d", i), restart, sent)
	}
	s.step("all is sent while DataStorage is down; waiting for the minute to be over")
	<-time.After(time.Until(down.Add(time.Minute)))
	nr := s.wait("outage-000", soon, harness.Condition(v1alpha1.ConditionAudited, metav1.ConditionFalse, v1alpha1.ReasonPending))
	if !slices.Contains(nr.Finalizers, v1alpha1.Finalizer) {
		s.Error("nothing holds a request whose event is not recorded")
	}
	s.kubectl("-n", system, "scale", "statefulset/datastorage", "--replicas=1")
	for i := range n {
		s.wait(fmt.Sprintf("outage-%03d", i), restart, audited)
	}
	s.once("/outage", n)
	harness.WantEvents(s.T, s.eventsWithPrefix("outage-"), map[string]int{audit.TypeMessageSent: n})
}

func managerRestarted(s suite) {
	const n = 100
	s.sink.Answer("/restart", harness.After(300*time.Millisecond, harness.Status(200)))
	s.webhook("restart")
	for i := range n {
		s.send(fmt.Sprintf("restart-%03d", i), []string{"restart"})
	}
	harness.Eventually(s.T, soon, func() error {
		if got := len(s.sink.Received("/restart")); got < n/4 {
			return fmt.Errorf("%d of %d messages have arrived", got, n)
		}
		return nil
	})
	// The kubelet sends SIGTERM and waits; the Deployment makes a new pod.
	s.kubectl("-n", system, "delete", "pod", "-l", "app.kubernetes.io/name=notification-manager", "--wait=false")
	for i := range n {
		s.wait(fmt.Sprintf("restart-%03d", i), restart, sent, audited)
	}
	s.once("/restart", n)
	harness.WantEvents(s.T, s.eventsWithPrefix("restart-"), map[string]int{audit.TypeMessageSent: n})
}

func deletedAtEveryStage(s suite) {
	gone := func(name string) {
		harness.WaitGone(s.T, s.kube, client.ObjectKey{Namespace: namespace, Name: name}, soon)
	}
	s.sink.Answer("/deleted", harness.Status(503))
	s.webhook("deleted")
	s.sink.Answer("/slow", harness.After(5*time.Second, harness.Status(200)))
	s.webhook("slow")

	s.send("deleted-suspended", []string{"deleted"}, func(spec *v1alpha1.NotificationRequestSpec) { spec.Suspend = new(true) })
	s.wait("deleted-suspended", soon, harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSuspended))
	s.send("deleted-retrying", []string{"deleted"}, func(spec *v1alpha1.NotificationRequestSpec) { spec.Retry.MaxAttempts = 20 })
	s.wait("deleted-retrying", soon, harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRetrying))
	s.send("deleted-in-flight", []string{"slow"})
	s.wait("deleted-in-flight", soon, harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSending))
	s.send("deleted-sent", nil)
	first := s.wait("deleted-sent", soon, sent, audited)
	for _, name := range []string{"deleted-suspended", "deleted-retrying", "deleted-in-flight", "deleted-sent"} {
		s.kubectl("-n", namespace, "delete", "nr", name, "--wait=false")
		gone(name)
	}
	cancelled := map[string]int{audit.TypeRequestCancelled: 1, audit.TypeMessageFailed: 1}
	harness.WantEvents(s.T, s.events("deleted-suspended"), cancelled)
	retried := s.events("deleted-retrying")
	harness.WantEvents(s.T, retried, map[string]int{
		audit.TypeRequestCancelled: 1, audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: len(s.sink.Received("/deleted")),
	})
	harness.WantEvents(s.T, s.events("deleted-in-flight"), map[string]int{audit.TypeRequestCancelled: 1, audit.TypeMessageSent: 1})

	s.send("deleted-sent", nil)
	second := s.wait("deleted-sent", soon, sent, audited)
	if first.UID == second.UID {
		s.Fatal("the request was not made anew")
	}
	harness.WantEvents(s.T, s.events("deleted-sent"), map[string]int{audit.TypeMessageSent: 2})
}

// badNeighbour has a channel that takes messages and does not answer and one that
// fails, beside others of the same namespace and of another one, where they have the
// same names.
func badNeighbour(s suite) {
	const n = 20 // more than a channel has places
	release := make(chan struct{})
	s.sink.Answer("/stuck", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s.sink.Answer("/failing", harness.Status(http.StatusServiceUnavailable))
	s.webhook("stuck", func(spec *v1alpha1.NotificationChannelSpec) { spec.Timeout = "2m" })
	s.webhook("failing")
	s.webhook("fast")
	other := s
	other.namespace = neighbours
	other.webhook("failing", func(spec *v1alpha1.NotificationChannelSpec) { spec.Webhook.URL = s.sink.URL + "/theirs" })
	for i := range n {
		s.send(fmt.Sprint("stuck-", i), []string{"stuck"})
		s.send(fmt.Sprint("failing-", i), []string{"failing"})
	}
	harness.Eventually(s.T, soon, func() error {
		failing := &v1alpha1.NotificationChannel{}
		if err := s.kube.Get(s.Context(), client.ObjectKey{Namespace: s.namespace, Name: "failing"}, failing); err != nil {
			return err
		}
		if got := len(s.sink.Received("/stuck")); got < 16 || failing.Status.Circuit.State != v1alpha1.CircuitOpen {
			return fmt.Errorf("%d messages are stuck, and the circuit of the channel that fails is %+v", got, failing.Status.Circuit)
		}
		return nil
	})

	// Nothing is given back for as long as these take.
	s.send("stuck-and-fast", []string{"stuck", "fast"})
	for i := range n {
		s.send(fmt.Sprint("fast-", i), []string{"fast"})
		other.send(fmt.Sprint("failing-", i), []string{"failing"})
	}
	for i := range n {
		for _, nr := range []*v1alpha1.NotificationRequest{
			s.wait(fmt.Sprint("fast-", i), soon, sent, audited), other.wait(fmt.Sprint("failing-", i), soon, sent, audited),
		} {
			if d := nr.Status.Deliveries[0]; d.Attempts != 1 {
				s.Errorf("%s took %d attempts", nr.Name, d.Attempts)
			}
		}
	}
	s.wait("stuck-and-fast", soon, func(nr *v1alpha1.NotificationRequest) error {
		if state := s.delivery(nr, "fast").State; state != v1alpha1.DeliverySent {
			return fmt.Errorf("the fast delivery is %s", state)
		}
		return nil
	})
	harness.WantEvents(s.T, other.events(""), map[string]int{audit.TypeMessageSent: n})

	close(release)
	s.sink.Answer("/failing", harness.Status(http.StatusOK))
	s.change("failing", `{"spec":{"timeout":"9s"}}`)
	for i := range n {
		s.wait(fmt.Sprint("stuck-", i), soon, sent, audited)
		s.wait(fmt.Sprint("failing-", i), soon, sent, audited)
	}
	s.wait("stuck-and-fast", soon, sent, audited)
	s.once("/stuck", n+1)
	other.once("/theirs", n)
}

// once checks that n messages came to a path, each a single time.
func (s *suite) once(path string, n int) {
	s.Helper()
	got := s.sink.ByKey(path)
	if len(got) != n {
		s.Errorf("%d different messages came to %s, want %d", len(got), path, n)
	}
	for key, times := range got {
		if times != 1 {
			s.Errorf("message %s came %d times to %s", key, times, path)
		}
	}
}

func (s *suite) eventsWithPrefix(prefix string) []harness.Stored {
	s.Helper()
	return slices.DeleteFunc(s.events(""), func(e harness.Stored) bool { return !strings.HasPrefix(e.ResourceID, prefix) })
}
