package datastorage_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
)

const chainPath = "/api/v1/audit/verify-chain"

type chain struct {
	CorrelationID  string `json:"correlation_id"`
	IsValid        bool   `json:"is_valid"`
	Message        string `json:"message"`
	TotalEvents    int    `json:"total_events"`
	VerifiedEvents int    `json:"verified_events"`
	TamperedEvents []struct {
		EventID  string `json:"event_id"`
		LogIndex int64  `json:"log_index"`
		Message  string `json:"message"`
	} `json:"tampered_events"`
	VerificationTime time.Time `json:"verification_time"`
	Checkpoint       string    `json:"checkpoint"`
}

func (c *client) chain(correlationID string) (got chain) {
	c.t.Helper()
	c.post(chainPath, fmt.Sprintf(`{"correlation_id":%q}`, correlationID)).want(c.t, 200).decode(c.t, &got)
	return got
}

// growIncident appends events, of which every third one has the correlation ID
// incident, until there are 900.
func growIncident(c *client) {
	for n := 0; n < 900; {
		var events []string
		for range 300 {
			text := event(n)
			if n%3 == 0 {
				text = with(text, "correlation_id", `"incident"`)
			}
			events, n = append(events, text), n+1
		}
		c.post(batchPath, batch(events...)).want(c.t, 201)
	}
}

func TestTheEventsOfACorrelationIDAreVerified(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		growIncident(c)
		got := c.chain("incident")
		if !got.IsValid || got.TotalEvents != 300 || got.VerifiedEvents != 300 || got.TamperedEvents == nil || len(got.TamperedEvents) != 0 || c.verify(got.Checkpoint).Size != 900 {
			t.Errorf("got %+v", got)
		}
		if got.CorrelationID != "incident" || got.Message != "300 of 300 events are in the log as they were recorded" || time.Since(got.VerificationTime).Abs() > time.Hour {
			t.Errorf("got %+v", got)
		}
		if got = c.chain("unknown"); !got.IsValid || got.TotalEvents != 0 {
			t.Errorf("of none: %+v", got)
		}
		other := storetest.Record(3, func(e *audit.Event) { e.CorrelationID, e.EventAction = "incident", "seen" })
		literal := "X'" + hex.EncodeToString(other.LeafHash[:]) + "'"
		if strings.HasPrefix(databaseURL, "postgres") {
			literal = `'\x` + hex.EncodeToString(other.LeafHash[:]) + "'"
		}
		for _, sql := range []string{
			"UPDATE audit_events SET severity = 'low' WHERE log_index = 0",
			fmt.Sprintf("UPDATE audit_events SET leaf_hash = %s WHERE log_index = 3; UPDATE audit_bodies SET event = '%s' WHERE log_index = 3", literal, other.Body),
			"UPDATE audit_events SET leaf_hash = " + literal + " WHERE log_index = 6",
			"UPDATE audit_bodies SET event = '{}' WHERE log_index = 297",
			"UPDATE audit_events SET log_index = 9000 WHERE log_index = 9",
		} {
			storetest.Change(t, databaseURL, sql)
		}
		got = c.chain("incident")
		reasons := map[int64]string{}
		for _, e := range got.TamperedEvents {
			reasons[e.LogIndex] = e.Message
			if e.EventID != id(int(e.LogIndex)) && e.LogIndex < 900 {
				t.Errorf("event %d is said to be %s", e.LogIndex, e.EventID)
			}
		}
		for index, want := range map[int64]string{
			0:    `its columns were changed: severity holds "low" where the event says "high"`,
			3:    "it was rewritten together with its leaf hash",
			6:    "its leaf_hash was changed",
			297:  "its bytes were changed",
			9000: "it cannot be proven to be in the log",
		} {
			if !strings.HasPrefix(reasons[index], want) {
				t.Errorf("event %d: got %q, want %q", index, reasons[index], want)
			}
		}
		if got.IsValid || got.TotalEvents != 300 || len(got.TamperedEvents) != 5 || got.VerifiedEvents != 295 {
			t.Errorf("got %d tampered, %d verified of %d", len(got.TamperedEvents), got.VerifiedEvents, got.TotalEvents)
		}
		storetest.Change(t, databaseURL, "DELETE FROM audit_tiles")
		if got = c.chain("incident"); got.IsValid || got.VerifiedEvents != 0 || !strings.HasPrefix(got.TamperedEvents[0].Message, "it cannot be proven to be in the log") {
			t.Errorf("without tiles: %d verified", got.VerifiedEvents)
		}
	})
}

func TestAChainBelievesNoKeyInTheDatabase(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		grow(c, 0, 3)
		var answer struct{ Checkpoint string }
		c.post(chainPath, `{"correlation_id":"correlation-1"}`).want(t, 200).decode(t, &answer)
		lines := strings.Split(answer.Checkpoint, "\n")
		root, err := base64.StdEncoding.DecodeString(lines[2])
		if err != nil {
			t.Fatal(err)
		}
		other := storetest.NewKey(t)
		signed, err := other.Sign(ledger.Checkpoint{Size: 3, Root: ledger.Hash(root), Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		storetest.Change(t, databaseURL, fmt.Sprintf("UPDATE audit_log_head SET checkpoint = '%s', verifier = '%s'", signed, other.Verifier()))
		c.post(chainPath, `{"correlation_id":"correlation-1"}`).problem(t, 500, "log-tampered")
	})
}

func TestAChainThatCannotBeVerifiedSaysWhy(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	for _, body := range []string{"", "[]", "{}", `{"correlation_id":""}`, `{"correlation_id":7}`, `{"correlation_id":"a","x":"b"}`, `{"correlation_id":"a\u0000"}`, "{\"correlation_id\":\"\xff\"}", `{"Correlation_ID":"a"}`} {
		if p := c.post(chainPath, body, "Content-Type", "application/json").problem(t, 400, "invalid-request"); !strings.Contains(p.Detail, "the body must be a JSON object with one member, correlation_id") {
			t.Errorf("%s: got %q", body, p.Detail)
		}
	}
	c.post(chainPath, "{}", "Content-Type", "text/plain").problem(t, 415, "unsupported-media-type")
}
