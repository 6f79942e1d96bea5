//go:build e2e

// Package e2e tests the controller where it belongs: deployed with kustomize into
// a cluster of one node, DataStorage on NodePort 30090, seen with kubectl.
package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

const (
	system    = "notification-system"
	namespace = "notification-e2e"
	// neighbours is the namespace of somebody else.
	neighbours = "notification-e2e-neighbours"
	nodePort   = 30090
	// linksURL is the address of config/e2e's pages behind acknowledge links.
	linksURL = "https://localhost:30091"
	linksKey = "the-hush-key-of-acknowledge-links-of-this-suite"
	// volume is where config/e2e keeps DataStorage's database on the node.
	volume = "/var/tmp/notification-e2e/datastorage"
	// soon is ample for what takes a second on an idle machine.
	soon = time.Minute
	// restart is ample for a pod to end and another to work.
	restart = 3 * time.Minute
)

// suite is the deployed system and what stands around it.
type suite struct {
	*testing.T
	namespace string // of what the suite makes
	kube      client.WithWatch
	sink      *harness.Sink
	// proxy stands between the manager and DataStorage's NodePort.
	proxy   *harness.Proxy
	storage harness.DataStorage
	// browser trusts the pages behind acknowledge links.
	browser *http.Client
	started time.Time
}

// TestEndToEnd goes through the scenes in order, each on what the ones before it
// have left, as it is with a real system.
func TestEndToEnd(t *testing.T) {
	s := deploy(t)
	for _, scene := range []struct {
		name string
		play func(suite)
	}{
		{"nothing is sent before DataStorage is ready and then all is, once", foundingReport},
		{"each channel of each request is recorded exactly once", countedOnce},
		{"a webhook's answers decide what becomes of a message", webhookAnswers},
		{"a message in doubt is dealt with as the request says", inDoubt},
		{"an acknowledgement that is lost records nothing twice", answerLost},
		{"a message waits for the end of the quiet hours", quietHours},
		{"DataStorage may be down for a minute", storageDown},
		{"and is sent when they are over", quietHoursOver},
		{"the manager may be restarted in the middle", managerRestarted},
		{"a request can be deleted at every stage", deletedAtEveryStage},
		{"a channel that is slow or fails holds up no other", badNeighbour},
		{"each provider takes every message, with the credential that is valid", eachProvider},
		{"what a provider answers decides what becomes of a message", eachAnswer},
		{"nothing is sent to a server that is not trusted", untrusted},
		{"requests are routed, told apart from repetitions, and paced", routed},
		{"a message is acknowledged by its link, once", acknowledged},
		{"bad requests get a clear answer", badRequests},
		{"bad batches get a clear answer", badBatches},
		{"only those with a role may read the evidence", strangers},
		{"a person sees what happened", seenWithKubectl},
		{"nothing was restarted, dropped or leaked", quietAtTheEnd},
	} {
		if !t.Run(scene.name, func(t *testing.T) {
			s := s
			s.T = t
			scene.play(s)
		}) {
			s.report()
			t.Fatal("the scenes after this one need it")
		}
	}
}

// deploy brings up everything but DataStorage's pod.
func deploy(t *testing.T) suite {
	s := suite{T: t, namespace: namespace, started: time.Now()}
	s.step("looking at the cluster")
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1 // or it would make five requests a second
	s.kube = harness.NewClient(t, config)
	harness.Host = s.nodeAddress()
	standin.Host = harness.Host

	s.step("removing what an earlier run has left")
	s.remove()
	if err := errors.Join(os.RemoveAll(volume), os.MkdirAll(volume, 0o750), os.Chown(volume, 65532, 65532)); err != nil {
		t.Fatalf("make the directory of DataStorage's volume on the node, which must be this machine: %v", err)
	}

	s.step("deploying")
	for _, name := range []string{system, namespace, neighbours} {
		s.kubectl("create", "namespace", name)
	}
	s.serveLinks()
	secret := s.command("go", "run", "../../hack/certs", "-hosts", "localhost,datastorage-proxy")
	s.kubectlInput(secret, "apply", "--server-side", "-f", "-")
	s.connect()
	s.kubectlInput(strings.Replace(s.kubectl("kustomize", "../../config/e2e"), "value: https://datastorage\n", "value: https://datastorage-proxy\n", 1),
		"apply", "--server-side", "-f", "-")
	s.kubectl("-n", system, "scale", "statefulset/datastorage", "--replicas=0")
	// The API server refuses requests for a second after it has got to know them,
	// until the admission policy has, too.
	harness.Eventually(t, soon, func() error {
		return s.kube.Create(t.Context(), &v1alpha1.NotificationRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "first", Namespace: namespace},
			Spec:       v1alpha1.NotificationRequestSpec{Subject: "subject", Body: "body"},
		}, client.DryRunAll)
	})
	t.Cleanup(func() {
		if !t.Failed() {
			s.step("removing everything")
			s.remove()
		}
	})
	return s
}

