package standin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TeamsMessage is a message that a workflow has taken.
type TeamsMessage struct {
	Key      string // the ID of the card's first element
	Content  []byte // as it came
	Mentions []string
}

// Teams takes messages at the webhook of one workflow. Other than the service, it
// refuses at once what would fail in the workflow's run. It may be used from any
// goroutine.
type Teams struct {
	front
	URL string // at first

	mu        sync.Mutex
	signature string
	messages  []TeamsMessage
}

const teamsPath = "/powerautomate/automations/direct/workflows/6d922addb840a60a611b4d3287be6d76/triggers/manual/paths/invoke"

// NewTeams starts the service with a workflow, which end with the test.
func NewTeams(tb testing.TB) *Teams {
	s := &Teams{}
	s.provider = s.serve
	server := newServer(tb, s)
	server.Start()
	s.URL = server.URL + s.SetSignature("Kq3vT0kE1mXw9bZs7dYuR2oLhC5nAjGf")
	return s
}

// SetSignature makes a signature the only valid one, and returns the path and query
// of the workflow's URL with it.
func (s *Teams) SetSignature(signature string) (path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signature = signature
	return teamsPath + "?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=" + url.QueryEscape(signature)
}

// Messages returns what was taken so far.
func (s *Teams) Messages() []TeamsMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]TeamsMessage(nil), s.messages...)
}

// Refuse has the next requests answered with these words, each once.
func (s *Teams) Refuse(words ...string) {
	for _, word := range words {
		s.Answer(func(w http.ResponseWriter, _ *http.Request) { refuseTeams(w, word, "Words of the service.") })
	}
}

// Limit has the next request answered with 429 and what Retry-After says.
func (s *Teams) Limit(retryAfter string) {
	s.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		refuseTeams(w, "TooManyRequests", "Rate limit is exceeded.")
	})
}

func (s *Teams) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := TeamsMessage{Content: body}
	query := r.URL.Query()
	switch {
	case r.URL.Path != teamsPath:
		refuseTeams(w, "WorkflowNotFound", "The workflow could not be found.")
		return
	case query.Get("sig") != s.signature || query.Get("sp") != "/triggers/manual/run" || query.Get("sv") != "1.0":
		refuseTeams(w, "DirectApiAuthorizationRequired", "The request must be authenticated only by Shared Access scheme.")
		return
	case len(body) > 28*1024:
		refuseTeams(w, "RequestEntityTooLarge", "Request Entity too large.")
		return
	}
	if err := m.read(r.Header.Get("Content-Type")); err != nil {
		refuseTeams(w, "InvalidRequestContent", err.Error())
		return
	}
	s.messages = append(s.messages, m)
	w.Header().Set("X-Ms-Workflow-Run-Id", fmt.Sprintf("08584661236364846013464561%06dCU16", len(s.messages)))
	w.WriteHeader(http.StatusAccepted)
}

// teamsElement is of any type that may be in a card. Members that are not here are
// not allowed.
type teamsElement struct {
	Type    string `json:"type"`
	ID      string `json:"id"`
	Spacing string `json:"spacing"`
	Inlines []struct {
		Type          string       `json:"type"`
		Text          string       `json:"text"`
		Size          string       `json:"size"`
		Weight        string       `json:"weight"`
		Color         string       `json:"color"`
		FontType      string       `json:"fontType"`
		IsSubtle      bool         `json:"isSubtle"`
		Italic        bool         `json:"italic"`
		Strikethrough bool         `json:"strikethrough"`
		SelectAction  *teamsAction `json:"selectAction"`
	} `json:"inlines"`
	Facts []struct {
		Title string `json:"title"`
		Value string `json:"value"`
	} `json:"facts"`
}

type teamsAction struct {
	Type  string `json:"type"`
	Title string `json:"title"`
	URL   string `json:"url"`
}

