package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/mod/sumdb/tlog"

	"kubernaut.ai/notification/internal/ledger"
)

// book is a log in memory that answers as DataStorage does.

type book struct {
	t   *testing.T
	key *ledger.Key

	mu     sync.Mutex
	hashes []tlog.Hash
	size   int64
	proofs int   // that were asked for
	asked  int   // keys and checkpoints that were asked for
	broken error // the answer to all questions
	before func(context.Context)
}

func newBook(t *testing.T) *book {
	t.Helper()
	text, err := ledger.NewKey("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ledger.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return &book{t: t, key: key}
}

func (b *book) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, i := range indexes {
			hashes = append(hashes, b.hashes[i])
		}
		return hashes, nil
	})
}

// write adds events until there are so many, and returns the checkpoint then.
func (b *book) write(size int64, text string) string {
	b.t.Helper()
	b.mu.Lock()
	for ; b.size < size; b.size++ {
		hashes, err := tlog.StoredHashes(b.size, fmt.Append(nil, text, b.size), b.reader())
		if err != nil {
			b.t.Fatal(err)
		}
		b.hashes = append(b.hashes, hashes...)
	}
	b.mu.Unlock()
	return b.sign(size)
}

func (b *book) sign(size int64) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	root, err := tlog.TreeHash(size, b.reader())
	if err == nil {
		var signed string
		if signed, err = b.key.Sign(ledger.Checkpoint{Size: size, Root: root, Time: time.Now()}); err == nil {
			return signed
		}
	}
	b.t.Error(err)
	return ""
}

// copied returns what a backup of the log at a size has.
func (b *book) copied(size int64) *book {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &book{t: b.t, key: b.key, size: size, hashes: slices.Clone(b.hashes[:tlog.StoredHashCount(size)])}
}

// restore puts a backup in the log's place.
func (b *book) restore(size int64) {
	old := b.copied(size)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size, b.hashes = old.size, old.hashes
}

func (b *book) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

func (b *book) answer(ctx context.Context, counter *int) error {
	if b.before != nil {
		b.before(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	*counter++
	return b.broken
}

func (b *book) Key(ctx context.Context) (string, error) {
	return b.key.Verifier(), b.answer(ctx, &b.asked)
}

func (b *book) Checkpoint(ctx context.Context) (string, error) {
	if err := b.answer(ctx, &b.asked); err != nil {
		return "", err
	}
	return b.sign(b.size), nil
}

func (b *book) Consistency(ctx context.Context, from, to int64) ([]ledger.Hash, error) {
	if err := b.answer(ctx, &b.proofs); err != nil {
		return nil, err
	}
	if to > b.size {
		return nil, refusal404("not-found")
	}
	return tlog.ProveTree(to, from, b.reader())
}

func refusal404(kind string) error {
	return &PostError{Status: http.StatusNotFound, Kind: kind, Reason: "no"}
}

// drawer is a Keeper that outlives the witnesses of a test, and that a person can
// change.

type drawer struct {
	mu      sync.Mutex
	data    map[string]string
	version int
	known   int // to the witness
	saves   []time.Time
	broken  error
}

func (d *drawer) Load(context.Context) (map[string]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return nil, d.broken
	}
	d.known = d.version
	return maps.Clone(d.data), nil
}

func (d *drawer) Save(_ context.Context, data map[string]string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return d.broken
	}
	if d.known != d.version {
		return ErrChanged
	}
	d.version++
	d.known = d.version
	d.data = maps.Clone(data)
	d.saves = append(d.saves, time.Now())
	return nil
}

// put is what a person does.
func (d *drawer) put(data map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version++
	d.data = data
}

func (d *drawer) evidence() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(d.data)) {
		if strings.HasPrefix(name, evidencePrefix) {
			all = append(all, d.data[name])
		}
	}
	return all
}

// watch is a witness with all that it is connected to.

