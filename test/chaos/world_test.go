package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// setup is what a round runs with.
type setup struct {
	database string // sqlite or postgres
	dlq      string // file or redis
	managers int    // more than one elect a leader
	steps    bool   // clocks are stepped
	share    int    // of the kills and requests
}

func (s setup) String() string {
	return fmt.Sprintf("%s, %s DLQ, %d manager", s.database, s.dlq, s.managers) + map[bool]string{true: "s"}[s.managers > 1]
}

// world is all that runs in a round. Only the goroutine of the test changes it.
type world struct {
	testing.TB
	setup
	namespace string
	dir       string

	control  *harness.ControlPlane
	kube     client.WithWatch
	sinks    *sinks
	postgres *harness.Postgres // nil where the round has none
	redis    *harness.Redis    // nil where the round has none

	storage        *harness.Process
	storageAddress string
	data           harness.DataStorage
	slack          *standin.Slack
	quiet          []span

	api, toStorage, toSinks, toSlack *proxy
	replicas                         []*replica
	unfillable                       error // why the DLQ's disk cannot be filled here
	precise                          int   // managers that were killed just where they were to be
}

// replica is one manager with what is its own.
type replica struct {
	process        *harness.Process
	dlq            string // the directory of its dead-letter queue
	step           string // the file that sets its clock off
	metrics, probe string
	pages          string // the address of the pages behind acknowledge links
}

// programs are the programs of a round, as they were built for it.
type programs struct{ manager, datastorage string }

// manager's user, whom the generated role is bound to.
const user = "chaos:manager"

func newWorld(t testing.TB, control *harness.ControlPlane, p programs, s setup, round int, slow time.Duration) *world {
	t.Helper()
	w := &world{TB: t, setup: s, namespace: fmt.Sprintf("chaos-%d", round), dir: t.TempDir(), control: control}
	config := control.Config()
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	w.kube = harness.NewClient(t, config)
	w.sinks, w.slack = newSinks(t, slow), standin.NewSlack(t)
	w.storageAddress = harness.FreeAddress(t)
	w.data = harness.DataStorage{URL: "http://" + w.storageAddress}
	w.toStorage = newProxy(harness.NewFaultProxy(t, w.data.URL, nil))
	w.toSinks = newProxy(harness.NewFaultProxy(t, "http://"+w.sinks.address, nil))
	w.toSlack = newProxy(harness.NewTLSFaultProxy(t, w.slack.URL, nil, "slack.com"))
	w.api = newProxy(harness.NewTLSFaultProxy(t, config.Host, tlsConfig))
	w.prepareCluster()

	database := "sqlite:" + filepath.Join(w.dir, "datastorage.db")
	if s.database == "postgres" {
		w.postgres = harness.StartPostgres(t)
		database = w.postgres.URL()
	}
	if s.dlq == "redis" {
		w.redis = harness.StartRedis(t, "secret")
	}
	w.storage = harness.Start(t, exec.CommandContext(t.Context(), p.datastorage, "--listen", w.storageAddress, "--database-url", database, "--signing-key", filepath.Join(w.dir, "signing.key")))
	for i := range s.managers {
		w.startReplica(p.manager, i)
	}
	return w
}

func (w *world) startReplica(program string, n int) {
	w.Helper()
	r := &replica{
		dlq: filepath.Join(w.dir, fmt.Sprint("dlq-", n)), step: filepath.Join(w.dir, fmt.Sprint("step-", n)),
		metrics: harness.FreeAddress(w), probe: harness.FreeAddress(w), pages: harness.FreeAddress(w),
	}
	keys := filepath.Join(w.dir, "acknowledge.keys")
	if err := os.WriteFile(keys, []byte(secretPrefix+"of-all-links"), 0o600); err != nil {
		w.Fatal(err)
	}
	args := []string{
		"--kubeconfig", w.control.Kubeconfig(w, w.api.URL, w.api.CA, user),
		"--datastorage-url", w.toStorage.URL,
		"--watch-namespaces", w.namespace,
		"--metrics-bind-address", r.metrics, "--health-probe-bind-address", r.probe,
		"--file-root", filepath.Join(w.dir, "files"),
		"--delivery-allow-networks", "127.0.0.0/8",
		"--acknowledge-url", "http://" + pagesHost, "--acknowledge-bind-address", r.pages, "--acknowledge-key-file", keys,
		"--audit-buffer-size", "10", "--audit-batch-size", "10", // so that they overflow
		"--leader-elect=" + strconv.FormatBool(w.managers > 1), "--leader-elect-namespace", w.namespace,
	}
	if w.redis != nil {
		args = append(args, "--dlq-backend", "redis", "--redis-url", w.redis.URL(), "--dlq-key-prefix", w.namespace+":")
	} else {
		args = append(args, "--dlq-path", r.dlq)
	}
	cmd := exec.CommandContext(w.Context(), program, args...)
	cmd.Env = append(os.Environ(), stepVar+"="+r.step)
	if err := mountSmall(w, r.dlq); err != nil {
		w.unfillable = err
	}
	r.process = harness.Start(w, cmd)
	w.replicas = append(w.replicas, r)
}

