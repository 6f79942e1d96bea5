package delivery_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
)

const wantDocument = `{
  "id": "0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11",
  "type": "Escalation",
  "priority": "Critical",
  "severity": "sev1",
  "subject": "Disk full on node-7",
  "body": "First line\nsecond line",
  "body_format": "Plain",
  "correlation_id": "incident-42",
  "channel": "on-call",
  "request": {
    "namespace": "payments",
    "name": "disk-full",
    "uid": "6f1c9c1e-0000-4000-8000-000000000001"
  },
  "regarding": {
    "api_version": "v1",
    "kind": "Node",
    "name": "node-7"
  },
  "links": [
    {
      "label": "Runbook",
      "url": "https://runbooks.example.com/disk"
    }
  ],
  "fields": {
    "app": "ledger",
    "cluster": "prod",
    "team": "payments",
    "zone": "b"
  },
  "created_at": "2026-03-01T12:30:00Z"
}
`

func fixedMessage() *delivery.Message {
	m := sendertest.Message()
	m.Key, m.RequestUID = "0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11", "6f1c9c1e-0000-4000-8000-000000000001"
	return m
}

// received is one request as a webhook's receiver sees it.
type received struct {
	header http.Header
	body   []byte
}

func receiver(t *testing.T, answer string) (string, *[]received) {
	t.Helper()
	all := new([]received)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read request: %v", err)
		}
		if r.Method != http.MethodPost {
			t.Errorf("method %s, want POST", r.Method)
		}
		*all = append(*all, received{r.Header.Clone(), body})
		_, _ = io.WriteString(w, answer)
	})
	return server.URL, all
}

func TestWebhookSendsWhatItDocuments(t *testing.T) {
	address, got := receiver(t, `{"id": "rcpt-9"}`)
	w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{
		URL: strings.Replace(address, "://", "://robot:p%40ss@", 1), Headers: map[string]string{"x-team": "payments"},
	})
	receipt, err := w.Send(t.Context(), fixedMessage())
	if err != nil {
		t.Fatal(err)
	}
	if receipt.ExternalID != "rcpt-9" {
		t.Errorf("external ID %q, want rcpt-9", receipt.ExternalID)
	}
	compact := strings.NewReplacer("\n", "", "  ", "", "\": ", "\":").Replace(strings.TrimSuffix(wantDocument, "\n")) + "\n"
	if diff := cmp.Diff(compact, string((*got)[0].body)); diff != "" {
		t.Errorf("body, want (-) and got (+):\n%s", diff)
	}
	header := (*got)[0].header
	if header.Get("Webhook-Timestamp") == "" {
		t.Error("no webhook-timestamp")
	}
	header.Del("Webhook-Timestamp")
	header.Del("Content-Length")
	want := http.Header{
		"Authorization":   {"Basic " + base64.StdEncoding.EncodeToString([]byte("robot:p@ss"))},
		"Content-Type":    {"application/json"},
		"Idempotency-Key": {"0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11"},
		"User-Agent":      {"notification-test"},
		"Webhook-Id":      {"0b8e3c52-6f0c-5a4e-9a0f-3d7f5f0f0a11"},
		"X-Team":          {"payments"},
	}
	if diff := cmp.Diff(want, header); diff != "" {
		t.Errorf("headers, want (-) and got (+):\n%s", diff)
	}
}

func TestWebhookSignatureVerifies(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	encoded := "whsec_" + base64.StdEncoding.EncodeToString(key)
	for name, secret := range map[string]string{
		"encoded": encoded, "encoded, with a line feed": encoded + "\n", "raw": string(key), "raw, with a line feed": string(key) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			address, got := receiver(t, "")
			w, err := delivery.NewWebhook(newHTTP(t, loopback...), delivery.WebhookConfig{
				Endpoint: delivery.Endpoint{URL: address}, SigningSecret: []byte(secret),
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Send(t.Context(), sendertest.Message()); err != nil {
				t.Fatal(err)
			}
			verifier, err := standardwebhooks.NewWebhookRaw(key)
			if err != nil {
				t.Fatal(err)
			}
			r := (*got)[0]
			if err := verifier.Verify(r.body, r.header); err != nil {
				t.Errorf("verify: %v", err)
			}
			if err := verifier.Verify(append(r.body, ' '), r.header); err == nil {
				t.Error("another body verifies")
			}
		})
	}
}

