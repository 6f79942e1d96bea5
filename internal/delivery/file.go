package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"syscall"
)

// File writes each message as a JSON document of its own, named by the key. A
// document is there as a whole or not at all, and only once.
type File struct {
	root      string
	directory string
}

// NewFile returns a channel that writes into a directory beneath root. The root
// has to exist; the directory is made. Its error is an *Error of class Config.
func NewFile(root, directory string) (*File, error) {
	if directory == "" {
		directory = "."
	}
	if !filepath.IsLocal(directory) {
		return nil, configError(ReasonDirectoryUnavailable, "directory has to be a relative path without ..")
	}
	return &File{root: root, directory: filepath.Clean(directory)}, nil
}

var safeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Render implements Renderer.
func (*File) Render(m *Message) []byte { return encode(m, "  ") }

// Send writes the document and returns when it would survive a loss of power. A
// document that an earlier attempt has written stays as it is, and the receipt is of
// that one.
func (f *File) Send(ctx context.Context, m *Message) (Receipt, error) {
	content := f.Render(m)
	receipt := ReceiptOf(content)
	if ctx.Err() != nil {
		return receipt, Classify(ctx.Err())
	}
	if !safeName.MatchString(m.Key) {
		return receipt, &Error{Class: Permanent, Reason: ReasonInvalidMessage, Message: "key is not fit for a file name"}
	}
	dir, err := f.open()
	if err != nil {
		return receipt, err
	}
	defer dir.Close()
	stored, err := store(dir, m, content)
	if err != nil {
		return receipt, fileError("write file", err, Transient, ReasonWriteFailed)
	}
	receipt = ReceiptOf(stored)
	receipt.ExternalID = path.Join(filepath.ToSlash(f.directory), m.Key+".json")
	return receipt, nil
}

// open returns the channel's directory, out of which no symbolic link leads.
func (f *File) open() (*os.Root, error) {
	root, err := os.OpenRoot(f.root)
	if err != nil {
		return nil, fileError("open root directory of all file channels", err, Config, ReasonDirectoryUnavailable)
	}
	defer root.Close()
	dir, err := root.OpenRoot(f.directory)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeSynced(root, f.directory)
		if err == nil {
			dir, err = root.OpenRoot(f.directory)
		}
	}
	if err != nil {
		return nil, fileError("open directory of the channel", err, Config, ReasonDirectoryUnavailable)
	}
	return dir, nil
}

func makeSynced(root *os.Root, directory string) error {
	if err := root.MkdirAll(directory, 0o750); err != nil {
		return err
	}
	// Each new directory is an entry of the one above it.
	for directory != "." {
		directory = filepath.Dir(directory)
		if err := syncDir(root, directory); err != nil {
			return err
		}
	}
	return nil
}

// store puts the content under its final name and returns what is there then. Each
// attempt has a temporary file of its own, since an earlier one may still be writing: in
// a process that leads no more, or because it was given up.
func store(dir *os.Root, m *Message, content []byte) (stored []byte, err error) {
	name := m.Key + ".json"
	defer func() {
		for attempt := int32(1); stored != nil && attempt <= m.Attempt; attempt++ {
			// Whose attempt is still writing finds what is stored.
			_ = dir.Remove(temporary(m.Key, attempt))
		}
	}()
	if found, err := findStored(dir, name, m); found != nil || err != nil {
		return found, err
	}
	if err := writeSynced(dir, temporary(m.Key, m.Attempt), content); err != nil {
		return nil, err
	}
	if err := dir.Rename(temporary(m.Key, m.Attempt), name); err != nil {
		if found, findErr := findStored(dir, name, m); found != nil || findErr != nil {
			return found, findErr
		}
		return nil, err
	}
	return content, syncDir(dir, ".")
}

func temporary(key string, attempt int32) string { return fmt.Sprintf(".%s.%d.tmp", key, attempt) }

// findStored returns the document of an earlier attempt, nil where there is none. It
// may say something else, since a template or a link may have changed meanwhile.
// Whoever renamed it may have died before the directory was on disk, so that this is
// made up for.
func findStored(dir *os.Root, name string, m *Message) ([]byte, error) {
	found, err := dir.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var d document
	if json.Unmarshal(found, &d) != nil || d.ID != m.Key || d.Request.UID != m.RequestUID {
		return nil, &Error{Class: Permanent, Reason: ReasonContentConflict, Message: "a file of that name exists that is not this message"}
	}
	return found, syncDir(dir, ".")
}

// writeSynced makes a file that is not there yet, and leaves none that is not whole.
func writeSynced(dir *os.Root, name string, content []byte) error {
	file, err := dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if _, err = file.Write(content); err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = dir.Remove(name)
	}
	return err
}

func syncDir(dir *os.Root, name string) error {
	d, err := dir.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fileError leaves the path out of its message: where the root is mounted is no
// business of those who read a status.
func fileError(verb string, err error, class Class, reason string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	for _, c := range []struct {
		target error
		class  Class
		reason string
	}{
		{syscall.ENOSPC, Transient, ReasonDiskFull},
		{syscall.EDQUOT, Transient, ReasonDiskFull},
		{syscall.EIO, Transient, ReasonWriteFailed},
		{syscall.EMFILE, Transient, ReasonWriteFailed},
		{syscall.ENFILE, Transient, ReasonWriteFailed},
		{syscall.EROFS, Config, ReasonPermissionDenied},
		{fs.ErrPermission, Config, ReasonPermissionDenied},
	} {
		if errors.Is(err, c.target) {
			return &Error{Class: c.class, Reason: c.reason, Message: verb + ": " + c.target.Error(), Err: c.target}
		}
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return &Error{Class: class, Reason: reason, Message: clean(verb + ": " + err.Error())}
}
