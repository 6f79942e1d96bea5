package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

func TestNewRequestIsDueOnEveryChannel(t *testing.T) {
	for name, c := range map[string]struct {
		channels []string
		due      []string
	}{
		"one channel":       {[]string{ops}, []string{ops}},
		"order of the spec": {[]string{"b", "a", "console"}, []string{"b", "a", "console"}},
		"none named":        {nil, []string{"console"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, withChannels(c.channels...))
			d := l.plan()
			equal(t, "due", d.due, c.due)
			for _, channel := range c.due {
				equal(t, "state of "+channel, l.delivery(channel).State, v1alpha1.DeliveryPending)
			}
		})
	}
}

func TestSuccessEndsTheDeliveryForGood(t *testing.T) {
	l := newLab(t)
	l.attempt(ops, nil)
	d := l.delivery(ops)
	equal(t, "state", d.State, v1alpha1.DeliverySent)
	equal(t, "external ID", d.ExternalID, "msg-1")
	equal(t, "sent time", d.SentTime.Time, l.now)
	equal(t, "finished time", l.nr.Status.FinishedTime.Time, l.now)
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageSent})
	equal(t, "event ID", d.Audit.EventID, audit.EventID(audit.TypeMessageSent, string(l.nr.UID), ops).String())
	held := l.nr.Status.DeepCopy()
	for _, later := range []func(){
		func() { l.pass(48 * time.Hour) },
		func() { l.nr.Spec.Suspend = new(true) },
		func() { l.channels[ops] = channel{blocked: blocked(v1alpha1.ReasonChannelNotFound, "gone")} },
		func() { l.nr.DeletionTimestamp = new(metav1.NewTime(l.now)) },
		func() { l.nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: "ops=Retry"} },
		func() { l.sends[ops] = sendState{done: true, outcome: outcome{attempt: 1, err: transient()}} },
		func() { l.sends[ops] = sendState{done: true, outcome: outcome{attempt: 2, err: permanent()}} },
	} {
		later()
		d := l.plan()
		d.spent = nil // a word about what has ended is taken off
		equal(t, "decision", fmt.Sprint(d), fmt.Sprint(decision{}))
		equal(t, "status", l.nr.Status, *held)
	}
}

func TestWaitBeforeTheNextAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		failures   int
		jitter     func(time.Duration) time.Duration
		retryAfter time.Duration
		initial    v1alpha1.Duration
		limit      v1alpha1.Duration
		want       time.Duration
	}{
		"after the first, at most":           {failures: 1, want: 5 * time.Second},
		"after the first, at least":          {failures: 1, jitter: shortest},
		"doubled after the second":           {failures: 2, want: 10 * time.Second},
		"doubled again after the third":      {failures: 3, want: 20 * time.Second},
		"never longer than maxDelay":         {failures: 3, limit: "15s", want: 15 * time.Second},
		"first delay as long as maxDelay":    {failures: 2, initial: "10s", limit: "10s", want: 10 * time.Second},
		"milliseconds":                       {failures: 2, initial: "250ms", want: 500 * time.Millisecond},
		"longer Retry-After wins":            {failures: 1, retryAfter: time.Minute, want: time.Minute},
		"longer Retry-After without jitter":  {failures: 1, jitter: shortest, retryAfter: time.Minute, want: time.Minute},
		"Retry-After beyond maxDelay":        {failures: 1, retryAfter: time.Hour, want: time.Hour},
		"shorter Retry-After does not":       {failures: 2, retryAfter: 3 * time.Second, want: 10 * time.Second},
		"the jitter is drawn from the limit": {failures: 2, jitter: func(d time.Duration) time.Duration { return d / 4 }, want: 2500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if c.initial != "" {
				l.nr.Spec.Retry.InitialDelay = c.initial
			}
			if c.limit != "" {
				l.nr.Spec.Retry.MaxDelay = c.limit
			}
			if c.jitter != nil {
				l.jitter = c.jitter
			}
			for range c.failures - 1 {
				err := transient()
				err.RetryAfter = c.retryAfter
				l.pass(l.attempt(ops, err).wait)
			}
			err := transient()
			err.RetryAfter = c.retryAfter
			d := l.attempt(ops, err)
			next := l.delivery(ops).NextAttemptTime.Time
			equal(t, "wait in status", next.Sub(l.now), c.want)
			equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryRetrying)
			if c.want > 0 {
				equal(t, "wait", d.wait, c.want)
				l.now = next.Add(-time.Microsecond)
				equal(t, "due a microsecond early", l.plan().due, nil)
				l.now = next
			}
			equal(t, "due", l.plan().due, []string{ops})
		})
	}
}

func TestWaitSurvivesARestart(t *testing.T) {
	l := newLab(t)
	l.attempt(ops, transient())
	l.crash()
	d := l.plan()
	equal(t, "due", d.due, nil)
	equal(t, "wait", d.wait, 5*time.Second)
}

