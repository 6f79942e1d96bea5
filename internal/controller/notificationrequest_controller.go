// Package controller turns NotificationRequests into deliveries and audit events.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

const (
	// stepTimeout bounds the API calls of one step.
	stepTimeout = 30 * time.Second
	// auditCheck is how long an event may stay unacknowledged before it is handed
	// to the audit store again. The store keeps what it has taken, so this matters
	// only where an acknowledgement went astray.
	auditCheck = 5 * time.Minute
	// conflictRetry leaves the cache a moment to learn of the write that won.
	conflictRetry = 20 * time.Millisecond
	// drainPatience is how long outcomes are brought to an API server that does not
	// take them when the manager stops. It is half of the time for attempts in
	// flight that --shutdown-timeout gives by default.
	drainPatience = 10 * time.Second
	// auditRetry is when to come back with events that the audit store did not take.
	auditRetry = 5 * time.Second
)

// NotificationRequestReconciler delivers the messages of NotificationRequests.
// All that decides a send or an audit event is in a request's status; what it
// keeps in memory besides is lost with the process at no loss.
type NotificationRequestReconciler struct {
	Client   client.Client
	Channels *Channels
	// Routes reads NotificationRoutes, from the API server.
	Routes client.Reader
	Events events.EventRecorder
	// Record hands an event to the audit store. Where it fails, the event stays
	// pending in status and the request comes back.
	Record func(audit.Event) error
	// Recordable returns why an attempt could not be recorded now; none begins then.
	// Nil: attempts begin whether or not. It must return soon.
	Recordable func(context.Context) error
	// AcknowledgeLink returns the address by which whoever got the message through a
	// channel acknowledges it until a time. It is a credential, and the same for the
	// same arguments. Nil: no message carries one.
	AcknowledgeLink func(nr *v1alpha1.NotificationRequest, channel string, until time.Time) string
	// IncludeBody has audit events carry the message's body.
	IncludeBody bool
	// KeepSecrets has messages and audit events carry the secrets in a request.
	KeepSecrets bool
	Metrics     *Metrics
	Health      *ChannelHealth

	wake     waker
	dedup    dedup
	sends    *sends
	hold     *hold
	receipts receipts
}

// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationrequests,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationrequests/status,verbs=patch
// +kubebuilder:rbac:groups=notification.kubernaut.ai,resources=notificationchannels,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// The manager checks who may read its metrics.
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// Reconcile takes one request a step further.
func (r *NotificationRequestReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// A step that has begun is finished though the manager stops meanwhile: an
	// outcome that is known must reach status. It begins no attempt then.
	return concede(r.reconcile(context.WithoutCancel(ctx), req.NamespacedName, ctx.Err() != nil))
}

// concede ends a step. An object that somebody has written meanwhile is read again,
// to decide again; of one that is gone there is nothing to do.
func concede(result ctrl.Result, err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: conflictRetry}, nil
	}
	return result, client.IgnoreNotFound(err)
}

func (r *NotificationRequestReconciler) reconcile(ctx context.Context, key types.NamespacedName, stopping bool) (ctrl.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	defer r.sends.looked(key)
	nr := &v1alpha1.NotificationRequest{}
	err := r.Client.Get(ctx, key, nr)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("get request: %w", err)
	}
	again := r.bury(ctx, key, nr.UID)
	r.settleDuplicates(key, nr)
	if err != nil {
		r.receipts.drop(key)
		return ctrl.Result{RequeueAfter: again}, nil
	}
	result, err := r.step(ctx, nr, stopping)
	result.RequeueAfter = sooner(result.RequeueAfter, again)
	return result, client.IgnoreNotFound(err)
}