func TestReservedHeadersAreRefused(t *testing.T) {
	for _, name := range []string{"content-type", "Host", "Idempotency-Key", "webhook-id", "User-Agent", "Transfer-Encoding", "Expect"} {
		_, err := delivery.NewWebhook(newHTTP(t), delivery.WebhookConfig{
			Endpoint: delivery.Endpoint{URL: "https://example.com", Headers: map[string]string{name: "x"}},
		})
		checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonInvalidHeader})
		if want := http.CanonicalHeaderKey(name); err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("message %q does not name %s", err, want)
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	target := serve(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL, http.StatusPermanentRedirect)
	})
	_, err := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: server.URL}).Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Permanent, Reason: delivery.ReasonRedirected, Code: "308"})
	if elsewhere.Load() != 0 {
		t.Error("the redirect was followed")
	}
}

func TestAddressesAreGuarded(t *testing.T) {
	var arrived atomic.Int32
	handler := func(http.ResponseWriter, *http.Request) { arrived.Add(1) }
	secure, plain := serveTLS(t, nil, handler), serve(t, handler)
	named := func(address string) string { return strings.Replace(address, "127.0.0.1", "localhost", 1) }
	config := func(reason string) outcome { return outcome{Class: delivery.Config, Reason: reason} }
	for name, c := range map[string]struct {
		url  string
		want outcome
		flag bool
	}{
		"loopback":                {secure.URL, config(delivery.ReasonAddressNotAllowed), true},
		"loopback, plain":         {plain.URL, config(delivery.ReasonAddressNotAllowed), true},
		"a name for loopback":     {named(secure.URL), config(delivery.ReasonAddressNotAllowed), true},
		"loopback as mapped IPv6": {strings.Replace(plain.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1), config(delivery.ReasonAddressNotAllowed), true},
		"unspecified":             {strings.Replace(plain.URL, "127.0.0.1", "0.0.0.0", 1), config(delivery.ReasonAddressNotAllowed), true},
		"cloud metadata":          {"http://169.254.169.254/latest", config(delivery.ReasonAddressNotAllowed), true},
		"public, plain":           {"http://198.41.0.4/", config(delivery.ReasonPlainHTTP), true},
		"a number":                {"http://2130706433/", config(delivery.ReasonInvalidURL), false},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := delivery.NewWebhook(newHTTP(t), delivery.WebhookConfig{Endpoint: delivery.Endpoint{URL: c.url}})
			if err == nil {
				_, err = w.Send(t.Context(), sendertest.Message())
			}
			checkOutcome(t, err, c.want)
			if err != nil && strings.Contains(err.Error(), "--delivery-allow-networks") != c.flag {
				t.Errorf("message %q, want the flag's name %t", err, c.flag)
			}
		})
	}
	if arrived.Load() != 0 {
		t.Errorf("%d requests arrived, want none", arrived.Load())
	}
}

// connectProxy is a proxy that wants credentials and sends every tunnel to one place.
func connectProxy(t *testing.T, to string) (address string, tunnels *atomic.Int32) {
	t.Helper()
	tunnels = new(atomic.Int32)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("proxyUser:proxySecret8"))
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		tunnels.Add(1)
		tunnel(t, w, to)
	})
	return server.URL, tunnels
}

