package delivery

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
)

// Console prints messages: a block for people and a log line for machines. Both
// have the key, by which a reader recognises a message that is printed twice.
type Console struct {
	log logr.Logger

	mu sync.Mutex // guards w: one block at a time
	w  io.Writer
}

// NewConsole returns a console that writes blocks to w and lines to log.
func NewConsole(log logr.Logger, w io.Writer) *Console { return &Console{log: log, w: w} }

// Render implements Renderer.
func (*Console) Render(m *Message) []byte { return block(m) }

// Send prints the block with a single Write, and the line after it.
func (c *Console) Send(ctx context.Context, m *Message) (Receipt, error) {
	block := c.Render(m)
	receipt := ReceiptOf(block)
	if ctx.Err() != nil {
		return receipt, Classify(ctx.Err())
	}
	c.mu.Lock()
	_, err := c.w.Write(block)
	c.mu.Unlock()
	if err != nil {
		e := causeOf(err)
		e.Class, e.Reason, e.Message = Transient, ReasonWriteFailed, "write to console failed"
		return receipt, e
	}
	c.log.Info("Message printed", "key", m.Key, "request", m.Namespace+"/"+m.Name, "requestUID", m.RequestUID,
		"channel", m.Channel, "subject", visible(m.Subject, false), "type", m.Type, "priority", m.Priority,
		"severity", visible(m.Severity, false), "correlationID", visible(m.CorrelationID, false),
		"attempt", m.Attempt, "digest", receipt.Digest)
	return receipt, nil
}

// block renders the message. Every line of it is a label of ours or begins with
// our margin, so that no text of a user can pass for a line of someone else.
func block(m *Message) []byte {
	var b strings.Builder
	line := func(label, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-12s %s\n", label, visible(value, false))
		}
	}
	fmt.Fprintf(&b, "--- message %s\n", visible(m.Key, false))
	line("subject", m.Subject)
	line("priority", m.Priority)
	line("type", m.Type)
	line("severity", m.Severity)
	line("request", m.Namespace+"/"+m.Name)
	line("channel", m.Channel)
	line("correlation", m.CorrelationID)
	line("regarding", m.Regarding.String())
	for _, name := range slices.Sorted(maps.Keys(m.Fields)) {
		line("field", name+" = "+m.Fields[name])
	}
	for _, l := range m.Links {
		line("link", l.Label+" "+l.URL)
	}
	for text := range strings.SplitSeq(visible(strings.TrimRight(strings.ReplaceAll(m.Body, "\r\n", "\n"), "\n"), true), "\n") {
		b.WriteString(strings.TrimRight("  | "+text, " ") + "\n")
	}
	b.WriteString("--- end\n")
	return []byte(b.String())
}

// visible writes the runes that could act on a terminal as escapes. Line feeds
// stay where lines is true, tabs always.
func visible(s string, lines bool) string {
	var b strings.Builder
	for _, r := range s {
		if hidden(r) && r != '\t' && (r != '\n' || !lines) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
