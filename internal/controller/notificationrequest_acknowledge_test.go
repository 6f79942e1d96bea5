package controller

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

const pager = "pager"

// asking has a request ask for an acknowledgement within 15 minutes, or go to
// these channels.
func asking(escalateTo ...string) func(*v1alpha1.NotificationRequest) {
	return func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Acknowledge = v1alpha1.Acknowledge{Required: new(true), Within: "15m"}
		for _, name := range escalateTo {
			nr.Spec.Acknowledge.EscalateTo = append(nr.Spec.Acknowledge.EscalateTo, v1alpha1.ChannelReference{Name: name})
		}
	}
}

// press acknowledges as the server does.
func press(nr *v1alpha1.NotificationRequest, by string, at time.Time) {
	nr.Status.Acknowledgement = v1alpha1.Acknowledgement{
		Time: micro(at), Channel: ops, By: by,
		Audit: pending(audit.TypeMessageAcknowledged, string(nr.UID)),
	}
}

// askingLab is a lab where messages carry links and the request asks.
func askingLab(t *testing.T, change ...func(*v1alpha1.NotificationRequest)) *lab {
	t.Helper()
	l := newLab(t, append([]func(*v1alpha1.NotificationRequest){asking(pager)}, change...)...)
	l.links = true
	l.channels[pager] = webhook()
	return l
}

// acknowledgedCondition is the condition as it is now.
func (l *lab) acknowledgedCondition() *metav1.Condition {
	summarize(l.nr, l.now)
	setAcknowledged(l.nr, l.links, l.now)
	return meta.FindStatusCondition(l.nr.Status.Conditions, v1alpha1.ConditionAcknowledged)
}

func (l *lab) isAcknowledged(status metav1.ConditionStatus, reason, message string) {
	l.t.Helper()
	c := l.acknowledgedCondition()
	equal(l.t, "condition", []string{string(c.Status), c.Reason, c.Message}, []string{string(status), reason, message})
}

func (l *lab) isOpen(open bool) {
	l.t.Helper()
	equal(l.t, "open", l.nr.Status.FinishedTime == nil, open)
}

func TestARequestIsOpenUntilSomebodyAcknowledges(t *testing.T) {
	l := askingLab(t)
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonWaiting, "the time to acknowledge, 15m, begins when the message is sent")
	d := l.attempt(ops, nil)
	l.isOpen(true)
	equal(t, "wait", d.wait, 15*time.Minute)
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonWaiting, "waits until 2026-03-01T10:15:02Z for somebody to acknowledge the message, then it goes to pager")
	ready := meta.FindStatusCondition(l.nr.Status.Conditions, v1alpha1.ConditionReady)
	equal(t, "ready", ready.Reason, v1alpha1.ReasonSent)
	equal(t, "reconciling", meta.FindStatusCondition(l.nr.Status.Conditions, v1alpha1.ConditionReconciling), nil)
	equal(t, "stalled", meta.FindStatusCondition(l.nr.Status.Conditions, v1alpha1.ConditionStalled), nil)

	l.pass(time.Minute)
	press(l.nr, "Ada", l.now)
	equal(t, "wait", l.plan().wait, 0)
	l.isOpen(false)
	equal(t, "finished", l.nr.Status.FinishedTime.Time, l.now)
	l.isAcknowledged(metav1.ConditionTrue, v1alpha1.ReasonAcknowledged, `"Ada" (as typed, not verified) acknowledged the message through ops at 2026-03-01T10:01:02Z`)
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageSent, audit.TypeMessageAcknowledged})
	equal(t, "settled", settled(l.nr), false)
	equal(t, "noticed", acknowledged.Update(event.UpdateEvent{ObjectOld: newRequest(), ObjectNew: l.nr}), true)
	equal(t, "noticed twice", acknowledged.Update(event.UpdateEvent{ObjectOld: l.nr, ObjectNew: l.nr}), false)
	l.record()
	l.plan()
	equal(t, "settled", settled(l.nr), true)
	equal(t, "event", l.nr.Status.Acknowledgement.Audit.State, v1alpha1.AuditRecorded)
	l.pass(48 * time.Hour)
	l.plan()
	equal(t, "escalated", l.nr.Status.Escalation.Time, nil)
}

