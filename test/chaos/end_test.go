package chaos

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// rest ends all faults. The managers start once more, with right clocks, and offer
// what DataStorage has rejected again.
func (w *world) rest() {
	for _, r := range w.replicas {
		r.process.Kill()
		_ = os.Remove(r.step)
		r.process.Restart()
	}
}

// settle waits until all requests are done with, for as long as is allowed.
func (w *workload) settle(within time.Duration, progress func(string)) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	said := time.Now()
	for {
		if made, done := w.counts(); made == done {
			return
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			progress("settling")
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return
		}
	}
}

// fresh sends one request more, when all is quiet.
func (w *world) fresh() *obligation {
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "fresh", Namespace: w.namespace},
		Spec: v1alpha1.NotificationRequestSpec{
			Subject: "All is quiet", Body: "A body.", CorrelationID: "fresh", OnAmbiguous: v1alpha1.AmbiguousRetry,
			Channels: []v1alpha1.ChannelReference{{Name: chConsole}, {Name: chFile}, {Name: chIdempotent}, {Name: chPlain}},
		},
	}
	w.create(nr)
	o := &obligation{
		name: nr.Name, correlation: nr.Name, uid: nr.UID, onAmbiguous: nr.Spec.OnAmbiguous, seen: seen{last: nr},
		expected: expected{named: []string{chConsole, chFile, chIdempotent, chPlain}},
	}
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	for !o.done() && ctx.Err() == nil {
		current := &v1alpha1.NotificationRequest{}
		if w.kube.Get(ctx, client.ObjectKeyFromObject(nr), current) == nil {
			o.last = current
		}
		<-time.After(50 * time.Millisecond)
	}
	return o
}

// told returns what the managers told Kubernetes in Events.
func (w *world) told() string {
	var list eventsv1.EventList
	if err := w.kube.List(w.Context(), &list, client.InNamespace(w.namespace)); err != nil {
		w.Error(err)
	}
	var text strings.Builder
	for _, e := range list.Items {
		text.WriteString(e.Note + "\n")
	}
	return text.String()
}

// written returns what the programs leave on disk for themselves.
func (w *world) written() (texts []string) {
	for _, pattern := range []string{"datastorage.db*", "dlq-*/*/*"} {
		paths, err := filepath.Glob(filepath.Join(w.dir, pattern))
		if err != nil {
			w.Error(err)
		}
		for _, path := range paths {
			if text, err := os.ReadFile(path); err == nil { // or it is a directory
				texts = append(texts, string(text))
			}
		}
	}
	return texts
}

// drained waits until the managers have passed on the events that they have in memory,
// and returns the figures that have to be 0 then. It is for before they start again: what
// a process has lost status makes good in the next.
func (w *world) drained() map[string]float64 {
	for end := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
		all := w.conserved("last of those that were killed", "conservation_difference", "buffered_events")
		if time.Now().After(end) || !slices.ContainsFunc(slices.Collect(maps.Values(all)), func(n float64) bool { return n != 0 }) {
			return all
		}
	}
}

// conserved returns figures of the managers that have to be 0.
func (w *world) conserved(of string, names ...string) map[string]float64 {
	all := map[string]float64{}
	for i, r := range w.replicas {
		for _, name := range names {
			value, err := r.metric("notification_audit_" + name)
			if err != nil {
				value = math.NaN() // it is about to start, or does not
			}
			all[fmt.Sprintf("%s of manager %d, the %s,", name, i, of)] = value
		}
	}
	return all
}

// finish stops the managers in good order and returns what they have printed.
func (w *world) finish() (logs []string) {
	for _, r := range w.replicas {
		r.process.Stop(time.Minute)
		logs = append(logs, r.process.Log())
	}
	return logs
}

// history is what has happened to the requests, and ends DataStorage.
func (w *world) history(obligations []*obligation, logs []string) history {
	h := history{
		obligations: obligations, performed: w.sinks.count(w, w.dir+"/files", logs),
		events: w.data.Events(w), closed: dropped(w, logs), posted: w.slack.Messages(), arrived: w.sinks.arrivals(),
		texts: append(logs, w.storage.Log(), w.told()), secrets: secrets,
	}
	h.countPosted()
	if !w.steps {
		h.early, h.timeouts, h.quiet = w.sinks.early, w.timeouts(), w.quiet
	}
	w.storage.Kill()
	h.texts = append(h.texts, w.written()...)
	return h
}

var droppedCount = regexp.MustCompile(`"dropped_count":(\d+)`)

// dropped returns what each audit store that was closed said that it had dropped.
func dropped(t testing.TB, logs []string) (counts []int) {
	t.Helper()
	for _, printed := range logs {
		for _, found := range droppedCount.FindAllStringSubmatch(printed, -1) {
			n, err := strconv.Atoi(found[1])
			if err != nil {
				t.Error(err)
			}
			counts = append(counts, n)
		}
	}
	if len(counts) < len(logs) {
		t.Errorf("%d audit stores say what they dropped, of %d", len(counts), len(logs))
	}
	return counts
}
