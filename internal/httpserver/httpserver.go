// Package httpserver has what the project's HTTP servers have in common.
package httpserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

// New returns a server that no client can hold on to for nothing.
func New(handler http.Handler, log logr.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		// Common clients drop an idle connection after 90 s. Whoever closes last
		// never sees a request cut off by the other's close.
		IdleTimeout:    120 * time.Second,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(logr.ToSlogHandler(log.V(1)), slog.LevelInfo),
	}
}

// Loopback reports whether a host is this machine alone.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// TLS serves the certificate in the directory, tls.crt and tls.key, as it is at
// each handshake, until ctx ends. What goes wrong then goes to the logger that ctx
// has.
func TLS(ctx context.Context, directory string) (*tls.Config, error) {
	watcher, err := certwatcher.New(filepath.Join(directory, "tls.crt"), filepath.Join(directory, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	go func() {
		if err := watcher.Start(ctx); err != nil {
			logr.FromContextOrDiscard(ctx).Error(err, "Watching the certificate failed")
		}
	}()
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: watcher.GetCertificate,
		NextProtos:     []string{"http/1.1"},
	}, nil
}