func TestUnansweredMessageIsEscalatedOnce(t *testing.T) {
	l := askingLab(t)
	l.pass(l.attempt(ops, nil).wait - time.Microsecond)
	l.plan()
	equal(t, "escalated too early", l.nr.Status.Escalation.Time, nil)
	l.pass(time.Microsecond)
	equal(t, "due", l.plan().due, []string{pager})
	at := l.now
	equal(t, "escalation", l.nr.Status.Escalation, v1alpha1.Escalation{
		DueTime: micro(at), Time: micro(at), Reason: v1alpha1.EscalationUnanswered, Channels: []string{pager},
		Audit: pending(audit.TypeMessageEscalated, string(l.nr.UID)),
	})
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonEscalated, "nobody acknowledged the message within 15m: escalated to pager at 2026-03-01T10:15:02Z")
	l.begin(pager)
	d := l.end(pager, nil)
	l.isOpen(true)
	equal(t, "looked at again when the last link expires", l.now.Add(d.wait), at.Add(24*time.Hour+15*time.Minute))
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageSent, audit.TypeMessageSent, audit.TypeMessageEscalated})
	l.record()
	l.plan()
	l.pass(d.wait - time.Second)
	press(l.nr, "", l.now)
	l.plan()
	l.isOpen(false)
	l.isAcknowledged(metav1.ConditionTrue, v1alpha1.ReasonAcknowledged, "somebody who gave no name acknowledged the message through ops at 2026-03-02T10:30:01Z")
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageAcknowledged})
}

func TestARequestThatNobodyAcknowledgesEnds(t *testing.T) {
	l := askingLab(t)
	l.pass(l.attempt(ops, nil).wait)
	d := l.attempt(pager, nil)
	l.pass(d.wait)
	l.plan()
	l.isOpen(false)
	equal(t, "finished when the last link expired", l.nr.Status.FinishedTime.Time, l.now)
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonUnanswered, "nobody acknowledged the message, which was escalated to pager at 2026-03-01T10:15:02Z")

	// Late, but it happened.
	press(l.nr, "Ada", l.now.Add(time.Second))
	l.record()
	l.plan()
	equal(t, "settled", settled(l.nr), true)
	equal(t, "condition", l.acknowledgedCondition().Status, metav1.ConditionTrue)
}

func TestWithoutFurtherChannelsNothingIsEscalated(t *testing.T) {
	l := askingLab(t, asking())
	l.pass(l.attempt(ops, nil).wait)
	d := l.plan()
	l.isOpen(true)
	equal(t, "escalation", l.nr.Status.Escalation, v1alpha1.Escalation{DueTime: micro(l.now)})
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonUnanswered, "nobody acknowledged the message within 15m")
	l.pass(d.wait)
	l.plan()
	l.isOpen(false)
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageSent})
}

func TestAMessageThatReachesNobodyIsEscalatedAtOnce(t *testing.T) {
	l := askingLab(t, withChannels(ops, "mail"))
	l.attempt(ops, permanent())
	equal(t, "escalated while a channel is left", l.nr.Status.Escalation.Time, nil)
	d := l.attempt("mail", permanent())
	equal(t, "reason", l.nr.Status.Escalation.Reason, v1alpha1.EscalationNotReached)
	equal(t, "due", d.due, []string{pager})
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonEscalated, "no channel had accepted the message: escalated to pager at 2026-03-01T10:00:03Z")
	l.begin(pager)
	l.end(pager, permanent())
	l.isOpen(false)
	equal(t, "events of the escalation", len(slices.DeleteFunc(eventTypes(l.nr), func(s string) bool { return s != audit.TypeMessageEscalated })), 1)
}

