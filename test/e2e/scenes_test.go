//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
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

func secretMended(s suite) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "token", Namespace: namespace},
		StringData: map[string]string{"authorization": "Bearer wrong-hush"},
	}
	s.create(secret)
	s.sink.Answer("/guarded", harness.IfHeader("Authorization", "Bearer right-hush", harness.Status(200), harness.Status(401)))
	s.webhook("guarded", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.Webhook.Headers = []v1alpha1.Header{{Name: "Authorization", ValueSecretRef: v1alpha1.SecretKeyRef{Name: "token", Key: "authorization"}}}
	})
	s.send("guarded", []string{"guarded"})
	s.wait("guarded", soon, stalled("Unauthorized"))
	base := secret.DeepCopy()
	secret.StringData = map[string]string{"authorization": "Bearer right-hush"}
	if err := s.kube.Patch(s.Context(), secret, client.MergeFrom(base)); err != nil {
		s.Fatal(err)
	}
	s.wait("guarded", soon, sent, audited)
	events := s.events("guarded")
	harness.WantEvents(s.T, events, map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: len(events) - 1})
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