// connect puts the proxy between the manager and DataStorage, and the suite's own
// client beside it. Both use the certificate that DataStorage gets.
func (s *suite) connect() {
	var secret struct {
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal([]byte(s.kubectl("-n", system, "get", "secret", "datastorage-tls", "-o", "json")), &secret); err != nil {
		s.Fatal(err)
	}
	pem := func(name string) []byte {
		text, err := base64.StdEncoding.DecodeString(secret.Data[name])
		if err != nil {
			s.Fatal(err)
		}
		return text
	}
	pair, err := tls.X509KeyPair(pem("tls.crt"), pem("tls.key"))
	if err != nil {
		s.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem("ca.crt"))
	trust := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}

	s.sink = harness.NewSink(s.T)
	s.proxy = harness.NewTLSProxy(s.T, fmt.Sprintf("localhost:%d", nodePort),
		&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, trust)
	host, port, err := net.SplitHostPort(s.proxy.Address)
	if err != nil {
		s.Fatal(err)
	}
	s.kubectlInput(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: datastorage-proxy, namespace: %[1]s}
spec: {ports: [{name: https, port: 443, targetPort: %[3]s}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: datastorage-proxy, namespace: %[1]s, labels: {kubernetes.io/service-name: datastorage-proxy}}
addressType: IPv4
ports: [{name: https, port: %[3]s}]
endpoints: [{addresses: ["%[2]s"], conditions: {ready: true}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: notification-e2e-auditor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: notification-audit-reader}
subjects: [{kind: ServiceAccount, name: auditor, namespace: %[4]s}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: notification-e2e-writer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: notification-audit-writer}
subjects: [{kind: ServiceAccount, name: auditor, namespace: %[4]s}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: auditor, namespace: %[4]s}
`, system, host, port, namespace), "apply", "--server-side", "-f", "-")
	s.storage = harness.DataStorage{
		URL:    fmt.Sprintf("https://localhost:%d", nodePort),
		Token:  strings.TrimSpace(s.kubectl("-n", namespace, "create", "token", "auditor", "--audience", "datastorage", "--duration", "2h")),
		Client: &http.Client{Transport: &http.Transport{TLSClientConfig: trust}},
	}
}

// serveLinks makes the Secrets by which the manager serves acknowledge links.
func (s *suite) serveLinks() {
	certificate := standin.NewCertificate(s.T, time.Hour, "localhost")
	for _, secret := range []*corev1.Secret{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "notification-acknowledge", Namespace: system},
			StringData: map[string]string{"url": linksURL, "keys": linksKey},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "notification-acknowledge-tls", Namespace: system},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{corev1.TLSCertKey: certificate.PEM, corev1.TLSPrivateKeyKey: certificate.Key},
		},
	} {
		if err := s.kube.Create(s.Context(), secret); err != nil {
			s.Fatal(err)
		}
	}
	s.browser = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificate.Roots()}}}
}

// remove takes everything out of the cluster, requests first: they go when their
// events are recorded, or at once where nobody is left to record them.
func (s *suite) remove() {
	for _, namespace := range []string{namespace, neighbours} {
		_, _ = s.try("delete", "notificationrequests", "--all", "-n", namespace, "--wait=false")
		if out, err := s.try("get", "notificationrequests", "-n", namespace, "-o", "name"); err == nil {
			for name := range strings.FieldsSeq(out) {
				_, _ = s.try("patch", name, "-n", namespace, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
			}
		}
	}
	_, _ = s.try("delete", "namespace", namespace, neighbours, system, "--ignore-not-found")
	_, _ = s.try("delete", "persistentvolume", "notification-e2e-datastorage", "--ignore-not-found")
	_, _ = s.try("delete", "clusterrolebinding", "notification-e2e-auditor", "notification-e2e-writer", "--ignore-not-found")
}

// nodeAddress is an address of this machine that pods can reach: the node's own,
// since the node must be this machine.
func (s *suite) nodeAddress() string {
	out := s.kubectl("get", "nodes", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`)
	for address := range strings.FieldsSeq(out) {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err == nil {
			_ = listener.Close()
			return address
		}
	}
	s.Fatalf("none of the nodes' addresses (%s) is of this machine; the suite's webhook receiver must run on the node", out)
	return ""
}

// step says how far the suite is.
func (s *suite) step(what string) {
	fmt.Printf("e2e %5.0fs: %s\n", time.Since(s.started).Seconds(), what)
}

func (s *suite) kubectl(args ...string) string {
	s.Helper()
	return s.kubectlInput("", args...)
}

func (s *suite) kubectlInput(input string, args ...string) string {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), "kubectl", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// try runs kubectl where it may fail.
func (s *suite) try(args ...string) (string, error) {
	return s.tryInput("", args...)
}

func (s *suite) tryInput(input string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *suite) command(name string, args ...string) string {
	s.Helper()
	out, err := exec.CommandContext(s.Context(), name, args...).Output()
	if err != nil {
		s.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errorText(err))
	}
	return string(out)
}

