package datastorage

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kubernaut.ai/notification/internal/audit"
)

const (
	eventsPath = "/api/v1/audit/events"
	// accessPath is what RBAC is asked about. It is not eventsPath, since the
	// role system:discovery lets every authenticated user get what is beneath /api.
	accessPath = "/audit/events"
	// logAccessPath is for whoever watches the log, which tells nothing of what
	// events say.
	logAccessPath = "/audit/log"
	// tokenAudience keeps a caller's token from being of use anywhere else.
	tokenAudience = "datastorage"
	// maxWrites bounds how much is parsed and stored at once.
	maxWrites = 32
	// storeTimeout ends a write or a query that the database does not answer.
	storeTimeout = 20 * time.Second
	// probeTimeout is shorter than the patience of whoever asks for readiness.
	probeTimeout = 3 * time.Second
)

//go:embed openapi.yaml
var openAPI []byte

// Authorizer decides whether the bearer of a token may use a path with a verb
// (get, post or delete). Its errors are those of package kubeauth.
type Authorizer interface {
	Authorize(ctx context.Context, token, audience, verb, path string) error
}

// API serves the HTTP interface of a log. It is made by NewAPI.
type API struct {
	events   *Log
	auth     Authorizer
	log      logr.Logger
	metrics  *metrics
	registry *prometheus.Registry
	arriving atomic.Int64 // bytes of bodies
	leaving  atomic.Int64 // bytes of events
	writes   chan struct{}
	scans    chan struct{}
	drained  context.Context // ends with Drain
	drain    context.CancelFunc
	mux      *http.ServeMux

	probing  sync.Mutex // guards what follows
	probed   time.Time
	writable error
}

// NewAPI returns the API of a log. Without an authorizer everyone may do everything.
func NewAPI(events *Log, auth Authorizer, log logr.Logger) *API {
	a := &API{
		events: events, auth: auth, log: log,
		registry: prometheus.NewRegistry(),
		writes:   make(chan struct{}, maxWrites),
		scans:    make(chan struct{}, maxScans),
		mux:      http.NewServeMux(),
	}
	a.drained, a.drain = context.WithCancel(context.Background())
	a.metrics = newMetrics(a.registry)
	a.mux.HandleFunc("POST "+eventsPath+"/batch", a.guard("post", tokenAudience, accessPath, a.postBatch))
	a.mux.HandleFunc("POST "+eventsPath, a.guard("post", tokenAudience, accessPath, a.postEvent))
	a.mux.HandleFunc("GET "+eventsPath, a.guard("get", tokenAudience, accessPath, a.listEvents))
	a.mux.HandleFunc("GET "+eventsPath+"/{event_id}", a.guard("get", tokenAudience, accessPath, a.getEvent))
	for path, handler := range map[string]http.HandlerFunc{
		"/checkpoint": a.getCheckpoint, "/key": a.getKey, "/tile/{tile...}": a.getTile,
		"/proof/inclusion": a.getInclusionProof, "/proof/consistency": a.getConsistencyProof,
	} {
		a.mux.HandleFunc("GET "+logPath+path, a.guard("get", tokenAudience, logAccessPath, handler))
	}
	a.mux.HandleFunc("POST "+holdsPath, a.guard("post", tokenAudience, holdsAccess, a.postHold))
	a.mux.HandleFunc("GET "+holdsPath, a.guard("get", tokenAudience, holdsAccess, a.getHolds))
	a.mux.HandleFunc("DELETE "+holdsPath+"/{correlation_id}", a.guard("delete", tokenAudience, holdsAccess, a.deleteHold))
	a.mux.HandleFunc("GET "+exportPath, a.guard("get", tokenAudience, accessPath, a.scan(a.getExport)))
	// It is a POST that changes nothing.
	a.mux.HandleFunc("POST "+chainPath, a.guard("get", tokenAudience, accessPath, a.scan(a.verifyChain)))
	scrape := promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})
	a.mux.HandleFunc("GET /metrics", a.guard("get", "", "/metrics", scrape.ServeHTTP))
	a.mux.HandleFunc("GET /health", live)
	a.mux.HandleFunc("GET /livez", live)
	a.mux.HandleFunc("GET /readyz", a.ready)
	a.mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(openAPI)
	})
	return a
}

