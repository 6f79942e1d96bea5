package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// The channels of a run and what the oracle knows of each.
const (
	chConsole    = v1alpha1.ConsoleChannel
	chFile       = "file"
	chIdempotent = "idempotent" // performs each key once
	chPlain      = "plain"      // performs whatever it receives
	chSlow       = "slow"       // plain, and takes its time
	chBad        = "bad"        // fails in many ways before it performs, or refuses for good
)

var idempotentChannels = []string{chConsole, chFile, chIdempotent, chBad}

// message is one request on one channel.
type message struct {
	uid     types.UID
	channel string
}

// obligation is a request that the API server has taken, and so has to be honoured.
type obligation struct {
	name        string
	correlation string // the oracle's own ID of the request
	uid         types.UID
	channels    []string
	onAmbiguous v1alpha1.AmbiguousPolicy
	expires     bool                // its deadline may pass in the run
	deleted     bool                // somebody asked for its deletion
	words       map[string][]string // a person's words about deliveries in doubt

	last *v1alpha1.NotificationRequest // as last seen, nil where never
	gone bool
}

// performance is what a channel did for one message.
type performance struct {
	times int
	keys  map[string]bool
}

// history is all that happened in a run, from those who cannot be wrong about it.
type history struct {
	obligations []*obligation
	performed   map[message]performance
	events      []harness.Stored
	closed      []int // the events that each audit store that was closed had dropped
	conserved   map[string]float64
	early       map[message]string       // tries that came before the time that the channel had asked for
	texts       []string                 // all that the programs printed
	secret      string                   // what no text may hold
	timeouts    map[string]time.Duration // of each channel, with the grace for its outcome; nil where clocks were stepped
}

// violations are the promises that a history breaks, by what was promised.
type violations map[string][]string

func (v violations) add(promise, format string, args ...any) {
	v[promise] = append(v[promise], fmt.Sprintf(format, args...))
}

// The promises, in the order of the verdict.
const (
	promiseTerminal   = "each message ends in exactly one sent or failed event"
	promiseAccepted   = "what a channel accepted is recorded as sent"
	promiseUnfounded  = "nothing is recorded as sent that no channel performed"
	promiseUndecided  = "a message fails only for a reason"
	promiseIdempotent = "an idempotent channel performs a message once"
	promiseTwice      = "another performs it at most twice, twice only where said"
	promiseHold       = "with Hold or AssumeSent it performs a message once"
	promiseFence      = "an attempt is in doubt no sooner than its outcome may come"
	promiseReason     = "whatever was not sent says why"
	promiseSecret     = "no secret shows anywhere"
	promiseTime       = "no attempt comes before the time that the channel asked for"
	promiseAttempts   = "each failed attempt has one event, each event its attempt"
	promiseIDs        = "an event's ID follows from its fact"
	promiseLog        = "the log has each event once and no gap"
	promiseFinished   = "each request finishes, audited, and is let go"
	promiseReceipts   = "status holds the place of each event in the log"
	promiseCancelled  = "a request is cancelled once and only by deletion"
	promiseDropped    = "no audit store drops an event or loses count"
	promiseSound      = "what is sent is signed and well formed"
	promiseFresh      = "a fresh request goes through at the end"
)

var promises = []string{
	promiseTerminal, promiseAccepted, promiseUnfounded, promiseUndecided, promiseIdempotent, promiseTwice, promiseHold,
	promiseFence, promiseReason, promiseSecret, promiseTime, promiseAttempts, promiseIDs, promiseLog, promiseFinished, promiseReceipts, promiseCancelled, promiseDropped, promiseSound, promiseFresh,
}

// told is what the events say about one message.
type told struct {
	sent, failed       []harness.Stored
	attempts           map[int]harness.Stored
	ambiguous, refused int
}

// judge compares what happened with what was promised. It has no part in the run.
func judge(h history) violations {
	v := violations{}
	judgeLog(h, v)
	byMessage := judgeEvents(h, v)
	for _, o := range h.obligations {
		for _, ch := range o.channels {
			m := message{o.uid, ch}
			judgeMessage(o, m, h.performed[m], byMessage[m], v)
		}
		if !o.gone {
			judgeStatus(o, byMessage, h.events, h.secret, v)
		}
	}
	known := map[types.UID]bool{}
	for _, o := range h.obligations {
		known[o.uid] = true
	}
	for m, p := range h.performed {
		if !known[m.uid] {
			v.add(promiseUnfounded, "%s performed %d messages of a request %s that nobody made", m.channel, p.times, m.uid)
		}
	}
	for _, dropped := range h.closed {
		if dropped != 0 {
			v.add(promiseDropped, "an audit store closed with dropped_count %d", dropped)
		}
	}
	for m, text := range h.early {
		// Who never heard the answer could not know.
		if t := byMessage[m]; t == nil || t.ambiguous == 0 {
			v.add(promiseTime, "%s on %s: %s", m.uid, m.channel, text)
		}
	}
	for i, text := range h.texts {
		if strings.Contains(text, h.secret) {
			v.add(promiseSecret, "program %d has printed it", i)
		}
	}
	for name, value := range h.conserved {
		if value != 0 {
			v.add(promiseDropped, "%s is %g at the end", name, value)
		}
	}
	return v
}

