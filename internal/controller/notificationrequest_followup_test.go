package controller

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/test/standin"
)

const (
	separate = v1alpha1.FollowUpSeparate
	reply    = v1alpha1.FollowUpReply
	update   = v1alpha1.FollowUpUpdate
)

// incident has requests go one after the other through a channel to Slack.
type incident struct {
	*bench
	slack *standin.Slack
	said  int
}

func newIncident(t *testing.T, mode v1alpha1.FollowUpMode) *incident {
	t.Helper()
	slack := standin.NewSlack(t)
	channel := newChannel(asSlackBot, func(c *v1alpha1.NotificationChannel) {
		c.Spec.Slack.Channel, c.Spec.Slack.FollowUps = "C0000000002", mode
		c.Spec.Proxy = &v1alpha1.ProxyConfig{URL: slack.Proxy}
		c.Spec.TLS.CASecretRef = secretRef("slack", "ca")
		c.Spec.AllowedNamespaces = []v1alpha1.NamespaceName{"*"}
	})
	secret := newSecret("slack", map[string]string{"token": "xoxb-valid", "ca": string(slack.CA)})
	other := newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Name, nr.UID = "unlike", "uid-of-unlike" })
	return &incident{bench: newBench(t, other, channel, secret), slack: slack}
}

// tell creates a request of the incident, which is a second younger than those before,
// and looks at it from then on.
func (i *incident) tell(name string, change ...func(*v1alpha1.NotificationRequest)) {
	i.t.Helper()
	i.said++
	nr := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.Name, nr.UID, nr.Finalizers = name, types.UID("uid-of-"+name), []string{v1alpha1.Finalizer}
		nr.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second).Add(time.Duration(i.said-100) * time.Second))
		nr.Spec.CorrelationID = "incident-42"
		nr.Spec.Channels[0].Namespace = "shop"
		nr.Spec.Retry = v1alpha1.RetryPolicy{MaxAttempts: 3, InitialDelay: "1h", MaxDelay: "1h"}
	})
	for _, c := range change {
		c(nr)
	}
	if err := i.cluster.Create(i.t.Context(), nr); err != nil {
		i.t.Fatal(err)
	}
	i.key = types.NamespacedName{Namespace: nr.Namespace, Name: name}
}

// due has the next attempt due and looks at the request.
func (i *incident) due() {
	i.t.Helper()
	i.update(func(nr *v1alpha1.NotificationRequest) {
		for n := range nr.Status.Deliveries {
			nr.Status.Deliveries[n].NextAttemptTime = nil
		}
	})
	i.mustLook()
}

// attempt makes the next attempt from its beginning to its end, now, and returns what
// came of it.
func (i *incident) attempt() v1alpha1.Delivery {
	i.t.Helper()
	i.due()
	equal(i.t, "state of what is due", i.stored().Status.Deliveries[0].State, v1alpha1.DeliveryInFlight)
	return i.end()
}

// end waits for the attempt in flight and returns what came of it.
func (i *incident) end() v1alpha1.Delivery {
	i.t.Helper()
	i.ended()
	nr := i.stored()
	checkSchema(i.t, nr)
	return nr.Status.Deliveries[0]
}

// say has a request of the incident sent with one attempt.
func (i *incident) say(name string, change ...func(*v1alpha1.NotificationRequest)) v1alpha1.Delivery {
	i.t.Helper()
	i.tell(name, change...)
	d := i.attempt()
	equal(i.t, name, d.State, v1alpha1.DeliverySent)
	return d
}

// restart goes on with what another process has left in status.
func (i *incident) restart() {
	i.t.Helper()
	again := newBench(i.t, newRequest())
	again.Client, again.cluster, again.key = i.Client, i.cluster, i.key
	again.Channels.Reader, again.Channels.Secrets = i.cluster, i.cluster
	i.bench = again
}