// mountSmall makes a directory a disk of its own, small enough to be filled.
func mountSmall(tb testing.TB, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		return err
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return nil
}

// pagesHost is what acknowledge links begin with. People know by which addresses they
// get there.
const pagesHost = "localhost"

// prepareCluster makes the namespace, the channels, the routes and the manager's
// rights.
func (w *world) prepareCluster() {
	w.Helper()
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	role := &rbacv1.ClusterRole{}
	text, err := os.ReadFile(inModule(w, "config/rbac/role.yaml"))
	if err == nil {
		err = yaml.UnmarshalStrict(text, role)
	}
	if err != nil {
		w.Fatal(err)
	}
	role.Name += "-" + w.namespace
	role.Rules = append(role.Rules,
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "update"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "get", "update"}})
	w.create(role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	})
	w.admit()
	w.create(w.secret(0))
	channel := func(name string, spec v1alpha1.NotificationChannelSpec) {
		w.create(&v1alpha1.NotificationChannel{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace}, Spec: spec})
	}
	timeout := func(name string) v1alpha1.Duration {
		return v1alpha1.Duration((w.timeouts()[name] - outcomeGrace).String())
	}
	webhook := func(name string, idempotent bool, signed v1alpha1.SecretKeyRef, more ...func(*v1alpha1.NotificationChannelSpec)) {
		spec := v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelWebhook, Timeout: timeout(name),
			Webhook: &v1alpha1.WebhookChannel{URL: w.toSinks.URL + "/" + name, Idempotent: new(idempotent), SigningSecretRef: signed},
		}
		for _, change := range more {
			change(&spec)
		}
		channel(name, spec)
	}
	channel(chFile, v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelFile, File: v1alpha1.FileChannel{Directory: "out"}})
	webhook(chIdempotent, true, v1alpha1.SecretKeyRef{Name: "signing", Key: "secret"})
	webhook(chPlain, false, v1alpha1.SecretKeyRef{})
	webhook(chSlow, false, v1alpha1.SecretKeyRef{})
	webhook(chBad, true, v1alpha1.SecretKeyRef{})
	webhook(chLimited, true, v1alpha1.SecretKeyRef{}, func(spec *v1alpha1.NotificationChannelSpec) {
		spec.RateLimit = v1alpha1.RateLimit{Messages: int32(time.Minute / rateEvery), Interval: "1m", Burst: rateBurst}
	})
	webhook(chTemplated, true, v1alpha1.SecretKeyRef{}, func(spec *v1alpha1.NotificationChannelSpec) { spec.Template = template })
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "slack", Namespace: w.namespace},
		StringData: map[string]string{"token": slackToken, "ca.crt": string(w.toSlack.CA)},
	})
	w.slack.SetToken(slackToken)
	way := standin.Tunnel(w, w.toSlack.Address)
	for name, mode := range map[string]v1alpha1.FollowUpMode{chIncident: v1alpha1.FollowUpReply, chUpdated: v1alpha1.FollowUpUpdate} {
		channel(name, v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelSlack, Timeout: timeout(name),
			Slack: &v1alpha1.SlackChannel{
				BotTokenSecretRef: v1alpha1.SecretKeyRef{Name: "slack", Key: "token"}, Channel: slackChannels[name], FollowUps: mode,
			},
			TLS:   v1alpha1.TLSConfig{CASecretRef: v1alpha1.SecretKeyRef{Name: "slack", Key: "ca.crt"}},
			Proxy: &v1alpha1.ProxyConfig{URL: way},
		})
	}
	w.quiet = quietSpans(time.Now())
	w.create(append(routes(w.namespace), quietRoute(w.namespace, w.quiet))...)
}