// step plans, writes what it learnt and decided to status in one write, and only
// then acts on it.
func (r *NotificationRequestReconciler) step(ctx context.Context, nr *v1alpha1.NotificationRequest, stopping bool) (ctrl.Result, error) {
	masked := r.mask(nr)
	key := client.ObjectKeyFromObject(nr)
	answers := r.receipts.of(key)
	if !controllerutil.ContainsFinalizer(nr, v1alpha1.Finalizer) {
		switch {
		case nr.DeletionTimestamp != nil:
			return ctrl.Result{}, nil
		case !settled(nr):
			if err := r.patch(ctx, nr, func() { controllerutil.AddFinalizer(nr, v1alpha1.Finalizer) }); err != nil {
				return ctrl.Result{}, fmt.Errorf("add finalizer: %w", err)
			}
		case len(answers) == 0:
			return r.conclude(ctx, nr, 0)
		}
	}
	base := nr.DeepCopy()
	if nr.Status.FinishedTime == nil {
		nr.Status.Redactions = masked
	}
	if err := r.route(ctx, nr, time.Now()); err != nil {
		return ctrl.Result{}, err
	}
	if err := r.deduplicate(ctx, nr, time.Now()); err != nil {
		return ctrl.Result{}, err
	}
	known, objects := r.Channels.lookup(ctx, nr)
	p := planner{
		channels: known, sends: r.sends.of(nr.UID), unsent: r.sends.doubted(nr.UID), receipts: answers,
		rehearsals: r.rehearse(ctx, nr, known, objects), links: r.AcknowledgeLink != nil, now: time.Now(), jitter: jitter,
	}
	d := p.plan(nr)
	p.unsent = nil // taken back once, an attempt may begin again
	var begun []attempt
	if len(d.due) > 0 && !stopping {
		if p.held = r.hold.check(ctx, key); p.held.Class == "" {
			begun = r.begin(ctx, nr, known, objects, d.due)
		}
		// What was begun, held, or could not be begun changes when to look again.
		d.wait = p.plan(nr).wait
	}
	setAcknowledged(nr, p.links, p.now)
	summarize(nr, p.now)
	if err := r.writeStatus(ctx, base, nr); err != nil {
		r.giveUp(nr, begun)
		return ctrl.Result{}, err
	}
	r.settleDuplicates(key, nil)
	r.sends.forget(nr.UID, p.sends, nr.ResourceVersion != base.ResourceVersion)
	r.receipts.forget(key, p.receipts)
	r.start(ctx, nr, begun)
	r.publish(nr, &base.Status)
	r.wakeDuplicates(nr)
	if len(d.spent) > 0 {
		// What status follows from it is written, so it may go.
		if err := r.patch(ctx, nr, func() { dropResolutions(nr, d.spent) }); err != nil {
			return ctrl.Result{}, fmt.Errorf("take off annotation: %w", err)
		}
	}
	return r.conclude(ctx, nr, d.wait)
}

// conclude hands the events that status promises to the audit store, and lets
// the request go once all of them are recorded.
func (r *NotificationRequestReconciler) conclude(ctx context.Context, nr *v1alpha1.NotificationRequest, wait time.Duration) (ctrl.Result, error) {
	wait = sooner(wait, r.handOver(ctx, nr))
	if !settled(nr) {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	if controllerutil.ContainsFinalizer(nr, v1alpha1.Finalizer) {
		if err := r.patch(ctx, nr, func() { controllerutil.RemoveFinalizer(nr, v1alpha1.Finalizer) }); err != nil {
			return ctrl.Result{}, fmt.Errorf("remove finalizer: %w", err)
		}
	}
	if countAudit(&nr.Status, v1alpha1.AuditRejected) > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil // what it holds is recorded nowhere else
	}
	return r.expire(ctx, nr)
}

// handOver records the events that are pending and, once in the life of a
// process, those that were rejected: what keeps them besides status may have gone
// with the process before. It returns when to come back, 0 where nothing is open.
func (r *NotificationRequestReconciler) handOver(ctx context.Context, nr *v1alpha1.NotificationRequest) (again time.Duration) {
	var errs []error
	key := client.ObjectKeyFromObject(nr)
	answered := r.receipts.of(key)
	record := func(e audit.Event) bool {
		err := r.Record(e)
		if err != nil {
			errs = append(errs, fmt.Errorf("record %s: %w", e.EventType, err))
		}
		return err == nil
	}
	for _, e := range pendingEvents(nr, r.IncludeBody) {
		if _, ok := answered[e.EventID.String()]; ok {
			continue // the answer came after this step had begun, and the next step takes it
		}
		record(e)
		again = auditCheck
	}
	for _, e := range eventsIn(v1alpha1.AuditRejected, nr, r.IncludeBody) {
		if id := e.EventID.String(); r.receipts.offer(key, id) && !record(e) {
			r.receipts.withdraw(key, id)
		}
	}
	if err := errors.Join(errs...); err != nil {
		// No error of the step: its backoff would hold up the deliveries too.
		log.FromContext(ctx).Error(err, "Events were not taken by the audit store and stay pending in status")
		again = auditRetry
	}
	return again
}

