package datastorage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/internal/httpserver"
	"kubernaut.ai/notification/internal/version"
)

// Options are what Run and Migrate need. ParseOptions fills them from flags.
type Options struct {
	// Listen is the host and port to serve on.
	Listen string
	// DatabaseURL begins with one of the schemes of Openers and a colon.
	DatabaseURL string
	// UnsafeNoSync takes a database that may lose what it has acknowledged.
	UnsafeNoSync bool
	// Auth is none or kubernetes.
	Auth string
	// SigningKey is the file of the log's private key.
	SigningKey string
	// RetentionDays is how long events are kept that do not say it themselves; 0 is
	// for good.
	RetentionDays int64
	// TLSCertDir holds tls.crt and tls.key; without it the server speaks HTTP.
	TLSCertDir string
	// DrainDelay is how long the server goes on serving, not ready, before it
	// stops: the time that others need to notice.
	DrainDelay time.Duration
	// Openers are the databases by the scheme of their URLs.
	Openers map[string]Opener
	Log     logr.Logger
	// Listening is called, where it is set, once the server takes connections.
	Listening func(address net.Addr)
}

// The commands. Without one the program serves.
const (
	commandMigrate = "migrate"
	commandKey     = "key"
	commandVersion = "--version" // a flag, as everywhere
)

// Main runs the command line that args are, without the program's name. Usage and
// logs go to stderr. It takes over the loggers of the libraries, so it is for the
// process's main alone.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer, openers map[string]Opener) error {
	opts, command, err := ParseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	opts.Openers = openers
	klog.SetLogger(opts.Log.WithName("kubernetes"))
	ctrllog.SetLogger(opts.Log)
	switch command {
	case commandVersion:
		_, err := fmt.Fprintln(stdout, version.Line("datastorage"))
		return err
	case commandMigrate:
		return Migrate(ctx, opts)
	case commandKey:
		return printKey(stdout)
	default:
		return Run(ctx, opts)
	}
}

// ParseOptions reads the flags and the command.
func ParseOptions(args []string, output io.Writer) (opts Options, command string, err error) {
	opts.DrainDelay = time.Second
	flags := flag.NewFlagSet("datastorage", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	parse := func(args []string) error {
		err := flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(output)
			fmt.Fprint(output, "Usage: datastorage [migrate|key] [flags]\n       datastorage verify [flags], which has a -help of its own\n\n"+
				"Serves the audit events' HTTP API. migrate only brings the database's schema up to date; key prints a new signing key; verify checks that a database or an export is what was recorded.\n\n")
			flags.PrintDefaults()
		} else if err != nil {
			err = fmt.Errorf("%w; datastorage -help lists the flags", err)
		}
		return err
	}
	flags.StringVar(&opts.Listen, "listen", "127.0.0.1:8080", "`host:port` to serve on")
	flags.StringVar(&opts.DatabaseURL, "database-url", "sqlite:data/datastorage.db",
		"`URL` of the database: sqlite:PATH or postgres://user@host/name (password: PGPASSWORD)")
	flags.BoolVar(&opts.UnsafeNoSync, "unsafe-no-sync", false, "take a PostgreSQL that acknowledges events before they are on disk; a crash then loses them")
	flags.StringVar(&opts.Auth, "auth", "none", "`who` may call: none (everyone; on a loopback address only) or kubernetes (bearer tokens)")
	flags.StringVar(&opts.TLSCertDir, "tls-cert-dir", "", "`directory` with tls.crt and tls.key, read again when they change; plain HTTP without it")
	flags.StringVar(&opts.SigningKey, "signing-key", "data/signing.key", "`file` with the log's private key, made at the first start; all replicas need the same")
	flags.Int64Var(&opts.RetentionDays, "retention-days", 0, "`days` after which events that have no retention_days lose all but what the log's proofs need; 0 keeps them for good")
	format := flags.String("log-format", "json", "json or console")
	level := flags.String("log-level", "info", "debug, info or error")
	printVersion := flags.Bool("version", false, "print the version and end")
	if err := parse(args); err != nil {
		return opts, command, err
	}
	if flags.Arg(0) == commandMigrate || flags.Arg(0) == commandKey {
		command = flags.Arg(0)
		if err := parse(flags.Args()[1:]); err != nil {
			return opts, command, err
		}
	}
	if flags.NArg() > 0 {
		return opts, command, fmt.Errorf("argument %q is not known; the commands are migrate and key, and verify where it comes first", flags.Arg(0))
	}
	if *printVersion {
		return opts, commandVersion, nil
	}
	if opts.Log, err = newLogger(*format, *level, output); err != nil {
		return opts, command, err
	}
	return opts, command, opts.validate()
}

func newLogger(format, level string, output io.Writer) (logr.Logger, error) {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(config)
	case "console":
		encoder = zapcore.NewConsoleEncoder(config)
	default:
		return logr.Logger{}, fmt.Errorf("--log-format is %q; allowed are json and console", format)
	}
	levels := map[string]zapcore.Level{"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "error": zapcore.ErrorLevel}
	threshold, ok := levels[level]
	if !ok {
		return logr.Logger{}, fmt.Errorf("--log-level is %q; allowed are debug, info and error", level)
	}
	return zapr.NewLogger(zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(output)), threshold))), nil
}

func (o *Options) validate() error {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("--listen must be host:port: %w", err)
	}
	switch {
	case o.Auth != "none" && o.Auth != "kubernetes":
		return fmt.Errorf("--auth is %q; allowed are none and kubernetes", o.Auth)
	case o.Auth == "none" && !httpserver.Loopback(host):
		return fmt.Errorf("--auth=none is for loopback addresses only and --listen is %s; use --auth=kubernetes or listen on 127.0.0.1", o.Listen)
	case o.RetentionDays < 0 || o.RetentionDays > maxRetentionDays:
		return fmt.Errorf("--retention-days is %d; allowed are 0, which keeps events for good, to %d", o.RetentionDays, maxRetentionDays)
	}
	if o.TLSCertDir != "" {
		if _, err := os.Stat(o.TLSCertDir); err != nil {
			return fmt.Errorf("--tls-cert-dir must be a directory with tls.crt and tls.key: %w", err)
		}
	}
	return nil
}

// opener returns the opener for the database URL.
func (o *Options) opener() (Opener, error) {
	scheme, _, _ := strings.Cut(o.DatabaseURL, ":")
	if open, ok := o.Openers[scheme]; ok {
		return open, nil
	}
	// The URL itself may hold a password.
	return nil, fmt.Errorf("--database-url must begin with one of %s: and not with %q",
		strings.Join(slices.Sorted(maps.Keys(o.Openers)), ":, "), scheme)
}
