// Command certs prints the Secret datastorage-tls for a cluster without
// cert-manager: a certificate for DataStorage and that of the authority which
// signed it. The authority's key is thrown away, so nobody can sign another, and
// renewing means running this again and restarting the manager:
//
//	go run ./hack/certs | kubectl apply --server-side -f -
//	kubectl -n notification-system rollout restart deployment notification-manager
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// lifetime is long enough to be renewed with each yearly upgrade and no longer,
// since nothing renews it by itself.
const lifetime = 398 * 24 * time.Hour

func main() {
	if err := run(os.Args[1:], os.Stdout, time.Now()); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "certs:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer, now time.Time) error {
	flags := flag.NewFlagSet("certs", flag.ContinueOnError)
	namespace := flags.String("namespace", "notification-system", "`namespace` that DataStorage runs in")
	more := flags.String("hosts", "", "`names` and IP addresses, separated by commas, that DataStorage is reached by besides those of its Service")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no flag; certs takes -namespace and -hosts only", flags.Arg(0))
	}
	if *namespace == "" {
		return errors.New("-namespace is empty; it must name the namespace that DataStorage runs in")
	}
	service := "datastorage." + *namespace + ".svc"
	hosts := []string{"datastorage", service, service + ".cluster.local"}
	for host := range strings.SplitSeq(*more, ",") {
		if host = strings.TrimSpace(host); host != "" {
			hosts = append(hosts, host)
		}
	}
	data, err := certificates(hosts, now)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"type":       "kubernetes.io/tls",
		"metadata":   map[string]string{"name": "datastorage-tls", "namespace": *namespace},
		"data":       data,
	})
}

// certificates returns PEM by the names that a Secret has for it.
func certificates(hosts []string, now time.Time) (map[string][]byte, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key: %w", err)
	}
	// Clocks differ a little from node to node.
	from, until := now.Add(-5*time.Minute), now.Add(lifetime)
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "datastorage-ca"},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	leaf := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "datastorage"},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	// With the authority as it came out, the certificate names its key ID.
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return map[string][]byte{
		"ca.crt":  block("CERTIFICATE", caDER),
		"tls.crt": block("CERTIFICATE", leafDER),
		"tls.key": block("PRIVATE KEY", keyDER),
	}, nil
}
