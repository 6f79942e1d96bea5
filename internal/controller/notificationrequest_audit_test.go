package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// eventful is a request that has an event of every kind still to be recorded.
func eventful(t testing.TB, change ...func(*v1alpha1.NotificationRequest)) *v1alpha1.NotificationRequest {
	t.Helper()
	l := newLab(t, append([]func(*v1alpha1.NotificationRequest){withChannels("good", "bad", "lost")}, change...)...)
	l.now = born.Add(time.Second + 123456789*time.Nanosecond)
	l.attempt("good", transient())
	l.pass(time.Minute)
	l.attempt("good", nil)
	l.attempt("bad", permanent())
	l.attempt("lost", unanswered())
	l.nr.DeletionTimestamp = new(metav1.NewTime(l.now.Truncate(time.Second)))
	l.plan()
	return l.nr
}

func TestEventsSayWhatTheContractSays(t *testing.T) {
	nr := eventful(t, func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Fields = map[string]v1alpha1.FieldValue{"order": "7", "store": "north"}
		nr.Spec.Severity, nr.Spec.CorrelationID = "bad", "incident-9"
	})
	uid := string(nr.UID)
	id := audit.EventID
	base := audit.Event{
		Version: "1.0", EventCategory: "notification", ActorType: "service", ActorID: "notification-controller",
		ResourceType: "NotificationRequest", ResourceID: "order-7", CorrelationID: "incident-9", Namespace: "shop", Severity: "bad",
	}
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	data := func(members string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"notification_id":"order-7","notification_uid":%q,"subject":"Order 7 is late",`+
			`"body":"","priority":"Medium","type":"Simple","metadata":{"order":"7","store":"north"},%s}`, uid, members))
	}
	want := []audit.Event{
		{
			EventID: id(audit.TypeAttemptFailed, uid, "good", "1"), EventType: "notification.attempt.failed",
			EventAction: "attempted", EventOutcome: "failure", EventTimestamp: at("2026-03-01T10:00:02.123456Z"),
			DurationMS: new(int64(1000)), ErrorCode: "503", ErrorMessage: "receiver.example answered 503",
			EventData: data(`"event_type":"notification.attempt.failed","channel":"good","channel_type":"Webhook","attempt":1,"content_digest":"` + digest +
				`","external_id":"","possible_duplicate":false,"error_type":"Transient","error":"ServerError"`),
		},
		{
			EventID: id(audit.TypeMessageSent, uid, "good"), EventType: "notification.message.sent",
			EventAction: "sent", EventOutcome: "success", EventTimestamp: at("2026-03-01T10:01:03.123456Z"),
			DurationMS: new(int64(1000)),
			EventData: data(`"event_type":"notification.message.sent","channel":"good","channel_type":"Webhook","attempt":2,"content_digest":"` + digest +
				`","external_id":"msg-1","possible_duplicate":false`),
		},
		{
			EventID: id(audit.TypeAttemptFailed, uid, "bad", "1"), EventType: "notification.attempt.failed",
			EventAction: "attempted", EventOutcome: "failure", EventTimestamp: at("2026-03-01T10:01:04.123456Z"),
			DurationMS: new(int64(1000)), ErrorCode: "400", ErrorMessage: "receiver.example answered 400",
			EventData: data(`"event_type":"notification.attempt.failed","channel":"bad","channel_type":"Webhook","attempt":1,"content_digest":"` + digest +
				`","external_id":"","possible_duplicate":false,"error_type":"Permanent","error":"BadRequest"`),
		},
		{
			EventID: id(audit.TypeMessageFailed, uid, "bad"), EventType: "notification.message.failed",
			EventAction: "sent", EventOutcome: "failure", EventTimestamp: at("2026-03-01T10:01:04.123456Z"),
			ErrorCode: "400", ErrorMessage: "receiver.example answered 400",
			EventData: data(`"event_type":"notification.message.failed","channel":"bad","channel_type":"Webhook","attempt":1,"content_digest":"` + digest +
				`","external_id":"","possible_duplicate":false,"error_type":"Permanent","error":"BadRequest"`),
		},
		{
			EventID: id(audit.TypeAttemptAmbiguous, uid, "lost", "1"), EventType: "notification.attempt.ambiguous",
			EventAction: "attempted", EventOutcome: "pending", EventTimestamp: at("2026-03-01T10:01:05.123456Z"),
			DurationMS: new(int64(1000)), ErrorMessage: unanswered().Message,
			EventData: data(`"event_type":"notification.attempt.ambiguous","channel":"lost","channel_type":"Webhook","attempt":1,"content_digest":"` + digest +
				`","external_id":"","possible_duplicate":false,"error_type":"Ambiguous","error":"Timeout"`),
		},
		{
			EventID: id(audit.TypeMessageFailed, uid, "lost"), EventType: "notification.message.failed",
			EventAction: "sent", EventOutcome: "failure", EventTimestamp: at("2026-03-01T10:01:05.123456Z"),
			ErrorMessage: "the request was deleted before the message was sent; before that Timeout: " + unanswered().Message,
			EventData: data(`"event_type":"notification.message.failed","channel":"lost","channel_type":"Webhook","attempt":1,"content_digest":"` + digest +
				`","external_id":"","possible_duplicate":true,"error_type":"Cancelled","error":"Cancelled"`),
		},
		{
			EventID: id(audit.TypeRequestCancelled, uid), EventType: "notification.request.cancelled",
			EventAction: "cancelled", EventOutcome: "success", EventTimestamp: at("2026-03-01T10:01:05Z"),
			EventData: data(`"event_type":"notification.request.cancelled","attempt":0,"content_digest":"","external_id":"","possible_duplicate":false`),
		},
	}
	for i := range want {
		e := &want[i]
		e.Version, e.EventCategory, e.ActorType, e.ActorID = base.Version, base.EventCategory, base.ActorType, base.ActorID
		e.ResourceType, e.ResourceID, e.CorrelationID = base.ResourceType, base.ResourceID, base.CorrelationID
		e.Namespace, e.Severity = base.Namespace, base.Severity
	}
	sameJSON := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".EventData" }, cmp.Transformer("JSON", func(raw json.RawMessage) map[string]any {
		var v map[string]any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Errorf("event data is not an object: %v", err)
		}
		return v
	}))
	if diff := cmp.Diff(want, pendingEvents(nr, false), sameJSON); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestEventsAreTheSameFromTheStoredObject(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.NotificationRequest){
		"as it is": func(*v1alpha1.NotificationRequest) {},
		"many fields and awkward text": func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.Subject, nr.Spec.Body = "<b>ü\u2028\x01</b>", "a&b\r\n\"\\\ufffd"
			nr.Spec.Fields = map[string]v1alpha1.FieldValue{}
			for i := range 32 {
				nr.Spec.Fields[fmt.Sprintf("f%d", i)] = v1alpha1.FieldValue(strings.Repeat("ß", i))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			nr := eventful(t, change)
			built := encode(t, pendingEvents(nr, true))
			raw, err := json.Marshal(nr)
			if err != nil {
				t.Fatal(err)
			}
			for range 8 { // the order of a map is another one each time
				stored := &v1alpha1.NotificationRequest{}
				if err := json.Unmarshal(raw, stored); err != nil {
					t.Fatal(err)
				}
				equal(t, "events", encode(t, pendingEvents(stored, true)), built)
			}
		})
	}
}

