package datastorage_test

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

func TestFlagDefaults(t *testing.T) {
	opts, command, err := datastorage.ParseOptions(nil, new(bytes.Buffer))
	if err != nil || command != "" {
		t.Fatalf("got command %q, %v", command, err)
	}
	if opts.Listen != "127.0.0.1:8080" || opts.DatabaseURL != "sqlite:data/datastorage.db" || opts.Auth != "none" || opts.TLSCertDir != "" {
		t.Errorf("got %+v", opts)
	}
}

func TestMigrateTakesFlagsOnBothSides(t *testing.T) {
	opts, command, err := datastorage.ParseOptions([]string{"--log-level=debug", "migrate", "--database-url=sqlite:x"}, new(bytes.Buffer))
	if err != nil || command != "migrate" || opts.DatabaseURL != "sqlite:x" || !opts.Log.V(1).Enabled() {
		t.Errorf("got %+v, %v, %v", opts, command, err)
	}
}

func TestBadFlagsSayWhatIsAllowed(t *testing.T) {
	tests := []struct{ args, want string }{
		{"--listen=8080", "--listen must be host:port"},
		{"--listen=:8080", "--auth=none is for loopback addresses only"},
		{"--listen=0.0.0.0:8080", "--auth=none is for loopback addresses only"},
		{"--listen=example.com:8080", "--auth=none is for loopback addresses only"},
		{"--auth=basic", `--auth is "basic"; allowed are none and kubernetes`},
		{"--tls-cert-dir=/does/not/exist", "--tls-cert-dir must be a directory"},
		{"--log-format=xml", `--log-format is "xml"; allowed are json and console`},
		{"--log-level=loud", `--log-level is "loud"; allowed are debug, info and error`},
		{"verfy --database-url=sqlite:x", `argument "verfy" is not known; the commands are migrate and key, and verify where it comes first`},
		{"--log-level=info verify", `argument "verify" is not known; the commands are migrate and key, and verify where it comes first`},
		{"migrate now", `argument "now" is not known`},
		{"--colour", "flag provided but not defined"},
	}
	for _, tt := range tests {
		if _, _, err := datastorage.ParseOptions(strings.Fields(tt.args), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error that says %q", tt.args, err, tt.want)
		}
	}
	for _, args := range []string{"--listen=[::1]:80", "--listen=localhost:0", "--listen=:8443 --auth=kubernetes"} {
		if _, _, err := datastorage.ParseOptions(strings.Fields(args), new(bytes.Buffer)); err != nil {
			t.Errorf("%s: got %v", args, err)
		}
	}
}

func TestAKeyIsPrintedForThoseWhoKeepItElsewhere(t *testing.T) {
	var out bytes.Buffer
	if err := datastorage.Main(t.Context(), []string{"key"}, &out, io.Discard, nil); err != nil {
		t.Fatal(err)
	}
	if key, err := ledger.ParseKey(out.String()); err != nil || !strings.HasPrefix(key.Origin(), "audit.kubernaut.ai/") {
		t.Errorf("%q: %v", out.String(), err)
	}
}

func TestHelpIsNoError(t *testing.T) {
	var out bytes.Buffer
	if err := datastorage.Main(t.Context(), []string{"--help"}, io.Discard, &out, nil); err != nil || !strings.Contains(out.String(), "database-url") {
		t.Errorf("got %v, %q", err, out.String())
	}
}

func TestTheVersionIsOneLine(t *testing.T) {
	var out bytes.Buffer
	if err := datastorage.Main(t.Context(), []string{"--version", "--auth=nobody"}, &out, io.Discard, nil); err != nil {
		t.Fatal(err)
	}
	if line := out.String(); !strings.HasPrefix(line, "datastorage ") || strings.Count(line, "\n") != 1 || !strings.Contains(line, runtime.Version()) {
		t.Errorf("got %q", line)
	}
}

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{"json": `"msg":"hello"`, "console": "\thello"} {
		var out bytes.Buffer
		opts, _, err := datastorage.ParseOptions([]string{"--log-format", format}, &out)
		if err != nil {
			t.Fatal(err)
		}
		opts.Log.Info("hello")
		opts.Log.V(1).Info("quiet")
		if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "quiet") {
			t.Errorf("%s: got %q", format, out.String())
		}
	}
}
