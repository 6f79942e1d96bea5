package routing

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kubernaut.ai/notification/api/v1alpha1"
)

// noon is a Monday's in winter.
var noon = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

// newRequest returns a request as the API server has it after defaulting.
func newRequest(change ...func(*v1alpha1.NotificationRequest)) *v1alpha1.NotificationRequest {
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "order-7", Labels: map[string]string{"app": "checkout-web", "team": ""}},
		Spec: v1alpha1.NotificationRequestSpec{
			Subject: "s", Body: "b", Type: "Escalation", Priority: "High", CorrelationID: "incident-4711",
			Fields: map[string]v1alpha1.FieldValue{"region": "eu-west-1", "empty": ""},
		},
	}
	for _, f := range change {
		f(nr)
	}
	return nr
}

func critical(nr *v1alpha1.NotificationRequest) { nr.Spec.Priority = "Critical" }

// newRoute returns a route to channels of its namespace, or of another one where
// they are written as team/name.
func newRoute(name string, channels []string, change ...func(*v1alpha1.NotificationRouteSpec)) v1alpha1.NotificationRoute {
	r := v1alpha1.NotificationRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Generation: 3},
		Spec:       v1alpha1.NotificationRouteSpec{Order: 100, TimeZone: "UTC"},
	}
	for _, channel := range channels {
		namespace, name, ok := strings.Cut(channel, "/")
		if !ok {
			namespace, name = "", channel
		}
		r.Spec.Channels = append(r.Spec.Channels, v1alpha1.ChannelReference{Name: name, Namespace: namespace})
	}
	for _, f := range change {
		f(&r.Spec)
	}
	return r
}

func to(channels ...string) []string { return channels }

func order(n int32) func(*v1alpha1.NotificationRouteSpec) {
	return func(s *v1alpha1.NotificationRouteSpec) { s.Order = n }
}

func goOn(s *v1alpha1.NotificationRouteSpec) { s.Continue = new(true) }

func match(matchers ...v1alpha1.RouteMatcher) func(*v1alpha1.NotificationRouteSpec) {
	return func(s *v1alpha1.NotificationRouteSpec) { s.Match = matchers }
}

func quiet(zone string, windows ...v1alpha1.TimeWindow) func(*v1alpha1.NotificationRouteSpec) {
	return func(s *v1alpha1.NotificationRouteSpec) { s.TimeZone, s.QuietHours = zone, windows }
}

func active(zone string, windows ...v1alpha1.TimeWindow) func(*v1alpha1.NotificationRouteSpec) {
	return func(s *v1alpha1.NotificationRouteSpec) { s.TimeZone, s.ActiveWindows = zone, windows }
}

// never matches no request, nowhere is no regular expression.
var (
	never   = v1alpha1.RouteMatcher{Attribute: "Field", Key: "none", Exists: new(true)}
	nowhere = v1alpha1.RouteMatcher{Attribute: "Severity", Matches: "("}
)

func names(d Decision) (all []string) {
	for _, c := range d.Channels {
		name := c.Name
		if c.Namespace != "" {
			name = c.Namespace + "/" + name
		}
		all = append(all, name+" by "+c.Route.Name)
	}
	return all
}

