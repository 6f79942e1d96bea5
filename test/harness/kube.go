package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
)

// NewClient returns a client that knows the project's kinds.
func NewClient(tb testing.TB, config *rest.Config) client.WithWatch {
	tb.Helper()
	log.SetLogger(logr.Discard()) // it complains where nobody has set one
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		tb.Fatal(err)
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// WaitRequest watches a NotificationRequest and returns it as soon as check says
// nil. It fails the test with check's last error where that takes longer than the
// given time.
func WaitRequest(tb testing.TB, c client.WithWatch, key client.ObjectKey, within time.Duration, check func(*v1alpha1.NotificationRequest) error) *v1alpha1.NotificationRequest {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	var last *v1alpha1.NotificationRequest
	trouble := errors.New("there is no such request")
	for ctx.Err() == nil {
		w, err := c.Watch(ctx, &v1alpha1.NotificationRequestList{}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name})
		if err != nil {
			tb.Fatal(err)
		}
		defer w.Stop()
		for e := range w.ResultChan() {
			nr, ok := e.Object.(*v1alpha1.NotificationRequest)
			if !ok {
				break // the watch has ended with an error: begin another
			}
			last, trouble = nr, errors.New("the request was deleted")
			if e.Type != watch.Deleted {
				trouble = check(nr)
			}
			if trouble == nil {
				return nr
			}
		}
	}
	tb.Fatalf("%s: not within %s: %v\n%s", key, within, trouble, Describe(last))
	return nil
}

// WaitGone returns once there is no request of that name.
func WaitGone(tb testing.TB, c client.Client, key client.ObjectKey, within time.Duration) {
	tb.Helper()
	Eventually(tb, within, func() error {
		nr := &v1alpha1.NotificationRequest{}
		err := c.Get(tb.Context(), key, nr)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%s is still there (%w)\n%s", key, err, Describe(nr))
	})
}

// Condition returns a check that a condition has a status and, unless it is "", a
// reason. A condition that is not there is False.
func Condition(kind string, status metav1.ConditionStatus, reason string) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		c := metav1.Condition{Status: metav1.ConditionFalse}
		if found := meta.FindStatusCondition(nr.Status.Conditions, kind); found != nil {
			c = *found
		}
		if c.Status != status || reason != "" && c.Reason != reason {
			return fmt.Errorf("%s is %s (%s: %s), want %s %s", kind, c.Status, c.Reason, c.Message, status, reason)
		}
		return nil
	}
}

// Describe is a request as text.
func Describe(nr *v1alpha1.NotificationRequest) string {
	if nr == nil {
		return ""
	}
	nr.ManagedFields = nil
	text, err := json.MarshalIndent(nr, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}
