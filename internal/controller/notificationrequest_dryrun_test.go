package controller

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

func dryRun(nr *v1alpha1.NotificationRequest) { nr.Spec.Mode = v1alpha1.ModeDryRun }

func TestADryRunSaysWhatWouldBeSentAndSendsNothing(t *testing.T) {
	channel, calls := receiver(t, accept)
	channel.Spec.Template = v1alpha1.MessageTemplate{Subject: "{{ .Channel }}: {{ .Subject }}"}
	b := newBench(t, newRequest(withChannels(ops, v1alpha1.ConsoleChannel), dryRun), channel)
	equal(t, "looked at again", b.mustLook(), auditCheck)
	nr := b.stored()
	checkSchema(t, nr)
	equal(t, "writes", b.writes.Load(), int32(1))
	equal(t, "received", calls.Load(), int32(0))
	equal(t, "printed", len(b.printed), 0)
	equal(t, "attempts", len(b.sends.of(nr.UID)), 0)
	ready := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReady)
	equal(t, "ready", []string{string(ready.Status), ready.Reason, ready.Message},
		[]string{"True", v1alpha1.ReasonDryRun, "nothing was sent, since mode is DryRun: the message could go to 2 channels"})
	equal(t, "stalled", meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionStalled), nil)
	equal(t, "summary", nr.Status.Summary, v1alpha1.Summary{
		Total: new(int32(2)), Sent: new(int32(0)), Failed: new(int32(0)), Pending: new(int32(0)), Audited: new(int32(0)), Ratio: "0/2", Channels: "ops,console",
	})
	equal(t, "told", b.told(), []string{"Normal DryRun not sent: it is a dry run, and could go to 2 channels"})
	equal(t, "counted as not delivered", testutil.CollectAndCount(b.Metrics.deliveries), 0)

	// A request that is sent has the same content.
	m, _ := fill(channel, message(nr, ops, 1))
	content := (&delivery.Webhook{}).Render(m)
	d := *deliveryOf(&nr.Status, ops)
	equal(t, "delivery", d, v1alpha1.Delivery{
		Channel: ops, ChannelType: "Webhook", State: v1alpha1.DeliverySkipped,
		ContentDigest: delivery.ReceiptOf(content).Digest, ContentSize: int64(len(content)),
		LastError: v1alpha1.DeliveryError{Class: v1alpha1.ErrorDryRun, Reason: "DryRun", Message: d.LastError.Message},
		Audit:     pending(audit.TypeMessageDryRun, string(nr.UID), ops),
	})
	equal(t, "says", d.LastError.Message, fmt.Sprintf("not sent, since mode is DryRun: it would have been %d bytes", len(content)))
	equal(t, "template", strings.Contains(string(content), `"subject":"ops: Order 7 is late"`), true)

	equal(t, "recorded", len(b.recorded), 2)
	e := b.recorded[0]
	equal(t, "event", []string{e.EventType, e.EventAction, e.EventOutcome, e.EventID.String()},
		[]string{"notification.message.dryrun", "rendered", "success", audit.EventID(audit.TypeMessageDryRun, string(nr.UID), ops).String()})
	equal(t, "event's time", e.EventTimestamp, nr.Status.FinishedTime.UTC())
	var data eventData
	if err := json.Unmarshal(e.EventData, &data); err != nil {
		t.Fatal(err)
	}
	equal(t, "event's digest", data.ContentDigest, d.ContentDigest)
	equal(t, "event's size", data.ContentSize, d.ContentSize)
	equal(t, "event's error", data.ErrorType+data.Error+e.ErrorMessage, "")
	b.acknowledge()
	b.mustLook()
	nr = b.stored()
	equal(t, "audited", meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionAudited), true)
	equal(t, "finalizers", nr.Finalizers, nil)
}

