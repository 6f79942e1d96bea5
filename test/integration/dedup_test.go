package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

// repeat creates a request with the dedup key that all of a test have.
func (s *stack) repeat(name string, change ...func(*v1alpha1.NotificationRequest)) {
	s.t.Helper()
	nr := request(name, "hook")
	nr.Spec.Dedup = v1alpha1.Dedup{Key: "disk-full/db-0", Window: "1h"}
	for _, f := range change {
		f(nr)
	}
	s.create(nr)
}

var (
	isSuppressed = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonSuppressed)
	isRetrying   = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRetrying)
	isPending    = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPending)
)

func isWaitingFor(name string) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		if got := nr.Status.DuplicateOf; got.Name != name || got.SuppressedTime != nil {
			return fmt.Errorf("it waits for %+v, want %s", got, name)
		}
		return nil
	}
}

func TestOfRequestsThatRepeatOneAnotherOneIsSent(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.waitReady()
	const n = 20
	for i := range n {
		s.repeat(fmt.Sprint("repeat-", i))
	}
	s.repeat("other-key", func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup.Key = "disk-full/db-1" })
	s.send("without-a-key", "hook")
	s.waitAll(60*time.Second, isAudited)
	if got := len(s.sink.Received("/hook")); got != 3 {
		t.Errorf("%d messages arrived, want one of those that repeat one another and two others", got)
	}
	events := s.storage.Events(t)
	harness.WantEvents(t, events, map[string]int{audit.TypeMessageSent: 3, audit.TypeMessageSuppressed: n - 1})
	var list v1alpha1.NotificationRequestList
	if err := s.kube.List(t.Context(), &list, client.InNamespace(s.namespace), client.MatchingFields{"spec.dedup.key": "disk-full/db-0"}); err != nil {
		t.Fatal(err)
	}
	originals := map[string]bool{}
	for i := range list.Items {
		nr := &list.Items[i]
		if nr.Status.DuplicateOf.Name == "" {
			originals[nr.Name] = true
			continue
		}
		if err := errors.Join(isSuppressed(nr), isAudited(nr)); err != nil {
			t.Errorf("%s: %v", nr.Name, err)
		}
		originals[nr.Status.DuplicateOf.Name] = true
	}
	if len(list.Items) != n || len(originals) != 1 {
		t.Errorf("of %d requests these stand for the others: %v, want one of %d", len(list.Items), originals, n)
	}
}

// The API server writes the intent and answers that it is overloaded, so that client-go
// sends the same write again by itself, and that is answered by a conflict.
func TestAnIntentThatMeetsItsOwnRepetitionIsFollowedOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	config, err := rest.TLSConfigFor(testenv.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	account := testenv.User(t, serviceAccount)
	proxy := harness.NewTLSFaultProxy(t, account.Host, config)
	account = &rest.Config{Host: proxy.URL, TLSClientConfig: rest.TLSClientConfig{CAData: proxy.CA}, Impersonate: account.Impersonate}
	var writes atomic.Int32
	proxy.Decide(func(r *http.Request) harness.Fault {
		if r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/first/status") || writes.Add(1) > 1 {
			return harness.Fault{}
		}
		return harness.Fault{Kind: harness.FaultReplace, Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"1"}}}
	})
	s.startStorage()
	s.startManager("--kubeconfig", kubeconfig(t, account))
	s.webhook("hook")
	s.waitReady()
	assume := func(nr *v1alpha1.NotificationRequest) { nr.Spec.OnAmbiguous = v1alpha1.AmbiguousAssumeSent }
	s.repeat("first", assume)
	s.repeat("second", assume)
	s.wait("first", isAudited)
	s.wait("second", isSuppressed, isAudited)
	if got := len(s.sink.Received("/hook")); got != 1 || writes.Load() < 3 {
		t.Errorf("%d messages arrived after %d writes, want 1 after the intent, its repetition and more", got, writes.Load())
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1, audit.TypeMessageSuppressed: 1})
}

func TestWhatRepeatsAMessageThatArrivesNowhereIsSentInItsPlace(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.waitReady()
	s.sink.Answer("/hook", harness.Status(http.StatusServiceUnavailable))
	s.repeat("first", func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Retry = v1alpha1.RetryPolicy{MaxAttempts: 20, InitialDelay: "1h", MaxDelay: "1h"}
	})
	first := s.wait("first", isRetrying)
	s.repeat("second")
	s.wait("second", isWaitingFor("first"), isPending)
	s.repeat("third")
	s.wait("third", isWaitingFor("first"))
	s.sink.Answer("/hook", harness.Status(http.StatusOK))
	if err := s.kube.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	s.waitAll(60*time.Second, isAudited)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{
		audit.TypeRequestCancelled: 1, audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1,
		audit.TypeMessageSent: 1, audit.TypeMessageSuppressed: 1,
	})
}
