package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/testenv"
)

// restrictedNamespace makes a namespace with the labels that the default gives
// its own.
func restrictedNamespace(t *testing.T, c client.Client) string {
	t.Helper()
	ns := find[corev1.Namespace](t, render(t, filepath.Join(configDir, "default")), "Namespace", namespace)
	ns.ObjectMeta = metav1.ObjectMeta{Name: testenv.Namespace(t), Labels: ns.Labels}
	if err := c.Update(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// TestEveryKustomizationIsAccepted renders each into another namespace, as a
// user's overlay would.
func TestEveryKustomizationIsAccepted(t *testing.T) {
	for name, kustomization := range kustomizations(t) {
		t.Run(name, func(t *testing.T) {
			c := administrator(t)
			ns := restrictedNamespace(t, c)
			objects := overlay(t, kustomization+"namespace: "+ns+"\n")
			if len(objects) == 0 {
				t.Fatal("nothing rendered")
			}
			if err := apply(t, c, without(objects, "cert-manager.io", "monitoring.coreos.com"), client.DryRunAll); err != nil {
				t.Error(err)
			}
			for _, u := range objects {
				if at := u.GetNamespace(); at != "" && at != ns {
					t.Errorf("%s %s stays in %s", u.GetKind(), u.GetName(), at)
				}
				subjects, _, _ := unstructured.NestedSlice(u.Object, "subjects")
				for _, s := range subjects {
					if at := s.(map[string]any)["namespace"]; at != ns {
						t.Errorf("%s %s: a subject stays in %v", u.GetKind(), u.GetName(), at)
					}
				}
			}
			for name, template := range podTemplates(t, objects) {
				if err := c.Create(t.Context(), pod(ns, template), client.DryRunAll); err != nil {
					t.Errorf("pod of %s: %v", name, err)
				}
			}
		})
	}
}

func TestTheDefaultGivesRequestsTheirFinalizerAtBirth(t *testing.T) {
	objects := render(t, filepath.Join(configDir, "default"))
	const name = "notification-request-finalizer"
	policy := find[admissionv1.MutatingAdmissionPolicy](t, objects, "MutatingAdmissionPolicy", name)
	binding := find[admissionv1.MutatingAdmissionPolicyBinding](t, objects, "MutatingAdmissionPolicyBinding", name)
	if binding.Spec.PolicyName != policy.Name || !strings.Contains(policy.Spec.Mutations[0].JSONPatch.Expression, `"`+v1alpha1.Finalizer+`"`) {
		t.Errorf("policy %+v, binding %+v", policy.Spec, binding.Spec)
	}
}

func TestTheAdmissionPolicyCanBeLeftOutAsThePageSays(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(configDir, "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, patch, _ := strings.Cut(string(page), "cat >> config/mine/kustomization.yaml <<'EOF'\n")
	patch, _, _ = strings.Cut(patch, "EOF\n")
	kept := overlay(t, "resources: [CONFIG/default]\n"+patch)
	all := render(t, filepath.Join(configDir, "default"))
	if want := without(all, "admissionregistration.k8s.io"); len(kept) != len(want) || len(want) == len(all) {
		t.Errorf("%d objects of %d are kept, want %d", len(kept), len(all), len(want))
	}
}

func TestAnUnknownFieldIsRefused(t *testing.T) {
	c := administrator(t)
	for _, u := range install(t, c) {
		if u.GetKind() != "Deployment" {
			continue
		}
		if err := unstructured.SetNestedField(u.Object, "x", "spec", "template", "spec", "restartPolicies"); err != nil {
			t.Fatal(err)
		}
		err := apply(t, c, []*unstructured.Unstructured{u}, client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), ".spec.template.spec.restartPolicies") {
			t.Errorf("got %v, want an error that names the field", err)
		}
	}
}

func TestPodsThatAreNotRestrictedAreRefused(t *testing.T) {
	c := administrator(t)
	templates := podTemplates(t, install(t, c))
	for name, weaken := range map[string]func(*corev1.PodSpec){
		"root":        func(s *corev1.PodSpec) { s.SecurityContext.RunAsNonRoot = new(false) },
		"seccomp":     func(s *corev1.PodSpec) { s.SecurityContext.SeccompProfile = nil },
		"escalation":  func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil },
		"capability":  func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.Capabilities.Drop = nil },
		"hostNetwork": func(s *corev1.PodSpec) { s.HostNetwork = true },
		"hostPath": func(s *corev1.PodSpec) {
			s.Volumes[0].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for of, template := range templates {
				p := pod(namespace, template)
				weaken(&p.Spec)
				err := c.Create(t.Context(), p, client.DryRunAll)
				if err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
					t.Errorf("pod of %s: got %v, want a violation of PodSecurity", of, err)
				}
			}
		})
	}
}

func TestSamplesKustomizationHasEverySample(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(configDir, "samples", "notification_v1alpha1_*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("samples: %v (%v)", files, err)
	}
	data, err := os.ReadFile(filepath.Join(configDir, "samples", "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	for _, file := range files {
		if !slices.Contains(lines, "- "+filepath.Base(file)) {
			t.Errorf("%s is not in the kustomization", filepath.Base(file))
		}
	}
}

// TestSamplesFitTogether finds the channels and Secrets that the samples name.
func TestSamplesFitTogether(t *testing.T) {
	objects := render(t, filepath.Join(configDir, "samples"))
	channels, secrets := []string{"console"}, map[string][]string{}
	for _, u := range objects {
		switch u.GetKind() {
		case "NotificationChannel":
			channels = append(channels, u.GetName())
		case "Secret":
			entries, _, _ := unstructured.NestedStringMap(u.Object, "stringData")
			for key := range entries {
				secrets[u.GetName()] = append(secrets[u.GetName()], key)
			}
		}
	}
	var check func(u *unstructured.Unstructured, node any)
	check = func(u *unstructured.Unstructured, node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				check(u, child)
			}
		case map[string]any:
			name, hasName := node["name"].(string)
			if key, ok := node["key"].(string); ok && hasName && !slices.Contains(secrets[name], key) {
				t.Errorf("%s %s names Secret %s key %s, which no sample has", u.GetKind(), u.GetName(), name, key)
			}
			for _, child := range node {
				check(u, child)
			}
		}
	}
	for _, u := range objects {
		check(u, u.Object["spec"])
		refs, _, _ := unstructured.NestedSlice(u.Object, "spec", "channels")
		for _, ref := range refs {
			if name := ref.(map[string]any)["name"].(string); !slices.Contains(channels, name) {
				t.Errorf("%s names channel %s, which no sample has", u.GetName(), name)
			}
		}
	}
}
