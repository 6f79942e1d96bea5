package delivery_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
)

// plantedSecrets are the parts of a planted configuration that must never show.
var plantedSecrets = []string{
	"pathSecret1", "pathS%2Fcret2", "pathS/cret2", "querySecret3", "user4", "passSecret5",
	"headerSecret6", "c2lnbmluZ1NlY3JldDc", "signingSecret7", "proxySecret8",
	base64.StdEncoding.EncodeToString([]byte("user4:passSecret5")),
}

var signingSecret = []byte("whsec_" + base64.StdEncoding.EncodeToString([]byte("signingSecret7")))

// planted returns a configuration with a secret everywhere one can be.
func planted(base string) delivery.WebhookConfig {
	return delivery.WebhookConfig{
		Endpoint: delivery.Endpoint{
			URL:     strings.Replace(base, "://", "://user4:passSecret5@", 1) + "/services/pathSecret1/pathS%2Fcret2?token=querySecret3",
			Headers: map[string]string{"X-Api-Key": "Bearer headerSecret6"},
			Timeout: 300 * time.Millisecond,
		},
		SigningSecret: signingSecret,
	}
}

// failingWebhooks fail in every way that a webhook can, and their receivers
// quote back all that they were told.
func failingWebhooks(t *testing.T) map[string]delivery.Sender {
	t.Helper()
	all := map[string]delivery.Sender{}
	open := newHTTP(t, loopback...)
	add := func(name, base string, change func(*delivery.WebhookConfig)) {
		config := planted(base)
		if change != nil {
			change(&config)
		}
		w, err := delivery.NewWebhook(open, config)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = w
	}
	for name, handle := range map[string]func(*rawServer, *net.TCPConn){
		"reset": answering(reset), "swallowed": answering(untilClosed),
		"not HTTP":          answering(writing("pathSecret1 querySecret3\r\n\r\n")),
		"cut in the header": answering(writing("HTTP/1.1 500 pathSecret1\r\nX-Secret: querySecret3")),
		"bad header":        answering(writing("HTTP/1.1 500 pathSecret1\r\nquerySecret3\r\n\r\n")),
		"bad status":        answering(writing("HTTP/1.1 pathSecret1 querySecret3\r\n\r\n")),
	} {
		add(name, "http://"+serveRaw(t, handle).address, nil)
	}
	for _, code := range []int{302, 400, 401, 403, 404, 407, 409, 413, 429, 500, 503, 600} {
		for kind, quote := range map[string]func(string) string{
			"text": func(s string) string { return "bad request: " + s },
			"JSON": func(s string) string { b, _ := json.Marshal(map[string]string{"message": s}); return string(b) },
			"JSON nested": func(s string) string {
				b, _ := json.Marshal(map[string]any{"error": map[string]string{"message": s}})
				return string(b)
			},
			"escaped":    url.QueryEscape,
			"at the cut": func(s string) string { return strings.Repeat("x", 230) + s },
		} {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "https://example.com"+r.RequestURI)
				w.WriteHeader(code)
				_, _ = io.WriteString(w, quote(everythingIn(r)))
			})
			add(fmt.Sprint(code, " ", kind), server.URL, nil)
		}
	}
	server := serveTLS(t, nil, func(http.ResponseWriter, *http.Request) {})
	add("unknown authority", server.URL, func(c *delivery.WebhookConfig) { c.Timeout = 0 })
	add("no such host", "https://no-such-host.invalid", nil)
	add("refused", "http://127.0.0.1:1", nil)
	refusing := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Quoted", r.Header.Get("Proxy-Authorization"))
		http.Error(w, "querySecret3 proxySecret8", http.StatusProxyAuthRequired)
	})
	add("proxy refuses", "https://hooks.example.com", func(c *delivery.WebhookConfig) {
		c.Proxy = strings.Replace(refusing.URL, "://", "://proxyUser:proxySecret8@", 1)
	})
	add("proxy is away", "https://hooks.example.com", func(c *delivery.WebhookConfig) {
		c.Proxy = "http://proxyUser:proxySecret8@127.0.0.1:1"
	})
	return all
}

