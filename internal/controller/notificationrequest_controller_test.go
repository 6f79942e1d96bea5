package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

type senderFunc func(context.Context, *delivery.Message) (delivery.Receipt, error)

func (f senderFunc) Send(ctx context.Context, m *delivery.Message) (delivery.Receipt, error) {
	return f(ctx, m)
}

func (f senderFunc) Render(m *delivery.Message) []byte { return []byte(m.Subject + m.Body) }

// bench is a reconciler at work on a cluster of fakes.
type bench struct {
	*NotificationRequestReconciler
	t        *testing.T
	cluster  client.WithWatch
	key      types.NamespacedName
	woken    chan types.NamespacedName
	recorder *events.FakeRecorder

	writes   atomic.Int32
	failNext atomic.Pointer[error] // what the next write of status meets
	loseNext atomic.Bool           // the next write of status is made, and its answer is lost
	// repeatNext has the next write of status made and then, as client-go does after some
	// answers, made again, so that it meets itself.
	repeatNext atomic.Bool
	recorded   []audit.Event
	refuse     error // what Record answers
	printed    []*delivery.Message
	console    error // what the console answers
}

func newBench(t *testing.T, nr *v1alpha1.NotificationRequest, objects ...client.Object) *bench {
	t.Helper()
	nr.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	nr.Finalizers = []string{v1alpha1.Finalizer}
	b := &bench{t: t, key: client.ObjectKeyFromObject(nr), woken: make(chan types.NamespacedName, 100), recorder: events.NewFakeRecorder(100)}
	builder := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(append(objects, nr)...).
		WithStatusSubresource(&v1alpha1.NotificationRequest{}, &v1alpha1.NotificationChannel{})
	if err := indexFields(&indexingManager{builder: builder}); err != nil {
		t.Fatal(err)
	}
	b.cluster = builder.Build()
	counted := interceptor.NewClient(b.cluster, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, opts ...client.PatchOption) error {
			b.writes.Add(1)
			return c.Patch(ctx, object, patch, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, object client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			b.writes.Add(1)
			if err := b.failNext.Swap(nil); err != nil {
				return *err
			}
			if b.repeatNext.Swap(false) {
				if err := c.SubResource(sub).Patch(ctx, object.DeepCopyObject().(client.Object), patch, opts...); err != nil {
					return err
				}
			}
			err := c.SubResource(sub).Patch(ctx, object, patch, opts...)
			if b.loseNext.Swap(false) {
				return errors.New("connection reset")
			}
			return err
		},
	})
	channels, _ := newChannels(t)
	channels.Reader, channels.Secrets = b.cluster, b.cluster
	channels.Console = senderFunc(func(_ context.Context, m *delivery.Message) (delivery.Receipt, error) {
		b.printed = append(b.printed, m)
		return delivery.Receipt{Digest: "sha256:" + strings.Repeat("0", 64)}, b.console
	})
	b.NotificationRequestReconciler = &NotificationRequestReconciler{
		Client: counted, Channels: channels, Routes: b.cluster, Events: b.recorder, Health: &ChannelHealth{},
		Metrics: NewMetrics(prometheus.NewRegistry()),
		Record: func(e audit.Event) error {
			if b.refuse == nil {
				b.recorded = append(b.recorded, e)
			}
			return b.refuse
		},
	}
	b.sends = newSends(func(key types.NamespacedName) { b.woken <- key }, b.Health, b.history)
	b.Health.opened = b.sends.reopen
	b.hold = newHold(nil, func(key types.NamespacedName) { b.woken <- key })
	return b
}

func (b *bench) look() (ctrl.Result, error) {
	return b.Reconcile(b.t.Context(), reconcile.Request{NamespacedName: b.key})
}

// mustLook looks at the request and returns when to look again.
func (b *bench) mustLook() time.Duration {
	b.t.Helper()
	result, err := b.look()
	if err != nil {
		b.t.Fatalf("reconcile: %v", err)
	}
	return result.RequeueAfter
}

