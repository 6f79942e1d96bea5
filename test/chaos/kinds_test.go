package chaos

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

const (
	// planted is a password in each request, which nobody may see.
	planted = "the-password-that-was-planted"
	// within is how long people have to acknowledge.
	within = 15 * time.Second
	// teamLabel is what routes look at.
	teamLabel = "team"
)

// kind is a kind of request.
type kind struct {
	name   string
	weight int
	// fates are what becomes of one, each as likely: "" where nobody meddles.
	fates []string
	// make makes a request one of this kind and says what is expected of it. The
	// channels that it names are put into it afterwards.
	make func(w *workload, n int, nr *v1alpha1.NotificationRequest) expected
}

var kinds = []kind{
	{
		name: "plain", weight: 10,
		fates: []string{"", "", "", "", "", "", "", "suspend", "delete", "recreate", "expire", "later", "ttl"},
		make: func(w *workload, _ int, _ *v1alpha1.NotificationRequest) expected {
			return expected{named: pick(w,
				[]string{chConsole}, []string{chFile}, []string{chIdempotent}, []string{chIdempotent, chFile},
				[]string{chPlain}, []string{chPlain}, []string{chPlain, chConsole}, []string{chPlain, chIdempotent, chFile},
				[]string{chBad}, []string{chBad, chPlain}, []string{chSlow},
			)}
		},
	},
	{
		name: "routed", weight: 3, fates: []string{"", "", "", "suspend", "later"},
		make: func(w *workload, _ int, nr *v1alpha1.NotificationRequest) expected {
			team := pick(w, "both", "moving", "moving", "none")
			nr.Labels = map[string]string{teamLabel: team}
			return expected{routes: map[string][][]string{"both": {bothRoutes}, "moving": movingRoute, "none": {{chConsole}}}[team]}
		},
	},
	{
		name: "repeated", weight: 3, fates: []string{"", "", "", "", "delete", "recreate", "ttl", "later"},
		make: func(w *workload, n int, nr *v1alpha1.NotificationRequest) expected {
			nr.Spec.Dedup = v1alpha1.Dedup{Key: fmt.Sprint("group-", n/30), Window: "24h"}
			return expected{repeats: nr.Spec.Dedup.Key, named: pick(w, []string{chIdempotent}, []string{chPlain}, []string{chBad}, []string{chPlain, chFile})}
		},
	},
	{
		name: "limited", weight: 1, fates: []string{"", "suspend"},
		make: func(w *workload, _ int, nr *v1alpha1.NotificationRequest) expected {
			// Half of those of half a minute are due together, so that they have to queue.
			const together = 30 * time.Second
			if pick(w, true, false) {
				nr.Spec.NotBefore = new(metav1.NewTime(time.Now().Truncate(together).Add(together)))
			}
			return expected{named: []string{chLimited}}
		},
	},
	{
		name: "templated", weight: 1, fates: []string{"", "delete", "ttl"},
		make: func(w *workload, _ int, nr *v1alpha1.NotificationRequest) expected {
			nr.Spec.Priority = pick[v1alpha1.Priority](w, "High", "Low")
			return expected{named: []string{chTemplated}}
		},
	},
	{
		name: "rehearsed", weight: 1, fates: []string{"", "suspend", "delete", "recreate", "expire", "later", "ttl"},
		make: func(_ *workload, _ int, nr *v1alpha1.NotificationRequest) expected {
			nr.Spec.Mode = v1alpha1.ModeDryRun
			return expected{dry: true, named: []string{chIdempotent, chPlain, chTemplated, chIncident, chFile, chConsole}}
		},
	},
	{
		name: "asking", weight: 3, fates: []string{"", "", "", "", "suspend", "delete", "recreate", "ttl"},
		make: func(w *workload, _ int, nr *v1alpha1.NotificationRequest) expected {
			nr.Spec.Deadline = "60s"
			nr.Spec.Acknowledge = v1alpha1.Acknowledge{Within: v1alpha1.Duration(within.String())}
			e := expected{asks: true, expires: true, named: pick(w, []string{chPlain}, []string{chIdempotent}, []string{chPlain, chConsole}, []string{chBad})}
			e.escalateTo = pick(w, nil, []string{chTemplated}, []string{chTemplated, chFile}, []string{chTemplated, chFile})
			for _, ch := range e.escalateTo {
				nr.Spec.Acknowledge.EscalateTo = append(nr.Spec.Acknowledge.EscalateTo, v1alpha1.ChannelReference{Name: ch})
			}
			return e
		},
	},
	{
		name: "incident", weight: 3, fates: []string{"", "", "", "suspend", "delete", "ttl"},
		make: func(_ *workload, n int, nr *v1alpha1.NotificationRequest) expected {
			nr.Spec.CorrelationID = fmt.Sprint("incident-", n/40)
			return expected{named: []string{chIncident}}
		},
	},
	{
		name: "updated", weight: 3, fates: []string{"", "", "", "suspend", "later", "delete", "ttl"},
		make: func(w *workload, n int, nr *v1alpha1.NotificationRequest) expected {
			nr.Spec.CorrelationID = fmt.Sprint("updated-", n/60)
			nr.Spec.Type = pick[v1alpha1.RequestType](w, "StatusUpdate", "StatusUpdate", "Completion", "Simple")
			return expected{updates: nr.Spec.Type != "Simple", named: []string{chUpdated}}
		},
	},
	{
		name: "quiet", weight: 2, fates: []string{"", "", "", "suspend", "delete", "recreate", "ttl"},
		make: func(w *workload, _ int, nr *v1alpha1.NotificationRequest) expected {
			nr.Labels = map[string]string{teamLabel: quietTeam}
			nr.Spec.Priority = pick(w, "Medium", "High", v1alpha1.PriorityCritical)
			return expected{routes: [][]string{quietChannels}, quiet: true, urgent: nr.Spec.Priority == v1alpha1.PriorityCritical}
		},
	},
}

