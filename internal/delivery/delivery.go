// Package delivery brings a message to a channel and says what became of it. A
// sender makes one attempt and classifies its outcome; whoever calls it decides
// whether and when there is another.
package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// Sender delivers to one channel. Send makes exactly one attempt and may be
// called from many goroutines. Its error is an *Error, which Classify returns;
// the receipt's digest is set with an error too, once the content was rendered.
type Sender interface {
	Send(ctx context.Context, m *Message) (Receipt, error)
}

// Renderer makes what Send would send of a message, and sends nothing. Every Sender
// is one.
type Renderer interface {
	Render(m *Message) []byte
}

// Message is what a channel gets. Apart from Attempt it is a function of the
// request alone, so that every attempt sends the same bytes.
type Message struct {
	// Key is the idempotency key: the same for all attempts of one request on
	// one channel, different for any two others. Letters, digits, '-', '_', '.'.
	Key string

	RequestUID string
	Namespace  string
	Name       string
	Channel    string
	Created    time.Time // of the request

	Subject       string
	Body          string
	BodyFormat    string
	Type          string
	Priority      string
	Severity      string
	CorrelationID string
	Regarding     *Reference
	Links         []Link
	Fields        map[string]string

	// Follows is the ExternalID of an earlier message on the same channel, which this
	// one replies to, or where Replaces is true takes the place of. Empty: it stands by
	// itself, as it does on a channel that knows of neither.
	Follows  string
	Replaces bool

	// Attempt counts from 1, and no two attempts of one Key have the same. It is never
	// part of the content.
	Attempt int32
}

// Reference names the Kubernetes object that a message is about.
type Reference struct {
	APIVersion string `json:"api_version,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
}

// String names the object for people, empty for none.
func (r *Reference) String() string {
	if r == nil {
		return ""
	}
	return strings.TrimSpace(r.APIVersion + " " + r.Kind + " " + strings.TrimPrefix(r.Namespace+"/"+r.Name, "/"))
}

// AcknowledgeLabel is the label of the link by which a person acknowledges a
// message. It is a credential, and nothing that a message comes from.
const AcknowledgeLabel = "Acknowledge"

// Link is a labelled URL.
type Link struct {
	Label string `json:"label"`
	URL   string `json:"url"`
}

// Receipt is what is left to prove a delivery with.
type Receipt struct {
	// ExternalID is the channel's own name for what it accepted: at most 256
	// bytes, never a secret, empty where the channel gives none.
	ExternalID string

	// Digest is "sha256:" and the hex hash of the exact content bytes, Size their
	// number.
	Digest string
	Size   int64
}

// ReceiptOf returns the receipt of content that is not sent yet.
func ReceiptOf(content []byte) Receipt {
	sum := sha256.Sum256(content)
	return Receipt{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

// document is the JSON form of a message. Receivers rely on its member names.
type document struct {
	ID            string            `json:"id"`
	Type          string            `json:"type"`
	Priority      string            `json:"priority"`
	Severity      string            `json:"severity,omitempty"`
	Subject       string            `json:"subject"`
	Body          string            `json:"body"`
	BodyFormat    string            `json:"body_format"`
	CorrelationID string            `json:"correlation_id"`
	Channel       string            `json:"channel"`
	Request       requestRef        `json:"request"`
	Regarding     *Reference        `json:"regarding,omitempty"`
	Links         []Link            `json:"links,omitempty"`
	Fields        map[string]string `json:"fields,omitempty"`
	CreatedAt     string            `json:"created_at"`
}

type requestRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// encode renders the message as JSON with a line feed at the end. The same
// message gives the same bytes: members are in the struct's order, fields are
// sorted, and text that is not UTF-8 becomes replacement characters.
func encode(m *Message, indent string) []byte { return encodeJSON(documentOf(m), indent) }

func documentOf(m *Message) document {
	return document{
		ID: m.Key, Type: m.Type, Priority: m.Priority, Severity: m.Severity,
		Subject: m.Subject, Body: m.Body, BodyFormat: m.BodyFormat,
		CorrelationID: m.CorrelationID, Channel: m.Channel,
		Request:   requestRef{Namespace: m.Namespace, Name: m.Name, UID: m.RequestUID},
		Regarding: m.Regarding, Links: m.Links, Fields: m.Fields,
		CreatedAt: instant(m.Created),
	}
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// encodeJSON encodes what is made of strings, numbers and booleans alone.
func encodeJSON(v any, indent string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	_ = enc.Encode(v) // of such values, into memory, it cannot fail
	return out.Bytes()
}
