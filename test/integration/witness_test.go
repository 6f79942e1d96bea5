package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
	"kubernaut.ai/notification/test/harness"
)

// witnessed waits until the manager has kept what it has seen of the log.
func (s *stack) witnessed() map[string]string {
	s.t.Helper()
	kept := &corev1.ConfigMap{}
	harness.Eventually(s.t, soon, func() error {
		if err := s.kube.Get(s.t.Context(), s.key("notification-audit-witness"), kept); err != nil {
			return err
		}
		if kept.Data["checkpoint"] == "" {
			return errors.New("it has no checkpoint")
		}
		return nil
	})
	return kept.Data
}

// log returns what DataStorage says of its log.
func (s *stack) log(path string) string {
	s.t.Helper()
	code, body := s.get(s.storageAddress, "/api/v1/audit/log"+path)
	if code != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, code, body)
	}
	return body
}

// checkReceipt checks that the log is what a receipt says that it was, and more.
func (s *stack) checkReceipt(key string, record v1alpha1.AuditRecord) {
	s.t.Helper()
	head, err := ledger.Verify(s.log("/checkpoint"), key)
	if err != nil {
		s.t.Fatal(err)
	}
	var root [1]ledger.Hash
	if err := json.Unmarshal([]byte(fmt.Sprintf("[%q]", record.Checkpoint.Root)), &root); err != nil {
		s.t.Fatalf("the root of %+v: %v", record, err)
	}
	var answer struct{ Proof []ledger.Hash }
	if err := json.Unmarshal([]byte(s.log(fmt.Sprintf("/proof/consistency?from=%d", record.Checkpoint.Size))), &answer); err != nil {
		s.t.Fatal(err)
	}
	if err := head.Extends(ledger.Checkpoint{Size: record.Checkpoint.Size, Root: root[0]}, answer.Proof); err != nil {
		s.t.Errorf("%+v: %v", record, err)
	}
	if record.LogIndex == nil || *record.LogIndex >= record.Checkpoint.Size {
		s.t.Errorf("%+v names a log without the event", record)
	}
}

func TestStatusHasAWitnessedReceiptThatTheLogCanBeHeldTo(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.sink.Answer("/hook", harness.Status(503), harness.Status(200))
	s.webhook("hook")
	s.send("first", "hook", v1alpha1.ConsoleChannel)
	nr := s.wait("first", isSent, isAudited)
	key := strings.TrimSpace(s.log("/key"))
	for _, d := range nr.Status.Deliveries {
		s.checkReceipt(key, d.Audit)
		for _, f := range d.AttemptFailures {
			s.checkReceipt(key, f.Audit)
		}
	}
	s.witnessed()
	// What is known is there after a restart, up to the last event.
	s.manager.Stop(soon)
	kept := s.witnessed()
	if c, err := ledger.Verify(kept["checkpoint"], key); err != nil || kept["key"] != key || c.Size != 3 {
		t.Errorf("kept is %v", kept)
	}
	s.startManager("--audit-log-key", key)
	s.send("second")
	s.checkReceipt(key, delivery(t, s.wait("second", isSent, isAudited), v1alpha1.ConsoleChannel).Audit)
	harness.Eventually(t, soon, func() error {
		if got := s.metric("notification_audit_log_size"); got != "4" {
			return fmt.Errorf("the proven log has %s events, want 4", got)
		}
		return nil
	})
	if got := s.metric("notification_audit_log_contradictions_total"); got != "0" {
		t.Errorf("%s contradictions", got)
	}
}

func TestTheWitnessTellsOfARestoredDatabaseAndStopsNothing(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.create(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "notification-manager"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}},
			},
		},
	})
	s.startStorage()
	s.startManager()
	s.send("before")
	s.wait("before", isSent, isAudited)
	database := filepath.Join(s.dir, "datastorage.db")
	s.storageProcess.Stop(soon)
	backup, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	s.startStorage()
	s.send("lost")
	s.wait("lost", isSent, isAudited)
	s.send("lost-too")
	s.wait("lost-too", isSent, isAudited)
	harness.Eventually(t, soon, func() error {
		if got := s.metric("notification_audit_log_size"); got != "3" {
			return fmt.Errorf("the proven log has %s events, want 3", got)
		}
		return nil
	})
	s.storageProcess.Stop(soon)
	if err := os.WriteFile(database, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	s.startStorage()
	s.send("after")
	s.wait("after", isSent, isAudited)
	s.manager.WaitLog(soon, "DataStorage's audit log is not what it was")
	harness.Eventually(t, soon, func() error {
		events := s.eventsOf("notification-manager")
		if len(events) != 1 || events[0].Type != corev1.EventTypeWarning || events[0].Reason != "AuditLogContradiction" ||
			events[0].Regarding.Kind != "Deployment" || events[0].Regarding.UID == "" {
			return fmt.Errorf("Events about the Deployment are %+v", events)
		}
		return nil
	})
	if got := s.metric("notification_audit_log_contradictions_total"); got != "1" {
		t.Errorf("%s contradictions, want 1", got)
	}
	if code, body := s.get(s.probe, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz is %d: %s", code, body)
	}
	if _, body := s.get(s.probe, "/readyz?verbose"); !strings.Contains(body, "[-]audit-log failed") {
		t.Errorf("/readyz?verbose does not tell of it:\n%s", body)
	}
	evidence := 0
	for name, text := range s.witnessed() {
		if strings.HasPrefix(name, "contradiction-") {
			evidence++
			if n := strings.Count(text, "audit.kubernaut.ai/"); n != 4 { // twice in each checkpoint
				t.Errorf("%s has not both checkpoints:\n%s", name, text)
			}
		}
	}
	if evidence != 1 {
		t.Errorf("%d contradictions are kept, want 1", evidence)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 2})
	// A person accepts the log as it is.
	if err := s.kube.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "notification-audit-witness"}}); err != nil {
		t.Fatal(err)
	}
	s.manager.Stop(soon)
	s.startManager()
	if kept := s.witnessed(); len(kept) != 2 {
		t.Errorf("kept is %v, want a key and a checkpoint", kept)
	}
	if code, body := s.get(s.probe, "/readyz?verbose"); code != http.StatusOK {
		t.Errorf("/readyz?verbose is %d:\n%s", code, body)
	}
}
