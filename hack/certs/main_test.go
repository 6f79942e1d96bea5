package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

var now = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// secret runs the command and returns the Secret that it prints.
func secret(t *testing.T, args ...string) corev1.Secret {
	t.Helper()
	var out bytes.Buffer
	if err := run(args, &out, now); err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	var s corev1.Secret
	if err := decoder.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not exactly one PEM block: %q", data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestSecretIsWhatTheManifestsMount(t *testing.T) {
	s := secret(t, "-namespace", "elsewhere")
	if s.Kind != "Secret" || s.APIVersion != "v1" || s.Type != corev1.SecretTypeTLS || s.Name != "datastorage-tls" || s.Namespace != "elsewhere" {
		t.Errorf("got %s %s %s %s/%s", s.APIVersion, s.Kind, s.Type, s.Namespace, s.Name)
	}
	if _, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"]); err != nil {
		t.Errorf("certificate and key: %v", err)
	}
	if len(s.Data) != 3 {
		t.Errorf("%d entries, want ca.crt, tls.crt and tls.key alone", len(s.Data))
	}
}

func TestCertificateHoldsForTheHostsAndNoOther(t *testing.T) {
	s := secret(t, "-namespace", "elsewhere", "-hosts", "localhost, 127.0.0.1")
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, s.Data["ca.crt"]))
	cert := parse(t, s.Data["tls.crt"])
	for host, want := range map[string]bool{
		"datastorage":                             true,
		"datastorage.elsewhere.svc":               true,
		"datastorage.elsewhere.svc.cluster.local": true,
		"localhost":                               true,
		"127.0.0.1":                               true,
		"127.0.0.2":                               false,
		"datastorage.notification-system.svc":     false,
		"x.datastorage":                           false,
	} {
		_, err := cert.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: now})
		if (err == nil) != want {
			t.Errorf("%s: got %v, want valid %t", host, err, want)
		}
	}
}

func TestCertificateServesAndDoesNothingElse(t *testing.T) {
	s := secret(t)
	ca, cert := parse(t, s.Data["ca.crt"]), parse(t, s.Data["tls.crt"])
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign {
		t.Errorf("authority: CA %t, path length zero %t, usage %b", ca.IsCA, ca.MaxPathLenZero, ca.KeyUsage)
	}
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("certificate: CA %t, usage %b", cert.IsCA, cert.KeyUsage)
	}
	if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, cert.ExtKeyUsage); diff != "" {
		t.Errorf("extended usage (-want +got):\n%s", diff)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, tc := range []struct {
		at   time.Time
		want bool
	}{
		{now.Add(-time.Hour), false},
		{now.Add(-time.Minute), true},
		{now.AddDate(1, 0, 0), true},
		{now.AddDate(1, 2, 0), false},
	} {
		_, err := cert.Verify(x509.VerifyOptions{DNSName: "datastorage", Roots: roots, CurrentTime: tc.at})
		if (err == nil) != tc.want {
			t.Errorf("at %s: got %v, want valid %t", tc.at, err, tc.want)
		}
	}
}

func TestEachRunMakesAnotherAuthority(t *testing.T) {
	first, second := secret(t), secret(t)
	for name := range first.Data {
		if bytes.Equal(first.Data[name], second.Data[name]) {
			t.Errorf("%s is the same twice", name)
		}
	}
}

func TestBadArgumentsAreNamed(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-namespace", ""}, "-namespace is empty; it must name the namespace that DataStorage runs in"},
		{[]string{"apply"}, `"apply" is no flag; certs takes -namespace and -hosts only`},
	} {
		err := run(tc.args, new(bytes.Buffer), now)
		if err == nil || err.Error() != tc.want {
			t.Errorf("%v: got %v, want %q", tc.args, err, tc.want)
		}
	}
}
