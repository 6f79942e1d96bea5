package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// dup has a request wait for another.
func dup(nr *v1alpha1.NotificationRequest) {
	nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"}
	nr.Status.DuplicateOf = v1alpha1.Duplicate{Name: "a", UID: "uid-of-a"}
}

func quietPager(until time.Time) []v1alpha1.RoutedChannel {
	return []v1alpha1.RoutedChannel{{Name: ops, QuietUntil: new(metav1.NewTime(until))}}
}

func TestACriticalRequestDoesNotWaitForOneThatQuietHoursHold(t *testing.T) {
	o := newRequest(withChannels())
	o.Name, o.UID = "o", "uid-o"
	o.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"}
	o.Status.RoutedChannels = quietPager(born.Add(9 * time.Hour))
	p := planner{channels: map[string]channel{ops: webhook()}, now: born.Add(time.Second), jitter: longest}
	p.plan(o)
	d := newRequest(withChannels())
	d.Spec.Priority = "Critical"
	d.Spec.Dedup = o.Spec.Dedup
	if got := duplicateOf(d, []v1alpha1.NotificationRequest{*o}, p.now); got.Name != "" {
		t.Errorf("Critical waits for %+v, quiet until %s", got, quietUntil(o, ops))
	}
}

func TestARequestThatWaitsForAnotherEscalatesNothing(t *testing.T) {
	l := askingLab(t, dup)
	l.plan()
	l.now = born.Add(24 * time.Hour)
	if d := l.plan(); slices.Contains(d.due, pager) {
		t.Errorf("duplicate that was never tried escalates: due %v, reason %s", d.due, l.nr.Status.Escalation.Reason)
	}
}

func TestNothingIsKeptOfARequestThatWaitsNoMore(t *testing.T) {
	o := newRequest()
	o.Name, o.UID = "o", "uid-o"
	o.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"}
	o.CreationTimestamp = metav1.NewTime(time.Now())
	o.Status.Deliveries = []v1alpha1.Delivery{{Channel: ops, State: v1alpha1.DeliverySent}}
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(o).
		WithIndex(&v1alpha1.NotificationRequest{}, originalIndex, requestIndices[originalIndex]).Build()
	r := &NotificationRequestReconciler{Client: c}
	d := newRequest()
	d.CreationTimestamp = o.CreationTimestamp
	d.Spec.Dedup = o.Spec.Dedup
	if err := r.deduplicate(t.Context(), d, time.Now()); err != nil {
		t.Fatal(err)
	}
	equal(t, "suppressed", d.Status.DuplicateOf.SuppressedTime != nil, true)
	r.wakeDuplicates(d)
	if n := len(r.dedup.waiting); n > 0 {
		t.Errorf("%d groups kept for ever", n)
	}
}

func TestAMessageThatWasAcknowledgedThroughAChannelHasArrivedThere(t *testing.T) {
	l := askingLab(t)
	l.attempt(ops, &delivery.Error{Class: delivery.Ambiguous, Reason: "Timeout", Message: "no answer", MaybeDelivered: true})
	press(l.nr, "Ada", l.now) // through ops
	l.pass(time.Minute)
	if d := l.plan(); len(d.due) > 0 {
		t.Errorf("acknowledged through %s, and sent there again: %v", l.nr.Status.Acknowledgement.Channel, d.due)
	}
}

func TestAnEscalationEndsTheQuietHoursOfItsChannels(t *testing.T) {
	l := askingLab(t, withChannels())
	l.channels[ops] = webhook()
	l.nr.Status.RoutedChannels = []v1alpha1.RoutedChannel{{Name: ops}, {Name: pager, QuietUntil: new(metav1.NewTime(born.Add(9 * time.Hour)))}}
	l.attempt(ops, nil)
	l.pass(16 * time.Minute)
	if d := l.plan(); !slices.Contains(d.due, pager) {
		t.Errorf("unanswered for 16m, not escalated: %+v; pager %+v", l.nr.Status.Escalation, l.delivery(pager).LastError)
	}
}

func TestNobodyIsCalledOnceSomebodyHasAcknowledged(t *testing.T) {
	l := askingLab(t)
	l.pass(l.attempt(ops, nil).wait)
	l.plan() // escalated, pager postponed
	postpone(l.delivery(pager), waitFor(reasonRateLimit, v1alpha1.ErrorTransient, l.now.Add(time.Hour), "x").err, l.now.Add(time.Hour))
	press(l.nr, "Ada", l.now)
	l.pass(time.Hour)
	if d := l.plan(); slices.Contains(d.due, pager) {
		t.Errorf("paged an hour after Ada acknowledged")
	}
	d := l.delivery(pager)
	equal(t, "state", string(d.State)+" "+d.LastError.Reason, "Skipped Acknowledged")
	equal(t, "event", d.Audit.EventID, audit.EventID(audit.TypeMessageFailed, string(l.nr.UID), pager).String())
	summarize(l.nr, l.now)
	equal(t, "summary", []int32{*l.nr.Status.Summary.Sent, *l.nr.Status.Summary.Failed, *l.nr.Status.Summary.Pending}, []int32{1, 0, 0})
	ready := meta.FindStatusCondition(l.nr.Status.Conditions, v1alpha1.ConditionReady)
	equal(t, "ready", ready.Reason+": "+ready.Message, "Sent: 1 channel accepted the message")
}

