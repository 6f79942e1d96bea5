package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"
)

func (p *FaultProxy) serve(w http.ResponseWriter, r *http.Request) {
	fault, ok := p.enter(r)
	if !ok {
		p.hangUp(w, nil)
		return
	}
	defer p.work.Done()
	// Only once the body is read does the server notice that the client has gone.
	if fault.Kind != FaultPass && fault.Kind != FaultReset {
		if _, err := PeekBody(r); err != nil {
			p.hangUp(w, nil)
			return
		}
	}
	switch fault.Kind {
	case FaultReset, FaultResetAfterRead:
		p.count(string(fault.Kind))
		p.hangUp(w, nil)
	case FaultAnswer:
		p.count(string(fault.Kind))
		maps.Copy(w.Header(), fault.Header)
		w.WriteHeader(cmp.Or(fault.Status, http.StatusOK))
		_, _ = io.WriteString(w, fault.Body)
	case FaultHoldBefore:
		p.count(string(fault.Kind))
		if p.hold(r.Context(), fault) != nil {
			p.hangUp(w, nil)
			return
		}
		p.forward(w, r, Fault{})
	default:
		p.forward(w, r, fault)
	}
}

// hold returns when Release is called, or with an error when the client has gone.
func (p *FaultProxy) hold(ctx context.Context, fault Fault) error {
	p.mu.Lock()
	release := p.release
	p.mu.Unlock()
	if fault.Held != nil {
		fault.Held()
	}
	select {
	case <-release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errTaken says that the answer has come and is not given in the usual way.
var errTaken = errors.New("the answer is not passed on")

func (p *FaultProxy) forward(w http.ResponseWriter, r *http.Request, fault Fault) {
	var answer []byte // where err is errTaken: the head and the body
	var bodySize int
	var err error
	proxy := httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(p.target) },
		Transport: p.transport,
		ErrorLog:  p.server.ErrorLog,
		ModifyResponse: func(resp *http.Response) error {
			if fault.Kind == FaultPass {
				p.count(countPass)
				return nil
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			p.count(string(fault.Kind))
			resp.Body = io.NopCloser(bytes.NewReader(body))
			switch fault.Kind {
			case FaultHold:
				return p.hold(r.Context(), fault)
			case FaultReplace:
				if resp.StatusCode/100 == 2 {
					resp.StatusCode, resp.Header = fault.Status, fault.Header
					resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(fault.Body)), int64(len(fault.Body))
				}
				return nil
			}
			answer, bodySize, err = raw(resp, body)
			return errors.Join(err, errTaken)
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, e error) { err = e },
	}
	proxy.ServeHTTP(w, r)
	switch {
	case err == nil:
	case !errors.Is(err, errTaken):
		if r.Context().Err() == nil {
			p.count(countUnreachable)
		}
		p.hangUp(w, nil)
	case fault.Kind == FaultTrickle:
		p.hangUp(w, func(conn net.Conn) { trickle(r.Context(), conn, answer, fault) })
	case fault.Kind == FaultCutMiddle && bodySize == 0:
		p.hangUp(w, func(conn net.Conn) { _, _ = conn.Write(answer[:bytes.IndexByte(answer, '\n')+1]) })
	case fault.Kind == FaultCutMiddle:
		p.hangUp(w, func(conn net.Conn) { _, _ = conn.Write(answer[:len(answer)-(bodySize+1)/2]) })
	default:
		p.hangUp(w, nil)
	}
}

// raw returns an answer as it goes over the wire, to a client that is told that
// the connection ends with it, and how much of that is the body.
func raw(resp *http.Response, body []byte) (answer []byte, bodySize int, err error) {
	resp.Proto, resp.ProtoMajor, resp.ProtoMinor = "HTTP/1.1", 1, 1
	resp.Close = true
	if resp.Request.Method != http.MethodHead {
		resp.ContentLength, resp.TransferEncoding = int64(len(body)), nil
	}
	var buffer bytes.Buffer
	err = resp.Write(&buffer)
	return buffer.Bytes(), len(body), err
}

// trickle writes an answer byte by byte and closes the connection.
func trickle(ctx context.Context, conn net.Conn, answer []byte, fault Fault) {
	limit := time.After(fault.Limit)
	for i := range answer {
		if _, err := conn.Write(answer[i : i+1]); err != nil {
			return
		}
		select {
		case <-time.After(fault.Pause):
		case <-limit:
			_, _ = conn.Write(answer[i+1:])
			_ = conn.Close()
			return
		case <-ctx.Done():
			return
		}
	}
	_ = conn.Close()
}

// hangUp writes to the connection of a request, where write is not nil, and resets
// it unless write has closed it.
func (p *FaultProxy) hangUp(w http.ResponseWriter, write func(net.Conn)) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if write != nil {
		write(conn)
	}
	reset(conn)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
}