func encode(t testing.TB, events []audit.Event) (all []string) {
	t.Helper()
	for _, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(raw))
	}
	return all
}

func TestEventsStayTheSameWhateverBecomesOfTheChannel(t *testing.T) {
	l := newLab(t)
	l.attempt(ops, transient())
	before := encode(t, pendingEvents(l.nr, false))
	ch := l.channels[ops]
	ch.kind, ch.config = v1alpha1.ChannelFile, "B"
	l.channels[ops] = ch
	l.plan()
	equal(t, "event of the first attempt", encode(t, pendingEvents(l.nr, false)), before)
	l.pass(time.Minute)
	l.attempt(ops, permanent())
	equal(t, "event of the first attempt", encode(t, pendingEvents(l.nr, false))[0], before[0])
}

func TestEventsOfTheLargestRequestAreValid(t *testing.T) {
	const wide = "\U0001f4a3" // four bytes, one character
	nr := eventful(t, func(nr *v1alpha1.NotificationRequest) {
		nr.Namespace, nr.Name = strings.Repeat("n", 63), strings.Repeat("n", 253)
		nr.Spec.Subject, nr.Spec.Body = strings.Repeat(wide, 500), strings.Repeat(wide, 32768)
		nr.Spec.Severity, nr.Spec.CorrelationID = strings.Repeat(wide, 64), strings.Repeat(wide, 253)
		nr.Spec.Fields = map[string]v1alpha1.FieldValue{}
		for i := range 32 {
			nr.Spec.Fields[strings.Repeat(wide, 61)+fmt.Sprintf("%02d", i)] = v1alpha1.FieldValue(strings.Repeat(wide, 1024))
		}
	})
	long := v1alpha1.DeliveryError{
		Class: v1alpha1.ErrorAmbiguous, Reason: strings.Repeat("R", 64), Code: strings.Repeat(wide, 64), Message: strings.Repeat(wide, 256),
	}
	for i := range nr.Status.Deliveries {
		d := &nr.Status.Deliveries[i]
		d.Channel, d.ExternalID = strings.Repeat("c", 252)+fmt.Sprint(i), strings.Repeat(wide, 256)
		d.LastError = long
		for j := range d.AttemptFailures {
			d.AttemptFailures[j].Error = long
		}
	}
	checkSchema(t, nr)
	events := pendingEvents(nr, true)
	equal(t, "events", len(events), 7)
	for _, e := range events {
		if broken := e.Validate(); broken != nil {
			t.Errorf("%s is not valid: %v", e.EventType, broken)
		}
	}
}

