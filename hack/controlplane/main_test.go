package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func write(t *testing.T, mode os.FileMode, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGivenAssetsAreUsedOrRefused(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name, dir, err string
		mode           os.FileMode
		files          []string
	}{
		{name: "complete", dir: dir, mode: 0o755, files: []string{"etcd", "kube-apiserver"}},
		{name: "not executable", dir: dir, mode: 0o644, files: []string{"etcd", "kube-apiserver"}, err: "no executable etcd"},
		{name: "one missing", dir: dir, mode: 0o755, files: []string{"etcd"}, err: "no executable kube-apiserver"},
		{name: "relative", dir: "bin", err: "absolute path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, name := range tc.files {
				path := filepath.Join(dir, name)
				write(t, tc.mode, path)
				t.Cleanup(func() { os.Remove(path) })
			}
			t.Setenv("KUBEBUILDER_ASSETS", tc.dir)
			got, err := assets(t.Context())
			switch {
			case tc.err == "" && (err != nil || got != dir):
				t.Errorf("got %q, %v, want %q", got, err, dir)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("got error %v, want one that says %q", err, tc.err)
			}
		})
	}
}

func TestCacheKeyChangesWithEveryInput(t *testing.T) {
	t.Chdir(t.TempDir())
	inputs := []string{"go.mod", "go.sum", "build.go", "cmd/etcd/main.go", "cmd/kube-apiserver/main.go"}
	write(t, 0o644, inputs...)
	key := func() string {
		k, err := cacheKey()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	seen := map[string]string{key(): "nothing"}
	for _, name := range inputs {
		if err := os.WriteFile(name, []byte("changed"), 0o644); err != nil {
			t.Fatal(err)
		}
		k := key()
		if other, ok := seen[k]; ok {
			t.Errorf("the key is the same after a change to %s as after one to %s", name, other)
		}
		seen[k] = name
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "key")
	broken := errors.New("broken")
	err := fillOnce(t.Context(), dir, func(_ context.Context, part string) error {
		write(t, 0o755, filepath.Join(part, "etcd"))
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v, want the build's error", err)
	}
	left, err := filepath.Glob(dir + "*")
	if err != nil || len(left) != 1 || left[0] != dir+".lock" {
		t.Errorf("left %v (%v), want the lock alone", left, err)
	}
}

func TestKilledBuildIsReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "key")
	write(t, 0o755, filepath.Join(dir, "etcd"), filepath.Join(dir+".part1", "etcd"))
	if err := fillOnce(t.Context(), dir, complete(t)); err != nil {
		t.Fatal(err)
	}
	if name := missing(dir); name != "" {
		t.Errorf("%s is missing", name)
	}
	if _, err := os.Stat(dir + ".part1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the killed build's directory is still there (%v)", err)
	}
}

func TestBuildsAtTheSameTimeBuildOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "key")
	var builds int // guarded by the lock under test
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			err := fillOnce(t.Context(), dir, func(ctx context.Context, part string) error {
				builds++
				return complete(t)(ctx, part)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("built %d times, want once", builds)
	}
}

func complete(t *testing.T) func(context.Context, string) error {
	t.Helper()
	return func(_ context.Context, dir string) error {
		write(t, 0o755, filepath.Join(dir, "etcd"), filepath.Join(dir, "kube-apiserver"))
		return nil
	}
}

func TestAdviceFitsTheFailure(t *testing.T) {
	for reason, want := range map[string]string{
		"write /tmp/x: no space left on device":           "disk is full",
		"Get \"x\": dial tcp: lookup proxy: no such host": "proxy cannot be reached",
		"compile: signal: killed":                         "GOFLAGS=-p=1",
		"undefined: x":                                    "the lines above",
	} {
		if got := advice(reason); !strings.Contains(got, want) || !strings.Contains(got, "KUBEBUILDER_ASSETS") {
			t.Errorf("advice on %q is %q, want %q and KUBEBUILDER_ASSETS in it", reason, got, want)
		}
	}
}

// TestVersionIsStamped looks at the binaries that assets has built, and is
// skipped where there are none.
func TestVersionIsStamped(t *testing.T) {
	t.Setenv("KUBEBUILDER_ASSETS", "")
	key, err := cacheKey()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	server := filepath.Join(cache, "kubernaut-notification", "controlplane", key, "kube-apiserver")
	if _, err := os.Stat(server); err != nil {
		t.Skip("not built yet: ", err)
	}
	want, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "Kubernetes {{.Version}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), server, "--version").Output()
	if err != nil || string(got) != string(want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
