package controller

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// probeBench is a channel and the manager that looks after it.
type probeBench struct {
	*NotificationChannelReconciler
	t       *testing.T
	cluster client.Client
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
	calls   atomic.Int32
	answer  func(context.Context, *delivery.Message) (delivery.Receipt, error)
	opened  chan types.NamespacedName

	recorder *events.FakeRecorder
}

func newProbeBench(t *testing.T, change ...func(*v1alpha1.NotificationChannel)) *probeBench {
	t.Helper()
	object := newChannel(change...)
	object.Spec.Type = v1alpha1.ChannelConsole // a sender of the test's own
	b := &probeBench{t: t, opened: make(chan types.NamespacedName, 10), recorder: events.NewFakeRecorder(100), answer: func(context.Context, *delivery.Message) (delivery.Receipt, error) {
		return delivery.Receipt{ExternalID: "msg-1"}, nil
	}}
	var channels *Channels
	channels, b.cluster = newChannels(t, object)
	channels.Console = senderFunc(func(ctx context.Context, m *delivery.Message) (delivery.Receipt, error) {
		b.calls.Add(1)
		return b.answer(ctx, m)
	})
	b.NotificationChannelReconciler = &NotificationChannelReconciler{Client: b.cluster, Channels: channels, Events: b.recorder}
	b.restart()
	return b
}

// restart loses all that the manager knew.
func (b *probeBench) restart() {
	b.t.Helper()
	b.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	b.t.Cleanup(b.queue.ShutDown)
	b.Health = &ChannelHealth{opened: func(key types.NamespacedName) { b.opened <- key }}
	if err := b.Health.wake.start(b.t.Context(), b.queue); err != nil {
		b.t.Fatal(err)
	}
}

func (b *probeBench) look() time.Duration {
	b.t.Helper()
	result, err := b.Reconcile(b.t.Context(), reconcile.Request{NamespacedName: place})
	if err != nil {
		b.t.Fatal(err)
	}
	return result.RequeueAfter
}

// answered looks at the channel as it is woken, until the probe has ended.
func (b *probeBench) answered() {
	b.t.Helper()
	for b.probe().State == v1alpha1.ProbeInFlight {
		item, _ := b.queue.Get()
		b.queue.Done(item)
		b.look()
	}
}

func (b *probeBench) ask(value string) {
	b.t.Helper()
	object := b.stored()
	object.Annotations = map[string]string{v1alpha1.ProbeAnnotation: value}
	if err := b.cluster.Update(b.t.Context(), object); err != nil {
		b.t.Fatal(err)
	}
}

func (b *probeBench) stored() *v1alpha1.NotificationChannel {
	b.t.Helper()
	object := &v1alpha1.NotificationChannel{}
	if err := b.cluster.Get(b.t.Context(), place, object); err != nil {
		b.t.Fatal(err)
	}
	return object
}

func (b *probeBench) probe() v1alpha1.ChannelProbe { return b.stored().Status.Probe }

func TestEachNewValueSendsOneTestMessage(t *testing.T) {
	b := newProbeBench(t)
	b.look()
	equal(t, "unasked", b.calls.Load(), int32(0))
	var keys []string
	b.answer = func(_ context.Context, m *delivery.Message) (delivery.Receipt, error) {
		equal(t, "status while it is sent", b.probe().State, v1alpha1.ProbeInFlight)
		equal(t, "subject", m.Subject, "Test message of channel ops")
		keys = append(keys, m.Key)
		return delivery.Receipt{ExternalID: "msg-1"}, nil
	}
	for n, value := range []string{"2026-03-01T10:00:00+00:00", "2026-03-01T10:00:01+00:00", strings.Repeat("x", 1000)} {
		b.ask(value)
		b.look()
		b.answered()
		for range 3 {
			b.look()
		}
		b.restart()
		b.look()
		p := b.probe()
		equal(t, "calls", b.calls.Load(), int32(n+1))
		equal(t, "value", p.RequestedAt, truncate(value, 64))
		equal(t, "state", p.State, v1alpha1.ProbeSent)
		equal(t, "receipt", p.ExternalID, "msg-1")
		equal(t, "error", p.Error, v1alpha1.DeliveryError{})
		equal(t, "times", !p.FinishedTime.Before(p.StartedTime), true)
		equal(t, "duration", strings.HasSuffix(string(p.Duration), "ms"), true)
	}
	if keys[0] == keys[1] || keys[1] == keys[2] {
		t.Errorf("two probes have one key: %v", keys)
	}
	equal(t, "neither a message", b.stored().Status.LastSuccessTime == nil, true)
}

