package datastorage_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

func TestConnectionsThatSendNothingAreClosedAndOthersAreServedMeanwhile(t *testing.T) {
	t.Parallel()
	address := start(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db")).address()
	const silent = 1000
	ended := make(chan error, silent)
	for n := range silent {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n%2 == 0 {
			_, _ = io.WriteString(conn, "POST "+batchPath+" HTTP/1.1\r\nHost: x\r\n")
		}
		go func() {
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		}()
	}
	grow(newClient(t, "http://"+address), 0, 10)
	for range silent {
		if err := <-ended; err != nil {
			t.Errorf("a connection was not closed but broken: %v", err)
		}
	}
}

// pipes is a listener for connections within a bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error { return nil }

func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestSlowClientsAreCutOff(t *testing.T) {
	key := storetest.NewKey(t)
	post := "POST " + batchPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
	for name, tt := range map[string]struct {
		send  string // at once; a byte each second follows
		after time.Duration
		want  string
	}{
		"nothing":             {"", 10 * time.Second, ""},
		"a head, bit by bit":  {"POST ", 10 * time.Second, ""},
		"a body, bit by bit":  {post + "[", 30 * time.Second, "HTTP/1.1 408 Request Timeout"},
		"nothing after all":   {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 120 * time.Second, "HTTP/1.1 200 OK"},
		"a body for the scan": {strings.Replace(post, batchPath, "/api/v1/audit/verify-chain", 1) + "{", 30 * time.Second, "HTTP/1.1 408 Request Timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, err := datastorage.OpenLog(t.Context(), &memory{}, key)
				if err != nil {
					t.Fatal(err)
				}
				defer log.Close()
				server, listener := datastorage.NewServer(datastorage.NewAPI(log, nil, logr.Discard())), make(pipes)
				go func() { _ = server.Serve(listener) }()
				defer server.Close()
				defer close(listener)
				client, conn := net.Pipe()
				listener <- conn
				began := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, err := io.WriteString(client, tt.send)
					for trickles := tt.after < 100*time.Second && tt.send != ""; trickles && err == nil; {
						<-time.After(time.Second)
						_, err = client.Write([]byte("P"))
					}
				}()
				got, err := io.ReadAll(client)
				_ = client.Close()
				<-sent
				first, _, _ := strings.Cut(string(got), "\r\n")
				if took := time.Since(began); err != nil || tt.want != "" && first != tt.want || took < tt.after || took > tt.after+2*time.Second {
					t.Errorf("got %q and %v after %v; want %q after %v", first, err, took, tt.want, tt.after)
				}
			})
		})
	}
}

func TestClientsThatSendSlowlyKeepNobodyOut(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	const slow = 200
	for range slow {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST "+batchPath+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n[")
		// The server asks for the body once it has begun to read.
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	grow(c, 0, 10)
}

// posted posts a batch without a connection.
func posted(t *testing.T, api http.Handler, body, encoding string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, batchPath, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", encoding)
	answer := httptest.NewRecorder()
	api.ServeHTTP(answer, req)
	return answer
}

func zipped(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, body)
	_ = w.Close()
	return b.String()
}

// Checksums of the body tell of all that is damaged in gzip. What is damaged in JSON may
// be another event, or the same one with other content.
func TestABodyThatIsDamagedAtAnyBitHarmsNothing(t *testing.T) {
	api := datastorage.NewAPI(storetest.OpenLog(t, openSQLite(t)), nil, logr.Discard())
	whole := batch(event(0))
	if code := posted(t, api, whole, "").Code; code != 201 {
		t.Fatalf("the whole body got %d", code)
	}
	get := func() string {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/audit/events/"+id(0), nil))
		return answer.Body.String()
	}
	before := get()
	for _, tt := range []struct {
		encoding, body string
		allowed        []int
	}{
		{"identity", whole, []int{201, 400, 409}},
		{"gzip", zipped(whole), []int{201, 400}},
	} {
		for at := range tt.body {
			if code := posted(t, api, tt.body[:at], tt.encoding).Code; code != 400 {
				t.Errorf("%s: cut off after %d bytes it got %d", tt.encoding, at, code)
			}
			for bit := range 8 {
				damaged := []byte(tt.body)
				damaged[at] ^= 1 << bit
				if code := posted(t, api, string(damaged), tt.encoding).Code; !slices.Contains(tt.allowed, code) {
					t.Errorf("%s: with bit %d of byte %d flipped it got %d", tt.encoding, bit, at, code)
				}
			}
		}
	}
	if after := get(); after != before {
		t.Errorf("the event was %s and is %s", before, after)
	}
}