type watch struct {
	*Witness
	t        *testing.T
	end      func()
	registry *prometheus.Registry

	mu     sync.Mutex
	lines  []string
	alarms []string
}

func newWatch(t *testing.T, key string, remote Log, keeper Keeper) *watch {
	t.Helper()
	w := &watch{t: t, registry: prometheus.NewRegistry()}
	log := funcr.NewJSON(func(line string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lines = append(w.lines, line)
	}, funcr.Options{})
	var err error
	w.Witness, err = NewWitness(key, remote, keeper, WitnessOptions{Log: log, Metrics: w.registry, Alarm: func(_ context.Context, reason string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.alarms = append(w.alarms, reason)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *watch) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Start(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.end = func() { cancel(); <-done }
	synctest.Wait()
}

func startWatch(t *testing.T, key string, remote Log, keeper Keeper) *watch {
	t.Helper()
	w := newWatch(t, key, remote, keeper)
	w.start()
	return w
}

// see has the witness see an acknowledgement, and returns whether it is a receipt.
func (w *watch) see(signed string, indices ...int64) bool {
	_, ok := w.observe(Ack{Checkpoint: signed, LogIndices: indices})
	return ok
}

func (w *watch) size() int64 {
	_, newest := w.known()
	return newest.Size
}

// want checks how often the witness raised its voice, in each of its ways.
func (w *watch) want(contradictions int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	errorLines := strings.Count(strings.Join(w.lines, "\n"), "DataStorage's audit log is not what it was")
	got := []int{w.contradictions, errorLines, len(w.alarms)}
	if diff := cmp.Diff([]int{contradictions, contradictions, contradictions}, got); diff != "" {
		w.t.Errorf("contradictions counted, logged, alarmed (-want +got):\n%s\n%s", diff, strings.Join(w.lines, "\n"))
	}
}

// wantCheck checks what the readiness check says to a request.
func (w *watch) wantCheck(target string, ok bool) {
	w.t.Helper()
	if err := w.Check(httptest.NewRequest(http.MethodGet, target, nil)); (err == nil) != ok {
		w.t.Errorf("%s fails with %v", target, err)
	}
}

func (w *watch) log(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(strings.Join(w.lines, "\n"), text)
}

// pass lets time pass, and what is due then be done.
func pass(d time.Duration) {
	advance(d)
	synctest.Wait()
}

const longEnough = 20 * time.Second // for a doubt to be settled

func TestCheckpointsInAnyOrderAreProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBook(t), &drawer{}
		w := startWatch(t, "", b, d)
		var all []string
		for size := int64(1); size <= 40; size++ {
			all = append(all, b.write(size, "event"))
		}
		for _, i := range []int{6, 2, 9, 0, 5} {
			if !w.see(all[i], int64(i)) {
				t.Errorf("the checkpoint of %d events is no receipt", i+1)
			}
		}
		pass(witnessRound)
		for i := 39; i >= 10; i-- {
			w.see(all[i])
			w.Witness.mu.Lock()
			n := len(w.pending)
			w.Witness.mu.Unlock()
			if n > maxPending {
				t.Errorf("%d checkpoints wait, want at most %d", n, maxPending)
			}
		}
		pass(witnessRound)
		if w.size() != 40 {
			t.Errorf("the newest proven log has %d events, want 40", w.size())
		}
		w.see(b.sign(12))
		pass(witnessRound)
		if w.size() != 40 {
			t.Errorf("an older checkpoint has made the proven log one of %d events", w.size())
		}
		w.end()
		w.want(0)
		if c, err := ledger.Verify(d.data[keptCheckpoint], b.key.Verifier()); err != nil || c.Size != 40 {
			t.Errorf("kept is %+v, %v", c, err)
		}
		for _, size := range []int{1, 3, 6, 7, 10, 40} {
			if n := w.log(fmt.Sprintf(`"msg":"The audit log is what it was, and more","size":%d,"root":"`, size)); n != 1 {
				t.Errorf("%d lines say that the log of %d events is proven, want 1", n, size)
			}
		}
		if b.proofs < 20 || b.proofs > 6+maxPending {
			t.Errorf("%d proofs were asked for, want one for each checkpoint that waited", b.proofs)
		}
		if problems, err := testutil.GatherAndLint(w.registry); err != nil || len(problems) > 0 {
			t.Errorf("promlint: %v %v", problems, err)
		}
		if err := testutil.GatherAndCompare(w.registry, strings.NewReader(`
# HELP notification_audit_log_size Events in DataStorage's log by the newest checkpoint that is proven, 0 where there is none.
# TYPE notification_audit_log_size gauge
notification_audit_log_size 40
# HELP notification_audit_log_checkpoint_age_seconds Age of the newest checkpoint that is proven, 0 where there is none.
# TYPE notification_audit_log_checkpoint_age_seconds gauge
notification_audit_log_checkpoint_age_seconds 3
`), "notification_audit_log_size", "notification_audit_log_checkpoint_age_seconds"); err != nil {
			t.Error(err)
		}
	})
}

func TestAnOldBackupIsNoticedAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBook(t), &drawer{}
		w := startWatch(t, "", b, d)
		known := b.write(100, "event")
		w.see(known)
		pass(witnessRound)
		b.restore(60)
		first := b.write(61, "other")
		w.see(first, 60)
		pass(longEnough)
		w.want(1)
		if len(d.evidence()) != 1 || w.log(`"evidence":"contradiction-2`) != 1 {
			t.Errorf("kept at once as evidence: %q", d.evidence())
		}
		for size := int64(62); size < 130; size++ {
			if !w.see(b.write(size, "other"), size-1) {
				t.Error("what the log's key has signed is no receipt")
			}
			pass(witnessRound)
		}
		pass(longEnough)
		w.want(1)
		if w.size() != 100 {
			t.Errorf("the newest is of %d events, want the 100 that were there before", w.size())
		}
		evidence := d.evidence()
		if len(evidence) != 1 || !strings.Contains(evidence[0], strings.TrimSpace(strings.SplitN(known, "\n\n", 2)[1])) ||
			!strings.Contains(evidence[0], first) || !strings.Contains(evidence[0], "DataStorage answered 404") {
			t.Errorf("kept as evidence: %q", evidence)
		}
		w.wantCheck("/readyz", true)
		w.wantCheck("/readyz?verbose", false)
		w.end()
		// It is said again by the next process, which begins with the same knowledge.
		w = startWatch(t, "", b, d)
		pass(longEnough)
		w.want(1)
		if n := len(d.evidence()); n != 2 {
			t.Errorf("%d contradictions are kept, want 2", n)
		}
		w.end()
	})
}

func TestAnOldBackupIsNoticedAfterARestartWithoutAnyEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBook(t), &drawer{}
		b.write(10, "event")
		w := startWatch(t, "", b, d)
		w.end()
		for _, size := range []int64{9, 0} {
			w = startWatch(t, "", b.copied(size), d)
			pass(longEnough)
			w.want(1)
			w.end()
		}
		w = startWatch(t, "", b, d)
		pass(longEnough)
		w.want(0)
		w.end()
	})
}

func TestAForkedLogIsNoticedAndOnce(t *testing.T) {
	for name, ahead := range map[string]int64{"of the same size": 0, "that is ahead": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, d := newBook(t), &drawer{}
				a.write(20, "event")
				b := a.copied(20)
				servers := &either{a: a, b: b}
				w := startWatch(t, "", servers, d)
				for size := int64(21); size < 40; size++ {
					w.see(a.write(size, "event"))
					w.see(b.write(size+ahead, "other"))
					pass(witnessRound)
				}
				pass(longEnough)
				w.want(1)
				servers.b = a
				w.see(a.write(50, "event"))
				pass(longEnough)
				if size := w.size(); size != 50 {
					t.Errorf("the newest is of %d events, want the 50 of the log that was there first", size)
				}
				w.end()
			})
		})
	}
}

