package delivery

import (
	"maps"
	"slices"
	"strings"
)

// Discord's limits, in characters, of one embed; the last one is that of all texts
// of all embeds together. See
// https://docs.discord.com/developers/resources/message#embed-object-embed-limits.
const (
	discordTitle       = 256
	discordDescription = 4096
	discordFieldCount  = 25
	discordFieldName   = 256
	discordFieldValue  = 1024
	discordTotal       = 6000

	// What follows is ours, so that something is left for the body.
	discordSubject = 600
	discordFields  = 1500
	discordLinks   = 1200
	discordFact    = 250
	discordFacts   = 900 // of the 2,048 that a footer may have
	discordNote    = 500
)

// discordColours are those of a message's priority, as red, green and blue.
var discordColours = map[string]int{"Critical": 0xd32f2f, "High": 0xf57c00, "Medium": 0xfbc02d, "Low": 0x1976d2}

type discordMessage struct {
	Username        string          `json:"username,omitempty"`
	Embeds          []discordEmbed  `json:"embeds"`
	AllowedMentions discordMentions `json:"allowed_mentions"`
}

// discordMentions lists who may be called. An empty list is nobody; none at all
// would be everybody.
type discordMentions struct {
	Parse []string `json:"parse"`
}

type discordEmbed struct {
	Title       string        `json:"title,omitempty"`
	Description string        `json:"description,omitempty"`
	Color       int           `json:"color,omitempty"`
	Fields      []discordPair `json:"fields,omitempty"`
	Footer      *discordSmall `json:"footer,omitempty"`
}

type discordPair struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Inline bool   `json:"inline"`
}

// discordSmall is not formatted.
type discordSmall struct {
	Text string `json:"text"`
}

// encodeDiscord renders a message under the name of username, or the webhook's own
// where it is empty. The same message gives the same bytes, and none is beyond
// Discord's limits.
func encodeDiscord(m *Message, username string) []byte {
	subject := subject(m)
	first := discordEmbed{
		Title:  fit(subject, discordTitle, escapeDiscord),
		Color:  discordColours[m.Priority],
		Footer: &discordSmall{Text: discordFooter(m)},
	}
	pairs := discordPairs(m.Fields)
	left := discordTotal - units(first.Title) - units(first.Footer.Text)
	for _, p := range pairs {
		left -= units(p.Name) + units(p.Value)
	}
	if first.Title != escapeDiscord(subject) {
		first.Description = fit(subject, discordSubject, escapeDiscord) + "\n\n"
	}
	first.Description += discordText(m, min(left, discordDescription)-units(first.Description))
	first.Description = strings.TrimRight(first.Description, "\n")
	embeds := []discordEmbed{first}
	for some := range slices.Chunk(pairs, discordFieldCount) {
		if embeds[len(embeds)-1].Fields != nil {
			embeds = append(embeds, discordEmbed{Color: first.Color})
		}
		embeds[len(embeds)-1].Fields = some
	}
	return encodeJSON(discordMessage{Username: username, Embeds: embeds, AllowedMentions: discordMentions{Parse: []string{}}}, "")
}

// discordText renders the body into at most limit units, with a note where that is
// not all of it, and the links.
func discordText(m *Message, limit int) string {
	links := discordMarkdown.linkList(m.Links, discordFact, discordLinks)
	if links != "" {
		links = "\n\n" + links
	}
	all, more := paragraphs(m)
	limit -= units(links) + discordNote
	texts, cut := discordMarkdown.sections(all, limit, limit)
	text := strings.Join(texts, "\n")
	if cut || more {
		text += "\n\n" + discordMarkdown.cutNote(m, "Discord", discordNote-len("\n\n"))
	}
	return strings.TrimLeft(text+links, "\n")
}

// discordPairs renders the fields, sorted by name. Discord refuses empty ones.
func discordPairs(fields map[string]string) (pairs []discordPair) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		limit := discordFields / len(fields)
		p := discordPair{Name: fit(oneLine(name), min(limit/2, discordFieldName), escapeDiscord), Inline: true}
		if p.Name == "" {
			p.Name = "-"
		}
		p.Value = fit(strings.TrimSpace(printable(fields[name])), min(limit-units(p.Name), discordFieldValue), escapeDiscord)
		if p.Value == "" {
			p.Value = "-"
		}
		pairs = append(pairs, p)
	}
	return pairs
}

// discordFooter says in a line what stands beside the message, with its key at the
// end.
func discordFooter(m *Message) string {
	var all []string
	for _, f := range facts(m) {
		all = append(all, f.name+" "+fit(f.value, discordFact, asIs))
	}
	text := fit(strings.Join(all, " · "), discordFacts, asIs)
	if text != "" {
		text += " · "
	}
	return text + m.Key
}

// discordMarkdown is how Discord writes formatted text.
var discordMarkdown = dialect{
	bold: delimiters{"**", "**"}, italic: delimiters{"_", "_"}, strike: delimiters{"~~", "~~"}, code: delimiters{"`", "`"},
	bullet: "- ", escape: escapeDiscord, escapeCode: asIs, link: discordLink,
}

// What Discord takes for formatting, a mention, an emoji or an address anywhere in a
// text.
var discordEscapes = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "~", `\~`, "`", "\\`", "|", `\|`,
	"<", `\<`, "@", `\@`, "[", `\[`, "]", `\]`, ":", `\:`)

func escapeDiscord(s string) string { return escapeLines(discordEscapes.Replace(s)) }

// No escape keeps brackets in a label from ending it.
var discordLabel = strings.NewReplacer("[", "(", "]", ")", "\n", " ")

// discordLink is a link with its label cut. Discord has none to other than web
// pages, and none with an address for a label: there the address stands beside it.
func discordLink(address, label string, limit int) (text string, linked bool) {
	label = strings.TrimSpace(discordLabel.Replace(label))
	if mail, ok := strings.CutPrefix(address, "mailto:"); ok {
		if !strings.Contains(label, mail) {
			label += " (" + mail + ")"
		}
		return fit(label, limit, escapeDiscord), false
	}
	bare := label == "" || label == address
	address = strings.NewReplacer("(", "%28", ")", "%29").Replace(address)
	switch room := limit - units(address) - units("[]()"); {
	case room < 20:
		return fit(label, limit, escapeDiscord), false
	case bare:
		return "<" + address + ">", true
	case strings.Contains(label, "://"):
		return fit(label, room, escapeDiscord) + " <" + address + ">", true
	default:
		return "[" + fit(label, room, escapeDiscord) + "](" + address + ")", true
	}
}
