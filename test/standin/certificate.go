package standin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificate has signed itself, so that whoever is to trust it has to have it.
type Certificate struct {
	Server *tls.Config // of a server that shows it
	PEM    []byte      // the certificate
	Key    []byte      // its key, in PEM
}

// NewCertificate returns a certificate for names and IP addresses that is good for
// so long. Where that is negative, it expired so long ago.
func NewCertificate(tb testing.TB, good time.Duration, hosts ...string) Certificate {
	tb.Helper()
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(err)
	until := time.Now().Add(good)
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	c := Certificate{
		PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
	pair, err := tls.X509KeyPair(c.PEM, c.Key)
	check(err)
	c.Server = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return c
}

// Roots trust the certificate and no other.
func (c Certificate) Roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.PEM)
	return roots
}

// Write puts the certificate and its key into a directory as tls.crt and tls.key.
func (c Certificate) Write(tb testing.TB, dir string) {
	tb.Helper()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), c.PEM, 0o600), os.WriteFile(filepath.Join(dir, "tls.key"), c.Key, 0o600),
	); err != nil {
		tb.Fatal(err)
	}
}
