package integration

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

// many is how many requests a test of a fault sends.
func many(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}

// sendMany creates requests to the channels, several at a time.
func (s *stack) sendMany(n int, channels ...string) {
	s.t.Helper()
	var work sync.WaitGroup
	for worker := range 8 {
		work.Go(func() {
			for i := worker; i < n; i += 8 {
				nr := request(fmt.Sprintf("many-%d", i), channels...)
				nr.Namespace = s.namespace
				if err := s.kube.Create(s.t.Context(), nr); err != nil {
					s.t.Error(err)
				}
			}
		})
	}
	work.Wait()
}

// waitAll waits until check says nil of every request of the namespace.
func (s *stack) waitAll(within time.Duration, check func(*v1alpha1.NotificationRequest) error) []v1alpha1.NotificationRequest {
	s.t.Helper()
	var list v1alpha1.NotificationRequestList
	harness.Eventually(s.t, within, func() error {
		if err := s.kube.List(s.t.Context(), &list, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		left, why := 0, error(nil)
		for i := range list.Items {
			if err := check(&list.Items[i]); err != nil {
				left, why = left+1, fmt.Errorf("%s: %w", list.Items[i].Name, err)
			}
		}
		if why != nil {
			return fmt.Errorf("%d of %d requests are not as wanted; one of them: %w", left, len(list.Items), why)
		}
		return nil
	})
	return list.Items
}

func (s *stack) wantEachArrivedOnce(n int) {
	s.t.Helper()
	keys := s.sink.ByKey("")
	if len(keys) != n {
		s.t.Errorf("%d messages arrived, want %d", len(keys), n)
	}
	for key, times := range keys {
		if times != 1 {
			s.t.Errorf("message %s arrived %d times", key, times)
		}
	}
}

// waitReady waits for the manager to be at work.
func (s *stack) waitReady() {
	s.t.Helper()
	s.manager.WaitLog(soon, `"Starting workers","controller":"notificationrequest"`)
}

func TestAnAnswerThatIsCutAfterTheCommitIsRecordedOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	proxy := harness.NewProxy(t, s.storageAddress)
	s.managerStorage = proxy.Address
	s.startStorage()
	s.startManager()
	s.waitReady()

	proxy.Set(harness.CutAnswers, 2)
	nr := s.send("cut", v1alpha1.ConsoleChannel)
	s.wait("cut", isSent, isAudited)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1})
	s.manager.WaitLog(soon, "Failed to write audit batch")
	if got := s.metric("notification_audit_duplicates_total"); got != "1" {
		t.Errorf("DataStorage said %s times that it holds the event of %s already, want 1", got, nr.Name)
	}
}

func TestAnOutageOfDataStorageLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.send("before", "hook")
	s.wait("before", isSent, isAudited)
	s.storageProcess.Kill()

	n := many(200)
	s.sendMany(n, "hook")
	s.waitAll(60*time.Second, isSent)
	s.wantEachArrivedOnce(n + 1)
	s.wait("many-0", notAudited)
	harness.Eventually(t, soon, func() error {
		if got := s.metric("notification_audit_dead_letters"); got != strconv.Itoa(n) {
			return fmt.Errorf("%s dead letters, want %d", got, n)
		}
		return nil
	})

	s.startStorage()
	s.waitAll(60*time.Second, isAudited)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n + 1})
	s.wantEachArrivedOnce(n + 1)
	for name, want := range map[string]string{
		"notification_audit_dead_letters": "0", "notification_audit_conservation_difference": "0", "notification_audit_rejected_total": "0",
	} {
		if got := s.metric(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestWhatAnOutageLeavesBehindIsRecordedByTheNextManager(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			s := run(t)
			s.webhook("hook")
			s.waitReady()
			s.storageProcess.Kill()
			n := many(60)
			s.sendMany(n, "hook")
			s.waitAll(soon, isSent)
			if signal == syscall.SIGTERM {
				s.manager.Stop(soon)
			} else {
				s.manager.Kill()
			}
			s.startManager()
			s.manager.WaitLog(soon, "Waiting for DataStorage before any request is handled")
			s.startStorage()
			s.waitAll(60*time.Second, isAudited)
			s.wantEachArrivedOnce(n)
			harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n})
			if got := s.metric("notification_audit_conservation_difference"); got != "0" {
				t.Errorf("the audit store cannot account for %s events", got)
			}
		})
	}
}

func TestPostgreSQLGoesDownAndComesBackAndAllIsRecordedOnce(t *testing.T) {
	t.Parallel()
	postgres := storetest.StartPostgres(t)
	s := newStack(t)
	s.storageProcess, s.storage = harness.StartDataStorage(t, s.storageAddress, postgres.NewDatabase(t))
	s.startManager()
	s.webhook("hook")
	n := many(40)
	s.sendMany(n, "hook")
	s.waitAll(soon, isAudited)
	postgres.Stop(t)
	s.send("during", "hook")
	s.wait("during", isSent, notAudited)
	postgres.Start(t)
	s.wait("during", isAudited)
	s.wantEachArrivedOnce(n + 1)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n + 1})
}

