package delivery

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SlackAPI is where the methods are that a bot calls.
const SlackAPI = "https://slack.com/api"

// SlackConfig is an incoming webhook, or a bot and the channel it posts to.
type SlackConfig struct {
	Endpoint // the webhook; for a bot that of the methods, SlackAPI where it has no URL

	// Token is a bot's. Empty: the endpoint is a webhook.
	Token string
	// Channel is the ID or the name of the bot's channel.
	Channel string
}

// Slack posts messages to one channel of a workspace. Slack knows no idempotency
// key: what is posted twice is shown twice, and only what replaces a message may be
// sent again. The key is the ID of the first block, by which a program can tell.
type Slack struct {
	client  *Client // to post
	updates *Client // to replace, a bot's alone
	bot     bool
	channel string
}

// NewSlack checks the configuration. Its error is an *Error of class Config.
func NewSlack(h *HTTP, c SlackConfig) (*Slack, error) {
	s := &Slack{bot: c.Token != "" || c.Channel != "", channel: c.Channel}
	if s.bot {
		if c.Token == "" {
			return nil, configError(ReasonInvalidSecret, "bot token is empty")
		}
		if strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, configError(ReasonInvalidSecret, "bot token has a character that no token has, such as a space or a line break")
		}
		c.Headers = map[string]string{"Authorization": "Bearer " + c.Token}
		base := strings.TrimSuffix(cmp.Or(c.URL, SlackAPI), "/")
		var err error
		c.URL = base + "/chat.update"
		if s.updates, err = h.Client(c.Endpoint); err != nil {
			return nil, err
		}
		c.URL = base + "/chat.postMessage"
	}
	var err error
	if s.client, err = h.Client(c.Endpoint); err != nil {
		return nil, err
	}
	if s.bot {
		return s, nil
	}
	if err := checkProvider(s.client.endpoint.url, providerSlack); err != nil {
		return nil, err
	}
	if isSlackWorkflow(s.client.endpoint.url) {
		return nil, configError(ReasonInvalidURL, "url starts a Slack workflow, which takes no messages: use that of an incoming webhook")
	}
	return s, nil
}

// Render implements Renderer.
func (s *Slack) Render(m *Message) []byte { return encodeSlack(m, s.channel) }

// Send posts the message once, or replaces another by it. A bot's receipt is the
// channel's ID and the message's time stamp, C0123456789/1503435956.000247; a webhook
// has none.
func (s *Slack) Send(ctx context.Context, m *Message) (Receipt, error) {
	content := s.Render(m)
	receipt := ReceiptOf(content)
	_, ts := slackFollowed(m, s.channel)
	client := s.client
	if ts != "" && m.Replaces {
		client = s.updates
	}
	answer, err := client.Post(ctx, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, content)
	if answer == nil {
		return receipt, err
	}
	said := s.read(answer.Body)
	switch {
	case said.Error != "":
		return receipt, s.refusal(answer, said, err, ts != "")
	case err != nil:
		return receipt, err
	case !said.OK:
		return receipt, s.client.unlike(answer, "ok", "Slack")
	case said.TS != "":
		receipt.ExternalID = s.client.clean(said.Channel + "/" + said.TS)
	}
	return receipt, nil
}

// slackAnswer is that of a bot's methods. A webhook says "ok", or the error's word and
// nothing else.
type slackAnswer struct {
	OK       bool   `json:"ok"`
	Error    string `json:"error"`
	Channel  string `json:"channel"`
	TS       string `json:"ts"`
	Metadata struct {
		Messages []string `json:"messages"`
	} `json:"response_metadata"`
}

var slackWord = regexp.MustCompile(`^[a-z][a-z0-9_]{1,63}$`)

// read leaves of an error nothing but a word that can be shown.
func (s *Slack) read(body []byte) (said slackAnswer) {
	text := strings.TrimSpace(string(body))
	switch {
	case json.Unmarshal(body, &said) == nil:
		if said.OK {
			said.Error = ""
		}
	case s.bot:
		return slackAnswer{}
	default:
		said = slackAnswer{OK: text == "ok", Error: text}
	}
	if said.OK || !slackWord.MatchString(said.Error) || s.client.clean(said.Error) != said.Error {
		said.Error = ""
	}
	return said
}

// refusal makes an error of Slack's word. A word that is not known means what the
// HTTP status does; with the status 200 it means nothing, unless the message follows
// another: it may then be that alone which Slack does not take.
func (s *Slack) refusal(answer *Answer, said slackAnswer, byStatus error, follows bool) *Error {
	means, known := slackMeaning(said.Error)
	if e := Classify(byStatus); !known && e != nil {
		e.Code = said.Error
		return e
	}
	if follows && (!known || slices.Contains(slackCannotFollow, said.Error)) {
		return &Error{
			Class: Transient, Reason: ReasonCannotFollow, Code: said.Error, CannotFollow: true,
			Message: clean(fmt.Sprintf("%s answered %s: the message cannot follow the earlier one and is sent by itself", s.client.host(), said.Error)),
		}
	}
	e := &Error{
		Class: means.class, Reason: means.reason, Code: said.Error, MaybeDelivered: means.maybe,
		RetryAfter: retryAfter(answer.Header.Get("Retry-After"), time.Now()),
	}
	message := fmt.Sprintf("%s answered %s", s.client.host(), said.Error)
	if means.advice != "" {
		message += ": " + means.advice
	} else if i := slices.IndexFunc(said.Metadata.Messages, func(m string) bool { return m != "" }); i >= 0 {
		message += ": " + s.client.clean(said.Metadata.Messages[i])
	}
	e.Message = clean(message)
	return e
}

