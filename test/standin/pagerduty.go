package standin

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// PagerDutyKey is the routing key that is valid at first.
const PagerDutyKey = "e93facc04764012d7bfb002500d5d1a6"

// PagerDutyEvent is an event that PagerDuty has taken.
type PagerDutyEvent struct {
	Host     string // that it was sent to
	Action   string
	DedupKey string
	ID       string // custom_details.id
	Content  []byte // as it came
}

// PagerDutyAlert is what the events with one key made while it was open.
type PagerDutyAlert struct {
	DedupKey string
	Triggers int
	Open     bool
}

// PagerDuty takes events at /v2/enqueue. It may be used from any goroutine.
type PagerDuty struct {
	front
	URL string

	// Proxy leads every connection to it, as PagerDuty's own hosts, for whose names
	// CA has signed.
	Proxy string
	CA    []byte

	mu     sync.Mutex
	key    string
	events []PagerDutyEvent
	alerts []PagerDutyAlert
}

// NewPagerDuty starts a PagerDuty that ends with the test.
func NewPagerDuty(tb testing.TB) *PagerDuty {
	p := &PagerDuty{key: PagerDutyKey}
	p.provider = p.serve
	plain := newServer(tb, p)
	plain.Start()
	p.URL = plain.URL + "/v2/enqueue"
	certificate := NewCertificate(tb, time.Hour, "events.pagerduty.com", "events.eu.pagerduty.com")
	p.Proxy, p.CA = Impersonate(tb, certificate.Server, p), certificate.PEM
	return p
}

// SetKey makes a routing key the only valid one.
func (p *PagerDuty) SetKey(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key = key
}

// Events returns what was taken so far.
func (p *PagerDuty) Events() []PagerDutyEvent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// Alerts returns what was made of the events, the oldest first.
func (p *PagerDuty) Alerts() []PagerDutyAlert {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.alerts)
}

// Limit has the next request answered with 429 and what Retry-After says.
func (p *PagerDuty) Limit(retryAfter string) {
	p.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		w.WriteHeader(http.StatusTooManyRequests)
	})
}

// Refuse has the next request answered with 400 and these words for what is wrong.
func (p *PagerDuty) Refuse(wrong ...string) {
	p.Answer(func(w http.ResponseWriter, _ *http.Request) { invalid(w, wrong...) })
}

func (p *PagerDuty) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v2/enqueue" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(content) > 512_000 {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	var event pagerDutyEvent
	if err := json.Unmarshal(content, &event); err != nil {
		say(w, http.StatusBadRequest, map[string]any{
			"status": "Unrecognized object", "message": "Event object format is unrecognized", "errors": []string{"JSON parse error"},
		})
		return
	}
	if wrong := event.check(); len(wrong) > 0 {
		invalid(w, wrong...)
		return
	}
	if event.RoutingKey != p.key {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "Invalid routing key")
		return
	}
	p.events = append(p.events, PagerDutyEvent{
		Host: r.Host, Action: event.EventAction, DedupKey: event.DedupKey, ID: event.Payload.Details.ID, Content: content,
	})
	p.apply(event.EventAction, event.DedupKey)
	say(w, http.StatusAccepted, map[string]any{"status": "success", "message": "Event processed", "dedup_key": event.DedupKey})
}

// apply does to alerts what an event says. What resolves no open alert is dropped.
func (p *PagerDuty) apply(action, key string) {
	open := slices.IndexFunc(p.alerts, func(a PagerDutyAlert) bool { return a.Open && a.DedupKey == key })
	switch {
	case action == "trigger" && open < 0:
		p.alerts = append(p.alerts, PagerDutyAlert{DedupKey: key, Triggers: 1, Open: true})
	case action == "trigger":
		p.alerts[open].Triggers++
	case action == "resolve" && open >= 0:
		p.alerts[open].Open = false
	}
}

func invalid(w http.ResponseWriter, wrong ...string) {
	say(w, http.StatusBadRequest, map[string]any{"status": "invalid event", "message": "Event object is invalid", "errors": wrong})
}

func say(w http.ResponseWriter, status int, answer map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

type pagerDutyEvent struct {
	RoutingKey  string `json:"routing_key"`
	EventAction string `json:"event_action"`
	DedupKey    string `json:"dedup_key"`
	Client      string `json:"client"`
	ClientURL   string `json:"client_url"`
	Payload     struct {
		Summary   string `json:"summary"`
		Source    string `json:"source"`
		Severity  string `json:"severity"`
		Timestamp string `json:"timestamp"`
		Component string `json:"component"`
		Group     string `json:"group"`
		Class     string `json:"class"`
		Details   struct {
			ID string `json:"id"`
		} `json:"custom_details"`
	} `json:"payload"`
	Links []struct {
		Href string `json:"href"`
		Text string `json:"text"`
	} `json:"links"`
}

var alphanumeric = regexp.MustCompile(`^[0-9A-Za-z]*$`)

// check returns what PagerDuty finds wrong, in its own words.
func (e *pagerDutyEvent) check() (wrong []string) {
	complain := func(bad bool, words string) {
		if bad {
			wrong = append(wrong, words)
		}
	}
	blank := func(s string) bool { return strings.TrimSpace(s) == "" }
	complain(len(e.RoutingKey) != 32, "Length of 'routing_key' is incorrect (should be 32 characters)")
	complain(!alphanumeric.MatchString(e.RoutingKey), "'routing_key' cannot contain non-alphanumeric characters.")
	complain(characters(e.DedupKey) > 255, "'dedup_key' is too long (maximum is 255 characters)")
	switch e.EventAction {
	case "resolve", "acknowledge":
		complain(blank(e.DedupKey), "'dedup_key' is missing or blank")
		return wrong
	case "trigger":
	default:
		return append(wrong, "'event_action' is invalid (must be one of the following: 'trigger', 'acknowledge' or 'resolve')")
	}
	complain(blank(e.Payload.Summary), "'payload.summary' is missing or blank")
	complain(characters(e.Payload.Summary) > 1024, "'summary' is too long (maiximum is 1024 characters)") // as PagerDuty spells it
	complain(blank(e.Payload.Source), "'payload.source' is missing or blank")
	complain(blank(e.Payload.Severity), "'payload.severity' is missing or blank")
	complain(!slices.Contains([]string{"", "critical", "warning", "error", "info"}, e.Payload.Severity),
		"'payload.severity' is invalid (must be one of the following: 'critical', 'warning', 'error' or 'info')")
	if _, err := time.Parse(time.RFC3339, e.Payload.Timestamp); err != nil {
		complain(e.Payload.Timestamp != "", "'payload.timestamp' is invalid")
	}
	for _, l := range e.Links {
		complain(blank(l.Href), "'links.href' is missing or blank")
	}
	return wrong
}
