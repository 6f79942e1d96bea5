package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

// offers is when the dead-letter queue gives a rejected event another try.
var offers = fmt.Sprintf("every %.0f minutes", audit.RejectedRecheck.Minutes())

// writeStatus writes nr's status where it differs from base's. It fails with a
// conflict where anybody has written the object since base was read, or another
// request has become the one that is sent.
func (r *NotificationRequestReconciler) writeStatus(ctx context.Context, base, nr *v1alpha1.NotificationRequest) error {
	if equality.Semantic.DeepEqual(base.Status, nr.Status) {
		return nil
	}
	if err := r.claim(ctx, base, nr, func() error {
		return keepMasked(nr, func() error {
			return r.Client.Status().Patch(ctx, nr, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
		})
	}); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// deliveryOf returns the delivery to the channel of that name, nil for none.
func deliveryOf(status *v1alpha1.NotificationRequestStatus, channel string) *v1alpha1.Delivery {
	i := slices.IndexFunc(status.Deliveries, func(d v1alpha1.Delivery) bool { return d.Channel == channel })
	if i < 0 {
		return nil
	}
	return &status.Deliveries[i]
}

// summarize derives the summary and the conditions from the deliveries.
func summarize(nr *v1alpha1.NotificationRequest, now time.Time) {
	var total, sent, failed, pending, recorded int32
	var names []string
	for _, d := range nr.Status.Deliveries {
		total++
		names = append(names, d.Channel)
		switch {
		case d.State == v1alpha1.DeliverySent:
			sent++
		case !d.State.Final():
			pending++
		case d.LastError.Class != v1alpha1.ErrorDryRun && !spared(&d):
			failed++
		}
		if d.Audit.State == v1alpha1.AuditRecorded {
			recorded++
		}
	}
	nr.Status.Summary = v1alpha1.Summary{
		Total: &total, Sent: &sent, Failed: &failed, Pending: &pending, Audited: &recorded,
		Ratio: fmt.Sprintf("%d/%d", sent, total), Channels: column(names),
	}
	nr.Status.ObservedGeneration = nr.Generation

	ready, message := readiness(nr, now)
	set := conditions{&nr.Status.Conditions, nr.Generation, now}.set
	set(v1alpha1.ConditionReady, slices.Contains(well, ready), ready, message)
	set(v1alpha1.ConditionDelivered, ready == v1alpha1.ReasonSent, ready, message)

	audited, auditMessage := auditedness(nr)
	set(v1alpha1.ConditionAudited, audited == v1alpha1.ReasonRecorded, audited, auditMessage)

	if len(nr.Status.Redactions) > 0 {
		set(v1alpha1.ConditionRedacted, true, v1alpha1.ReasonSecretsMasked, redacted(nr.Status.Redactions))
	} else {
		meta.RemoveStatusCondition(&nr.Status.Conditions, v1alpha1.ConditionRedacted)
	}

	reason, why := stalled(nr, now)
	if reason == "" && audited == v1alpha1.ReasonRejected {
		reason, why = "AuditRejected", auditMessage
	}
	if reason != "" {
		set(v1alpha1.ConditionStalled, true, reason, why)
	} else {
		meta.RemoveStatusCondition(&nr.Status.Conditions, v1alpha1.ConditionStalled)
	}
	if reason == "" && !over(&nr.Status) && ready != v1alpha1.ReasonSuspended {
		set(v1alpha1.ConditionReconciling, true, ready, message)
	} else {
		meta.RemoveStatusCondition(&nr.Status.Conditions, v1alpha1.ConditionReconciling)
	}
}

// column is a list as a column of kubectl get shows it.
func column(names []string) string { return truncate(strings.Join(names, ","), 256) }

// well are the reasons of Ready for requests that ended as they should.
var well = []string{v1alpha1.ReasonSent, v1alpha1.ReasonSuppressed, v1alpha1.ReasonDryRun}

// readiness says in a word and a sentence how far a request is.
func readiness(nr *v1alpha1.NotificationRequest, now time.Time) (reason, message string) {
	s := nr.Status.Summary
	if over(&nr.Status) {
		switch {
		case nr.Status.DuplicateOf.SuppressedTime != nil:
			return v1alpha1.ReasonSuppressed, fmt.Sprintf("not sent: the request %s, with the same dedup.key, has reached a channel", nr.Status.DuplicateOf.Name)
		case isDryRun(nr) && *s.Failed == 0:
			return v1alpha1.ReasonDryRun, "nothing was sent, since mode is DryRun: the message could go to " + count(*s.Total, "channel") + unusedTemplates(nr)
		case isDryRun(nr):
			return v1alpha1.ReasonDryRunFailed, "nothing was sent, since mode is DryRun, and could not all be; " + troubles(nr, true)
		case *s.Failed == 0:
			return v1alpha1.ReasonSent, fmt.Sprintf("%s accepted the message", count(*s.Sent, "channel"))
		case *s.Sent == 0:
			return v1alpha1.ReasonFailed, troubles(nr, true)
		}
		return v1alpha1.ReasonPartiallySent, troubles(nr, true)
	}
	is := func(state v1alpha1.DeliveryState) bool {
		return slices.ContainsFunc(nr.Status.Deliveries, func(d v1alpha1.Delivery) bool { return d.State == state })
	}
	message = fmt.Sprintf("sent to %d of %s", *s.Sent, count(*s.Total, "channel"))
	if trouble := troubles(nr, false); trouble != "" {
		message += "; " + trouble
	}
	switch {
	case is(v1alpha1.DeliveryInFlight):
		return v1alpha1.ReasonSending, message
	case isTrue(nr.Spec.Suspend):
		return v1alpha1.ReasonSuspended, "suspend is set: " + message
	case waits(nr):
		return v1alpha1.ReasonPending, fmt.Sprintf("waits for the request %s, which has the same dedup.key: this one is sent where that one reaches no channel", nr.Status.DuplicateOf.Name)
	case is(v1alpha1.DeliveryRetrying):
		return v1alpha1.ReasonRetrying, message
	case nr.Spec.NotBefore != nil && now.Before(nr.Spec.NotBefore.Time):
		return v1alpha1.ReasonPending, fmt.Sprintf("not before %s: %s", nr.Spec.NotBefore.UTC().Format(time.RFC3339), message)
	}
	return v1alpha1.ReasonPending, message
}

// unusedTemplates names the channels whose templates a dry run could not use.
func unusedTemplates(nr *v1alpha1.NotificationRequest) (text string) {
	for _, d := range nr.Status.Deliveries {
		if d.TemplateError != "" {
			text += fmt.Sprintf("; without the template of %s: %s", d.Channel, d.TemplateError)
		}
	}
	return truncate(text, 4096)
}

// count is a number of things in words.
func count[N int | int32](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// troubles lists what stands or stood in the way, channel by channel.
func troubles(nr *v1alpha1.NotificationRequest, final bool) string {
	var parts []string
	for _, d := range nr.Status.Deliveries {
		if d.LastError.Class != "" && d.LastError.Class != v1alpha1.ErrorDryRun && d.State != v1alpha1.DeliverySent && (!final || d.State.Final()) {
			parts = append(parts, fmt.Sprintf("%s: %s: %s", d.Channel, d.LastError.Reason, d.LastError.Message))
		}
	}
	return truncate(strings.Join(parts, "; "), 4096)
}

// auditedness says in a word and a sentence where the events of a request are.
func auditedness(nr *v1alpha1.NotificationRequest) (reason, message string) {
	pending, rejected := countAudit(&nr.Status, v1alpha1.AuditPending), countAudit(&nr.Status, v1alpha1.AuditRejected)
	consequence := ""
	if nr.DeletionTimestamp != nil {
		consequence = ", and the deletion waits for that"
	}
	switch {
	case nr.Status.FinishedTime == nil && over(&nr.Status):
		return v1alpha1.ReasonPending, "the request is not finished: it waits for an acknowledgement"
	case nr.Status.FinishedTime == nil:
		return v1alpha1.ReasonPending, "the request is not finished" + consequence
	case pending > 0:
		return v1alpha1.ReasonPending, count(pending, "event") + " not recorded in DataStorage yet" + consequence
	case rejected > 0:
		return v1alpha1.ReasonRejected, fmt.Sprintf("DataStorage rejected %s: kept and offered again %s, with the reason in deliveries", count(rejected, "event"), offers)
	}
	return v1alpha1.ReasonRecorded, "DataStorage holds " + count(countAudit(&nr.Status, v1alpha1.AuditRecorded), "event")
}

// stalled says why a request needs a person, "" where it goes on by itself. The
// sentence names every channel that does, so that they can be mended in one go.
func stalled(nr *v1alpha1.NotificationRequest, now time.Time) (reason, message string) {
	if over(&nr.Status) {
		reason, message := readiness(nr, now)
		if slices.Contains(well, reason) {
			return "", ""
		}
		return reason, message
	}
	var parts []string
	for _, d := range nr.Status.Deliveries {
		switch {
		case d.State.Final():
		case d.State == v1alpha1.DeliveryAmbiguous:
			reason = v1alpha1.ReasonAmbiguous
			twice := ""
			if isTrue(d.PossibleDuplicate) {
				twice = ", and it may have arrived more than once, so it is not sent again unasked"
			}
			parts = append(parts, fmt.Sprintf("%s: nobody knows whether the message arrived%s: look there, then annotate this request with %s: %s=Sent, =Retry or =Failed",
				d.Channel, twice, v1alpha1.ResolveAnnotation, d.Channel))
		case d.LastError.Class == v1alpha1.ErrorConfig && d.State != v1alpha1.DeliveryInFlight:
			if reason == "" {
				reason = d.LastError.Reason
			}
			parts = append(parts, d.Channel+": "+d.LastError.Message)
		default:
			return "", ""
		}
	}
	if word := nr.Annotations[v1alpha1.ResolveAnnotation]; word != "" && reason == v1alpha1.ReasonAmbiguous {
		parts = append(parts, fmt.Sprintf("the annotation now says %q, which settles nothing", truncate(word, 128)))
	}
	return reason, truncate(strings.Join(parts, "; "), 4096)
}

// note is a Kubernetes Event that follows from a change of status.
type note struct {
	channel                    string // empty where it is about all of them
	kind, reason, action, text string
}

// notes returns the Events that a change of status is worth: one for a request
// that went well, one for each thing that did not.
func notes(before, after *v1alpha1.NotificationRequestStatus) []note {
	var all []note
	about := ""
	add := func(kind, reason, action, text string) {
		all = append(all, note{about, kind, reason, action, truncate(text, 1000)})
	}
	warn := func(reason, action, format string, args ...any) {
		add(corev1.EventTypeWarning, reason, action, fmt.Sprintf(format, args...))
	}
	dry := slices.ContainsFunc(after.Conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionReady && (c.Reason == v1alpha1.ReasonDryRun || c.Reason == v1alpha1.ReasonDryRunFailed)
	})
	for _, d := range after.Deliveries {
		about = d.Channel
		was := cmp.Or(deliveryOf(before, d.Channel), &v1alpha1.Delivery{})
		if d.TemplateError != "" && was.TemplateError == "" {
			warn("TemplateFailed", "Deliver", "%s: the channel's template is not used: %s", d.Channel, d.TemplateError)
		}
		e := d.LastError
		switch {
		case dry && e.Class == v1alpha1.ErrorDryRun:
		case dry && was.State != d.State:
			warn(v1alpha1.ReasonDryRunFailed, "Render", "%s: %s: %s", d.Channel, e.Reason, e.Message)
		case d.State.Final() && d.State != v1alpha1.DeliverySent && was.State != d.State && !spared(&d):
			warn("DeliveryFailed", "Deliver", "%s: %s: %s", d.Channel, e.Reason, e.Message)
		case d.State == v1alpha1.DeliverySent && was.State != d.State && e.Class == v1alpha1.ErrorAmbiguous:
			warn("DeliveryAmbiguous", "Deliver", "%s: in doubt and taken as sent: %s", d.Channel, e.Message)
		case d.State == v1alpha1.DeliveryAmbiguous && was.State != d.State:
			warn("DeliveryAmbiguous", "Deliver", "%s: in doubt and held: %s", d.Channel, e.Message)
		case postponed(&d), e.Reason == v1alpha1.ReasonQuietHours:
		case e.Class != "" && !d.State.Final() && e != was.LastError && e != lastAttemptError(was):
			warn("DeliveryDelayed", "Deliver", "%s: %s: %s", d.Channel, e.Reason, e.Message)
		}
	}
	about = ""
	if len(before.Redactions) == 0 && len(after.Redactions) > 0 {
		warn(v1alpha1.ReasonSecretsMasked, "Redact", "%s", redacted(after.Redactions))
	}
	was := map[string]v1alpha1.AuditState{}
	records(before, func(r *v1alpha1.AuditRecord) { was[r.EventID] = r.State })
	var reasons []string
	records(after, func(r *v1alpha1.AuditRecord) {
		if r.State == v1alpha1.AuditRejected && was[r.EventID] != r.State {
			reasons = append(reasons, r.Message)
		}
	})
	switch n := len(reasons); n {
	case 0:
	case 1:
		warn("AuditRejected", "Audit", "DataStorage rejected 1 event: %s; it stays in the dead-letter queue and is offered again %s and after a restart", reasons[0], offers)
	default:
		warn("AuditRejected", "Audit", "DataStorage rejected %s, one of them: %s; they stay in the dead-letter queue and are offered again %s and after a restart",
			count(n, "event"), reasons[0], offers)
	}
	if e := after.Escalation; e.Time != nil && before.Escalation.Time == nil {
		warn(v1alpha1.ReasonEscalated, "Escalate", "%s: sent on to %s", e.Reason, strings.Join(e.Channels, ", "))
	}
	if a := after.Acknowledgement; toldAcknowledged(after) && !toldAcknowledged(before) {
		add(corev1.EventTypeNormal, v1alpha1.ReasonAcknowledged, "Acknowledge", who(a.By)+" acknowledged the message through "+a.Channel)
	}
	switch {
	case !over(after) || over(before) || *after.Summary.Failed > 0:
	case after.DuplicateOf.SuppressedTime != nil:
		add(corev1.EventTypeNormal, v1alpha1.ReasonSuppressed, "Deliver", "not sent: it repeats the request "+after.DuplicateOf.Name)
	case dry:
		add(corev1.EventTypeNormal, v1alpha1.ReasonDryRun, "Render", "not sent: it is a dry run, and could go to "+count(*after.Summary.Total, "channel"))
	default:
		add(corev1.EventTypeNormal, v1alpha1.ReasonSent, "Deliver", count(*after.Summary.Sent, "channel")+" accepted the message")
	}
	return all
}

// truncate cuts a text to at most limit bytes at the boundary of a character.
func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const mark = "..."
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}
