// Package manager builds the controller manager and owns its start and its end.
package manager

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/httpserver"
	"kubernaut.ai/notification/internal/version"
)

// Values of --on-audit-outage, --redaction and --dlq-backend.
const (
	deliver  = "deliver"
	hold     = "hold"
	on       = "on"
	off      = "off"
	fileDLQ  = "file"
	redisDLQ = "redis"
)

// minDLQBytes is what a dead-letter queue on disk needs to be of use.
const minDLQBytes = 1 << 20

// Options are the settings of the manager, one for each flag.
type Options struct {
	DataStorageURL       string
	DataStorageCAFile    string
	DataStorageTokenFile string

	Audit            audit.Config
	AuditIncludeBody bool
	OnAuditOutage    string // deliver or hold
	Redaction        string // on or off

	DLQBackend   string // file or redis
	DLQPath      string
	DLQMaxBytes  int64
	RedisURL     string // a credential
	DLQKeyPrefix string

	FileRoot             string
	AllowNetworks        string
	MaxConcurrent        int
	WatchNamespaces      string
	LeaderElect          bool
	LeaderElectNamespace string
	MetricsAddress       string
	HealthProbeAddress   string
	Acknowledge          acknowledgeOptions
	ShutdownTimeout      time.Duration

	LogFormat string
	LogLevel  string
}

// Main runs the command line that args are, without the program's name. Usage
// goes to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var o Options
	o.BindFlags(flags)
	config.RegisterFlags(flags)
	printVersion := flags.Bool("version", false, "print the version and end")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprint(stderr, "Usage: manager [flags]\n\nSends what NotificationRequests ask for and records in DataStorage what became of it.\n\n")
		flags.PrintDefaults()
		return nil
	case err != nil:
		return fmt.Errorf("%w; manager -help lists the flags", err)
	case flags.NArg() > 0:
		return fmt.Errorf("%q is no flag; manager takes flags only, see manager -help", flags.Arg(0))
	case *printVersion:
		_, err := fmt.Fprintln(stdout, version.Line("manager"))
		return err
	}
	if o.DLQBackend == redisDLQ && o.RedisURL == "" {
		o.RedisURL = os.Getenv("REDIS_URL")
	}
	if err := o.Validate(); err != nil {
		return err
	}
	logger, err := o.logger()
	if err != nil {
		return err
	}
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	api, err := config.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server (--kubeconfig, KUBECONFIG, or in a cluster): %w", err)
	}
	logger.Info("Starting", "version", version.Name())
	api.UserAgent = "notification-manager/" + version.Name()
	return Run(logr.NewContext(ctx, logger), api, o)
}

// BindFlags binds the options to flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.DataStorageURL, "datastorage-url", "http://127.0.0.1:8080", "DataStorage's address, `http(s)://host:port`")
	fs.StringVar(&o.DataStorageCAFile, "datastorage-ca-file", "", "`file` with the certificate authority of DataStorage, PEM; the system's authorities where empty")
	fs.StringVar(&o.DataStorageTokenFile, "datastorage-token-file", "", "`file` with the bearer token for DataStorage; none is sent where empty")

	fs.IntVar(&o.Audit.BufferSize, "audit-buffer-size", 1000, "audit events that wait in memory; more go to the dead-letter queue")
	fs.IntVar(&o.Audit.BatchSize, "audit-batch-size", 100, "audit events that are sent to DataStorage without waiting, 10 to 1000")
	fs.DurationVar(&o.Audit.FlushInterval, "audit-flush-interval", 100*time.Millisecond, "longest wait of an audit event for others to be sent with")
	fs.IntVar(&o.Audit.MaxRetries, "audit-max-retries", 3, "tries after the first before audit events go to the dead-letter queue, from where they are tried for ever")
	fs.StringVar(&o.Audit.LogKey, "audit-log-key", "", "public `key` of DataStorage's log, which its checkpoints are verified with; the one that DataStorage names first where empty")
	fs.BoolVar(&o.AuditIncludeBody, "audit-include-body", false, "record the message's body in audit events; its digest is recorded always")
	fs.StringVar(&o.OnAuditOutage, "on-audit-outage", deliver, "deliver: messages go out while DataStorage is down, and their events wait; hold: no attempt begins before DataStorage can record it")
	fs.StringVar(&o.Redaction, "redaction", on, "on: secrets in a request are masked in all that is sent and recorded; off: they are sent and recorded")

	fs.StringVar(&o.DLQBackend, "dlq-backend", fileDLQ, "where audit events wait that DataStorage does not take: file or redis")
	fs.StringVar(&o.DLQPath, "dlq-path", "data/dlq", "`directory` of the dead-letter queue of the backend file; one manager owns it")
	fs.Int64Var(&o.DLQMaxBytes, "dlq-max-bytes", 256<<20, "largest size of the dead-letter queue of the backend file; nothing is dropped where it is full, events stay pending in status")
	fs.StringVar(&o.RedisURL, "redis-url", "", "`URL` of the backend redis, redis:// or rediss:// for TLS; it holds a password and arguments can be seen, so better set the environment variable REDIS_URL, which is read where this is empty")
	fs.StringVar(&o.DLQKeyPrefix, "dlq-key-prefix", "audit:dlq:notification:", "what all keys of the backend redis begin with")

	fs.StringVar(&o.FileRoot, "file-root", "data/files", "`directory` beneath which channels of type File write")
	fs.StringVar(&o.AllowNetworks, "delivery-allow-networks", "", "`CIDRs`, separated by commas, that channels may reach although they are loopback, link-local or private, without encryption too")
	fs.IntVar(&o.MaxConcurrent, "max-concurrent-reconciles", 16, "requests that are worked on at the same time")
	fs.StringVar(&o.WatchNamespaces, "watch-namespaces", "", "`namespaces`, separated by commas, to work in; all where empty")
	fs.BoolVar(&o.LeaderElect, "leader-elect", false, "work only while holding the lease, so that several replicas can run")
	fs.StringVar(&o.LeaderElectNamespace, "leader-elect-namespace", "", "`namespace` of the lease and of what the manager keeps of the audit log; the pod's own where empty, default outside a cluster")
	fs.StringVar(&o.MetricsAddress, "metrics-bind-address", "127.0.0.1:8082", "`address` of /metrics; over HTTPS with authentication unless it is loopback; 0 for none")
	fs.StringVar(&o.HealthProbeAddress, "health-probe-bind-address", "127.0.0.1:8081", "`address` of /healthz and /readyz; 0 for none")
	o.Acknowledge.bindFlags(fs)
	fs.DurationVar(&o.ShutdownTimeout, "shutdown-timeout", 30*time.Second, "longest time from the first signal to the end, two thirds of it for attempts in flight")

	fs.StringVar(&o.LogFormat, "log-format", "json", "json or console")
	fs.StringVar(&o.LogLevel, "log-level", "info", "debug, info or error")
}