func TestBodiesThatArriveTakeSoMuchMemoryAndNoMore(t *testing.T) {
	api := datastorage.NewAPI(storetest.OpenLog(t, openSQLite(t)), nil, logr.Discard())
	body := batch(event(0))
	post := func(body, encoding string) int {
		answer := posted(t, api, body, encoding)
		if answer.Code == 429 && answer.Header().Get("Retry-After") != "1" {
			t.Errorf("Retry-After is %q", answer.Header().Get("Retry-After"))
		}
		return answer.Code
	}
	for _, encoding := range []string{"identity", "gzip"} {
		sent := map[string]string{"identity": body, "gzip": zipped(body)}[encoding]
		for _, tt := range []struct {
			room int
			want []int
		}{{len(body) - 1, []int{429, 429}}, {len(body), []int{201, 201}}} {
			api.LeaveRoom(int64(tt.room))
			if got := []int{post(sent, encoding), post(sent, encoding)}; !slices.Equal(got, tt.want) {
				t.Errorf("%s: with room for %d of %d bytes got %v, want %v", encoding, tt.room, len(body), got, tt.want)
			}
		}
	}
}

func TestABodyTakesItsShareUntilItIsStored(t *testing.T) {
	entered, goOn := make(chan struct{}, 1), make(chan struct{})
	store := fakeStore{openSQLite(t), func(context.Context) error {
		entered <- struct{}{}
		<-goOn
		return nil
	}}
	api := datastorage.NewAPI(storetest.OpenLog(t, store), nil, logr.Discard())
	post := func(n int) int { return posted(t, api, batch(event(n)), "").Code }
	api.LeaveRoom(int64(len(batch(event(0)))))
	first := make(chan int)
	go func() { first <- post(0) }()
	<-entered
	if code := post(1); code != http.StatusTooManyRequests {
		t.Errorf("another body got %d while the first is stored, want 429", code)
	}
	close(goOn)
	if code := <-first; code != http.StatusCreated {
		t.Errorf("the first body got %d, want 201", code)
	}
	if code := post(1); code != http.StatusCreated {
		t.Errorf("another body got %d when the first is stored, want 201", code)
	}
}

func TestABodyTakesItsShareAlsoWhenItsSenderWasToldToTryAgain(t *testing.T) {
	key := storetest.NewKey(t)
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		log, err := datastorage.OpenLog(t.Context(), fakeStore{&memory{}, func(context.Context) error { <-goOn; return nil }}, key)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		api := datastorage.NewAPI(log, nil, logr.Discard())
		post := func(n int) int { return posted(t, api, batch(event(n)), "").Code }
		api.LeaveRoom(int64(2 * len(batch(event(0)))))
		for n, want := range []int{503, 503, 429} { // one is stored, one queues, and one has no room
			if code := post(n); code != want {
				t.Errorf("body %d got %d while the database hangs, want %d", n, code, want)
			}
		}
		close(goOn)
		synctest.Wait()
		for n := range 2 {
			if code := post(n); code != http.StatusCreated {
				t.Errorf("body %d got %d when the database goes on, want 201", n, code)
			}
		}
	})
}

// stuck is a writer that takes nothing until it is told to.
type stuck struct {
	*httptest.ResponseRecorder
	began, goOn chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.began <- struct{}{}:
	default:
	}
	<-s.goOn
	return s.ResponseRecorder.Write(p)
}

