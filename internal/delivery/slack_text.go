package delivery

import "strings"

// Of the characters that Slack gives a meaning, these three alone can be escaped;
// no mention is left without them.
var mrkdwnEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func escapeMrkdwn(s string) string { return mrkdwnEscapes.Replace(s) }

// mrkdwn is how Slack writes formatted text.
var mrkdwn = dialect{
	bold: delimiters{"*", "*"}, italic: delimiters{"_", "_"}, strike: delimiters{"~", "~"}, code: delimiters{"`", "`"},
	bullet: "• ", escape: escapeMrkdwn, escapeCode: escapeMrkdwn, link: slackLink,
}

// slackLink is a link with its label cut. Where there is no room for its address
// it is the label alone.
func slackLink(address, label string, limit int) (text string, linked bool) {
	address = escapeMrkdwn(address)
	label = strings.ReplaceAll(label, "\n", " ")
	room := limit - units(address) - units("<|>")
	if room < 20 {
		return fit(label, limit, escapeMrkdwn), false
	}
	if strings.TrimSpace(label) == "" || escapeMrkdwn(label) == address {
		return "<" + address + ">", true
	}
	return "<" + address + "|" + fit(label, room, escapeMrkdwn) + ">", true
}