func TestAChannelThatHangsDoesNotHoldUpTheEscalation(t *testing.T) {
	for name, stick := range map[string]func(l *lab){
		"an attempt that does not end": func(l *lab) { l.plan(); l.begin("mail") },
		"a Secret that is missing": func(l *lab) {
			ch := l.channels["mail"]
			ch.blocked = blocked(v1alpha1.ReasonSecretNotFound, "it is missing")
			l.channels["mail"] = ch
			l.plan()
		},
		"an attempt that is held in doubt": func(l *lab) { l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold; l.attempt("mail", unanswered()) },
	} {
		t.Run("beside one that accepts: "+name, func(t *testing.T) {
			l := askingLab(t, withChannels(ops, "mail"))
			l.attempt(ops, nil)
			stick(l)
			l.pass(15 * time.Minute)
			equal(t, "due", slices.Contains(l.plan().due, pager), true)
			equal(t, "reason", l.nr.Status.Escalation.Reason, v1alpha1.EscalationUnanswered)
		})
		t.Run("alone: "+name, func(t *testing.T) {
			l := askingLab(t, withChannels("mail"))
			stick(l)
			l.pass(15 * time.Minute)
			equal(t, "due", slices.Contains(l.plan().due, pager), true)
			equal(t, "reason", l.nr.Status.Escalation.Reason, v1alpha1.EscalationNotReached)
		})
	}
}

func TestTheTimeToAcknowledgeDoesNotBeginBeforeTheMessageMayBeSent(t *testing.T) {
	later := metav1.NewTime(born.Add(2 * time.Hour))
	for name, c := range map[string]struct {
		change  func(*v1alpha1.NotificationRequest)
		release func(*v1alpha1.NotificationRequest)
	}{
		"suspended": {func(nr *v1alpha1.NotificationRequest) { nr.Spec.Suspend = new(true) }, func(nr *v1alpha1.NotificationRequest) { nr.Spec.Suspend = nil }},
		"notBefore": {func(nr *v1alpha1.NotificationRequest) { nr.Spec.NotBefore = &later }, func(*v1alpha1.NotificationRequest) {}},
		"quiet hours": {func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.Channels = nil
			nr.Status.RoutedChannels = []v1alpha1.RoutedChannel{{Name: ops, QuietUntil: &later}}
		}, func(*v1alpha1.NotificationRequest) {}},
	} {
		t.Run(name, func(t *testing.T) {
			l := askingLab(t, c.change)
			l.channels[ops] = webhook()
			l.plan()
			l.pass(2*time.Hour - 2*time.Second)
			l.plan()
			equal(t, "due time", l.nr.Status.Escalation.DueTime, nil)
			l.pass(time.Second)
			c.release(l.nr)
			equal(t, "due", l.plan().due, []string{ops})
			equal(t, "due time", l.nr.Status.Escalation.DueTime.Time, l.now.Add(15*time.Minute))
		})
	}
}

func TestAnAcknowledgedMessageIsNotEscalatedWhileOthersAreStillSent(t *testing.T) {
	l := askingLab(t, withChannels(ops, "mail"))
	l.attempt(ops, nil)
	l.attempt("mail", transient())
	press(l.nr, "Ada", l.now)
	l.pass(time.Hour)
	equal(t, "due", l.plan().due, []string{"mail"})
	equal(t, "escalated", l.nr.Status.Escalation.Time, nil)
}

// An attempt that began before the deadline may end after it.
func TestWhatIsSentAfterItsDeadlineIsWaitedForWithoutALoop(t *testing.T) {
	l := askingLab(t, withDeadline("15m"))
	l.plan()
	l.begin(ops)
	l.pass(40 * time.Minute)
	equal(t, "wait", l.end(ops, nil).wait, 15*time.Minute)
}