func TestBodyIsInTheEventOnlyWhereAsked(t *testing.T) {
	nr := eventful(t)
	for _, include := range []bool{false, true} {
		for _, e := range pendingEvents(nr, include) {
			var data struct {
				Body *string `json:"body"`
			}
			if err := json.Unmarshal(e.EventData, &data); err != nil {
				t.Fatal(err)
			}
			want := ""
			if include {
				want = nr.Spec.Body
			}
			equal(t, "body of "+e.EventType, data.Body, &want)
		}
	}
}

func TestCorrelationIDIsTheUIDWhereNoneIsGiven(t *testing.T) {
	for _, e := range pendingEvents(eventful(t), false) {
		equal(t, "correlation ID", e.CorrelationID, "6f0c7f4e-0000-4000-8000-000000000007")
	}
}

func TestDurationOfAnAttemptIsNeverNegative(t *testing.T) {
	early, late := micro(born), micro(born.Add(1500*time.Microsecond))
	equal(t, "forwards", millis(early, late), new(int64(1)))
	equal(t, "backwards, after the clock was set", millis(late, early), new(int64(0)))
	equal(t, "unknown", millis(nil, late), nil)
}

func TestReceiptsBecomeStatus(t *testing.T) {
	root := strings.Repeat("A", 43) + "="
	recorded := audit.Receipt{Recorded: true, LogIndex: new(int64(7)), LogSize: 9, LogRoot: root, Time: born.Add(time.Hour + 5*time.Millisecond)}
	rejected := audit.Receipt{Reason: strings.Repeat("ß", 200), Time: born.Add(2 * time.Hour)}
	l := newLab(t)
	l.attempt(ops, nil)
	id := l.delivery(ops).Audit.EventID
	answer := func(r audit.Receipt) v1alpha1.AuditRecord {
		applyReceipts(&l.nr.Status, map[string]audit.Receipt{id: r, "00000000-0000-0000-0000-000000000000": r})
		return l.delivery(ops).Audit
	}
	equal(t, "pending", len(pendingEvents(l.nr, false)), 1)

	got := answer(rejected)
	equal(t, "state", got.State, v1alpha1.AuditRejected)
	equal(t, "reason", got.Message, strings.Repeat("ß", 126)+"...")
	equal(t, "log index", got.LogIndex, nil)
	equal(t, "pending", len(pendingEvents(l.nr, false)), 0)
	equal(t, "settled", settled(l.nr), true)
	checkSchema(t, l.nr)

	later := rejected
	later.Time = later.Time.Add(10 * time.Minute)
	equal(t, "rejected again for the same reason", answer(later), got)
	later.Reason = "another"
	equal(t, "rejected for another reason", answer(later).Message, "another")

	got = answer(recorded)
	equal(t, "recorded later", got, v1alpha1.AuditRecord{
		EventID: id, State: v1alpha1.AuditRecorded, LogIndex: new(int64(7)), RecordedTime: new(metav1.NewTime(born.Add(time.Hour))),
		Checkpoint: v1alpha1.LogCheckpoint{Size: 9, Root: root},
	})
	equal(t, "what is recorded stays so", answer(rejected), got)
	second := recorded
	second.LogIndex, second.Time = new(int64(9)), born.Add(5*time.Hour)
	equal(t, "the first answer stays", answer(second), got)
	checkSchema(t, l.nr)
}

