package harness

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const answerText = "0123456789"

// behind is a server that says what it saw.
type behind struct {
	*httptest.Server
	mu  sync.Mutex
	saw []string
}

func newBehind(t *testing.T) *behind {
	t.Helper()
	b := &behind{}
	b.Server = httptest.NewTLSServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *behind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	b.note(fmt.Sprintf("%s %s %d %v", r.Method, r.URL.RequestURI(), len(body), err))
	if r.URL.Path == "/empty" {
		w.WriteHeader(http.StatusNoContent)
	} else {
		_, _ = io.WriteString(w, answerText[:5])
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, answerText[5:])
	}
	b.note("answered")
}

func (b *behind) note(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saw = append(b.saw, what)
}

// take returns what was seen since it was last asked.
func (b *behind) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	saw := b.saw
	b.saw = nil
	return saw
}

func (b *behind) trust() *tls.Config {
	return b.Client().Transport.(*http.Transport).TLSClientConfig
}

// clientOf returns a client of a proxy.
func clientOf(t *testing.T, p *FaultProxy) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// say describes an answer, or what came in its place.
func say(resp *http.Response, err error) string {
	text := ""
	if err == nil {
		defer resp.Body.Close()
		var body []byte
		body, err = io.ReadAll(resp.Body)
		text = fmt.Sprintf("%d %q", resp.StatusCode, body)
		for _, name := range []string{"Content-Type", "Retry-After"} {
			if value := resp.Header.Get(name); value != "" && !strings.HasPrefix(value, "text/plain") {
				text += " " + value
			}
		}
	}
	switch {
	case err == nil:
		return text
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return strings.TrimSpace(text + " reset")
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.Canceled):
		return "given up"
	}
	return text + err.Error()
}

// asks has a client post to a path and returns where to read what it says.
func asks(ctx context.Context, c *http.Client, url string) <-chan string {
	outcome := make(chan string, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("hello"))
		if err != nil {
			outcome <- err.Error()
			return
		}
		outcome <- say(c.Do(req))
	}()
	return outcome
}

// proxies runs a test with a proxy of either kind.
func proxies(t *testing.T, test func(t *testing.T, b *behind, p *FaultProxy)) {
	t.Helper()
	secure := func(tb testing.TB, target string, client *tls.Config) *FaultProxy {
		return NewTLSFaultProxy(tb, target, client)
	}
	for name, start := range map[string]func(testing.TB, string, *tls.Config) *FaultProxy{"plain": NewFaultProxy, "TLS": secure} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBehind(t)
			test(t, b, start(t, b.URL, b.trust()))
		})
	}
}

func always(f Fault) func(*http.Request) Fault { return func(*http.Request) Fault { return f } }

func TestFaultProxyDoesToARequestWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	heard := []string{"POST /a?b=c 5 <nil>", "answered"}
	heardEmpty := []string{"POST /empty 5 <nil>", "answered"}
	problem := Fault{
		Kind: FaultAnswer, Status: 400, Header: http.Header{"Content-Type": {"application/problem+json"}},
		Body: `{"errors":[{"pointer":"/3/event_type"}]}`,
	}
	rows := []struct {
		name, path string
		fault      Fault
		client     string
		server     []string
	}{
		{"pass", "/a?b=c", Fault{}, `200 "0123456789"`, heard},
		{"reset", "/a?b=c", Fault{Kind: FaultReset}, "reset", nil},
		{"reset after read", "/a?b=c", Fault{Kind: FaultResetAfterRead}, "reset", nil},
		{"cut answer", "/a?b=c", Fault{Kind: FaultCutAnswer}, "reset", heard},
		{"cut middle", "/a?b=c", Fault{Kind: FaultCutMiddle}, `200 "01234" reset`, heard},
		{"trickle", "/a?b=c", Fault{Kind: FaultTrickle, Limit: time.Hour}, `200 "0123456789"`, heard},
		{"trickle within a limit", "/a?b=c", Fault{Kind: FaultTrickle, Pause: time.Hour}, `200 "0123456789"`, heard},
		{"trickle a head", "/empty", Fault{Kind: FaultTrickle, Limit: time.Hour}, `204 ""`, heardEmpty},
		{"202", "/a?b=c", Fault{Kind: FaultAnswer, Status: 202}, `202 ""`, nil},
		{"429", "/a?b=c", Fault{Kind: FaultAnswer, Status: 429, Header: http.Header{"Retry-After": {"7"}}}, `429 "" 7`, nil},
		{"503", "/a?b=c", Fault{Kind: FaultAnswer, Status: 503, Body: "later"}, `503 "later"`, nil},
		{"problem", "/a?b=c", problem, `400 "{\"errors\":[{\"pointer\":\"/3/event_type\"}]}" application/problem+json`, nil},
		{"garbage", "/a?b=c", Fault{Kind: FaultAnswer, Body: "{]"}, `200 "{]"`, nil},
		{"replace", "/a?b=c", Fault{Kind: FaultReplace, Status: 202, Header: http.Header{"Retry-After": {"7"}}, Body: "{]"}, `202 "{]" 7`, heard},
		{"pass again", "/a?b=c", Fault{}, `200 "0123456789"`, heard},
	}
	proxies(t, func(t *testing.T, b *behind, p *FaultProxy) {
		client := clientOf(t, p)
		for _, row := range rows {
			p.Decide(always(row.fault))
			if diff := cmp.Diff(row.client, <-asks(t.Context(), client, p.URL+row.path)); diff != "" {
				t.Errorf("%s: the client (-want +got):\n%s", row.name, diff)
			}
			if diff := cmp.Diff(row.server, b.take()); diff != "" {
				t.Errorf("%s: the server (-want +got):\n%s", row.name, diff)
			}
		}
		want := map[string]int{"pass": 2, "reset": 1, "resetAfterRead": 1, "cutAnswer": 1, "cutMiddle": 1, "trickle": 3, "answer": 5, "replace": 1}
		if diff := cmp.Diff(want, p.Counts()); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
	})
}

