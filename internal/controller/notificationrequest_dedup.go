package controller

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

// originalRecheck is when a request looks again at the one that it waits for. That
// wakes it, so this matters only where it vanished.
const originalRecheck = 5 * time.Minute

// doubtPatience is how long a write whose answer was lost may still be under way, or be
// made without the cache knowing: the API server gives a request up after 60 seconds by
// default, and a broken watch is tried again at least every 30.
const doubtPatience = 2 * time.Minute

// dedupGroup are the requests that repeat one another.
type dedupGroup struct{ namespace, key string }

func groupOf(nr *v1alpha1.NotificationRequest) dedupGroup {
	return dedupGroup{nr.Namespace, nr.Spec.Dedup.Key}
}

// dedup lets one request at a time decide to be the one of its group that is sent,
// and keeps those that are to be looked at again when it has, or has not. After a
// restart all are looked at.
type dedup struct {
	locks [64]sync.Mutex // of a group and whatever others have the same

	mu      sync.Mutex
	waiting map[dedupGroup]map[string]bool // names
	// doubted are requests that are sent, or are not: the answer to the write that has
	// them sent was lost. The cache may not know of it yet.
	doubted map[dedupGroup]doubted
}

// doubted is a request, the version of it that the write was made on, if it was, and
// since when the answer has been missing.
type doubted struct {
	name, uid, version string
	since              time.Time
}

// open reports whether the doubt is still one where nr, or nil, was found in the cache.
// A version after the one that was to be written shows what was written, if anything.
func (o doubted) open(nr *v1alpha1.NotificationRequest) bool {
	if nr == nil || o.uid != string(nr.UID) {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(nr.ResourceVersion, o.version)
	return err != nil || order <= 0
}

var dedupSeed = maphash.MakeSeed()

func (d *dedup) lock(group dedupGroup) *sync.Mutex {
	mutex := &d.locks[maphash.Comparable(dedupSeed, group)%uint64(len(d.locks))]
	mutex.Lock()
	return mutex
}

func (d *dedup) wait(group dedupGroup, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[dedupGroup]map[string]bool{}
	}
	if d.waiting[group] == nil {
		d.waiting[group] = map[string]bool{}
	}
	d.waiting[group][name] = true
}

// take returns the names that wait and forgets them: whoever still has to wait
// does so anew when it is looked at.
func (d *dedup) take(group dedupGroup) map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := d.waiting[group]
	delete(d.waiting, group)
	return names
}

// doubt notes that nobody knows whether the status that follows base has it sent. No
// other of its group is sent until settle.
func (d *dedup) doubt(base *v1alpha1.NotificationRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.doubted == nil {
		d.doubted = map[dedupGroup]doubted{}
	}
	d.doubted[groupOf(base)] = doubted{base.Name, string(base.UID), base.ResourceVersion, time.Now()}
}

// overdue reports whether the cache would show a write by now that is in doubt.
func (d *dedup) overdue(group dedupGroup) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.doubted[group].since) > doubtPatience
}

// inDoubt returns the request in doubt that nr has to wait for, zero for none.
func (d *dedup) inDoubt(nr *v1alpha1.NotificationRequest) (other v1alpha1.Duplicate) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.doubted[groupOf(nr)]; o.uid != string(nr.UID) {
		other = v1alpha1.Duplicate{Name: o.name, UID: o.uid}
	}
	return other
}

// settle ends the doubt about the request of a name unless it is open where nr was found,
// and returns the names of those that wait for it.
func (d *dedup) settle(key types.NamespacedName, nr *v1alpha1.NotificationRequest) (names map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for group, o := range d.doubted {
		if group.namespace == key.Namespace && o.name == key.Name && !o.open(nr) {
			names = d.waiting[group]
			delete(d.doubted, group)
			delete(d.waiting, group)
		}
	}
	return names
}

// leave forgets a request that waits no more.
func (d *dedup) leave(group dedupGroup, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting[group], name)
	if len(d.waiting[group]) == 0 {
		delete(d.waiting, group)
	}
}

