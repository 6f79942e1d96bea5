package delivery

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

func TestOnlyPublicAddressesAreReached(t *testing.T) {
	closed := NewHTTP(HTTPOptions{})
	open := NewHTTP(HTTPOptions{AllowNetworks: prefixes("0.0.0.0/0", "::/0")})
	for address, public := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "100.63.255.255": true, "100.128.0.0": true, "172.15.255.255": true,
		"172.32.0.0": true, "192.0.1.1": true, "198.17.255.255": true, "223.255.255.255": true,
		"2606:4700:4700::1111": true, "::ffff:1.1.1.1": true, "64:ff9b::101:101": true,

		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "100.64.0.1": false, "127.0.0.1": false,
		"127.255.255.254": false, "169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false,
		"192.0.0.1": false, "192.0.2.1": false, "192.88.99.1": false, "192.168.1.1": false, "198.18.0.1": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false,
		"240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false,
		"::ffff:169.254.169.254": false, "64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false,
		"64:ff9b:1::1": false, "100::1": false, "2001::1": false, "2001:db8::1": false, "2002:7f00:1::": false,
		"3fff::1": false, "fc00::1": false, "fd00:ec2::254": false, "fe80::1": false, "fe80::1%eth0": false,
		"fec0::1": false, "ff02::1": false,
	} {
		t.Run(address, func(t *testing.T) {
			a := netip.MustParseAddr(address)
			for _, c := range []struct {
				http  *HTTP
				plain bool
				want  string
			}{
				{closed, false, map[bool]string{false: ReasonAddressNotAllowed}[public]},
				{closed, true, map[bool]string{false: ReasonAddressNotAllowed, true: ReasonPlainHTTP}[public]},
				{open, false, ""},
				{open, true, ""},
			} {
				got := ""
				if e := Classify(c.http.checkAddress(a, c.plain)); e != nil {
					got = e.Reason
				}
				if got != c.want {
					t.Errorf("plain %t: reason %q, want %q", c.plain, got, c.want)
				}
			}
		})
	}
}

func TestOnlyTheAllowedNetworkIsOpened(t *testing.T) {
	h := NewHTTP(HTTPOptions{AllowNetworks: prefixes("10.1.0.0/16", "fe80::/10")})
	for address, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "64:ff9b::a01:203": true, "fe80::1%eth0": true,
		"10.2.0.1": false, "127.0.0.1": false, "fd00::1": false,
	} {
		if err := h.checkAddress(netip.MustParseAddr(address), true); (err == nil) != want {
			t.Errorf("%s: %v, want allowed %t", address, err, want)
		}
	}
}

func TestAnAddressThatIsWrittenDownIsRefusedBeforeItIsDialled(t *testing.T) {
	loopback := prefixes("127.0.0.0/8", "::1/128")
	senders := map[string]func(*HTTP, Endpoint) error{
		"Webhook": func(h *HTTP, e Endpoint) error { _, err := NewWebhook(h, WebhookConfig{Endpoint: e}); return err },
		"Slack":   func(h *HTTP, e Endpoint) error { _, err := NewSlack(h, SlackConfig{Endpoint: e}); return err },
		"bot": func(h *HTTP, e Endpoint) error {
			_, err := NewSlack(h, SlackConfig{Endpoint: e, Token: "x", Channel: "y"})
			return err
		},
		"Teams":   func(h *HTTP, e Endpoint) error { _, err := NewTeams(h, TeamsConfig{Endpoint: e}); return err },
		"Discord": func(h *HTTP, e Endpoint) error { _, err := NewDiscord(h, DiscordConfig{Endpoint: e}); return err },
	}
	for name, c := range map[string]struct {
		url, proxy string
		allow      []netip.Prefix
		want       string
	}{
		"loopback":                     {"https://127.0.0.1/hook", "", nil, ReasonAddressNotAllowed},
		"loopback with a port":         {"http://127.0.0.1:9000/hook", "", nil, ReasonAddressNotAllowed},
		"IPv6":                         {"https://[::1]:9000/hook", "", nil, ReasonAddressNotAllowed},
		"metadata":                     {"http://169.254.169.254/latest", "", loopback, ReasonAddressNotAllowed},
		"private":                      {"https://10.0.0.1/hook", "", loopback, ReasonAddressNotAllowed},
		"localhost":                    {"https://LocalHost./hook", "", nil, ReasonAddressNotAllowed},
		"public and plain":             {"http://198.41.0.4/hook", "", nil, ReasonPlainHTTP},
		"a proxy that is private":      {"https://example.com/hook", "https://10.0.0.1:3128", loopback, ReasonAddressNotAllowed},
		"a proxy that is plain":        {"https://example.com/hook", "http://198.41.0.4:3128", loopback, ReasonPlainHTTP},
		"allowed":                      {"http://127.0.0.1:9000/hook", "", loopback, ""},
		"localhost over IPv4 alone":    {"http://localhost:9000/hook", "", prefixes("127.0.0.1/32"), ""},
		"localhost over IPv6 alone":    {"http://localhost:9000/hook", "", prefixes("::1/128"), ""},
		"a proxy that is allowed":      {"https://example.com/hook", "http://127.0.0.1:3128", loopback, ""},
		"a name, which dialling tells": {"http://receiver.example/hook", "", nil, ""},
	} {
		for sender, build := range senders {
			got := ""
			if e := Classify(build(NewHTTP(HTTPOptions{AllowNetworks: c.allow}), Endpoint{URL: c.url, Proxy: c.proxy})); e != nil {
				got = e.Reason
				if e.Class != Config || !strings.Contains(e.Message, "--delivery-allow-networks") {
					t.Errorf("%s, %s: %+v does not say how to allow it", sender, name, e)
				}
			}
			if got != c.want {
				t.Errorf("%s, %s: reason %q, want %q", sender, name, got, c.want)
			}
		}
	}
}

