package controller

import (
	"bytes"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

// eventData is the event_data of all events of a request.
type eventData struct {
	EventType         string            `json:"event_type"`
	NotificationID    string            `json:"notification_id"`
	NotificationUID   string            `json:"notification_uid"`
	Channel           string            `json:"channel,omitempty"`
	ChannelType       string            `json:"channel_type,omitempty"`
	Subject           string            `json:"subject"`
	Body              string            `json:"body"`
	Priority          string            `json:"priority"`
	Type              string            `json:"type"`
	Attempt           int32             `json:"attempt"`
	ContentDigest     string            `json:"content_digest"`
	ContentSize       int64             `json:"content_size,omitempty"`
	ExternalID        string            `json:"external_id"`
	PossibleDuplicate bool              `json:"possible_duplicate"`
	Metadata          map[string]string `json:"metadata"`
	ErrorType         string            `json:"error_type,omitempty"`
	Error             string            `json:"error,omitempty"`
	TemplateError     string            `json:"template_error,omitempty"`
	DuplicateOf       string            `json:"duplicate_of,omitempty"`
	DuplicateOfUID    string            `json:"duplicate_of_uid,omitempty"`
	AcknowledgedBy    string            `json:"acknowledged_by,omitempty"`
	AcknowledgedAt    string            `json:"acknowledged_at,omitempty"`
	EscalatedTo       []string          `json:"escalated_to,omitempty"`
	EscalationReason  string            `json:"escalation_reason,omitempty"`
}

// records calls f for each audit record in a status.
func records(status *v1alpha1.NotificationRequestStatus, f func(*v1alpha1.AuditRecord)) {
	for i := range status.Deliveries {
		d := &status.Deliveries[i]
		for j := range d.AttemptFailures {
			f(&d.AttemptFailures[j].Audit)
		}
		if d.Audit.EventID != "" {
			f(&d.Audit)
		}
	}
	if status.Cancellation.Time != nil {
		f(&status.Cancellation.Audit)
	}
	if status.DuplicateOf.SuppressedTime != nil {
		f(&status.DuplicateOf.Audit)
	}
	if status.Acknowledgement.Time != nil {
		f(&status.Acknowledgement.Audit)
	}
	if status.Escalation.Time != nil {
		f(&status.Escalation.Audit)
	}
}

// countAudit counts the audit records in one state.
func countAudit(status *v1alpha1.NotificationRequestStatus, state v1alpha1.AuditState) (n int) {
	records(status, func(r *v1alpha1.AuditRecord) {
		if r.State == state {
			n++
		}
	})
	return n
}

// applyReceipts notes which events DataStorage has answered for.
func applyReceipts(status *v1alpha1.NotificationRequestStatus, receipts map[string]audit.Receipt) {
	records(status, func(r *v1alpha1.AuditRecord) {
		receipt, ok := receipts[r.EventID]
		if !ok || r.State == v1alpha1.AuditRecorded {
			return
		}
		reason := truncate(receipt.Reason, 256)
		if !receipt.Recorded && r.State == v1alpha1.AuditRejected && r.Message == reason {
			return // offered again, with the same answer
		}
		r.State = v1alpha1.AuditRecorded
		r.LogIndex = receipt.LogIndex
		r.Checkpoint = v1alpha1.LogCheckpoint{Size: receipt.LogSize, Root: receipt.LogRoot}
		r.RecordedTime = second(receipt.Time)
		r.Message = ""
		if !receipt.Recorded {
			r.State = v1alpha1.AuditRejected
			r.Message = reason
		}
	})
}

// pendingEvents builds the events that are still to be recorded.
func pendingEvents(nr *v1alpha1.NotificationRequest, includeBody bool) []audit.Event {
	return eventsIn(v1alpha1.AuditPending, nr, includeBody)
}

// eventsIn builds the events that are in the given state. An event is a function
// of the object alone: built again, from the object as it was stored, it has the
// same bytes.
func eventsIn(state v1alpha1.AuditState, nr *v1alpha1.NotificationRequest, includeBody bool) []audit.Event {
	b := eventBuilder{nr: nr, state: state, includeBody: includeBody}
	for i := range nr.Status.Deliveries {
		d := &nr.Status.Deliveries[i]
		for _, f := range d.AttemptFailures {
			b.attempt(d, f)
		}
		switch {
		case d.Audit.EventID == "":
		case isDryRun(nr):
			b.rehearsed(d)
		default:
			b.end(d)
		}
	}
	if c := nr.Status.Cancellation; c.Time != nil {
		b.add(c.Audit, audit.Event{
			EventType: audit.TypeRequestCancelled, EventTimestamp: c.Time.UTC(),
			EventAction: "cancelled", EventOutcome: audit.OutcomeSuccess,
		}, eventData{})
	}
	if o := nr.Status.DuplicateOf; o.SuppressedTime != nil {
		b.add(o.Audit, audit.Event{
			EventType: audit.TypeMessageSuppressed, EventTimestamp: o.SuppressedTime.UTC(),
			EventAction: "suppressed", EventOutcome: audit.OutcomeSuccess,
		}, eventData{DuplicateOf: o.Name, DuplicateOfUID: o.UID})
	}
	b.answers()
	return b.events
}

type eventBuilder struct {
	nr          *v1alpha1.NotificationRequest
	state       v1alpha1.AuditState
	includeBody bool
	events      []audit.Event
}

func (b *eventBuilder) attempt(d *v1alpha1.Delivery, f v1alpha1.AttemptFailure) {
	e := audit.Event{
		EventType: audit.TypeAttemptFailed, EventTimestamp: f.Time.UTC(),
		EventAction: "attempted", EventOutcome: audit.OutcomeFailure,
		DurationMS: millis(f.StartedTime, f.Time), ErrorCode: f.Error.Code, ErrorMessage: f.Error.Message,
	}
	if f.Error.Class == v1alpha1.ErrorAmbiguous {
		e.EventType, e.EventOutcome = audit.TypeAttemptAmbiguous, audit.OutcomePending
	}
	b.add(f.Audit, e, eventData{
		Channel: d.Channel, ChannelType: f.ChannelType, Attempt: f.Attempt, ContentDigest: f.ContentDigest,
		ErrorType: string(f.Error.Class), Error: f.Error.Reason,
	})
}

func (b *eventBuilder) end(d *v1alpha1.Delivery) {
	data := eventData{
		Channel: d.Channel, ChannelType: d.ChannelType, Attempt: d.Attempts, ContentDigest: d.ContentDigest,
		ExternalID: d.ExternalID, PossibleDuplicate: isTrue(d.PossibleDuplicate), TemplateError: d.TemplateError,
	}
	// A message that was sent has an error where its arrival is in doubt and a
	// person or the policy has settled that.
	data.ErrorType, data.Error = string(d.LastError.Class), d.LastError.Reason
	e := audit.Event{EventAction: "sent", ErrorCode: d.LastError.Code, ErrorMessage: d.LastError.Message}
	if d.State == v1alpha1.DeliverySent {
		e.EventType, e.EventOutcome = audit.TypeMessageSent, audit.OutcomeSuccess
		e.EventTimestamp = d.SentTime.UTC()
		e.DurationMS = millis(d.StartedTime, d.SentTime)
	} else {
		e.EventType, e.EventOutcome = audit.TypeMessageFailed, audit.OutcomeFailure
		e.EventTimestamp = d.FailedTime.UTC()
	}
	b.add(d.Audit, e, data)
}

// answers adds the events of who acknowledged, and of nobody having done so in time.
func (b *eventBuilder) answers() {
	if a := b.nr.Status.Acknowledgement; a.Time != nil {
		at := a.Time.UTC()
		b.add(a.Audit, audit.Event{
			EventType: audit.TypeMessageAcknowledged, EventTimestamp: at,
			EventAction: "acknowledged", EventOutcome: audit.OutcomeSuccess,
		}, eventData{Channel: a.Channel, AcknowledgedBy: a.By, AcknowledgedAt: at.Format(time.RFC3339Nano)})
	}
	if e := b.nr.Status.Escalation; e.Time != nil {
		b.add(e.Audit, audit.Event{
			EventType: audit.TypeMessageEscalated, EventTimestamp: e.Time.UTC(),
			EventAction: "escalated", EventOutcome: audit.OutcomeSuccess,
		}, eventData{EscalatedTo: e.Channels, EscalationReason: string(e.Reason)})
	}
}

// add completes an event and keeps it where its record is in the state asked for.
func (b *eventBuilder) add(record v1alpha1.AuditRecord, e audit.Event, data eventData) {
	if record.State != b.state {
		return
	}
	nr := b.nr
	data.EventType = e.EventType
	data.NotificationID, data.NotificationUID = nr.Name, string(nr.UID)
	data.Subject, data.Priority, data.Type = nr.Spec.Subject, string(nr.Spec.Priority), string(nr.Spec.Type)
	if b.includeBody {
		data.Body = nr.Spec.Body
	}
	data.Metadata = map[string]string{}
	for name, value := range nr.Spec.Fields {
		data.Metadata[name] = string(value)
	}
	e.EventID = uuid.MustParse(record.EventID)
	e.Version = "1.0"
	e.EventCategory = "notification"
	e.ActorType, e.ActorID = "service", "notification-controller"
	e.ResourceType, e.ResourceID = "NotificationRequest", nr.Name
	e.CorrelationID = correlationID(nr)
	e.Namespace = nr.Namespace
	e.Severity = nr.Spec.Severity
	e.EventData = encodeData(data)
	b.events = append(b.events, e)
}

// encodeData leaves characters that only HTML minds as they are: escaped, a text
// of them takes six times the room.
func encodeData(data eventData) json.RawMessage {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	// Strings, numbers and booleans always encode.
	_ = encoder.Encode(data)
	return bytes.TrimSpace(out.Bytes())
}

func correlationID(nr *v1alpha1.NotificationRequest) string {
	if nr.Spec.CorrelationID != "" {
		return nr.Spec.CorrelationID
	}
	return string(nr.UID)
}

func millis(from, to *metav1.MicroTime) *int64 {
	if from == nil || to == nil {
		return nil
	}
	return new(max(to.Sub(from.Time).Milliseconds(), 0))
}

// receipts are DataStorage's answers that status does not hold yet, by event ID.
type receipts struct {
	mu sync.Mutex
	m  map[types.NamespacedName]map[string]audit.Receipt
	// offered are the events of which this process knows that they were rejected,
	// or that it has handed over although status says so.
	offered map[types.NamespacedName]map[string]bool
}

func (r *receipts) add(all []audit.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[types.NamespacedName]map[string]audit.Receipt{}
	}
	for _, receipt := range all {
		key, id := types.NamespacedName{Namespace: receipt.Namespace, Name: receipt.ResourceID}, receipt.EventID.String()
		if r.m[key] == nil {
			r.m[key] = map[string]audit.Receipt{}
		}
		r.m[key][id] = receipt
		r.note(key, id, !receipt.Recorded)
	}
}

