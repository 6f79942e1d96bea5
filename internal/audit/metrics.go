package audit

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are the store's counts at one moment. They are events unless they say
// otherwise, and start with the process; what an earlier process left in the
// DLQ counts as recorded.
type Stats struct {
	Recorded     int // taken on, each ID once while the store holds it
	Committed    int // acknowledged by DataStorage
	Buffered     int // in memory, those in flight included
	InFlight     int // batches
	DeadLettered int // in the DLQ, to be sent again or unreadable
	Aside        int // the unreadable part of DeadLettered
	Rejected     int // in the DLQ, on the rejected side

	Merged        int // taken back from Recorded: copies in the DLQ, and what another process took over
	Duplicates    int // committed events that DataStorage held already
	Rejections    int // events moved to the rejected side; one that is rejected again for the same reason is not counted again
	Conflicts     int // the part of Rejections where DataStorage holds the ID with other facts
	Spilled       int // put into the DLQ
	Replayed      int // committed from the DLQ
	Retried       int // requests that repeated a failed one
	FailedBatches int // batches that DataStorage did not take and that went to the DLQ

	OldestDeadLetter time.Time // zero where the DLQ has none
}

// Difference is what the store cannot account for. It is 0 at all times.
func (s Stats) Difference() int {
	return s.Recorded - s.Committed - s.Buffered - s.DeadLettered - s.Rejected
}

// metrics exports the store's counts as of the moment of the scrape, all from
// one snapshot, so that they add up there too.
type metrics struct {
	stats   func() Stats
	size    prometheus.Histogram
	seconds *prometheus.HistogramVec
}

type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(Stats) int
}

// figures are exported from Stats.
var figures = []figure{
	counter("recorded_total", "Audit events taken on, copies of one event included.", func(s Stats) int { return s.Recorded + s.Merged }),
	counter("merged_total", "Audit events of which a copy waited in the dead-letter queue, or that another process took over from there.", func(s Stats) int { return s.Merged }),
	counter("committed_total", "Audit events that DataStorage acknowledged.", func(s Stats) int { return s.Committed }),
	counter("duplicates_total", "Acknowledged audit events that DataStorage held already.", func(s Stats) int { return s.Duplicates }),
	counter("rejected_total", "Audit events that DataStorage rejected and that are kept with its reason.", func(s Stats) int { return s.Rejections }),
	counter("conflicts_total", "Rejected audit events whose ID DataStorage holds with other facts.", func(s Stats) int { return s.Conflicts }),
	counter("spilled_total", "Audit events put into the dead-letter queue.", func(s Stats) int { return s.Spilled }),
	counter("replayed_total", "Audit events committed from the dead-letter queue.", func(s Stats) int { return s.Replayed }),
	counter("retries_total", "Requests to DataStorage that repeated a failed one.", func(s Stats) int { return s.Retried }),
	counter("failed_batches_total", "Batches that DataStorage did not take and that went to the dead-letter queue.", func(s Stats) int { return s.FailedBatches }),
	gauge("buffered_events", "Audit events in memory, those in flight included.", func(s Stats) int { return s.Buffered }),
	gauge("in_flight_batches", "Batches of new audit events in flight.", func(s Stats) int { return s.InFlight }),
	gauge("dead_letters", "Audit events in the dead-letter queue, without the rejected ones.", func(s Stats) int { return s.DeadLettered }),
	gauge("unreadable_dead_letters", "Dead letters that cannot be read and are kept for a person.", func(s Stats) int { return s.Aside }),
	gauge("rejected_events", "Rejected audit events in the dead-letter queue, which are offered again from time to time.", func(s Stats) int { return s.Rejected }),
	gauge("conservation_difference", "Recorded less committed, buffered, dead-lettered and rejected audit events; anything but 0 is a fault of the program.", Stats.Difference),
}

var oldestDesc = prometheus.NewDesc("notification_audit_oldest_dead_letter_age_seconds",
	"Age of the oldest audit event that waits in the dead-letter queue, 0 where there is none.", nil, nil)

func counter(name, help string, value func(Stats) int) figure {
	return figure{prometheus.NewDesc("notification_audit_"+name, help, nil, nil), prometheus.CounterValue, value}
}

func gauge(name, help string, value func(Stats) int) figure {
	return figure{prometheus.NewDesc("notification_audit_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

func newMetrics(stats func() Stats) *metrics {
	return &metrics{
		stats: stats,
		size: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "notification_audit_batch_events",
			Help:    "Audit events in one request to DataStorage.",
			Buckets: []float64{1, 10, 50, 100, 250, 500, 1000},
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "notification_audit_post_duration_seconds",
			Help:    "Time that one request to DataStorage took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 11),
		}, []string{"outcome"}),
	}
}

// observe notes one request. An answer other than 2xx, or none, is a failure.
func (m *metrics) observe(size int, took time.Duration, err error) {
	outcome := "success"
	if err != nil {
		outcome = "failure"
	}
	m.size.Observe(float64(size))
	m.seconds.WithLabelValues(outcome).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range figures {
		ch <- f.desc
	}
	ch <- oldestDesc
	m.size.Describe(ch)
	m.seconds.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	stats := m.stats()
	for _, f := range figures {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(f.value(stats)))
	}
	age := 0.0
	if !stats.OldestDeadLetter.IsZero() {
		age = time.Since(stats.OldestDeadLetter).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age)
	m.size.Collect(ch)
	m.seconds.Collect(ch)
}

// registerWitness exports what the witness knows as of the moment of the scrape.
func registerWitness(registry prometheus.Registerer, w *Witness) error {
	return errors.Join(
		registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "notification_audit_log_contradictions_total",
			Help: "Times that DataStorage's log was not what it had been.",
		}, func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return float64(w.contradictions)
		})),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "notification_audit_log_size",
			Help: "Events in DataStorage's log by the newest checkpoint that is proven, 0 where there is none.",
		}, func() float64 {
			_, newest := w.known()
			return float64(newest.Size)
		})),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "notification_audit_log_checkpoint_age_seconds",
			Help: "Age of the newest checkpoint that is proven, 0 where there is none.",
		}, func() float64 {
			_, newest := w.known()
			if newest.Time.IsZero() {
				return 0
			}
			return time.Since(newest.Time).Seconds()
		})),
	)
}