// read reads a message and says what is wrong with it.
func (m *TeamsMessage) read(contentType string) error {
	if !strings.HasPrefix(contentType, "application/json") {
		return fmt.Errorf("content type %q", contentType)
	}
	var payload struct {
		Type        string `json:"type"`
		Attachments []struct {
			ContentType string  `json:"contentType"`
			ContentURL  *string `json:"contentUrl"`
			Content     struct {
				Schema  string         `json:"$schema"`
				Type    string         `json:"type"`
				Version string         `json:"version"`
				Body    []teamsElement `json:"body"`
				Actions []teamsAction  `json:"actions"`
				Teams   struct {
					Width string `json:"width"`
				} `json:"msteams"`
			} `json:"content"`
		} `json:"attachments"`
	}
	decoder := json.NewDecoder(strings.NewReader(string(m.Content)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&payload); err != nil {
		return err
	}
	if payload.Type != "message" || len(payload.Attachments) != 1 || payload.Attachments[0].ContentType != "application/vnd.microsoft.card.adaptive" {
		return fmt.Errorf("no message with one card")
	}
	card := payload.Attachments[0].Content
	if card.Type != "AdaptiveCard" || card.Version != "1.4" || len(card.Body) == 0 || len(card.Actions) > 6 {
		return fmt.Errorf("no card of version 1.4 with a body and at most six actions")
	}
	m.Key = card.Body[0].ID
	for i, e := range card.Body {
		if err := m.element(e); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	for _, a := range card.Actions {
		if err := a.check(); err != nil || strings.TrimSpace(a.Title) == "" {
			return fmt.Errorf("action %+v: %w", a, err)
		}
	}
	return nil
}

func (m *TeamsMessage) element(e teamsElement) error {
	if !slices.Contains([]string{"", "None", "Medium"}, e.Spacing) {
		return fmt.Errorf("spacing %q", e.Spacing)
	}
	switch {
	case e.Type == "RichTextBlock" && len(e.Inlines) > 0 && e.Facts == nil:
		for _, r := range e.Inlines {
			if r.Type != "TextRun" || r.Text == "" || strings.Contains(r.Text, "\n") {
				return fmt.Errorf("inline %+v", r)
			}
			if r.SelectAction != nil {
				if err := r.SelectAction.check(); err != nil {
					return err
				}
			}
		}
	case e.Type == "FactSet" && len(e.Facts) > 0 && e.Inlines == nil:
		for _, f := range e.Facts {
			if f.Title == "" {
				return fmt.Errorf("fact %+v", f)
			}
			for _, text := range []string{f.Title, f.Value} {
				m.Mentions = append(m.Mentions, teamsMarkup.FindAllString(teamsEscaped.ReplaceAllString(text, ""), -1)...)
			}
		}
	default:
		return fmt.Errorf("%+v", e)
	}
	return nil
}

func (a teamsAction) check() error {
	u, err := url.Parse(a.URL)
	if err != nil || a.Type != "Action.OpenUrl" || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("action %+v", a)
	}
	return nil
}

// What is escaped in a formatted text, and what would be formatting, a mention or a
// link in the rest.
var (
	teamsEscaped = regexp.MustCompile(`\\[!-/:-@\[-` + "`" + `{-~]`)
	teamsMarkup  = regexp.MustCompile("[*_`~<&\\[\\]\\\\]|^ *[-+#>]|^ *[0-9]+[.)]")
)

var teamsStatuses = map[string]int{
	"DirectApiAuthorizationRequired": 401, "DirectApiInvalidAuthorizationScheme": 401, "MisMatchingOAuthClaims": 403,
	"WorkflowNotFound": 404, "WorkflowTriggerNotFound": 404, "WorkflowTriggerVersionNotFound": 404,
	"RequestEntityTooLarge": 413, "TooManyRequests": 429, "ServerTimeout": 504,
}

func refuseTeams(w http.ResponseWriter, word, message string) {
	status, ok := teamsStatuses[word]
	if !ok {
		status = http.StatusBadRequest
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": word, "message": message}})
}
