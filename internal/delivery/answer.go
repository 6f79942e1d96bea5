package delivery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const maxRetryAfter = 24 * time.Hour

// status is what an HTTP status other than 2xx means.
type status struct {
	class  Class
	reason string

	// maybe: whoever gave the answer need not know what the receiver did.
	maybe bool

	advice string
}

// statuses lists the ones with a meaning of their own; statusOf has the others.
// 409 is the answer to an idempotency key whose first request is still worked on.
var statuses = map[int]status{
	400: {class: Permanent, reason: ReasonBadRequest},
	401: {class: Config, reason: ReasonUnauthorized},
	403: {class: Config, reason: ReasonForbidden},
	404: {class: Permanent, reason: ReasonNotFound},
	407: {class: Config, reason: ReasonProxyUnauthorized},
	408: {class: Transient, reason: ReasonRequestTimeout, maybe: true},
	409: {class: Transient, reason: ReasonConflict, maybe: true},
	410: {class: Permanent, reason: ReasonGone},
	413: {class: Permanent, reason: ReasonTooLarge},
	422: {class: Permanent, reason: ReasonUnprocessable},
	425: {class: Transient, reason: ReasonTooEarly},
	429: {class: Transient, reason: ReasonRateLimited},
	501: {class: Transient, reason: ReasonServerError},
	503: {class: Transient, reason: ReasonServerError},
	505: {class: Transient, reason: ReasonServerError},
}

func statusOf(code int) status {
	if s, ok := statuses[code]; ok {
		return s
	}
	switch code / 100 {
	case 3:
		return status{class: Permanent, reason: ReasonRedirected, advice: "redirects are not followed: set the URL it points to"}
	case 4:
		return status{class: Permanent, reason: ReasonRejected}
	case 5:
		return status{class: Transient, reason: ReasonServerError, maybe: true}
	}
	return status{class: Permanent, reason: ReasonUnexpectedStatus}
}

// statusError returns nil for 2xx.
func (t *target) statusError(a *Answer) *Error {
	if a.Status/100 == 2 {
		return nil
	}
	s := statusOf(a.Status)
	message := strings.TrimSpace(fmt.Sprintf("%s answered %d %s", t.url.Host, a.Status, http.StatusText(a.Status)))
	if words := t.words(a.Body); s.advice != "" {
		message += ": " + s.advice
	} else if words != "" {
		message += ": " + words
	}
	return &Error{
		Class: s.class, Reason: s.reason, Code: strconv.Itoa(a.Status), MaybeDelivered: s.maybe,
		Message:    clean(message),
		RetryAfter: retryAfter(a.Header.Get("Retry-After"), time.Now()),
	}
}

// words returns what the body says to a person, without the endpoint's secrets.
func (t *target) words(body []byte) string {
	text := string(body)
	if said, ok := saidInJSON(body); ok {
		text = said
	} else if strings.HasPrefix(strings.TrimSpace(text), "<") {
		return "" // a page for a browser
	}
	return t.mask.clean(text)
}

// saidInJSON looks into the members in which providers explain themselves. It
// is false where the body is not a JSON object.
func saidInJSON(body []byte) (string, bool) {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return "", false
	}
	for _, member := range []string{"message", "error", "detail", "title"} {
		var text string
		if json.Unmarshal(object[member], &text) == nil && text != "" {
			return text, true
		}
		var nested struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(object[member], &nested) == nil && nested.Message != "" {
			return nested.Message, true
		}
	}
	return "", true
}

// receipt finds the receiver's own name for what it took: the member "id" of a
// JSON object, a string or a number, else the header X-Request-Id.
func (t *target) receipt(a *Answer) string {
	var answer struct {
		ID any `json:"id"`
	}
	decoder := json.NewDecoder(bytes.NewReader(a.Body))
	decoder.UseNumber()
	id := ""
	if decoder.Decode(&answer) == nil {
		switch v := answer.ID.(type) {
		case string:
			id = v
		case json.Number:
			id = v.String()
		}
	}
	if id == "" {
		id = a.Header.Get("X-Request-Id")
	}
	return t.mask.clean(id)
}

// retryAfter reads seconds or an HTTP date. It is zero for anything else and for
// what has passed.
func retryAfter(value string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
