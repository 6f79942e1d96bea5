package datastorage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"kubernaut.ai/notification/internal/audit"
)

// canonicalEvent has every member that an event may have.
const canonicalEvent = `{"actor_id":"notification-controller","actor_type":"service","cluster_id":"east","correlation_id":"correlation-0",` +
	`"duration_ms":12,"error_code":"E1","error_message":"it broke","event_action":"sent","event_category":"notification",` +
	`"event_data":{"a":1},"event_id":"0190b3f4-5c1e-7abc-8def-0123456789ab","event_outcome":"success",` +
	`"event_timestamp":"2026-01-02T03:04:05.678901Z","event_type":"notification.message.sent","namespace":"default",` +
	`"parent_event_id":"123e4567-e89b-42d3-a456-426614174000","resource_id":"request-0","resource_type":"NotificationRequest",` +
	`"severity":"high","version":"1.0"}`

// unfinished is canonicalEvent up to the middle of a string.
var unfinished, _, _ = strings.Cut(canonicalEvent, "it broke")

// inEvent puts with in the place of old in canonicalEvent, once.
func inEvent(old, with string) string { return strings.Replace(canonicalEvent, old, with, 1) }

func inData(value string) string { return inEvent(`{"a":1}`, value) }

func inMessage(escaped string) string { return inEvent("it broke", escaped) }

func nested(levels int) string {
	return inData(strings.Repeat(`{"a":`, levels/2) + strings.Repeat("[", levels-levels/2) + strings.Repeat("]", levels-levels/2) + strings.Repeat("}", levels/2))
}

// taken are read by scanCanonical, and so are the events that our own client sends.
var taken = []string{
	canonicalEvent,
	inEvent(`"duration_ms":12,`, ""),
	inEvent(`"duration_ms":12`, `"duration_ms":0`),
	inEvent(`"duration_ms":12`, `"duration_ms":-1`),
	inEvent(`"duration_ms":12`, `"duration_ms":9007199254740991`),
	inEvent(`"parent_event_id":"123e4567-e89b-42d3-a456-426614174000",`, ""),
	inEvent(`"severity":"high",`, ""),
	inEvent("correlation-0", ""),
	inEvent("correlation-0", strings.Repeat("x", 256)),
	inEvent(".678901Z", "Z"),
	inEvent(".678901Z", ".123456789Z"),
	inEvent("2026-01-02T03:04:05.678901Z", "0001-01-01T00:00:00Z"),
	inMessage(`line\nof \"text\" \\ \b\t\f\r \u0001\u000b\u000e\u000f\u001a\u001f`),
	inMessage("é\u2028\ufffd\U0001f600\x7f/<&>"),
	inMessage(`\\u0000`),
	inData(`{}`), inData(`[]`), inData(`null`), inData(`"text"`), inData(`-7`),
	inData(`{"":[],"A":{},"a":[1,-2,0,true,false,null,"",[[]],{"b":{}}],"aa":"x"}`),
	inData(`{"body":"line\nof \"text\" \\ \b\t\f\r \u0001\u000b\u000e\u000f\u001f é�","leaf_hash":"x","salt":"x"}`),
	inData(`{"n":[9007199254740991,-9007199254740991]}`),
	nested(maxDepth - 1),
}

