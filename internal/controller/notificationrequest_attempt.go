package controller

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// attempt is one attempt that is allowed to begin once status says that it has.
type attempt struct {
	channel channel
	name    string
	object  types.NamespacedName
	number  int32
	sender  delivery.Sender
	message *delivery.Message
	// started is when the attempt began, as status has it.
	started time.Time
	// trial is when it began as a trial of the channel, zero where it is none.
	trial time.Time
	// latest is when the attempt must have ended, long enough before anybody else
	// takes it to be in doubt. A process that was held up ends it unsent.
	latest time.Time
}

// begin prepares the attempts that are due and marks them as begun in nr's
// status. A channel that cannot be used gets the reason there instead.
func (r *NotificationRequestReconciler) begin(ctx context.Context, nr *v1alpha1.NotificationRequest, known map[string]channel, objects map[string]*v1alpha1.NotificationChannel, due []string) []attempt {
	var begun []attempt
	for i := range nr.Status.Deliveries {
		d := &nr.Status.Deliveries[i]
		if !slices.Contains(due, d.Channel) {
			continue
		}
		object := objects[d.Channel]
		key := client.ObjectKeyFromObject(object)
		// Nothing is taken yet that a template which panics would keep.
		m, failure := fill(object, message(nr, d.Channel, d.Attempts+1))
		trial, w, ok := r.sends.acquire(wish{
			channel: object, config: known[d.Channel].config, request: client.ObjectKeyFromObject(nr),
			created: nr.CreationTimestamp.Time, lastChance: lastChanceOf(nr, d.Channel, known[d.Channel]),
		})
		if !ok {
			if w.err.Class != "" {
				postpone(d, w.err, w.until)
			}
			continue
		}
		sender, err := r.Channels.sender(ctx, object)
		if err == nil {
			err = r.follow(ctx, nr, d, object)
		}
		if err != nil {
			r.sends.cancel(key, trial)
			d.LastError = unusable(key, err)
			d.HeldConfig = known[d.Channel].config
			d.NextAttemptTime = micro(time.Now().Add(recheck))
			continue
		}
		if d.State == v1alpha1.DeliveryAmbiguous || d.State == v1alpha1.DeliverySent {
			// What it should have replaced must stay, and the policy sends nothing else unasked.
			r.sends.cancel(key, trial)
			continue
		}
		begin(d, known[d.Channel], time.Now())
		d.TemplateError = failure
		join(m, d)
		begun = append(begun, attempt{
			channel: known[d.Channel], name: d.Channel, object: key, number: d.Attempts, sender: sender, message: m, started: d.StartedTime.Time,
			trial: trial, latest: d.AttemptDeadline.Add(-outcomeGrace / 2),
		})
	}
	return begun
}

// unusable is why no attempt could be prepared on a channel.
func unusable(channel types.NamespacedName, err error) v1alpha1.DeliveryError {
	if e, ok := errors.AsType[*delivery.Error](err); ok {
		return blocked(e.Reason, "%s", e.Message)
	}
	return unreadable("what an attempt needs of the channel", channel, err)
}

// giveUp gives up attempts whose intent was not committed, as far as is known: it may
// be in status whatever the answer was, also where a write has met its own repetition.
func (r *NotificationRequestReconciler) giveUp(nr *v1alpha1.NotificationRequest, begun []attempt) {
	for _, a := range begun {
		r.sends.doubtIntent(client.ObjectKeyFromObject(nr), nr.UID, a.name, a.started)
		r.sends.cancel(a.object, a.trial)
	}
}

// start makes attempts side by side. The request is looked at again as each ends.
// nr is as it was just written.
func (r *NotificationRequestReconciler) start(ctx context.Context, nr *v1alpha1.NotificationRequest, begun []attempt) {
	if len(begun) == 0 && len(r.sends.of(nr.UID)) == 0 {
		return
	}
	// The step goes on writing to its own.
	ctx, nr = context.WithoutCancel(ctx), nr.DeepCopy()
	r.sends.keep(nr)
	for _, a := range begun {
		r.sends.start(client.ObjectKeyFromObject(nr), nr.UID, a.name, a.object, a.number, func() outcome {
			ctx, cancel := context.WithDeadline(ctx, a.latest)
			defer cancel()
			ctx, cancel = context.WithTimeout(ctx, a.channel.timeout)
			defer cancel()
			return r.send(ctx, nr, a)
		})
	}
}

