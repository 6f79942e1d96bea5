package acknowledge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

// now is when all these tests happen.
var now = claim.Expires.Add(-time.Hour)

// site is a server over TLS on a cluster that can be made to fail.
type site struct {
	t       *testing.T
	server  *Server
	cluster client.WithWatch
	web     *httptest.Server
	link    string
	log     bytes.Buffer
	logging sync.Mutex

	getError   error
	patchError func() error // what the next write of status meets
}

func newSite(t *testing.T) *site {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, Name: claim.Name, UID: "6f0c7f4e-0000-4000-8000-000000000007"},
		Spec:       v1alpha1.NotificationRequestSpec{Subject: `Order <7> & "more" is late`, Body: "planted-body"},
	}
	s := &site{t: t, patchError: func() error { return nil }}
	s.cluster = fake.NewClientBuilder().WithScheme(scheme).WithObjects(nr).WithStatusSubresource(nr).Build()
	failing := interceptor.NewClient(s.cluster, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if s.getError != nil {
				return s.getError
			}
			return c.Get(ctx, key, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			if err := s.patchError(); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, o, patch, opts...)
		},
	})
	s.server = NewServer(Options{
		Links: testLinks(t, newer, older), Requests: failing, Writer: failing,
		Subject: func(nr *v1alpha1.NotificationRequest) string { return nr.Spec.Subject },
		Log: funcr.New(func(prefix, args string) {
			s.logging.Lock()
			defer s.logging.Unlock()
			fmt.Fprintln(&s.log, prefix, args)
		}, funcr.Options{Verbosity: 9}),
		Registry: prometheus.NewPedanticRegistry(),
	})
	s.server.now = func() time.Time { return now }
	s.web = httptest.NewTLSServer(s.server)
	t.Cleanup(s.web.Close)
	s.link = s.at(s.server.Links.URL(claim))
	t.Cleanup(func() {
		if token := s.server.Links.keys.Sign(claim); strings.Contains(s.log.String(), token[:20]) {
			t.Errorf("the log has a link: %s", s.log.String())
		}
	})
	return s
}

func testLinks(t *testing.T, keys ...[]byte) *Links {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, bytes.Join(keys, []byte("\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	links, err := NewLinks("https://notify.example.com/prefix", file)
	if err != nil {
		t.Fatal(err)
	}
	return links
}

// at is a link as the test server has it.
func (s *site) at(link string) string {
	return strings.Replace(link, "https://notify.example.com", s.web.URL, 1)
}

type answer struct {
	code   int
	body   string
	header http.Header
}

func (s *site) do(method, link string, body io.Reader, change ...func(*http.Request)) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, link, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, f := range change {
		f(r)
	}
	resp, err := s.web.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, string(text), resp.Header}
}

func (s *site) press(by string) answer {
	s.t.Helper()
	return s.do(http.MethodPost, s.link, strings.NewReader(url.Values{"by": {by}}.Encode()))
}

func (s *site) stored() *v1alpha1.NotificationRequest {
	s.t.Helper()
	nr := &v1alpha1.NotificationRequest{}
	if err := s.cluster.Get(s.t.Context(), client.ObjectKey{Namespace: claim.Namespace, Name: claim.Name}, nr); err != nil {
		s.t.Fatal(err)
	}
	return nr
}

func (s *site) isAcknowledged(want bool) {
	s.t.Helper()
	if got := s.stored().Status.Acknowledgement.Time != nil; got != want {
		s.t.Errorf("acknowledged: %t, want %t", got, want)
	}
}

func (s *site) shows(a answer, code int, texts ...string) {
	s.t.Helper()
	if a.code != code {
		s.t.Errorf("answered %d, want %d: %s", a.code, code, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			s.t.Errorf("the page does not say %q:\n%s", text, a.body)
		}
	}
}

func TestOpeningALinkChangesNothing(t *testing.T) {
	s := newSite(t)
	for name, change := range map[string]func(*http.Request){
		"a browser":        func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a link previewer": func(r *http.Request) { r.Header.Set("User-Agent", "Slackbot-LinkExpanding 1.0") },
		"a prefetch":       func(r *http.Request) { r.Header.Set("Sec-Purpose", "prefetch") },
		"a query": func(r *http.Request) {
			r.URL.RawQuery = "by=Mallory&_method=POST"
			r.Header.Set("X-HTTP-Method-Override", "POST")
		},
	} {
		a := s.do(http.MethodGet, s.link, nil, change)
		s.shows(a, http.StatusOK, "<h1>Acknowledge this message</h1>", "Order &lt;7&gt; &amp; &#34;more&#34; is late", "Request shop/order-7",
			"whoever reads the channel ops", `<form method="post">`, `<button type="submit">Acknowledge</button>`)
		if strings.Contains(a.body, "planted-body") || strings.Contains(a.body, "Mallory") {
			t.Errorf("%s: the page says too much: %s", name, a.body)
		}
	}
	if head := s.do(http.MethodHead, s.link, nil); head.code != http.StatusOK || head.body != "" {
		t.Errorf("HEAD answered %d %q", head.code, head.body)
	}
	s.isAcknowledged(false)
}

