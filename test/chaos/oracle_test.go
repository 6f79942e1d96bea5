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
	"kubernaut.ai/notification/test/standin"
)

// The channels of a run and what the oracle knows of each.
const (
	chConsole    = v1alpha1.ConsoleChannel
	chFile       = "file"
	chIdempotent = "idempotent" // performs each key once
	chPlain      = "plain"      // performs whatever it receives
	chSlow       = "slow"       // plain, and takes its time
	chBad        = "bad"        // fails in many ways before it performs, or refuses for good
	chLimited    = "limited"    // idempotent, and takes no more messages than its rate limit lets through
	chTemplated  = "templated"  // idempotent, and has words of its own
	chIncident   = "incident"   // in Slack, where a message replies to the first one of its incident
	chUpdated    = "updated"    // in Slack, where an update takes the place of that
)

var (
	idempotentChannels = []string{chConsole, chFile, chIdempotent, chBad, chLimited, chTemplated}
	// keyed are those of them that perform each key once.
	keyed = []string{chIdempotent, chLimited, chTemplated}
)

// message is one request on one channel.
type message struct {
	uid     types.UID
	channel string
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
	texts       []string                 // all that the programs printed and wrote down
	secrets     []string                 // what no text may hold
	posted      []standin.SlackMessage   // in Slack
	arrived     map[message]arrival      // what came first of each webhook
	quiet       []span                   // the quiet hours of quietTeam; nil where clocks were stepped
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
	promiseSound      = "what is sent is signed, well formed, and the same each time"
	promiseFresh      = "a fresh request goes through at the end"

	promiseDecided      = "where a message goes and what it follows is decided once"
	promiseRepeated     = "of requests that repeat one another one is sent"
	promiseSuppressed   = "what is suppressed is not sent, and names what was"
	promiseRate         = "no more attempts begin than a rate limit lets through"
	promiseWait         = "no wait for a limit or a circuit spends an attempt"
	promiseWords        = "a channel with a template gets its words"
	promiseDry          = "a dry run performs nothing and has one event for each channel"
	promiseAcknowledged = "whoever is told to have acknowledged is recorded, once"
	promiseButton       = "nothing but the button of a link acknowledges"
	promiseEscalated    = "what nobody acknowledges is escalated once, nothing else is"
	promiseReply        = "a reply is to an earlier message of its incident"
	promiseBegun        = "whoever comes later to an incident does not begin it again"
	promiseNewest       = "what takes another's place is newer"
	promiseQuiet        = "nothing made in quiet hours arrives in them, unless it is Critical"
)

var promises = []string{
	promiseTerminal, promiseAccepted, promiseUnfounded, promiseUndecided, promiseIdempotent, promiseTwice, promiseHold,
	promiseFence, promiseReason, promiseSecret, promiseTime, promiseAttempts, promiseIDs, promiseLog, promiseFinished, promiseReceipts, promiseCancelled, promiseDropped, promiseSound, promiseFresh,
	promiseDecided, promiseRepeated, promiseSuppressed, promiseRate, promiseWait, promiseWords, promiseDry, promiseAcknowledged, promiseButton, promiseEscalated, promiseReply,
	promiseBegun, promiseNewest, promiseQuiet,
}

// told is what the events say about one message or, with no channel, about a request.
type told struct {
	sent, failed       []harness.Stored
	attempts           map[int]harness.Stored
	ambiguous, refused int
	others             map[string][]harness.Stored // by their type
}

// judge compares what happened with what was promised. It has no part in the run.
func judge(h history) violations {
	v := violations{}
	judgeLog(h, v)
	byMessage := judgeEvents(h, v)
	known := map[types.UID]*obligation{}
	for _, o := range h.obligations {
		known[o.uid] = o
		h.judgeRequest(o, byMessage, v)
		if !o.gone {
			h.judgeStatus(o, byMessage, v)
		}
	}
	for m, p := range h.performed {
		if o := known[m.uid]; o == nil {
			v.add(promiseUnfounded, "%s performed %d messages of a request %s that nobody made", m.channel, p.times, m.uid)
		} else if byMessage[m] == nil {
			v.add(promiseDecided, "%s performed %d messages of %s, which goes to %v", m.channel, p.times, o.name, o.channels())
		}
	}
	h.judgeRepeats(byMessage, v)
	h.judgeRate(byMessage, v)
	h.judgeSlack(byMessage, v)
	h.judgePrograms(byMessage, v)
	return v
}

// judgePrograms looks at what the programs leave, and at when they have tried.
func (h *history) judgePrograms(byMessage map[message]*told, v violations) {
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
		h.findSecrets(text, v, "text %d", i)
	}
	for name, value := range h.conserved {
		if value != 0 {
			v.add(promiseDropped, "%s is %g at the end", name, value)
		}
	}
}