// note is called with mu held.
func (r *receipts) note(key types.NamespacedName, id string, offered bool) {
	if !offered {
		delete(r.offered[key], id)
		if len(r.offered[key]) == 0 {
			delete(r.offered, key)
		}
		return
	}
	if r.offered == nil {
		r.offered = map[types.NamespacedName]map[string]bool{}
	}
	if r.offered[key] == nil {
		r.offered[key] = map[string]bool{}
	}
	r.offered[key][id] = true
}

// offer reports whether a rejected event is to be handed over, and notes that it
// was. withdraw takes the note back.
func (r *receipts) offer(key types.NamespacedName, id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.offered[key][id]
	r.note(key, id, true)
	return first
}

func (r *receipts) withdraw(key types.NamespacedName, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(key, id, false)
}

func (r *receipts) of(key types.NamespacedName) map[string]audit.Receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.m[key])
}

// forget drops receipts that status now holds, or has no use for.
func (r *receipts) forget(key types.NamespacedName, known map[string]audit.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, receipt := range known {
		if r.m[key][id] == receipt {
			delete(r.m[key], id)
		}
	}
	if len(r.m[key]) == 0 {
		delete(r.m, key)
	}
}

// drop drops what is known of a request that is gone.
func (r *receipts) drop(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, key)
	delete(r.offered, key)
}