func TestEachPageIsKeptFromOthers(t *testing.T) {
	s := newSite(t)
	want := map[string]string{
		"Content-Type":            "text/html; charset=utf-8",
		"Content-Security-Policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"Referrer-Policy":         "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
	}
	for _, a := range []answer{
		s.do(http.MethodGet, s.link, nil), s.press(""), s.do(http.MethodGet, s.web.URL, nil), s.do(http.MethodPut, s.link, nil),
	} {
		got := map[string]string{}
		for name := range want {
			got[name] = a.header.Get(name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d (-want +got):\n%s", a.code, diff)
		}
		for _, foreign := range []string{"<script", "<style", "src=", "href=", "http://", "https://"} {
			if strings.Contains(a.body, foreign) {
				t.Errorf("the page has %q: %s", foreign, a.body)
			}
		}
	}
}

func TestTheButtonAcknowledgesAndTheFirstOneWins(t *testing.T) {
	s := newSite(t)
	s.shows(s.press("  Ada Lovelace "), http.StatusOK, "<h1>Acknowledged</h1>",
		"Somebody who gave the name &#34;Ada Lovelace&#34;, which nobody has verified, acknowledged this message at Mon, 02 Mar 2026 09:15:00 UTC, through the channel ops.")
	want := v1alpha1.Acknowledgement{
		Time: new(metav1.NewMicroTime(now)), Channel: "ops", By: "Ada Lovelace",
		Audit: v1alpha1.AuditRecord{EventID: audit.EventID(audit.TypeMessageAcknowledged, claim.UID).String(), State: v1alpha1.AuditPending},
	}
	if diff := cmp.Diff(want, s.stored().Status.Acknowledgement); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	s.server.now = func() time.Time { return now.Add(time.Minute) }
	mail := claim
	mail.Channel = "mail"
	s.link = s.at(s.server.Links.URL(mail))
	for _, a := range []answer{s.press("Mallory"), s.do(http.MethodGet, s.link, nil)} {
		s.shows(a, http.StatusOK, "<h1>Acknowledged</h1>", "Ada Lovelace", "09:15:00", "through the channel ops")
		if strings.Contains(a.body, "Mallory") || strings.Contains(a.body, "<form") {
			t.Errorf("the page is about the wrong one, or asks again: %s", a.body)
		}
	}
	if diff := cmp.Diff(want, s.stored().Status.Acknowledgement); diff != "" {
		t.Errorf("status after a second press (-want +got):\n%s", diff)
	}
	if n := testutil.ToFloat64(s.server.answers.WithLabelValues("POST", "200")); n != 2 {
		t.Errorf("%v answers are counted, want 2", n)
	}
}

func TestOfManyAtOnceExactlyOneAcknowledges(t *testing.T) {
	s := newSite(t)
	var all sync.WaitGroup
	bodies := make([]string, 20)
	for i := range bodies {
		all.Go(func() { bodies[i] = s.press(fmt.Sprintf("person %02d", i)).body })
	}
	all.Wait()
	by := s.stored().Status.Acknowledgement.By
	for _, body := range bodies {
		if !strings.Contains(body, by) || by == "" {
			t.Errorf("status says %q, and somebody was told:\n%s", by, body)
		}
	}
}

func TestALinkThatIsNotGoodSaysNothing(t *testing.T) {
	s := newSite(t)
	link := func(change func(*Claims)) string {
		c := claim
		change(&c)
		return s.at(s.server.Links.URL(c))
	}
	unknown := s.do(http.MethodGet, s.web.URL+"/prefix/acknowledge/nothing", nil)
	s.shows(unknown, http.StatusNotFound, "This link is not valid")
	for name, address := range map[string]string{
		"forged":               s.link[:len(s.link)-5] + "AAAAA",
		"of another key":       s.at(testLinks(t, []byte(strings.Repeat("m", 40))).URL(claim)),
		"another path":         strings.Replace(s.link, "/prefix", "", 1),
		"more path":            s.link + "/",
		"of a deleted request": link(func(c *Claims) { c.Name = "gone" }),
		"of one made again":    link(func(c *Claims) { c.UID = "6f0c7f4e-0000-4000-8000-000000000008" }),
		"in another namespace": link(func(c *Claims) { c.Namespace = "other" }),
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if a := s.do(method, address, nil); a.code != unknown.code || a.body != unknown.body {
				t.Errorf("%s %s: answered %d %s", method, name, a.code, a.body)
			}
		}
	}
	s.server.now = func() time.Time { return claim.Expires }
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		s.shows(s.do(method, s.link, nil), http.StatusGone, "This link has expired")
	}
	s.isAcknowledged(false)
	s.server.now = func() time.Time { return claim.Expires.Add(-time.Nanosecond) }
	s.shows(s.press(""), http.StatusOK)
}

