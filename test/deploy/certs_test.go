package deploy

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"os/exec"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// files are what a pod finds of the Secret and of tokens below its mount
// points, each with the Secret's key or the token's audience.
func files(template corev1.PodTemplateSpec, secret string) map[string]string {
	found := map[string]string{}
	for _, mount := range template.Spec.Containers[0].VolumeMounts {
		for _, volume := range template.Spec.Volumes {
			if volume.Name != mount.Name {
				continue
			}
			var items []corev1.KeyToPath
			if volume.Secret != nil && volume.Secret.SecretName == secret {
				items = volume.Secret.Items
			}
			if volume.Projected != nil {
				for _, source := range volume.Projected.Sources {
					if source.Secret != nil && source.Secret.Name == secret {
						items = append(items, source.Secret.Items...)
					}
					if source.ServiceAccountToken != nil {
						found[mount.MountPath+"/"+source.ServiceAccountToken.Path] = source.ServiceAccountToken.Audience
					}
				}
			}
			for _, item := range items {
				found[mount.MountPath+"/"+item.Path] = item.Key
			}
		}
	}
	return found
}

func TestManagerTrustsDataStorageByItsSecret(t *testing.T) {
	c := administrator(t)
	templates := podTemplates(t, install(t, c))
	o := managerOptions(t, templates["notification-manager"])
	mounted := files(templates["notification-manager"], "datastorage-tls")
	want := map[string]string{o.DataStorageCAFile: "ca.crt", o.DataStorageTokenFile: "datastorage"}
	for path, from := range want {
		if mounted[path] != from {
			t.Errorf("manager: %s is from %q, want %q", path, mounted[path], from)
		}
	}
	if len(mounted) != len(want) {
		t.Errorf("manager: it is given %v, want nothing but %v", mounted, want)
	}
	for path, from := range files(templates["datastorage"], "datastorage-tls") {
		if path != "/certs/"+from || !slices.Contains([]string{"tls.crt", "tls.key"}, from) {
			t.Errorf("datastorage: %s is from %q", path, from)
		}
	}
	at, err := url.Parse(o.DataStorageURL)
	if err != nil {
		t.Fatal(err)
	}

	printed, err := exec.CommandContext(t.Context(), "go", "run", "../../hack/certs", "-namespace", namespace).Output()
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(printed); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, c, []*unstructured.Unstructured{u}); err != nil {
		t.Fatal(err)
	}
	var secret corev1.Secret
	if err := json.Unmarshal(printed, &secret); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		t.Fatal("no authority")
	}
	block, _ := pem.Decode(secret.Data["tls.crt"])
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{DNSName: at.Hostname(), Roots: roots}); err != nil {
		t.Errorf("certificate of hack/certs: %v", err)
	}

	for _, u := range overlay(t, kustomizations(t)["components/cert-manager"]) {
		if u.GetKind() != "Certificate" || u.GetName() != "datastorage" {
			continue
		}
		hosts, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "dnsNames")
		into, _, _ := unstructured.NestedString(u.Object, "spec", "secretName")
		if into != secret.Name || !slices.Equal(hosts, cert.DNSNames) {
			t.Errorf("certificate of cert-manager: for %v in Secret %s; hack/certs makes %v in %s", hosts, into, cert.DNSNames, secret.Name)
		}
		return
	}
	t.Error("the component cert-manager has no Certificate datastorage")
}
