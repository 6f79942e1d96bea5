package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Where the Events API v2 takes events. An account belongs to one of the two.
const (
	PagerDutyUS = "https://events.pagerduty.com/v2/enqueue"
	PagerDutyEU = "https://events.eu.pagerduty.com/v2/enqueue"
)

// routingKeyLength is what PagerDuty demands, of letters and digits.
const routingKeyLength = 32

// PagerDutyConfig is an integration of the Events API v2 and what its alerts have
// in common.
type PagerDutyConfig struct {
	Endpoint // PagerDutyUS where it has no URL

	// RoutingKey is the integration's key: a credential.
	RoutingKey string

	// ByCorrelation makes one alert of all messages with one correlation ID in one
	// namespace, which a message of the type Completion resolves.
	ByCorrelation bool

	// Source is what has the problem. Empty: the object that the message is about,
	// or else the request.
	Source string

	Component, Group, Class string // empty: none
	ClientURL               string // where a person gets from the alert; may be empty
}

// PagerDuty opens alerts and resolves them. Events with one key are one alert for
// as long as it is open; after that the same key opens another.
type PagerDuty struct {
	client *Client
	config *PagerDutyConfig
}

// NewPagerDuty checks the configuration. Its error is an *Error of class Config.
func NewPagerDuty(h *HTTP, c PagerDutyConfig) (*PagerDuty, error) {
	if len(c.RoutingKey) != routingKeyLength || strings.ContainsFunc(c.RoutingKey, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return nil, configError(ReasonInvalidSecret,
			"routing key has to be 32 letters and digits: use the integration key of an Events API v2 integration")
	}
	if c.URL == "" {
		c.URL = PagerDutyUS
	}
	c.Secrets = append(slices.Clone(c.Secrets), c.RoutingKey)
	client, err := h.Client(c.Endpoint)
	if err != nil {
		return nil, err
	}
	return &PagerDuty{client: client, config: &c}, nil
}

// Render implements Renderer.
func (p *PagerDuty) Render(m *Message) []byte { return encodePagerDuty(m, p.config) }

// Send posts one event. The receipt is the key of its alert.
func (p *PagerDuty) Send(ctx context.Context, m *Message) (Receipt, error) {
	content := p.Render(m)
	receipt := ReceiptOf(content)
	answer, err := p.client.Post(ctx, http.Header{"Content-Type": {"application/json"}}, content)
	if answer == nil {
		return receipt, err
	}
	var said pagerDutyAnswer
	_ = json.Unmarshal(answer.Body, &said) // what is no JSON says nothing
	switch {
	case err != nil:
		return receipt, p.refusal(answer, said, Classify(err))
	case said.Status != "success":
		return receipt, p.client.unlike(answer, "success", "PagerDuty")
	}
	receipt.ExternalID = p.client.clean(said.DedupKey)
	return receipt, nil
}

// pagerDutyAnswer has the errors where the event was refused, the key otherwise.
type pagerDutyAnswer struct {
	Status   string   `json:"status"`
	Message  string   `json:"message"`
	DedupKey string   `json:"dedup_key"`
	Errors   []string `json:"errors"`
}

// refusal adds the list of errors to what the HTTP status means. PagerDuty has no
// status of its own for a wrong routing key: it says 400, and either names the
// member in the list or answers with a line of text.
func (p *PagerDuty) refusal(answer *Answer, said pagerDutyAnswer, byStatus *Error) *Error {
	if answer.Status != http.StatusBadRequest {
		return byStatus
	}
	if len(said.Errors) > 0 {
		byStatus.Message = clean(fmt.Sprintf("%s answered 400 Bad Request: %s",
			p.client.host(), p.client.clean(strings.Join(said.Errors, "; "))))
	}
	text := strings.ToLower(strings.Join(append(said.Errors, said.Message), "\n"))
	if said.Status == "" {
		text = strings.ToLower(string(answer.Body))
	}
	if strings.Contains(strings.ReplaceAll(text, "_", " "), "routing key") {
		byStatus.Class, byStatus.Reason = Config, ReasonUnauthorized
		byStatus.Message = clean(p.client.host() + " does not know the routing key: put the integration key of an Events API v2 integration into the Secret, and check the region")
	}
	return byStatus
}
