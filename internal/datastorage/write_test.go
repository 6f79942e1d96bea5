package datastorage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

func TestWriting(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)

		var first created
		c.post(batchPath, batch(event(0), event(1), event(2))).want(t, 201).decode(t, &first)
		want := created{[]string{id(0), id(1), id(2)}, []int64{0, 1, 2}, 0, "3 audit events created"}
		if diff := cmp.Diff(want, first); diff != "" {
			t.Errorf("first batch (-want +got):\n%s", diff)
		}
		var again created
		c.post(batchPath, batch(event(3), event(1))).want(t, 201).decode(t, &again)
		want = created{[]string{id(3), id(1)}, []int64{3, 1}, 1, "1 audit events created, 1 already stored"}
		if diff := cmp.Diff(want, again); diff != "" {
			t.Errorf("batch with a duplicate (-want +got):\n%s", diff)
		}
		// The same content in another order, with other spaces and another number.
		var spaced bytes.Buffer
		if err := json.Indent(&spaced, []byte(with(event(1), "version", `"1.0"`)), "", "  "); err != nil {
			t.Fatal(err)
		}
		other := strings.Replace(spaced.String(), `"attempt": 1`, `"attempt": 1.0e0`, 1)
		c.post(batchPath, batch(other)).want(t, 201).decode(t, &again)
		if again.Duplicates != 1 || again.LogIndices[0] != 1 {
			t.Errorf("the same content written differently got %+v, want duplicate 1", again)
		}

		var stored struct {
			LogIndex int64  `json:"log_index"`
			Hash     string `json:"leaf_hash"`
		}
		c.get(eventsPath+"/"+strings.ToUpper(id(3))).want(t, 200).decode(t, &stored)
		if stored.LogIndex != 3 {
			t.Errorf("event 3 has index %d", stored.LogIndex)
		}
		c.get(eventsPath+"/"+id(99)).problem(t, 404, "not-found")
	})
}

func TestClientsWithoutEventIDsAreServed(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	plain := with(event(0), "event_id", "")
	for _, sent := range []string{plain, with(plain, "event_id", "null"), with(plain, "event_data", "{}")} {
		var one struct {
			EventID        string `json:"event_id"`
			EventTimestamp string `json:"event_timestamp"`
			Message        string `json:"message"`
		}
		c.post(eventsPath, sent).want(t, 201).decode(t, &one)
		if one.EventTimestamp != "2026-01-02T03:04:05.678901Z" || one.Message != "audit event created" {
			t.Errorf("got %+v", one)
		}
		c.get(eventsPath+"/"+one.EventID).want(t, 200)
	}
}

func TestMembersThatNobodyKnowsAreKeptAsTheyAre(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	sent := with(with(with(event(0), "retention_days", "2555"), "is_sensitive", "true"), "actor_ip", `"10.0.0.1 <&>"`)
	sent = with(sent, "event_data", `{"Attempt":1,"attempt":2,"Version":"3","Versions":4}`)
	c.post(batchPath, batch(sent)).want(t, 201)
	got := c.get(eventsPath+"/"+id(0)).want(t, 200)
	for _, part := range []string{`"retention_days":2555`, `"is_sensitive":true`, `"actor_ip":"10.0.0.1 <&>"`, `{"Attempt":1,"Version":"3","Versions":4,"attempt":2}`} {
		if !strings.Contains(got.body, part) {
			t.Errorf("%s is not in %s", part, got.body)
		}
	}
}

func TestEachEventHasItsOwnSaltAndKeepsIt(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	// The same in all but its ID, and not in canonical form.
	other := strings.Replace(with(event(0), "event_id", `"`+id(1)+`"`), "{", "{ ", 1)
	c.post(batchPath, batch(event(0), other)).want(t, 201)
	c.post(batchPath, batch(strings.Replace(event(0), "{", "{ ", 1), other)).want(t, 201)
	salts := map[string]bool{}
	for n := range 2 {
		var got struct {
			Salt string `json:"salt"`
		}
		c.get(eventsPath+"/"+id(n)).want(t, 200).decode(t, &got)
		if salts[got.Salt] = true; len(got.Salt) != 32 {
			t.Errorf("salt is %q", got.Salt)
		}
	}
	if len(salts) != 2 {
		t.Errorf("both have the salt %v", salts)
	}
}

