package delivery_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/delivery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func newHTTP(t *testing.T, allow ...netip.Prefix) *delivery.HTTP {
	t.Helper()
	h := delivery.NewHTTP(delivery.HTTPOptions{AllowNetworks: allow, UserAgent: "notification-test"})
	t.Cleanup(h.Close)
	return h
}

func newWebhook(t *testing.T, h *delivery.HTTP, e delivery.Endpoint) *delivery.Webhook {
	t.Helper()
	w, err := delivery.NewWebhook(h, delivery.WebhookConfig{Endpoint: e})
	if err != nil {
		t.Fatalf("new webhook: %v", err)
	}
	return w
}

var update = flag.Bool("update", false, "write the golden files anew")

// checkGolden compares JSON with a file in testdata.
func checkGolden(t *testing.T, name string, content []byte) {
	t.Helper()
	var got bytes.Buffer
	if err := json.Indent(&got, content, "", "  "); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", filepath.FromSlash(name)+".json")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
}

// serve starts an HTTP server whose log is quiet.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func serveTLS(t *testing.T, config *tls.Config, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// rawServer gives each connection to handle and closes it afterwards.
type rawServer struct {
	address  string
	requests atomic.Int32 // those read with readRequest
}

func serveRaw(t *testing.T, handle func(s *rawServer, conn *net.TCPConn)) *rawServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{address: listener.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			handle(s, conn.(*net.TCPConn))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return s
}

// readRequest reads one request with its body; it is false at the end.
func (s *rawServer) readRequest(r *bufio.Reader) bool {
	request, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, request.Body)
	s.requests.Add(1)
	return true
}

// answering returns a handler that reads a request and then does what after does.
func answering(after func(conn *net.TCPConn)) func(*rawServer, *net.TCPConn) {
	return func(s *rawServer, conn *net.TCPConn) {
		if s.readRequest(bufio.NewReader(conn)) {
			after(conn)
		}
	}
}

func reset(conn *net.TCPConn) { _ = conn.SetLinger(0) }

// untilClosed waits until the client has gone.
func untilClosed(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }

func writing(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) }
}

// trickling writes the head and then a byte every few milliseconds for ever.
func trickling(head string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for _, err := io.WriteString(conn, head); err == nil; _, err = io.WriteString(conn, "x") {
			<-tick.C
		}
	}
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate for 127.0.0.1, after change has been at it, and its key.
func (a *authority) issue(t *testing.T, change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

func (a *authority) serverConfig(t *testing.T, change func(*x509.Certificate)) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(a.issue(t, change))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// lineWriter counts writes. The console has to keep them apart by itself.
type lineWriter struct {
	bytes.Buffer
	writes int
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.writes++
	return w.Buffer.Write(p)
}

// tunnel answers CONNECT and joins the connection with one to the address.
func tunnel(t *testing.T, w http.ResponseWriter, to string) {
	t.Helper()
	out, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Errorf("hijack: %v", err)
		return
	}
	_, _ = io.WriteString(in, "HTTP/1.1 200 Connected\r\n\r\n")
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{in: out, out: in} {
		both.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		})
	}
	both.Wait()
}
