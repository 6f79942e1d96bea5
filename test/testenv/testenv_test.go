package testenv

import (
	"bytes"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

func TestMain(m *testing.M) { Main(m) }

func clients(t *testing.T, cfg *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUserMayDoOnlyWhatRBACGrants(t *testing.T) {
	ns := Namespace(t)
	list := func(user *rest.Config) error {
		_, err := clients(t, user).CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := list(User(t, "someone")); !apierrors.IsForbidden(err) {
		t.Errorf("without a grant: got %v, want Forbidden", err)
	}
	if err := list(User(t, "someone", "system:masters")); err != nil {
		t.Errorf("in a group that may do all: %v", err)
	}
}

func TestServiceAccountHasItsGroups(t *testing.T) {
	sa := clients(t, User(t, "system:serviceaccount:here:manager"))
	self, err := sa.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"system:serviceaccounts", "system:serviceaccounts:here", "system:authenticated"}
	if diff := cmp.Diff(want, self.Status.UserInfo.Groups); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}

func TestRequestsAreBornWithTheirFinalizerAndKeepThoseOfOthers(t *testing.T) {
	kube, err := client.New(Config(t), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ns := Namespace(t)
	for name, c := range map[string]struct{ given, want []string }{
		"none":    {nil, []string{v1alpha1.Finalizer}},
		"another": {[]string{"example.com/mine"}, []string{"example.com/mine", v1alpha1.Finalizer}},
		"the one": {[]string{v1alpha1.Finalizer}, []string{v1alpha1.Finalizer}},
	} {
		nr := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"subject": "a", "body": "b"}}}
		nr.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NotificationRequest"))
		nr.SetNamespace(ns)
		nr.SetGenerateName("request-")
		nr.SetFinalizers(c.given)
		if err := kube.Create(t.Context(), nr); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, nr.GetFinalizers()); diff != "" {
			t.Errorf("finalizers where %s is given (-want +got):\n%s", name, diff)
		}
		// It has to come off again, by an update that names the object whole too.
		nr.SetFinalizers(nil)
		if err := kube.Update(t.Context(), nr); err != nil {
			t.Fatal(err)
		}
		if got := nr.GetFinalizers(); len(got) > 0 {
			t.Errorf("finalizers after they were taken off: %v", got)
		}
	}
}

// TestNothingIsLeftBehind runs this test binary again with a test that panics
// while the API server is up.
func TestNothingIsLeftBehind(t *testing.T) {
	const panicVar = "NOTIFICATION_TESTENV_PANIC"
	if os.Getenv(panicVar) != "" {
		os.Stdout.WriteString("host=" + Config(t).Host + "\n")
		panic("on purpose")
	}
	tmp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNothingIsLeftBehind$")
	cmd.Env = append(os.Environ(), panicVar+"=1", "TMPDIR="+tmp)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// The supervisor shares the output, so Run returns when both are gone.
	if err := cmd.Run(); err == nil {
		t.Fatalf("the test that panics passed:\n%s", &out)
	}
	_, host, _ := strings.Cut(out.String(), "host=")
	host, _, _ = strings.Cut(host, "\n")
	server, err := url.Parse(host)
	if err != nil || server.Host == "" {
		t.Fatalf("no API server's address (%v) in:\n%s", err, &out)
	}
	if conn, err := net.Dial("tcp", server.Host); err == nil {
		conn.Close()
		t.Errorf("something still answers at %s", server.Host)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v (%v)", left, err)
	}
}