func TestTheLeafHashCanBeComputedFromWhatIsRead(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	c.post(batchPath, batch(event(0))).want(t, 201)
	var members map[string]json.RawMessage
	c.get(eventsPath+"/"+id(0)).want(t, 200).decode(t, &members)
	var claimed string
	if err := json.Unmarshal(members["leaf_hash"], &claimed); err != nil {
		t.Fatal(err)
	}
	for _, added := range []string{"leaf_hash", "log_index", "recorded_at"} {
		delete(members, added)
	}
	// Marshal sorts the members; the values are canonical as they were read.
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", leafHash(body)); got != claimed {
		t.Errorf("the hash of %s is %s, the answer says %s", body, got, claimed)
	}
}

func TestConflictNamesTheStoredEvent(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		c.post(batchPath, batch(event(0), event(1))).want(t, 201)
		other := with(event(1), "event_action", `"other"`)
		odd := with(event(7), "event_data", `{"attempt":"x","channel":7}`)
		p := c.post(batchPath, batch(event(2), other, odd, with(odd, "event_action", `"other"`))).problem(t, 409, "event-conflict")
		index := int64(1)
		want := []datastorage.ProblemItem{
			{
				Pointer: "/1", Detail: "event_id " + id(1) + " is stored with other content", LogIndex: &index,
				Stored: &audit.Facts{
					EventType: "notification.message.sent", NotificationUID: "5c1f4f2e-8d2c-4a3a-9e55-0a2f8f6f3f11", Channel: "console", Attempt: 1,
					ContentDigest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
				},
			},
			{Pointer: "/3", Detail: "event_id " + id(7) + " is there twice in the batch with different content"},
		}
		if diff := cmp.Diff(want, p.Errors); diff != "" {
			t.Errorf("errors (-want +got):\n%s", diff)
		}
		var l list
		c.get(eventsPath).want(t, 200).decode(t, &l)
		if l.Pagination.Total != 2 {
			t.Errorf("%d events are stored after the conflict, want the 2 from before", l.Pagination.Total)
		}
		p = c.post(eventsPath, other).problem(t, 409, "event-conflict")
		if p.Errors[0].Pointer != "" || *p.Errors[0].LogIndex != 1 {
			t.Errorf("single event: got %+v", p.Errors[0])
		}
		// Kept for a person are the contents that were refused, each once.
		rows, err := storetest.Connect(t, databaseURL).Query("SELECT event_id, event FROM audit_conflicts ORDER BY event_id")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		kept := map[string]bool{}
		for rows.Next() {
			var eventID, body string
			if err := rows.Scan(&eventID, &body); err != nil {
				t.Fatal(err)
			}
			kept[eventID] = strings.Contains(body, `"event_action":"other"`)
		}
		if diff := cmp.Diff(map[string]bool{id(1): true, id(7): true}, kept); diff != "" || rows.Err() != nil {
			t.Errorf("conflicts (-want +got):\n%s, %v", diff, rows.Err())
		}
	})
}