// remove deletes a request, with nothing to hold it.
func (i *incident) remove(name string) {
	i.t.Helper()
	nr := &v1alpha1.NotificationRequest{}
	if err := i.cluster.Get(i.t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, nr); err != nil {
		i.t.Fatal(err)
	}
	nr.Finalizers = nil
	if err := i.cluster.Update(i.t.Context(), nr); err != nil {
		i.t.Fatal(err)
	}
	if err := i.cluster.Delete(i.t.Context(), nr); err != nil {
		i.t.Fatal(err)
	}
}

// channel is the channel as it is now.
func (i *incident) channel() *v1alpha1.NotificationChannel {
	i.t.Helper()
	object := &v1alpha1.NotificationChannel{}
	if err := i.cluster.Get(i.t.Context(), place, object); err != nil {
		i.t.Fatal(err)
	}
	return object
}

func ofType(kind v1alpha1.RequestType) func(*v1alpha1.NotificationRequest) {
	return func(nr *v1alpha1.NotificationRequest) { nr.Spec.Type = kind }
}

func TestWhatAMessageFollowsIsTheFirstOneThatIsThere(t *testing.T) {
	const sent, first, second = v1alpha1.DeliverySent, "C1/1503435956.000001", "C1/1503435956.000002"
	other := func(state v1alpha1.DeliveryState, receipt string, mode v1alpha1.FollowUpMode, followed string) part {
		return part{newRequest(), &v1alpha1.Delivery{State: state, ExternalID: receipt, FollowUp: v1alpha1.FollowUp{Mode: mode, ExternalID: followed}}}
	}
	for name, c := range map[string]struct {
		others []part
		want   string
	}{
		"nobody":                         {},
		"one":                            {[]part{other(sent, first, "", "")}, first},
		"two, in either order":           {[]part{other(sent, second, "", ""), other(sent, first, "", "")}, first},
		"one in flight":                  {others: []part{other(v1alpha1.DeliveryInFlight, "", "", "")}},
		"one that failed":                {others: []part{other(v1alpha1.DeliveryFailed, first, "", "")}},
		"one without a receipt":          {others: []part{other(sent, "", "", "")}},
		"one in another channel":         {others: []part{other(sent, "C12/1503435956.000001", "", "")}},
		"a reply":                        {[]part{other(sent, second, reply, first)}, first},
		"an update":                      {[]part{other(sent, first, update, first)}, first},
		"a reply in flight":              {others: []part{other(v1alpha1.DeliveryInFlight, "", reply, first)}},
		"a reply in another channel":     {others: []part{other(sent, "C2/1", reply, "C2/0")}},
		"one that replaced what is gone": {[]part{other(sent, first, "", ""), other(sent, second, separate, first)}, second},
		"only a reply to what is gone":   {others: []part{other(sent, second, reply, first), other(v1alpha1.DeliveryFailed, "", separate, first)}},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, mode := range map[v1alpha1.RequestType]v1alpha1.FollowUpMode{"StatusUpdate": update, "Completion": update, "Simple": reply, "Escalation": reply} {
				for _, configured := range []v1alpha1.FollowUpMode{reply, update} {
					want := v1alpha1.FollowUp{ExternalID: c.want}
					if c.want != "" {
						want.Mode = min(configured, mode) // Reply, unless both say Update
					}
					slack := &v1alpha1.SlackChannel{Channel: "C1", FollowUps: configured}
					equal(t, string(kind), followUp(newRequest(ofType(kind)), slack, c.others), want)
				}
			}
		})
	}
}

