package controller

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"kubernaut.ai/notification/api/v1alpha1"
)

func TestRequestsAreCountedByWhatTheirStatusSays(t *testing.T) {
	var objects []client.Object
	add := func(name string, prepare func(*lab)) {
		l := newLab(t, func(nr *v1alpha1.NotificationRequest) { nr.Name = name })
		prepare(l)
		summarize(l.nr, l.now)
		objects = append(objects, l.nr)
	}
	add("waits", func(l *lab) { l.plan() })
	add("sent", func(l *lab) { l.attempt(ops, nil) })
	add("recorded", func(l *lab) { l.attempt(ops, nil); l.record(); l.plan() })
	add("held", func(l *lab) { l.nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold; l.attempt(ops, unanswered()) })
	add("asks", func(l *lab) { asking(ops)(l.nr); l.links = true; l.attempt(ops, nil) })
	add("answered", func(l *lab) { asking(ops)(l.nr); l.links = true; l.attempt(ops, nil); press(l.nr, "", l.now); l.plan() })
	objects = append(objects, newRequest()) // never looked at
	reader := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).Build()
	c := newStateCollector(reader, func() int { return 3 })
	want := `
# HELP notification_deliveries_ambiguous Deliveries in doubt that wait for a person.
# TYPE notification_deliveries_ambiguous gauge
notification_deliveries_ambiguous 1
# HELP notification_delivery_attempts_in_flight Attempts that this process is making now.
# TYPE notification_delivery_attempts_in_flight gauge
notification_delivery_attempts_in_flight 3
# HELP notification_requests Requests by the reason of their Ready condition.
# TYPE notification_requests gauge
notification_requests{status="Failed"} 0
notification_requests{status="PartiallySent"} 0
notification_requests{status="Pending"} 3
notification_requests{status="Retrying"} 0
notification_requests{status="Sending"} 0
notification_requests{status="Sent"} 4
notification_requests{status="Suppressed"} 0
notification_requests{status="Suspended"} 0
# HELP notification_requests_acknowledgement_waiting Requests with a message that was sent and that somebody has yet to acknowledge.
# TYPE notification_requests_acknowledgement_waiting gauge
notification_requests_acknowledgement_waiting 1
# HELP notification_requests_audit_pending Requests with events that are not recorded in DataStorage yet.
# TYPE notification_requests_audit_pending gauge
notification_requests_audit_pending 4
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestMetricsAreNamedAsPrometheusWantsThem(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newStateCollector(fake.NewClientBuilder().WithScheme(testScheme(t)).Build(), func() int { return 0 }))
	m := NewMetrics(registry)
	m.attempts.WithLabelValues("Webhook", "Sent", "").Inc()
	m.deliveries.WithLabelValues("Webhook", "Sent").Inc()
	m.acknowledgements.Inc()
	m.escalations.WithLabelValues("Unanswered").Inc()
	m.duration.WithLabelValues("Webhook").Observe(1)
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "problems", len(problems), 0)
}
