package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// missing names the first binary that dir does not hold, or is empty.
func missing(dir string) string {
	for _, name := range binaries {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return name
		}
	}
	return ""
}

// cacheKey changes with everything that the two binaries are made of.
func cacheKey() (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "build.go", "cmd/etcd/main.go", "cmd/kube-apiserver/main.go"} {
		content, err := os.ReadFile(filepath.FromSlash(name))
		if err != nil {
			return "", fmt.Errorf("read the module to build: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(content), content)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), nil
}

// fillOnce has fill fill dir as a whole or not at all, however many processes
// want it at the same time and wherever one of them is interrupted.
func fillOnce(ctx context.Context, dir string, fill func(ctx context.Context, dir string) error) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("create the cache directory: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("open the lock: %w", err)
	}
	defer lock.Close()
	// The kernel drops the lock with the process, so a killed build leaves none.
	for note := "waiting for another build of the control plane"; ; note = "" {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		if note != "" {
			fmt.Fprintln(os.Stderr, note)
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted")
		case <-time.After(300 * time.Millisecond):
		}
	}
	if missing(dir) == "" {
		return nil
	}
	stale, err := filepath.Glob(dir + ".part*")
	if err != nil {
		return fmt.Errorf("look for interrupted builds: %w", err)
	}
	for _, d := range append(stale, dir) {
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("remove an interrupted build: %w", err)
		}
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".part")
	if err != nil {
		return fmt.Errorf("create the build directory: %w", err)
	}
	defer os.RemoveAll(part)
	if err := fill(ctx, part); err != nil {
		return err
	}
	if err := os.Chmod(part, 0o755); err != nil {
		return fmt.Errorf("open the build to readers: %w", err)
	}
	if err := os.Rename(part, dir); err != nil {
		return fmt.Errorf("keep the build: %w", err)
	}
	return nil
}