// either is two servers that take questions in turns.
type either struct {
	a, b *book
	n    int
}

func (e *either) Key(ctx context.Context) (string, error)        { return e.a.Key(ctx) }
func (e *either) Checkpoint(ctx context.Context) (string, error) { return e.a.Checkpoint(ctx) }
func (e *either) Consistency(ctx context.Context, from, to int64) ([]ledger.Hash, error) {
	e.n++
	if e.n%3 == 0 {
		return e.b.Consistency(ctx, from, to)
	}
	return e.a.Consistency(ctx, from, to)
}

func TestAnotherKeyIsNoticedAndMakesNoReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, other, d := newBook(t), newBook(t), &drawer{}
		b.write(3, "event")
		for _, key := range []string{"", b.key.Verifier()} {
			w := startWatch(t, key, b, d)
			for size := int64(4); size < 10; size++ {
				if w.see(other.write(size, "event"), size-1) {
					t.Error("a checkpoint with another's signature is a receipt")
				}
				pass(witnessRound)
			}
			w.see("nonsense")
			pass(witnessRound)
			w.want(1)
			if w.size() != 3 {
				t.Errorf("the newest is of %d events, want 3", w.size())
			}
			w.end()
			// The key is trusted once, whatever the log says later.
			w = startWatch(t, key, other, d)
			if key, _ := w.known(); key != b.key.Verifier() {
				t.Errorf("the key is %s, want %s", key, b.key.Verifier())
			}
			w.want(1)
			w.end()
		}
	})
}

func TestTheGivenKeyGoesBeforeTheKeptOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, next, d := newBook(t), newBook(t), &drawer{}
		b.write(3, "event")
		startWatch(t, "", b, d).end()
		next.write(2, "event")
		w := startWatch(t, next.key.Verifier(), next, d)
		if w.size() != 2 || w.log("is left aside") != 1 {
			t.Errorf("the newest is of %d events, want the 2 of the log whose key is given", w.size())
		}
		w.want(0)
		w.end()
	})
}

func TestAStaleCheckpointVouchesForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		stale := b.write(5, "event")
		b.write(9, "event")
		w := startWatch(t, "", b, &drawer{})
		if w.see(stale, 7, 8) {
			t.Error("a checkpoint of 5 events vouches for number 8")
		}
		pass(witnessRound)
		w.want(1)
		w.see(b.sign(6), 8)
		pass(witnessRound)
		w.want(1)
		if !w.see(stale, 4) {
			t.Error("an older checkpoint of the same log is no receipt")
		}
		if w.see(b.sign(9)) {
			t.Error("a checkpoint is a receipt for an event with no place in the log")
		}
		w.end()
	})
}

func TestAServerWithoutALogIsToleratedQuietly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, key := range map[string]string{"without a key": "", "with one": newBook(t).key.Verifier()} {
			b := newBook(t)
			b.fail(refusal404("not-found"))
			w := startWatch(t, key, b, &drawer{})
			if w.see("") {
				t.Error("no checkpoint is a receipt")
			}
			pass(time.Hour)
			w.end()
			w.want(0)
			if n := len(w.lines); n > 0 {
				t.Errorf("%s: the log has %d lines: %v", name, n, w.lines)
			}
			if b.asked > 100 {
				t.Errorf("%s: it was asked %d times in an hour", name, b.asked)
			}
		}
	})
}

