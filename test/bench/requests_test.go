// Package bench measures the whole path on real parts. Nothing in it fails for
// being slow.
package bench

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	// sizesVar names how many requests to send, as numbers separated by commas,
	// each for a run of its own.
	sizesVar     = "BENCH_REQUESTS"
	defaultSizes = "1000,10000"
	// workers is the manager's default, and how many callers at once make the
	// requests and the status patches that they are compared with.
	workers = 16
	// patience ends a run that makes no progress.
	patience = time.Minute
)

// BenchmarkRequests sends console requests through the manager, as a process of
// its own with its default settings and DataStorage on SQLite, and reports:
//
//	requests/s      from the first create to the last Audited=True
//	patches/s       status patches of the same requests when all that is over
//	writes/request  of the manager to the API server, without Events
//	events/request  Kubernetes Events written
//	cpu-ms/request  processor time of the manager
//	rss-MB, peak-MB the manager's memory at the end, and its highest
func BenchmarkRequests(b *testing.B) {
	sizes := os.Getenv(sizesVar)
	if sizes == "" {
		sizes = defaultSizes
	}
	for word := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			b.Fatalf("%s is %q; it must be numbers from 1, separated by commas", sizesVar, sizes)
		}
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			for b.Loop() {
				benchmarkRequests(b, n)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchmarkRequests(b *testing.B, n int) {
	kube, namespace := harness.NewClient(b, testenv.Config(b)), testenv.Namespace(b)
	manager, process := startManager(b, namespace)
	before := countWrites(b)

	audited := watchAudited(b, kube, namespace, n)
	start := time.Now()
	parallel(b, n, func(ctx context.Context, i int) error {
		return kube.Create(ctx, &v1alpha1.NotificationRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("request-%d", i)},
			Spec: v1alpha1.NotificationRequestSpec{
				Subject: "Node is not ready", Body: "The node has not reported for five minutes.",
				CorrelationID: fmt.Sprintf("incident-%d", i),
			},
		})
	})
	audited()
	b.ReportMetric(float64(n)/time.Since(start).Seconds(), "requests/s")
	for unit, field := range map[string]string{"rss-MB": "VmRSS", "peak-MB": "VmHWM"} {
		if megabytes, ok := memory(process.Process.Pid, field); ok {
			b.ReportMetric(megabytes, unit)
		}
	}

	// It writes what is left to write before it ends.
	manager.Stop(patience)
	used := process.ProcessState.UserTime() + process.ProcessState.SystemTime()
	b.ReportMetric(float64(used.Milliseconds())/float64(n), "cpu-ms/request")
	reportWrites(b, before, countWrites(b), n)
	b.ReportMetric(patchStatuses(b, kube, namespace), "patches/s")
}

// startManager starts DataStorage and the manager and returns once requests are
// worked on.
func startManager(b *testing.B, namespace string) (*harness.Process, *exec.Cmd) {
	b.Helper()
	dir := b.TempDir()
	_, storage := harness.StartDataStorage(b, harness.FreeAddress(b), "sqlite:"+filepath.Join(dir, "datastorage.db"))
	probe := harness.FreeAddress(b)
	cmd := exec.Command(harness.Build(b, "manager"),
		"--kubeconfig", kubeconfig(b, testenv.Config(b)),
		"--datastorage-url", storage.URL,
		"--watch-namespaces", namespace,
		"--leader-elect-namespace", namespace,
		"--metrics-bind-address", harness.FreeAddress(b),
		"--health-probe-bind-address", probe,
		"--dlq-path", filepath.Join(dir, "dlq"),
		"--file-root", filepath.Join(dir, "files"))
	manager := harness.Start(b, cmd)
	harness.Eventually(b, patience, func() error {
		resp, err := http.Get("http://" + probe + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz answered %d", resp.StatusCode)
		}
		return nil
	})
	return manager, cmd
}

