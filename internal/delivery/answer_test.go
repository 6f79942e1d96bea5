package delivery

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func testTarget() *target {
	return &target{url: &url.URL{Host: "example.com"}, mask: newMasker([]string{"hunter2!"})}
}

func TestRetryAfterDate(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"Sun, 01 Mar 2026 12:00:30 GMT":  30 * time.Second,
		"Sunday, 01-Mar-26 12:01:00 GMT": time.Minute,
		"Sun, 01 Mar 2026 11:00:00 GMT":  0,
		"Sun, 01 Mar 2099 12:00:00 GMT":  24 * time.Hour,
		"Sun, 01 Mar":                    0,
		"":                               0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestAnswersWordsAreUsed(t *testing.T) {
	for body, want := range map[string]string{
		``:                                           "",
		`invalid_payload`:                            "invalid_payload",
		"two\r\nlines\x1b[31m and\tcolour":           "two lines [31m and colour",
		`{"message": "no such user"}`:                "no such user",
		`{"error": "no such user"}`:                  "no such user",
		`{"error": {"message": "no such user"}}`:     "no such user",
		`{"title": "Bad", "detail": "no such user"}`: "no such user",
		`{"message": 7, "title": "Bad"}`:             "Bad",
		`{"code": 7}`:                                "",
		`null`:                                       "null",
		`["a"]`:                                      `["a"]`,
		` <html><title>Bad gateway</title></html>`: "",
		`the password is hunter2!`:                 "the password is [redacted]",
		`{"message": "\u0068unter2!"}`:             "[redacted]",
		"\xff\xfe":                                 "\ufffd",
		strings.Repeat("\u4e16", 100):              strings.Repeat("\u4e16", 85),
		strings.Repeat("x", 252) + "hunter2!":      strings.Repeat("x", 252) + "[red",
	} {
		if got := testTarget().words([]byte(body)); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}

func TestReceiptIsFound(t *testing.T) {
	for body, want := range map[string]string{
		``: "from-header", `ok`: "from-header", `{}`: "from-header", `{"id": null}`: "from-header",
		`{"id": ""}`: "from-header", `{"id": {"a": 1}}`: "from-header", `["id"]`: "from-header", `{"id": "cut`: "from-header",
		`{"id": "msg_1"}`: "msg_1", `{"id": 12345678901234567890}`: "12345678901234567890", `{"id": 1.50}`: "1.50",
		`{"id": "a\u0000\nb"}`: "a b", `{"id": "hunter2!"}`: "[redacted]",
		`{"id": "` + strings.Repeat("\u00e9", 200) + `"}`: strings.Repeat("\u00e9", 128),
	} {
		a := &Answer{Status: 200, Header: http.Header{"X-Request-Id": {"from-header"}}, Body: []byte(body)}
		if got := testTarget().receipt(a); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		``, `ok`, `{"id": "msg_1"}`, `{"id": 1e999}`, `{"message": {"message": []}}`, `{"error": "\ud800"}`,
		"\xff\xfe\x00", `<html>`, "hunter2!", `{"id":"\u0068unter2!"}`, strings.Repeat("[", 20000),
	} {
		f.Add(200, seed, seed)
		f.Add(503, seed, seed)
	}
	f.Fuzz(func(t *testing.T, code int, header, body string) {
		a := &Answer{Status: code, Header: http.Header{"Retry-After": {header}, "X-Request-Id": {header}}, Body: []byte(body)}
		check := func(text string) {
			if len(text) > 256 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, "hunter2!") {
				t.Errorf("unfit to be shown: %q", text)
			}
		}
		check(testTarget().receipt(a))
		if e := testTarget().statusError(a); e != nil {
			check(e.Message)
			if e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter {
				t.Errorf("retry after %s", e.RetryAfter)
			}
		} else if code/100 != 2 {
			t.Errorf("status %d is accepted", code)
		}
	})
}