// ended waits for an attempt to end and looks at the request. It returns when to
// look again.
func (b *bench) ended() time.Duration {
	b.t.Helper()
	b.wait()
	return b.mustLook()
}

// send has the one attempt that is due made.
func (b *bench) send() {
	b.t.Helper()
	b.mustLook()
	b.ended()
}

// wait returns the request that is woken next.
func (b *bench) wait() types.NamespacedName {
	b.t.Helper()
	select {
	case key := <-b.woken:
		return key
	case <-time.After(20 * time.Second):
		b.t.Fatal("nobody was woken: no attempt ended")
		return types.NamespacedName{}
	}
}

func (b *bench) stored() *v1alpha1.NotificationRequest {
	b.t.Helper()
	nr := &v1alpha1.NotificationRequest{}
	if err := b.cluster.Get(b.t.Context(), b.key, nr); err != nil {
		b.t.Fatalf("get request: %v", err)
	}
	return nr
}

// update changes the status that is stored.
func (b *bench) update(change func(*v1alpha1.NotificationRequest)) {
	b.t.Helper()
	nr := b.stored()
	change(nr)
	if err := b.cluster.Status().Update(b.t.Context(), nr); err != nil {
		b.t.Fatal(err)
	}
}

// acknowledge answers for all events that were recorded.
func (b *bench) acknowledge() {
	for _, e := range b.recorded {
		b.receipts.add([]audit.Receipt{{
			EventID: e.EventID, Namespace: e.Namespace, ResourceID: e.ResourceID, Recorded: true, LogIndex: new(int64(1)), Time: time.Now(),
		}})
	}
}

// told returns what was told as Kubernetes Events.
func (b *bench) told() (all []string) {
	for len(b.recorder.Events) > 0 {
		all = append(all, <-b.recorder.Events)
	}
	return all
}

// receiver is a webhook's other end.
func receiver(t *testing.T, handle http.HandlerFunc) (*v1alpha1.NotificationChannel, *atomic.Int32) {
	t.Helper()
	calls := new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		handle(w, r)
	}))
	t.Cleanup(server.Close)
	return newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.URL = server.URL }), calls
}

func accept(http.ResponseWriter, *http.Request) {}

func conflict() *error {
	return new(error(apierrors.NewConflict(schema.GroupResource{}, "order-7", errors.New("somebody was faster"))))
}

func TestConsoleRequestTakesFourWrites(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	b.mustLook()
	equal(t, "state before it ends", b.stored().Status.Deliveries[0].State, v1alpha1.DeliveryInFlight)
	equal(t, "looked at again", b.ended(), auditCheck)
	nr := b.stored()
	equal(t, "state", nr.Status.Deliveries[0].State, v1alpha1.DeliverySent)
	equal(t, "finalizers", nr.Finalizers, []string{v1alpha1.Finalizer})
	equal(t, "printed", len(b.printed), 1)
	equal(t, "recorded", b.recorded[0].EventType, audit.TypeMessageSent)
	b.acknowledge()
	equal(t, "looked at again", b.mustLook(), time.Duration(0))
	nr = b.stored()
	equal(t, "audited", meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionAudited), true)
	equal(t, "finalizers", nr.Finalizers, nil)
	equal(t, "printed", len(b.printed), 1)
	equal(t, "writes", b.writes.Load(), int32(4))
	equal(t, "told", b.told(), []string{"Normal Sent 1 channel accepted the message"})

	b.acknowledge()
	equal(t, "looked at again", b.mustLook(), time.Duration(0))
	equal(t, "looked at again", b.mustLook(), time.Duration(0))
	equal(t, "writes", b.writes.Load(), int32(4))
	equal(t, "answers kept", len(b.receipts.m), 0)
	equal(t, "channels whose health is noted", len(b.Health.m), 0)
}

