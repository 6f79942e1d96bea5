package delivery

import (
	"fmt"
	"net/url"
	"strings"
)

// The services whose URLs are known, by the names of their channel types.
const (
	providerSlack     = "Slack"
	providerTeams     = "Teams"
	providerDiscord   = "Discord"
	providerPagerDuty = "PagerDuty"
)

// provider names the service that a URL is one of, "" where its host is none that
// the services give in what they say of their webhooks:
// docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (slack-gov.com is
// GovSlack's), learn.microsoft.com/rest/api/logic/workflows/listcallbackurl and the
// addresses of Power Platform's environments for workflows,
// discord.com/developers/docs/resources/webhook (subdomains are those of its testing
// clients), developer.pagerduty.com/docs/events-api-v2.
func provider(u *url.URL) string {
	host := "." + strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	for domain, name := range map[string]string{
		".hooks.slack.com":         providerSlack,
		".hooks.slack-gov.com":     providerSlack,
		".webhook.office.com":      providerTeams,
		".outlook.office.com":      providerTeams,
		".outlook.office365.com":   providerTeams,
		".logic.azure.com":         providerTeams,
		".api.powerplatform.com":   providerTeams,
		".discord.com":             providerDiscord,
		".discordapp.com":          providerDiscord,
		".events.pagerduty.com":    providerPagerDuty,
		".events.eu.pagerduty.com": providerPagerDuty,
	} {
		if strings.HasSuffix(host, domain) {
			return name
		}
	}
	return ""
}

// checkProvider refuses a URL that belongs to another service than the channel's. A
// host that is not known may be a proxy in front of the right one.
func checkProvider(u *url.URL, own string) error {
	if other := provider(u); other != "" && other != own {
		return configError(ReasonInvalidURL, fmt.Sprintf(
			"url looks like one of %s, not of %s: put the URL of a webhook of %s into the Secret, or make a channel of the type %s", other, own, own, other))
	}
	return nil
}

// isSlackWorkflow reports whether a URL of Slack starts a workflow, which takes no
// messages but JSON of any form.
func isSlackWorkflow(u *url.URL) bool {
	return strings.HasPrefix(u.Path, "/triggers/") || strings.HasPrefix(u.Path, "/workflows/")
}
