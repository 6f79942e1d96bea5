// Package acknowledge makes the links by which people acknowledge messages, and
// serves the pages behind them.
package acknowledge

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	// purpose goes into what is signed, so that no other use of a key makes a token.
	purpose = "notification.kubernaut.ai/acknowledge/v1\x00"
	// version is the first byte of a token.
	version = 1
	// minKey is the length of HMAC-SHA-256's output, below which RFC 2104 (section 3)
	// discourages keys.
	minKey = sha256.Size
	// maxKeys bounds what a forged token costs.
	maxKeys = 8
	// maxToken is more than the longest names take.
	maxToken = 2048
)

// Claims are what a token says: who was asked, about what, and until when.
type Claims struct {
	Namespace, Name, UID string // of the request
	Channel              string
	Expires              time.Time // in whole seconds
}

// Keys sign and verify tokens. The first one signs, all of them verify.
type Keys [][]byte

// ParseKeys reads one key a line, each of at least 32 bytes, the newest first.
func ParseKeys(text []byte) (Keys, error) {
	var keys Keys
	for line := range bytes.Lines(text) {
		key := bytes.TrimSpace(line)
		if len(key) == 0 {
			continue
		}
		if len(key) < minKey {
			return nil, fmt.Errorf("key %d has %d bytes; each line must have at least %d, for example those of openssl rand -base64 32", len(keys)+1, len(key), minKey)
		}
		keys = append(keys, bytes.Clone(key))
	}
	switch {
	case len(keys) == 0:
		return nil, fmt.Errorf("there is no key; the first line must have at least %d bytes, for example those of openssl rand -base64 32", minKey)
	case len(keys) > maxKeys:
		return nil, fmt.Errorf("there are %d keys; at most %d are allowed, so take out the oldest", len(keys), maxKeys)
	}
	return keys, nil
}

// Sign returns the token for claims, the same for the same claims and key. It is a
// credential. Its characters are letters, digits, '-' and '_'.
func (k Keys) Sign(c Claims) string {
	payload := binary.AppendUvarint([]byte{version}, uint64(c.Expires.Unix())) //nolint:gosec // after 1970
	for _, text := range []string{c.Namespace, c.Name, c.UID, c.Channel} {
		payload = binary.AppendUvarint(payload, uint64(len(text)))
		payload = append(payload, text...)
	}
	return base64.RawURLEncoding.EncodeToString(append(payload, mac(k[0], payload)...))
}

// Verify returns the claims of a token that one of the keys has signed, and false
// for any other text. That a token has expired is for the caller to see.
func (k Keys) Verify(token string) (Claims, bool) {
	if len(token) > maxToken {
		return Claims{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	// One spelling is the token. Others decode alike: with line feeds, for example.
	if err != nil || len(raw) < sha256.Size || base64.RawURLEncoding.EncodeToString(raw) != token {
		return Claims{}, false
	}
	payload, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	signed := false
	for _, key := range k {
		signed = hmac.Equal(sum, mac(key, payload)) || signed
	}
	if !signed {
		return Claims{}, false
	}
	c, err := decode(payload)
	return c, err == nil
}

func mac(key, payload []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(purpose))
	h.Write(payload)
	return h.Sum(nil)
}

var errMalformed = errors.New("malformed token")

// decode reads a payload that was signed, be it by another version of this program.
func decode(payload []byte) (c Claims, err error) {
	if len(payload) == 0 || payload[0] != version {
		return c, errMalformed
	}
	rest := payload[1:]
	number := func() uint64 {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			err = errMalformed
			return 0
		}
		rest = rest[size:]
		return n
	}
	c.Expires = time.Unix(int64(number()), 0).UTC() //nolint:gosec // what is too large has expired, or is in no token of ours
	for _, text := range []*string{&c.Namespace, &c.Name, &c.UID, &c.Channel} {
		n := number()
		if n > uint64(len(rest)) {
			return c, errMalformed
		}
		*text, rest = string(rest[:n]), rest[n:]
	}
	if len(rest) > 0 {
		err = errMalformed
	}
	return c, err
}