// Drain makes /readyz fail, cuts exports off and asks clients to close their
// connections, while requests are still served. There is no way back.
func (a *API) Drain() { a.drain() }

func (a *API) draining() bool { return a.drained.Err() != nil }

func live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *API) ready(w http.ResponseWriter, r *http.Request) {
	if a.draining() {
		retryable(unavailable, "the server is shutting down").write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	if err := a.probe(ctx); err != nil {
		retryable(unavailable, "no write can be made: "+err.Error()).write(w)
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

// probe tests a write, for all who ask within a second together: anybody may ask,
// and each test is a transaction of the one writer.
func (a *API) probe(ctx context.Context) error {
	a.probing.Lock()
	defer a.probing.Unlock()
	if time.Since(a.probed) >= time.Second {
		a.writable = a.events.CheckWrite(ctx)
		a.probed = time.Now()
	}
	return a.writable
}

type batchAnswer struct {
	EventIDs   []uuid.UUID `json:"event_ids"`
	LogIndices []int64     `json:"log_indices"`
	Checkpoint string      `json:"checkpoint"`
	Duplicates int         `json:"duplicates"`
	Message    string      `json:"message"`
}

func (a *API) postBatch(w http.ResponseWriter, r *http.Request) {
	records, stored, p := a.write(r, parseBatch)
	if p != nil {
		p.write(w)
		return
	}
	answer := batchAnswer{EventIDs: make([]uuid.UUID, len(records)), LogIndices: make([]int64, len(records)), Checkpoint: stored.Checkpoint}
	for i, placed := range stored.Appended {
		answer.EventIDs[i] = records[i].Event.EventID
		answer.LogIndices[i] = placed.LogIndex
		if placed.Duplicate {
			answer.Duplicates++
		}
	}
	answer.Message = fmt.Sprintf("%d audit events created", len(records)-answer.Duplicates)
	if answer.Duplicates > 0 {
		answer.Message += fmt.Sprintf(", %d already stored", answer.Duplicates)
	}
	writeJSON(w, http.StatusCreated, answer)
}

type eventAnswer struct {
	EventID        uuid.UUID `json:"event_id"`
	EventTimestamp time.Time `json:"event_timestamp"`
	LogIndex       int64     `json:"log_index"`
	Checkpoint     string    `json:"checkpoint"`
	Message        string    `json:"message"`
}

func (a *API) postEvent(w http.ResponseWriter, r *http.Request) {
	records, stored, p := a.write(r, parseSingle)
	if p != nil {
		p.write(w)
		return
	}
	answer := eventAnswer{records[0].Event.EventID, records[0].Event.EventTimestamp, stored.Appended[0].LogIndex, stored.Checkpoint, "audit event created"}
	if stored.Appended[0].Duplicate {
		answer.Message = "audit event already stored"
	}
	writeJSON(w, http.StatusCreated, answer)
}

// write reads, parses and stores the events of a request.
func (a *API) write(r *http.Request, parse func([]byte, salter) ([]Record, *Problem)) ([]Record, Outcome, *Problem) {
	body, free, p := a.readBody(r)
	if p != nil {
		return nil, Outcome{}, p
	}
	queued := false
	defer func() {
		if !queued {
			free()
		}
	}()
	select {
	case a.writes <- struct{}{}:
		defer func() { <-a.writes }()
	default:
		return nil, Outcome{}, retryable(tooManyRequests, fmt.Sprintf("%d writes are under way; send this one again later", maxWrites))
	}
	records, p := parse(body, a.events.salt)
	if p != nil {
		a.metrics.rejected.Add(float64(p.rejected))
		return nil, Outcome{}, p
	}
	// A client that leaves would only send the same events again, so what it
	// has sent in full is stored all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), storeTimeout)
	defer cancel()
	queued = true
	stored, err := a.events.append(ctx, records, free)
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		a.metrics.conflicts.Add(float64(len(conflict.Conflicts)))
		requestLog(r).Error(err, "Refused events whose IDs are taken by other content; the table audit_conflicts has them")
		return nil, Outcome{}, a.conflictProblem(ctx, r, records, conflict)
	case err != nil:
		requestLog(r).Error(err, "Storing events failed", "events", len(records))
		return nil, Outcome{}, retryable(unavailable, "the database does not take events at present; nothing was stored for certain, so send them again with the same IDs")
	}
	a.metrics.countAppended(stored.Appended)
	return records, stored, nil
}

// conflictProblem points at the events whose IDs are taken and says what is
// stored under them.
func (a *API) conflictProblem(ctx context.Context, r *http.Request, records []Record, conflict *ConflictError) *Problem {
	p := problem(eventConflict, "an ID is taken by an event with other content; nothing was stored")
	facts, err := a.storedFacts(ctx, records, conflict)
	if err != nil {
		requestLog(r).Error(err, "Reading conflicting events failed")
		return retryable(unavailable, "the database does not answer at present; send the events again with the same IDs")
	}
	for _, c := range conflict.Conflicts {
		id := records[c.Index].Event.EventID
		item := ProblemItem{Detail: fmt.Sprintf("event_id %s is there twice in the batch with different content", id)}
		if r.Pattern == "POST "+eventsPath+"/batch" {
			item.Pointer = fmt.Sprintf("/%d", c.Index)
		}
		if c.LogIndex >= 0 {
			item.Detail = fmt.Sprintf("event_id %s is stored with other content", id)
			item.LogIndex = &c.LogIndex
			item.Stored = facts[id]
		}
		p.Errors = append(p.Errors, item)
	}
	return p
}

// storedFacts returns what is stored under the IDs that are taken, of all of them
// at once: a batch of nothing but conflicts must not cost a query for each.
func (a *API) storedFacts(ctx context.Context, records []Record, conflict *ConflictError) (map[uuid.UUID]*audit.Facts, error) {
	facts := map[uuid.UUID]*audit.Facts{}
	filter := Filter{Limit: maxBatchEvents}
	for _, c := range conflict.Conflicts {
		if c.LogIndex >= 0 {
			filter.IDs = append(filter.IDs, records[c.Index].Event.EventID)
		}
	}
	for filter.IDs != nil {
		page, err := a.events.Query(ctx, filter)
		if err != nil {
			return nil, err
		}
		for i := range page.Events {
			facts[page.Events[i].Columns.EventID] = factsOf(&page.Events[i])
		}
		if page.Next == nil {
			break
		}
		filter.After = page.Next
	}
	return facts, nil
}

// maxFact is far above what any sender of these facts has. They are sent back once
// for each conflict, and the events that they are from may be large.
const maxFact = 512

// factsOf reads what it can: event_data is free-form, so a member of another
// type, or of a text that is too long, counts as absent, and so does what has expired.
func factsOf(stored *Stored) *audit.Facts {
	var event struct {
		EventData map[string]json.RawMessage `json:"event_data"`
	}
	_ = json.Unmarshal(stored.Body, &event)
	facts := &audit.Facts{EventType: stored.Columns.EventType}
	_ = json.Unmarshal(event.EventData["notification_uid"], &facts.NotificationUID)
	_ = json.Unmarshal(event.EventData["channel"], &facts.Channel)
	_ = json.Unmarshal(event.EventData["attempt"], &facts.Attempt)
	_ = json.Unmarshal(event.EventData["content_digest"], &facts.ContentDigest)
	for _, text := range []*string{&facts.NotificationUID, &facts.Channel, &facts.ContentDigest} {
		if len(*text) > maxFact {
			*text = ""
		}
	}
	return facts
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	// Event bodies go out as they are stored, with no character escaped anew.
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