func TestStoredFactsOfAnotherTypeAreLeftOut(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	odd := with(event(0), "event_data", `{"attempt":"x","channel":7,"content_digest":"d"}`)
	c.post(batchPath, batch(odd)).want(t, 201)
	p := c.post(batchPath, batch(event(0))).problem(t, 409, "event-conflict")
	want := &audit.Facts{EventType: "notification.message.sent", ContentDigest: "d"}
	if diff := cmp.Diff(want, p.Errors[0].Stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestInvalidEventsArePointedAtAndNothingIsStored(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64)
	tests := []struct{ name, event, pointer, detail string }{
		{"a member is missing", with(event(1), "event_type", ""), "/event_type", "is required"},
		{"a required member is null", with(event(1), "event_type", "null"), "/event_type", "is required"},
		{"a member is of the wrong type", with(event(1), "event_type", "7"), "/event_type", "must be a string"},
		{"a number is of the wrong type", with(event(1), "duration_ms", `"1"`), "/duration_ms", "must be an integer"},
		{"a number is negative", with(event(1), "duration_ms", "-1"), "/duration_ms", "must not be negative"},
		{"the ID is no UUID", with(event(1), "event_id", `"1234"`), "/event_id", "must be a UUID"},
		{"the ID is a UUID in braces", with(event(1), "event_id", `"{`+id(1)+`}"`), "/event_id", "must be a UUID"},
		{"the ID is the nil UUID", with(event(1), "event_id", `"00000000-0000-0000-0000-000000000000"`), "/event_id", "nil UUID"},
		{"the parent ID is no UUID", with(event(1), "parent_event_id", `"x"`), "/parent_event_id", "must be a UUID"},
		{"the time is no time", with(event(1), "event_timestamp", `"yesterday"`), "/event_timestamp", "RFC 3339"},
		{"the outcome is unknown", with(event(1), "event_outcome", `"good"`), "/event_outcome", "success, failure or pending"},
		{"a text is too long", with(event(1), "event_action", `"`+strings.Repeat("x", 51)+`"`), "/event_action", "at most 50"},
		{"the data is a text", with(event(1), "event_data", `"x"`), "/event_data", "JSON object"},
		{"a member has the wrong case", with(event(1), "Event_Type", `"x"`), "/Event_Type", `"event_type"`},
		{"a member has a letter that folds to the right one", with(event(1), "verſion", `"9"`), "/verſion", `"version"`},
		{"a member has an escaped letter that folds to the right one", strings.Replace(event(1), "{", `{"\u212aind":1,"\u017feverity":null,`, 1), "/ſeverity", `"severity"`},
		{"a member of the server is sent in another case", with(event(1), "Leaf_Hash", `"x"`), "/Leaf_Hash", `"leaf_hash"`},
		{"a member of the server is sent", with(event(1), "log_index", "7"), "/log_index", "leave it out"},
		{"a salt is sent", with(event(1), "salt", `"00112233445566778899aabbccddeeff"`), "/salt", "leave it out"},
		{"a text has a NUL", with(event(1), "correlation_id", `"a\u0000b"`), "/correlation_id", "NUL"},
		{"a text deep inside has a NUL", with(event(1), "event_data", `{"a/b":["x","\u0000"]}`), "/event_data/a~1b/1", "NUL"},
		{"a name has a NUL", with(event(1), "event_data", `{"a\u0000":1}`), "/event_data", "NUL"},
		{"a member is there twice", strings.Replace(event(1), "{", `{"version":"1.0",`, 1), "", `Duplicate key: "version"`},
		{"a name deep inside is there twice", strings.Replace(event(1), `"event_data":{`, `"event_data":{"a":{"b":1,"\u0062":2},`, 1), "", "Duplicate key"},
		{"an integer would lose digits", with(event(1), "event_data", `{"n":9007199254740993}`), "/event_data/n", "send it as a string"},
		{"a number is too large", with(event(1), "event_data", `{"n":1e400}`), "/event_data/n", "range"},
		{"half a surrogate pair", with(event(1), "event_data", `{"n":"\ud800"}`), "", "canonical"},
		{"nesting is too deep", with(event(1), "event_data", deep), "/event_data" + strings.Repeat("/a", 63), "64 levels"},
		{"nesting is as deep as any parser goes", with(event(1), "event_data", strings.Repeat(`{"a":`, 9990)+"1"+strings.Repeat("}", 9990)), "/event_data" + strings.Repeat("/a", 63), "64 levels"},
		{"an event is nothing but nesting", strings.Repeat("[", 9990) + strings.Repeat("]", 9990), strings.Repeat("/0", 64), "64 levels"},
		{"there are too many values", with(event(1), "event_data", `{"a":[`+strings.Repeat("0,", 10_000)+"0]}"), "/event_data/a/9992", "may have 10000"},
		{"an event is no object", "7", "", "must be a JSON object"},
		{"an event is null", "null", "", "must be a JSON object"},
	}
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				for path, body := range map[string]string{batchPath: batch(event(0), tt.event), eventsPath: tt.event} {
					prefix := ""
					if path == batchPath {
						prefix = "/1"
					}
					p := c.post(path, body).problem(t, 400, "invalid-event")
					if len(p.Errors) != 1 || p.Errors[0].Pointer != prefix+tt.pointer || !strings.Contains(p.Errors[0].Detail, tt.detail) {
						t.Errorf("got %+v, want one error at %s%s that says %q", p.Errors, prefix, tt.pointer, tt.detail)
					}
				}
			})
		}
		t.Run("all the errors of a batch are named", func(t *testing.T) {
			p := c.post(batchPath, batch(with(event(0), "version", "1"), event(1), with(with(event(2), "event_action", ""), "severity", "{}"))).
				problem(t, 400, "invalid-event")
			var pointers []string
			for _, e := range p.Errors {
				pointers = append(pointers, e.Pointer)
			}
			slices.Sort(pointers)
			if diff := cmp.Diff([]string{"/0/version", "/2/event_action", "/2/severity"}, pointers); diff != "" {
				t.Errorf("pointers (-want +got):\n%s", diff)
			}
		})
		var l list
		c.get(eventsPath).want(t, 200).decode(t, &l)
		if l.Pagination.Total != 0 {
			t.Errorf("%d events were stored, want none", l.Pagination.Total)
		}
	})
}

