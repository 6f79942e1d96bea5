package controller

import (
	"cmp"
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
)

// history returns what the requests say of a channel: who waits there for nothing but
// its turn, in the order of the turns that they were told, and when attempts began.
func (r *NotificationRequestReconciler) history(channel types.NamespacedName) (line []*turn, starts []time.Time) {
	var list v1alpha1.NotificationRequestList
	if err := r.Channels.Reader.List(context.Background(), &list, client.UnsafeDisableDeepCopy); err != nil {
		// What is read is the cache, which is there before any request is looked at.
		log.Log.Error(err, "Listing the requests of a channel with a rate limit failed", "channel", channel)
		return nil, nil
	}
	now := time.Now()
	turns := map[*turn]time.Time{}
	for i := range list.Items {
		nr := &list.Items[i]
		refs := channelRefs(nr)
		if nr.Status.Escalation.Time != nil {
			refs = allRefs(nr)
		}
		for _, ref := range refs {
			if channelKey(nr.Namespace, ref) != channel {
				continue
			}
			d := cmp.Or(deliveryOf(&nr.Status, ref.Name), &v1alpha1.Delivery{Channel: ref.Name, State: v1alpha1.DeliveryPending})
			starts = append(starts, beginnings(d)...)
			if inLine(nr, d, now) {
				p := &turn{request: client.ObjectKeyFromObject(nr), created: nr.CreationTimestamp.Time}
				line = append(line, p)
				if turns[p] = now.Add(nr.Spec.Deadline.Value()); d.NextAttemptTime != nil { // those without a turn come last
					turns[p] = d.NextAttemptTime.Time
				}
			}
		}
	}
	slices.SortFunc(line, func(a, b *turn) int {
		return cmp.Or(turns[a].Compare(turns[b]), cmp.Compare(a.request.Namespace, b.request.Namespace), cmp.Compare(a.request.Name, b.request.Name))
	})
	return line, starts
}

// beginnings returns when the attempts of a delivery began, as far as status keeps
// them.
func beginnings(d *v1alpha1.Delivery) (starts []time.Time) {
	latest := d.StartedTime
	for _, f := range d.AttemptFailures {
		starts = append(starts, f.StartedTime.Time)
		if f.Attempt == d.Attempts {
			latest = nil
		}
	}
	if latest != nil {
		starts = append(starts, latest.Time)
	}
	return starts
}

// inLine reports whether a delivery may be taken to wait for nothing but its turn.
// One that turns out to wait for something else as well is passed over.
func inLine(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, now time.Time) bool {
	switch {
	case d.State != v1alpha1.DeliveryPending && d.State != v1alpha1.DeliveryRetrying,
		nr.DeletionTimestamp != nil, nr.Status.FinishedTime != nil, waits(nr), isTrue(nr.Spec.Suspend),
		nr.Spec.NotBefore != nil && now.Before(nr.Spec.NotBefore.Time), now.Before(quietUntil(nr, d.Channel)), !now.Before(deadlineOf(nr, d.Channel)):
		return false
	}
	return d.NextAttemptTime == nil || postponed(d) || !now.Before(d.NextAttemptTime.Time)
}
