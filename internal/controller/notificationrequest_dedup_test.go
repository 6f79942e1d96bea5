package controller

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

func TestARequestStandsForThoseThatRepeatItOnceItHasReachedAChannel(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	const sent, failed, retrying = v1alpha1.DeliverySent, v1alpha1.DeliveryFailed, v1alpha1.DeliveryRetrying
	other := func(name string, before time.Duration, states ...v1alpha1.DeliveryState) v1alpha1.NotificationRequest {
		nr := v1alpha1.NotificationRequest{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID("uid-of-" + name), CreationTimestamp: metav1.NewTime(now.Add(-before)),
		}}
		final := len(states) > 0
		for _, s := range states {
			nr.Status.Deliveries = append(nr.Status.Deliveries, v1alpha1.Delivery{State: s})
			final = final && s.Final()
		}
		if final {
			nr.Status.FinishedTime = micro(now)
		}
		return nr
	}
	suppressed := v1alpha1.Duplicate{Name: "a", UID: "uid-of-a", SuppressedTime: micro(now), Audit: pending(audit.TypeMessageSuppressed, "uid-of-nr")}
	waits := v1alpha1.Duplicate{Name: "a", UID: "uid-of-a"}
	for name, tt := range map[string]struct {
		others []v1alpha1.NotificationRequest
		want   v1alpha1.Duplicate
	}{
		"none":                            {},
		"itself":                          {others: []v1alpha1.NotificationRequest{other("nr", 0, sent)}},
		"not begun":                       {others: []v1alpha1.NotificationRequest{other("a", time.Minute)}},
		"sent":                            {others: []v1alpha1.NotificationRequest{other("a", time.Minute, sent)}, want: suppressed},
		"sent, created a moment later":    {others: []v1alpha1.NotificationRequest{other("a", -time.Second, sent)}, want: suppressed},
		"sent at the window's edge":       {others: []v1alpha1.NotificationRequest{other("a", 10*time.Minute, sent)}, want: suppressed},
		"sent before the window":          {others: []v1alpha1.NotificationRequest{other("a", 10*time.Minute+time.Second, sent)}},
		"sent to one channel of two":      {others: []v1alpha1.NotificationRequest{other("a", time.Minute, retrying, sent)}, want: suppressed},
		"failed on one channel of two":    {others: []v1alpha1.NotificationRequest{other("a", time.Minute, failed, sent)}, want: suppressed},
		"failed":                          {others: []v1alpha1.NotificationRequest{other("a", time.Minute, failed)}},
		"may yet be sent":                 {others: []v1alpha1.NotificationRequest{other("a", time.Minute, failed, retrying)}, want: waits},
		"one is sent and one may be sent": {others: []v1alpha1.NotificationRequest{other("b", 0, retrying), other("a", 0, sent), other("c", 0, retrying)}, want: suppressed},
	} {
		t.Run(name, func(t *testing.T) {
			nr := other("nr", 0)
			nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"}
			equal(t, "stands for it", duplicateOf(&nr, tt.others, now), tt.want)
		})
	}
}

func TestWhatEndsAWaitingRequestIsToldAsOfAnyOther(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for name, change := range map[string]func(*v1alpha1.NotificationRequest){
		"deadline, where there is none to wait for": func(nr *v1alpha1.NotificationRequest) {
			nr.CreationTimestamp, nr.Status.DuplicateOf = metav1.NewTime(now.Add(-25*time.Hour)), v1alpha1.Duplicate{}
		},
		"deletion": func(nr *v1alpha1.NotificationRequest) { nr.DeletionTimestamp = new(metav1.NewTime(now)) },
	} {
		t.Run(name, func(t *testing.T) {
			nr := newRequest()
			nr.CreationTimestamp = metav1.NewTime(now)
			nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "24h"}
			nr.Status.DuplicateOf = v1alpha1.Duplicate{Name: "a", UID: "uid-of-a"}
			p := planner{now: now, jitter: jitter}
			equal(t, "looks again", p.plan(nr).wait, originalRecheck)
			equal(t, "deliveries while it waits", len(nr.Status.Deliveries), 0)
			change(nr)
			p.plan(nr)
			equal(t, "finished", nr.Status.FinishedTime != nil, true)
			equal(t, "deliveries", len(nr.Status.Deliveries), len(channelRefs(nr)))
			for _, d := range nr.Status.Deliveries {
				equal(t, d.Channel, d.Audit.State, v1alpha1.AuditPending)
			}
		})
	}
}

