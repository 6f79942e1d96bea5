package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultTimeout   = 10 * time.Second
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second

	// idleTimeout is below the five seconds after which common servers close an
	// idle connection: a request that meets such a close is ambiguous.
	idleTimeout = 4 * time.Second

	maxAnswer       = 64 << 10
	maxDrain        = 256 << 10
	maxAnswerHeader = 64 << 10
	maxTransports   = 64
)

// HTTPOptions configure the HTTP side of all channels.
type HTTPOptions struct {
	// AllowNetworks are the networks that channels may reach although they are
	// not public, and over plain HTTP too.
	AllowNetworks []netip.Prefix

	UserAgent string
}

// HTTP is the HTTP client that all channels share. It never follows a redirect,
// never repeats a request, and takes no proxy from the environment: a process
// that serves many tenants must not route them by a variable that none of them
// sees. It speaks HTTP/1.1 only, where the bytes of a connection belong to one
// request and it is certain whether any of them was written.
type HTTP struct {
	allow     []netip.Prefix
	userAgent string

	mu         sync.Mutex // guards what follows
	transports map[transportKey]*pooledTransport
	uses       uint64
}

type transportKey [sha256.Size]byte

type pooledTransport struct {
	*http.Transport
	lastUse uint64
}

// NewHTTP returns a client without connections.
func NewHTTP(o HTTPOptions) *HTTP {
	return &HTTP{
		allow:      o.AllowNetworks,
		userAgent:  o.UserAgent,
		transports: make(map[transportKey]*pooledTransport),
	}
}

// Close closes the idle connections. The client stays usable.
func (h *HTTP) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.transports {
		t.CloseIdleConnections()
	}
}

// Client posts to one endpoint. It is cheap to make: connections belong to HTTP
// and are shared by all endpoints with the same TLS and proxy settings.
type Client struct {
	endpoint  *target
	transport *http.Transport
}

// Client checks the endpoint. Its error is an *Error of class Config.
func (h *HTTP) Client(e Endpoint) (*Client, error) {
	t, err := h.resolve(&e)
	if err != nil {
		return nil, err
	}
	transport, err := h.transport(&e, t)
	if err != nil {
		return nil, err
	}
	return &Client{endpoint: t, transport: transport}, nil
}

// transport returns the transport for the endpoint's settings. Where there are
// too many it forgets the one that was not used for the longest time.
func (h *HTTP) transport(e *Endpoint, t *target) (*http.Transport, error) {
	plain := t.url.Scheme == "http"
	proxy := ""
	if t.proxy != nil {
		plain = t.proxy.Scheme == "http"
		proxy = t.proxy.String()
	}
	sum := sha256.New()
	for _, part := range []string{strconv.FormatBool(plain), proxy, string(e.CA), string(e.Cert), string(e.Key)} {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	key := transportKey(sum.Sum(nil))

	h.mu.Lock()
	defer h.mu.Unlock()
	h.uses++
	if known, ok := h.transports[key]; ok {
		known.lastUse = h.uses
		return known.Transport, nil
	}
	config, err := tlsConfig(e)
	if err != nil {
		return nil, err
	}
	made := h.newTransport(config, t.proxy, plain)
	h.transports[key] = &pooledTransport{Transport: made, lastUse: h.uses}
	if len(h.transports) > maxTransports {
		var oldest transportKey
		last := h.uses
		for k, p := range h.transports {
			if p.lastUse < last {
				oldest, last = k, p.lastUse
			}
		}
		h.transports[oldest].CloseIdleConnections()
		delete(h.transports, oldest)
	}
	return made, nil
}

func (h *HTTP) newTransport(config *tls.Config, proxy *url.URL, plain bool) *http.Transport {
	dialer := h.dialer(plain)
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: conn}, nil
		},
		OnProxyConnectResponse: proxyAnswer,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    handshakeTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true,
		Protocols:              http1,
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
	}
	return t
}

// dialer connects to the addresses that channels may reach, without encryption
// where plain is true.
func (h *HTTP) dialer(plain bool) *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, ControlContext: h.control(plain)}
}

