package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

// leads creates a route to channels of the stack's namespace and the console.
func (s *stack) leads(name string, channels []string, change ...func(*v1alpha1.NotificationRouteSpec)) *v1alpha1.NotificationRoute {
	s.t.Helper()
	route := &v1alpha1.NotificationRoute{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, channel := range channels {
		route.Spec.Channels = append(route.Spec.Channels, v1alpha1.ChannelReference{Name: channel})
	}
	for _, f := range change {
		f(&route.Spec)
	}
	s.create(route)
	return route
}

func order(n int32) func(*v1alpha1.NotificationRouteSpec) {
	return func(spec *v1alpha1.NotificationRouteSpec) { spec.Order = n }
}

func goOn(spec *v1alpha1.NotificationRouteSpec) { spec.Continue = new(true) }

func where(matchers ...v1alpha1.RouteMatcher) func(*v1alpha1.NotificationRouteSpec) {
	return func(spec *v1alpha1.NotificationRouteSpec) { spec.Match = matchers }
}

// isRouted checks the message of the Routed condition.
func isRouted(reason, message string) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		c := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionRouted)
		if c == nil || c.Status != metav1.ConditionTrue || c.Reason != reason || c.Message != message {
			return fmt.Errorf("routed %+v, want %s: %s", c, reason, message)
		}
		return nil
	}
}

func TestARequestGoesWhereTheFirstRouteThatMatchesLeads(t *testing.T) {
	t.Parallel()
	s := run(t)
	for i, m := range []struct {
		channel string
		matcher v1alpha1.RouteMatcher
		change  func(*v1alpha1.NotificationRequest)
	}{
		{"equals", v1alpha1.RouteMatcher{Attribute: "Type", Equals: "Approval"}, func(nr *v1alpha1.NotificationRequest) { nr.Spec.Type = "Approval" }},
		{"in", v1alpha1.RouteMatcher{Attribute: "Priority", In: []v1alpha1.RouteValue{"Critical", "High"}}, func(nr *v1alpha1.NotificationRequest) { nr.Spec.Priority = "High" }},
		{"exists", v1alpha1.RouteMatcher{Attribute: "Severity", Exists: new(true)}, func(nr *v1alpha1.NotificationRequest) { nr.Spec.Severity = "sev1" }},
		{"matches", v1alpha1.RouteMatcher{Attribute: "CorrelationID", Matches: "incident-[0-9]+"}, func(nr *v1alpha1.NotificationRequest) { nr.Spec.CorrelationID = "incident-4711" }},
		{"field", v1alpha1.RouteMatcher{Attribute: "Field", Key: "node", Equals: "db-0"}, func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.Fields = map[string]v1alpha1.FieldValue{"node": "db-0"}
		}},
		{"label", v1alpha1.RouteMatcher{Attribute: "Label", Key: "app", Matches: "checkout(-.+)?"}, func(nr *v1alpha1.NotificationRequest) {
			nr.Labels = map[string]string{"app": "checkout-web"}
		}},
		{"not-in", v1alpha1.RouteMatcher{Attribute: "Label", Key: "quiet", NotIn: []v1alpha1.RouteValue{"yes"}}, func(*v1alpha1.NotificationRequest) {}},
	} {
		s.webhook(m.channel)
		s.leads("to-"+m.channel, []string{m.channel}, order(int32(i+1)), where(m.matcher))
		nr := request("for-" + m.channel)
		m.change(nr)
		s.create(nr)
	}
	unmatched := request("unmatched")
	unmatched.Labels = map[string]string{"quiet": "yes"}
	s.create(unmatched)
	for _, channel := range []string{"equals", "in", "exists", "matches", "field", "label", "not-in"} {
		nr := s.wait("for-"+channel, isSent, isAudited, isRouted(v1alpha1.ReasonRouteMatched, "the route to-"+channel+" leads to "+channel))
		if c := nr.Status.RoutedChannels; len(c) != 1 || c[0].Route.Name != "to-"+channel || c[0].Route.UID == "" || c[0].Route.Generation != 1 {
			t.Errorf("%s: routed to %+v", nr.Name, c)
		}
		if got := s.sink.Received("/" + channel); len(got) != 1 {
			t.Errorf("%s received %d messages, want 1", channel, len(got))
		}
	}
	s.wait("unmatched", isSent, isAudited, inState("console", v1alpha1.DeliverySent), isRouted(v1alpha1.ReasonNoRouteMatched, "no route matches, so the message goes to console"))
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 8})
}

