package delivery

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Limits in bytes of JSON. Teams takes messages of about 28 KB, see
// https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook,
// and shows six actions of a card.
const (
	teamsTotal   = 28000
	teamsActions = 6

	// What follows is ours, so that something is left for the body.
	teamsSubject = 2500
	teamsFields  = 6000
	teamsLinks   = 6000
	teamsFacts   = 1500
	teamsNote    = 700
)

// teamsColours are those of the subject by a message's priority.
var teamsColours = map[string]string{"Critical": "Attention", "High": "Warning", "Medium": "Accent"}

type teamsMessage struct {
	Type        string            `json:"type"`
	Attachments []teamsAttachment `json:"attachments"`
}

type teamsAttachment struct {
	ContentType string    `json:"contentType"`
	ContentURL  *string   `json:"contentUrl"` // null
	Content     teamsCard `json:"content"`
}

type teamsCard struct {
	Schema  string         `json:"$schema"`
	Type    string         `json:"type"`
	Version string         `json:"version"`
	Body    []teamsElement `json:"body"`
	Actions []teamsAction  `json:"actions,omitempty"`
	Teams   teamsWidth     `json:"msteams"`
}

type teamsWidth struct {
	Width string `json:"width"`
}

// teamsElement is a line of text, which is shown as it is, or a table of facts.
type teamsElement struct {
	Type    string      `json:"type"`
	ID      string      `json:"id,omitempty"`
	Spacing string      `json:"spacing,omitempty"`
	Inlines []teamsRun  `json:"inlines,omitempty"`
	Facts   []teamsFact `json:"facts,omitempty"`
}

type teamsRun struct {
	Type          string       `json:"type"`
	Text          string       `json:"text"`
	Size          string       `json:"size,omitempty"`
	Weight        string       `json:"weight,omitempty"`
	Color         string       `json:"color,omitempty"`
	FontType      string       `json:"fontType,omitempty"`
	IsSubtle      bool         `json:"isSubtle,omitempty"`
	Italic        bool         `json:"italic,omitempty"`
	Strikethrough bool         `json:"strikethrough,omitempty"`
	SelectAction  *teamsAction `json:"selectAction,omitempty"`
}

// teamsFact has formatted texts.
type teamsFact struct {
	Title string `json:"title"`
	Value string `json:"value"`
}

type teamsAction struct {
	Type  string `json:"type"`
	Title string `json:"title,omitempty"`
	URL   string `json:"url"`
}

// encodeTeams renders a message as an Adaptive Card. The same message gives the same
// bytes, and none is beyond the limit of Teams.
//
// Texts are in RichTextBlocks: in a TextBlock, which knows some Markdown, the clients
// of Teams do not agree on how anything is escaped.
func encodeTeams(m *Message) []byte {
	title := teamsRun{Type: "TextRun", Text: fitBy(sizeJSON, subject(m), teamsSubject, asIs), Size: "Large", Weight: "Bolder", Color: teamsColours[m.Priority]}
	head := teamsElement{Type: "RichTextBlock", ID: m.Key, Inlines: []teamsRun{title}}
	actions, omitted := teamsButtons(m.Links)
	rest := teamsRest(m, omitted)
	card := func(body []teamsElement) []byte {
		return encodeJSON(teamsMessage{Type: "message", Attachments: []teamsAttachment{{
			ContentType: "application/vnd.microsoft.card.adaptive",
			Content: teamsCard{
				Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.4",
				Body: slices.Concat([]teamsElement{head}, body, rest), Actions: actions, Teams: teamsWidth{Width: "Full"},
			},
		}}}, "")
	}
	w := &teamsWriter{left: teamsTotal - teamsNote - len(card(nil))}
	all, more := paragraphs(m)
	for _, p := range all {
		w.paragraph(p)
	}
	if w.full || more {
		w.lines = append(w.lines, teamsSmall(cutNote(m, "Teams", asIs), "Medium"))
	}
	return card(w.lines)
}

// teamsSmall is a line of small print.
func teamsSmall(text, spacing string) teamsElement {
	return teamsElement{Type: "RichTextBlock", Spacing: spacing, Inlines: []teamsRun{{Type: "TextRun", Text: text, Size: "Small", IsSubtle: true}}}
}

// teamsWriter puts lines of text one below the other until there is no room left.
type teamsWriter struct {
	left  int // in bytes of JSON
	lines []teamsElement
	full  bool
}

// paragraph begins at a distance from the one before, unless a list is tight.
func (w *teamsWriter) paragraph(p paragraph) {
	begin := strings.Repeat("\u00a0\u00a0\u00a0\u00a0", min(max(p.depth-1, 0), maxIndent))
	switch {
	case p.marker == "-":
		begin += "• "
	case p.marker != "":
		begin += p.marker + " "
	case p.depth > 0:
		begin += "\u00a0\u00a0"
	}
	if p.quote {
		begin = "> " + begin
	}
	line := teamsElement{Type: "RichTextBlock"}
	if p.tight {
		line.Spacing = "None"
	}
	next := func() {
		if blank(line.Inlines) { // an empty line is a distance
			line.Spacing, line.Inlines = "", nil
			return
		}
		w.put(line)
		line = teamsElement{Type: "RichTextBlock", Spacing: "None"}
	}
	if begin != "" {
		line.Inlines = []teamsRun{{Type: "TextRun", Text: begin}}
	}
	for _, s := range p.spans {
		for text := range strings.SplitAfterSeq(s.text, "\n") {
			text, ended := strings.CutSuffix(text, "\n")
			if text != "" {
				line.Inlines = appendRun(line.Inlines, teamsRunOf(s, text, p.code))
			}
			if ended {
				next()
				if p.quote {
					line.Inlines = []teamsRun{{Type: "TextRun", Text: "> "}}
				}
			}
		}
	}
	next()
}

