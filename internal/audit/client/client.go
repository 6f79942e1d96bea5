// Package client speaks DataStorage's HTTP API on behalf of the audit store and
// the gate. It makes exactly one request for each call; whoever calls decides
// about the next.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/ledger"
)

const (
	// maxAnswer is ample for the answer to the largest batch.
	maxAnswer = 1 << 20
	// maxLogAnswer is ample for a key, a checkpoint or the longest proof.
	maxLogAnswer = 64 << 10
	// maxReason keeps a page of HTML out of logs and status.
	maxReason      = 256
	requestTimeout = 10 * time.Second
	// idleTimeout is below the server's 120 s, so that it is the client that
	// closes an idle connection and no request meets a closing one.
	idleTimeout = 90 * time.Second
)

// Options say where DataStorage is and how to speak to it.
type Options struct {
	URL       string // http or https, host, optional port
	CAFile    string // PEM, read anew when it changes; empty: the system's roots
	TokenFile string // bearer token; empty: none
}

// Client is safe for use by several goroutines.
type Client struct {
	base              string
	caFile, tokenFile string
	timeout           time.Duration

	mu   sync.Mutex
	ca   []byte       // what caFile had
	http *http.Client // trusts that
}

var (
	_ audit.Poster = (*Client)(nil)
	_ audit.Log    = (*Client)(nil)
)

// New checks the options and returns a client. It makes no request.
func New(o Options) (*Client, error) {
	base, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, caFile: o.CAFile, tokenFile: o.TokenFile, timeout: requestTimeout}
	if c.caFile == "" {
		c.http = newHTTP(nil)
		return c, nil
	}
	if c.ca, err = os.ReadFile(c.caFile); err != nil {
		return nil, fmt.Errorf("read CA file for --datastorage-url: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.ca) {
		return nil, fmt.Errorf("read CA file for --datastorage-url: %s holds no PEM certificate", c.caFile)
	}
	c.http = newHTTP(roots)
	return c, nil
}

func newHTTP(roots *x509.CertPool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			Protocols:           protocols,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     idleTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// trusting returns the HTTP client that trusts what the CA file has by now. Where
// that is nothing, the authorities of before stay: the next request reads it again.
func (c *Client) trusting() *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caFile == "" {
		return c.http
	}
	ca, err := os.ReadFile(c.caFile)
	roots := x509.NewCertPool()
	if err == nil && !bytes.Equal(ca, c.ca) && roots.AppendCertsFromPEM(ca) {
		c.http.CloseIdleConnections()
		c.ca, c.http = ca, newHTTP(roots)
	}
	return c.http
}

// parseURL does not repeat what it refuses: there may be a password in it.
func parseURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("--datastorage-url must be http://HOST[:PORT] or https://HOST[:PORT], without user info, path, query or fragment")
	}
	return u.Scheme + "://" + u.Host, nil
}

// CloseIdleConnections closes the connections that no request uses.
func (c *Client) CloseIdleConnections() { c.trusting().CloseIdleConnections() }

// Post sends 1 to 1000 events in one request, which may take 10 s. Errors are as
// audit.Poster has them.
func (c *Client) Post(ctx context.Context, events []audit.Event) (audit.Ack, error) {
	body := audit.AppendEvents(make([]byte, 0, 1024*len(events)), events)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodPost, "/api/v1/audit/events/batch", body)
	if err != nil {
		return audit.Ack{}, fmt.Errorf("post audit events: %w", err)
	}
	defer resp.Body.Close()
	// An answer that breaks off still says what it says by its status.
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		return readAck(answer, events), nil
	}
	return audit.Ack{}, readProblem(resp, answer, len(events))
}

// Ready returns nil when DataStorage's write path works, and otherwise why it is
// not known to.
func (c *Client) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask DataStorage whether it is ready: %w", err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask DataStorage whether it is ready: %s/readyz answered %d: %s", c.base, resp.StatusCode, reason(resp, answer))
	}
	return nil
}

// Key returns the public key of DataStorage's log. Its errors, like those of
// Checkpoint and Consistency, are *audit.PostError where there was an answer.
func (c *Client) Key(ctx context.Context) (string, error) {
	text, err := c.getLog(ctx, "/key")
	return strings.TrimSpace(string(text)), err
}

