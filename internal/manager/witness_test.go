package manager

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"kubernaut.ai/notification/internal/audit"
)

func TestWhatAnotherHasWrittenIsNotWrittenOver(t *testing.T) {
	kind := schema.GroupResource{Resource: "configmaps"}
	for name, test := range map[string]struct {
		known   bool // the ConfigMap was there
		verb    string
		answer  error
		changed bool
	}{
		"another has made it":     {false, "create", apierrors.NewAlreadyExists(kind, witnessName), true},
		"another has written":     {true, "update", apierrors.NewConflict(kind, witnessName, errors.New("x")), true},
		"somebody has deleted it": {true, "update", apierrors.NewNotFound(kind, witnessName), true},
		"there is no namespace":   {false, "create", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "ours"), false},
		"RBAC is an old one":      {true, "update", apierrors.NewForbidden(kind, witnessName, errors.New("x")), false},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			k := &witnessKeeper{client: client, namespace: "ours"}
			if test.known {
				if err := k.Save(t.Context(), map[string]string{"a": "b"}); err != nil {
					t.Fatal(err)
				}
				k = &witnessKeeper{client: client, namespace: "ours"}
			}
			if data, err := k.Load(t.Context()); err != nil || (len(data) > 0) != test.known {
				t.Fatalf("loaded %v, %v", data, err)
			}
			var written *corev1.ConfigMap
			client.PrependReactor(test.verb, "configmaps", func(action clienttesting.Action) (bool, runtime.Object, error) {
				// The action of an update has this method as well.
				written = action.(clienttesting.CreateAction).GetObject().(*corev1.ConfigMap)
				return true, nil, test.answer
			})
			err := k.Save(t.Context(), map[string]string{"c": "d"})
			if err == nil || errors.Is(err, audit.ErrChanged) != test.changed {
				t.Errorf("error %v, want one that says that another has changed it: %t", err, test.changed)
			}
			if written == nil || len(written.Data) != 1 || written.Data["c"] != "d" {
				t.Errorf("written is %v", written)
			}
		})
	}
}