func TestAMessageIsAReplyToTheFirstOfItsIncident(t *testing.T) {
	i := newIncident(t, reply)
	first := i.say("first")
	equal(t, "what the first one follows", first.FollowUp, v1alpha1.FollowUp{})
	follows := v1alpha1.FollowUp{Mode: reply, ExternalID: first.ExternalID}
	second := i.say("second", ofType("StatusUpdate"))
	equal(t, "what the second one follows", second.FollowUp, follows)
	equal(t, "idempotent", *second.Idempotent, false)

	// As long as any request is left that knows of it.
	i.remove("first")
	equal(t, "what the third one follows", i.say("third").FollowUp, follows)
	i.remove("second")
	i.remove("third")
	equal(t, "what one follows that nobody can know of", i.say("fourth").FollowUp, v1alpha1.FollowUp{})

	secret := func(end string) func(*v1alpha1.NotificationRequest) {
		return func(nr *v1alpha1.NotificationRequest) {
			nr.Spec.CorrelationID = "ghp_0123456789abcdefghijABCDEFGHIJ01234" + end
		}
	}
	for name, change := range map[string]func(*v1alpha1.NotificationRequest){
		"in-another-namespace": func(nr *v1alpha1.NotificationRequest) { nr.Namespace = "team" },
		"of-another-incident":  func(nr *v1alpha1.NotificationRequest) { nr.Spec.CorrelationID = "incident-43" },
		"of-none":              func(nr *v1alpha1.NotificationRequest) { nr.Spec.CorrelationID = "" },
		"of-none-either":       func(nr *v1alpha1.NotificationRequest) { nr.Spec.CorrelationID = "" },
		"of-a-secret":          secret("5"),
		"of-another-secret":    secret("6"), // masked, they are the same
	} {
		equal(t, name, i.say(name, change).FollowUp, v1alpha1.FollowUp{})
	}
	threads := map[string]int{}
	for _, m := range i.slack.Messages() {
		threads[m.Thread]++
	}
	equal(t, "messages by thread", threads, map[string]int{"": 8, first.ExternalID[len("C0000000002/"):]: 2})
}

func TestAnUpdateTakesThePlaceOfTheFirstMessageOfItsIncident(t *testing.T) {
	i := newIncident(t, update)
	first := i.say("first", ofType("StatusUpdate"))
	equal(t, "what the first one follows", first.FollowUp, v1alpha1.FollowUp{})
	for n, kind := range []v1alpha1.RequestType{"StatusUpdate", "Completion", "Escalation"} {
		want := v1alpha1.FollowUp{Mode: update, ExternalID: first.ExternalID}
		if kind == "Escalation" {
			want.Mode = reply
		}
		d := i.say(fmt.Sprintf("next-%d", n), ofType(kind))
		equal(t, string(kind), d.FollowUp, want)
		equal(t, string(kind)+" is idempotent", *d.Idempotent, want.Mode == update)
		equal(t, string(kind)+" has the receipt of the first", d.ExternalID == first.ExternalID, want.Mode == update)
	}
	all := i.slack.Messages()
	equal(t, "messages", len(all), 2)
	equal(t, "updates of the first", len(all[0].Before), 2)
}

// Slack has taken an attempt on which a process died, and others have gone to Slack
// before the next one.
func TestEachAttemptGoesWhereTheFirstOneWent(t *testing.T) {
	for name, c := range map[string]struct {
		mode  v1alpha1.FollowUpMode
		begun bool
		want  v1alpha1.FollowUpMode
	}{
		"a reply": {reply, true, reply}, "an update": {update, true, update}, "the first message": {reply, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIncident(t, c.mode)
			want := v1alpha1.FollowUp{Mode: c.want}
			if c.begun {
				want.ExternalID = i.say("first").ExternalID
			}
			i.tell("tried", ofType("StatusUpdate"))
			key := i.key
			i.slack.Refuse("service_unavailable")
			equal(t, "state", i.attempt().State, v1alpha1.DeliveryRetrying)
			if i.say("meanwhile"); c.begun {
				i.remove("first")
				i.remove("meanwhile")
			}
			channel := i.channel()
			channel.Spec.Slack.FollowUps = separate
			if err := i.cluster.Update(t.Context(), channel); err != nil {
				t.Fatal(err)
			}
			i.key = key
			i.restart()
			d := i.attempt()
			equal(t, "state", d.State, v1alpha1.DeliverySent)
			equal(t, "follows", d.FollowUp, want)
			equal(t, "digest", d.ContentDigest, d.AttemptFailures[0].ContentDigest)
		})
	}
}

