package controller

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// Whatever happens in whatever order, a request keeps its promises. The world
// plays the API server, the processes that lead one after the other, the
// channels, DataStorage and the person; the rules are checked at each write.
func TestPlanKeepsItsPromisesWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"step":      func(t *rapid.T) { w.step(t, rapid.SampledFrom(writes).Draw(t, "write")) },
			"time":      w.passTime,
			"outcome":   w.outcome,
			"crash":     w.crash,
			"ghost":     w.ghost,
			"answer":    w.answer,
			"configure": w.configure,
			"suspend":   func(t *rapid.T) { w.stored.Spec.Suspend = new(rapid.Bool().Draw(t, "suspend")) },
			"delete":    w.remove,
			"word":      w.word,
			"refusals":  w.refusals,
			"press":     w.press,
			"outage": func(t *rapid.T) {
				w.held = v1alpha1.DeliveryError{}
				if rapid.Bool().Draw(t, "away") {
					w.held = outage
				}
			},
		})
		w.settle(t)
	})
}

// What can become of a write of status: it succeeds, somebody was faster, or no
// answer comes, whether the API server made it or not.
const (
	written = iota
	conflicted
	lost
	lostButWritten
)

var writes = []int{written, written, written, written, conflicted, lost, lostButWritten}

type world struct {
	stored   *v1alpha1.NotificationRequest // as the API server holds it
	channels map[string]channel
	now      time.Time
	held     v1alpha1.DeliveryError // while DataStorage is away

	// What the process that leads has in memory.
	sends    map[string]sendState
	unsent   map[string][]time.Time
	receipts map[string]audit.Receipt

	// Attempts of processes that were thought dead, by channel.
	ghosts map[string][]int32

	// The ledger of what was seen from outside.
	sent     map[string][]int32                   // attempts that were let go
	offered  map[string]map[int32]map[string]bool // classes of the outcomes that were reported
	failures map[string]map[int32]string          // event types of failed attempts
	harmless map[string]map[int32]bool            // attempts that may be made twice
	words    map[string]int                       // times a person said Retry
	bytes    map[string]string                    // events as first seen, by ID
	latest   decision

	links bool // whether messages carry a link to acknowledge them by

	force delivery.Class // of outcomes, none where it is empty
}

func newWorld(t *rapid.T) *world {
	names := []string{"a", "b", v1alpha1.ConsoleChannel}[:rapid.IntRange(1, 3).Draw(t, "channels")]
	w := &world{
		now: born.Add(time.Second), channels: map[string]channel{},
		sends: map[string]sendState{}, unsent: map[string][]time.Time{}, receipts: map[string]audit.Receipt{},
		ghosts: map[string][]int32{}, sent: map[string][]int32{}, offered: map[string]map[int32]map[string]bool{},
		failures: map[string]map[int32]string{}, harmless: map[string]map[int32]bool{}, words: map[string]int{}, bytes: map[string]string{},
	}
	w.stored = newRequest(withChannels(names...), func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.OnAmbiguous = rapid.SampledFrom([]v1alpha1.AmbiguousPolicy{"Retry", "Hold", "AssumeSent"}).Draw(t, "onAmbiguous")
		nr.Spec.Retry.MaxAttempts = rapid.Int32Range(1, 4).Draw(t, "maxAttempts")
		nr.Spec.Retry.InitialDelay = rapid.SampledFrom([]v1alpha1.Duration{"1ms", "5s"}).Draw(t, "initialDelay")
		nr.Spec.Retry.MaxDelay = "30s"
		nr.Spec.Deadline = rapid.SampledFrom([]v1alpha1.Duration{"1s", "5m", "1h"}).Draw(t, "deadline")
		if rapid.IntRange(0, 3).Draw(t, "notBefore") == 0 {
			nr.Spec.NotBefore = new(metav1.NewTime(born.Add(time.Minute)))
		}
		if rapid.IntRange(0, 7).Draw(t, "mode") == 7 {
			nr.Spec.Mode = v1alpha1.ModeDryRun
		}
		if rapid.Bool().Draw(t, "asks") {
			asking([]string{"c", "d"}[:rapid.IntRange(0, 2).Draw(t, "escalateTo")]...)(nr)
		}
		if rapid.Bool().Draw(t, "routed") {
			nr.Spec.Channels = nil
			for _, name := range names {
				c := v1alpha1.RoutedChannel{Name: name, Route: v1alpha1.RouteReference{Name: "r", UID: "u", Generation: 1}}
				if rapid.Bool().Draw(t, "quiet") {
					c.QuietUntil = new(metav1.NewTime(born.Add(2 * time.Minute)))
				}
				nr.Status.RoutedChannels = append(nr.Status.RoutedChannels, c)
			}
		}
	})
	w.links = rapid.Bool().Draw(t, "links")
	for _, name := range append(names, channelNames(escalationRefs(w.stored))...) {
		w.channels[name] = channel{
			kind: v1alpha1.ChannelWebhook, timeout: 10 * time.Second, config: "A",
			idempotent: rapid.Bool().Draw(t, "idempotent"),
		}
		w.offered[name], w.failures[name], w.harmless[name] = map[int32]map[string]bool{}, map[int32]string{}, map[int32]bool{}
	}
	if _, ok := w.channels[v1alpha1.ConsoleChannel]; ok {
		w.channels[v1alpha1.ConsoleChannel] = builtIn()
	}
	return w
}