func TestWhatIsNoPressOfTheButtonChangesNothing(t *testing.T) {
	s := newSite(t)
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch, "BREW"} {
		a := s.do(method, s.link, nil)
		s.shows(a, http.StatusMethodNotAllowed, "Nothing was recorded.")
		if a.header.Get("Allow") != "GET, HEAD, POST" {
			t.Errorf("Allow is %q", a.header.Get("Allow"))
		}
	}
	for _, from := range []string{"cross-site", "same-site"} {
		s.shows(s.do(http.MethodPost, s.link, nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", from) }), http.StatusForbidden, "Another site sent it.")
	}
	s.shows(s.do(http.MethodPost, s.link, strings.NewReader("by="+strings.Repeat("x", maxBody))), http.StatusRequestEntityTooLarge, "at most 100 characters")
	s.shows(s.do(http.MethodPost, s.link, strings.NewReader("by=%zz")), http.StatusBadRequest, "This cannot be read")
	for name, by := range map[string]string{
		"too long": strings.Repeat("ü", 101), "a line feed": "Ada\nEve", "a bell": "Ada\a", "another direction": "Ada\u202eevE",
		"nothing to see": "Ada\u200b", "no text": "Ada\xff",
	} {
		t.Run(name, func(*testing.T) {
			s.shows(s.press(by), http.StatusBadRequest, "The name must have at most 100 characters that can be seen. Nothing was recorded.", "<form")
		})
	}
	s.isAcknowledged(false)
	s.shows(s.press(strings.Repeat("ü", 100)), http.StatusOK)
	s.isAcknowledged(true)
}

func TestNoPageClaimsWhatStatusDoesNotSay(t *testing.T) {
	resource := schema.GroupResource{Resource: "notificationrequests"}
	conflict := apierrors.NewConflict(resource, claim.Name, errors.New("somebody was faster"))
	away := errors.New("connection refused")
	s := newSite(t)
	s.getError = away
	for _, a := range []answer{s.do(http.MethodGet, s.link, nil), s.press("Ada")} {
		s.shows(a, http.StatusServiceUnavailable, "Please try again", "it is not certain that anything was recorded")
		if a.header.Get("Retry-After") == "" || strings.Contains(a.body, "refused") {
			t.Errorf("no Retry-After, or the error in the page: %v %s", a.header, a.body)
		}
	}
	s.getError = nil
	s.patchError = func() error { return away }
	s.shows(s.press("Ada"), http.StatusServiceUnavailable, "Please try again")
	s.patchError = func() error { return conflict }
	s.shows(s.press("Ada"), http.StatusServiceUnavailable, "Please try again")
	s.patchError = func() error { return apierrors.NewNotFound(resource, claim.Name) }
	s.shows(s.press("Ada"), http.StatusNotFound, "This link is not valid")
	s.isAcknowledged(false)
	conflicts := 0
	s.patchError = func() error {
		if conflicts++; conflicts < 4 {
			return conflict
		}
		return nil
	}
	s.shows(s.press("Ada"), http.StatusOK, "Ada")
	s.isAcknowledged(true)
}

// One who is shown the page has status read anew: what another replica wrote counts.
func TestAPressThatMeetsAnotherSaysWhoWasFirst(t *testing.T) {
	s := newSite(t)
	s.patchError = func() error {
		s.patchError = func() error { return nil }
		nr := s.stored()
		nr.Status.Acknowledgement = v1alpha1.Acknowledgement{
			Time: new(metav1.NewMicroTime(now)), Channel: "mail", By: "Eve", Audit: v1alpha1.AuditRecord{EventID: claim.UID, State: v1alpha1.AuditPending},
		}
		return s.cluster.Status().Update(t.Context(), nr)
	}
	s.shows(s.press("Ada"), http.StatusOK, "Eve", "through the channel mail")
}

func TestAFloodIsTurnedAwayAndAsksTheAPIServerForLittle(t *testing.T) {
	s := newSite(t)
	for range maxCalls {
		s.server.calls <- struct{}{}
	}
	w := httptest.NewRecorder()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // as at the end of the patience
	s.server.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, s.server.Links.path+s.server.Links.keys.Sign(claim), nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "Nothing was recorded.") {
		t.Errorf("answered %d %v %s", w.Code, w.Header(), w.Body)
	}
	// What is no link of ours needs no place.
	s.shows(s.do(http.MethodGet, s.web.URL+"/prefix/acknowledge/forged", nil), http.StatusNotFound)
	s.isAcknowledged(false)
}

