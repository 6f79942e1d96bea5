package standin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// DiscordMessage is a message that Discord has taken.
type DiscordMessage struct {
	Channel  string // the ID of the channel or of the thread in it
	Username string
	Key      string // what the first embed's footer ends with
	Content  []byte // as it came
	Mentions []string
}

// Discord takes messages at webhooks, /api/webhooks/ID/TOKEN. It may be used from
// any goroutine.
type Discord struct {
	front
	URL string // of the one webhook, at first

	mu       sync.Mutex
	token    string
	messages []DiscordMessage
}

// IDs of the stand-in's only channel and of the only thread in it.
const (
	DiscordChannel = "199737254929760256"
	DiscordThread  = "1187452905223458876"
)

const discordWebhook = "/api/webhooks/223704706495545344/"

// NewDiscord starts a Discord, which ends with the test.
func NewDiscord(tb testing.TB) *Discord {
	d := &Discord{}
	d.provider = d.serve
	server := newServer(tb, d)
	server.Start()
	d.URL = server.URL + d.SetToken("3d89bb7572e0fb30d8128367b3b1b44f")
	return d
}

// SetToken makes a token the only valid one, and returns the path of the webhook's
// URL with it.
func (d *Discord) SetToken(token string) (path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.token = token
	return discordWebhook + token
}

// Messages returns what was taken so far.
func (d *Discord) Messages() []DiscordMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]DiscordMessage(nil), d.messages...)
}

// Refuse has the next requests answered with these codes, each once.
func (d *Discord) Refuse(codes ...int) {
	for _, code := range codes {
		d.Answer(func(w http.ResponseWriter, _ *http.Request) { refuseDiscord(w, code, nil) })
	}
}

// Limit has the next request answered with 429 and this many seconds, which have a
// fraction in the body alone.
func (d *Discord) Limit(seconds float64) {
	d.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", fmt.Sprint(int(seconds)))
		w.Header().Set("X-RateLimit-Limit", "5")
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset-After", fmt.Sprint(seconds))
		w.Header().Set("X-RateLimit-Scope", "user")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprintf(w, `{"message": "You are being rate limited.", "retry_after": %g, "global": false}`, seconds)
	})
}

func (d *Discord) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id, token, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/webhooks/"), "/")
	m := DiscordMessage{Channel: DiscordChannel, Content: body}
	if thread := r.URL.Query().Get("thread_id"); thread != "" {
		m.Channel = thread
	}
	var code int
	var errors map[string]string
	switch {
	case !strings.HasSuffix(discordWebhook, "/"+id+"/"):
		code = 10015
	case token != d.token:
		code = 50027
	case m.Channel != DiscordChannel && m.Channel != DiscordThread:
		code = 10003
	default:
		code, errors = m.read(r.Header.Get("Content-Type"))
	}
	if code != 0 {
		refuseDiscord(w, code, errors)
		return
	}
	d.messages = append(d.messages, m)
	if r.URL.Query().Get("wait") != "true" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"id": "%d", "type": 0, "channel_id": %q, "content": "", "webhook_id": %q}`, 1200000000000000000+len(d.messages), m.Channel, id)
}

type discordEmbed struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Fields      []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"fields"`
	Footer *struct {
		Text string `json:"text"`
	} `json:"footer"`
}

