// Package testenv gives tests a real API server: etcd and kube-apiserver with
// the project's kinds and its admission policy, one pair for each test binary,
// started for the first test that asks. The binaries come from KUBEBUILDER_ASSETS or, where that is
// not set, from hack/controlplane, which builds them once.
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/api/v1alpha1"
)

// superviseVar tells a test binary that it was started to hold the control
// plane of another one.
const superviseVar = "NOTIFICATION_TESTENV_SUPERVISE"

var (
	hooked bool
	stop   = func() error { return nil }
	start  = sync.OnceValues(startSupervisor)
)

// Main is the whole TestMain of a package whose tests use Config. It ends the
// process with the tests' exit code.
//
// The control plane is the child of a second process of the same test binary,
// which takes it down as soon as its standard input ends. So nothing is left
// behind, neither by a test that panics nor by a test binary that is killed.
func Main(m *testing.M) {
	if os.Getenv(superviseVar) != "" {
		if err := supervise(); err != nil {
			fmt.Fprintln(os.Stderr, "testenv:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	hooked = true
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv: stop the control plane:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Config returns an administrator's client configuration, the caller's own to
// change. The first call in a test binary starts the API server, which takes
// some seconds. It fails the test where the server cannot be started.
func Config(tb testing.TB) *rest.Config {
	tb.Helper()
	if !hooked {
		tb.Fatal("testenv: the package needs a TestMain that calls testenv.Main")
	}
	cfg, err := start()
	if err != nil {
		tb.Fatal("testenv: ", err)
	}
	return rest.CopyConfig(cfg)
}

// User returns the client configuration of a user who may do what RBAC grants
// to the name and the groups, and no more. A service account is
// "system:serviceaccount:NAMESPACE:NAME", and its groups may be left out.
func User(tb testing.TB, name string, groups ...string) *rest.Config {
	tb.Helper()
	cfg := Config(tb)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: groups}
	return cfg
}

// Namespace creates a namespace for one test and returns its name. It stays:
// without a controller manager no namespace is ever emptied.
func Namespace(tb testing.TB) string {
	tb.Helper()
	clients, err := kubernetes.NewForConfig(Config(tb))
	if err != nil {
		tb.Fatal("testenv: make a client: ", err)
	}
	ns, err := clients.CoreV1().Namespaces().Create(tb.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal("testenv: create a namespace: ", err)
	}
	return ns.Name
}

// Assets returns the directory that holds etcd and kube-apiserver and the one of
// the project's CustomResourceDefinitions, for tests with a control plane of their
// own. It may be called from below the module's root only.
func Assets() (binaries, crds string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", "", err
	}
	builder := exec.CommandContext(context.Background(), "go", "run", ".")
	builder.Dir = filepath.Join(root, "hack", "controlplane")
	builder.Stderr = os.Stderr
	dir, err := builder.Output()
	if err != nil {
		return "", "", fmt.Errorf("get etcd and kube-apiserver from hack/controlplane, which says above what is missing: %w", err)
	}
	return strings.TrimSpace(string(dir)), filepath.Join(root, "config", "crd"), nil
}

// startSupervisor returns when the API server that the second process holds
// answers and has the kinds and the admission policy.
func startSupervisor() (*rest.Config, error) {
	binaries, crds, err := Assets()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the test binary: %w", err)
	}
	cmd := exec.CommandContext(context.Background(), self)
	cmd.Env = append(os.Environ(), superviseVar+"="+crds, "KUBEBUILDER_ASSETS="+binaries)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("connect the control plane's supervisor: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("connect the control plane's supervisor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the control plane's supervisor: %w", err)
	}
	stop = func() error {
		return errors.Join(stdin.Close(), cmd.Wait())
	}
	kubeconfig, err := io.ReadAll(stdout)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	if len(kubeconfig) == 0 {
		return nil, errors.New("the control plane did not start: the reason is above, and KUBEBUILDER_ATTACH_CONTROL_PLANE_OUTPUT=true shows what etcd and kube-apiserver print")
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	cfg.QPS = -1
	return cfg, admit(cfg, filepath.Join(filepath.Dir(crds), "admission", "finalizer.yaml"))
}

// admit installs an admission policy and returns once requests are born with their
// finalizer, which takes the API server about a second.
func admit(cfg *rest.Config, policy string) error {
	text, err := os.ReadFile(policy)
	if err != nil {
		return fmt.Errorf("read the admission policy: %w", err)
	}
	kube, err := client.New(cfg, client.Options{})
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	ctx := context.Background()
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(part, object); err != nil {
			return fmt.Errorf("read the admission policy: %w", err)
		}
		if err := kube.Create(ctx, object); err != nil {
			return fmt.Errorf("create %s: %w", object.GetKind(), err)
		}
	}
	var last error
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		nr := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"subject": "probe", "body": "probe"}}}
		nr.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NotificationRequest"))
		nr.SetNamespace(metav1.NamespaceDefault)
		nr.SetName("probe")
		last = kube.Create(ctx, nr, client.DryRunAll)
		return slices.Contains(nr.GetFinalizers(), v1alpha1.Finalizer), nil
	})
	if err != nil {
		return fmt.Errorf("wait for the admission policy: %w", errors.Join(err, last))
	}
	return nil
}

// supervise holds the control plane until standard input ends. Only the end of
// the test binary may stop it, so signals to the whole process group do not.
func supervise() (err error) {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	out := os.Stdout
	os.Stdout = os.Stderr // envtest attaches the servers' output to it on request
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{os.Getenv(superviseVar)},
		ErrorIfCRDPathMissing: true,
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	if _, err := env.Start(); err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	if _, err := out.Write(env.KubeConfig); err != nil {
		return fmt.Errorf("hand over the kubeconfig: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("hand over the kubeconfig: %w", err)
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// moduleRoot is the nearest directory above a test's own that has a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the module: no go.mod in the working directory or above")
		}
	}
}