func TestKeysAreRotatedWithoutALinkLost(t *testing.T) {
	s := newSite(t)
	before, after := testLinks(t, older), testLinks(t, newer, older)
	if before.URL(claim) == after.URL(claim) {
		t.Error("the first key does not sign")
	}
	s.shows(s.do(http.MethodGet, s.at(before.URL(claim)), nil), http.StatusOK)
	s.shows(s.do(http.MethodGet, s.at(after.URL(claim)), nil), http.StatusOK)
	s.server.Links = testLinks(t, newer)
	s.shows(s.do(http.MethodGet, s.at(before.URL(claim)), nil), http.StatusNotFound)
}

func TestEveryReplicaServesOverTLSUntilItIsTold(t *testing.T) {
	s := newSite(t)
	certificate := s.web.TLS.Certificates[0]
	dir := t.TempDir()
	writePEM(t, dir, certificate)
	listening := make(chan net.Addr, 1)
	o := s.server.Options
	o.Address, o.CertDir, o.Registry, o.Log = "127.0.0.1:0", dir, prometheus.NewRegistry(), logr.Discard()
	o.Listening = func(address net.Addr) { listening <- address }
	server := NewServer(o)
	if server.NeedLeaderElection() {
		t.Error("only the leader serves")
	}
	server.now = s.server.now
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	address := (<-listening).String()
	s.link = strings.Replace(s.link, strings.TrimPrefix(s.web.URL, "https://"), address, 1)
	s.shows(s.press("Ada"), http.StatusOK, "Ada")
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}}).DialContext(t.Context(), "tcp", address)
	if err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAServerThatCannotServeSaysWhichFlag(t *testing.T) {
	s := newSite(t)
	o := s.server.Options
	o.Registry, o.Address, o.CertDir = prometheus.NewRegistry(), "127.0.0.1:0", t.TempDir()
	if err := NewServer(o).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "--acknowledge-cert-dir") {
		t.Errorf("error is %v", err)
	}
	o.Registry, o.Address = prometheus.NewRegistry(), s.web.Listener.Addr().String()
	if err := NewServer(o).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "--acknowledge-bind-address") {
		t.Errorf("error is %v", err)
	}
}

func TestARequestCannotGoBeforeItsAcknowledgementIsRecorded(t *testing.T) {
	s := newSite(t)
	get := func() *v1alpha1.NotificationRequest {
		nr := &v1alpha1.NotificationRequest{}
		if err := s.cluster.Get(t.Context(), client.ObjectKey{Namespace: claim.Namespace, Name: claim.Name}, nr); err != nil {
			t.Fatal(err)
		}
		return nr
	}
	if a := s.do(http.MethodPost, s.link, nil); a.code != http.StatusOK {
		t.Fatalf("answered %d", a.code)
	}
	if nr := get(); !slices.Equal(nr.Finalizers, []string{v1alpha1.Finalizer}) || nr.Status.Acknowledgement.Time == nil {
		t.Errorf("finalizers %v, acknowledgement %+v", nr.Finalizers, nr.Status.Acknowledgement)
	}

	s = newSite(t)
	nr := get()
	nr.Finalizers = []string{"example.com/another"}
	if err := s.cluster.Update(t.Context(), nr); err != nil {
		t.Fatal(err)
	}
	if err := s.cluster.Delete(t.Context(), nr); err != nil {
		t.Fatal(err)
	}
	if a := s.do(http.MethodPost, s.link, nil); a.code != http.StatusNotFound {
		t.Errorf("answered %d for a request whose evidence nothing holds", a.code)
	}
	if nr := get(); nr.Status.Acknowledgement.Time != nil {
		t.Errorf("acknowledgement %+v", nr.Status.Acknowledgement)
	}
}
