package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// begin marks an attempt as begun. Only what status then holds may be sent.
func begin(d *v1alpha1.Delivery, ch channel, now time.Time) {
	d.State = v1alpha1.DeliveryInFlight
	d.ChannelType = string(ch.kind)
	d.Idempotent = new(ch.idempotent || d.FollowUp.Mode == v1alpha1.FollowUpUpdate)
	d.Attempts++
	d.StartedTime = micro(now)
	d.AttemptDeadline = micro(now.Add(ch.timeout + outcomeGrace))
	d.NextAttemptTime = nil
	d.HeldConfig, d.ContentDigest, d.ContentSize = "", "", 0
	d.LastError = lastAttemptError(d)
}

// undo takes back an attempt that was never made.
func undo(d *v1alpha1.Delivery) {
	d.State = v1alpha1.DeliveryPending
	if d.Attempts--; d.Attempts > 0 {
		d.State = v1alpha1.DeliveryRetrying
	}
	d.StartedTime, d.AttemptDeadline = nil, nil
}

// fold takes the outcome of an attempt of this process into status.
func (p *planner) fold(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, o outcome) {
	d.StartedTime = micro(o.started)
	d.AttemptDeadline, d.NextAttemptTime, d.HeldConfig = nil, nil, ""
	d.ContentDigest, d.ContentSize = o.receipt.Digest, o.receipt.Size
	if o.err == nil {
		d.ExternalID = o.receipt.ExternalID
		d.LastError = v1alpha1.DeliveryError{}
		sent(nr, d, o.finished)
		return
	}
	failure := deliveryError(o.err)
	if o.err.CannotFollow && follows(d) {
		fail(nr, d, failure, o.finished)
		d.UncountedAttempts++
		d.State, d.NextAttemptTime = v1alpha1.DeliveryRetrying, micro(o.finished)
		unfollow(nr, d, v1alpha1.FollowUpSeparate, o.finished)
		return
	}
	switch o.err.Class {
	case delivery.Ambiguous:
		p.doubt(nr, d, failure, o.finished)
	case delivery.Permanent:
		fail(nr, d, failure, o.finished)
		end(nr, d, failure, o.finished)
	case delivery.Config:
		fail(nr, d, failure, o.finished)
		d.UncountedAttempts++
		d.HeldConfig = o.config
		// Only a person can mend it, and the change is noticed; this is for what is
		// mended elsewhere.
		p.again(nr, d, o.finished, max(o.err.RetryAfter, nr.Spec.Retry.MaxDelay.Value(), refusedRecheck))
	default:
		fail(nr, d, failure, o.finished)
		p.again(nr, d, o.finished, o.err.RetryAfter)
		if o.err.MaybeDelivered && !isTrue(d.Idempotent) && !d.State.Final() {
			d.PossibleDuplicate = new(true)
		}
	}
}

// deliveryError is a sender's error as status keeps it.
func deliveryError(e *delivery.Error) v1alpha1.DeliveryError {
	return v1alpha1.DeliveryError{Class: v1alpha1.ErrorClass(e.Class), Reason: e.Reason, Code: e.Code, Message: e.Message}
}

// doubt settles an attempt whose outcome nobody can know, by what the channel was
// when it began.
func (p *planner) doubt(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, e v1alpha1.DeliveryError, at time.Time) {
	fail(nr, d, e, at)
	d.AttemptDeadline = nil
	switch {
	case isTrue(d.Idempotent):
		p.again(nr, d, at, 0)
	case nr.Spec.OnAmbiguous == v1alpha1.AmbiguousAssumeSent:
		sent(nr, d, at)
	case nr.Spec.OnAmbiguous == v1alpha1.AmbiguousHold, isTrue(d.PossibleDuplicate):
		// Nobody asked for more than one duplicate.
		d.State = v1alpha1.DeliveryAmbiguous
	default:
		p.again(nr, d, at, 0)
		if !d.State.Final() {
			d.PossibleDuplicate = new(true)
		}
	}
}

// resolve takes a person's word for a delivery that is held in doubt. A word is
// spent with that, or where there is no doubt that it could settle; a delivery
// goes on once its spent word is gone, so that none is followed twice.
func (p *planner) resolve(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery) (spent bool) {
	word := resolution(nr, d.Channel)
	if d.State != v1alpha1.DeliveryAmbiguous || slices.Contains(p.spent, d.Channel) {
		return word != ""
	}
	switch word {
	case "Sent":
		sent(nr, d, p.now)
	case "Failed":
		end(nr, d, d.LastError, p.now)
	case "Retry":
		d.PossibleDuplicate = new(true)
		d.State = v1alpha1.DeliveryRetrying
		d.NextAttemptTime = micro(p.now)
	default:
		return false
	}
	return true
}

// resolution returns what the annotation says about a channel, "" for nothing.
func resolution(nr *v1alpha1.NotificationRequest, channel string) string {
	for word := range strings.SplitSeq(nr.Annotations[v1alpha1.ResolveAnnotation], ",") {
		if name, verdict, ok := strings.Cut(strings.TrimSpace(word), "="); ok && name == channel {
			return verdict
		}
	}
	return ""
}

