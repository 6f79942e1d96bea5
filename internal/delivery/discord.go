package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DiscordConfig is a webhook of a Discord channel.
type DiscordConfig struct {
	Endpoint

	ThreadID string // of a thread or a forum's post in the channel; empty: none
	Username string // shown instead of the webhook's own name; empty: that name
}

// Discord posts messages to one channel or thread of a server. A webhook knows no
// idempotency key: what is sent twice is shown twice. The key stands at the end of
// the first embed's footer.
type Discord struct {
	client   *Client
	username string
}

// NewDiscord checks the configuration. Its error is an *Error of class Config.
func NewDiscord(h *HTTP, c DiscordConfig) (*Discord, error) {
	client, err := h.Client(c.Endpoint)
	if err != nil {
		return nil, err
	}
	u := client.endpoint.url
	if err := checkProvider(u, providerDiscord); err != nil {
		return nil, err
	}
	if strings.HasSuffix(u.Path, "/slack") || strings.HasSuffix(u.Path, "/github") {
		return nil, configError(ReasonInvalidURL, "url is for messages of Slack or GitHub: take its last part away")
	}
	// These are no secrets, so that they come after what is masked was listed.
	// Without wait, Discord tells neither of errors nor what it made of a message.
	query := u.Query()
	query.Set("wait", "true")
	if c.ThreadID != "" {
		query.Set("thread_id", c.ThreadID)
	}
	u.RawQuery = query.Encode()
	return &Discord{client: client, username: c.Username}, nil
}

// Render implements Renderer.
func (d *Discord) Render(m *Message) []byte { return encodeDiscord(m, d.username) }

// Send posts the message once. The receipt is the ID of the channel or thread and
// that of the message, 199737254929760256/1187452905223458876.
func (d *Discord) Send(ctx context.Context, m *Message) (Receipt, error) {
	content := d.Render(m)
	receipt := ReceiptOf(content)
	answer, err := d.client.Post(ctx, http.Header{"Content-Type": {"application/json"}}, content)
	if answer == nil {
		return receipt, err
	}
	var said discordAnswer
	_ = json.Unmarshal(answer.Body, &said) // what is not there is told by the status
	switch {
	case err != nil:
		return receipt, d.refusal(said, Classify(err))
	case !snowflake.MatchString(said.ID) || !snowflake.MatchString(said.ChannelID):
		return receipt, d.client.unlike(answer, "message", "Discord")
	}
	receipt.ExternalID = d.client.clean(said.ChannelID + "/" + said.ID)
	return receipt, nil
}

// discordAnswer is a message, or an error.
type discordAnswer struct {
	ID        string `json:"id"`
	ChannelID string `json:"channel_id"`

	Code       int             `json:"code"`
	Message    string          `json:"message"`
	Errors     json.RawMessage `json:"errors"`
	RetryAfter float64         `json:"retry_after"` // seconds
}

// snowflake is one of Discord's IDs.
var snowflake = regexp.MustCompile(`^[0-9]{1,20}$`)

// refusal makes the status's error one of Discord's code. A code that is not known
// means what the status does, and so does 0.
func (d *Discord) refusal(said discordAnswer, e *Error) *Error {
	// The body has the fractions that the header lacks.
	if said.RetryAfter > 0 {
		wait := min(said.RetryAfter, maxRetryAfter.Seconds())
		e.RetryAfter = max(e.RetryAfter, time.Duration(math.Ceil(wait*1000))*time.Millisecond)
	}
	if said.Code <= 0 {
		return e
	}
	e.Code = strconv.Itoa(said.Code)
	means, known := discordMeaning(said.Code)
	if !known {
		return e
	}
	e.Class, e.Reason, e.MaybeDelivered = means.class, means.reason, means.maybe
	words, path := said.Message, ""
	if said.Code == 50035 {
		if p, w := discordField(said.Errors, nil); w != "" {
			path, words = p, p+": "+w
		}
	}
	// Of all that Discord checks, these come from the channel instead of the message.
	if path == "username" || path == "thread_id" {
		e.Class = Config
	}
	if means.advice != "" {
		words = means.advice
	}
	e.Message = clean(fmt.Sprintf("%s answered %d: %s", d.client.host(), said.Code, d.client.clean(words)))
	return e
}

// discordField finds the first field that Discord has something against, and what.
// Below the names of fields and the indices of lists stands "_errors".
func discordField(errors json.RawMessage, path []string) (field, words string) {
	var here struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"_errors"`
	}
	if json.Unmarshal(errors, &here) == nil && len(here.Errors) > 0 {
		return strings.Join(path, "."), here.Errors[0].Message
	}
	var below map[string]json.RawMessage
	if len(path) == 8 || json.Unmarshal(errors, &below) != nil {
		return "", ""
	}
	for _, name := range slices.Sorted(maps.Keys(below)) {
		if field, words = discordField(below[name], append(slices.Clip(path), name)); words != "" {
			return field, words
		}
	}
	return "", ""
}

// discordMeaning says what a code of Discord's JSON means for a message through a
// webhook. What somebody can mend in Discord or in the channel is a matter of
// configuration: the message is good and waits. The codes are those of
// https://docs.discord.com/developers/topics/opcodes-and-status-codes.
func discordMeaning(code int) (s status, known bool) {
	switch code {
	case 10015, 10016:
		return status{class: Config, reason: ReasonNotFound, advice: "the webhook is no more: create a new one and put its URL into the Secret"}, true
	case 10003:
		return status{class: Config, reason: ReasonNotFound, advice: "there is no such channel or thread: correct threadID, or create a new webhook"}, true
	case 10004:
		return status{class: Config, reason: ReasonNotFound, advice: "the server is no more: create a webhook on another"}, true
	case 40001, 50014, 50027:
		return status{class: Config, reason: ReasonUnauthorized, advice: "the token in the URL is wrong: put the webhook's whole URL into the Secret"}, true
	case 40007, 50001, 50013, 50095:
		return status{class: Config, reason: ReasonForbidden, advice: "the server does not let the webhook post there: ask its administrators"}, true
	case 40333:
		return status{class: Config, reason: ReasonForbidden, advice: "Discord's protection blocks the controller's requests"}, true
	case 160005:
		return status{class: Config, reason: ReasonForbidden, advice: "unlock the thread, or choose another"}, true
	case 50083:
		return status{class: Config, reason: ReasonGone, advice: "unarchive the thread, or choose another"}, true
	case 220001:
		return status{class: Config, reason: ReasonUnprocessable, advice: "the channel is a forum: set threadID to one of its posts"}, true
	case 40058, 50008, 50024, 50068, 220003, 220004:
		return status{class: Config, reason: ReasonUnprocessable, advice: "the channel is of a kind that takes no such messages: choose a text channel"}, true
	case 20016, 20028, 20029, 40062:
		return status{class: Transient, reason: ReasonRateLimited, advice: "too many messages"}, true
	case 40004, 40006, 130000:
		return status{class: Transient, reason: ReasonServerError, advice: "Discord takes no messages for now"}, true
	case 40005:
		return status{class: Permanent, reason: ReasonTooLarge, advice: "the message is longer than Discord takes"}, true
	case 50006, 50035, 50109:
		return status{class: Permanent, reason: ReasonBadRequest}, true
	case 20009, 200000, 200001, 240000:
		return status{class: Permanent, reason: ReasonRejected, advice: "the server's moderation does not let the message through"}, true
	}
	return status{}, false
}
