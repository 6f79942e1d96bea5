package chaos

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// quietZone has the clocks that the quiet hours of a run go by. None here shows their time.
var quietZone = time.FixedZone("Asia/Kathmandu", int((5*time.Hour + 45*time.Minute).Seconds()))

// quietTeam are those for whom there are quiet hours, in quietChannels.
const quietTeam = "quiet"

var quietChannels = []string{chIdempotent, chPlain}

// span is the time from one moment until before another.
type span struct{ from, to time.Time }

func (s span) has(t time.Time) bool { return !t.Before(s.from) && t.Before(s.to) }

// quietSpans are the quiet hours of a run that begins: now, long enough for requests to be
// made, and then every other minute, as often as a route may have them.
func quietSpans(now time.Time) (all []span) {
	s := span{now.Truncate(time.Minute), now.Add(10 * time.Second).Truncate(time.Minute).Add(time.Minute)}
	for range 16 {
		all = append(all, s)
		s = span{s.to.Add(time.Minute), s.to.Add(2 * time.Minute)}
	}
	return all
}

// quietRoute is the one that has quiet hours.
func quietRoute(namespace string, hours []span) client.Object {
	r := &v1alpha1.NotificationRoute{ObjectMeta: metav1.ObjectMeta{Name: "quiet", Namespace: namespace}, Spec: v1alpha1.NotificationRouteSpec{
		Match:    []v1alpha1.RouteMatcher{{Attribute: v1alpha1.AttributeLabel, Key: teamLabel, Equals: quietTeam}},
		TimeZone: quietZone.String(),
	}}
	for _, s := range hours {
		clock := func(t time.Time) string { return t.In(quietZone).Format("15:04") }
		r.Spec.QuietHours = append(r.Spec.QuietHours, v1alpha1.TimeWindow{Start: clock(s.from), End: clock(s.to)})
	}
	for _, ch := range quietChannels {
		r.Spec.Channels = append(r.Spec.Channels, v1alpha1.ChannelReference{Name: ch})
	}
	return r
}

// judgeQuiet looks at when a message arrived that was made in quiet hours. That it
// arrives at all is what every message is promised.
func (h *history) judgeQuiet(o *obligation, v violations) {
	for _, hours := range h.quiet {
		if !o.quiet || !hours.has(o.created) {
			continue
		}
		for _, ch := range o.channels() {
			if a, ok := h.arrived[message{o.uid, ch}]; ok && !o.urgent && hours.has(a.at) {
				v.add(promiseQuiet, "%s, made at %s, came to %s at %s", o.name, o.created.Format(time.TimeOnly), ch, a.at.Format(time.StampMilli))
			}
		}
	}
	if o.urgent && o.last != nil {
		for _, c := range o.last.Status.RoutedChannels {
			if c.QuietUntil != nil {
				v.add(promiseQuiet, "%s is Critical, and waits until %s", o.name, c.QuietUntil)
			}
		}
	}
}
