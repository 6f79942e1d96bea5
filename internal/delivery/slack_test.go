package delivery_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
	"kubernaut.ai/notification/test/standin"
)

// slackOf returns a sender to the stand-in: a bot's, or a webhook's.
func slackOf(t *testing.T, s *standin.Slack, bot bool) *delivery.Slack {
	t.Helper()
	c := delivery.SlackConfig{Endpoint: delivery.Endpoint{URL: s.URL + "/services/alerts"}}
	if bot {
		c = delivery.SlackConfig{Endpoint: delivery.Endpoint{URL: s.URL + "/api"}, Token: "xoxb-valid", Channel: "#alerts"}
	}
	sender, err := delivery.NewSlack(newHTTP(t, loopback...), c)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

func TestSlackConforms(t *testing.T) {
	for name, bot := range map[string]bool{"webhook": false, "bot": true} {
		t.Run(name, func(t *testing.T) {
			sendertest.Run(t, sendertest.Harness{
				New: func(t *testing.T) sendertest.Channel {
					slack := standin.NewSlack(t)
					return sendertest.Channel{
						Sender: slackOf(t, slack, bot),
						Arrivals: func(t *testing.T) (all []sendertest.Arrival) {
							for _, m := range slack.Messages() {
								if len(m.Mentions) > 0 {
									t.Errorf("mentions: %q", m.Mentions)
								}
								all = append(all, sendertest.Arrival{Key: m.Key, Content: m.Content})
							}
							return all
						},
					}
				},
				Failing: func(t *testing.T) map[string]delivery.Sender { return failingSlacks(t, bot) },
				Secrets: plantedSlackSecrets,
			})
		})
	}
}

// plantedSlackSecrets are what a URL and a token have in them that nobody may see.
var plantedSlackSecrets = []string{"T0PlantedTeam/B0PlantedHook", "planted_slack_secret", "xoxb-planted-token-42"}

func failingSlacks(t *testing.T, bot bool) map[string]delivery.Sender {
	t.Helper()
	quoting := func(code int) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "no: "+r.URL.Path+" "+r.Header.Get("Authorization"))
		}).URL
	}
	inJSON := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": false, "error": "invalid_blocks", "response_metadata": map[string]any{
			"messages": []string{"[ERROR] " + r.URL.Path + " " + r.Header.Get("Authorization")},
		}})
	}).URL
	asWord := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"ok":false,"error":"planted_slack_secret"}`)
	}).URL
	all := map[string]delivery.Sender{}
	for name, address := range map[string]string{
		"quotes with 400": quoting(400), "quotes with 403": quoting(403), "quotes with 200": quoting(200),
		"quotes in JSON": inJSON, "quotes as its word": asWord,
		"nothing listens": "http://127.0.0.1:1", "resets": "http://" + serveRaw(t, answering(reset)).address,
		"no such host": "https://slack.invalid",
	} {
		c := delivery.SlackConfig{Endpoint: delivery.Endpoint{URL: address + "/services/T0PlantedTeam/B0PlantedHook/planted_slack_secret"}}
		if bot {
			c.Token, c.Channel = "xoxb-planted-token-42", "#alerts"
		}
		sender, err := delivery.NewSlack(newHTTP(t, loopback...), c)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = sender
	}
	return all
}

func TestSlackReceiptIsWhatSlackGives(t *testing.T) {
	slack := standin.NewSlack(t)
	for bot, want := range map[bool]string{true: "C0000000002/1503435956.000001", false: ""} {
		receipt, err := slackOf(t, slack, bot).Send(t.Context(), sendertest.Message())
		if err != nil {
			t.Fatal(err)
		}
		if bot && !strings.HasPrefix(receipt.ExternalID, want[:22]) || !bot && receipt.ExternalID != "" {
			t.Errorf("bot %t: external ID %q, want %q", bot, receipt.ExternalID, want)
		}
	}
}

// words are all that Slack documents for a webhook, for chat.postMessage or for
// chat.update, by what has to become of them.
var slackWords = map[outcome][]string{
	{Class: delivery.Config, Reason: delivery.ReasonUnauthorized}: {
		"invalid_token", "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive",
	},
	{Class: delivery.Config, Reason: delivery.ReasonForbidden}: {
		"missing_scope", "not_allowed_token_type", "no_permission", "not_in_channel", "team_disabled", "action_prohibited",
		"posting_to_general_channel_denied", "restricted_action", "restricted_action_read_only_channel",
		"restricted_action_thread_only_channel", "restricted_action_non_threadable_channel", "restricted_action_thread_locked",
		"messages_tab_disabled", "posting_to_channel_denied", "access_denied", "accesslimited", "ekm_access_denied", "enterprise_is_restricted",
		"team_access_not_granted", "org_login_required", "two_factor_setup_required", "as_user_not_supported",
		"slack_connect_file_link_sharing_blocked", "slack_connect_canvas_sharing_blocked", "slack_connect_lists_sharing_blocked",
	},
	{Class: delivery.Config, Reason: delivery.ReasonNotFound}: {
		"channel_not_found", "user_not_found", "team_not_found", "no_service", "no_service_id", "no_active_hooks", "no_team",
	},
	{Class: delivery.Config, Reason: delivery.ReasonGone}: {"channel_is_archived", "is_archived", "is_inactive"},
	{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest}: {
		"invalid_payload", "invalid_blocks", "invalid_blocks_format", "no_text", "too_many_attachments", "too_many_contact_cards",
		"invalid_attachments", "invalid_arguments", "invalid_arg_name", "invalid_array_arg", "invalid_charset", "missing_charset", "invalid_form_data",
		"invalid_post_type", "missing_post_type", "invalid_json", "json_not_object",
	},
	{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge}: {"msg_too_long", "msg_blocks_too_long", "attachment_payload_limit_exceeded"},
	{Class: delivery.Permanent, Reason: delivery.ReasonRejected}: {
		"deprecated_endpoint", "method_deprecated", "method_not_supported_for_channel_type",
	},
	{Class: delivery.Transient, Reason: delivery.ReasonRateLimited}:              {"ratelimited", "rate_limited", "message_limit_exceeded"},
	{Class: delivery.Transient, Reason: delivery.ReasonRequestTimeout}:           {"request_timeout"},
	{Class: delivery.Transient, Reason: delivery.ReasonServerError}:              {"service_unavailable", "team_added_to_org", "external_channel_migrating"},
	{Class: delivery.Transient, Reason: delivery.ReasonServerError, Maybe: true}: {"internal_error", "fatal_error", "rollup_error", "update_failed"},
}

func TestEveryWordOfSlackHasAClassAndSaysWhatToDo(t *testing.T) {
	slack := standin.NewSlack(t)
	for want, words := range slackWords {
		for _, word := range words {
			for _, bot := range []bool{false, true} {
				want.Code = word
				slack.Refuse(word)
				_, err := slackOf(t, slack, bot).Send(t.Context(), sendertest.Message())
				checkOutcome(t, err, want)
				if want.Class == delivery.Config && !strings.Contains(err.Error(), word+": ") {
					t.Errorf("%s: %q does not say what to do", word, err)
				}
			}
		}
	}
	if got := slack.Messages(); len(got) != 0 {
		t.Errorf("%d messages arrived", len(got))
	}
}

func TestSlackSaysHowLongToWait(t *testing.T) {
	for value, want := range map[string]time.Duration{"30": 30 * time.Second, "": 0} {
		for _, bot := range []bool{false, true} {
			slack := standin.NewSlack(t)
			slack.Limit(value)
			sender := slackOf(t, slack, bot)
			_, err := sender.Send(t.Context(), sendertest.Message())
			word := map[bool]string{false: "rate_limited", true: "ratelimited"}[bot]
			checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: word, RetryAfter: want})
			if _, err := sender.Send(t.Context(), sendertest.Message()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		}
	}
}

func TestWhatIsNotSlacksOKIsNoSuccess(t *testing.T) {
	malformed := outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: "200", Maybe: true}
	unknown := outcome{Class: delivery.Transient, Reason: delivery.ReasonUnknown, Code: "brand_new_word"}
	for name, c := range map[string]struct {
		status       int
		body         string
		webhook, bot outcome
	}{
		"ok":                       {200, "ok", outcome{}, malformed},
		"ok in JSON":               {200, `{"ok":true,"channel":"C1","ts":"1.2"}`, outcome{}, outcome{}},
		"ok with a warning":        {200, `{"ok":true,"error":"invalid_auth","warning":"missing_charset"}`, outcome{}, outcome{}},
		"not ok":                   {200, `{"ok":false,"error":"not_in_channel"}`, outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "not_in_channel"}, outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "not_in_channel"}},
		"not ok without a word":    {200, `{"ok":false}`, malformed, malformed},
		"a page":                   {200, "<html>Sign in to the guest network</html>", malformed, malformed},
		"nothing":                  {200, "", malformed, malformed},
		"null":                     {200, "null", malformed, malformed},
		"a word nobody knows":      {200, `{"ok":false,"error":"brand_new_word"}`, unknown, unknown},
		"a word with a status":     {403, `{"ok":false,"error":"brand_new_word"}`, outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "brand_new_word"}, outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "brand_new_word"}},
		"a status without a word":  {503, "Service Unavailable", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "503"}, outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "503"}},
		"an error that is no word": {200, `{"ok":false,"error":"<b>Not A Word</b>"}`, malformed, malformed},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			for bot, want := range map[bool]outcome{false: c.webhook, true: c.bot} {
				_, err := slackOf(t, &standin.Slack{URL: server.URL}, bot).Send(t.Context(), sendertest.Message())
				checkOutcome(t, err, want)
			}
		})
	}
	t.Run("an answer that breaks off", func(t *testing.T) {
		raw := serveRaw(t, answering(writing("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ok\":tr")))
		_, err := slackOf(t, &standin.Slack{URL: "http://" + raw.address}, true).Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, malformed)
	})
	t.Run("a connection that breaks", func(t *testing.T) {
		raw := serveRaw(t, answering(func(conn *net.TCPConn) { reset(conn) }))
		_, err := slackOf(t, &standin.Slack{URL: "http://" + raw.address}, false).Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonNoAnswer, Maybe: true})
	})
}

func TestSlackRefusesAConfigurationThatCannotWork(t *testing.T) {
	for name, c := range map[string]struct {
		config delivery.SlackConfig
		want   string
	}{
		"no URL":           {delivery.SlackConfig{}, "url has to begin with https:// or http://"},
		"a workflow's URL": {delivery.SlackConfig{Endpoint: delivery.Endpoint{URL: "https://hooks.slack.com/triggers/T1/1/abc"}}, "url starts a Slack workflow, which takes no messages: use that of an incoming webhook"},
		"no token":         {delivery.SlackConfig{Channel: "#alerts"}, "bot token is empty"},
		"a token in two":   {delivery.SlackConfig{Channel: "#alerts", Token: "xoxb-1\nxoxb-2"}, "bot token has a character that no token has, such as a space or a line break"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := delivery.NewSlack(newHTTP(t), c.config)
			if e := delivery.Classify(err); e == nil || e.Class != delivery.Config || e.Message != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

const markdownBody = `# Disk of *db-0*