// send makes one attempt.
func (r *NotificationRequestReconciler) send(ctx context.Context, nr *v1alpha1.NotificationRequest, a attempt) outcome {
	o := try(ctx, a.name, func() (delivery.Receipt, *delivery.Error) {
		hide := r.ask(nr, a.message)
		receipt, err := a.sender.Send(ctx, a.message)
		receipt.ExternalID = hide(receipt.ExternalID)
		e := delivery.Classify(err)
		if e == nil {
			return receipt, nil
		}
		e.Message, e.Code = hide(e.Message), hide(e.Code)
		return receipt, r.maskError(e)
	})
	o.attempt, o.config = a.number, a.channel.config
	r.report(ctx, nr, a, o)
	return o
}

// try makes an attempt on a channel. A sender that panics leaves it in doubt.
func try(ctx context.Context, channel string, send func() (delivery.Receipt, *delivery.Error)) (o outcome) {
	o.started = time.Now()
	defer func() {
		if p := recover(); p != nil {
			log.FromContext(ctx).Error(fmt.Errorf("panic: %v", p), "A sender panicked", "channel", channel, "stack", string(debug.Stack()))
			o.err = &delivery.Error{Class: delivery.Ambiguous, Reason: "Panic", Message: "the sender of this channel panicked; see the controller's log"}
		}
		o.finished = time.Now()
	}()
	o.receipt, o.err = send()
	return o
}

// words are the result and the reason of an attempt in logs and metrics.
func (o outcome) words() (result, reason string) {
	if o.err != nil {
		return string(o.err.Class), o.err.Reason
	}
	return "Sent", ""
}

// report counts and logs an attempt.
func (r *NotificationRequestReconciler) report(ctx context.Context, nr *v1alpha1.NotificationRequest, a attempt, o outcome) {
	result, reason := o.words()
	took := o.finished.Sub(o.started)
	r.Metrics.attempts.WithLabelValues(string(a.channel.kind), result, reason).Inc()
	r.Metrics.duration.WithLabelValues(string(a.channel.kind)).Observe(took.Seconds())
	if a.object != consoleKey { // no object could tell of it
		r.Health.note(a.object, o)
	}
	log.FromContext(ctx).Info("Attempted delivery", "request", client.ObjectKeyFromObject(nr), "channel", a.name,
		"attempt", a.number, "outcome", result, "reason", reason, "duration", took.String(), "correlationID", correlationID(nr))
}

// message is what a channel gets, its template apart. It is a function of the
// request's identity and spec, so each attempt has the same content.
func message(nr *v1alpha1.NotificationRequest, channel string, attempt int32) *delivery.Message {
	m := &delivery.Message{
		Key:        audit.EventID("delivery", string(nr.UID), channel).String(),
		RequestUID: string(nr.UID), Namespace: nr.Namespace, Name: nr.Name, Channel: channel,
		Created: nr.CreationTimestamp.UTC(),
		Subject: nr.Spec.Subject, Body: nr.Spec.Body, BodyFormat: string(nr.Spec.BodyFormat),
		Type: string(nr.Spec.Type), Priority: string(nr.Spec.Priority), Severity: nr.Spec.Severity,
		CorrelationID: correlationID(nr), Attempt: attempt,
		Fields: map[string]string{},
	}
	for _, l := range nr.Spec.Links {
		m.Links = append(m.Links, delivery.Link{Label: l.Label, URL: l.URL})
	}
	for name, value := range nr.Spec.Fields {
		m.Fields[name] = string(value)
	}
	if ref := nr.Spec.Regarding; ref.Name != "" {
		m.Regarding = &delivery.Reference{APIVersion: ref.APIVersion, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
	}
	return m
}
