package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// follow decides with the first attempt which message a delivery follows, if any. A
// later one keeps to that, unless the channel posts elsewhere now, or what was to be
// replaced must stay.
func (r *NotificationRequestReconciler) follow(ctx context.Context, nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, object *v1alpha1.NotificationChannel) error {
	slack, first := object.Spec.Slack, d.Attempts == 0
	switch {
	case first:
		d.FollowUp = v1alpha1.FollowUp{}
		if slack == nil || slack.FollowUps != v1alpha1.FollowUpReply && slack.FollowUps != v1alpha1.FollowUpUpdate {
			return nil
		}
	case follows(d) && (slack == nil || !strings.HasPrefix(d.FollowUp.ExternalID, slack.Channel+"/")):
		unfollow(nr, d, v1alpha1.FollowUpSeparate, time.Now())
		return nil
	case d.FollowUp.Mode != v1alpha1.FollowUpUpdate:
		return nil
	}
	others, err := r.others(ctx, nr, client.ObjectKeyFromObject(object))
	if err != nil {
		return err
	}
	if first {
		d.FollowUp = followUp(nr, slack, others)
	}
	if d.FollowUp.Mode == v1alpha1.FollowUpUpdate && !replaceable(nr, d.FollowUp.ExternalID, others) {
		unfollow(nr, d, v1alpha1.FollowUpReply, time.Now())
	}
	return nil
}

// part is what another request has to do with a conversation.
type part struct {
	request  *v1alpha1.NotificationRequest
	delivery *v1alpha1.Delivery
}

// others returns the other parts of the conversation on a channel that nr has its own
// in. They are read only. A dry run has none.
func (r *NotificationRequestReconciler) others(ctx context.Context, nr *v1alpha1.NotificationRequest, channel types.NamespacedName) (all []part, err error) {
	if nr.Spec.CorrelationID == "" {
		return nil, nil
	}
	var list v1alpha1.NotificationRequestList
	err = r.Client.List(ctx, &list, client.InNamespace(nr.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingFields{correlationIndex: nr.Spec.CorrelationID})
	if err != nil {
		return nil, fmt.Errorf("list requests with the same correlation ID: %w", err)
	}
	for i := range list.Items {
		other := &list.Items[i]
		if other.UID == nr.UID || isDryRun(other) {
			continue
		}
		for _, ref := range allRefs(other) {
			if d := deliveryOf(&other.Status, ref.Name); d != nil && channelKey(other.Namespace, ref) == channel {
				all = append(all, part{other, d})
			}
		}
	}
	return all, nil
}

// followUp returns what a message follows: the first one of its conversation that is
// in the channel, as far as requests tell that still exist. Time stamps of one channel
// are in the order of time.
func followUp(nr *v1alpha1.NotificationRequest, slack *v1alpha1.SlackChannel, others []part) v1alpha1.FollowUp {
	var begun, gone []string
	for _, o := range others {
		f := o.delivery.FollowUp
		first := o.delivery.ExternalID
		switch f.Mode {
		case v1alpha1.FollowUpSeparate:
			gone = append(gone, f.ExternalID)
		case v1alpha1.FollowUpReply, v1alpha1.FollowUpUpdate:
			first = f.ExternalID
		}
		if o.delivery.State == v1alpha1.DeliverySent && strings.HasPrefix(first, slack.Channel+"/") {
			begun = append(begun, first)
		}
	}
	begun = slices.DeleteFunc(begun, func(id string) bool { return slices.Contains(gone, id) })
	if len(begun) == 0 {
		return v1alpha1.FollowUp{}
	}
	f := v1alpha1.FollowUp{Mode: v1alpha1.FollowUpReply, ExternalID: slices.Min(begun)}
	if slack.FollowUps == v1alpha1.FollowUpUpdate && (nr.Spec.Type == "StatusUpdate" || nr.Spec.Type == "Completion") {
		f.Mode = v1alpha1.FollowUpUpdate
	}
	return f
}

// replaceable reports whether nr may take the place of a message: nothing newer has,
// and nobody is asked there for an acknowledgement, whose link would be gone.
func replaceable(nr *v1alpha1.NotificationRequest, id string, others []part) bool {
	return !slices.ContainsFunc(others, func(o part) bool {
		newer := o.request.CreationTimestamp.After(nr.CreationTimestamp.Time) &&
			o.delivery.FollowUp == v1alpha1.FollowUp{Mode: v1alpha1.FollowUpUpdate, ExternalID: id}
		asked := o.delivery.ExternalID == id && asks(o.request) &&
			o.request.Status.FinishedTime == nil && o.request.Status.Acknowledgement.Time == nil
		return newer || asked
	})
}

// unfollow changes how a message is shown from now on. Where an attempt to replace
// another may have done so, the message may be shown twice then. An attempt in doubt was
// harmless until now, and is for the request's policy to decide on from here: it may be
// held, or taken as sent.
func unfollow(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, mode v1alpha1.FollowUpMode, at time.Time) {
	replaced := d.FollowUp.Mode == v1alpha1.FollowUpUpdate
	d.FollowUp.Mode = mode
	// What an attempt met that status does not keep any more, nobody knows.
	unknown := int(d.Attempts) > len(d.AttemptFailures)
	doubted := slices.ContainsFunc(d.AttemptFailures, func(f v1alpha1.AttemptFailure) bool { return f.Error.Class == v1alpha1.ErrorAmbiguous })
	switch {
	case !replaced:
	case doubted && nr.Spec.OnAmbiguous == v1alpha1.AmbiguousAssumeSent:
		d.LastError, d.HeldConfig = replacedInDoubt, ""
		sent(nr, d, at)
	case (doubted || unknown) && nr.Spec.OnAmbiguous == v1alpha1.AmbiguousHold:
		d.LastError, d.HeldConfig, d.NextAttemptTime = replacedInDoubt, "", nil
		d.State = v1alpha1.DeliveryAmbiguous
	case unknown || slices.ContainsFunc(d.AttemptFailures, mayHaveArrived):
		d.PossibleDuplicate = new(true)
	}
}

var replacedInDoubt = v1alpha1.DeliveryError{
	Class: v1alpha1.ErrorAmbiguous, Reason: "OutcomeUnknown",
	Message: "the message cannot take the place of another any more, and nobody knows whether an earlier attempt has put it there",
}

// mayHaveArrived reports whether an attempt is in doubt, or met an error of which
// nobody knows how far the message had come.
func mayHaveArrived(f v1alpha1.AttemptFailure) bool {
	switch f.Error.Reason {
	case delivery.ReasonServerError, delivery.ReasonRequestTimeout, delivery.ReasonConflict:
		return true
	}
	return f.Error.Class == v1alpha1.ErrorAmbiguous
}

// follows reports whether a delivery is shown with an earlier message.
func follows(d *v1alpha1.Delivery) bool {
	return d.FollowUp.Mode == v1alpha1.FollowUpReply || d.FollowUp.Mode == v1alpha1.FollowUpUpdate
}

// join tells a message which one it is shown with.
func join(m *delivery.Message, d *v1alpha1.Delivery) {
	if follows(d) {
		m.Follows, m.Replaces = d.FollowUp.ExternalID, d.FollowUp.Mode == v1alpha1.FollowUpUpdate
	}
}