// While a Secret is read for one request, another one of its group is looked at from
// the beginning to the end.
func TestOfTwoThatRepeatEachOtherTheOneIsSentWhoseIntentIsWrittenFirst(t *testing.T) {
	object := newChannel(asSlack)
	repeated := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	slow := newRequest(repeated)
	quick := newRequest(repeated, withChannels(v1alpha1.ConsoleChannel), func(nr *v1alpha1.NotificationRequest) {
		nr.Name, nr.UID, nr.Finalizers = "quick", "uid-of-quick", []string{v1alpha1.Finalizer}
		nr.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	})
	b := newBench(t, slow, object, newSecret("slack", map[string]string{"url": "https://hooks.slack.example/x"}), quick)
	var once sync.Once
	b.Channels.Secrets = interceptor.NewClient(b.cluster, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
			once.Do(func() {
				looked := make(chan error, 1)
				go func() {
					_, err := b.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(quick)})
					looked <- err
				}()
				select {
				case err := <-looked:
					equal(t, "error", err, nil)
				case <-time.After(20 * time.Second):
					t.Error("the other one cannot be looked at")
				}
			})
			return c.Get(ctx, key, object, opts...)
		},
	})
	equal(t, "looked at again", b.mustLook(), conflictRetry)
	equal(t, "woken when it was printed", b.wait().Name, "quick")
	equal(t, "deliveries of the slow one", len(b.stored().Status.Deliveries), 0)
	b.mustLook()
	equal(t, "waits for", b.stored().Status.DuplicateOf.Name, "quick")
	equal(t, "places taken", len(b.sends.slots), 0)
}

func TestNoneOfAGroupIsSentWhileNobodyKnowsIfAnotherIs(t *testing.T) {
	dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	named := func(name string) func(*v1alpha1.NotificationRequest) {
		return func(nr *v1alpha1.NotificationRequest) { nr.Name, nr.UID = name, types.UID("uid-of-"+name) }
	}
	for _, tt := range []struct {
		name string
		gone bool // before anybody has looked at it again
		lose string
	}{
		{name: "it is, and its answer is lost", lose: "its answer is lost"},
		{name: "it is, and its repetition meets it", lose: "its repetition meets it"},
		{name: "is gone", gone: true, lose: "its answer is lost"},
		{name: "is gone, and its repetition has met it", gone: true, lose: "its repetition meets it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			object, calls := receiver(t, accept)
			other := newRequest(dedup, named("other"))
			other.CreationTimestamp = metav1.NewTime(time.Now())
			b := newBench(t, newRequest(dedup), object, other)
			first, behind := b.key, true
			b.Client = interceptor.NewClient(b.Client.(client.WithWatch), interceptor.Funcs{
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
					if behind { // as a cache that has not heard of a write yet
						return nil
					}
					return c.List(ctx, list, opts...)
				},
			})
			queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			t.Cleanup(queue.ShutDown)
			if err := b.wake.start(t.Context(), queue); err != nil {
				t.Fatal(err)
			}
			lostWrites[tt.lose](b)
			_, _ = b.look()
			equal(t, "calls", calls.Load(), int32(0))
			b.key = client.ObjectKeyFromObject(other)
			b.mustLook()
			equal(t, "the other waits for", b.stored().Status.DuplicateOf.Name, first.Name)

			b.key, behind = first, false
			if tt.gone {
				nr := b.stored()
				nr.Finalizers = nil
				if err := b.cluster.Update(t.Context(), nr); err != nil {
					t.Fatal(err)
				}
				if err := b.cluster.Delete(t.Context(), nr); err != nil {
					t.Fatal(err)
				}
				b.mustLook()
			} else {
				b.send()
			}
			equal(t, "requests that are looked at", queue.Len(), 1)
			woken, _ := queue.Get()
			equal(t, "request that is looked at", woken.NamespacedName, client.ObjectKeyFromObject(other))
			b.key = woken.NamespacedName
			if b.mustLook(); tt.gone {
				b.ended()
			}
			equal(t, "suppressed", b.stored().Status.DuplicateOf.SuppressedTime != nil, !tt.gone)
			equal(t, "sent", calls.Load(), int32(1))
			equal(t, "kept", len(b.dedup.doubted)+len(b.dedup.waiting), 0)
		})
	}
}