// everythingIn quotes a request and the signing secret, as a receiver that knows
// all of it could.
func everythingIn(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s user4 passSecret5 signingSecret7 %s ", r.RequestURI, r.URL.Path, signingSecret)
	for name, values := range r.Header {
		fmt.Fprintf(&b, "%s=%s ", name, values)
	}
	return b.String()
}

func TestBadConfigurationKeepsItsSecrets(t *testing.T) {
	h := newHTTP(t, loopback...)
	for name, change := range map[string]func(*delivery.WebhookConfig){
		"unparsable URL":    func(c *delivery.WebhookConfig) { c.URL = "https://user4:passSecret5@[/pathSecret1?token=querySecret3" },
		"control character": func(c *delivery.WebhookConfig) { c.URL += "\npathSecret1" },
		"unparsable port":   func(c *delivery.WebhookConfig) { c.URL = "https://example.com:passSecret5/" },
		"another scheme":    func(c *delivery.WebhookConfig) { c.URL = "passSecret5://example.com" },
		"no host":           func(c *delivery.WebhookConfig) { c.URL = "https:///pathSecret1" },
		"not a URL":         func(c *delivery.WebhookConfig) { c.URL = "passSecret5" },
		"numeric host":      func(c *delivery.WebhookConfig) { c.URL = "https://user4:passSecret5@2130706433/" },
		"address":           func(c *delivery.WebhookConfig) { c.URL = strings.Replace(c.URL, "example.com", "10.0.0.1", 1) },
		"plain HTTP": func(c *delivery.WebhookConfig) {
			c.URL = strings.Replace(c.URL, "https://user4:passSecret5@example.com", "http://user4:passSecret5@198.41.0.4", 1)
		},
		"another service":         func(c *delivery.WebhookConfig) { c.URL = strings.Replace(c.URL, "example.com", "hooks.slack.com", 1) },
		"unparsable proxy":        func(c *delivery.WebhookConfig) { c.Proxy = "http://proxyUser:proxySecret8@[" },
		"SOCKS proxy":             func(c *delivery.WebhookConfig) { c.Proxy = "socks5://proxyUser:proxySecret8@127.0.0.1" },
		"line break in a header":  func(c *delivery.WebhookConfig) { c.Headers["X-Other"] = "headerSecret6\n" },
		"space in a header name":  func(c *delivery.WebhookConfig) { c.Headers["X Other"] = "headerSecret6" },
		"reserved header":         func(c *delivery.WebhookConfig) { c.Headers["webhook-signature"] = "headerSecret6" },
		"header given twice":      func(c *delivery.WebhookConfig) { c.Headers["x-api-key"] = "headerSecret6" },
		"two authorizations":      func(c *delivery.WebhookConfig) { c.Headers["Authorization"] = "Bearer headerSecret6" },
		"signing secret":          func(c *delivery.WebhookConfig) { c.SigningSecret = []byte("whsec_signingSecret7!") },
		"empty signing secret":    func(c *delivery.WebhookConfig) { c.SigningSecret = []byte("whsec_") },
		"CA":                      func(c *delivery.WebhookConfig) { c.CA = []byte("passSecret5") },
		"certificate":             func(c *delivery.WebhookConfig) { c.Cert, c.Key = []byte("passSecret5"), []byte("passSecret5") },
		"key without certificate": func(c *delivery.WebhookConfig) { c.Key = []byte("passSecret5") },
	} {
		t.Run(name, func(t *testing.T) {
			config := planted("https://example.com")
			change(&config)
			_, err := delivery.NewWebhook(h, config)
			if e := delivery.Classify(err); e == nil || e.Class != delivery.Config {
				t.Fatalf("error %v, want one of class Config", err)
			}
			sendertest.CheckSecrets(t, err, plantedSecrets)
		})
	}
}

