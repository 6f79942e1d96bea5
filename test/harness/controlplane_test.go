package harness

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

const account = "system:serviceaccount:robots:writer"

func TestControlPlaneKeepsWhatItAcknowledgedThroughKills(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	cp := StartControlPlane(t, account)
	t.Logf("started within %s", time.Since(begin))
	kube := NewClient(t, cp.Config())
	var names []string
	create := func() error {
		nr := &v1alpha1.NotificationRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "kept-", Namespace: "default"},
			Spec:       v1alpha1.NotificationRequestSpec{Subject: "subject", Body: "body"},
		}
		err := kube.Create(t.Context(), nr)
		if err == nil {
			names = append(names, nr.Name)
		}
		return err
	}
	if err := create(); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name        string
		kill, start func()
	}{
		{"API server", cp.KillAPIServer, cp.StartAPIServer},
		{"etcd", cp.KillEtcd, cp.StartEtcd},
		{"both", func() { cp.KillEtcd(); cp.KillAPIServer() }, func() { cp.StartEtcd(); cp.StartAPIServer() }},
		{"API server again", cp.KillAPIServer, cp.StartAPIServer},
	} {
		enough, killed := make(chan struct{}), make(chan struct{})
		go func() {
			<-enough
			row.kill()
			close(killed)
		}()
		before := len(names)
		for create() == nil {
			if len(names)-before == 5 {
				close(enough)
			}
		}
		<-killed
		begin := time.Now()
		row.start()
		t.Logf("%s: started again within %s", row.name, time.Since(begin))
		Eventually(t, 30*time.Second, create)
		t.Logf("%s: writes again within %s", row.name, time.Since(begin))
		for _, name := range names {
			if err := kube.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &v1alpha1.NotificationRequest{}); err != nil {
				t.Errorf("%s: one of %d requests is gone: %v", row.name, len(names), err)
			}
		}
	}
}

func TestControlPlaneKnowsItsUsersThroughAProxy(t *testing.T) {
	t.Parallel()
	cp := StartControlPlane(t, account)
	trust, err := rest.TLSConfigFor(cp.Config())
	if err != nil {
		t.Fatal(err)
	}
	proxy := NewTLSFaultProxy(t, cp.Config().Host, trust)
	config, err := clientcmd.BuildConfigFromFlags("", cp.Kubeconfig(t, proxy.URL, proxy.CA, account))
	if err != nil {
		t.Fatal(err)
	}
	kube, robot := NewClient(t, cp.Config()), NewClient(t, config)
	if err := robot.List(t.Context(), &corev1.SecretList{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets without a role: %v", err)
	}
	for _, o := range []client.Object{
		&rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "reader"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch"}}},
		},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "robots", Name: "writer"}},
		},
	} {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, 10*time.Second, func() error { return robot.List(t.Context(), &corev1.ConfigMapList{}) })

	w, err := robot.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace("default"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 3 {
		name := fmt.Sprint("watched-", i)
		if err := kube.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}); err != nil {
			t.Fatal(err)
		}
		for e := range w.ResultChan() {
			if e.Object.(*corev1.ConfigMap).Name == name {
				break
			}
		}
	}
	proxy.Break()
	for range w.ResultChan() { // it ends
	}
}
