package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/routing"
)

// route decides where a request goes that is seen for the first time. The decision
// is in the same write of status as the first intent, and no later step alters it.
func (r *NotificationRequestReconciler) route(ctx context.Context, nr *v1alpha1.NotificationRequest, now time.Time) error {
	if len(nr.Status.Deliveries) > 0 || len(nr.Status.RoutedChannels) > 0 || nr.Status.DuplicateOf.SuppressedTime != nil {
		return nil
	}
	reason, message := v1alpha1.ReasonChannelsGiven, "the request names its channels"
	if len(nr.Spec.Channels) == 0 {
		// A cache may not have heard of a route that was applied just before the request.
		var routes v1alpha1.NotificationRouteList
		if err := r.Routes.List(ctx, &routes, client.InNamespace(nr.Namespace)); err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		at := now
		if nr.Spec.NotBefore != nil && nr.Spec.NotBefore.After(now) {
			at = nr.Spec.NotBefore.Time
		}
		d := routing.Decide(nr, routes.Items, at)
		nr.Status.RoutedChannels = d.Channels
		reason, message = d.Reason, truncate(d.Message, 4096)
	}
	conditions{&nr.Status.Conditions, nr.Generation, now}.set(v1alpha1.ConditionRouted, true, reason, message)
	return nil
}

// channelRefs returns the channels that a request goes to: those that it names, or
// those that it was routed to.
func channelRefs(nr *v1alpha1.NotificationRequest) []v1alpha1.ChannelReference {
	if len(nr.Spec.Channels) > 0 {
		return nr.Spec.Channels
	}
	var refs []v1alpha1.ChannelReference
	for _, c := range nr.Status.RoutedChannels {
		refs = append(refs, v1alpha1.ChannelReference{Name: c.Name, Namespace: c.Namespace})
	}
	if len(refs) == 0 {
		return []v1alpha1.ChannelReference{{Name: v1alpha1.ConsoleChannel}}
	}
	return refs
}

// quietUntil is the end of the quiet hours that hold a delivery back, zero where
// none do.
func quietUntil(nr *v1alpha1.NotificationRequest, channel string) time.Time {
	if slices.Contains(nr.Status.Escalation.Channels, channel) {
		return time.Time{} // an escalation does not wait for the morning
	}
	i := slices.IndexFunc(nr.Status.RoutedChannels, func(c v1alpha1.RoutedChannel) bool { return c.Name == channel })
	if i < 0 || nr.Status.RoutedChannels[i].QuietUntil == nil {
		return time.Time{}
	}
	return nr.Status.RoutedChannels[i].QuietUntil.Time
}

// quiet is why a delivery waits for the end of its quiet hours.
func quiet(until time.Time) v1alpha1.DeliveryError {
	return hindrance(v1alpha1.ErrorTransient, v1alpha1.ReasonQuietHours, "the route's quiet hours hold the message until %s", until.UTC().Format(time.RFC3339))
}
