package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// edit is a change to one file of the product that is made for a build only.
type edit struct {
	file string // relative to the module
	old  string // what is replaced, in its one place
	new  string
}

// sources are files of the product by their absolute path, as a build is to find them.
type sources map[string]string

func (s sources) read(t testing.TB, path string) string {
	t.Helper()
	if text, ok := s[path]; ok {
		return text
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s sources) apply(t testing.TB, e edit) {
	t.Helper()
	path := inModule(t, e.file)
	text := s.read(t, path)
	if n := strings.Count(text, e.old); n != 1 {
		t.Fatalf("%s has %d places like this, want 1:\n%s", e.file, n, e.old)
	}
	s[path] = strings.Replace(text, e.old, e.new, 1)
}

// stepVar is the environment variable with the name of a file that says, as a
// duration, by how much a manager's clock is off.
const stepVar = "CHAOS_CLOCK_STEP"

// stepClock gives the controller a clock that the harness can set wrong: that of a
// machine whose time was corrected, or of a new leader's.
func (s sources) stepClock(t testing.TB) {
	t.Helper()
	dir := inModule(t, "internal/controller")
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	clock := strings.NewReplacer("time.Now(", "steppedNow(", "time.Since(", "steppedSince(", "time.Until(", "steppedUntil(")
	for _, file := range files {
		if text := s.read(t, file); !strings.HasSuffix(file, "_test.go") && clock.Replace(text) != text {
			s[file] = clock.Replace(text) + "\nvar _ time.Time\n"
		}
	}
	s[filepath.Join(dir, "stepped_clock.go")] = `package controller

import (
	"os"
	"time"
)

var clockStep = func() time.Duration {
	text, _ := os.ReadFile(os.Getenv("` + stepVar + `"))
	step, _ := time.ParseDuration(string(text))
	return step
}()

func steppedNow() time.Time                  { return time.Now().Add(clockStep) }
func steppedSince(t time.Time) time.Duration { return steppedNow().Sub(t) }
func steppedUntil(t time.Time) time.Duration { return t.Sub(steppedNow()) }
`
}

func inModule(t testing.TB, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// overlay writes the sources down and returns the file that go's flag of that name
// wants to be given.
func (s sources) overlay(t testing.TB) string {
	t.Helper()
	dir, replace := t.TempDir(), map[string]string{}
	for path, text := range s {
		replace[path] = filepath.Join(dir, fmt.Sprint(len(replace), ".go"))
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// build compiles cmd/NAME from the module and these sources and returns the program.
func (s sources) build(t testing.TB, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-overlay", s.overlay(t), "-o", program, "kubernaut.ai/notification/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return program
}
