package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// scene is a request to one webhook and what must become of it.
type scene struct {
	channel func(*v1alpha1.NotificationChannelSpec)
	answers []harness.Answer
	request func(*v1alpha1.NotificationRequestSpec)
	// meanwhile waits for a state on the way and acts on it.
	meanwhile func(s *stack, name string)
	end       func(*v1alpha1.NotificationRequest) error
	arrivals  int
	events    map[string]int
	check     func(t *testing.T, s *stack, d v1alpha1.Delivery)
}

// holdThen gives a person's word on a message that is held in doubt.
func holdThen(verdict string) func(*stack, string) {
	return func(s *stack, name string) {
		nr := s.wait(name, isStalled(v1alpha1.ReasonAmbiguous))
		if got := delivery(s.t, nr, name).State; got != v1alpha1.DeliveryAmbiguous {
			s.t.Errorf("state is %s while the message is held, want Ambiguous", got)
		}
		s.change(nr, func() { nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: name + "=" + verdict} })
	}
}

func onAmbiguous(policy v1alpha1.AmbiguousPolicy) func(*v1alpha1.NotificationRequestSpec) {
	return func(spec *v1alpha1.NotificationRequestSpec) { spec.OnAmbiguous = policy }
}

func duplicate(want bool) func(*testing.T, *stack, v1alpha1.Delivery) {
	return func(t *testing.T, s *stack, d v1alpha1.Delivery) {
		t.Helper()
		if got := d.PossibleDuplicate != nil && *d.PossibleDuplicate; got != want {
			t.Errorf("possibleDuplicate is %t, want %t", got, want)
		}
		for _, e := range s.storage.Events(t, "resource_id", d.Channel, "event_type", audit.TypeMessageSent) {
			if e.Data.PossibleDuplicate != want {
				t.Errorf("possible_duplicate is %t in the event, want %t", e.Data.PossibleDuplicate, want)
			}
		}
	}
}

var refused = "http://127.0.0.1:1/"

var scenes = map[string]scene{
	"busy-twice": {
		answers:  []harness.Answer{harness.Status(503), harness.Status(503), harness.Status(200)},
		end:      isSent,
		arrivals: 3,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 2},
		check:    duplicate(false),
	},
	"bad-gateway-may-have-delivered": {
		answers:  []harness.Answer{harness.Status(502), harness.Status(200)},
		end:      isSent,
		arrivals: 2,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1},
		check:    duplicate(true),
	},
	"attempts-spent": {
		answers:  []harness.Answer{harness.Status(503)},
		request:  func(spec *v1alpha1.NotificationRequestSpec) { spec.Retry.MaxAttempts = 3 },
		end:      isFailed,
		arrivals: 3,
		events:   map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 3},
	},
	"refused-by-content": {
		answers:  []harness.Answer{harness.Status(400)},
		end:      isFailed,
		arrivals: 1,
		events:   map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 1},
	},
	"asked-to-wait": {
		answers:  []harness.Answer{harness.RetryAfter(429, 2), harness.Status(200)},
		end:      isSent,
		arrivals: 2,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1},
		check: func(t *testing.T, s *stack, d v1alpha1.Delivery) {
			got := s.sink.Received("/" + d.Channel)
			if waited := got[1].At.Sub(got[0].At); waited < 2*time.Second || waited > 5*time.Second {
				t.Errorf("the second attempt came %s after the first, want 2s and little more", waited)
			}
		},
	},
	"nothing-listens": {
		channel:  func(spec *v1alpha1.NotificationChannelSpec) { spec.Webhook.URL = refused },
		request:  func(spec *v1alpha1.NotificationRequestSpec) { spec.Retry.MaxAttempts = 2 },
		end:      isFailed,
		arrivals: 0,
		events:   map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptFailed: 2},
		check:    duplicate(false),
	},
	"doubt-retry": {
		answers:  []harness.Answer{harness.Reset, harness.Status(200)},
		end:      isSent,
		arrivals: 2,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1},
		check:    duplicate(true),
	},
	"doubt-twice": {
		answers:   []harness.Answer{harness.Reset, harness.Reset, harness.Status(200)},
		meanwhile: holdThen("Sent"),
		end:       isSent,
		arrivals:  2,
		events:    map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 2},
		check:     duplicate(true),
	},
	"doubt-twice-retry": {
		answers:   []harness.Answer{harness.Reset, harness.Reset, harness.Status(200)},
		meanwhile: holdThen("Retry"),
		end:       isSent,
		arrivals:  3,
		events:    map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 2},
		check:     duplicate(true),
	},
	"doubt-timeout": {
		channel:  timeout("300ms"),
		answers:  []harness.Answer{harness.Hang, harness.Status(200)},
		end:      isSent,
		arrivals: 2,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1},
		check:    duplicate(true),
	},
	"doubt-idempotent": {
		channel:  idempotent,
		answers:  []harness.Answer{harness.Reset, harness.Status(200)},
		request:  onAmbiguous(v1alpha1.AmbiguousHold),
		end:      isSent,
		arrivals: 2,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1},
		check:    duplicate(false),
	},
	"doubt-assume-sent": {
		answers:  []harness.Answer{harness.Reset, harness.Status(200)},
		request:  onAmbiguous(v1alpha1.AmbiguousAssumeSent),
		end:      isSent,
		arrivals: 1,
		events:   map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1},
		check:    duplicate(false),
	},
	"doubt-hold-sent": {
		answers:   []harness.Answer{harness.Reset, harness.Status(200)},
		request:   onAmbiguous(v1alpha1.AmbiguousHold),
		meanwhile: holdThen("Sent"),
		end:       isSent,
		arrivals:  1,
		events:    map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1},
		check:     duplicate(false),
	},
	"doubt-hold-retry": {
		answers:   []harness.Answer{harness.Reset, harness.Status(200)},
		request:   onAmbiguous(v1alpha1.AmbiguousHold),
		meanwhile: holdThen("Retry"),
		end:       isSent,
		arrivals:  2,
		events:    map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1},
		check:     duplicate(true),
	},
	"doubt-hold-failed": {
		answers:   []harness.Answer{harness.Reset, harness.Status(200)},
		request:   onAmbiguous(v1alpha1.AmbiguousHold),
		meanwhile: holdThen("Failed"),
		end:       isFailed,
		arrivals:  1,
		events:    map[string]int{audit.TypeMessageFailed: 1, audit.TypeAttemptAmbiguous: 1},
	},
}