// left are not read by scanCanonical: they are not canonical, or not so plain, or
// there is something wrong with them.
var left = []string{
	"", "{}", "[]", "null", `"`, "{", "[" + canonicalEvent + "]", canonicalEvent[:len(canonicalEvent)-1], strings.Repeat("[", 1e5),
	canonicalEvent + "}", canonicalEvent + ",", canonicalEvent + " ", canonicalEvent + "\n", " " + canonicalEvent, canonicalEvent + canonicalEvent,
	inEvent(`{`, `{ `), inEvent(`,`, `, `), inEvent(`,`, ` ,`), inEvent(`:`, `: `), inEvent(`:`, "\t:"), inEvent(`"1.0"}`, `"1.0" }`),
	inEvent(`"1.0"}`, `"1.0",}`),
	inEvent(`12,`, `12 ,`), inEvent(`12,`, `12,,`), inEvent(`,`, ``), inEvent(`:`, ``),

	// Names.
	inEvent(`"actor_id":"notification-controller","actor_type":"service"`, `"actor_type":"service","actor_id":"notification-controller"`),
	inEvent(`"actor_type"`, `"actor_id":"x","actor_type"`), inEvent(`"version":"1.0"`, `"version":"1.0","version":"1.0"`),
	inEvent(`"version":"1.0"`, `"severity":"high","version":"1.0"`),
	inEvent(`"event_id"`, `"Event_ID"`), inEvent(`"event_id"`, `"event_i\u0064"`), inEvent(`{`, `{"Event_ID":"x",`),
	inEvent(`{`, `{"":1,`), inEvent(`{`, `{"a":1,`), inEvent(`"1.0"`, `"1.0","x":1`), inEvent(`,"version":"1.0"`, ``),
	inEvent(`"event_id":"0190b3f4-5c1e-7abc-8def-0123456789ab",`, ``), inEvent(`"correlation_id":"correlation-0",`, ``),
	inEvent(`"namespace"`, `"leaf_hash":"x","namespace"`), inEvent(`"namespace"`, `"log_index":1,"namespace"`),
	inEvent(`"resource_id"`, `"recorded_at":"2026-01-02T03:04:05Z","resource_id"`), inEvent(`"severity"`, `"salt":"x","severity"`),

	// Members.
	inEvent(`"notification-controller"`, `""`), inEvent(`"notification-controller"`, `null`), inEvent(`"notification-controller"`, `1`),
	inEvent(`"correlation-0"`, `null`), inEvent(`"correlation-0"`, `{}`), inEvent(`"1.0"`, `null`), inEvent(`"1.0"`, `1.0`), inEvent(`{"a":1}`, ``),
	inEvent(`:12`, `:null`), inEvent(`:12`, `:"12"`), inEvent(`:12`, `:`), inEvent(`:12`, `:-`), inEvent(`:12`, `:012`), inEvent(`:12`, `:-0`),
	inEvent(`:12`, `:+1`),
	inEvent(`:12`, `:1.0`), inEvent(`:12`, `:1.5`), inEvent(`:12`, `:1e2`), inEvent(`:12`, `:0x1`), inEvent(`:12`, `:1_0`), inEvent(`:12`, `:--1`),
	inEvent(`:12`, `:1-2`),
	inEvent(`:12`, `:9007199254740992`), inEvent(`:12`, `:-9007199254740992`), inEvent(`:12`, `:9223372036854775808`),
	inEvent(`:12`, `:1`+strings.Repeat("0", 400)),
	inEvent(".678901Z", ".678901+00:00"), inEvent(".678901Z", ".678901-00:00"), inEvent(".678901Z", ".678901+02:00"), inEvent(".678901Z", ".678901z"),
	inEvent("02T03", "02t03"), inEvent("02T03", "02 03"), inEvent("T03:", "T3:"), inEvent("T03:", "T24:"), inEvent("01-02T", "02-30T"),
	inEvent("2026", "12026"),
	inEvent(".678901Z", ".678900Z"), inEvent(".678901Z", ".000Z"), inEvent(".678901Z", ",678901Z"), inEvent(".678901Z", ".Z"),
	inEvent(".678901Z", ".1234567891Z"),
	inEvent(".678901Z", ""), inEvent(`"2026-01-02T03:04:05.678901Z"`, `null`), inEvent(`"2026-01-02T03:04:05.678901Z"`, `""`),
	inEvent("7abc", "7ABC"), inEvent("0190b3f4-", "0190b3f4"), inEvent("0190b3f4", "{0190b3f4"), inEvent("0190b3f4", "urn:uuid:0190b3f4"),
	inEvent("0190b3f4", "0190b3fg"),
	inEvent("e89b", "E89B"), inEvent("123e4567-e89b-42d3-a456-426614174000", uuid.Nil.String()), inEvent("123e4567-e89b-42d3-a456-426614174000", ""),

	// Strings.
	inMessage(`\u001F`), inMessage(`\u001g`), inMessage(`\/`), inMessage(`\u0041`), inMessage(`\u000a`), inMessage(`\u0008`), inMessage(`\u0009`),
	inMessage(`\u000c`), inMessage(`\u000d`),
	inMessage(`\u0000`), inMessage(`\u0022`), inMessage(`\u005c`), inMessage(`\u007f`), inMessage(`\ud83d\ude00`), inMessage(`\ud800`),
	inMessage(`\u2028`), inMessage(`\x41`), inMessage(`\a`), inMessage(`\v`),
	inMessage(`\101`), inMessage(`\'`), inMessage(`\`), inMessage(`\u`), inMessage(`\u00`), inMessage(`\U0001f600`), inMessage("\x00"),
	inMessage("\n"), inMessage("\x1f"), inMessage(`"`),
	inMessage("\xff"), inMessage("\xed\xa0\x80"), inMessage("\xc0\x80"), inMessage("\xc3"), inMessage("\xf5\x80\x80\x80"),
	inData(`{"s":"\u001F"}`), inData(`{"s":"\/"}`), inData(`{"s":"\u0041"}`), inData(`{"s":"\u0000"}`), inData(`{"s":"\ud83d\ude00"}`),
	inData(`{"s":"` + "\xff" + `"}`), inData("{\"s\":\"\n\"}"), inData(`{"s":"`),
	unfinished + "it",
	unfinished + `\`, unfinished + `\u001`,

	// Data.
	inData(`{"b":1,"a":1}`), inData(`{"a":1,"a":1}`), inData(`{"":1,"":1}`), inData(`{"a":1,"A":1}`), inData(`{"aa":1,"a":1}`),
	inData(`{"a":{"b":1,"b":1}}`), inData(`[{"b":1,"a":1}]`),
	inData(`{"` + "\ufb33" + `":1,"` + "\U0001f600" + `":1}`), inData(`{"` + "\U0001f600" + `":1,"` + "\ufb33" + `":1}`), inData(`{"é":1}`),
	inData(`{"\n":1}`), inData(`{"\"":1,"A":1}`), inData(`{"A":1,"\"":1}`), inData(`{"` + "\xff" + `":1}`),
	inData(`{"a":1,}`), inData(`{,"a":1}`), inData(`{"a":1,,"b":1}`), inData(`{"a":1 "b":1}`), inData(`{"a"}`), inData(`{"a":}`), inData(`{a:1}`),
	inData(`{1:1}`), inData(`{"a":1]`), inData(`{"a":1`), inData(`{`), inData(`{"a":1}}`),
	inData(`[1,]`), inData(`[,1]`), inData(`[1,,1]`), inData(`[1 1]`), inData(`[1}`), inData(`[1`), inData(`[1]]`), inData(`["a":1]`), inData(`]`),
	inData(`[ ]`), inData(`{ }`), inData(`[1, 2]`), inData(`{"a": 1}`), inData("[\n1]"), inData("[1\t]"), inData("{\"a\":1\r}"),
	inData(`1.0`), inData(`1.5`), inData(`1e2`), inData(`1E2`), inData(`-0`), inData(`01`), inData(`-01`), inData(`+1`), inData(`-`), inData(`.5`),
	inData(`1.`), inData(`NaN`), inData(`-Infinity`), inData(`0x10`), inData(`1_000`),
	inData(`9007199254740992`), inData(`-9007199254740992`), inData(`18446744073709551616`), inData(`[1,9007199254740993]`),
	inData(`True`), inData(`tru`), inData(`nul`), inData(`nulll`), inData(`truefalse`), inData(`undefined`), inData(`'a'`), inData("\xc2\xa0{}"),
	inData("\ufeff{}"), inData(`/**/{}`),
	nested(maxDepth), nested(20000),
}

func array(events ...[]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(events, []byte(",")), []byte("]"))
}

// scanOne scans an array of one event.
func scanOne(raw []byte) (audit.Event, bool) {
	events, ok := scanCanonical(array(raw))
	if len(events) != 1 {
		return audit.Event{}, false
	}
	return events[0], ok
}

// flaw says which promise of scanCanonical the event that it has read from raw
// breaks, "" where there is none.
func flaw(raw []byte, event audit.Event) string {
	if canonical, err := jcs.Transform(raw); err != nil || !bytes.Equal(canonical, raw) {
		return fmt.Sprintf("canonical form is %q, %v", canonical, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if v := checkValue(dec, 0, new(maxValues)); v != nil {
		return "an event must not be taken that has " + v.String()
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return err.Error()
	}
	for name := range members {
		if slices.Contains(serverMembers, name) || !slices.Contains(ownMembers, name) {
			return "it has a member " + name
		}
	}
	d := decoder{members: members}
	want := d.event()
	if d.broken != nil || d.absent("event_id") {
		return fmt.Sprintf("it breaks %v", d.broken)
	}
	if diff := cmp.Diff(want, event); diff != "" {
		return "event (-decoded +scanned):\n" + diff
	}
	if event.EventTimestamp.Location() != time.UTC {
		return "time is not in UTC"
	}
	if again := event.Append(nil); !bytes.Equal(again, raw) {
		return fmt.Sprintf("encoded again it is %q", again)
	}
	record, broken := parseEvent(raw, testSalt)
	if diff := cmp.Diff(event.Validate(), broken); diff != "" {
		return "violations (-of Validate +of all):\n" + diff
	}
	event.Salt = testSalt(event.EventID)
	if broken == nil && (!bytes.Equal(record.Body, event.Append(nil)) || !cmp.Equal(record.Event, event)) {
		return fmt.Sprintf("record is %q of %+v", record.Body, record.Event)
	}
	if quick, ok := parseCanonical(array(raw), testSalt); ok != (broken == nil) || ok && !cmp.Equal(quick, []Record{record}) {
		return fmt.Sprintf("record is %q, made the quick way %+v", record.Body, quick)
	}
	return ""
}

func TestCanonicalEventsAreTakenAsTheyStand(t *testing.T) {
	for _, raw := range taken {
		if event, ok := scanOne([]byte(raw)); !ok {
			t.Errorf("%q is left to parseEvent", raw)
		} else if flaw := flaw([]byte(raw), event); flaw != "" {
			t.Errorf("%q is taken: %s", raw, flaw)
		}
	}
}

func TestCanonicalScanLeavesTheRestToParseEvent(t *testing.T) {
	for _, raw := range left {
		if raw == canonicalEvent {
			t.Fatal("an edit of the event changes nothing")
		}
		if _, ok := scanOne([]byte(raw)); ok {
			t.Errorf("%.2000q is taken", raw)
		}
	}
	for end := range len(canonicalEvent) {
		if _, ok := scanOne([]byte(canonicalEvent[:end])); ok {
			t.Errorf("%q is taken", canonicalEvent[:end])
		}
	}
}

func TestManyEventsAreReadAtOnceAndNoMoreThanABatchHas(t *testing.T) {
	body := array(slices.Repeat([][]byte{[]byte(canonicalEvent)}, maxBatchEvents)...)
	if events, ok := scanCanonical(body); !ok || len(events) != maxBatchEvents || !cmp.Equal(events[0], events[maxBatchEvents-1]) {
		t.Errorf("%d events, %v", len(events), ok)
	}
	body = array(slices.Repeat([][]byte{[]byte(canonicalEvent)}, maxBatchEvents+1)...)
	if events, ok := scanCanonical(body); ok {
		t.Errorf("%d events", len(events))
	}
	for _, body := range []string{"", "[", "[]", canonicalEvent, "[" + canonicalEvent, "[" + canonicalEvent + ",]", "[" + canonicalEvent + "]]", "[" + canonicalEvent + canonicalEvent + "]"} {
		if events, ok := scanCanonical([]byte(body)); ok {
			t.Errorf("%q has %d events", body, len(events))
		}
	}
}

func TestCanonicalEventsShareNothingButTheirDataWithTheirBytes(t *testing.T) {
	body := array([]byte(canonicalEvent), []byte(canonicalEvent))
	want := string(body)
	events, _ := scanCanonical(body)
	event := events[0]
	_ = append(event.EventData, "overwritten"...)
	if string(body) != want {
		t.Errorf("after data was appended to, the bytes are %s", body)
	}
	data := bytes.Clone(event.EventData)
	clear(body)
	event.EventData = data
	if got := event.Append(nil); string(got) != canonicalEvent {
		t.Errorf("after the bytes were cleared, the event is %s", got)
	}
}

func TestCanonicalScanAllocatesOneTextAndThePointers(t *testing.T) {
	body := array([]byte(canonicalEvent))
	if allocations := testing.AllocsPerRun(100, func() { scanCanonical(body) }); allocations > 4 {
		t.Errorf("%v allocations, want the text, the event, its duration and its parent's ID", allocations)
	}
}

var (
	canonicalSpecials = rapid.SampledFrom([]string{"<&>\u2028\u2029", "\x01\x0b\x1f\x7f\b\t\n\f\r\"\\/", `\u0000 \n`, "\U0001f600é\ufffd\ufb33", "{[,:]}", "null", "1"})
	// canonicalText is any text that canonical JSON can hold and DataStorage takes.
	canonicalText = rapid.Map(rapid.OneOf(rapid.String(), canonicalSpecials), func(s string) string {
		return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "0")
	})
	canonicalName    = rapid.StringMatching(`[ !#-\[\]-~]{0,3}`)
	canonicalInteger = rapid.OneOf(rapid.Int64Range(-20, 20), rapid.Int64Range(-maxExactInteger, maxExactInteger))
	canonicalUUID    = rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) uuid.UUID {
		b[15] |= 1 // the nil UUID is none
		return uuid.UUID(b)
	})
)