// undecided reports whether it is still to be found out if nr repeats another
// request. What was begun is ended, and what is deleted is told as any other request
// that was not sent. A deadline ends no wait, since the message would only fail then.
func undecided(nr *v1alpha1.NotificationRequest) bool {
	return nr.Spec.Dedup.Key != "" && !isDryRun(nr) && len(nr.Status.Deliveries) == 0 && nr.Status.DuplicateOf.SuppressedTime == nil &&
		nr.DeletionTimestamp == nil
}

// waits reports whether nr is held back by a request with the same dedup.key.
func waits(nr *v1alpha1.NotificationRequest) bool {
	return nr.Status.DuplicateOf.Name != "" && undecided(nr)
}

// waitsFor reports whether nr is to wait for a request with the same dedup.key that
// has reached no channel yet: not where nobody knows when that ends, where it ends
// too late for nr to be sent in its place, or where nr is what passes quiet hours.
func waitsFor(nr, other *v1alpha1.NotificationRequest) bool {
	return mayReach(other) && (nr.Spec.Priority != v1alpha1.PriorityCritical || other.Spec.Priority == v1alpha1.PriorityCritical) &&
		!lastDeadline(other).After(lastDeadline(nr).Add(nr.Spec.Dedup.Window.Value()))
}

// mayReach reports whether a request that is sent may yet turn out to have reached a
// channel. A suspended one may by an attempt that is in flight or held in doubt, which
// ends at the deadline at the latest.
func mayReach(nr *v1alpha1.NotificationRequest) bool {
	return nr.Status.FinishedTime == nil && (!isTrue(nr.Spec.Suspend) ||
		slices.ContainsFunc(nr.Status.Deliveries, func(d v1alpha1.Delivery) bool {
			return d.State == v1alpha1.DeliveryInFlight || d.State == v1alpha1.DeliveryAmbiguous
		}))
}

// lastDeadline is when the last of a request's deliveries has failed.
func lastDeadline(nr *v1alpha1.NotificationRequest) (last time.Time) {
	for _, ref := range channelRefs(nr) {
		last = later(last, deadlineOf(nr, ref.Name))
	}
	for _, name := range nr.Status.Escalation.Channels {
		last = later(last, deadlineOf(nr, name))
	}
	return last
}

// deduplicate says in nr's status which request it repeats, if any.
func (r *NotificationRequestReconciler) deduplicate(ctx context.Context, nr *v1alpha1.NotificationRequest, now time.Time) (err error) {
	if nr.Spec.Dedup.Key == "" {
		return nil
	}
	if undecided(nr) {
		// It waits before it looks: what is decided after that wakes it.
		r.dedup.wait(groupOf(nr), nr.Name)
		if nr.Status.DuplicateOf, err = r.findOriginal(ctx, nr, now); err != nil {
			return err
		}
	}
	if !waits(nr) {
		r.dedup.leave(groupOf(nr), nr.Name)
	}
	return nil
}

// claim lets write say that nr is the one of its group that is sent, where that is
// decided by it, as one request at a time. It fails with a conflict where another has
// come first.
func (r *NotificationRequestReconciler) claim(ctx context.Context, base, nr *v1alpha1.NotificationRequest, write func() error) error {
	if !undecided(base) || len(nr.Status.Deliveries) == 0 {
		return write()
	}
	defer r.dedup.lock(groupOf(nr)).Unlock()
	// An escalation that begins with this write changes how long nr would wait, which is
	// decided by what nr was before.
	asked := *nr
	asked.Status.Escalation = base.Status.Escalation
	original, err := r.findOriginal(ctx, &asked, time.Now())
	switch {
	case err != nil:
		return err
	case original.Name != "":
		resource := v1alpha1.SchemeGroupVersion.WithResource("notificationrequests").GroupResource()
		return apierrors.NewConflict(resource, nr.Name, fmt.Errorf("the request %s was first", original.Name))
	}
	switch err = write(); {
	case err == nil:
	case !unwritten(err):
		r.dedup.doubt(base)
	case r.dedup.overdue(groupOf(base)):
		// The API server answers, so that the cache learns too, and may refuse it for ever.
		r.settleDuplicates(client.ObjectKeyFromObject(base), nil)
	}
	return err
}

