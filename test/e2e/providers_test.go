//go:build e2e

package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// delivery returns a request's delivery to a channel.
func (s *suite) delivery(nr *v1alpha1.NotificationRequest, channel string) v1alpha1.Delivery {
	s.Helper()
	for _, d := range nr.Status.Deliveries {
		if d.Channel == channel {
			return d
		}
	}
	s.Fatalf("%s has no delivery to %s", nr.Name, channel)
	return v1alpha1.Delivery{}
}

// failedBy returns a check that the first attempt of a request's only delivery ended
// with an error of a class and for a reason.
func failedBy(class v1alpha1.ErrorClass, reason string) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		if len(nr.Status.Deliveries) == 0 || len(nr.Status.Deliveries[0].AttemptFailures) == 0 {
			return errors.New("no attempt has failed")
		}
		if e := nr.Status.Deliveries[0].AttemptFailures[0].Error; e.Class != class || e.Reason != reason {
			return fmt.Errorf("the first error is %+v, want %s, %s", e, class, reason)
		}
		return nil
	}
}

// each plays a part of a scene for each account, by the name of its channel.
func (s *suite) each(accounts map[string]account, play func(s suite, name string, a account)) {
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		s.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			play(s, name, accounts[name])
		})
	}
}

// eachProvider sends what is short and what is longer than any of them takes, and
// then changes all credentials, at the provider first and in the Secret after.
func eachProvider(s suite) {
	certificate := s.certificate(time.Hour)
	accounts := map[string]account{}
	for _, provider := range providerNames {
		accounts[provider] = providers[provider](&s, provider, certificate.Server)
		s.open(provider, accounts[provider], certificate.Server, certificate.PEM)
	}
	s.send("short", providerNames)
	s.send("long", providerNames, func(spec *v1alpha1.NotificationRequestSpec) {
		spec.Subject = strings.Repeat("Wörter, ", 62)
		spec.BodyFormat, spec.Body = "Markdown", strings.Repeat("- **ein** `Satz` über <!channel> & @everyone \U0001F6A8\n", 600)
	})
	for _, name := range []string{"short", "long"} {
		nr := s.wait(name, soon, sent, audited)
		harness.WantEvents(s.T, s.events(name), map[string]int{audit.TypeMessageSent: len(providerNames)})
		for _, provider := range []string{"slack-bot", "teams", "discord", "pagerduty", "mail", "mail-tls"} {
			if d := s.delivery(nr, provider); d.ExternalID == "" {
				s.Errorf("%s: %s has left no receipt", name, provider)
			}
		}
	}

	renewed := map[string]string{}
	for provider, a := range accounts {
		renewed[provider] = a.grant(newWord)
	}
	s.send("rotated", providerNames)
	s.wait("rotated", soon, func(nr *v1alpha1.NotificationRequest) error {
		var errs []error
		for _, d := range nr.Status.Deliveries {
			if d.LastError.Class != v1alpha1.ErrorConfig || d.LastError.Reason != accounts[d.Channel].denied {
				errs = append(errs, fmt.Errorf("%s is %s: %+v", d.Channel, d.State, d.LastError))
			}
		}
		if len(nr.Status.Deliveries) == 0 {
			errs = append(errs, errors.New("there are no deliveries"))
		}
		return errors.Join(errs...)
	})
	for provider, credential := range renewed {
		s.setSecret(provider, "credential", credential)
	}
	nr := s.wait("rotated", soon, sent, audited)
	failures := 0
	for _, d := range nr.Status.Deliveries {
		if failures += len(d.AttemptFailures); d.UncountedAttempts != d.Attempts-1 {
			s.Errorf("%s: %d of %d attempts are not counted, want all but the last", d.Channel, d.UncountedAttempts, d.Attempts)
		}
		if n := accounts[d.Channel].taken(); n != 3 {
			s.Errorf("%s took %d messages, want 3", d.Channel, n)
		}
	}
	harness.WantEvents(s.T, s.events("rotated"), map[string]int{audit.TypeMessageSent: len(providerNames), audit.TypeAttemptFailed: failures})
}

// fate is what becomes of a message whose first attempt got an answer.
type fate struct {
	end    func(*v1alpha1.NotificationRequest) error
	taken  int
	events map[string]int
	// mended: it goes on when somebody changes the channel.
	mended bool
	// waits is the shortest time to the second attempt.
	waits time.Duration
	// duplicate: nobody knows whether it is shown twice.
	duplicate bool
}