// step is what the reconciler does: plan, begin, write, act.
func (w *world) step(t *rapid.T, write int) {
	w.now = w.now.Add(time.Microsecond) // no two steps are made at the same time
	nr := w.stored.DeepCopy()
	p := planner{
		channels: w.channels, sends: maps.Clone(w.sends), unsent: maps.Clone(w.unsent), receipts: maps.Clone(w.receipts), now: w.now,
		held: w.held, links: w.links,
		jitter: func(limit time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(limit)).Draw(t, "jitter"))
		},
	}
	if isDryRun(nr) && nr.Status.FinishedTime == nil {
		p.rehearsals = map[string]rehearsal{}
		for name, ch := range w.channels {
			o := rehearsal{kind: ch.kind, trouble: ch.blocked}
			if o.trouble.Class == "" {
				o.content = delivery.ReceiptOf([]byte(name))
			}
			p.rehearsals[name] = o
		}
	}
	d := w.plan(t, &p, nr)
	begun := map[string]int32{}
	for _, channel := range d.due {
		dl := deliveryOf(&nr.Status, channel)
		switch rapid.IntRange(0, 7).Draw(t, "place") {
		case 0: // all are taken
		case 1:
			until := w.now.Add(time.Minute)
			postpone(dl, waitFor(rapid.SampledFrom(postponements).Draw(t, "reason"), v1alpha1.ErrorTransient, until, "until %s", stamp(until)).err, until)
		default:
			if w.follow(t, nr, dl); dl.State == v1alpha1.DeliveryAmbiguous || dl.State.Final() {
				break
			}
			begin(dl, w.channels[channel], w.now)
			begun[channel] = dl.Attempts
			w.harmless[channel][dl.Attempts] = *dl.Idempotent
		}
	}
	after := w.plan(t, &p, nr)
	summarize(nr, w.now)
	setAcknowledged(nr, w.links, w.now)
	if write == lost || write == lostButWritten {
		for channel := range begun {
			w.unsent[channel] = append(w.unsent[channel], deliveryOf(&nr.Status, channel).StartedTime.Time)
		}
	}
	if write == conflicted || write == lost {
		return
	}
	w.check(t, nr, after)
	if len(d.spent) > 0 && write != lostButWritten && rapid.Bool().Draw(t, "annotation taken off") {
		dropResolutions(nr, d.spent)
	}
	w.stored, w.latest = nr, after
	if write == lostButWritten {
		return
	}
	for channel, s := range p.sends {
		if s.done {
			delete(w.sends, channel)
		}
	}
	clear(w.receipts)
	clear(w.unsent)
	for channel, attempt := range begun {
		w.checkSend(t, nr, channel, attempt)
		w.sent[channel] = append(w.sent[channel], attempt)
		w.sends[channel] = sendState{outcome: outcome{attempt: attempt, config: w.channels[channel].config, started: w.now}}
	}
}

