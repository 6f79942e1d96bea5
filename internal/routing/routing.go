// Package routing decides where a request goes that names no channels. All of it
// is a function of the request, the routes of its namespace and the time.
package routing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
)

// maxChannels is how many channels a request goes to at most, as many as it may
// name itself.
const maxChannels = 16

// Decision is where a request goes, and why.
type Decision struct {
	// Channels has 1 to 16 channels, no two of one name.
	Channels []v1alpha1.RoutedChannel
	// Reason and Message are those of the Routed condition. The message is not
	// bounded.
	Reason, Message string
}

// Decide asks the routes, by order and then by name, where a request goes that may
// first be sent at the given time. They may come in any order; all must be of the
// request's namespace. Of several routes that lead to channels of one name, the
// first one's counts. A route that cannot be used is skipped, and the message says
// so. Where none matches it is the console.
func Decide(nr *v1alpha1.NotificationRequest, routes []v1alpha1.NotificationRoute, at time.Time) Decision {
	routes = slices.Clone(routes)
	slices.SortFunc(routes, func(a, b v1alpha1.NotificationRoute) int {
		return cmp.Or(cmp.Compare(a.Spec.Order, b.Spec.Order), strings.Compare(a.Name, b.Name))
	})
	d := Decision{Reason: v1alpha1.ReasonNoRouteMatched}
	var led, skipped []string
	for i := range routes {
		route := &routes[i]
		r, _, trouble := prepare(route)
		if trouble != "" {
			skipped = append(skipped, fmt.Sprintf("the route %s is skipped: %s", route.Name, trouble))
			continue
		}
		if !r.matches(nr, at) {
			continue
		}
		var names []string
		for _, ref := range route.Spec.Channels {
			if trouble := d.add(nr, r, ref, at); trouble != "" {
				skipped = append(skipped, trouble)
				continue
			}
			names = append(names, ref.Name)
		}
		d.Reason = v1alpha1.ReasonRouteMatched
		if len(names) > 0 {
			led = append(led, fmt.Sprintf("the route %s leads to %s", route.Name, strings.Join(names, ", ")))
		}
		if route.Spec.Continue == nil || !*route.Spec.Continue {
			break
		}
	}
	if len(d.Channels) == 0 {
		d.Channels = []v1alpha1.RoutedChannel{{Name: v1alpha1.ConsoleChannel}}
		led = []string{"no route matches, so the message goes to " + v1alpha1.ConsoleChannel}
	}
	d.Message = strings.Join(append(led, skipped...), "; ")
	return d
}

// add adds a channel that a route leads to. It returns why it does not, "" also
// where the channel is there already.
func (d *Decision) add(nr *v1alpha1.NotificationRequest, r prepared, ref v1alpha1.ChannelReference, at time.Time) string {
	home := func(namespace string) string { return cmp.Or(namespace, nr.Namespace) }
	i := slices.IndexFunc(d.Channels, func(c v1alpha1.RoutedChannel) bool { return c.Name == ref.Name })
	switch {
	case i >= 0 && home(d.Channels[i].Namespace) == home(ref.Namespace):
		return ""
	case i >= 0:
		return fmt.Sprintf("the route %s leads to %s of the namespace %s too, which is left out: the route %s named a channel of that name first",
			r.route.Name, ref.Name, home(ref.Namespace), d.Channels[i].Route.Name)
	case len(d.Channels) == maxChannels:
		return fmt.Sprintf("the route %s leads to %s too, which is left out: a request goes to %d channels at most", r.route.Name, ref.Name, maxChannels)
	}
	channel := v1alpha1.RoutedChannel{
		Name: ref.Name, Namespace: ref.Namespace,
		Route: v1alpha1.RouteReference{Name: r.route.Name, UID: string(r.route.UID), Generation: r.route.Generation},
	}
	if until := quietUntil(r.route.Spec.QuietHours, at.In(r.zone)); until.After(at) && nr.Spec.Priority != v1alpha1.PriorityCritical {
		channel.QuietUntil = new(metav1.NewTime(until.UTC()))
	}
	d.Channels = append(d.Channels, channel)
	return ""
}