func TestWhatCannotBeProvenYetIsProvenLater(t *testing.T) {
	for name, trouble := range map[string]error{
		"no answer":              errors.New("reset"),
		"unavailable":            &PostError{Status: 503, Kind: "unavailable"},
		"a proxy's 404":          &PostError{Status: 404, Kind: "not-found", Foreign: true},
		"forbidden":              &PostError{Status: 403, Kind: "forbidden"},
		"its restart is awaited": refusal404("not-found"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBook(t)
				b.write(3, "event")
				w := startWatch(t, "", b, &drawer{})
				b.fail(trouble)
				w.see(b.write(5, "event"))
				w.see(b.write(9, "event"))
				if name == "its restart is awaited" {
					pass(2 * witnessRound)
				} else {
					pass(time.Hour)
				}
				if w.size() != 3 {
					t.Errorf("the newest is of %d events, want the 3 that are proven", w.size())
				}
				b.fail(nil)
				pass(longestPause + witnessRound)
				if w.size() != 9 {
					t.Errorf("the newest is of %d events, want 9", w.size())
				}
				w.want(0)
				w.end()
			})
		})
	}
}

func TestRecordingNeverWaitsForTheWitness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.write(1, "event")
		w := startWatch(t, "", b, &drawer{})
		defer w.end()
		b.before = func(ctx context.Context) { <-ctx.Done() }
		size := int64(1)
		srv := &server{checkpoint: func(n int) string {
			size += int64(n)
			return b.write(size, "event")
		}}
		f := newFixture(t, settings, srv, &memory{})
		f.witness = w.Witness
		f.start()
		for n := range 50 {
			f.record(events(10*n, 10*n+10)...)
			pass(witnessRound / 4)
		}
		f.want(500, 500, 0, 0, 0)
		for _, r := range f.receipts {
			if r.LogSize <= *r.LogIndex || len(r.LogRoot) != 44 {
				t.Fatalf("receipt %+v names no log that has the event", r)
			}
		}
		f.finish()
	})
}

func TestTheFirstEventHasAReceiptWhereTheGateAwaitsTheWitness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.fail(errors.New("connection refused"))
		w := startWatch(t, "", b, &drawer{})
		if w.see(b.write(1, "event")) {
			t.Error("a receipt without a key")
		}
		pass(10 * time.Minute)
		b.fail(nil)
		start := time.Now()
		w.Await(t.Context())
		if took := time.Since(start); took > 0 || !w.see(b.write(2, "event"), 1) {
			t.Errorf("after %s there is no receipt", took)
		}
		w.end()
		w.Await(t.Context())
		if took := time.Since(start); took > witnessAwait {
			t.Errorf("a witness that has ended was awaited for %s", took)
		}
	})
}

func TestWhatIsKnownIsKeptOnceAMinuteAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBook(t), &drawer{}
		start := time.Now()
		w := startWatch(t, "", b, d)
		for size := int64(1); size <= 150; size++ {
			w.see(b.write(size, "event"))
			pass(witnessRound)
		}
		w.end()
		var times []time.Duration
		for _, at := range d.saves {
			times = append(times, at.Sub(start).Round(witnessRound))
		}
		if diff := cmp.Diff([]time.Duration{0, time.Minute, 2 * time.Minute, 150 * time.Second}, times); diff != "" {
			t.Errorf("saved at (-want +got):\n%s", diff)
		}
		// Nothing new is nothing to save.
		saves := len(d.saves)
		w = startWatch(t, "", b.copied(150), d)
		same := b.sign(150)
		for range 3 {
			w.see(same)
			pass(time.Minute)
		}
		w.end()
		if n := len(d.saves) - saves; n != 1 {
			t.Errorf("%d saves, want the one of the newer time", n)
		}
	})
}

func TestAPersonCanHaveTheWitnessBeginAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBook(t), &drawer{}
		b.write(100, "event")
		w := startWatch(t, "", b, d)
		b.restore(60)
		w.see(b.write(61, "other"))
		pass(longEnough)
		w.want(1)
		w.see(b.sign(60)) // there is something to save, later
		d.put(nil)
		w.end()
		if d.data != nil {
			t.Errorf("what a person has removed is back: %v", d.data)
		}
		w = startWatch(t, "", b, d)
		pass(longEnough)
		if w.size() != 61 {
			t.Errorf("the newest is of %d events, want the 61 there are now", w.size())
		}
		w.want(0)
		w.wantCheck("/readyz?verbose", true)
		w.end()
	})
}

