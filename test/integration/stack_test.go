// Package integration runs the manager and DataStorage as a person would, each a
// process of its own, against a real API server, where the manager has the rights
// of its generated role and no others.
package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	serviceAccount = "system:serviceaccount:notification-system:notification-manager"
	// soon is ample for what takes well under a second on an idle machine.
	soon = 20 * time.Second
)

// bindRole gives the manager's service account its generated role, once.
var bindRole sync.Once

// stack is a namespace with what a test needs in it.
type stack struct {
	t         *testing.T
	namespace string
	kube      client.WithWatch // an administrator's
	sink      *harness.Sink
	dir       string

	storage        harness.DataStorage
	storageProcess *harness.Process
	storageAddress string

	manager *harness.Process
	// managerStorage is the address of DataStorage, or of a proxy before it.
	managerStorage string
	namespaces     string
	metrics, probe string
}

// newStack starts nothing but the API server and the sink.
func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{
		t:              t,
		namespace:      testenv.Namespace(t),
		kube:           harness.NewClient(t, testenv.Config(t)),
		sink:           harness.NewSink(t),
		dir:            t.TempDir(),
		storageAddress: harness.FreeAddress(t),
	}
	s.managerStorage, s.namespaces = s.storageAddress, s.namespace
	bindRole.Do(func() { s.bindRole() })
	s.bind("witness.yaml", s.namespace)
	return s
}

// run returns a stack in which all runs.
func run(t *testing.T) *stack {
	t.Helper()
	s := newStack(t)
	s.startStorage()
	s.startManager()
	return s
}

func (s *stack) bindRole() {
	s.t.Helper()
	text, err := os.ReadFile("../../config/rbac/role.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	role := &rbacv1.ClusterRole{}
	if err := yaml.UnmarshalStrict(text, role); err != nil {
		s.t.Fatal(err)
	}
	s.create(role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "notification-system", Name: "notification-manager"}},
	})
}

// bind gives the manager's service account the role of a file, in a namespace.
func (s *stack) bind(file, namespace string) {
	s.t.Helper()
	text, err := os.ReadFile("../../config/rbac/" + file)
	if err != nil {
		s.t.Fatal(err)
	}
	role, binding, _ := strings.Cut(string(text), "\n---\n")
	for document, object := range map[string]client.Object{role: &rbacv1.Role{}, binding: &rbacv1.RoleBinding{}} {
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			s.t.Fatal(err)
		}
		object.SetNamespace(namespace)
		s.create(object)
	}
}

func (s *stack) startStorage() {
	s.t.Helper()
	s.storageProcess, s.storage = harness.StartDataStorage(s.t, s.storageAddress, "sqlite:"+filepath.Join(s.dir, "datastorage.db"))
}

// startManager starts a manager and returns without waiting for it. A second one
// has the directories of the first.
func (s *stack) startManager(flags ...string) {
	s.t.Helper()
	s.metrics, s.probe = harness.FreeAddress(s.t), harness.FreeAddress(s.t)
	s.manager = harness.Start(s.t, exec.Command(harness.Build(s.t, "manager"), append([]string{
		"--kubeconfig", kubeconfig(s.t, testenv.User(s.t, serviceAccount)),
		"--datastorage-url", "http://" + s.managerStorage,
		"--watch-namespaces", s.namespaces,
		"--leader-elect-namespace", s.namespace,
		"--metrics-bind-address", s.metrics,
		"--health-probe-bind-address", s.probe,
		"--dlq-path", filepath.Join(s.dir, "dlq"),
		"--file-root", filepath.Join(s.dir, "files"),
		"--delivery-allow-networks", "127.0.0.0/8",
		"--log-level", "debug",
	}, flags...)...))
}