func TestFaultProxyCutsAnAnswerThatHasNoBody(t *testing.T) {
	t.Parallel()
	proxies(t, func(t *testing.T, b *behind, p *FaultProxy) {
		p.Decide(always(Fault{Kind: FaultCutMiddle}))
		// net/http says in several ways that a head has no end.
		if got := <-asks(t.Context(), clientOf(t, p), p.URL+"/empty"); strings.HasPrefix(got, "204") || got == "refused" {
			t.Errorf("the client says %s", got)
		}
		if diff := cmp.Diff([]string{"POST /empty 5 <nil>", "answered"}, b.take()); diff != "" {
			t.Errorf("the server (-want +got):\n%s", diff)
		}
	})
}

// counter counts what is read through it.
type counter struct {
	io.Reader
	n atomic.Int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestFaultProxyResetsBeforeOrAfterTheBody(t *testing.T) {
	t.Parallel()
	const size = 32 << 20 // far more than the buffers of a connection hold
	proxies(t, func(t *testing.T, b *behind, p *FaultProxy) {
		client := clientOf(t, p)
		for kind, all := range map[FaultKind]bool{FaultReset: false, FaultResetAfterRead: true} {
			p.Decide(always(Fault{Kind: kind}))
			body := &counter{Reader: io.LimitReader(zeros{}, size)}
			if resp, err := client.Post(p.URL, "text/plain", body); err == nil {
				t.Errorf("%s: the client says %s", kind, say(resp, nil))
			}
			if n := body.n.Load(); (n == size) != all {
				t.Errorf("%s: %d bytes of %d were sent", kind, n, size)
			}
		}
		if saw := b.take(); saw != nil {
			t.Errorf("the server saw %q", saw)
		}
	})
}

func TestFaultProxyTricklesSlowly(t *testing.T) {
	t.Parallel()
	proxies(t, func(t *testing.T, _ *behind, p *FaultProxy) {
		p.Decide(always(Fault{Kind: FaultTrickle, Pause: time.Millisecond, Limit: time.Hour}))
		begin := time.Now()
		if got := <-asks(t.Context(), clientOf(t, p), p.URL); got != `200 "0123456789"` {
			t.Errorf("the client says %s", got)
		}
		if took, least := time.Since(begin), 80*time.Millisecond; took < least {
			t.Errorf("an answer with a head of more than 80 bytes took %s", took)
		}
	})
}

func TestFaultProxyHoldsUntilItIsReleasedOrTheClientGoes(t *testing.T) {
	t.Parallel()
	proxies(t, func(t *testing.T, b *behind, p *FaultProxy) {
		client := clientOf(t, p)
		held := make(chan struct{})
		for _, row := range []struct {
			kind        FaultKind
			atHold, all []string
		}{
			{FaultHold, []string{"POST / 5 <nil>", "answered"}, nil},
			{FaultHoldBefore, nil, []string{"POST / 5 <nil>", "answered"}},
		} {
			p.Decide(always(Fault{Kind: row.kind, Held: func() { held <- struct{}{} }}))
			outcome := asks(t.Context(), client, p.URL)
			<-held
			if diff := cmp.Diff(row.atHold, b.take()); diff != "" {
				t.Errorf("%s: the server, while it is held (-want +got):\n%s", row.kind, diff)
			}
			select {
			case got := <-outcome:
				t.Errorf("%s: the client says %s before the release", row.kind, got)
			default:
			}
			p.Release()
			if got := <-outcome; got != `200 "0123456789"` {
				t.Errorf("%s: after the release the client says %s", row.kind, got)
			}
			if diff := cmp.Diff(row.all, b.take()); diff != "" {
				t.Errorf("%s: the server, after the release (-want +got):\n%s", row.kind, diff)
			}

			ctx, cancel := context.WithCancel(t.Context())
			outcome = asks(ctx, client, p.URL)
			<-held
			cancel()
			if got := <-outcome; got != "given up" {
				t.Errorf("%s: the client says %s", row.kind, got)
			}
			noConnection(t, p)
			p.Release()
			if diff := cmp.Diff(row.atHold, b.take()); diff != "" {
				t.Errorf("%s: the server, after the client has gone (-want +got):\n%s", row.kind, diff)
			}
		}
	})
}

// noConnection returns once the proxy has none.
func noConnection(t *testing.T, p *FaultProxy) {
	t.Helper()
	Eventually(t, 10*time.Second, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.open) > 0 {
			return fmt.Errorf("%d connections are open", len(p.open))
		}
		return nil
	})
}