func TestIntentIsInStatusBeforeTheMessageIsSent(t *testing.T) {
	var b *bench
	var seen v1alpha1.Delivery
	object, calls := receiver(t, func(http.ResponseWriter, *http.Request) { seen = b.stored().Status.Deliveries[0] })
	b = newBench(t, newRequest(), object)
	wait := b.mustLook()
	b.ended()
	equal(t, "state when it was sent", seen.State, v1alpha1.DeliveryInFlight)
	equal(t, "attempt", seen.Attempts, int32(1))
	equal(t, "time for the attempt", seen.AttemptDeadline.Sub(seen.StartedTime.Time), 40*time.Second)
	if wait <= 0 || wait > 41*time.Second {
		t.Errorf("looked at again in %s", wait)
	}
	equal(t, "state", b.stored().Status.Deliveries[0].State, v1alpha1.DeliverySent)
	equal(t, "calls", calls.Load(), int32(1))
	equal(t, "outcomes kept", len(b.sends.attempts)+len(b.sends.slots), 0)
}

func TestNothingIsSentWithoutTheIntent(t *testing.T) {
	for name, c := range map[string]struct {
		err  *error
		fail bool
	}{
		"conflict": {conflict(), false},
		"no API":   {new(errors.New("connection refused")), true},
	} {
		t.Run(name, func(t *testing.T) {
			object, calls := receiver(t, accept)
			b := newBench(t, newRequest(), object)
			b.failNext.Store(c.err)
			result, err := b.look()
			equal(t, "error", err != nil, c.fail)
			equal(t, "looked at again", result.RequeueAfter > 0 || err != nil, true)
			equal(t, "places taken", len(b.sends.slots), 0)
			equal(t, "told", b.told(), nil)
			equal(t, "recorded", len(b.recorded), 0)
			b.sends.drain()
			equal(t, "calls", calls.Load(), int32(0))
		})
	}
}

// lostWrites are the ways in which the next write of status is made and nobody is told.
var lostWrites = map[string]func(*bench){
	"its answer is lost":      func(b *bench) { b.loseNext.Store(true) },
	"its repetition meets it": func(b *bench) { b.repeatNext.Store(true) },
}

func TestAttemptWhoseIntentGotNoAnswerIsMadeOnce(t *testing.T) {
	for name, lose := range lostWrites {
		for _, policy := range []v1alpha1.AmbiguousPolicy{v1alpha1.AmbiguousHold, v1alpha1.AmbiguousAssumeSent} {
			t.Run(name+", "+string(policy), func(t *testing.T) {
				object, calls := receiver(t, accept)
				b := newBench(t, newRequest(withPolicy(policy)), object)
				lose(b)
				_, _ = b.look()
				equal(t, "state that was written", b.stored().Status.Deliveries[0].State, v1alpha1.DeliveryInFlight)
				equal(t, "calls", calls.Load(), int32(0))
				b.mustLook()
				b.ended()
				d := b.stored().Status.Deliveries[0]
				equal(t, "state", d.State, v1alpha1.DeliverySent)
				equal(t, "attempts", d.Attempts, int32(1))
				equal(t, "calls", calls.Load(), int32(1))
				equal(t, "kept", len(b.sends.attempts)+len(b.sends.owners)+len(b.sends.unsent), 0)
			})
		}
	}
}

func TestOutcomeIsWrittenThoughTheFirstWriteFails(t *testing.T) {
	object, calls := receiver(t, accept)
	b := newBench(t, newRequest(), object)
	b.mustLook()
	b.wait()
	b.failNext.Store(conflict())
	equal(t, "looked at again", b.mustLook() > 0, true)
	b.failNext.Store(new(errors.New("connection refused")))
	if _, err := b.look(); err == nil {
		t.Error("no error")
	}
	b.mustLook()
	equal(t, "state", b.stored().Status.Deliveries[0].State, v1alpha1.DeliverySent)
	equal(t, "calls", calls.Load(), int32(1))
	equal(t, "told", len(b.told()), 1)
}

