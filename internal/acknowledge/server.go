package acknowledge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/httpserver"
)

const (
	// maxBody is ample for a name, each of whose characters a form may write in 12.
	maxBody = 4 << 10
	// maxName is what status keeps of a name.
	maxName = 100
	// maxCalls bounds what all readers together cost the API server.
	maxCalls = 32
	// callTimeout ends a call that the API server does not answer, and a wait for one.
	callTimeout = 5 * time.Second
	// maxTries is how often an acknowledgement is brought to a status that others
	// write at the same time.
	maxTries = 10
	// finishTimeout is how long answers under way may take at the end.
	finishTimeout = 2 * callTimeout
)

// Options are what a server needs.
type Options struct {
	// Address is the host and port to serve on.
	Address string
	// CertDir has tls.crt and tls.key; without it the server speaks HTTP.
	CertDir string
	Links   *Links
	// Requests reads from the API server and not from a cache, which may be late.
	Requests client.Reader
	// Writer writes to it.
	Writer client.Client
	// Subject returns what of a request's subject may be shown.
	Subject  func(*v1alpha1.NotificationRequest) string
	Log      logr.Logger
	Registry prometheus.Registerer
	// Listening is called, where it is set, once the server takes connections.
	Listening func(net.Addr)
}

// Server serves the pages behind the links. All that it knows of a link is in the
// link, and all that comes of it is in the request's status, so any replica can
// answer.
type Server struct {
	Options
	calls   chan struct{}
	answers *prometheus.CounterVec
	now     func() time.Time
}

// NewServer returns a server that is for a manager to start.
func NewServer(o Options) *Server {
	s := &Server{
		Options: o, calls: make(chan struct{}, maxCalls), now: time.Now,
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notification_acknowledge_answers_total",
			Help: "Answers of the server behind the acknowledge links, by the HTTP method (other for those it does not know) and status.",
		}, []string{"method", "code"}),
	}
	o.Registry.MustRegister(s.answers)
	return s
}

// NeedLeaderElection has every replica serve.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	server := httpserver.New(s, s.Log)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Address)
	if err != nil {
		return fmt.Errorf("listen on --acknowledge-bind-address: %w", err)
	}
	address := listener.Addr()
	if s.CertDir != "" {
		settings, err := httpserver.TLS(logr.NewContext(ctx, s.Log), s.CertDir)
		if err != nil {
			return errors.Join(fmt.Errorf("set up --acknowledge-cert-dir: %w", err), listener.Close())
		}
		listener = tls.NewListener(listener, settings)
	}
	s.Log.Info("Serving acknowledge links", "address", address.String(), "tls", s.CertDir != "")
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if s.Listening != nil {
		s.Listening(address)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve acknowledge links: %w", err)
	case <-ctx.Done():
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := server.Shutdown(finish); err != nil {
		return errors.Join(fmt.Errorf("finish answers: %w", err), server.Close())
	}
	return nil
}

// ServeHTTP answers with a page, whatever is asked.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := s.answer(w, r)
	if err := p.write(w); err != nil {
		s.Log.V(1).Info("An answer was not taken", "reason", err.Error())
	}
	method := r.Method
	if p.code == http.StatusMethodNotAllowed {
		method = "other"
	}
	s.answers.WithLabelValues(method, strconv.Itoa(p.code)).Inc()
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) page {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		return methodPage
	}
	claims, ok := s.Links.claims(r.URL.Path)
	switch {
	case !ok:
		return unknownPage
	case claims.expired(s.now()):
		return expiredPage
	}
	name := ""
	if r.Method == http.MethodPost {
		// A page that came by a link must not press its button unseen. Whoever is no
		// browser, or an old one, does not say where a form comes from.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			return foreignPage
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := r.ParseForm(); err != nil {
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				return tooLargePage
			}
			return malformedPage
		}
		name = strings.TrimSpace(r.PostForm.Get("by"))
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	case <-ctx.Done():
		return busyPage
	}
	return s.page(ctx, claims, r.Method == http.MethodPost, name)
}

// page finds the request and, where the button was pressed, writes it down.
func (s *Server) page(ctx context.Context, c Claims, pressed bool, name string) page {
	acceptable := nameAllowed(name)
	act := s.find
	if pressed && acceptable {
		act = func(ctx context.Context, c Claims) (*v1alpha1.NotificationRequest, error) {
			return s.acknowledge(ctx, c, name)
		}
	}
	nr, err := act(ctx, c)
	switch {
	case err != nil:
		s.Log.Error(err, "Answering for an acknowledge link failed", "request", c.Namespace+"/"+c.Name, "channel", c.Channel)
		return awayPage
	case nr == nil:
		return unknownPage
	}
	p := about(nr, s.Subject(nr), c.Channel)
	if !acceptable && p.Ask {
		p.code = http.StatusBadRequest
		p.Lines = []string{fmt.Sprintf("The name must have at most %d characters that can be seen. Nothing was recorded.", maxName)}
	}
	return p
}

// find returns the request that a link is about, nil where there is none any more.
func (s *Server) find(ctx context.Context, c Claims) (*v1alpha1.NotificationRequest, error) {
	nr := &v1alpha1.NotificationRequest{}
	err := s.Requests.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: c.Name}, nr)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // that there is none is an answer
	case err != nil:
		return nil, fmt.Errorf("get request: %w", err)
	case string(nr.UID) != c.UID:
		return nil, nil //nolint:nilnil // it was made again
	}
	return nr, nil
}

// acknowledge notes in the request's status that it is acknowledged, unless it is
// already, and returns it as it is then. The first one wins, since a write loses to
// any other since the read. The event that it takes is promised by the same write.
func (s *Server) acknowledge(ctx context.Context, c Claims, by string) (*v1alpha1.NotificationRequest, error) {
	for try := 1; ; try++ {
		nr, err := s.find(ctx, c)
		if err != nil || nr == nil || nr.Status.Acknowledgement.Time != nil {
			return nr, err
		}
		if nr.DeletionTimestamp != nil && !slices.Contains(nr.Finalizers, v1alpha1.Finalizer) {
			return nil, nil //nolint:nilnil // it goes as soon as others let it, and the event with it
		}
		base := nr.DeepCopy()
		lock := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
		if !slices.Contains(nr.Finalizers, v1alpha1.Finalizer) {
			// One that was settled could go before the event is recorded.
			nr.Finalizers = append(nr.Finalizers, v1alpha1.Finalizer)
			if err := s.Writer.Patch(ctx, nr, lock); err == nil || apierrors.IsConflict(err) && try < maxTries {
				continue
			} else if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("add finalizer: %w", err)
			}
			return nil, nil //nolint:nilnil // it has just gone
		}
		nr.Status.Acknowledgement = v1alpha1.Acknowledgement{
			Time: new(metav1.NewMicroTime(s.now().UTC().Truncate(time.Microsecond))), Channel: c.Channel, By: by,
			Audit: v1alpha1.AuditRecord{EventID: audit.EventID(audit.TypeMessageAcknowledged, c.UID).String(), State: v1alpha1.AuditPending},
		}
		err = s.Writer.Status().Patch(ctx, nr, lock)
		switch {
		case err == nil:
			return nr, nil
		case apierrors.IsNotFound(err):
			return nil, nil //nolint:nilnil // it has just gone
		case !apierrors.IsConflict(err) || try == maxTries:
			return nil, fmt.Errorf("write status: %w", err)
		}
	}
}

// nameAllowed reports whether a name can stand in status.
func nameAllowed(name string) bool {
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName {
		return false
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
