package datastorage

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

type metrics struct {
	requests   *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	batchSize  prometheus.Histogram
	stored     prometheus.Counter
	duplicates prometheus.Counter
	conflicts  prometheus.Counter
	rejected   prometheus.Counter
}

func newMetrics(registry *prometheus.Registry) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "datastorage_http_requests_total",
			Help: "HTTP requests by route, method and status code.",
		}, []string{"route", "method", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "datastorage_http_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 11),
		}, []string{"route", "method"}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "datastorage_batch_size_events",
			Help:    "Events in each stored batch.",
			Buckets: []float64{1, 3, 10, 30, 100, 300, 1000},
		}),
		stored:     counter("datastorage_events_stored_total", "Events that were added to the log."),
		duplicates: counter("datastorage_events_duplicate_total", "Events that the log already had with the same content."),
		conflicts:  counter("datastorage_events_conflict_total", "Events refused because their ID is taken by other content."),
		rejected:   counter("datastorage_events_rejected_total", "Events refused because they break a rule."),
	}
	registry.MustRegister(m.requests, m.durations, m.batchSize, m.stored, m.duplicates, m.conflicts, m.rejected,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) countAppended(appended []Appended) {
	m.batchSize.Observe(float64(len(appended)))
	for _, a := range appended {
		if a.Duplicate {
			m.duplicates.Inc()
		} else {
			m.stored.Inc()
		}
	}
}
