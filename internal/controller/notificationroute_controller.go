package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/routing"
)

// leadsIndex finds routes by the channels that they lead to.
const leadsIndex = "leads-to-channel"

// NotificationRouteReconciler says in a route's status whether it can be used, and
// its channels. No request waits for that: each is routed by the routes themselves.
type NotificationRouteReconciler struct {
	Client   client.Client
	Channels *Channels
}

// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationroutes,verbs=get;list;watch
// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationroutes/status,verbs=patch

// SetupWithManager adds the controller to a manager.
func (r *NotificationRouteReconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.NotificationRoute{}, leadsIndex, channelsOfRoute); err != nil {
		return fmt.Errorf("index routes by channel: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("notificationroute").
		For(&v1alpha1.NotificationRoute{}, builder.WithPredicates(changed)).
		Watches(&v1alpha1.NotificationChannel{}, handler.EnqueueRequestsFromMapFunc(r.routesOfChannel),
			builder.WithPredicates(changed, news)).
		Complete(r)
}

func channelsOfRoute(o client.Object) []string {
	route := o.(*v1alpha1.NotificationRoute)
	var keys []string
	for _, ref := range route.Spec.Channels {
		keys = append(keys, channelKey(route.Namespace, ref).String())
	}
	return keys
}

func (r *NotificationRouteReconciler) routesOfChannel(ctx context.Context, channel client.Object) []reconcile.Request {
	key := client.ObjectKeyFromObject(channel)
	var list v1alpha1.NotificationRouteList
	if err := r.Channels.Reader.List(ctx, &list, client.MatchingFields{leadsIndex: key.String()}); err != nil {
		log.FromContext(ctx).Error(err, "Listing the routes of a changed channel failed", "channel", key)
	}
	var requests []reconcile.Request
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// Reconcile brings one route's status up to date.
func (r *NotificationRouteReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	route := &v1alpha1.NotificationRoute{}
	if err := r.Client.Get(ctx, req.NamespacedName, route); err != nil {
		return concede(ctrl.Result{}, fmt.Errorf("get route: %w", err))
	}
	base := route.DeepCopy()
	reason, message, err := r.trouble(ctx, route)
	if err != nil {
		return ctrl.Result{}, err
	}
	set := conditions{&route.Status.Conditions, route.Generation, time.Now()}.set
	if reason != "" {
		set(v1alpha1.ConditionReady, false, reason, message)
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

// trouble says in a word and a sentence why a route is skipped, or else which of its
// channels cannot be used from its namespace; "" where all is well. What else a
// channel lacks is in the channel's own status.
func (r *NotificationRouteReconciler) trouble(ctx context.Context, route *v1alpha1.NotificationRoute) (reason, message string, err error) {
	if reason, message := routing.Check(route); reason != "" {
		return reason, "the route is skipped: " + message, nil
	}
	var parts []string
	for _, ref := range route.Spec.Channels {
		if ref.Name == v1alpha1.ConsoleChannel {
			continue
		}
		key := channelKey(route.Namespace, ref)
		object, why := r.Channels.find(ctx, key)
		if object != nil && !allows(object, route.Namespace) {
			why = notAllowed(key, route.Namespace)
		}
		if why.Class == v1alpha1.ErrorTransient {
			return "", "", errors.New(why.Message) // no change of an object would have it looked at again
		}
		if why.Reason != "" {
			reason = cmp.Or(reason, why.Reason)
			parts = append(parts, ref.Name+": "+why.Message)
		}
	}
	if reason == "" {
		return "", "", nil
	}
	return reason, truncate("requests are routed by it, and messages wait: "+strings.Join(parts, "; "), 4096), nil
}
