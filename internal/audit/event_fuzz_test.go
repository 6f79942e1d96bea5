package audit

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzEventDecoding reads events from any text. One that Validate lets through
// has the same bytes each time it is written, however often it was read in
// between, as a batch is on its way through the dead-letter queue: with others,
// DataStorage would take it for another event.
func FuzzEventDecoding(f *testing.F) {
	whole, err := json.Marshal(event(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, text []byte) {
		var e Event
		if json.Unmarshal(text, &e) != nil {
			return
		}
		for _, v := range e.Validate() {
			if !strings.HasPrefix(v.Pointer, "/") || v.Detail == "" {
				t.Errorf("violation is %+v", v)
			}
		}
		if e.Validate() != nil {
			return
		}
		first, err := json.Marshal(&e)
		if err != nil {
			t.Fatalf("the event is valid and cannot be written: %v", err)
		}
		var again Event
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("read %s: %v", first, err)
		}
		second, err := json.Marshal(&again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("written once (-) and again (+):\n%s", cmp.Diff(string(first), string(second)))
		}
		if diff := cmp.Diff(e.Validate(), again.Validate()); diff != "" {
			t.Errorf("violations before (-) and after (+):\n%s", diff)
		}
		if e.EventID != again.EventID || !e.EventTimestamp.Equal(again.EventTimestamp) {
			t.Errorf("%s at %s became %s at %s", e.EventID, e.EventTimestamp, again.EventID, again.EventTimestamp)
		}
	})
}