func TestTheIntentSaysWhatAMessageFollows(t *testing.T) {
	i := newIncident(t, update)
	first := i.say("first")
	i.tell("next", ofType("Completion"), withPolicy(v1alpha1.AmbiguousHold))
	i.slack.Lose()
	i.mustLook()
	d := i.stored().Status.Deliveries[0]
	equal(t, "state", d.State, v1alpha1.DeliveryInFlight)
	equal(t, "follows", d.FollowUp, v1alpha1.FollowUp{Mode: update, ExternalID: first.ExternalID})
	equal(t, "class", i.end().LastError.Class, v1alpha1.ErrorAmbiguous)
	d = i.attempt()
	equal(t, "state", d.State, v1alpha1.DeliverySent)
	equal(t, "possible duplicate", isTrue(d.PossibleDuplicate), false)
	equal(t, "messages", len(i.slack.Messages()), 1)
	equal(t, "updates", len(i.slack.Messages()[0].Before), 2)

	// A reply that is in doubt is for the policy to decide.
	i.tell("reply", withPolicy(v1alpha1.AmbiguousHold))
	i.slack.Lose()
	equal(t, "a reply in doubt", i.attempt().State, v1alpha1.DeliveryAmbiguous)
}

func TestAMessageThatCannotFollowIsSentByItselfWithoutSpendingAnAttempt(t *testing.T) {
	for _, mode := range []v1alpha1.FollowUpMode{reply, update} {
		t.Run(string(mode), func(t *testing.T) {
			i := newIncident(t, mode)
			first := i.say("first")
			i.slack.Delete(first.ExternalID)
			i.tell("next", ofType("StatusUpdate"), withMaxAttempts(1))
			d := i.attempt()
			equal(t, "the next attempt has begun", d.State, v1alpha1.DeliveryInFlight)
			gone := v1alpha1.FollowUp{Mode: separate, ExternalID: first.ExternalID}
			equal(t, "follows", d.FollowUp, gone)
			d = i.end()
			equal(t, "state", d.State, v1alpha1.DeliverySent)
			equal(t, "attempts", []int32{d.Attempts, d.UncountedAttempts}, []int32{2, 1})
			equal(t, "why", d.AttemptFailures[0].Error.Reason, delivery.ReasonCannotFollow)
			equal(t, "follows", d.FollowUp, gone)
			equal(t, "idempotent", *d.Idempotent, false)
			equal(t, "possible duplicate", isTrue(d.PossibleDuplicate), false)

			// The incident goes on from there, without another failure.
			after := i.say("after", ofType("StatusUpdate"))
			equal(t, "the next one follows", after.FollowUp, v1alpha1.FollowUp{Mode: mode, ExternalID: d.ExternalID})
		})
	}
}

func TestAMessageThatCannotFollowIsNotHeldAgainstItsChannel(t *testing.T) {
	var g gate
	g.judge(outcome{err: transient()})
	equal(t, "failures of the channel", g.failures, 1)
	g.judge(outcome{err: &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonCannotFollow, CannotFollow: true}})
	equal(t, "failures after it has answered", g.failures, 0)
}

