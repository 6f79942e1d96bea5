package controller

import (
	"strings"
	"testing"
	"time"

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
	turn := gate{limit: limit{time.Minute, 1}, text: "1 in 1m", full: born.Add(time.Hour)}
	add("in line", func(l *lab) {
		l.plan()
		postpone(l.delivery(ops), turn.wait(0, l.now).err, born.Add(time.Hour))
	})
	objects = append(objects, newRequest(), newChannel(), // never looked at
		newChannel(func(c *v1alpha1.NotificationChannel) {
			c.Name, c.Status.Circuit = "broken", failing(t, transient()).circuit
		}))
	reader := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).Build()
	c := newStateCollector(reader, func() int { return 3 })
	want := `
# HELP notification_channel_circuits Channels by the state of their circuit.
# TYPE notification_channel_circuits gauge
notification_channel_circuits{state="Closed"} 1
notification_channel_circuits{state="HalfOpen"} 0
notification_channel_circuits{state="Open"} 1
# HELP notification_deliveries_postponed Deliveries that a channel holds back, by the reason.
# TYPE notification_deliveries_postponed gauge
notification_deliveries_postponed{reason="ChannelRateLimit"} 1
notification_deliveries_postponed{reason="ChannelThrottled"} 0
notification_deliveries_postponed{reason="CircuitOpen"} 0
# HELP notification_deliveries_ambiguous Deliveries in doubt that wait for a person.
# TYPE notification_deliveries_ambiguous gauge
notification_deliveries_ambiguous 1
# HELP notification_delivery_attempts_in_flight Attempts that this process is making now.
# TYPE notification_delivery_attempts_in_flight gauge
notification_delivery_attempts_in_flight 3
# HELP notification_requests Requests by the reason of their Ready condition.
# TYPE notification_requests gauge
notification_requests{status="DryRun"} 0
notification_requests{status="DryRunFailed"} 0
notification_requests{status="Failed"} 0
notification_requests{status="PartiallySent"} 0
notification_requests{status="Pending"} 4
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
