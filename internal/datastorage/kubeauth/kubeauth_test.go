package kubeauth

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

// cluster answers reviews like an API server that knows the tokens reader and
// stranger, of which the first may get /things.
type cluster struct {
	reviewer *Reviewer
	reviews  int
	down     bool
	now      time.Time
}

func newCluster() *cluster {
	c := &cluster{now: time.Unix(1e9, 0)}
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		c.reviews++
		if c.down {
			return true, nil, errors.New("connection refused")
		}
		review := action.(kubetesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		if token := review.Spec.Token; token == "reader" || token == "stranger" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
				Username: token, Groups: []string{"all"}, Extra: map[string]authenticationv1.ExtraValue{"pod": {"p"}},
			}}
			if slices.Equal(review.Spec.Audiences, []string{"mine"}) {
				review.Status.Audiences = []string{"mine"}
			}
		}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		review := action.(kubetesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		s := review.Spec
		review.Status.Allowed = s.User == "reader" && s.Groups[0] == "all" && s.Extra["pod"][0] == "p" &&
			*s.NonResourceAttributes == authorizationv1.NonResourceAttributes{Path: "/things", Verb: "get"}
		return true, review, nil
	})
	c.reviewer = newReviewer(client, func() time.Time { return c.now })
	return c
}

func TestAuthorize(t *testing.T) {
	c := newCluster()
	tests := []struct {
		token, audience, verb, path string
		want                        error
	}{
		{"reader", "", "get", "/things", nil},
		{"reader", "mine", "get", "/things", nil},
		{"reader", "theirs", "get", "/things", ErrUnauthenticated},
		{"reader", "", "post", "/things", ErrForbidden},
		{"reader", "", "get", "/others", ErrForbidden},
		{"stranger", "", "get", "/things", ErrForbidden},
		{"nobody", "", "get", "/things", ErrUnauthenticated},
	}
	for range 2 { // the second time from memory
		for _, tt := range tests {
			if err := c.reviewer.Authorize(t.Context(), tt.token, tt.audience, tt.verb, tt.path); !errors.Is(err, tt.want) {
				t.Errorf("%+v: got %v", tt, err)
			}
		}
	}
	if c.reviews != len(tests) {
		t.Errorf("%d reviews, want one for each of %d questions", c.reviews, len(tests))
	}
}

func TestAnswersAreForgotten(t *testing.T) {
	tests := []struct {
		token string
		after time.Duration
		want  int
	}{
		{"reader", 59 * time.Second, 1},
		{"reader", 60 * time.Second, 2},
		{"nobody", 4 * time.Second, 1},
		{"nobody", 5 * time.Second, 2},
	}
	for _, tt := range tests {
		c := newCluster()
		_ = c.reviewer.Authorize(t.Context(), tt.token, "", "get", "/things")
		c.now = c.now.Add(tt.after)
		_ = c.reviewer.Authorize(t.Context(), tt.token, "", "get", "/things")
		if c.reviews != tt.want {
			t.Errorf("%s asked again after %v: %d reviews, want %d", tt.token, tt.after, c.reviews, tt.want)
		}
	}
}

func TestSilenceOfTheAPIServerIsNoAnswer(t *testing.T) {
	c := newCluster()
	c.down = true
	err := c.reviewer.Authorize(t.Context(), "reader", "", "get", "/things")
	if err == nil || errors.Is(err, ErrForbidden) || errors.Is(err, ErrUnauthenticated) {
		t.Errorf("got %v, want an error of its own", err)
	}
	c.down = false
	if err := c.reviewer.Authorize(t.Context(), "reader", "", "get", "/things"); err != nil {
		t.Errorf("the silence was remembered: %v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := newCluster()
	for n := range 2*maxCached + 10 {
		_ = c.reviewer.Authorize(t.Context(), strconv.Itoa(n), "", "get", "/things")
	}
	if got := len(c.reviewer.cached); got > maxCached {
		t.Errorf("%d answers are kept, want at most %d", got, maxCached)
	}
}
