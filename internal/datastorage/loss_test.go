package datastorage_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr/funcr"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

func TestDatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	postgres := storetest.StartPostgres(t)
	t.Run("a server listens only once it can write", func(t *testing.T) { testLateDatabase(t, postgres) })
	t.Run("a running server says so and goes on afterwards", func(t *testing.T) { testOutage(t, postgres) })
	t.Run("a crash under load loses nothing", func(t *testing.T) { testCrash(t, postgres) })
	t.Run("one that has become read-only is read from", func(t *testing.T) { testReadOnly(t, postgres) })
	t.Run("one without a connection to spare is waited for", func(t *testing.T) { testNoConnections(t, postgres) })
}

func testLateDatabase(t *testing.T, postgres *storetest.Postgres) {
	url := postgres.NewDatabase(t)
	postgres.Stop(t)
	waiting := make(chan string, 100)
	log := funcr.New(func(_, line string) { waiting <- line }, funcr.Options{})
	s := start(t, url, func(o *datastorage.Options) { o.Log = log })
	for !strings.Contains(<-waiting, "Waiting for the database") {
	}
	select {
	case a := <-s.listening:
		t.Fatalf("listens on %s while the database is down", a)
	default:
	}
	postgres.Start(t)
	newClient(t, "http://"+s.address()).get("/readyz").want(t, 200)
}

// oracle posts events until it is told to stop and remembers which of them were
// acknowledged, as a sender that survives every fault of the server would.
type oracle struct {
	acknowledged sync.Map // log indices by event ID
	unanswered   sync.Map
	count        atomic.Int64
	wg           sync.WaitGroup
	next         atomic.Int64
}

// post sends one batch of events and reports the answer's code, or an error.
func (o *oracle) post(ctx context.Context, c *http.Client, base string, events int) (int, error) {
	first := int(o.next.Add(int64(events))) - events
	bodies := make([]string, events)
	for i := range bodies {
		bodies[i] = event(first + i)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+batchPath, strings.NewReader(batch(bodies...)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		for i := range events {
			o.unanswered.Store(id(first+i), true)
		}
		return 0, err
	}
	defer resp.Body.Close()
	var got created
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return 0, err
	}
	if resp.StatusCode == http.StatusCreated {
		for i, id := range got.EventIDs {
			o.acknowledged.Store(id, got.LogIndices[i])
		}
		o.count.Add(int64(len(got.EventIDs)))
	}
	return resp.StatusCode, nil
}

// check fails the test unless the log has each acknowledged event, once, where it
// was said to be, and has no gaps. It returns the log indices of all events.
func (o *oracle) check(t *testing.T, databaseURL string) (stored map[string]int64) {
	t.Helper()
	store := openURL(t, databaseURL)
	indices, stored := map[int64]bool{}, map[string]int64{}
	filter := datastorage.Filter{Limit: 1000}
	for {
		page, err := store.Query(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			var body struct {
				EventID string `json:"event_id"`
			}
			if err := json.Unmarshal(e.Body, &body); err != nil {
				t.Fatal(err)
			}
			if _, twice := stored[body.EventID]; twice {
				t.Errorf("event %s is there twice", body.EventID)
			}
			indices[e.LogIndex], stored[body.EventID] = true, e.LogIndex
		}
		if page.Next == nil {
			break
		}
		filter.After = page.Next
	}
	for i := range int64(len(stored)) {
		if !indices[i] {
			t.Errorf("index %d of %d is missing", i, len(stored))
		}
	}
	o.acknowledged.Range(func(id, index any) bool {
		if at, there := stored[id.(string)]; !there || at != index {
			t.Errorf("event %s was acknowledged at %d, and is there: %v, at %d", id, index, there, at)
		}
		return true
	})
	return stored
}

func TestShutdownUnderLoadAnswersAndLosesNothing(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		s := start(t, databaseURL)
		base := "http://" + s.address()
		var o oracle
		enough := make(chan struct{})
		reached := sync.OnceFunc(func() { close(enough) })
		for range 4 {
			o.wg.Go(func() {
				transport := &http.Transport{}
				defer transport.CloseIdleConnections()
				c := &http.Client{Transport: transport}
				for {
					code, err := o.post(context.Background(), c, base, 10)
					if err != nil {
						return
					}
					if code != http.StatusCreated {
						t.Errorf("a request got %d", code)
					}
					if o.count.Load() > 200 {
						reached()
					}
				}
			})
		}
		<-enough
		s.stop()
		if err := s.wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		o.wg.Wait()
		// A connection that the kernel had taken and the server had not is reset
		// when the server stops listening. What was begun is answered.
		stored := o.check(t, databaseURL)
		o.unanswered.Range(func(id, _ any) bool {
			if _, there := stored[id.(string)]; there {
				t.Errorf("event %s was stored and its sender not told", id)
			}
			return true
		})
	})
}

func testOutage(t *testing.T, postgres *storetest.Postgres) {
	url := postgres.NewDatabase(t)
	c := newClient(t, "http://"+start(t, url).address())
	var o oracle
	post := func(want int) {
		t.Helper()
		if code, err := o.post(t.Context(), c.http, c.base, 3); err != nil || code != want {
			t.Errorf("post got %d, %v, want %d", code, err, want)
		}
	}
	post(201)
	postgres.Stop(t)
	a := c.ready(http.StatusServiceUnavailable)
	if p := a.problem(t, 503, "unavailable"); !strings.Contains(p.Detail, "no write can be made") {
		t.Errorf("detail is %q", p.Detail)
	}
	post(503)
	c.get(eventsPath).problem(t, 503, "unavailable")
	c.get("/livez").want(t, 200)
	postgres.Start(t)
	c.ready(http.StatusOK)
	post(201)
	if got := o.count.Load(); got != 6 {
		t.Errorf("%d events were acknowledged, want 6", got)
	}
	o.check(t, url)
}

func testCrash(t *testing.T, postgres *storetest.Postgres) {
	url := postgres.NewDatabase(t)
	base := "http://" + start(t, url).address()
	var o oracle
	stop, enough := make(chan struct{}), make(chan struct{})
	reached := sync.OnceFunc(func() { close(enough) })
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	defer transport.CloseIdleConnections()
	for range 4 {
		o.wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				code, err := o.post(context.Background(), &http.Client{Transport: transport}, base, 10)
				if err != nil || code != 201 && code != 503 {
					t.Errorf("got %d, %v, want 201 or 503", code, err)
					return
				}
				if o.count.Load() > 200 {
					reached()
				}
			}
		})
	}
	<-enough
	postgres.Stop(t)
	postgres.Start(t)
	close(stop)
	o.wg.Wait()
	o.check(t, url)
}