// A process prints the message and dies before status holds the outcome. Nobody
// may say afterwards that the message was not sent.
func TestAMessageIsInDoubtWhereItWasPrintedBeforeACrashAndTheRequestIsDeleted(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	b.mustLook()
	b.wait()
	equal(t, "printed", len(b.printed), 1)

	// Another process, with nothing but status to go by.
	again := newBench(t, newRequest(withChannels()))
	again.Client, again.cluster = b.Client, b.cluster
	nr := b.stored()
	if err := b.cluster.Delete(t.Context(), nr); err != nil {
		t.Fatal(err)
	}
	wait := again.mustLook()
	if left := time.Until(nr.Status.Deliveries[0].AttemptDeadline.Time); wait < left || wait > left+time.Second {
		t.Errorf("looked at again in %s, and the attempt is in doubt in %s", wait, left)
	}
	again.update(func(nr *v1alpha1.NotificationRequest) { nr.Status.Deliveries[0].AttemptDeadline = micro(time.Now()) })
	again.mustLook()
	d := b.stored().Status.Deliveries[0]
	equal(t, "state", d.State, v1alpha1.DeliveryFailed)
	equal(t, "attempts", d.Attempts, int32(1))
	const why = "the request was deleted before the message was sent; before that OutcomeUnknown: " +
		"the controller stopped during the attempt, so nobody knows whether the channel accepted the message"
	equal(t, "message", d.LastError.Message, why)
	got := map[string]string{}
	for _, e := range again.recorded {
		got[e.EventType] = e.ErrorMessage
	}
	equal(t, "recorded", got, map[string]string{
		audit.TypeRequestCancelled: "", audit.TypeMessageFailed: why,
		audit.TypeAttemptAmbiguous: "the controller stopped during the attempt, so nobody knows whether the channel accepted the message",
	})
	equal(t, "printed again", len(again.printed), 0)
}

func TestARequestWithoutTheFinalizerGetsItBeforeAnAttemptBegins(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	nr := b.stored()
	nr.Finalizers = nil
	if err := b.cluster.Update(t.Context(), nr); err != nil {
		t.Fatal(err)
	}
	b.failNext.Store(conflict())
	b.mustLook()
	equal(t, "finalizers", b.stored().Finalizers, []string{v1alpha1.Finalizer})
	equal(t, "attempts", len(b.stored().Status.Deliveries), 0)
}

func TestUnusableChannelIsLookedAtAgain(t *testing.T) {
	object := newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.SigningSecretRef = secretRef("key", "sign") })
	b := newBench(t, newRequest(withChannels("console", ops)), object, newSecret("key", map[string]string{"other": "x"}))
	wait := b.mustLook()
	if wait <= 0 || wait > recheck+time.Second {
		t.Errorf("looked at again in %s", wait)
	}
	b.ended()
	nr := b.stored()
	equal(t, "the other channel", nr.Status.Deliveries[0].State, v1alpha1.DeliverySent)
	d := nr.Status.Deliveries[1]
	equal(t, "state", d.State, v1alpha1.DeliveryPending)
	equal(t, "attempts", d.Attempts, int32(0))
	equal(t, "reason", d.LastError.Reason, "SecretKeyNotFound")
	equal(t, "places taken", len(b.sends.slots), 0)

	secret := newSecret("key", map[string]string{"sign": "x"})
	if err := b.cluster.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	b.mustLook()
	b.ended()
	equal(t, "attempts once it is usable", b.stored().Status.Deliveries[1].Attempts, int32(1))
}

func TestFullChannelIsWaitedForButNotLongerThanTheDeadline(t *testing.T) {
	object, calls := receiver(t, accept)
	b := newBench(t, newRequest(withDeadline("1h")), object)
	for n := range channelLimit {
		b.sends.ask(place, requestKey(n))
	}
	if wait := b.mustLook(); wait <= 0 || wait > time.Hour {
		t.Errorf("looked at again in %s", wait)
	}
	equal(t, "state", b.stored().Status.Deliveries[0].State, v1alpha1.DeliveryPending)
	b.sends.release(place)
	equal(t, "woken", b.wait(), b.key)
	b.mustLook()
	b.ended()
	equal(t, "state", b.stored().Status.Deliveries[0].State, v1alpha1.DeliverySent)
	equal(t, "calls", calls.Load(), int32(1))
}

