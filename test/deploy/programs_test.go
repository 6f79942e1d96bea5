package deploy

import (
	"bytes"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/manager"
)

// arguments are those of the pod's one container as the kubelet passes them.
func arguments(t *testing.T, template corev1.PodTemplateSpec) []string {
	t.Helper()
	if n := len(template.Spec.Containers); n != 1 {
		t.Fatalf("%d containers, want 1", n)
	}
	container := template.Spec.Containers[0]
	var expand []string
	for _, env := range container.Env {
		value := env.Value
		if env.ValueFrom != nil {
			value = "https://of-the-secret"
		}
		expand = append(expand, "$("+env.Name+")", value)
	}
	args := slices.Clone(container.Args)
	for i := range args {
		args[i] = strings.NewReplacer(expand...).Replace(args[i])
	}
	return args
}

func managerOptions(t *testing.T, template corev1.PodTemplateSpec) manager.Options {
	t.Helper()
	var o manager.Options
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	o.BindFlags(flags)
	if err := flags.Parse(arguments(t, template)); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(template.Spec.Containers[0].Env, func(env corev1.EnvVar) bool {
		return env.Name == "REDIS_URL" && env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil
	}) {
		o.RedisURL = "redis://of-the-secret"
	}
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
	if err := o.Audit.Validate(); err != nil {
		t.Error(err)
	}
	return o
}

// writable reports whether a path of the container is on a volume for writing.
func writable(template corev1.PodTemplateSpec, path string) bool {
	return slices.ContainsFunc(template.Spec.Containers[0].VolumeMounts, func(mount corev1.VolumeMount) bool {
		return !mount.ReadOnly && (path == mount.MountPath || strings.HasPrefix(path, mount.MountPath+"/"))
	})
}

func TestManagerBringsItsTimeZonesAlong(t *testing.T) {
	packages, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../cmd/manager").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(packages)), "time/tzdata") {
		t.Error("the manager has no time zones where its image has none")
	}
}

func TestManagerUnderstandsItsArguments(t *testing.T) {
	for name, kustomization := range kustomizations(t) {
		template, ok := podTemplates(t, overlay(t, kustomization))["notification-manager"]
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			o := managerOptions(t, template)
			if !o.LeaderElect {
				t.Error("--leader-elect is not set, and a rollout may have two managers at once")
			}
			if grace := time.Duration(*template.Spec.TerminationGracePeriodSeconds) * time.Second; grace < o.ShutdownTimeout+10*time.Second {
				t.Errorf("grace period %s, want 10s more than --shutdown-timeout %s", grace, o.ShutdownTimeout)
			}
			if !strings.HasPrefix(o.DataStorageURL, "https://") {
				t.Errorf("--datastorage-url is %s, want HTTPS", o.DataStorageURL)
			}
			for _, volume := range template.Spec.Volumes {
				if volume.Name == "dlq" && volume.EmptyDir.SizeLimit.Value() < 2*o.DLQMaxBytes {
					t.Errorf("the volume of the dead-letter queue has %s, want twice --dlq-max-bytes (%d) or more", volume.EmptyDir.SizeLimit, o.DLQMaxBytes)
				}
			}
			for _, path := range []string{o.DLQPath, o.FileRoot} {
				if !writable(template, path) {
					t.Errorf("%q is on no volume that can be written", path)
				}
			}
			if a := o.Acknowledge; a.URL != "" && a.BindAddress != port(template, "acknowledge") {
				t.Errorf("acknowledge links on %s, the port is %s", a.BindAddress, port(template, "acknowledge"))
			}
			if metrics, health := port(template, "metrics"), port(template, "health"); o.MetricsAddress != metrics || o.HealthProbeAddress != health {
				t.Errorf("metrics on %s and health on %s, ports are %s and %s", o.MetricsAddress, o.HealthProbeAddress, metrics, health)
			}
		})
	}
}

func TestDataStorageUnderstandsItsArguments(t *testing.T) {
	for name, kustomization := range kustomizations(t) {
		template, ok := podTemplates(t, overlay(t, kustomization))["datastorage"]
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			args := arguments(t, template)
			at := slices.Index(args, "--tls-cert-dir=/certs")
			if at < 0 {
				t.Fatalf("no --tls-cert-dir=/certs in %q", args)
			}
			// It has to exist when the flags are read.
			args[at] = "--tls-cert-dir=" + t.TempDir()
			o, _, err := datastorage.ParseOptions(args, new(bytes.Buffer))
			if err != nil {
				t.Fatal(err)
			}
			if o.Auth != "kubernetes" {
				t.Errorf("--auth=%s, want kubernetes", o.Auth)
			}
			if https := port(template, "https"); o.Listen != https {
				t.Errorf("--listen=%s, the port is %s", o.Listen, https)
			}
			if file, ok := strings.CutPrefix(o.DatabaseURL, "sqlite:"); ok {
				if !writable(template, file) {
					t.Errorf("the database %s is on no volume that can be written", file)
				}
			}
		})
	}
}

// port returns the address that listens on the container's port of that name.
func port(template corev1.PodTemplateSpec, name string) string {
	for _, p := range template.Spec.Containers[0].Ports {
		if p.Name == name {
			return fmt.Sprintf(":%d", p.ContainerPort)
		}
	}
	return "no port " + name
}

