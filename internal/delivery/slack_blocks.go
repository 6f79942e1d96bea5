package delivery

import (
	"maps"
	"slices"
	"strings"
)

// Slack's limits, in characters. There is one on all texts together that Slack
// documents nowhere: messages of 11,341 characters have been refused.
const (
	slackHeader     = 150
	slackSection    = 3000
	slackField      = 2000
	slackFieldCount = 10
	slackTotal      = 10000

	// What follows is ours, so that something is left for the body.
	slackSubject = 1000
	slackFields  = 3000
	slackLinks   = 2500
	slackFact    = 250
	slackNote    = 500
)

// slackMessage is what the webhook, chat.postMessage and chat.update take.
type slackMessage struct {
	Channel string `json:"channel,omitempty"`

	// TS is that of the message to replace, ThreadTS that of the one to reply to.
	TS       string `json:"ts,omitempty"`
	ThreadTS string `json:"thread_ts,omitempty"`
	// ReplyBroadcast shows a reply in the channel too.
	ReplyBroadcast bool `json:"reply_broadcast,omitempty"`

	Text   string       `json:"text"` // of notifications, and where blocks are not shown
	Blocks []slackBlock `json:"blocks"`

	// Parse is none where a message is replaced: the default is another one there.
	Parse string `json:"parse,omitempty"`

	// What follows is for posting alone, false and there.
	UnfurlLinks *bool `json:"unfurl_links,omitempty"`
	UnfurlMedia *bool `json:"unfurl_media,omitempty"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	BlockID  string      `json:"block_id,omitempty"`
	Text     *slackText  `json:"text,omitempty"`
	Fields   []slackText `json:"fields,omitempty"`
	Elements []slackText `json:"elements,omitempty"`
}

type slackText struct {
	Type string `json:"type"`
	Text string `json:"text"`

	// Emoji is false and there in plain text: ":100:" stays what it is.
	Emoji *bool `json:"emoji,omitempty"`

	// Verbatim keeps Slack from finding names and channels in formatted text.
	Verbatim bool `json:"verbatim,omitempty"`
}

func plainText(s string) slackText { return slackText{Type: "plain_text", Text: s, Emoji: new(false)} }

func formatted(s string) slackText { return slackText{Type: "mrkdwn", Text: s, Verbatim: true} }

// encodeSlack renders a message for a channel, which is empty for a webhook. The
// same message gives the same bytes, and none is beyond Slack's limits.
func encodeSlack(m *Message, channel string) []byte {
	subject := subject(m)
	header := plainText(fit(subject, slackHeader, asIs))
	blocks := []slackBlock{{Type: "header", BlockID: m.Key, Text: &header}}
	if header.Text != subject {
		blocks = append(blocks, section(plainText(fit(subject, slackSubject, asIs))))
	}
	rest := slackRest(m)
	left := slackTotal - slackNote - length(blocks) - length(rest)
	blocks = append(blocks, slackBody(m, left)...)
	blocks = append(blocks, rest...)

	text := fit(subject, slackSection, escapeMrkdwn)
	if m.Priority != "" {
		text = "[" + fit(oneLine(m.Priority), slackFact, escapeMrkdwn) + "] " + text
	}
	message := slackMessage{Channel: channel, Text: text, Blocks: blocks}
	switch id, ts := slackFollowed(m, channel); {
	case ts != "" && m.Replaces:
		message.Channel, message.TS, message.Parse = id, ts, "none"
		return encodeJSON(message, "")
	case ts != "":
		message.Channel, message.ThreadTS = id, ts
		message.ReplyBroadcast = m.Priority == "Critical" || m.Priority == "High"
	}
	message.UnfurlLinks, message.UnfurlMedia = new(false), new(false)
	return encodeJSON(message, "")
}

// slackFollowed takes the receipt of the message that m follows apart. The time stamp
// is empty for none, and for a webhook, which can neither reply nor replace.
func slackFollowed(m *Message, channel string) (id, ts string) {
	if channel == "" {
		return "", ""
	}
	id, ts, _ = strings.Cut(m.Follows, "/")
	return id, ts
}

func section(text slackText) slackBlock { return slackBlock{Type: "section", Text: &text} }

// slackBody renders the body into at most limit units, and a note where that is
// not all of it.
func slackBody(m *Message, limit int) (blocks []slackBlock) {
	all, more := paragraphs(m)
	markup := m.BodyFormat == "Markdown"
	d := mrkdwn
	if !markup {
		d = dialect{escape: asIs} // a plain text has nothing but text
	}
	texts, cut := d.sections(all, slackSection, limit)
	for _, t := range texts {
		if markup {
			blocks = append(blocks, section(formatted(t)))
		} else {
			blocks = append(blocks, section(plainText(t)))
		}
	}
	if cut || more {
		blocks = append(blocks, slackBlock{Type: "context", Elements: []slackText{formatted(mrkdwn.cutNote(m, "Slack", slackNote))}})
	}
	return blocks
}

// slackRest renders what stands below the body.
func slackRest(m *Message) (blocks []slackBlock) {
	names := slices.Sorted(maps.Keys(m.Fields))
	for some := range slices.Chunk(names, slackFieldCount) {
		var fields []slackText
		for _, name := range some {
			field := formatted(slackPair(name, m.Fields[name], "\n", min(slackField, slackFields/len(names))))
			fields = append(fields, field)
		}
		blocks = append(blocks, slackBlock{Type: "section", Fields: fields})
	}
	if text := mrkdwn.linkList(m.Links, slackFact, slackLinks); text != "" {
		blocks = append(blocks, section(formatted(text)))
	}
	var small []slackText
	for _, f := range facts(m) {
		small = append(small, formatted(slackPair(f.name, f.value, " ", slackFact)))
	}
	if small != nil {
		blocks = append(blocks, slackBlock{Type: "context", Elements: small})
	}
	return blocks
}

// slackPair is a name and a value, cut to limit units.
func slackPair(name, value, between string, limit int) string {
	name = fit(oneLine(name), limit/2, escapeMrkdwn)
	if name == "" {
		name = "-"
	}
	name = "*" + name + "*" + between
	return name + fit(strings.TrimSpace(printable(value)), limit-units(name), escapeMrkdwn)
}

// length is that of all texts together.
func length(blocks []slackBlock) (n int) {
	for _, b := range blocks {
		if b.Text != nil {
			n += units(b.Text.Text)
		}
		for _, t := range slices.Concat(b.Fields, b.Elements) {
			n += units(t.Text)
		}
	}
	return n
}
