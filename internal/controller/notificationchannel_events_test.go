package controller

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// told returns what the channel's owner was told since the last time, after the
// channel was looked at some times more, by another process too.
func (b *probeBench) told() (all []string) {
	b.t.Helper()
	for range 3 {
		b.look()
	}
	mine := b.Health
	b.Health = &ChannelHealth{}
	b.look()
	b.Health = mine
	for len(b.recorder.Events) > 0 {
		all = append(all, <-b.recorder.Events)
	}
	return all
}

func (b *probeBench) change(change func(*v1alpha1.NotificationChannel)) {
	b.t.Helper()
	object := b.stored()
	change(object)
	object.Generation++
	if err := b.cluster.Update(b.t.Context(), object); err != nil {
		b.t.Fatal(err)
	}
}

func TestAChannelsOwnerIsToldOnceOfWhatHasToBeMended(t *testing.T) {
	b := newProbeBench(t)
	equal(t, "a channel that works", b.told(), nil)

	b.change(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Type, c.Spec.Webhook.SigningSecretRef = v1alpha1.ChannelWebhook, secretRef("key", "key")
		c.Spec.Template.Subject = "{{ .Nobody }}"
	})
	told := b.told()
	template := meta.FindStatusCondition(b.stored().Status.Conditions, v1alpha1.ConditionTemplateValid)
	equal(t, "what is wrong", told, []string{
		"Warning SecretNotFound the Secret key does not exist: create it", "Warning InvalidTemplate " + template.Message,
	})
	if err := b.cluster.Create(t.Context(), newSecret("key", map[string]string{"other": planted})); err != nil {
		t.Fatal(err)
	}
	equal(t, "what else is wrong", b.told(), []string{"Warning SecretKeyNotFound the Secret key has no entry key: add it"})
	b.change(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Type = v1alpha1.ChannelConsole
		c.Spec.Template.Subject = "{{ .Subject }}"
	})
	equal(t, "mended", b.told(), []string{
		"Normal ConfigResolved the channel's configuration is complete", "Normal TemplateParsed the template makes the messages",
	})
	b.change(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Suspend = new(true)
		c.Spec.Template.Subject = ""
	})
	equal(t, "suspended by its owner", b.told(), nil)
	b.change(func(c *v1alpha1.NotificationChannel) { c.Spec.Suspend = nil })
	equal(t, "resumed", b.told(), nil)
}

func TestAChannelsOwnerIsToldOnceOfItsCircuit(t *testing.T) {
	b := newProbeBench(t)
	b.look()
	now := time.Now()
	b.Health.use(place, func(g *gate) { g.learn(b.stored(), "A", now) })
	attempt := func(err *delivery.Error) {
		b.Health.use(place, func(g *gate) { g.take(now) })
		b.Health.note(place, outcome{config: "A", started: now, finished: now, err: err})
	}
	for range circuitFailures - 1 {
		attempt(transient())
	}
	equal(t, "almost", b.told(), nil)
	attempt(transient())
	equal(t, "opened", b.told(), []string{
		"Warning CircuitOpened the channel has failed 5 times in a row, so its messages wait until a trial arrives; last ServerError: receiver.example answered 503",
	})
	for range 3 {
		now = now.Add(longestPause)
		attempt(transient())
		equal(t, "state", b.Health.m[place].gate.circuit.State, v1alpha1.CircuitOpen)
		equal(t, "a trial in vain", b.told(), nil)
	}
	now = now.Add(longestPause)
	attempt(nil)
	equal(t, "closed", b.told(), []string{"Normal CircuitClosed the channel works again: the messages that waited for it are sent"})
}

func TestAChannelsOwnerIsToldOnceOfAFailedProbe(t *testing.T) {
	b := newProbeBench(t)
	fail := transient()
	for _, value := range []string{"first", "second"} {
		b.answer = func(context.Context, *delivery.Message) (delivery.Receipt, error) { return delivery.Receipt{}, fail }
		b.ask(value)
		b.look()
		b.answered()
		equal(t, "failed", b.told(), []string{"Warning ProbeFailed the test message failed: ServerError: receiver.example answered 503"})
	}
	b.answer = func(context.Context, *delivery.Message) (delivery.Receipt, error) { return delivery.Receipt{}, nil }
	b.ask("third")
	b.look()
	b.answered()
	equal(t, "sent", b.told(), nil)

	before := &v1alpha1.NotificationChannelStatus{Probe: v1alpha1.ChannelProbe{RequestedAt: "now", State: v1alpha1.ProbeInFlight, StartedTime: micro(born), Deadline: micro(born)}}
	object := newChannel(func(c *v1alpha1.NotificationChannel) { c.Status = *before.DeepCopy() })
	planProbe(object, nil, born)
	notes := channelNotes(before, &object.Status)
	equal(t, "Events of one whose outcome nobody knows", len(notes), 1)
	equal(t, "reason", notes[0].reason, v1alpha1.ReasonProbeInterrupted)
	equal(t, "Events once that is known", len(channelNotes(&object.Status, &object.Status)), 0)
}