func TestMaskedCorrelationIDsJoinNoIncidents(t *testing.T) {
	a, b := newRequest(), newRequest()
	a.Spec.CorrelationID = "deploy/token=Zx81hQ0pLm3vB7tK"
	b.Spec.CorrelationID = "deploy/token=qW9eR2tY6uI0oP4a"
	b.UID = "uid-of-b"
	mask(&a.Spec)
	mask(&b.Spec)
	if correlationID(a) == correlationID(b) {
		t.Errorf("two incidents are %s", correlationID(a))
	}
}

func TestWhatIsTakenAsSentAfterItsLinksHaveExpiredMakesNoLoop(t *testing.T) {
	l := askingLab(t, withPolicy(v1alpha1.AmbiguousAssumeSent))
	l.plan()
	l.begin(ops)
	l.crash()
	l.pass(30 * time.Hour)
	n := 0
	for n < 1000 && l.nr.Status.Escalation.Time == nil {
		l.pass(l.plan().wait)
		n++
	}
	if n > 5 {
		t.Errorf("%d looks in %s, due %s, last link expired %s", n, l.now.Sub(born)-30*time.Hour, l.nr.Status.Escalation.DueTime, lastExpiry(l.nr))
	}
}

func TestWhatIsAcceptedAMomentAfterItsDeadlineMakesNoLoop(t *testing.T) {
	l := askingLab(t, withDeadline("15m"))
	l.plan()
	l.now = born.Add(15*time.Minute - time.Millisecond)
	l.plan()
	l.begin(ops)
	l.pass(8 * time.Second)
	l.end(ops, nil)
	l.pass(l.plan().wait) // to lastExpiry
	n := 0
	from := l.now
	for n < 1000 && l.nr.Status.Escalation.Time == nil {
		l.pass(l.plan().wait)
		n++
	}
	if n > 5 {
		t.Errorf("%d looks in %s", n, l.now.Sub(from))
	}
}

func TestARequestWaitsForNoneThatEndsTooLateForIt(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.NotificationRequest){
		"suspended":           func(nr *v1alpha1.NotificationRequest) { nr.Spec.Suspend = new(true) },
		"has longer":          func(nr *v1alpha1.NotificationRequest) { nr.Spec.Deadline = "72h" },
		"may be sent in time": func(*v1alpha1.NotificationRequest) {},
	} {
		t.Run(name, func(t *testing.T) {
			o := newRequest(change)
			o.Name, o.UID = "a", "uid-of-a"
			p := planner{channels: map[string]channel{ops: webhook()}, now: born.Add(time.Second), jitter: longest}
			p.plan(o)
			nr := newRequest(dup)
			equal(t, "waits", duplicateOf(nr, []v1alpha1.NotificationRequest{*o}, p.now).Name != "", name == "may be sent in time")
		})
	}
}

func TestARequestThatOnlyTheConsoleAcceptedSaysThatNobodyWasAsked(t *testing.T) {
	l := askingLab(t, withChannels(v1alpha1.ConsoleChannel), func(nr *v1alpha1.NotificationRequest) { nr.Spec.Acknowledge.EscalateTo = nil })
	l.channels[v1alpha1.ConsoleChannel] = channel{kind: v1alpha1.ChannelConsole, idempotent: true, timeout: consoleTimeout}
	l.attempt(v1alpha1.ConsoleChannel, nil)
	equal(t, "finished", l.nr.Status.FinishedTime != nil, true)
	c := l.acknowledgedCondition()
	equal(t, "condition", string(c.Status)+" "+c.Reason, "False NotAsked")
}

func TestThePageOfALinkShowsNoSecretOfTheSubject(t *testing.T) {
	secret := "ghp_" + strings.Repeat("a1B2", 9)
	nr := newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Spec.Subject = "rotate " + secret })
	r := &NotificationRequestReconciler{}
	if got := r.AskedSubject(nr); strings.Contains(got, secret) || !strings.HasPrefix(got, "rotate ") {
		t.Errorf("the page shows %q", got)
	}
	equal(t, "the request itself", nr.Spec.Subject, "rotate "+secret)
}

func TestADryRunNamesTheTemplatesThatItCouldNotUse(t *testing.T) {
	c := newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Template = v1alpha1.MessageTemplate{Subject: "{{ .Sbject }}"}
	})
	b := newBench(t, newRequest(withChannels(ops), dryRun), c)
	b.mustLook()
	ready := meta.FindStatusCondition(b.stored().Status.Conditions, v1alpha1.ConditionReady)
	if ready.Reason != v1alpha1.ReasonDryRun || !strings.Contains(ready.Message, "without the template of ops: ") || !strings.Contains(ready.Message, "Sbject") {
		t.Errorf("Ready is %s: %s", ready.Reason, ready.Message)
	}
}
