package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
)

// newRoute returns a route of the namespace of newRequest.
func newRoute(name string, change ...func(*v1alpha1.NotificationRouteSpec)) *v1alpha1.NotificationRoute {
	route := &v1alpha1.NotificationRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "8a1c7f4e-0000-4000-8000-000000000009", Generation: 2},
		Spec: v1alpha1.NotificationRouteSpec{
			Order: 100, TimeZone: "UTC", Channels: []v1alpha1.ChannelReference{{Name: v1alpha1.ConsoleChannel}},
		},
	}
	for _, f := range change {
		f(&route.Spec)
	}
	return route
}

func leadsTo(channels ...string) func(*v1alpha1.NotificationRouteSpec) {
	return func(s *v1alpha1.NotificationRouteSpec) {
		s.Channels = nil
		for _, name := range channels {
			s.Channels = append(s.Channels, v1alpha1.ChannelReference{Name: name})
		}
	}
}

func routed(nr *v1alpha1.NotificationRequest) string {
	c := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionRouted)
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

func TestARequestWithoutChannelsGoesWhereItsRoutesSay(t *testing.T) {
	object, calls := receiver(t, accept)
	elsewhere := newRoute("first")
	elsewhere.Namespace = "office"
	b := newBench(t, newRequest(withChannels()), object, newRoute("second", leadsTo(ops, "console")), elsewhere)
	b.mustLook()
	nr := b.stored()
	equal(t, "condition", routed(nr), "True RouteMatched: the route second leads to ops, console")
	ref := v1alpha1.RouteReference{Name: "second", UID: "8a1c7f4e-0000-4000-8000-000000000009", Generation: 2}
	equal(t, "channels", nr.Status.RoutedChannels, []v1alpha1.RoutedChannel{{Name: ops, Route: ref}, {Name: "console", Route: ref}})
	b.wait()
	b.ended()
	nr = b.stored()
	equal(t, "ready", meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionReady), true)
	equal(t, "posted", calls.Load(), int32(1))
	equal(t, "printed", len(b.printed), 1)
	equal(t, "decided at", meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionRouted).ObservedGeneration, int64(1))
}

func TestTheDecisionIsCommittedBeforeTheMessageIsSent(t *testing.T) {
	var b *bench
	var seen []v1alpha1.RoutedChannel
	object, calls := receiver(t, func(http.ResponseWriter, *http.Request) { seen = b.stored().Status.RoutedChannels })
	b = newBench(t, newRequest(withChannels()), object, newRoute("r", leadsTo(ops)))
	b.failNext.Store(conflict())
	b.mustLook()
	equal(t, "attempts without it", len(b.sends.slots), 0)
	b.send()
	equal(t, "status when it was sent", seen, b.stored().Status.RoutedChannels)
	equal(t, "channels", len(seen), 1)
	equal(t, "posted", calls.Load(), int32(1))
}

func TestADecisionOutlivesItsRoute(t *testing.T) {
	for name, change := range map[string]func(context.Context, client.Client, *v1alpha1.NotificationRoute) error{
		"changed": func(ctx context.Context, c client.Client, route *v1alpha1.NotificationRoute) error {
			leadsTo("console")(&route.Spec)
			return c.Update(ctx, route)
		},
		"deleted": func(ctx context.Context, c client.Client, route *v1alpha1.NotificationRoute) error {
			return c.Delete(ctx, route)
		},
		"no longer the first": func(ctx context.Context, c client.Client, _ *v1alpha1.NotificationRoute) error {
			return c.Create(ctx, newRoute("earlier", func(s *v1alpha1.NotificationRouteSpec) { s.Order = 1 }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			route := newRoute("r", leadsTo(ops))
			b := newBench(t, newRequest(withChannels()), route)
			b.mustLook() // there is no channel yet, so it waits
			before := b.stored().Status
			equal(t, "reason", before.Deliveries[0].LastError.Reason, v1alpha1.ReasonChannelNotFound)
			if err := b.cluster.Get(t.Context(), client.ObjectKeyFromObject(route), route); err != nil {
				t.Fatal(err)
			}
			if err := change(t.Context(), b.cluster, route); err != nil {
				t.Fatal(err)
			}
			object, calls := receiver(t, accept)
			if err := b.cluster.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			b.send()
			after := b.stored().Status
			equal(t, "channels", after.RoutedChannels, before.RoutedChannels)
			equal(t, "condition", routed(b.stored()), "True RouteMatched: the route r leads to ops")
			equal(t, "deliveries", len(after.Deliveries), 1)
			equal(t, "state", after.Deliveries[0].State, v1alpha1.DeliverySent)
			equal(t, "posted", calls.Load(), int32(1))
			equal(t, "printed", len(b.printed), 0)
		})
	}
}

func TestNoRouteLeadsToTheConsole(t *testing.T) {
	b := newBench(t, newRequest(withChannels()), newRoute("odd", leadsTo(ops), func(s *v1alpha1.NotificationRouteSpec) { s.TimeZone = "Mars/Olympus" }))
	b.send()
	equal(t, "condition", routed(b.stored()),
		"True NoRouteMatched: no route matches, so the message goes to console; the route odd is skipped: timeZone Mars/Olympus is not in the IANA database")
	equal(t, "channels", b.stored().Status.RoutedChannels, []v1alpha1.RoutedChannel{{Name: "console"}})
	equal(t, "printed", len(b.printed), 1)
}

func TestARequestWithChannelsAsksNoRoute(t *testing.T) {
	b := newBench(t, newRequest(withChannels("console")), newRoute("r", leadsTo(ops)))
	b.Routes = nil
	b.send()
	equal(t, "condition", routed(b.stored()), "True ChannelsGiven: the request names its channels")
	equal(t, "channels", b.stored().Status.RoutedChannels, nil)
	equal(t, "printed", len(b.printed), 1)
}

func TestARequestIsRoutedOnceTheRoutesCanBeRead(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	away := true
	b.Routes = interceptor.NewClient(b.cluster, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if away {
				return errors.New("connection refused")
			}
			return c.List(ctx, list, opts...)
		},
	})
	if _, err := b.look(); err == nil || err.Error() != "list routes: connection refused" {
		t.Errorf("error %v", err)
	}
	equal(t, "writes", b.writes.Load(), int32(0))
	away = false
	b.send()
	equal(t, "condition", routed(b.stored()), "True NoRouteMatched: no route matches, so the message goes to console")
}

