package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

// families returns the manager's metrics by name.
func (s *stack) families() map[string]*dto.MetricFamily {
	s.t.Helper()
	code, body := s.get(s.metrics, "/metrics")
	if code != http.StatusOK {
		s.t.Fatalf("/metrics: %d %s", code, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return families
}

func (s *stack) family(name string) []*dto.Metric { return s.families()[name].GetMetric() }

func TestMetricsHaveGoodNamesAndCountWhatHappened(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.sink.Answer("/hook", harness.Status(503), harness.Status(200))
	s.webhook("hook")
	s.send("measured", "hook", v1alpha1.ConsoleChannel)
	s.wait("measured", isSent, isAudited)

	var ours []*dto.MetricFamily
	var names []string
	for name, family := range s.families() {
		if strings.HasPrefix(name, "notification_") {
			ours = append(ours, family)
			names = append(names, name)
		}
	}
	slices.Sort(names)
	want := []string{
		"notification_acknowledgements_total",
		"notification_audit_batch_events",
		"notification_audit_buffered_events",
		"notification_audit_committed_total",
		"notification_audit_conflicts_total",
		"notification_audit_conservation_difference",
		"notification_audit_dead_letters",
		"notification_audit_duplicates_total",
		"notification_audit_failed_batches_total",
		"notification_audit_in_flight_batches",
		"notification_audit_log_checkpoint_age_seconds",
		"notification_audit_log_contradictions_total",
		"notification_audit_log_size",
		"notification_audit_merged_total",
		"notification_audit_oldest_dead_letter_age_seconds",
		"notification_audit_post_duration_seconds",
		"notification_audit_recorded_total",
		"notification_audit_rejected_events",
		"notification_audit_rejected_total",
		"notification_audit_replayed_total",
		"notification_audit_retries_total",
		"notification_audit_spilled_total",
		"notification_audit_unreadable_dead_letters",
		"notification_channel_circuits",
		"notification_deliveries_ambiguous",
		"notification_deliveries_postponed",
		"notification_deliveries_total",
		"notification_delivery_attempt_duration_seconds",
		"notification_delivery_attempts_in_flight",
		"notification_delivery_attempts_total",
		"notification_requests",
		"notification_requests_acknowledgement_waiting",
		"notification_requests_audit_pending",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	_, text := s.get(s.metrics, "/metrics")
	for _, line := range []string{
		`notification_delivery_attempts_total{channel_type="Webhook",outcome="Transient",reason="ServerError"} 1`,
		`notification_delivery_attempts_total{channel_type="Webhook",outcome="Sent",reason=""} 1`,
		`notification_deliveries_total{channel_type="Webhook",state="Sent"} 1`,
		`notification_deliveries_total{channel_type="Console",state="Sent"} 1`,
		`notification_delivery_attempts_in_flight 0`,
		`notification_requests{status="Sent"} 1`,
		`notification_requests{status="Failed"} 0`,
		`notification_requests_audit_pending 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is missing", line)
		}
	}
	value := func(name string) float64 { return s.family(name)[0].GetCounter().GetValue() }
	if got := value("notification_audit_committed_total") - value("notification_audit_duplicates_total"); got != 3 {
		t.Errorf("%v events were committed for the first time, want 3", got)
	}
}

func TestMetricsBeyondLoopbackAreForThoseWhoMayReadThem(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.startStorage()
	_, port, _ := strings.Cut(harness.FreeAddress(t), ":")
	s.startManager("--metrics-bind-address", "0.0.0.0:"+port)
	clients, err := kubernetes.NewForConfig(testenv.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	s.create(
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "scraper"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "stranger"}},
		&rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: s.namespace},
			Rules:      []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}},
		},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: s.namespace},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: s.namespace},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: s.namespace, Name: "scraper"}},
		},
	)
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the certificate is its own
	for user, want := range map[string]int{"": http.StatusUnauthorized, "stranger": http.StatusForbidden, "scraper": http.StatusOK} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:"+port+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			token, err := clients.CoreV1().ServiceAccounts(s.namespace).CreateToken(t.Context(), user, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token.Status.Token)
		}
		harness.Eventually(t, soon, func() error {
			resp, err := insecure.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("/metrics is %d for %q, want %d", resp.StatusCode, user, want)
			}
			return nil
		})
	}
}

// table returns what kubectl get shows without -o wide and besides, by their names,
// some columns that it shows with it, as lines of cells.
func table(t *testing.T, path string, wide ...string) [][]string {
	t.Helper()
	config := testenv.Config(t)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer metav1.Table
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	shown := func(c metav1.TableColumnDefinition) bool {
		return c.Priority == 0 && c.Name != "Age" || slices.Contains(wide, c.Name)
	}
	lines := [][]string{{}}
	for _, c := range answer.ColumnDefinitions {
		if shown(c) {
			lines[0] = append(lines[0], strings.ToUpper(c.Name))
		}
	}
	for _, row := range answer.Rows {
		var line []string
		for i, c := range answer.ColumnDefinitions {
			if shown(c) {
				line = append(line, fmt.Sprint(row.Cells[i]))
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func TestKubectlGetShowsHowFarARequestIs(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.sink.Answer("/bad", harness.Status(400))
	s.webhook("bad")
	s.webhook("good")
	s.send("all-sent", "good", v1alpha1.ConsoleChannel)
	s.send("failed", "bad")
	s.send("partly", "bad", "good")
	s.send("stuck", "missing")
	later := request("later", "good")
	later.Spec.NotBefore = new(metav1.NewTime(time.Now().Add(time.Hour)))
	s.create(later)
	for _, name := range []string{"all-sent", "failed", "partly"} {
		s.wait(name, isAudited)
	}
	s.wait("stuck", isStalled(v1alpha1.ReasonChannelNotFound))
	s.wait("later", inState("good", v1alpha1.DeliveryPending))

	base := "/apis/notification.kubernaut.ai/v1alpha1/namespaces/" + s.namespace
	want := [][]string{
		{"NAME", "READY", "STATUS", "SENT", "AUDITED", "STALLED", "CHANNELS"},
		{"all-sent", "True", "Sent", "2/2", "True", "<nil>", "good,console"},
		{"failed", "False", "Failed", "0/1", "True", "Failed", "bad"},
		{"later", "False", "Pending", "0/1", "False", "<nil>", "good"},
		{"partly", "False", "PartiallySent", "1/2", "True", "PartiallySent", "bad,good"},
		{"stuck", "False", "Pending", "0/1", "False", "ChannelNotFound", "missing"},
	}
	if diff := cmp.Diff(want, table(t, base+"/notificationrequests", "Channels")); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	s.leads("both", []string{"good", v1alpha1.ConsoleChannel})
	harness.Eventually(t, soon, func() error {
		want := [][]string{
			{"NAME", "ORDER", "CHANNELS", "CONTINUE", "READY", "STATUS"},
			{"both", "100", "good,console", "<nil>", "True", "RouteValid"},
		}
		if diff := cmp.Diff(want, table(t, base+"/notificationroutes")); diff != "" {
			return fmt.Errorf("routes (-want +got):\n%s", diff)
		}
		return nil
	})
	harness.Eventually(t, soon, func() error {
		got := table(t, base+"/notificationchannels")
		for _, line := range got {
			line[len(line)-1] = "" // when a message was last sent there
		}
		want := [][]string{
			{"NAME", "TYPE", "READY", "STATUS", ""},
			{"bad", "Webhook", "True", "ConfigResolved", ""},
			{"good", "Webhook", "True", "ConfigResolved", ""},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("channels (-want +got):\n%s", diff)
		}
		return nil
	})
}