// read reads a message, and returns the code for what is wrong with it and which
// fields it is about.
func (m *DiscordMessage) read(contentType string) (code int, errors map[string]string) {
	var payload struct {
		Content  string         `json:"content"`
		Username *string        `json:"username"`
		Embeds   []discordEmbed `json:"embeds"`
		Allowed  *struct {
			Parse []string `json:"parse"`
		} `json:"allowed_mentions"`
	}
	if !strings.HasPrefix(contentType, "application/json") {
		return 50035, map[string]string{"_": "Expected a JSON body"}
	}
	if err := json.Unmarshal(m.Content, &payload); err != nil {
		return 50109, nil
	}
	if payload.Content == "" && len(payload.Embeds) == 0 {
		return 50006, nil
	}
	if payload.Allowed == nil || len(payload.Allowed.Parse) > 0 {
		m.Mentions = append(m.Mentions, "whatever the texts say")
	}
	errors = map[string]string{}
	text := func(field, text string, longest int, required bool) int {
		n := characters(text)
		switch {
		case n > longest:
			errors[field] = fmt.Sprintf("Must be %d or fewer in length.", longest)
		case required && strings.TrimSpace(text) == "":
			errors[field] = "This field is required"
		}
		m.Mentions = append(m.Mentions, discordMention.FindAllString(discordPlain.ReplaceAllString(text, ""), -1)...)
		return n
	}
	text("content", payload.Content, 2000, false)
	if payload.Username != nil {
		m.Username = *payload.Username
		text("username", m.Username, 80, true)
		for _, word := range []string{"clyde", "discord"} {
			if strings.Contains(strings.ToLower(m.Username), word) {
				errors["username"] = fmt.Sprintf("Username cannot contain %q", word)
			}
		}
	}
	if len(payload.Embeds) > 10 {
		errors["embeds"] = "Must be 10 or fewer in length."
	}
	total := 0
	for i, e := range payload.Embeds {
		at := fmt.Sprintf("embeds.%d.", i)
		if e.Title == "" && e.Description == "" && len(e.Fields) == 0 {
			errors[at+"description"] = "This field is required"
		}
		total += text(at+"title", e.Title, 256, false) + text(at+"description", e.Description, 4096, false)
		if len(e.Fields) > 25 {
			errors[at+"fields"] = "Must be 25 or fewer in length."
		}
		for j, f := range e.Fields {
			at := fmt.Sprintf("%sfields.%d.", at, j)
			total += text(at+"name", f.Name, 256, true) + text(at+"value", f.Value, 1024, true)
		}
		if e.Footer == nil {
			continue
		}
		if n := characters(e.Footer.Text); n > 2048 {
			errors[at+"footer.text"] = "Must be 2048 or fewer in length."
		} else {
			total += n
		}
		if i == 0 {
			m.Key = e.Footer.Text[strings.LastIndex(e.Footer.Text, " ")+1:]
		}
	}
	if total > 6000 {
		errors["embeds"] = "Embed size exceeds maximum size of 6000"
	}
	if len(errors) > 0 {
		return 50035, errors
	}
	return 0, nil
}

// What is escaped or code in a formatted text, and what would call somebody or lead
// to a channel in the rest.
var (
	discordPlain   = regexp.MustCompile("(?s)\\\\[^0-9A-Za-z\\s]|```.*?```|`[^`\n]*`")
	discordMention = regexp.MustCompile(`<(?:@[!&]?|#|/[^>]*:|id:)\w+>|@everyone|@here`)
)

// discordCodes are the statuses and words of codes.
var discordCodes = map[int]struct {
	status int
	words  string
}{
	10003: {404, "Unknown Channel"}, 10015: {404, "Unknown Webhook"}, 50027: {401, "Invalid Webhook Token"},
	40005: {413, "Request entity too large"}, 40062: {429, "Service resource is being rate limited."},
	20016: {429, "This action cannot be performed due to slowmode rate limit."}, 20028: {429, "The channel you are writing has hit the write rate limit."},
	20029: {429, "The write action you are performing on the server has hit the write rate limit."},
	50001: {403, "Missing Access"}, 50013: {403, "Missing Permissions"}, 40001: {401, "Unauthorized"}, 50014: {401, "Invalid authentication token"},
	130000: {503, "API resource is currently overloaded. Try again a little later"}, 40333: {403, "internal network error"},
	50006: {400, "Cannot send an empty message"}, 50035: {400, "Invalid Form Body"}, 50109: {400, "The request body contains invalid JSON."},
}

// refuseDiscord answers with a code, and nests what is wrong as Discord does.
func refuseDiscord(w http.ResponseWriter, code int, errors map[string]string) {
	known := discordCodes[code]
	if known.status == 0 {
		known.status, known.words = http.StatusBadRequest, "Words of the code"
	}
	answer := map[string]any{"message": known.words, "code": code}
	if len(errors) > 0 {
		nested := map[string]any{}
		for path, words := range errors {
			at := nested
			for part := range strings.SplitSeq(path, ".") {
				below, ok := at[part].(map[string]any)
				if !ok {
					below = map[string]any{}
					at[part] = below
				}
				at = below
			}
			at["_errors"] = []map[string]string{{"code": "BASE_TYPE", "message": words}}
		}
		answer["errors"] = nested
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(known.status)
	_ = json.NewEncoder(w).Encode(answer)
}