// report prints what a person would look at after a failure.
func (s *suite) report() {
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"-n", namespace, "get", "nr,nch"},
		{"-n", system, "logs", "deployment/notification-manager", "--tail=60"},
		{"-n", system, "logs", "statefulset/datastorage", "--tail=30"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, _ := s.try(args...)
		lines := strings.Split(out, "\n")
		if len(lines) > 60 {
			lines = lines[len(lines)-60:]
		}
		fmt.Printf("--- kubectl %s\n%s\n", strings.Join(args, " "), strings.Join(lines, "\n"))
	}
}

// webhook makes a channel that posts to the sink's path of the same name.
func (s *suite) webhook(name string, change ...func(*v1alpha1.NotificationChannelSpec)) {
	s.Helper()
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
}

func (s *suite) create(o client.Object) {
	s.Helper()
	o.SetNamespace(s.namespace)
	if err := s.kube.Create(s.Context(), o); err != nil {
		s.Fatal(err)
	}
}

// send makes a request to channels, to the console where none is named.
func (s *suite) send(name string, channels []string, change ...func(*v1alpha1.NotificationRequestSpec)) {
	s.Helper()
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationRequestSpec{
			Subject: "subject of " + name, Body: "body of " + name,
			Retry: v1alpha1.RetryPolicy{MaxAttempts: 5, InitialDelay: "1s", MaxDelay: "2s"},
		},
	}
	for _, ch := range channels {
		nr.Spec.Channels = append(nr.Spec.Channels, v1alpha1.ChannelReference{Name: ch})
	}
	for _, f := range change {
		f(&nr.Spec)
	}
	s.create(nr)
}

func (s *suite) wait(name string, within time.Duration, checks ...func(*v1alpha1.NotificationRequest) error) *v1alpha1.NotificationRequest {
	s.Helper()
	return harness.WaitRequest(s.T, s.kube, client.ObjectKey{Namespace: s.namespace, Name: name}, within, func(nr *v1alpha1.NotificationRequest) error {
		for _, check := range checks {
			if err := check(nr); err != nil {
				return err
			}
		}
		return nil
	})
}

var (
	sent    = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonSent)
	failed  = harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonFailed)
	audited = harness.Condition(v1alpha1.ConditionAudited, metav1.ConditionTrue, "")
)

func stalled(reason string) func(*v1alpha1.NotificationRequest) error {
	return harness.Condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason)
}

// events returns DataStorage's events about a request, or about all of them for "".
func (s *suite) events(name string) []harness.Stored {
	s.Helper()
	filters := []string{"namespace", s.namespace}
	if name != "" {
		filters = append(filters, "resource_id", name)
	}
	return s.storage.Events(s.T, filters...)
}

// managerLog is the log of the manager's pod.
func (s *suite) managerLog() string {
	out, _ := s.try("-n", system, "logs", "deployment/notification-manager")
	return out
}

func errorText(err error) []byte {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.Stderr
	}
	return nil
}
