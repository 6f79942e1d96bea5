package controller

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

const (
	// outcomeGrace is how long after its timeout the outcome of an attempt may take
	// to reach status before the attempt counts as in doubt.
	outcomeGrace = 30 * time.Second
	// maxFailures is how many failed attempts status keeps.
	maxFailures = 20
	// reasonAuditBacklog is why a delivery waits for the audit events of others.
	reasonAuditBacklog = "AuditBacklog"
	// reasonAuditOutage is why a delivery waits for DataStorage.
	reasonAuditOutage = "AuditOutage"
	// recheck is when to look again at what could not be read.
	recheck = 30 * time.Second
	// refusedRecheck is when, at the earliest, a channel that refused its unchanged
	// configuration is asked again: each time is an attempt and an audit event.
	refusedRecheck = 5 * time.Minute
	// lastChance is how long before the latest time at which an attempt can end within
	// the deadline a message is sent although its channel fails: time enough to be
	// looked at and to commit the intent.
	lastChance = 5 * time.Second
)

// postponements are the reasons for which a delivery waits until its nextAttemptTime
// though no attempt has failed. They are found out anew at each look, so that a wait
// may end before that time.
var postponements = []string{reasonRateLimit, reasonThrottled, reasonCircuitOpen}

// postpone has a delivery wait without spending an attempt. The sentence of e says
// what for and until when.
func postpone(d *v1alpha1.Delivery, e v1alpha1.DeliveryError, until time.Time) {
	d.LastError, d.NextAttemptTime, d.HeldConfig = e, micro(until), ""
}

func postponed(d *v1alpha1.Delivery) bool { return slices.Contains(postponements, d.LastError.Reason) }

// channel is what the plan needs to know about a channel.
type channel struct {
	kind       v1alpha1.ChannelType
	idempotent bool
	timeout    time.Duration
	// config identifies the channel's configuration, its Secrets included.
	config string
	// blocked is why nothing can be sent now, zero where nothing stands in the way.
	blocked v1alpha1.DeliveryError
}

// outcome is what came of one attempt that this process made.
type outcome struct {
	attempt  int32
	config   string
	started  time.Time
	finished time.Time
	receipt  delivery.Receipt
	err      *delivery.Error
}

// sendState is one attempt of this process: running, or done with an outcome
// that status does not hold yet.
type sendState struct {
	done bool
	outcome
}

// answers reports whether this is the attempt that the delivery waits for, and
// not one that another process has taken over or settled meanwhile.
func (s sendState) answers(d *v1alpha1.Delivery) bool {
	return d.State == v1alpha1.DeliveryInFlight && s.attempt == d.Attempts
}

// planner holds what a plan is made from. Two plans from the same planner and
// status are the same, but for the jitter.
type planner struct {
	channels map[string]channel
	sends    map[string]sendState
	// unsent are the starts of attempts that this process did not make.
	unsent   map[string][]time.Time
	receipts map[string]audit.Receipt
	// rehearsals are the messages of a dry run that is not finished, by channel.
	rehearsals map[string]rehearsal
	// held is why no attempt may begin on any channel, zero where one may.
	held v1alpha1.DeliveryError
	// links says whether messages carry a link to acknowledge them by.
	links bool
	now   time.Time
	// spent are the channels whose words earlier plans have followed.
	spent []string
	// jitter returns a duration drawn evenly from zero to its argument.
	jitter func(time.Duration) time.Duration
}

// decision is what to do next about a request.
type decision struct {
	// due names the channels to send to now.
	due []string
	// wait is how long nothing is to be done unless something changes, 0 for ever.
	wait time.Duration
	// spent names the channels about which the annotation has nothing more to say.
	spent []string
}

