package datastorage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/datastorage/kubeauth"
	"kubernaut.ai/notification/internal/httpserver"
	"kubernaut.ai/notification/internal/version"
)

const (
	minOpenDelay = 250 * time.Millisecond
	maxOpenDelay = 5 * time.Second
	// finishTimeout is how long requests in flight may take at the end. It is
	// longer than storeTimeout, so that a write under way is answered.
	finishTimeout = storeTimeout + 5*time.Second
)

// Run serves until ctx ends, then finishes the requests in flight. It listens
// only once a write has been committed, so that nobody meets a server that
// cannot store. While the database does not answer it waits, however long.
func Run(ctx context.Context, opts Options) (err error) {
	store, closeStore, err := openStore(ctx, opts)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it waited
		}
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()

	var auth Authorizer
	if opts.Auth == "kubernetes" {
		if auth, err = kubeauth.New(); err != nil {
			return fmt.Errorf("set up --auth=kubernetes: %w", err)
		}
		if opts.TLSCertDir == "" {
			opts.Log.Info("Tokens and events cross the network in the clear, because --tls-cert-dir is not set")
		}
	}
	logging := logr.NewContext(ctx, opts.Log)
	key, err := loadKey(logging, opts.SigningKey, store)
	if err != nil {
		return err
	}
	events, err := OpenLog(logging, store, key)
	if err != nil {
		return err
	}
	defer events.Close()
	opts.Log.Info("The log is open", "publicKey", key.Verifier())
	retaining, stopRetaining := context.WithCancel(logging)
	var retain sync.WaitGroup
	retain.Go(func() { events.retain(retaining, opts.RetentionDays) })
	defer retain.Wait()
	defer stopRetaining()
	api := NewAPI(events, auth, opts.Log)
	server := httpserver.New(api, opts.Log)
	watch, stopWatch := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatch()
	if opts.TLSCertDir != "" {
		if server.TLSConfig, err = httpserver.TLS(logr.NewContext(watch, opts.Log), opts.TLSCertDir); err != nil {
			return fmt.Errorf("set up --tls-cert-dir: %w", err)
		}
	}
	return serve(ctx, server, api, opts)
}

// Migrate brings the database's schema up to date and returns.
func Migrate(ctx context.Context, opts Options) error {
	_, closeStore, err := openStore(ctx, opts)
	if err != nil {
		return err
	}
	opts.Log.Info("Schema is up to date")
	return closeStore()
}

// serve listens, serves until ctx ends and then shuts down.
func serve(ctx context.Context, server *http.Server, api *API, opts Options) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", opts.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	opts.Log.Info("Serving", "version", version.Name(), "address", listener.Addr().String(), "auth", opts.Auth, "tls", server.TLSConfig != nil)
	if server.TLSConfig != nil {
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if opts.Listening != nil {
		opts.Listening(listener.Addr())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	opts.Log.Info("Shutting down", "drainDelay", opts.DrainDelay)
	api.Drain()
	<-time.After(opts.DrainDelay)
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := server.Shutdown(finish); err != nil {
		return errors.Join(fmt.Errorf("finish requests: %w", err), server.Close())
	}
	opts.Log.Info("Stopped")
	return nil
}

// openStore opens the database and commits a write to it. It tries again until
// that works, the error is one that time does not heal, or ctx ends.
func openStore(ctx context.Context, opts Options) (Store, func() error, error) {
	open, err := opts.opener()
	if err != nil {
		return nil, nil, err
	}
	for delay := minOpenDelay; ; delay = min(2*delay, maxOpenDelay) {
		store, closeStore, err := open(ctx, opts.DatabaseURL, opts.UnsafeNoSync)
		if err == nil {
			if err = store.CheckWrite(ctx); err == nil {
				return store, closeStore, nil
			}
			err = errors.Join(err, closeStore())
		}
		if errors.Is(err, ErrConfig) {
			return nil, nil, fmt.Errorf("open database: %w", err)
		}
		opts.Log.Info("Waiting for the database", "reason", err.Error(), "nextTryIn", delay)
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for database: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(delay):
		}
	}
}
