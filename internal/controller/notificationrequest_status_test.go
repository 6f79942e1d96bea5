package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

// block lets nothing be sent to a channel.
func (l *lab) block(channel, reason, message string) {
	ch := l.channels[channel]
	ch.blocked = blocked(reason, "%s", message)
	l.channels[channel] = ch
}

// situations are requests as a person meets them, each with what the person reads.
var situations = map[string]struct {
	channels []string
	prepare  func(*lab)
	want     string
}{
	"new": {
		prepare: func(*lab) {},
		want: `
Ready=False Pending: sent to 0 of 1 channel
Delivered=False Pending: sent to 0 of 1 channel
Audited=False Pending: the request is not finished
Reconciling=True Pending: sent to 0 of 1 channel
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"waiting for notBefore": {
		prepare: func(l *lab) {
			l.nr.Spec.NotBefore = new(metav1.NewTime(born.Add(time.Hour)))
		},
		want: `
Ready=False Pending: not before 2026-03-01T11:00:00Z: sent to 0 of 1 channel
Delivered=False Pending: not before 2026-03-01T11:00:00Z: sent to 0 of 1 channel
Audited=False Pending: the request is not finished
Reconciling=True Pending: not before 2026-03-01T11:00:00Z: sent to 0 of 1 channel
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"blocked after notBefore": {
		prepare: func(l *lab) {
			l.nr.Spec.NotBefore = new(metav1.NewTime(born.Add(time.Hour)))
			l.pass(2 * time.Hour)
			l.block(ops, "ChannelNotFound", "there is no NotificationChannel shop/ops")
		},
		want: `
Ready=False Pending: sent to 0 of 1 channel; ops: ChannelNotFound: there is no NotificationChannel shop/ops
Delivered=False Pending: sent to 0 of 1 channel; ops: ChannelNotFound: there is no NotificationChannel shop/ops
Audited=False Pending: the request is not finished
Stalled=True ChannelNotFound: ops: there is no NotificationChannel shop/ops
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"being sent": {
		prepare: func(l *lab) { l.plan(); l.begin(ops) },
		want: `
Ready=False Sending: sent to 0 of 1 channel
Delivered=False Sending: sent to 0 of 1 channel
Audited=False Pending: the request is not finished
Reconciling=True Sending: sent to 0 of 1 channel
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"retrying": {
		channels: []string{"mail", ops},
		prepare:  func(l *lab) { l.attempt("mail", nil); l.attempt(ops, transient()) },
		want: `
Ready=False Retrying: sent to 1 of 2 channels; ops: ServerError: receiver.example answered 503
Delivered=False Retrying: sent to 1 of 2 channels; ops: ServerError: receiver.example answered 503
Audited=False Pending: the request is not finished
Reconciling=True Retrying: sent to 1 of 2 channels; ops: ServerError: receiver.example answered 503
summary 1/2: 1 sent, 0 failed, 1 pending, 0 audited`,
	},
	"suspended": {
		prepare: func(l *lab) { l.nr.Spec.Suspend = new(true) },
		want: `
Ready=False Suspended: suspend is set: sent to 0 of 1 channel
Delivered=False Suspended: suspend is set: sent to 0 of 1 channel
Audited=False Pending: the request is not finished
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"suspended while being sent": {
		prepare: func(l *lab) { l.plan(); l.begin(ops); l.nr.Spec.Suspend = new(true) },
		want: `
Ready=False Sending: sent to 0 of 1 channel
Delivered=False Sending: sent to 0 of 1 channel
Audited=False Pending: the request is not finished
Reconciling=True Sending: sent to 0 of 1 channel
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"refused": {
		prepare: func(l *lab) { l.attempt(ops, refused()) },
		want: `
Ready=False Retrying: sent to 0 of 1 channel; ops: Unauthorized: receiver.example answered 401
Delivered=False Retrying: sent to 0 of 1 channel; ops: Unauthorized: receiver.example answered 401
Audited=False Pending: the request is not finished
Stalled=True Unauthorized: ops: receiver.example answered 401
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"all channels hold it up": {
		channels: []string{"chat", "mail", ops},
		prepare: func(l *lab) {
			l.block("chat", "ChannelNotFound", "there is no NotificationChannel shop/chat")
			l.block("mail", "SecretNotFound", "the Secret mail is missing")
			l.attempt(ops, refused())
		},
		want: `
Ready=False Retrying: sent to 0 of 3 channels; chat: ChannelNotFound: there is no NotificationChannel shop/chat; mail: SecretNotFound: the Secret mail is missing; ops: Unauthorized: receiver.example answered 401
Delivered=False Retrying: sent to 0 of 3 channels; chat: ChannelNotFound: there is no NotificationChannel shop/chat; mail: SecretNotFound: the Secret mail is missing; ops: Unauthorized: receiver.example answered 401
Audited=False Pending: the request is not finished
Stalled=True ChannelNotFound: chat: there is no NotificationChannel shop/chat; mail: the Secret mail is missing; ops: receiver.example answered 401
summary 0/3: 0 sent, 0 failed, 3 pending, 0 audited`,
	},
	"two doubts and a missing channel": {
		channels: []string{"chat", "mail", ops},
		prepare: func(l *lab) {
			l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold
			l.block("chat", "ChannelNotFound", "there is no NotificationChannel shop/chat")
			l.attempt("mail", unanswered())
			l.attempt(ops, unanswered())
			l.say("mail=sent")
		},
		want: `
Ready=False Pending: sent to 0 of 3 channels; chat: ChannelNotFound: there is no NotificationChannel shop/chat; mail: Timeout: receiver.example: timed out after the message was written; ops: Timeout: receiver.example: timed out after the message was written
Delivered=False Pending: sent to 0 of 3 channels; chat: ChannelNotFound: there is no NotificationChannel shop/chat; mail: Timeout: receiver.example: timed out after the message was written; ops: Timeout: receiver.example: timed out after the message was written
Audited=False Pending: the request is not finished
Stalled=True Ambiguous: chat: there is no NotificationChannel shop/chat; mail: nobody knows whether the message arrived: look there, then annotate this request with notification.kubernaut.ai/resolve: mail=Sent, =Retry or =Failed; ops: nobody knows whether the message arrived: look there, then annotate this request with notification.kubernaut.ai/resolve: ops=Sent, =Retry or =Failed; the annotation now says "mail=sent", which settles nothing
summary 0/3: 0 sent, 0 failed, 3 pending, 0 audited`,
	},
	"one of two channels blocked": {
		channels: []string{"mail", ops},
		prepare: func(l *lab) {
			l.block("mail", "SecretNotFound", "the Secret mail is missing")
			l.plan()
			l.begin(ops)
		},
		want: `
Ready=False Sending: sent to 0 of 2 channels; mail: SecretNotFound: the Secret mail is missing
Delivered=False Sending: sent to 0 of 2 channels; mail: SecretNotFound: the Secret mail is missing
Audited=False Pending: the request is not finished
Reconciling=True Sending: sent to 0 of 2 channels; mail: SecretNotFound: the Secret mail is missing
summary 0/2: 0 sent, 0 failed, 2 pending, 0 audited`,
	},
	"held in doubt, and another refused": {
		channels: []string{"mail", ops},
		prepare: func(l *lab) {
			l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold
			l.attempt("mail", refused())
			l.attempt(ops, unanswered())
		},
		want: `
Ready=False Retrying: sent to 0 of 2 channels; mail: Unauthorized: receiver.example answered 401; ops: Timeout: receiver.example: timed out after the message was written
Delivered=False Retrying: sent to 0 of 2 channels; mail: Unauthorized: receiver.example answered 401; ops: Timeout: receiver.example: timed out after the message was written
Audited=False Pending: the request is not finished
Stalled=True Ambiguous: mail: receiver.example answered 401; ops: nobody knows whether the message arrived: look there, then annotate this request with notification.kubernaut.ai/resolve: ops=Sent, =Retry or =Failed
summary 0/2: 0 sent, 0 failed, 2 pending, 0 audited`,
	},
	"held in doubt, with a word that means nothing": {
		prepare: func(l *lab) {
			l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold
			l.attempt(ops, unanswered())
			l.nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: "ops=sent"}
		},
		want: `
Ready=False Pending: sent to 0 of 1 channel; ops: Timeout: receiver.example: timed out after the message was written
Delivered=False Pending: sent to 0 of 1 channel; ops: Timeout: receiver.example: timed out after the message was written
Audited=False Pending: the request is not finished
Stalled=True Ambiguous: ops: nobody knows whether the message arrived: look there, then annotate this request with notification.kubernaut.ai/resolve: ops=Sent, =Retry or =Failed; the annotation now says "ops=sent", which settles nothing
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"in doubt a second time": {
		prepare: func(l *lab) {
			l.attempt(ops, unanswered())
			l.pass(time.Minute)
			l.attempt(ops, unanswered())
		},
		want: `
Ready=False Pending: sent to 0 of 1 channel; ops: Timeout: receiver.example: timed out after the message was written
Delivered=False Pending: sent to 0 of 1 channel; ops: Timeout: receiver.example: timed out after the message was written
Audited=False Pending: the request is not finished
Stalled=True Ambiguous: ops: nobody knows whether the message arrived, and it may have arrived more than once, so it is not sent again unasked: look there, then annotate this request with notification.kubernaut.ai/resolve: ops=Sent, =Retry or =Failed
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"held for the audit's sake": {
		prepare: func(l *lab) {
			l.jitter = shortest
			for range maxFailures {
				l.pass(5 * time.Minute)
				l.attempt(ops, refused())
			}
		},
		want: `
Ready=False Retrying: sent to 0 of 1 channel; ops: AuditBacklog: 20 failed attempts are not recorded in DataStorage yet; the next one waits for that
Delivered=False Retrying: sent to 0 of 1 channel; ops: AuditBacklog: 20 failed attempts are not recorded in DataStorage yet; the next one waits for that
Audited=False Pending: the request is not finished
Reconciling=True Retrying: sent to 0 of 1 channel; ops: AuditBacklog: 20 failed attempts are not recorded in DataStorage yet; the next one waits for that
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"sent": {
		channels: []string{"mail", ops},
		prepare:  func(l *lab) { l.attempt("mail", nil); l.attempt(ops, nil) },
		want: `
Ready=True Sent: 2 channels accepted the message
Delivered=True Sent: 2 channels accepted the message
Audited=False Pending: 2 events not recorded in DataStorage yet
summary 2/2: 2 sent, 0 failed, 0 pending, 0 audited`,
	},
	"deleted before its events are recorded": {
		prepare: func(l *lab) {
			l.attempt(ops, nil)
			l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
		},
		want: `
Ready=True Sent: 1 channel accepted the message
Delivered=True Sent: 1 channel accepted the message
Audited=False Pending: 1 event not recorded in DataStorage yet, and the deletion waits for that
summary 1/1: 1 sent, 0 failed, 0 pending, 0 audited`,
	},
	"deleted with a message on its way": {
		prepare: func(l *lab) {
			l.plan()
			l.begin(ops)
			l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
		},
		want: `
Ready=False Sending: sent to 0 of 1 channel
Delivered=False Sending: sent to 0 of 1 channel
Audited=False Pending: the request is not finished, and the deletion waits for that
Reconciling=True Sending: sent to 0 of 1 channel
summary 0/1: 0 sent, 0 failed, 1 pending, 0 audited`,
	},
	"sent and recorded": {
		prepare: func(l *lab) { l.attempt(ops, nil); l.record() },
		want: `
Ready=True Sent: 1 channel accepted the message
Delivered=True Sent: 1 channel accepted the message
Audited=True Recorded: DataStorage holds 1 event
summary 1/1: 1 sent, 0 failed, 0 pending, 1 audited`,
	},
	"sent and rejected": {
		prepare: func(l *lab) { l.attempt(ops, nil); l.reject() },
		want: `
Ready=True Sent: 1 channel accepted the message
Delivered=True Sent: 1 channel accepted the message
Audited=False Rejected: DataStorage rejected 1 event: kept and offered again every 10 minutes, with the reason in deliveries
Stalled=True AuditRejected: DataStorage rejected 1 event: kept and offered again every 10 minutes, with the reason in deliveries
summary 1/1: 1 sent, 0 failed, 0 pending, 0 audited`,
	},
	"recorded after it was rejected": {
		prepare: func(l *lab) {
			l.attempt(ops, nil)
			l.reject()
			l.plan()
			summarize(l.nr, l.now)
			l.answer(l.delivery(ops).Audit.EventID, true)
		},
		want: `
Ready=True Sent: 1 channel accepted the message
Delivered=True Sent: 1 channel accepted the message
Audited=True Recorded: DataStorage holds 1 event
summary 1/1: 1 sent, 0 failed, 0 pending, 1 audited`,
	},
	"partly sent": {
		channels: []string{"mail", ops},
		prepare:  func(l *lab) { l.attempt("mail", nil); l.attempt(ops, permanent()) },
		want: `
Ready=False PartiallySent: ops: BadRequest: receiver.example answered 400
Delivered=False PartiallySent: ops: BadRequest: receiver.example answered 400
Audited=False Pending: 3 events not recorded in DataStorage yet
Stalled=True PartiallySent: ops: BadRequest: receiver.example answered 400
summary 1/2: 1 sent, 1 failed, 0 pending, 0 audited`,
	},
	"failed and recorded": {
		prepare: func(l *lab) { l.attempt(ops, permanent()); l.record() },
		want: `
Ready=False Failed: ops: BadRequest: receiver.example answered 400
Delivered=False Failed: ops: BadRequest: receiver.example answered 400
Audited=True Recorded: DataStorage holds 2 events
Stalled=True Failed: ops: BadRequest: receiver.example answered 400
summary 0/1: 0 sent, 1 failed, 0 pending, 1 audited`,
	},
	"past its deadline": {
		prepare: func(l *lab) {
			l.block(ops, "ChannelNotFound", "there is no NotificationChannel shop/ops")
			l.plan()
			l.pass(24 * time.Hour)
		},
		want: `
Ready=False Failed: ops: DeadlineExceeded: the message was not sent within the deadline of 24h; before that ChannelNotFound: there is no NotificationChannel shop/ops
Delivered=False Failed: ops: DeadlineExceeded: the message was not sent within the deadline of 24h; before that ChannelNotFound: there is no NotificationChannel shop/ops
Audited=False Pending: 1 event not recorded in DataStorage yet
Stalled=True Failed: ops: DeadlineExceeded: the message was not sent within the deadline of 24h; before that ChannelNotFound: there is no NotificationChannel shop/ops
summary 0/1: 0 sent, 1 failed, 0 pending, 0 audited`,
	},
}

// read is what a person sees of the conditions and the summary.
func read(nr *v1alpha1.NotificationRequest) string {
	var b strings.Builder
	for _, c := range nr.Status.Conditions {
		fmt.Fprintf(&b, "\n%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
	}
	s := nr.Status.Summary
	fmt.Fprintf(&b, "\nsummary %s: %d sent, %d failed, %d pending, %d audited", s.Ratio, *s.Sent, *s.Failed, *s.Pending, *s.Audited)
	return b.String()
}

func TestWhatAPersonReads(t *testing.T) {
	for name, s := range situations {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if s.channels != nil {
				l = newLab(t, withChannels(s.channels...))
			}
			l.nr.Generation = 3
			s.prepare(l)
			l.plan()
			summarize(l.nr, l.now)
			equal(t, "status", read(l.nr), s.want)
			checkSchema(t, l.nr)
			equal(t, "observed generation", l.nr.Status.ObservedGeneration, int64(3))
			for _, c := range l.nr.Status.Conditions {
				equal(t, "observed generation of "+c.Type, c.ObservedGeneration, int64(3))
				equal(t, "transition of "+c.Type, c.LastTransitionTime.Time, l.now.Truncate(time.Second))
			}
			once := l.nr.Status.DeepCopy()
			summarize(l.nr, l.now.Add(10*time.Second))
			equal(t, "status summarized ten seconds later", l.nr.Status, *once)
		})
	}
}

// reject answers for all pending events as DataStorage does to what it will not take.
func (l *lab) reject() {
	for _, e := range pendingEvents(l.nr, false) {
		l.receipts[e.EventID.String()] = audit.Receipt{EventID: e.EventID, Reason: "no", Time: l.now}
	}
}

// answer is DataStorage's word about one event.
func (l *lab) answer(id string, recorded bool) {
	r := audit.Receipt{Recorded: recorded, Time: l.now}
	if !recorded {
		r.Reason = "no"
	}
	l.receipts[id] = r
}

func TestConditionsMoveFromOneStateToTheNext(t *testing.T) {
	l := newLab(t)
	l.plan()
	summarize(l.nr, l.now)
	start := l.now.Truncate(time.Second)
	l.attempt(ops, refused())
	summarize(l.nr, l.now)
	find := func(kind string) *metav1.Condition { return meta.FindStatusCondition(l.nr.Status.Conditions, kind) }
	equal(t, "reconciling", find(v1alpha1.ConditionReconciling), nil)
	equal(t, "stalled since", find(v1alpha1.ConditionStalled).LastTransitionTime.Time, l.now.Truncate(time.Second))
	l.pass(5 * time.Minute)
	l.attempt(ops, nil)
	summarize(l.nr, l.now)
	equal(t, "stalled", find(v1alpha1.ConditionStalled), nil)
	equal(t, "ready since", find(v1alpha1.ConditionReady).LastTransitionTime.Time, l.now.Truncate(time.Second))
	equal(t, "not audited since", find(v1alpha1.ConditionAudited).LastTransitionTime.Time, start)
}

func TestStatusFitsWithTheMostChannelsAndTheLongestTexts(t *testing.T) {
	var names []string
	for i := range 16 {
		names = append(names, strings.Repeat("c", 250)+fmt.Sprint(100+i))
	}
	l := newLab(t, withChannels(names...))
	l.nr.Spec.Channels = nil
	for _, name := range names {
		l.nr.Status.RoutedChannels = append(l.nr.Status.RoutedChannels, v1alpha1.RoutedChannel{
			Name: name, Namespace: strings.Repeat("n", 63), QuietUntil: new(metav1.NewTime(born)),
			Route: v1alpha1.RouteReference{Name: strings.Repeat("r", 253), UID: strings.Repeat("u", 36), Generation: 9},
		})
	}
	for _, name := range names {
		err := permanent()
		err.Message = strings.Repeat("ß", 128)
		l.attempt(name, err)
		summarize(l.nr, l.now)
		checkSchema(t, l.nr)
	}
	equal(t, "bytes of the column", len(l.nr.Status.Summary.Channels), 256)
	l.reject()
	l.plan()
	summarize(l.nr, l.now)
	checkSchema(t, l.nr)
	for _, c := range l.nr.Status.Conditions {
		if len(c.Message) > 4096 || !utf8.ValidString(c.Message) {
			t.Errorf("%s has a message of %d bytes", c.Type, len(c.Message))
		}
	}
}

func TestEventsForPeople(t *testing.T) {
	for name, c := range map[string]struct {
		channels []string
		before   func(*lab)
		after    func(*lab)
		want     []string
	}{
		"all went well": {
			before: func(l *lab) { l.plan(); l.begin(ops) },
			after:  func(l *lab) { l.end(ops, nil) },
			want:   []string{"Normal Sent Deliver: 1 channel accepted the message"},
		},
		"one of two is there": {
			channels: []string{"a", "b"},
			before:   func(l *lab) { l.plan() },
			after:    func(l *lab) { l.attempt("a", nil) },
		},
		"the second of two is there": {
			channels: []string{"a", "b"},
			before:   func(l *lab) { l.attempt("a", nil) },
			after:    func(l *lab) { l.attempt("b", nil) },
			want:     []string{"Normal Sent Deliver: 2 channels accepted the message"},
		},
		"first look": {before: func(*lab) {}, after: func(l *lab) { l.plan() }},
		"attempt begun": {
			before: func(l *lab) { l.plan() },
			after:  func(l *lab) { l.begin(ops) },
		},
		"one attempt failed": {
			before: func(l *lab) { l.plan(); l.begin(ops) },
			after:  func(l *lab) { l.end(ops, transient()) },
			want:   []string{"Warning DeliveryDelayed Deliver: ops: ServerError: receiver.example answered 503"},
		},
		"the same way again": {
			before: func(l *lab) { l.attempt(ops, transient()); l.pass(time.Minute); l.plan(); l.begin(ops) },
			after:  func(l *lab) { l.end(ops, transient()) },
		},
		"the next attempt begins": {
			before: func(l *lab) { l.attempt(ops, transient()); l.pass(time.Minute); l.plan() },
			after:  func(l *lab) { l.begin(ops) },
		},
		"another way": {
			before: func(l *lab) { l.attempt(ops, transient()); l.pass(time.Minute); l.plan(); l.begin(ops) },
			after:  func(l *lab) { l.end(ops, refused()) },
			want:   []string{"Warning DeliveryDelayed Deliver: ops: Unauthorized: receiver.example answered 401"},
		},
		"the end of it": {
			before: func(l *lab) { l.plan(); l.begin(ops) },
			after:  func(l *lab) { l.end(ops, permanent()) },
			want:   []string{"Warning DeliveryFailed Deliver: ops: BadRequest: receiver.example answered 400"},
		},
		"each trouble has its own": {
			channels: []string{"a", "b", "c"},
			before:   func(l *lab) { l.attempt("c", nil) },
			after: func(l *lab) {
				l.attempt("a", permanent())
				l.attempt("b", transient())
			},
			want: []string{
				"Warning DeliveryFailed Deliver: a: BadRequest: receiver.example answered 400",
				"Warning DeliveryDelayed Deliver: b: ServerError: receiver.example answered 503",
			},
		},
		"blocked": {
			before: func(l *lab) { l.plan() },
			after:  func(l *lab) { l.block(ops, "ChannelNotFound", "there is none"); l.plan() },
			want:   []string{"Warning DeliveryDelayed Deliver: ops: ChannelNotFound: there is none"},
		},
		"still blocked": {
			before: func(l *lab) { l.block(ops, "ChannelNotFound", "there is none"); l.plan() },
			after:  func(l *lab) { l.pass(time.Hour); l.plan() },
		},
		"no longer blocked": {
			before: func(l *lab) {
				l.attempt(ops, transient())
				l.pass(time.Minute)
				l.block(ops, "ChannelNotFound", "there is none")
				l.plan()
			},
			after: func(l *lab) { l.channels[ops] = webhook(); l.plan(); l.begin(ops) },
		},
		"in doubt and held": {
			before: func(l *lab) { l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold; l.plan(); l.begin(ops) },
			after:  func(l *lab) { l.end(ops, unanswered()) },
			want:   []string{"Warning DeliveryAmbiguous Deliver: ops: in doubt and held: receiver.example: timed out after the message was written"},
		},
		"deadline of a request that was never sent": {
			before: func(l *lab) { l.nr.Spec.Suspend = new(true); l.plan() },
			after:  func(l *lab) { l.pass(48 * time.Hour); l.plan() },
			want:   []string{"Warning DeliveryFailed Deliver: ops: DeadlineExceeded: the message was not sent within the deadline of 24h"},
		},
		"recorded": {
			before: func(l *lab) { l.attempt(ops, nil) },
			after:  func(l *lab) { l.record(); l.plan() },
		},
		"rejected": {
			before: func(l *lab) { l.attempt(ops, nil) },
			after:  func(l *lab) { l.reject(); l.plan() },
			want: []string{"Warning AuditRejected Audit: DataStorage rejected 1 event: no; " +
				"it stays in the dead-letter queue and is offered again every 10 minutes and after a restart"},
		},
		"several rejected": {
			before: func(l *lab) { l.attempt(ops, permanent()) },
			after:  func(l *lab) { l.reject(); l.plan() },
			want: []string{"Warning AuditRejected Audit: DataStorage rejected 2 events, one of them: no; " +
				"they stay in the dead-letter queue and are offered again every 10 minutes and after a restart"},
		},
		"one rejected as another is recorded at last": {
			channels: []string{"a", "b"},
			before:   func(l *lab) { l.attempt("a", nil); l.reject(); l.plan(); l.attempt("b", nil) },
			after: func(l *lab) {
				l.answer(l.delivery("a").Audit.EventID, true)
				l.answer(l.delivery("b").Audit.EventID, false)
				l.plan()
			},
			want: []string{"Warning AuditRejected Audit: DataStorage rejected 1 event: no; " +
				"it stays in the dead-letter queue and is offered again every 10 minutes and after a restart"},
		},
		"rejected again": {
			before: func(l *lab) { l.attempt(ops, nil); l.reject(); l.plan() },
			after:  func(l *lab) { l.pass(10 * time.Minute); l.answer(l.delivery(ops).Audit.EventID, false); l.plan() },
		},
		"recorded at last": {
			before: func(l *lab) { l.attempt(ops, nil); l.reject(); l.plan() },
			after:  func(l *lab) { l.answer(l.delivery(ops).Audit.EventID, true); l.plan() },
		},
		"nothing changed": {
			before: func(l *lab) { l.attempt(ops, permanent()); l.reject(); l.plan() },
			after:  func(l *lab) { l.pass(time.Hour); l.plan() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if c.channels != nil {
				l = newLab(t, withChannels(c.channels...))
			}
			c.before(l)
			summarize(l.nr, l.now)
			before := l.nr.Status.DeepCopy()
			c.after(l)
			summarize(l.nr, l.now)
			var got []string
			for _, n := range notes(before, &l.nr.Status) {
				got = append(got, fmt.Sprintf("%s %s %s: %s", n.kind, n.reason, n.action, n.text))
			}
			equal(t, "events", got, c.want)
			equal(t, "events of no change", len(notes(&l.nr.Status, &l.nr.Status)), 0)
		})
	}
}

func TestTruncate(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"0123456789", 10, "0123456789"},
		{"01234567890", 10, "0123456..."},
		{"ßßßßß", 10, "ßßßßß"},
		{"ßßßßßß", 10, "ßßß..."},
		{strings.Repeat("\U0001f4a3", 3), 10, "\U0001f4a3..."},
		{strings.Repeat("\U0001f4a3", 3), 6, "..."},
	} {
		equal(t, "truncated", truncate(c.text, c.limit), c.want)
	}
}