func TestSpentAttemptsEndTheDelivery(t *testing.T) {
	for name, err := range map[string]func() *delivery.Error{"transient": transient, "in doubt": unanswered} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, withMaxAttempts(3))
			ch := l.channels[ops]
			ch.idempotent = name == "in doubt"
			l.channels[ops] = ch
			for range 3 {
				l.attempt(ops, err())
				l.pass(time.Hour)
			}
			d := l.delivery(ops)
			kind := audit.TypeAttemptFailed
			if name == "in doubt" {
				kind = audit.TypeAttemptAmbiguous
			}
			equal(t, "state", d.State, v1alpha1.DeliveryFailed)
			equal(t, "attempts", d.Attempts, int32(3))
			equal(t, "events", eventTypes(l.nr), []string{kind, kind, kind, audit.TypeMessageFailed})
			equal(t, "last error", d.LastError.Reason, err().Reason)
			equal(t, "finished with the last attempt", l.nr.Status.FinishedTime.Time, d.FailedTime.Time)
			equal(t, "due", l.plan().due, nil)
		})
	}
}

func TestPermanentErrorEndsTheDeliveryAtOnce(t *testing.T) {
	l := newLab(t)
	err := permanent()
	err.RetryAfter = time.Minute
	l.attempt(ops, err)
	d := l.delivery(ops)
	equal(t, "state", d.State, v1alpha1.DeliveryFailed)
	equal(t, "attempts", d.Attempts, int32(1))
	equal(t, "last error", d.LastError, v1alpha1.DeliveryError{
		Class: v1alpha1.ErrorPermanent, Reason: "BadRequest", Code: "400", Message: "receiver.example answered 400",
	})
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeAttemptFailed, audit.TypeMessageFailed})
	equal(t, "event ID", d.Audit.EventID, audit.EventID(audit.TypeMessageFailed, string(l.nr.UID), ops).String())
}

func TestConfigErrorsSpendNoAttempts(t *testing.T) {
	l := newLab(t, withMaxAttempts(1))
	for range 4 {
		l.pass(5 * time.Minute)
		l.attempt(ops, refused())
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryRetrying)
		l.pass(time.Hour)
	}
	equal(t, "attempts", l.delivery(ops).Attempts, int32(4))
	equal(t, "uncounted", l.delivery(ops).UncountedAttempts, int32(4))
	l.attempt(ops, transient())
	equal(t, "state after the one attempt that counts", l.delivery(ops).State, v1alpha1.DeliveryFailed)
}

func TestConfigErrorWaitsForTheConfiguration(t *testing.T) {
	change := func(l *lab) {
		ch := l.channels[ops]
		ch.config = "B"
		l.channels[ops] = ch
	}
	t.Run("not hammered though the policy is impatient", func(t *testing.T) {
		l := newLab(t, func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.Retry.InitialDelay, nr.Spec.Retry.MaxDelay = "1ms", "1ms"
		})
		equal(t, "wait", l.attempt(ops, refused()).wait, refusedRecheck)
	})
	t.Run("held while nothing changes", func(t *testing.T) {
		l := newLab(t)
		d := l.attempt(ops, refused())
		equal(t, "due", d.due, nil)
		equal(t, "wait", d.wait, 5*time.Minute)
		l.pass(5*time.Minute - time.Second)
		equal(t, "due", l.plan().due, nil)
		l.pass(time.Second)
		equal(t, "due after the delay", l.plan().due, []string{ops})
	})
	t.Run("tried at once when it changes", func(t *testing.T) {
		l := newLab(t)
		l.attempt(ops, refused())
		change(l)
		equal(t, "due", l.plan().due, []string{ops})
	})
	t.Run("changed while the attempt ran", func(t *testing.T) {
		l := newLab(t)
		l.plan()
		l.begin(ops)
		l.pass(time.Second)
		l.sends[ops] = sendState{done: true, outcome: outcome{attempt: 1, config: "A", started: born, finished: l.now, err: refused()}}
		change(l)
		equal(t, "due", l.plan().due, []string{ops})
	})
	t.Run("another error waits as ever", func(t *testing.T) {
		l := newLab(t)
		l.attempt(ops, transient())
		change(l)
		equal(t, "due", l.plan().due, nil)
	})
	t.Run("an attempt in doubt after the change waits as ever", func(t *testing.T) {
		l := newLab(t)
		l.attempt(ops, refused())
		change(l)
		l.plan()
		l.begin(ops)
		l.crash()
		l.pass(time.Minute)
		d := l.plan()
		equal(t, "due", d.due, nil)
		equal(t, "wait", d.wait, 10*time.Second)
	})
}

func TestBlockedChannelSaysWhyAndIsNotTried(t *testing.T) {
	for _, reason := range []string{v1alpha1.ReasonChannelNotFound, v1alpha1.ReasonSecretNotFound, v1alpha1.ReasonNamespaceNotAllowed, "ChannelSuspended"} {
		t.Run(reason, func(t *testing.T) {
			l := newLab(t)
			ch := l.channels[ops]
			ch.blocked = blocked(reason, "do something about %s", ops)
			l.channels[ops] = ch
			d := l.plan()
			equal(t, "due", d.due, nil)
			equal(t, "wait until the deadline", l.now.Add(d.wait), born.Add(24*time.Hour))
			equal(t, "attempts", l.delivery(ops).Attempts, 0)
			equal(t, "last error", l.delivery(ops).LastError, v1alpha1.DeliveryError{
				Class: v1alpha1.ErrorConfig, Reason: reason, Message: "do something about ops",
			})
			equal(t, "events", eventTypes(l.nr), nil)
			l.channels[ops] = webhook()
			equal(t, "due once nothing stands in the way", l.plan().due, []string{ops})
			equal(t, "attempt", l.attempt(ops, nil).due, nil)
			equal(t, "last error", l.delivery(ops).LastError, v1alpha1.DeliveryError{})
		})
	}
}

