package verify

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"kubernaut.ai/notification/internal/ledger"
)

const (
	// maxFindings is how many findings a report lists.
	maxFindings = 20
	// progressEvery is how often a long verification says how far it is.
	progressEvery = 5 * time.Second
)

// finding is something that is not as it should be. Index is that of the first
// event that it concerns, or the number of events before it.
type finding struct {
	index   int64
	eventID string // empty where it is not about one event
	what    string
}

// report is what a verification has found.
type report struct {
	findings []finding // the first ones in the log, in its order
	total    int       // of all there are

	source      string
	from, to    int64 // events
	root        ledger.Hash
	verifier    string
	kept, given int // checkpoints that agree
	expired     int // events without their bytes, as the log says
	steps       int // of a clock, backwards
	step        string
	progress    *progress
}

func (r *report) add(index int64, format string, args ...any) {
	r.put(finding{index: index, what: fmt.Sprintf(format, args...)})
}

func (r *report) addEvent(index int64, eventID, format string, args ...any) {
	r.put(finding{index, eventID, fmt.Sprintf(format, args...)})
}

func (r *report) put(f finding) {
	r.total++
	at, _ := slices.BinarySearchFunc(r.findings, f.index, func(have finding, index int64) int {
		return cmp.Compare(have.index, index+1) // after those of the same event
	})
	r.findings = slices.Insert(r.findings, at, f)
	r.findings = r.findings[:min(len(r.findings), maxFindings)]
}

// stepped notes that time went back. What the log holds is none the less what was
// recorded, so it is no finding, but whoever goes by the times must know.
func (r *report) stepped(how string) {
	if r.steps++; r.steps == 1 {
		r.step = how
	}
}

// print says in words what was found.
func (r *report) print(out io.Writer) {
	if r.total == 0 {
		events := "events"
		if r.to-r.from == 1 {
			events = "event"
		}
		fmt.Fprintf(out, "%s is whole: %d %s from number %d on, in a log with the root %s.\nPublic key: %s\nCheckpoints that agree: %d of the log's own, %d given with --checkpoint.\n",
			r.source, r.to-r.from, events, r.from, r.root, r.verifier, r.kept, r.given)
		if r.expired > 0 {
			fmt.Fprintf(out, "Expired, as the log itself says: %d of the events. Their places and hashes are proven, their bytes are gone.\n", r.expired)
		}
		r.printSteps(out)
		return
	}
	fmt.Fprintf(out, "%s is not what was recorded. What was found, in the order of the log:\n", r.source)
	for i, f := range r.findings {
		if f.eventID != "" {
			f.what = fmt.Sprintf("event %d (%s): %s", f.index, f.eventID, f.what)
		}
		fmt.Fprintf(out, "%d. %s\n", i+1, f.what)
	}
	if more := r.total - len(r.findings); more > 0 {
		fmt.Fprintf(out, "and %d more.\n", more)
	}
	r.printSteps(out)
}

func (r *report) printSteps(out io.Writer) {
	if r.steps > 0 {
		fmt.Fprintf(out, "The order is proven, the times are not: the clock of a server was set back, or those of several differ. %s. This happened %d times.\n", r.step, r.steps)
	}
}

// progress tells a person how far a verification is.
type progress struct {
	out         io.Writer
	began, told time.Time
}

func newProgress(out io.Writer) *progress {
	now := time.Now()
	return &progress{out: out, began: now, told: now}
}

// at is called often, with how many events there are behind and in all.
func (p *progress) at(done, all int64) {
	now := time.Now()
	if now.Sub(p.told) < progressEvery {
		return
	}
	p.told = now
	fmt.Fprintf(p.out, "%d of %d events, %.0f events/s\n", done, all, float64(done)/now.Sub(p.began).Seconds())
}
