package chaos

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

// judgeRequest looks at what became of one request.
func (h *history) judgeRequest(o *obligation, byMessage map[message]*told, v violations) {
	about := byMessage[message{o.uid, ""}].others
	switch {
	case o.dry:
		h.judgeDry(o, byMessage, v)
	case len(about[audit.TypeMessageSuppressed]) > 0:
		h.judgeSuppressed(o, byMessage, v)
	default:
		for _, ch := range o.channels() {
			m := message{o.uid, ch}
			judgeMessage(o, m, h.performed[m], byMessage[m], v)
		}
	}
	h.judgeAnswers(o, byMessage, v)
	h.judgeQuiet(o, v)
	h.judgeWords(o, v)
	for _, text := range o.strayed {
		v.add(promiseDecided, "%s: %s", o.name, text)
	}
	if len(o.routes) > 0 && !slices.ContainsFunc(o.routes, func(channels []string) bool { return slices.Equal(channels, o.routed) }) {
		v.add(promiseDecided, "%s was routed to %v, want one of %v", o.name, o.routed, o.routes)
	}
}

// judgeWords looks at what a channel with a template got.
func (h *history) judgeWords(o *obligation, v violations) {
	a, ok := h.arrived[message{o.uid, chTemplated}]
	subject, body := "["+strings.ToUpper(a.Priority)+"] Message ", o.name+" of "+o.correlation
	if ok && (!strings.HasPrefix(a.Subject, subject) || a.Body != body) {
		v.add(promiseWords, "%s got %q and %q, want %q and %q", chTemplated, a.Subject, a.Body, subject, body)
	}
}

// silent reports whether nothing is known of a message to a channel.
func (h *history) silent(m message, t *told) bool {
	return h.performed[m].times == 0 && len(t.sent)+len(t.failed)+len(t.attempts) == 0
}

// judgeDry looks at a request that was only to be tried out.
func (h *history) judgeDry(o *obligation, byMessage map[message]*told, v violations) {
	for _, ch := range o.named {
		m := message{o.uid, ch}
		if n := len(byMessage[m].others[audit.TypeMessageDryRun]); n != 1 || !h.silent(m, byMessage[m]) {
			v.add(promiseDry, "%s on %s: %d dryrun events, performed %d times: %+v", o.name, ch, n, h.performed[m].times, byMessage[m])
		}
	}
}

// judgeSuppressed looks at a request that is said to repeat another.
func (h *history) judgeSuppressed(o *obligation, byMessage map[message]*told, v violations) {
	for _, ch := range o.named {
		if m := (message{o.uid, ch}); !h.silent(m, byMessage[m]) {
			v.add(promiseSuppressed, "%s on %s: performed %d times: %+v", o.name, ch, h.performed[m].times, byMessage[m])
		}
	}
	about := byMessage[message{o.uid, ""}].others
	all, original := about[audit.TypeMessageSuppressed], types.UID(about[audit.TypeMessageSuppressed][0].Data.DuplicateOfUID)
	i := slices.IndexFunc(h.obligations, func(other *obligation) bool { return other.uid == original })
	switch {
	case len(all) > 1 || len(about) > 1 || o.repeats == "":
		v.add(promiseSuppressed, "%s, of the group %q: %v", o.name, o.repeats, about)
	case i < 0 || original == o.uid || h.obligations[i].repeats != o.repeats:
		v.add(promiseSuppressed, "%s names the request %s, which it does not repeat", o.name, original)
	case !slices.ContainsFunc(h.obligations[i].named, func(ch string) bool { return len(byMessage[message{original, ch}].sent) > 0 }):
		v.add(promiseSuppressed, "%s names %s, which reached nobody", o.name, h.obligations[i].name)
	case !o.gone && string(original) != o.last.Status.DuplicateOf.UID:
		v.add(promiseSuppressed, "%s names %s in status, and %s in the log", o.name, o.last.Status.DuplicateOf.UID, original)
	}
}

// judgeRepeats looks at the groups of requests that repeat one another. What takes
// the place of a request that is deleted is sent too.
func (h *history) judgeRepeats(byMessage map[message]*told, v violations) {
	sent := map[string][]string{}
	for _, o := range h.obligations {
		reached := slices.ContainsFunc(o.named, func(ch string) bool { return len(byMessage[message{o.uid, ch}].sent) > 0 })
		if o.repeats != "" && reached && !o.deleted {
			sent[o.repeats] = append(sent[o.repeats], o.name)
		}
	}
	for group, names := range sent {
		if len(names) > 1 {
			v.add(promiseRepeated, "of %s %v were sent", group, names)
		}
	}
}

