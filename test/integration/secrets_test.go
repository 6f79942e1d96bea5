package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// planted are secrets that must be found nowhere but in their Secret.
var planted = map[string]string{
	"path":    "pLantedPathToken7",
	"query":   "plantedQuery+Token/8",
	"header":  "plantedHeaderValue9",
	"signing": "plantedSigningSecret0",
	"user":    "plantedPassword1",
}

func TestNoSecretIsSeenAnywhere(t *testing.T) {
	t.Parallel()
	s := run(t)
	host := strings.TrimPrefix(s.sink.URL, "http://")
	address := func(host, name string) string {
		return fmt.Sprintf("http://someone:%s@%s/%s/%s?token=%s", planted["user"], host, name, planted["path"], url.QueryEscape(planted["query"]))
	}
	s.secret("credentials", map[string]string{
		"echo": address(host, "echo"), "unauthorized": address(host, "unauthorized"), "silent": address(host, "silent"),
		"refused": address("127.0.0.1:1", "refused"), "unknown": address("unknown.invalid", "unknown"),
		"malformed": "http://" + planted["path"] + ":port/" + planted["query"],
		"header":    planted["header"], "signing": planted["signing"],
	})
	// The receiver quotes all that it knows.
	quote := func(code int) harness.Answer {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", planted["path"])
			w.WriteHeader(code)
			fmt.Fprintf(w, "no: %s %s %v", r.URL, r.URL.Query().Get("token"), r.Header)
		}
	}
	s.sink.Answer("/echo/"+planted["path"], quote(http.StatusBadRequest))
	s.sink.Answer("/unauthorized/"+planted["path"], quote(http.StatusUnauthorized))
	s.sink.Answer("/silent/"+planted["path"], harness.Reset, quote(http.StatusOK))
	names := []string{"echo", "unauthorized", "silent", "refused", "unknown", "malformed"}
	s.waitReady()
	s.storageProcess.Kill()
	for _, name := range names {
		ref := func(key string) v1alpha1.SecretKeyRef { return v1alpha1.SecretKeyRef{Name: "credentials", Key: key} }
		s.webhook(name, func(spec *v1alpha1.NotificationChannelSpec) {
			spec.Webhook = &v1alpha1.WebhookChannel{
				URLSecretRef: ref(name), SigningSecretRef: ref("signing"),
				Headers: []v1alpha1.Header{{Name: "X-Token", ValueSecretRef: ref("header")}},
			}
		})
		nr := request(name, name)
		nr.Spec.Retry.MaxAttempts = 2
		s.create(nr)
	}
	s.wait("echo", isFailed)
	s.wait("silent", isSent)
	s.wait("refused", isFailed)
	s.wait("unknown", isFailed)
	s.wait("unauthorized", isStalled("Unauthorized"))
	s.wait("malformed", isStalled("InvalidURL"))
	harness.Eventually(t, soon, func() error {
		if got := s.metric("notification_audit_dead_letters"); got == "0" {
			return fmt.Errorf("there is no dead letter yet")
		}
		return nil
	})

	places := s.readAll(names...)
	s.startStorage()
	for _, name := range []string{"echo", "silent", "refused", "unknown"} {
		s.wait(name, isAudited)
	}
	events, err := json.Marshal(s.storage.Events(t))
	if err != nil {
		t.Fatal(err)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "echo"), map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1})
	places["audit events"] = string(events)
	s.manager.Stop(soon)
	places["log of the manager"] = s.manager.Log()
	places["log of DataStorage"] = s.storageProcess.Log()
	for place, text := range places {
		for what, secret := range planted {
			for _, form := range []string{secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
				if at := strings.Index(text, form); at >= 0 {
					t.Errorf("the planted %s is in the %s: ...%q...", what, place, text[max(0, at-200):min(len(text), at+len(form)+50)])
				}
			}
		}
	}
}

// readAll returns what the manager has written outside its log, by place; of Events
// those about the requests with these names.
func (s *stack) readAll(names ...string) map[string]string {
	s.t.Helper()
	places := map[string]string{}
	_, places["metrics"] = s.get(s.metrics, "/metrics")
	_, places["readiness"] = s.get(s.probe, "/readyz?verbose")
	for name, list := range map[string]client.ObjectList{
		"requests": &v1alpha1.NotificationRequestList{}, "channels": &v1alpha1.NotificationChannelList{},
	} {
		if err := s.kube.List(s.t.Context(), list, client.InNamespace(s.namespace)); err != nil {
			s.t.Fatal(err)
		}
		text, err := json.Marshal(list)
		if err != nil {
			s.t.Fatal(err)
		}
		places[name] = string(text)
	}
	for _, name := range names {
		text, err := json.Marshal(s.eventsOf(name))
		if err != nil {
			s.t.Fatal(err)
		}
		places["Events"] += string(text)
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "dlq"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		places["dead-letter queue's "+entry.Name()] = string(text)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, place := range []string{"Events", "metrics", "requests", "channels", "dead-letter queue's events.db-wal"} {
		if places[place] == "" || places[place] == "null" {
			s.t.Errorf("there is nothing to search in the %s", place)
		}
	}
	return places
}
