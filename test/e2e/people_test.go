//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/acknowledge"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// manifest is a request as a person writes it.
func manifest(name, spec string) string {
	return fmt.Sprintf("apiVersion: notification.kubernaut.ai/v1alpha1\nkind: NotificationRequest\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, namespace, spec)
}

func badRequests(s suite) {
	refused := []struct{ name, spec, want string }{
		{"unknown-field", `{subject: a, body: b, priorty: High}`, `unknown field "spec.priorty"`},
		{"long-subject", `{subject: ` + strings.Repeat("x", 501) + `, body: b}`, "spec.subject: Too long: may not be more than 500"},
		{"two-of-one-name", `{subject: a, body: b, channels: [{name: ops}, {name: ops}]}`, `spec.channels[1]: Duplicate value: {"name":"ops"}`},
	}
	for _, c := range refused {
		if out, err := s.tryInput(manifest(c.name, c.spec), "apply", "-f", "-"); err == nil || !strings.Contains(out, c.want) {
			s.Errorf("%s: kubectl apply says %q (%v), want %q", c.name, out, err, c.want)
		}
	}
	s.kubectlInput(manifest("changed", `{subject: first, body: b}`), "apply", "-f", "-")
	if out, err := s.tryInput(manifest("changed", `{subject: second, body: b}`), "apply", "-f", "-"); err == nil ||
		!strings.Contains(out, "cannot be changed: create a new NotificationRequest instead") {
		s.Errorf("a changed subject: kubectl apply says %q (%v)", out, err)
	}
	s.wait("changed", soon, sent, audited)

	s.kubectlInput(manifest("no-channel", `{subject: a, body: b, channels: [{name: not-there}, {name: console}]}`), "apply", "-f", "-")
	s.webhook("no-secret", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.Webhook.SigningSecretRef = v1alpha1.SecretKeyRef{Name: "not-there", Key: "key"}
	})
	s.send("no-secret", []string{"no-secret"})
	s.kubectlInput(`
apiVersion: notification.kubernaut.ai/v1alpha1
kind: NotificationChannel
metadata: {name: theirs, namespace: default}
spec: {type: Webhook, webhook: {url: "`+s.sink.URL+`/theirs"}}
`, "apply", "-f", "-")
	defer func() { _, _ = s.try("delete", "nch", "theirs", "-n", "default") }()
	s.kubectlInput(manifest("not-allowed", `{subject: a, body: b, channels: [{name: theirs, namespace: default}]}`), "apply", "-f", "-")
	for name, reason := range map[string]string{
		"no-channel": v1alpha1.ReasonChannelNotFound, "no-secret": v1alpha1.ReasonSecretNotFound, "not-allowed": v1alpha1.ReasonNamespaceNotAllowed,
	} {
		s.wait(name, soon, stalled(reason))
	}
	harness.WantEvents(s.T, s.events("no-channel"), map[string]int{audit.TypeMessageSent: 1})

	// Each goes on by itself when what it lacks is there.
	s.webhook("not-there")
	s.kubectl("-n", namespace, "create", "secret", "generic", "not-there", "--from-literal=key=whsec_aHVzaCBodXNoIGh1c2ggaHVzaA==")
	s.kubectl("-n", "default", "patch", "nch", "theirs", "--type=merge", "-p", `{"spec":{"allowedNamespaces":["`+namespace+`"]}}`)
	for name, events := range map[string]int{"no-channel": 2, "no-secret": 1, "not-allowed": 1} {
		s.wait(name, soon, sent, audited)
		harness.WantEvents(s.T, s.events(name), map[string]int{audit.TypeMessageSent: events})
	}
}