// Checkpoint returns the newest signed checkpoint of DataStorage's log.
func (c *Client) Checkpoint(ctx context.Context) (string, error) {
	text, err := c.getLog(ctx, "/checkpoint")
	return string(text), err
}

// Consistency returns what is to prove that the log of to events is that of from
// events and more. What cannot be read is an empty proof.
func (c *Client) Consistency(ctx context.Context, from, to int64) ([]ledger.Hash, error) {
	text, err := c.getLog(ctx, fmt.Sprintf("/proof/consistency?from=%d&to=%d", from, to))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Proof []ledger.Hash `json:"proof"`
	}
	if json.Unmarshal(text, &answer) != nil {
		answer.Proof = nil
	}
	return answer.Proof, nil
}

func (c *Client) getLog(ctx context.Context, route string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/audit/log"+route, nil)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxLogAnswer))
	if resp.StatusCode != http.StatusOK {
		return nil, readProblem(resp, answer, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return answer, nil
}

func (c *Client) do(ctx context.Context, method, route string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+route, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// With it net/http could send the request a second time by itself.
	req.GetBody = nil
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.tokenFile != "" {
		// Read each time, since the kubelet replaces the token while we run.
		token, err := os.ReadFile(c.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return c.trusting().Do(req)
}

// readAck takes from a 2xx what it can. The status alone is the acknowledgement.
func readAck(answer []byte, events []audit.Event) audit.Ack {
	var body struct {
		EventIDs   []string `json:"event_ids"`
		LogIndices []int64  `json:"log_indices"`
		Duplicates int      `json:"duplicates"`
		Checkpoint string   `json:"checkpoint"`
	}
	if json.Unmarshal(answer, &body) != nil || len(body.EventIDs) != len(events) {
		return audit.Ack{}
	}
	for i := range events {
		if body.EventIDs[i] != events[i].EventID.String() {
			return audit.Ack{}
		}
	}
	if len(body.LogIndices) != len(events) {
		body.LogIndices = nil
	}
	return audit.Ack{LogIndices: body.LogIndices, Duplicates: body.Duplicates, Checkpoint: body.Checkpoint}
}

func readProblem(resp *http.Response, answer []byte, events int) *audit.PostError {
	problem := &audit.PostError{
		Status:     resp.StatusCode,
		Reason:     reason(resp, answer),
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
		Foreign:    !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json"),
	}
	var body struct {
		Type   string `json:"type"`
		Errors []struct {
			Pointer  string       `json:"pointer"`
			Detail   string       `json:"detail"`
			LogIndex int64        `json:"log_index"`
			Stored   *audit.Facts `json:"stored"`
		} `json:"errors"`
	}
	if json.Unmarshal(answer, &body) != nil {
		return problem
	}
	if body.Type != "" {
		problem.Kind = path.Base(body.Type)
	}
	for _, e := range body.Errors {
		index, field, ok := splitPointer(e.Pointer)
		if !ok || index >= events {
			continue
		}
		fault := audit.Fault{Index: index, Detail: shorten(strings.TrimSpace(field + " " + e.Detail))}
		if e.Stored != nil {
			fault.Stored = &audit.Stored{LogIndex: e.LogIndex, Facts: *e.Stored}
		}
		problem.Faults = append(problem.Faults, fault)
	}
	return problem
}

// splitPointer parts "/3/event_type" into the event's index and the rest.
func splitPointer(pointer string) (index int, field string, ok bool) {
	rest, ok := strings.CutPrefix(pointer, "/")
	first, _, _ := strings.Cut(rest, "/")
	index, err := strconv.Atoi(first)
	return index, rest[len(first):], ok && err == nil && index >= 0
}

// reason is what the answer says in words.
func reason(resp *http.Response, answer []byte) string {
	var problem struct{ Title, Detail string }
	_ = json.Unmarshal(answer, &problem) // what is no problem document is quoted as it stands
	text := cmp.Or(problem.Detail, problem.Title, string(answer))
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode/100 == 3 {
		text = "redirects are not followed"
	}
	return shorten(cmp.Or(strings.TrimSpace(text), http.StatusText(resp.StatusCode)))
}

func shorten(text string) string {
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "")
}

// retryAfter reads seconds or an HTTP date; 0 where there is neither.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil {
		return max(0, min(time.Duration(seconds), 1<<20)*time.Second)
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
