package standin

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
)

// SlackMessage is a message that Slack has taken.
type SlackMessage struct {
	Channel  string // its ID
	Key      string // the ID of the first block
	TS       string
	Thread   string   // the TS of the message that it is a reply to
	Shown    bool     // in the channel, as every message that is no reply
	Before   []string // the keys of those that it has replaced, the oldest first
	Content  []byte   // as it came last
	Mentions []string
}

// ID is the receipt for the message.
func (m SlackMessage) ID() string { return m.Channel + "/" + m.TS }

// Slack takes messages at incoming webhooks, /services/CHANNEL at first, and at
// /api/chat.postMessage, and replaces them at /api/chat.update. It may be used from any
// goroutine.
type Slack struct {
	front
	URL string

	// Proxy leads every connection to it, as slack.com, for whose name CA has signed.
	Proxy string
	CA    []byte

	mu       sync.Mutex
	token    string
	webhooks string            // what the paths of incoming webhooks begin with
	channels map[string]string // IDs by name
	messages []SlackMessage
	posted   int
}

// NewSlack starts a Slack with the channels #general (C0000000001) and #alerts
// (C0000000002), which ends with the test.
func NewSlack(tb testing.TB) *Slack {
	s := &Slack{token: "xoxb-valid", webhooks: "/services/", channels: map[string]string{"general": "C0000000001", "alerts": "C0000000002"}}
	s.provider = s.serve
	server := newServer(tb, s)
	server.Start()
	s.URL = server.URL
	certificate := NewCertificate(tb, time.Hour, "slack.com")
	s.Proxy, s.CA = Impersonate(tb, certificate.Server, s), certificate.PEM
	return s
}

// SetToken makes a token the only valid one.
func (s *Slack) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// SetWebhooks revokes all incoming webhooks and makes others, whose URLs have this
// part. It returns the path of that of #alerts.
func (s *Slack) SetWebhooks(part string) (path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.webhooks = "/services/" + part + "/"
	return s.webhooks + "alerts"
}

// Messages returns what was taken so far.
func (s *Slack) Messages() []SlackMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]SlackMessage(nil), s.messages...)
}

// Delete deletes a message.
func (s *Slack) Delete(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = slices.DeleteFunc(s.messages, func(m SlackMessage) bool { return m.ID() == id })
}

// Refuse has the next requests answered with these words, each once.
func (s *Slack) Refuse(words ...string) {
	for _, word := range words {
		s.Answer(func(w http.ResponseWriter, r *http.Request) {
			_, bot := slackMethod(r)
			refuse(w, bot, word)
		})
	}
}

// Limit has the next request answered with 429 and what Retry-After says.
func (s *Slack) Limit(retryAfter string) {
	s.Answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		word := "rate_limited"
		_, bot := slackMethod(r)
		if bot {
			word = "ratelimited"
		}
		respond(w, bot, http.StatusTooManyRequests, word)
	})
}

// slackMethod is what is asked of a bot's methods, where it is one of them.
func slackMethod(r *http.Request) (method string, bot bool) {
	return strings.CutPrefix(r.URL.Path, "/api/chat.")
}

func (s *Slack) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	method, bot := slackMethod(r)
	if media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" ||
		parameters["charset"] != "" && !strings.EqualFold(parameters["charset"], "utf-8") {
		refuse(w, bot, "invalid_payload")
		return
	}
	m := SlackMessage{Content: body}
	word := ""
	if bot {
		if word = s.authorize(r); word == "" && method != "postMessage" && method != "update" {
			word = "unknown_method"
		}
	} else if m.Channel = s.channel(strings.TrimPrefix(r.URL.Path, s.webhooks)); m.Channel == "" {
		word = "no_service"
	}
	if word == "" {
		word = s.take(&m, bot)
	}
	if word == "" && bot {
		word = s.put(&m, method == "update")
	} else if word == "" {
		s.messages = append(s.messages, m)
	}
	if word != "" {
		refuse(w, bot, word)
		return
	}
	if bot {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":%q,"message":{"type":"message","text":"shortened"}}`, m.Channel, m.TS)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

// put puts a bot's message where it asks to be, in place of another or with it, and
// returns the word for why it cannot be there.
func (s *Slack) put(m *SlackMessage, update bool) string {
	var where struct {
		Channel        string `json:"channel"`
		TS             string `json:"ts"`
		ThreadTS       string `json:"thread_ts"`
		ReplyBroadcast bool   `json:"reply_broadcast"`
		Text           string `json:"text"`
		Parse          string `json:"parse"`
	}
	_ = json.Unmarshal(m.Content, &where) // it was read before
	if !update {
		if where.ThreadTS != "" && !slices.ContainsFunc(s.messages, func(o SlackMessage) bool {
			return o.Channel == m.Channel && o.TS == where.ThreadTS && o.Thread == ""
		}) {
			return "thread_not_found"
		}
		s.posted++
		m.TS, m.Thread = fmt.Sprintf("1503435956.%06d", s.posted), where.ThreadTS
		m.Shown = where.ThreadTS == "" || where.ReplyBroadcast
		s.messages = append(s.messages, *m)
		return ""
	}
	i := slices.IndexFunc(s.messages, func(o SlackMessage) bool { return o.Channel == m.Channel && o.TS == where.TS })
	switch {
	case where.Channel != m.Channel: // only its ID will do
		return "channel_not_found"
	case i < 0:
		return "message_not_found"
	case where.ReplyBroadcast:
		return "no_dual_broadcast_content_update"
	case where.Parse != "none" && where.Parse != "full":
		m.Mentions = append(m.Mentions, mentions(where.Text, false)...)
	}
	if characters(where.Text) > 4000 {
		return "msg_too_long"
	}
	old := s.messages[i]
	m.TS, m.Thread, m.Shown, m.Before = old.TS, old.Thread, old.Shown, append(slices.Clone(old.Before), old.Key)
	s.messages[i] = *m
	return ""
}

func (s *Slack) authorize(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !ok || token == "":
		return "not_authed"
	case token != s.token:
		return "invalid_auth"
	}
	return ""
}

