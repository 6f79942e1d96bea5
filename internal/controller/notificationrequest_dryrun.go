package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// rehearsal is what came of a message that was made and not sent.
type rehearsal struct {
	kind          v1alpha1.ChannelType
	content       delivery.Receipt
	templateError string
	followUp      v1alpha1.FollowUp
	// trouble is why the message could not be sent now, zero where it could.
	trouble v1alpha1.DeliveryError
}

func isDryRun(nr *v1alpha1.NotificationRequest) bool { return nr.Spec.Mode == v1alpha1.ModeDryRun }

// rehearse makes the messages of a dry run that is not finished. It has no effect
// that anybody could see, so that a step which is lost is simply made again.
func (r *NotificationRequestReconciler) rehearse(ctx context.Context, nr *v1alpha1.NotificationRequest, known map[string]channel, objects map[string]*v1alpha1.NotificationChannel) map[string]rehearsal {
	if !isDryRun(nr) || nr.Status.FinishedTime != nil {
		return nil
	}
	// Further channels are told that nobody has acknowledged the message.
	escalated := nr.DeepCopy()
	escalated.Status.Escalation = v1alpha1.Escalation{
		Time: micro(time.Now()), Reason: v1alpha1.EscalationUnanswered, Channels: channelNames(escalationRefs(nr)),
	}
	all := map[string]rehearsal{}
	for name, ch := range known {
		all[name] = r.rehearseOn(ctx, escalated, name, ch, objects[name])
	}
	return all
}

func (r *NotificationRequestReconciler) rehearseOn(ctx context.Context, nr *v1alpha1.NotificationRequest, name string, ch channel, object *v1alpha1.NotificationChannel) rehearsal {
	o := rehearsal{kind: ch.kind, trouble: ch.blocked}
	if ch.blocked.Class != "" {
		return o
	}
	var d v1alpha1.Delivery
	sender, err := r.Channels.sender(ctx, object)
	if err == nil {
		err = r.follow(ctx, nr, &d, object)
	}
	if err != nil {
		o.trouble = unusable(client.ObjectKeyFromObject(object), err)
		return o
	}
	m, failure := fill(object, message(nr, name, 1))
	join(m, &d)
	r.ask(nr, m)
	o.templateError, o.followUp = failure, d.FollowUp
	// The suite of senders holds each of them to it.
	o.content = delivery.ReceiptOf(sender.(delivery.Renderer).Render(m))
	return o
}

// planDryRun ends a dry run. All of it is in one write of status, which has the
// request finished and its events promised; there is no intent, since there is no
// effect.
func (p *planner) planDryRun(nr *v1alpha1.NotificationRequest) {
	if nr.Status.FinishedTime != nil || len(p.rehearsals) == 0 {
		return
	}
	further := channelNames(escalationRefs(nr))
	for i := range nr.Status.Deliveries {
		name := nr.Status.Deliveries[i].Channel
		o := p.rehearsals[name]
		d := v1alpha1.Delivery{
			Channel: name, ChannelType: string(o.kind), State: v1alpha1.DeliverySkipped,
			ContentDigest: o.content.Digest, ContentSize: o.content.Size, TemplateError: o.templateError,
			FollowUp: o.followUp, LastError: o.trouble,
			Audit: pending(audit.TypeMessageDryRun, string(nr.UID), name),
		}
		if d.LastError.Class == "" {
			d.LastError = v1alpha1.DeliveryError{
				Class: v1alpha1.ErrorDryRun, Reason: v1alpha1.ReasonDryRun,
				Message: fmt.Sprintf("not sent, since mode is DryRun: it would have been %d bytes", o.content.Size),
			}
			if slices.Contains(further, name) {
				d.LastError.Message += ", where nobody acknowledges the message"
			}
		}
		nr.Status.Deliveries[i] = d
	}
	nr.Status.FinishedTime = micro(p.now)
}

// rehearsed is the end of a dry run on one channel.
func (b *eventBuilder) rehearsed(d *v1alpha1.Delivery) {
	e := audit.Event{
		EventType: audit.TypeMessageDryRun, EventTimestamp: b.nr.Status.FinishedTime.UTC(),
		EventAction: "rendered", EventOutcome: audit.OutcomeSuccess,
	}
	data := eventData{
		Channel: d.Channel, ChannelType: d.ChannelType, ContentDigest: d.ContentDigest, ContentSize: d.ContentSize, TemplateError: d.TemplateError,
	}
	if d.LastError.Class != v1alpha1.ErrorDryRun {
		e.EventOutcome, e.ErrorCode, e.ErrorMessage = audit.OutcomeFailure, d.LastError.Code, d.LastError.Message
		data.ErrorType, data.Error = string(d.LastError.Class), d.LastError.Reason
	}
	b.add(d.Audit, e, data)
}
