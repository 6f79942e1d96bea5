package delivery

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const secretPrefix = "whsec_"

// WebhookConfig is an endpoint and how to sign for it.
type WebhookConfig struct {
	Endpoint

	// SigningSecret is whsec_ and base64, or the bytes of the key themselves.
	// White space around it is not part of it. Empty: requests are not signed.
	SigningSecret []byte

	// Content is how the content is written. The name Format would take the place of
	// the method by which an Endpoint prints without its credentials.
	Content WebhookFormat
}

// Webhook posts messages as JSON, in a format of the receiver's. The request carries
// the idempotency key as Idempotency-Key and webhook-id, and is signed as Standard
// Webhooks describes.
type Webhook struct {
	client *Client
	signer *standardwebhooks.Webhook // nil: not signed
	format WebhookFormat
}

// NewWebhook checks the configuration. Its error is an *Error of class Config.
func NewWebhook(h *HTTP, c WebhookConfig) (*Webhook, error) {
	w := &Webhook{format: c.Content}
	if secret := strings.TrimSpace(string(c.SigningSecret)); secret != "" {
		key := []byte(secret)
		encoded, isEncoded := strings.CutPrefix(secret, secretPrefix)
		if isEncoded {
			var err error
			key, err = base64.StdEncoding.DecodeString(encoded)
			if err != nil || len(key) == 0 {
				return nil, configError(ReasonInvalidSecret, "signing secret has to be base64 after "+secretPrefix)
			}
		}
		c.Secrets = append(slices.Clone(c.Secrets), secret, encoded, string(key))
		w.signer, _ = standardwebhooks.NewWebhookRaw(key) // it takes any key
	}
	var err error
	w.client, err = h.Client(c.Endpoint)
	if err != nil {
		return nil, err
	}
	// Workflows, and PagerDuty's integrations, can be made to take any JSON.
	u := w.client.endpoint.url
	if p := provider(u); p == providerDiscord || p == providerSlack && !isSlackWorkflow(u) {
		return nil, configError(ReasonInvalidURL, fmt.Sprintf(
			"url looks like one of %s, which does not take what the type Webhook sends: make a channel of the type %s", p, p))
	}
	return w, nil
}

// Render implements Renderer.
func (w *Webhook) Render(m *Message) []byte {
	_, content := w.format.encode(m)
	return content
}

// Send posts the message once.
func (w *Webhook) Send(ctx context.Context, m *Message) (Receipt, error) {
	mediaType, content := w.format.encode(m)
	receipt := ReceiptOf(content)
	now := time.Now()
	header := http.Header{}
	header.Set("Content-Type", mediaType)
	header.Set("Idempotency-Key", m.Key)
	header.Set(standardwebhooks.HeaderWebhookID, m.Key)
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if w.signer != nil {
		signature, err := w.signer.Sign(m.Key, now, content)
		if err != nil {
			return receipt, configError(ReasonInvalidSecret, "signing secret cannot be used")
		}
		header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	answer, err := w.client.Post(ctx, header, content)
	if err != nil {
		return receipt, err
	}
	receipt.ExternalID = w.client.endpoint.receipt(answer)
	return receipt, nil
}
