package harness

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// SyscallKill in a SyscallFault kills the process in place of the call.
const SyscallKill = "signal=KILL"

// SyscallFault makes one system call of a thread fail: the nth of its name, or
// all where Nth is 0. What is error= with the name of an error, or SyscallKill.
type SyscallFault struct {
	Call, What string
	Nth        int
}

// syscalls change files. SQLite uses no write, which the Go runtime uses for
// itself, and no writev.
var syscalls = []string{"pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "linkat"}

// NeedStrace skips the test where strace is not installed, and fails it where
// REQUIRE_STRACE is 1.
func NeedStrace(tb testing.TB) {
	tb.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("REQUIRE_STRACE") == "1" {
			tb.Fatal(err)
		}
		tb.Skip("strace is not installed; REQUIRE_STRACE=1 makes this a failure")
	}
}

// Strace runs the test's own binary once more with a variable NAME=VALUE, by
// which its TestMain knows that it is to do something else, and with a fault or
// none. It returns what that printed and which calls it made. strace counts the
// calls of each thread, so what is to fail has to lock its goroutine to one.
func Strace(tb testing.TB, variable string, inject *SyscallFault) (printed, calls []byte, err error) {
	tb.Helper()
	trace := filepath.Join(tb.TempDir(), "trace")
	args := []string{"-f", "-o", trace, "-e", "trace=" + strings.Join(syscalls, ",")}
	if inject != nil {
		which := fmt.Sprintf("inject=%s:%s", inject.Call, inject.What)
		if inject.Nth > 0 {
			which += fmt.Sprintf(":when=%d", inject.Nth)
		}
		args = append(args, "-e", which)
	}
	if inject == nil || inject.What != SyscallKill {
		args = append(args, "--seccomp-bpf") // Much faster, but it delivers no signals.
	}
	cmd := exec.CommandContext(tb.Context(), "strace", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), variable)
	printed, err = cmd.CombinedOutput()
	calls, readErr := os.ReadFile(trace)
	return printed, calls, errors.Join(err, readErr)
}

// EachSyscall has every system call that changes a file fail in turn: killed, with
// ENOSPC and with EIO. What it kills in vain is counted as missed: a goroutine
// that is not locked to a thread makes its calls on several. Each time it makes a directory with prepare, runs the
// test's binary with variable=DIRECTORY, which has to print "end" on a line of its
// own unless it is killed, and has judge look at what is left. What judge counts
// is summed up by call and fault, printed as a table, and returned.
func EachSyscall(tb testing.TB, variable string, prepare func() (dir string), judge func(fault SyscallFault, dir, printed string) map[string]int) map[string]map[string]int {
	tb.Helper()
	NeedStrace(tb)
	ended := func(printed []byte) bool { return bytes.Contains(printed, []byte("\nend\n")) }
	printed, calls, err := Strace(tb, variable+"="+prepare(), nil)
	if err != nil || !ended(printed) {
		tb.Fatalf("without a fault: %v\n%s", err, printed)
	}
	var faults []SyscallFault
	for _, call := range syscalls {
		count := len(regexp.MustCompile(`(?m)^\d+ +`+call+`\(`).FindAll(calls, -1))
		for nth := 1; nth <= count; nth++ {
			for _, what := range []string{SyscallKill, "error=ENOSPC", "error=EIO"} {
				faults = append(faults, SyscallFault{call, what, nth})
			}
		}
	}
	if len(faults) < 100 {
		tb.Fatalf("only %d faults: the calls are not seen", len(faults))
	}
	var mu sync.Mutex
	sums := map[string]map[string]int{}
	next := make(chan SyscallFault)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for fault := range next {
				dir := prepare()
				printed, _, err := Strace(tb, variable+"="+dir, &fault)
				counts := judge(fault, dir, string(printed))
				if fault.What != SyscallKill && (err != nil || !ended(printed)) {
					tb.Errorf("%v: %v\n%s", fault, err, printed)
				} else if fault.What == SyscallKill && ended(printed) {
					counts["missed"]++
				}
				mu.Lock()
				key := fmt.Sprintf("%-10s %s", fault.Call, fault.What)
				if sums[key] == nil {
					sums[key] = map[string]int{}
				}
				sums[key]["runs"]++
				for what, n := range counts {
					sums[key][what] += n
				}
				mu.Unlock()
			}
		})
	}
	for _, fault := range faults {
		next <- fault
	}
	close(next)
	workers.Wait()
	for _, key := range slices.Sorted(maps.Keys(sums)) {
		tb.Logf("%-24s %v", key, sums[key])
	}
	return sums
}