func TestWhatIsKeptAndNoLogsIsLeftAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.write(3, "event")
		for _, garbled := range []map[string]string{
			{keptKey: "nonsense", keptCheckpoint: "nonsense"},
			{keptKey: "nonsense", keptCheckpoint: b.sign(2)},
			{keptKey: b.key.Verifier(), keptCheckpoint: "nonsense"},
			{keptCheckpoint: b.sign(2)},
		} {
			w := startWatch(t, "", b, &drawer{data: garbled})
			if !w.see(b.sign(3), 2) || w.size() != 3 {
				t.Errorf("with %v the proven log has %d events, want 3", garbled, w.size())
			}
			if w.log("left aside") == 0 {
				t.Errorf("%v is left aside without a word", garbled)
			}
			w.want(0)
			w.end()
		}
	})
}

func TestWhatAnotherHasKeptIsGoneBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, other, d := newBook(t), newBook(t), &drawer{}
		w := startWatch(t, "", b, d)
		pass(time.Minute)
		d.put(map[string]string{keptKey: other.key.Verifier(), keptCheckpoint: other.write(7, "event")})
		w.see(b.write(3, "event"))
		pass(2 * witnessRound)
		if key, newest := w.known(); key != other.key.Verifier() || newest.Size != 7 {
			t.Errorf("the witness goes by %s and %d events", key, newest.Size)
		}
		w.see(b.write(4, "event"))
		pass(witnessRound)
		w.want(1)
		w.end()
	})
}

func TestAWitnessThatCannotKeepAnythingStillWitnesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBook(t), &drawer{broken: errors.New("forbidden")}
		b.write(5, "event")
		w := startWatch(t, "", b, d)
		pass(10 * time.Minute)
		b.fail(refusal404("log-tampered"))
		w.see(b.write(6, "event"))
		pass(longEnough)
		w.want(1)
		if n := w.log(`"error":"forbidden"`); n != 1 {
			t.Errorf("%d lines say that nothing can be kept, want 1", n)
		}
		// When it can, another's evidence is not overwritten.
		d.put(map[string]string{keptKey: b.key.Verifier(), evidencePrefix + "old": "old"})
		d.mu.Lock()
		d.broken = nil
		d.mu.Unlock()
		pass(3 * time.Minute)
		w.end()
		if diff := cmp.Diff([]string{"old"}, d.evidence()); diff != "" {
			t.Errorf("kept as evidence (-want +got):\n%s", diff)
		}
	})
}

func TestTheLogIsAskedWhereNothingIsHeardOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.write(5, "event")
		w := startWatch(t, "", b, &drawer{})
		b.restore(4)
		pass(witnessIdle + longEnough)
		w.want(1)
		w.end()
	})
}

func TestEvidenceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWatch(t, newBook(t).key.Verifier(), nil, nil)
		s.adopt(nil)
		s.see(strings.Repeat("much ", 10_000))
		if n := len(s.pending[0].signed); n > 4<<10 {
			t.Errorf("%d bytes of a checkpoint wait", n)
		}
		b, d := newBook(t), &drawer{}
		b.write(5, "event")
		w := startWatch(t, "", b, d)
		for n := range maxEvidence + 2 {
			w.see(b.copied(4).write(6, fmt.Sprint("fork ", n)))
			pass(longEnough + tellAgain/2)
			w.see(b.copied(4).write(7, fmt.Sprint("fork ", n)))
			pass(longEnough + tellAgain/2)
		}
		w.want(maxEvidence + 2)
		if n := len(d.evidence()); n != maxEvidence {
			t.Errorf("%d contradictions are kept, want the first %d", n, maxEvidence)
		}
		w.end()
	})
}
