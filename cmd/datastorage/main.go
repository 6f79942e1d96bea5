// Command datastorage stores audit events and serves them over HTTP.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/postgres"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/verify"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "datastorage:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "verify" {
		return verify.Main(ctx, os.Args[2:], os.Stdout, os.Stderr, map[string]datastorage.ReadOpener{
			"sqlite":     sqlite.OpenReader,
			"postgres":   postgres.OpenReader,
			"postgresql": postgres.OpenReader,
		})
	}
	// What lives is a few megabytes, and a busy log allocates that many times a
	// second: each collection would be soon followed by the next, and queries wait
	// for the processor. GOMEMLIMIT bounds it nevertheless.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	return datastorage.Main(ctx, os.Args[1:], os.Stdout, os.Stderr, map[string]datastorage.Opener{
		"sqlite":     sqlite.Open,
		"postgres":   postgres.Open,
		"postgresql": postgres.Open,
	})
}
