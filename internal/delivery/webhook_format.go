package delivery

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// WebhookFormat is how a webhook's content is written: FormatJSON where it is empty.
type WebhookFormat string

// Formats of webhooks.
const (
	FormatJSON         WebhookFormat = "JSON"
	FormatAlertmanager WebhookFormat = "Alertmanager" // version 4 of what Alertmanager posts to webhooks
	FormatCloudEvents  WebhookFormat = "CloudEvents"  // version 1.0, the event with its attributes in JSON
)

// encode renders a message. The same message gives the same bytes.
func (f WebhookFormat) encode(m *Message) (mediaType string, content []byte) {
	switch f {
	case FormatAlertmanager:
		return "application/json", encodeJSON(alertmanagerOf(m), "")
	case FormatCloudEvents:
		return "application/cloudevents+json", encodeJSON(cloudEventOf(m), "")
	default:
		return "application/json", encode(m, "")
	}
}

// alertmanagerMessage is a group of one alert.
type alertmanagerMessage struct {
	Receiver          string              `json:"receiver"`
	Status            string              `json:"status"`
	Alerts            []alertmanagerAlert `json:"alerts"`
	GroupLabels       map[string]string   `json:"groupLabels"`
	CommonLabels      map[string]string   `json:"commonLabels"`
	CommonAnnotations map[string]string   `json:"commonAnnotations"`
	ExternalURL       string              `json:"externalURL"`
	Version           string              `json:"version"`
	GroupKey          string              `json:"groupKey"`
	TruncatedAlerts   int                 `json:"truncatedAlerts"`
}

type alertmanagerAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     string            `json:"startsAt"`
	EndsAt       string            `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// alertmanagerOf goes by the incident in the group's key and in the fingerprint, so
// that the message which ends it resolves what the others fired. The labels tell
// the messages apart.
func alertmanagerOf(m *Message) alertmanagerMessage {
	sum := sha256.Sum256([]byte(incidentKey(m)))
	alert := alertmanagerAlert{
		Status: "firing", Labels: alertLabels(m), Annotations: alertAnnotations(m),
		StartsAt: instant(m.Created), EndsAt: instant(time.Time{}), // what fires ends at Go's zero time
		Fingerprint: hex.EncodeToString(sum[:8]),
	}
	if m.Type == completion {
		alert.Status, alert.EndsAt = "resolved", alert.StartsAt
	}
	for _, l := range m.Links {
		if address := safeURL(l.URL); l.Label != AcknowledgeLabel && strings.HasPrefix(address, "http") {
			alert.GeneratorURL = address
			break
		}
	}
	group := map[string]string{}
	for _, name := range []string{"correlation_id", "namespace"} {
		if value := alert.Labels[name]; value != "" {
			group[name] = value
		}
	}
	return alertmanagerMessage{
		Receiver: m.Channel, Status: alert.Status, Alerts: []alertmanagerAlert{alert},
		GroupLabels: group, CommonLabels: alert.Labels, CommonAnnotations: alert.Annotations,
		Version: "4", GroupKey: fmt.Sprintf("{}:{correlation_id=%q, namespace=%q}", group["correlation_id"], group["namespace"]),
	}
}

// alertLabels has the fields under names that labels may have. A field may give the
// alert its name, but takes the place of nothing else.
func alertLabels(m *Message) map[string]string {
	labels := map[string]string{}
	for name, value := range map[string]string{
		"type": m.Type, "priority": m.Priority, "severity": m.Severity, "namespace": m.Namespace, "name": m.Name,
		"correlation_id": m.CorrelationID,
	} {
		if value = oneLine(value); value != "" { // an empty label is none
			labels[name] = value
		}
	}
	for _, field := range slices.Sorted(maps.Keys(m.Fields)) {
		if value := oneLine(m.Fields[field]); value != "" {
			labels[free(labels, labelName(field))] = value
		}
	}
	if labels["alertname"] == "" {
		labels["alertname"] = cmp.Or(oneLine(m.Type), "NotificationRequest")
	}
	return labels
}

// labelName has letters, digits and underscores, and begins with a letter: names
// that begin with two underscores are Prometheus's own.
func labelName(field string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, field)
	if name = strings.TrimLeft(name, "_"); name == "" || name[0] <= '9' {
		name = "field_" + name
	}
	return name
}

func alertAnnotations(m *Message) map[string]string {
	var links strings.Builder
	for _, l := range m.Links {
		links.WriteString(strings.TrimSpace(oneLine(l.Label+" "+l.URL)) + "\n")
	}
	annotations := map[string]string{"summary": oneLine(m.Subject), "description": printable(m.Body)}
	for name, value := range map[string]string{"regarding": oneLine(m.Regarding.String()), "links": strings.TrimSpace(links.String())} {
		if value != "" {
			annotations[name] = value
		}
	}
	return annotations
}

// cloudEvent carries the JSON form of a message.
type cloudEvent struct {
	SpecVersion     string   `json:"specversion"`
	ID              string   `json:"id"`
	Source          string   `json:"source"`
	Type            string   `json:"type"`
	Subject         string   `json:"subject,omitempty"`
	Time            string   `json:"time"`
	DataContentType string   `json:"datacontenttype"`
	Data            document `json:"data"`
}

// cloudEventOf names the namespace's requests as the source and the request as the
// subject. What is in an attribute is escaped to ASCII: not all characters may be.
func cloudEventOf(m *Message) cloudEvent {
	return cloudEvent{
		SpecVersion:     "1.0",
		ID:              m.Key,
		Source:          "/apis/notification.kubernaut.ai/v1alpha1/namespaces/" + url.PathEscape(m.Namespace) + "/notificationrequests",
		Type:            "ai.kubernaut.notification." + url.PathEscape(cmp.Or(m.Type, "Simple")),
		Subject:         url.PathEscape(m.Name),
		Time:            instant(m.Created),
		DataContentType: "application/json",
		Data:            documentOf(m),
	}
}
