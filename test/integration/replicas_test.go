package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
	"kubernaut.ai/notification/test/harness"
)

// acknowledged is what two replicas have answered, by event ID and by the size of
// the log.
type acknowledged struct {
	mu          sync.Mutex
	indices     map[string]int64
	checkpoints map[int64]string
	more        chan struct{} // closed and made anew with each answer
}

// answer notes an answer with 201, and reports what contradicts an earlier one.
func (a *acknowledged) answer(body []byte) error {
	var got struct {
		EventIDs   []string `json:"event_ids"`
		LogIndices []int64  `json:"log_indices"`
		Checkpoint string   `json:"checkpoint"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return err
	}
	lines := strings.Split(got.Checkpoint, "\n")
	size, err := strconv.ParseInt(lines[min(1, len(lines)-1)], 10, 64)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, id := range got.EventIDs {
		if index, known := a.indices[id]; known && index != got.LogIndices[i] {
			return fmt.Errorf("event %s is at %d and was at %d", id, got.LogIndices[i], index)
		}
		a.indices[id] = got.LogIndices[i]
	}
	a.checkpoints[size] = got.Checkpoint
	close(a.more)
	a.more = make(chan struct{})
	return nil
}

// wait waits until so many events more are acknowledged.
func (a *acknowledged) wait(t *testing.T, events int) {
	t.Helper()
	timeout := time.After(time.Minute)
	a.mu.Lock()
	for want := len(a.indices) + events; len(a.indices) < want; {
		more := a.more
		a.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			t.Fatal("no more events are acknowledged")
		}
		a.mu.Lock()
	}
	a.mu.Unlock()
}

// TestReplicasThatAreKilledOrStoppedKeepOneLog kills two replicas on one PostgreSQL
// in turn, or asks them to end, while they write. What either has acknowledged is
// there once, where it said, and each checkpoint that either has given is of one and
// the same log.
func TestReplicasThatAreKilledOrStoppedKeepOneLog(t *testing.T) {
	if !harness.HavePostgres() {
		if os.Getenv("REQUIRE_POSTGRES") != "" {
			t.Fatal("PostgreSQL is not installed")
		}
		t.Skip("PostgreSQL is not installed")
	}
	t.Parallel()
	database := harness.StartPostgres(t).URL()
	var processes []*harness.Process
	var replicas []harness.DataStorage
	for range 2 {
		p, d := harness.StartDataStorage(t, harness.FreeAddress(t), database)
		processes, replicas = append(processes, p), append(replicas, d)
	}
	a := &acknowledged{indices: map[string]int64{}, checkpoints: map[int64]string{}, more: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	var producers sync.WaitGroup
	for producer := range 4 {
		producers.Go(func() { produce(ctx, t, a, replicas, producer) })
	}
	for round := range 8 {
		a.wait(t, 60)
		victim := processes[round%2]
		if round/2%2 == 0 {
			victim.Kill()
		} else {
			victim.Stop(time.Minute)
		}
		a.wait(t, 60)
		victim.Restart()
	}
	stop()
	producers.Wait()
	judgeLog(t, a, replicas[0])
}

// produce sends batches until ctx ends, each to one replica and then the other
// until it is acknowledged.
func produce(ctx context.Context, t *testing.T, a *acknowledged, replicas []harness.DataStorage, producer int) {
	for batch := 0; ctx.Err() == nil; batch++ {
		var events []audit.Event
		for i := range 5 {
			events = append(events, audit.Event{
				EventID: audit.EventID("replicas", fmt.Sprint(producer, batch, i)), Version: "1.0", EventType: audit.TypeMessageSent,
				EventTimestamp: time.Now().UTC().Truncate(time.Microsecond), EventCategory: "notification", EventAction: "sent",
				EventOutcome: audit.OutcomeSuccess, CorrelationID: "replicas", EventData: json.RawMessage(`{}`),
			})
		}
		body := audit.AppendEvents(nil, events)
		for try := producer; ; try++ {
			answer, err := postBatch(replicas[try%2].URL, body)
			if err != nil {
				continue // A replica comes back: the end of the test is not the end of a batch.
			}
			if err := a.answer(answer); err != nil {
				t.Error(err)
			}
			break
		}
	}
}

// postBatch returns the body of a 201.
func postBatch(url string, body []byte) ([]byte, error) {
	resp, err := http.Post(url+"/api/v1/audit/events/batch", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%d %s", resp.StatusCode, answer)
	}
	return answer, err
}

func judgeLog(t *testing.T, a *acknowledged, d harness.DataStorage) {
	t.Helper()
	events := d.Events(t)
	if len(events) != len(a.indices) {
		t.Errorf("%d events are stored, %d acknowledged", len(events), len(a.indices))
	}
	for _, e := range events {
		if index, known := a.indices[e.EventID.String()]; !known || index != e.LogIndex {
			t.Errorf("event %s is at %d, acknowledged at %d, %v", e.EventID, e.LogIndex, index, known)
		}
	}
	verifier := strings.TrimSpace(string(fetch(t, d.URL+"/api/v1/audit/log/key")))
	last, err := ledger.Verify(string(fetch(t, d.URL+"/api/v1/audit/log/checkpoint")), verifier)
	if err != nil || last.Size != int64(len(events)) {
		t.Fatalf("checkpoint is %+v, %v, with %d events", last, err, len(events))
	}
	for _, signed := range a.checkpoints {
		c, err := ledger.Verify(signed, verifier)
		if err != nil {
			t.Fatal(err)
		}
		var proof struct {
			Proof []tlog.Hash `json:"proof"`
		}
		if err := json.Unmarshal(fetch(t, fmt.Sprintf("%s/api/v1/audit/log/proof/consistency?from=%d&to=%d", d.URL, c.Size, last.Size)), &proof); err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(proof.Proof, last.Size, last.Root, c.Size, c.Root); err != nil {
			t.Errorf("checkpoint of %d events: %v", c.Size, err)
		}
	}
	t.Logf("%d events, %d checkpoints", len(events), len(a.checkpoints))
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", url, resp.StatusCode, body, err)
	}
	return body
}