// slackCannotFollow are the words about the message that another one follows, not
// about that one: it is gone, is not the bot's to change, or takes no replies.
var slackCannotFollow = []string{
	"message_not_found", "cant_update_message", "edit_window_closed", "block_mismatch", "streaming_state_conflict",
	"thread_not_found", "cannot_reply_to_message", "cant_broadcast_message", "restricted_action_thread_locked",
	"restricted_action_non_threadable_channel",
}

// slackMeaning says what a word of the webhook or of a bot's methods means. What
// somebody can mend in Slack or in the channel is a matter of configuration: the
// message is good and waits.
func slackMeaning(word string) (s status, known bool) {
	switch word {
	case "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive":
		return status{class: Config, reason: ReasonUnauthorized, advice: "put a valid bot token into the Secret"}, true
	case "invalid_token":
		return status{class: Config, reason: ReasonUnauthorized, advice: "create a new webhook and put its URL into the Secret"}, true
	case "missing_scope", "not_allowed_token_type", "no_permission":
		return status{class: Config, reason: ReasonForbidden, advice: "give the app the bot scope chat:write, install it again, and use its bot token"}, true
	case "not_in_channel":
		return status{class: Config, reason: ReasonForbidden, advice: "invite the app to the channel"}, true
	case "channel_not_found":
		return status{class: Config, reason: ReasonNotFound, advice: "correct the channel, or invite the app where the channel is private"}, true
	case "team_not_found":
		return status{class: Config, reason: ReasonNotFound, advice: "give the channel by its ID instead of its name"}, true
	case "user_not_found":
		return status{class: Config, reason: ReasonNotFound, advice: "the user it posts to or for is gone: create a new webhook"}, true
	case "no_service", "no_service_id", "no_active_hooks", "no_team":
		return status{class: Config, reason: ReasonNotFound, advice: "the webhook is no more: create a new one and put its URL into the Secret"}, true
	case "team_disabled":
		return status{class: Config, reason: ReasonForbidden, advice: "the workspace is no longer active"}, true
	case "channel_is_archived", "is_archived", "is_inactive":
		return status{class: Config, reason: ReasonGone, advice: "unarchive the channel, or choose another"}, true
	case "action_prohibited", "posting_to_general_channel_denied", "restricted_action", "restricted_action_read_only_channel",
		"restricted_action_thread_only_channel", "restricted_action_non_threadable_channel", "restricted_action_thread_locked",
		"messages_tab_disabled", "posting_to_channel_denied", "access_denied", "accesslimited", "ekm_access_denied", "enterprise_is_restricted",
		"team_access_not_granted", "org_login_required", "two_factor_setup_required", "as_user_not_supported",
		"slack_connect_file_link_sharing_blocked", "slack_connect_canvas_sharing_blocked", "slack_connect_lists_sharing_blocked":
		return status{class: Config, reason: ReasonForbidden, advice: "the workspace does not let the app post there: ask its administrators, or choose another channel"}, true
	case "ratelimited", "rate_limited", "message_limit_exceeded":
		return status{class: Transient, reason: ReasonRateLimited, advice: "too many messages"}, true
	case "request_timeout":
		return status{class: Transient, reason: ReasonRequestTimeout}, true
	case "service_unavailable", "team_added_to_org", "external_channel_migrating":
		return status{class: Transient, reason: ReasonServerError, advice: "Slack is not available for now"}, true
	case "internal_error", "fatal_error", "rollup_error", "update_failed":
		return status{class: Transient, reason: ReasonServerError, maybe: true, advice: "something went wrong within Slack"}, true
	case "msg_too_long", "msg_blocks_too_long", "attachment_payload_limit_exceeded":
		return status{class: Permanent, reason: ReasonTooLarge, advice: "the message is longer than Slack takes"}, true
	case "invalid_payload", "invalid_blocks", "invalid_blocks_format", "no_text", "too_many_attachments", "too_many_contact_cards",
		"invalid_attachments", "invalid_arguments", "invalid_arg_name", "invalid_array_arg", "invalid_charset", "missing_charset", "invalid_form_data",
		"invalid_post_type", "missing_post_type", "invalid_json", "json_not_object":
		return status{class: Permanent, reason: ReasonBadRequest}, true
	case "deprecated_endpoint", "method_deprecated", "method_not_supported_for_channel_type":
		return status{class: Permanent, reason: ReasonRejected}, true
	}
	return status{class: Transient, reason: ReasonUnknown, advice: "a word that is not known here"}, false
}
