package controller

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
)

func TestARateLimitCountsWhatWasEscalatedToItsChannel(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	named := func(name string, change ...func(*v1alpha1.NotificationRequest)) *v1alpha1.NotificationRequest {
		nr := newRequest(change...)
		nr.Name, nr.UID, nr.CreationTimestamp = name, types.UID("uid-of-"+name), metav1.NewTime(now)
		return nr
	}
	toPager := func(attempts ...time.Duration) func(*v1alpha1.NotificationRequest) {
		return func(nr *v1alpha1.NotificationRequest) {
			d := v1alpha1.Delivery{Channel: pager, State: v1alpha1.DeliveryRetrying, Attempts: int32(len(attempts)), LastError: v1alpha1.DeliveryError{Reason: reasonRateLimit}}
			d.NextAttemptTime = micro(now.Add(time.Minute))
			for n, ago := range attempts {
				d.AttemptFailures = append(d.AttemptFailures, v1alpha1.AttemptFailure{Attempt: int32(n + 1), StartedTime: micro(now.Add(-ago))})
			}
			nr.Status.Deliveries = append(nr.Status.Deliveries, d)
		}
	}
	escalated := named("escalated", asking(pager), func(nr *v1alpha1.NotificationRequest) {
		nr.Status.Deliveries = []v1alpha1.Delivery{{Channel: ops, State: v1alpha1.DeliverySent, StartedTime: micro(now)}}
		nr.Status.Escalation = v1alpha1.Escalation{Time: micro(now), Reason: v1alpha1.EscalationUnanswered, Channels: []string{pager}}
	}, toPager(3*time.Minute, time.Minute))
	b := newBench(t, named("waits-for-an-answer", asking(pager)), escalated, named("direct", withChannels(pager), toPager(2*time.Minute)))
	line, starts := b.history(types.NamespacedName{Namespace: "shop", Name: pager})
	var names []string
	for _, turn := range line {
		names = append(names, turn.request.Name)
	}
	equal(t, "line", names, []string{"direct", "escalated"})
	var ago []time.Duration
	for _, at := range starts {
		ago = append(ago, now.Sub(at))
	}
	equal(t, "attempts", ago, []time.Duration{2 * time.Minute, 3 * time.Minute, time.Minute})
}
