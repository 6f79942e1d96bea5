package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

const (
	maxAttempts = 20
	// maxOpen is how many requests are unfinished at a time.
	maxOpen = 80
)

// workload makes requests, does with them what people do, and keeps the ledger of
// what is owed. It talks to the API server directly, and again until that answers.
type workload struct {
	kube      client.WithWatch
	namespace string
	ctx       context.Context
	tasks     sync.WaitGroup
	kinds     []kind
	sinks     *sinks
	pages     []string // addresses at which messages can be acknowledged

	mu     sync.Mutex
	rng    *rand.Rand
	made   int
	quota  int // how many requests may be made by now
	ledger map[types.UID]*obligation
	coming int      // requests that wait for a name to be free
	errs   []string // what the API server refused for good
	room   chan struct{}
}

func newWorkload(ctx context.Context, world *world, seed uint64, kinds []kind) *workload {
	w := &workload{
		kube: world.kube, namespace: world.namespace, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 1)),
		kinds: kinds, sinks: world.sinks, ledger: map[types.UID]*obligation{}, room: make(chan struct{}, 1),
	}
	for _, r := range world.replicas {
		w.pages = append(w.pages, r.pages)
	}
	w.tasks.Go(w.watch)
	w.tasks.Go(w.answer)
	w.tasks.Go(w.reroute)
	return w
}

// pick returns one of the given values, by the seed.
func pick[T any](w *workload, values ...T) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return values[w.rng.IntN(len(values))]
}

// allow lets so many requests be made in all, so that they come as long as faults do.
func (w *workload) allow(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quota = n
	w.more()
}

// more wakes whoever makes requests. It is called with mu held.
func (w *workload) more() {
	select {
	case w.room <- struct{}{}:
	default:
	}
}

// create makes requests until there are n, not too many of them open at a time.
func (w *workload) create(n int) {
	for {
		w.mu.Lock()
		made, quota, open := w.made, w.quota, 0
		for _, o := range w.ledger {
			if !o.done() {
				open++
			}
		}
		w.mu.Unlock()
		switch {
		case made >= n || w.ctx.Err() != nil:
			return
		case open >= maxOpen || made >= quota:
			select {
			case <-w.room:
			case <-w.ctx.Done():
			}
		default:
			w.one()
		}
	}
}

// done reports whether nothing is owed any more.
func (o *obligation) done() bool {
	return o.gone || o.last != nil && o.last.Status.FinishedTime != nil && len(o.last.Finalizers) == 0 &&
		meta.IsStatusConditionTrue(o.last.Status.Conditions, v1alpha1.ConditionAudited)
}

// one makes a request and sets out what is to happen to it.
func (w *workload) one() {
	w.mu.Lock()
	w.made++
	n := w.made
	w.mu.Unlock()
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("r%05d", n), Namespace: w.namespace},
		Spec: v1alpha1.NotificationRequestSpec{
			Subject: fmt.Sprint("Message ", n), Body: "A body that\nhas lines.\npassword: " + planted, CorrelationID: fmt.Sprintf("c%05d", n),
			Fields: map[string]v1alpha1.FieldValue{"DB_PASSWORD": planted},
			Retry:  v1alpha1.RetryPolicy{MaxAttempts: maxAttempts, InitialDelay: "200ms", MaxDelay: "3s"},
			OnAmbiguous: pick(w, v1alpha1.AmbiguousRetry, v1alpha1.AmbiguousRetry, v1alpha1.AmbiguousRetry,
				v1alpha1.AmbiguousHold, v1alpha1.AmbiguousAssumeSent),
		},
	}
	k := pick(w, w.kinds...)
	owed := k.make(w, n, nr)
	for _, ch := range owed.named {
		nr.Spec.Channels = append(nr.Spec.Channels, v1alpha1.ChannelReference{Name: ch})
	}
	fate := pick(w, k.fates...)
	switch fate {
	case "suspend":
		nr.Spec.Suspend = new(true)
	case "expire":
		nr.Spec.Deadline, owed.expires = "10s", true
	case "later":
		nr.Spec.NotBefore = new(metav1.NewTime(time.Now().Add(3 * time.Second)))
	case "ttl":
		nr.Spec.TTLSecondsAfterFinished = new(int32(1))
	}
	if o := w.submit(nr, owed); o != nil {
		w.meddle(o, nr, fate, time.Duration(pick(w, 0, 20, 100, 500, 2000))*time.Millisecond)
	}
}

// meddle does with a request what somebody had in mind for it, some time later.
func (w *workload) meddle(o *obligation, nr *v1alpha1.NotificationRequest, fate string, delay time.Duration) {
	switch fate {
	case "suspend":
		w.tasks.Go(func() {
			w.wait(delay)
			w.persist(func() error {
				return w.patch(o, fmt.Sprintf(`{"metadata":{"uid":%q},"spec":{"suspend":false}}`, o.uid))
			})
		})
	case "delete", "recreate":
		w.tasks.Go(func() {
			w.wait(delay)
			w.mu.Lock()
			o.deleted = true
			if fate == "recreate" {
				w.coming++
			}
			w.mu.Unlock()
			w.persist(func() error {
				return client.IgnoreNotFound(w.kube.Delete(w.ctx, w.object(o), client.Preconditions{UID: &o.uid}))
			})
			if fate == "recreate" {
				again := &v1alpha1.NotificationRequest{
					ObjectMeta: metav1.ObjectMeta{Name: o.name, Namespace: w.namespace, Labels: nr.Labels}, Spec: nr.Spec,
				}
				again.Spec.CorrelationID = o.correlation + "-again"
				w.submit(again, o.expected)
				w.mu.Lock()
				w.coming--
				w.mu.Unlock()
			}
		})
	}
}

