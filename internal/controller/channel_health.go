package controller

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// healthInterval is how far the last success and the last failure in a channel's
// status may be behind, so that a busy channel is not written for each message.
const healthInterval = 30 * time.Second

// ChannelHealth keeps what became of the messages on each channel, and what follows
// from it for the next ones, until it is in the channel's status.
type ChannelHealth struct {
	wake waker
	// opened tells that a channel may be used again. It is set before the start.
	opened func(types.NamespacedName)

	mu sync.Mutex
	m  map[types.NamespacedName]*health
}

type health struct {
	success   time.Time
	failure   time.Time
	err       v1alpha1.DeliveryError
	scheduled bool
	gate      gate
	probe     *probe
}

func (h *ChannelHealth) of(channel types.NamespacedName) *health {
	if h.m == nil {
		h.m = map[types.NamespacedName]*health{}
	}
	if h.m[channel] == nil {
		h.m[channel] = &health{}
	}
	return h.m[channel]
}

// use lets f use a channel's gate. Where it changes the circuit, the channel's
// status is brought up to date at once.
func (h *ChannelHealth) use(channel types.NamespacedName, f func(*gate)) {
	if channel == consoleKey { // no object could tell of it, or limit it
		f(&gate{})
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g := &h.of(channel).gate
	before := g.circuit
	if f(g); g.circuit != before {
		h.wake.request(channel)
	}
}

// note takes the outcome of an attempt. It does not block.
func (h *ChannelHealth) note(channel types.NamespacedName, o outcome) {
	h.use(channel, func(g *gate) { g.judge(o) })
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.of(channel)
	if o.err == nil {
		c.success = o.finished
	} else {
		c.failure = o.finished
		c.err = deliveryError(o.err)
	}
	if !c.scheduled {
		c.scheduled = true
		h.wake.request(channel)
	}
}

// apply brings what is old enough to a channel's status and returns when to do
// so again, 0 where status is up to date.
func (h *ChannelHealth) apply(object *v1alpha1.NotificationChannel, now time.Time) (again time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	status := &object.Status
	c := h.m[client.ObjectKeyFromObject(object)]
	if c != nil {
		c.gate.apply(status, now)
	}
	if status.Circuit.State == "" {
		status.Circuit.State = v1alpha1.CircuitClosed
	}
	if c == nil {
		return 0
	}
	c.scheduled = false
	due := func(latest time.Time, held *metav1.Time) bool {
		if latest.IsZero() || held != nil && !latest.Truncate(time.Second).After(held.Time) {
			return false
		}
		if held != nil && now.Sub(held.Time) < healthInterval {
			c.scheduled = true
			again = sooner(again, healthInterval-now.Sub(held.Time))
			return false
		}
		return true
	}
	if due(c.success, status.LastSuccessTime) {
		status.LastSuccessTime = second(c.success)
	}
	if due(c.failure, status.LastFailure.Time) {
		status.LastFailure = v1alpha1.ChannelFailure{Time: second(c.failure), Error: c.err}
	}
	return again
}

func (h *ChannelHealth) drop(channel types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m, channel)
}