// dropResolutions takes the words about the given channels off the annotation.
func dropResolutions(nr *v1alpha1.NotificationRequest, channels []string) {
	var left []string
	for word := range strings.SplitSeq(nr.Annotations[v1alpha1.ResolveAnnotation], ",") {
		if name, _, _ := strings.Cut(strings.TrimSpace(word), "="); !slices.Contains(channels, name) {
			left = append(left, word)
		}
	}
	if nr.Annotations[v1alpha1.ResolveAnnotation] = strings.Join(left, ","); len(left) == 0 {
		delete(nr.Annotations, v1alpha1.ResolveAnnotation)
	}
}

// again lets a delivery be tried again after the wait that its policy and the
// channel ask for, and ends it where its attempts are spent.
func (p *planner) again(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, from time.Time, retryAfter time.Duration) {
	counted := d.Attempts - d.UncountedAttempts
	if counted >= nr.Spec.Retry.MaxAttempts {
		end(nr, d, d.LastError, from)
		return
	}
	d.State = v1alpha1.DeliveryRetrying
	d.NextAttemptTime = micro(from.Add(max(p.jitter(backoff(nr.Spec.Retry, d.Attempts)), retryAfter)))
}

// backoff is the longest wait after the given number of attempts.
func backoff(policy v1alpha1.RetryPolicy, attempts int32) time.Duration {
	delay, limit := policy.InitialDelay.Value(), policy.MaxDelay.Value()
	for range attempts - 1 {
		if delay >= limit {
			break
		}
		delay *= 2
	}
	return min(delay, limit)
}

// sent ends a delivery with success.
func sent(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, at time.Time) {
	d.State = v1alpha1.DeliverySent
	d.SentTime = micro(at)
	d.NextAttemptTime = nil
	d.Audit = pending(audit.TypeMessageSent, string(nr.UID), d.Channel)
}

// end ends a delivery without success.
func end(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, e v1alpha1.DeliveryError, at time.Time) {
	d.State = v1alpha1.DeliveryFailed
	if d.Attempts == 0 {
		d.State = v1alpha1.DeliverySkipped
	}
	d.FailedTime = micro(at)
	d.NextAttemptTime, d.AttemptDeadline, d.HeldConfig = nil, nil, ""
	d.LastError = e
	d.Audit = pending(audit.TypeMessageFailed, string(nr.UID), d.Channel)
}

// fail notes an attempt that did not succeed.
func fail(nr *v1alpha1.NotificationRequest, d *v1alpha1.Delivery, e v1alpha1.DeliveryError, at time.Time) {
	kind := audit.TypeAttemptFailed
	if e.Class == v1alpha1.ErrorAmbiguous {
		kind = audit.TypeAttemptAmbiguous
	}
	d.LastError = e
	if len(d.AttemptFailures) >= maxFailures {
		// No attempt begins while status is full, so one of these is there.
		oldest := slices.IndexFunc(d.AttemptFailures, inState(v1alpha1.AuditRecorded))
		if oldest < 0 {
			oldest = slices.IndexFunc(d.AttemptFailures, inState(v1alpha1.AuditRejected))
		}
		d.AttemptFailures = slices.Delete(d.AttemptFailures, oldest, oldest+1)
	}
	d.AttemptFailures = append(d.AttemptFailures, v1alpha1.AttemptFailure{
		Attempt:       d.Attempts,
		ChannelType:   d.ChannelType,
		StartedTime:   d.StartedTime.DeepCopy(),
		Time:          micro(at),
		Error:         e,
		ContentDigest: d.ContentDigest,
		Audit:         pending(kind, string(nr.UID), d.Channel, fmt.Sprint(d.Attempts)),
	})
}

// lastAttemptError is why the latest attempt did not succeed, zero where there
// was none.
func lastAttemptError(d *v1alpha1.Delivery) v1alpha1.DeliveryError {
	if n := len(d.AttemptFailures); n > 0 {
		return d.AttemptFailures[n-1].Error
	}
	return v1alpha1.DeliveryError{}
}

// full reports whether status has no room for another failed attempt: all that
// it keeps must stay, since their events are not recorded, or show that one was
// rejected.
func full(d *v1alpha1.Delivery) bool {
	rejected := 0
	for _, f := range d.AttemptFailures {
		switch f.Audit.State {
		case v1alpha1.AuditRecorded:
			return false
		case v1alpha1.AuditRejected:
			rejected++
		default:
		}
	}
	return len(d.AttemptFailures) >= maxFailures && rejected < 2
}

func inState(state v1alpha1.AuditState) func(v1alpha1.AttemptFailure) bool {
	return func(f v1alpha1.AttemptFailure) bool { return f.Audit.State == state }
}

// because appends what went wrong before to a sentence.
func because(sentence string, last v1alpha1.DeliveryError) string {
	if last.Class == "" {
		return sentence
	}
	return truncate(sentence+"; before that "+last.Reason+": "+last.Message, 256)
}

// pending is the record of an event that is still to be recorded.
func pending(parts ...string) v1alpha1.AuditRecord {
	return v1alpha1.AuditRecord{EventID: audit.EventID(parts...).String(), State: v1alpha1.AuditPending}
}

// second is a time in whole seconds, as metav1.Time is written.
func second(t time.Time) *metav1.Time {
	return new(metav1.NewTime(t.Truncate(time.Second)))
}

// micro is a time in whole microseconds, as metav1.MicroTime is written.
func micro(t time.Time) *metav1.MicroTime {
	return new(metav1.NewMicroTime(t.Truncate(time.Microsecond)))
}