// Validate returns an error that names each flag that is not allowed.
func (o *Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.MaxConcurrent < 1 || o.MaxConcurrent > 1000 {
		bad("--max-concurrent-reconciles is %d; allowed is 1 to 1000", o.MaxConcurrent)
	}
	if o.ShutdownTimeout < 3*time.Second {
		bad("--shutdown-timeout is %s; allowed is 3s or more", o.ShutdownTimeout)
	}
	for _, f := range []struct{ name, value string }{{"dlq-path", o.DLQPath}, {"file-root", o.FileRoot}} {
		if f.value == "" {
			bad("--%s is empty; it must name a directory", f.name)
		}
	}
	for _, f := range []struct {
		name, value string
		allowed     []string
	}{
		{"on-audit-outage", o.OnAuditOutage, []string{deliver, hold}},
		{"redaction", o.Redaction, []string{on, off}},
		{"dlq-backend", o.DLQBackend, []string{fileDLQ, redisDLQ}},
		{"log-format", o.LogFormat, []string{"json", "console"}},
		{"log-level", o.LogLevel, []string{"debug", "info", "error"}},
	} {
		if last := len(f.allowed) - 1; !slices.Contains(f.allowed, f.value) {
			bad("--%s is %q; allowed are %s and %s", f.name, f.value, strings.Join(f.allowed[:last], ", "), f.allowed[last])
		}
	}
	for _, f := range []struct{ name, value string }{{"metrics-bind-address", o.MetricsAddress}, {"health-probe-bind-address", o.HealthProbeAddress}} {
		if _, _, err := net.SplitHostPort(f.value); err != nil && f.value != "0" {
			bad("--%s is %q; it must be host:port, or 0 for none", f.name, f.value)
		}
	}
	switch {
	case o.DLQBackend == redisDLQ && o.RedisURL == "":
		bad("--redis-url is empty and so is the environment variable REDIS_URL; --dlq-backend=redis needs one of them")
	case o.DLQBackend == fileDLQ && o.RedisURL != "":
		bad("--redis-url is given though --dlq-backend is file; leave it out, or give --dlq-backend=redis")
	case o.DLQBackend == fileDLQ && o.DLQMaxBytes < minDLQBytes:
		bad("--dlq-max-bytes is %d; allowed is %d (1 MiB) or more", o.DLQMaxBytes, minDLQBytes)
	}
	if _, err := o.allowNetworks(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, o.Audit.Validate(), o.Acknowledge.validate())...)
}

// logger makes the logger that the options ask for.
func (o *Options) logger() (logr.Logger, error) {
	settings := zap.NewProductionConfig()
	settings.Sampling = nil
	settings.DisableStacktrace = true
	settings.DisableCaller = true
	settings.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	if o.LogFormat == "console" {
		settings.Encoding = "console"
		settings.EncoderConfig = zap.NewDevelopmentEncoderConfig()
	}
	if err := settings.Level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return logr.Logger{}, fmt.Errorf("--log-level: %w", err)
	}
	logger, err := settings.Build()
	if err != nil {
		return logr.Logger{}, fmt.Errorf("make logger: %w", err)
	}
	// net/http prints there what arrives on idle connections, which a receiver may
	// fill with what we sent, secrets included.
	stdlog.SetOutput(io.Discard)
	return zapr.NewLogger(logger), nil
}

func (o *Options) allowNetworks() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, word := range list(o.AllowNetworks) {
		p, err := netip.ParsePrefix(word)
		if err != nil {
			return nil, fmt.Errorf("--delivery-allow-networks has %q; each entry must be a network such as 10.0.0.0/8", word)
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

// list splits at commas and drops what is empty.
func list(text string) []string {
	var words []string
	for word := range strings.SplitSeq(text, ",") {
		if word = strings.TrimSpace(word); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// loopback reports whether an address to listen on is of this machine alone.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && httpserver.Loopback(host)
}