func TestRoutesAreAskedInOrderUntilOneMatches(t *testing.T) {
	for name, c := range map[string]struct {
		routes []v1alpha1.NotificationRoute
		want   []string
		reason string
		says   string
	}{
		"no route": {
			want: to("console by "), reason: "NoRouteMatched", says: "no route matches, so the message goes to console",
		},
		"none matches": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), match(never))},
			want:   to("console by "), reason: "NoRouteMatched", says: "no route matches, so the message goes to console",
		},
		"without matchers": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x", "y"))},
			want:   to("x by a", "y by a"), says: "the route a leads to x, y",
		},
		"all matchers must hold": {
			routes: []v1alpha1.NotificationRoute{
				newRoute("a", to("x"), match(v1alpha1.RouteMatcher{Attribute: "Priority", Equals: "High"}, never)),
				newRoute("b", to("y")),
			},
			want: to("y by b"), says: "the route b leads to y",
		},
		"lower order first": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), order(200)), newRoute("b", to("y"), order(30))},
			want:   to("y by b"), says: "the route b leads to y",
		},
		"equal order by name": {
			routes: []v1alpha1.NotificationRoute{newRoute("b", to("y")), newRoute("a", to("x"))},
			want:   to("x by a"), says: "the route a leads to x",
		},
		"continue": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), goOn), newRoute("b", to("y")), newRoute("c", to("z"))},
			want:   to("x by a", "y by b"), says: "the route a leads to x; the route b leads to y",
		},
		"continue where it does not match": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), goOn, match(never)), newRoute("b", to("y"))},
			want:   to("y by b"), says: "the route b leads to y",
		},
		"two routes to one channel": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x", "console"), goOn), newRoute("b", to("shop/x", "y", "console"))},
			want:   to("x by a", "console by a", "y by b"), says: "the route a leads to x, console; the route b leads to x, y, console",
		},
		"one name in two namespaces": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), goOn), newRoute("b", to("ops/x"))},
			want:   to("x by a"),
			says:   "the route a leads to x; the route b leads to x of the namespace ops too, which is left out: the route a named a channel of that name first",
		},
		"a broken route": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), match(nowhere)), newRoute("b", to("y"))},
			want:   to("y by b"),
			says:   "the route b leads to y; the route a is skipped: match[0].matches cannot be used: error parsing regexp: missing closing ): `(`",
		},
		"a broken route behind the last": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x")), newRoute("b", to("y"), match(nowhere))},
			want:   to("x by a"), says: "the route a leads to x",
		},
		"only a broken route": {
			routes: []v1alpha1.NotificationRoute{newRoute("a", to("x"), quiet("Mars/Olympus"))},
			want:   to("console by "), reason: "NoRouteMatched",
			says: "no route matches, so the message goes to console; the route a is skipped: timeZone Mars/Olympus is not in the IANA database",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(newRequest(), c.routes, noon)
			if c.reason == "" {
				c.reason = v1alpha1.ReasonRouteMatched
			}
			if diff := cmp.Diff(c.want, names(d)); diff != "" || d.Reason != c.reason || d.Message != c.says {
				t.Errorf("%s: %s\n(-want +got):\n%s", d.Reason, d.Message, diff)
			}
		})
	}
}

func TestTheRouteIsKeptAsItWasUsed(t *testing.T) {
	d := Decide(newRequest(), []v1alpha1.NotificationRoute{newRoute("a", to("ops/x"))}, noon)
	want := []v1alpha1.RoutedChannel{{Name: "x", Namespace: "ops", Route: v1alpha1.RouteReference{Name: "a", UID: "uid-a", Generation: 3}}}
	if diff := cmp.Diff(want, d.Channels); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestChannelsBeyondSixteenAreLeftOutByName(t *testing.T) {
	var routes []v1alpha1.NotificationRoute
	for i := range 18 {
		routes = append(routes, newRoute(fmt.Sprintf("r%02d", i), to(fmt.Sprintf("c%02d", i)), goOn))
	}
	d := Decide(newRequest(), routes, noon)
	if len(d.Channels) != 16 || d.Channels[15].Name != "c15" {
		t.Errorf("%d channels: %v", len(d.Channels), names(d))
	}
	for _, name := range to("16", "17") {
		if want := fmt.Sprintf("the route r%s leads to c%s too, which is left out: a request goes to 16 channels at most", name, name); !strings.Contains(d.Message, want) {
			t.Errorf("the message lacks %q:\n%s", want, d.Message)
		}
	}
}

func TestMatchers(t *testing.T) {
	type values = []v1alpha1.RouteValue
	is := func(attribute v1alpha1.RouteAttribute, key string, m v1alpha1.RouteMatcher) v1alpha1.RouteMatcher {
		m.Attribute, m.Key = attribute, key
		return m
	}
	for name, c := range map[string]struct {
		matcher v1alpha1.RouteMatcher
		want    bool
	}{
		"type":                            {is("Type", "", v1alpha1.RouteMatcher{Equals: "Escalation"}), true},
		"other type":                      {is("Type", "", v1alpha1.RouteMatcher{Equals: "Simple"}), false},
		"priority":                        {is("Priority", "", v1alpha1.RouteMatcher{In: values{"Critical", "High"}}), true},
		"other priority":                  {is("Priority", "", v1alpha1.RouteMatcher{In: values{"Medium", "Low"}}), false},
		"no severity":                     {is("Severity", "", v1alpha1.RouteMatcher{Exists: new(false)}), true},
		"some severity":                   {is("Severity", "", v1alpha1.RouteMatcher{Exists: new(true)}), false},
		"correlation ID":                  {is("CorrelationID", "", v1alpha1.RouteMatcher{Matches: "incident-[0-9]+"}), true},
		"part of the correlation ID":      {is("CorrelationID", "", v1alpha1.RouteMatcher{Matches: "[0-9]+"}), false},
		"beginning of the correlation ID": {is("CorrelationID", "", v1alpha1.RouteMatcher{Matches: "incident|incident-4711"}), true},
		"end of the correlation ID":       {is("CorrelationID", "", v1alpha1.RouteMatcher{Matches: "4711"}), false},
		"field":                           {is("Field", "region", v1alpha1.RouteMatcher{Equals: "eu-west-1"}), true},
		"other field":                     {is("Field", "regio", v1alpha1.RouteMatcher{Equals: "eu-west-1"}), false},
		"empty field is there":            {is("Field", "empty", v1alpha1.RouteMatcher{Exists: new(true)}), true},
		"empty field is not in":           {is("Field", "empty", v1alpha1.RouteMatcher{In: values{"a"}}), false},
		"empty field matches":             {is("Field", "empty", v1alpha1.RouteMatcher{Matches: "a*"}), true},
		"absent field does not match":     {is("Field", "none", v1alpha1.RouteMatcher{Matches: ".*"}), false},
		"absent field is not in":          {is("Field", "none", v1alpha1.RouteMatcher{NotIn: values{"a"}}), true},
		"label":                           {is("Label", "app", v1alpha1.RouteMatcher{Matches: "checkout-.+"}), true},
		"label is not in":                 {is("Label", "app", v1alpha1.RouteMatcher{NotIn: values{"checkout", "web"}}), true},
		"label is one of those not in":    {is("Label", "app", v1alpha1.RouteMatcher{NotIn: values{"checkout-web"}}), false},
		"empty label is there":            {is("Label", "team", v1alpha1.RouteMatcher{Exists: new(true)}), true},
		"field is no label":               {is("Label", "region", v1alpha1.RouteMatcher{Exists: new(true)}), false},
		"label is no field":               {is("Field", "app", v1alpha1.RouteMatcher{Exists: new(false)}), true},
		"quote without an end":            {is("Field", "region", v1alpha1.RouteMatcher{Matches: `\Qeu-west-1`}), true},
		"case":                            {is("Field", "region", v1alpha1.RouteMatcher{Matches: `(?i)EU-WEST-\d`}), true},
		"the shortest of two":             {is("Field", "region", v1alpha1.RouteMatcher{Matches: `(?U)eu.*`}), true},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(newRequest(), []v1alpha1.NotificationRoute{newRoute("a", to("x"), match(c.matcher))}, noon)
			if got := d.Reason == v1alpha1.ReasonRouteMatched; got != c.want {
				t.Errorf("matches %t, want %t: %s", got, c.want, d.Message)
			}
		})
	}
}

