// Package kubeauth checks bearer tokens with a Kubernetes API server: who they
// belong to by TokenReview, and what that one may do by SubjectAccessReview on
// a non-resource path.
package kubeauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	// ErrUnauthenticated means that the token is not valid.
	ErrUnauthenticated = errors.New("token is not valid")
	// ErrForbidden means that the token's owner may not do it.
	ErrForbidden = errors.New("access is forbidden")
)

const (
	// A revoked token or role works on for at most allowedFor; a new one is
	// noticed after at most refusedFor.
	allowedFor = time.Minute
	refusedFor = 5 * time.Second
	maxCached  = 4096
	askTimeout = 5 * time.Second
)

// Reviewer checks tokens and remembers the answers for a short time. All
// methods may be called from any goroutine.
type Reviewer struct {
	client kubernetes.Interface
	now    func() time.Time

	mu     sync.Mutex
	cached map[[sha256.Size]byte]verdict
}

type verdict struct {
	err     error
	expires time.Time
}

// New returns a Reviewer that asks the API server of the pod's service account,
// or of KUBECONFIG outside a cluster.
func New() (*Reviewer, error) {
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("find API server: %w", err)
	}
	// The default of 5 requests a second would make callers wait for each other.
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	return newReviewer(client, time.Now), nil
}

func newReviewer(client kubernetes.Interface, now func() time.Time) *Reviewer {
	return &Reviewer{client: client, now: now, cached: map[[sha256.Size]byte]verdict{}}
}

// Authorize returns nil if the token is meant for the audience ("" is the API
// server's own) and its bearer may use the path with the verb (get or post),
// ErrUnauthenticated or ErrForbidden if not, and another error if the API server
// did not say.
func (r *Reviewer) Authorize(ctx context.Context, token, audience, verb, path string) error {
	key := sha256.Sum256([]byte(audience + " " + verb + " " + path + " " + token))
	r.mu.Lock()
	known, ok := r.cached[key]
	r.mu.Unlock()
	if ok && r.now().Before(known.expires) {
		return known.err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := r.ask(ctx, token, audience, verb, path)
	switch {
	case err == nil:
		r.remember(key, verdict{nil, r.now().Add(allowedFor)})
	case errors.Is(err, ErrUnauthenticated), errors.Is(err, ErrForbidden):
		r.remember(key, verdict{err, r.now().Add(refusedFor)})
	}
	return err
}

func (r *Reviewer) remember(key [sha256.Size]byte, v verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cached) >= maxCached {
		now := r.now()
		for k, old := range r.cached {
			if !now.Before(old.expires) {
				delete(r.cached, k)
			}
		}
		// Somebody tries many tokens: start over rather than grow.
		if len(r.cached) >= maxCached {
			clear(r.cached)
		}
	}
	r.cached[key] = v
}

func (r *Reviewer) ask(ctx context.Context, token, audience, verb, path string) error {
	spec := authenticationv1.TokenReviewSpec{Token: token}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	review, err := r.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("review token: %w", err)
	}
	// An API server that knows nothing of audiences returns none.
	if !review.Status.Authenticated || audience != "" && !slices.Contains(review.Status.Audiences, audience) {
		return ErrUnauthenticated
	}
	user := review.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for name, value := range user.Extra {
		extra[name] = authorizationv1.ExtraValue(value)
	}
	access, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: verb},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("review access: %w", err)
	}
	if !access.Status.Allowed {
		return ErrForbidden
	}
	return nil
}