func TestRoutesFanOutAndSendOnceToEachChannel(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("one")
	s.webhook("two")
	s.leads("first", []string{"one", "console"}, order(1), goOn)
	s.leads("second", []string{"two", "one", "console"}, order(2))
	s.leads("third", []string{"nowhere"}, order(3))
	s.send("fan-out")
	nr := s.wait("fan-out", isSent, isAudited, isRouted(v1alpha1.ReasonRouteMatched, "the route first leads to one, console; the route second leads to two, one, console"))
	if len(nr.Status.Deliveries) != 3 {
		t.Errorf("%d deliveries, want 3", len(nr.Status.Deliveries))
	}
	for _, path := range []string{"/one", "/two"} {
		if got := s.sink.Received(path); len(got) != 1 {
			t.Errorf("%s received %d messages, want 1", path, len(got))
		}
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 3})
}

func TestARoutedRequestGoesThereThoughItsRouteHasGone(t *testing.T) {
	t.Parallel()
	s := run(t)
	changed := s.leads("changed", []string{"hook"}, order(1), where(v1alpha1.RouteMatcher{Attribute: "Severity", Equals: "a"}))
	deleted := s.leads("deleted", []string{"hook"}, order(2))
	for _, severity := range []string{"a", "b"} {
		nr := request(severity)
		nr.Spec.Severity = severity
		s.create(nr)
		s.wait(severity, isStalled(v1alpha1.ReasonChannelNotFound))
	}
	s.change(changed, func() { changed.Spec.Channels = []v1alpha1.ChannelReference{{Name: "console"}} })
	if err := s.kube.Delete(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	s.manager.Kill()
	s.startManager()
	s.waitReady()
	s.webhook("hook") // wakes both
	for severity, route := range map[string]string{"a": "changed", "b": "deleted"} {
		nr := s.wait(severity, isSent, isAudited, isRouted(v1alpha1.ReasonRouteMatched, "the route "+route+" leads to hook"))
		if c := nr.Status.RoutedChannels; len(c) != 1 || c[0].Name != "hook" || c[0].Route.Name != route || c[0].Route.Generation != 1 {
			t.Errorf("%s: routed to %+v", severity, c)
		}
	}
	later := request("later")
	later.Spec.Severity = "a"
	s.create(later)
	s.wait("later", isSent, isRouted(v1alpha1.ReasonRouteMatched, "the route changed leads to console"))
}

// Of one file with a route and a request for it, the controller hears by two
// watches, one of which may be late.
func TestARequestSeesTheRoutesThatWereAppliedBeforeIt(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.waitReady()
	for i := range 20 {
		name := fmt.Sprint("n", i)
		s.leads(name, []string{"hook"}, order(int32(1000-i)))
		s.send(name)
		s.wait(name, isRouted(v1alpha1.ReasonRouteMatched, "the route "+name+" leads to hook"))
	}
}

func TestARouteToAnotherNamespaceNeedsLeaveThere(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	other := newStack(t)
	s.namespaces += "," + other.namespace
	s.startStorage()
	s.startManager()
	there := other.webhook("hook")
	s.leads("abroad", []string{"hook"}, func(spec *v1alpha1.NotificationRouteSpec) { spec.Channels[0].Namespace = other.namespace })
	s.send("abroad")
	s.wait("abroad", isStalled(v1alpha1.ReasonNamespaceNotAllowed))
	other.change(there, func() { there.Spec.AllowedNamespaces = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(s.namespace)} })
	nr := s.wait("abroad", isSent, isAudited)
	if c := nr.Status.RoutedChannels; len(c) != 1 || c[0].Namespace != other.namespace {
		t.Errorf("routed to %+v", c)
	}
	if got := other.sink.Received("/hook"); len(got) != 1 {
		t.Errorf("%d messages arrived, want 1", len(got))
	}
}

func TestQuietHoursHoldAMessageAndStatusSaysUntilWhen(t *testing.T) {
	t.Parallel()
	s := run(t)
	now := time.Now().UTC()
	end := now.Add(time.Hour).Truncate(time.Minute)
	quiet := func(spec *v1alpha1.NotificationRouteSpec) {
		spec.QuietHours = []v1alpha1.TimeWindow{{Start: now.Add(-time.Hour).Format("15:04"), End: end.Format("15:04")}}
	}
	s.webhook("hook")
	s.leads("quiet", []string{"hook"}, quiet)
	critical := request("critical")
	critical.Spec.Priority = "Critical"
	s.create(critical)
	s.send("held")
	s.wait("critical", isSent, isAudited)
	nr := s.wait("held", func(nr *v1alpha1.NotificationRequest) error {
		if len(nr.Status.Deliveries) != 1 || nr.Status.Deliveries[0].LastError.Reason != v1alpha1.ReasonQuietHours {
			return fmt.Errorf("deliveries %+v", nr.Status.Deliveries)
		}
		return nil
	})
	d, c := nr.Status.Deliveries[0], nr.Status.RoutedChannels[0]
	if d.State != v1alpha1.DeliveryPending || d.Attempts != 0 || !d.NextAttemptTime.Time.Equal(end) || !c.QuietUntil.Time.Equal(end) {
		t.Errorf("delivery %+v, routed to %+v, want both at %s", d, c, end)
	}
	if got := s.sink.Received("/hook"); len(got) != 1 {
		t.Errorf("%d messages arrived, want the critical one alone", len(got))
	}
}

