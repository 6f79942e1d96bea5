package datastorage_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"kubernaut.ai/notification/internal/datastorage"
)

func leafHash(body []byte) [sha256.Size]byte { return sha256.Sum256(append([]byte{0}, body...)) }

func ids(l list) []string {
	var all []string
	for _, e := range l.Data {
		all = append(all, e.EventID)
	}
	return all
}

func TestListingWalksAllEventsNewestFirst(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		c := serve(t, openURL(t, databaseURL), nil)
		c.post(batchPath, batch(event(2), event(0), event(4), event(1), event(3))).want(t, 201)
		var first, second, third list
		c.get(eventsPath+"?limit=2").want(t, 200).decode(t, &first)
		c.get(eventsPath+"?limit=2&after="+first.Pagination.After).want(t, 200).decode(t, &second)
		c.get(eventsPath+"?limit=2&after="+second.Pagination.After).want(t, 200).decode(t, &third)
		got := append(append(ids(first), ids(second)...), ids(third)...)
		if diff := cmp.Diff([]string{id(4), id(3), id(2), id(1), id(0)}, got); diff != "" {
			t.Errorf("walk (-want +got):\n%s", diff)
		}
		p := second.Pagination
		if p.Limit != 2 || p.Offset != 0 || p.Total != 5 || !p.HasMore {
			t.Errorf("second page: got %+v", p)
		}
		if p := third.Pagination; p.HasMore || p.After != "" {
			t.Errorf("last page: got %+v", p)
		}
		var shifted list
		c.get(eventsPath+"?limit=2&offset=3").want(t, 200).decode(t, &shifted)
		if diff := cmp.Diff([]string{id(1), id(0)}, ids(shifted)); diff != "" {
			t.Errorf("by offset (-want +got):\n%s", diff)
		}
		if p := shifted.Pagination; p.Offset != 3 || p.HasMore {
			t.Errorf("by offset: got %+v", p)
		}
	})
}

// countless finds events and counts none.
type countless struct{ datastorage.Store }

func (s countless) Query(ctx context.Context, filter datastorage.Filter) (datastorage.Page, error) {
	page, err := s.Store.Query(ctx, filter)
	page.Total = 0
	return page, err
}

func TestTotalIsNoLessThanWhatIsThereToBeSeen(t *testing.T) {
	c := serve(t, countless{openSQLite(t)}, nil)
	c.post(batchPath, batch(event(0), event(1), event(2), event(3))).want(t, 201)
	for query, want := range map[string]int{"": 4, "?limit=2": 3, "?limit=2&offset=1": 4, "?limit=2&offset=2": 4, "?offset=4": 0} {
		var l list
		c.get(eventsPath+query).want(t, 200).decode(t, &l)
		if l.Pagination.Total != want {
			t.Errorf("%q: got a total of %d, want %d", query, l.Pagination.Total, want)
		}
	}
}

func TestListingAnEmptyLog(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	a := c.get(eventsPath).want(t, 200)
	if !strings.Contains(a.body, `"data":[]`) {
		t.Errorf("data is not an empty array: %s", a.body)
	}
}

