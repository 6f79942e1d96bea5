package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
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
	dir       string
	env       *envtest.Environment
	processes []*process
	ended     chan error // of processes that were not told to end
	client    client.Client
	storage   string // DataStorage's address
	health    string // the manager's probes
	metrics   string
	lock      *os.File // held while addresses are chosen and not yet listened on
}

type process struct {
	*exec.Cmd
	waited chan struct{} // closed when it has ended
	err    error         // set before that
}

func (d *demo) run(ctx context.Context, once bool) error {
	for i, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Starting a Kubernetes API server", d.startControlPlane},
		{"Starting the manager: it waits, since there is no DataStorage", d.startManager},
		{"Starting DataStorage on SQLite: the manager notices", d.startDataStorage},
		{"Applying " + sample, d.apply},
		{"Asking the API server and DataStorage what became of it", d.show},
	} {
		fmt.Printf("\n[%d/5] %s\n", i+1, step.title)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	if once {
		return nil
	}
	fmt.Printf(`
Look further, in another terminal that has kubectl and curl:

  export KUBECONFIG=%[1]s/kubeconfig
  kubectl get nr -w
  kubectl apply -f config/samples/notification_v1alpha1_two_channels.yaml
  kubectl describe nr
  curl '%[2]s/api/v1/audit/events'
  curl '%[3]s/readyz?verbose'
  curl '%[4]s/metrics'
  tail -f %[1]s/manager.log %[1]s/datastorage.log

Messages to the channel console appear here. Ctrl-C ends it all.
`, d.dir, d.storage, d.health, d.metrics)
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.ended:
		return err
	}
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
	if err := d.start("manager", "--kubeconfig="+d.path("kubeconfig"), "--datastorage-url="+d.storage,
		"--dlq-path="+d.path("dlq"), "--file-root="+d.path("files"),
		"--health-probe-bind-address="+health, "--metrics-bind-address="+metrics,
		"--acknowledge-url=http://"+pages, "--acknowledge-bind-address="+pages, "--acknowledge-key-file="+d.path("acknowledge.key"),
		"--delivery-allow-networks=127.0.0.0/8,::1/128"); err != nil {
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
	if err := d.start("datastorage", "--listen="+address.Host, "--database-url=sqlite:"+d.path("datastorage.db"), "--signing-key="+d.path("signing.key")); err != nil {
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

func (d *demo) apply(ctx context.Context) error {
	text, err := os.ReadFile(sample)
	if err != nil {
		return fmt.Errorf("read sample: %w", err)
	}
	nr := &v1alpha1.NotificationRequest{}
	if err := yaml.UnmarshalStrict(text, nr); err != nil {
		return fmt.Errorf("read sample: %w", err)
	}
	if nr.Namespace == "" {
		nr.Namespace = "default"
	}
	// The admission policy looks for new kinds every five seconds, and refuses what it
	// does not know yet.
	if err := d.until(ctx, "the API server takes the request", func() error { return d.client.Create(ctx, nr) }); err != nil {
		return err
	}
	return d.until(ctx, "the request is sent and audited", func() error {
		if err := d.client.Get(ctx, client.ObjectKeyFromObject(nr), nr); err != nil {
			return err
		}
		for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionAudited} {
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
		if err := d.showEvents(ctx, &nr); err != nil {
			return err
		}
	}
	return d.verify(ctx)
}

// verify has the log proven from first principles, as an auditor would.
func (d *demo) verify(ctx context.Context) error {
	args := []string{"verify", "--database-url=sqlite:" + d.path("datastorage.db")}
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
	fmt.Printf("\n  %-28s %-38s %s\n", "EVENT", "ID", "LOG INDEX")
	for _, e := range page.Data {
		fmt.Printf("  %-28s %-38s %d\n", e.EventType, e.EventID, e.LogIndex)
	}
	if len(page.Data) != len(nr.Status.Deliveries) {
		return fmt.Errorf("DataStorage holds %d events of type %s for %d channels", len(page.Data), audit.TypeMessageSent, len(nr.Status.Deliveries))
	}
	return nil
}

// start runs a program of bin/. What it prints for people appears here, its log
// in a file.
func (d *demo) start(name string, args ...string) error {
	log, err := os.Create(d.path(name + ".log"))
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), filepath.Join("bin", name), args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, log
	// A Ctrl-C at the terminal is for this program, which stops the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start bin/%s: %w", name, err)
	}
	p := &process{Cmd: cmd, waited: make(chan struct{})}
	d.processes = append(d.processes, p)
	go func() {
		p.err = cmd.Wait()
		close(p.waited)
		d.ended <- fmt.Errorf("bin/%s has ended (%s); its log says why", name, cmd.ProcessState)
	}()
	return nil
}

func (d *demo) stop() error {
	var errs []error
	if len(d.processes) > 0 {
		fmt.Println("\nStopping.")
	}
	for _, p := range d.processes {
		_ = p.Process.Signal(syscall.SIGCONT) // It may be paused, for an outage.
	}
	for _, p := range d.processes {
		if err := p.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
			continue // It was told why already.
		}
		if <-p.waited; p.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Base(p.Path), p.err))
		}
	}
	if d.env != nil {
		errs = append(errs, d.env.Stop())
	}
	return errors.Join(errs...)
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

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
		case err := <-d.ended:
			return err
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
