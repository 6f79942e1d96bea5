package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/acknowledge"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// pages is a stack whose manager serves acknowledge links over TLS.
type pages struct {
	*stack
	browser *http.Client
	address string
	dir     string
}

func newPages(t *testing.T) *pages {
	t.Helper()
	p := &pages{stack: newStack(t), dir: t.TempDir()}
	p.address = harness.FreeAddress(t)
	certificate := standin.NewCertificate(t, time.Hour, "127.0.0.1")
	certificate.Write(t, p.dir)
	p.browser = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificate.Roots()}}}
	t.Cleanup(p.browser.CloseIdleConnections)
	p.write("keys", []byte(olderKey))
	p.startStorage()
	p.start()
	return p
}

const (
	olderKey = "the-older-key-of-this-test-that-nobody-may-see"
	newerKey = "the-newer-key-of-this-test-that-nobody-may-see"
)

func (p *pages) write(name string, content []byte) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pages) start() {
	p.startManager("--acknowledge-url", "https://"+p.address, "--acknowledge-bind-address", p.address,
		"--acknowledge-cert-dir", p.dir, "--acknowledge-key-file", filepath.Join(p.dir, "keys"))
}

// ask creates a request that asks for an acknowledgement.
func (p *pages) ask(name, channel string, escalateTo ...string) *v1alpha1.NotificationRequest {
	p.t.Helper()
	nr := request(name, channel)
	nr.Spec.Acknowledge = v1alpha1.Acknowledge{Within: "15m"}
	for _, ch := range escalateTo {
		nr.Spec.Acknowledge.EscalateTo = append(nr.Spec.Acknowledge.EscalateTo, v1alpha1.ChannelReference{Name: ch})
	}
	p.create(nr)
	return nr
}

// link is the link in what a channel got last.
func (p *pages) link(channel string) string {
	p.t.Helper()
	received := p.sink.Received("/" + channel)
	var m struct {
		Links []struct{ Label, URL string }
	}
	if err := json.Unmarshal(received[len(received)-1].Body, &m); err != nil {
		p.t.Fatal(err)
	}
	if len(m.Links) == 0 || m.Links[0].Label != "Acknowledge" || !strings.HasPrefix(m.Links[0].URL, "https://"+p.address+"/acknowledge/") {
		p.t.Fatalf("the message to %s has no link to acknowledge it by: %s", channel, received[len(received)-1].Body)
	}
	return m.Links[0].URL
}

// visit asks for a page and wants an answer that says something.
func (p *pages) visit(method, link, by string, code int, says string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, link, strings.NewReader(url.Values{"by": {by}}.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User-Agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)")
	resp, err := p.browser.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != code || !strings.Contains(string(body), says) {
		p.t.Errorf("%s answered %d, want %d and %q: %s %v", method, resp.StatusCode, code, says, body, err)
	}
}

var isAcknowledged = harness.Condition(v1alpha1.ConditionAcknowledged, metav1.ConditionTrue, v1alpha1.ReasonAcknowledged)

func isNot(reason string) func(*v1alpha1.NotificationRequest) error {
	return harness.Condition(v1alpha1.ConditionAcknowledged, metav1.ConditionFalse, reason)
}

func isOpen(nr *v1alpha1.NotificationRequest) error {
	if nr.Status.FinishedTime != nil || len(nr.Finalizers) == 0 {
		return fmt.Errorf("finished at %v, finalizers %v", nr.Status.FinishedTime, nr.Finalizers)
	}
	return nil
}

func TestAMessageIsAcknowledgedByItsLinkOnceAndTheLinkIsSeenNowhere(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	quote := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "no: %s", body)
	}
	quoteLink := func(w http.ResponseWriter, _ *http.Request) {
		received := p.sink.Received("/ops")
		_, link, _ := strings.Cut(string(received[len(received)-1].Body), `"url":"`)
		link, _, _ = strings.Cut(link, `"`)
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "no: %s", link)
	}
	p.sink.Answer("/ops", quote, quoteLink, harness.Status(http.StatusOK))
	p.webhook("ops")
	nr := p.ask("asked", "ops")
	p.wait("asked", isSent, isNot(v1alpha1.ReasonWaiting), isOpen)
	link := p.link("ops")
	for i, r := range p.sink.Received("/ops") {
		if !strings.Contains(string(r.Body), link) {
			t.Errorf("attempt %d had another link", i+1)
		}
	}

	p.visit(http.MethodGet, link, "", http.StatusOK, "subject of asked")
	p.visit(http.MethodGet, link, "", http.StatusOK, "Opening this page has changed nothing.")
	p.visit(http.MethodPost, link[:len(link)-4]+"AAAA", "Mallory", http.StatusNotFound, "not valid")
	keys := acknowledge.Keys{[]byte(olderKey)}
	claims, ok := keys.Verify(link[strings.LastIndexByte(link, '/')+1:])
	if !ok || claims.UID != string(nr.UID) {
		t.Fatalf("the link claims %+v", claims)
	}
	claims.Expires = time.Now().Add(-time.Second)
	p.visit(http.MethodPost, "https://"+p.address+acknowledge.Path+keys.Sign(claims), "Mallory", http.StatusGone, "expired")
	claims.Expires, claims.UID = time.Now().Add(time.Hour), "6f0c7f4e-0000-4000-8000-000000000007"
	p.visit(http.MethodPost, "https://"+p.address+acknowledge.Path+keys.Sign(claims), "Mallory", http.StatusNotFound, "not valid")
	p.wait("asked", isNot(v1alpha1.ReasonWaiting), isOpen)

	p.wait("asked", func(nr *v1alpha1.NotificationRequest) error {
		if state := delivery(t, nr, "ops").Audit.State; state != v1alpha1.AuditRecorded {
			return fmt.Errorf("its event is %s", state)
		}
		return nil
	})
	p.storageProcess.Kill()
	p.visit(http.MethodPost, link, "Ada", http.StatusOK, "Ada")
	p.visit(http.MethodPost, link, "Eve", http.StatusOK, "Ada")
	p.wait("asked", isAcknowledged, notAudited)
	harness.Eventually(t, soon, func() error {
		if p.metric("notification_audit_dead_letters") == "0" {
			return fmt.Errorf("there is no dead letter yet")
		}
		return nil
	})
	places := p.readAll("asked")
	p.startStorage()
	p.wait("asked", isAudited)
	events := p.storage.Events(t, "resource_id", "asked")
	harness.WantEvents(t, events, map[string]int{audit.TypeAttemptFailed: 2, audit.TypeMessageSent: 1, audit.TypeMessageAcknowledged: 1})
	text, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	places["audit events"] = string(text)
	p.manager.Stop(soon)
	places["log of the manager"] = p.manager.Log()
	token := link[strings.LastIndexByte(link, '/')+1:]
	for place, text := range places {
		for _, secret := range []string{token[:20], token[len(token)-20:], olderKey} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("a link or its key is in the %s: ...%q...", place, text[max(0, at-200):min(len(text), at+len(secret)+50)])
			}
		}
	}
	if !strings.Contains(places["requests"], "[link]") {
		t.Error("no receiver's words in status, so they were not searched")
	}
}

