package delivery

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// notPublic lists the networks that the IANA special-purpose registries reserve
// for something other than hosts on the internet.
var notPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
	"3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

// nat64 addresses are IPv4 addresses as a network without IPv4 sees them.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// checkAddress says whether a channel may be reached at the address: any public
// one over TLS, and those that the operator allowed over plain HTTP too.
func (h *HTTP) checkAddress(a netip.Addr, plain bool) error {
	a = a.Unmap().WithZone("")
	if contains(h.allow, a) {
		return nil
	}
	if nat64.Contains(a) {
		b := a.As16()
		return h.checkAddress(netip.AddrFrom4([4]byte(b[12:])), plain)
	}
	if contains(notPublic, a) {
		return configError(ReasonAddressNotAllowed,
			"address "+a.String()+" is not public: --delivery-allow-networks has to contain it")
	}
	if plain {
		return configError(ReasonPlainHTTP,
			"plain http to "+a.String()+" is not allowed: use https, or add it to --delivery-allow-networks")
	}
	return nil
}

// control runs once for every address that is dialled, after the name was looked
// up, so that no answer of a name server gets around the check.
func (h *HTTP) control(plain bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return configError(ReasonAddressNotAllowed, "address to dial is not an IP address with a port")
		}
		return h.checkAddress(to.Addr(), plain)
	}
}

// checkWritten checks a host that is written as an address, or as localhost, which is
// one everywhere, so that a channel can be told before anything is dialled. It reports
// whether the host is such a one: of all others only the dialled address tells.
func (h *HTTP) checkWritten(host string, plain bool) (written bool, err error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(name); err == nil {
		return true, h.checkAddress(a, plain)
	}
	if name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		return false, nil
	}
	err = h.checkAddress(netip.AddrFrom4([4]byte{127, 0, 0, 1}), plain)
	if h.checkAddress(netip.IPv6Loopback(), plain) == nil {
		return true, nil
	}
	return true, err
}

// checkProxied checks the host that a proxy is to reach. The proxy looks names up
// itself, so that only what a name says by itself can be refused here.
func (h *HTTP) checkProxied(host string, plain bool) error {
	written, err := h.checkWritten(host, plain)
	if written || !plain {
		return err
	}
	return configError(ReasonPlainHTTP,
		"plain http through a proxy is only for IP addresses in --delivery-allow-networks: use https")
}

// looksNumeric reports whether some resolvers would read the host as an IPv4
// address although it is not written as one, such as 2130706433 or 0x7f.1.
func looksNumeric(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(strings.ToLower(last), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}
