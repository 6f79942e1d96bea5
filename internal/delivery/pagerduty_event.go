package delivery

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// PagerDuty's limits: 512 KB for an event, in the stricter reading of the unit, the
// others in characters.
const (
	pagerDutyEvent   = 512_000
	pagerDutySummary = 1024
	pagerDutyKey     = 255

	// What follows is ours: as much as a request can have, so that only the body
	// is ever cut for the sake of the whole.
	pagerDutyText   = 1024
	pagerDutyFields = 32
	pagerDutyName   = 128
	pagerDutyValue  = 2048
	pagerDutyLinks  = 16
	pagerDutyHref   = 4096

	// unitBytes is what a UTF-16 unit of printable text takes in JSON at most.
	unitBytes = 3
)

type pagerDutyMessage struct {
	RoutingKey  string           `json:"routing_key"`
	EventAction string           `json:"event_action"`
	DedupKey    string           `json:"dedup_key"`
	Client      string           `json:"client"`
	ClientURL   string           `json:"client_url,omitempty"`
	Payload     pagerDutyPayload `json:"payload"`
	Links       []pagerDutyLink  `json:"links,omitempty"`
}

type pagerDutyPayload struct {
	Summary   string           `json:"summary"`
	Source    string           `json:"source"`
	Severity  string           `json:"severity"`
	Timestamp string           `json:"timestamp,omitempty"`
	Component string           `json:"component,omitempty"`
	Group     string           `json:"group,omitempty"`
	Class     string           `json:"class,omitempty"`
	Details   pagerDutyDetails `json:"custom_details"`
}

// pagerDutyDetails are shown as a table, and rules of PagerDuty can go by them.
type pagerDutyDetails struct {
	Body          string            `json:"body,omitempty"`
	Cut           string            `json:"cut,omitempty"`
	Priority      string            `json:"priority,omitempty"`
	Severity      string            `json:"severity,omitempty"`
	Type          string            `json:"type,omitempty"`
	Regarding     string            `json:"regarding,omitempty"`
	Request       string            `json:"request,omitempty"`
	CorrelationID string            `json:"correlation_id,omitempty"`
	Fields        map[string]string `json:"fields,omitempty"`
	OtherLinks    []string          `json:"other_links,omitempty"`
	ID            string            `json:"id"`
}

type pagerDutyLink struct {
	Href string `json:"href"`
	Text string `json:"text,omitempty"`
}

// encodePagerDuty renders a message as one event. The same message gives the same
// bytes, and none is beyond PagerDuty's limits: without its body none is near that
// of the whole.
func encodePagerDuty(m *Message, c *PagerDutyConfig) []byte {
	line := func(s string) string { return fit(oneLine(s), pagerDutyText, asIs) }
	request := strings.Trim(m.Namespace+"/"+m.Name, "/")
	event := pagerDutyMessage{
		RoutingKey: c.RoutingKey, EventAction: "trigger", DedupKey: m.Key,
		Client: "Kubernaut", ClientURL: c.ClientURL,
		Payload: pagerDutyPayload{
			Summary:  fit(cmp.Or(oneLine(m.Subject), "(no subject)"), pagerDutySummary, asIs),
			Source:   cmp.Or(line(c.Source), line(m.Regarding.String()), line(request), "kubernaut"),
			Severity: pagerDutySeverity(m), Component: line(c.Component), Group: line(c.Group), Class: line(c.Class),
			Details: pagerDutyDetails{
				Body: plainBody(m), Priority: line(m.Priority), Severity: line(m.Severity), Type: line(m.Type),
				Regarding: line(m.Regarding.String()), Request: line(request), CorrelationID: line(m.CorrelationID),
				Fields: pagerDutyTable(m.Fields), ID: m.Key,
			},
		},
	}
	if c.ByCorrelation {
		event.DedupKey = incidentKey(m)
		if m.Type == completion {
			event.EventAction = "resolve"
		}
	}
	if !m.Created.IsZero() {
		event.Payload.Timestamp = m.Created.UTC().Format(time.RFC3339)
	}
	for _, l := range m.Links[:min(len(m.Links), pagerDutyLinks)] {
		label := fit(oneLine(l.Label), 2*pagerDutyName, asIs)
		if href := safeURL(l.URL); strings.HasPrefix(href, "http") && len(href) <= pagerDutyHref {
			event.Links = append(event.Links, pagerDutyLink{Href: href, Text: label})
		} else if text := strings.TrimSpace(label + " " + line(l.URL)); text != "" {
			event.Payload.Details.OtherLinks = append(event.Payload.Details.OtherLinks, text)
		}
	}
	content := encodeJSON(event, "")
	if len(content) > pagerDutyEvent {
		details := &event.Payload.Details
		body := details.Body
		details.Body, details.Cut = "", fmt.Sprintf("Cut to what PagerDuty takes. All of it is in the NotificationRequest %s.", details.Request)
		details.Body = fit(body, (pagerDutyEvent-len(encodeJSON(event, ""))-len(`"body":"",`))/unitBytes, asIs)
		content = encodeJSON(event, "")
	}
	return content
}

// completion is the type of a message that ends an incident.
const completion = "Completion"

// incidentKey is what messages about one incident have in common: those with one
// correlation ID in one namespace, so that no tenant ends another's incident. It
// has at most 255 characters, which any of PagerDuty's keys may have.
func incidentKey(m *Message) string {
	key := m.Namespace + "/" + m.CorrelationID
	if units(key) > pagerDutyKey || key != oneLine(key) {
		sum := sha256.Sum256([]byte(key))
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return key
}

// pagerDutySeverities are the words that say one of the four severities.
var pagerDutySeverities = map[string]string{
	"critical": "critical", "crit": "critical", "fatal": "critical", "emergency": "critical", "emerg": "critical",
	"alert": "critical", "page": "critical", "sev0": "critical", "sev1": "critical", "p0": "critical", "p1": "critical",
	"error": "error", "err": "error", "high": "error", "major": "error", "sev2": "error", "p2": "error",
	"warning": "warning", "warn": "warning", "medium": "warning", "minor": "warning", "moderate": "warning", "ticket": "warning",
	"sev3": "warning", "p3": "warning",
	"info": "info", "information": "info", "informational": "info", "notice": "info", "low": "info", "debug": "info", "ok": "info",
	"sev4": "info", "sev5": "info", "p4": "info", "p5": "info",
}

// pagerDutySeverity goes by the message's severity where that is a word for one of
// PagerDuty's, else by its priority.
func pagerDutySeverity(m *Message) string {
	if severity, ok := pagerDutySeverities[strings.ToLower(strings.TrimSpace(m.Severity))]; ok {
		return severity
	}
	switch m.Priority {
	case "Critical":
		return "critical"
	case "High":
		return "error"
	case "Low":
		return "info"
	default:
		return "warning"
	}
}

// pagerDutyTable makes a name and a value presentable, and keeps two fields apart
// whose names look the same then.
func pagerDutyTable(fields map[string]string) map[string]string {
	table := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if len(table) == pagerDutyFields {
			break
		}
		shown := fit(cmp.Or(oneLine(name), "-"), pagerDutyName, asIs)
		table[free(table, shown)] = fit(strings.TrimSpace(printable(fields[name])), pagerDutyValue, asIs)
	}
	return table
}

// free returns the name, with a number where it is taken.
func free(taken map[string]string, name string) string {
	numbered := name
	for n := 2; ; n++ {
		if _, ok := taken[numbered]; !ok {
			return numbered
		}
		numbered = fmt.Sprintf("%s_%d", name, n)
	}
}
