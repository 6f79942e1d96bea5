package controller

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

const (
	// waitingIndex finds the requests that are not finished by their channels.
	waitingIndex = "waiting-for-channel"
	// originalIndex and correlationIndex find the requests that are or were sent by
	// their dedup.key and their correlationID. The API server has selectable fields of
	// the same names, since a client without a cache asks it.
	originalIndex    = "spec.dedup.key"
	correlationIndex = "spec.correlationID"
	// unrouted stands in waitingIndex for the channels of a request that has none yet.
	unrouted = "unrouted"
	// secretIndex finds channels by the Secrets that they name.
	secretIndex = "secret"
	// forever is how long the gate may stay closed before the manager gives up.
	forever = time.Duration(math.MaxInt64)
	// shortestRetry and longestRetry bound the wait after a step that failed, for
	// example because the API server did not answer.
	shortestRetry = 100 * time.Millisecond
	longestRetry  = 30 * time.Second
)

// SetupWithManager adds the controller to a manager. No request is looked at
// before gate lets the controller's workers start.
func (r *NotificationRequestReconciler) SetupWithManager(mgr ctrl.Manager, gate source.Source, registry prometheus.Registerer, workers int) error {
	r.sends, r.hold = newSends(r.wake.request, r.Health, r.history), newHold(r.Recordable, r.wake.request)
	r.Health.opened = r.sends.reopen
	registry.MustRegister(newStateCollector(mgr.GetCache(), r.sends.running))
	if err := indexFields(mgr); err != nil {
		return err
	}
	if err := errors.Join(mgr.Add(manager.RunnableFunc(r.drain)), mgr.Add(manager.RunnableFunc(r.hold.watch))); err != nil {
		return fmt.Errorf("add runnables: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("notificationrequest").
		// Of status only an acknowledgement is written by another.
		For(&v1alpha1.NotificationRequest{}, builder.WithPredicates(predicate.Or(
			changed, predicate.AnnotationChangedPredicate{}, letGo, acknowledged))).
		Watches(&v1alpha1.NotificationChannel{}, handler.EnqueueRequestsFromMapFunc(r.requestsOfChannel),
			builder.WithPredicates(changed, news)).
		WatchesMetadata(secretMetadata.DeepCopy(), handler.EnqueueRequestsFromMapFunc(r.requestsOfSecret),
			builder.WithPredicates(predicate.ResourceVersionChangedPredicate{}, news)).
		WatchesRawSource(gate).
		WatchesRawSource(source.Func(r.wake.start)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers, CacheSyncTimeout: forever,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](shortestRetry, longestRetry),
		}).
		Complete(r)
}

// OnReceipts takes DataStorage's answers. It does not block.
func (r *NotificationRequestReconciler) OnReceipts(all []audit.Receipt) {
	if !r.wake.started() {
		// Status still says Pending, so whoever leads will ask again.
		return
	}
	r.receipts.add(all)
	for _, receipt := range all {
		r.wake.request(types.NamespacedName{Namespace: receipt.Namespace, Name: receipt.ResourceID})
	}
}

// news lets an object's existence at the start pass unnoticed: every request is
// looked at then anyway.
var news = predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool { return !e.IsInInitialList }}

// letGo notices that somebody has taken away what holds a request that is not
// settled, as kubectl replace does with a manifest that lacks it.
var letGo = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		nr, ok := e.ObjectNew.(*v1alpha1.NotificationRequest)
		return ok && !controllerutil.ContainsFinalizer(nr, v1alpha1.Finalizer) &&
			controllerutil.ContainsFinalizer(e.ObjectOld, v1alpha1.Finalizer) && !settled(nr)
	},
}

// changed notices a new generation, and an object that was deleted and made again
// while nothing was heard from the API server: that looks like an update of the
// first, and both are of generation 1.
var changed = predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool { return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() },
})

// waker has requests looked at again once the controller has started.
type waker struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func (w *waker) start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = queue
	return nil
}

func (w *waker) started() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue != nil
}

func (w *waker) request(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil {
		w.queue.Add(reconcile.Request{NamespacedName: key})
	}
}

// requestIndices are what requests are found by.
var requestIndices = map[string]client.IndexerFunc{
	waitingIndex:     waitingFor,
	originalIndex:    ofBegun(func(nr *v1alpha1.NotificationRequest) string { return nr.Spec.Dedup.Key }),
	correlationIndex: ofBegun(func(nr *v1alpha1.NotificationRequest) string { return nr.Spec.CorrelationID }),
}

func indexFields(mgr ctrl.Manager) error {
	ctx, indexer := context.Background(), mgr.GetFieldIndexer()
	for name, of := range requestIndices {
		if err := indexer.IndexField(ctx, &v1alpha1.NotificationRequest{}, name, of); err != nil {
			return fmt.Errorf("index requests by %s: %w", name, err)
		}
	}
	if err := indexer.IndexField(ctx, &v1alpha1.NotificationChannel{}, secretIndex, func(o client.Object) []string {
		return secretNames(o.(*v1alpha1.NotificationChannel))
	}); err != nil {
		return fmt.Errorf("index channels by secret: %w", err)
	}
	return nil
}

// ofBegun indexes a field of the requests that are or were sent.
func ofBegun(field func(*v1alpha1.NotificationRequest) string) client.IndexerFunc {
	return func(o client.Object) []string {
		nr := o.(*v1alpha1.NotificationRequest)
		if field(nr) == "" || len(nr.Status.Deliveries) == 0 {
			return nil
		}
		return []string{field(nr)}
	}
}

// waitingFor returns the channels that a request which is not finished goes to.
func waitingFor(o client.Object) []string {
	nr := o.(*v1alpha1.NotificationRequest)
	if nr.Status.FinishedTime != nil {
		return nil
	}
	if len(nr.Spec.Channels)+len(nr.Status.RoutedChannels)+len(nr.Status.Deliveries) == 0 {
		return []string{unrouted}
	}
	var keys []string
	for _, ref := range allRefs(nr) {
		keys = append(keys, channelKey(nr.Namespace, ref).String())
	}
	return keys
}

func (r *NotificationRequestReconciler) requestsOfChannel(ctx context.Context, channel client.Object) []reconcile.Request {
	var requests []reconcile.Request
	// A request may have been routed to the channel though the cache does not know it.
	for _, key := range []string{client.ObjectKeyFromObject(channel).String(), unrouted} {
		var list v1alpha1.NotificationRequestList
		if err := r.Channels.Reader.List(ctx, &list, client.MatchingFields{waitingIndex: key}, client.UnsafeDisableDeepCopy); err != nil {
			log.FromContext(ctx).Error(err, "Listing the requests of a changed channel failed", "channel", client.ObjectKeyFromObject(channel))
			return nil
		}
		for i := range list.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

func (r *NotificationRequestReconciler) requestsOfSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, channel := range channelsOfSecret(ctx, r.Channels.Reader, secret) {
		requests = append(requests, r.requestsOfChannel(ctx, &channel)...)
	}
	return requests
}

func channelsOfSecret(ctx context.Context, reader client.Reader, secret client.Object) []v1alpha1.NotificationChannel {
	var list v1alpha1.NotificationChannelList
	if err := reader.List(ctx, &list, client.InNamespace(secret.GetNamespace()), client.MatchingFields{secretIndex: secret.GetName()}); err != nil {
		log.FromContext(ctx).Error(err, "Listing the channels of a changed Secret failed", "secret", client.ObjectKeyFromObject(secret))
	}
	return list.Items
}