func TestEventsThatNobodyTakesTakeSoMuchMemoryAndNoMore(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		api := datastorage.NewAPI(storetest.OpenLog(t, openURL(t, databaseURL)), nil, logr.Discard())
		do := func(w http.ResponseWriter, method, path, body string) {
			req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			api.ServeHTTP(w, req)
		}
		for n := range 3 {
			large := with(event(n), "event_data", `{"a":"`+strings.Repeat("x", 3<<20)+`"}`)
			answer := httptest.NewRecorder()
			if do(answer, http.MethodPost, batchPath, batch(large)); answer.Code != http.StatusCreated {
				t.Fatalf("got %d", answer.Code)
			}
		}
		heap := func() uint64 {
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return stats.HeapAlloc
		}
		before := heap()
		goOn := make(chan struct{})
		var held []*stuck
		var readers sync.WaitGroup
		for refused := false; !refused; {
			reader := &stuck{httptest.NewRecorder(), make(chan struct{}, 1), goOn}
			path := []string{eventsPath, eventsPath + "/" + id(len(held)%3)}[len(held)%2]
			readers.Go(func() { do(reader, http.MethodGet, path, "") })
			<-reader.began
			if refused = reader.Code == http.StatusTooManyRequests; !refused {
				held = append(held, reader)
			}
			if len(held) > 100 {
				t.Fatal("nobody is refused")
			}
		}
		if took := int64(heap()) - int64(before); took > 96<<20 {
			t.Errorf("%d answers that wait take %d bytes", len(held), took)
		}
		close(goOn)
		readers.Wait()
		if len(held) < 8 {
			t.Errorf("%d were answered at once, want 8 at least", len(held))
		}
		for _, reader := range held {
			if body := reader.Body.String(); reader.Code != http.StatusOK || !json.Valid([]byte(body)) {
				t.Errorf("got %d and %d bytes that are no JSON", reader.Code, len(body))
			}
		}
		answer := httptest.NewRecorder()
		if do(answer, http.MethodGet, eventsPath, ""); answer.Code != http.StatusOK {
			t.Errorf("got %d when all had taken theirs", answer.Code)
		}
	})
}

func TestOfTheMemoryForLargeOnesSomeIsKeptForSmallOnes(t *testing.T) {
	api := datastorage.NewAPI(storetest.OpenLog(t, openSQLite(t)), nil, logr.Discard())
	large := func(n, size int) string {
		return batch(with(event(n), "event_data", `{"a":"`+strings.Repeat("x", size)+`"}`))
	}
	for _, body := range []string{batch(event(0)), large(1, 64<<10)} {
		if code := posted(t, api, body, "").Code; code != http.StatusCreated {
			t.Fatalf("got %d", code)
		}
	}
	get := func(path string) int {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return answer.Code
	}
	const kept = 8 << 20
	for _, tt := range []struct{ room, read, written int }{{kept, 429, 429}, {kept + 66<<10, 200, 429}, {kept + 2<<20, 200, 201}} {
		api.LeaveRoom(int64(tt.room))
		got := []int{
			get(eventsPath + "/" + id(0)), get(eventsPath + "/" + id(1)),
			posted(t, api, large(2, 1<<19), "").Code, posted(t, api, large(3, 1<<20), "").Code,
		}
		if want := []int{200, tt.read, 201, tt.written}; !slices.Equal(got, want) {
			t.Errorf("with room for %d bytes got %v, want %v", tt.room, got, want)
		}
	}
}

// endless counts what is read of it.
type endless struct{ atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.Add(int64(len(p)))
	return len(p), nil
}

func TestABodyWithoutEndIsRefused(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	body := &endless{}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post(c.base+batchPath, "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge || body.Load() > 32<<20 {
		t.Errorf("got %d after %d bytes, want 413 after little more than 5 MiB", resp.StatusCode, body.Load())
	}
}

// asked counts the queries of a store.
type asked struct {
	datastorage.Store
	queries atomic.Int64
}

func (a *asked) Query(ctx context.Context, filter datastorage.Filter) (datastorage.Page, error) {
	a.queries.Add(1)
	return a.Store.Query(ctx, filter)
}

