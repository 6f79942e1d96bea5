package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
)

// bury sees to the requests that had a name before the one with the given UID, ""
// where there is none now, and that vanished although this process had attempts
// under way. Their outcomes can reach status no more, so the events are built from
// what status said last. It returns when to come back, 0 where the end of an
// attempt tells, or where nothing is left to do.
func (r *NotificationRequestReconciler) bury(ctx context.Context, key types.NamespacedName, present types.UID) (again time.Duration) {
	for _, last := range r.sends.vanished(key, present) {
		nr := last.DeepCopy()
		p := planner{sends: r.sends.of(nr.UID), now: time.Now(), jitter: jitter}
		wait := p.planVanished(nr)
		summarize(nr, p.now)
		r.sends.keep(nr) // planned again it would have other times, and its events other bytes
		r.publish(nr, &last.Status)
		switch {
		case r.handOver(ctx, nr) == auditRetry:
			wait = auditRetry
		case nr.Status.FinishedTime != nil:
			r.sends.drop(nr.UID)
			log.FromContext(ctx).Info("A request vanished with a message on its way; its events are handed over all the same", "request", key, "uid", nr.UID)
		}
		again = sooner(again, wait)
	}
	return again
}

// planVanished plans for a request that is gone as for one that is being deleted,
// and returns how long nothing is to be done.
func (p *planner) planVanished(nr *v1alpha1.NotificationRequest) time.Duration {
	if nr.DeletionTimestamp == nil {
		nr.DeletionTimestamp = second(p.now)
	}
	return p.plan(nr).wait
}
