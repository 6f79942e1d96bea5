package delivery_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"kubernaut.ai/notification/internal/delivery"
)

var signingKey = []byte("0123456789abcdef0123456789abcdef")

// webhookOf returns a sender that signs.
func webhookOf(t *testing.T, address string, format delivery.WebhookFormat) *delivery.Webhook {
	t.Helper()
	w, err := delivery.NewWebhook(newHTTP(t, loopback...), delivery.WebhookConfig{
		Endpoint:      delivery.Endpoint{URL: address},
		SigningSecret: []byte("whsec_" + base64.StdEncoding.EncodeToString(signingKey)),
		Content:       format,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// post returns what arrives of a message.
func post(t *testing.T, format delivery.WebhookFormat, m *delivery.Message) received {
	t.Helper()
	address, got := receiver(t, "")
	if _, err := webhookOf(t, address, format).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return (*got)[0]
}

func formatMessages() map[string]*delivery.Message {
	firing, resolved, least := fixedMessage(), fixedMessage(), fixedMessage()
	firing.Fields = map[string]string{"node.name": "node-7", "node-name": "also", "9lives": "cat", "__meta": "m", "severity": "mine", "empty": ""}
	resolved.Type, resolved.Name, resolved.Created = "Completion", "disk-free", time.Date(2026, 3, 1, 13, 0, 0, 5000, time.UTC)
	*least = delivery.Message{Key: least.Key, Subject: "Hello", Body: "World"}
	return map[string]*delivery.Message{"firing": firing, "resolved": resolved, "least": least}
}

func TestEveryFormatIsSignedAndCarriesTheKey(t *testing.T) {
	for format, mediaType := range map[delivery.WebhookFormat]string{
		"": "application/json", delivery.FormatJSON: "application/json", delivery.FormatAlertmanager: "application/json",
		delivery.FormatCloudEvents: "application/cloudevents+json",
	} {
		m := fixedMessage()
		got := post(t, format, m)
		for name, want := range map[string]string{"Content-Type": mediaType, "Idempotency-Key": m.Key, "Webhook-Id": m.Key} {
			if got := got.header.Get(name); got != want {
				t.Errorf("format %q: %s is %q, want %q", format, name, got, want)
			}
		}
		verifier, err := standardwebhooks.NewWebhookRaw(signingKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(got.body, got.header); err != nil {
			t.Errorf("format %q: verify: %v", format, err)
		}
	}
}

func TestFormatsAreWhatTheyWere(t *testing.T) {
	for name, m := range formatMessages() {
		for _, format := range []delivery.WebhookFormat{delivery.FormatJSON, delivery.FormatAlertmanager, delivery.FormatCloudEvents} {
			t.Run(name+" "+string(format), func(t *testing.T) {
				checkGolden(t, "webhook/"+name+"-"+strings.ToLower(string(format)), post(t, format, m).body)
			})
		}
	}
}

// alertmanagerWebhook has the members of what Alertmanager 0.34 posts: those of its
// webhook message, and of the template data within it.
type alertmanagerWebhook struct {
	*alertmanagerData

	Version         string `json:"version"`
	GroupKey        string `json:"groupKey"`
	TruncatedAlerts uint64 `json:"truncatedAlerts"`
}

type alertmanagerData struct {
	Receiver string `json:"receiver"`
	Status   string `json:"status"`
	Alerts   []struct {
		Status       string            `json:"status"`
		Labels       map[string]string `json:"labels"`
		Annotations  map[string]string `json:"annotations"`
		StartsAt     time.Time         `json:"startsAt"`
		EndsAt       time.Time         `json:"endsAt"`
		GeneratorURL string            `json:"generatorURL"`
		Fingerprint  string            `json:"fingerprint"`
	} `json:"alerts"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
}

func alertmanagerPost(t *testing.T, m *delivery.Message) alertmanagerWebhook {
	t.Helper()
	body := post(t, delivery.FormatAlertmanager, m).body
	got := alertmanagerWebhook{alertmanagerData: &alertmanagerData{}}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&got); err != nil {
		t.Fatalf("decode %s: %v", body, err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || len(members) != 10 {
		t.Errorf("%d members and %v, want all 10", len(members), err)
	}
	for name, member := range members {
		if string(member) == "null" {
			t.Errorf("%s is null", name)
		}
	}
	return got
}

func TestAnAlertDoesNotComeFromTheLinkByWhichItIsAcknowledged(t *testing.T) {
	m := fixedMessage()
	m.Links = []delivery.Link{
		{Label: delivery.AcknowledgeLabel, URL: "https://notify.example.com/acknowledge/token"}, {Label: "graph", URL: "https://grafana.example.com/d/1"},
	}
	if got := alertmanagerPost(t, m).Alerts[0].GeneratorURL; got != "https://grafana.example.com/d/1" {
		t.Errorf("generatorURL is %q", got)
	}
}

func TestAReceiverOfAlertmanagerTakesIt(t *testing.T) {
	labelName := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	for name, m := range formatMessages() {
		t.Run(name, func(t *testing.T) {
			got := alertmanagerPost(t, m)
			if got.Version != "4" || got.Receiver != m.Channel || got.TruncatedAlerts != 0 || len(got.Alerts) != 1 {
				t.Fatalf("not version 4 of one alert: %+v", got)
			}
			alert := got.Alerts[0]
			if alert.Status != got.Status || !alert.StartsAt.Equal(m.Created) || !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(alert.Fingerprint) {
				t.Errorf("alert %+v", alert)
			}
			if ended := m.Type == "Completion"; (alert.Status == "resolved") != ended || (alert.Status == "firing") == ended || alert.EndsAt.IsZero() == ended {
				t.Errorf("status %s, ends at %s", alert.Status, alert.EndsAt)
			}
			for label, value := range alert.Labels {
				if !labelName.MatchString(label) || strings.HasPrefix(label, "__") || value == "" {
					t.Errorf("label %s=%q", label, value)
				}
			}
			for label, value := range got.GroupLabels {
				if alert.Labels[label] != value {
					t.Errorf("label %s=%q of the group, %q of the alert", label, value, alert.Labels[label])
				}
			}
			if alert.Labels["alertname"] == "" || alert.Annotations["summary"] != m.Subject || alert.Annotations["description"] != m.Body {
				t.Errorf("labels %v, annotations %v", alert.Labels, alert.Annotations)
			}
			if diff := cmp.Diff(got.CommonLabels, alert.Labels) + cmp.Diff(got.CommonAnnotations, alert.Annotations); diff != "" {
				t.Errorf("what the only alert has is not common:\n%s", diff)
			}
		})
	}
}

func TestTheEndOfAnIncidentResolvesItsAlert(t *testing.T) {
	all := formatMessages()
	firing, resolved := alertmanagerPost(t, all["firing"]), alertmanagerPost(t, all["resolved"])
	if firing.Alerts[0].Fingerprint != resolved.Alerts[0].Fingerprint || firing.GroupKey != resolved.GroupKey {
		t.Errorf("fingerprints %s and %s, groups %s and %s", firing.Alerts[0].Fingerprint, resolved.Alerts[0].Fingerprint, firing.GroupKey, resolved.GroupKey)
	}
	if want := `{}:{correlation_id="incident-42", namespace="payments"}`; firing.GroupKey != want {
		t.Errorf("group key %s, want %s", firing.GroupKey, want)
	}
	for name, change := range map[string]func(*delivery.Message){
		"another incident": func(m *delivery.Message) { m.CorrelationID = "incident-43" }, "another namespace": func(m *delivery.Message) { m.Namespace = "shop" },
	} {
		other := fixedMessage()
		change(other)
		if got := alertmanagerPost(t, other); got.Alerts[0].Fingerprint == firing.Alerts[0].Fingerprint || got.GroupKey == firing.GroupKey {
			t.Errorf("%s has the same fingerprint or group", name)
		}
	}
}

func TestFieldsBecomeLabels(t *testing.T) {
	m := fixedMessage()
	m.Fields = map[string]string{
		"team": "db", "node.name": "dot", "node-name": "dash", "9lives": "cat", "__meta": "m", "\u4e16": "world", "severity": "mine", "alertname": "DiskFull",
		"blank": " \n", "lines": "one\ntwo",
	}
	want := map[string]string{
		"alertname": "DiskFull", "type": "Escalation", "priority": "Critical", "severity": "sev1", "namespace": "payments", "name": "disk-full",
		"correlation_id": "incident-42", "team": "db", "node_name": "dash", "node_name_2": "dot", "field_9lives": "cat", "meta": "m", "field_": "world",
		"severity_2": "mine", "lines": "one two",
	}
	if diff := cmp.Diff(want, alertmanagerPost(t, m).CommonLabels); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
	m.Fields = nil
	if got := alertmanagerPost(t, m).CommonLabels["alertname"]; got != "Escalation" {
		t.Errorf("the alert's name is %q without a field for it, want the type", got)
	}
}

// What CloudEvents 1.0 demands of an event in JSON.
func TestACloudEventIsOneByTheSpecification(t *testing.T) {
	odd := fixedMessage()
	odd.Namespace, odd.Name, odd.Type = "a b\n", "%zz\ufffe", "\x00\u4e16"
	all := formatMessages()
	all["odd"] = odd
	attributeName := regexp.MustCompile(`^[a-z0-9]{1,20}$`)
	for name, m := range all {
		t.Run(name, func(t *testing.T) {
			body := post(t, delivery.FormatCloudEvents, m).body
			var event map[string]json.RawMessage
			if err := json.Unmarshal(body, &event); err != nil {
				t.Fatal(err)
			}
			attributes := map[string]string{}
			for name, value := range event {
				if name == "data" {
					continue
				}
				var text string
				if err := json.Unmarshal(value, &text); err != nil || text == "" || !attributeName.MatchString(name) ||
					strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef }) {
					t.Errorf("attribute %s is %s: %v", name, value, err)
				}
				attributes[name] = text
			}
			if attributes["specversion"] != "1.0" || attributes["id"] != m.Key || attributes["datacontenttype"] != "application/json" ||
				!strings.HasPrefix(attributes["type"], "ai.kubernaut.notification.") || strings.HasSuffix(attributes["type"], ".") {
				t.Errorf("attributes %q", attributes)
			}
			if source, err := url.Parse(attributes["source"]); err != nil || source.String() != attributes["source"] {
				t.Errorf("source %q is no URI reference: %v", attributes["source"], err)
			}
			if at, err := time.Parse(time.RFC3339, attributes["time"]); err != nil || !at.Equal(m.Created) {
				t.Errorf("time %q: %v", attributes["time"], err)
			}
			plain := bytes.TrimSpace(post(t, delivery.FormatJSON, m).body)
			if diff := cmp.Diff(string(plain), string(event["data"])); diff != "" {
				t.Errorf("data is not the plain format, want (-) and got (+):\n%s", diff)
			}
		})
	}
}