func TestWhatAWebhookAnswersDecidesWhatBecomesOfTheMessage(t *testing.T) {
	t.Parallel()
	s := run(t)
	for name, sc := range scenes {
		s.sink.Answer("/"+name, sc.answers...)
		var change []func(*v1alpha1.NotificationChannelSpec)
		if sc.channel != nil {
			change = append(change, sc.channel)
		}
		s.webhook(name, change...)
		nr := request(name, name)
		if sc.request != nil {
			sc.request(&nr.Spec)
		}
		s.create(nr)
	}
	for name, sc := range scenes {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.t = t
			if sc.meanwhile != nil {
				sc.meanwhile(&s, name)
			}
			nr := s.wait(name, sc.end, isAudited)
			d := delivery(t, nr, name)
			harness.WantEvents(t, s.storage.Events(t, "resource_id", name), sc.events)
			if got := len(s.sink.Received("/" + name)); got != sc.arrivals {
				t.Errorf("%d messages arrived, want %d", got, sc.arrivals)
			}
			if keys := s.sink.ByKey("/" + name); len(keys) > 1 {
				t.Errorf("the attempts have different keys: %v", keys)
			}
			if nr.Annotations[v1alpha1.ResolveAnnotation] != "" {
				t.Errorf("the annotation is still there: %v", nr.Annotations)
			}
			if sc.check != nil {
				sc.check(t, &s, d)
			}
		})
	}
}

