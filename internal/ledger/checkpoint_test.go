package ledger

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
)

func newKey(t testing.TB, origin string) *Key {
	t.Helper()
	text, err := NewKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var sample = Checkpoint{Origin: "example.com/log", Size: 12, Root: leaf(3), Time: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)}

func sign(t testing.TB, k *Key, c Checkpoint) string {
	t.Helper()
	signed, err := k.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestACheckpointIsReadByWhoeverHasThePublicKey(t *testing.T) {
	key := newKey(t, sample.Origin)
	signed := sign(t, key, sample)
	want := "example.com/log\n12\n" + sample.Root.String() + "\ntime 2026-01-02T03:04:05.678Z\n\n\u2014 example.com/log "
	if !strings.HasPrefix(signed, want) {
		t.Errorf("checkpoint is\n%s\nwant\n%s", signed, want)
	}
	got, err := Verify(signed, key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample, got); diff != "" {
		t.Errorf("checkpoint (-want +got):\n%s", diff)
	}
}

func TestACheckpointThatIsNotWhatWasSignedIsRefused(t *testing.T) {
	key, other := newKey(t, sample.Origin), newKey(t, sample.Origin)
	signed := sign(t, key, sample)
	for i := range signed {
		for bit := range 8 {
			changed := []byte(signed)
			changed[i] ^= 1 << bit
			if got, err := Verify(string(changed), key.Verifier()); err == nil && got != sample {
				t.Fatalf("taken for the log's, with byte %d changed: %q", i, changed)
			}
		}
	}
	if _, err := Verify(signed, other.Verifier()); err == nil {
		t.Error("taken with the key of another")
	}
	if _, err := Verify(signed, "nonsense"); err == nil || !strings.Contains(err.Error(), "read public key of log") {
		t.Errorf("error is %v", err)
	}
	for _, text := range []string{
		"other.com/log\n1\n" + sample.Root.String() + "\n",
		"example.com/log\n01\n" + sample.Root.String() + "\n",
		"example.com/log\n-1\n" + sample.Root.String() + "\n",
		"example.com/log\n1\nAAAA\n",
		"example.com/log\n1\n",
		"example.com/log\n1\n" + sample.Root.String() + "\ntime yesterday\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, key.signer)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Verify(string(signed), key.Verifier()); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}

func TestExtensionsOfOthersAreAllowed(t *testing.T) {
	key := newKey(t, sample.Origin)
	text := sample.text() + "more to come\n"
	signed, err := note.Sign(&note.Note{Text: text}, key.signer)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Verify(string(signed), key.Verifier()); err != nil || got != sample {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAKeyThatIsNoneIsRefusedAndNotTold(t *testing.T) {
	text, err := NewKey("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "hunter2", text[:len(text)-3], "PRIVATE+KEY+a+00000000+AAAA", strings.Replace(text, "example", "exemple", 1)} {
		_, err := ParseKey(bad)
		if err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("error is %v", err)
		}
	}
}

func TestAPublicKeyIsToldFromOtherText(t *testing.T) {
	verifier := newKey(t, sample.Origin).Verifier()
	if err := CheckVerifier(verifier); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "key", verifier[:len(verifier)-4], "x" + verifier} {
		if err := CheckVerifier(bad); err == nil {
			t.Errorf("%q is taken for a public key", bad)
		}
	}
}

func TestSaltsAreTheKeysAndTheEventsOwn(t *testing.T) {
	text, err := NewKey("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[16]byte]bool{}
	for _, id := range [][16]byte{{1}, {2}} {
		a, _ := ParseKey(text)
		b, _ := ParseKey(text)
		if a.Salt(id) != b.Salt(id) {
			t.Error("a key has two salts for one event")
		}
		seen[a.Salt(id)] = true
		seen[newKey(t, "example.com/log").Salt(id)] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d salts, want 4", len(seen))
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f, sample.Origin)
	f.Add(sign(f, key, sample))
	f.Fuzz(func(t *testing.T, text string) {
		signed, err := note.Sign(&note.Note{Text: text + "\n"}, key.signer)
		if err != nil {
			return
		}
		c, err := Verify(string(signed), key.Verifier())
		if err == nil && !strings.HasPrefix(text+"\n", strings.Join(strings.SplitN(c.text(), "\n", 4)[:3], "\n")+"\n") {
			t.Errorf("%q is read as %+v", text, c)
		}
	})
}