// outage is why nothing may be sent while DataStorage is away.
var outage = v1alpha1.DeliveryError{
	Class: v1alpha1.ErrorTransient, Reason: reasonAuditOutage, Message: "nothing is sent while DataStorage cannot record it: refused",
}

func TestNoAttemptIsDueWhileDataStorageIsAway(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*lab)
		before  string // the reason that comes back when the outage is over
		sent    int32
	}{
		"new":             {func(*lab) {}, "", 1},
		"after a failure": {func(l *lab) { l.attempt(ops, transient()); l.pass(time.Minute) }, delivery.ReasonServerError, 2},
		"after a refusal": {func(l *lab) { l.attempt(ops, refused()); l.pass(time.Hour) }, delivery.ReasonUnauthorized, 2},
		"after a change":  {func(l *lab) { l.attempt(ops, refused()); l.channels[ops] = channel{timeout: time.Second, config: "B"} }, delivery.ReasonUnauthorized, 2},
		"after a person's retry": {func(l *lab) {
			l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold
			l.attempt(ops, unanswered())
			l.say("ops=Retry")
		}, delivery.ReasonTimeout, 2},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c.prepare(l)
			l.plan()
			before := *l.delivery(ops)
			l.held = outage
			d := l.plan()
			equal(t, "due", d.due, nil)
			equal(t, "looked at again", d.wait, recheck)
			equal(t, "why", l.delivery(ops).LastError, outage)
			l.held = v1alpha1.DeliveryError{}
			equal(t, "due when it is over", l.plan().due, []string{ops})
			equal(t, "delivery when it is over", *l.delivery(ops), before)
			equal(t, "reason when it is over", l.delivery(ops).LastError.Reason, c.before)
			l.attempt(ops, nil)
			equal(t, "attempts", l.delivery(ops).Attempts, c.sent)
		})
	}
	t.Run("nor is what waits for something else called held", func(t *testing.T) {
		l := newLab(t)
		l.held = outage
		l.nr.Spec.Suspend = new(true)
		l.plan()
		equal(t, "why", l.delivery(ops).LastError.Reason, "")
	})
	t.Run("and the deadline ends it", func(t *testing.T) {
		l := newLab(t, withDeadline("10m"))
		l.held = outage
		l.plan()
		l.now = born.Add(10 * time.Minute)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySkipped)
		equal(t, "message", l.delivery(ops).LastError.Message,
			"the message was not sent within the deadline of 10m; before that AuditOutage: "+outage.Message)
	})
	t.Run("but an attempt that has begun is finished", func(t *testing.T) {
		l := newLab(t)
		l.plan()
		l.begin(ops)
		l.held = outage
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryInFlight)
		l.end(ops, nil)
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySent)
	})
}

func TestBlockThatIsGoneIsNoLongerNamed(t *testing.T) {
	block := func(l *lab) {
		ch := webhook()
		ch.blocked = blocked("ChannelSuspended", "the channel is suspended")
		l.channels[ops] = ch
		l.plan()
		l.channels[ops] = webhook()
		l.plan()
	}
	t.Run("before the wait is over", func(t *testing.T) {
		l := newLab(t)
		l.attempt(ops, transient())
		block(l)
		equal(t, "reason", l.delivery(ops).LastError.Reason, delivery.ReasonServerError)
	})
	t.Run("while the request is suspended", func(t *testing.T) {
		l := newLab(t)
		block(l)
		l.nr.Spec.Suspend = new(true)
		l.plan()
		equal(t, "reason", l.delivery(ops).LastError.Reason, "")
	})
	t.Run("once the backlog of a refused channel is recorded", func(t *testing.T) {
		l := newLab(t)
		l.jitter = shortest
		for n := range maxFailures {
			if n == maxFailures-1 {
				l.jitter = longest
			}
			l.pass(5 * time.Minute)
			l.attempt(ops, refused())
		}
		equal(t, "reason", l.delivery(ops).LastError.Reason, "AuditBacklog")
		l.record()
		l.plan()
		equal(t, "reason", l.delivery(ops).LastError.Reason, delivery.ReasonUnauthorized)
	})
	t.Run("a refused configuration stays named", func(t *testing.T) {
		l := newLab(t)
		l.pass(5 * time.Minute)
		l.attempt(ops, refused())
		l.plan()
		equal(t, "reason", l.delivery(ops).LastError.Reason, delivery.ReasonUnauthorized)
	})
}

func TestAttemptInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		policy     v1alpha1.AmbiguousPolicy
		idempotent bool
		state      v1alpha1.DeliveryState
		wait       time.Duration
		duplicate  *bool
		events     []string
	}{
		"Retry":      {v1alpha1.AmbiguousRetry, false, v1alpha1.DeliveryRetrying, 5 * time.Second, new(true), nil},
		"Hold":       {v1alpha1.AmbiguousHold, false, v1alpha1.DeliveryAmbiguous, 24 * time.Hour, nil, nil},
		"AssumeSent": {v1alpha1.AmbiguousAssumeSent, false, v1alpha1.DeliverySent, 0, nil, []string{audit.TypeMessageSent}},

		"Retry, idempotent":      {v1alpha1.AmbiguousRetry, true, v1alpha1.DeliveryRetrying, 5 * time.Second, nil, nil},
		"Hold, idempotent":       {v1alpha1.AmbiguousHold, true, v1alpha1.DeliveryRetrying, 5 * time.Second, nil, nil},
		"AssumeSent, idempotent": {v1alpha1.AmbiguousAssumeSent, true, v1alpha1.DeliveryRetrying, 5 * time.Second, nil, nil},
	} {
		check := func(t *testing.T, l *lab, d decision, reason string) {
			t.Helper()
			equal(t, "due", d.due, nil)
			got := l.delivery(ops)
			equal(t, "state", got.State, c.state)
			equal(t, "possible duplicate", got.PossibleDuplicate, c.duplicate)
			equal(t, "events", eventTypes(l.nr), append([]string{audit.TypeAttemptAmbiguous}, c.events...))
			equal(t, "reason", got.AttemptFailures[0].Error.Reason, reason)
			equal(t, "attempt deadline", got.AttemptDeadline, nil)
			switch c.wait {
			case 24 * time.Hour:
				equal(t, "wait for a person until", l.now.Add(d.wait), born.Add(c.wait))
			default:
				equal(t, "wait", d.wait, c.wait)
			}
		}
		start := func(t *testing.T) *lab {
			t.Helper()
			l := newLab(t, withPolicy(c.policy))
			ch := l.channels[ops]
			ch.idempotent = c.idempotent
			l.channels[ops] = ch
			l.plan()
			l.begin(ops)
			return l
		}
		t.Run(name+", no answer", func(t *testing.T) {
			l := start(t)
			check(t, l, l.end(ops, unanswered()), delivery.ReasonTimeout)
		})
		t.Run(name+", process gone", func(t *testing.T) {
			l := start(t)
			l.crash()
			l.pass(39*time.Second + 999*time.Millisecond)
			d := l.plan()
			equal(t, "state before the attempt's deadline", l.delivery(ops).State, v1alpha1.DeliveryInFlight)
			equal(t, "due before the attempt's deadline", d.due, nil)
			equal(t, "wait for the attempt's deadline", d.wait, time.Millisecond)
			l.pass(time.Millisecond)
			check(t, l, l.plan(), "OutcomeUnknown")
		})
	}
}

func TestASecondDoubtIsHeldForAPerson(t *testing.T) {
	maybe := transient()
	maybe.MaybeDelivered = true
	for name, first := range map[string]func(*lab){
		"after a doubt":                       func(l *lab) { l.attempt(ops, unanswered()) },
		"after a process that is gone":        func(l *lab) { l.plan(); l.begin(ops); l.crash() },
		"after an answer of somebody between": func(l *lab) { l.attempt(ops, maybe) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			first(l)
			l.pass(time.Minute)
			l.plan()
			l.pass(time.Minute)
			d := l.attempt(ops, unanswered())
			equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryAmbiguous)
			equal(t, "possible duplicate", l.delivery(ops).PossibleDuplicate, new(true))
			equal(t, "next attempt", l.delivery(ops).NextAttemptTime, nil)
			equal(t, "due", d.due, nil)
			equal(t, "wait for a person until", l.now.Add(d.wait), born.Add(24*time.Hour))
			l.crash()
			l.pass(time.Hour)
			equal(t, "due after a restart", l.plan().due, nil)

			for range 2 { // a person may ask for as many as there are
				l.say("ops=Retry")
				l.attempt(ops, unanswered())
				equal(t, "state after a person's retry", l.delivery(ops).State, v1alpha1.DeliveryAmbiguous)
			}
			l.now = born.Add(24 * time.Hour)
			l.plan()
			equal(t, "state at the deadline", l.delivery(ops).State, v1alpha1.DeliveryFailed)
			equal(t, "reason at the deadline", l.delivery(ops).LastError.Reason, "DeadlineExceeded")
		})
	}
	t.Run("and so is one that spends the last attempt", func(t *testing.T) {
		l := newLab(t, withMaxAttempts(2))
		l.attempt(ops, unanswered())
		l.pass(time.Minute)
		l.attempt(ops, unanswered())
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryAmbiguous)
	})
	t.Run("but not where the channel is idempotent", func(t *testing.T) {
		l := newLab(t)
		ch := l.channels[ops]
		ch.idempotent = true
		l.channels[ops] = ch
		for range 3 {
			l.attempt(ops, unanswered())
			equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryRetrying)
			l.pass(time.Minute)
		}
	})
	t.Run("nor where it counts as sent", func(t *testing.T) {
		l := newLab(t, withPolicy(v1alpha1.AmbiguousAssumeSent))
		l.attempt(ops, maybe)
		l.pass(time.Minute)
		l.attempt(ops, unanswered())
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySent)
	})
}

func TestDuplicateIsFlaggedWhereAnAnswerLeavesDoubt(t *testing.T) {
	for _, idempotent := range []bool{false, true} {
		l := newLab(t)
		ch := l.channels[ops]
		ch.idempotent = idempotent
		l.channels[ops] = ch
		err := transient()
		err.MaybeDelivered = true
		l.attempt(ops, err)
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryRetrying)
		equal(t, "flagged", l.delivery(ops).PossibleDuplicate != nil, !idempotent)
	}
}

