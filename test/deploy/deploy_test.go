// Package deploy tests the manifests in config against a real API server and
// against the programs that they start.
package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"kubernaut.ai/notification/test/testenv"
)

const (
	configDir = "../../config"
	namespace = "notification-system"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// render builds the kustomization of a directory.
func render(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("render %s: %v", dir, err)
	}
	var objects []*unstructured.Unstructured
	for _, r := range built.Resources() {
		data, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(data); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, u)
	}
	return objects
}

// overlay builds a kustomization of its own. In it, CONFIG stands for the
// directory config.
func overlay(t *testing.T, kustomization string) []*unstructured.Unstructured {
	t.Helper()
	dir := t.TempDir()
	base, err := filepath.Abs(configDir)
	if err != nil {
		t.Fatal(err)
	}
	if base, err = filepath.Rel(dir, base); err != nil {
		t.Fatal(err)
	}
	kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n" + strings.ReplaceAll(kustomization, "CONFIG", base)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	return render(t, dir)
}

// kustomizations are all directories of config that have one, as a
// kustomization that includes them: components on top of the default.
func kustomizations(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(configDir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "kustomization.yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(configDir, filepath.Dir(path))
		if err != nil {
			return err
		}
		found[name] = fmt.Sprintf("resources: [CONFIG/%s]\n", name)
		if strings.Contains(string(data), "kind: Component") {
			found[name] = fmt.Sprintf("resources: [CONFIG/default]\ncomponents: [CONFIG/%s]\n", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// warnings keeps what the API server warns of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

// administrator returns a client that may do all. A warning of the API server,
// about a deprecated field for example, fails the test.
func administrator(t *testing.T) client.Client {
	t.Helper()
	config := testenv.Config(t)
	heard := &warnings{}
	config.WarningHandler = heard
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, text := range heard.all {
			t.Errorf("the API server warns: %s", text)
		}
	})
	return c
}

// apply applies server-side, which refuses fields that the kinds do not have.
func apply(t *testing.T, c client.Client, objects []*unstructured.Unstructured, options ...client.ApplyOption) error {
	t.Helper()
	var errs []error
	options = append(options, client.FieldOwner("deploy-test"), client.ForceOwnership)
	for _, u := range objects {
		if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u.DeepCopy()), options...); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

// install applies the default for real.
func install(t *testing.T, c client.Client) []*unstructured.Unstructured {
	t.Helper()
	objects := render(t, filepath.Join(configDir, "default"))
	if err := apply(t, c, objects); err != nil {
		t.Fatal(err)
	}
	return objects
}

// without returns the objects that are not of the API groups, whose kinds the
// test's API server does not have.
func without(objects []*unstructured.Unstructured, groups ...string) []*unstructured.Unstructured {
	return slices.DeleteFunc(slices.Clone(objects), func(u *unstructured.Unstructured) bool {
		return slices.Contains(groups, u.GroupVersionKind().Group)
	})
}

// into converts an object to its Go type.
func into[T any](t *testing.T, u *unstructured.Unstructured) *T {
	t.Helper()
	object := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, object, true); err != nil {
		t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
	}
	return object
}

// find returns the one object of the kind and name.
func find[T any](t *testing.T, objects []*unstructured.Unstructured, kind, name string) *T {
	t.Helper()
	for _, u := range objects {
		if u.GetKind() == kind && u.GetName() == name {
			return into[T](t, u)
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}

// podTemplates returns the pods that the objects would make, by name.
func podTemplates(t *testing.T, objects []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	t.Helper()
	templates := map[string]corev1.PodTemplateSpec{}
	for _, u := range objects {
		switch u.GetKind() {
		case "Deployment":
			templates[u.GetName()] = into[appsv1.Deployment](t, u).Spec.Template
		case "StatefulSet":
			set := into[appsv1.StatefulSet](t, u)
			for _, claim := range set.Spec.VolumeClaimTemplates {
				set.Spec.Template.Spec.Volumes = append(set.Spec.Template.Spec.Volumes, corev1.Volume{
					Name: claim.Name,
					VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{
						ClaimName: claim.Name + "-" + set.Name + "-0",
					}},
				})
			}
			templates[u.GetName()] = set.Spec.Template
		}
	}
	return templates
}

// pod returns a pod of the template, the caller's own to change.
func pod(namespace string, template corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "from-template", Labels: template.Labels},
		Spec:       *template.Spec.DeepCopy(),
	}
}