// plan plans twice: the second time nothing is left to decide.
func (w *world) plan(t *rapid.T, p *planner, nr *v1alpha1.NotificationRequest) decision {
	before := nr.DeepCopy()
	d := p.plan(nr)
	once, jitter := nr.DeepCopy(), p.jitter
	p.jitter = func(time.Duration) time.Duration { t.Fatalf("a second plan draws another wait"); return 0 }
	again := p.plan(nr)
	p.jitter = jitter
	again.spent = d.spent
	if diff := cmp.Diff(d, again, cmp.AllowUnexported(decision{})) + cmp.Diff(once, nr); diff != "" {
		t.Fatalf("a second plan decides otherwise (-first +second):\n%s", diff)
	}
	before.Status = nr.Status
	if diff := cmp.Diff(before, nr); diff != "" {
		t.Fatalf("the plan changed more than status:\n%s", diff)
	}
	return d
}

// check holds a status that is about to be written against the one before.
func (w *world) check(t *rapid.T, nr *v1alpha1.NotificationRequest, d decision) {
	checkSchema(t, nr)
	w.checkEvents(t, nr)
	all := true
	for i := range nr.Status.Deliveries {
		dl := &nr.Status.Deliveries[i]
		if i < len(w.stored.Status.Deliveries) {
			w.checkFinal(t, &w.stored.Status.Deliveries[i], dl)
		}
		w.checkFailures(t, dl)
		if i < len(w.stored.Status.Deliveries) {
			w.checkFollowUp(t, &w.stored.Status.Deliveries[i], dl)
		}
		w.checkWaiting(t, nr, dl, d)
		all = all && dl.State.Final()
	}
	if isDryRun(nr) {
		equal(t, "a dry run's attempts", len(d.due)+len(w.sent), 0)
		equal(t, "a dry run is finished", nr.Status.FinishedTime != nil, true)
		equal(t, "a dry run is cancelled", nr.Status.Cancellation.Time != nil, false)
	}
	if nr.Status.FinishedTime != nil && !all {
		t.Fatalf("finished before all deliveries: %+v", nr.Status.Deliveries)
	}
	if nr.Spec.Acknowledge.Within == "" {
		equal(t, "finished exactly when all deliveries are", nr.Status.FinishedTime != nil, all)
	}
	w.checkAnswer(t, nr, d)
	stalled := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionStalled)
	reconciling := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReconciling)
	if stalled != nil && (stalled.Status != metav1.ConditionTrue || reconciling != nil) || reconciling != nil && reconciling.Status != metav1.ConditionTrue {
		t.Fatalf("conditions contradict each other: %+v", nr.Status.Conditions)
	}
	again := nr.DeepCopy()
	summarize(again, w.now.Add(time.Hour))
	if nr.Spec.NotBefore == nil {
		equal(t, "status summarized an hour later", again.Status, nr.Status)
	}
}

// checkEvents: an event that is promised stays promised until it is recorded, and
// is the same whenever it is built.
func (w *world) checkEvents(t *rapid.T, nr *v1alpha1.NotificationRequest) {
	states := map[string]v1alpha1.AuditState{}
	records(&nr.Status, func(r *v1alpha1.AuditRecord) {
		if states[r.EventID] != "" {
			t.Fatalf("event %s stands twice in status", r.EventID)
		}
		states[r.EventID] = r.State
	})
	records(&w.stored.Status, func(r *v1alpha1.AuditRecord) {
		now := states[r.EventID]
		switch r.State {
		case v1alpha1.AuditPending:
			if now == "" {
				t.Fatalf("event %s vanished before it was recorded", r.EventID)
			}
		case v1alpha1.AuditRecorded:
			if now != "" && now != v1alpha1.AuditRecorded {
				t.Fatalf("event %s was recorded and is %s now", r.EventID, now)
			}
		case v1alpha1.AuditRejected:
			if now == v1alpha1.AuditPending {
				t.Fatalf("event %s was rejected and is pending again", r.EventID)
			}
		}
	})
	for _, e := range pendingEvents(nr, true) {
		if broken := e.Validate(); broken != nil {
			t.Fatalf("event is not valid: %v", broken)
		}
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("encode event: %v", err)
		}
		if known, ok := w.bytes[e.EventID.String()]; ok && known != string(raw) {
			t.Fatalf("an event changed:\n%s\n%s", known, raw)
		}
		w.bytes[e.EventID.String()] = string(raw)
	}
}