// plan brings nr's status up to date with what is known, time included, and says
// what is to be done next. It has no effect but on nr.Status.
func (p *planner) plan(nr *v1alpha1.NotificationRequest) decision {
	if waits(nr) {
		return decision{wait: originalRecheck}
	}
	ensureDeliveries(nr)
	applyReceipts(&nr.Status, p.receipts)
	if isDryRun(nr) {
		p.planDryRun(nr)
		return decision{}
	}
	for i := range nr.Status.Deliveries {
		d := &nr.Status.Deliveries[i]
		if d.State == v1alpha1.DeliveryInFlight && slices.ContainsFunc(p.unsent[d.Channel], d.StartedTime.Time.Equal) {
			undo(d)
		}
		if s, ok := p.sends[d.Channel]; ok && s.done && s.answers(d) {
			p.fold(nr, d, s.outcome)
		}
	}
	p.finish(nr)
	if nr.DeletionTimestamp != nil && nr.Status.Cancellation.Time == nil && nr.Status.FinishedTime == nil {
		nr.Status.Cancellation = v1alpha1.Cancellation{
			Time:  nr.DeletionTimestamp.DeepCopy(),
			Audit: pending(audit.TypeRequestCancelled, string(nr.UID)),
		}
	}
	var d decision
	for i := range nr.Status.Deliveries {
		p.planDelivery(nr, &nr.Status.Deliveries[i], &d)
	}
	p.escalate(nr, &d)
	p.finish(nr)
	return d
}

// planDelivery moves one delivery on and adds to d what is to be done about it.
func (p *planner) planDelivery(nr *v1alpha1.NotificationRequest, dl *v1alpha1.Delivery, d *decision) {
	ch := p.channels[dl.Channel]
	spent := p.resolve(nr, dl)
	if spent {
		p.spent = append(p.spent, dl.Channel)
		d.spent = append(d.spent, dl.Channel)
	}
	if s, ok := p.sends[dl.Channel]; ok && !s.done {
		return
	}
	if dl.State == v1alpha1.DeliveryInFlight {
		if dl.AttemptDeadline != nil && p.now.Before(dl.AttemptDeadline.Time) {
			d.look(p.now, dl.AttemptDeadline.Time)
			return
		}
		p.doubt(nr, dl, v1alpha1.DeliveryError{
			Class: v1alpha1.ErrorAmbiguous, Reason: "OutcomeUnknown",
			Message: "the controller stopped during the attempt, so nobody knows whether the channel accepted the message",
		}, p.now)
	}
	p.settle(nr, dl)
	deadline := deadlineOf(nr, dl.Channel)
	switch {
	case dl.State.Final():
	case nr.DeletionTimestamp != nil:
		end(nr, dl, v1alpha1.DeliveryError{
			Class: v1alpha1.ErrorCancelled, Reason: v1alpha1.ReasonCancelled,
			Message: because("the request was deleted before the message was sent", dl.LastError),
		}, p.now)
	case !p.now.Before(deadline):
		end(nr, dl, v1alpha1.DeliveryError{
			Class: v1alpha1.ErrorExpired, Reason: "DeadlineExceeded",
			Message: because("the message was not sent within the deadline of "+string(nr.Spec.Deadline), dl.LastError),
		}, p.now)
	default:
		d.look(p.now, deadline)
		if dl.State != v1alpha1.DeliveryAmbiguous && !spent {
			p.ready(nr, dl, ch, d)
		}
	}
}

// look has the request looked at again at the given time at the latest.
func (d *decision) look(now, at time.Time) {
	d.wait = sooner(d.wait, max(at.Sub(now), time.Millisecond))
}