// kubeconfig writes a client configuration to a file.
func kubeconfig(t *testing.T, config *rest.Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"test": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"test": {
			ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
			Impersonate: config.Impersonate.UserName,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		CurrentContext: "test",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// create creates objects, in the stack's namespace where they name none.
func (s *stack) create(objects ...client.Object) {
	s.t.Helper()
	for _, o := range objects {
		if o.GetNamespace() == "" {
			o.SetNamespace(s.namespace)
		}
		if err := s.kube.Create(s.t.Context(), o); err != nil {
			s.t.Fatal(err)
		}
	}
}

// webhook creates a channel that posts to the sink's path of the same name.
func (s *stack) webhook(name string, change ...func(*v1alpha1.NotificationChannelSpec)) *v1alpha1.NotificationChannel {
	s.t.Helper()
	ch := &v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type:    v1alpha1.ChannelWebhook,
			Webhook: &v1alpha1.WebhookChannel{URL: s.sink.URL + "/" + name},
		},
	}
	for _, f := range change {
		f(&ch.Spec)
	}
	s.create(ch)
	return ch
}

func idempotent(spec *v1alpha1.NotificationChannelSpec) { spec.Webhook.Idempotent = new(true) }

func timeout(d v1alpha1.Duration) func(*v1alpha1.NotificationChannelSpec) {
	return func(spec *v1alpha1.NotificationChannelSpec) { spec.Timeout = d }
}

// quick is a retry policy for tests.
var quick = v1alpha1.RetryPolicy{MaxAttempts: 5, InitialDelay: "200ms", MaxDelay: "400ms"}

// request makes a request to channels of the stack's namespace and the console.
func request(name string, channels ...string) *v1alpha1.NotificationRequest {
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.NotificationRequestSpec{Subject: "subject of " + name, Body: "body of " + name, Retry: quick},
	}
	for _, ch := range channels {
		nr.Spec.Channels = append(nr.Spec.Channels, v1alpha1.ChannelReference{Name: ch})
	}
	return nr
}

// send creates a request.
func (s *stack) send(name string, channels ...string) *v1alpha1.NotificationRequest {
	s.t.Helper()
	nr := request(name, channels...)
	s.create(nr)
	return nr
}

// wait waits until checks say nil of a request.
func (s *stack) wait(name string, checks ...func(*v1alpha1.NotificationRequest) error) *v1alpha1.NotificationRequest {
	s.t.Helper()
	return harness.WaitRequest(s.t, s.kube, s.key(name), soon, func(nr *v1alpha1.NotificationRequest) error {
		for _, check := range checks {
			if err := check(nr); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *stack) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: s.namespace, Name: name}
}

var (
	isSent     = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonSent)
	isFailed   = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonFailed)
	isAudited  = harness.Condition(v1alpha1.ConditionAudited, metav1.ConditionTrue, "")
	notAudited = harness.Condition(v1alpha1.ConditionAudited, metav1.ConditionFalse, v1alpha1.ReasonPending)
)

func isStalled(reason string) func(*v1alpha1.NotificationRequest) error {
	return harness.Condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason)
}

// change changes an object as a person would.
func (s *stack) change(o client.Object, change func()) {
	s.t.Helper()
	if err := s.kube.Get(s.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		s.t.Fatal(err)
	}
	base := o.DeepCopyObject().(client.Object)
	change()
	if err := s.kube.Patch(s.t.Context(), o, client.MergeFrom(base)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) secret(name string, data map[string]string) *corev1.Secret {
	s.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}
	s.create(secret)
	return secret
}

// get returns the status and the body of an answer of the manager.
func (s *stack) get(address, path string) (int, string) {
	s.t.Helper()
	resp, err := http.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// metric returns the value of a metric without labels.
func (s *stack) metric(name string) string {
	s.t.Helper()
	_, body := s.get(s.metrics, "/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("no metric %s", name)
}

// delivery returns a request's delivery to a channel.
func delivery(t *testing.T, nr *v1alpha1.NotificationRequest, channel string) v1alpha1.Delivery {
	t.Helper()
	for _, d := range nr.Status.Deliveries {
		if d.Channel == channel {
			return d
		}
	}
	t.Fatalf("no delivery to %s in %+v", channel, nr.Status.Deliveries)
	return v1alpha1.Delivery{}
}

// logTime returns when a line of JSON was logged.
func logTime(t *testing.T, line string) time.Time {
	t.Helper()
	var entry struct {
		Time time.Time `json:"ts"`
	}
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		t.Fatalf("read the time of %s: %v", line, err)
	}
	return entry.Time
}

func (s *stack) secretNamed(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}}
}
