package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

// perSecond has a channel let one message a second through.
func perSecond(spec *v1alpha1.NotificationChannelSpec) {
	spec.RateLimit = v1alpha1.RateLimit{Messages: 1, Interval: "1s", Burst: 1}
}

// waitChannel waits until check says nil of a channel.
func (s *stack) waitChannel(name string, check func(*v1alpha1.NotificationChannelStatus) error) *v1alpha1.NotificationChannel {
	s.t.Helper()
	ch := &v1alpha1.NotificationChannel{}
	harness.Eventually(s.t, soon, func() error {
		if err := s.kube.Get(s.t.Context(), s.key(name), ch); err != nil {
			return err
		}
		return check(&ch.Status)
	})
	return ch
}

func inCircuit(state v1alpha1.CircuitState) func(*v1alpha1.NotificationChannelStatus) error {
	return func(status *v1alpha1.NotificationChannelStatus) error {
		if status.Circuit.State != state {
			return fmt.Errorf("its circuit is %+v", status.Circuit)
		}
		return nil
	}
}

func hasReason(channel, reason string) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		for _, d := range nr.Status.Deliveries {
			if d.Channel == channel && d.LastError.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("no delivery to %s waits for %s: %+v", channel, reason, nr.Status.Deliveries)
	}
}

func TestRateLimitHoldsAcrossARestartAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("limited", perSecond)
	s.waitReady()
	const n = 8
	for i := range n {
		s.send(fmt.Sprint("request-", n-i), "limited") // their names are in no order
	}
	last := s.wait("request-1", hasReason("limited", "ChannelRateLimit"))
	d := delivery(t, last, "limited")
	if d.Attempts != 0 || d.NextAttemptTime == nil || !strings.Contains(d.LastError.Message, "1 in 1s") {
		t.Errorf("it waits with %+v", d)
	}
	s.wait("request-6", isSent) // the third: a second is left until the next
	s.manager.Kill()
	s.startManager()
	s.waitAll(60*time.Second, isAudited)
	s.wantEachArrivedOnce(n)
	received := s.sink.Received("/limited")
	var created time.Time
	for i, r := range received {
		// What was sent before the first is a burst of 1; a write may be late by some
		// tenths of a second, and the next one in time.
		if most := 2 + int(r.At.Sub(received[0].At)/time.Second); i+1 > most {
			t.Errorf("%d messages arrived within %s", i+1, r.At.Sub(received[0].At))
		}
		var message struct {
			Created time.Time `json:"created_at"`
		}
		if err := json.Unmarshal(r.Body, &message); err != nil {
			t.Fatal(err)
		}
		if message.Created.Before(created) {
			t.Errorf("message %d is of %s, the one before of %s", i, message.Created, created)
		}
		created = message.Created
	}
}

func TestChannelThatFailsIsLeftAloneUntilItIsMended(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	other := testenv.Namespace(t)
	s.namespaces = s.namespace + "," + other
	s.startStorage()
	s.startManager()
	broken := s.webhook("broken")
	s.webhook("limited", perSecond)
	fine := s.webhook("fine")
	fine.ResourceVersion, fine.UID, fine.Namespace = "", "", other
	s.create(fine)
	s.sink.Answer("/broken", harness.Status(http.StatusServiceUnavailable))
	s.waitReady()

	const n = 40
	for i := range n {
		nr := request(fmt.Sprint("broken-", i), "broken")
		nr.Spec.Retry = v1alpha1.RetryPolicy{MaxAttempts: 20, InitialDelay: "100ms", MaxDelay: "200ms"}
		s.create(nr)
		s.send(fmt.Sprint("limited-", i), "limited")
	}
	s.waitChannel("broken", inCircuit(v1alpha1.CircuitOpen))
	s.told("broken", v1alpha1.ReasonCircuitOpened)
	s.send("late", "broken")
	nr := s.wait("late", hasReason("broken", "CircuitOpen"))
	if d := delivery(t, nr, "broken"); d.Attempts != 0 || !strings.Contains(d.LastError.Message, "503") {
		t.Errorf("it waits with %+v", d)
	}
	// Others feel nothing of it, in this namespace or in another one.
	s.send("fine", "fine")
	s.wait("fine", isSent, isAudited)
	abroad := request("abroad", "fine")
	abroad.Namespace = other
	s.create(abroad)
	harness.WaitRequest(t, s.kube, client.ObjectKey{Namespace: other, Name: "abroad"}, soon, isSent)
	spent := len(s.sink.Received("/broken"))
	if spent > 16+4+1 {
		t.Errorf("%d attempts were spent on a channel that fails", spent)
	}
	if _, body := s.get(s.metrics, "/metrics"); !strings.Contains(body, `notification_channel_circuits{state="Open"} 1`) {
		t.Error("the metrics know of no open circuit")
	}

	// A new manager knows of it too.
	s.manager.Kill()
	s.startManager()
	s.waitReady()
	s.send("later", "broken")
	s.wait("later", hasReason("broken", "CircuitOpen"))
	if got := len(s.sink.Received("/broken")); got > spent+1 {
		t.Errorf("%d attempts were spent after the restart", got-spent)
	}
	s.sink.Answer("/broken", harness.Status(http.StatusOK))
	s.change(broken, func() { broken.Spec.Timeout = "9s" })
	for i := range n {
		s.wait(fmt.Sprint("broken-", i), isSent)
	}
	s.wait("late", isSent)
	s.wait("later", isSent)
	s.waitChannel("broken", inCircuit(v1alpha1.CircuitClosed))
	s.told("broken", v1alpha1.ReasonCircuitOpened, v1alpha1.ReasonCircuitClosed)
}

