// Package sendertest holds what every channel has to keep, whatever it is.
package sendertest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/delivery"
)

// Harness is what the suite needs to know of a channel.
type Harness struct {
	// New returns a channel of its own for each case.
	New func(t *testing.T) Channel

	// Failing returns senders, by the kind of failure, none of which can
	// deliver. Where they are configured with secrets, Secrets lists those.
	Failing func(t *testing.T) map[string]delivery.Sender
	Secrets []string
}

// Channel is a sender and the view of whoever receives from it.
type Channel struct {
	Sender delivery.Sender

	// Arrivals returns all that has arrived, in any order.
	Arrivals func(t *testing.T) []Arrival
}

// Arrival is one effect at the receiving side.
type Arrival struct {
	Key     string
	Content []byte // exactly as received
}

// Message returns a message in which every member is set.
func Message() *delivery.Message {
	return &delivery.Message{
		Key: uuid.NewString(), RequestUID: uuid.NewString(),
		Namespace: "payments", Name: "disk-full", Channel: "on-call",
		Created: time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC),
		Subject: "Disk full on node-7", Body: "First line\nsecond line", BodyFormat: "Plain",
		Type: "Escalation", Priority: "Critical", Severity: "sev1", CorrelationID: "incident-42", Attempt: 1,
		Regarding: &delivery.Reference{APIVersion: "v1", Kind: "Node", Name: "node-7"},
		Links:     []delivery.Link{{Label: "Runbook", URL: "https://runbooks.example.com/disk"}},
		Fields:    map[string]string{"cluster": "prod", "zone": "b", "app": "ledger", "team": "payments"},
	}
}

// Run tests a channel against the suite.
func Run(t *testing.T, h Harness) {
	t.Run("an accepted message arrives as its digest says", func(t *testing.T) { testDigest(t, h) })
	t.Run("each attempt has the same content and key", func(t *testing.T) { testSameContent(t, h) })
	t.Run("another message has another digest", func(t *testing.T) { testOtherContent(t, h) })
	t.Run("nothing is sent when the context is done", func(t *testing.T) { testDone(t, h) })
	t.Run("concurrent messages arrive once each and whole", func(t *testing.T) { testConcurrent(t, h) })
	t.Run("odd messages are sent", func(t *testing.T) { testOdd(t, h) })
	t.Run("a failure is classified and keeps the secrets", func(t *testing.T) { testFailing(t, h) })
}

func send(t *testing.T, c Channel, m *delivery.Message) delivery.Receipt {
	t.Helper()
	receipt, err := c.Sender.Send(t.Context(), m)
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	return receipt
}