func TestRunningAttemptIsLeftAlone(t *testing.T) {
	l := newLab(t, withDeadline("1m"))
	l.plan()
	l.begin(ops)
	begun := l.delivery(ops).DeepCopy()
	for _, later := range []time.Duration{time.Second, time.Minute, time.Hour} {
		l.pass(later)
		l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
		equal(t, "due", l.plan().due, nil)
		equal(t, "delivery", l.delivery(ops), begun)
	}
	l.end(ops, nil)
	equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySent)
}

func TestStaleOutcomeChangesNothing(t *testing.T) {
	// Each is the state in which another process has left the delivery after it
	// had settled attempt 1.
	for name, settle := range map[string]func(*lab){
		"waiting":  func(l *lab) { l.attempt(ops, transient()) },
		"held":     func(l *lab) { l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold; l.attempt(ops, unanswered()) },
		"sent":     func(l *lab) { l.attempt(ops, nil) },
		"failed":   func(l *lab) { l.attempt(ops, permanent()) },
		"attempt2": func(l *lab) { l.attempt(ops, transient()); l.pass(time.Minute); l.plan(); l.begin(ops); l.crash() },
	} {
		for _, err := range []*delivery.Error{nil, transient(), permanent(), refused(), unanswered()} {
			t.Run(fmt.Sprintf("%s, %v", name, err), func(t *testing.T) {
				l := newLab(t)
				settle(l)
				before := l.nr.Status.DeepCopy()
				l.sends[ops] = sendState{done: true, outcome: outcome{attempt: 1, started: born, finished: l.now, err: err}}
				equal(t, "due", l.plan().due, nil)
				equal(t, "status", l.nr.Status, *before)
			})
		}
	}
}

func TestDeadline(t *testing.T) {
	t.Run("ends what was never tried as skipped", func(t *testing.T) {
		l := newLab(t, withDeadline("10m"))
		l.nr.Spec.Suspend = new(true)
		d := l.plan()
		equal(t, "looked at again", l.now.Add(d.wait), born.Add(10*time.Minute))
		l.now = born.Add(10*time.Minute - time.Microsecond)
		l.plan()
		equal(t, "state before", l.delivery(ops).State, v1alpha1.DeliveryPending)
		l.pass(time.Microsecond)
		equal(t, "due", l.plan().due, nil)
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySkipped)
		equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageFailed})
	})
	t.Run("ends what was tried as failed and says what stood in the way", func(t *testing.T) {
		l := newLab(t, withDeadline("6s"))
		d := l.attempt(ops, transient())
		equal(t, "the wait ends with the deadline", l.now.Add(d.wait), born.Add(6*time.Second))
		l.pass(d.wait)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryFailed)
		equal(t, "error", l.delivery(ops).LastError, v1alpha1.DeliveryError{
			Class: v1alpha1.ErrorExpired, Reason: "DeadlineExceeded",
			Message: "the message was not sent within the deadline of 6s; before that ServerError: receiver.example answered 503",
		})
	})
	t.Run("runs from notBefore", func(t *testing.T) {
		l := newLab(t, withDeadline("10m"))
		l.nr.Spec.NotBefore = new(metav1.NewTime(born.Add(time.Hour)))
		d := l.plan()
		equal(t, "due", d.due, nil)
		equal(t, "wait for notBefore", l.now.Add(d.wait), born.Add(time.Hour))
		l.now = born.Add(time.Hour)
		equal(t, "due", l.plan().due, []string{ops})
		l.now = born.Add(70*time.Minute - time.Second)
		equal(t, "due", l.plan().due, []string{ops})
		l.pass(time.Second)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySkipped)
	})
	t.Run("runs from the creation where notBefore is earlier", func(t *testing.T) {
		l := newLab(t, withDeadline("10m"))
		l.nr.Spec.NotBefore = new(metav1.NewTime(born.Add(-time.Hour)))
		equal(t, "due", l.plan().due, []string{ops})
		equal(t, "deadline", deadlineOf(l.nr, ops), born.Add(10*time.Minute))
	})
	t.Run("waits for an attempt that is being made", func(t *testing.T) {
		l := newLab(t, withDeadline("1m"))
		l.now = born.Add(59 * time.Second)
		l.plan()
		l.begin(ops)
		l.crash()
		l.pass(10 * time.Second)
		d := l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryInFlight)
		l.pass(d.wait)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryFailed)
		equal(t, "class", l.delivery(ops).LastError.Class, v1alpha1.ErrorExpired)
		equal(t, "events", eventTypes(l.nr), []string{audit.TypeAttemptAmbiguous, audit.TypeMessageFailed})
	})
	t.Run("ends a delivery in doubt that nobody settled", func(t *testing.T) {
		l := newLab(t, withPolicy(v1alpha1.AmbiguousHold))
		d := l.attempt(ops, unanswered())
		l.pass(d.wait)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryFailed)
		equal(t, "class", l.delivery(ops).LastError.Class, v1alpha1.ErrorExpired)
	})
	t.Run("a dot in a long last error does not break the bound", func(t *testing.T) {
		l := newLab(t, withDeadline("6s"))
		err := transient()
		err.Message = strings.Repeat("ß", 128)
		d := l.attempt(ops, err)
		l.pass(d.wait)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryFailed)
	})
}