// expire deletes a request that is done with once its time is up.
func (r *NotificationRequestReconciler) expire(ctx context.Context, nr *v1alpha1.NotificationRequest) (ctrl.Result, error) {
	if nr.DeletionTimestamp != nil || nr.Spec.TTLSecondsAfterFinished == nil {
		return ctrl.Result{}, nil
	}
	end := nr.Status.FinishedTime.Add(time.Duration(*nr.Spec.TTLSecondsAfterFinished) * time.Second)
	if stands := nr.CreationTimestamp.Add(nr.Spec.Dedup.Window.Value()); len(nr.Status.Deliveries) > 0 && !isDryRun(nr) && stands.After(end) {
		end = stands
	}
	left := time.Until(end)
	if left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	if err := r.Client.Delete(ctx, nr, client.Preconditions{UID: &nr.UID, ResourceVersion: &nr.ResourceVersion}); err != nil {
		return ctrl.Result{}, fmt.Errorf("delete expired request: %w", err)
	}
	return ctrl.Result{}, nil
}

// settled reports whether a request is finished and none of its events is still
// to be recorded.
func settled(nr *v1alpha1.NotificationRequest) bool {
	return nr.Status.FinishedTime != nil && countAudit(&nr.Status, v1alpha1.AuditPending) == 0
}

// patch changes an object's metadata. It fails with a conflict where anybody has
// written the object since it was read.
func (r *NotificationRequestReconciler) patch(ctx context.Context, nr *v1alpha1.NotificationRequest, change func()) error {
	base := nr.DeepCopy()
	change()
	return keepMasked(nr, func() error {
		return r.Client.Patch(ctx, nr, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	})
}

// publish tells what the status that was just written says for the first time.
func (r *NotificationRequestReconciler) publish(nr *v1alpha1.NotificationRequest, before *v1alpha1.NotificationRequestStatus) {
	for _, n := range notes(before, &nr.Status) {
		r.Events.Eventf(nr, related(nr, n.channel), n.kind, n.reason, n.action, "%s", n.text)
	}
	if len(before.Redactions) == 0 {
		for _, redaction := range nr.Status.Redactions {
			r.Metrics.redactions.WithLabelValues(redaction.Kind).Add(float64(redaction.Count))
		}
	}
	for _, d := range nr.Status.Deliveries {
		was := cmp.Or(deliveryOf(before, d.Channel), &v1alpha1.Delivery{})
		if d.State.Final() && !was.State.Final() && !isDryRun(nr) {
			r.Metrics.deliveries.WithLabelValues(d.ChannelType, string(d.State)).Inc()
		}
		if d.TemplateError != "" && was.TemplateError == "" {
			r.Metrics.templates.WithLabelValues(d.ChannelType).Inc()
		}
	}
	if e := nr.Status.Escalation; e.Time != nil && before.Escalation.Time == nil {
		r.Metrics.escalations.WithLabelValues(string(e.Reason)).Inc()
	}
	if toldAcknowledged(&nr.Status) && !toldAcknowledged(before) {
		r.Metrics.acknowledgements.Inc()
	}
}

// related is the channel that an Event is about, nil where no object describes it.
// Of several Events with the same reason about the same objects only the first has
// its text kept.
func related(nr *v1alpha1.NotificationRequest, channel string) runtime.Object {
	for _, ref := range allRefs(nr) {
		if ref.Name == channel && channel != v1alpha1.ConsoleChannel {
			key := channelKey(nr.Namespace, ref)
			return &v1alpha1.NotificationChannel{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "NotificationChannel"},
				ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
			}
		}
	}
	return nil
}

// drain waits for the attempts of this process when the manager stops and brings
// their outcomes to status. It is a Runnable of the leader, which the manager
// stops at the same time as the controllers.
func (r *NotificationRequestReconciler) drain(ctx context.Context) error {
	<-ctx.Done()
	ctx = context.WithoutCancel(ctx)
	left := r.sends.drain()
	end := time.Now().Add(drainPatience)
	for _, key := range left {
		_, err := r.reconcile(ctx, key, true)
		for err != nil && time.Now().Before(end) {
			<-time.After(conflictRetry)
			_, err = r.reconcile(ctx, key, true)
		}
		if err != nil {
			log.FromContext(ctx).Error(err, "An outcome did not reach status and is now in doubt", "request", key)
		}
	}
	return nil
}

// jitter draws evenly from zero to limit.
func jitter(limit time.Duration) time.Duration { return rand.N(limit + 1) }