// template is that of chTemplated. Its sink knows the words.
var template = v1alpha1.MessageTemplate{Subject: "[{{ .Priority | upper }}] {{ .Subject }}", Body: "{{ .Name }} of {{ .CorrelationID }}"}

// admit installs the policy that gives requests their finalizer, once for all
// rounds, and waits until it is in force.
func (w *world) admit() {
	w.Helper()
	text, err := os.ReadFile(inModule(w, "config/admission/finalizer.yaml"))
	if err != nil {
		w.Fatal(err)
	}
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(part, object); err != nil {
			w.Fatal(err)
		}
		if err := client.IgnoreAlreadyExists(w.kube.Create(w.Context(), object)); err != nil {
			w.Fatal(err)
		}
	}
	w.hurryPeople()
	harness.Eventually(w, time.Minute, func() error {
		nr := &v1alpha1.NotificationRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "probe", Namespace: w.namespace},
			Spec: v1alpha1.NotificationRequestSpec{
				Subject: "subject", Body: "body", Acknowledge: v1alpha1.Acknowledge{Within: v1alpha1.Duration(within.String())},
			},
		}
		if err := w.kube.Create(w.Context(), nr, client.DryRunAll); err != nil {
			return err
		}
		if !slices.Contains(nr.Finalizers, v1alpha1.Finalizer) {
			return errors.New("a new request has no finalizer")
		}
		return nil
	})
}

// hurryPeople lets a request give people less time to acknowledge it than the API
// does, since a run would take minutes longer.
func (w *world) hurryPeople() {
	w.Helper()
	definition := &unstructured.Unstructured{}
	definition.SetAPIVersion("apiextensions.k8s.io/v1")
	definition.SetKind("CustomResourceDefinition")
	err := w.kube.Get(w.Context(), client.ObjectKey{Name: "notificationrequests." + v1alpha1.SchemeGroupVersion.Group}, definition)
	if err != nil {
		w.Fatal(err)
	}
	text, err := definition.MarshalJSON()
	if err == nil {
		err = definition.UnmarshalJSON(bytes.ReplaceAll(text, []byte("duration('1m')"), []byte("duration('1s')")))
	}
	if err == nil {
		err = w.kube.Update(w.Context(), definition)
	}
	if err != nil {
		w.Fatal(err)
	}
}

// outcomeGrace is what the outcome of an attempt has beyond the channel's timeout.
const outcomeGrace = 30 * time.Second

// timeouts are how long the outcome of an attempt on each webhook may take.
func (w *world) timeouts() map[string]time.Duration {
	const quick = 2*time.Second + outcomeGrace
	return map[string]time.Duration{
		chIdempotent: quick, chPlain: quick, chBad: quick, chSlow: w.sinks.slow + quick, chLimited: quick, chTemplated: quick, chIncident: quick, chUpdated: quick,
	}
}

// secretPrefix is what all secrets begin with.
const secretPrefix = "the-signing-secret-number-"

// slackToken is the one that the stand-in for Slack takes.
const slackToken = "xoxb-the-token-that-nobody-may-see"

// secrets are what must be in no text: those of channels, the password in requests, and
// links, whose tokens begin alike.
var secrets = []string{secretPrefix, slackToken, planted, "/acknowledge/A"}

// secret is the signing secret after the given number of rotations. The sink is
// told of it before the manager can know.
func (w *world) secret(n int) *corev1.Secret {
	value := []byte(fmt.Sprintf("%s%d", secretPrefix, n))
	w.sinks.trust(value)
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "signing", Namespace: w.namespace}, Data: map[string][]byte{"secret": value}}
}

func (w *world) create(objects ...client.Object) {
	w.Helper()
	for _, o := range objects {
		if err := w.kube.Create(w.Context(), o); err != nil {
			w.Fatal(err)
		}
	}
}

// metric returns the value of a metric of a replica that has no labels.
func (r *replica) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + r.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(body) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return strconv.ParseFloat(strings.TrimSpace(string(value)), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}
