package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

// saysWhy checks that the Stalled condition has the words in it.
func saysWhy(words ...string) func(*v1alpha1.NotificationRequest) error {
	return func(nr *v1alpha1.NotificationRequest) error {
		for _, c := range nr.Status.Conditions {
			if c.Type != v1alpha1.ConditionStalled {
				continue
			}
			for _, word := range words {
				if !strings.Contains(c.Message, word) {
					return fmt.Errorf("Stalled says %q and nothing of %q", c.Message, word)
				}
			}
			return nil
		}
		return fmt.Errorf("it is not Stalled")
	}
}

func TestWhatIsMissingHoldsAMessageUntilItIsThere(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	other := testenv.Namespace(t)
	s.namespaces = s.namespace + "," + other
	s.startStorage()
	s.startManager()

	s.send("no-channel", "missing")
	s.webhook("no-secret", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.Webhook = &v1alpha1.WebhookChannel{URLSecretRef: v1alpha1.SecretKeyRef{Name: "address", Key: "url"}}
	})
	s.send("no-secret", "no-secret")
	s.secret("empty", nil)
	s.webhook("no-key", func(spec *v1alpha1.NotificationChannelSpec) {
		spec.Webhook.SigningSecretRef = v1alpha1.SecretKeyRef{Name: "empty", Key: "key"}
	})
	s.send("no-key", "no-key")
	suspended := s.webhook("suspended", func(spec *v1alpha1.NotificationChannelSpec) { spec.Suspend = new(true) })
	s.send("channel-suspended", "suspended")
	foreign := &v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: other},
		Spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelWebhook, Webhook: &v1alpha1.WebhookChannel{URL: s.sink.URL + "/foreign"},
		},
	}
	abroad := request("abroad", "foreign")
	abroad.Spec.Channels[0].Namespace = other
	s.create(foreign, abroad)

	s.wait("no-channel", isStalled("ChannelNotFound"), saysWhy(s.namespace+"/missing", "create it"))
	s.wait("no-secret", isStalled("SecretNotFound"), saysWhy("address", "create it"))
	s.wait("no-key", isStalled("SecretKeyNotFound"), saysWhy("empty", "key", "add it"))
	s.wait("channel-suspended", isStalled("ChannelSuspended"), saysWhy("suspended", "set its suspend to false"))
	s.wait("abroad", isStalled("NamespaceNotAllowed"), saysWhy(other+"/foreign", s.namespace, "allowedNamespaces"))
	if got := s.sink.Received(""); len(got) != 0 {
		t.Errorf("%d messages arrived though something is missing for each", len(got))
	}

	s.webhook("missing")
	s.secret("address", map[string]string{"url": s.sink.URL + "/no-secret\n"})
	empty := s.secretNamed("empty")
	s.change(empty, func() { empty.StringData = map[string]string{"key": "0123456789abcdef"} })
	s.change(suspended, func() { suspended.Spec.Suspend = nil })
	s.change(foreign, func() { foreign.Spec.AllowedNamespaces = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(s.namespace)} })
	for _, name := range []string{"no-channel", "no-secret", "no-key", "channel-suspended", "abroad"} {
		s.wait(name, isSent, isAudited)
	}
	s.wantEachArrivedOnce(5)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 5})
}

func TestAFileChannelWritesEachMessageIntoAFileOfItsOwn(t *testing.T) {
	t.Parallel()
	s := run(t)
	s.create(&v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Name: "archive"},
		Spec:       v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelFile, File: v1alpha1.FileChannel{Directory: "team-a/incidents"}},
	})
	s.send("filed", "archive")
	nr := s.wait("filed", isSent, isAudited)
	text, err := os.ReadFile(filepath.Join(s.dir, "files", delivery(t, nr, "archive").ExternalID))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), nr.Spec.Subject) {
		t.Errorf("the subject is not in the file:\n%s", text)
	}
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: 1})
}

func TestNothingIsSentBeforeItsTimeOrAfterItsDeadline(t *testing.T) {
	t.Parallel()
	s := run(t)
	for _, name := range []string{"resumed", "later"} {
		s.webhook(name)
	}
	s.waitReady()
	suspended := request("resumed", "resumed")
	suspended.Spec.Suspend = new(true)
	later := request("later", "later")
	later.Spec.NotBefore = new(metav1.NewTime(time.Now().Add(3 * time.Second).Truncate(time.Second)))
	late := request("late", "missing")
	late.Spec.Deadline = "1s"
	lateSuspended := request("late-suspended", v1alpha1.ConsoleChannel)
	lateSuspended.Spec.Suspend, lateSuspended.Spec.Deadline = new(true), "1s"
	s.create(suspended, later, late, lateSuspended)

	s.wait("resumed", harness.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSuspended))
	for _, name := range []string{"late", "late-suspended"} {
		nr := s.wait(name, isFailed, isAudited)
		if d := nr.Status.Deliveries[0]; d.State != v1alpha1.DeliverySkipped || d.LastError.Reason != "DeadlineExceeded" {
			t.Errorf("%s is %s for %s, want Skipped for DeadlineExceeded", name, d.State, d.LastError.Reason)
		}
		harness.WantEvents(t, s.storage.Events(t, "resource_id", name), map[string]int{audit.TypeMessageFailed: 1})
	}
	if got := len(s.sink.Received("/resumed")); got != 0 {
		t.Errorf("%d messages of a suspended request arrived", got)
	}
	s.change(suspended, func() { suspended.Spec.Suspend = new(false) })
	s.wait("resumed", isSent, isAudited)
	s.wait("later", isSent, isAudited)
	if at := s.sink.Received("/later")[0].At; at.Before(later.Spec.NotBefore.Time) {
		t.Errorf("the message arrived at %s, want not before %s", at, later.Spec.NotBefore)
	}
	s.wantEachArrivedOnce(2)
}

// The largest events are together more than DataStorage takes in one request.
func TestTheLargestAndStrangestRequestsAreSentAndAudited(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.startStorage()
	s.startManager("--audit-include-body", "--audit-flush-interval", "2s", "--audit-batch-size", "1000")
	wide := func(n int) string { return strings.Repeat("\U0001F600", n) }
	for i := range 25 {
		nr := request(fmt.Sprint("large-", i))
		nr.Spec.Subject, nr.Spec.Body, nr.Spec.Severity, nr.Spec.CorrelationID = wide(500), wide(32768), wide(64), wide(253)
		nr.Spec.Fields = map[string]v1alpha1.FieldValue{}
		for j := range 32 {
			nr.Spec.Fields[fmt.Sprint("field-", j)] = v1alpha1.FieldValue(wide(1024))
		}
		s.create(nr)
	}
	strange := request("strange")
	strange.Spec.Subject = "a\x01\u2028\uffff\u0085\x7f<>&\"\\b"
	strange.Spec.Fields = map[string]v1alpha1.FieldValue{"a b/\"\\\u20ac": "\t\n\r\x02", "\ue000": "private", "\U00010000": "astral"}
	s.create(strange)
	s.waitAll(60*time.Second, isAudited)
	harness.WantEvents(t, s.storage.Events(t, "limit", "20"), map[string]int{audit.TypeMessageSent: 26})
}