// kubeconfig writes a client configuration to a file.
func kubeconfig(b *testing.B, config *rest.Config) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"bench": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"bench": {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"bench": {Cluster: "bench", AuthInfo: "bench"}},
		CurrentContext: "bench",
	}, path)
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// watchAudited begins to watch a namespace and returns what waits until n
// requests in it are audited, telling a person how far they are.
func watchAudited(b *testing.B, kube client.WithWatch, namespace string, n int) func() {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	audited, ended := make(chan struct{}, n), make(chan error, 1)
	go func() {
		done := map[string]bool{}
		for ctx.Err() == nil {
			// The server ends a watch that falls behind. Another begins with all
			// that there is.
			w, err := kube.Watch(ctx, &v1alpha1.NotificationRequestList{}, client.InNamespace(namespace))
			if err != nil {
				ended <- err
				return
			}
			for event := range w.ResultChan() {
				nr, ok := event.Object.(*v1alpha1.NotificationRequest)
				if ok && !done[nr.Name] && meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionAudited) {
					done[nr.Name] = true
					audited <- struct{}{}
				}
			}
		}
	}()
	start := time.Now()
	return func() {
		defer cancel()
		stuck := time.NewTimer(patience)
		defer stuck.Stop()
		for i := range n {
			select {
			case <-audited:
				stuck.Reset(patience)
			case err := <-ended:
				b.Fatal(err)
			case <-stuck.C:
				b.Fatalf("%d of %d requests are audited, and no other was within %s", i, n, patience)
			}
			if (i+1)%max(n/10, 100) == 0 {
				fmt.Fprintf(os.Stderr, "  %d of %d requests audited after %s\n", i+1, n, time.Since(start).Round(time.Millisecond))
			}
		}
	}
}

// parallel calls do with each number below n, for several of them at once.
func parallel(b *testing.B, n int, do func(ctx context.Context, i int) error) {
	b.Helper()
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range numbers {
				if err := do(b.Context(), i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// patchStatuses writes the status of every request in a namespace once, the way
// the manager does, and returns the writes per second.
func patchStatuses(b *testing.B, kube client.Client, namespace string) float64 {
	b.Helper()
	var list v1alpha1.NotificationRequestList
	if err := kube.List(b.Context(), &list, client.InNamespace(namespace)); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	parallel(b, len(list.Items), func(ctx context.Context, i int) error {
		nr := &list.Items[i]
		base := nr.DeepCopy()
		nr.Status.Deliveries[0].Audit.LogIndex = new(int64(1_000_000 + i))
		return kube.Status().Patch(ctx, nr, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	})
	return float64(len(list.Items)) / time.Since(start).Seconds()
}

// write is a kind of request that changes something.
type write struct{ verb, resource, code string }

// countWrites asks the API server how many writes it has answered.
func countWrites(b *testing.B) map[write]int {
	b.Helper()
	config := testenv.Config(b)
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := httpClient.Get(config.Host + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	count := map[write]int{}
	for _, m := range families["apiserver_request_total"].GetMetric() {
		label := map[string]string{}
		for _, l := range m.GetLabel() {
			label[l.GetName()] = l.GetValue()
		}
		if slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}, label["verb"]) {
			resource := strings.TrimSuffix(label["resource"]+"/"+label["subresource"], "/")
			count[write{label["verb"], resource, label["code"]}] += int(m.GetCounter().GetValue())
		}
	}
	return count
}

// reportWrites reports the writes between two counts for each of n requests, but
// for their creation, and prints what they were.
func reportWrites(b *testing.B, before, after map[write]int, n int) {
	b.Helper()
	writes, events := -n, 0
	var kinds []string
	for w, count := range after {
		count -= before[w]
		resource, _, _ := strings.Cut(w.resource, "/")
		switch {
		case count == 0:
			continue
		case resource == "events":
			events += count
		case resource == "notificationrequests" || resource == "notificationchannels":
			writes += count
		default:
			continue // of the API server itself
		}
		kinds = append(kinds, fmt.Sprintf("%s %s %s: %d", w.verb, w.resource, w.code, count))
	}
	b.ReportMetric(float64(writes)/float64(n), "writes/request")
	b.ReportMetric(float64(events)/float64(n), "events/request")
	slices.Sort(kinds)
	b.Logf("writes for %d requests, their creation included:\n%s", n, strings.Join(kinds, "\n"))
}

// memory returns a field of a process's status in MB, where there is /proc.
func memory(pid int, field string) (float64, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kilobytes / 1024, err == nil
		}
	}
	return 0, false
}