// findSecrets looks for what must not be in a text.
func (h *history) findSecrets(text string, v violations, where string, args ...any) {
	for _, secret := range h.secrets {
		if i := strings.Index(text, secret); i >= 0 {
			v.add(promiseSecret, "%s has it: %q", fmt.Sprintf(where, args...), text[max(0, i-200):min(len(text), i+200)])
		}
	}
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

// aboutRequest are the types of events that are about no channel's message.
var aboutRequest = []string{audit.TypeRequestCancelled, audit.TypeMessageSuppressed, audit.TypeMessageAcknowledged, audit.TypeMessageEscalated}

// judgeEvents finds the fact behind each event, and sorts the events by message.
func judgeEvents(h history, v violations) map[message]*told {
	all, owners := map[message]*told{}, map[types.UID]*obligation{}
	for _, o := range h.obligations {
		owners[o.uid] = o
		for _, ch := range slices.Concat(o.channels(), o.escalateTo, []string{""}) {
			all[message{o.uid, ch}] = &told{attempts: map[int]harness.Stored{}, others: map[string][]harness.Stored{}}
		}
	}
	for _, e := range h.events {
		h.findSecrets(string(e.EventData)+e.ErrorMessage, v, "event %s", e.EventID)
		uid := types.UID(e.Data.UID)
		m, parts := message{uid, e.Data.Channel}, []string{e.EventType, e.Data.UID, e.Data.Channel}
		if slices.Contains(aboutRequest, e.EventType) {
			m.channel, parts = "", parts[:2]
		}
		o, t := owners[uid], all[m]
		switch {
		case o == nil || e.CorrelationID != o.correlation || e.ResourceID != o.name:
			v.add(promiseAttempts, "no request explains event %s: %s of %s", e.EventID, e.EventType, e.ResourceID)
			continue
		case t == nil || (m.channel == "") != (len(parts) == 2):
			v.add(promiseAttempts, "%s: %s tells of a channel %q that it does not go to", o.name, e.EventType, e.Data.Channel)
			continue
		}
		if e.EventType == audit.TypeAttemptFailed || e.EventType == audit.TypeAttemptAmbiguous {
			parts = append(parts, fmt.Sprint(e.Data.Attempt))
		}
		if want := audit.EventID(parts...); e.EventID != want {
			v.add(promiseIDs, "%s: %s has ID %s, want %s", o.name, strings.Join(parts, "/"), e.EventID, want)
		}
		h.tell(o, t, e, v)
	}
	return all
}

// waits are the reasons for which a message waits without an attempt.
var waits = []string{"ChannelRateLimit", "ChannelThrottled", "CircuitOpen"}

// tell adds an event to what is told about a message or a request.
func (h *history) tell(o *obligation, t *told, e harness.Stored, v violations) {
	switch e.EventType {
	case audit.TypeMessageSent:
		t.sent = append(t.sent, e)
	case audit.TypeMessageFailed:
		t.failed = append(t.failed, e)
	case audit.TypeAttemptFailed, audit.TypeAttemptAmbiguous:
		if _, ok := t.attempts[e.Data.Attempt]; ok {
			v.add(promiseAttempts, "%s on %s: attempt %d has more than one event", o.name, e.Data.Channel, e.Data.Attempt)
		}
		t.attempts[e.Data.Attempt] = e
		if slices.Contains(waits, e.Data.Error) {
			v.add(promiseWait, "%s on %s: attempt %d failed with %s", o.name, e.Data.Channel, e.Data.Attempt, e.Data.Error)
		}
		if e.EventType == audit.TypeAttemptFailed {
			t.refused++
			return
		}
		t.ambiguous++
		wait, known := h.timeouts[e.Data.Channel]
		if known && e.Data.Error == "OutcomeUnknown" && (e.DurationMS == nil || *e.DurationMS < wait.Milliseconds()) {
			v.add(promiseFence, "%s on %s: in doubt too early, %s may pass\n%+v", o.name, e.Data.Channel, wait, e)
		}
	case audit.TypeRequestCancelled, audit.TypeMessageSuppressed, audit.TypeMessageAcknowledged, audit.TypeMessageEscalated, audit.TypeMessageDryRun:
		t.others[e.EventType] = append(t.others[e.EventType], e)
		if n := len(t.others[audit.TypeRequestCancelled]); n > 1 || n > 0 && (!o.deleted || o.dry) {
			v.add(promiseCancelled, "%s: cancelled %d times, deleted by its owner: %t", o.name, n, o.deleted)
		}
	default:
		v.add(promiseAttempts, "%s: nobody knows the event type %s", o.name, e.EventType)
	}
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
		if p.times > 0 && len(p.keys) != 1 || slices.Contains(keyed, m.channel) && p.times > 1 {
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
func (h *history) judgeStatus(o *obligation, byMessage map[message]*told, v violations) {
	nr := o.last
	if nr == nil {
		v.add(promiseFinished, "%s was never seen", o.name)
		return
	}
	h.findSecrets(harness.Describe(&v1alpha1.NotificationRequest{Status: nr.Status}), v, "the status of %s", o.name)
	if nr.Status.FinishedTime == nil || !meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionAudited) || len(nr.Finalizers) > 0 {
		v.add(promiseFinished, "%s is not done with\n%s", o.name, harness.Describe(nr))
		return
	}
	places := map[string]int64{}
	for _, e := range h.events {
		if types.UID(e.Data.UID) == o.uid {
			places[e.EventID.String()] = e.LogIndex
		}
	}
	receipt := func(what string, r v1alpha1.AuditRecord) {
		if place, ok := places[r.EventID]; !ok || r.State != v1alpha1.AuditRecorded || r.LogIndex != nil && *r.LogIndex != place {
			v.add(promiseReceipts, "%s: %s is %+v, and the log has it at %d (%t)", o.name, what, r, place, ok)
		}
	}
	for what, r := range map[string]v1alpha1.AuditRecord{
		"cancellation": nr.Status.Cancellation.Audit, "duplicateOf": nr.Status.DuplicateOf.Audit,
		"acknowledgement": nr.Status.Acknowledgement.Audit, "escalation": nr.Status.Escalation.Audit,
	} {
		if r.EventID != "" {
			receipt(what, r)
		}
	}
	for _, d := range nr.Status.Deliveries {
		t := byMessage[message{o.uid, d.Channel}]
		if t == nil {
			v.add(promiseAttempts, "%s: status has a channel %s that it does not go to", o.name, d.Channel)
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
