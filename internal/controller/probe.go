package controller

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// probe is a test message of this process: under way, or done with an outcome that
// status does not hold yet. Losing it loses nothing but the answer: status says that
// it was sent, so it is not sent again.
type probe struct {
	requestedAt string
	done        bool
	outcome
}

// probeWanted returns the value of the annotation as status keeps it, "" where there
// is none.
func probeWanted(object *v1alpha1.NotificationChannel) string {
	return truncate(object.Annotations[v1alpha1.ProbeAnnotation], 64)
}

// planProbe brings status.probe up to date. It returns whether a test message is to
// be sent once that is written, and when to look again, 0 where nothing is open.
func planProbe(object *v1alpha1.NotificationChannel, mine *probe, now time.Time) (send bool, again time.Duration) {
	p := &object.Status.Probe
	if p.State == v1alpha1.ProbeInFlight {
		switch {
		case mine != nil && mine.requestedAt == p.RequestedAt && !mine.done:
			return false, 0 // its end tells
		case mine != nil && mine.requestedAt == p.RequestedAt:
			endProbe(p, mine.outcome)
		case now.Before(p.Deadline.Time):
			return false, p.Deadline.Sub(now)
		default:
			p.State, p.FinishedTime = v1alpha1.ProbeInterrupted, micro(now)
			p.Error = v1alpha1.DeliveryError{
				Class: v1alpha1.ErrorAmbiguous, Reason: "OutcomeUnknown",
				Message: "the controller stopped during the probe, so nobody knows whether it arrived: set another value to send one more",
			}
		}
	}
	wanted := probeWanted(object)
	if wanted == "" || wanted == p.RequestedAt {
		return false, 0
	}
	*p = v1alpha1.ChannelProbe{
		RequestedAt: wanted, State: v1alpha1.ProbeInFlight,
		StartedTime: micro(now), Deadline: micro(now.Add(object.Spec.Timeout.Value() + outcomeGrace)),
	}
	return true, 0
}

func endProbe(p *v1alpha1.ChannelProbe, o outcome) {
	p.State, p.ExternalID = v1alpha1.ProbeSent, o.receipt.ExternalID
	if o.err != nil {
		p.State, p.Error = v1alpha1.ProbeFailed, deliveryError(o.err)
	}
	p.StartedTime, p.FinishedTime = micro(o.started), micro(o.finished)
	p.Duration = v1alpha1.Duration(fmt.Sprintf("%dms", o.finished.Sub(o.started).Milliseconds()))
}

// startProbe sends the test message that the channel's status now speaks of, and has
// the channel looked at again once there is an answer.
func (r *NotificationChannelReconciler) startProbe(ctx context.Context, object *v1alpha1.NotificationChannel) {
	key, value := client.ObjectKeyFromObject(object), object.Status.Probe.RequestedAt
	r.Health.setProbe(key, &probe{requestedAt: value})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), object.Spec.Timeout.Value())
	go func() {
		defer cancel()
		o := r.sendProbe(ctx, object)
		result, reason := o.words()
		log.FromContext(ctx).Info("Probed channel", "channel", key, "requestedAt", value,
			"outcome", result, "reason", reason, "duration", o.finished.Sub(o.started).String())
		r.Health.setProbe(key, &probe{requestedAt: value, done: true, outcome: o})
	}()
}

func (r *NotificationChannelReconciler) sendProbe(ctx context.Context, object *v1alpha1.NotificationChannel) outcome {
	return try(ctx, object.Name, func() (delivery.Receipt, *delivery.Error) {
		sender, err := r.Channels.sender(ctx, object)
		if err != nil {
			e := unusable(client.ObjectKeyFromObject(object), err)
			return delivery.Receipt{}, &delivery.Error{Class: delivery.Class(e.Class), Reason: e.Reason, Message: e.Message}
		}
		receipt, err := sender.Send(ctx, probeMessage(object))
		return receipt, delivery.Classify(err)
	})
}

// probeMessage is a function of the channel's identity and the value that asks for
// it, so that a receiver that knows keys takes it once.
func probeMessage(object *v1alpha1.NotificationChannel) *delivery.Message {
	p := object.Status.Probe
	return &delivery.Message{
		Key:        audit.EventID("probe", string(object.UID), p.RequestedAt).String(),
		RequestUID: string(object.UID), Namespace: object.Namespace, Name: object.Name, Channel: object.Name,
		Created:       p.StartedTime.UTC(),
		Subject:       "Test message of channel " + object.Name,
		Body:          "Somebody asked whether messages arrive here. There is nothing to do.",
		BodyFormat:    "Plain",
		Type:          "Simple",
		Priority:      "Low",
		CorrelationID: string(object.UID),
		Fields:        map[string]string{"requested at": p.RequestedAt},
		Attempt:       1,
	}
}

// setProbe keeps what is known of a channel's test message. One that arrived shows
// that the channel works.
func (h *ChannelHealth) setProbe(channel types.NamespacedName, p *probe) {
	h.mu.Lock()
	h.of(channel).probe = p
	h.mu.Unlock()
	if !p.done {
		return
	}
	if p.err == nil {
		h.use(channel, (*gate).close)
		h.opened(channel)
	}
	h.wake.request(channel)
}

func (h *ChannelHealth) probeOf(channel types.NamespacedName) *probe {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m[channel] == nil {
		return nil
	}
	return h.m[channel].probe
}