// judgeLog looks at the log alone.
func judgeLog(h history, v violations) {
	ids, indices := map[string]bool{}, map[int64]bool{}
	for _, e := range h.events {
		if id := e.EventID.String(); ids[id] {
			v.add(promiseLog, "event %s (%s of %s) is there twice", id, e.EventType, e.ResourceID)
		} else {
			ids[id] = true
		}
		if e.LogIndex < 0 || e.LogIndex >= int64(len(h.events)) || indices[e.LogIndex] {
			v.add(promiseLog, "log index %d of %d events is out of place", e.LogIndex, len(h.events))
		}
		indices[e.LogIndex] = true
	}
}

// judgeEvents finds the fact behind each event, and sorts the events by message.
func judgeEvents(h history, v violations) map[message]*told {
	all, owners := map[message]*told{}, map[types.UID]*obligation{}
	for _, o := range h.obligations {
		owners[o.uid] = o
		for _, ch := range o.channels {
			all[message{o.uid, ch}] = &told{attempts: map[int]harness.Stored{}}
		}
	}
	cancelled := map[types.UID]int{}
	for _, e := range h.events {
		if strings.Contains(string(e.EventData)+e.ErrorMessage, h.secret) {
			v.add(promiseSecret, "event %s has it", e.EventID)
		}
		uid := types.UID(e.Data.UID)
		o, t := owners[uid], all[message{uid, e.Data.Channel}]
		parts := []string{e.EventType, e.Data.UID}
		switch {
		case o == nil || e.CorrelationID != o.correlation || e.ResourceID != o.name:
			v.add(promiseAttempts, "no request explains event %s: %s of %s", e.EventID, e.EventType, e.ResourceID)
			continue
		case e.EventType == audit.TypeRequestCancelled:
			if cancelled[uid]++; cancelled[uid] > 1 || !o.deleted {
				v.add(promiseCancelled, "%s: cancelled %d times, deleted by its owner: %t", o.name, cancelled[uid], o.deleted)
			}
		case t == nil:
			v.add(promiseAttempts, "%s: %s tells of a channel %q that it does not name", o.name, e.EventType, e.Data.Channel)
			continue
		default:
			parts = append(parts, e.Data.Channel)
			switch e.EventType {
			case audit.TypeMessageSent:
				t.sent = append(t.sent, e)
			case audit.TypeMessageFailed:
				t.failed = append(t.failed, e)
			case audit.TypeAttemptFailed, audit.TypeAttemptAmbiguous:
				parts = append(parts, fmt.Sprint(e.Data.Attempt))
				if _, ok := t.attempts[e.Data.Attempt]; ok {
					v.add(promiseAttempts, "%s on %s: attempt %d has more than one event", o.name, e.Data.Channel, e.Data.Attempt)
				}
				t.attempts[e.Data.Attempt] = e
				if e.EventType == audit.TypeAttemptAmbiguous {
					t.ambiguous++
					wait, known := h.timeouts[e.Data.Channel]
					if known && e.Data.Error == "OutcomeUnknown" && (e.DurationMS == nil || *e.DurationMS < wait.Milliseconds()) {
						v.add(promiseFence, "%s on %s: in doubt too early, %s may pass\n%+v", o.name, e.Data.Channel, wait, e)
					}
				} else {
					t.refused++
				}
			default:
				v.add(promiseAttempts, "%s: nobody knows the event type %s", o.name, e.EventType)
			}
		}
		if want := audit.EventID(parts...); e.EventID != want {
			v.add(promiseIDs, "%s: %s has ID %s, want %s", o.name, strings.Join(parts, "/"), e.EventID, want)
		}
	}
	return all
}

