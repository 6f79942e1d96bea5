// Package verify checks from first principles that a stored log of audit events,
// or an export of one, is what was recorded. It changes nothing.
package verify

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"kubernaut.ai/notification/internal/datastorage"
)

type options struct {
	databaseURL string
	logKey      string   // empty where the log's own is to be believed
	exports     []string // files; the parts of one export in their order
	checkpoints []string // files
}

// Main runs the command line that args are, without the program's name and the
// command's. What was found goes to stdout in words, and how far it is to stderr.
// The error says whether there are findings or something could not be verified.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer, openers map[string]datastorage.ReadOpener) error {
	opts, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return unknown(err)
	}
	r := &report{progress: newProgress(stderr)}
	c := newChecker(r, opts.logKey)
	if err := c.marks.read(opts.checkpoints); err != nil {
		return unknown(err)
	}
	if len(opts.exports) > 0 {
		r.source = "The export"
		err = exported(ctx, c, opts.exports)
	} else {
		r.source = "The log"
		err = database(ctx, c, opts.databaseURL, openers)
	}
	if err != nil {
		return unknown(err)
	}
	r.print(stdout)
	if r.total > 0 {
		return fmt.Errorf("verification ended with findings: %d", r.total)
	}
	return nil
}

func unknown(err error) error {
	return fmt.Errorf("verification failed, nothing is known: %w", err)
}

func parse(args []string, output io.Writer) (opts options, err error) {
	flags := flag.NewFlagSet("datastorage verify", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&opts.databaseURL, "database-url", "sqlite:data/datastorage.db", "`URL` of the database: sqlite:PATH or postgres://user@host/name (password: PGPASSWORD)")
	flags.StringVar(&opts.logKey, "log-key", "", "the log's public `key`, from somebody you trust; without it the one that the database or the export has")
	list := func(values *[]string, name, usage string) {
		flags.Func(name, usage, func(value string) error {
			*values = append(*values, value)
			return nil
		})
	}
	list(&opts.checkpoints, "checkpoint", "`file` with checkpoints or receipts that the log must agree with; may be repeated")
	list(&opts.exports, "export", "`file` with an export, to check instead of the database; the parts of one follow in their order")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(output)
		fmt.Fprint(output, "Usage: datastorage verify [flags]\n\nChecks that a database, or an export, is what was recorded, and changes nothing.\n\n")
		flags.PrintDefaults()
	case err != nil:
		err = fmt.Errorf("%w; datastorage verify -help lists the flags", err)
	case len(opts.exports) > 0:
		opts.exports = append(opts.exports, flags.Args()...) // as a shell makes them of a pattern
	case flags.NArg() > 0:
		err = fmt.Errorf("argument %q is not known; datastorage verify -help lists the flags", flags.Arg(0))
	}
	if _, keyErr := note.NewVerifier(opts.logKey); err == nil && opts.logKey != "" && keyErr != nil {
		err = fmt.Errorf("--log-key must be a public key as /api/v1/audit/log/key answers it: %w", keyErr)
	}
	return opts, err
}

func database(ctx context.Context, c *checker, url string, openers map[string]datastorage.ReadOpener) error {
	scheme, _, _ := strings.Cut(url, ":")
	open, ok := openers[scheme]
	if !ok {
		// The URL itself may hold a password.
		return fmt.Errorf("--database-url must begin with one of %s: and not with %q", strings.Join(slices.Sorted(maps.Keys(openers)), ":, "), scheme)
	}
	log, closeLog, err := open(ctx, url)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	return errors.Join(stored(ctx, c, log), closeLog())
}