// kindsOf returns the kinds whose names match, each as often as its weight has it.
func kindsOf(only *regexp.Regexp) (all []kind) {
	for _, k := range kinds {
		if only.MatchString(k.name) {
			all = append(all, slices.Repeat([]kind{k}, k.weight)...)
		}
	}
	return all
}

// bothRoutes are the channels of the two routes for one team, in the order in which
// they are asked. The first channel of both is the same.
var bothRoutes = []string{chIdempotent, chFile, chPlain}

// movingRoute are the channels that a route leads to, one after the other.
var movingRoute = [][]string{{chIdempotent}, {chPlain, chFile}, {chTemplated, chConsole}}

// routes are those of a run.
func routes(namespace string) []client.Object {
	route := func(name, team string, order int32, on bool, channels ...string) client.Object {
		r := &v1alpha1.NotificationRoute{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: v1alpha1.NotificationRouteSpec{
			Order: order, Continue: new(on),
			Match: []v1alpha1.RouteMatcher{
				{Attribute: v1alpha1.AttributeLabel, Key: teamLabel, Equals: v1alpha1.RouteValue(team)},
				{Attribute: v1alpha1.AttributePriority, In: []v1alpha1.RouteValue{"Medium", "High"}},
			},
		}}
		for _, ch := range channels {
			r.Spec.Channels = append(r.Spec.Channels, v1alpha1.ChannelReference{Name: ch})
		}
		return r
	}
	return []client.Object{
		route("first", "both", 10, true, bothRoutes[0], bothRoutes[1]),
		route("second", "both", 20, false, bothRoutes[0], bothRoutes[2]),
		route("moving", "moving", 30, false, movingRoute[0]...),
	}
}

// reroute changes a route again and again.
func (w *workload) reroute() {
	for n := 1; w.ctx.Err() == nil; n++ {
		w.wait(700 * time.Millisecond)
		var refs string
		for i, ch := range movingRoute[n%len(movingRoute)] {
			refs += map[bool]string{true: ","}[i > 0] + fmt.Sprintf(`{"name":%q}`, ch)
		}
		route := &v1alpha1.NotificationRoute{ObjectMeta: metav1.ObjectMeta{Name: "moving", Namespace: w.namespace}}
		w.persist(func() error {
			return w.kube.Patch(w.ctx, route, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"channels":[`+refs+`]}}`)))
		})
	}
}
