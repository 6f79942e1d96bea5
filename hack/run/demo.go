package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

const (
	sample   = "config/samples/notification_v1alpha1_minimal.yaml"
	patience = time.Minute
)

// demo is a control plane and the two processes, all of this machine alone.
type demo struct {
	dir         string
	env         *envtest.Environment
	manager     process
	dataStorage process
	ended       chan *process // those that have, told to or not
	client      client.Client
	storage     string // DataStorage's address
	health      string // the manager's probes
	metrics     string
	lock        *os.File // held while addresses are chosen and not yet listened on
}

func (d *demo) run(ctx context.Context, once bool) error {
	type step struct {
		title string
		do    func(context.Context) error
	}
	steps := []step{
		{"Starting a Kubernetes API server", d.startControlPlane},
		{"Starting the manager: it waits, since there is no DataStorage", d.startManager},
		{"Starting DataStorage on SQLite: the manager notices", d.startDataStorage},
		{"Applying " + sample, func(ctx context.Context) error {
			return d.apply(ctx, "hello", v1alpha1.ConditionReady, v1alpha1.ConditionAudited)
		}},
		{"Asking the API server and DataStorage what became of it", d.show},
	}
	if once {
		steps = slices.Insert(steps, len(steps)-1,
			step{"Killing DataStorage: a message goes out, its event waits", d.killDataStorage},
			step{"Killing the manager too, applying a request, starting both again", d.killManager})
	}
	for i, step := range steps {
		fmt.Printf("\n[%d/%d] %s\n", i+1, len(steps), step.title)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	if once {
		return nil
	}
	fmt.Printf(`
Look further, in another terminal, in this directory, with kubectl and curl:

  export KUBECONFIG=%[1]s/kubeconfig
  kubectl get nr
  kubectl describe nr hello
  curl '%[2]s/api/v1/audit/events'
  curl '%[3]s/readyz?verbose'
  curl -s '%[4]s/metrics' | grep ^notification_
  tail -f %[1]s/manager.log %[1]s/datastorage.log

Kill DataStorage, send meanwhile, and see that all of it is recorded when it is back:

  kill -9 $(cat %[1]s/datastorage.pid)
  for n in 1 2 3; do sed s/hello/outage-$n/ %[5]s | kubectl apply -f -; done
  kubectl wait --for=condition=Audited nr/outage-{1,2,3} --timeout=60s && bin/datastorage verify --database-url=sqlite:%[1]s/datastorage.db

Messages to the channel console appear here. Ctrl-C ends it all.
`, d.dir, d.storage, d.health, d.metrics, sample)
	return d.stay(ctx)
}

func (d *demo) startControlPlane(ctx context.Context) error {
	d.env = &envtest.Environment{CRDDirectoryPaths: []string{"config/crd"}, ErrorIfCRDPathMissing: true}
	config, err := d.env.Start()
	if err != nil {
		return fmt.Errorf("start the API server: %w", err)
	}
	if err := os.WriteFile(d.path("kubeconfig"), d.env.KubeConfig, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return fmt.Errorf("build scheme: %w", err)
	}
	if d.client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	fmt.Println("      " + config.Host)
	return d.admit(ctx)
}

// admit installs what every request passes at its creation, as in a cluster.
func (d *demo) admit(ctx context.Context) error {
	text, err := os.ReadFile("config/admission/finalizer.yaml")
	if err != nil {
		return fmt.Errorf("read admission policy: %w", err)
	}
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(part, object); err != nil {
			return fmt.Errorf("read admission policy: %w", err)
		}
		if err := d.client.Create(ctx, object); err != nil {
			return fmt.Errorf("create %s: %w", object.GetKind(), err)
		}
	}
	return nil
}

func (d *demo) startManager(ctx context.Context) error {
	// A second run that starts now must not choose the same ports.
	lock, err := os.Create(filepath.Join(os.TempDir(), fmt.Sprintf("notification-run-%d.lock", os.Getuid())))
	if err != nil {
		return fmt.Errorf("create lock: %w", err)
	}
	d.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("wait for another run to start: %w", err)
	}
	storage, err := freeAddress(ctx, "127.0.0.1:8084")
	if err != nil {
		return err
	}
	health, err := freeAddress(ctx, "127.0.0.1:8081")
	if err != nil {
		return err
	}
	metrics, err := freeAddress(ctx, "127.0.0.1:8082")
	if err != nil {
		return err
	}
	pages, err := freeAddress(ctx, "127.0.0.1:8083")
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("acknowledge.key"), []byte(rand.Text()+rand.Text()), 0o600); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	d.metrics = "http://" + metrics
	d.storage, d.health = "http://"+storage, "http://"+health
	d.manager = process{name: "manager", args: []string{
		"--kubeconfig=" + d.path("kubeconfig"), "--datastorage-url=" + d.storage,
		"--dlq-path=" + d.path("dlq"), "--file-root=" + d.path("files"),
		"--health-probe-bind-address=" + health, "--metrics-bind-address=" + metrics,
		"--acknowledge-url=http://" + pages, "--acknowledge-bind-address=" + pages, "--acknowledge-key-file=" + d.path("acknowledge.key"),
		"--delivery-allow-networks=127.0.0.0/8,::1/128",
	}}
	if err := d.start(&d.manager); err != nil {
		return err
	}
	if err := d.await(ctx, d.health+"/healthz", http.StatusOK); err != nil {
		return err
	}
	return d.await(ctx, d.health+"/readyz", http.StatusInternalServerError)
}