func TestWhatCannotBeUsedIsNamed(t *testing.T) {
	allDay := v1alpha1.TimeWindow{Start: "00:00", End: "24:00"}
	for name, c := range map[string]struct {
		change         func(*v1alpha1.NotificationRouteSpec)
		reason, starts string
	}{
		"nothing wrong":       {match(never), "", ""},
		"no time zone":        {quiet("Mars/Olympus"), "InvalidTimeZone", "timeZone Mars/Olympus is not in the IANA database"},
		"the machine's zone":  {quiet("Local"), "InvalidTimeZone", "timeZone Local is not in the IANA database"},
		"never loud":          {quiet("UTC", allDay), "AlwaysQuiet", "quietHours leave no minute of the week in which a message could be sent"},
		"never loud, in two":  {quiet("UTC", v1alpha1.TimeWindow{Start: "09:00", End: "08:00"}, v1alpha1.TimeWindow{Start: "07:30", End: "09:00"}), "AlwaysQuiet", "quietHours leave"},
		"loud for one minute": {quiet("UTC", v1alpha1.TimeWindow{Start: "09:00", End: "08:59"}), "", ""},
		"always active":       {active("UTC", allDay), "", ""},
		"no pattern":          {match(never, nowhere), "InvalidPattern", "match[1].matches cannot be used: error parsing regexp: missing closing ): `(`"},
		"too large a pattern": {match(v1alpha1.RouteMatcher{Attribute: "Severity", Matches: "a{1000}b{999}"}), "InvalidPattern", "match[0].matches cannot be used: it takes 2001 steps, and 1000 are allowed: repeat less"},
	} {
		t.Run(name, func(t *testing.T) {
			reason, message := Check(new(newRoute("a", to("x"), c.change)))
			if reason != c.reason || !strings.HasPrefix(message, c.starts) || (message == "") != (reason == "") {
				t.Errorf("%s: %s", reason, message)
			}
		})
	}
}

