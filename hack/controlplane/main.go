// Command controlplane prints the directory that holds an etcd and a
// kube-apiserver, for KUBEBUILDER_ASSETS. The first time it builds both from
// their Go modules, which takes some minutes; after that they come from the
// user's cache directory. Progress and errors go to standard error.
//
//	go -C hack/controlplane run .
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

var binaries = []string{"etcd", "kube-apiserver"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	dir, err := assets(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}

func assets(ctx context.Context) (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("KUBEBUILDER_ASSETS is %q: it must be an absolute path", dir)
		}
		if name := missing(dir); name != "" {
			return "", fmt.Errorf("KUBEBUILDER_ASSETS is %s, which has no executable %s: put it there, or unset the variable to have it built", dir, name)
		}
		return dir, nil
	}
	key, err := cacheKey()
	if err != nil {
		return "", fmt.Errorf("%w: start it with `go -C hack/controlplane run .`", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w: set HOME or XDG_CACHE_HOME, or KUBEBUILDER_ASSETS", err)
	}
	dir := filepath.Join(cache, "kubernaut-notification", "controlplane", key)
	if missing(dir) == "" {
		return dir, nil
	}
	return dir, fillOnce(ctx, dir, build)
}