// checkAnswer: what is known of who acknowledged, and of the escalation, stays as it
// is, and a request that waits for either is looked at again.
func (w *world) checkAnswer(t *rapid.T, nr *v1alpha1.NotificationRequest, d decision) {
	before, after := &w.stored.Status, &nr.Status
	bare := func(status *v1alpha1.NotificationRequestStatus) (v1alpha1.Acknowledgement, v1alpha1.Escalation) {
		a, e := status.Acknowledgement, status.Escalation
		a.Audit, e.Audit = v1alpha1.AuditRecord{EventID: a.Audit.EventID}, v1alpha1.AuditRecord{EventID: e.Audit.EventID}
		return a, e
	}
	a, e := bare(before)
	acknowledgement, escalation := bare(after)
	equal(t, "acknowledgement", acknowledgement, a)
	switch {
	case e.Time != nil:
		equal(t, "escalation", escalation, e)
	case escalation.Time != nil && (acknowledgement.Time != nil || nr.DeletionTimestamp != nil):
		t.Fatalf("escalated although that is of no use any more: %+v", nr.Status)
	}
	waits := after.FinishedTime == nil && nr.DeletionTimestamp == nil && acknowledgement.Time == nil
	if reached := firstSent(after); waits && reached != nil && escalation.Time == nil && len(escalationRefs(nr)) > 0 {
		due := reached.Add(nr.Spec.Acknowledge.Within.Value())
		if !w.now.Before(due) || d.wait == 0 || w.now.Add(d.wait).After(due) {
			t.Fatalf("an escalation that is due at %s is not looked at in time: wait %s at %s", due, d.wait, w.now)
		}
	}
	if over(after) && after.FinishedTime == nil && d.wait == 0 {
		t.Fatalf("nobody looks at a request again that waits for an answer: %+v", nr.Status)
	}
}

// checkFinal: what is over stays as it is.
func (w *world) checkFinal(t *rapid.T, before, after *v1alpha1.Delivery) {
	equal(t, "ended deliveries have an event and others have none", after.Audit.EventID != "", after.State.Final())
	if !before.State.Final() {
		return
	}
	was, is := before.DeepCopy(), after.DeepCopy()
	for _, d := range []*v1alpha1.Delivery{was, is} {
		d.AttemptFailures = nil
		d.Audit = v1alpha1.AuditRecord{EventID: d.Audit.EventID}
	}
	equal(t, "a delivery that had ended", is, was)
}

// follow decides for a first attempt what the message follows, and may find later that
// it must not replace that any more.
func (w *world) follow(t *rapid.T, nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery) {
	switch {
	case w.channels[d.Channel].idempotent:
	case d.Attempts == 0:
		d.FollowUp = v1alpha1.FollowUp{}
		if mode := rapid.SampledFrom([]v1alpha1.FollowUpMode{"", reply, update}).Draw(t, "follows"); mode != "" {
			d.FollowUp = v1alpha1.FollowUp{Mode: mode, ExternalID: "C1/1"}
		}
	case d.FollowUp.Mode == update && rapid.Bool().Draw(t, "replaced by another"):
		unfollow(nr, d, reply, w.now)
	}
}

// checkFollowUp: what a message follows is decided once, and only given up.
func (w *world) checkFollowUp(t *rapid.T, before, after *v1alpha1.Delivery) {
	if before.Attempts == 0 || before.State == v1alpha1.DeliveryInFlight && after.State == v1alpha1.DeliveryInFlight {
		return // none was made that is known of
	}
	was, is := before.FollowUp, after.FollowUp
	if after.Attempts == 0 && is == was {
		return
	}
	equal(t, "what it follows", is.ExternalID, was.ExternalID)
	rank := map[v1alpha1.FollowUpMode]int{update: 2, reply: 1}
	if rank[is.Mode] > rank[was.Mode] || (is.Mode == "") != (was.Mode == "") {
		t.Fatalf("%s follows by %q what it followed by %q", after.Channel, is.Mode, was.Mode)
	}
}