func TestAThousandTimesTheSame(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		store := &asked{Store: openURL(t, databaseURL)}
		c := serve(t, store, nil)
		post := func(events []string) (got created) {
			t.Helper()
			c.post(batchPath, batch(events...)).want(t, 201).decode(t, &got)
			return got
		}
		many, others := make([]string, 1000), make([]string, 1000)
		for n := range many {
			many[n], others[n] = event(n), with(event(n), "event_action", `"other"`)
		}
		if got := post(slices.Repeat(many[:1], 1000)); got.Duplicates != 999 || slices.Max(got.LogIndices) != 0 {
			t.Errorf("of one event a thousand times %d are duplicates, and the last index is %d", got.Duplicates, slices.Max(got.LogIndices))
		}
		first := post(many)
		if again := post(many); again.Duplicates != 1000 || !slices.Equal(first.LogIndices, again.LogIndices) {
			t.Errorf("of a thousand that are stored %d are duplicates, at %v", again.Duplicates, again.LogIndices)
		}
		// A batch of nothing but conflicts costs one query more than it would cost
		// else, and its answer is not much larger than the batch.
		store.queries.Store(0)
		a := c.post(batchPath, batch(others...))
		p := a.problem(t, 409, "event-conflict")
		if n := store.queries.Load(); n != 1 || len(p.Errors) != 1000 || len(a.body) > 512<<10 {
			t.Errorf("%d conflicts took %d queries and were answered with %d bytes", len(p.Errors), n, len(a.body))
		}
		for n, item := range p.Errors {
			if item.Pointer != fmt.Sprint("/", n) || *item.LogIndex != int64(n) || item.Stored == nil || item.Stored.Attempt != 1 {
				t.Fatalf("conflict %d is %+v", n, item)
			}
		}
		if out, err := verifiedDatabase(t, databaseURL); err != nil || !strings.HasPrefix(out, "The log is whole: 1000 events") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAnAnswerDoesNotMultiplyWhatIsStored(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	long := strings.Repeat("x", 1<<20)
	c.post(batchPath, batch(with(event(0), "event_data", `{"attempt":3,"channel":"`+long+`","content_digest":"`+long+`","notification_uid":"`+long+`"}`))).want(t, 201)
	var others []string
	for n := range 1000 {
		others = append(others, with(event(0), "event_action", fmt.Sprintf(`"other %d"`, n)))
	}
	a := c.post(batchPath, batch(others...))
	p := a.problem(t, 409, "event-conflict")
	if len(a.body) > 512<<10 || len(p.Errors) != 1000 || p.Errors[999].Stored.Attempt != 3 || p.Errors[999].Stored.Channel != "" {
		t.Errorf("%d conflicts with one large event were answered with %d bytes: %.400s", len(p.Errors), len(a.body), a.body)
	}
}

func TestLargeEventsAreReadInSmallPages(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		large := `{"a":"` + strings.Repeat("x", 3<<20) + `"}`
		var others []string
		for n := range 5 {
			c.post(batchPath, batch(with(event(n), "event_data", large))).want(t, 201)
			others = append(others, event(n))
		}
		for _, next := range []string{"&offset=3", "&after="} {
			var l list
			c.get(eventsPath+"?limit=5").want(t, 200).decode(t, &l)
			if len(l.Data) != 3 || !l.Pagination.HasMore || l.Pagination.Limit != 3 || l.Pagination.Total != 5 {
				t.Fatalf("the first page has %d events and %+v", len(l.Data), l.Pagination)
			}
			if next == "&after=" {
				next += l.Pagination.After
			}
			var rest list
			c.get(eventsPath+"?limit=5"+next).want(t, 200).decode(t, &rest)
			if len(rest.Data) != 2 || rest.Pagination.HasMore || rest.Data[0].EventID != id(1) || rest.Pagination.Limit != 5 {
				t.Errorf("after %s there are %d events and %+v", next, len(rest.Data), rest.Pagination)
			}
		}
		p := c.post(batchPath, batch(others...)).problem(t, 409, "event-conflict")
		for n, item := range p.Errors {
			if item.Stored == nil {
				t.Errorf("of conflict %d the answer does not say what is stored", n)
			}
		}
	})
}

func TestAnExportThatNobodyReadsDoesNotHoldUpTheEnd(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		s := start(t, databaseURL)
		c := newClient(t, "http://"+s.address())
		large := `{"a":"` + strings.Repeat("x", 4<<20) + `"}`
		for n := range 6 {
			c.post(batchPath, batch(with(event(n), "event_data", large))).want(t, 201)
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET "+exportPath+" HTTP/1.1\r\nHost: x\r\n\r\n")
		in := bufio.NewReader(conn)
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200 ") {
			t.Fatalf("got %q, %v", line, err)
		}
		s.stop()
		// It would be an error to give up on it at the very end.
		if err := s.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		// What was sent until then can be gone on from, and does not look whole.
		resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\n"), in)), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("the export ends after %d bytes as if that was all", len(got))
		}
		if out, err := verified(t, string(got)); err == nil || !strings.Contains(out, "Get the rest with from=") {
			t.Errorf("the part that came: %v\n%.2000s", err, out)
		}
	})
}
