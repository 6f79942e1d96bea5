package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// build compiles both binaries into dir.
func build(ctx context.Context, dir string) error {
	p := &progress{what: "preparing to build the control plane", start: time.Now()}
	if info, err := os.Stderr.Stat(); err == nil {
		p.terminal = info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	defer p.clear()

	out, err := p.run(ctx, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes", "go.etcd.io/etcd/server/v3")
	if err != nil {
		return err
	}
	var kubernetes, etcd string
	if _, err := fmt.Sscan(out, &kubernetes, &etcd); err != nil {
		return fmt.Errorf("read the versions to build from %q: %w", out, err)
	}
	// What Go's build cache has already is neither compiled again nor counted.
	out, err = p.run(ctx, "list", "-deps", "-trimpath", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", "./cmd/...")
	if err != nil {
		return err
	}
	p.total = len(strings.Fields(out))
	p.what = fmt.Sprintf("building kube-apiserver %s and etcd %s", kubernetes, etcd)

	number := strings.Split(strings.TrimPrefix(kubernetes, "v"), ".")
	flags := fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s",
		"k8s.io/component-base/version", kubernetes, number[0], number[1])
	_, err = p.run(ctx, "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", dir+string(os.PathSeparator), "./cmd/...")
	return err
}

// progress shows on standard error how far a build is: on a terminal in one
// line that changes, elsewhere in a new line every ten seconds.
type progress struct {
	what        string
	downloading string
	done, total int
	start       time.Time
	shown       time.Time
	terminal    bool
}

// run runs the go command and returns its standard output.
func (p *progress) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var out strings.Builder
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", fmt.Errorf("run go %s: %w", args[0], err)
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run go %s: %w", args[0], err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			lines <- s.Text()
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var said []string
	for open := true; open; {
		select {
		case <-tick.C:
			p.show()
		case line, ok := <-lines:
			module, download := strings.CutPrefix(line, "go: downloading ")
			switch {
			case !ok:
				open = false
			case download:
				p.downloading = module
			case p.total > 0 && line != "" && !strings.ContainsAny(line, " :"):
				p.done++
			default:
				said = append(said, line)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return "", errors.New("interrupted: what was compiled is kept, and the next build goes on from there")
		}
		p.clear()
		reason := strings.Join(said, "\n")
		return "", fmt.Errorf("go %s: %w\n%s\n%s", args[0], err, reason, advice(reason))
	}
	return out.String(), nil
}

func (p *progress) show() {
	if !p.terminal && time.Since(p.shown) < 10*time.Second {
		return
	}
	p.shown = time.Now()
	text := p.what
	if p.total > 0 {
		text += fmt.Sprintf(": %d of %d packages", min(p.done, p.total), p.total)
	} else if p.downloading != "" {
		text += ": downloading " + p.downloading
	}
	text += ", " + time.Since(p.start).Round(time.Second).String()
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K"+text)
	} else {
		fmt.Fprintln(os.Stderr, text)
	}
}

// clear takes the changing line away, so that what follows starts a line.
func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

// advice says what to do about a build that failed for this reason.
func advice(reason string) string {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(reason, w) {
				return true
			}
		}
		return false
	}
	const instead = "or set KUBEBUILDER_ASSETS to a directory that has etcd and kube-apiserver already"
	switch {
	case has("no space left on device", "disk quota exceeded"):
		return "The disk is full: the build needs about 4 GB for the directories that go env GOMODCACHE GOCACHE GOTMPDIR names. Make room and start again, " + instead + "."
	case has("dial tcp", "no such host", "i/o timeout", "connection refused", "TLS handshake", "proxyconnect"):
		return "The Go module proxy cannot be reached, which the first build needs. Check the network and go env GOPROXY and start again, " + instead + "."
	case has("signal: killed"):
		return "A compiler was killed, most likely for want of memory. Start again with GOFLAGS=-p=1, " + instead + "."
	}
	return "Mend what the lines above say and start again; what was compiled is kept; " + instead + "."
}
