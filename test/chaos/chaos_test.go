// Package chaos breaks the whole system again and again, in ways that a seed
// repeats, and then has an oracle compare what happened with what is promised.
//
//	make chaos KILLS=1000
package chaos

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

var (
	killsFlag    = flag.Int("kills", -1, "processes to kill in all; a negative number leaves the run out")
	requestsFlag = flag.Int("requests", 0, "requests to make in all; 0 for five for each kill")
	seedFlag     = flag.Uint64("seed", 0, "seed of the schedule; 0 for one of the clock")
	slowFlag     = flag.Duration("slow", 30*time.Second, "time that the slow sink takes")
	onlyFlag     = flag.String("only", "", "regular expression of the faults to use")
	setupFlag    = flag.String("setup", "", "regular expression of the setups to run, see the verdict for their names")
	kindsFlag    = flag.String("kinds", "", "regular expression of the kinds of requests to make")
	mutantsFlag  = flag.String("mutants", "", "regular expression of the mutants that the oracle has to catch; none where empty")
)

// settleTime is the bound for everything to be done with after the last fault: an
// attempt in doubt waits for its deadline, by a clock that may be set off twice.
const settleTime = 4 * time.Minute

// setups share a run. With a leader to be elected after each kill, two managers
// take ten times as long for theirs as one.
var setups = []setup{
	{database: "postgres", dlq: "file", managers: 1, steps: true, share: 10},
	{database: "sqlite", dlq: "redis", managers: 1, share: 9},
	{database: "sqlite", dlq: "file", managers: 2, share: 1},
}

// result is one line of the verdict.
type result struct {
	setup
	kills, precise, episodes int
	requests, messages       int
	events, repeat           int
	types                    map[string]int // of the events
	took, settled            time.Duration
	violations               violations
}

func TestChaos(t *testing.T) {
	if *killsFlag < 0 {
		t.Skip("make chaos runs this")
	}
	if *killsFlag == 0 {
		t.Fatal("KILLS must be 1 or more")
	}
	only, wanted, made := expression(t, "ONLY", *onlyFlag), expression(t, "SETUP", *setupFlag), kindsOf(expression(t, "KINDS", *kindsFlag))
	if len(made) == 0 {
		t.Fatalf("KINDS=%s leaves no kind of requests; docs/chaos.md names them", *kindsFlag)
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	requests := *requestsFlag
	if requests == 0 {
		requests = 5 * *killsFlag
	}
	quieten()
	say("seed %d, which SEED=%d repeats; the slow sink takes %s", seed, seed, *slowFlag)
	rounds := slices.DeleteFunc(slices.Clone(setups), func(s setup) bool { return !wanted.MatchString(s.String()) || !s.possible(t) })
	if len(rounds) == 0 {
		t.Fatalf("SETUP=%s leaves no setup; there are: %v", *setupFlag, setups)
	}
	p := programs{manager: stepped(t, nil), datastorage: harness.Build(t, "datastorage")}
	control := harness.StartControlPlane(quiet{t}, user)
	var results []result
	shares := 0
	for _, s := range rounds {
		shares += s.share
	}
	for i, s := range rounds {
		part := func(n int) int { return (n*s.share + shares - 1) / shares }
		t.Run(s.String(), func(t *testing.T) {
			r := round{seed: seed + uint64(i), kills: part(*killsFlag), requests: part(requests), settle: settleTime, only: only, kinds: made}
			results = append(results, r.run(quiet{t}, control, p, s, i))
		})
	}
	for _, line := range verdict(seed, results) {
		say("%s", line)
	}
	for _, r := range results {
		for _, promise := range promises {
			for _, text := range r.violations[promise] {
				t.Errorf("%s: %s: %s", r.setup, promise, text)
			}
		}
	}
}

// expression is a regular expression that a variable of make chaos has.
func expression(t *testing.T, variable, text string) *regexp.Regexp {
	t.Helper()
	re, err := regexp.Compile(text)
	if err != nil {
		t.Fatalf("%s must be a regular expression: %v", variable, err)
	}
	return re
}

func (s setup) possible(t *testing.T) bool {
	for _, need := range []struct {
		needed, have bool
		name, strict string
	}{
		{s.database == "postgres", harness.HavePostgres(), "PostgreSQL", "REQUIRE_POSTGRES"},
		{s.dlq == "redis", harness.HaveRedis(), "redis-server", "REQUIRE_REDIS"},
	} {
		if need.needed && !need.have {
			if os.Getenv(need.strict) != "" {
				t.Errorf("%s is not installed", need.name)
			}
			say("left out, since %s is not installed: %s", need.name, s)
			return false
		}
	}
	return true
}

// stepped builds the manager with a clock that can be set off, and with mutations.
func stepped(t testing.TB, mutations []edit) string {
	t.Helper()
	s := sources{}
	for _, e := range mutations {
		s.apply(t, e)
	}
	s.stepClock(t)
	return s.build(t, "manager")
}

// quieten keeps the clients' own words about broken connections from the terminal.
func quieten() {
	log.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
}

// say prints a line of progress at once.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "chaos: "+format+"\n", args...)
}

