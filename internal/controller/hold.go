package controller

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
)

// holdPoll is how often is asked for the end of an outage that requests wait for.
const holdPoll = 500 * time.Millisecond

// hold keeps attempts back while what they do could not be recorded. Status says
// of each delivery why it waits; what is kept here only tells whom to wake.
type hold struct {
	// ask returns why nothing could be recorded now.
	ask func(context.Context) error
	// wake has a request looked at again. It does not block and calls nothing here.
	wake  func(types.NamespacedName)
	begun chan struct{} // word that requests wait

	mu      sync.Mutex
	reason  error // as last heard, nil while no request waits
	waiting map[types.NamespacedName]struct{}
}

func newHold(ask func(context.Context) error, wake func(types.NamespacedName)) *hold {
	return &hold{ask: ask, wake: wake, begun: make(chan struct{}, 1), waiting: map[types.NamespacedName]struct{}{}}
}

// check returns why no attempt may begin now, zero where one may. A request that
// has to wait is woken when that is over. While others wait nothing is asked, so
// that a DataStorage that hangs holds up no worker.
func (h *hold) check(ctx context.Context, request types.NamespacedName) v1alpha1.DeliveryError {
	if h.ask == nil {
		return v1alpha1.DeliveryError{}
	}
	h.mu.Lock()
	err := h.reason
	h.mu.Unlock()
	if err == nil {
		err = h.ask(ctx)
	}
	if err == nil {
		return v1alpha1.DeliveryError{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reason == nil {
		h.reason = err
		log.FromContext(ctx).Info("No attempt begins until DataStorage can record it", "reason", err.Error())
		select {
		case h.begun <- struct{}{}:
		default: // word is there already
		}
	}
	h.waiting[request] = struct{}{}
	return hindrance(v1alpha1.ErrorTransient, reasonAuditOutage, "nothing is sent while DataStorage cannot record it: %v", h.reason)
}

// watch asks for the end of each outage and wakes who waits for it, until ctx ends.
func (h *hold) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.begun:
		}
		for start, over := time.Now(), false; !over; {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(holdPoll):
			}
			var n int
			if n, over = h.look(ctx); over {
				log.FromContext(ctx).Info("Attempts begin again", "outage", time.Since(start).String(), "requests", n)
			}
		}
	}
}

// look asks once, and where the outage is over returns how many requests it woke.
func (h *hold) look(ctx context.Context) (woken int, over bool) {
	err := h.ask(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reason = err
	if err != nil {
		return 0, false
	}
	woken = len(h.waiting)
	for request := range h.waiting {
		h.wake(request)
	}
	clear(h.waiting)
	return woken, true
}
