package audit

import (
	"context"
	"fmt"
	"net/http"
	"sync"
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
)

// Gate holds a controller's workers back until DataStorage is ready once, and
// then stays open. It is a source that brings no requests: a controller that
// watches it starts no worker before WaitForSync has returned. The controller's
// CacheSyncTimeout ends that wait with an error and with it the process, so it
// must be set to longer than anybody waits.
type Gate struct {
	ready func(context.Context) error
	log   logr.Logger

	mu   sync.Mutex
	open bool
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
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if open {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	if err := g.ready(ctx); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	return nil
}
