package manager

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"

	"kubernaut.ai/notification/internal/audit"
)

const (
	witnessName    = "notification-audit-witness"
	deploymentName = "notification-manager"
	namespaceFile  = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

// namespace is where the manager keeps what is its own.
func (o *Options) namespace() string {
	own, _ := os.ReadFile(namespaceFile) // It is there in a cluster only.
	return cmp.Or(o.LeaderElectNamespace, strings.TrimSpace(string(own)), metav1.NamespaceDefault)
}

// witnessKeeper keeps what the witness knows in a ConfigMap. It has a client of
// its own: the manager's reads nothing that it does not watch.
type witnessKeeper struct {
	client    kubernetes.Interface
	namespace string
	events    events.EventRecorder
	last      *corev1.ConfigMap // as loaded or saved; nil where there is none
}

// Load is as audit.Keeper says.
func (k *witnessKeeper) Load(ctx context.Context) (map[string]string, error) {
	found, err := k.client.CoreV1().ConfigMaps(k.namespace).Get(ctx, witnessName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		k.last = nil
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", k.namespace, witnessName, err)
	}
	k.last = found
	return found.Data, nil
}

// Save is as audit.Keeper says.
func (k *witnessKeeper) Save(ctx context.Context, data map[string]string) error {
	maps := k.client.CoreV1().ConfigMaps(k.namespace)
	var saved *corev1.ConfigMap
	var err error
	if k.last == nil {
		saved, err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: witnessName, Namespace: k.namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "notification"}},
			Data:       data,
		}, metav1.CreateOptions{})
	} else {
		next := k.last.DeepCopy()
		next.Data = data
		saved, err = maps.Update(ctx, next, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) && k.last != nil:
		return audit.ErrChanged
	case err != nil:
		return fmt.Errorf("write ConfigMap %s/%s: %w", k.namespace, witnessName, err)
	}
	k.last = saved
	return nil
}

// alarm writes a Warning Event about the manager's Deployment, which is where
// people look. kubectl describe shows an Event only where it has the object's UID.
func (k *witnessKeeper) alarm(ctx context.Context, reason string) {
	regarding := &corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: k.namespace, Name: deploymentName}
	if d, err := k.client.AppsV1().Deployments(k.namespace).Get(ctx, deploymentName, metav1.GetOptions{}); err == nil {
		regarding.UID = d.UID
	}
	// The API server takes no note that is longer.
	k.events.Eventf(regarding, nil, corev1.EventTypeWarning, "AuditLogContradiction", "Witness",
		"DataStorage's audit log is not what it was: %s", strings.ToValidUTF8(reason[:min(len(reason), 900)], ""))
}

// witnessedGate opens when the witness has the key that receipts are verified
// with, or could not get it at once.
type witnessedGate struct {
	*audit.Gate
	witness *audit.Witness
}

// WaitForSync is as audit.Gate has it.
func (g witnessedGate) WaitForSync(ctx context.Context) error {
	err := g.Gate.WaitForSync(ctx)
	if err == nil {
		g.witness.Await(ctx)
	}
	return err
}
