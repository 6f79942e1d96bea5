package docs

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
)

func TestHTTPExamplesAnswerAsShown(t *testing.T) {
	page, _, _ := strings.Cut(read(t, docs, "http-api.md"), "\n## Tokens\n")
	if shown := examples(t, t.TempDir(), page, "bash", "curl", "sed", "sha256sum"); shown < 10 {
		t.Errorf("ran %d examples only", shown)
	}
}

func TestALogIsVerifiedAsShown(t *testing.T) {
	dir := t.TempDir()
	datastorageIn(t, dir)
	if shown := examples(t, dir, read(t, docs, "verify.md"), "bash", "curl", "sed", "python3", "openssl"); shown < 5 {
		t.Errorf("ran %d examples only", shown)
	}
}

// examples runs what a page tells a reader to type, in order and against a server
// that is empty, and compares the answers with those that the page shows.
func examples(t *testing.T, dir, page string, programs ...string) (shown int) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	address := serve(t)
	for _, block := range fenced.FindAllStringSubmatch(page, -1) {
		switch {
		case block[1] == "console":
			for step := range strings.SplitSeq(strings.TrimPrefix(block[2], "$ "), "\n$ ") {
				command, answer := parts(step)
				if diff := cmp.Diff(masked(answer), masked(run(t, dir, address, command))); diff != "" {
					t.Errorf("%s\nshown (-) and answered (+):\n%s", command, diff)
				}
				shown++
			}
		case block[1] == "sh" && !strings.Contains(block[2], "make build") && !strings.Contains(block[2], "--database-url"):
			run(t, dir, address, block[2])
		}
	}
	return shown
}

// datastorageIn builds bin/datastorage in a directory.
func datastorageIn(t *testing.T, dir string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "datastorage"), root+"/cmd/datastorage")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// parts parts a command, which goes on after a line that ends in |, from what it
// prints.
func parts(step string) (command, answer string) {
	lines := strings.SplitAfter(step, "\n")
	n := 1
	for strings.HasSuffix(lines[n-1], "|\n") {
		n++
	}
	return strings.Join(lines[:n], ""), strings.Join(lines[n:], "")
}

var publicKey = regexp.MustCompile(`audit\.kubernaut\.ai/[0-9a-f]{16}\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+`)

var changing = regexp.MustCompile(`"(instance|recorded_at|verification_time|checkpoint|salt|leaf_hash)":"[^"]*"`)

// hashes depend on the salt, which is the random key's too.
var hashes = regexp.MustCompile(`[0-9a-f]{64}|[A-Za-z0-9+/]{43}=`)

// note is a signed note, from the line with the name of the log's random key on.
var note = regexp.MustCompile(`(?s)audit\.kubernaut\.ai/[0-9a-f]{16}\n.*`)

// masked leaves out what differs from run to run.
func masked(answer string) string {
	answer = publicKey.ReplaceAllString(answer, "KEY")
	answer = hashes.ReplaceAllString(answer, "HASH")
	return strings.TrimSpace(note.ReplaceAllString(changing.ReplaceAllString(answer, `"$1":""`), ""))
}

func run(t *testing.T, dir, address, command string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(command, "127.0.0.1:8080", address))
	cmd.Dir = dir
	out, err := cmd.Output()
	// Some commands show what a failure looks like.
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 && len(out) > 0 {
		err = nil
	}
	if err != nil {
		t.Fatalf("%s\n%v", command, err)
	}
	return string(out)
}

// serve runs DataStorage on an empty database until the test ends.
func serve(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended, listening := make(chan error, 1), make(chan string, 1)
	go func() {
		ended <- datastorage.Run(ctx, datastorage.Options{
			Listen: "127.0.0.1:0", DatabaseURL: "sqlite:" + filepath.Join(t.TempDir(), "datastorage.db"), Auth: "none",
			SigningKey: filepath.Join(t.TempDir(), "signing.key"), Openers: map[string]datastorage.Opener{"sqlite": sqlite.Open}, Log: logr.Discard(),
			Listening: func(address net.Addr) { listening <- address.String() },
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case address := <-listening:
		return address
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
		return ""
	}
}
