package controller

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"kubernaut.ai/notification/api/v1alpha1"
)

// postpone has the delivery to ops wait for an hour.
func (l *lab) postpone(reason string) time.Time {
	l.t.Helper()
	until := l.now.Add(time.Hour)
	l.plan()
	postpone(l.delivery(ops), waitFor(reason, v1alpha1.ErrorTransient, until, "until %s", stamp(until)).err, until)
	return until
}

func TestPostponedDeliveryMayBeginWheneverItIsLookedAt(t *testing.T) {
	for _, reason := range postponements {
		t.Run(reason, func(t *testing.T) {
			l := newLab(t)
			until := l.postpone(reason)
			l.pass(time.Minute)
			equal(t, "due", l.plan().due, []string{ops})
			d := l.delivery(ops)
			equal(t, "it goes on to say why it waits", d.LastError.Reason, reason)
			equal(t, "and until when", d.NextAttemptTime.Time, until)
			equal(t, "attempts", d.Attempts, int32(0))

			l.attempt(ops, transient())
			equal(t, "reason once it has begun", l.delivery(ops).LastError.Reason, "ServerError")
			l.nr.Spec.Suspend = new(true)
			l.plan()
			l.nr.Spec.Suspend = nil
			equal(t, "its own wait counts", len(l.plan().due), 0)
		})
	}
}

func TestWhatElseIsInTheWayIsSaidInstead(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*lab)
		reason  string
	}{
		"suspended": {func(l *lab) { l.nr.Spec.Suspend = new(true) }, ""},
		"blocked":   {func(l *lab) { l.channels[ops] = channel{blocked: blocked(v1alpha1.ReasonChannelNotFound, "create it")} }, "ChannelNotFound"},
		"an outage": {func(l *lab) { l.held = outage }, reasonAuditOutage},
		"the end":   {func(l *lab) { l.pass(24 * time.Hour) }, "DeadlineExceeded"},
		"not in the way any more": {func(l *lab) {
			l.nr.Spec.Suspend = new(true)
			l.plan()
			l.nr.Spec.Suspend = nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.postpone(reasonRateLimit)
			c.prepare(l)
			d := l.plan()
			equal(t, "reason", l.delivery(ops).LastError.Reason, c.reason)
			equal(t, "the old turn", l.delivery(ops).NextAttemptTime == nil, true)
			equal(t, "due", slices.Contains(d.due, ops), name == "not in the way any more")
		})
	}
}

func TestEndSaysWhatAMessageWaitedFor(t *testing.T) {
	l := newLab(t, withDeadline("1m"))
	l.postpone(reasonRateLimit)
	l.pass(time.Minute)
	l.plan()
	equal(t, "message", l.delivery(ops).LastError.Message,
		"the message was not sent within the deadline of 1m; before that ChannelRateLimit: until 2026-03-01T11:00:01Z")
}

// Its circuit must not be what a message fails for.
func TestMessageIsLookedAtForItsLastChance(t *testing.T) {
	l := newLab(t, withDeadline("10m"))
	l.postpone(reasonCircuitOpen)
	last := born.Add(10*time.Minute - 10*time.Second - lastChance)
	equal(t, "looked at again", l.now.Add(l.plan().wait), last)
	l.now = last
	equal(t, "after that", l.plan().wait, time.Second)
}

// A wait that somebody asked for with a limit is no news for each request.
func TestPostponedDeliveryIsNoEvent(t *testing.T) {
	l := newLab(t)
	l.plan()
	before := l.nr.Status.DeepCopy()
	l.postpone(reasonRateLimit)
	summarize(l.nr, l.now)
	equal(t, "Events", len(notes(before, &l.nr.Status)), 0)
	equal(t, "Stalled", meta.IsStatusConditionTrue(l.nr.Status.Conditions, v1alpha1.ConditionStalled), false)
}
