package delivery_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
)

func newFile(t *testing.T, root, directory string) *delivery.File {
	t.Helper()
	f, err := delivery.NewFile(root, directory)
	if err != nil {
		t.Fatalf("new file: %v", err)
	}
	return f
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestFileHoldsTheDocument(t *testing.T) {
	for directory, want := range map[string]string{"": "", "inbox": "inbox/", "a/b/../c": "a/c/"} {
		root, m := t.TempDir(), fixedMessage()
		receipt, err := newFile(t, root, directory).Send(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if want += m.Key + ".json"; receipt.ExternalID != want {
			t.Errorf("external ID %q, want %q", receipt.ExternalID, want)
		}
		got, err := os.ReadFile(filepath.Join(root, receipt.ExternalID))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantDocument, string(got)); diff != "" {
			t.Errorf("document, want (-) and got (+):\n%s", diff)
		}
	}
}

func TestFileIsWrittenOnce(t *testing.T) {
	root, m := t.TempDir(), sendertest.Message()
	f := newFile(t, root, "inbox")
	first, err := f.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, first.ExternalID)
	before := stat(t, path)
	second, err := f.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("receipts, first (-) and second (+):\n%s", diff)
	}
	after := stat(t, path)
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the file was written again")
	}
}

func TestFileWithOtherContentIsKept(t *testing.T) {
	root, m := t.TempDir(), sendertest.Message()
	path := filepath.Join(root, m.Key+".json")
	if err := os.WriteFile(path, []byte("evidence"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newFile(t, root, "").Send(t.Context(), m)
	checkOutcome(t, err, outcome{Class: delivery.Permanent, Reason: delivery.ReasonContentConflict})
	if got, err := os.ReadFile(path); err != nil || string(got) != "evidence" {
		t.Errorf("file is now %q, %v", got, err)
	}
}

func TestFileOfAnEarlierAttemptStaysAsItIs(t *testing.T) {
	root, m := t.TempDir(), fixedMessage()
	f := newFile(t, root, "")
	first, err := f.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	m.Subject = "the channel's template has changed"
	second, err := f.Send(t.Context(), m)
	if err != nil || second != first {
		t.Errorf("got %+v, %v, want the receipt of what is there: %+v", second, err, first)
	}
	if got, err := os.ReadFile(filepath.Join(root, m.Key+".json")); err != nil || string(got) != wantDocument {
		t.Errorf("file is now %q, %v", got, err)
	}
}

func TestFileTakesAwayWhatACrashLeft(t *testing.T) {
	for name, left := range map[string]string{"nothing": "", "a part": wantDocument[:20], "all": wantDocument} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stored %t", name, stored), func(t *testing.T) {
				root, m := t.TempDir(), fixedMessage()
				f := newFile(t, root, "")
				if stored {
					if _, err := f.Send(t.Context(), m); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(root, fmt.Sprintf(".%s.%d.tmp", m.Key, m.Attempt)), []byte(left), 0o600); err != nil {
					t.Fatal(err)
				}
				m.Attempt++
				if _, err := f.Send(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				got := filesIn(t, root)
				want := []sendertest.Arrival{{Key: m.Key, Content: []byte(wantDocument)}}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("files, want (-) and got (+):\n%s", diff)
				}
			})
		}
	}
}

// Each of the attempts has a text of its own, as after a change of the channel's
// template.
func TestFileIsWholeThoughManyAttemptsWriteIt(t *testing.T) {
	for range 20 {
		root := t.TempDir()
		f := newFile(t, root, "")
		receipts := make([]delivery.Receipt, 8)
		errs := make([]error, len(receipts))
		var all sync.WaitGroup
		for i := range receipts {
			m := fixedMessage()
			m.Attempt = int32(i + 1)
			m.Body = strings.Repeat(string(rune('a'+i)), (i%3+1)<<16)
			all.Go(func() { receipts[i], errs[i] = f.Send(t.Context(), m) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		got := filesIn(t, root)
		if len(got) != 1 {
			t.Fatalf("%d files, want 1", len(got))
		}
		is := delivery.ReceiptOf(got[0].Content)
		if !slices.ContainsFunc(receipts, func(r delivery.Receipt) bool { return r.Digest == is.Digest }) {
			t.Fatalf("the file is none of the documents:\n%.200s", got[0].Content)
		}
	}
}

func TestFileStaysBeneathItsRoot(t *testing.T) {
	for _, directory := range []string{"..", "../x", "/etc", "a/../../x"} {
		_, err := delivery.NewFile(t.TempDir(), directory)
		checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonDirectoryUnavailable})
	}
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, directory := range []string{"link", "link/inbox"} {
		_, err := newFile(t, root, directory).Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonDirectoryUnavailable})
	}
	for _, key := range []string{"", ".", "..", "../x", "a/b", ".hidden", "a\x00b", strings.Repeat("k", 200)} {
		m := sendertest.Message()
		m.Key = key
		_, err := newFile(t, root, "").Send(t.Context(), m)
		checkOutcome(t, err, outcome{Class: delivery.Permanent, Reason: delivery.ReasonInvalidMessage})
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
}

func TestFileThatCannotBeWrittenWaitsForItsDirectory(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "inbox"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newFile(t, root, "inbox").Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonDirectoryUnavailable})

	later, m := filepath.Join(root, "later"), sendertest.Message()
	f := newFile(t, later, "inbox")
	_, err = f.Send(t.Context(), m)
	checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonDirectoryUnavailable})
	if strings.Contains(err.Error(), root) {
		t.Errorf("message %q shows where the root is", err)
	}
	if err := os.Mkdir(later, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Send(t.Context(), m); err != nil {
		t.Errorf("send after the root is there: %v", err)
	}
}
