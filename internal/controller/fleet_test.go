package controller

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// fleet is many requests to one channel, the API server that holds them, and the
// manager at work on them. It plays on a fake clock.
type fleet struct {
	t *testing.T

	mu       sync.Mutex
	requests map[types.NamespacedName]*v1alpha1.NotificationRequest
	channel  *v1alpha1.NotificationChannel
	version  int

	looks map[string]int
	sent  []string // names in the order in which messages arrived
	at    []time.Time
	// answer is what the channel answers to its nth message.
	answer func(n int) error
}

func newFleet(t *testing.T, object *v1alpha1.NotificationChannel) *fleet {
	object.Spec.Type = v1alpha1.ChannelConsole // a sender of the test's own
	return &fleet{
		t: t, channel: object, requests: map[types.NamespacedName]*v1alpha1.NotificationRequest{}, looks: map[string]int{},
		answer: func(int) error { return nil },
	}
}

// add creates the nth request, a thousandth of a second after the one before. Its
// name says nothing of its age.
func (f *fleet) add(n int, change ...func(*v1alpha1.NotificationRequest)) types.NamespacedName {
	nr := newRequest(change...)
	nr.Name = fmt.Sprintf("r%05d-%d", (n*7919)%100003, n)
	nr.UID, nr.ResourceVersion = types.UID(nr.Name), "1"
	nr.Finalizers = []string{v1alpha1.Finalizer}
	nr.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	key := client.ObjectKeyFromObject(nr)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests[key] = nr
	return key
}

func (f *fleet) client() client.WithWatch {
	get := func(_ context.Context, _ client.WithWatch, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch into := object.(type) {
		case *v1alpha1.NotificationRequest:
			if nr := f.requests[key]; nr != nil {
				nr.DeepCopyInto(into)
				return nil
			}
		case *v1alpha1.NotificationChannel:
			f.channel.DeepCopyInto(into)
			return nil
		}
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	list := func(_ context.Context, _ client.WithWatch, object client.ObjectList, _ ...client.ListOption) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, nr := range f.requests {
			into := object.(*v1alpha1.NotificationRequestList)
			into.Items = append(into.Items, *nr)
		}
		return nil
	}
	patch := func(object client.Object) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		nr := object.(*v1alpha1.NotificationRequest)
		held := f.requests[client.ObjectKeyFromObject(nr)]
		switch {
		case held == nil:
			return apierrors.NewNotFound(schema.GroupResource{}, nr.Name)
		case held.ResourceVersion != nr.ResourceVersion:
			return apierrors.NewConflict(schema.GroupResource{}, nr.Name, nil)
		}
		f.version++
		nr.ResourceVersion = strconv.Itoa(f.version)
		f.requests[client.ObjectKeyFromObject(nr)] = nr.DeepCopy()
		return nil
	}
	return interceptor.NewClient(fake.NewClientBuilder().WithScheme(testScheme(f.t)).Build(), interceptor.Funcs{
		Get: get, List: list,
		Patch: func(_ context.Context, _ client.WithWatch, object client.Object, _ client.Patch, _ ...client.PatchOption) error {
			return patch(object)
		},
		SubResourcePatch: func(_ context.Context, _ client.Client, _ string, object client.Object, _ client.Patch, _ ...client.SubResourcePatchOption) error {
			return patch(object)
		},
	})
}

// process is one manager's life.
type process struct {
	*NotificationRequestReconciler
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	all   sync.WaitGroup
}

// start starts a manager with 4 workers, which looks at all requests in no order.
func (f *fleet) start() *process {
	f.t.Helper()
	c := f.client()
	p := &process{queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())}
	p.NotificationRequestReconciler = &NotificationRequestReconciler{
		Client: c, Events: &events.FakeRecorder{}, Health: &ChannelHealth{}, Metrics: NewMetrics(prometheus.NewRegistry()),
		Channels: &Channels{Reader: c, Console: senderFunc(func(_ context.Context, m *delivery.Message) (delivery.Receipt, error) {
			<-time.After(10 * time.Millisecond)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.sent, f.at = append(f.sent, m.Name), append(f.at, time.Now())
			return delivery.Receipt{Digest: "sha256:" + strings.Repeat("0", 64)}, f.answer(len(f.sent))
		})},
		Record: func(e audit.Event) error {
			p.OnReceipts([]audit.Receipt{{
				EventID: e.EventID, Namespace: e.Namespace, ResourceID: e.ResourceID, Recorded: true, LogIndex: new(int64(1)), Time: time.Now(),
			}})
			return nil
		},
	}
	if err := p.wake.start(f.t.Context(), p.queue); err != nil {
		f.t.Fatal(err)
	}
	p.sends = newSends(p.wake.request, p.Health, p.history)
	p.hold = newHold(nil, p.wake.request)
	for range 4 {
		p.all.Go(func() { f.work(p) })
	}
	p.lookAtAll(f)
	return p
}

