package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

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