func TestBodiesThatAreNoBatchAreRefused(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	many := strings.Split(strings.Repeat(event(0)+"\n", 1001), "\n")[:1001]
	tests := []struct {
		name, body string
		code       int
		kind       string
		detail     string
	}{
		{"not JSON", batch(event(0)) + "x", 400, "invalid-request", fmt.Sprintf("byte offset %d", len(batch(event(0)))+1)},
		{"cut off", `[{"a":1`, 400, "invalid-request", "byte offset 7"},
		{"empty", " ", 400, "invalid-request", "not JSON"},
		{"not UTF-8", "[\"a\xff\"]", 400, "invalid-request", "offset 3"},
		{"an object", event(0), 400, "invalid-request", "must be a JSON array"},
		{"null", "null", 400, "invalid-request", "must be a JSON array"},
		{"an empty array", "[]", 400, "invalid-request", "empty"},
		{"deeper than any parser goes", strings.Repeat("[", 5<<20), 400, "invalid-request", "depth"},
		{"too many events", batch(many...), 413, "too-large", "more events than the 1000"},
		{"too many bytes", "[" + strings.Repeat(" ", 5<<20) + "]", 413, "too-large", "5242880 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := c.post(batchPath, tt.body).problem(t, tt.code, tt.kind)
			if !strings.Contains(p.Detail, tt.detail) {
				t.Errorf("detail is %q, want it to say %q", p.Detail, tt.detail)
			}
		})
	}
	t.Run("the largest batch is taken", func(t *testing.T) {
		body := batch(many[:1000]...)
		c.post(batchPath, body+strings.Repeat(" ", 5<<20-len(body))).want(t, 201)
	})
}

func TestMediaTypes(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	body := batch(event(0))
	c.post(batchPath, body, "Content-Type", "application/json; charset=utf-8").want(t, 201)
	for _, media := range []string{"text/plain", "application/x-ndjson", "application/cloudevents+json", "", "x/"} {
		c.post(batchPath, body, "Content-Type", media).problem(t, 415, "unsupported-media-type")
	}
	c.post(batchPath, body, "Content-Encoding", "br").problem(t, 415, "unsupported-media-type")
}