func tlsConfig(e *Endpoint) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(e.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(e.CA) {
			return nil, configError(ReasonInvalidTLS, "CA holds no certificate: PEM is expected")
		}
	}
	if len(e.Cert) > 0 || len(e.Key) > 0 {
		pair, err := tls.X509KeyPair(e.Cert, e.Key)
		if err != nil {
			return nil, configError(ReasonInvalidTLS, "client certificate and key do not make a pair: PEM of both is expected")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// proxyAnswer turns a proxy's refusal to connect into an error. The message has
// not left at this point, whatever the proxy says.
func proxyAnswer(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	e := configError(ReasonProxyRefused, fmt.Sprintf("proxy %s answered %d", proxy.Host, answer.StatusCode))
	e.Code = strconv.Itoa(answer.StatusCode)
	switch {
	case answer.StatusCode == http.StatusProxyAuthRequired:
		e.Reason = ReasonProxyUnauthorized
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		e.Class, e.Reason = Transient, ReasonProxyFailed
		e.RetryAfter = retryAfter(answer.Header.Get("Retry-After"), time.Now())
	}
	return e
}

// countedConn counts the bytes that reached the kernel.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// counted finds the counter beneath the TLS layers of a connection.
func counted(conn net.Conn) *countedConn {
	for {
		switch c := conn.(type) {
		case *countedConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

func (c *Client) host() string { return c.endpoint.url.Host }

// clean makes one line of what an endpoint said, without its secrets.
func (c *Client) clean(s string) string { return c.endpoint.mask.clean(s) }

// unlike is the outcome where the answer was a success and not as the provider gives
// it: somebody else may have given it.
func (c *Client) unlike(answer *Answer, lacks, provider string) *Error {
	return &Error{
		Class: Ambiguous, Reason: ReasonMalformedAnswer, Code: strconv.Itoa(answer.Status), MaybeDelivered: true,
		Message: clean(fmt.Sprintf("%s answered without the %s that %s gives: is it %s, or a proxy on the way?", c.host(), lacks, provider, provider)),
	}
}

// Answer is what an endpoint said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte // the first 64 KiB, or less where the connection broke
}

// Post sends the content once. An answer other than 2xx comes back together with
// its *Error, so that a channel which knows better can classify it again. The
// headers are those of the channel type; those of the endpoint are added.
func (c *Client) Post(ctx context.Context, header http.Header, content []byte) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.endpoint.timeout)
	defer cancel()
	if ctx.Err() != nil {
		return nil, c.failure(ctx, ctx.Err(), false)
	}
	// GotConn runs in this goroutine, before anything of the request is written.
	var conn *countedConn
	var before int64
	request := c.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			conn = counted(info.Conn)
			before = conn.written.Load()
		},
	}), header, content)

	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, c.failure(ctx, err, conn != nil && conn.written.Load() > before)
	}
	defer response.Body.Close()
	answer := &Answer{Status: response.StatusCode, Header: response.Header}
	// The status alone decides: a body that breaks off takes nothing back. Below
	// 200 there is no body, but a connection that no context ends.
	if answer.Status >= http.StatusOK {
		answer.Body, _ = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		_, _ = io.CopyN(io.Discard, response.Body, maxDrain)
	}
	if e := c.endpoint.statusError(answer); e != nil {
		return answer, e
	}
	return answer, nil
}

// request leaves GetBody unset: with it, and with an Idempotency-Key header, the
// transport would silently send the message again when a connection breaks.
func (c *Client) request(ctx context.Context, header http.Header, content []byte) *http.Request {
	r := (&http.Request{
		Method:        http.MethodPost,
		URL:           c.endpoint.url,
		Host:          c.endpoint.url.Host,
		Header:        http.Header{},
		Body:          io.NopCloser(bytes.NewReader(content)),
		ContentLength: int64(len(content)),
	}).WithContext(ctx)
	maps.Copy(r.Header, header)
	maps.Copy(r.Header, c.endpoint.header)
	return r
}

// failure classifies a request without an answer.
func (c *Client) failure(ctx context.Context, err error, written bool) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := causeOf(err)
	if e.Reason == ReasonUnknown && ctx.Err() != nil {
		e = causeOf(ctx.Err())
	}
	switch {
	case !written && e.Reason == ReasonUnknown:
		e.Message = c.clean(withoutURLs(err.Error()))
	case !written || e.Class == Config:
	default:
		e.Class, e.MaybeDelivered = Ambiguous, true
		switch e.Reason {
		case ReasonTimeout, ReasonCancelled:
		case ReasonUnknown:
			e.Reason, e.Message = ReasonMalformedAnswer, "answer is not HTTP"
		default:
			e.Reason = ReasonNoAnswer
		}
		e.Message += " after the message was written"
	}
	e.Message = clean(c.host() + ": " + e.Message)
	return e
}