func TestE2EHasTheSettingsThatLostEvents(t *testing.T) {
	objects := render(t, filepath.Join(configDir, "e2e"))
	o := managerOptions(t, podTemplates(t, objects)["notification-manager"])
	want := audit.Config{BufferSize: 1000, BatchSize: 10, FlushInterval: 100 * time.Millisecond, MaxRetries: 3}
	if diff := cmp.Diff(want, o.Audit); diff != "" {
		t.Errorf("audit settings (-want +got):\n%s", diff)
	}
	service := find[corev1.Service](t, objects, "Service", "datastorage")
	if p := service.Spec.Ports[0].NodePort; service.Spec.Type != corev1.ServiceTypeNodePort || p != 30090 {
		t.Errorf("DataStorage's Service is %s with node port %d, want NodePort 30090", service.Spec.Type, p)
	}
	for name, template := range podTemplates(t, objects) {
		c := template.Spec.Containers[0]
		if !strings.HasSuffix(c.Image, ":e2e") || c.ImagePullPolicy != corev1.PullNever {
			t.Errorf("%s: image %s, pull policy %s; want tag e2e and Never", name, c.Image, c.ImagePullPolicy)
		}
	}
}

// TestOnlyReadinessDependsOnOthers keeps DataStorage's absence from restarting
// the manager, and a database's from restarting DataStorage.
func TestOnlyReadinessDependsOnOthers(t *testing.T) {
	for name, template := range podTemplates(t, render(t, filepath.Join(configDir, "default"))) {
		c := template.Spec.Containers[0]
		if c.ReadinessProbe == nil || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
			t.Errorf("%s: readiness is not /readyz", name)
		}
		for probe, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe} {
			if p != nil && p.HTTPGet.Path == "/readyz" {
				t.Errorf("%s: the %s probe is /readyz", name, probe)
			}
		}
	}
}

func TestALongStartIsNotTakenForAHungProgram(t *testing.T) {
	for name, template := range podTemplates(t, render(t, filepath.Join(configDir, "default"))) {
		p := template.Spec.Containers[0].StartupProbe
		if p == nil || p.FailureThreshold*p.PeriodSeconds < 600 {
			t.Errorf("%s: the startup probe is %v, want one that waits for ten minutes or more", name, p)
		}
	}
}

func TestGoKnowsTheMemoryLimit(t *testing.T) {
	for name, template := range podTemplates(t, render(t, filepath.Join(configDir, "default"))) {
		c := template.Spec.Containers[0]
		at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
		if at < 0 {
			t.Errorf("%s: no GOMEMLIMIT", name)
			continue
		}
		// Go writes MiB where Kubernetes writes Mi.
		soft, err := resource.ParseQuantity(strings.TrimSuffix(c.Env[at].Value, "B"))
		if err != nil {
			t.Fatal(err)
		}
		share := soft.AsApproximateFloat64() / c.Resources.Limits.Memory().AsApproximateFloat64()
		if share < 0.8 || share > 0.9 {
			t.Errorf("%s: GOMEMLIMIT is %.2f of the memory limit, want 0.8 to 0.9", name, share)
		}
	}
}

// TestSelectorsFindTheirPods renders all components that can go together.
func TestSelectorsFindTheirPods(t *testing.T) {
	objects := overlay(t, "resources: [CONFIG/default]\ncomponents: [CONFIG/components/network-policy, CONFIG/components/prometheus, CONFIG/components/ha]\n")
	templates := podTemplates(t, objects)
	finds := func(u *unstructured.Unstructured, selector *metav1.LabelSelector, ports ...string) {
		t.Helper()
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		for _, template := range templates {
			if s.Matches(labels.Set(template.Labels)) {
				for _, name := range ports {
					if p := port(template, name); !strings.HasPrefix(p, ":") {
						t.Errorf("%s %s: %s", u.GetKind(), u.GetName(), p)
					}
				}
				return
			}
		}
		t.Errorf("%s %s: no pod has %s", u.GetKind(), u.GetName(), s)
	}
	for _, u := range objects {
		switch u.GetKind() {
		case "Service":
			spec := into[corev1.Service](t, u).Spec
			finds(u, &metav1.LabelSelector{MatchLabels: spec.Selector}, spec.Ports[0].TargetPort.StrVal)
		case "PodDisruptionBudget":
			finds(u, into[policyv1.PodDisruptionBudget](t, u).Spec.Selector)
		case "NetworkPolicy":
			spec := into[networkingv1.NetworkPolicy](t, u).Spec
			finds(u, &spec.PodSelector, spec.Ingress[0].Ports[0].Port.StrVal)
			for _, rule := range spec.Egress {
				for _, peer := range rule.To {
					finds(u, peer.PodSelector, rule.Ports[0].Port.StrVal)
				}
			}
		}
	}
	for name, template := range templates {
		for _, spread := range template.Spec.TopologySpreadConstraints {
			if diff := cmp.Diff(template.Labels, spread.LabelSelector.MatchLabels); diff != "" {
				t.Errorf("%s is spread by other labels than its own (-pod +selector):\n%s", name, diff)
			}
		}
	}
}