func TestTheControllerFindsTheChannelsOfAnEscalation(t *testing.T) {
	refuses, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	accepts, received := receiver(t, accept)
	accepts.Name = pager
	b := newBench(t, newRequest(withChannels(refuses.Name), asking(pager)), refuses, accepts)
	b.AcknowledgeLink = link
	b.mustLook()
	b.ended()
	b.ended()
	equal(t, "received", received.Load(), 1)
	equal(t, "reason", b.stored().Status.Escalation.Reason, v1alpha1.EscalationNotReached)
	equal(t, "indexed", waitingFor(b.stored()), []string{"shop/" + refuses.Name, "shop/" + pager})
	if told := strings.Join(b.told(), "\n"); !strings.Contains(told, "Escalated NotReached: sent on to pager") {
		t.Errorf("Events are %s", told)
	}
}

func TestEscalationHasTheWholeDeadline(t *testing.T) {
	l := askingLab(t, withDeadline("15m"))
	l.pass(l.attempt(ops, nil).wait)
	l.plan()
	equal(t, "deadline", deadlineOf(l.nr, pager), l.now.Add(15*time.Minute))
	equal(t, "deadline of the first", deadlineOf(l.nr, ops), born.Add(15*time.Minute))
}

func TestADeletedRequestAsksNobody(t *testing.T) {
	l := askingLab(t)
	l.attempt(ops, nil)
	l.pass(time.Hour)
	l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
	l.plan()
	l.isOpen(false)
	equal(t, "escalated", l.nr.Status.Escalation.Time, nil)
	equal(t, "events", eventTypes(l.nr), []string{audit.TypeMessageSent, audit.TypeRequestCancelled})
	equal(t, "reason", l.acknowledgedCondition().Reason, v1alpha1.ReasonCancelled)
}

func TestADeletedRequestIsNotEscalatedWhileAnAttemptIsWaitedFor(t *testing.T) {
	l := askingLab(t, withChannels(ops, "mail"))
	l.attempt(ops, nil)
	l.begin("mail")
	l.pass(time.Hour)
	l.nr.DeletionTimestamp = new(metav1.NewTime(l.now))
	l.plan()
	equal(t, "escalated", l.nr.Status.Escalation.Time, nil)
}

func TestASuppressedRequestAsksNobody(t *testing.T) {
	l := askingLab(t)
	l.nr.Status.DuplicateOf = v1alpha1.Duplicate{
		Name: "other", UID: "u", SuppressedTime: micro(l.now), Audit: pending(audit.TypeMessageSuppressed, string(l.nr.UID)),
	}
	l.plan()
	l.isOpen(false)
	equal(t, "escalation", l.nr.Status.Escalation, v1alpha1.Escalation{})
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonSuppressed, "the message was not sent, so nobody is asked: see the request other")
}

// Without links nothing is lost: the message goes out, and on to others in time.
func TestWithoutLinksTheMessageIsEscalatedAllTheSame(t *testing.T) {
	l := askingLab(t)
	l.links = false
	d := l.attempt(ops, nil)
	l.isOpen(true)
	l.isAcknowledged(metav1.ConditionFalse, v1alpha1.ReasonNotConfigured, "no message carries a link to acknowledge it by, because the manager runs without --acknowledge-url: "+
		"see docs/acknowledge.md; waits until 2026-03-01T10:15:02Z for somebody to acknowledge the message, then it goes to pager")
	l.pass(d.wait)
	l.attempt(pager, nil)
	l.isOpen(false)
	equal(t, "reason", l.acknowledgedCondition().Reason, v1alpha1.ReasonUnanswered)
}

// The console is a log, so nobody who reads it has a link.
func TestTheConsoleAloneIsWaitedForByNobody(t *testing.T) {
	l := askingLab(t, withChannels(v1alpha1.ConsoleChannel), asking())
	l.attempt(v1alpha1.ConsoleChannel, nil)
	l.isOpen(false)
}