// channel returns the ID of a channel that is named by it or by its name.
func (s *Slack) channel(name string) string {
	name = strings.TrimPrefix(name, "#")
	for known, id := range s.channels {
		if name == known || name == id {
			return id
		}
	}
	return ""
}

// take reads a message and returns the word for what is wrong with it.
func (s *Slack) take(m *SlackMessage, bot bool) string {
	var payload struct {
		Channel string  `json:"channel"`
		Text    string  `json:"text"`
		Blocks  []block `json:"blocks"`
	}
	if err := json.Unmarshal(m.Content, &payload); err != nil {
		if bot {
			return "invalid_json"
		}
		return "invalid_payload"
	}
	if bot {
		if m.Channel = s.channel(payload.Channel); m.Channel == "" {
			return "channel_not_found"
		}
	}
	if payload.Text == "" && len(payload.Blocks) == 0 {
		return "no_text"
	}
	if characters(payload.Text) > 40000 {
		return "msg_too_long"
	}
	if word := checkBlocks(payload.Blocks); word != "" {
		return word
	}
	if len(payload.Blocks) > 0 {
		m.Key = payload.Blocks[0].BlockID
	}
	m.Mentions = mentions(payload.Text, true)
	for _, b := range payload.Blocks {
		for _, t := range b.texts() {
			if t.Type == "mrkdwn" {
				m.Mentions = append(m.Mentions, mentions(t.Text, t.Verbatim)...)
			}
		}
	}
	return ""
}

type block struct {
	Type     string      `json:"type"`
	BlockID  string      `json:"block_id"`
	Text     *blockText  `json:"text"`
	Fields   []blockText `json:"fields"`
	Elements []blockText `json:"elements"`
}

type blockText struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Emoji    *bool  `json:"emoji"`
	Verbatim bool   `json:"verbatim"`
}

func (b block) texts() []blockText {
	all := append(append([]blockText(nil), b.Fields...), b.Elements...)
	if b.Text != nil {
		all = append(all, *b.Text)
	}
	return all
}

func checkBlocks(blocks []block) string {
	if len(blocks) > 50 {
		return "invalid_blocks"
	}
	total := 0
	ids := map[string]bool{}
	for _, b := range blocks {
		longest := 3000
		switch b.Type {
		case "header":
			longest = 150
			if b.Text == nil || b.Text.Type != "plain_text" || len(b.texts()) != 1 {
				return "invalid_blocks"
			}
		case "section":
			if b.Text == nil && len(b.Fields) == 0 || len(b.Fields) > 10 || len(b.Elements) > 0 {
				return "invalid_blocks"
			}
			for _, f := range b.Fields {
				if characters(f.Text) > 2000 {
					return "invalid_blocks"
				}
			}
		case "context":
			if len(b.Elements) == 0 || len(b.Elements) > 10 || b.Text != nil || len(b.Fields) > 0 {
				return "invalid_blocks"
			}
		default:
			return "invalid_blocks"
		}
		if len(b.BlockID) > 255 || b.BlockID != "" && ids[b.BlockID] {
			return "invalid_blocks"
		}
		ids[b.BlockID] = true
		for _, t := range b.texts() {
			n := characters(t.Text)
			total += n
			// Only plain text has emoji, only formatted text verbatim.
			if n > longest || strings.TrimSpace(t.Text) == "" ||
				t.Type != "plain_text" && t.Type != "mrkdwn" ||
				t.Type == "mrkdwn" && t.Emoji != nil || t.Type == "plain_text" && t.Verbatim {
				return "invalid_blocks"
			}
		}
	}
	// Where the limit is nobody says. Messages of 11,341 characters were refused.
	if total > 11000 {
		return "msg_blocks_too_long"
	}
	return ""
}

func characters(s string) int { return len(utf16.Encode([]rune(s))) }

var (
	mention = regexp.MustCompile(`<[!@#][^>]*>?`)
	named   = regexp.MustCompile(`(?:^|\W)(@(?:channel|here|everyone|group)|#[a-z]\w*)`)
)

// mentions returns what in a formatted text would call somebody or lead elsewhere.
func mentions(text string, verbatim bool) []string {
	all := mention.FindAllString(text, -1)
	if !verbatim {
		all = append(all, named.FindAllString(text, -1)...)
	}
	return all
}

// statuses of the webhook's words; those of chat.postMessage come with 200.
var statuses = map[string]int{
	"invalid_payload": 400, "invalid_blocks": 400, "no_text": 400, "too_many_attachments": 400, "user_not_found": 400,
	"msg_too_long": 400, "msg_blocks_too_long": 400,
	"action_prohibited": 403, "posting_to_general_channel_denied": 403, "invalid_token": 403, "team_disabled": 403,
	"channel_not_found": 404, "no_service": 404, "no_service_id": 404, "no_team": 404, "no_active_hooks": 404,
	"channel_is_archived": 410, "rollup_error": 500,
}

func refuse(w http.ResponseWriter, bot bool, word string) {
	status := http.StatusOK
	if !bot {
		status = http.StatusBadRequest
		if known, ok := statuses[word]; ok {
			status = known
		}
	}
	respond(w, bot, status, word)
}

func respond(w http.ResponseWriter, bot bool, status int, word string) {
	if !bot {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, word)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"ok":false,"error":%q}`, word)
}