func TestPrintedConfigurationKeepsItsSecrets(t *testing.T) {
	config := planted("https://example.com")
	config.Key, config.Secrets = []byte("signingSecret7"), []string{"signingSecret7"}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %d %x\n", config, config, config, config, config, config)
	fmt.Fprintf(&out, "%v %+v %#v\n", &config, &config, config.Endpoint)
	fmt.Fprintf(&out, "%+v\n", struct{ C delivery.WebhookConfig }{config})
	encoded, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	hidden := append([]string{"115 105 103", fmt.Sprintf("%x", "signingSecret7"), base64.StdEncoding.EncodeToString([]byte("signingSecret7"))}, plantedSecrets...)
	for _, secret := range hidden {
		if strings.Contains(out.String(), secret) {
			t.Errorf("shows %q:\n%s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), "example.com") {
		t.Errorf("does not say the host: %s", out.String())
	}
}

func TestSecretsAreHiddenHoweverTheyAreQuoted(t *testing.T) {
	for name, quoted := range map[string]string{
		"as they are":                    "pass word long, a/b+secret, a%2Fb",
		"a line break for a space":       "pass\nword\r\n long",
		"wide spaces":                    "pass\u00a0word\u2003long",
		"control characters":             "pass\x00word\x1b\u2028long",
		"upper-case percent escapes":     "pass%20word%20long, a%2Fb%2Bsecret",
		"lower-case percent escapes":     "pass%0aword%0along, a%2fb%2bsecret",
		"needless percent escapes":       "%70%61ss%20w%6Frd%20lon%67",
		"a form's plus signs":            "pass+word+long, a%2Fb%2Bsecret",
		"a plus sign beside escapes":     "pass+word%0a+long, %61/b+secret",
		"JSON's escapes":                 `pass\nword\t\r\nlong, a\/b\u002bsecret`,
		"JSON's escapes in either case":  `pass\u0020word\u000along, a\u002Fb\u002Bsecret`,
		"JSON's surrogate pairs":         `key\ud83d\uDD11word`,
		"HTML's entities":                "pass&nbsp;word&#10;long, a&#x2f;b&#43;secret",
		"HTML's entities left open":      "pass&nbspword&#32longer, &#97/b&#x2bsecret",
		"escapes of escapes":             `pass%255cnword+long, a%252fb%252bsecret, \\u0061/b+secret`,
		"an escaped secret with escapes": `a%252Fb, a\u0025%32Fb`,
		"half-way over the cut":          strings.Repeat("x", 240) + "pass\nword long",
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/refuse" {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, "no "+quoted)
					return
				}
				_ = json.NewEncoder(w).Encode(map[string]string{"id": "no " + quoted})
			})
			for _, path := range []string{"/refuse", "/accept"} {
				w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{
					URL:     strings.Replace(server.URL, "://", "://:pass%20word%20long@", 1) + path,
					Headers: map[string]string{"X-One": "a/b+secret", "X-Two": "a%2Fb"},
					Secrets: []string{"key\U0001f511word"},
				})
				receipt, err := w.Send(t.Context(), sendertest.Message())
				shown := receipt.ExternalID + fmt.Sprint(err)
				if !strings.Contains(shown, "no [redacted]") && !strings.Contains(shown, "no xxx") {
					t.Errorf("%s shows %q, want the words around the secrets", path, shown)
				}
				for _, part := range []string{"pass", "key", "word", "long", "a/b", "secret"} {
					if strings.Contains(shown, part) {
						t.Errorf("%s shows %q, %q of a secret", path, shown, part)
					}
				}
			}
		})
	}
}

func TestWordsWithoutSecretsAreShownAsTheyCame(t *testing.T) {
	for _, words := range []string{`100%25 of a+b &amp; C:\new in %zz`, "longer pass or word", "&unknown; %2 \\u12 \\"} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, words)
		})
		w := newWebhook(t, newHTTP(t, loopback...), delivery.Endpoint{URL: strings.Replace(server.URL, "://", "://:pass%20word%20long@", 1)})
		if _, err := w.Send(t.Context(), sendertest.Message()); err == nil || !strings.HasSuffix(err.Error(), ": "+words) {
			t.Errorf("got %v, want it to end in %q", err, words)
		}
	}
}

func TestReceiptKeepsTheSecrets(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"id": %q}`, everythingIn(r))
	})
	w, err := delivery.NewWebhook(newHTTP(t, loopback...), planted(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := w.Send(t.Context(), sendertest.Message())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range plantedSecrets {
		if strings.Contains(receipt.ExternalID, secret) {
			t.Errorf("external ID shows %q: %s", secret, receipt.ExternalID)
		}
	}
	if receipt.ExternalID == "" || len(receipt.ExternalID) > 256 {
		t.Errorf("external ID %q, want 1 to 256 bytes", receipt.ExternalID)
	}
}