// checkFailures: each failed attempt has its record, once, under its own number.
func (w *world) checkFailures(t *rapid.T, d *v1alpha1.Delivery) {
	known := w.failures[d.Channel]
	last := int32(0)
	for _, f := range d.AttemptFailures {
		kind := audit.TypeAttemptFailed
		if f.Error.Class == v1alpha1.ErrorAmbiguous {
			kind = audit.TypeAttemptAmbiguous
		}
		if f.Attempt <= last || known[f.Attempt] != "" && known[f.Attempt] != kind {
			t.Fatalf("attempt %d of %s stands twice: %+v", f.Attempt, d.Channel, d.AttemptFailures)
		}
		equal(t, "event ID", f.Audit.EventID, audit.EventID(kind, string(w.stored.UID), d.Channel, fmt.Sprint(f.Attempt)).String())
		if offered := w.offered[d.Channel][f.Attempt]; !offered[string(f.Error.Class)] && kind != audit.TypeAttemptAmbiguous {
			t.Fatalf("attempt %d of %s failed with %s, which nobody reported", f.Attempt, d.Channel, f.Error.Class)
		}
		known[f.Attempt], last = kind, f.Attempt
	}
	want := d.Attempts
	switch d.State {
	case v1alpha1.DeliveryInFlight:
		want--
	case v1alpha1.DeliverySent:
		if known[d.Attempts] != audit.TypeAttemptAmbiguous && d.LastError != replacedInDoubt {
			want--
		}
	}
	if int32(len(known)) != want || want > 0 && known[want] == "" {
		t.Fatalf("%s is %s after %d attempts, of which these have a record: %v", d.Channel, d.State, d.Attempts, known)
	}
}

// checkWaiting: a delivery that has not ended is looked at again in time, and
// says what it waits for.
func (w *world) checkWaiting(t *rapid.T, nr *v1alpha1.NotificationRequest, dl *v1alpha1.Delivery, d decision) {
	if dl.State.Final() {
		if slices.Contains(d.due, dl.Channel) {
			t.Fatalf("%s has ended and is due", dl.Channel)
		}
		return
	}
	if s, ok := w.sends[dl.Channel]; ok && !s.done {
		return
	}
	latest := deadlineOf(nr, dl.Channel)
	if dl.State == v1alpha1.DeliveryInFlight {
		latest = dl.AttemptDeadline.Time
	}
	if d.wait <= 0 || w.now.Add(d.wait).After(latest.Add(time.Millisecond)) {
		t.Fatalf("%s is %s and is looked at again in %s, though something ends in %s", dl.Channel, dl.State, d.wait, latest.Sub(w.now))
	}
	switch {
	case slices.Contains(d.due, dl.Channel), slices.Contains(d.spent, dl.Channel), dl.State == v1alpha1.DeliveryInFlight, dl.LastError.Class != "":
	case nr.Spec.Suspend != nil && *nr.Spec.Suspend, nr.Spec.NotBefore != nil && w.now.Before(nr.Spec.NotBefore.Time):
	default:
		t.Fatalf("nothing says what %s waits for: %+v", dl.Channel, dl)
	}
}

// checkSend: an attempt is let go once, and after one that may have arrived only
// where the policy, or a person, has allowed that, and with a flag.
func (w *world) checkSend(t *rapid.T, nr *v1alpha1.NotificationRequest, channel string, attempt int32) {
	if w.held.Class != "" {
		t.Fatalf("attempt %d on %s begins while DataStorage is away", attempt, channel)
	}
	if w.now.Before(quietUntil(nr, channel)) {
		t.Fatalf("attempt %d on %s begins in its quiet hours", attempt, channel)
	}
	if slices.Contains(w.sent[channel], attempt) {
		t.Fatalf("attempt %d on %s is made twice", attempt, channel)
	}
	doubts, harmless := 0, 0
	for number, kind := range w.failures[channel] {
		switch {
		case kind != audit.TypeAttemptAmbiguous:
		case w.harmless[channel][number]:
			harmless++
		default:
			doubts++
		}
	}
	if doubts+harmless == 0 || w.harmless[channel][attempt] {
		return
	}
	if d := deliveryOf(&nr.Status, channel); d.PossibleDuplicate == nil || !*d.PossibleDuplicate {
		t.Fatalf("%s is sent to again after an attempt in doubt, and nothing says so", channel)
	}
	if harmless > 0 { // together they are one doubt since the message is sent by itself
		doubts++
	}
	switch nr.Spec.OnAmbiguous {
	case v1alpha1.AmbiguousAssumeSent:
		t.Fatalf("%s is sent to again after an attempt that was taken as sent", channel)
	case v1alpha1.AmbiguousHold:
		if doubts > w.words[channel] {
			t.Fatalf("%s was in doubt %d times and a person said Retry %d times, and it is sent to again", channel, doubts, w.words[channel])
		}
	case v1alpha1.AmbiguousRetry:
		if doubts > w.words[channel]+1 {
			t.Fatalf("%s was in doubt %d times and a person said Retry %d times, and it is sent to a third time", channel, doubts, w.words[channel])
		}
	}
}