// A name can lead anywhere, and elsewhere the next time.
func TestTheAddressThatIsDialledIsChecked(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "https://")
	h := NewHTTP(HTTPOptions{})
	defer h.Close()
	client, err := h.Client(Endpoint{URL: "https://receiver.example"})
	if err != nil {
		t.Fatal(err)
	}
	client.endpoint.url.Host = address
	mail, err := NewEmail(h, EmailConfig{Host: "mail.example", From: "a@b.example", To: []string{"c@d.example"}, Encryption: EmailTLS})
	if err != nil {
		t.Fatal(err)
	}
	mail.address = address
	_, posted := client.Post(t.Context(), nil, nil)
	_, mailed := mail.Send(t.Context(), &Message{})
	for what, err := range map[string]error{"posting": posted, "mailing": mailed} {
		if e := Classify(err); e == nil || e.Reason != ReasonAddressNotAllowed {
			t.Errorf("%s: %v", what, err)
		}
	}
	if arrived.Load() != 0 {
		t.Error("it arrived")
	}
}

func TestNumbersAreNoHostNames(t *testing.T) {
	for host, want := range map[string]bool{
		"2130706433": true, "0x7f000001": true, "0x7f.1": true, "127.1": true, "0177.0.0.1": true, "127.0.0.1.": true,
		"0x7F000001": true, "1.0x": true, "10.0.0.256": true,
		"127.0.0.1": false, "::1": false, "fe80::1%eth0": false, "example.com": false, "1.example.com": false, "a1": false, "": false,
	} {
		if got := looksNumeric(host); got != want {
			t.Errorf("%q: %t, want %t", host, got, want)
		}
	}
}

func TestTransportsAreSharedAndBounded(t *testing.T) {
	h := NewHTTP(HTTPOptions{AllowNetworks: prefixes("10.0.0.1/32")})
	clientFor := func(proxy int, url string) *Client {
		t.Helper()
		c, err := h.Client(Endpoint{URL: url, Proxy: fmt.Sprintf("http://10.0.0.1:%d", proxy)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := clientFor(1, "https://a.example.com/x")
	if other := clientFor(1, "https://b.example.com/y"); other.transport != first.transport {
		t.Error("same settings, another transport")
	}
	second := clientFor(2, "https://a.example.com/x")
	if second.transport == first.transport {
		t.Error("another proxy, same transport")
	}
	for i := range maxTransports - 1 {
		clientFor(1000+i, "https://a.example.com")
		clientFor(1, "https://a.example.com")
	}
	if n := len(h.transports); n != maxTransports {
		t.Errorf("%d transports, want %d", n, maxTransports)
	}
	if again := clientFor(1, "https://a.example.com"); again.transport != first.transport {
		t.Error("the transport in use was forgotten")
	}
	if again := clientFor(2, "https://a.example.com"); again.transport == second.transport {
		t.Error("the transport that was not used was kept")
	}
}

func TestNoProxyIsTakenFromTheEnvironment(t *testing.T) {
	// The standard library reads the environment once for a process, so that
	// setting it here would show nothing.
	c, err := NewHTTP(HTTPOptions{}).Client(Endpoint{URL: "https://example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if c.transport.Proxy != nil {
		t.Error("the transport asks for a proxy that no channel has set")
	}
}