// judgeMessage compares what a channel did for a message with what the log says.
func judgeMessage(o *obligation, m message, p performance, t *told, v violations) {
	say := func(promise, format string, args ...any) {
		v.add(promise, "%s (%s) on %s (%s, words %v, deleted %t): performed %d times; %d sent, %d failed, %d ambiguous, %d refused: %s",
			o.name, o.uid, m.channel, o.onAmbiguous, o.words[m.channel], o.deleted, p.times,
			len(t.sent), len(t.failed), t.ambiguous, t.refused, fmt.Sprintf(format, args...))
	}
	if len(t.sent)+len(t.failed) != 1 {
		say(promiseTerminal, "want one of sent and failed")
		return
	}
	wasSent := len(t.sent) == 1
	assumed := t.ambiguous > 0 && (o.onAmbiguous == v1alpha1.AmbiguousAssumeSent || slices.Contains(o.words[m.channel], "Sent"))
	switch {
	case p.times > 0 && !wasSent && t.ambiguous == 0:
		say(promiseAccepted, "it was accepted, and there was no doubt about it")
	case p.times == 0 && wasSent && !assumed:
		say(promiseUnfounded, "nobody has it")
	}
	free := o.deleted || o.expires || m.channel == chBad || len(o.words[m.channel]) > 0 || len(t.attempts) >= maxAttempts
	if !wasSent && !free {
		say(promiseUndecided, "it could have been sent: %s", t.failed[0].ErrorMessage)
	}
	if slices.Contains(idempotentChannels, m.channel) {
		if p.times > 0 && len(p.keys) != 1 || m.channel == chIdempotent && p.times > 1 {
			say(promiseIdempotent, "%d keys", len(p.keys))
		}
		return
	}
	asked := 0
	for _, word := range o.words[m.channel] {
		if word == "Retry" {
			asked++
		}
	}
	allowed, promise := 1, promiseHold
	if o.onAmbiguous == v1alpha1.AmbiguousRetry {
		allowed, promise = 2, promiseTwice
	}
	if p.times > allowed+asked {
		say(promise, "want at most %d", allowed+asked)
	}
	end := slices.Concat(t.sent, t.failed)[0]
	if p.times > 1 && !end.Data.PossibleDuplicate {
		say(promiseTwice, "the event does not say that it may be a duplicate")
	}
}

// judgeStatus looks at a request that is still there.
func judgeStatus(o *obligation, byMessage map[message]*told, events []harness.Stored, secret string, v violations) {
	nr := o.last
	if nr == nil {
		v.add(promiseFinished, "%s was never seen", o.name)
		return
	}
	if strings.Contains(harness.Describe(nr), secret) {
		v.add(promiseSecret, "the status of %s has it", o.name)
	}
	if nr.Status.FinishedTime == nil || !meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionAudited) || len(nr.Finalizers) > 0 {
		v.add(promiseFinished, "%s is not done with\n%s", o.name, harness.Describe(nr))
		return
	}
	places := map[string]int64{}
	for _, e := range events {
		if types.UID(e.Data.UID) == o.uid {
			places[e.EventID.String()] = e.LogIndex
		}
	}
	receipt := func(what string, r v1alpha1.AuditRecord) {
		if place, ok := places[r.EventID]; !ok || r.State != v1alpha1.AuditRecorded || r.LogIndex != nil && *r.LogIndex != place {
			v.add(promiseReceipts, "%s: %s is %+v, and the log has it at %d (%t)", o.name, what, r, place, ok)
		}
	}
	for _, d := range nr.Status.Deliveries {
		t := byMessage[message{o.uid, d.Channel}]
		if t == nil || !slices.Contains(o.channels, d.Channel) {
			v.add(promiseAttempts, "%s: status has a channel %s that it does not name", o.name, d.Channel)
			continue
		}
		receipt(d.Channel, d.Audit)
		if d.State != v1alpha1.DeliverySent && (d.LastError.Class == "" || d.LastError.Reason == "" || d.LastError.Message == "") {
			v.add(promiseReason, "%s on %s is %s: %+v", o.name, d.Channel, d.State, d.LastError)
		}
		for _, f := range d.AttemptFailures {
			receipt(fmt.Sprint(d.Channel, ", attempt ", f.Attempt), f.Audit)
		}
		if len(t.sent)+len(t.failed) == 1 {
			end := slices.Concat(t.sent, t.failed)[0]
			flagged := d.PossibleDuplicate != nil && *d.PossibleDuplicate
			if (len(t.sent) == 1) != (d.State == v1alpha1.DeliverySent) || flagged != end.Data.PossibleDuplicate {
				v.add(promiseReceipts, "%s on %s: status says %s (possible duplicate: %t) and the log %s (%t)",
					o.name, d.Channel, d.State, flagged, end.EventType, end.Data.PossibleDuplicate)
			}
		}
		// Each attempt has failed and says so, but for the last one of a delivery
		// that was sent.
		for n := 1; n <= int(d.Attempts); n++ {
			if _, ok := t.attempts[n]; !ok && (n < int(d.Attempts) || d.State != v1alpha1.DeliverySent) {
				v.add(promiseAttempts, "%s on %s: attempt %d of %d has no event (%s)", o.name, d.Channel, n, d.Attempts, d.State)
			}
		}
		if numbers := slices.Sorted(maps.Keys(t.attempts)); len(numbers) > 0 && numbers[len(numbers)-1] > int(d.Attempts) {
			v.add(promiseAttempts, "%s on %s: events of attempts %v, and status knows of %d", o.name, d.Channel, numbers, d.Attempts)
		}
	}
}