func (w *world) passTime(t *rapid.T) {
	step := rapid.SampledFrom([]time.Duration{time.Microsecond, time.Second, 7 * time.Second, time.Minute, 10 * time.Minute, w.latest.wait}).Draw(t, "step")
	w.now = w.now.Add(step)
}

// report gives a running attempt an outcome.
func (w *world) report(t *rapid.T, channel string) {
	s := w.sends[channel]
	s.done, s.finished = true, w.now
	if s.started.IsZero() {
		s.started = w.now
	}
	s.receipt = delivery.Receipt{Digest: "sha256:" + strings.Repeat("0", 64)}
	kind := w.force
	if kind == "" {
		kind = rapid.SampledFrom([]delivery.Class{"", delivery.Transient, delivery.Permanent, delivery.Config, delivery.Ambiguous}).Draw(t, "outcome")
	}
	if kind != "" {
		s.err = &delivery.Error{
			Class: kind, Reason: "Some" + string(kind), Code: "499", Message: "it did not work",
			MaybeDelivered: kind == delivery.Ambiguous || kind == delivery.Transient && rapid.Bool().Draw(t, "maybe"),
			RetryAfter:     rapid.SampledFrom([]time.Duration{0, 0, time.Second, time.Hour}).Draw(t, "retryAfter"),
		}
		if kind == delivery.Transient && rapid.Bool().Draw(t, "cannot follow") {
			s.err.CannotFollow, s.err.MaybeDelivered = true, false
		}
	}
	w.sends[channel] = s
	if w.offered[channel][s.attempt] == nil {
		w.offered[channel][s.attempt] = map[string]bool{}
	}
	w.offered[channel][s.attempt][string(kind)] = true
}

func (w *world) outcome(t *rapid.T) {
	for _, channel := range slices.Sorted(maps.Keys(w.sends)) {
		if !w.sends[channel].done && rapid.Bool().Draw(t, "now") {
			w.report(t, channel)
		}
	}
}

// refusals are more attempts than status has room for.
func (w *world) refusals(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		return
	}
	w.force = delivery.Config
	for range maxFailures + 3 {
		w.step(t, written)
		w.outcome(t)
		w.now = w.now.Add(time.Second)
	}
	w.force = ""
}

func (w *world) crash(*rapid.T) {
	for channel, s := range w.sends {
		if !s.done {
			w.ghosts[channel] = append(w.ghosts[channel], s.attempt)
		}
	}
	clear(w.sends)
	clear(w.unsent)
	clear(w.receipts)
}

// ghost brings the outcome of an attempt that was thought lost.
func (w *world) ghost(t *rapid.T) {
	for _, channel := range slices.Sorted(maps.Keys(w.ghosts)) {
		if _, busy := w.sends[channel]; !busy && rapid.Bool().Draw(t, "comes") {
			attempt := rapid.SampledFrom(w.ghosts[channel]).Draw(t, "attempt")
			w.sends[channel] = sendState{outcome: outcome{attempt: attempt, config: "A"}}
			w.report(t, channel)
		}
	}
}

// answer is DataStorage's word about any event, known or answered before.
func (w *world) answer(t *rapid.T) {
	for _, id := range slices.Sorted(maps.Keys(w.bytes)) {
		switch rapid.IntRange(0, 5).Draw(t, "answer") {
		case 0, 1, 2:
			w.receipts[id] = audit.Receipt{Recorded: true, LogIndex: new(int64(3)), Time: w.now}
		case 3:
			w.receipts[id] = audit.Receipt{Reason: "it is not to my liking", Time: w.now}
		}
	}
}

func (w *world) configure(t *rapid.T) {
	for _, name := range slices.Sorted(maps.Keys(w.channels)) {
		ch := w.channels[name]
		switch rapid.IntRange(0, 4).Draw(t, "change of "+name) {
		case 0:
			ch.config = rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "config")
		case 1:
			ch.blocked = v1alpha1.DeliveryError{}
		case 2:
			ch.blocked = blocked(v1alpha1.ReasonSecretNotFound, "the Secret is missing")
		case 3:
			ch.kind = rapid.SampledFrom([]v1alpha1.ChannelType{"Webhook", "File"}).Draw(t, "type")
		}
		if name != v1alpha1.ConsoleChannel {
			w.channels[name] = ch
		}
	}
}

