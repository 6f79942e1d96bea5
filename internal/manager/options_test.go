package manager

import (
	"bytes"
	"flag"
	"io"
	"runtime"
	"strings"
	"testing"
)

// parse returns what Validate says about a command line.
func parse(t *testing.T, args ...string) error {
	t.Helper()
	var o Options
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	o.BindFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o.Validate()
}

func TestDefaultsAreAllowed(t *testing.T) {
	if err := parse(t); err != nil {
		t.Error(err)
	}
}

func TestEachSettingThatIsNotAllowedIsNamedInOneSentence(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--on-audit-outage=stop", `--on-audit-outage is "stop"; allowed are deliver and hold`},
		{"--on-audit-outage=", `--on-audit-outage is ""; allowed are deliver and hold`},
		{"--redaction=maybe", `--redaction is "maybe"; allowed are on and off`},
		{"--dlq-backend=kafka", `--dlq-backend is "kafka"; allowed are file and redis`},
		{"--dlq-path=", "--dlq-path is empty; it must name a directory"},
		{"--dlq-max-bytes=1048575", "--dlq-max-bytes is 1048575; allowed is 1048576 (1 MiB) or more"},
		{"--dlq-max-bytes=-1", "--dlq-max-bytes is -1; allowed is 1048576 (1 MiB) or more"},
		{"--dlq-backend=redis", "--redis-url is empty and so is the environment variable REDIS_URL; --dlq-backend=redis needs one of them"},
		{"--redis-url=redis://:planted@redis", "--redis-url is given though --dlq-backend is file; leave it out, or give --dlq-backend=redis"},
		{"--log-format=xml", `--log-format is "xml"; allowed are json and console`},
		{"--log-level=loud", `--log-level is "loud"; allowed are debug, info and error`},
		{"--max-concurrent-reconciles=0", "--max-concurrent-reconciles is 0; allowed is 1 to 1000"},
		{"--shutdown-timeout=2s", "--shutdown-timeout is 2s; allowed is 3s or more"},
		{"--metrics-bind-address=8082", `--metrics-bind-address is "8082"; it must be host:port, or 0 for none`},
		{"--health-probe-bind-address=", `--health-probe-bind-address is ""; it must be host:port, or 0 for none`},
		{"--file-root=", "--file-root is empty; it must name a directory"},
		{"--delivery-allow-networks=10.0.0.0", `--delivery-allow-networks has "10.0.0.0"; each entry must be a network such as 10.0.0.0/8`},
	} {
		if err := parse(t, c.args); err == nil || err.Error() != c.want {
			t.Errorf("%s: error is %v, want %s", c.args, err, c.want)
		}
	}
	for _, args := range [][]string{
		{"--on-audit-outage=hold"},
		{"--redaction=off"},
		{"--dlq-max-bytes=1048576"},
		{"--dlq-backend=redis", "--redis-url=redis://redis", "--dlq-key-prefix=mine:"},
	} {
		if err := parse(t, args...); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestAWordThatIsNoFlagIsRefusedInOneSentence(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"--leader-elect", "serve"}, {"serve", "--leader-elect"}} {
		const want = `"serve" is no flag; manager takes flags only, see manager -help`
		if err := Main(t.Context(), args, io.Discard, io.Discard); err == nil || err.Error() != want {
			t.Errorf("%q: error is %v, want %s", args, err, want)
		}
	}
}

// The program gets as far as looking for an API server where its settings are
// allowed, and no further here.
func TestTheRedisURLMayComeFromTheEnvironment(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nonexistent")
	for name, c := range map[string]struct {
		env  string
		args []string
		want string
	}{
		"it is read":                   {"redis://:planted@redis", []string{"--dlq-backend=redis"}, "find the API server"},
		"it is not there":              {"", []string{"--dlq-backend=redis"}, "REDIS_URL"},
		"nobody asked for it":          {"redis://:planted@redis", nil, "find the API server"},
		"the flag is there as well":    {"redis://:planted@redis", []string{"--dlq-backend=redis", "--redis-url=redis://:planted@other"}, "find the API server"},
		"the flag without the backend": {"", []string{"--redis-url=redis://:planted@redis"}, "--dlq-backend is file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("REDIS_URL", c.env)
			err := Main(t.Context(), c.args, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want one with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "planted") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
}

func TestHelpHasNoPasswordInIt(t *testing.T) {
	t.Setenv("REDIS_URL", "redis://:planted@redis")
	var usage bytes.Buffer
	if err := Main(t.Context(), []string{"--dlq-backend=redis", "-help"}, io.Discard, &usage); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(usage.String(), "REDIS_URL") || strings.Contains(usage.String(), "planted") {
		t.Errorf("usage is\n%s", usage.String())
	}
}

func TestTheVersionIsOneLine(t *testing.T) {
	var out bytes.Buffer
	if err := Main(t.Context(), []string{"--version", "--log-level=loud"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if line := out.String(); !strings.HasPrefix(line, "manager ") || strings.Count(line, "\n") != 1 || !strings.Contains(line, runtime.Version()) {
		t.Errorf("got %q", line)
	}
}
