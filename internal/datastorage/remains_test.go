package datastorage_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
)

// remaining are changes of all that a query can find of an expired event.
func remaining(databaseURL string) []string {
	later := " + 1"
	if strings.HasPrefix(databaseURL, "postgres") {
		later = " + interval '1 microsecond'"
	}
	return []string{
		"event_id = '00000000-0000-4000-8000-000000000001'", "event_timestamp = event_timestamp" + later, "event_type = 'notification.message.senu'",
		"event_category = 'notificatioo'", "event_outcome = 'succesr'", "severity = 'higi'", "severity = NULL", "severity = ''", "resource_id = 'request-x'",
		"namespace = 'defaulu'", "namespace = ''", "recorded_at = recorded_at" + later, "correlation_id = 'inciden'",
	}
}

func TestNothingThatRemainsOfAnEventCanBeChanged(t *testing.T) {
	const size = ledger.TileWidth + 44
	for name, first := range map[string]int{"in a tile": 0, "right of all tiles": ledger.TileWidth} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, databaseURL string) {
				_, c, _ := expiredLogOf(t, databaseURL, size)
				changes := remaining(databaseURL)
				for n, columns := range changes {
					storetest.Change(t, databaseURL, fmt.Sprintf("UPDATE audit_events SET %s WHERE log_index = %d", columns, first+2*n))
				}
				database, _ := verifiedDatabase(t, databaseURL)
				export, _ := verified(t, c.get(exportPath).want(t, 200).body)
				chain := map[int64]string{}
				for _, e := range c.chain("incident").TamperedEvents {
					chain[e.LogIndex] = e.Message
				}
				const want = "its columns were changed: they are not those that it had when it expired, as event 300 shows"
				for n, columns := range changes {
					index, eventID := first+2*n, id(first+2*n)
					if n == 0 {
						eventID = "00000000-0000-4000-8000-000000000001"
					}
					finding := fmt.Sprintf(" event %d (%s): %s\n", index, eventID, want)
					if !strings.Contains(database, finding) || !strings.Contains(export, finding) {
						t.Errorf("%s: want%sThe database:\n%s\nThe export:\n%s", columns, finding, database, export)
					}
					// What was taken out of an incident is not among what is asked for.
					if last := n == len(changes)-1; chain[int64(index)] != want && !last {
						t.Errorf("%s: the chain says %q", columns, chain[int64(index)])
					}
				}
				if all := fmt.Sprintf("\n%d. ", len(changes)+1); strings.Contains(database, all) || strings.Contains(export, all) || len(chain) != len(changes)-1 {
					t.Errorf("there is more than the %d changes. The chain: %v\nThe database:\n%s\nThe export:\n%s", len(changes), chain, database, export)
				}
			})
		})
	}
}

func TestTheLeafHashThatRemainsOfAnEventCannotBeChanged(t *testing.T) {
	for name, index := range map[string]int{"in a tile": 6, "right of all tiles": ledger.TileWidth + 6} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, databaseURL string) {
				_, c, _ := expiredLogOf(t, databaseURL, ledger.TileWidth+44)
				hash := storetest.Record(1000).LeafHash
				literal := "X'" + hex.EncodeToString(hash[:]) + "'"
				if strings.HasPrefix(databaseURL, "postgres") {
					literal = `'\x` + hex.EncodeToString(hash[:]) + "'"
				}
				storetest.Change(t, databaseURL, fmt.Sprintf("UPDATE audit_events SET leaf_hash = %s WHERE log_index = %d", literal, index))
				want := fmt.Sprintf(" event %d (%s): its columns were changed: ", index, id(index))
				if out, err := verifiedDatabase(t, databaseURL); err == nil || !strings.Contains(out, want) {
					t.Errorf("the database: %v\n%s", err, out)
				}
				if out, err := verified(t, c.get(exportPath).want(t, 200).body); err == nil || !strings.Contains(out, want) {
					t.Errorf("the export: %v\n%s", err, out)
				}
				found := false
				for _, e := range c.chain("incident").TamperedEvents {
					found = found || e.LogIndex == int64(index)
				}
				if !found {
					t.Error("the chain does not have it")
				}
			})
		})
	}
}
