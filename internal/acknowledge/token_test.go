package acknowledge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	older = []byte("a key of which everybody in this file knows")
	newer = []byte("another key that is known to everybody here")
	claim = Claims{
		Namespace: "shop", Name: "order-7", UID: "6f0c7f4e-0000-4000-8000-000000000007", Channel: "ops",
		Expires: time.Date(2026, 3, 2, 10, 15, 0, 0, time.UTC),
	}
)

func TestATokenSaysWhatItWasSignedFor(t *testing.T) {
	long := strings.Repeat("n", 253)
	for name, c := range map[string]Claims{
		"usual": claim, "longest": {Namespace: long[:63], Name: long, UID: long[:36], Channel: long, Expires: claim.Expires},
		"empty": {Expires: time.Unix(0, 0).UTC()},
	} {
		token := Keys{older}.Sign(c)
		got, ok := Keys{newer, older}.Verify(token)
		if diff := cmp.Diff(c, got); !ok || diff != "" {
			t.Errorf("%s: verified %t (-want +got):\n%s", name, ok, diff)
		}
		if token != (Keys{older, newer}).Sign(c) {
			t.Errorf("%s: the same claims and key give another token", name)
		}
		if strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			t.Errorf("%s: %q does not go into a path as it is", name, token)
		}
	}
	if n := len(Keys{older}.Sign(claim)); n > 140 {
		t.Errorf("a usual token has %d characters", n)
	}
}

func TestEachChannelHasAnotherToken(t *testing.T) {
	// The parts must not run into one another.
	a, b := claim, claim
	a.Name, a.Channel = "order-7o", "ps"
	b.Name, b.Channel = "order-7", "ops"
	c := claim
	c.Channel = "mail"
	keys, seen := Keys{older}, map[string]bool{}
	for _, claims := range []Claims{a, b, c} {
		seen[keys.Sign(claims)] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d tokens for 3 claims", len(seen))
	}
}

func TestOnlyAKeyMakesAToken(t *testing.T) {
	keys := Keys{newer, older}
	token := keys.Sign(claim)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	payload := raw[:len(raw)-32]
	otherVersion := append([]byte{2}, payload[1:]...)
	sealed := func(payload []byte) string {
		return base64.RawURLEncoding.EncodeToString(append(append([]byte{}, payload...), mac(newer, payload)...))
	}
	if _, ok := keys.Verify(sealed(payload)); !ok {
		t.Fatal("the test cannot make a token itself")
	}
	signed := func(payload []byte) []byte {
		h := hmac.New(sha256.New, newer)
		h.Write(payload)
		return h.Sum(append([]byte{}, payload...))
	}
	for name, forged := range map[string]string{
		"nothing":              "",
		"another key":          Keys{[]byte("a key that nobody has told the server of")}.Sign(claim),
		"cut":                  token[:len(token)-1],
		"longer":               token + "A",
		"padded":               token + "=",
		"a line feed":          token[:20] + "\n" + token[20:],
		"too long":             strings.Repeat(token, 20),
		"without a signature":  base64.RawURLEncoding.EncodeToString(payload),
		"of another version":   sealed(otherVersion),
		"with something after": sealed(append(append([]byte{}, payload...), 0)),
		"with parts missing":   sealed(payload[:10]),
		"empty but signed":     sealed(nil),
		"for another purpose":  base64.RawURLEncoding.EncodeToString(signed(payload)),
	} {
		if c, ok := keys.Verify(forged); ok {
			t.Errorf("%s: taken for %+v", name, c)
		}
	}
	for i := range raw {
		changed := append([]byte{}, raw...)
		changed[i] ^= 1
		if _, ok := keys.Verify(base64.RawURLEncoding.EncodeToString(changed)); ok {
			t.Errorf("a token with another byte %d is taken", i)
		}
	}
	// The bits that the last character has to spare spell no second token.
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, last := range digits {
		if other := token[:len(token)-1] + string(last); other != token {
			if _, ok := keys.Verify(other); ok {
				t.Errorf("a token with another last character is taken: %q", last)
			}
		}
	}
}

func TestKeysAreReadOneALine(t *testing.T) {
	text := string(newer) + "\r\n\n  " + string(older) + "\n"
	keys, err := ParseKeys([]byte(text))
	if diff := cmp.Diff(Keys{newer, older}, keys); err != nil || diff != "" {
		t.Errorf("error %v, keys (-want +got):\n%s", err, diff)
	}
	const secret = "too-short-and-planted"
	for name, c := range map[string]struct{ text, want string }{
		"none":     {" \n\n", "there is no key; the first line must have at least 32 bytes, for example those of openssl rand -base64 32"},
		"short":    {string(newer) + "\n" + secret, "key 2 has 21 bytes; each line must have at least 32, for example those of openssl rand -base64 32"},
		"too many": {strings.Repeat(string(newer)+"\n", 9), "there are 9 keys; at most 8 are allowed, so take out the oldest"},
	} {
		if _, err := ParseKeys([]byte(c.text)); err == nil || err.Error() != c.want || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error is %v, want %s", name, err, c.want)
		}
	}
}

func TestAPublicAddressIsSafeToSendOut(t *testing.T) {
	const shape = "must be an address such as https://notify.example.com, of at most 512 characters, without user, query or fragment"
	for address, want := range map[string]string{
		"https://notify.example.com":              "",
		"https://notify.example.com:8443/prefix/": "",
		"http://127.0.0.1:8083":                   "",
		"http://[::1]:8083":                       "",
		"http://localhost:8083":                   "",
		"http://notify.example.com":               "must begin with https://, since whoever sees a link on its way can acknowledge with it; http:// is for a loopback address only",
		"http://127.0.0.1.example.com":            "must begin with https://, since whoever sees a link on its way can acknowledge with it; http:// is for a loopback address only",
		"ftp://notify.example.com":                "must begin with https://",
		"notify.example.com":                      shape,
		"https://":                                shape,
		"https://user:word@notify.example.com":    shape,
		"https://notify.example.com?a=b":          shape,
		"https://notify.example.com#a":            shape,
		"https://" + strings.Repeat("n", 512):     shape,
	} {
		got := ""
		if err := CheckURL(address); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: error is %q, want %q", address, got, want)
		}
	}
}

// FuzzVerify: no text but a signed one is taken, and none brings the server down.
func FuzzVerify(f *testing.F) {
	keys := Keys{newer, older}
	f.Add(keys.Sign(claim))
	f.Add("")
	f.Add("AQ")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, 64)))
	f.Fuzz(func(t *testing.T, token string) {
		if raw, err := base64.RawURLEncoding.DecodeString(token); err == nil {
			_, _ = decode(raw) // what is signed may come from another version of this program
		}
		if c, ok := keys.Verify(token); ok && (Keys{newer}).Sign(c) != token && (Keys{older}).Sign(c) != token {
			t.Errorf("%q is taken for %+v, and nobody signed it", token, c)
		}
	})
}