// unwritten reports whether the API server's answer says that a write was not made, which
// an admission policy may bring about for ever. A conflict does not say so: client-go by
// itself repeats a write whose answer carries Retry-After, and the repetition meets the
// first. Nor does 408 or 429, which such a repetition may meet as well.
func unwritten(err error) bool {
	e, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return false
	}
	switch code := e.ErrStatus.Code; code {
	case http.StatusConflict, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}

// findOriginal returns what there is to say of the request that nr repeats, or may repeat.
func (r *NotificationRequestReconciler) findOriginal(ctx context.Context, nr *v1alpha1.NotificationRequest, now time.Time) (v1alpha1.Duplicate, error) {
	var list v1alpha1.NotificationRequestList
	err := r.Client.List(ctx, &list, client.InNamespace(nr.Namespace), client.MatchingFields{originalIndex: nr.Spec.Dedup.Key}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return v1alpha1.Duplicate{}, fmt.Errorf("list requests with the same dedup key: %w", err)
	}
	original := duplicateOf(nr, list.Items, now)
	if original.Name == "" {
		original = r.dedup.inDoubt(nr)
	}
	return original, nil
}

// duplicateOf returns the request that stands for nr among those with the same
// dedup.key: one that has reached a channel, or else one that may yet, zero where
// there is neither. One that was never begun stands for nobody, nor does a dry run.
func duplicateOf(nr *v1alpha1.NotificationRequest, others []v1alpha1.NotificationRequest, now time.Time) (found v1alpha1.Duplicate) {
	for i := range others {
		other := &others[i]
		apart := nr.CreationTimestamp.Sub(other.CreationTimestamp.Time).Abs()
		if other.UID == nr.UID || isDryRun(other) || len(other.Status.Deliveries) == 0 || apart > nr.Spec.Dedup.Window.Value() {
			continue
		}
		if reached(&other.Status) {
			return v1alpha1.Duplicate{
				Name: other.Name, UID: string(other.UID), SuppressedTime: micro(now),
				Audit: pending(audit.TypeMessageSuppressed, string(nr.UID)),
			}
		}
		if waitsFor(nr, other) {
			found = v1alpha1.Duplicate{Name: other.Name, UID: string(other.UID)}
		}
	}
	return found
}

// reached reports whether a channel has accepted the message.
func reached(status *v1alpha1.NotificationRequestStatus) bool {
	return slices.ContainsFunc(status.Deliveries, func(d v1alpha1.Delivery) bool { return d.State == v1alpha1.DeliverySent })
}

// settleDuplicates has the requests looked at that wait because of a doubt about the
// one of a name, which was found in the cache as nr. Where that is nil, it was written, or
// has been refused for long enough.
func (r *NotificationRequestReconciler) settleDuplicates(key types.NamespacedName, nr *v1alpha1.NotificationRequest) {
	r.wakeAll(key.Namespace, r.dedup.settle(key, nr))
}

func (r *NotificationRequestReconciler) wakeAll(namespace string, names map[string]bool) {
	for name := range names {
		r.wake.request(types.NamespacedName{Namespace: namespace, Name: name})
	}
}

// wakeDuplicates has the requests that wait for nr looked at where they need not wait
// any more. The answer to the write that first said so may have been lost, so that each
// further look at nr does the same; it finds nobody then.
func (r *NotificationRequestReconciler) wakeDuplicates(nr *v1alpha1.NotificationRequest) {
	if nr.Spec.Dedup.Key == "" || len(nr.Status.Deliveries) == 0 || mayReach(nr) && !reached(&nr.Status) {
		return
	}
	r.wakeAll(nr.Namespace, r.dedup.take(groupOf(nr)))
}