func TestEventThatCannotBeKeptComesBack(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	b.refuse = errors.New("the disk is full")
	b.mustLook()
	equal(t, "wait", b.ended(), auditRetry)
	equal(t, "state", b.stored().Status.Deliveries[0].Audit.State, v1alpha1.AuditPending)
	b.refuse = nil
	b.mustLook()
	equal(t, "recorded", len(b.recorded), 1)
	equal(t, "printed", len(b.printed), 1)
}

func TestFailedWriteToTheConsoleIsTriedAgain(t *testing.T) {
	b := newBench(t, newRequest(withChannels(), func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Retry = v1alpha1.RetryPolicy{MaxAttempts: 3, InitialDelay: "1ms", MaxDelay: "1ms"}
	}))
	b.console = transient()
	for n := 0; b.stored().Status.FinishedTime == nil; n++ {
		if wait := b.mustLook(); n > 1000 || wait > auditCheck || wait <= 0 {
			t.Fatalf("looked at again in %s", wait)
		}
		if b.stored().Status.Deliveries[0].State == v1alpha1.DeliveryInFlight {
			b.ended()
		}
	}
	equal(t, "printed", len(b.printed), 3)
	equal(t, "state", b.stored().Status.Deliveries[0].State, v1alpha1.DeliveryFailed)
}

func TestSenderThatPanicsLeavesADoubt(t *testing.T) {
	b := newBench(t, newRequest(withChannels(), withMaxAttempts(1)))
	b.Channels.Console = senderFunc(func(context.Context, *delivery.Message) (delivery.Receipt, error) { panic("oops") })
	b.send()
	d := b.stored().Status.Deliveries[0]
	equal(t, "reason", d.LastError.Reason, "Panic")
	equal(t, "state", d.State, v1alpha1.DeliveryFailed)
}

// inDoubt is a request that is held in doubt on ops.
func inDoubt(channels ...string) *v1alpha1.NotificationRequest {
	return newRequest(withChannels(channels...), withPolicy(v1alpha1.AmbiguousHold), func(nr *v1alpha1.NotificationRequest) {
		ensureDeliveries(nr)
		d := &nr.Status.Deliveries[len(channels)-1]
		begin(d, webhook(), time.Now())
		fail(nr, d, v1alpha1.DeliveryError{Class: v1alpha1.ErrorAmbiguous, Reason: "Timeout"}, time.Now())
		d.State, d.AttemptDeadline = v1alpha1.DeliveryAmbiguous, nil
	})
}

func TestWordOfAPersonIsTakenOffAsItIsFollowed(t *testing.T) {
	for name, channels := range map[string][]string{"alone": {ops}, "beside the console": {"console", ops}} {
		t.Run(name, func(t *testing.T) {
			object, calls := receiver(t, accept)
			nr := inDoubt(channels...)
			nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: "ops=Retry,mail=Sent"}
			b := newBench(t, nr, object)
			b.mustLook()
			equal(t, "annotation", b.stored().Annotations[v1alpha1.ResolveAnnotation], "mail=Sent")
			b.mustLook()
			equal(t, "state", b.stored().Status.Deliveries[len(channels)-1].State, v1alpha1.DeliveryInFlight)
			for range channels {
				b.wait()
			}
			b.mustLook()
			equal(t, "calls", calls.Load(), int32(1))
			d := b.stored().Status.Deliveries[len(channels)-1]
			equal(t, "state", d.State, v1alpha1.DeliverySent)
			equal(t, "possible duplicate", d.PossibleDuplicate, new(true))
		})
	}
}