func TestGzip(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	good := zipped(batch(event(0)))
	c.post(batchPath, good, "Content-Encoding", "gzip").want(t, 201)
	c.post(batchPath, batch(event(0)), "Content-Encoding", "gzip").problem(t, 400, "invalid-request")
	c.post(batchPath, good[:len(good)-9], "Content-Encoding", "gzip").problem(t, 400, "invalid-request")

	// What is small on the network must be small in memory.
	for name, bomb := range map[string]struct {
		body, kind string
		code       int
	}{
		"spaces":          {strings.Repeat(" ", 128<<20), "too-large", 413},
		"tiny elements":   {"[" + strings.Repeat("0,", 5<<19-10) + "0]", "too-large", 413},
		"tiny values":     {batch(with(event(1), "event_data", `{"a":[`+strings.Repeat("0,", 5<<19-1000)+"0]}")), "invalid-event", 400},
		"tiny arrays":     {batch(with(event(1), "event_data", `{"a":[`+strings.Repeat("[],", 5<<18)+"0.5]}")), "invalid-event", 400},
		"invalid objects": {batch(slices.Repeat([]string{"{}"}, 1000)...), "invalid-event", 400},
	} {
		sent := zipped(bomb.body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c.post(batchPath, sent, "Content-Encoding", "gzip").problem(t, bomb.code, bomb.kind)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
			t.Errorf("%s: a bomb of %d bytes made the server allocate %d", name, len(sent), took)
		}
	}
}

// A body that was cut off on its way must not be taken for a bad one: the
// client would give the events up.
func TestBodyThatDoesNotArriveMayBeSentAgain(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	for _, encoding := range []string{"identity", "gzip"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: %s\r\nContent-Length: 1000\r\n\r\n[", batchPath, encoding)
		_ = conn.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(got), "HTTP/1.1 408 ") || !strings.Contains(string(got), "\r\nRetry-After: 1\r\n") {
			t.Errorf("%s: got %q, want 408 with Retry-After", encoding, got)
		}
	}
}

// fakeStore is a database that is slow or broken.
type fakeStore struct {
	datastorage.Store
	before func(ctx context.Context) error // an addition of events
}

func (f fakeStore) Append(ctx context.Context, ids []uuid.UUID, plan func(datastorage.Known) (datastorage.Addition, error)) error {
	if len(ids) > 0 {
		if err := f.before(ctx); err != nil {
			return err
		}
	}
	return f.Store.Append(ctx, ids, plan)
}

func (f fakeStore) Query(context.Context, datastorage.Filter) (datastorage.Page, error) {
	panic("boom")
}

func TestWritesBeyondTheLimitAreToldToWait(t *testing.T) {
	const limit = 32
	release := make(chan struct{})
	c := serve(t, fakeStore{openSQLite(t), func(context.Context) error { <-release; return nil }}, nil)
	answers := make(chan answer, limit+1)
	for n := range limit + 1 {
		go func() { answers <- c.post(batchPath, batch(event(n))) }()
	}
	a := <-answers // the others wait
	a.problem(t, 429, "too-many-requests")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
	}
	c.get("/livez").want(t, 200)
	close(release)
	for range limit {
		(<-answers).want(t, 201)
	}
}

func TestDatabaseErrorMayBeRetriedAndIsNotTold(t *testing.T) {
	failed := false
	c := serve(t, fakeStore{openSQLite(t), func(context.Context) error {
		if failed {
			return nil
		}
		failed = true
		return errors.New("password of 10.1.2.3 is wrong")
	}}, nil)
	a := c.post(batchPath, batch(event(0)))
	a.problem(t, 503, "unavailable")
	if a.header.Get("Retry-After") == "" || strings.Contains(a.body, "10.1.2.3") {
		t.Errorf("got %v %s, want Retry-After and no internals", a.header, a.body)
	}
	c.post(batchPath, batch(event(0))).want(t, 201)
}

func TestEventsOfAClientThatLeftAreStored(t *testing.T) {
	entered, left, outcome := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	c := serve(t, fakeStore{openSQLite(t), func(ctx context.Context) error {
		close(entered)
		<-left
		outcome <- ctx.Err()
		return nil
	}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+batchPath, strings.NewReader(batch(event(0))))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	go func() { <-entered; cancel() }()
	if _, err := c.http.Do(req); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	close(left)
	if err := <-outcome; err != nil {
		t.Errorf("the write was cut off: %v", err)
	}
}

func TestPanicIsAProblem(t *testing.T) {
	c := serve(t, fakeStore{Store: openSQLite(t)}, nil)
	c.get(eventsPath).problem(t, 500, "internal-error")
	c.get("/livez").want(t, 200)
}
