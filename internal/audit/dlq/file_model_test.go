package dlq

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"kubernaut.ai/notification/internal/audit"
)

// TestNoOrderOfCallsLosesOrDoublesAnEvent makes random calls, some of them cut
// off, with replacements of the database and restarts between them.
func TestNoOrderOfCallsLosesOrDoublesAnEvent(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		_ = checks.Value.Set("20")
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	rapid.Check(t, func(r *rapid.T) {
		dir := t.TempDir()
		open := func() *File {
			f, err := Open(dir, 1<<20, logr.Discard())
			if err != nil {
				r.Fatal(err)
			}
			return f
		}
		f := open()
		defer func() { f.Close() }()
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "random"), 0))
		held, gone, n := map[uuid.UUID]int{}, map[uuid.UUID]bool{}, 0
		const waits, rests = 1, 2
		pick := func() audit.Event {
			if n > 0 && random.IntN(3) > 0 {
				return sized(random.IntN(n), 10)
			}
			n++
			return sized(n-1, 10)
		}
		// cutOff is a context that ends at some time of a call, or never.
		cutOff := func() (context.Context, context.CancelFunc) {
			if random.IntN(3) > 0 {
				return t.Context(), func() {}
			}
			return context.WithTimeout(t.Context(), time.Duration(random.IntN(1500))*time.Microsecond)
		}
		expected := func(ctx context.Context, err error) {
			if ctx.Err() == nil && !strings.Contains(err.Error(), "--dlq-max-bytes") {
				r.Fatal(err)
			}
		}
		check := func(depth audit.Depth) {
			waiting, resting := 0, 0
			for id, state := range held {
				if state == waits {
					waiting++
				} else {
					resting++
				}
				_, rest := f.resting[id]
				if (f.letters[id] != nil) != (state == waits) || rest != (state == rests) {
					r.Fatalf("event %s is %d, letter %v, rests %v", id, state, f.letters[id], rest)
				}
			}
			if depth.Waiting != waiting || depth.Rejected != resting || depth.Aside != 0 || len(f.turns) != waiting {
				r.Fatalf("depth is %+v; %d wait, %d rest, %d have a turn", depth, waiting, resting, len(f.turns))
			}
		}
		// loaded: rejected events are offered at once, and it is known of them only in memory.
		loaded := func() {
			for id := range held {
				if _, ok := f.resting[id]; ok {
					held[id] = rests
				} else if f.letters[id] != nil {
					held[id] = waits
				} else {
					r.Fatalf("event %s is lost", id)
				}
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"put": func(r *rapid.T) {
				var list []audit.Event
				for range 1 + random.IntN(250) {
					list = append(list, pick())
				}
				ctx, cancel := cutOff()
				defer cancel()
				added, err := f.Put(ctx, list)
				if err != nil {
					expected(ctx, err)
					for _, e := range list { // Rejected ones may wait by now, or not.
						if _, rest := f.resting[e.EventID]; held[e.EventID] == rests && !rest {
							held[e.EventID] = waits
						}
					}
					return
				}
				want := 0
				for _, e := range list {
					if held[e.EventID] == 0 {
						want++
					}
					held[e.EventID] = waits
					delete(gone, e.EventID)
				}
				if added != want {
					r.Fatalf("%d added, want %d", added, want)
				}
			},
			"replay": func(r *rapid.T) {
				ctx, cancel := cutOff()
				defer cancel()
				list, depth, err := f.Next(ctx, 1+random.IntN(300))
				for id := range held {
					if f.letters[id] != nil {
						held[id] = waits
					}
				}
				if err != nil {
					expected(ctx, err)
				}
				check(depth)
				var recorded []uuid.UUID
				var rejected []audit.Rejection
				seen := map[uuid.UUID]bool{}
				for _, e := range list {
					if seen[e.EventID] || held[e.EventID] != waits {
						r.Fatalf("event %s came twice, or is not held", e.EventID)
					}
					seen[e.EventID] = true
				}
				for range random.IntN(20) { // Others, of a live batch.
					if e := pick(); !seen[e.EventID] {
						list = append(list, e)
						seen[e.EventID] = true
					}
				}
				for _, e := range list {
					switch random.IntN(10) {
					case 0:
						rejected = append(rejected, audit.Rejection{Event: e, Status: 400, Reason: "no"})
					case 1, 2, 3, 4:
						recorded = append(recorded, e.EventID)
					}
				}
				ctx, cancel = cutOff()
				defer cancel()
				depth, err = f.Settle(ctx, recorded, rejected)
				if err != nil {
					expected(ctx, err)
					check(depth)
					return
				}
				for _, id := range recorded {
					delete(held, id)
					gone[id] = true
				}
				for _, x := range rejected {
					held[x.Event.EventID] = rests
				}
				check(depth)
			},
			"mend": func(r *rapid.T) {
				if err := f.mend(t.Context(), damageError{errors.New("fsync failed")}); err.Error() != "fsync failed" {
					r.Fatal(err)
				}
				loaded()
			},
			"restart": func(r *rapid.T) {
				f.Close()
				f = open()
				for id := range gone {
					if f.letters[id] != nil || !f.resting[id].IsZero() {
						held[id] = waits
						delete(gone, id)
					}
				}
				loaded()
			},
			"": func(r *rapid.T) {
				depth, err := f.Settle(t.Context(), nil, nil)
				if err != nil {
					r.Fatal(err)
				}
				check(depth)
			},
		})
	})
}