// press is a person's word by the link, which the server writes to status.
func (w *world) press(*rapid.T) {
	if asks(w.stored) && w.stored.Status.Acknowledgement.Time == nil && firstSent(&w.stored.Status) != nil {
		w.now = w.now.Add(time.Microsecond)
		press(w.stored, "Ada", w.now)
	}
}

func (w *world) remove(t *rapid.T) {
	if w.stored.DeletionTimestamp == nil && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
		w.stored.DeletionTimestamp = new(metav1.NewTime(w.now.Truncate(time.Second)))
	}
}

// word is what a person writes on the request.
func (w *world) word(t *rapid.T) {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(w.channels)) {
		if verdict := rapid.SampledFrom([]string{"", "Sent", "Failed", "Retry", "Retry", "perhaps"}).Draw(t, name); verdict != "" {
			words = append(words, name+"="+verdict)
			if verdict == "Retry" {
				w.words[name]++
			}
		}
	}
	w.stored.Annotations = map[string]string{v1alpha1.ResolveAnnotation: strings.Join(words, ",")}
}

// settle lets nothing new happen: the request ends by itself, at its deadline or
// when the last attempt stops to be in doubt at the latest.
func (w *world) settle(t *rapid.T) {
	latest := w.now
	patience := 10*time.Second + outcomeGrace
	for _, ref := range channelRefs(w.stored) {
		if end := deadlineOf(w.stored, ref.Name).Add(patience); end.After(latest) {
			latest = end
		}
	}
	if asks(w.stored) {
		// Once more for those that it is escalated to, and for the last one to be read.
		latest = latest.Add(w.stored.Spec.Deadline.Value() + patience + 2*w.stored.Spec.Acknowledge.Within.Value())
	}
	w.step(t, written)
	for n := 0; w.stored.Status.FinishedTime == nil; n++ {
		running := false
		for _, s := range w.sends {
			running = running || !s.done
		}
		switch {
		case n > 5000:
			t.Fatalf("no end in sight: %+v", w.stored.Status.Deliveries)
		case running:
			for channel, s := range w.sends {
				if !s.done {
					w.report(t, channel)
				}
			}
		case len(w.sends) > 0:
		case w.latest.wait <= 0:
			t.Fatalf("nobody looks at the request again: %+v", w.stored.Status.Deliveries)
		default:
			w.now = w.now.Add(w.latest.wait)
		}
		w.step(t, written)
	}
	if w.stored.Status.FinishedTime.After(latest.Add(time.Second)) {
		t.Fatalf("finished at %s, and should have by %s", w.stored.Status.FinishedTime, latest)
	}
	if w.stored.DeletionTimestamp == nil && w.stored.Status.Cancellation.Time != nil {
		t.Fatalf("cancelled, though nobody deleted it")
	}
	for _, e := range pendingEvents(w.stored, false) {
		w.receipts[e.EventID.String()] = audit.Receipt{Recorded: true, Time: w.now}
	}
	w.step(t, written)
	equal(t, "all is recorded", settled(w.stored), true)
	status := w.stored.Status
	equal(t, "event of the acknowledgement", w.bytes[audit.EventID(audit.TypeMessageAcknowledged, string(w.stored.UID)).String()] != "", status.Acknowledgement.Time != nil)
	equal(t, "event of the escalation", w.bytes[audit.EventID(audit.TypeMessageEscalated, string(w.stored.UID)).String()] != "", status.Escalation.Time != nil)
	if asks(w.stored) && len(escalationRefs(w.stored)) > 0 && status.Escalation.Time == nil && status.Acknowledgement.Time == nil && w.stored.DeletionTimestamp == nil {
		t.Fatalf("nobody acknowledged, and nothing was escalated: %+v", status)
	}
	for _, d := range w.stored.Status.Deliveries {
		ends := 0
		for _, raw := range w.bytes {
			var e struct {
				Type string `json:"event_type"`
				Data struct {
					Channel string `json:"channel"`
				} `json:"event_data"`
			}
			if err := json.Unmarshal([]byte(raw), &e); err != nil {
				t.Fatalf("decode event: %v", err)
			}
			if e.Data.Channel == d.Channel && slices.Contains([]string{audit.TypeMessageSent, audit.TypeMessageFailed, audit.TypeMessageDryRun}, e.Type) {
				ends++
			}
		}
		equal(t, "events of the end of "+d.Channel, ends, 1)
	}
}