var (
	failedOnce = map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1}
	doubted    = map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1}
)

var fates = map[string]fate{
	"permanent": {end: failed, events: map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1}},
	"config":    {end: sent, taken: 1, events: failedOnce, mended: true},
	"seconds":   {end: sent, taken: 1, events: failedOnce, waits: 2 * time.Second},
	"date":      {end: sent, taken: 1, events: failedOnce, waits: 4 * time.Second}, // of five, less what the answer takes to reach status
	"limited":   {end: sent, taken: 1, events: failedOnce},
	"transient": {end: sent, taken: 1, events: failedOnce},
	"doubt":     {end: sent, taken: 2, events: doubted, duplicate: true},
	"again":     {end: sent, taken: 2, events: doubted},
}

// eachAnswer has each provider answer in all the ways that mean something.
func eachAnswer(s suite) {
	certificate := s.certificate(time.Hour)
	accounts := map[string]account{}
	for _, provider := range providerNames {
		for kind := range fates {
			name := kind + "-" + provider
			a := providers[provider](&s, name, certificate.Server)
			said, ok := a.answers[kind]
			if !ok {
				continue
			}
			said.tell()
			s.open(name, a, certificate.Server, certificate.PEM)
			s.send(name, []string{name})
			accounts[name] = a
		}
	}
	s.each(accounts, func(s suite, name string, a account) {
		kind, _, _ := strings.Cut(name, "-")
		want, said := fates[kind], a.answers[kind]
		if want.mended {
			s.wait(name, soon, stalled(said.reason))
			if got := a.taken(); got != 0 {
				s.Errorf("%d messages were taken before it was mended", got)
			}
			s.change(name, `{"spec":{"timeout":"9s"}}`)
		}
		nr := s.wait(name, soon, want.end, audited)
		harness.WantEvents(s.T, s.events(name), want.events)
		d := nr.Status.Deliveries[0]
		if got := a.taken(); got != want.taken {
			s.Errorf("%d messages were taken, want %d", got, want.taken)
		}
		if len(d.AttemptFailures) != 1 {
			s.Fatalf("failures are %+v, want one", d.AttemptFailures)
		}
		failure := d.AttemptFailures[0]
		if e := failure.Error; e.Class != said.class || e.Reason != said.reason || e.Code != said.code || e.Message == "" {
			s.Errorf("status says %+v, want %s, %s and %q", e, said.class, said.reason, said.code)
		}
		if d.SentTime != nil && d.SentTime.Sub(failure.Time.Time) < want.waits {
			s.Errorf("it was sent %s after the failure, want %s", d.SentTime.Sub(failure.Time.Time), want.waits)
		}
		// Whether a server that has failed may have delivered all the same depends on its code.
		if got := d.PossibleDuplicate != nil && *d.PossibleDuplicate; got != want.duplicate && kind != "transient" {
			s.Errorf("possibleDuplicate is %t, want %t", got, want.duplicate)
		}
	})
}