func TestFaultProxyPassesStreamsUntilTheyAreBroken(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		end  func(*FaultProxy)
	}{
		{"break", (*FaultProxy).Break},
		{"refuse", func(p *FaultProxy) { p.Refuse(true) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for {
					_, _ = fmt.Fprintln(w, "event")
					_ = http.NewResponseController(w).Flush()
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			}))
			t.Cleanup(server.Close)
			p := NewTLSFaultProxy(t, server.URL, nil)
			client := clientOf(t, p)
			resp, err := client.Get(p.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				if i > 0 {
					next <- struct{}{} // there is no more to come before
				}
				if line, err := lines.ReadString('\n'); err != nil || line != "event\n" {
					t.Fatalf("the line is %q, %v", line, err)
				}
			}
			row.end(p)
			if _, err := lines.ReadString('\n'); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the stream ends with %v", err)
			}
			if row.name == "refuse" {
				if got := say(client.Get(p.URL)); got != "refused" {
					t.Errorf("while it refuses the client says %s", got)
				}
				p.Refuse(false)
			}
			again, err := client.Get(p.URL)
			if err != nil {
				t.Fatalf("afterwards: %v", err)
			}
			_ = again.Body.Close()
			if diff := cmp.Diff(map[string]int{"pass": 2, row.name: 1}, p.Counts()); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaultProxyResetsWhatItsServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	proxies(t, func(t *testing.T, b *behind, p *FaultProxy) {
		client := clientOf(t, p)
		b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { Reset(w, r) })
		for _, kind := range []FaultKind{FaultPass, FaultCutMiddle, FaultTrickle} {
			p.Decide(always(Fault{Kind: kind}))
			if got := <-asks(t.Context(), client, p.URL); got != "reset" {
				t.Errorf("%q: the client says %s", kind, got)
			}
		}
		b.Close()
		p.Decide(nil)
		if got := <-asks(t.Context(), client, p.URL); got != "reset" {
			t.Errorf("without a server the client says %s", got)
		}
		if diff := cmp.Diff(map[string]int{"unreachable": 4}, p.Counts()); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
	})
}

func TestFaultProxyEndsWhileItHoldsRequests(t *testing.T) {
	t.Parallel()
	var outcomes []<-chan string
	var server *behind
	t.Run("requests", func(t *testing.T) {
		server = &behind{}
		server.Server = httptest.NewTLSServer(server)
		p := NewTLSFaultProxy(t, server.URL, server.trust())
		held := make(chan struct{}, 10)
		client := clientOf(t, p)
		for _, kind := range []FaultKind{FaultHold, FaultHoldBefore, FaultTrickle} {
			asked := make(chan struct{})
			p.Decide(func(*http.Request) Fault {
				close(asked)
				return Fault{Kind: kind, Held: func() { held <- struct{}{} }, Pause: time.Hour, Limit: time.Hour}
			})
			outcomes = append(outcomes, asks(context.Background(), client, p.URL))
			<-asked
		}
		<-held
		<-held
	})
	server.Close()
	for _, outcome := range outcomes {
		if got := <-outcome; strings.HasPrefix(got, "200") {
			t.Errorf("the client says %s", got)
		}
	}
}

func TestFaultProxyIsToldFromAnywhere(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	p := NewFaultProxy(t, b.URL, b.trust())
	client := clientOf(t, p)
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for range 20 {
				p.Decide(func(r *http.Request) Fault {
					body, err := PeekBody(r)
					if err != nil || string(body) != "hello" {
						t.Errorf("the body is %q, %v", body, err)
					}
					return Fault{Kind: []FaultKind{FaultPass, FaultReset, FaultCutMiddle, FaultAnswer}[i]}
				})
				<-asks(t.Context(), client, p.URL)
				p.Release()
			}
		})
	}
	work.Wait()
	total := 0
	for _, n := range p.Counts() {
		total += n
	}
	if total != 80 {
		t.Errorf("%d requests are counted, want 80: %v", total, p.Counts())
	}
}
