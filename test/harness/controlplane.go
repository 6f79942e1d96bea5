package harness

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"kubernaut.ai/notification/test/testenv"
)

const admin = "admin"

// ControlPlane is an etcd and a kube-apiserver of the test's own, which keep their
// addresses and data when they are killed and started again. It has the project's
// kinds. Its methods that kill and start are for one goroutine at a time.
type ControlPlane struct {
	etcd, apiServer server
	config          *rest.Config
	tokens          map[string]string // by user
}

// StartControlPlane starts both, and returns once the kinds are there. Besides the
// administrator it knows the users, who may do what RBAC grants them; a service
// account is "system:serviceaccount:NAMESPACE:NAME". All ends with the test.
func StartControlPlane(tb testing.TB, users ...string) *ControlPlane {
	tb.Helper()
	binaries, crds, err := testenv.Assets()
	if err != nil {
		tb.Fatal(err)
	}
	c := &ControlPlane{tokens: map[string]string{}}
	etcd := "http://" + FreeAddress(tb)
	peer := "http://" + FreeAddress(tb)
	c.etcd = startServer(tb, exec.Command(filepath.Join(binaries, "etcd"),
		"--data-dir", filepath.Join(tb.TempDir(), "etcd"), "--log-level", "warn",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
	), func(ctx context.Context) error { return answersOK(ctx, http.DefaultClient, etcd+"/health") })

	c.startAPIServer(tb, filepath.Join(binaries, "kube-apiserver"), etcd, users)
	if _, err := envtest.InstallCRDs(c.Config(), envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true}); err != nil {
		tb.Fatal(err)
	}
	return c
}

func (c *ControlPlane) startAPIServer(tb testing.TB, program, etcd string, users []string) {
	tb.Helper()
	address := FreeAddress(tb)
	host, port, _ := net.SplitHostPort(address)
	certificate, key, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	signingKey, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		tb.Fatal(err)
	}
	var tokens strings.Builder
	for i, user := range append([]string{admin}, users...) {
		c.tokens[user] = rand.Text()
		_, _ = fmt.Fprintf(&tokens, "%s,%s,%d,%q\n", c.tokens[user], user, i, strings.Join(groups(user), ","))
	}
	dir := tb.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	cmd := exec.Command(program, "--etcd-servers", etcd, "--bind-address", host, "--advertise-address", host, "--secure-port", port,
		"--cert-dir", dir, "--tls-cert-file", file("server.crt", string(certificate)), "--tls-private-key-file", file("server.key", string(key)),
		"--authorization-mode", "RBAC", "--token-auth-file", file("tokens.csv", tokens.String()),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", file("sa.key", string(signingKey)), "--service-account-signing-key-file", filepath.Join(dir, "sa.key"),
		"--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none",
		"--disable-admission-plugins", "ServiceAccount") // no controller makes the default account
	if err != nil {
		tb.Fatal(err)
	}
	c.config = &rest.Config{
		Host: "https://" + address, BearerToken: c.tokens[admin], QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: certificate},
	}
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		tb.Fatal(err)
	}
	c.apiServer = startServer(tb, cmd, func(ctx context.Context) error { return answersOK(ctx, client, c.config.Host+"/readyz") })
}

// groups are those that the API server puts a user into who comes with another
// kind of proof than a token from a file.
func groups(user string) []string {
	if account, ok := strings.CutPrefix(user, "system:serviceaccount:"); ok {
		namespace, _, _ := strings.Cut(account, ":")
		return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
	}
	if user == admin {
		return []string{"system:masters"}
	}
	return nil
}

func answersOK(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s answered %d: %s", url, resp.StatusCode, body)
	}
	return err
}

// Config returns an administrator's client configuration, the caller's own to
// change, for the API server without a proxy.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Kubeconfig writes the client configuration of a user that the control plane
// knows, for the API server or a proxy at a URL with a CA in PEM. It returns the
// file's path.
func (c *ControlPlane) Kubeconfig(tb testing.TB, url string, ca []byte, user string) string {
	tb.Helper()
	token, ok := c.tokens[user]
	if !ok {
		tb.Fatalf("the control plane was not started with the user %q", user)
	}
	path := filepath.Join(tb.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: url, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"test": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		CurrentContext: "test",
	}, path)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// KillAPIServer ends the API server as kill -9 does.
func (c *ControlPlane) KillAPIServer() { c.apiServer.Kill() }

// StartAPIServer starts the API server again and returns once it is ready, for
// which etcd has to be there.
func (c *ControlPlane) StartAPIServer() { c.apiServer.Start() }

// KillEtcd ends etcd as kill -9 does.
func (c *ControlPlane) KillEtcd() { c.etcd.Kill() }

// StartEtcd starts etcd again and returns once it answers. An API server that has
// been running all the time is ready some seconds later.
func (c *ControlPlane) StartEtcd() { c.etcd.Start() }