// untrusted has servers whose certificates are no good, or that break off before they
// show one, until they are mended.
func untrusted(s suite) {
	good, expired := s.certificate(time.Hour), s.certificate(-time.Hour)
	elsewhere := standin.NewCertificate(s.T, time.Hour, "elsewhere.example.com")
	kinds := map[string]struct {
		first  *tls.Config // nil: breaks off
		ca     []byte
		class  v1alpha1.ErrorClass
		reason string
	}{
		"selfsigned": {good.Server, nil, v1alpha1.ErrorConfig, "UnknownAuthority"},
		"expired":    {expired.Server, expired.PEM, v1alpha1.ErrorConfig, "CertificateInvalid"},
		"wronghost":  {elsewhere.Server, elsewhere.PEM, v1alpha1.ErrorConfig, "CertificateInvalid"},
		"cut":        {nil, good.PEM, v1alpha1.ErrorTransient, "ConnectionReset"},
	}
	accounts, servers := map[string]account{}, map[string]*atomic.Pointer[tls.Config]{}
	for kind, c := range kinds {
		server := &atomic.Pointer[tls.Config]{}
		server.Store(c.first)
		servers[kind] = server
		config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			config := server.Load()
			if config == nil {
				return nil, errors.Join(net.ErrClosed, hello.Conn.Close())
			}
			return config, nil
		}}
		for _, provider := range providerNames {
			name := kind + "-" + provider
			accounts[name] = providers[provider](&s, name, config)
			s.open(name, accounts[name], config, c.ca)
			s.send(name, []string{name}, func(spec *v1alpha1.NotificationRequestSpec) { spec.Retry.MaxAttempts = 20 })
		}
	}
	for name, a := range accounts {
		kind, _, _ := strings.Cut(name, "-")
		s.wait(name, soon, failedBy(kinds[kind].class, kinds[kind].reason))
		if got := a.taken(); got != 0 {
			s.Errorf("%s: %d messages were sent to a server that is not trusted", name, got)
		}
	}
	for _, server := range servers {
		server.Store(good.Server)
	}
	for name := range accounts {
		s.setSecret(name, "ca", string(good.PEM))
		s.change(name, fmt.Sprintf(`{"spec":{"tls":{"caSecretRef":{"name":%q,"key":"ca"}}}}`, name))
	}
	s.each(accounts, func(s suite, name string, a account) {
		nr := s.wait(name, soon, sent, audited)
		harness.WantEvents(s.T, s.events(name), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: int(nr.Status.Deliveries[0].Attempts) - 1})
		if got := a.taken(); got != 1 {
			s.Errorf("%d messages were taken once it was mended, want 1", got)
		}
	})
}

// route makes a route and waits until requests take it.
func (s *suite) route(name string, spec v1alpha1.NotificationRouteSpec) {
	s.Helper()
	s.create(&v1alpha1.NotificationRoute{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
	s.kubectl("-n", s.namespace, "wait", "--for=condition=Ready", "nrt/"+name, "--timeout=60s")
}

// routed has requests that name no channel, repeat one another, or come faster than
// their channel takes them.
func routed(s suite) {
	s.webhook("routed")
	s.route("high", v1alpha1.NotificationRouteSpec{
		Match:    []v1alpha1.RouteMatcher{{Attribute: v1alpha1.AttributePriority, In: []v1alpha1.RouteValue{"High", "Critical"}}},
		Channels: []v1alpha1.ChannelReference{{Name: "routed"}},
	})
	high := func(spec *v1alpha1.NotificationRequestSpec) { spec.Priority = "High" }
	s.send("routed-high", nil, high)
	s.send("routed-low", nil)
	if nr := s.wait("routed-high", soon, sent, audited); nr.Status.Deliveries[0].Channel != "routed" {
		s.Errorf("routed to %+v, want what the route says", nr.Status.Deliveries)
	}
	if nr := s.wait("routed-low", soon, sent, audited); nr.Status.Deliveries[0].Channel != v1alpha1.ConsoleChannel {
		s.Errorf("routed to %+v, want the console where no route matches", nr.Status.Deliveries)
	}
	repeats := func(spec *v1alpha1.NotificationRequestSpec) {
		spec.Dedup = v1alpha1.Dedup{Key: "disk-full", Window: "1h"}
	}
	for i := range 5 {
		s.send(fmt.Sprint("repeated-", i), nil, high, repeats)
	}
	originals := 0
	for i := range 5 {
		if nr := s.wait(fmt.Sprint("repeated-", i), soon, audited); nr.Status.DuplicateOf.Name == "" {
			originals++
		}
	}
	if got := len(s.sink.Received("/routed")); originals != 1 || got != 2 {
		s.Errorf("%d of 5 requests that repeat one another were sent, and %d messages arrived; want 1 and 2", originals, got)
	}

	s.webhook("paced", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.RateLimit = v1alpha1.RateLimit{Messages: 1, Interval: "1s"}
	})
	for i := range 4 {
		s.send(fmt.Sprint("paced-", i), []string{"paced"})
	}
	for i := range 4 {
		nr := s.wait(fmt.Sprint("paced-", i), soon, sent, audited)
		if d := nr.Status.Deliveries[0]; d.Attempts != 1 {
			s.Errorf("paced-%d took %d attempts: a wait is none", i, d.Attempts)
		}
	}
	if got := s.sink.Received("/paced"); len(got) != 4 || got[3].At.Sub(got[0].At) < 2500*time.Millisecond {
		s.Errorf("%d messages arrived, want 4 in at least three seconds", len(got))
	}
}