func (p *process) lookAtAll(f *fleet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.requests {
		p.wake.request(key)
	}
}

func (f *fleet) work(p *process) {
	for {
		req, stop := p.queue.Get()
		if stop {
			return
		}
		f.mu.Lock()
		f.looks[req.Name]++
		f.mu.Unlock()
		result, err := p.Reconcile(f.t.Context(), req)
		switch {
		case err != nil:
			p.queue.AddRateLimited(req)
		case result.RequeueAfter > 0:
			p.queue.AddAfter(req, result.RequeueAfter)
		}
		p.queue.Done(req)
	}
}

// stop stops a manager. What it knew is gone with it.
func (p *process) stop() {
	p.queue.ShutDown()
	p.all.Wait()
	p.sends.drain()
}

// inOrder fails where messages did not arrive in the order of their requests'
// creation, which is known to the second.
func (f *fleet) inOrder(t *testing.T) {
	t.Helper()
	for i := 1; i < len(f.sent); i++ {
		a, b := f.requests[types.NamespacedName{Namespace: "shop", Name: f.sent[i-1]}], f.requests[types.NamespacedName{Namespace: "shop", Name: f.sent[i]}]
		if a.CreationTimestamp.After(b.CreationTimestamp.Time) {
			t.Fatalf("message %d is of %s, the one before of %s", i, b.CreationTimestamp, a.CreationTimestamp)
		}
	}
}

// stored returns a request as the API server has it.
func (f *fleet) stored(key types.NamespacedName) *v1alpha1.NotificationRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[key].DeepCopy()
}

// received returns the names of the messages that arrived.
func (f *fleet) received() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent)
}

// times returns when they did.
func (f *fleet) times() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.at)
}

// pass lets time pass until all have done what they can.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// inLine returns how many requests a manager keeps in line for the channel.
func (p *process) inLine() int {
	p.sends.mu.Lock()
	defer p.sends.mu.Unlock()
	if c := p.sends.slots[place]; c != nil {
		return len(c.line)
	}
	return 0
}

// 10,000 requests came to a channel of a message a second while nobody was there. A
// manager sends them, and halfway another one.
func TestTenThousandRequestsToASlowChannelAreSentInOrderAndLookedAtFewTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		f := newFleet(t, newChannel(limited(1, "1s", 1)))
		for i := range n {
			if i%100 == 0 {
				pass(time.Second)
			}
			f.add(i)
		}
		end := time.Now().Add(-500 * time.Millisecond)
		for _, sent := range []int{n / 2, n} {
			p := f.start()
			defer p.stop()
			synctest.Wait()
			if got := p.inLine(); got < n-len(f.received())-1 || got > n-len(f.received()) {
				t.Errorf("%d requests are in line, and %d are not sent", got, n-len(f.received()))
			}
			end = end.Add(n / 2 * time.Second)
			pass(time.Until(end))
			equal(t, "sent", len(f.received()), sent)
			p.stop()
			equal(t, "left in line", p.inLine(), n-sent)
		}
		f.inOrder(t)
		for i := 1; i < n; i++ {
			if d := f.at[i].Sub(f.at[i-1]); d < time.Second-10*time.Millisecond {
				t.Fatalf("message %d came %s after the one before", i, d)
			}
		}
		// To be put in line, by each manager; to begin, to end, to be recorded, and to
		// see 5 minutes later that it is.
		for name, looks := range f.looks {
			if looks > 6 {
				t.Fatalf("%s was looked at %d times", name, looks)
			}
		}
	})
}

// Those who wait tell why, and what has become of others leaves no hole.
func TestLineClosesUpOverThoseWhoHaveGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newChannel(limited(1, "1m", 1)))
		var keys []types.NamespacedName
		for i := range 40 {
			keys = append(keys, f.add(i))
			pass(time.Second)
		}
		start := time.Now()
		p := f.start()
		defer p.stop()
		synctest.Wait()
		d := f.stored(keys[39]).Status.Deliveries[0]
		equal(t, "reason", d.LastError.Reason, reasonRateLimit)
		equal(t, "attempts", d.Attempts, int32(0))
		equal(t, "turn", d.NextAttemptTime.Sub(start).Round(time.Minute), 39*time.Minute)

		for i, key := range keys[1:38] {
			f.mu.Lock()
			nr := f.requests[key].DeepCopy()
			switch i % 3 {
			case 0:
				nr.Spec.Suspend = new(true)
			case 1:
				nr.DeletionTimestamp = new(metav1.Now())
			case 2:
				nr.Spec.Deadline = "1s"
			}
			f.requests[key] = nr
			f.mu.Unlock()
		}
		pass(30 * time.Second)
		p.lookAtAll(f)
		pass(2*time.Minute - 25*time.Second)
		equal(t, "sent", len(f.received()), 3)
		got := f.received()
		slices.Sort(got)
		want := []string{keys[0].Name, keys[38].Name, keys[39].Name}
		slices.Sort(want)
		equal(t, "those who stayed", got, want)

		f.mu.Lock()
		f.requests[keys[1]].Spec.Suspend = nil
		f.mu.Unlock()
		p.wake.request(keys[1])
		pass(time.Minute)
		equal(t, "who was suspended", f.received()[3], keys[1].Name)
	})
}

