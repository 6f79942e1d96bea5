package datastorage

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"kubernaut.ai/notification/internal/audit"
)

const problemBase = "https://kubernaut.ai/problems/"

// problemKind is one documented kind of failure: the last part of its type URI,
// its HTTP status and its title, which never change for a kind.
type problemKind struct {
	slug   string
	status int
	title  string
}

var (
	invalidRequest   = problemKind{"invalid-request", http.StatusBadRequest, "The request is malformed"}
	invalidEvent     = problemKind{"invalid-event", http.StatusBadRequest, "An event breaks a rule"}
	unauthenticated  = problemKind{"unauthenticated", http.StatusUnauthorized, "A valid bearer token is needed"}
	forbidden        = problemKind{"forbidden", http.StatusForbidden, "The caller may not do this"}
	notFound         = problemKind{"not-found", http.StatusNotFound, "There is nothing here"}
	methodNotAllowed = problemKind{"method-not-allowed", http.StatusMethodNotAllowed, "The path has no such method"}
	eventConflict    = problemKind{"event-conflict", http.StatusConflict, "An event ID is taken by other content"}
	requestTimeout   = problemKind{"request-timeout", http.StatusRequestTimeout, "The request did not arrive in time"}
	tooLarge         = problemKind{"too-large", http.StatusRequestEntityTooLarge, "The request is too large"}
	unsupportedMedia = problemKind{"unsupported-media-type", http.StatusUnsupportedMediaType, "The body has the wrong media type"}
	tooManyRequests  = problemKind{"too-many-requests", http.StatusTooManyRequests, "Too many requests at once"}
	internalError    = problemKind{"internal-error", http.StatusInternalServerError, "The server failed"}
	logTampered      = problemKind{"log-tampered", http.StatusInternalServerError, "The log contradicts itself"}
	unavailable      = problemKind{"unavailable", http.StatusServiceUnavailable, "The service cannot do this now"}
)

// Problem is an RFC 9457 problem document. Instance is the request's ID.
type Problem struct {
	Type       string        `json:"type"`
	Title      string        `json:"title"`
	Status     int           `json:"status"`
	Detail     string        `json:"detail"`
	Instance   string        `json:"instance"`
	Errors     []ProblemItem `json:"errors,omitempty"`
	retryAfter time.Duration
	rejected   int
}

// ProblemItem is one fault in the request's body. Pointer is a JSON pointer into
// the body. LogIndex and Stored are there where the fault is an ID that a stored
// event has.
type ProblemItem struct {
	Pointer  string       `json:"pointer"`
	Detail   string       `json:"detail"`
	LogIndex *int64       `json:"log_index,omitempty"`
	Stored   *audit.Facts `json:"stored,omitempty"`
}

func problem(kind problemKind, detail string) *Problem {
	return &Problem{Type: problemBase + kind.slug, Title: kind.title, Status: kind.status, Detail: detail}
}

// invalidEvents points at what is wrong with a number of events.
func invalidEvents(events int, broken []ProblemItem) *Problem {
	p := problem(invalidEvent, "at least one event is invalid; nothing was stored")
	p.Errors, p.rejected = broken, events
	return p
}

func retryable(kind problemKind, detail string) *Problem {
	p := problem(kind, detail)
	p.retryAfter = time.Second
	return p
}

// write answers with the problem.
func (p *Problem) write(w http.ResponseWriter) {
	p.Instance = w.Header().Get(requestIDHeader)
	w.Header().Set("Content-Type", "application/problem+json")
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(p.retryAfter.Seconds())))
	}
	w.WriteHeader(p.Status)
	// The status line is out, so nobody is left to tell about a failed write.
	_ = json.NewEncoder(w).Encode(p)
}