// effects returns what a receiver that goes by the key has, and fails where two
// arrivals with one key differ.
func effects(t *testing.T, c Channel) map[string]string {
	t.Helper()
	byKey := map[string]string{}
	for _, a := range c.Arrivals(t) {
		if first, ok := byKey[a.Key]; ok && first != string(a.Content) {
			t.Errorf("two contents for one key:\n%s", cmp.Diff(first, string(a.Content)))
		}
		byKey[a.Key] = string(a.Content)
	}
	return byKey
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func testDigest(t *testing.T, h Harness) {
	c, m := h.New(t), Message()
	receipt := send(t, c, m)
	got := effects(t, c)
	if len(got) != 1 {
		t.Fatalf("%d messages arrived, want 1", len(got))
	}
	content, ok := got[m.Key]
	if !ok {
		t.Fatalf("no message arrived under the key %s", m.Key)
	}
	if want := digest(content); receipt.Digest != want {
		t.Errorf("digest %s, want %s, that of what arrived", receipt.Digest, want)
	}
	if want := int64(len(content)); receipt.Size != want {
		t.Errorf("size %d, want %d, that of what arrived", receipt.Size, want)
	}
	arrived := len(c.Arrivals(t))
	renderer, ok := c.Sender.(delivery.Renderer)
	if !ok {
		t.Fatal("the sender cannot say what it would send")
	}
	if diff := cmp.Diff(content, string(renderer.Render(m))); diff != "" {
		t.Errorf("what arrived (-) and what it says that it would send (+):\n%s", diff)
	}
	if got := len(c.Arrivals(t)); got != arrived {
		t.Errorf("%d messages arrived by rendering", got-arrived)
	}
	if len(receipt.ExternalID) > 256 {
		t.Errorf("external ID of %d bytes, want at most 256", len(receipt.ExternalID))
	}
}

func testSameContent(t *testing.T, h Harness) {
	c, m := h.New(t), Message()
	first := send(t, c, m)
	for range 5 {
		m.Attempt++
		if again := send(t, c, m); again.Digest != first.Digest {
			t.Errorf("attempt %d has digest %s, the first had %s", m.Attempt, again.Digest, first.Digest)
		}
	}
	if got := effects(t, c); len(got) != 1 {
		t.Errorf("six attempts had %d effects, want 1 by the key", len(got))
	}
}

func testOtherContent(t *testing.T, h Harness) {
	c, m := h.New(t), Message()
	first := send(t, c, m)
	other := *m
	other.Key = uuid.NewString()
	other.Subject += "!"
	if second := send(t, c, &other); second.Digest == first.Digest {
		t.Errorf("another subject has the same digest %s", second.Digest)
	}
}

func testDone(t *testing.T, h Harness) {
	c := h.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	receipt, err := c.Sender.Send(ctx, Message())
	checkError(t, err, nil)
	if e := delivery.Classify(err); e != nil && (e.Class != delivery.Transient || e.MaybeDelivered) {
		t.Errorf("class %s, maybe delivered %t; want Transient, false", e.Class, e.MaybeDelivered)
	}
	if receipt.Digest == "" {
		t.Error("no digest, although the content is known")
	}
	if got := c.Arrivals(t); len(got) != 0 {
		t.Errorf("%d messages arrived, want none", len(got))
	}
}

func testConcurrent(t *testing.T, h Harness) {
	const messages, attempts = 16, 3
	c := h.New(t)
	digests := map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range messages {
		m := Message()
		m.Body = strings.Repeat(fmt.Sprintf("line of message %d\n", i), 200)
		for n := range attempts {
			attempt := *m
			attempt.Attempt = int32(n + 1)
			all.Go(func() {
				receipt, err := c.Sender.Send(t.Context(), &attempt)
				if err != nil {
					t.Errorf("send: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				digests[m.Key] = receipt.Digest
			})
		}
	}
	all.Wait()
	got := map[string]string{}
	for key, content := range effects(t, c) {
		got[key] = digest(content)
	}
	if diff := cmp.Diff(digests, got); diff != "" {
		t.Errorf("digests by key, sent (-) and arrived (+):\n%s", diff)
	}
}

func testOdd(t *testing.T, h Harness) {
	odd := "\x00\x1b[31mred\x1b[0m \u202eevil\u202c \u2028 \r\n <script>&amp; \U0001F469\u200d\U0001F692 e\u0301 \xff\xfe \"'`\\ {{.}} %s"
	largest := Message()
	largest.Subject = strings.Repeat("\u4e16", 500)
	largest.Body = strings.Repeat("\U0001F600", 32768)
	largest.Links, largest.Fields = nil, map[string]string{}
	for i := range 16 {
		largest.Links = append(largest.Links, delivery.Link{
			Label: strings.Repeat("l", 64), URL: fmt.Sprintf("https://example.com/%d/%s", i, strings.Repeat("p", 2000)),
		})
	}
	for i := range 32 {
		largest.Fields[fmt.Sprintf("field-%d", i)] = strings.Repeat("v", 1024)
	}
	for name, m := range map[string]*delivery.Message{
		"only what is required": {Key: uuid.NewString(), Subject: "s", Body: "b"},
		"nothing but a key":     {Key: uuid.NewString()},
		"odd text everywhere": {
			Key: uuid.NewString(), RequestUID: odd, Namespace: odd, Name: odd, Channel: odd, Subject: odd, Body: odd,
			BodyFormat: odd, Type: odd, Priority: odd, Severity: odd, CorrelationID: odd,
			Regarding: &delivery.Reference{APIVersion: odd, Kind: odd, Namespace: odd, Name: odd},
			Links:     []delivery.Link{{Label: odd, URL: odd}, {}}, Fields: map[string]string{odd: odd, "": ""},
		},
		"an empty reference": {Key: uuid.NewString(), Subject: "s", Body: "b", Regarding: &delivery.Reference{}},
		"the largest":        largest,
	} {
		t.Run(name, func(t *testing.T) {
			c := h.New(t)
			receipt := send(t, c, m)
			content, ok := effects(t, c)[m.Key]
			if !ok {
				t.Fatal("the message did not arrive")
			}
			if want := digest(content); receipt.Digest != want {
				t.Errorf("digest %s, want %s", receipt.Digest, want)
			}
			if !utf8.ValidString(content) {
				t.Error("content is not UTF-8")
			}
		})
	}
}

func testFailing(t *testing.T, h Harness) {
	for name, sender := range h.Failing(t) {
		t.Run(name, func(t *testing.T) {
			receipt, err := sender.Send(t.Context(), Message())
			checkError(t, err, h.Secrets)
			if receipt.Digest == "" {
				t.Error("no digest, although the content was rendered")
			}
		})
	}
}

// checkError fails unless err and each error within it are fit to be shown.
func checkError(t *testing.T, err error, secrets []string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	e, ok := errors.AsType[*delivery.Error](err)
	if !ok {
		t.Fatalf("error is a %T, want *delivery.Error", err)
	}
	switch e.Class {
	case delivery.Transient, delivery.Permanent, delivery.Config, delivery.Ambiguous:
	default:
		t.Errorf("class %q", e.Class)
	}
	if e.Reason == "" || strings.ContainsFunc(e.Reason, func(r rune) bool { return !unicode.IsLetter(r) }) {
		t.Errorf("reason %q, want one word", e.Reason)
	}
	if e.Message == "" || len(e.Message) > 256 || !utf8.ValidString(e.Message) ||
		strings.ContainsFunc(e.Message, unicode.IsControl) {
		t.Errorf("message %q, want one line of 1 to 256 bytes", e.Message)
	}
	CheckSecrets(t, err, secrets)
}

// CheckSecrets fails where a secret shows in any way of printing the error or an
// error within it.
func CheckSecrets(t *testing.T, err error, secrets []string) {
	t.Helper()
	for ; err != nil; err = errors.Unwrap(err) {
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("error shows the secret %q: %s", secret, text)
				}
			}
		}
	}
}