func TestChangedRateLimitIsForThoseWhoWaitToo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.NotificationChannel)
		want   int // sent a minute later
	}{
		"raised":     {limited(1, "1s", 1), 60},
		"lowered":    {limited(1, "30s", 1), 2},
		"taken away": {limited(0, "", 0), 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, newChannel(limited(1, "10s", 1)))
				for i := range 200 {
					f.add(i)
				}
				p := f.start()
				defer p.stop()
				pass(100 * time.Millisecond)
				equal(t, "sent before", len(f.received()), 1)
				f.mu.Lock()
				f.channel.Generation++
				c.change(f.channel)
				f.mu.Unlock()
				p.lookAtAll(f) // as the watch does
				pass(time.Minute)
				equal(t, "sent", len(f.received()), min(c.want+1, 200))
			})
		})
	}
}

// A repeated attempt needs a token as the first one did, and goes before those who
// came later.
func TestRepeatedAttemptsTakeTokensToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newChannel(limited(1, "10s", 1)))
		f.answer = func(n int) error {
			if n == 1 {
				return transient()
			}
			return nil
		}
		first := f.add(0)
		pass(time.Second)
		f.add(1)
		pass(time.Second)
		f.add(2)
		p := f.start()
		defer p.stop()
		pass(25 * time.Second)
		equal(t, "sent", len(f.received()), 3)
		equal(t, "again", f.received()[1], first.Name)
		equal(t, "attempts", f.stored(first).Status.Deliveries[0].Attempts, int32(2))
	})
}

// The receiver's word about one message holds for all of them.
func TestRetryAfterHoldsBackTheOthersWithoutTheirAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newChannel())
		f.answer = func(n int) error {
			if n == 1 {
				return &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429", Message: "receiver.example answered 429", RetryAfter: time.Hour}
			}
			return nil
		}
		f.add(0)
		p := f.start()
		defer p.stop()
		pass(time.Second)
		late := f.add(1)
		p.wake.request(late)
		pass(50 * time.Minute)
		equal(t, "sent", len(f.received()), 1)
		d := f.stored(late).Status.Deliveries[0]
		equal(t, "reason", d.LastError.Reason, reasonThrottled)
		equal(t, "attempts", d.Attempts, int32(0))
		equal(t, "until", d.NextAttemptTime.Sub(f.times()[0]), time.Hour)
		pass(10 * time.Minute)
		equal(t, "sent", len(f.received()), 3)
	})
}

// Many requests meet a channel that is away for an hour. Few attempts are spent on
// it, and once it is back all are sent, those with little time left too.
func TestOpenCircuitSparesAttemptsAndLosesNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		f := newFleet(t, newChannel())
		back := time.Now().Add(time.Hour)
		f.answer = func(int) error {
			if time.Now().Before(back) {
				return transient()
			}
			return nil
		}
		for i := range n {
			f.add(i, func(nr *v1alpha1.NotificationRequest) { nr.Spec.Retry.MaxAttempts = 20 })
		}
		p := f.start()
		defer p.stop()
		pass(time.Minute)
		// The channel comes back for its last attempt, though no trial is due.
		tight := f.add(n, withDeadline("59m20s"))
		p.wake.request(tight)
		pass(58 * time.Minute)
		// 16 at the same time and 4 more when it went away, and a trial every 5 minutes.
		if got := len(f.received()); got < circuitFailures || got > channelLimit+circuitFailures-1+15 {
			t.Errorf("%d attempts within the hour", got)
		}
		d := f.stored(tight).Status.Deliveries[0]
		equal(t, "reason", d.LastError.Reason, reasonCircuitOpen)
		pass(6*time.Minute + time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		for key, nr := range f.requests {
			if nr.Status.Deliveries[0].State != v1alpha1.DeliverySent {
				t.Errorf("%s is %s", key, nr.Status.Deliveries[0].State)
			}
		}
	})
}

func TestChangedConfigurationIsTriedByOneAndThenByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newChannel())
		bad := true
		f.answer = func(int) error {
			if bad {
				return refused()
			}
			return nil
		}
		for i := range 100 {
			f.add(i)
		}
		p := f.start()
		defer p.stop()
		pass(10 * time.Second)
		spent := len(f.received())
		equal(t, "attempts before it opened", spent >= circuitFailures && spent < channelLimit+circuitFailures, true)
		f.mu.Lock()
		bad = false
		f.channel.Generation++
		f.mu.Unlock()
		p.lookAtAll(f)
		pass(time.Second)
		equal(t, "sent", len(f.received()), spent+100)
		equal(t, "one alone first", f.times()[spent+1].After(f.times()[spent]), true)
	})
}