func TestAnUpdateInDoubtThatIsThenSentByItselfMayBeADuplicate(t *testing.T) {
	answer := func(status int) func(*standin.Slack) {
		return func(s *standin.Slack) {
			s.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		}
	}
	for name, c := range map[string]struct {
		trouble func(*standin.Slack)
		want    bool
	}{
		"its answer was lost":                 {(*standin.Slack).Lose, true},
		"an error within Slack":               {func(s *standin.Slack) { s.Refuse("update_failed") }, true},
		"a proxy that has waited long enough": {answer(http.StatusRequestTimeout), true},
		"an answer to something else":         {answer(http.StatusConflict), true},
		"a refusal that is sure":              {func(s *standin.Slack) { s.Refuse("ratelimited") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIncident(t, update)
			i.say("first")
			i.tell("next", ofType("StatusUpdate"))
			c.trouble(i.slack)
			equal(t, "state", i.attempt().State, v1alpha1.DeliveryRetrying)
			i.slack.Refuse("edit_window_closed")
			equal(t, "follows", i.attempt().FollowUp.Mode, separate)
			d := i.end()
			equal(t, "state", d.State, v1alpha1.DeliverySent)
			equal(t, "possible duplicate", isTrue(d.PossibleDuplicate), c.want)
		})
	}
}

func TestWhetherAnUpdateInDoubtIsSentByItselfIsForThePolicyToSay(t *testing.T) {
	for name, part := range map[string]func(i *incident){
		"Slack refuses that it is changed": func(i *incident) {
			i.slack.Refuse("edit_window_closed")
			i.due()
			i.ended()
		},
		"a newer one is there": func(i *incident) {
			key := i.key
			i.say("newer", ofType("Completion"))
			i.key = key
			i.due()
		},
		"the channel posts elsewhere": func(i *incident) {
			channel := i.channel()
			channel.Generation++
			channel.Spec.Slack.Channel = "C0000000001"
			if err := i.cluster.Update(i.t.Context(), channel); err != nil {
				i.t.Fatal(err)
			}
			i.due()
		},
	} {
		for policy, want := range map[v1alpha1.AmbiguousPolicy]v1alpha1.DeliveryState{
			v1alpha1.AmbiguousHold: v1alpha1.DeliveryAmbiguous, v1alpha1.AmbiguousAssumeSent: v1alpha1.DeliverySent,
		} {
			t.Run(name+", "+string(policy), func(t *testing.T) {
				i := newIncident(t, update)
				i.say("first")
				i.tell("next", ofType("StatusUpdate"), withPolicy(policy))
				i.slack.Lose()
				equal(t, "state", i.attempt().State, v1alpha1.DeliveryRetrying)
				part(i)
				nr := i.stored()
				checkSchema(t, nr)
				d := nr.Status.Deliveries[0]
				equal(t, "state when it would be sent by itself", d.State, want)
				equal(t, "why", d.LastError, replacedInDoubt)
				equal(t, "messages", len(i.slack.Messages()), 1)
				equal(t, "places taken", len(i.sends.slots), 0)
				if policy == v1alpha1.AmbiguousHold {
					nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: ops + "=Retry"}
					if err := i.cluster.Update(t.Context(), nr); err != nil {
						t.Fatal(err)
					}
					i.mustLook()
					d = i.attempt()
					equal(t, "state after a word", d.State, v1alpha1.DeliverySent)
					equal(t, "possible duplicate", isTrue(d.PossibleDuplicate), true)
					equal(t, "messages", len(i.slack.Messages()), 2)
				}
			})
		}
	}
}

func TestAnUpdateWasInDoubtThoughStatusKeepsThatAttemptNoMore(t *testing.T) {
	l := newLab(t)
	l.plan()
	d := l.delivery(ops)
	d.FollowUp = v1alpha1.FollowUp{Mode: update, ExternalID: "C1/1"}
	l.attempt(ops, unanswered())
	for range maxFailures {
		l.record()
		l.pass(24 * time.Minute)
		l.attempt(ops, refused())
	}
	equal(t, "attempts that status keeps", len(l.delivery(ops).AttemptFailures), maxFailures)
	unfollow(l.nr, l.delivery(ops), reply, l.now)
	equal(t, "possible duplicate", isTrue(l.delivery(ops).PossibleDuplicate), true)
}

// newFailedUpdate has a first message sent, and an update of it meet an error that passes.
func newFailedUpdate(t *testing.T) (i *incident, first v1alpha1.Delivery, key types.NamespacedName) {
	t.Helper()
	i = newIncident(t, update)
	first = i.say("first")
	i.tell("older", ofType("StatusUpdate"))
	i.slack.Refuse("service_unavailable")
	i.attempt()
	return i, first, i.key
}