func TestSuspendHoldsBackAndResumeGoesOn(t *testing.T) {
	l := newLab(t)
	l.nr.Spec.Suspend = new(true)
	equal(t, "due", l.plan().due, nil)
	l.nr.Spec.Suspend = new(false)
	equal(t, "due", l.plan().due, []string{ops})
	l.attempt(ops, transient())
	l.nr.Spec.Suspend = new(true)
	l.pass(time.Hour)
	equal(t, "due", l.plan().due, nil)
	l.nr.Spec.Suspend = nil
	equal(t, "due", l.plan().due, []string{ops})
}

func TestSuspendDoesNotTakeBackARunningAttempt(t *testing.T) {
	l := newLab(t)
	l.plan()
	l.begin(ops)
	l.nr.Spec.Suspend = new(true)
	l.end(ops, nil)
	equal(t, "state", l.delivery(ops).State, v1alpha1.DeliverySent)
}

func TestDeletion(t *testing.T) {
	cancelled := audit.TypeRequestCancelled
	for name, c := range map[string]struct {
		prepare func(*lab)
		state   v1alpha1.DeliveryState
		class   v1alpha1.ErrorClass
		events  []string
	}{
		"before the first attempt": {
			func(l *lab) { l.plan() }, v1alpha1.DeliverySkipped, v1alpha1.ErrorCancelled,
			[]string{audit.TypeMessageFailed, cancelled},
		},
		"never looked at": {
			func(*lab) {}, v1alpha1.DeliverySkipped, v1alpha1.ErrorCancelled,
			[]string{audit.TypeMessageFailed, cancelled},
		},
		"blocked": {
			func(l *lab) { l.channels[ops] = channel{blocked: blocked("ChannelNotFound", "none")}; l.plan() },
			v1alpha1.DeliverySkipped, v1alpha1.ErrorCancelled,
			[]string{audit.TypeMessageFailed, cancelled},
		},
		"suspended": {
			func(l *lab) { l.nr.Spec.Suspend = new(true); l.plan() }, v1alpha1.DeliverySkipped, v1alpha1.ErrorCancelled,
			[]string{audit.TypeMessageFailed, cancelled},
		},
		"waiting for the next attempt": {
			func(l *lab) { l.attempt(ops, transient()) }, v1alpha1.DeliveryFailed, v1alpha1.ErrorCancelled,
			[]string{audit.TypeAttemptFailed, audit.TypeMessageFailed, cancelled},
		},
		"held in doubt": {
			func(l *lab) { l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold; l.attempt(ops, unanswered()) },
			v1alpha1.DeliveryFailed, v1alpha1.ErrorCancelled,
			[]string{audit.TypeAttemptAmbiguous, audit.TypeMessageFailed, cancelled},
		},
		"sent": {
			func(l *lab) { l.attempt(ops, nil) }, v1alpha1.DeliverySent, "", []string{audit.TypeMessageSent},
		},
		"failed": {
			func(l *lab) { l.attempt(ops, permanent()) }, v1alpha1.DeliveryFailed, v1alpha1.ErrorPermanent,
			[]string{audit.TypeAttemptFailed, audit.TypeMessageFailed},
		},
		"together with the outcome": {
			func(l *lab) {
				l.plan()
				l.begin(ops)
				l.sends[ops] = sendState{done: true, outcome: outcome{attempt: 1, started: l.now, finished: l.now}}
			},
			v1alpha1.DeliverySent, "",
			[]string{audit.TypeMessageSent},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c.prepare(l)
			l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
			equal(t, "decision", fmt.Sprint(l.plan()), fmt.Sprint(decision{}))
			equal(t, "state", l.delivery(ops).State, c.state)
			equal(t, "class", l.delivery(ops).LastError.Class, c.class)
			equal(t, "events", eventTypes(l.nr), c.events)
		})
	}
}

func TestDeletionWaitsForAnAttemptThatIsBeingMade(t *testing.T) {
	for name, c := range map[string]struct {
		err   *delivery.Error
		state v1alpha1.DeliveryState
	}{
		"that succeeds": {nil, v1alpha1.DeliverySent},
		"that fails":    {transient(), v1alpha1.DeliveryFailed},
		"in doubt":      {unanswered(), v1alpha1.DeliveryFailed},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.plan()
			l.begin(ops)
			l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
			l.plan()
			equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryInFlight)
			equal(t, "events", eventTypes(l.nr), []string{audit.TypeRequestCancelled})
			equal(t, "event ID", l.nr.Status.Cancellation.Audit.EventID, audit.EventID(audit.TypeRequestCancelled, string(l.nr.UID)).String())
			l.end(ops, c.err)
			equal(t, "state", l.delivery(ops).State, c.state)
		})
	}
	t.Run("by a process that is gone", func(t *testing.T) {
		l := newLab(t)
		l.plan()
		l.begin(ops)
		l.crash()
		l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
		d := l.plan()
		equal(t, "wait", d.wait, 40*time.Second)
		l.pass(d.wait)
		l.plan()
		equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryFailed)
		equal(t, "finished", l.nr.Status.FinishedTime != nil, true)
	})
}