func TestFinishedRequestIsDeletedWhenItsTimeIsUp(t *testing.T) {
	for name, c := range map[string]struct {
		ttl      *int32
		rejected bool
		gone     bool
		wait     bool
	}{
		"at once":                       {ttl: new(int32(0)), gone: true},
		"later":                         {ttl: new(int32(3600)), wait: true},
		"never":                         {},
		"not while evidence is refused": {ttl: new(int32(0)), rejected: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newRequest(withChannels(), func(nr *v1alpha1.NotificationRequest) { nr.Spec.TTLSecondsAfterFinished = c.ttl }))
			b.send()
			b.acknowledge()
			if c.rejected {
				r := b.receipts.of(b.key)
				for id, receipt := range r {
					receipt.Recorded, receipt.Reason = false, "no"
					b.receipts.m[b.key][id] = receipt
				}
			}
			wait := b.mustLook()
			err := b.cluster.Get(t.Context(), b.key, &v1alpha1.NotificationRequest{})
			equal(t, "gone", apierrors.IsNotFound(err), c.gone)
			equal(t, "looked at again", wait > 0 && wait <= time.Hour, c.wait)
		})
	}
}

func TestDeletedRequestStaysUntilItsEvidenceIsRecorded(t *testing.T) {
	nr := newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Spec.Suspend = new(true) })
	b := newBench(t, nr, newChannel())
	b.mustLook()
	if err := b.cluster.Delete(t.Context(), nr); err != nil {
		t.Fatal(err)
	}
	b.mustLook()
	var kinds []string
	for _, e := range b.recorded {
		kinds = append(kinds, e.EventType)
	}
	equal(t, "recorded", kinds, []string{audit.TypeMessageFailed, audit.TypeRequestCancelled})
	equal(t, "finalizers", b.stored().Finalizers, []string{v1alpha1.Finalizer})
	b.acknowledge()
	b.mustLook()
	err := b.cluster.Get(t.Context(), b.key, nr)
	equal(t, "gone", apierrors.IsNotFound(err), true)
	b.acknowledge()
	b.mustLook()
	equal(t, "answers kept", len(b.receipts.m), 0)
}

func TestOutcomesReachStatusWhenTheManagerStops(t *testing.T) {
	for _, failure := range []error{nil, errors.New("connection refused")} {
		t.Run(fmt.Sprint(failure), func(t *testing.T) { testOutcomesReachStatus(t, failure) })
	}
}

func testOutcomesReachStatus(t *testing.T, failure error) {
	answer := make(chan struct{})
	object, calls := receiver(t, func(http.ResponseWriter, *http.Request) { <-answer })
	b := newBench(t, newRequest(withChannels(ops, "second")), object, newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Name, c.Spec.Suspend = "second", new(true)
	}))
	b.mustLook()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if failure != nil {
		b.failNext.Store(&failure)
	}
	drained := make(chan error)
	go func() { drained <- b.drain(ctx) }()
	close(answer)
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	equal(t, "state", b.stored().Status.Deliveries[0].State, v1alpha1.DeliverySent)
	equal(t, "calls", calls.Load(), int32(1))
}

func TestNoAttemptBeginsWhileTheManagerStops(t *testing.T) {
	object, calls := receiver(t, accept)
	b := newBench(t, newRequest(withChannels("console", ops)), object)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Reconcile(ctx, reconcile.Request{NamespacedName: b.key}); err != nil {
		t.Fatal(err)
	}
	states := []v1alpha1.DeliveryState{}
	for _, d := range b.stored().Status.Deliveries {
		states = append(states, d.State)
	}
	equal(t, "states", states, []v1alpha1.DeliveryState{v1alpha1.DeliveryPending, v1alpha1.DeliveryPending})
	equal(t, "printed", len(b.printed), 0)
	equal(t, "calls", calls.Load(), int32(0))
}

