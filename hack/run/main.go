// Command run shows the notification controller at work on this machine: a real
// API server, DataStorage and the manager, one request sent and audited. It
// stays until Ctrl-C, and starts again what somebody kills. With ONCE=1 it kills both
// programs itself and ends, and fails where a request was not sent or not audited
// exactly once.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	os.Exit(run())
}

func run() (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "notification-run-")
	if err == nil {
		d := &demo{dir: dir, ended: make(chan *process, 2)}
		err = errors.Join(d.run(ctx, !slices.Contains([]string{"", "0"}, os.Getenv("ONCE"))), d.stop())
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "run: %v\nrun: the logs are in %s\n", err, dir)
		return 1
	}
	_ = os.RemoveAll(dir)
	return 0
}
