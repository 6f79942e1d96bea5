package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// TeamsConfig is a workflow of Microsoft Teams that begins with a webhook.
type TeamsConfig struct {
	Endpoint
}

// Teams hands messages to a workflow, which posts them. It knows no idempotency
// key: what is sent twice is shown twice. The key is the ID of the card's first
// element.
type Teams struct{ client *Client }

// NewTeams checks the configuration. Its error is an *Error of class Config.
func NewTeams(h *HTTP, c TeamsConfig) (*Teams, error) {
	client, err := h.Client(c.Endpoint)
	if err != nil {
		return nil, err
	}
	if err := checkProvider(client.endpoint.url, providerTeams); err != nil {
		return nil, err
	}
	// These answer 200 whatever becomes of a message.
	host := strings.ToLower(client.endpoint.url.Hostname())
	if strings.HasSuffix("."+host, ".webhook.office.com") || host == "outlook.office.com" || host == "outlook.office365.com" {
		return nil, configError(ReasonInvalidURL, "url is of an Office 365 connector, which Microsoft has retired: use that of a workflow")
	}
	return &Teams{client: client}, nil
}

// Render implements Renderer.
func (*Teams) Render(m *Message) []byte { return encodeTeams(m) }

// Send hands the message over once. The receipt is the ID of the workflow's run,
// which says that it began and not that the message was posted.
func (t *Teams) Send(ctx context.Context, m *Message) (Receipt, error) {
	content := t.Render(m)
	receipt := ReceiptOf(content)
	answer, err := t.client.Post(ctx, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, content)
	if answer == nil {
		return receipt, err
	}
	run := t.client.clean(answer.Header.Get("X-Ms-Workflow-Run-Id"))
	switch {
	case err != nil:
		return receipt, t.refusal(answer, Classify(err))
	case answer.Status != http.StatusAccepted && run == "": // one that answers by itself has a run
		return receipt, t.client.unlike(answer, "run", "a workflow")
	}
	receipt.ExternalID = run
	return receipt, nil
}

var teamsWord = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{1,63}$`)

// refusal makes the status's error one of the workflow service's word. A word that
// is not known means what the status does.
func (t *Teams) refusal(answer *Answer, e *Error) *Error {
	var said struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	_ = json.Unmarshal(answer.Body, &said) // what is not there is told by the status
	word := said.Error.Code
	if teamsWord.MatchString(word) && t.client.clean(word) == word {
		e.Code = word
	} else if answer.Status == http.StatusNotFound || answer.Status == http.StatusGone {
		word = "WorkflowNotFound" // of an address, not of a message
	}
	means, known := teamsMeaning(word)
	if !known {
		return e
	}
	e.Class, e.Reason, e.MaybeDelivered = means.class, means.reason, means.maybe
	e.Message = clean(fmt.Sprintf("%s answered %s: %s", t.client.host(), e.Code, means.advice))
	return e
}

// teamsMeaning says what a word of the service that runs workflows means. All of
// these are mended in the workflow or in the channel, so that they are a matter of
// configuration: the message is good and waits.
func teamsMeaning(word string) (s status, known bool) {
	switch word {
	case "DirectApiAuthorizationRequired", "DirectApiInvalidAuthorizationScheme", "DirectApiRequestHasMoreThanOneAuthorization", "MisMatchingOAuthClaims":
		return status{class: Config, reason: ReasonUnauthorized, advice: "let anyone trigger the workflow, and put its whole URL, with sig, into the Secret"}, true
	case "WorkflowNotFound", "WorkflowTriggerNotFound", "WorkflowTriggerVersionNotFound":
		return status{class: Config, reason: ReasonNotFound, advice: "the workflow is no more: create a new one and put its URL into the Secret"}, true
	case "WorkflowTriggerIsNotEnabled":
		return status{class: Config, reason: ReasonGone, advice: "turn the workflow on, or where it was deleted, create a new one and put its URL into the Secret"}, true
	case "TriggerInputSchemaMismatch":
		return status{class: Config, reason: ReasonUnprocessable, advice: "the workflow expects something else: make it from the template for webhook alerts"}, true
	}
	return status{}, false
}