// submit creates a request and enters it into the ledger. While another of its
// name is on its way out, and while the API server does not answer, it waits.
func (w *workload) submit(nr *v1alpha1.NotificationRequest, owed expected) *obligation {
	created := nr.DeepCopy()
	w.persist(func() error {
		created = nr.DeepCopy()
		err := w.kube.Create(w.ctx, created)
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		// It may be this very one, created by a call whose answer was lost.
		if err := w.kube.Get(w.ctx, client.ObjectKeyFromObject(nr), created); err != nil {
			return err
		}
		if created.Spec.CorrelationID != nr.Spec.CorrelationID {
			return errBusy
		}
		return nil
	})
	if created.UID == "" {
		return nil
	}
	o := &obligation{
		name: nr.Name, correlation: nr.Spec.CorrelationID, uid: created.UID, created: created.CreationTimestamp.Time, onAmbiguous: nr.Spec.OnAmbiguous,
		expected: owed, words: map[string][]string{},
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if known, ok := w.ledger[o.uid]; ok { // the watch was first
		o.seen = known.seen
	}
	w.ledger[o.uid] = o
	if owed.asks {
		o.answering = true
		w.tasks.Go(func() { w.person(o) })
	}
	return o
}

var errBusy = apierrors.NewTooManyRequests("the name is taken by a request that is on its way out", 0)

// persist does something until the API server has an answer to it.
func (w *workload) persist(do func() error) {
	for w.ctx.Err() == nil {
		err := do()
		if err == nil {
			return
		}
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			w.mu.Lock()
			w.errs = append(w.errs, err.Error())
			w.mu.Unlock()
			return
		}
		w.wait(100 * time.Millisecond)
	}
}

func (w *workload) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

func (w *workload) object(o *obligation) *v1alpha1.NotificationRequest {
	return &v1alpha1.NotificationRequest{ObjectMeta: metav1.ObjectMeta{Name: o.name, Namespace: w.namespace}}
}

// patch changes the request that the obligation is about. The change has to name
// its UID, so that no other request of its name is changed.
func (w *workload) patch(o *obligation, change string) error {
	err := w.kube.Patch(w.ctx, w.object(o), client.RawPatch(types.MergePatchType, []byte(change)))
	if apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil // another one has the name now, or the request is past that
	}
	return client.IgnoreNotFound(err)
}

// watch keeps the ledger up to date. It lists again every few seconds, because a
// request that is gone before both the list and the answer to its creation came is
// in no list and in no watch.
func (w *workload) watch() {
	for w.ctx.Err() == nil {
		owed := w.obligations()
		var list v1alpha1.NotificationRequestList
		err := w.kube.List(w.ctx, &list, client.InNamespace(w.namespace))
		if err == nil {
			there := map[types.UID]bool{}
			for i := range list.Items {
				there[list.Items[i].UID] = true
				w.see(&list.Items[i], false)
			}
			w.mu.Lock()
			for _, o := range owed {
				o.gone = o.gone || !there[o.uid]
			}
			w.mu.Unlock()
			w.follow(list.ResourceVersion)
		}
		w.wait(200 * time.Millisecond)
	}
}

func (w *workload) follow(version string) {
	stream, err := w.kube.Watch(w.ctx, &v1alpha1.NotificationRequestList{}, client.InNamespace(w.namespace),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: version, TimeoutSeconds: new(int64(10))}})
	if err != nil {
		return
	}
	defer stream.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case e, ok := <-stream.ResultChan():
			nr, isRequest := e.Object.(*v1alpha1.NotificationRequest)
			if !ok || !isRequest {
				return
			}
			w.see(nr, e.Type == watch.Deleted)
		}
	}
}

func (w *workload) see(nr *v1alpha1.NotificationRequest, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.ledger[nr.UID]
	if !ok {
		o = &obligation{uid: nr.UID}
		w.ledger[nr.UID] = o
	}
	nr.ManagedFields = nil
	o.gone = o.gone || gone
	o.see(nr)
	if o.done() {
		w.more()
	}
}

// obligations returns the ledger's entries, in the order of their names.
func (w *workload) obligations() []*obligation {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*obligation
	for _, o := range w.ledger {
		if o.name != "" {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *obligation) int {
		return slices.Compare([]string{a.name, a.correlation}, []string{b.name, b.correlation})
	})
	return all
}

// counts returns how many requests were made and how many of them are done with.
func (w *workload) counts() (made, done int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	made = w.coming
	for _, o := range w.ledger {
		if o.name == "" {
			continue
		}
		made++
		if o.done() && !o.answering {
			done++
		}
	}
	return made, done
}