func TestAttemptsKeepThePersistedDistances(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.webhook("hook")
	s.sink.Answer("/hook", harness.Status(503), harness.Status(503), harness.Status(200))
	nr := request("spaced", "hook")
	nr.Spec.Retry = v1alpha1.RetryPolicy{MaxAttempts: 3, InitialDelay: "1s", MaxDelay: "2s"}
	s.create(nr)

	next := map[int32]time.Time{}
	done := s.wait("spaced", func(nr *v1alpha1.NotificationRequest) error {
		for _, d := range nr.Status.Deliveries {
			if d.NextAttemptTime != nil {
				next[d.Attempts] = d.NextAttemptTime.Time
			}
		}
		return nil
	}, isSent)
	received := s.sink.Received("/hook")
	failures := delivery(t, done, "hook").AttemptFailures
	if len(received) != 3 || len(failures) != 2 || len(next) != 2 {
		t.Fatalf("%d arrivals, %d failures and %d waits, want 3, 2 and 2", len(received), len(failures), len(next))
	}
	for i, limit := range []time.Duration{time.Second, 2 * time.Second} {
		due := next[int32(i+1)]
		if wait := due.Sub(failures[i].Time.Time); wait < 0 || wait > limit {
			t.Errorf("attempt %d is due %s after the failure before, want at most %s", i+2, wait, limit)
		}
		if late := received[i+1].At.Sub(due); late < 0 || late > 5*time.Second {
			t.Errorf("attempt %d came %s after it was due", i+2, late)
		}
	}
}

func TestAWebhookGetsTheMessageInItsFormat(t *testing.T) {
	t.Parallel()
	s := run(t)
	begins := map[v1alpha1.WebhookFormat]string{
		"": `{"id":"`, v1alpha1.WebhookAlertmanager: `{"receiver":"alertmanager","status":"firing",`, v1alpha1.WebhookCloudEvents: `{"specversion":"1.0","id":"`,
	}
	names := map[v1alpha1.WebhookFormat]string{"": "plain", v1alpha1.WebhookAlertmanager: "alertmanager", v1alpha1.WebhookCloudEvents: "cloudevents"}
	for format, name := range names {
		s.webhook(name, func(spec *v1alpha1.NotificationChannelSpec) { spec.Webhook.Format = format })
	}
	s.send("formats", "plain", "alertmanager", "cloudevents")
	nr := s.wait("formats", isSent, isAudited)
	for format, name := range names {
		got := s.sink.Received("/" + name)
		if len(got) != 1 || !strings.HasPrefix(string(got[0].Body), begins[format]) {
			t.Fatalf("%s got %d messages: %s", name, len(got), got)
		}
		sum := sha256.Sum256(got[0].Body)
		if want := "sha256:" + hex.EncodeToString(sum[:]); delivery(t, nr, name).ContentDigest != want {
			t.Errorf("%s: digest %s, want %s, that of what arrived", name, delivery(t, nr, name).ContentDigest, want)
		}
		if cloud := got[0].Header.Get("Content-Type") == "application/cloudevents+json"; cloud != (format == v1alpha1.WebhookCloudEvents) || got[0].Key == "" {
			t.Errorf("%s: headers %v", name, got[0].Header)
		}
	}
}

func TestAFixedSecretSendsTheMessageThatItHeldBack(t *testing.T) {
	t.Parallel()
	s := run(t)
	token := s.secret("token", map[string]string{"token": "Bearer wrong"})
	s.sink.Answer("/hook", harness.IfHeader("Authorization", "Bearer right", harness.Status(200), harness.Status(401)))
	s.webhook("hook", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.Webhook.Headers = []v1alpha1.Header{{
			Name: "Authorization", ValueSecretRef: v1alpha1.SecretKeyRef{Name: "token", Key: "token"},
		}}
	})
	nr := request("held", "hook")
	nr.Spec.Retry = v1alpha1.RetryPolicy{MaxAttempts: 1, InitialDelay: "24h", MaxDelay: "24h"}
	s.create(nr)

	held := s.wait("held", isStalled("Unauthorized"), func(nr *v1alpha1.NotificationRequest) error {
		if !strings.Contains(fmt.Sprint(nr.Status.Conditions), "401") {
			return fmt.Errorf("no condition names the answer 401: %v", nr.Status.Conditions)
		}
		return nil
	})
	s.change(token, func() { token.StringData = map[string]string{"token": "Bearer right"} })
	sent := s.wait("held", isSent, isAudited)
	if sent.Generation != held.Generation {
		t.Error("the request was touched")
	}
	if d := delivery(t, sent, "hook"); d.Attempts != 2 || d.UncountedAttempts != 1 {
		t.Errorf("%d attempts, %d of them not counted, want 2 and 1", d.Attempts, d.UncountedAttempts)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptFailed: 1})
}
