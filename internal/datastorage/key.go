package datastorage

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/ledger"
)

// loadKey reads the signing key, or makes one where there is none and the log
// has not begun.
func loadKey(ctx context.Context, path string, store Reader) (*ledger.Key, error) {
	// The head comes first: whoever begins a log has its key in the file before.
	head, err := store.Head(ctx)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && head.Verifier != "" {
		return nil, fmt.Errorf("%w: --signing-key %s is not there, and the log in the database cannot go on without the key that it was begun with; its public key is %s",
			ErrConfig, path, head.Verifier)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = makeKey(path); err == nil {
			logr.FromContextOrDiscard(ctx).Info("A signing key was made. Keep a copy where the database's administrator cannot read it: without it the log cannot be continued, and whoever has it can sign in its name",
				"file", path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: --signing-key: %w", ErrConfig, err)
	}
	key, err := ledger.ParseKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("%w: --signing-key %s: %w", ErrConfig, path, err)
	}
	return key, nil
}

// newKey makes a key for a log of a new name.
func newKey() (string, error) {
	name := make([]byte, 8)
	_, _ = rand.Read(name) // It never fails.
	return ledger.NewKey("audit.kubernaut.ai/" + hex.EncodeToString(name))
}

// printKey is for those who keep the key elsewhere than in a file.
func printKey(out io.Writer) error {
	text, err := newKey()
	if err == nil {
		_, err = fmt.Fprintln(out, text)
	}
	return err
}

// makeKey makes a key that is durable before anything is signed with it.
func makeKey(path string) ([]byte, error) {
	text, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".signing-key-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(text + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, err
	}
	// A link, since another process may have made one meanwhile.
	if err := os.Link(file.Name(), path); errors.Is(err, fs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return []byte(text), errors.Join(dir.Sync(), dir.Close())
}
