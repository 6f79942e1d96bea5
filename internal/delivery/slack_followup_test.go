package delivery_test

import (
	"strings"
	"testing"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
	"kubernaut.ai/notification/test/standin"
)

// follower is a message that follows the one with the receipt.
func follower(receipt string, replaces bool) *delivery.Message {
	m := sendertest.Message()
	m.Key, m.Follows, m.Replaces = "follower", receipt, replaces
	return m
}

func TestSlackShowsAReplyInItsThreadAndAnUpdateInPlace(t *testing.T) {
	slack := standin.NewSlack(t)
	bot := slackOf(t, slack, true)
	send := func(m *delivery.Message) string {
		t.Helper()
		receipt, err := bot.Send(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		return receipt.ExternalID
	}
	first := send(sendertest.Message())
	for priority, shown := range map[string]bool{"Critical": true, "High": true, "Medium": false, "Low": false, "": false} {
		m := follower(first, false)
		m.Priority = priority
		id := send(m)
		all := slack.Messages()
		if got := all[len(all)-1]; got.ID() != id || first != got.Channel+"/"+got.Thread || got.Shown != shown {
			t.Errorf("a reply of priority %q to %s is %+v, want it in the thread, and in the channel too: %t", priority, first, got, shown)
		}
	}
	before := len(slack.Messages())
	for n := 1; n <= 2; n++ { // what is replaced twice is there once
		if id := send(follower(first, true)); id != first {
			t.Errorf("the receipt is %q, want that of what was replaced, %q", id, first)
		}
		if got := slack.Messages()[0]; len(slack.Messages()) != before || got.Key != "follower" || len(got.Before) != n || len(got.Mentions) > 0 {
			t.Errorf("%d messages, the first of them %+v; want %d, and it to be replaced", len(slack.Messages()), got, before)
		}
	}
}

func TestTheContentThatIsHashedSaysWhatAMessageFollows(t *testing.T) {
	bot := slackOf(t, standin.NewSlack(t), true)
	digests := map[string]bool{}
	for _, m := range []*delivery.Message{
		follower("", false), follower("C1/1.2", false), follower("C1/1.3", false), follower("C2/1.2", false), follower("C1/1.2", true), follower("C1/1.3", true),
	} {
		digests[delivery.ReceiptOf(bot.Render(m)).Digest] = true
	}
	if len(digests) != 6 {
		t.Errorf("%d digests of 6 messages that go to different places", len(digests))
	}
	hook := slackOf(t, standin.NewSlack(t), false)
	if string(hook.Render(follower("C1/1.2", true))) != string(hook.Render(follower("", false))) {
		t.Error("a webhook's message says what it follows, which a webhook does not take")
	}
}

func TestWhatCannotFollowAnotherCanBeSentByItself(t *testing.T) {
	slack := standin.NewSlack(t)
	bot := slackOf(t, slack, true)
	refused := outcome{Class: delivery.Transient, Reason: delivery.ReasonCannotFollow}
	check := func(word string, m *delivery.Message, want outcome) {
		t.Helper()
		want.Code = word
		_, err := bot.Send(t.Context(), m)
		checkOutcome(t, err, want)
		if e := delivery.Classify(err); e.CannotFollow != (want.Reason == delivery.ReasonCannotFollow) {
			t.Errorf("%s: cannot follow is %t", word, e.CannotFollow)
		} else if e.CannotFollow && !strings.HasSuffix(e.Message, " answered "+word+": the message cannot follow the earlier one and is sent by itself") {
			t.Errorf("%s: %q does not say what becomes of the message", word, e.Message)
		}
	}
	// What the stand-in says by itself.
	check("message_not_found", follower("C0000000002/1.2", true), refused)
	check("thread_not_found", follower("C0000000002/1.2", false), refused)
	check("channel_not_found", follower("C9/1.2", true), outcome{Class: delivery.Config, Reason: delivery.ReasonNotFound})

	for _, word := range []string{
		"message_not_found", "cant_update_message", "edit_window_closed", "block_mismatch", "streaming_state_conflict",
		"thread_not_found", "cannot_reply_to_message", "cant_broadcast_message", "restricted_action_thread_locked",
		"restricted_action_non_threadable_channel", "brand_new_word",
	} {
		for _, replaces := range []bool{true, false} {
			slack.Refuse(word)
			check(word, follower("C0000000002/1.2", replaces), refused)
		}
	}
	for word, want := range map[string]outcome{
		"is_inactive":    {Class: delivery.Config, Reason: delivery.ReasonGone},
		"not_in_channel": {Class: delivery.Config, Reason: delivery.ReasonForbidden},
		"ratelimited":    {Class: delivery.Transient, Reason: delivery.ReasonRateLimited},
		"update_failed":  {Class: delivery.Transient, Reason: delivery.ReasonServerError, Maybe: true},
		"invalid_blocks": {Class: delivery.Permanent, Reason: delivery.ReasonBadRequest},
	} {
		slack.Refuse(word)
		check(word, follower("C0000000002/1.2", true), want)
	}
	// By itself a message gets no such leave.
	slack.Refuse("message_not_found", "restricted_action_thread_locked")
	check("message_not_found", sendertest.Message(), outcome{Class: delivery.Transient, Reason: delivery.ReasonUnknown})
	check("restricted_action_thread_locked", sendertest.Message(), outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden})
	if got := slack.Messages(); len(got) != 0 {
		t.Errorf("%d messages arrived", len(got))
	}
}

func TestSlackFollowUpsAreWhatTheyWere(t *testing.T) {
	for name, replaces := range map[string]bool{"reply": false, "update": true} {
		m := fixedMessage()
		*m = delivery.Message{Key: m.Key, Subject: "Hello", Body: "World", Priority: "High", Follows: "C0000000002/1503435956.000247", Replaces: replaces}
		checkGolden(t, "slack/"+name+"-bot", slackOf(t, standin.NewSlack(t), true).Render(m))
	}
}