func TestReceiptWithoutAPlaceInTheLog(t *testing.T) {
	l := newLab(t)
	l.attempt(ops, nil)
	applyReceipts(&l.nr.Status, map[string]audit.Receipt{l.delivery(ops).Audit.EventID: {Recorded: true, Time: born}})
	equal(t, "state", l.delivery(ops).Audit.State, v1alpha1.AuditRecorded)
	equal(t, "log index", l.delivery(ops).Audit.LogIndex, nil)
	equal(t, "checkpoint", l.delivery(ops).Audit.Checkpoint, v1alpha1.LogCheckpoint{})
	checkSchema(t, l.nr)
}

func TestReceiptsWaitForTheirRequest(t *testing.T) {
	receipt := func(name, id string, recorded bool) audit.Receipt {
		return audit.Receipt{EventID: audit.EventID(id), Namespace: "shop", ResourceID: name, Recorded: recorded}
	}
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "shop", Name: name} }
	ids := func(m map[string]audit.Receipt) (all []bool) {
		for _, id := range []string{"1", "2", "3"} {
			if r, ok := m[audit.EventID(id).String()]; ok {
				all = append(all, r.Recorded)
			}
		}
		return all
	}
	r := &receipts{}
	equal(t, "none", len(r.of(key("a"))), 0)
	r.forget(key("a"), nil)
	r.add([]audit.Receipt{receipt("a", "1", true), receipt("b", "2", true), receipt("a", "3", false)})
	known := r.of(key("a"))
	equal(t, "of a", ids(known), []bool{true, false})
	equal(t, "of b", ids(r.of(key("b"))), []bool{true})

	r.add([]audit.Receipt{receipt("a", "3", true), receipt("a", "2", true)})
	equal(t, "what was handed out", ids(known), []bool{true, false})
	r.forget(key("a"), known)
	equal(t, "what came meanwhile stays", ids(r.of(key("a"))), []bool{true, true})
	r.forget(key("a"), r.of(key("a")))
	r.drop(key("b"))
	equal(t, "left", len(r.m), 0)
}

func TestRejectedEventsDoNotHoldTheRequest(t *testing.T) {
	l := newLab(t)
	l.attempt(ops, permanent())
	for i, e := range pendingEvents(l.nr, false) {
		equal(t, "settled", settled(l.nr), false)
		l.receipts[e.EventID.String()] = audit.Receipt{Recorded: i == 0, Reason: "no", Time: l.now}
		l.plan()
	}
	equal(t, "settled", settled(l.nr), true)
	equal(t, "rejected", countAudit(&l.nr.Status, v1alpha1.AuditRejected), 1)
}

func TestMessageIsTheSameForEachAttempt(t *testing.T) {
	nr := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Severity, nr.Spec.CorrelationID = "bad", "incident-9"
		nr.Spec.Regarding = v1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
		nr.Spec.Links = []v1alpha1.Link{{Label: "Run book", URL: "https://example.com/run"}}
		nr.Spec.Fields = map[string]v1alpha1.FieldValue{"order": "7"}
	})
	first, second := message(nr, ops, 1), message(nr, ops, 2)
	equal(t, "message", first, &delivery.Message{
		Key:        audit.EventID("delivery", string(nr.UID), ops).String(),
		RequestUID: string(nr.UID), Namespace: "shop", Name: "order-7", Channel: ops, Created: born,
		Subject: "Order 7 is late", Body: "It left the house at noon.", BodyFormat: "Plain", Type: "Simple", Priority: "Medium",
		Severity: "bad", CorrelationID: "incident-9", Attempt: 1,
		Regarding: &delivery.Reference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"},
		Links:     []delivery.Link{{Label: "Run book", URL: "https://example.com/run"}},
		Fields:    map[string]string{"order": "7"},
	})
	second.Attempt = 1
	equal(t, "the second attempt's", second, first)

	keys := []string{first.Key, message(nr, "other", 1).Key}
	nr.UID = "another"
	keys = append(keys, message(nr, ops, 1).Key)
	slices.Sort(keys)
	equal(t, "keys that differ", len(slices.Compact(keys)), 3)
}