func TestProxyOfTheChannelIsUsed(t *testing.T) {
	ca := newAuthority(t)
	certified := ca.serverConfig(t, nil)
	var arrived atomic.Int32
	server := serveTLS(t, certified, func(http.ResponseWriter, *http.Request) { arrived.Add(1) })
	to := strings.TrimPrefix(server.URL, "https://")
	proxy, tunnels := connectProxy(t, to)
	h := newHTTP(t, loopback...)
	w := newWebhook(t, h, delivery.Endpoint{
		URL: server.URL, CA: ca.pem, Proxy: strings.Replace(proxy, "://", "://proxyUser:proxySecret8@", 1),
	})
	if _, err := w.Send(t.Context(), sendertest.Message()); err != nil {
		t.Fatal(err)
	}
	if arrived.Load() != 1 || tunnels.Load() != 1 {
		t.Errorf("%d requests through %d tunnels, want 1 through 1", arrived.Load(), tunnels.Load())
	}
	_, err := newWebhook(t, h, delivery.Endpoint{URL: server.URL, Proxy: proxy}).Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonProxyUnauthorized, Code: "407"})
}

func TestProxyThatRefusesIsClassified(t *testing.T) {
	for code, want := range map[int]outcome{
		403: {Class: delivery.Config, Reason: delivery.ReasonProxyRefused, Code: "403"},
		407: {Class: delivery.Config, Reason: delivery.ReasonProxyUnauthorized, Code: "407"},
		429: {Class: delivery.Transient, Reason: delivery.ReasonProxyFailed, Code: "429"},
		502: {Class: delivery.Transient, Reason: delivery.ReasonProxyFailed, Code: "502"},
		504: {Class: delivery.Transient, Reason: delivery.ReasonProxyFailed, Code: "504"},
	} {
		proxy := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: "https://hooks.example.com", Proxy: proxy.URL})
		_, err := w.Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, want)
	}
}

func TestProxyIsNoWayAroundTheGuard(t *testing.T) {
	proxy, tunnels := connectProxy(t, "127.0.0.1:1")
	proxy = strings.Replace(proxy, "://", "://proxyUser:proxySecret8@", 1)
	for name, c := range map[string]struct {
		http   *delivery.HTTP
		url    string
		reason string
	}{
		"the proxy's own address":   {newHTTP(t), "https://example.com", delivery.ReasonAddressNotAllowed},
		"private target":            {newHTTP(t, loopback...), "https://10.0.0.1", delivery.ReasonAddressNotAllowed},
		"mapped target":             {newHTTP(t, loopback...), "https://[::ffff:10.0.0.1]", delivery.ReasonAddressNotAllowed},
		"plain target":              {newHTTP(t, loopback...), "http://example.com", delivery.ReasonPlainHTTP},
		"localhost":                 {newHTTP(t), "https://LocalHost.", delivery.ReasonAddressNotAllowed},
		"a name beneath localhost":  {newHTTP(t), "https://api.localhost", delivery.ReasonAddressNotAllowed},
		"a number":                  {newHTTP(t, loopback...), "https://167772161", delivery.ReasonInvalidURL},
		"an address with a dot end": {newHTTP(t, loopback...), "https://10.0.0.1.", delivery.ReasonInvalidURL},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := delivery.NewWebhook(c.http, delivery.WebhookConfig{Endpoint: delivery.Endpoint{URL: c.url, Proxy: proxy}})
			if err == nil {
				_, err = w.Send(t.Context(), sendertest.Message())
			}
			checkOutcome(t, err, outcome{Class: delivery.Config, Reason: c.reason})
		})
	}
	if tunnels.Load() != 0 {
		t.Errorf("%d tunnels, want none", tunnels.Load())
	}
}

func TestPlainRequestPassesAProxyToAnAllowedAddress(t *testing.T) {
	var asked string
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		w.WriteHeader(http.StatusAccepted)
	})
	w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: "http://127.0.0.1:1/hook", Proxy: proxy.URL})
	if _, err := w.Send(t.Context(), sendertest.Message()); err != nil {
		t.Fatal(err)
	}
	if want := "http://127.0.0.1:1/hook"; asked != want {
		t.Errorf("proxy was asked for %q, want %q", asked, want)
	}
}