// Somebody has forbidden that one request is written, with an admission policy for
// example. It holds up no other of its group.
func TestARequestThatMayNotBeWrittenStandsForNobody(t *testing.T) {
	resource := v1alpha1.SchemeGroupVersion.WithResource("notificationrequests").GroupResource()
	for name, refusal := range map[string]error{
		"forbidden":     apierrors.NewForbidden(resource, "order-7", errors.New("a policy says so")),
		"invalid":       apierrors.NewInvalid(v1alpha1.SchemeGroupVersion.WithKind("NotificationRequest").GroupKind(), "order-7", nil),
		"a bad request": apierrors.NewBadRequest("a webhook says so"),
	} {
		t.Run(name, func(t *testing.T) {
			dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
			object, calls := receiver(t, accept)
			other := newRequest(dedup, func(nr *v1alpha1.NotificationRequest) { nr.Name, nr.UID = "other", "uid-of-other" })
			other.CreationTimestamp = metav1.NewTime(time.Now())
			b := newBench(t, newRequest(dedup), object, other)
			b.failNext.Store(&refusal)
			if _, err := b.look(); err == nil {
				t.Fatal("no error")
			}
			b.key = client.ObjectKeyFromObject(other)
			b.send()
			equal(t, "sent", calls.Load(), int32(1))
			equal(t, "kept", len(b.dedup.doubted)+len(b.dedup.waiting), 0)
		})
	}
}