func TestAChannelThatHasTheMessageGetsItNoSecondTime(t *testing.T) {
	l := askingLab(t, asking(ops, pager), func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Channels = nil
		nr.Status.RoutedChannels = []v1alpha1.RoutedChannel{{Name: ops}}
	})
	l.channels[ops] = webhook()
	l.pass(l.attempt(ops, nil).wait)
	equal(t, "due", l.plan().due, []string{pager})
	equal(t, "channels", l.nr.Status.Escalation.Channels, []string{pager})
	equal(t, "refs", channelNames(allRefs(l.nr)), []string{ops, pager})
}

// Whoever comes first wins, whatever process leads: both decide on status alone.
func TestAfterARestartTheSameIsDecided(t *testing.T) {
	for name, prepare := range map[string]func(*lab){
		"before the first look": func(*lab) {},
		"sent":                  func(l *lab) { l.attempt(ops, nil) },
		"due":                   func(l *lab) { l.attempt(ops, nil); l.pass(time.Hour) },
		"escalated":             func(l *lab) { l.attempt(ops, nil); l.pass(time.Hour); l.plan() },
		"acknowledged":          func(l *lab) { l.attempt(ops, nil); press(l.nr, "Ada", l.now) },
		"both":                  func(l *lab) { l.attempt(ops, nil); l.pass(time.Hour); l.plan(); press(l.nr, "Ada", l.now) },
	} {
		t.Run(name, func(t *testing.T) {
			l := askingLab(t)
			prepare(l)
			other := &lab{t: t, nr: l.nr.DeepCopy(), planner: l.planner}
			other.crash()
			equal(t, "due", other.plan().due, l.plan().due)
			equal(t, "status", other.nr.Status, l.nr.Status)
		})
	}
}

func TestEventsSayWhoAcknowledgedAndWhereAMessageWentOn(t *testing.T) {
	l := askingLab(t)
	l.pass(l.attempt(ops, nil).wait)
	l.plan()
	press(l.nr, "Ada <b>", l.now.Add(1500*time.Microsecond))
	all := map[string]audit.Event{}
	for _, e := range pendingEvents(l.nr, false) {
		all[e.EventType] = e
	}
	for kind, want := range map[string]map[string]any{
		audit.TypeMessageAcknowledged: {"channel": ops, "acknowledged_by": "Ada <b>", "acknowledged_at": "2026-03-01T10:15:02.0015Z"},
		audit.TypeMessageEscalated:    {"escalated_to": []any{pager}, "escalation_reason": "Unanswered"},
	} {
		e := all[kind]
		equal(t, kind, []string{e.EventID.String(), e.EventOutcome, e.EventTimestamp.Format(time.RFC3339Nano)}, []string{
			audit.EventID(kind, string(l.nr.UID)).String(), audit.OutcomeSuccess,
			map[string]string{audit.TypeMessageAcknowledged: "2026-03-01T10:15:02.0015Z", audit.TypeMessageEscalated: "2026-03-01T10:15:02Z"}[kind],
		})
		var data map[string]any
		if err := json.Unmarshal(e.EventData, &data); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			equal(t, key, data[key], value)
		}
	}
}

func TestEventsOfAnAcknowledgementAreToldOnce(t *testing.T) {
	l := askingLab(t)
	l.attempt(ops, nil)
	l.acknowledgedCondition()
	before := l.nr.Status.DeepCopy()
	press(l.nr, "Ada", l.now)
	pressed := l.nr.Status.DeepCopy() // as the controller reads it
	l.plan()
	l.acknowledgedCondition()
	told := notes(pressed, &l.nr.Status)
	equal(t, "notes", len(told), 1)
	equal(t, "note", []string{told[0].kind, told[0].reason, told[0].text}, []string{"Normal", "Acknowledged", `"Ada" (as typed, not verified) acknowledged the message through ops`})
	equal(t, "notes of the next step", len(notes(&l.nr.Status, l.nr.Status.DeepCopy())), 0)
	equal(t, "notes while nobody had", len(notes(before, before)), 0)
}

