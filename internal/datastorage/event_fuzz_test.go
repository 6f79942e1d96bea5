package datastorage

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/gowebpki/jcs"

	"kubernaut.ai/notification/internal/audit"
)

const fuzzEvent = `{"version":"1.0","event_type":"t","event_timestamp":"2026-01-02T03:04:05Z","event_category":"c","event_action":"a",` +
	`"event_outcome":"success","correlation_id":"x","event_data":{}}`

func testSalt(uuid.UUID) string { return "00112233445566778899aabbccddeeff" }

// Whatever the body is, it is either refused with a reason that points at where
// it is broken, or its records are valid events with canonical bodies that parse
// to the same records again.
func FuzzParseBatch(f *testing.F) {
	for _, seed := range []string{
		"[" + fuzzEvent + "]", "[" + fuzzEvent + "," + fuzzEvent + "]", "[]", "null", "[null]", "{", `[{"a":"\u0000"}]`, "[[[[",
		strings.Replace("["+fuzzEvent+"]", "{}", `{"n":-0.0,"m":1e-7,"s":"\ud83d\ude00<\/"}`, 1),
		strings.Replace("["+fuzzEvent+"]", "{", `{"event_id":"123e4567-e89b-42d3-a456-426614174000",`, 1),
		strings.Replace("["+fuzzEvent+"]", "{", `{"version":"1.0",`, 1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		records, p := parseBatch(body, testSalt)
		if p != nil {
			if p.Detail == "" || records != nil {
				t.Fatalf("refused with %+v and %d records", p, len(records))
			}
			for _, item := range p.Errors {
				if why := pointsNowhere(body, item); why != "" {
					t.Fatalf("refused with %q at %q: %s", item.Detail, item.Pointer, why)
				}
			}
			return
		}
		bodies := make([][]byte, len(records))
		for i, r := range records {
			if broken := r.Event.Validate(); broken != nil {
				t.Fatalf("%q was taken although %v", r.Body, broken)
			}
			if bodies[i] = r.Body; bytes.Contains(r.Body, []byte{0}) || !json.Valid(r.Body) {
				t.Fatalf("stored bytes are %q", r.Body)
			}
			var event audit.Event
			if err := json.Unmarshal(r.Body, &event); err != nil {
				t.Fatalf("%q was taken although no reader can take it: %v", r.Body, err)
			}
			event.EventData = r.Event.EventData // which is not in canonical form there
			if event.ParentEventID != nil && *event.ParentEventID == uuid.Nil {
				event.ParentEventID = nil
			}
			if diff := cmp.Diff(r.Event, event); diff != "" {
				t.Fatalf("%q is another event to its readers (-stored +read):\n%s", r.Body, diff)
			}
			// The quick look at an event must not miss what the thorough one finds.
			dec := json.NewDecoder(bytes.NewReader(r.Body))
			dec.UseNumber()
			if v := checkValue(dec, 0, new(maxValues)); v != nil {
				t.Fatalf("%q was taken although it %s", r.Body, v)
			}
			if canonical, err := jcs.Transform(r.Body); err != nil || !bytes.Equal(canonical, r.Body) {
				t.Fatalf("%q is not canonical: %q, %v", r.Body, canonical, err)
			}
		}
		for i, body := range bodies {
			salt := []byte(`"salt":"` + testSalt(uuid.Nil) + `",`)
			at := bytes.LastIndex(body, salt)
			if at < 0 {
				t.Fatalf("%q has no salt", body)
			}
			bodies[i] = slices.Concat(body[:at], body[at+len(salt):])
		}
		again, p := parseBatch(slices.Concat([]byte("["), bytes.Join(bodies, []byte(",")), []byte("]")), testSalt)
		if p != nil {
			t.Fatalf("the stored bytes are refused: %+v", p)
		}
		for i := range again {
			if again[i].LeafHash != records[i].LeafHash {
				t.Fatalf("%q became %q", records[i].Body, again[i].Body)
			}
		}
	})
}

// pointsNowhere says why an item's JSON pointer leads to nothing in the body, where
// it does. Only of what is required may the last member be missing.
func pointsNowhere(body []byte, item ProblemItem) string {
	steps := strings.Split(item.Pointer, "/")
	if item.Detail == "" || steps[0] != "" || len(steps) < 2 {
		return "there is no reason, or it leads to no element"
	}
	values := []json.RawMessage{body} // several where a name is there more than once
	for i, step := range steps[1:] {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		var next []json.RawMessage
		inObject := false
		for _, value := range values {
			found, isObject := inside(value, step)
			next, inObject = append(next, found...), inObject || isObject
		}
		required := strings.HasPrefix(item.Detail, "is required") || strings.HasPrefix(item.Detail, "must be")
		if next == nil && (!inObject || !required || i < len(steps)-2) {
			return "there is no " + step
		}
		values = next
	}
	return ""
}

// inside returns what a JSON object or array has under a name or an index.
func inside(value json.RawMessage, step string) (found []json.RawMessage, isObject bool) {
	dec := json.NewDecoder(bytes.NewReader(value))
	open, err := dec.Token()
	if err != nil || open != json.Delim('{') && open != json.Delim('[') {
		return nil, false
	}
	isObject = open == json.Delim('{')
	for i := 0; dec.More(); i++ {
		name := strconv.Itoa(i)
		if isObject {
			if token, err := dec.Token(); err == nil {
				name = token.(string)
			}
		}
		var member json.RawMessage
		if dec.Decode(&member) != nil {
			return found, isObject
		}
		if name == step {
			found = append(found, member)
		}
	}
	return found, isObject
}

func BenchmarkParseBatch(b *testing.B) {
	event := strings.Replace(fuzzEvent, "{}", `{"attempt":1,"body":"","channel":"console","channel_type":"Console",`+
		`"content_digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","notification_uid":"5c1f4f2e-8d2c-4a3a-9e55-0a2f8f6f3f11"}`, 1)
	body := []byte("[" + strings.Repeat(event+",", 99) + event + "]")
	for b.Loop() {
		if _, p := parseBatch(body, testSalt); p != nil {
			b.Fatal(p)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100), "ns/event")
}
