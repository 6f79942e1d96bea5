package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/redact/redacttest"
	"kubernaut.ai/notification/test/harness"
)

// leaking returns requests with all secrets of redacttest in the body, plain and in
// Markdown, and with those that have room there in each other part.
func leaking(channels ...string) []*v1alpha1.NotificationRequest {
	var texts []string
	for _, p := range redacttest.All() {
		texts = append(texts, p.Text)
	}
	plain, markdown := request("leaks-plain", channels...), request("leaks-markdown", channels...)
	plain.Spec.Body = strings.Join(texts, "\n")
	markdown.Spec.BodyFormat, markdown.Spec.Body = "Markdown", "# All\n\n- `"+strings.Join(texts, "`\n- `")+"`\n"
	for i, p := range redacttest.All() {
		nr := plain
		if i%2 == 0 {
			nr = markdown
		}
		if nr.Spec.Fields == nil {
			nr.Spec.Subject, nr.Spec.Fields = "", map[string]v1alpha1.FieldValue{}
		}
		text, n := p.Text, len(nr.Spec.Fields)
		if room := 500 - len(nr.Spec.Subject); len(text) < room {
			nr.Spec.Subject += text + "\n"
		}
		if n < 30 {
			nr.Spec.Fields[fmt.Sprint("field-", i)] = v1alpha1.FieldValue(text)
		}
		if n < 30 && len(text) <= 63 {
			nr.Spec.Fields[text] = "a name"
			nr.Spec.CorrelationID, nr.Spec.Severity = text, text
			nr.Spec.Regarding = v1alpha1.ObjectReference{APIVersion: text, Kind: text, Namespace: text, Name: text}
		}
		if len(nr.Spec.Links) < 16 && len(text) <= 120 {
			address := "https://example.com/?access_token=" + url.QueryEscape(p.Secret)
			if strings.HasPrefix(text, "https://") {
				address = text
			}
			nr.Spec.Links = append(nr.Spec.Links, v1alpha1.Link{Label: fmt.Sprint(i, " ", text), URL: address})
		}
	}
	return []*v1alpha1.NotificationRequest{plain, markdown}
}

// TestNoSecretOfARequestIsSeenAnywhere plants secrets in requests, lets them be
// delivered, refused and recorded, with DataStorage away for a while, and searches
// all that was written by anybody but the requests' author.
func TestNoSecretOfARequestIsSeenAnywhere(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.startStorage()
	s.startManager("--audit-include-body")
	s.waitReady()
	s.webhook("accepts")
	s.webhook("refuses")
	s.sink.Answer("/refuses", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "no: %s %s", "password=hunter2-of-the-receiver", r.URL)
	})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: "files"},
		Spec:       v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelFile, File: v1alpha1.FileChannel{Directory: "leaks"}},
	})
	s.storageProcess.Kill()
	all := leaking(v1alpha1.ConsoleChannel, "files", "accepts", "refuses")
	for _, nr := range all {
		s.create(nr)
	}
	partly := harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPartiallySent)
	for _, nr := range all {
		s.wait(nr.Name, partly, notAudited, harness.Condition(v1alpha1.ConditionRedacted, metav1.ConditionTrue, v1alpha1.ReasonSecretsMasked))
	}
	harness.Eventually(t, soon, func() error {
		if got := s.metric("notification_audit_dead_letters"); got != fmt.Sprint(5*len(all)) {
			return fmt.Errorf("there are %s dead letters", got)
		}
		return nil
	})
	places := map[string]string{}
	for name, text := range s.files("dlq") {
		places["away/"+name] = text
	}
	s.startStorage()
	for _, nr := range all {
		s.wait(nr.Name, isAudited)
		harness.WantEvents(t, s.storage.Events(t, "resource_id", nr.Name),
			map[string]int{audit.TypeMessageSent: 3, audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1})
	}
	s.readWritten(places, all)
	s.manager.Stop(soon)
	s.storageProcess.Kill() // which leaves the write-ahead log as it is
	places["log of the manager"], places["log of DataStorage"] = s.manager.Log(), s.storageProcess.Log()
	maps.Copy(places, s.files("."))

	var files, database string
	for place, text := range places {
		if strings.HasPrefix(place, "files/") {
			files += text
		}
		if strings.HasPrefix(place, "datastorage.db") {
			database += text
		}
	}
	for place, text := range map[string]string{
		"dead-letter queue": places["away/current/events.db-wal"], "files": files, "database": database, "messages": places["messages"], "Events": places["Events"],
		"status": places["status"], "audit events": places["audit events"], "log of the manager": places["log of the manager"],
	} {
		if !strings.Contains(text, "REDACTED-Password") {
			t.Errorf("there is nothing masked in the %s", place)
		}
	}
	if !strings.Contains(places["metrics"], `notification_redactions_total{kind="Password"}`) {
		t.Error("no metric counts what was masked")
	}
	for place, text := range places {
		for _, p := range append(redacttest.All(), redacttest.Planted{Kind: "receiver's", Secret: "hunter2-of-the-receiver"}) {
			for _, form := range forms(p.Secret) {
				if at := strings.Index(text, form); at >= 0 {
					t.Errorf("the planted %s is in the %s: ...%q...", p.Kind, place, text[max(0, at-200):min(len(text), at+len(form)+50)])
				}
			}
		}
	}
}

// forms are the ways in which a secret may be written.
func forms(secret string) []string {
	quoted, _ := json.Marshal(secret)
	all := []string{secret, strings.Trim(string(quoted), `"`), url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))}
	for line := range strings.SplitSeq(secret, "\n") {
		if len(line) >= 32 {
			all = append(all, line)
		}
	}
	return all
}

// readWritten reads what the manager and DataStorage serve, what the API server has
// of their writing, and what the receivers got.
func (s *stack) readWritten(places map[string]string, requests []*v1alpha1.NotificationRequest) {
	s.t.Helper()
	_, places["metrics"] = s.get(s.metrics, "/metrics")
	_, places["readiness"] = s.get(s.probe, "/readyz?verbose")
	add := func(place string, value any) {
		s.t.Helper()
		text, err := json.Marshal(value)
		if err != nil {
			s.t.Fatal(err)
		}
		places[place] += string(text)
	}
	for _, nr := range requests {
		if err := s.kube.Get(s.t.Context(), client.ObjectKeyFromObject(nr), nr); err != nil {
			s.t.Fatal(err)
		}
		add("status", nr.Status)
		add("Events", s.eventsOf(nr.Name))
	}
	add("audit events", s.storage.Events(s.t))
	for _, path := range []string{"/accepts", "/refuses"} {
		for _, got := range s.sink.Received(path) {
			places["messages"] += string(got.Body)
			add("headers of messages", got.Header)
		}
	}
	var channels v1alpha1.NotificationChannelList
	if err := s.kube.List(s.t.Context(), &channels, client.InNamespace(s.namespace)); err != nil {
		s.t.Fatal(err)
	}
	add("channels", channels)
}

// files returns all files beneath a directory of the stack's by their paths in it.
func (s *stack) files(dir string) map[string]string {
	s.t.Helper()
	root, all := filepath.Join(s.dir, dir), map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		all[name] = string(text)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}
