package controller

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"

	"kubernaut.ai/notification/api/v1alpha1"
)

// templated returns a webhook with a template, and the bodies of what it received.
func templated(t *testing.T, template v1alpha1.MessageTemplate, status func(call int) int) (*v1alpha1.NotificationChannel, *[]string) {
	t.Helper()
	var got []string
	channel, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		var document struct{ Subject, Body string }
		if err := json.NewDecoder(r.Body).Decode(&document); err != nil {
			t.Errorf("decode message: %v", err)
		}
		got = append(got, document.Subject+"|"+document.Body)
		w.WriteHeader(status(len(got)))
	})
	channel.Spec.Template = template
	return channel, &got
}

func TestAChannelsTemplateMakesItsMessages(t *testing.T) {
	channel, got := templated(t, v1alpha1.MessageTemplate{Subject: "[{{ .Priority }}] {{ .Subject }}", Body: "{{ .Channel }}: {{ .Body }}"},
		func(int) int { return http.StatusOK })
	b := newBench(t, newRequest(), channel)
	b.send()
	equal(t, "received", *got, []string{"[Medium] Order 7 is late|ops: It left the house at noon."})
	equal(t, "template's error", b.stored().Status.Deliveries[0].TemplateError, "")
	equal(t, "event has one", strings.Contains(string(b.recorded[0].EventData), "template_error"), false)
	equal(t, "told", b.told(), []string{"Normal Sent 1 channel accepted the message"})
}

func TestAMessageIsSentAsItIsWhereTheTemplateFails(t *testing.T) {
	channel, got := templated(t, v1alpha1.MessageTemplate{Subject: "fine", Body: "{{ (index .Links 0).URL }}"}, func(call int) int {
		if call == 1 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	b := newBench(t, newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Spec.Retry.InitialDelay = "1ms" }), channel)
	b.mustLook()
	const why = `body:1:4: executing "body" at <index .Links 0>: error calling index: reflect: slice index out of range: the request has fewer, so ask with if or len before it`
	d := b.stored().Status.Deliveries[0]
	equal(t, "state before anything is sent", d.State, v1alpha1.DeliveryInFlight)
	equal(t, "template's error then", d.TemplateError, why)
	for b.ended(); b.stored().Status.FinishedTime == nil; b.mustLook() {
	}
	const plain = "Order 7 is late|It left the house at noon."
	equal(t, "received", *got, []string{plain, plain})
	equal(t, "template's error", b.stored().Status.Deliveries[0].TemplateError, why)
	var data struct {
		TemplateError string `json:"template_error"`
	}
	if err := json.Unmarshal(b.recorded[len(b.recorded)-1].EventData, &data); err != nil {
		t.Fatal(err)
	}
	equal(t, "event's", data.TemplateError, why)
	var told []string
	for _, text := range b.told() {
		if strings.Contains(text, "TemplateFailed") {
			told = append(told, text)
		}
	}
	equal(t, "told", told, []string{"Warning TemplateFailed ops: the channel's template is not used: " + why})
	equal(t, "counted", testutil.ToFloat64(b.Metrics.templates.WithLabelValues("Webhook")), 1.0)
}

func TestAChannelsStatusSaysWhetherItsTemplateCanBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		template        v1alpha1.MessageTemplate
		reason, message string
	}{
		"none": {},
		"good": {v1alpha1.MessageTemplate{Body: "{{ .Body }}"}, v1alpha1.ReasonTemplateParsed, "the template makes the messages"},
		"does not parse": {
			v1alpha1.MessageTemplate{Subject: "fine", Body: "{{ .Body"},
			v1alpha1.ReasonInvalidTemplate,
			"messages are sent as their requests have them: body:1: unclosed action",
		},
		"is refused": {
			v1alpha1.MessageTemplate{Subject: "{{ range 9 }}{{ end }}"},
			v1alpha1.ReasonInvalidTemplate,
			"messages are sent as their requests have them: subject:1:9: range is for .Links and .Fields, within another range or with as $.Links and $.Fields",
		},
		"fails on every message": {
			v1alpha1.MessageTemplate{Body: "{{ .Bdy }}"},
			v1alpha1.ReasonInvalidTemplate,
			`messages are sent as their requests have them: body:1:3: executing "body" at <.Bdy>: can't evaluate field Bdy: kubectl explain nch.spec.template lists the names`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			channel := newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Template.Body = "{{" })
			checkTemplate(channel, time.Now())
			channel.Spec.Template = c.template
			checkTemplate(channel, time.Now())
			condition := meta.FindStatusCondition(channel.Status.Conditions, v1alpha1.ConditionTemplateValid)
			if c.reason == "" {
				equal(t, "condition", condition, nil)
				return
			}
			equal(t, "reason", condition.Reason, c.reason)
			equal(t, "message", condition.Message, c.message)
			equal(t, "true", meta.IsStatusConditionTrue(channel.Status.Conditions, v1alpha1.ConditionTemplateValid), c.reason == v1alpha1.ReasonTemplateParsed)
		})
	}
}
