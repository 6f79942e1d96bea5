package delivery

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Endpoint is where a channel posts to and how. Most of it can be a credential,
// so that it prints and encodes as its host alone.
type Endpoint struct {
	URL string // https, or http where the operator allowed the address

	// Headers are added to each request. They may not replace those that the
	// channel itself sets.
	Headers map[string]string

	Timeout time.Duration // of a whole attempt; 10s where it is not positive

	CA        []byte // PEM; replaces the system's authorities
	Cert, Key []byte // PEM; the client's certificate

	Proxy string // http or https URL; empty: none

	// Secrets are further strings that no error may repeat.
	Secrets []string
}

// Format keeps the credentials out of whatever prints an endpoint.
func (e Endpoint) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, e.redacted()) }

// MarshalText keeps the credentials out of whatever encodes an endpoint.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.redacted()), nil }

func (e Endpoint) redacted() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return "endpoint"
	}
	return "endpoint at " + u.Host
}

// target is an endpoint that was checked.
type target struct {
	url     *url.URL // without user information
	proxy   *url.URL // nil: none
	header  http.Header
	timeout time.Duration
	mask    *masker
}

// reserved headers belong to the HTTP client or to the channel.
var reserved = map[string]bool{
	"Connection": true, "Content-Length": true, "Content-Type": true, "Expect": true, "Host": true,
	"Idempotency-Key": true, "Keep-Alive": true, "Proxy-Authorization": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "User-Agent": true,
	"Webhook-Id": true, "Webhook-Signature": true, "Webhook-Timestamp": true, "X-Idempotency-Key": true,
}

func (h *HTTP) resolve(e *Endpoint) (*target, error) {
	u, err := parseURL(e.URL, ReasonInvalidURL, "url")
	if err != nil {
		return nil, err
	}
	t := &target{url: u, header: http.Header{}, timeout: e.Timeout}
	if t.timeout <= 0 {
		t.timeout = defaultTimeout
	}
	dialled := u
	if e.Proxy != "" {
		if t.proxy, err = parseURL(e.Proxy, ReasonInvalidProxy, "proxy"); err != nil {
			return nil, err
		}
		if err := h.checkProxied(u.Hostname(), u.Scheme == "http"); err != nil {
			return nil, err
		}
		dialled = t.proxy
	}
	if _, err := h.checkWritten(dialled.Hostname(), dialled.Scheme == "http"); err != nil {
		return nil, err
	}
	t.mask = newMasker(secretsOf(e, u, t.proxy))
	if h.userAgent != "" {
		t.header.Set("User-Agent", h.userAgent)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		t.header.Set("Authorization", "Basic "+basic(u.User.Username(), password))
		u.User = nil
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !isToken(name):
			return nil, configError(ReasonInvalidHeader, fmt.Sprintf("header %q has a character that no header name may have", name))
		case reserved[canonical]:
			return nil, configError(ReasonInvalidHeader, "header "+canonical+" is set by the controller: remove it from the channel's headers")
		case t.header[canonical] != nil:
			return nil, configError(ReasonInvalidHeader, "header "+canonical+" is given twice, by name or by the URL's user")
		case !isHeaderValue(e.Headers[name]):
			return nil, configError(ReasonInvalidHeader, "value of header "+canonical+" has a control character, such as a line break at its end")
		}
		t.header.Set(canonical, e.Headers[name])
	}
	return t, nil
}

// parseURL says nothing of the text in its errors: all of it may be secret.
func parseURL(text, reason, field string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	switch {
	case err != nil:
		return nil, configError(reason, field+" cannot be parsed: an absolute https URL is expected")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, configError(reason, field+" has to begin with https:// or http://")
	case u.Hostname() == "":
		return nil, configError(reason, field+" has no host")
	case looksNumeric(u.Hostname()):
		return nil, configError(reason, field+" has a number for a host: write it as an IP address")
	}
	return u, nil
}

// secretsOf lists everything in an endpoint that an answer could quote back.
func secretsOf(e *Endpoint, u, proxy *url.URL) []string {
	secrets := append([]string{e.URL, u.String(), u.RequestURI(), u.Path, u.EscapedPath(), u.RawQuery, u.Fragment}, e.Secrets...)
	for segment := range strings.SplitSeq(u.Path, "/") {
		// Shorter ones are words like "hooks" that belong into error texts.
		if len(segment) >= 8 {
			secrets = append(secrets, segment)
		}
	}
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	for _, value := range e.Headers {
		secrets = append(secrets, value)
		secrets = append(secrets, strings.Fields(value)...)
	}
	for _, with := range []*url.URL{u, proxy} {
		if with == nil || with.User == nil {
			continue
		}
		password, _ := with.User.Password()
		secrets = append(secrets, with.User.String(), with.User.Username(), password,
			basic(with.User.Username(), password))
	}
	return secrets
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

func isToken(name string) bool {
	return name != "" && strings.Trim(name, "!#$%&'*+-.^_`|~0123456789"+
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func isHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