// rejectAll answers for all events that were handed over as DataStorage does to
// what it will not take, and takes them off the list.
func (b *bench) rejectAll() {
	var answers []audit.Receipt
	for _, e := range b.recorded {
		answers = append(answers, audit.Receipt{EventID: e.EventID, Namespace: e.Namespace, ResourceID: e.ResourceID, Reason: "not to my liking", Time: time.Now()})
	}
	b.recorded = nil
	b.receipts.add(answers)
}

func TestARejectedEventIsToldAndRecordedLaterThoughTheRequestHasFinished(t *testing.T) {
	b := newBench(t, newRequest(withChannels(), func(nr *v1alpha1.NotificationRequest) { nr.Spec.TTLSecondsAfterFinished = new(int32(3600)) }))
	b.send()
	b.told()
	handed := b.recorded
	b.rejectAll()
	b.failNext.Store(conflict())
	b.mustLook()
	equal(t, "told before status says so", b.told(), nil)
	b.mustLook()
	equal(t, "told", b.told(), []string{"Warning AuditRejected DataStorage rejected 1 event: not to my liking; " +
		"it stays in the dead-letter queue and is offered again every 10 minutes and after a restart"})
	nr := b.stored()
	equal(t, "state", nr.Status.Deliveries[0].Audit.State, v1alpha1.AuditRejected)
	equal(t, "finalizers", nr.Finalizers, nil)
	equal(t, "handed over by the process that knows of the rejection", len(b.recorded), 0)
	writes := b.writes.Load()
	b.recorded = handed
	b.rejectAll()
	b.mustLook()
	equal(t, "writes for the same answer again", b.writes.Load()-writes, int32(0))

	b.recorded = handed
	b.acknowledge()
	b.recorded = nil
	equal(t, "deleted later", b.mustLook() > 0, true)
	nr = b.stored()
	equal(t, "state", nr.Status.Deliveries[0].Audit.State, v1alpha1.AuditRecorded)
	equal(t, "message", nr.Status.Deliveries[0].Audit.Message, "")
	equal(t, "audited", meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionAudited), true)
	equal(t, "conditions", len(nr.Status.Conditions), 4)
	equal(t, "told", b.told(), nil)
	equal(t, "handed over", len(b.recorded), 0)
	equal(t, "kept", len(b.receipts.m)+len(b.receipts.offered), 0)
}

func TestARestartOffersARejectedEventOnceMoreAsItWas(t *testing.T) {
	for name, taken := range map[string]bool{"and it is rejected again": false, "and it is recorded": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newRequest(withChannels()))
			b.console = permanent()
			b.send()
			before := encode(t, b.recorded)
			b.rejectAll()
			b.mustLook()

			// Another process, with nothing but status to go by.
			again := newBench(t, newRequest(withChannels()))
			again.Client, again.cluster = b.Client, b.cluster
			again.refuse = errors.New("the disk is full")
			equal(t, "looked at again where it was not taken", again.mustLook(), auditRetry)
			again.refuse = nil
			again.mustLook()
			equal(t, "offered", encode(t, again.recorded), before)
			equal(t, "state meanwhile", b.stored().Status.Deliveries[0].Audit.State, v1alpha1.AuditRejected)
			again.mustLook()
			again.mustLook()
			equal(t, "offered without an answer", len(again.recorded), 2)
			want := v1alpha1.AuditRejected
			if taken {
				again.acknowledge()
				again.recorded = nil
				want = v1alpha1.AuditRecorded
			} else {
				again.rejectAll()
			}
			for range 3 {
				again.mustLook()
			}
			equal(t, "offered after the answer", len(again.recorded), 0)
			records(&b.stored().Status, func(r *v1alpha1.AuditRecord) { equal(t, "state", r.State, want) })
		})
	}
}

func TestWhatWasOfferedIsForgottenWithItsRequest(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	b.mustLook()
	b.rejectAll()
	b.mustLook()
	if err := b.cluster.Delete(t.Context(), b.stored()); err != nil {
		t.Fatal(err)
	}
	b.mustLook()
	equal(t, "kept", len(b.receipts.m)+len(b.receipts.offered), 0)
}
