package audit

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"
)

var (
	anyUUID  = rapid.Custom(func(t *rapid.T) uuid.UUID { return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")) })
	anyBytes = rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
	anyText  = rapid.OneOf(rapid.String(), anyBytes, rapid.SampledFrom([]string{"", "a", "<&>\u2028\u2029", "\x00\x1f\x7f\b\t\n\f\r\"\\/", "\xff\xc3", "\U0001f600é\ufffd"}))
	anyEvent = rapid.Custom(func(t *rapid.T) Event {
		text := func(name string) string { return anyText.Draw(t, name) }
		data, err := json.Marshal(map[string]string{"text": text("data")})
		if err == nil {
			data, err = jcs.Transform(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return Event{
			EventID: anyUUID.Draw(t, "id"), ParentEventID: rapid.Ptr(anyUUID, true).Draw(t, "parent"), Version: text("version"),
			EventType: text("type"), EventCategory: text("category"), EventAction: text("action"), EventOutcome: text("outcome"),
			EventTimestamp: time.UnixMicro(rapid.Int64Range(-1e15, 1e17).Draw(t, "at")).UTC(),
			ActorType:      text("actor type"), ActorID: text("actor"), ResourceType: text("resource type"), ResourceID: text("resource"),
			CorrelationID: text("correlation"), Namespace: text("namespace"), ClusterID: text("cluster"), Severity: text("severity"),
			DurationMS: rapid.Ptr(rapid.Int64Range(-1<<53, 1<<53), true).Draw(t, "duration"), ErrorCode: text("code"), ErrorMessage: text("message"), Salt: text("salt"),
			EventData: data,
		}
	})
)

func TestEventsAreEncodedAsByTheStandardLibraryAndCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(anyEvent, 0, 3).Draw(t, "events")
		if events == nil {
			events = []Event{}
		}
		text, err := json.Marshal(events)
		if err == nil {
			text, err = jcs.Transform(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(text), string(AppendEvents(nil, events))); diff != "" {
			t.Errorf("encoding (-want +got):\n%s", diff)
		}
	})
}

func TestAnEventWithoutDataIsStillJSON(t *testing.T) {
	if text := AppendEvents([]byte("x"), []Event{{}}); text[0] != 'x' || !json.Valid(text[1:]) {
		t.Errorf("encoding is %s", text)
	}
}
