package audit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

const (
	gatePoll    = 500 * time.Millisecond
	gateTimeout = 2 * time.Second
	gateLog     = 5 * time.Second
	// freshFor is how long Fresh goes by one good answer.
	freshFor = time.Second
)

// Gate holds a controller's workers back until DataStorage is ready once, and
// then stays open. It is a source that brings no requests: a controller that
// watches it starts no worker before WaitForSync has returned. The controller's
// CacheSyncTimeout ends that wait with an error and with it the process, so it
// must be set to longer than anybody waits.
type Gate struct {
	ready func(context.Context) error
	log   logr.Logger

	open  atomic.Bool
	mu    sync.Mutex
	asked *question // the latest of Fresh
}

// question is one question to DataStorage that any number of callers wait for.
type question struct {
	done chan struct{} // closed once the others are set
	at   time.Time
	err  error
}

var _ source.SyncingSource = (*Gate)(nil)

// NewGate returns a closed gate. ready asks DataStorage once; its error is the
// reason that people are told.
func NewGate(ready func(context.Context) error, log logr.Logger) *Gate {
	return &Gate{ready: ready, log: log.WithName("datastorage-gate")}
}

// String names the gate in the controller's log.
func (g *Gate) String() string { return "DataStorage readiness gate" }

// Start implements source.Source.
func (g *Gate) Start(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	return nil
}

// WaitForSync returns nil once DataStorage is ready. It returns an error only
// when ctx ends, since a nil would let the workers go.
func (g *Gate) WaitForSync(ctx context.Context) error {
	start := time.Now()
	var logged time.Time
	for {
		err := g.try(ctx)
		if err == nil {
			g.log.Info("DataStorage is ready, the workers start", "waited", time.Since(start).String())
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for DataStorage: %w", ctx.Err())
		}
		if time.Since(logged) >= gateLog {
			logged = time.Now()
			g.log.Info("Waiting for DataStorage before any request is handled", "reason", err.Error(), "waited", time.Since(start).String())
		}
		if !pause(ctx, gatePoll, nil) {
			return fmt.Errorf("wait for DataStorage: %w", ctx.Err())
		}
	}
}

// Check is a readiness check: it fails with the reason while the gate is closed.
// It asks DataStorage itself, since on a replica that is not the leader nothing
// else does.
func (g *Gate) Check(req *http.Request) error {
	if err := g.try(req.Context()); err != nil {
		return fmt.Errorf("wait for DataStorage: %w", err)
	}
	return nil
}

func (g *Gate) try(ctx context.Context) error {
	if g.open.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	if err := g.ready(ctx); err != nil {
		return err
	}
	g.open.Store(true)
	return nil
}

// Fresh returns nil where DataStorage has said within the last second that it is
// ready, and otherwise why it is not known to be. Only a call asks, for all who
// call at the same time, and takes no longer than two seconds. The workers' gate
// has no part in it.
func (g *Gate) Fresh(ctx context.Context) error {
	g.mu.Lock()
	q := g.asked
	if q == nil || q.over() && (q.err != nil || time.Since(q.at) >= freshFor) {
		q = &question{done: make(chan struct{})}
		g.asked = q
		go func() {
			// The others wait on when the caller who happened to come first does not.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateTimeout)
			defer cancel()
			q.err, q.at = g.ready(ctx), time.Now()
			close(q.done)
		}()
	}
	g.mu.Unlock()
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return fmt.Errorf("ask DataStorage whether it is ready: %w", ctx.Err())
	}
}

func (q *question) over() bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// Outage returns why what is recorded now would not reach DataStorage, as far as
// the answers to the events that wait tell, and nil where none waits. Whoever
// calls it knows DataStorage to be ready, so events in the DLQ are sent at once,
// unless DataStorage has asked for a pause.
func (s *Store) Outage() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts.Buffered+s.counts.DeadLettered == s.counts.Aside || !s.outage.down && s.outage.denied == nil {
		return nil
	}
	if s.outage.down && time.Now().After(s.outage.until) {
		signal(s.recovered)
	}
	if s.outage.denied != nil {
		return s.outage.denied
	}
	return errors.New("write audit events: the last ones are not answered yet")
}
