package integration

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// pagerDuty creates a channel to the stand-in, whose routing key is in a Secret of
// the same name.
func (s *stack) pagerDuty(name, key string, p *standin.PagerDuty, dedup v1alpha1.PagerDutyDedup) {
	s.t.Helper()
	s.secret(name, map[string]string{"key": key, "ca.crt": string(p.CA)})
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelPagerDuty,
			PagerDuty: v1alpha1.PagerDutyChannel{
				RoutingKeySecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "key"}, DedupBy: dedup,
			},
			TLS:   v1alpha1.TLSConfig{CASecretRef: v1alpha1.SecretKeyRef{Name: name, Key: "ca.crt"}},
			Proxy: &v1alpha1.ProxyConfig{URL: p.Proxy},
		},
	})
}

func TestPagerDutyHasOneAlertForAnIncidentFromItsBeginningToItsEnd(t *testing.T) {
	t.Parallel()
	s := run(t)
	pagerDuty := standin.NewPagerDuty(t)
	s.pagerDuty("incidents", standin.PagerDutyKey, pagerDuty, v1alpha1.PagerDutyByCorrelation)
	alert := standin.PagerDutyAlert{DedupKey: s.namespace + "/incident-42", Triggers: 1, Open: true}

	say := func(name string, kind v1alpha1.RequestType, change ...func(*v1alpha1.NotificationRequest)) v1alpha1.Delivery {
		t.Helper()
		nr := request(name, "incidents")
		nr.Spec.Type, nr.Spec.CorrelationID = kind, "incident-42"
		for _, c := range change {
			c(nr)
		}
		s.create(nr)
		d := delivery(t, s.wait(name, isSent, isAudited), "incidents")
		if d.ExternalID != alert.DedupKey {
			t.Errorf("%s: external ID %q, want the alert's key", name, d.ExternalID)
		}
		if diff := cmp.Diff([]standin.PagerDutyAlert{alert}, pagerDuty.Alerts()); diff != "" {
			t.Errorf("alerts after %s, want (-) and got (+):\n%s", name, diff)
		}
		return d
	}

	say("begins", "Escalation")

	// In doubt it is sent again, whatever onAmbiguous says: the key is the same.
	pagerDuty.Lose()
	alert.Triggers = 3
	d := say("in-doubt", "StatusUpdate", func(nr *v1alpha1.NotificationRequest) { nr.Spec.OnAmbiguous = v1alpha1.AmbiguousHold })
	if d.Attempts != 2 || d.PossibleDuplicate != nil && *d.PossibleDuplicate {
		t.Errorf("%d attempts, possible duplicate %v", d.Attempts, d.PossibleDuplicate)
	}
	harness.WantEvents(t, s.storage.Events(t, "resource_id", "in-doubt"), map[string]int{audit.TypeMessageSent: 1, audit.TypeAttemptAmbiguous: 1})

	pagerDuty.Limit("1")
	alert.Triggers, alert.Open = 3, false
	if d := say("ends", "Completion"); d.Attempts != 2 || d.AttemptFailures[0].Error.Reason != "RateLimited" {
		t.Errorf("%d attempts, failures %+v", d.Attempts, d.AttemptFailures)
	}
}

func TestPagerDutysErrorsAreToldAndTheRoutingKeyIsNot(t *testing.T) {
	t.Parallel()
	s := run(t)
	pagerDuty := standin.NewPagerDuty(t)
	const wrong = "0wrong0routing0key0of0an0account"
	s.pagerDuty("wrong-key", wrong, pagerDuty, v1alpha1.PagerDutyByRequest)
	s.pagerDuty("refused", standin.PagerDutyKey, pagerDuty, v1alpha1.PagerDutyByRequest)

	pagerDuty.Refuse("'payload.source' is missing or blank")
	s.send("refused", "refused")
	failed := s.wait("refused", isFailed, isAudited)
	if e := delivery(t, failed, "refused").LastError; e.Class != v1alpha1.ErrorPermanent || !strings.Contains(e.Message, "'payload.source' is missing or blank") {
		t.Errorf("last error %+v, want a permanent one with PagerDuty's words", e)
	}

	s.send("wrong-key", "wrong-key")
	held := s.wait("wrong-key", isStalled("Unauthorized"))
	if e := delivery(t, held, "wrong-key").LastError; !strings.Contains(e.Message, "put the integration key of an Events API v2 integration into the Secret") || strings.Contains(e.Message, wrong) {
		t.Errorf("last error %+v, want what to do, without the key", e)
	}
	secret := s.secretNamed("wrong-key")
	s.change(secret, func() { secret.StringData = map[string]string{"key": standin.PagerDutyKey} })
	d := delivery(t, s.wait("wrong-key", isSent, isAudited), "wrong-key")
	if got := pagerDuty.Alerts(); d.UncountedAttempts != d.Attempts-1 || len(got) != 1 || got[0].DedupKey != d.ExternalID {
		t.Errorf("%d attempts, %d of them not counted; alerts %v, external ID %q", d.Attempts, d.UncountedAttempts, got, d.ExternalID)
	}
}