func TestAnOlderUpdateDoesNotReplaceANewerOne(t *testing.T) {
	i, first, key := newFailedUpdate(t)
	equal(t, "newer", i.say("newer", ofType("Completion")).FollowUp.Mode, update)
	i.key = key
	d := i.attempt()
	equal(t, "state", d.State, v1alpha1.DeliverySent)
	equal(t, "follows", d.FollowUp, v1alpha1.FollowUp{Mode: reply, ExternalID: first.ExternalID})
	equal(t, "idempotent", *d.Idempotent, false)
}

func TestADryRunKeepsNoOlderUpdateFromReplacing(t *testing.T) {
	i, first, key := newFailedUpdate(t)
	i.tell("rehearsed", ofType("Completion"), dryRun)
	i.mustLook()
	follows := v1alpha1.FollowUp{Mode: update, ExternalID: first.ExternalID}
	equal(t, "the dry run would follow", i.stored().Status.Deliveries[0].FollowUp, follows)
	i.key = key
	equal(t, "follows", i.attempt().FollowUp, follows)
}

func TestAnUpdateDoesNotTakeTheLinkAwayByWhichSomebodyIsAsked(t *testing.T) {
	i := newIncident(t, update)
	i.AcknowledgeLink = func(*v1alpha1.NotificationRequest, string, time.Time) string {
		return "https://notify.example/acknowledge/0123456789abcdef0123456789abcdef"
	}
	i.say("first", asking())
	equal(t, "while somebody is asked", i.say("second", ofType("StatusUpdate")).FollowUp.Mode, reply)
	i.key.Name = "first"
	i.update(func(nr *v1alpha1.NotificationRequest) {
		nr.Status.Acknowledgement = v1alpha1.Acknowledgement{Time: micro(time.Now()), Channel: ops}
	})
	equal(t, "when somebody has acknowledged", i.say("third", ofType("StatusUpdate")).FollowUp.Mode, update)
}

func TestAChannelThatPostsElsewhereNowIsFollowedThere(t *testing.T) {
	i := newIncident(t, reply)
	first := i.say("first")
	i.tell("tried")
	i.slack.Refuse("is_archived")
	equal(t, "held", i.attempt().HeldConfig != "", true)
	channel := i.channel()
	channel.Generation++
	channel.Spec.Slack.Channel = "C0000000001"
	if err := i.cluster.Update(t.Context(), channel); err != nil {
		t.Fatal(err)
	}
	d := i.attempt()
	equal(t, "state", d.State, v1alpha1.DeliverySent)
	equal(t, "follows", d.FollowUp, v1alpha1.FollowUp{Mode: separate, ExternalID: first.ExternalID})
	equal(t, "the next one follows", i.say("next").FollowUp, v1alpha1.FollowUp{Mode: reply, ExternalID: d.ExternalID})
}

func TestADryRunSaysWhatAMessageWouldFollow(t *testing.T) {
	i := newIncident(t, reply)
	first := i.say("first")
	i.tell("rehearsed", dryRun)
	i.mustLook()
	rehearsed := i.stored().Status.Deliveries[0]
	equal(t, "would follow", rehearsed.FollowUp, v1alpha1.FollowUp{Mode: reply, ExternalID: first.ExternalID})
	equal(t, "messages", len(i.slack.Messages()), 1)
	m := message(i.stored(), ops, 1)
	m.Follows = first.ExternalID
	sender, err := i.Channels.sender(t.Context(), i.channel())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "digest", rehearsed.ContentDigest, delivery.ReceiptOf(sender.(delivery.Renderer).Render(m)).Digest)
	i.remove("first")
	equal(t, "what one follows that was not sent", i.say("next").FollowUp, v1alpha1.FollowUp{})
}
