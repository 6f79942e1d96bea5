package controller

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/routing"
)

// NotificationRouteReconciler says in a route's status whether it can be used. No
// request waits for that: each is routed by the routes themselves.
type NotificationRouteReconciler struct {
	Client client.Client
}

// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationroutes,verbs=get;list;watch
// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationroutes/status,verbs=patch

// SetupWithManager adds the controller to a manager.
func (r *NotificationRouteReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("notificationroute").
		For(&v1alpha1.NotificationRoute{}, builder.WithPredicates(changed)).
		Complete(r)
}

// Reconcile brings one route's status up to date.
func (r *NotificationRouteReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	route := &v1alpha1.NotificationRoute{}
	if err := r.Client.Get(ctx, req.NamespacedName, route); err != nil {
		return concede(ctrl.Result{}, fmt.Errorf("get route: %w", err))
	}
	base := route.DeepCopy()
	set := conditions{&route.Status.Conditions, route.Generation, time.Now()}.set
	if reason, message := routing.Check(route); reason != "" {
		set(v1alpha1.ConditionReady, false, reason, "the route is skipped: "+message)
	} else {
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonRouteValid, "requests are routed by it")
	}
	route.Status.ObservedGeneration = route.Generation
	var names []string
	for _, ref := range route.Spec.Channels {
		names = append(names, ref.Name)
	}
	route.Status.Channels = column(names)
	if equality.Semantic.DeepEqual(base.Status, route.Status) {
		return ctrl.Result{}, nil
	}
	if err := r.Client.Status().Patch(ctx, route, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return concede(ctrl.Result{}, fmt.Errorf("write status: %w", err))
	}
	return ctrl.Result{}, nil
}