func atNight(s *v1alpha1.NotificationRouteSpec) {
	s.QuietHours = []v1alpha1.TimeWindow{{Start: "22:00", End: "07:00"}}
}

// The clock of the bubble starts at midnight, and each pass is made when the one
// before has asked for it.
func TestQuietHoursHoldTheMessageUntilTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newRequest(withChannels(), withDeadline("30m")), newRoute("r", atNight))
		start := time.Now()
		equal(t, "time", start.Format("15:04"), "00:00")
		end := start.Add(7 * time.Hour)
		wait := b.mustLook()
		nr := b.stored()
		d := nr.Status.Deliveries[0]
		equal(t, "state", d.State, v1alpha1.DeliveryPending)
		equal(t, "next attempt", d.NextAttemptTime.Time.Equal(end), true)
		equal(t, "why", d.LastError, v1alpha1.DeliveryError{
			Class: "Transient", Reason: "QuietHours", Message: "the route's quiet hours hold the message until 2000-01-01T07:00:00Z",
		})
		equal(t, "ready", meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReady).Message,
			"sent to 0 of 1 channel; console: QuietHours: the route's quiet hours hold the message until 2000-01-01T07:00:00Z")
		equal(t, "reconciling", meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionReconciling), true)
		equal(t, "looked at again", wait, 7*time.Hour)
		// A restart, or a route that has lost its quiet hours, sends nothing earlier.
		if err := b.cluster.Delete(t.Context(), newRoute("r")); err != nil {
			t.Fatal(err)
		}
		<-time.After(wait - time.Millisecond)
		equal(t, "looked at again", b.mustLook(), time.Millisecond)
		equal(t, "printed in the quiet hours", len(b.printed), 0)
		<-time.After(time.Millisecond)
		b.send()
		equal(t, "printed", len(b.printed), 1)
		d = b.stored().Status.Deliveries[0]
		equal(t, "state", d.State, v1alpha1.DeliverySent)
		equal(t, "error", d.LastError, v1alpha1.DeliveryError{})
	})
}

func TestQuietHoursDoNotHoldACriticalMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newRequest(withChannels(), func(nr *v1alpha1.NotificationRequest) { nr.Spec.Priority = "Critical" }), newRoute("r", atNight))
		b.send()
		equal(t, "printed", len(b.printed), 1)
	})
}

func TestQuietHoursAreThoseOfNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newRequest(withChannels(), func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.NotBefore = new(metav1.NewTime(time.Now().Add(46 * time.Hour))) // 22:00
		}), newRoute("r", atNight))
		end := time.Now().Add(55 * time.Hour)
		equal(t, "looked at again", b.mustLook(), 46*time.Hour)
		equal(t, "quiet until", b.stored().Status.RoutedChannels[0].QuietUntil.Time.Equal(end), true)
		equal(t, "printed", len(b.printed), 0)
	})
}

func TestTheDeadlineCountsFromTheEndOfQuietHours(t *testing.T) {
	l := newLab(t, withChannels("a", "b"), withDeadline("30m"))
	l.nr.Spec.Channels = nil
	end := born.Add(9 * time.Hour)
	l.nr.Status.RoutedChannels = []v1alpha1.RoutedChannel{{Name: "a", QuietUntil: new(metav1.NewTime(end))}, {Name: "b"}}
	equal(t, "due", l.plan().due, []string{"b"})
	l.now = born.Add(30 * time.Minute)
	d := l.plan()
	equal(t, "state of b", l.delivery("b").State, v1alpha1.DeliverySkipped)
	equal(t, "state of a", l.delivery("a").State, v1alpha1.DeliveryPending)
	equal(t, "wait", l.now.Add(d.wait), end)
	l.now = end
	equal(t, "due", l.plan().due, []string{"a"})
	l.now = end.Add(30 * time.Minute)
	l.plan()
	equal(t, "state of a", l.delivery("a").State, v1alpha1.DeliverySkipped)
}

