// Package harness is what the suites that run the real programs share: the
// programs as processes, a receiver of webhooks, a proxy that breaks connections,
// and ways to ask DataStorage and the API server what became of it all.
package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const tick = 20 * time.Millisecond

// Eventually returns once check returns nil, and fails the test with check's last
// error when that has not happened within the given time.
func Eventually(tb testing.TB, within time.Duration, check func() error) {
	tb.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			tb.Fatalf("not within %s: %v", within, err)
		}
	}
}

// reaper is a shell that kills what this process has started, and removes what it
// has built, as soon as this process has ended, however it ends.
const reaper = `trap "" INT TERM HUP
while read -r word pid; do
	case $word in
	start) pids="$pids $pid " ;;
	end) pids="${pids%%" $pid "*}${pids#*" $pid "}" ;;
	esac
done
[ -z "$pids" ] || kill -9 $pids
rm -rf "$1"`

var workshop = sync.OnceValues(func() (*shop, error) {
	dir, err := os.MkdirTemp("", "notification-bin")
	if err != nil {
		return nil, fmt.Errorf("make a directory for programs: %w", err)
	}
	cmd := exec.Command("sh", "-c", reaper, "reaper", dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("connect the reaper: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the reaper: %w", err)
	}
	return &shop{dir: dir, reaper: stdin, built: map[string]func() (string, error){}}, nil
})

type shop struct {
	dir string

	mu     sync.Mutex
	reaper io.Writer
	built  map[string]func() (string, error)
}

func (s *shop) tell(word string, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := fmt.Fprintln(s.reaper, word, pid)
	return err
}

func (s *shop) build(name string) (string, error) {
	s.mu.Lock()
	build, ok := s.built[name]
	if !ok {
		build = sync.OnceValues(func() (string, error) { return compile(s.dir, name) })
		s.built[name] = build
	}
	s.mu.Unlock()
	return build()
}

func compile(dir, name string) (string, error) {
	args := []string{"build", "-o", dir}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "-race" && setting.Value == "true" {
				args = append(args, "-race")
			}
		}
	}
	if out, err := exec.Command("go", append(args, "kubernaut.ai/notification/cmd/"+name)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return filepath.Join(dir, name), nil
}

// Build compiles cmd/NAME once for each test binary, with the race detector where
// the test binary has it, and returns the program's path.
func Build(tb testing.TB, name string) string {
	tb.Helper()
	s, err := workshop()
	if err != nil {
		tb.Fatal(err)
	}
	path, err := s.build(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Process is a program that runs. What it prints is kept in a file.
type Process struct {
	tb   testing.TB
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // how it ended, once done is closed
}

var started atomic.Int32

// Start starts a program. At the latest it ends with the test, which fails where
// the program had a data race. A test that fails shows the end of its output.
func Start(tb testing.TB, cmd *exec.Cmd) *Process {
	tb.Helper()
	name := filepath.Base(cmd.Path)
	p := &Process{tb: tb, cmd: cmd, log: filepath.Join(tb.TempDir(), fmt.Sprintf("%s-%d.log", name, started.Add(1)))}
	p.start()
	tb.Cleanup(func() {
		p.Kill()
		log := p.Log()
		if strings.Contains(log, "WARNING: DATA RACE") {
			tb.Errorf("%s has a data race", name)
		}
		if tb.Failed() {
			tb.Logf("%s, pid %d, ended (%v); the last of what it printed:\n%s", name, p.cmd.Process.Pid, p.err, tail(log, 60))
		}
	})
	return p
}

// Restart ends the program, where it has not ended yet, and starts it again with
// the same arguments. What it prints goes to the end of the same log. Nobody else
// may use the Process meanwhile.
func (p *Process) Restart() {
	p.tb.Helper()
	p.Kill()
	p.cmd = &exec.Cmd{Path: p.cmd.Path, Args: p.cmd.Args, Env: p.cmd.Env, Dir: p.cmd.Dir, SysProcAttr: p.cmd.SysProcAttr}
	p.start()
}

func (p *Process) start() {
	p.tb.Helper()
	s, err := workshop()
	if err != nil {
		p.tb.Fatal(err)
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer out.Close()
	cmd, done := p.cmd, make(chan struct{})
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.tb.Fatal(err)
	}
	p.done = done
	if err := s.tell("start", cmd.Process.Pid); err != nil {
		p.tb.Error(err)
	}
	go func() {
		p.err = errors.Join(cmd.Wait(), s.tell("end", cmd.Process.Pid))
		close(done)
	}()
}

func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// Signal sends a signal to the process, which may have ended already.
func (p *Process) Signal(signal os.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Fatal(err)
	}
}

// Kill ends the process at once and returns when it has ended.
func (p *Process) Kill() {
	p.tb.Helper()
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end and fails the test where that takes longer than
// the given time or where it does not end with exit code 0.
func (p *Process) Stop(within time.Duration) {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(within):
		p.tb.Fatalf("%s is still there %s after SIGTERM", p.cmd.Path, within)
	}
	if p.err != nil {
		p.tb.Fatalf("%s ended badly after SIGTERM: %v", p.cmd.Path, p.err)
	}
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Log returns all that the process has printed so far.
func (p *Process) Log() string {
	p.tb.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.tb.Fatal(err)
	}
	return string(text)
}

// WaitLog returns the first line with the text in it.
func (p *Process) WaitLog(within time.Duration, text string) (line string) {
	p.tb.Helper()
	Eventually(p.tb, within, func() error {
		lines := bufio.NewScanner(strings.NewReader(p.Log()))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if line = lines.Text(); strings.Contains(line, text) {
				return nil
			}
		}
		if p.Ended() {
			p.tb.Fatalf("%s ended (%v) before it printed %q", p.cmd.Path, p.err, text)
		}
		return fmt.Errorf("%s has not printed %q", p.cmd.Path, text)
	})
	return line
}

// Host is the address of this machine that sinks and proxies listen on. A suite
// whose programs run elsewhere sets it before it starts any.
var Host = "127.0.0.1"

var lastPort = 20000 + uint32(os.Getpid())*37%10000

// FreeAddress returns an address of this machine that nothing listens on. It is
// below the ports that the kernel gives to outgoing connections, so that none of
// them takes it before it is used.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		address := fmt.Sprintf("%s:%d", Host, 20000+atomic.AddUint32(&lastPort, 1)%12000)
		listener, err := net.Listen("tcp", address)
		if err == nil {
			_ = listener.Close()
			return address
		}
	}
	tb.Fatal("no free port")
	return ""
}
