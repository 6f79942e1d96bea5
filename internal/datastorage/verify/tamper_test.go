package verify_test

import (
	"fmt"
	"strings"
	"testing"

	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
)

// tampering is what an administrator may do to a database, and the beginning of
// what is said of it.
type tampering struct {
	name, sql, want string
}

func columnChanges(d dialect) []tampering {
	var list []tampering
	for n, change := range []string{
		"event_id = '00000000-0000-4000-8000-000000000001'", "event_timestamp = " + d.micros("event_timestamp"), "event_type = 'notification.message.senu'",
		"event_category = 'notificatioo'", "event_outcome = 'succesr'", "correlation_id = 'correlation-x'",
		"severity = 'higi'", "resource_id = 'request-x'", "namespace = 'defaulu'", "severity = NULL", "severity = ''",
	} {
		column, _, _ := strings.Cut(change, " ")
		for _, index := range []int{n, full - 1 - n} { // in a tile, and right of all tiles
			want := fmt.Sprintf("1. event %d (%s): its columns were changed: %s holds ", index, eventID(index), column)
			if column == "event_id" {
				want = fmt.Sprintf("1. event %d (00000000-0000-4000-8000-000000000001): its columns were changed: event_id holds ", index)
			}
			list = append(list, tampering{fmt.Sprint(change, " of ", index), fmt.Sprintf("UPDATE audit_events SET %s WHERE log_index = %d", change, index), want})
		}
	}
	return list
}

func eventChanges(d dialect) []tampering {
	event := func(n int) string { return fmt.Sprintf("1. event %d (%s): ", n, eventID(n)) }
	other := rewritten(700)
	var list []tampering
	for _, n := range []int{0, 255, 256, 400, full - 50, full - 1} {
		bytes, leafHash := "its bytes were changed", "its leaf_hash was changed"
		list = append(list,
			tampering{fmt.Sprint("bytes of ", n), fmt.Sprintf("UPDATE audit_bodies SET event = %s WHERE log_index = %d", d.text(string(rewritten(n).Body)), n), event(n) + bytes},
			tampering{fmt.Sprint("leaf_hash of ", n), fmt.Sprintf("UPDATE audit_events SET leaf_hash = %s WHERE log_index = %d", d.bytes(other.LeafHash[:]), n), event(n) + leafHash},
			tampering{fmt.Sprint("no leaf_hash of ", n), fmt.Sprintf("UPDATE audit_events SET leaf_hash = %s WHERE log_index = %d", d.bytes(nil), n), event(n) + leafHash},
			tampering{fmt.Sprint("event gone ", n), fmt.Sprintf("DELETE FROM audit_events WHERE log_index = %d", n), fmt.Sprintf("1. event %d is missing: it was deleted\n", n)},
		)
	}
	return append(list, []tampering{
		{"bytes that are no JSON object", "UPDATE audit_bodies SET event = '[]' WHERE log_index = 3", event(3) + "its bytes were changed"},
		{"rewritten with leaf hash", d.rewrite(77), event(77) + "it was rewritten together with its leaf hash"},
		{"rewritten with leaf hash and tile", d.rewrite(77) + d.tile(77, rewritten(77).LeafHash), fmt.Sprintf("1. the kept checkpoint 2 of %d events has the root ", half)},
		{"rewritten with leaf hash, right of all tiles", d.rewrite(600), "Of the events 300 to 611 at least one was changed together with its leaf hash"},
		{"bytes and leaf_hash, differently", d.rewrite(77) + fmt.Sprintf("UPDATE audit_events SET leaf_hash = %s WHERE log_index = 77", d.bytes(other.LeafHash[:])), event(77) + "its bytes were changed, and its leaf_hash too"},
		{"neighbours swapped", fmt.Sprintf(both(swap), 10, 11), fmt.Sprintf("1. event 10 (%s): it was swapped with event 11 (%s)\n", eventID(11), eventID(10))},
		{"swapped in other tiles", fmt.Sprintf(both(swap), 20, 290), fmt.Sprintf("1. event 20 (%s): it was swapped with event 290 (%s)\n", eventID(290), eventID(20))},
		{"put in, the others shifted", both(down) + d.row(100, other), fmt.Sprintf("1. event 100 (%s): it was put in: the tree does not have it, and the event of this index stands at 101\n", other.Event.EventID)},
		{"put in the place of another", both("DELETE FROM audit_events WHERE log_index = 100;") + d.row(100, other), fmt.Sprintf("1. event 100 (%s): it was rewritten together with its leaf hash, or another event was put in its place", other.Event.EventID)},
		{"put in beyond the end", d.row(full, other), fmt.Sprintf("1. event %d (%s): it was put in beyond the end", full, other.Event.EventID)},
		{"put in far beyond the end", d.row(1<<40, other), fmt.Sprintf("1. event %d (%s): it was put in beyond the end", 1<<40, other.Event.EventID)},
		{"put in before the beginning", d.row(-5, other), fmt.Sprintf("1. event -5 (%s): it was put in: another event has its index, or its index is none", other.Event.EventID)},
		{"taken out, the others shifted", "DELETE FROM audit_events WHERE log_index = 100; DELETE FROM audit_bodies WHERE log_index = 100;" + both(up), fmt.Sprintf("1. event 100 (%s): the event of this index was deleted, and the one of index 101 was put in its place\n", eventID(101))},
		{"several gone", "DELETE FROM audit_events WHERE log_index >= 200 AND log_index < 300", "1. the events 200 to 299 are missing: they were deleted\n"},
		{"the newest gone", "DELETE FROM audit_events WHERE log_index >= 600", "1. the events 600 to 611 are missing: they were deleted\n"},
		{"all gone", "DELETE FROM audit_events", "1. the events 0 to 611 are missing: they were deleted\n"},
		{"made to last for ever", fmt.Sprintf("UPDATE audit_bodies SET expires_at = %s WHERE log_index = 50", d.never()), event(50) + "its columns were changed: expires_at holds never where the event says NULL"},
		{"recorded_at of the bytes alone", strings.ReplaceAll(d.recordedAt(50, 1), "audit_events", "audit_bodies"), event(50) + "its bytes were deleted, or its recorded_at was changed: no event says that it has expired"},
		{"recorded_at by a day", d.recordedAt(50, 86400), event(50) + "its recorded_at was changed, or a clock was wrong"},
	}...)
}

