package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// escalatedField is the fact that tells people that a message was escalated.
const escalatedField = "Escalated"

// noLinks is what a person has to do for messages to carry links.
const noLinks = "no message carries a link to acknowledge it by, because the manager runs without --acknowledge-url: see docs/acknowledge.md"

// acknowledged notices what the manager's server has written to status.
var acknowledged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*v1alpha1.NotificationRequest)
		after, also := e.ObjectNew.(*v1alpha1.NotificationRequest)
		return ok && also && before.Status.Acknowledgement.Time == nil && after.Status.Acknowledgement.Time != nil
	},
}

// asks reports whether a request asks for an acknowledgement. A duplicate that is
// not sent asks nobody, nor does a dry run.
func asks(nr *v1alpha1.NotificationRequest) bool {
	return nr.Spec.Acknowledge.Within != "" && nr.Status.DuplicateOf.SuppressedTime == nil && !isDryRun(nr)
}

// escalationRefs returns the channels that a request may be escalated to. A name
// stands for one delivery, so a channel that has one already is left out.
func escalationRefs(nr *v1alpha1.NotificationRequest) (refs []v1alpha1.ChannelReference) {
	first := channelRefs(nr)
	for _, ref := range nr.Spec.Acknowledge.EscalateTo {
		if !slices.ContainsFunc(first, func(c v1alpha1.ChannelReference) bool { return c.Name == ref.Name }) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// allRefs returns the channels that a request goes to or may be escalated to.
func allRefs(nr *v1alpha1.NotificationRequest) []v1alpha1.ChannelReference {
	return slices.Concat(channelRefs(nr), escalationRefs(nr))
}

func channelNames(refs []v1alpha1.ChannelReference) (names []string) {
	for _, ref := range refs {
		names = append(names, ref.Name)
	}
	return names
}

// linkExpiry is how long the link in the message to a channel is good for. Whoever
// gets the message in the last moment still has the time that the request grants.
func linkExpiry(nr *v1alpha1.NotificationRequest, channel string) time.Time {
	return deadlineOf(nr, channel).Add(nr.Spec.Acknowledge.Within.Value())
}

// lastExpiry is when the last link of a request expires.
func lastExpiry(nr *v1alpha1.NotificationRequest) (last time.Time) {
	for _, d := range nr.Status.Deliveries {
		if end := linkExpiry(nr, d.Channel); end.After(last) {
			last = end
		}
	}
	return last
}

// awaits reports whether a request whose deliveries have all ended is kept open,
// for its escalation or for a person.
func (p *planner) awaits(nr *v1alpha1.NotificationRequest) bool {
	if !asks(nr) || nr.Status.Acknowledgement.Time != nil || nr.Status.Cancellation.Time != nil {
		return false
	}
	if nr.Status.Escalation.Time == nil && len(escalationRefs(nr)) > 0 {
		return true
	}
	return p.linked(nr) && p.now.Before(lastExpiry(nr))
}

// linked reports whether a channel has accepted a message with a link.
func (p *planner) linked(nr *v1alpha1.NotificationRequest) bool {
	return p.links && asks(nr) && asked(nr)
}

// asked reports whether a channel that can carry a link has accepted the message.
func asked(nr *v1alpha1.NotificationRequest) bool {
	return slices.ContainsFunc(nr.Status.Deliveries, func(d v1alpha1.Delivery) bool {
		return d.State == v1alpha1.DeliverySent && d.Channel != v1alpha1.ConsoleChannel
	})
}

// escalate has a message that nobody acknowledges go to further channels, once, and
// has the request looked at when that or its end is due.
func (p *planner) escalate(nr *v1alpha1.NotificationRequest, d *decision) {
	e := &nr.Status.Escalation
	switch {
	case !asks(nr), nr.Status.Acknowledgement.Time != nil, nr.DeletionTimestamp != nil, nr.Status.FinishedTime != nil:
		return
	case over(&nr.Status) && !p.awaits(nr):
		return // it finishes now
	}
	if e.Time == nil {
		p.setDue(nr)
		reason, now := p.escalates(nr)
		refs, held := escalationRefs(nr), p.heldQuiet(nr)
		if now && len(refs)+len(held) > 0 {
			e.Time, e.Reason = micro(p.now), reason
			e.Audit = pending(audit.TypeMessageEscalated, string(nr.UID))
			for _, ref := range refs {
				nr.Status.Deliveries = append(nr.Status.Deliveries, v1alpha1.Delivery{Channel: ref.Name, State: v1alpha1.DeliveryPending})
				held = append(held, len(nr.Status.Deliveries)-1)
			}
			for _, i := range held {
				e.Channels = append(e.Channels, nr.Status.Deliveries[i].Channel)
				nr.Status.Deliveries[i].NextAttemptTime = nil
			}
			*d = decision{spent: d.spent}
			for i := range nr.Status.Deliveries {
				p.planDelivery(nr, &nr.Status.Deliveries[i], d)
			}
		}
	}
	if e.Time == nil && e.DueTime != nil && p.now.Before(e.DueTime.Time) {
		d.look(p.now, e.DueTime.Time)
	}
	// What was sent after its deadline may be due after its link has expired.
	if last := lastExpiry(nr); p.awaits(nr) && p.now.Before(last) {
		d.look(p.now, last)
	}
}

// heldQuiet returns the deliveries to channels of the escalation that were routed
// there at once and wait for the end of their quiet hours.
func (p *planner) heldQuiet(nr *v1alpha1.NotificationRequest) (indices []int) {
	for i, dl := range nr.Status.Deliveries {
		if dl.State == v1alpha1.DeliveryPending && p.now.Before(quietUntil(nr, dl.Channel)) &&
			slices.ContainsFunc(nr.Spec.Acknowledge.EscalateTo, func(ref v1alpha1.ChannelReference) bool { return ref.Name == dl.Channel }) {
			indices = append(indices, i)
		}
	}
	return indices
}

// settle has a delivery follow from an acknowledgement. Whoever had a channel's link
// had the message; and nobody is called any more once somebody has answered.
func (p *planner) settle(nr *v1alpha1.NotificationRequest, dl *v1alpha1.Delivery) {
	a := nr.Status.Acknowledgement
	switch {
	case a.Time == nil || dl.State.Final():
	case a.Channel == dl.Channel && dl.Attempts > 0:
		sent(nr, dl, a.Time.Time)
	case dl.Attempts == 0 && slices.Contains(nr.Status.Escalation.Channels, dl.Channel):
		end(nr, dl, v1alpha1.DeliveryError{
			Class: v1alpha1.ErrorCancelled, Reason: v1alpha1.ReasonAcknowledged,
			Message: "the message was acknowledged before it was escalated here",
		}, p.now)
	}
}

// spared reports whether a channel got no message because somebody had answered.
func spared(d *v1alpha1.Delivery) bool {
	return d.State == v1alpha1.DeliverySkipped && d.LastError.Reason == v1alpha1.ReasonAcknowledged
}

// setDue notes when the time to acknowledge is over: it runs from when the first
// channel accepted the message, and until one has from when one was first free to.
func (p *planner) setDue(nr *v1alpha1.NotificationRequest) {
	within := nr.Spec.Acknowledge.Within.Value()
	if first := firstSent(&nr.Status); first != nil {
		nr.Status.Escalation.DueTime = micro(first.Add(within))
		return
	}
	held := isTrue(nr.Spec.Suspend) || nr.Spec.NotBefore != nil && p.now.Before(nr.Spec.NotBefore.Time)
	if nr.Status.Escalation.DueTime == nil && !held && slices.ContainsFunc(nr.Status.Deliveries, func(d v1alpha1.Delivery) bool {
		return !p.now.Before(quietUntil(nr, d.Channel))
	}) {
		nr.Status.Escalation.DueTime = micro(p.now.Add(within))
	}
}

// escalates reports whether a request is to be escalated now, and why.
func (p *planner) escalates(nr *v1alpha1.NotificationRequest) (v1alpha1.EscalationReason, bool) {
	due := nr.Status.Escalation.DueTime
	isDue := due != nil && !p.now.Before(due.Time)
	if firstSent(&nr.Status) != nil {
		return v1alpha1.EscalationUnanswered, isDue
	}
	return v1alpha1.EscalationNotReached, isDue || over(&nr.Status)
}

// firstSent is when the first channel accepted the message, nil where none has.
func firstSent(status *v1alpha1.NotificationRequestStatus) (first *metav1.MicroTime) {
	for _, d := range status.Deliveries {
		if d.SentTime != nil && (first == nil || d.SentTime.Before(first)) {
			first = d.SentTime
		}
	}
	return first
}

// over reports whether a request is finished or waits for a person alone.
func over(status *v1alpha1.NotificationRequestStatus) bool {
	return status.FinishedTime != nil || len(status.Deliveries) > 0 &&
		!slices.ContainsFunc(status.Deliveries, func(d v1alpha1.Delivery) bool { return !d.State.Final() })
}

// setAcknowledged sets the condition of a request that asks for an acknowledgement.
func setAcknowledged(nr *v1alpha1.NotificationRequest, links bool, now time.Time) {
	if nr.Spec.Acknowledge.Within == "" || isDryRun(nr) {
		return
	}
	reason, message := acknowledgedness(nr, links, now)
	conditions{&nr.Status.Conditions, nr.Generation, now}.set(v1alpha1.ConditionAcknowledged, reason == v1alpha1.ReasonAcknowledged, reason, message)
}

// acknowledgedness says in a word and a sentence whether a person has acknowledged
// a request.
func acknowledgedness(nr *v1alpha1.NotificationRequest, links bool, now time.Time) (reason, message string) {
	a, e, within := nr.Status.Acknowledgement, nr.Status.Escalation, nr.Spec.Acknowledge.Within
	clock := func(t *metav1.MicroTime) string { return t.UTC().Format(time.RFC3339) }
	if a.Time != nil {
		return v1alpha1.ReasonAcknowledged, fmt.Sprintf("%s acknowledged the message through %s at %s", who(a.By), a.Channel, clock(a.Time))
	}
	next := ""
	if refs := escalationRefs(nr); len(refs) > 0 {
		next = ", then it goes to " + strings.Join(channelNames(refs), ", ")
	}
	suffix := ""
	if !links {
		suffix = "; " + noLinks
	}
	switch {
	case nr.Status.DuplicateOf.SuppressedTime != nil:
		return v1alpha1.ReasonSuppressed, fmt.Sprintf("the message was not sent, so nobody is asked: see the request %s", nr.Status.DuplicateOf.Name)
	case nr.Status.Cancellation.Time != nil:
		return v1alpha1.ReasonCancelled, "the request was deleted before anybody acknowledged the message"
	case nr.Status.FinishedTime != nil && links && !asked(nr):
		return v1alpha1.ReasonNotAsked, "nobody was asked: no channel that can carry a link has accepted the message, which the console cannot"
	case nr.Status.FinishedTime != nil && e.Time != nil:
		return v1alpha1.ReasonUnanswered, fmt.Sprintf("nobody acknowledged the message, which was escalated to %s at %s%s", strings.Join(e.Channels, ", "), clock(e.Time), suffix)
	case nr.Status.FinishedTime != nil:
		return v1alpha1.ReasonUnanswered, "nobody acknowledged the message" + suffix
	case e.Time != nil && e.Reason == v1alpha1.EscalationNotReached:
		return v1alpha1.ReasonEscalated, fmt.Sprintf("no channel had accepted the message: escalated to %s at %s%s", strings.Join(e.Channels, ", "), clock(e.Time), suffix)
	case e.Time != nil:
		return v1alpha1.ReasonEscalated, fmt.Sprintf("nobody acknowledged the message within %s: escalated to %s at %s%s", within, strings.Join(e.Channels, ", "), clock(e.Time), suffix)
	case e.DueTime != nil && !now.Before(e.DueTime.Time):
		return v1alpha1.ReasonUnanswered, fmt.Sprintf("nobody acknowledged the message within %s%s", within, suffix)
	}
	message = fmt.Sprintf("the time to acknowledge, %s, begins when the message is sent", within)
	if e.DueTime != nil {
		message = fmt.Sprintf("waits until %s for somebody to acknowledge the message%s", clock(e.DueTime), next)
	}
	if !links {
		return v1alpha1.ReasonNotConfigured, noLinks + "; " + message
	}
	return v1alpha1.ReasonWaiting, message
}

// toldAcknowledged reports whether the conditions in status tell of an
// acknowledgement. They are this controller's, the acknowledgement is not.
func toldAcknowledged(status *v1alpha1.NotificationRequestStatus) bool {
	return meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionAcknowledged)
}

// who names whoever acknowledged, so that nobody takes the name for proven.
func who(by string) string {
	if by == "" {
		return "somebody who gave no name"
	}
	return fmt.Sprintf("%q (as typed, not verified)", by)
}

// AskedSubject is the subject that a page shows to whoever is asked to acknowledge
// nr: what the message says, and no more.
func (r *NotificationRequestReconciler) AskedSubject(nr *v1alpha1.NotificationRequest) string {
	masked := nr.DeepCopy()
	r.mask(masked)
	return masked.Spec.Subject
}

// ask adds to a message what an acknowledgement takes, as its first link, and
// returns a function that takes the link out of what a channel said: the link is a
// credential, which some receivers quote. The message stays a function of the
// request's identity, spec and frozen status. The console gets no link, since its
// output is a log, and a dry run one that opens nothing.
func (r *NotificationRequestReconciler) ask(nr *v1alpha1.NotificationRequest, m *delivery.Message) (hide func(string) string) {
	hide = func(text string) string { return text }
	if nr.Spec.Acknowledge.Within == "" {
		return hide
	}
	if _, taken := m.Fields[escalatedField]; slices.Contains(nr.Status.Escalation.Channels, m.Channel) && !taken {
		m.Fields[escalatedField] = "nobody acknowledged this within " + string(nr.Spec.Acknowledge.Within)
		if nr.Status.Escalation.Reason == v1alpha1.EscalationNotReached {
			m.Fields[escalatedField] = "nobody else is known to have got this"
		}
	}
	if r.AcknowledgeLink == nil || m.Channel == v1alpha1.ConsoleChannel {
		return hide
	}
	link := r.AcknowledgeLink(nr, m.Channel, linkExpiry(nr, m.Channel))
	token := link[strings.LastIndexByte(link, '/')+1:]
	if isDryRun(nr) {
		link = strings.TrimSuffix(link, token) + strings.Repeat("x", len(token))
	}
	m.Links = slices.Insert(m.Links, 0, delivery.Link{Label: delivery.AcknowledgeLabel, URL: link})
	return func(text string) string { return hideToken(text, token) }
}

// hideToken takes a token out of a text that may have been cut within it. It looks
// for the token's beginning, which no escape of a URL, of JSON or of HTML changes.
func hideToken(text, token string) string {
	const recognised = 16
	for {
		i := strings.Index(text, token[:min(recognised, len(token))])
		if i < 0 {
			return text
		}
		end := i
		for end < len(text) && end-i < len(token) && text[end] == token[end-i] {
			end++
		}
		text = text[:i] + "[link]" + text[end:]
	}
}