// A request is in the index as it was before its routing reached the cache.
func TestAChannelWakesRequestsThatMayHaveBeenRoutedToIt(t *testing.T) {
	unknown := newRequest(withChannels())
	other := newRequest(withChannels("other"))
	other.Name, other.UID = "order-8", "other"
	there := newRequest(withChannels())
	there.Name, there.UID = "order-9", "there"
	there.Status.RoutedChannels = []v1alpha1.RoutedChannel{{Name: ops}}
	there.Status.Deliveries = []v1alpha1.Delivery{{Channel: ops, State: v1alpha1.DeliveryPending}}
	cluster := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(unknown, other, there).
		WithIndex(&v1alpha1.NotificationRequest{}, waitingIndex, waitingFor).Build()
	r := &NotificationRequestReconciler{Channels: &Channels{Reader: cluster}}
	var woken []string
	for _, request := range r.requestsOfChannel(t.Context(), newChannel()) {
		woken = append(woken, request.Name)
	}
	equal(t, "woken", woken, []string{"order-9", "order-7"})
}

func TestARoutesStatusSaysWhetherItCanBeUsed(t *testing.T) {
	route := newRoute("r")
	cluster := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(route).WithStatusSubresource(route).Build()
	r := &NotificationRouteReconciler{Client: cluster, Channels: &Channels{Reader: cluster}}
	look := func() string {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(route)}); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(route), route); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(route.Status.Conditions, v1alpha1.ConditionReady)
		return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	}
	equal(t, "ready", look(), "True RouteValid: requests are routed by it")
	equal(t, "generation", route.Status.ObservedGeneration, int64(2))
	equal(t, "channels", route.Status.Channels, "console")
	version := route.ResourceVersion
	look()
	equal(t, "version after another look", route.ResourceVersion, version)

	route.Spec.Match = []v1alpha1.RouteMatcher{{Attribute: "Severity", Matches: "("}}
	if err := cluster.Update(t.Context(), route); err != nil {
		t.Fatal(err)
	}
	equal(t, "ready", look(), "False InvalidPattern: the route is skipped: match[0].matches cannot be used: error parsing regexp: missing closing ): `(`")

	if err := cluster.Delete(t.Context(), route); err != nil {
		t.Fatal(err)
	}
	look()
}

func TestARoutesStatusNamesTheChannelsThatCannotBeUsed(t *testing.T) {
	suspended := newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Suspend = new(true) })
	closed := newChannel(func(c *v1alpha1.NotificationChannel) { c.Namespace, c.Name = "platform", "pager" })
	route := newRoute("r", leadsTo("mail", ops, v1alpha1.ConsoleChannel, "far", "pager"))
	for i, namespace := range map[int]string{3: "abroad", 4: "platform"} {
		route.Spec.Channels[i].Namespace = namespace
	}
	scheme := testScheme(t)
	cluster := fake.NewClientBuilder().WithScheme(scheme).WithObjects(route, newRoute("unconcerned"), suspended, closed).WithStatusSubresource(route).
		WithIndex(&v1alpha1.NotificationRoute{}, leadsIndex, channelsOfRoute).Build()
	var fault error
	reader := interceptor.NewClient(cluster, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
			if key.Namespace == "abroad" {
				return errors.New("unable to get: abroad/far because of unknown namespace for the cache")
			}
			if fault != nil {
				return fault
			}
			return c.Get(ctx, key, object, opts...)
		},
	})
	r := &NotificationRouteReconciler{Client: cluster, Channels: &Channels{Reader: reader}}
	key := client.ObjectKeyFromObject(route)
	if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Get(t.Context(), key, route); err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(route.Status.Conditions, v1alpha1.ConditionReady)
	equal(t, "ready", fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message), "False ChannelNotFound: requests are routed by it, and messages wait: "+
		"mail: there is no NotificationChannel shop/mail: create it; "+
		"far: the controller does not look at the namespace abroad: add it to its --watch-namespaces; "+
		"pager: the channel platform/pager does not allow requests of namespace shop: add it to the channel's allowedNamespaces")
	equal(t, "routes of a channel that appears", r.routesOfChannel(t.Context(), newChannel(func(c *v1alpha1.NotificationChannel) { c.Name = "mail" })),
		[]reconcile.Request{{NamespacedName: key}})
	equal(t, "routes of one of that name elsewhere", len(r.routesOfChannel(t.Context(), newChannel(func(c *v1alpha1.NotificationChannel) { c.Namespace, c.Name = "platform", "mail" }))), 0)

	fault = errors.New("the cache is not there")
	if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err == nil {
		t.Error("a channel that could not be read is not looked at again")
	}
}