func TestQuietHoursHoldAllButCritical(t *testing.T) {
	night := v1alpha1.TimeWindow{Start: "22:00", End: "07:00"}
	at := time.Date(2026, 1, 5, 23, 30, 12, 0, time.UTC) // 00:30 in Berlin
	until := time.Date(2026, 1, 6, 6, 0, 0, 0, time.UTC)
	held, free := newRoute("a", to("x"), quiet("Europe/Berlin", night), goOn), newRoute("b", to("x", "y"))
	for name, c := range map[string]struct {
		nr     *v1alpha1.NotificationRequest
		at     time.Time
		routes []v1alpha1.NotificationRoute
		want   []time.Time
	}{
		"held":                      {newRequest(), at, []v1alpha1.NotificationRoute{held}, []time.Time{until}},
		"critical":                  {newRequest(critical), at, []v1alpha1.NotificationRoute{held}, []time.Time{{}}},
		"by day":                    {newRequest(), noon, []v1alpha1.NotificationRoute{held}, []time.Time{{}}},
		"each channel by its route": {newRequest(), at, []v1alpha1.NotificationRoute{held, free}, []time.Time{until, {}}},
		"the first route is what counts": {newRequest(), at, []v1alpha1.NotificationRoute{
			newRoute("0", to("x"), goOn), held,
		}, []time.Time{{}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []time.Time
			for _, channel := range Decide(c.nr, c.routes, c.at).Channels {
				var until time.Time
				if channel.QuietUntil != nil {
					until = channel.QuietUntil.Time
				}
				got = append(got, until)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestARouteMatchesInItsActiveWindowsAlone(t *testing.T) {
	office := active("America/New_York", v1alpha1.TimeWindow{
		Days: []v1alpha1.Weekday{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"}, Start: "09:00", End: "17:00",
	})
	for at, want := range map[time.Time]bool{
		noon.Add(2*time.Hour - time.Second):          false,
		noon.Add(2 * time.Hour):                      true,
		noon.Add(10*time.Hour - time.Second):         true,
		noon.Add(10 * time.Hour):                     false,
		noon.Add(-24 * time.Hour).Add(3 * time.Hour): false, // Sunday
		time.Date(2026, 3, 9, 13, 0, 0, 0, time.UTC): true,  // the first Monday of summer time
		time.Date(2026, 3, 6, 13, 0, 0, 0, time.UTC): false, // the last Friday before
	} {
		d := Decide(newRequest(), []v1alpha1.NotificationRoute{newRoute("a", to("x"), office)}, at)
		if got := d.Reason == v1alpha1.ReasonRouteMatched; got != want {
			t.Errorf("%s: matches %t, want %t", at, got, want)
		}
	}
}

// drawRoutes draws routes that have much in common, some of them broken.
func drawRoutes(t *rapid.T) []v1alpha1.NotificationRoute {
	windows := [][]v1alpha1.TimeWindow{nil, {{Start: "08:00", End: "20:00"}}, {{Start: "20:00", End: "08:00"}}}
	var routes []v1alpha1.NotificationRoute
	for i := range rapid.IntRange(0, 8).Draw(t, "routes") {
		channels := rapid.SliceOfNDistinct(rapid.SampledFrom(to("console", "a", "b", "ops/c", "c", "d")), 1, 4, func(c string) string {
			return c[strings.Index(c, "/")+1:]
		}).Draw(t, "channels")
		routes = append(routes, newRoute(fmt.Sprint("r", i), channels, func(s *v1alpha1.NotificationRouteSpec) {
			s.Order = rapid.Int32Range(1, 3).Draw(t, "order")
			s.Continue = rapid.SampledFrom([]*bool{nil, new(true), new(true), new(false)}).Draw(t, "continue")
			s.TimeZone = rapid.SampledFrom(to("UTC", "Europe/Berlin", "Mars/Olympus")).Draw(t, "zone")
			s.ActiveWindows = rapid.SampledFrom(windows).Draw(t, "active")
			s.QuietHours = rapid.SampledFrom(windows).Draw(t, "quiet")
			s.Match = rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.RouteMatcher{
				{Attribute: "Priority", In: []v1alpha1.RouteValue{"Critical", "High"}},
				{Attribute: "Label", Key: "app", Matches: "checkout.*"},
				{Attribute: "Type", NotIn: []v1alpha1.RouteValue{"Simple"}},
				{Attribute: "Field", Key: "region", Equals: "us"},
				never, nowhere,
			}), 0, 2).Draw(t, "match")
		}))
	}
	return routes
}

func drawRequest(t *rapid.T) *v1alpha1.NotificationRequest {
	return newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Priority = v1alpha1.Priority(rapid.SampledFrom(to("Critical", "High", "Low")).Draw(t, "priority"))
		nr.Spec.Type = v1alpha1.RequestType(rapid.SampledFrom(to("Simple", "Approval")).Draw(t, "type"))
		nr.Spec.Fields["region"] = v1alpha1.FieldValue(rapid.SampledFrom(to("us", "eu")).Draw(t, "region"))
	})
}

func drawTime(t *rapid.T) time.Time {
	return time.Unix(rapid.Int64Range(1767225600, 1798761599).Draw(t, "second of 2026"), 0).UTC()
}

func TestADecisionKeepsItsPromisesWhateverTheRoutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nr, routes, at := drawRequest(t), drawRoutes(t), drawTime(t)
		before := slices.Clone(routes)
		d := Decide(nr, routes, at)
		if diff := cmp.Diff(before, routes); diff != "" {
			t.Fatalf("the routes were changed:\n%s", diff)
		}

		seen := map[string]bool{}
		for _, c := range d.Channels {
			if seen[c.Name] {
				t.Fatalf("two deliveries to %s", c.Name)
			}
			seen[c.Name] = true
			if c.QuietUntil != nil && (nr.Spec.Priority == "Critical" || !c.QuietUntil.After(at)) {
				t.Fatalf("held until %s, at %s, priority %s", c.QuietUntil, at, nr.Spec.Priority)
			}
		}
		if n := len(d.Channels); n < 1 || n > 16 {
			t.Fatalf("%d channels", n)
		}

		// What each route says alone is what they say together, in their order, up to
		// the first that matches and does not go on.
		ordered := slices.Clone(routes)
		slices.SortFunc(ordered, func(a, b v1alpha1.NotificationRoute) int {
			if a.Spec.Order != b.Spec.Order {
				return int(a.Spec.Order - b.Spec.Order)
			}
			return strings.Compare(a.Name, b.Name)
		})
		var want []v1alpha1.RoutedChannel
		for _, route := range ordered {
			alone := Decide(nr, []v1alpha1.NotificationRoute{route}, at)
			if alone.Reason == v1alpha1.ReasonNoRouteMatched {
				continue
			}
			for _, c := range alone.Channels {
				if !slices.ContainsFunc(want, func(w v1alpha1.RoutedChannel) bool { return w.Name == c.Name }) {
					want = append(want, c)
				}
			}
			if route.Spec.Continue == nil || !*route.Spec.Continue {
				break
			}
		}
		if len(want) == 0 {
			want = []v1alpha1.RoutedChannel{{Name: "console"}}
		}
		if diff := cmp.Diff(want, d.Channels); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}

		if diff := cmp.Diff(d, Decide(nr, rapid.Permutation(routes).Draw(t, "list"), at)); diff != "" {
			t.Fatalf("in another list they decide otherwise:\n%s", diff)
		}
		stranger := newRoute(rapid.SampledFrom(to("a", "r3x", "z")).Draw(t, "name"), to("x", "a"), match(never), order(rapid.Int32Range(1, 3).Draw(t, "order")))
		if diff := cmp.Diff(d, Decide(nr, append(routes, stranger), at)); diff != "" {
			t.Fatalf("a route that does not match changes the decision:\n%s", diff)
		}
	})
}