// sooner returns the shorter of two waits, of which 0 has no end.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// ready finds out whether a delivery that waits for its next attempt may begin it.
func (p *planner) ready(nr *v1alpha1.NotificationRequest, dl *v1alpha1.Delivery, ch channel, d *decision) {
	before := *dl
	if postponed(dl) {
		dl.NextAttemptTime = nil
	}
	if dl.HeldConfig == "" || dl.LastError.Reason == reasonAuditBacklog || dl.LastError.Reason == reasonAuditOutage {
		// What was in the way when last looked at may be gone.
		dl.LastError = lastAttemptError(dl)
	}
	quietEnd := quietUntil(nr, dl.Channel)
	switch {
	case isTrue(nr.Spec.Suspend):
	case nr.Spec.NotBefore != nil && p.now.Before(nr.Spec.NotBefore.Time):
		d.look(p.now, nr.Spec.NotBefore.Time)
	case p.now.Before(quietEnd):
		dl.LastError = quiet(quietEnd)
		d.look(p.now, quietEnd)
	case ch.blocked.Class != "":
		dl.LastError = ch.blocked
		if ch.blocked.Class == v1alpha1.ErrorTransient {
			d.look(p.now, p.now.Add(recheck))
		}
	case full(dl):
		dl.LastError = hindrance(v1alpha1.ErrorTransient, reasonAuditBacklog, "%d failed attempts are not recorded in DataStorage yet; the next one waits for that", maxFailures)
	case dl.NextAttemptTime != nil && p.now.Before(dl.NextAttemptTime.Time) && (dl.HeldConfig == "" || dl.HeldConfig == ch.config):
		d.look(p.now, dl.NextAttemptTime.Time)
	case p.held.Class != "":
		dl.LastError = p.held
		d.look(p.now, p.now.Add(recheck))
	default:
		if postponed(&before) { // until somebody finds that it may begin
			dl.LastError, dl.NextAttemptTime = before.LastError, before.NextAttemptTime
			if before.LastError.Reason == reasonCircuitOpen {
				// From then on nothing but a place or a token is missing, for seconds.
				d.look(p.now, later(lastChanceOf(nr, dl.Channel, ch), p.now.Add(time.Second)))
			}
		}
		d.due = append(d.due, dl.Channel)
	}
}

// ensureDeliveries gives each channel its delivery. A dry run tries those of an
// escalation too.
func ensureDeliveries(nr *v1alpha1.NotificationRequest) {
	if len(nr.Status.Deliveries) > 0 || nr.Status.DuplicateOf.SuppressedTime != nil {
		return
	}
	refs := channelRefs(nr)
	if isDryRun(nr) {
		refs = allRefs(nr)
	}
	for _, ref := range refs {
		d := v1alpha1.Delivery{Channel: ref.Name, State: v1alpha1.DeliveryPending}
		if until := quietUntil(nr, ref.Name); !until.IsZero() {
			d.NextAttemptTime = micro(until)
		}
		nr.Status.Deliveries = append(nr.Status.Deliveries, d)
	}
}

// finish notes when the last delivery ended and nobody is waited for any more.
func (p *planner) finish(nr *v1alpha1.NotificationRequest) {
	if nr.Status.FinishedTime != nil {
		return
	}
	last := nr.Status.DuplicateOf.SuppressedTime
	for _, d := range nr.Status.Deliveries {
		if !d.State.Final() {
			return
		}
		for _, t := range []*metav1.MicroTime{d.SentTime, d.FailedTime} {
			if t != nil && (last == nil || last.Before(t)) {
				last = t
			}
		}
	}
	if p.awaits(nr) {
		return
	}
	switch a := nr.Status.Acknowledgement.Time; {
	case a != nil && last.Before(a):
		last = a
	case a == nil && nr.Status.Cancellation.Time == nil && p.linked(nr):
		last = micro(lastExpiry(nr))
	}
	nr.Status.FinishedTime = last.DeepCopy()
}

// lastChanceOf is when a message has to be sent at the latest, whatever its channel's
// circuit says: it would not be sent at all otherwise.
func lastChanceOf(nr *v1alpha1.NotificationRequest, name string, ch channel) time.Time {
	return deadlineOf(nr, name).Add(-ch.timeout - lastChance)
}

// deadlineOf is when a delivery that is not finished has failed.
func deadlineOf(nr *v1alpha1.NotificationRequest, channel string) time.Time {
	from := nr.CreationTimestamp.Time
	if nr.Spec.NotBefore != nil && nr.Spec.NotBefore.After(from) {
		from = nr.Spec.NotBefore.Time
	}
	if until := quietUntil(nr, channel); until.After(from) {
		from = until
	}
	if e := nr.Status.Escalation; slices.Contains(e.Channels, channel) && e.Time.After(from) {
		from = e.Time.Time
	}
	return from.Add(nr.Spec.Deadline.Value())
}
