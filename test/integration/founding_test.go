package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// The report of lost and tripled events that this project began with: batches of
// 10 flushed every 100 ms, 3 retries, an EOF and two resets for the first three
// writes, and 20 queries that are reset. Nine messages are nine events.
func TestTheFoundingReportLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	proxy := harness.NewFaultProxy(t, "http://"+s.storageAddress, nil)
	s.managerStorage = proxy.Address
	s.startStorage()
	var writes, queries atomic.Int32
	proxy.Decide(func(r *http.Request) harness.Fault {
		switch {
		case r.Method == http.MethodPost:
			kinds := []harness.FaultKind{harness.FaultCutAnswer, harness.FaultReset, harness.FaultResetAfterRead}
			if n := int(writes.Add(1)); n <= len(kinds) {
				return harness.Fault{Kind: kinds[n-1]}
			}
		case r.URL.Path == "/api/v1/audit/events" && queries.Add(1) <= 20:
			return harness.Fault{Kind: harness.FaultReset}
		}
		return harness.Fault{}
	})
	s.startManager("--audit-flush-interval=100ms", "--audit-batch-size=10", "--audit-buffer-size=1000", "--audit-max-retries=3")
	s.waitReady()

	const messages = 9
	for n := range messages {
		s.send(fmt.Sprint("nr-", n), v1alpha1.ConsoleChannel)
	}
	for n := range messages {
		s.wait(fmt.Sprint("nr-", n), isSent, isAudited)
	}
	var found struct {
		Pagination struct {
			Total int `json:"total"`
		} `json:"pagination"`
	}
	harness.Eventually(t, soon, func() error {
		resp, err := http.Get(proxy.URL + "/api/v1/audit/events?event_type=" + audit.TypeMessageSent)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&found)
	})
	if n := queries.Load(); found.Pagination.Total != messages || n != 21 {
		t.Errorf("the query of number %d finds %d events, want %d", n, found.Pagination.Total, messages)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: messages})
	if got := s.metric("notification_audit_conservation_difference"); got != "0" {
		t.Errorf("%s events are unaccounted for", got)
	}

	s.manager.Stop(30 * time.Second)
	var closed struct {
		Buffered int `json:"buffered_count"`
		Written  int `json:"written_count"`
		Dropped  int `json:"dropped_count"`
		Retried  int `json:"retried_count"`
		Rejected int `json:"rejected_count"`
		DLQ      int `json:"dlq_count"`
	}
	if err := json.Unmarshal([]byte(s.manager.WaitLog(soon, "Audit store closed")), &closed); err != nil {
		t.Fatal(err)
	}
	if closed.Buffered != messages || closed.Written != messages || closed.Dropped+closed.Rejected+closed.DLQ != 0 || closed.Retried < 3 {
		t.Errorf("the store closed with %+v", closed)
	}
}