func FuzzPatternMatchesWholeValuesAlone(f *testing.F) {
	for _, seed := range [][2]string{{"a|ab", "ab"}, {`\Qa`, "a"}, {"(?m)^a$", "a\nb"}, {"(?U)a+", "aaa"}, {"a)(b", "ab"}, {`\bx*`, "xx"}, {"x{1000}", "x"}, {"", ""}, {`(?i)ſ`, "S"}, {`[^a]`, "\xff"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if pattern == "" || len(pattern) > 256 || len(value) > 1024 {
			return
		}
		route := newRoute("a", to("x"), match(v1alpha1.RouteMatcher{Attribute: "Field", Key: "f", Matches: pattern}))
		d := Decide(newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Spec.Fields["f"] = v1alpha1.FieldValue(value) }), []v1alpha1.NotificationRoute{route}, noon)
		parsed, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			if reason, _ := Check(&route); reason != v1alpha1.ReasonInvalidPattern {
				t.Errorf("%q is no expression, and the route's reason is %q", pattern, reason)
			}
			return
		}
		if reason, _ := Check(&route); reason != "" {
			return // too large
		}
		want := regexp.MustCompile(`\A(?:` + parsed.String() + `)\z`).MatchString(value)
		if got := d.Reason == v1alpha1.ReasonRouteMatched; got != want {
			t.Errorf("%q matches %q: %t, want %t", pattern, value, got, want)
		}
	})
}
