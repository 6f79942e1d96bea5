package datastorage

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/datastorage/kubeauth"
)

const requestIDHeader = "X-Request-ID"

// requestIDs are those that are taken over from a client; they go into logs and
// into problem documents as they are.
var requestIDs = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ServeHTTP gives the request an ID, serves it, and logs and counts it.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	id := r.Header.Get(requestIDHeader)
	if !requestIDs.MatchString(id) {
		id = uuid.NewString()
	}
	w.Header().Set(requestIDHeader, id)
	if a.draining() {
		w.Header().Set("Connection", "close")
	}
	log := a.log.WithValues("requestID", id)
	r = r.WithContext(logr.NewContext(r.Context(), log))
	answer := &recorder{ResponseWriter: w}
	a.serve(answer, r)

	_, route, _ := strings.Cut(r.Pattern, " ")
	if route == "" {
		route = "unmatched"
	}
	method, level := r.Method, 1
	switch method {
	case http.MethodPost, http.MethodDelete:
		level = 0
	case http.MethodGet, http.MethodHead:
	default:
		method = "other"
	}
	duration := time.Since(start)
	a.metrics.requests.WithLabelValues(route, method, strconv.Itoa(answer.status)).Inc()
	a.metrics.durations.WithLabelValues(route, method).Observe(duration.Seconds())
	log.V(level).Info("Request served", "method", r.Method, "route", route, "code", answer.status,
		"requestBytes", r.ContentLength, "responseBytes", answer.bytes, "duration", duration)
}

// serve answers with a problem document also where the multiplexer would answer
// in plain text, and where a handler panics.
func (a *API) serve(w *recorder, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint,err113 // a panic's value is not wrapped
				panic(v)
			}
			requestLog(r).Error(fmt.Errorf("panic: %v", v), "Serving a request failed", "stack", string(debug.Stack()))
			if w.status != 0 {
				// The answer is cut off rather than passed off as whole.
				panic(http.ErrAbortHandler)
			}
			problem(internalError, "the server failed in a way that its log describes").write(w)
		}
	}()
	handler, pattern := a.mux.Handler(r)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	plain := &recorder{ResponseWriter: discard{w.Header()}}
	handler.ServeHTTP(plain, r)
	if plain.status == http.StatusMethodNotAllowed {
		problem(methodNotAllowed, "this path allows "+w.Header().Get("Allow")).write(w)
		return
	}
	problem(notFound, "no such path; GET /openapi.yaml lists those there are").write(w)
}

// guard lets a request through when its bearer, with a token for the audience,
// may use the path with the verb.
func (a *API) guard(verb, audience, path string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a.auth == nil {
			next(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		err := kubeauth.ErrUnauthenticated
		if strings.EqualFold(scheme, "Bearer") && token != "" {
			err = a.auth.Authorize(r.Context(), token, audience, verb, path)
		}
		switch {
		case err == nil:
			next(w, r)
		case errors.Is(err, kubeauth.ErrUnauthenticated):
			w.Header().Set("WWW-Authenticate", "Bearer")
			problem(unauthenticated, "send a valid Kubernetes token as Authorization: Bearer"+forAudience(audience)).write(w)
		case errors.Is(err, kubeauth.ErrForbidden):
			problem(forbidden, fmt.Sprintf("the token's owner has no RBAC rule for verb %s on nonResourceURL %s", verb, path)).write(w)
		default:
			requestLog(r).Error(err, "Checking a token failed")
			retryable(unavailable, "the token cannot be checked because the Kubernetes API server does not answer").write(w)
		}
	}
}

func forAudience(audience string) string {
	if audience == "" {
		return ""
	}
	return ", made for the audience " + audience
}

func requestLog(r *http.Request) logr.Logger {
	return logr.FromContextOrDiscard(r.Context())
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// discard keeps the header that is set and drops the rest of an answer.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