func (d *demo) startDataStorage(ctx context.Context) error {
	address, err := url.Parse(d.storage)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	d.dataStorage = process{name: "datastorage", args: []string{
		"--listen=" + address.Host, "--database-url=" + d.database(), "--signing-key=" + d.path("signing.key"),
	}}
	if err := d.start(&d.dataStorage); err != nil {
		return err
	}
	if err := d.await(ctx, d.storage+"/readyz", http.StatusOK); err != nil {
		return err
	}
	if err := d.await(ctx, d.health+"/readyz", http.StatusOK); err != nil {
		return err
	}
	return d.lock.Close()
}

// apply creates the sample under a name, and waits until conditions of it are True.
func (d *demo) apply(ctx context.Context, name string, conditions ...string) error {
	text, err := os.ReadFile(sample)
	if err != nil {
		return fmt.Errorf("read sample: %w", err)
	}
	nr := &v1alpha1.NotificationRequest{}
	if err := yaml.UnmarshalStrict(text, nr); err != nil {
		return fmt.Errorf("read sample: %w", err)
	}
	nr.Namespace, nr.Name = "default", name
	// The admission policy looks for new kinds every five seconds, and refuses what it
	// does not know yet.
	if err := d.until(ctx, "the API server takes the request "+name, func() error { return d.client.Create(ctx, nr) }); err != nil {
		return err
	}
	return d.untilTrue(ctx, name, conditions...)
}

func (d *demo) untilTrue(ctx context.Context, name string, conditions ...string) error {
	return d.until(ctx, fmt.Sprintf("the request %s is %s", name, strings.Join(conditions, " and ")), func() error {
		nr := &v1alpha1.NotificationRequest{}
		if err := d.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, nr); err != nil {
			return err
		}
		for _, condition := range conditions {
			if !meta.IsStatusConditionTrue(nr.Status.Conditions, condition) {
				return fmt.Errorf("its condition %s is not True", condition)
			}
		}
		return nil
	})
}

func (d *demo) show(ctx context.Context) error {
	var list v1alpha1.NotificationRequestList
	if err := d.client.List(ctx, &list); err != nil {
		return fmt.Errorf("list requests: %w", err)
	}
	fmt.Printf("\n  %-16s %-7s %-8s %-6s %-8s\n", "NAME", "READY", "STATUS", "SENT", "AUDITED")
	for _, nr := range list.Items {
		ready := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReady)
		audited := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionAudited)
		fmt.Printf("  %-16s %-7s %-8s %-6s %-8s\n", nr.Name, ready.Status, ready.Reason, nr.Status.Summary.Ratio, audited.Status)
		for _, delivery := range nr.Status.Deliveries {
			if delivery.Attempts != 1 {
				return fmt.Errorf("%s was sent in %d attempts", nr.Name, delivery.Attempts)
			}
		}
	}
	fmt.Printf("\n  %-28s %-38s %s\n", "EVENT", "ID", "LOG INDEX")
	for i := range list.Items {
		if err := d.showEvents(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return d.verify(ctx)
}

// verify has the log proven from first principles, as an auditor would.
func (d *demo) verify(ctx context.Context) error {
	args := []string{"verify", "--database-url=" + d.database()}
	out, err := exec.CommandContext(ctx, filepath.Join("bin", "datastorage"), args...).Output()
	if err != nil {
		return fmt.Errorf("verify the log: %w\n%s", err, out)
	}
	fmt.Printf("\n  $ bin/datastorage %s\n", strings.Join(args, " "))
	for line := range strings.Lines(string(out)) {
		fmt.Print("  ", line)
	}
	return nil
}

// showEvents prints what DataStorage holds about a request, and fails unless that
// is one event for each channel.
func (d *demo) showEvents(ctx context.Context, nr *v1alpha1.NotificationRequest) error {
	query := url.Values{"event_type": {audit.TypeMessageSent}, "resource_id": {nr.Name}, "namespace": {nr.Namespace}}
	body, status, err := get(ctx, d.storage+"/api/v1/audit/events?"+query.Encode())
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("ask DataStorage for events: it answered %d: %s", status, body)
	}
	var page struct {
		Data []struct {
			EventID   string `json:"event_id"`
			EventType string `json:"event_type"`
			LogIndex  int64  `json:"log_index"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return fmt.Errorf("read DataStorage's answer: %w", err)
	}
	for _, e := range page.Data {
		fmt.Printf("  %-28s %-38s %d\n", e.EventType, e.EventID, e.LogIndex)
	}
	if len(page.Data) != len(nr.Status.Deliveries) {
		return fmt.Errorf("DataStorage holds %d events of type %s for %d channels", len(page.Data), audit.TypeMessageSent, len(nr.Status.Deliveries))
	}
	return nil
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) database() string { return "sqlite:" + d.path("datastorage.db") }

// await waits for an address to answer with a status.
func (d *demo) await(ctx context.Context, address string, status int) error {
	return d.until(ctx, fmt.Sprintf("%s answers %d", address, status), func() error {
		_, got, err := get(ctx, address)
		if err == nil && got != status {
			err = fmt.Errorf("it answers %d", got)
		}
		return err
	})
}

func (d *demo) until(ctx context.Context, what string, try func() error) error {
	tick, end := time.NewTicker(50*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case p := <-d.ended:
			return fmt.Errorf("%w; its log says why", p.failure())
		case <-end:
			return fmt.Errorf("waited %s until %s: %w", patience, what, err)
		}
	}
}

func get(ctx context.Context, address string) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("make request: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", address, err)
	}
	return body, resp.StatusCode, nil
}

// freeAddress returns the preferred address, or another port where it is taken.
func freeAddress(ctx context.Context, preferred string) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", preferred)
	if err != nil {
		listener, err = config.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