func TestPersonSettlesADoubt(t *testing.T) {
	for name, c := range map[string]struct {
		annotation string
		state      v1alpha1.DeliveryState
		resolved   bool
		left       string
	}{
		"sent":               {"ops=Sent", v1alpha1.DeliverySent, true, ""},
		"failed":             {"ops=Failed", v1alpha1.DeliveryFailed, true, ""},
		"retry":              {"ops=Retry", v1alpha1.DeliveryRetrying, true, ""},
		"among others":       {"chat=Sent, ops=Failed ,mail=Retry", v1alpha1.DeliveryFailed, true, "chat=Sent,mail=Retry"},
		"unknown word":       {"ops=Perhaps", v1alpha1.DeliveryAmbiguous, false, ""},
		"small letters":      {"ops=sent", v1alpha1.DeliveryAmbiguous, false, ""},
		"no word":            {"ops", v1alpha1.DeliveryAmbiguous, false, ""},
		"empty":              {"", v1alpha1.DeliveryAmbiguous, false, ""},
		"another channel":    {"oops=Sent", v1alpha1.DeliveryAmbiguous, false, ""},
		"only punctuation":   {",=,,=ops", v1alpha1.DeliveryAmbiguous, false, ""},
		"part of the name":   {"op=Sent,opsx=Sent", v1alpha1.DeliveryAmbiguous, false, ""},
		"equals in the word": {"ops=Sent=now", v1alpha1.DeliveryAmbiguous, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, withPolicy(v1alpha1.AmbiguousHold))
			l.attempt(ops, unanswered())
			l.pass(time.Hour)
			l.nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: c.annotation, "other": "kept"}
			d := l.plan()
			equal(t, "state", l.delivery(ops).State, c.state)
			if !c.resolved {
				equal(t, "resolved", d.spent, nil)
				return
			}
			equal(t, "spent", d.spent, []string{ops})
			equal(t, "due while the word is there", d.due, nil)
			dropResolutions(l.nr, d.spent)
			if c.left == "" {
				equal(t, "annotations", l.nr.Annotations, map[string]string{"other": "kept"})
			} else {
				equal(t, "annotation", strings.ReplaceAll(l.nr.Annotations[v1alpha1.ResolveAnnotation], " ", ""), c.left)
			}
			if c.state == v1alpha1.DeliveryRetrying {
				equal(t, "due", l.plan().due, []string{ops})
				equal(t, "possible duplicate", l.delivery(ops).PossibleDuplicate, new(true))
				return
			}
			kind := map[v1alpha1.DeliveryState]string{
				v1alpha1.DeliverySent: audit.TypeMessageSent, v1alpha1.DeliveryFailed: audit.TypeMessageFailed,
			}[c.state]
			equal(t, "events", eventTypes(l.nr), []string{audit.TypeAttemptAmbiguous, kind})
		})
	}
}

func TestPersonSettlesSeveralDoubtsAtOnce(t *testing.T) {
	l := newLab(t, withPolicy(v1alpha1.AmbiguousHold), withChannels("a", "b", "c"))
	for _, channel := range []string{"a", "b", "c"} {
		l.attempt(channel, unanswered())
	}
	l.nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: "c=Failed,a=Sent"}
	d := l.plan()
	equal(t, "resolved", d.spent, []string{"a", "c"})
	equal(t, "a", l.delivery("a").State, v1alpha1.DeliverySent)
	equal(t, "b", l.delivery("b").State, v1alpha1.DeliveryAmbiguous)
	equal(t, "c", l.delivery("c").State, v1alpha1.DeliveryFailed)
	dropResolutions(l.nr, d.spent)
	equal(t, "annotations", l.nr.Annotations, nil)
}

func TestWordsOfAPersonAreFollowedOnceOnly(t *testing.T) {
	// The word stands there when the attempt of a process that is gone turns out
	// to be in doubt. Whoever follows it has to say so, or it is never taken off.
	l := newLab(t, withPolicy(v1alpha1.AmbiguousHold))
	l.plan()
	l.begin(ops)
	l.crash()
	l.nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: "ops=Retry"}
	l.pass(time.Minute)
	// It was given before anybody could know of the doubt, so it settles nothing.
	d := l.plan()
	equal(t, "state", l.delivery(ops).State, v1alpha1.DeliveryAmbiguous)
	equal(t, "spent", d.spent, []string{ops})

	// A word that could not be taken off after it was followed does nothing more.
	l.plan()
	equal(t, "state while it is there", l.delivery(ops).State, v1alpha1.DeliveryRetrying)
	equal(t, "due while it is there", l.plan().due, nil)
	dropResolutions(l.nr, []string{ops})
	equal(t, "due once it is gone", l.plan().due, []string{ops})
}

