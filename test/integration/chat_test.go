package integration

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// addressed creates a channel whose address is in a Secret of the same name.
func (s *stack) addressed(name, address string, spec func(v1alpha1.SecretKeyRef) v1alpha1.NotificationChannelSpec) {
	s.t.Helper()
	s.secret(name, map[string]string{"url": address})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       spec(v1alpha1.SecretKeyRef{Name: name, Key: "url"}),
	})
}

func toSlack(url v1alpha1.SecretKeyRef) v1alpha1.NotificationChannelSpec {
	return v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelSlack, Slack: &v1alpha1.SlackChannel{WebhookURLSecretRef: url}}
}

func toTeams(url v1alpha1.SecretKeyRef) v1alpha1.NotificationChannelSpec {
	return v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelTeams, Teams: v1alpha1.TeamsChannel{WebhookURLSecretRef: url}}
}

func toDiscord(url v1alpha1.SecretKeyRef) v1alpha1.NotificationChannelSpec {
	return v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelDiscord, Discord: v1alpha1.DiscordChannel{WebhookURLSecretRef: url}}
}

// chat is a provider as it is at the other end of an address.
type chat struct {
	spec          func(v1alpha1.SecretKeyRef) v1alpha1.NotificationChannelSpec
	address, gone string // the second of a place that is no more

	limit   func()  // has the next message come too early
	seconds float64 // by so much

	refuse            func() // has the next message refused
	refusal, goneWord string // as the provider says it

	mention, arrives string // what calls people, and what **Hello** before it comes to
	receipt          string
	messages         func() (contents, mentions []string)
}

func chats(t *testing.T) map[string]chat {
	slack, teams, discord := standin.NewSlack(t), standin.NewTeams(t), standin.NewDiscord(t)
	return map[string]chat{
		"Slack": {
			spec: toSlack, address: slack.URL + "/services/general", gone: slack.URL + "/services/nowhere",
			limit: func() { slack.Limit("2") }, seconds: 2,
			refuse: func() { slack.Refuse("invalid_blocks") }, refusal: "invalid_blocks", goneWord: "no_service",
			mention: "<!channel>", arrives: "*Hello* &lt;!channel&gt;",
			messages: func() (contents, mentions []string) {
				for _, m := range slack.Messages() {
					contents, mentions = append(contents, string(m.Content)), append(mentions, m.Mentions...)
				}
				return contents, mentions
			},
		},
		"Teams": {
			spec: toTeams, address: teams.URL, gone: strings.Replace(teams.URL, "6d922add", "6d922ade", 1),
			limit: func() { teams.Limit("2") }, seconds: 2,
			refuse: func() { teams.Refuse("InvalidRequestContent") }, refusal: "InvalidRequestContent", goneWord: "WorkflowNotFound",
			mention: "<at>you</at>", arrives: `"text":"Hello","weight":"Bolder"},{"type":"TextRun","text":" <at>you</at>"`,
			receipt: "08584661236364846013464561000001CU16",
			messages: func() (contents, mentions []string) {
				for _, m := range teams.Messages() {
					contents, mentions = append(contents, string(m.Content)), append(mentions, m.Mentions...)
				}
				return contents, mentions
			},
		},
		"Discord": {
			spec: toDiscord, address: discord.URL, gone: strings.Replace(discord.URL, "/223704706495545344/", "/223704706495545345/", 1),
			limit: func() { discord.Limit(1.8) }, seconds: 1.8,
			refuse: func() { discord.Refuse(50035) }, refusal: "50035", goneWord: "10015",
			mention: "@everyone", arrives: `**Hello** \\@everyone`,
			receipt: standin.DiscordChannel + "/1200000000000000001",
			messages: func() (contents, mentions []string) {
				for _, m := range discord.Messages() {
					contents, mentions = append(contents, string(m.Content)), append(mentions, m.Mentions...)
				}
				return contents, mentions
			},
		},
	}
}

func TestAChatGetsEachMessageAndStatusSaysWhatItAnswered(t *testing.T) {
	t.Parallel()
	for name, c := range chats(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := run(t)
			s.addressed("limited", c.address, c.spec)
			s.addressed("refused", c.address, c.spec)
			s.addressed("gone", c.gone, c.spec)

			c.limit()
			nr := request("limited", "limited")
			nr.Spec.BodyFormat, nr.Spec.Body = "Markdown", "**Hello** "+c.mention
			nr.Spec.Fields = map[string]v1alpha1.FieldValue{"node": v1alpha1.FieldValue(c.mention)}
			s.create(nr)
			sent := s.wait("limited", isSent, isAudited)
			d := delivery(t, sent, "limited")
			if d.Attempts != 2 || d.ContentDigest == "" || d.ExternalID != c.receipt {
				t.Errorf("%d attempts, digest %q, external ID %q; want 2, one and %q", d.Attempts, d.ContentDigest, d.ExternalID, c.receipt)
			}
			if waited := d.SentTime.Sub(d.AttemptFailures[0].Time.Time).Seconds(); waited < c.seconds {
				t.Errorf("sent %gs after the provider had asked for %gs", waited, c.seconds)
			}
			if got, mentions := c.messages(); len(got) != 1 || len(mentions) > 0 || !strings.Contains(got[0], c.arrives) {
				t.Errorf("what arrived: %s", got)
			}
			harness.WantEvents(t, s.storage.Events(t, "resource_id", "limited"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})

			c.refuse()
			s.send("refused", "refused")
			failed := s.wait("refused", isFailed, isAudited)
			if e := delivery(t, failed, "refused").LastError; e.Class != v1alpha1.ErrorPermanent || e.Code != c.refusal {
				t.Errorf("last error %+v, want a permanent one with the provider's word", e)
			}

			s.send("gone", "gone")
			held := s.wait("gone", isStalled("NotFound"))
			if e := delivery(t, held, "gone").LastError; e.Code != c.goneWord || !strings.Contains(e.Message, "create a new one and put its URL into the Secret") {
				t.Errorf("last error %+v, want the provider's word and what to do", e)
			}
			secret := s.secretNamed("gone")
			s.change(secret, func() { secret.StringData = map[string]string{"url": c.address} })
			if d := delivery(t, s.wait("gone", isSent, isAudited), "gone"); d.UncountedAttempts != d.Attempts-1 {
				t.Errorf("%d attempts, %d of them not counted", d.Attempts, d.UncountedAttempts)
			}
		})
	}
}

func TestARetiredConnectorOfTeamsIsNamedWithoutItsAddress(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.addressed("retired", "https://contoso.webhook.office.com/webhookb2/planted", toTeams)
	s.send("retired", "retired")
	held := s.wait("retired", isStalled("InvalidURL"))
	if e := delivery(t, held, "retired").LastError; strings.Contains(e.Message, "planted") || !strings.Contains(e.Message, "which Microsoft has retired") {
		t.Errorf("last error %+v, want what to do, without the URL", e)
	}
}
