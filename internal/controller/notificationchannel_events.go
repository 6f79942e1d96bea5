package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
)

// channelNotes returns the Events that a change of a channel's status is worth: what
// its owner has to mend, and that it is mended. A circuit that tries in vain, and a
// channel that its owner suspends, are no news.
func channelNotes(before, after *v1alpha1.NotificationChannelStatus) []note {
	var all []note
	tell := func(kind, reason, action, format string, args ...any) {
		all = append(all, note{"", kind, reason, action, truncate(fmt.Sprintf(format, args...), 1000)})
	}
	for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionTemplateValid} {
		was, is := unusableFor(before, condition), unusableFor(after, condition)
		switch c := meta.FindStatusCondition(after.Conditions, condition); {
		case is != "" && is != was:
			tell(corev1.EventTypeWarning, c.Reason, "Check", "%s", c.Message)
		case was != "" && c != nil && c.Status == metav1.ConditionTrue:
			tell(corev1.EventTypeNormal, c.Reason, "Check", "%s", c.Message)
		}
	}
	wasClosed, isClosed := closed(before), closed(after)
	switch last := after.Circuit.LastError; {
	case wasClosed && !isClosed:
		tell(corev1.EventTypeWarning, v1alpha1.ReasonCircuitOpened, "Deliver",
			"the channel has failed %d times in a row, so its messages wait until a trial arrives; last %s: %s", circuitFailures, last.Reason, last.Message)
	case isClosed && !wasClosed:
		tell(corev1.EventTypeNormal, v1alpha1.ReasonCircuitClosed, "Deliver", "the channel works again: the messages that waited for it are sent")
	}
	p := after.Probe
	if before.Probe.State == p.State && before.Probe.RequestedAt == p.RequestedAt {
		return all
	}
	switch p.State {
	case v1alpha1.ProbeFailed:
		tell(corev1.EventTypeWarning, v1alpha1.ReasonProbeFailed, "Probe", "the test message failed: %s: %s", p.Error.Reason, p.Error.Message)
	case v1alpha1.ProbeInterrupted:
		tell(corev1.EventTypeWarning, v1alpha1.ReasonProbeInterrupted, "Probe", "%s", p.Error.Message)
	case v1alpha1.ProbeInFlight, v1alpha1.ProbeSent:
	}
	return all
}

// unusableFor says why a condition is False, "" where it is not, or because its owner
// wants it so.
func unusableFor(status *v1alpha1.NotificationChannelStatus, condition string) string {
	c := meta.FindStatusCondition(status.Conditions, condition)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason == v1alpha1.ReasonSuspended {
		return ""
	}
	return c.Reason + ": " + c.Message
}

func closed(status *v1alpha1.NotificationChannelStatus) bool {
	return status.Circuit.State == "" || status.Circuit.State == v1alpha1.CircuitClosed
}