func TestBackpressureWhereFailuresAreNotRecorded(t *testing.T) {
	l := newLab(t, withMaxAttempts(20))
	l.jitter = shortest
	for range maxFailures {
		l.pass(5 * time.Minute)
		l.attempt(ops, refused())
	}
	l.pass(time.Minute)
	d := l.plan()
	equal(t, "due", d.due, nil)
	equal(t, "looked at again by", l.now.Add(d.wait), born.Add(24*time.Hour))
	// One of them is recorded, and the next attempt may be made: its failure
	// takes the place of the recorded one.
	first := l.delivery(ops).AttemptFailures[0].Audit.EventID
	l.receipts[first] = audit.Receipt{Recorded: true, LogIndex: new(int64(1)), Time: l.now}
	l.pass(5 * time.Minute)
	l.attempt(ops, refused())
	failures := l.delivery(ops).AttemptFailures
	equal(t, "failures", len(failures), maxFailures)
	equal(t, "oldest", failures[0].Attempt, 2)
	equal(t, "latest", failures[maxFailures-1].Attempt, maxFailures+1)
	equal(t, "due", l.plan().due, nil)
}

func TestTrimmingKeepsWhatIsNotRecorded(t *testing.T) {
	fill := func(t *testing.T) *lab {
		t.Helper()
		l := newLab(t)
		l.jitter = shortest
		for range maxFailures {
			l.pass(5 * time.Minute)
			l.attempt(ops, refused())
		}
		return l
	}
	numbers := func(l *lab) (all []int32) {
		for _, f := range l.delivery(ops).AttemptFailures {
			all = append(all, f.Attempt)
		}
		return all
	}
	t.Run("an old one that is pending stays", func(t *testing.T) {
		l := fill(t)
		l.receipts[l.delivery(ops).AttemptFailures[3].Audit.EventID] = audit.Receipt{Recorded: true, Time: l.now}
		l.pass(5 * time.Minute)
		l.attempt(ops, refused())
		equal(t, "attempts", numbers(l), []int32{1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21})
	})
	t.Run("a rejected one stays while there is a recorded one", func(t *testing.T) {
		l := fill(t)
		l.receipts[l.delivery(ops).AttemptFailures[0].Audit.EventID] = audit.Receipt{Reason: "no", Time: l.now}
		l.receipts[l.delivery(ops).AttemptFailures[1].Audit.EventID] = audit.Receipt{Recorded: true, Time: l.now}
		l.pass(5 * time.Minute)
		l.attempt(ops, refused())
		equal(t, "first", numbers(l)[:2], []int32{1, 3})
	})
}

func TestRejectedEvidenceDoesNotHoldTheMessageBack(t *testing.T) {
	l := newLab(t)
	l.jitter = shortest
	for range maxFailures {
		l.pass(5 * time.Minute)
		l.attempt(ops, refused())
	}
	l.reject()
	l.channels[ops] = channel{kind: v1alpha1.ChannelWebhook, timeout: 10 * time.Second, config: "B"}
	equal(t, "due", l.plan().due, []string{ops})
	l.pass(5 * time.Minute)
	l.attempt(ops, refused())
	equal(t, "failures", len(l.delivery(ops).AttemptFailures), maxFailures)
}

func TestFinishedTimeIsWhenTheLastDeliveryEnded(t *testing.T) {
	l := newLab(t, withChannels("a", "b"))
	l.plan()
	l.begin("a")
	l.begin("b")
	l.end("b", permanent())
	equal(t, "finished", l.nr.Status.FinishedTime, nil)
	l.pass(5 * time.Second)
	l.end("a", nil)
	last := l.now
	l.pass(time.Hour)
	l.plan()
	equal(t, "finished", l.nr.Status.FinishedTime.Time, last)
}

func TestOneChannelDoesNotHoldBackAnother(t *testing.T) {
	l := newLab(t, withChannels("slow", "bad", "good"), withPolicy(v1alpha1.AmbiguousHold))
	l.plan()
	l.begin("slow")
	l.channels["bad"] = channel{blocked: blocked("ChannelNotFound", "none")}
	equal(t, "due", l.plan().due, []string{"good"})
	l.attempt("good", nil)
	equal(t, "state", l.delivery("good").State, v1alpha1.DeliverySent)
}

func TestTimesInStatusAreWholeMicroseconds(t *testing.T) {
	got := micro(time.Unix(1, 123456789)).UnixNano()
	equal(t, "time", got, int64(1123456000))
}

func TestJitterStaysWithinItsLimit(t *testing.T) {
	for _, limit := range []time.Duration{0, 1, time.Second} {
		for range 50 {
			if got := jitter(limit); got < 0 || got > limit {
				t.Fatalf("jitter(%s) = %s", limit, got)
			}
		}
	}
}

func TestDoubtIsSettledByWhatTheChannelWasWhenTheAttemptBegan(t *testing.T) {
	for name, c := range map[string]struct {
		before, after channel
		want          v1alpha1.DeliveryState
	}{
		"said to be idempotent afterwards": {webhook(), channel{kind: v1alpha1.ChannelWebhook, idempotent: true}, v1alpha1.DeliveryAmbiguous},
		"gone afterwards":                  {channel{kind: v1alpha1.ChannelWebhook, idempotent: true}, channel{blocked: blocked(v1alpha1.ReasonChannelNotFound, "gone")}, v1alpha1.DeliveryRetrying},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, withPolicy(v1alpha1.AmbiguousHold))
			l.channels[ops] = c.before
			l.plan()
			l.begin(ops)
			l.crash()
			l.channels[ops] = c.after
			l.pass(time.Hour)
			l.plan()
			equal(t, "state", l.delivery(ops).State, c.want)
		})
	}
}