func TestProbeShowsWhatTheChannelAnswered(t *testing.T) {
	for name, err := range map[string]error{
		"transient": transient(), "permanent": permanent(), "config": refused(), "ambiguous": unanswered(),
	} {
		t.Run(name, func(t *testing.T) {
			b := newProbeBench(t, func(c *v1alpha1.NotificationChannel) { c.Spec.Suspend = new(true) })
			b.answer = func(context.Context, *delivery.Message) (delivery.Receipt, error) { return delivery.Receipt{}, err }
			b.ask("now")
			b.look()
			b.answered()
			equal(t, "state", b.probe().State, v1alpha1.ProbeFailed)
			equal(t, "error", b.probe().Error, deliveryError(delivery.Classify(err)))
			equal(t, "failure of a message", b.stored().Status.LastFailure.Time == nil, true)
			equal(t, "circuit", b.stored().Status.Circuit.State, v1alpha1.CircuitClosed)
			equal(t, "opened", len(b.opened), 0)
		})
	}
	t.Run("a panic", func(t *testing.T) {
		b := newProbeBench(t)
		b.answer = func(context.Context, *delivery.Message) (delivery.Receipt, error) { panic("nil") }
		b.ask("now")
		b.look()
		b.answered()
		equal(t, "reason", b.probe().Error.Reason, "Panic")
	})
	t.Run("no Secret", func(t *testing.T) {
		b := newProbeBench(t)
		object := b.stored()
		object.Spec.Type, object.Spec.Webhook.SigningSecretRef = v1alpha1.ChannelWebhook, secretRef("key", "key")
		if err := b.cluster.Update(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		b.ask("now")
		b.look()
		b.answered()
		equal(t, "state", b.probe().State, v1alpha1.ProbeFailed)
		equal(t, "reason", b.probe().Error.Reason, "SecretNotFound")
	})
}

// Nobody can know whether it arrived, so nobody sends it again.
func TestInterruptedProbeSaysSo(t *testing.T) {
	b := newProbeBench(t)
	started := make(chan struct{})
	b.answer = func(ctx context.Context, _ *delivery.Message) (delivery.Receipt, error) {
		close(started)
		<-ctx.Done()
		return delivery.Receipt{}, unanswered()
	}
	b.ask("now")
	b.look()
	<-started
	b.restart()
	if again := b.look(); again <= 0 || again > 10*time.Second+outcomeGrace {
		t.Errorf("looked at again in %s", again)
	}
	equal(t, "state until its deadline", b.probe().State, v1alpha1.ProbeInFlight)
	b.ask("later")
	b.look()
	equal(t, "another value waits for that", b.calls.Load(), int32(1))

	object := b.stored()
	deadline := object.Status.Probe.Deadline.Time
	send, _ := planProbe(object, nil, deadline)
	equal(t, "the other value is sent then", send, true)
	delete(object.Annotations, v1alpha1.ProbeAnnotation)
	object.Status.Probe = b.probe()
	send, _ = planProbe(object, nil, deadline)
	equal(t, "sent again", send, false)
	equal(t, "state", object.Status.Probe.State, v1alpha1.ProbeInterrupted)
	equal(t, "reason", object.Status.Probe.Error.Reason, "OutcomeUnknown")
}

// Whoever loses the write of the intent sends nothing.
func TestProbeIsSentByWhomeverStatusNames(t *testing.T) {
	b := newProbeBench(t)
	b.ask("now")
	fail := errors.New("connection reset")
	b.Client = interceptor.NewClient(b.cluster.(client.WithWatch), interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, object client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return errors.Join(c.SubResource(sub).Patch(ctx, object, patch, opts...), fail)
		},
	})
	_, err := b.Reconcile(t.Context(), reconcile.Request{NamespacedName: place})
	equal(t, "error", errors.Is(err, fail), true)
	b.Client = b.cluster
	b.look()
	equal(t, "calls", b.calls.Load(), int32(0))
	equal(t, "state", b.probe().State, v1alpha1.ProbeInFlight)
}

func TestProbeIsNotSentBeforeItsIntentIsWritten(t *testing.T) {
	for name, err := range map[string]error{
		"somebody was faster": *conflict(),
		"the channel is gone": apierrors.NewNotFound(schema.GroupResource{}, ops),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newProbeBench(t)
				b.ask("now")
				b.Client = interceptor.NewClient(b.cluster.(client.WithWatch), interceptor.Funcs{
					SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
						return err
					},
				})
				b.look()
				synctest.Wait()
				equal(t, "calls", b.calls.Load(), int32(0))
				b.queue.ShutDown()
			})
		})
	}
}

func TestProbeThatArrivesClosesTheCircuit(t *testing.T) {
	b := newProbeBench(t, func(c *v1alpha1.NotificationChannel) {
		c.Status.Circuit = failing(t, transient()).circuit
	})
	b.Health.use(place, func(g *gate) { g.learn(b.stored(), "A", time.Now()) })
	b.look()
	equal(t, "before", b.stored().Status.Circuit.State, v1alpha1.CircuitOpen)
	b.ask("now")
	b.look()
	b.answered()
	equal(t, "after", b.stored().Status.Circuit, v1alpha1.ChannelCircuit{State: v1alpha1.CircuitClosed})
	equal(t, "told", <-b.opened, place)
}