func blank(runs []teamsRun) bool {
	return !slices.ContainsFunc(runs, func(r teamsRun) bool { return strings.Trim(r.Text, " \t\u00a0>") != "" })
}

// appendRun joins what has the same style, and spaces, which have no style to lose:
// a run takes more bytes than most words.
func appendRun(runs []teamsRun, r teamsRun) []teamsRun {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		style := *last
		style.Text = r.Text
		space := strings.Trim(r.Text, " ") == "" && !last.Strikethrough && last.SelectAction == nil
		if style == r || space {
			last.Text += r.Text
			return runs
		}
	}
	return append(runs, r)
}

func teamsRunOf(s span, text string, code bool) teamsRun {
	r := teamsRun{Type: "TextRun", Text: text, Italic: s.italic, Strikethrough: s.strike}
	if s.bold {
		r.Weight = "Bolder"
	}
	if s.code || code {
		r.FontType = "Monospace"
	}
	if mail, ok := strings.CutPrefix(s.url, "mailto:"); ok {
		if !strings.Contains(text, mail) { // Teams opens web pages only
			r.Text += " (" + mail + ")"
		}
	} else if s.url != "" {
		r.SelectAction = &teamsAction{Type: "Action.OpenUrl", URL: s.url}
	}
	return r
}

// put appends a line, or what there is room for.
func (w *teamsWriter) put(line teamsElement) {
	if w.full {
		return
	}
	runs := line.Inlines
	if size := len(encodeJSON(line, "")); size <= w.left {
		w.left -= size
		w.lines = append(w.lines, line)
		return
	}
	w.full = true
	line.Inlines = nil
	for i, r := range runs {
		line.Inlines = runs[:i+1]
		if over := len(encodeJSON(line, "")) - w.left; over > 0 {
			r.Text = fitBy(sizeJSON, r.Text, sizeJSON(r.Text)-over, asIs)
			line.Inlines = append(slices.Clone(runs[:i]), r)
			break
		}
	}
	if len(encodeJSON(line, "")) > w.left {
		line.Inlines = line.Inlines[:len(line.Inlines)-1]
	}
	if !blank(line.Inlines) {
		w.lines = append(w.lines, line)
	}
}

// teamsRest renders what stands below the body.
func teamsRest(m *Message, omitted int) (rest []teamsElement) {
	table := teamsElement{Type: "FactSet"}
	for _, name := range slices.Sorted(maps.Keys(m.Fields)) {
		limit := teamsFields/len(m.Fields) - len(`{"title":"","value":""},`)
		f := teamsFact{Title: fitBy(sizeJSON, oneLine(name), limit/3, escapeFact)}
		if f.Title == "" {
			f.Title = "(no name)"
		}
		f.Value = fitBy(sizeJSON, oneLine(m.Fields[name]), limit-sizeJSON(f.Title), escapeFact)
		table.Facts = append(table.Facts, f)
	}
	if table.Facts != nil {
		rest = append(rest, table)
	}
	var all []string
	for _, f := range facts(m) {
		all = append(all, f.name+" "+f.value)
	}
	if omitted > 0 {
		all = append(all, fmt.Sprintf("Links left out %d", omitted))
	}
	if all != nil {
		rest = append(rest, teamsSmall(fitBy(sizeJSON, strings.Join(all, " · "), teamsFacts, asIs), "Medium"))
	}
	return rest
}

// teamsButtons has a button for each link, as many as there is room for.
func teamsButtons(links []Link) (actions []teamsAction, omitted int) {
	left := teamsLinks
	for _, l := range links {
		address := safeURL(l.URL)
		a := teamsAction{Type: "Action.OpenUrl", Title: fit(oneLine(l.Label), 128, asIs), URL: address}
		if a.Title == "" {
			a.Title = fit(address, 128, asIs)
		}
		size := len(encodeJSON(a, ""))
		if !strings.HasPrefix(address, "http") || size > left || len(actions) == teamsActions {
			omitted++
			continue
		}
		left -= size
		actions = append(actions, a)
	}
	return actions, omitted
}

// factEscapes keep what Markdown gives a meaning to from having it.
var factEscapes = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "`", "\\`", "~", `\~`, "[", `\[`, "]", `\]`, "<", `\<`, "&", `\&`)

func escapeFact(s string) string { return escapeLines(factEscapes.Replace(s)) }

// sizeJSON is how many bytes a text takes in JSON.
func sizeJSON(s string) int { return len(encodeJSON(s, "")) - len("\"\"\n") }
