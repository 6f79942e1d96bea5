package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// NotificationChannelReconciler says in a channel's status whether it can be used
// and what last became of a message there.
type NotificationChannelReconciler struct {
	Client   client.Client
	Channels *Channels
	Health   *ChannelHealth
	Events   events.EventRecorder
}

// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationchannels/status,verbs=patch

// SetupWithManager adds the controller to a manager.
func (r *NotificationChannelReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("notificationchannel").
		For(&v1alpha1.NotificationChannel{}, builder.WithPredicates(predicate.Or(changed, predicate.AnnotationChangedPredicate{}))).
		WatchesMetadata(secretMetadata.DeepCopy(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, secret client.Object) []reconcile.Request {
			var requests []reconcile.Request
			for _, channel := range channelsOfSecret(ctx, r.Channels.Reader, secret) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&channel)})
			}
			return requests
		}), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{}, news)).
		WatchesRawSource(source.Func(r.Health.wake.start)).
		Complete(r)
}

// Reconcile brings one channel's status up to date.
func (r *NotificationChannelReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	object := &v1alpha1.NotificationChannel{}
	err := r.Client.Get(ctx, req.NamespacedName, object)
	if apierrors.IsNotFound(err) {
		r.Health.drop(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("get channel: %w", err)
	}
	base, now := object.DeepCopy(), time.Now()
	if err := r.resolve(ctx, object, now); err != nil {
		return ctrl.Result{}, err
	}
	checkTemplate(object, now)
	again := r.Health.apply(object, now)
	send, left := planProbe(object, r.Health.probeOf(req.NamespacedName), now)
	again = sooner(again, left)
	if equality.Semantic.DeepEqual(base.Status, object.Status) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	if err := r.Client.Status().Patch(ctx, object, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return concede(ctrl.Result{}, fmt.Errorf("write status: %w", err))
	}
	for _, n := range channelNotes(&base.Status, &object.Status) {
		r.Events.Eventf(object, nil, n.kind, n.reason, n.action, "%s", n.text)
	}
	if send {
		r.startProbe(ctx, object)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// resolve sets the Ready condition: whether a sender can be made from the channel
// and its Secrets.
func (r *NotificationChannelReconciler) resolve(ctx context.Context, object *v1alpha1.NotificationChannel, now time.Time) error {
	object.Status.ObservedGeneration = object.Generation
	set := conditions{&object.Status.Conditions, object.Generation, now}.set
	_, err := r.Channels.sender(ctx, object)
	unusable, ok := errors.AsType[*delivery.Error](err)
	switch {
	case ok:
		set(v1alpha1.ConditionReady, false, unusable.Reason, unusable.Message)
	case err != nil:
		return err
	case isTrue(object.Spec.Suspend):
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonSuspended, "suspend is set: messages wait until it is not")
	default:
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonConfigResolved, "the channel's configuration is complete")
	}
	return nil
}