It will be **full in _two_ hours**, see [the graph](https://grafana.example.com/d?a=1&b=2|x).
AT&T <!channel> <@U012AB3CD> <#C0123> @here ~~gone~~ ` + "`df -h <dir>`" + `

1. Roll back:
   ` + "```sh\n   kubectl rollout undo deploy/db <now>\n   ```" + `
2. Call
   - support
   - [sales](!channel) ![map](https://example.com/map.png)

> quoted
> twice

<b>no HTML</b> &lt;!here&gt; \*not bold\*
`

func goldenMessages() map[string]*delivery.Message {
	plain, rich, long, least := fixedMessage(), fixedMessage(), fixedMessage(), fixedMessage()
	plain.Subject, plain.Body = "AT&T <!channel> is down", "*exactly* as written: <!here> & :100:\n\tindented"
	rich.BodyFormat, rich.Body = "Markdown", markdownBody
	long.BodyFormat = "Markdown"
	long.Subject = strings.Repeat("The disk is full. ", 20)
	long.Body = strings.Repeat("**A long <story> & more of it.** ", 600)
	*least = delivery.Message{Key: least.Key, Subject: "Hello", Body: "World"}
	return map[string]*delivery.Message{"plain": plain, "markdown": rich, "long": long, "least": least}
}

func TestSlackPayloadsAreWhatTheyWere(t *testing.T) {
	for name, m := range goldenMessages() {
		for kind, bot := range map[string]bool{"webhook": false, "bot": true} {
			if bot && name != "least" {
				continue
			}
			t.Run(name+" "+kind, func(t *testing.T) {
				slack := standin.NewSlack(t)
				if _, err := slackOf(t, slack, bot).Send(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				if got := slack.Messages()[0].Mentions; len(got) > 0 {
					t.Errorf("mentions: %q", got)
				}
				checkGolden(t, "slack/"+name+"-"+kind, slack.Messages()[0].Content)
			})
		}
	}
}