// acknowledged has a link looked at by a previewer, forged, let expire, pressed, and
// pressed again.
func acknowledged(s suite) {
	s.webhook("asks")
	s.send("asked", []string{"asks"}, func(spec *v1alpha1.NotificationRequestSpec) { spec.Acknowledge.Within = "15m" })
	waiting := harness.Condition(v1alpha1.ConditionAcknowledged, metav1.ConditionFalse, v1alpha1.ReasonWaiting)
	s.wait("asked", soon, sent, waiting)
	var message struct {
		Links []struct{ URL string }
	}
	if err := json.Unmarshal(s.sink.Received("/asks")[0].Body, &message); err != nil {
		s.Fatal(err)
	}
	token, ok := strings.CutPrefix(message.Links[0].URL, linksURL+acknowledge.Path)
	keys := acknowledge.Keys{[]byte(linksKey)}
	claims, valid := keys.Verify(token)
	if !ok || !valid {
		s.Fatalf("the link is %s", message.Links[0].URL)
	}
	expired, gone := claims, claims
	expired.Expires, gone.UID = time.Now().Add(-time.Second), "6f0c7f4e-0000-4000-8000-000000000007"
	stranger := acknowledge.Keys{[]byte(strings.ToUpper(linksKey))}
	visit := func(what, method, token, by string, code int, says string) {
		s.Helper()
		got, body := s.visit(method, linksURL+acknowledge.Path+token, by)
		if got != code || !strings.Contains(body, says) {
			s.Errorf("%s: answered %d, want %d and %q: %s", what, got, code, says, body)
		}
	}
	visit("previewed", http.MethodGet, token, "", 200, "Opening this page has changed nothing.")
	visit("previewed without the page", http.MethodHead, token, "", 200, "")
	visit("forged at its end", http.MethodPost, token[:len(token)-4]+"AAAA", "Mallory", 404, "not valid")
	visit("signed with another key", http.MethodPost, stranger.Sign(claims), "Mallory", 404, "not valid")
	visit("of a request that is gone", http.MethodPost, keys.Sign(gone), "Mallory", 404, "not valid")
	visit("expired", http.MethodPost, keys.Sign(expired), "Late", 410, "expired")
	s.wait("asked", soon, waiting)
	visit("pressed", http.MethodPost, token, "Ada", 200, "Ada")
	visit("replayed", http.MethodPost, token, "Eve", 200, "Ada")
	visit("looked at afterwards", http.MethodGet, token, "", 200, "Ada")

	nr := s.wait("asked", soon, sent, audited, harness.Condition(v1alpha1.ConditionAcknowledged, metav1.ConditionTrue, v1alpha1.ReasonAcknowledged))
	if a := nr.Status.Acknowledgement; a.By != "Ada" || a.Channel != "asks" {
		s.Errorf("acknowledged by %q through %s, want Ada through asks", a.By, a.Channel)
	}
	harness.WantEvents(s.T, s.events("asked"), map[string]int{audit.TypeMessageSent: 1, audit.TypeMessageAcknowledged: 1})
	if strings.Contains(s.managerLog()+harness.Describe(nr), token[len(token)-20:]) {
		s.Error("the link is in the manager's log or in status")
	}
}

