package controller

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// Metrics are what the controller counts.
type Metrics struct {
	attempts   *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	redactions *prometheus.CounterVec
	templates  *prometheus.CounterVec

	acknowledgements prometheus.Counter
	escalations      *prometheus.CounterVec
}

// NewMetrics registers the counters.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notification_delivery_attempts_total",
			Help: "Attempts to send a message, by the channel's type, the outcome (Sent or the error's class) and the error's reason.",
		}, []string{"channel_type", "outcome", "reason"}),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notification_deliveries_total",
			Help: "Deliveries that ended, by the channel's type and final state.",
		}, []string{"channel_type", "state"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "notification_delivery_attempt_duration_seconds",
			Help:    "How long attempts took.",
			Buckets: []float64{.001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"channel_type"}),
		redactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notification_redactions_total",
			Help: "Secrets that were masked in messages, by kind. Those of a request count once, however often it is sent.",
		}, []string{"kind"}),
		templates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notification_template_failures_total",
			Help: "Deliveries for which the channel's template could not be used, by the channel's type.",
		}, []string{"channel_type"}),
	}
	m.acknowledgements = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "notification_acknowledgements_total",
		Help: "Requests that a person has acknowledged.",
	})
	m.escalations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "notification_escalations_total",
		Help: "Requests that went to further channels, by the reason: Unanswered or NotReached.",
	}, []string{"reason"})
	registry.MustRegister(m.attempts, m.deliveries, m.duration, m.redactions, m.templates, m.acknowledgements, m.escalations)
	return m
}

// stateCollector counts requests by what their status says, at each scrape, so
// that its figures cannot drift from the objects.
type stateCollector struct {
	reader  client.Reader
	running func() int

	requests  *prometheus.Desc
	ambiguous *prometheus.Desc
	pending   *prometheus.Desc
	waiting   *prometheus.Desc
	inFlight  *prometheus.Desc
	postponed *prometheus.Desc
	circuits  *prometheus.Desc
}

func newStateCollector(reader client.Reader, running func() int) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &stateCollector{
		reader:    reader,
		running:   running,
		requests:  desc("notification_requests", "Requests by the reason of their Ready condition.", "status"),
		ambiguous: desc("notification_deliveries_ambiguous", "Deliveries in doubt that wait for a person."),
		pending:   desc("notification_requests_audit_pending", "Requests with events that are not recorded in DataStorage yet."),
		waiting:   desc("notification_requests_acknowledgement_waiting", "Requests with a message that was sent and that somebody has yet to acknowledge."),
		inFlight:  desc("notification_delivery_attempts_in_flight", "Attempts that this process is making now."),
		postponed: desc("notification_deliveries_postponed", "Deliveries that a channel holds back, by the reason.", "reason"),
		circuits:  desc("notification_channel_circuits", "Channels by the state of their circuit.", "state"),
	}
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.ambiguous, c.pending, c.waiting, c.inFlight, c.postponed, c.circuits} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(c.inFlight, prometheus.GaugeValue, float64(c.running()))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c.collectCircuits(ctx, ch)
	var list v1alpha1.NotificationRequestList
	if err := c.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(c.requests, err)
		return
	}
	byStatus := map[string]int{
		v1alpha1.ReasonPending: 0, v1alpha1.ReasonSending: 0, v1alpha1.ReasonRetrying: 0, v1alpha1.ReasonSuspended: 0,
		v1alpha1.ReasonSent: 0, v1alpha1.ReasonPartiallySent: 0, v1alpha1.ReasonFailed: 0, v1alpha1.ReasonSuppressed: 0,
		v1alpha1.ReasonDryRun: 0, v1alpha1.ReasonDryRunFailed: 0,
	}
	postponedBy := map[string]int{}
	for _, reason := range postponements {
		postponedBy[reason] = 0
	}
	var ambiguous, pending, waiting int
	for i := range list.Items {
		status := &list.Items[i].Status
		reason := v1alpha1.ReasonPending
		if ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); ready != nil {
			reason = ready.Reason
		}
		byStatus[reason]++
		for _, d := range status.Deliveries {
			if d.State == v1alpha1.DeliveryAmbiguous {
				ambiguous++
			}
			if postponed(&d) && !d.State.Final() {
				postponedBy[d.LastError.Reason]++
			}
		}
		if countAudit(status, v1alpha1.AuditPending) > 0 {
			pending++
		}
		if asks(&list.Items[i]) && status.Acknowledgement.Time == nil && status.FinishedTime == nil && firstSent(status) != nil {
			waiting++
		}
	}
	for status, n := range byStatus {
		ch <- prometheus.MustNewConstMetric(c.requests, prometheus.GaugeValue, float64(n), status)
	}
	for reason, n := range postponedBy {
		ch <- prometheus.MustNewConstMetric(c.postponed, prometheus.GaugeValue, float64(n), reason)
	}
	ch <- prometheus.MustNewConstMetric(c.ambiguous, prometheus.GaugeValue, float64(ambiguous))
	ch <- prometheus.MustNewConstMetric(c.pending, prometheus.GaugeValue, float64(pending))
	ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(waiting))
}

func (c *stateCollector) collectCircuits(ctx context.Context, ch chan<- prometheus.Metric) {
	var list v1alpha1.NotificationChannelList
	if err := c.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(c.circuits, err)
		return
	}
	byState := map[v1alpha1.CircuitState]int{v1alpha1.CircuitClosed: 0, v1alpha1.CircuitOpen: 0, v1alpha1.CircuitHalfOpen: 0}
	for i := range list.Items {
		state := list.Items[i].Status.Circuit.State
		if state == "" { // nobody has looked at it
			state = v1alpha1.CircuitClosed
		}
		byState[state]++
	}
	for state, n := range byState {
		ch <- prometheus.MustNewConstMetric(c.circuits, prometheus.GaugeValue, float64(n), string(state))
	}
}
