package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/standin"
)

// slackChannels are the IDs of what channels are in Slack.
var slackChannels = map[string]string{chIncident: "C0000000002", chUpdated: "C0000000001"}

// aMoment is how long after a newer message an attempt may begin to take its place: who
// begins it may have looked before.
const aMoment = time.Second

// conversation is what the API server has shown of how a request's message is shown in
// Slack with others.
type conversation struct {
	followed v1alpha1.FollowUp // what it follows, as last decided
	replaces time.Time         // when its last attempt began to take another's place
	place    string            // the first message of all, once this one was sent
	placed   time.Time         // when that was seen
}

// look takes another look at a message, and says how a decision was changed that had
// been taken.
func (c *conversation) look(d v1alpha1.Delivery) (strayed string) {
	if d.Attempts == 0 {
		return ""
	}
	before, after := c.followed, d.FollowUp
	given := before.ExternalID == after.ExternalID &&
		(after.Mode == v1alpha1.FollowUpSeparate || before.Mode == v1alpha1.FollowUpUpdate && after.Mode == v1alpha1.FollowUpReply)
	if d.Attempts > 1 && after != before && !given {
		strayed = fmt.Sprintf("follows %+v, and in attempt %d %+v", before, d.Attempts, after)
	}
	c.followed = after
	switch {
	case d.State == v1alpha1.DeliveryInFlight && after.Mode == v1alpha1.FollowUpUpdate:
		c.replaces = d.StartedTime.Time
	case d.State == v1alpha1.DeliverySent && c.placed.IsZero():
		c.place, c.placed = d.ExternalID, time.Now()
		if after.Mode == v1alpha1.FollowUpReply || after.Mode == v1alpha1.FollowUpUpdate {
			c.place = after.ExternalID
		}
	}
	return strayed
}

// judgeSlack looks at what is in Slack.
func (h *history) judgeSlack(byMessage map[message]*told, v violations) {
	owners, left := map[string]*obligation{}, map[string]bool{}
	for _, o := range h.obligations {
		for ch, id := range slackChannels {
			owners[id+keyOf(o.uid, ch)] = o
		}
		if o.followed.Mode == v1alpha1.FollowUpSeparate {
			left[o.followed.ExternalID] = true
		}
	}
	for _, m := range h.posted {
		var shown []*obligation
		for _, key := range keysOf(m) {
			if o := owners[m.Channel+key]; o != nil {
				shown = append(shown, o)
			} else {
				v.add(promiseUnfounded, "nobody made %q of what is in Slack: %+v", key, m)
			}
		}
		if len(shown) == 0 {
			continue
		}
		first := shown[0]
		i := slices.IndexFunc(h.posted, func(other standin.SlackMessage) bool { return other.Channel == m.Channel && other.TS == m.Thread })
		if m.Thread != "" && (i < 0 || m.Thread >= m.TS || !begins(h.posted[i], first.correlation, owners)) {
			v.add(promiseReply, "%s of %s replies to %q", first.name, first.correlation, cmp.Or(m.Thread, "nothing"))
		}
		if _, followed, _ := strings.Cut(first.followed.ExternalID, "/"); first.followed.Mode == v1alpha1.FollowUpReply && m.Thread != followed {
			v.add(promiseReply, "%s follows %+v and replies to %q", first.name, first.followed, m.Thread)
		}
		for _, o := range shown[1:] {
			if o.correlation != first.correlation || o.followed.ExternalID != m.ID() {
				v.add(promiseReply, "%s of %s follows %+v and takes the place of %s", o.name, o.correlation, o.followed, m.ID())
			}
		}
		if m.Thread == "" && first.followed.Mode == "" {
			h.judgeBegun(first, left, v)
		}
		h.judgeNewest(shown, byMessage, v)
	}
}

// begins reports whether a message in Slack was posted for an incident.
func begins(m standin.SlackMessage, correlation string, owners map[string]*obligation) bool {
	o := owners[m.Channel+keysOf(m)[0]]
	return o != nil && o.correlation == correlation
}

// judgeBegun looks at a message that began an incident: none may have been there that is
// still known of, when its request was made.
func (h *history) judgeBegun(o *obligation, left map[string]bool, v violations) {
	for _, other := range h.obligations {
		if other.correlation == o.correlation && !other.deleted && !other.gone && other.place != "" && !left[other.place] && other.placed.Before(o.created) {
			v.add(promiseBegun, "%s begins %s, though %s had been sent to %s", o.name, o.correlation, other.name, other.place)
			return
		}
	}
}

// judgeNewest looks at all that was shown in one place, one after the other, where clocks
// tell, and at a reply that should have been.
func (h *history) judgeNewest(shown []*obligation, byMessage map[message]*told, v violations) {
	if first := shown[0]; first.updates && first.followed.Mode == v1alpha1.FollowUpReply && !slices.ContainsFunc(h.obligations, func(o *obligation) bool {
		return o.correlation == first.correlation && o.updates && o.created.After(first.created)
	}) {
		v.add(promiseNewest, "%s is a reply, and nothing newer is of %s", first.name, first.correlation)
	}
	if h.timeouts == nil {
		return
	}
	for i, o := range shown[1:] {
		for _, before := range shown[1 : i+1] {
			t := byMessage[message{before.uid, chUpdated}]
			if !before.created.After(o.created) || before.deleted || before.gone || t == nil || len(t.sent) == 0 {
				continue
			}
			if sent := t.sent[0].EventTimestamp; o.replaces.After(sent.Add(aMoment)) {
				v.add(promiseNewest, "%s, made at %s, took the place of %s, made at %s and sent at %s, in an attempt that began at %s",
					o.name, o.created.Format(time.TimeOnly), before.name, before.created.Format(time.TimeOnly), sent.Format(time.StampMilli), o.replaces.Format(time.StampMilli))
			}
		}
	}
}

// countPosted counts in how many places of Slack each message was shown.
func (h *history) countPosted() {
	for _, o := range h.obligations {
		for ch, id := range slackChannels {
			key := keyOf(o.uid, ch)
			for _, m := range h.posted {
				if m.Channel == id && slices.Contains(keysOf(m), key) {
					add(h.performed, message{o.uid, ch}, key, false)
				}
			}
		}
	}
}

// keysOf are the IDs of the first blocks of all that was shown in one place, the latest
// last.
func keysOf(m standin.SlackMessage) []string { return append(slices.Clone(m.Before), m.Key) }

// keyOf is the ID of the first block of a request's message in Slack.
func keyOf(uid types.UID, channel string) string {
	return audit.EventID("delivery", string(uid), channel).String()
}