// The rate limit of chLimited. A manager starts again long before so many could have been
// sent, however slow the machine is: one that forgets what it has sent shows.
const (
	rateEvery = 8 * time.Second
	rateBurst = 4
	// rateSlack is for the moment between an attempt's leave to begin and its beginning.
	rateSlack = 100 * time.Millisecond
)

// judgeRate looks at when attempts on chLimited began, where clocks tell.
func (h *history) judgeRate(byMessage map[message]*told, v violations) {
	if h.timeouts == nil {
		return
	}
	type start struct {
		at   time.Time
		name string
	}
	var starts []start
	for _, o := range h.obligations {
		for n, at := range o.begun {
			// Nobody knows whether those were made whose process ended.
			if byMessage[message{o.uid, chLimited}].attempts[int(n)].Data.Error != "OutcomeUnknown" {
				starts = append(starts, start{at, o.name})
			}
		}
	}
	slices.SortFunc(starts, func(a, b start) int { return a.at.Compare(b.at) })
	for i := range starts {
		for j := i + rateBurst; j < len(starts); j++ {
			span := starts[j].at.Sub(starts[i].at)
			if began := time.Duration(j - i + 1 - rateBurst); span < began*rateEvery-rateSlack {
				v.add(promiseRate, "%d attempts began within %s, from %s at %s to %s", j-i+1, span, starts[i].name, starts[i].at.Format(time.StampMicro), starts[j].name)
				return
			}
		}
	}
}

// judgeAnswers looks at who has acknowledged a message, and at where it went because
// nobody had.
func (h *history) judgeAnswers(o *obligation, byMessage map[message]*told, v violations) {
	about := byMessage[message{o.uid, ""}].others
	acknowledged, escalated := about[audit.TypeMessageAcknowledged], about[audit.TypeMessageEscalated]
	say := func(promise, text string) {
		v.add(promise, "%s (%s): %s; pressed by %v, confirmed by %v, deleted %t; acknowledged %+v; escalated %+v",
			o.name, o.uid, text, o.pressed, o.confirmed, o.deleted, acknowledged, escalated)
	}
	by := ""
	if len(acknowledged) > 0 {
		by = acknowledged[0].Data.AcknowledgedBy
	}
	switch {
	case o.forged > 0 || len(acknowledged) > 0 && !slices.Contains(o.pressed, by):
		say(promiseButton, "nobody has pressed the button")
	case len(acknowledged) > 1 || len(o.confirmed) > 0 && len(acknowledged) == 0 || len(o.untrue) > 0 ||
		slices.ContainsFunc(o.confirmed, func(name string) bool { return name != by }):
		say(promiseAcknowledged, "it is not what people were told")
	}
	unanswered := o.asks && len(o.escalateTo) > 0 && len(acknowledged) == 0 && !o.deleted
	switch {
	case len(escalated) > 1 || len(escalated) > 0 && (o.calm || !slices.Equal(escalated[0].Data.EscalatedTo, o.escalateTo)):
		say(promiseEscalated, "it must not be, or elsewhere")
	case unanswered && len(escalated) == 0:
		say(promiseEscalated, "it should have been")
	case len(escalated) > 0 && h.timeouts != nil && h.tooSoon(o, byMessage, escalated[0].EventTimestamp):
		say(promiseEscalated, "it was too soon")
	}
	for _, ch := range o.escalateTo {
		m := message{o.uid, ch}
		if slices.Contains(o.spared, ch) && h.performed[m].times > 0 || len(escalated) == 0 && !h.silent(m, byMessage[m]) {
			say(promiseEscalated, ch+" must not have heard of it")
		}
		if len(escalated) > 0 {
			judgeMessage(o, m, h.performed[m], byMessage[m], v)
		}
	}
	if o.asks && !o.gone && o.last != nil && meta.IsStatusConditionTrue(o.last.Status.Conditions, v1alpha1.ConditionAcknowledged) != (len(acknowledged) > 0) {
		say(promiseAcknowledged, "the condition says otherwise")
	}
}

// tooSoon reports whether people had less than their time since a channel had first
// accepted a message. Where none had, nobody could have answered.
func (h *history) tooSoon(o *obligation, byMessage map[message]*told, at time.Time) bool {
	var first time.Time
	for _, ch := range o.named {
		for _, e := range byMessage[message{o.uid, ch}].sent {
			if first.IsZero() || e.EventTimestamp.Before(first) {
				first = e.EventTimestamp
			}
		}
	}
	return !first.IsZero() && first.Before(at) && at.Sub(first) < within
}
