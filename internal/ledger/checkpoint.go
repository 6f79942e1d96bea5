package ledger

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint says what a log holds: the root of the tree of its first Size
// leaves. Time is when that was so, in whole milliseconds.
type Checkpoint struct {
	Origin string // names the log, and is the name of its key
	Size   int64
	Root   Hash
	Time   time.Time
}

// timePrefix begins the extension line that has the time, since RFC 6962's
// trees know none.
const timePrefix = "time "

// text is the body of a C2SP tlog-checkpoint.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n%s%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]),
		timePrefix, c.Time.UTC().Format(time.RFC3339Nano))
}

// parse reads the body of a checkpoint. Extension lines of others are allowed.
func parse(text string) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 || lines[0] == "" {
		return c, errors.New("a checkpoint has an origin, a size and a root hash on lines of their own")
	}
	c.Origin = lines[0]
	var err error
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 0 || strconv.FormatInt(c.Size, 10) != lines[1] {
		return c, fmt.Errorf("the size of a checkpoint is a decimal number and not %q", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) {
		return c, fmt.Errorf("the root hash of a checkpoint is 32 bytes in base64 and not %q", lines[2])
	}
	copy(c.Root[:], root)
	for _, line := range lines[3:] {
		if at, ok := strings.CutPrefix(line, timePrefix); ok {
			if c.Time, err = time.Parse(time.RFC3339Nano, at); err != nil {
				return c, fmt.Errorf("read time of checkpoint: %w", err)
			}
		}
	}
	return c, nil
}

// Key is the private key of one log. It signs checkpoints with Ed25519, and
// makes the salts of events.
type Key struct {
	signer   note.Signer
	verifier string
	salt     []byte
}

// NewKey makes a key for the log of an origin. It returns one line of text, in
// the form of golang.org/x/mod/sumdb/note, which must be kept secret.
func NewKey(origin string) (string, error) {
	text, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", fmt.Errorf("make signing key: %w", err)
	}
	return text, nil
}

// ParseKey reads what NewKey has made. Its error does not tell the key.
func ParseKey(text string) (*Key, error) {
	text = strings.TrimSpace(text)
	signer, err := note.NewSigner(text)
	if err != nil {
		return nil, errors.New("this is no signing key: it is one line that begins with PRIVATE+KEY+")
	}
	// PRIVATE+KEY+name+hash+base64 of a byte that names the algorithm and of the seed
	secret, err := base64.StdEncoding.DecodeString(strings.SplitN(text, "+", 5)[4])
	if err != nil {
		return nil, errors.New("the signing key is not in base64")
	}
	seed := secret[1:]
	verifier, err := note.NewEd25519VerifierKey(signer.Name(), ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("derive public key: %w", err)
	}
	salt := sha256.Sum256(append([]byte("salt of events\x00"), seed...))
	return &Key{signer: signer, verifier: verifier, salt: salt[:]}, nil
}

// Origin is the name of the log.
func (k *Key) Origin() string { return k.signer.Name() }

// Verifier is the public key, one line of text that anybody may know.
func (k *Key) Verifier() string { return k.verifier }

// Sign returns the checkpoint as a signed note. Origin is the key's.
func (k *Key) Sign(c Checkpoint) (string, error) {
	c.Origin = k.Origin()
	signed, err := note.Sign(&note.Note{Text: c.text()}, k.signer)
	if err != nil {
		return "", fmt.Errorf("sign checkpoint: %w", err)
	}
	return string(signed), nil
}

// Salt is the same 16 bytes for an event whenever it is asked for, and nobody
// without the key can tell them from random ones.
func (k *Key) Salt(eventID [16]byte) [16]byte {
	mac := hmac.New(sha256.New, k.salt)
	mac.Write(eventID[:])
	return [16]byte(mac.Sum(nil))
}

// Verify reads a checkpoint that the holder of a key has signed. verifier is
// what Key.Verifier returns.
func Verify(signed, verifier string) (Checkpoint, error) {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read public key of log: %w", err)
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verify checkpoint: %w", err)
	}
	c, err := parse(opened.Text)
	if err == nil && c.Origin != v.Name() {
		err = fmt.Errorf("the checkpoint is of the log %q and its key of %q", c.Origin, v.Name())
	}
	return c, err
}

// CheckVerifier returns an error where the text is not what Key.Verifier returns.
func CheckVerifier(verifier string) error {
	if _, err := note.NewVerifier(verifier); err != nil {
		return errors.New("a public key is one line: a name, a hash and the key in base64, with a + between them")
	}
	return nil
}

// Extends returns nil where the log of c is that of older and more, or the same.
// proof is RFC 6962's consistency proof for the two sizes, which is needed only
// where they differ and older is not empty.
func (c Checkpoint) Extends(older Checkpoint, proof []Hash) error {
	switch {
	case c.Size < older.Size:
		return fmt.Errorf("a log of %d events is no continuation of one of %d", c.Size, older.Size)
	case c.Size == older.Size && c.Root != older.Root:
		return fmt.Errorf("two logs of %d events have the roots %s and %s", c.Size, older.Root, c.Root)
	case c.Size == older.Size || older.Size == 0:
		return nil
	}
	if err := tlog.CheckTree(proof, c.Size, c.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("the log of %d events is not shown to begin with that of %d: %w", c.Size, older.Size, err)
	}
	return nil
}