func TestNoSecretInWhatIsTold(t *testing.T) {
	object, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no access with "+r.Header.Get("Authorization")+" to "+r.URL.Path, http.StatusBadRequest)
	})
	address := object.Spec.Webhook.URL
	object.Spec.Webhook.URL, object.Spec.Webhook.URLSecretRef = "", secretRef("hook", "url")
	object.Spec.Webhook.Headers = []v1alpha1.Header{{Name: "Authorization", ValueSecretRef: secretRef("hook", "token")}}
	b := newBench(t, newRequest(), object, newSecret("hook", map[string]string{
		"url": address + "/" + planted, "token": "Bearer " + planted,
	}))
	b.mustLook()
	b.ended()
	nr := b.stored()
	equal(t, "state", nr.Status.Deliveries[0].State, v1alpha1.DeliveryFailed)
	all := append(encode(t, b.recorded), b.told()...)
	all = append(all, read(nr), nr.Status.Deliveries[0].LastError.Message)
	if i := slices.IndexFunc(all, func(s string) bool { return strings.Contains(s, planted) }); i >= 0 {
		t.Errorf("a secret is in %s", all[i])
	}
	equal(t, "something is told", len(all) > 4, true)
}

// The race detector sees it where an attempt reads what the step goes on writing.
func TestAnAttemptHasItsRequestToItself(t *testing.T) {
	object, calls := receiver(t, accept)
	mail := object.DeepCopy()
	mail.Name, mail.UID = "mail", "mail"
	nr := inDoubt("mail", ops)
	nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: "ops=Sent"}
	b := newBench(t, nr, object, mail)
	b.mustLook()
	equal(t, "annotations", b.stored().Annotations, nil)
	b.ended()
	equal(t, "calls", calls.Load(), int32(1))
	for _, d := range b.stored().Status.Deliveries {
		equal(t, d.Channel, d.State, v1alpha1.DeliverySent)
	}
}

func TestNoAttemptBeginsWhileItCouldNotBeRecorded(t *testing.T) {
	object, calls := receiver(t, accept)
	b := newBench(t, newRequest(withChannels(ops, "console")), object)
	storage := &storage{err: errors.New("connection refused")}
	b.hold.ask = storage.ask
	if wait := b.mustLook(); wait <= 0 || wait > recheck {
		t.Errorf("looked at again in %s", wait)
	}
	nr := b.stored()
	for _, d := range nr.Status.Deliveries {
		equal(t, "state of "+d.Channel, d.State, v1alpha1.DeliveryPending)
		equal(t, "attempts on "+d.Channel, d.Attempts, int32(0))
	}
	const why = "nothing is sent while DataStorage cannot record it: connection refused"
	equal(t, "status", read(nr)[1:strings.Index(read(nr), "\nDelivered")],
		"Routed=True ChannelsGiven: the request names its channels\nReady=False Pending: sent to 0 of 2 channels; ops: AuditOutage: "+why+"; console: AuditOutage: "+why)
	equal(t, "told", b.told(), []string{"Warning DeliveryDelayed ops: AuditOutage: " + why, "Warning DeliveryDelayed console: AuditOutage: " + why})
	equal(t, "places taken", len(b.sends.slots), 0)
	b.mustLook()
	equal(t, "sent", int(calls.Load())+len(b.printed), 0)
	equal(t, "told again", b.told(), nil)

	storage.set(nil)
	woken, over := b.hold.look(t.Context())
	equal(t, "over", over, true)
	equal(t, "woken", woken, 1)
	equal(t, "woken", b.wait(), b.key)
	b.mustLook()
	b.wait()
	b.ended()
	nr = b.stored()
	for _, d := range nr.Status.Deliveries {
		equal(t, "state of "+d.Channel, d.State, v1alpha1.DeliverySent)
		equal(t, "attempts on "+d.Channel, d.Attempts, int32(1))
	}
	equal(t, "sent", int(calls.Load())+len(b.printed), 2)
}

func TestDataStorageIsAskedOnlyWhereAnAttemptWouldBegin(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.NotificationRequest){
		"suspended": func(nr *v1alpha1.NotificationRequest) { nr.Spec.Suspend = new(true) },
		"too early": func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.NotBefore = new(metav1.NewTime(time.Now().Add(time.Hour)))
		},
		"held": func(nr *v1alpha1.NotificationRequest) { nr.Status = inDoubt(ops).Status },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newRequest(change), newChannel())
			storage := &storage{}
			b.hold.ask = storage.ask
			b.mustLook()
			equal(t, "questions", storage.questions(), 0)
		})
	}
}
