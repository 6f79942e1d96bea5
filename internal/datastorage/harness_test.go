package datastorage_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/postgres"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(storetest.Exit), goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

var openers = map[string]datastorage.Opener{"sqlite": sqlite.Open, "postgres": postgres.Open}

// onBothBackends runs a test on an empty SQLite and an empty PostgreSQL database.
func onBothBackends(t *testing.T, test func(t *testing.T, databaseURL string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, storetest.SharedPostgres(t).NewDatabase(t)) })
}

func openSQLite(t *testing.T) datastorage.Store {
	t.Helper()
	return openURL(t, "sqlite:"+filepath.Join(t.TempDir(), "log.db"))
}

func openURL(t *testing.T, databaseURL string) datastorage.Store {
	t.Helper()
	scheme, _, _ := strings.Cut(databaseURL, ":")
	store, closeStore, err := openers[scheme](t.Context(), databaseURL, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// client calls a server and checks all that passes against the OpenAPI document.
type client struct {
	t    *testing.T
	base string
	http *http.Client
}

func newClient(t *testing.T, base string) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: 20}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t, base, &http.Client{Transport: &contract{t, transport, loadContract(t)}}}
}

// serve starts the API of a store on a socket of its own.
func serve(t *testing.T, store datastorage.Store, auth datastorage.Authorizer) *client {
	return serveLog(t, storetest.OpenLog(t, store), auth)
}

func serveLog(t *testing.T, log *datastorage.Log, auth datastorage.Authorizer) *client {
	server := httptest.NewServer(datastorage.NewAPI(log, auth, logr.Discard()))
	t.Cleanup(server.Close)
	return newClient(t, server.URL)
}

// answer is a response with its body read.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (c *client) do(method, path, body string, header ...string) answer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(got)}
}

func (c *client) get(path string) answer { c.t.Helper(); return c.do(http.MethodGet, path, "") }

// ready asks until /readyz gives an answer of that code: what it found is an
// answer to all who ask within the next second.
func (c *client) ready(code int) answer {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		if a := c.get("/readyz"); a.code == code || time.Now().After(end) {
			return a.want(c.t, code)
		}
	}
}

func (c *client) post(path, body string, header ...string) answer {
	c.t.Helper()
	return c.do(http.MethodPost, path, body, header...)
}

const (
	eventsPath = "/api/v1/audit/events"
	batchPath  = eventsPath + "/batch"
)

func (a answer) want(t *testing.T, code int) answer {
	t.Helper()
	if a.code != code {
		t.Fatalf("got %d, want %d: %s", a.code, code, a.body)
	}
	return a
}

// problem checks that the answer is a problem document of the kind and code.
func (a answer) problem(t *testing.T, code int, kind string) datastorage.Problem {
	t.Helper()
	a.want(t, code)
	var p datastorage.Problem
	a.decode(t, &p)
	if p.Type != "https://kubernaut.ai/problems/"+kind || p.Status != code || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s as %s, want a problem of kind %s", a.body, a.header.Get("Content-Type"), kind)
	}
	if p.Instance == "" || p.Instance != a.header.Get("X-Request-ID") {
		t.Errorf("instance is %q, want the request ID %q", p.Instance, a.header.Get("X-Request-ID"))
	}
	return p
}

func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("decode %q: %v", a.body, err)
	}
}

type created struct {
	EventIDs   []string `json:"event_ids"`
	LogIndices []int64  `json:"log_indices"`
	Duplicates int      `json:"duplicates"`
	Message    string   `json:"message"`
}

type list struct {
	Data []struct {
		EventID  string `json:"event_id"`
		LogIndex int64  `json:"log_index"`
	} `json:"data"`
	Pagination struct {
		Limit   int    `json:"limit"`
		Offset  int    `json:"offset"`
		Total   int    `json:"total"`
		HasMore bool   `json:"has_more"`
		After   string `json:"after"`
	} `json:"pagination"`
}

// event returns the n-th valid event as JSON.
func event(n int) string { return string(storetest.Record(n).Body) }

// with returns an event with one member set to a JSON value, or removed where
// the value is empty.
func with(event, member, value string) string {
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(event), &members); err != nil {
		panic(err)
	}
	members[member] = json.RawMessage(value)
	if value == "" {
		delete(members, member)
	}
	out, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func batch(events ...string) string { return "[" + strings.Join(events, ",") + "]" }

func id(n int) string { return storetest.Record(n).Event.EventID.String() }

// contract is a transport that fails the test where an answer is not one that
// the OpenAPI document has, or where a request that the document forbids succeeds.
type contract struct {
	t      *testing.T
	next   http.RoundTripper
	router routers.Router
}

var readContract = sync.OnceValues(func() (routers.Router, error) {
	openapi3filter.RegisterBodyDecoder("application/yaml", openapi3filter.FileBodyDecoder)
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", openapi3filter.FileBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

func loadContract(t *testing.T) routers.Router {
	t.Helper()
	router, err := readContract()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return router
}

func (c *contract) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(got))
	if err := c.check(req, sent, resp, got); err != nil {
		c.t.Errorf("%s %s answered %d against openapi.yaml: %v", req.Method, req.URL.Path, resp.StatusCode, err)
	}
	return resp, nil
}

func (c *contract) check(req *http.Request, sent []byte, resp *http.Response, got []byte) error {
	asked := req.Clone(req.Context())
	asked.URL.Scheme, asked.URL.Host, asked.Host = "", "", ""
	asked.Body = io.NopCloser(bytes.NewReader(sent))
	route, params, err := c.router.FindRoute(asked)
	if err != nil {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			return fmt.Errorf("the path is not there: %w", err)
		}
		return nil
	}
	options := &openapi3filter.Options{
		AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
		IncludeResponseStatus: true,
		MultiError:            true,
	}
	input := &openapi3filter.RequestValidationInput{Request: asked, PathParams: params, Route: route, Options: options}
	if resp.StatusCode < 300 && req.Header.Get("Content-Encoding") == "" {
		if err := openapi3filter.ValidateRequest(req.Context(), input); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
	err = openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input,
		Status:                 resp.StatusCode,
		Header:                 resp.Header,
		Body:                   io.NopCloser(bytes.NewReader(got)),
		Options:                options,
	})
	if err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return nil
}
