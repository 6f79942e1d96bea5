package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

func TestNothingIsSentBeforeDataStorageIsReadyAndThenAllIs(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	proxy := harness.NewProxy(t, s.storageAddress)
	s.managerStorage = proxy.Address
	s.webhook("hook")
	s.startManager()
	early := s.send("early", "hook")

	// The gate asks twice a second.
	harness.Eventually(t, soon, func() error {
		if n := proxy.Taken(); n < 6 {
			return fmt.Errorf("DataStorage was asked only %d times whether it is ready", n)
		}
		return nil
	})
	if code, body := s.get(s.probe, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz is %d while the manager waits: %s", code, body)
	}
	code, body := s.get(s.probe, "/readyz?verbose")
	if code == http.StatusOK || !strings.Contains(body, "[-]datastorage failed") {
		t.Errorf("/readyz?verbose is %d, want a failure that names datastorage:\n%s", code, body)
	}
	s.manager.WaitLog(soon, "Waiting for DataStorage before any request is handled")
	nr := &v1alpha1.NotificationRequest{}
	if err := s.kube.Get(t.Context(), s.key("early"), nr); err != nil {
		t.Fatal(err)
	}
	if nr.ResourceVersion != early.ResourceVersion {
		t.Errorf("the request was handled before DataStorage was ready: %+v", nr)
	}

	proxy.Set(harness.ResetConnections, 3)
	s.startStorage()
	s.send("late", "hook")
	opened := logTime(t, s.manager.WaitLog(soon, "DataStorage is ready, the workers start"))
	for _, name := range []string{"early", "late"} {
		s.wait(name, isSent, isAudited)
	}
	for _, r := range s.sink.Received("") {
		if r.At.Before(opened) {
			t.Errorf("%s was sent at %s, before DataStorage was ready at %s", r.Key, r.At, opened)
		}
		if after := r.At.Sub(opened); after > 3*time.Second {
			t.Errorf("%s was sent %s after DataStorage was ready", r.Key, after)
		}
	}
	if got := len(s.sink.Received("")); got != 2 {
		t.Errorf("%d messages arrived, want 2", got)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 2})
	if code, body := s.get(s.probe, "/readyz?verbose"); code != http.StatusOK {
		t.Errorf("/readyz is %d once DataStorage is ready:\n%s", code, body)
	}
}

// It is not parallel: for as long as it runs it handles the requests of all tests.
func TestAManagerWithoutNamespacesWorksInAll(t *testing.T) {
	s := newStack(t)
	s.namespaces = ""
	s.startStorage()
	s.startManager()
	other := request("there")
	other.Namespace = testenv.Namespace(t)
	s.create(other, request("here"))
	s.wait("here", isSent, isAudited)
	harness.WaitRequest(t, s.kube, client.ObjectKeyFromObject(other), soon, isAudited)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 2})
}

func TestEachRequestAndChannelIsRecordedExactlyOnce(t *testing.T) {
	t.Parallel()
	s := run(t)
	for i := range 3 {
		nr := request(fmt.Sprintf("incident-%d", i))
		nr.Spec.CorrelationID = "incident"
		s.create(nr)
	}
	nine := request("nine", v1alpha1.ConsoleChannel)
	for i := range 8 {
		nine.Spec.Channels = append(nine.Spec.Channels, v1alpha1.ChannelReference{Name: s.webhook(fmt.Sprintf("hook-%d", i)).Name})
	}
	nine.Spec.CorrelationID = "nine"
	s.create(nine)
	for i := range 3 {
		s.wait(fmt.Sprintf("incident-%d", i), isSent, isAudited)
	}
	nr := s.wait("nine", isSent, isAudited)

	harness.WantEvents(t, s.storage.Events(t, "correlation_id", "incident"), map[string]int{audit.TypeMessageSent: 3})
	events := s.storage.Events(t, "correlation_id", "nine")
	harness.WantEvents(t, events, map[string]int{audit.TypeMessageSent: 9})
	for key, n := range s.sink.ByKey("") {
		if n != 1 {
			t.Errorf("key %s arrived %d times", key, n)
		}
	}
	if got := len(s.sink.Received("")); got != 8 {
		t.Errorf("%d messages arrived at the webhooks, want 8", got)
	}
	// The status names its evidence: the event's ID and its place in the log.
	index := map[string]int64{}
	for _, e := range events {
		index[e.EventID.String()] = e.LogIndex
	}
	for _, d := range nr.Status.Deliveries {
		if at, ok := index[d.Audit.EventID]; !ok || d.Audit.LogIndex == nil || at != *d.Audit.LogIndex {
			t.Errorf("%s: status says event %s is at %v, DataStorage has %d (%t)", d.Channel, d.Audit.EventID, d.Audit.LogIndex, at, ok)
		}
	}
	if got := strings.Count(s.manager.Log(), "--- message "); got != 4 {
		t.Errorf("the console printed %d messages, want 4", got)
	}
}