// The API server's answers are lost at any moment, after the write too.
func TestALostAnswerOfTheAPIServerNeitherRepeatsNorDoubtsAMessage(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	config := testenv.User(t, serviceAccount)
	proxy := harness.NewProxy(t, strings.TrimPrefix(config.Host, "https://"))
	config.Host = "https://" + proxy.Address
	s.startStorage()
	s.startManager("--kubeconfig", kubeconfig(t, config))
	s.webhook("hook", timeout("1s"))
	s.send("first", "hook")
	s.wait("first", isAudited)

	n := many(120)
	s.sendMany(n, "hook")
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for range 40 {
		<-ticker.C
		proxy.Set(harness.CutAnswers, 1)
	}
	list := s.waitAll(90*time.Second, isAudited)
	s.wantEachArrivedOnce(n + 1)
	for _, nr := range list {
		if failures := nr.Status.Deliveries[0].AttemptFailures; len(failures) > 0 {
			t.Errorf("%s: %s", nr.Name, failures[0].Error.Message)
		}
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n + 1})
}

func TestSIGTERMInTheMiddleFinishesWhatHasBegunAndTheNextManagerTheRest(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.sink.Answer("/hook", harness.After(200*time.Millisecond, harness.Status(http.StatusOK)))
	s.waitReady()
	n := many(100)
	s.sendMany(n, "hook")
	harness.Eventually(t, soon, func() error {
		if got := len(s.sink.Received("")); got < n/4 {
			return fmt.Errorf("%d messages arrived", got)
		}
		return nil
	})
	s.manager.Stop(soon)
	arrived := len(s.sink.Received(""))
	if arrived == n {
		t.Fatal("all messages were sent before the manager was told to stop")
	}
	sent := 0
	for _, nr := range s.waitAll(soon, func(*v1alpha1.NotificationRequest) error { return nil }) {
		for _, d := range nr.Status.Deliveries {
			switch d.State {
			case v1alpha1.DeliverySent:
				sent++
			case v1alpha1.DeliveryPending:
			default:
				t.Errorf("%s is %s after the manager has stopped", nr.Name, d.State)
			}
		}
	}
	if sent != arrived {
		t.Errorf("status says that %d messages were sent, but %d arrived", sent, arrived)
	}

	s.startManager()
	s.waitAll(60*time.Second, isAudited)
	s.wantEachArrivedOnce(n)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n})
}

// An attempt of a killed manager counts as in doubt only half a minute after its
// timeout, so that one test has to do for all of it.
func TestKill9InTheMiddleIsRecordedOnceAndRepeatsOnlyWhatIsFlagged(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("idempotent", idempotent, timeout("1s"))
	s.webhook("plain", timeout("1s"))
	slow := harness.After(200*time.Millisecond, harness.Status(http.StatusOK))
	s.sink.Answer("/idempotent", slow)
	s.sink.Answer("/plain", slow)
	s.waitReady()
	n := many(80)
	s.sendMany(n, "idempotent", "plain")
	harness.Eventually(t, soon, func() error {
		if got := len(s.sink.Received("")); got < n/2 {
			return fmt.Errorf("%d messages arrived", got)
		}
		return nil
	})
	s.manager.Kill()
	s.startManager()
	list := s.waitAll(90*time.Second, isAudited)

	doubts := 0
	for _, nr := range list {
		for _, d := range nr.Status.Deliveries {
			if d.State != v1alpha1.DeliverySent {
				t.Errorf("%s is %s on %s", nr.Name, d.State, d.Channel)
			}
			key := audit.EventID("delivery", string(nr.UID), d.Channel).String()
			times := s.sink.ByKey("/" + d.Channel)[key]
			flagged := d.PossibleDuplicate != nil && *d.PossibleDuplicate
			doubts += len(d.AttemptFailures)
			switch {
			case times == 0 || times > 2:
				t.Errorf("%s arrived %d times on %s", nr.Name, times, d.Channel)
			case times == 2 && len(d.AttemptFailures) != 1:
				t.Errorf("%s arrived twice on %s and status has %d attempts in doubt", nr.Name, d.Channel, len(d.AttemptFailures))
			case times == 2 && d.Channel == "plain" && !flagged:
				t.Errorf("%s arrived twice on %s and is not flagged", nr.Name, d.Channel)
			case flagged && (d.Channel == "idempotent" || len(d.AttemptFailures) == 0):
				t.Errorf("%s is flagged on %s after %d attempts in doubt", nr.Name, d.Channel, len(d.AttemptFailures))
			}
		}
	}
	if doubts == 0 {
		t.Error("no attempt was in flight when the manager was killed: the test shows nothing")
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 2 * n, audit.TypeAttemptAmbiguous: doubts})
}