func TestAMessageThatNobodyAcknowledgesGoesFurther(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	p.sink.Answer("/gone", harness.Status(http.StatusGone))
	for _, name := range []string{"ops", "gone", "pager", "desk"} {
		p.webhook(name)
	}
	p.ask("unanswered", "ops", "pager")
	p.ask("unreached", "gone", "desk")
	p.wait("unreached", isNot(v1alpha1.ReasonEscalated), func(nr *v1alpha1.NotificationRequest) error {
		if state := delivery(t, nr, "desk").State; state != v1alpha1.DeliverySent {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})

	// What was sent an hour ago, as status says, is due.
	nr := p.wait("unanswered", isSent, isNot(v1alpha1.ReasonWaiting), isOpen, func(nr *v1alpha1.NotificationRequest) error {
		if state := delivery(t, nr, "ops").Audit.State; state != v1alpha1.AuditRecorded {
			return fmt.Errorf("its event is %s", state)
		}
		return nil
	})
	base := nr.DeepCopy()
	nr.Status.Deliveries[0].SentTime = new(metav1.NewMicroTime(time.Now().Add(-time.Hour)))
	if err := p.kube.Status().Patch(t.Context(), nr, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	p.change(nr, func() { nr.Annotations = map[string]string{"example.com/look": "now"} })
	p.wait("unanswered", isSent, isNot(v1alpha1.ReasonEscalated), isOpen)
	if body := string(p.sink.Received("/pager")[0].Body); !strings.Contains(body, `"Escalated":"nobody acknowledged this within 15m"`) {
		t.Errorf("the message does not say that it was escalated: %s", body)
	}

	// Keys are rotated while people have links. Late is better than never.
	older := p.link("pager")
	p.write("keys", []byte(newerKey+"\n"+olderKey+"\n"))
	p.manager.Stop(soon)
	p.start()
	harness.Eventually(t, soon, func() error {
		conn, err := p.browser.Get("https://" + p.address)
		if err == nil {
			conn.Body.Close()
		}
		return err
	})
	p.visit(http.MethodPost, older, "Ada", http.StatusOK, "through the channel pager")
	p.visit(http.MethodPost, p.link("desk"), "", http.StatusOK, "Somebody who gave no name")
	for name, want := range map[string]map[string]int{
		"unanswered": {audit.TypeMessageSent: 2, audit.TypeMessageEscalated: 1, audit.TypeMessageAcknowledged: 1},
		"unreached":  {audit.TypeMessageSent: 1, audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1, audit.TypeMessageEscalated: 1, audit.TypeMessageAcknowledged: 1},
	} {
		p.wait(name, isAcknowledged, isAudited, func(nr *v1alpha1.NotificationRequest) error {
			if len(nr.Finalizers) > 0 {
				return fmt.Errorf("it has finalizers: %v", nr.Finalizers)
			}
			return nil
		})
		harness.WantEvents(t, p.storage.Events(t, "resource_id", name), want)
	}
}

func TestWithoutTheServerAMessageGoesOutAndStatusNamesTheFlag(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("ops")
	nr := request("asked", "ops")
	nr.Spec.Acknowledge = v1alpha1.Acknowledge{Within: "15m", EscalateTo: []v1alpha1.ChannelReference{{Name: "console"}}}
	s.create(nr)
	stored := s.wait("asked", isSent, isNot(v1alpha1.ReasonNotConfigured), isOpen)
	for _, c := range stored.Status.Conditions {
		if c.Type == v1alpha1.ConditionAcknowledged && !strings.Contains(c.Message, "--acknowledge-url") {
			t.Errorf("the message does not name the flag: %s", c.Message)
		}
	}
}
