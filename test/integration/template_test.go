package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

func template(subject, body string) func(*v1alpha1.NotificationChannelSpec) {
	return func(spec *v1alpha1.NotificationChannelSpec) {
		spec.Template = v1alpha1.MessageTemplate{Subject: subject, Body: body}
	}
}

// received returns the subject and the body of each message at a path of the sink.
func (s *stack) received(path string) (all []string) {
	s.t.Helper()
	for _, m := range s.sink.Received(path) {
		var document struct{ Subject, Body string }
		if err := json.Unmarshal(m.Body, &document); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, document.Subject+"|"+document.Body)
	}
	return all
}

func TestAChannelHasItsMessagesInItsOwnWords(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("own-words", template("[{{ .Priority }}] {{ .Subject }}",
		"{{ .Body }}\n{{ range $name, $value := .Fields }}{{ $name }}: {{ $value }}\n{{ end }}{{ range .Links }}<{{ .URL }}>{{ end }}"))
	s.webhook("as-it-is")
	nr := request("disk", "own-words", "as-it-is", "console")
	nr.Spec.Fields = map[string]v1alpha1.FieldValue{"node": "db-0", "disk": "sda"}
	nr.Spec.Links = []v1alpha1.Link{{Label: "Runbook", URL: "https://example.com/r"}}
	s.create(nr)
	s.wait("disk", isSent, isAudited)
	if got, want := s.received("/own-words"), []string{"[Medium] subject of disk|body of disk\ndisk: sda\nnode: db-0\n<https://example.com/r>"}; !slices.Equal(got, want) {
		t.Errorf("with the template arrived %q, want %q", got, want)
	}
	if got, want := s.received("/as-it-is"), []string{"subject of disk|body of disk"}; !slices.Equal(got, want) {
		t.Errorf("without a template arrived %q, want %q", got, want)
	}
}

func TestATemplateThatFailsCostsNoMessage(t *testing.T) {
	t.Parallel()
	s := run(t)
	channel := s.webhook("broken", template("", "{{ .Fields.node }} {{ .Bdy }}"))
	s.send("first", "broken")
	nr := s.wait("first", isSent, isAudited)
	const why = `body:1:22: executing "body" at <.Bdy>: can't evaluate field Bdy: kubectl explain nch.spec.template lists the names`
	if got := delivery(t, nr, "broken").TemplateError; got != why {
		t.Errorf("templateError %q, want %q", got, why)
	}
	if got, want := s.received("/broken"), []string{"subject of first|body of first"}; !slices.Equal(got, want) {
		t.Errorf("arrived %q, want %q", got, want)
	}
	if got := s.metric(`notification_template_failures_total{channel_type="Webhook"}`); got != "1" {
		t.Errorf("counted %s, want 1", got)
	}
	events := s.storage.Events(t)
	harness.WantEvents(t, events, map[string]int{audit.TypeMessageSent: 1})
	if !strings.Contains(string(events[0].EventData), `"template_error":`) {
		t.Errorf("the event does not say that the template was not used: %s", events[0].EventData)
	}
	harness.Eventually(t, soon, func() error {
		if err := s.kube.Get(t.Context(), client.ObjectKeyFromObject(channel), channel); err != nil {
			return err
		}
		valid := meta.FindStatusCondition(channel.Status.Conditions, v1alpha1.ConditionTemplateValid)
		if valid == nil || valid.Reason != v1alpha1.ReasonInvalidTemplate || !strings.HasSuffix(valid.Message, why) {
			return fmt.Errorf("the channel's template is valid: %+v", valid)
		}
		if !meta.IsStatusConditionTrue(channel.Status.Conditions, v1alpha1.ConditionReady) {
			return errors.New("the channel is not ready, though its messages are sent")
		}
		return nil
	})
}
