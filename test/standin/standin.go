// Package standin has servers that behave as providers of channels do: they have
// their limits, their words for errors, and their ways to answer.
package standin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Host is where the stand-ins listen: an address at which those that send to them
// reach this machine.
var Host = "127.0.0.1"

// newServer returns a server that is not started yet and ends with the test.
func newServer(tb testing.TB, handler http.Handler) *httptest.Server {
	s := &httptest.Server{Listener: listen(tb), Config: &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}}
	tb.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func listen(tb testing.TB) net.Listener {
	listener, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	return listener
}

// impersonate returns a proxy that leads every connection to the handler, as the hosts
// of these names, and the authority that has signed for them.
func impersonate(tb testing.TB, handler http.Handler, hosts ...string) (proxy string, ca []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: hosts,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	secure := newServer(tb, handler)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	way := newServer(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connect(w, r, secure.Listener.Addr().String())
	}))
	way.Start()
	return way.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// connect joins a connection that asks for another one to the server at an address.
func connect(w http.ResponseWriter, r *http.Request, address string) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	out, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
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
