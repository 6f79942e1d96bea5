package delivery

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

func TestFileErrorsAreClassified(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		class  Class
		reason string
	}{
		"disk full":      {syscall.ENOSPC, Transient, ReasonDiskFull},
		"quota":          {syscall.EDQUOT, Transient, ReasonDiskFull},
		"I/O":            {syscall.EIO, Transient, ReasonWriteFailed},
		"read-only":      {syscall.EROFS, Config, ReasonPermissionDenied},
		"not permitted":  {syscall.EPERM, Config, ReasonPermissionDenied},
		"no access":      {syscall.EACCES, Config, ReasonPermissionDenied},
		"something else": {errors.New("odd"), Transient, ReasonWriteFailed},
	} {
		t.Run(name, func(t *testing.T) {
			err := errors.Join(&fs.PathError{Op: "write", Path: "/secret/root", Err: os.NewSyscallError("write", c.err)})
			e := fileError("write file", err, Transient, ReasonWriteFailed)
			if e.Class != c.class || e.Reason != c.reason {
				t.Errorf("%s %s, want %s %s", e.Class, e.Reason, c.class, c.reason)
			}
		})
	}
}