func probed(value string, state v1alpha1.ProbeState) func(*v1alpha1.NotificationChannelStatus) error {
	return func(status *v1alpha1.NotificationChannelStatus) error {
		if p := status.Probe; p.RequestedAt != value || p.State != state {
			return fmt.Errorf("its probe is %+v", p)
		}
		return nil
	}
}

func TestProbePutsTheAnswerIntoStatusOncePerValue(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.waitReady()
	probe := func(ch *v1alpha1.NotificationChannel, value string) {
		s.change(ch, func() { ch.Annotations = map[string]string{v1alpha1.ProbeAnnotation: value} })
	}
	for name, c := range map[string]struct {
		answer harness.Answer
		class  v1alpha1.ErrorClass
		reason string
	}{
		"accepts":   {harness.Status(http.StatusOK), "", ""},
		"transient": {harness.Status(http.StatusServiceUnavailable), v1alpha1.ErrorTransient, "ServerError"},
		"permanent": {harness.Status(http.StatusNotFound), v1alpha1.ErrorPermanent, "NotFound"},
		"config":    {harness.Status(http.StatusUnauthorized), v1alpha1.ErrorConfig, "Unauthorized"},
		"ambiguous": {harness.Reset, v1alpha1.ErrorAmbiguous, "NoAnswer"},
	} {
		ch := s.webhook(name, func(spec *v1alpha1.NotificationChannelSpec) { spec.Suspend = new(true) })
		s.sink.Answer("/"+name, c.answer)
		probe(ch, "first")
		want := v1alpha1.ProbeSent
		if c.class != "" {
			want = v1alpha1.ProbeFailed
		}
		got := s.waitChannel(name, probed("first", want)).Status.Probe
		if got.Error.Class != c.class || got.Error.Reason != c.reason || got.FinishedTime == nil || got.Duration == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}

	stuck := s.webhook("stuck", timeout("2m"))
	s.sink.Answer("/stuck", harness.Hang)
	probe(stuck, "first")
	harness.Eventually(t, soon, func() error {
		if len(s.sink.Received("/stuck")) == 0 {
			return fmt.Errorf("nothing has arrived")
		}
		return nil
	})
	s.manager.Kill()
	s.startManager()
	s.waitReady()
	accepts := s.waitChannel("accepts", probed("first", v1alpha1.ProbeSent))
	probe(accepts, "second")
	s.waitChannel("accepts", probed("second", v1alpha1.ProbeSent))
	s.waitChannel("stuck", probed("first", v1alpha1.ProbeInFlight))
	for path, want := range map[string]int{"/accepts": 2, "/transient": 1, "/permanent": 1, "/config": 1, "/ambiguous": 1, "/stuck": 1} {
		if got := len(s.sink.Received(path)); got != want {
			t.Errorf("%s received %d test messages, want %d", path, got, want)
		}
	}
	if events := s.storage.Events(t); len(events) != 0 {
		t.Errorf("probes are recorded as %d events", len(events))
	}
}