// visit asks for a page as a browser does, with the name that somebody typed.
func (s *suite) visit(method, link, by string) (code int, body string) {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, link, strings.NewReader(url.Values{"by": {by}}.Encode()))
	if err != nil {
		s.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := s.browser.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// event is a valid event that is no request's.
func event(id string, change ...func(map[string]any)) map[string]any {
	e := map[string]any{
		"event_id": "00000000-0000-4000-8000-" + id, "version": "1.0", "event_type": "notification.message.sent",
		"event_timestamp": "2025-12-27T20:51:31.123456Z", "event_category": "notification", "event_action": "sent",
		"event_outcome": "success", "correlation_id": "bad-batches", "resource_id": "bad-batches",
		"event_data": map[string]any{"event_type": "notification.message.sent"},
	}
	for _, f := range change {
		f(e)
	}
	return e
}

func badBatches(s suite) {
	post := func(contentType string, body []byte) (int, string) {
		s.Helper()
		req, err := http.NewRequestWithContext(s.Context(), http.MethodPost, s.storage.URL+"/api/v1/audit/events/batch", bytes.NewReader(body))
		if err != nil {
			s.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Authorization", "Bearer "+s.storage.Token)
		resp, err := s.storage.Client.Do(req)
		if err != nil {
			s.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			s.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
	batch := func(events ...map[string]any) []byte {
		text, err := json.Marshal(events)
		if err != nil {
			s.Fatal(err)
		}
		return text
	}
	many := make([]map[string]any, 1001)
	for i := range many {
		many[i] = event(fmt.Sprintf("%012d", 100000+i))
	}
	set := func(name string, value any) func(map[string]any) {
		return func(e map[string]any) { e[name] = value }
	}
	const one, two, three = "000000000001", "000000000002", "000000000003"
	for _, c := range []struct {
		name, contentType string
		body              []byte
		code              int
		want              []string
	}{
		{"good", "application/json", batch(event(one)), 201, []string{`"event_ids"`, `"log_indices"`}},
		{"the same again", "application/json", batch(event(one)), 201, []string{`"duplicates":1`}},
		{"one bad event", "application/json", batch(event(two), event(three, set("event_outcome", "maybe"))), 400, []string{"/1/event_outcome", "success, failure or pending"}},
		{"duplicate ID with other content", "application/json", batch(event(two), event(one, set("severity", "other"))), 409, []string{`"/1`, `"log_index"`}},
		{"unknown type of body", "text/plain", batch(event(two)), 415, []string{"application/json"}},
		{"too many", "application/json", batch(many...), 413, []string{"1000"}},
		{"not JSON", "application/json", []byte(`[{"event_id":`), 400, []string{"JSON"}},
	} {
		if code, answer := post(c.contentType, c.body); code != c.code {
			s.Errorf("%s: answered %d, want %d: %s", c.name, code, c.code, answer)
		} else {
			for _, want := range c.want {
				if !strings.Contains(answer, want) {
					s.Errorf("%s: the answer has no %q: %s", c.name, want, answer)
				}
			}
		}
	}
	if got := s.storage.Events(s.T, "correlation_id", "bad-batches"); len(got) != 1 {
		s.Errorf("DataStorage holds %d events of the bad batches, want the good one alone", len(got))
	}
}

func strangers(s suite) {
	token := func(account string, args ...string) string {
		return strings.TrimSpace(s.kubectl(append([]string{"-n", namespace, "create", "token", account}, args...)...))
	}
	for _, c := range []struct {
		who, token string
		code       int
	}{
		{"nobody", "", http.StatusUnauthorized},
		{"a reader with a token for another audience", token("auditor"), http.StatusUnauthorized},
		{"an account without a role", token("default", "--audience", "datastorage"), http.StatusForbidden},
		{"a reader", s.storage.Token, http.StatusOK},
	} {
		req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.storage.URL+"/api/v1/audit/events", nil)
		if err != nil {
			s.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+c.token)
		resp, err := s.storage.Client.Do(req)
		if err != nil {
			s.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.code {
			s.Errorf("%s is answered %d, want %d", c.who, resp.StatusCode, c.code)
		}
	}
}

// seenWithKubectl prints what docs/quickstart.md shows.
func seenWithKubectl(s suite) {
	s.webhook("pager")
	s.kubectlInput(manifest("disk-full", `
  subject: Disk almost full on node1
  body: The volume data of postgres-0 is at 91 %.
  priority: High
  correlationID: incident-4711
  regarding: {apiVersion: v1, kind: Pod, namespace: default, name: postgres-0}
  channels: [{name: console}, {name: pager}]`), "apply", "-f", "-")
	out := s.kubectl("-n", namespace, "wait", "--for=condition=Audited", "nr/disk-full", "--timeout=60s")
	if want := "notificationrequest.notification.kubernaut.ai/disk-full condition met"; !strings.Contains(out, want) {
		s.Errorf("kubectl wait says %q, want %q", out, want)
	}
	table := s.kubectl("-n", namespace, "get", "nr", "disk-full", "-o", "wide")
	for _, want := range []string{"NAME", "READY", "STATUS", "SENT", "AUDITED", "STALLED", "AGE", "PRIORITY", "CORRELATION ID", "True", "Sent", "2/2", "High", "incident-4711"} {
		if !strings.Contains(table, want) {
			s.Errorf("kubectl get nr -o wide has no %s", want)
		}
	}
	description := s.kubectl("-n", namespace, "describe", "nr", "disk-full")
	for _, want := range []string{"2 channels accepted the message", "DataStorage holds 2 events", "Log Index"} {
		if !strings.Contains(description, want) {
			s.Errorf("kubectl describe nr has no %q", want)
		}
	}
	fmt.Printf("$ kubectl wait --for=condition=Audited nr/disk-full\n%s\n$ kubectl get nr disk-full -o wide\n%s\n$ kubectl describe nr disk-full\n%s\n", out, table, description)
	if out, err := s.try("-n", namespace, "wait", "--for=condition=Stalled", "nr/refused", "--timeout=10s"); err != nil {
		s.Errorf("kubectl wait for Stalled on a failed request: %v: %s", err, out)
	}
	if explained := s.kubectl("explain", "nr.spec.onAmbiguous"); !strings.Contains(explained, "Hold waits for the annotation") {
		s.Errorf("kubectl explain nr.spec.onAmbiguous says:\n%s", explained)
	}
}

// quietAtTheEnd looks for what should not be: a crash, a dropped event, a secret.
func quietAtTheEnd(s suite) {
	restarts := s.kubectl("-n", system, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[0].restartCount} {end}`)
	for pod := range strings.FieldsSeq(restarts) {
		if name, n, _ := strings.Cut(pod, "="); n != "0" {
			s.Errorf("%s was restarted %s times", name, n)
		}
	}
	everything := s.managerLog() + s.kubectl("-n", namespace, "get", "nr,nch,events", "-o", "yaml") +
		s.kubectl("-n", system, "logs", "statefulset/datastorage")
	for _, e := range s.events("") {
		everything += string(e.EventData) + e.ErrorMessage
	}
	for _, secret := range []string{"hush", "aHVzaCBodXNo"} {
		if at := strings.Index(everything, secret); at >= 0 {
			s.Errorf("the planted secret %s appears in a log, a status, an Event or an audit event: ...%q...", secret, everything[max(0, at-100):at+20])
		}
	}
	// A person who reads DataStorage's log after an outage finds one error in it: that
	// of the bad batch that had a taken ID.
	failures := grep(s.kubectl("-n", system, "logs", "statefulset/datastorage"), `"level":"error"`)
	if strings.Count(failures, `"level":"error"`) != 1 || !strings.Contains(failures, "Refused events whose IDs are taken") {
		s.Errorf("DataStorage has logged errors:\n%s", failures)
	}
	// What is finished needs no more work.
	var list v1alpha1.NotificationRequestList
	if err := s.kube.List(s.Context(), &list); err != nil {
		s.Fatal(err)
	}
	for i := range list.Items {
		nr := &list.Items[i]
		if nr.Status.FinishedTime == nil || len(nr.Finalizers) > 0 {
			s.Errorf("%s is not done: %s", nr.Name, harness.Describe(nr))
		}
	}
	if words := s.lastWords(); !strings.Contains(words, `"dropped_count":0`) {
		s.Errorf("the audit store's last words are not that it dropped nothing:\n%s", words)
	}
}

func grep(text, word string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// lastWords ends the manager's pod and returns what it logs about it.
func (s *suite) lastWords() string {
	s.Helper()
	pod := s.kubectl("-n", system, "get", "pods", "-l", "app.kubernetes.io/name=notification-manager", "-o", "name")
	logs := exec.CommandContext(s.Context(), "kubectl", "-n", system, "logs", "--follow", "--tail=1", strings.TrimSpace(pod))
	out, err := logs.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := logs.Start(); err != nil {
		s.Fatal(err)
	}
	words := bufio.NewReader(out)
	// The line shows that kubectl listens.
	if _, err := words.ReadString('\n'); err != nil {
		s.Fatalf("read the log of %s: %v", pod, err)
	}
	s.kubectl("-n", system, "delete", strings.TrimSpace(pod))
	last, err := io.ReadAll(words)
	if err := errors.Join(err, logs.Wait()); err != nil {
		s.Fatalf("read the log of %s: %v", pod, err)
	}
	return string(last)
}