// says waits for a route's Ready condition.
func (s *stack) says(route *v1alpha1.NotificationRoute, status metav1.ConditionStatus, reason, message string) {
	s.t.Helper()
	harness.Eventually(s.t, soon, func() error {
		if err := s.kube.Get(s.t.Context(), client.ObjectKeyFromObject(route), route); err != nil {
			return err
		}
		c := meta.FindStatusCondition(route.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status != status || c.Reason != reason || c.Message != message || c.ObservedGeneration != route.Generation {
			return fmt.Errorf("ready: %+v", c)
		}
		return nil
	})
}

func TestARouteSaysWhetherItCanBeUsed(t *testing.T) {
	t.Parallel()
	s := run(t)
	good := s.leads("good", []string{"console"}, order(20), goOn)
	bad := s.leads("bad", []string{"console"}, order(10), where(v1alpha1.RouteMatcher{Attribute: "Severity", Matches: "a{1000}b{999}"}))
	const steps = "match[0].matches cannot be used: it takes 2001 steps, and 1000 are allowed: repeat less"
	s.says(good, metav1.ConditionTrue, v1alpha1.ReasonRouteValid, "requests are routed by it")
	s.says(bad, metav1.ConditionFalse, v1alpha1.ReasonInvalidPattern, "the route is skipped: "+steps)
	s.send("past-the-bad-one")
	s.wait("past-the-bad-one", isSent, isRouted(v1alpha1.ReasonRouteMatched, "the route good leads to console; the route bad is skipped: "+steps))
	got := table(t, "/apis/notification.kubernaut.ai/v1alpha1/namespaces/"+s.namespace+"/notificationroutes")
	want := [][]string{
		{"NAME", "ORDER", "CHANNELS", "CONTINUE", "READY", "STATUS"},
		{"bad", "10", "console", "<nil>", "False", "InvalidPattern"},
		{"good", "20", "console", "true", "True", "RouteValid"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	s.change(bad, func() { bad.Spec.Match = nil })
	s.says(bad, metav1.ConditionTrue, v1alpha1.ReasonRouteValid, "requests are routed by it")
}

// Nothing but the channel changes, so that a route which is looked at by chance, or
// after a while, does not pass.
func TestARouteSaysWhichOfItsChannelsCannotBeUsedUntilTheyCan(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	shared := testenv.Namespace(t)
	s.namespaces += "," + shared
	s.startStorage()
	s.startManager()
	const valid = "requests are routed by it"
	route := s.leads("alerts", []string{"late", "console"}, order(1), func(spec *v1alpha1.NotificationRouteSpec) {
		spec.Channels = append(spec.Channels, v1alpha1.ChannelReference{Name: "shared", Namespace: shared})
	})
	late := "late: there is no NotificationChannel " + s.namespace + "/late: create it"
	s.says(route, metav1.ConditionFalse, v1alpha1.ReasonChannelNotFound,
		valid+", and messages wait: "+late+"; shared: there is no NotificationChannel "+shared+"/shared: create it")
	s.says(s.leads("another", []string{"console"}, order(3)), metav1.ConditionTrue, v1alpha1.ReasonRouteValid, valid)
	s.send("routed-all-the-same")
	s.wait("routed-all-the-same", inState("console", v1alpha1.DeliverySent), inState("late", v1alpha1.DeliveryPending))

	elsewhere := &v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Namespace: shared, Name: "shared"},
		Spec:       v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelFile, File: v1alpha1.FileChannel{Directory: "d"}},
	}
	s.create(elsewhere)
	s.says(route, metav1.ConditionFalse, v1alpha1.ReasonChannelNotFound, valid+", and messages wait: "+late+
		"; shared: the channel "+shared+"/shared does not allow requests of namespace "+s.namespace+": add it to the channel's allowedNamespaces")
	channel := s.webhook("late")
	s.says(route, metav1.ConditionFalse, v1alpha1.ReasonNamespaceNotAllowed, valid+
		", and messages wait: shared: the channel "+shared+"/shared does not allow requests of namespace "+s.namespace+": add it to the channel's allowedNamespaces")
	s.change(elsewhere, func() {
		elsewhere.Spec.AllowedNamespaces = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(s.namespace)}
	})
	s.says(route, metav1.ConditionTrue, v1alpha1.ReasonRouteValid, valid)
	s.delete(channel)
	s.says(route, metav1.ConditionFalse, v1alpha1.ReasonChannelNotFound, valid+", and messages wait: "+late)
}
