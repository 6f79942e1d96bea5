package harness

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
)

// Stored is an audit event as DataStorage returns it.
type Stored struct {
	audit.Event
	LogIndex int64  `json:"log_index"`
	LeafHash string `json:"leaf_hash"`
	// Data is the part of EventData that tells one fact from another.
	Data struct {
		UID               string   `json:"notification_uid"`
		Channel           string   `json:"channel"`
		Attempt           int      `json:"attempt"`
		PossibleDuplicate bool     `json:"possible_duplicate"`
		Error             string   `json:"error"` // its reason
		DuplicateOfUID    string   `json:"duplicate_of_uid"`
		AcknowledgedBy    string   `json:"acknowledged_by"`
		EscalatedTo       []string `json:"escalated_to"`
	} `json:"-"`
}

// DataStorage asks a DataStorage server what it holds.
type DataStorage struct {
	URL    string       // without a path
	Token  string       // sent as a bearer token where it is not empty
	Client *http.Client // http.DefaultClient where it is nil
}

// signingKeys are the files with the keys of the logs in databases.
var signingKeys sync.Map

// StartDataStorage starts cmd/datastorage with a database, for example
// sqlite:PATH, and returns once it is ready. It listens on the given address.
func StartDataStorage(tb testing.TB, address, database string) (*Process, DataStorage) {
	tb.Helper()
	key, _ := signingKeys.LoadOrStore(database, filepath.Join(tb.TempDir(), "signing.key"))
	p := Start(tb, exec.Command(Build(tb, "datastorage"), "--listen", address, "--database-url", database, "--signing-key", key.(string)))
	d := DataStorage{URL: "http://" + address}
	Eventually(tb, 20*time.Second, func() error {
		if p.Ended() {
			tb.Fatal("DataStorage did not start")
		}
		_, err := d.get(tb.Context(), "/readyz")
		return err
	})
	return p, d
}

// Events returns all events that match the filters, which are those of the HTTP
// API as name and value in turn, newest first.
func (d DataStorage) Events(tb testing.TB, filters ...string) []Stored {
	tb.Helper()
	query := url.Values{"limit": {"1000"}}
	for i := 0; i < len(filters); i += 2 {
		query.Set(filters[i], filters[i+1])
	}
	var events []Stored
	for {
		body, err := d.get(tb.Context(), "/api/v1/audit/events?"+query.Encode())
		if err != nil {
			tb.Fatal(err)
		}
		var page struct {
			Data       []Stored `json:"data"`
			Pagination struct {
				After string `json:"after"`
			} `json:"pagination"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			tb.Fatalf("read events: %v in %s", err, body)
		}
		for _, e := range page.Data {
			if err := json.Unmarshal(e.EventData, &e.Data); err != nil {
				tb.Fatalf("read event_data: %v in %s", err, e.EventData)
			}
			events = append(events, e)
		}
		if page.Pagination.After == "" {
			return events
		}
		query.Set("after", page.Pagination.After)
	}
}

func (d DataStorage) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL+path, nil)
	if err != nil {
		return nil, err
	}
	if d.Token != "" {
		req.Header.Set("Authorization", "Bearer "+d.Token)
	}
	resp, err := cmp.Or(d.Client, http.DefaultClient).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s answered %d: %s", path, resp.StatusCode, body)
	}
	return body, nil
}

// WantEvents fails the test where the events are not as many of each type as
// wanted, or two of them state the same fact.
func WantEvents(tb testing.TB, events []Stored, want map[string]int) {
	tb.Helper()
	got, facts := map[string]int{}, map[string]bool{}
	var trouble, list []string
	for _, e := range events {
		got[e.EventType]++
		fact := fmt.Sprint(e.EventType, " of ", e.Data.UID, " on ", e.Data.Channel)
		if strings.Contains(e.EventType, "attempt") {
			fact += fmt.Sprint(", attempt ", e.Data.Attempt)
		}
		if facts[fact] {
			trouble = append(trouble, "twice: "+fact)
		}
		facts[fact] = true
		list = append(list, fmt.Sprintf("%d: %s %s %s attempt %d %s %.300s",
			e.LogIndex, e.EventType, e.ResourceID, e.Data.Channel, e.Data.Attempt, e.ErrorMessage, e.EventData))
	}
	for kind := range want {
		got[kind] += 0
	}
	for kind, n := range got {
		if n != want[kind] {
			trouble = append(trouble, fmt.Sprintf("%d of %s, want %d", n, kind, want[kind]))
		}
	}
	if trouble != nil {
		tb.Errorf("%s\nall %d events:\n%s", strings.Join(trouble, "\n"), len(events), strings.Join(list, "\n"))
	}
}