func (d dialect) never() string {
	if d.postgres {
		return "'infinity'"
	}
	return "9223372036854775807"
}

func (d dialect) recordedAt(n, seconds int) string {
	if d.postgres {
		return fmt.Sprintf("UPDATE audit_events SET recorded_at = recorded_at - interval '%d seconds' WHERE log_index = %d;", seconds, n)
	}
	return fmt.Sprintf("UPDATE audit_events SET recorded_at = recorded_at - %d000000 WHERE log_index = %d;", seconds, n)
}

func ledgerChanges(d dialect, e *evidence) []tampering {
	other, err := ledger.NewKey("example.com/log")
	if err != nil {
		panic(err)
	}
	key, _ := ledger.ParseKey(other)
	back := fmt.Sprintf("UPDATE audit_log_head SET size = %d, checkpoint = %s;", half, d.text(e.first)) + fmt.Sprintf("DELETE FROM audit_events WHERE log_index >= %d; DELETE FROM audit_tiles WHERE tile_index > 0;", half)
	return []tampering{
		{"a tile", d.tile(7, rewritten(7).LeafHash), fmt.Sprintf("1. event 7 (%s): tile 0 of level 0 was changed where the event's hash is\n", eventID(7))},
		{"a tile's length", fmt.Sprintf("UPDATE audit_tiles SET hashes = %s WHERE tile_index = 1", d.bytes([]byte("short"))), "1. tile 1 of level 0 was changed: tile 1 of level 0 has 5 bytes"},
		{"a tile gone", "DELETE FROM audit_tiles WHERE tile_index = 1", "1. tile 1 of level 0 is missing: it was deleted\n"},
		{"a tile and the event's leaf_hash", d.tile(7, rewritten(7).LeafHash) + fmt.Sprintf("UPDATE audit_events SET leaf_hash = %s WHERE log_index = 7", d.hash(rewritten(7))), fmt.Sprintf("1. event 7 (%s): its leaf_hash was changed, and tile 0 of level 0 was changed where the event's hash is\n", eventID(7))},
		{"the head gone", "DELETE FROM audit_log_head", "1. the head of the log is missing: its row was deleted"},
		{"the head's size, larger", "UPDATE audit_log_head SET size = 613", "1. the head of the log was changed: it says that there are 613 events, and the checkpoint in it is of 612\n"},
		{"the head's size, enormous", "UPDATE audit_log_head SET size = 1000000000000000", "1. the head of the log was changed: it says that there are 1000000000000000 events"},
		{"the head's size, smaller", "UPDATE audit_log_head SET size = 600", "1. the head of the log was changed: it says that there are 600 events, and the checkpoint in it is of 612\n"},
		{"the head's checkpoint, older", "UPDATE audit_log_head SET checkpoint = " + d.text(e.first), fmt.Sprintf("1. the head of the log was changed: it says that there are 612 events, and the checkpoint in it is of %d\n", half)},
		{"the head's checkpoint, by a byte", "UPDATE audit_log_head SET checkpoint = replace(checkpoint, '612', '613')", "1. the checkpoint in the head of the log is not signed with the log's key: it was changed, it is of another log, or the key was changed"},
		{"the head's key", "UPDATE audit_log_head SET verifier = " + d.text(key.Verifier()), "1. the checkpoint in the head of the log is not signed with the log's key: it was changed, it is of another log, or the key was changed"},
		{"the head's key, by a byte", "UPDATE audit_log_head SET verifier = replace(verifier, 'example', 'exemple')", `1. the public key "exemple.com/log+`},
		{"the head's key gone", "UPDATE audit_log_head SET verifier = ''", `1. the public key "" in the head of the log is damaged, or was taken out`},
		{"a kept checkpoint", fmt.Sprintf("UPDATE audit_checkpoints SET checkpoint = replace(checkpoint, '%d', '301') WHERE size = %[1]d", half), fmt.Sprintf("1. the kept checkpoint 2 of %d events is not signed with the log's key: it was changed", half)},
		{"a kept checkpoint's size", fmt.Sprintf("UPDATE audit_checkpoints SET size = 301 WHERE size = %d", half), "1. the kept checkpoint 2 of 301 events stands where one of 301 events was, but is of 300\n"},
		{
			"kept checkpoints in another order", "UPDATE audit_checkpoints AS a SET size = b.size, checkpoint = b.checkpoint FROM audit_checkpoints AS b WHERE a.id + b.id = 3 AND a.id <> b.id",
			"1. the kept checkpoint 2 of 0 events is out of order: it comes after one of more events\n",
		},
		{"the newest gone and the head set back", back, "1. the newest 312 events are missing: the kept checkpoint 3 of 612 events vouches for 612, and the log has 300."},
	}
}

// The tamper matrix.
func TestWhatWasDoneToADatabaseIsFoundAndNamed(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		e := newEvidence(t, databaseURL)
		d := dialect{strings.HasPrefix(databaseURL, "postgres")}
		sound, err := run(t, "--database-url", e.url, "--log-key", e.key.Verifier())
		want := fmt.Sprintf("The log is whole: %d events from number 0 on, in a log with the root ", full)
		if err != nil || !strings.HasPrefix(sound, want) || !strings.HasSuffix(sound, "\nPublic key: "+e.key.Verifier()+"\nCheckpoints that agree: 4 of the log's own, 0 given with --checkpoint.\n") {
			t.Fatalf("untouched: %v\n%s", err, sound)
		}
		for _, tt := range append(append(columnChanges(d), eventChanges(d)...), ledgerChanges(d, e)...) {
			t.Run(tt.name, func(t *testing.T) {
				url := copied(t, e.url)
				storetest.Change(t, url, tt.sql)
				got, err := run(t, "--database-url", url)
				if err == nil || !strings.Contains(got, tt.want) || !strings.Contains(err.Error(), "verification ended with findings: ") {
					t.Errorf("%v\n%s\nwant %s", err, got, tt.want)
				}
			})
		}
	})
}