func TestFilters(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	now := time.Now().UTC()
	at := func(ago time.Duration) string { return `"` + now.Add(-ago).Format(time.RFC3339Nano) + `"` }
	c.post(batchPath, batch(
		with(with(event(0), "event_timestamp", at(49*time.Hour)), "event_type", `"a"`),
		with(with(event(1), "event_timestamp", at(25*time.Hour)), "severity", `"low"`),
		with(with(event(2), "event_timestamp", at(time.Hour)), "namespace", `"a b&c"`),
		with(event(3), "event_timestamp", at(-time.Hour)),
	)).want(t, 201)
	tests := []struct {
		query string
		want  []string
	}{
		{"since=24h", []string{id(3), id(2)}},
		{"since=2d", []string{id(3), id(2), id(1)}},
		{"until=24h", []string{id(1), id(0)}},
		{"since=48h&until=90m", []string{id(1)}},
		{"until=0s", []string{id(2), id(1), id(0)}},
		{"since=" + url.QueryEscape(now.Add(-2*time.Hour).Format(time.RFC3339)), []string{id(3), id(2)}},
		{"since=" + url.QueryEscape(now.Add(-time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339Nano)), []string{id(3), id(2)}},
		{"event_type=a", []string{id(0)}},
		{"severity=low", []string{id(1)}},
		{"namespace=a+b%26c", []string{id(2)}},
		{"correlation_id=correlation-3&resource_id=request-3", []string{id(3)}},
		{"event_category=notification&event_outcome=success&since=30h&limit=1", []string{id(3)}},
		{"event_outcome=failure", nil},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			var l list
			c.get(eventsPath+"?"+tt.query).want(t, 200).decode(t, &l)
			if diff := cmp.Diff(tt.want, ids(l)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadQueriesSayWhatIsAllowed(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	tests := []struct{ query, detail string }{
		{"correlation=x", `parameter "correlation" is not known`},
		{"event_id=" + id(0), `parameter "event_id" is not known`},
		{"limit=0", "limit must be a number from 1 to 1000"},
		{"limit=1001", "limit must be a number from 1 to 1000"},
		{"limit=ten", "limit must be a number from 1 to 1000"},
		{"offset=-1", "offset must be"},
		{"since=yesterday", "since must be a duration"},
		{"since=-24h", "since must be a duration"},
		{"until=2026-13-01T00:00:00Z", "until must be a duration"},
		{"after=x", "after must be a value that pagination.after"},
		{"after=OTIyMzM3MjAzNjg1NDc3NTgwNy4w", "after must be a value that pagination.after"},
		{"after=MS4x&offset=1", "offset and after exclude each other"},
		{"severity=", `parameter "severity" must have a value`},
		{"severity=a%00", "NUL"},
		{"severity=%ff", "UTF-8"},
		{"severity=a&severity=b", "more than once"},
		{"a;b", "cannot be parsed"},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			p := c.get(eventsPath+"?"+tt.query).problem(t, 400, "invalid-request")
			if !strings.Contains(p.Detail, tt.detail) {
				t.Errorf("detail is %q, want it to say %q", p.Detail, tt.detail)
			}
		})
	}
	c.get(eventsPath+"/batch").problem(t, 400, "invalid-request")
}

func TestUnknownPathsAndMethodsGetProblems(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	for _, path := range []string{"/", "/api/v1/audit", "/api/v2/audit/events", eventsPath + "/batch/x", "/favicon.ico"} {
		c.get(path).problem(t, 404, "not-found")
	}
	tests := []struct{ method, path, allow string }{
		{http.MethodDelete, eventsPath, "GET, HEAD, POST"},
		{http.MethodPut, eventsPath + "/" + id(0), "GET, HEAD"},
		{http.MethodPost, "/health", "GET, HEAD"},
		{http.MethodPost, "/readyz", "GET, HEAD"},
	}
	for _, tt := range tests {
		a := c.do(tt.method, tt.path, "")
		a.problem(t, 405, "method-not-allowed")
		if got := a.header.Get("Allow"); got != tt.allow {
			t.Errorf("%s %s: Allow is %q, want %q", tt.method, tt.path, got, tt.allow)
		}
	}
}

func TestRequestIDIsTakenOverOnlyWhereItIsHarmless(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	if got := c.do("GET", "/nowhere", "", "X-Request-ID", "abc-1.2_3").problem(t, 404, "not-found").Instance; got != "abc-1.2_3" {
		t.Errorf("instance is %q, want the client's ID", got)
	}
	for _, bad := range []string{"a b", `x"y`, strings.Repeat("x", 65)} {
		if got := c.do("GET", "/nowhere", "", "X-Request-ID", bad).problem(t, 404, "not-found").Instance; got == bad {
			t.Errorf("ID %q was taken over", bad)
		}
	}
}

func TestServiceRoutes(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	for _, path := range []string{"/health", "/livez", "/readyz"} {
		c.get(path).want(t, 200)
	}
	document, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.get("/openapi.yaml").want(t, 200); got.body != string(document) {
		t.Error("/openapi.yaml is not the file")
	}
}

func TestMetrics(t *testing.T) {
	c := serve(t, openSQLite(t), nil)
	c.post(batchPath, batch(event(0), event(1))).want(t, 201)
	c.post(batchPath, batch(event(1), event(2), event(1))).want(t, 201)
	c.post(batchPath, batch(with(event(0), "severity", `"x"`))).want(t, 409)
	c.post(batchPath, batch(event(5), with(with(event(0), "severity", "1"), "version", "1"), "7")).want(t, 400)
	c.get("/nowhere/"+id(0)).want(t, 404)
	c.do("BREW", "/health", "").want(t, 405)
	got := c.get("/metrics").want(t, 200).body
	for _, line := range []string{
		"datastorage_events_stored_total 3",
		"datastorage_events_duplicate_total 2",
		"datastorage_events_conflict_total 1",
		"datastorage_events_rejected_total 2",
		"datastorage_batch_size_events_sum 5",
		fmt.Sprintf(`datastorage_http_requests_total{code="201",method="POST",route="%s"} 2`, batchPath),
		`datastorage_http_requests_total{code="404",method="GET",route="unmatched"} 1`,
		`datastorage_http_requests_total{code="405",method="other",route="unmatched"} 1`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("%q is not in the metrics", line)
		}
	}
	var own []string
	for line := range strings.Lines(got) {
		if strings.Contains(line, "datastorage_") {
			own = append(own, line)
		}
	}
	problems, err := promlint.New(strings.NewReader(strings.Join(own, ""))).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}
