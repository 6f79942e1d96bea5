package datastorage

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
)

const fuzzEvent = `{"version":"1.0","event_type":"t","event_timestamp":"2026-01-02T03:04:05Z","event_category":"c","event_action":"a",` +
	`"event_outcome":"success","correlation_id":"x","event_data":{}}`

// Whatever the body is, it is either refused with a reason, or its records have
// canonical bodies that parse to the same records again.
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
		records, p := parseBatch(body)
		if p != nil {
			if p.Detail == "" || records != nil {
				t.Fatalf("refused with %+v and %d records", p, len(records))
			}
			return
		}
		bodies := make([][]byte, len(records))
		for i, r := range records {
			if bodies[i] = r.Body; bytes.Contains(r.Body, []byte{0}) || !json.Valid(r.Body) {
				t.Fatalf("stored bytes are %q", r.Body)
			}
			// The quick look at an event must not miss what the thorough one finds.
			dec := json.NewDecoder(bytes.NewReader(r.Body))
			dec.UseNumber()
			if v := checkValue(dec, 0); v != nil {
				t.Fatalf("%q was taken although it %s", r.Body, v)
			}
			if canonical, err := jcs.Transform(r.Body); err != nil || !bytes.Equal(canonical, r.Body) {
				t.Fatalf("%q is not canonical: %q, %v", r.Body, canonical, err)
			}
		}
		again, p := parseBatch(append(append([]byte("["), bytes.Join(bodies, []byte(","))...), ']'))
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

func BenchmarkParseBatch(b *testing.B) {
	event := strings.Replace(fuzzEvent, "{}", `{"attempt":1,"body":"","channel":"console","channel_type":"Console",`+
		`"content_digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","notification_uid":"5c1f4f2e-8d2c-4a3a-9e55-0a2f8f6f3f11"}`, 1)
	body := []byte("[" + strings.Repeat(event+",", 99) + event + "]")
	for b.Loop() {
		if _, p := parseBatch(body); p != nil {
			b.Fatal(p)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100), "ns/event")
}