func TestADryRunTriesTheEscalationAndHasALinkOfTheTrueLength(t *testing.T) {
	const address, token = "https://notify.example/acknowledge/", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	channel, calls := receiver(t, accept)
	further := channel.DeepCopy()
	further.Name = pager
	try := func(change ...func(*v1alpha1.NotificationRequest)) *bench {
		b := newBench(t, newRequest(append(change, withChannels(ops, v1alpha1.ConsoleChannel))...), channel.DeepCopy(), further.DeepCopy())
		b.AcknowledgeLink = func(*v1alpha1.NotificationRequest, string, time.Time) string { return address + token }
		b.mustLook()
		return b
	}
	nr := try(dryRun, asking(pager, "nowhere")).stored()
	checkSchema(t, nr)
	equal(t, "received", calls.Load(), int32(0))
	said := map[string]string{}
	for _, d := range nr.Status.Deliveries {
		m, _ := fill(channel, message(nr, d.Channel, 1))
		if d.Channel != v1alpha1.ConsoleChannel {
			m.Links = []delivery.Link{{Label: delivery.AcknowledgeLabel, URL: address + strings.Repeat("x", len(token))}}
		}
		if d.Channel == pager {
			m.Fields["Escalated"] = "nobody acknowledged this within 15m"
		}
		said[d.Channel] = strings.ReplaceAll(d.LastError.Message, fmt.Sprint(d.ContentSize), "n")
		if d.Channel == ops || d.Channel == pager {
			equal(t, "digest of "+d.Channel, d.ContentDigest, delivery.ReceiptOf((&delivery.Webhook{}).Render(m)).Digest)
		}
	}
	equal(t, "says", said, map[string]string{
		ops:                     "not sent, since mode is DryRun: it would have been n bytes",
		v1alpha1.ConsoleChannel: "not sent, since mode is DryRun: it would have been n bytes",
		pager:                   "not sent, since mode is DryRun: it would have been n bytes, where nobody acknowledges the message",
		"nowhere":               "there is no NotificationChannel shop/nowhere: create it",
	})
	equal(t, "escalation", nr.Status.Escalation.Time, nil)
	equal(t, "ready", meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReady).Reason, v1alpha1.ReasonDryRunFailed)

	sent := try(asking(pager))
	sent.wait()
	sent.ended()
	equal(t, "size of what is sent", deliveryOf(&sent.stored().Status, ops).ContentSize, deliveryOf(&nr.Status, ops).ContentSize)
}

func TestADryRunNamesWhatWouldNotWork(t *testing.T) {
	good, calls := receiver(t, accept)
	good.Name = "good"
	broken := newChannel(func(c *v1alpha1.NotificationChannel) { c.Name = "broken"; c.Spec.Webhook.URL = "https://exa mple/" })
	private := newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Name = "private"
		c.Spec.Webhook.URL = "https://10.0.0.1/"
	})
	slack := newChannel(asSlack, func(c *v1alpha1.NotificationChannel) { c.Name = "slack" })
	keyless := newChannel(asTeams, func(c *v1alpha1.NotificationChannel) { c.Name = "keyless" })
	suspended := newChannel(func(c *v1alpha1.NotificationChannel) { c.Name = "suspended"; c.Spec.Suspend = new(true) })
	b := newBench(t, newRequest(withChannels("good", "broken", "private", "slack", "keyless", "suspended", "nowhere"), dryRun),
		good, broken, private, slack, keyless, suspended, newSecret("teams", map[string]string{"other": "x"}))
	b.mustLook()
	nr := b.stored()
	checkSchema(t, nr)
	equal(t, "received", calls.Load(), int32(0))
	reasons := map[string]string{}
	for _, d := range nr.Status.Deliveries {
		equal(t, "state of "+d.Channel, d.State, v1alpha1.DeliverySkipped)
		equal(t, "content of "+d.Channel, d.ContentDigest != "" && d.ContentSize > 0, d.Channel == "good")
		reasons[d.Channel] = d.LastError.Reason
	}
	equal(t, "reasons", reasons, map[string]string{
		"good": "DryRun", "broken": "InvalidURL", "private": "AddressNotAllowed", "slack": "SecretNotFound", "keyless": "SecretKeyNotFound", "suspended": "ChannelSuspended", "nowhere": "ChannelNotFound",
	})
	ready := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionReady)
	equal(t, "ready", string(ready.Status)+ready.Reason, "False"+v1alpha1.ReasonDryRunFailed)
	equal(t, "names it", strings.Contains(ready.Message, "slack: SecretNotFound: the channel shop/slack needs the Secret slack, which does not exist: create it"), true)
	equal(t, "names what works", strings.Contains(ready.Message, "good"), false)
	equal(t, "stalled", meta.IsStatusConditionTrue(nr.Status.Conditions, v1alpha1.ConditionStalled), true)
	equal(t, "failed", *nr.Status.Summary.Failed, int32(6))
	told := b.told()
	equal(t, "warnings", len(told), 6)
	for _, text := range told {
		equal(t, "told", strings.HasPrefix(text, "Warning DryRunFailed "), true)
	}
	outcomes := map[string]int{}
	for _, e := range b.recorded {
		outcomes[e.EventType+" "+e.EventOutcome]++
	}
	equal(t, "events", outcomes, map[string]int{"notification.message.dryrun success": 1, "notification.message.dryrun failure": 6})
}