// canonicalValue makes values that are lists to so many levels.
func canonicalValue(levels int) *rapid.Generator[any] {
	leaf := rapid.OneOf(rapid.Just[any](nil), rapid.Bool().AsAny(), canonicalText.AsAny(), canonicalInteger.AsAny())
	if levels == 0 {
		return leaf
	}
	inner := canonicalValue(levels - 1)
	return rapid.OneOf(leaf, rapid.SliceOfN(inner, 0, 4).AsAny(), rapid.MapOfN(canonicalName, inner, 0, 4).AsAny())
}

var anyCanonicalEvent = rapid.Custom(func(t *rapid.T) audit.Event {
	text := func(name string) string { return canonicalText.Draw(t, name) }
	data, err := json.Marshal(rapid.MapOfN(canonicalName, canonicalValue(3), 0, 4).Draw(t, "data"))
	if err == nil {
		data, err = jcs.Transform(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return audit.Event{
		EventID: canonicalUUID.Draw(t, "id"), ParentEventID: rapid.Ptr(canonicalUUID, true).Draw(t, "parent"), Version: text("version"),
		EventType: text("type"), EventCategory: text("category"), EventAction: text("action"),
		EventOutcome:   rapid.OneOf(canonicalText, rapid.Just(audit.OutcomeSuccess)).Draw(t, "outcome"),
		EventTimestamp: time.Unix(rapid.Int64Range(-1e9, 1e11).Draw(t, "at"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds")).UTC(),
		ActorType:      text("actor type"), ActorID: text("actor"), ResourceType: text("resource type"), ResourceID: text("resource"),
		CorrelationID: text("correlation"), Namespace: text("namespace"), ClusterID: text("cluster"), Severity: text("severity"),
		DurationMS: rapid.Ptr(canonicalInteger, true).Draw(t, "duration"), ErrorCode: text("code"), ErrorMessage: text("message"),
		EventData: data,
	}
})

func TestCanonicalEventsOfOurClientAreTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		event := anyCanonicalEvent.Draw(t, "event")
		raw := event.Append(nil)
		got, ok := scanOne(raw)
		if !ok {
			t.Fatalf("%q is left to parseEvent", raw)
		}
		if diff := cmp.Diff(event, got); diff != "" {
			t.Errorf("event (-sent +scanned):\n%s", diff)
		}
		if flaw := flaw(raw, got); flaw != "" {
			t.Errorf("%q is taken: %s", raw, flaw)
		}
	})
}

// Changed here and there, most events are canonical no more. The scan need not
// take those that still are.
func TestCanonicalScanIsNotFooledByChangedBytes(t *testing.T) {
	pieces := rapid.SampledFrom([]string{
		"", " ", "\n", "\x00", "\xff", ",", ":", `"`, `\`, "{", "}", "[", "]", "0", "1", "-", ".", "e", "E", "Z", "z", "T", "A", "F", "\ufb33", "\U0001f600",
		`\n`, `\/`, `\u0000`, `\u001f`, `\u001F`, `\u000a`, `"":1,`, `"a":1,`, `"severity":"x",`, `"salt":"x",`, "null", "9007199254740992",
	})
	rapid.Check(t, func(t *rapid.T) {
		event := anyCanonicalEvent.Draw(t, "event")
		raw := event.Append(nil)
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			from := rapid.IntRange(0, len(raw)).Draw(t, "from")
			to := rapid.IntRange(from, min(len(raw), from+2)).Draw(t, "to")
			raw = slices.Replace(raw, from, to, []byte(pieces.Draw(t, "piece"))...)
		}
		if got, ok := scanOne(raw); ok {
			if flaw := flaw(raw, got); flaw != "" {
				t.Errorf("%q is taken: %s", raw, flaw)
			}
		}
	})
}

// Whatever scanCanonical takes, it takes as the standard library and the
// canonicalizer would.
func FuzzCanonical(f *testing.F) {
	for _, raw := range slices.Concat(taken, left) {
		if len(raw) < 4096 {
			f.Add([]byte(raw))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if event, ok := scanOne(raw); ok {
			if flaw := flaw(raw, event); flaw != "" {
				t.Fatalf("%q is taken: %s", raw, flaw)
			}
		}
	})
}

func benchmarkEvent() []byte {
	event := audit.Event{
		EventID: audit.EventID("benchmark"), Version: "1.0", EventType: audit.TypeMessageSent,
		EventTimestamp: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC), EventCategory: "notification", EventAction: "sent",
		EventOutcome: audit.OutcomeSuccess, ActorType: "service", ActorID: "notification-controller", ResourceType: "NotificationRequest",
		ResourceID: "request-0", CorrelationID: "correlation-0", Namespace: "default", Severity: "high",
		EventData: json.RawMessage(`{"attempt":1,"body":"","channel":"console","channel_type":"Console",` +
			`"content_digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",` +
			`"event_type":"notification.message.sent","notification_id":"request","notification_uid":"5c1f4f2e-8d2c-4a3a-9e55-0a2f8f6f3f11",` +
			`"priority":"High","subject":"Node is not ready","type":"Escalation"}`),
	}
	return event.Append(nil)
}

func BenchmarkCanonicalScan(b *testing.B) {
	raw := array(benchmarkEvent())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := scanCanonical(raw); !ok {
			b.Fatal("left to parseEvent")
		}
	}
}

func BenchmarkCanonicalEventByParseEvent(b *testing.B) {
	raw := benchmarkEvent()
	b.ReportAllocs()
	for b.Loop() {
		if _, broken := parseEvent(raw, testSalt); broken != nil {
			b.Fatal(broken)
		}
	}
}
