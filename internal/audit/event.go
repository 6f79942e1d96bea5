// Package audit records what happened to every message in DataStorage: the
// event, the in-process store that buffers and writes events, and the gate that
// holds all work back until DataStorage is ready.
package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Event types of the notification category.
const (
	TypeMessageSent         = "notification.message.sent"
	TypeMessageFailed       = "notification.message.failed"
	TypeAttemptFailed       = "notification.attempt.failed"
	TypeAttemptAmbiguous    = "notification.attempt.ambiguous"
	TypeRequestCancelled    = "notification.request.cancelled"
	TypeMessageSuppressed   = "notification.message.suppressed"
	TypeMessageAcknowledged = "notification.message.acknowledged"
	TypeMessageEscalated    = "notification.message.escalated"
	TypeMessageDryRun       = "notification.message.dryrun"
)

// Outcomes of an event.
const (
	OutcomeSuccess = "success"
	OutcomeFailure = "failure"
	OutcomePending = "pending"
)

// Namespace is the UUIDv5 namespace of all IDs that the controller derives.
var Namespace = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("notification.kubernaut.ai"))

// EventID derives the ID of an event from the fact that it states, so that an
// event that is built twice is stored once: the event type, the request's UID,
// and as the fact needs them the channel and the attempt's number.
func EventID(parts ...string) uuid.UUID {
	return uuid.NewSHA1(Namespace, []byte(strings.Join(parts, "/")))
}

// Event is one audit event as DataStorage's HTTP API has it. Times carry
// microseconds and are in UTC. EventData is a JSON object.
type Event struct {
	EventID        uuid.UUID       `json:"event_id"`
	Version        string          `json:"version"`
	EventType      string          `json:"event_type"`
	EventTimestamp time.Time       `json:"event_timestamp"`
	EventCategory  string          `json:"event_category"`
	EventAction    string          `json:"event_action"`
	EventOutcome   string          `json:"event_outcome"`
	ActorType      string          `json:"actor_type,omitempty"`
	ActorID        string          `json:"actor_id,omitempty"`
	ResourceType   string          `json:"resource_type,omitempty"`
	ResourceID     string          `json:"resource_id,omitempty"`
	CorrelationID  string          `json:"correlation_id"`
	Namespace      string          `json:"namespace,omitempty"`
	ClusterID      string          `json:"cluster_id,omitempty"`
	Severity       string          `json:"severity,omitempty"`
	DurationMS     *int64          `json:"duration_ms,omitempty"`
	ErrorCode      string          `json:"error_code,omitempty"`
	ErrorMessage   string          `json:"error_message,omitempty"`
	ParentEventID  *uuid.UUID      `json:"parent_event_id,omitempty"`
	EventData      json.RawMessage `json:"event_data"`
	// Salt is DataStorage's, and empty before: nobody can guess an event from its
	// hash once the event itself has expired.
	Salt string `json:"salt,omitempty"`
}

// Size is about how many bytes of memory, or of JSON, the event takes.
func (e *Event) Size() int { return len(e.EventData) + len(e.ErrorMessage) + 1024 }

// Violation is one rule that an event breaks: a JSON pointer into the event and
// a sentence that says what is allowed.
type Violation struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func (v Violation) String() string { return v.Pointer + ": " + v.Detail }

// Validate returns the rules that the event breaks, nil where there are none.
// The lengths are those of the original system's contract.
func (e *Event) Validate() []Violation {
	var broken []Violation
	add := func(pointer, detail string) { broken = append(broken, Violation{pointer, detail}) }
	text := func(pointer, value string, required bool, limit int) {
		switch {
		case required && value == "":
			add(pointer, "is required")
		case len(value) > limit && utf8.RuneCountInString(value) > limit:
			add(pointer, fmt.Sprintf("has %d characters; at most %d are allowed", utf8.RuneCountInString(value), limit))
		}
	}
	if e.EventID == uuid.Nil {
		add("/event_id", "must be a UUID other than the nil UUID")
	}
	text("/version", e.Version, true, 10)
	text("/event_type", e.EventType, true, 100)
	if e.EventTimestamp.IsZero() {
		add("/event_timestamp", "is required, as an RFC 3339 time")
	}
	text("/event_category", e.EventCategory, true, 50)
	text("/event_action", e.EventAction, true, 50)
	switch e.EventOutcome {
	case OutcomeSuccess, OutcomeFailure, OutcomePending:
	default:
		add("/event_outcome", "must be success, failure or pending")
	}
	text("/actor_type", e.ActorType, false, 50)
	text("/actor_id", e.ActorID, false, 255)
	text("/resource_type", e.ResourceType, false, 100)
	text("/resource_id", e.ResourceID, false, 255)
	text("/correlation_id", e.CorrelationID, true, 255)
	text("/namespace", e.Namespace, false, 253)
	text("/cluster_id", e.ClusterID, false, 255)
	text("/severity", e.Severity, false, 64)
	text("/error_code", e.ErrorCode, false, 100)
	text("/error_message", e.ErrorMessage, false, 4096)
	if e.DurationMS != nil && *e.DurationMS < 0 {
		add("/duration_ms", "must not be negative")
	}
	if len(e.EventData) < 2 || e.EventData[0] != '{' {
		add("/event_data", "is required, as a JSON object")
	}
	return broken
}