func TestADryRunWaitsForNothing(t *testing.T) {
	b := newBench(t, newRequest(withChannels(), dryRun, func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.NotBefore = new(metav1.NewTime(time.Now().Add(time.Hour)))
		nr.Spec.Suspend = new(true)
		nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "1h"}
		nr.Status.RoutedChannels = []v1alpha1.RoutedChannel{{Name: v1alpha1.ConsoleChannel, QuietUntil: new(metav1.NewTime(time.Now().Add(time.Hour)))}}
	}))
	b.hold = newHold(nil, nil)
	b.mustLook()
	nr := b.stored()
	equal(t, "finished", nr.Status.FinishedTime != nil, true)
	equal(t, "next attempt", nr.Status.Deliveries[0].NextAttemptTime, nil)
	b.acknowledge()
	b.mustLook()
	equal(t, "settled", settled(b.stored()), true)
	equal(t, "printed", len(b.printed), 0)
}

func TestADryRunIsMadeAgainWhereItsWriteWasLost(t *testing.T) {
	for name, lose := range map[string]func(*bench){
		"conflict": func(b *bench) { b.failNext.Store(conflict()) },
		"no answer": func(b *bench) {
			b.loseNext.Store(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newRequest(withChannels(), dryRun))
			lose(b)
			_, _ = b.look()
			b.mustLook()
			b.mustLook()
			ids := map[string]string{}
			for _, e := range b.recorded {
				raw, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				if first := ids[e.EventID.String()]; first != "" && first != string(raw) {
					t.Errorf("one event has two contents:\n%s\n%s", first, raw)
				}
				ids[e.EventID.String()] = string(raw)
			}
			equal(t, "events", len(ids), 1)
			equal(t, "printed", len(b.printed), 0)
		})
	}
}

func TestADryRunStandsForNoOtherRequest(t *testing.T) {
	now := born.Add(time.Minute)
	nr := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.UID = "uid-of-nr"
		nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "1h"}
	})
	other := newRequest(dryRun, func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Dedup = v1alpha1.Dedup{Key: "k", Window: "1h"}
		nr.Status.Deliveries = []v1alpha1.Delivery{{Channel: ops, State: v1alpha1.DeliveryPending}}
	})
	equal(t, "duplicate of", duplicateOf(nr, []v1alpha1.NotificationRequest{*other}, now), v1alpha1.Duplicate{})
	other.Spec.Mode = v1alpha1.ModeSend
	equal(t, "duplicate of a request that is sent", duplicateOf(nr, []v1alpha1.NotificationRequest{*other}, now).Name, other.Name)
	nr.Spec.Mode = v1alpha1.ModeDryRun
	equal(t, "a dry run is to find out", undecided(nr), false)
}

func TestADryRunKeepsTheSecrets(t *testing.T) {
	channel := newChannel(asSlack)
	b := newBench(t, newRequest(dryRun), channel, newSecret("slack", map[string]string{"url": "ftp://" + planted + "/" + planted}))
	b.mustLook()
	raw, err := json.Marshal(b.stored())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "reason", b.stored().Status.Deliveries[0].LastError.Reason, "InvalidURL")
	equal(t, "shown", strings.Contains(string(raw)+strings.Join(b.told(), ""), planted), false)
}
