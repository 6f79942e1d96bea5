package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/test/harness"
)

// Events of one reason about the same objects are made one, with the text of the
// first.
func TestEachChannelThatFailsHasAnEventOfItsOwn(t *testing.T) {
	t.Parallel()
	s := run(t)
	for _, name := range []string{"one", "two", "three"} {
		s.webhook(name)
		s.sink.Answer("/"+name, harness.Status(http.StatusBadRequest))
	}
	s.waitReady()
	s.send("refused", "one", "two", "three")
	s.wait("refused", isFailed, isAudited)
	harness.Eventually(t, soon, func() error {
		told := map[string]bool{}
		for _, e := range s.eventsOf("refused") {
			if e.Reason == "DeliveryFailed" && e.Related != nil {
				name, _, _ := strings.Cut(e.Note, ":")
				told[name] = name == e.Related.Name && e.Related.Kind == "NotificationChannel"
			}
		}
		if !told["one"] || !told["two"] || !told["three"] {
			return fmt.Errorf("there are Events about %v, want one about each channel", told)
		}
		return nil
	})
}

// told waits until there is one Event of each of these reasons about a channel.
func (s *stack) told(channel string, reasons ...string) {
	s.t.Helper()
	harness.Eventually(s.t, soon, func() error {
		told := map[string]int{}
		for _, e := range s.eventsOf(channel) {
			if e.Regarding.Kind == "NotificationChannel" {
				told[e.Reason]++
			}
		}
		for _, reason := range reasons {
			if told[reason] != 1 {
				return fmt.Errorf("there are Events %v about %s, want one of each of %v", told, channel, reasons)
			}
		}
		return nil
	})
}

func TestAnAddressThatIsRefusedIsToldBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	s := run(t)
	channel := s.webhook("private", func(spec *v1alpha1.NotificationChannelSpec) { spec.Webhook.URL = "https://10.0.0.1/hook" })
	s.waitChannel("private", func(status *v1alpha1.NotificationChannelStatus) error {
		c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != "AddressNotAllowed" || !strings.Contains(c.Message, "--delivery-allow-networks") {
			return fmt.Errorf("ready is %+v", c)
		}
		return nil
	})
	s.dryRun("try-private", "private")
	tried := s.wait("try-private", wouldNot)
	if e := delivery(t, tried, "private").LastError; e.Reason != "AddressNotAllowed" || e.Class != v1alpha1.ErrorConfig {
		t.Errorf("the dry run says %+v", e)
	}
	s.change(channel, func() { channel.Annotations = map[string]string{v1alpha1.ProbeAnnotation: "now"} })
	s.waitChannel("private", probed("now", v1alpha1.ProbeFailed))
	s.told("private", "AddressNotAllowed", v1alpha1.ReasonProbeFailed)
	s.change(channel, func() { channel.Spec.Webhook.URL = s.sink.URL + "/hook" })
	s.told("private", "AddressNotAllowed", v1alpha1.ReasonProbeFailed, v1alpha1.ReasonConfigResolved)
}