// link is what asks in a bench.
func link(nr *v1alpha1.NotificationRequest, channel string, until time.Time) string {
	return "https://ack.example/acknowledge/token-of-" + nr.Name + "-" + channel + "-" + until.UTC().Format("20060102T150405Z")
}

func TestEachChannelHasItsOwnLinkFirstAndTheConsoleNone(t *testing.T) {
	r := &NotificationRequestReconciler{AcknowledgeLink: link}
	nr := newRequest(asking(pager), func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Links = []v1alpha1.Link{{Label: "Runbook", URL: "https://runbook.example"}}
	})
	nr.Status.Escalation = v1alpha1.Escalation{Time: micro(born.Add(time.Hour)), Channels: []string{pager}, Reason: v1alpha1.EscalationUnanswered}
	get := func(channel string, attempt int32) *delivery.Message {
		m := message(nr, channel, attempt)
		r.ask(nr, m)
		m.Attempt = 0
		return m
	}
	runbook := delivery.Link{Label: "Runbook", URL: "https://runbook.example"}
	equal(t, "links", get(ops, 1).Links, []delivery.Link{{Label: "Acknowledge", URL: "https://ack.example/acknowledge/token-of-order-7-ops-20260302T101500Z"}, runbook})
	equal(t, "links of the escalation", get(pager, 1).Links, []delivery.Link{{Label: "Acknowledge", URL: "https://ack.example/acknowledge/token-of-order-7-pager-20260302T111500Z"}, runbook})
	equal(t, "links of the console", get(v1alpha1.ConsoleChannel, 1).Links, []delivery.Link{runbook})
	equal(t, "another attempt", get(pager, 2), get(pager, 1))
	equal(t, "fields", get(ops, 1).Fields, nil)
	equal(t, "fields of the escalation", get(pager, 1).Fields, map[string]string{"Escalated": "nobody acknowledged this within 15m"})
	nr.Spec.Fields = map[string]v1alpha1.FieldValue{"Escalated": "mine"}
	equal(t, "a field of the user's", get(pager, 1).Fields["Escalated"], "mine")
	nr.Spec.Acknowledge = v1alpha1.Acknowledge{}
	equal(t, "links of a request that does not ask", get(ops, 1).Links, []delivery.Link{runbook})
}

// A receiver that quotes what it got, whole or cut, puts no link into status.
func TestALinkThatAReceiverQuotesIsNotKept(t *testing.T) {
	token := link(newRequest(), ops, born)
	token = token[strings.LastIndexByte(token, '/')+1:]
	for quoted, want := range map[string]string{
		"no: " + token + " is bad":                  "no: [link] is bad",
		`{"url":"https:\/\/x\/` + token + `"}`:      `{"url":"https:\/\/x\/[link]"}`,
		"cut: " + token[:20]:                        "cut: [link]",
		token + token:                               "[link][link]",
		"nothing of the kind":                       "nothing of the kind",
		"too short to be of use: " + token[:15]:     "too short to be of use: " + token[:15],
		"another end: " + token[:18] + "-elsewhere": "another end: [link]-elsewhere",
	} {
		equal(t, quoted, hideToken(quoted, token), want)
	}
	object, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		var m struct{ Links []delivery.Link }
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"error": "I do not like " + m.Links[0].URL})
	})
	b := newBench(t, newRequest(withChannels(object.Name), asking()), object)
	b.AcknowledgeLink = link
	b.send()
	raw, err := json.Marshal(b.stored().Status)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(raw); strings.Contains(text, "token-of") || !strings.Contains(text, "I do not like https://ack.example/acknowledge/[link]") {
		t.Errorf("status has the link, or not what the receiver said: %s", text)
	}
}
