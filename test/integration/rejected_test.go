package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// occupy has DataStorage hold another event under an event's ID.
func (s *stack) occupy(id uuid.UUID) {
	s.t.Helper()
	body, err := json.Marshal([]audit.Event{{
		EventID: id, Version: "1.0", EventType: audit.TypeMessageSent, EventTimestamp: time.Now(), EventCategory: "notification",
		EventAction: "sent", EventOutcome: audit.OutcomeSuccess, ResourceID: "somebody-else", CorrelationID: "somebody-else",
		EventData: json.RawMessage(`{}`),
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.Post("http://"+s.storageAddress+"/api/v1/audit/events/batch", "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("DataStorage answered %d", resp.StatusCode)
	}
}

func (s *stack) wantRejections(n string) {
	s.t.Helper()
	harness.Eventually(s.t, soon, func() error {
		if got := s.metric("notification_audit_rejected_total"); got != n {
			return fmt.Errorf("%s rejected events, want %s", got, n)
		}
		return nil
	})
}

func TestARejectedEventIsShownAndOfferedAgainByEachManagerUntilItIsRecorded(t *testing.T) {
	t.Parallel()
	s := run(t)
	nr := request("taken", v1alpha1.ConsoleChannel)
	nr.Spec.Suspend = new(true)
	s.create(nr)
	id := audit.EventID(audit.TypeMessageSent, string(nr.UID), v1alpha1.ConsoleChannel)
	s.occupy(id)
	s.change(nr, func() { nr.Spec.Suspend = new(false) })
	rejected := s.wait("taken", isSent, isStalled("AuditRejected"))
	if d := rejected.Status.Deliveries[0]; d.Audit.State != v1alpha1.AuditRejected || !strings.Contains(d.Audit.Message, id.String()) {
		t.Errorf("the record is %+v", d.Audit)
	}
	harness.Eventually(t, soon, func() error {
		for _, e := range s.eventsOf("taken") {
			if e.Reason == "AuditRejected" && e.Type == "Warning" && strings.Contains(e.Note, id.String()) &&
				strings.Contains(e.Note, "offered again every 10 minutes and after a restart") {
				return nil
			}
		}
		return fmt.Errorf("no Event says so: %+v", s.eventsOf("taken"))
	})

	// The next manager has lost the queue, and status is all that is left.
	s.manager.Stop(soon)
	if err := os.RemoveAll(filepath.Join(s.dir, "dlq")); err != nil {
		t.Fatal(err)
	}
	s.startManager()
	s.waitReady()
	s.wantRejections("1")
	s.send("meanwhile", v1alpha1.ConsoleChannel)
	s.wait("meanwhile", isSent, isAudited)
	s.wantRejections("1")
	after := s.wait("taken", isStalled("AuditRejected"))
	if after.Status.Deliveries[0].Audit.State != v1alpha1.AuditRejected || after.ResourceVersion != rejected.ResourceVersion && after.Finalizers != nil {
		t.Errorf("the request is now %+v", after)
	}

	// The cause is mended: a DataStorage that holds no such event.
	s.manager.Stop(soon)
	s.storageProcess.Stop(soon)
	if err := os.Remove(filepath.Join(s.dir, "datastorage.db")); err != nil {
		t.Fatal(err)
	}
	s.startStorage()
	s.startManager()
	recorded := s.wait("taken", isSent, isAudited)
	if d := recorded.Status.Deliveries[0]; d.Audit.State != v1alpha1.AuditRecorded || d.Audit.Message != "" || d.Attempts != 1 {
		t.Errorf("the delivery is %+v", d)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1})
}