// quiet keeps to itself what the harness says of processes that failed: here they
// are meant to.
type quiet struct{ testing.TB }

func (quiet) Logf(string, ...any) {}

// round is a part of the run with one setup.
type round struct {
	seed            uint64
	kills, requests int
	episodes        int           // at least
	settle          time.Duration // for everything to be done with after the last fault
	only            *regexp.Regexp
	kinds           []kind // of requests, each as often as its weight has it
}

func (r round) run(t testing.TB, control *harness.ControlPlane, p programs, s setup, n int) result {
	start := time.Now()
	rng := rand.New(rand.NewPCG(r.seed, 0))
	w := newWorld(t, control, p, s, n, *slowFlag)
	if !w.kills(r.only) {
		r.kills, r.episodes = 0, max(r.kills, r.episodes)
	}
	ctx, stop := context.WithCancel(t.Context())
	work := newWorkload(ctx, w, r.seed, r.kinds)
	work.tasks.Go(func() { work.create(r.requests) })
	out := result{setup: s}
	progress := func(doing string) {
		made, done := work.counts()
		say("%s: %d of %d kills, %d of %d requests made, %d done, %.0f s, %s", s, out.kills, r.kills, made, r.requests, done, time.Since(start).Seconds(), doing)
	}
	last, most, moved := start, 0, start
	for made := 0; out.kills < r.kills || made < r.requests || out.episodes < r.episodes; made, _ = work.counts() {
		if made > most {
			most, moved = made, time.Now()
		} else if made < r.requests && time.Since(moved) > r.settle {
			break // those that are open are stuck, and so no more are made
		}
		// Some wait already when a fault comes, and more come meanwhile.
		if r.kills > 0 {
			work.allow(20 + r.requests*out.kills/r.kills)
		} else {
			work.allow(20 + r.requests*out.episodes/r.episodes)
		}
		names := w.episode(rng, r.only, out.kills < r.kills || r.kills == 0, &out)
		out.episodes++
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			progress(strings.Join(names, " + "))
		}
	}
	progress("no more faults")
	conserved := w.drained()
	w.rest()
	settling := time.Now()
	work.settle(r.settle, progress)
	out.settled = time.Since(settling)
	fresh := w.fresh()
	maps.Copy(conserved, w.conserved("last one", "conservation_difference", "dead_letters", "rejected_events", "buffered_events"))
	logs := w.finish()
	stop()
	work.tasks.Wait()

	h := w.history(append(work.obligations(), fresh), logs)
	h.conserved = conserved
	out.violations = judge(h)
	if !fresh.done() {
		out.violations.add(promiseFresh, "a request after the last fault did not get through\n%s", harness.Describe(fresh.last))
	}
	for _, complaint := range work.errs {
		out.violations.add(promiseSound, "%s", complaint)
	}
	for promise, list := range w.sinks.complaints {
		out.violations[promise] = append(out.violations[promise], list...)
	}
	out.precise, out.requests, out.events = w.precise, len(h.obligations), len(h.events)
	for _, o := range h.obligations {
		out.messages += len(o.channels())
	}
	out.types = map[string]int{}
	for _, e := range h.events {
		out.types[e.EventType]++
		if e.Data.PossibleDuplicate && e.EventType == audit.TypeMessageSent {
			out.repeat++
		}
	}
	out.took = time.Since(start)
	if len(out.violations) > 0 {
		keep(t, fmt.Sprintf("chaos-%d-%d", r.seed, n), logs)
	}
	return out
}

