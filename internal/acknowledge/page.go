package acknowledge

import (
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page is what a person sees.
type page struct {
	Title   string
	Subject string
	Request string // namespace and name
	Channel string
	Lines   []string
	Ask     bool
	By      string

	code  int
	allow string // methods, of a 405
	retry string // seconds, of a 503
}

// The pages that say nothing of any request.
var (
	unknownPage = page{code: http.StatusNotFound, Title: "This link is not valid", Lines: []string{
		"It may be incomplete, or the message that it came with is gone. Copy the whole link and try again, or ask whoever sent it.",
	}}
	expiredPage = page{code: http.StatusGone, Title: "This link has expired", Lines: []string{
		"The message can be acknowledged no more. Nothing was recorded.",
	}}
	methodPage = page{code: http.StatusMethodNotAllowed, allow: "GET, HEAD, POST", Title: "This is not how to acknowledge", Lines: []string{
		"Open the link in a browser and press its button. Nothing was recorded.",
	}}
	foreignPage = page{code: http.StatusForbidden, Title: "This did not come from our page", Lines: []string{
		"Another site sent it. Open the link itself and press its button. Nothing was recorded.",
	}}
	tooLargePage = page{code: http.StatusRequestEntityTooLarge, Title: "This is too much", Lines: []string{
		"A name has at most 100 characters. Nothing was recorded.",
	}}
	malformedPage = page{code: http.StatusBadRequest, Title: "This cannot be read", Lines: []string{
		"Open the link in a browser and press its button. Nothing was recorded.",
	}}
	busyPage = page{code: http.StatusServiceUnavailable, retry: "5", Title: "Please try again", Lines: []string{
		"Too many people are asking at once. Nothing was recorded.",
	}}
	awayPage = page{code: http.StatusServiceUnavailable, retry: "5", Title: "Please try again", Lines: []string{
		"The cluster does not answer, so it is not certain that anything was recorded. Try again in a few seconds: the page will tell.",
	}}
)

// about returns the page about a request as it is.
func about(nr *v1alpha1.NotificationRequest, subject, channel string) page {
	p := page{code: http.StatusOK, Subject: subject, Request: nr.Namespace + "/" + nr.Name, Channel: channel}
	a := nr.Status.Acknowledgement
	if a.Time == nil {
		p.Title, p.Ask = "Acknowledge this message", true
		p.Lines = []string{"Press the button to say that you have seen this message and take care of it. Opening this page has changed nothing."}
		return p
	}
	p.Title = "Acknowledged"
	name := "Somebody who gave no name"
	if a.By != "" {
		name = fmt.Sprintf("Somebody who gave the name %q, which nobody has verified,", a.By)
	}
	p.Lines = []string{fmt.Sprintf("%s acknowledged this message at %s, through the channel %s.", name, a.Time.UTC().Format(time.RFC1123), a.Channel)}
	return p
}

// write answers with the page. What it shows is nobody's but the reader's: it is
// not kept, not framed, loads nothing and names its address to nobody.
func (p page) write(w http.ResponseWriter) error {
	for name, value := range map[string]string{
		"Content-Type":            "text/html; charset=utf-8",
		"Content-Security-Policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"Referrer-Policy":         "no-referrer",
		"Cache-Control":           "no-store",
		"X-Content-Type-Options":  "nosniff",
		"X-Frame-Options":         "DENY",
		"X-Robots-Tag":            "noindex, nofollow",
		"Allow":                   p.allow,
		"Retry-After":             p.retry,
	} {
		if value != "" {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(p.code)
	return pageTemplate.Execute(w, p)
}
