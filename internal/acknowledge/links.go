package acknowledge

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"kubernaut.ai/notification/internal/httpserver"
)

// Path is what comes in a link between the public address and the token.
const Path = "/acknowledge/"

// maxBase keeps links below what channels take.
const maxBase = 512

// CheckURL returns why an address cannot be the public one of the server.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil, u.Host == "", u.User != nil, u.RawQuery != "", u.Fragment != "", len(address) > maxBase:
		return fmt.Errorf("must be an address such as https://notify.example.com, of at most %d characters, without user, query or fragment", maxBase)
	case u.Scheme == "https", u.Scheme == "http" && httpserver.Loopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return errors.New("must begin with https://, since whoever sees a link on its way can acknowledge with it; http:// is for a loopback address only")
	}
	return errors.New("must begin with https://")
}

// Links makes links and takes them apart again.
type Links struct {
	base string // without a slash at its end
	path string // of a link, up to the token
	keys Keys
}

// NewLinks returns the links beneath a public address that CheckURL allows, with the
// keys in a file.
func NewLinks(address, keyFile string) (*Links, error) {
	if err := CheckURL(address); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("read keys in %s: %w", keyFile, err)
	}
	base := strings.TrimRight(address, "/")
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("parse address: %w", err)
	}
	return &Links{base: base, path: u.Path + Path, keys: keys}, nil
}

// URL returns the link for claims, whose expiry counts in whole seconds.
func (l *Links) URL(c Claims) string {
	return l.base + Path + l.keys.Sign(c)
}

// claims returns what a request's path claims, false where it is no link of ours.
func (l *Links) claims(path string) (Claims, bool) {
	token, ok := strings.CutPrefix(path, l.path)
	if !ok {
		return Claims{}, false
	}
	return l.keys.Verify(token)
}

// expired reports whether a link is good no more.
func (c Claims) expired(now time.Time) bool { return !now.Before(c.Expires) }