// kills reports whether some of the faults that are wanted kill a process.
func (w *world) kills(only *regexp.Regexp) (some bool) {
	var names, wanted []string
	for _, f := range catalogue() {
		if f.usable != nil && !f.usable(w) {
			continue
		}
		names = append(names, f.name)
		if only.MatchString(f.name) {
			wanted, some = append(wanted, f.name), some || f.kills > 0
		}
	}
	if len(wanted) == 0 {
		w.Fatalf("ONLY=%s leaves no fault; with %s there are: %s", only, w.setup, strings.Join(names, ", "))
	}
	return some
}

// keep leaves what the managers printed where a person finds it.
func keep(t testing.TB, name string, logs []string) {
	t.Helper()
	for i, log := range logs {
		path := filepath.Join(os.TempDir(), fmt.Sprintf("%s-manager-%d.log", name, i))
		if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
			t.Error(err)
		}
		say("what manager %d printed is in %s", i, path)
	}
}

// episode lets one to three faults happen side by side, and ends them.
func (w *world) episode(rng *rand.Rand, only *regexp.Regexp, kill bool, out *result) (names []string) {
	var faults []fault
	taken := map[string]bool{}
	for range 1 + rng.IntN(3) {
		f := draw(rng, func(f fault) bool {
			return !taken[f.part] && (kill || f.kills == 0) && (f.usable == nil || f.usable(w)) && only.MatchString(f.name)
		})
		if f.name != "" {
			taken[f.part] = true
			faults = append(faults, f)
		}
	}
	// What a fault needs for itself, and to be ended, is taken away after it and
	// given back before.
	slices.SortStableFunc(faults, func(a, b fault) int { return a.depth - b.depth })
	var heals []func()
	for _, f := range faults {
		names = append(names, f.name)
		heals = append(heals, f.strike(w, rng))
		out.kills += f.kills
	}
	<-time.After(time.Duration(rng.IntN(1000)) * time.Millisecond)
	for _, heal := range slices.Backward(heals) {
		heal()
	}
	for _, r := range w.replicas {
		if r.process.Ended() { // as where it starts and meets no API server
			r.restart(w, rng)
		}
	}
	calm := 3 * time.Second
	if w.managers > 1 {
		calm = 25 * time.Second // a lease has to run out
	}
	if rng.IntN(2) == 0 {
		<-time.After(time.Duration(rng.Int64N(int64(calm))))
	}
	return names
}

// draw picks one of the faults that are wanted, by their weight.
func draw(rng *rand.Rand, want func(fault) bool) fault {
	all := slices.DeleteFunc(catalogue(), func(f fault) bool { return !want(f) })
	sum := 0
	for _, f := range all {
		sum += f.weight
	}
	if sum == 0 {
		return fault{}
	}
	n := rng.IntN(sum)
	for _, f := range all {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	return fault{}
}

// verdict is the table that a person reads.
func verdict(seed uint64, results []result) []string {
	lines := []string{
		fmt.Sprintf("verdict, seed %d", seed),
		"| setup | kills | at the very point | requests | messages | events | in doubt | possible duplicates | suppressed | acknowledged | escalated | settled | took |",
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|",
	}
	broken := violations{}
	for _, r := range results {
		lines = append(lines, fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.0f s | %.0f s |", r.setup, r.kills, r.precise,
			r.requests, r.messages, r.events, r.types[audit.TypeAttemptAmbiguous], r.repeat, r.types[audit.TypeMessageSuppressed],
			r.types[audit.TypeMessageAcknowledged], r.types[audit.TypeMessageEscalated], r.settled.Seconds(), r.took.Seconds()))
		for promise, list := range r.violations {
			broken[promise] = append(broken[promise], list...)
		}
	}
	lines = append(lines, "", "| promise | broken |", "|---|---|")
	for _, promise := range promises {
		lines = append(lines, fmt.Sprintf("| %s | %d |", promise, len(broken[promise])))
	}
	return lines
}
