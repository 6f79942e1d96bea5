package delivery

import (
	"slices"
	"strings"
	"testing"
)

func TestAURLOfAnotherServiceIsNamed(t *testing.T) {
	h := NewHTTP(HTTPOptions{})
	senders := map[string]func(Endpoint) error{
		"Webhook": func(e Endpoint) error { _, err := NewWebhook(h, WebhookConfig{Endpoint: e}); return err },
		"Slack":   func(e Endpoint) error { _, err := NewSlack(h, SlackConfig{Endpoint: e}); return err },
		"Teams":   func(e Endpoint) error { _, err := NewTeams(h, TeamsConfig{Endpoint: e}); return err },
		"Discord": func(e Endpoint) error { _, err := NewDiscord(h, DiscordConfig{Endpoint: e}); return err },
	}
	const planted = "hunter2-very-secret"
	for url, c := range map[string]struct {
		of    string   // the service
		takes []string // the types that take it
	}{
		"https://hooks.slack.com/services/T0/B0/" + planted:                          {"Slack", []string{"Slack"}},
		"https://HOOKS.slack.com./services/T0/B0/" + planted:                         {"Slack", []string{"Slack"}},
		"https://hooks.slack-gov.com/services/T0/B0/" + planted:                      {"Slack", []string{"Slack"}},
		"https://hooks.slack.com/triggers/T0/1/" + planted:                           {"Slack", []string{"Webhook"}},
		"https://discord.com/api/webhooks/1/" + planted:                              {"Discord", []string{"Discord"}},
		"https://canary.discord.com/api/v10/webhooks/1/" + planted:                   {"Discord", []string{"Discord"}},
		"https://discordapp.com/api/webhooks/1/" + planted:                           {"Discord", []string{"Discord"}},
		"https://prod-03.westus.logic.azure.com:443/workflows/1?sig=" + planted:      {"Teams", []string{"Teams", "Webhook"}},
		"https://d0.00.environment.api.powerplatform.com/workflows/1?sig=" + planted: {"Teams", []string{"Teams", "Webhook"}},
		"https://contoso.webhook.office.com/webhookb2/" + planted:                    {"Teams", []string{"Webhook"}},
		"https://events.pagerduty.com/v2/enqueue?key=" + planted:                     {"PagerDuty", []string{"Webhook"}},
		"https://events.eu.pagerduty.com/v2/enqueue?key=" + planted:                  {"PagerDuty", []string{"Webhook"}},
		"https://webhook.example.com/" + planted:                                     {"", []string{"Webhook", "Slack", "Teams", "Discord"}},
		"https://hooks.slack.com.example.com/" + planted:                             {"", []string{"Webhook", "Slack", "Teams", "Discord"}},
		"https://notdiscord.com/api/webhooks/1/" + planted:                           {"", []string{"Webhook", "Slack", "Teams", "Discord"}},
	} {
		for kind, build := range senders {
			err := Classify(build(Endpoint{URL: url}))
			takes := slices.Contains(c.takes, kind)
			switch {
			case takes && err != nil:
				t.Errorf("%s refuses %s: %v", kind, url, err)
			case !takes && err == nil:
				t.Errorf("%s takes %s", kind, url)
			case err == nil:
			case err.Class != Config || err.Reason != ReasonInvalidURL || strings.Contains(err.Message, planted):
				t.Errorf("%s, %s: %+v", kind, url, err)
			case c.of != kind && !strings.Contains(err.Message, "looks like one of "+c.of):
				t.Errorf("%s, %s: %q does not name %s", kind, url, err.Message, c.of)
			}
		}
	}
}

func TestTheSentenceAboutAnotherServiceSaysWhatToDo(t *testing.T) {
	h := NewHTTP(HTTPOptions{})
	_, discord := NewDiscord(h, DiscordConfig{Endpoint: Endpoint{URL: "https://hooks.slack.com/services/T0/B0/x"}})
	_, webhook := NewWebhook(h, WebhookConfig{Endpoint: Endpoint{URL: "https://hooks.slack.com/services/T0/B0/x"}})
	for want, err := range map[string]error{
		"url looks like one of Slack, not of Discord: put the URL of a webhook of Discord into the Secret, or make a channel of the type Slack": discord,
		"url looks like one of Slack, which does not take what the type Webhook sends: make a channel of the type Slack":                        webhook,
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