// The answer to a write is lost, and every later one is refused. Others wait as long as
// the first may still be made, and no longer.
func TestARequestThatMayNotBeWrittenAnyMoreStandsForNobody(t *testing.T) {
	resource := v1alpha1.SchemeGroupVersion.WithResource("notificationrequests").GroupResource()
	timeout, forbidden := error(apierrors.NewTimeoutError("no answer", 0)), error(apierrors.NewForbidden(resource, "order-7", errors.New("a policy says so")))
	dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	object, calls := receiver(t, accept)
	other := newRequest(dedup, func(nr *v1alpha1.NotificationRequest) { nr.Name, nr.UID = "other", "uid-of-other" })
	other.CreationTimestamp = metav1.NewTime(time.Now())
	b := newBench(t, newRequest(dedup), object, other)
	first, second := b.key, client.ObjectKeyFromObject(other)
	fail := func(err error) {
		b.key = first
		b.failNext.Store(&err)
		if _, err := b.look(); err == nil {
			t.Fatal("no error")
		}
		b.key = second
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(queue.ShutDown)
	if err := b.wake.start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	fail(timeout)
	b.mustLook()
	equal(t, "the other waits for", b.stored().Status.DuplicateOf.Name, first.Name)
	fail(forbidden)
	b.mustLook()
	equal(t, "it waits at first for", b.stored().Status.DuplicateOf.Name, first.Name)
	equal(t, "woken", queue.Len(), 0)

	group := groupOf(other)
	doubt := b.dedup.doubted[group]
	doubt.since = doubt.since.Add(-doubtPatience)
	b.dedup.doubted[group] = doubt
	fail(forbidden)
	equal(t, "woken", queue.Len(), 1)
	b.send()
	equal(t, "sent", calls.Load(), int32(1))
	equal(t, "kept", len(b.dedup.doubted)+len(b.dedup.waiting), 0)
}

// A conflict leaves open whether something was written, until the cache has what the
// write conflicted with.
func TestAConflictThatSomebodyElseBroughtAboutHoldsUpNobody(t *testing.T) {
	resource := v1alpha1.SchemeGroupVersion.WithResource("notificationrequests").GroupResource()
	conflict := error(apierrors.NewConflict(resource, "order-7", errors.New("somebody labelled it")))
	forbidden := error(apierrors.NewForbidden(resource, "order-7", errors.New("a policy says so")))
	dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	object, calls := receiver(t, accept)
	other := newRequest(dedup, func(nr *v1alpha1.NotificationRequest) { nr.Name, nr.UID = "other", "uid-of-other" })
	other.CreationTimestamp = metav1.NewTime(time.Now())
	b := newBench(t, newRequest(dedup), object, other)
	first := b.key
	b.failNext.Store(&conflict)
	b.mustLook()
	b.key = client.ObjectKeyFromObject(other)
	b.mustLook()
	equal(t, "the other waits for", b.stored().Status.DuplicateOf.Name, first.Name)

	b.key = first
	b.failNext.Store(&forbidden)
	if _, err := b.look(); err == nil {
		t.Fatal("no error")
	}
	equal(t, "in doubt while nothing newer is seen", len(b.dedup.doubted), 1)
	nr := b.stored()
	nr.Labels = map[string]string{"seen": "true"}
	if err := b.cluster.Update(t.Context(), nr); err != nil {
		t.Fatal(err)
	}
	b.failNext.Store(&forbidden)
	if _, err := b.look(); err == nil {
		t.Fatal("no error")
	}
	equal(t, "in doubt then", len(b.dedup.doubted), 0)
	b.key = client.ObjectKeyFromObject(other)
	b.send()
	equal(t, "sent", calls.Load(), int32(1))
}

func TestThoseThatWaitAreLookedAtOnceTheyNeedNotWait(t *testing.T) {
	dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	unavailable := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		change func(*bench)
	}{
		"the other one was sent, and nobody heard that status says so": {accept, func(b *bench) {
			b.loseNext.Store(true)
			if _, err := b.look(); err == nil {
				b.t.Fatal("no error")
			}
		}},
		"the other one is suspended": {unavailable, func(b *bench) {
			b.mustLook()
			nr := b.stored()
			nr.Spec.Suspend = new(true)
			if err := b.cluster.Update(b.t.Context(), nr); err != nil {
				b.t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			object, _ := receiver(t, tt.handle)
			waiting := newRequest(dedup, func(nr *v1alpha1.NotificationRequest) {
				nr.Name, nr.UID, nr.Finalizers = "waiting", "uid-of-waiting", []string{v1alpha1.Finalizer}
				nr.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
			})
			b := newBench(t, newRequest(dedup), object, waiting)
			queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			t.Cleanup(queue.ShutDown)
			if err := b.wake.start(t.Context(), queue); err != nil {
				t.Fatal(err)
			}
			first := b.key
			b.mustLook()
			b.wait()
			b.key = client.ObjectKeyFromObject(waiting)
			equal(t, "looked at again", b.mustLook(), originalRecheck)

			b.key = first
			tt.change(b)
			equal(t, "requests that are looked at before", queue.Len(), 0)
			b.mustLook()
			equal(t, "requests that are looked at", queue.Len(), 1)
			b.mustLook()
			equal(t, "requests that are looked at once more", queue.Len(), 1)
			woken, _ := queue.Get()
			equal(t, "request that is looked at", woken.NamespacedName, client.ObjectKeyFromObject(waiting))
		})
	}
}

// Another one of its group ends too late for a request to wait for it, but not for its
// escalation, which begins at once.
func TestARequestThatEscalatesAtOnceDoesNotAskAgainIfItHasToWait(t *testing.T) {
	created := metav1.NewTime(time.Now().Add(-2 * time.Hour).Truncate(time.Second))
	dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	other := newRequest(dedup, withDeadline("150m"), func(nr *v1alpha1.NotificationRequest) {
		nr.Name, nr.UID, nr.CreationTimestamp = "other", "uid-of-other", created
		nr.Status.Deliveries = []v1alpha1.Delivery{{Channel: ops, State: v1alpha1.DeliveryRetrying}}
	})
	object, calls := receiver(t, accept)
	b := newBench(t, newRequest(), object, other)
	late := newRequest(dedup, withDeadline("1h"), asking(v1alpha1.ConsoleChannel), func(nr *v1alpha1.NotificationRequest) {
		nr.Name, nr.UID, nr.CreationTimestamp, nr.Finalizers = "late", "uid-of-late", created, []string{v1alpha1.Finalizer}
	})
	if err := b.cluster.Create(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	b.key = client.ObjectKeyFromObject(late)
	b.send()
	d := b.stored().Status.Deliveries
	equal(t, "deliveries", len(d), 2)
	equal(t, "states", []v1alpha1.DeliveryState{d[0].State, d[1].State}, []v1alpha1.DeliveryState{v1alpha1.DeliverySkipped, v1alpha1.DeliverySent})
	equal(t, "calls", calls.Load(), int32(0))
}

// A request is suspended while its attempt is in flight. Those that repeat it wait for
// what comes of that, and for nothing else.
func TestOneThatIsSuspendedStandsForOthersAsLongAsItMayHaveArrived(t *testing.T) {
	dedup := func(nr *v1alpha1.NotificationRequest) { nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "10m"} }
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	}
	for name, tt := range map[string]struct {
		handle http.HandlerFunc // of the first attempt, every other one is accepted
		word   string           // about a doubt
		want   int32            // messages, the first one included
		waits  bool             // still, in the end
	}{
		"it arrives":                             {handle: status(http.StatusOK), want: 1},
		"it does not arrive":                     {handle: status(http.StatusServiceUnavailable), want: 2},
		"it is in doubt and has arrived":         {handle: hangUp, word: "Sent", want: 1},
		"it is in doubt and has not arrived":     {handle: hangUp, word: "Failed", want: 2},
		"it is in doubt, and nobody says a word": {handle: hangUp, want: 1, waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			begun, answer := make(chan struct{}), make(chan struct{})
			end := sync.OnceFunc(func() { close(answer) })
			var once sync.Once
			object, calls := receiver(t, func(w http.ResponseWriter, r *http.Request) {
				once.Do(func() {
					_, _ = io.Copy(io.Discard, r.Body)
					close(begun)
					<-answer
					tt.handle(w, r)
				})
			})
			t.Cleanup(end)
			other := newRequest(dedup, func(nr *v1alpha1.NotificationRequest) { nr.Name, nr.UID = "other", "uid-of-other" })
			other.CreationTimestamp, other.Finalizers = metav1.NewTime(time.Now().Truncate(time.Second)), []string{v1alpha1.Finalizer}
			b := newBench(t, newRequest(dedup, withPolicy(v1alpha1.AmbiguousHold)), object, other)
			first, second := b.key, client.ObjectKeyFromObject(other)
			change := func(f func(*v1alpha1.NotificationRequest)) {
				nr := b.stored()
				f(nr)
				if err := b.cluster.Update(t.Context(), nr); err != nil {
					t.Fatal(err)
				}
				b.mustLook()
			}
			b.mustLook()
			<-begun
			change(func(nr *v1alpha1.NotificationRequest) { nr.Spec.Suspend = new(true) })
			b.key = second
			equal(t, "looked at again while it is in flight", b.mustLook(), originalRecheck)

			b.key = first
			end()
			b.ended()
			if tt.word != "" {
				b.key = second
				equal(t, "looked at again while it is in doubt", b.mustLook(), originalRecheck)
				b.key = first
				change(func(nr *v1alpha1.NotificationRequest) {
					nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: ops + "=" + tt.word}
				})
			}
			b.key = second
			if b.mustLook(); tt.want == 2 {
				b.ended()
			}
			equal(t, "messages", calls.Load(), tt.want)
			equal(t, "suppressed", b.stored().Status.DuplicateOf.SuppressedTime != nil, tt.want == 1 && !tt.waits)
		})
	}
}
