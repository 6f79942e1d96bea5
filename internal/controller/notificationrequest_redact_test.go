package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/redact/redacttest"
)

// leaky is a request with secrets wherever a person can write.
func leaky(nr *v1alpha1.NotificationRequest) {
	var lines []string
	for _, p := range redacttest.All() {
		lines = append(lines, p.Text)
	}
	text := strings.Join(lines, "\n")
	token := redacttest.All()[0]
	nr.Spec.Subject, nr.Spec.Body = text, "**all:**\n"+text
	nr.Spec.Severity, nr.Spec.CorrelationID = token.Text, "see "+token.Text
	nr.Spec.Regarding = v1alpha1.ObjectReference{APIVersion: token.Text, Kind: token.Text, Namespace: token.Text, Name: token.Text}
	nr.Spec.Fields = map[string]v1alpha1.FieldValue{"password": "correct horse", "log": v1alpha1.FieldValue(text), "REDACTED-" + v1: "7"}
	for i, p := range redacttest.All()[:2] {
		nr.Spec.Fields[p.Text] = v1alpha1.FieldValue(fmt.Sprint(i))
	}
	nr.Spec.Links = []v1alpha1.Link{{Label: text, URL: "https://op:" + planted + "@example.com/?access_token=" + planted + "7&a=b"}}
}

// v1 is the kind of the first secrets that are planted.
var v1 = redacttest.All()[0].Kind

// leaks returns what of the planted secrets is in a text.
func leaks(text string) (all []string) {
	for _, secret := range append([]redacttest.Planted{{Secret: planted}, {Secret: "correct horse"}}, redacttest.All()...) {
		quoted, _ := json.Marshal(secret.Secret)
		if strings.Contains(text, secret.Secret) || strings.Contains(text, strings.Trim(string(quoted), `"`)) {
			all = append(all, secret.Kind+" "+secret.Secret)
		}
	}
	return all
}

// spoken is what a request says.
func spoken(t *testing.T, nr *v1alpha1.NotificationRequest) string {
	t.Helper()
	text, err := json.Marshal(nr)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEveryPartOfARequestIsMasked(t *testing.T) {
	nr := newRequest(leaky)
	equal(t, "planted", len(leaks(spoken(t, nr))), len(redacttest.All())+2)
	nr.Status.Redactions = mask(&nr.Spec)
	if found := leaks(spoken(t, nr)); found != nil {
		t.Errorf("still there: %q", found)
	}
	equal(t, "entries", len(nr.Status.Redactions), maxRedactions)
	equal(t, "last entry", nr.Status.Redactions[maxRedactions-1].Part, "others")
	checkSchema(t, nr)
}

func TestStatusSaysWhatIsMaskedAndWhere(t *testing.T) {
	token := redacttest.All()[0].Text
	nr := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Subject = "password=a1 and password=b2"
		nr.Spec.Body = "see https://example.com/?a=b"
		nr.Spec.CorrelationID, nr.Spec.Severity, nr.Spec.Regarding.Name = "on "+token, token, token
		nr.Spec.Links = []v1alpha1.Link{{Label: "log", URL: "https://example.com"}, {Label: token, URL: "https://me:secret1@example.com"}}
		nr.Spec.Fields = map[string]v1alpha1.FieldValue{
			"DB_PASSWORD": "correct horse", "node": "db-0", token: "one", "see " + token: "two", "REDACTED-" + v1: "mine",
		}
	})
	redactions := mask(&nr.Spec)
	equal(t, "redactions", redactions, []v1alpha1.Redaction{
		{Part: "subject", Kind: "Password", Count: 2},
		{Part: "severity", Kind: v1, Count: 1},
		{Part: "correlationID", Kind: v1, Count: 1},
		{Part: "regarding.name", Kind: v1, Count: 1},
		{Part: "links[1].label", Kind: v1, Count: 1},
		{Part: "links[1].url", Kind: "URLCredentials", Count: 1},
		{Part: "fields[DB_PASSWORD]", Kind: "Password", Count: 1},
		{Part: "fields", Kind: v1, Count: 2},
	})
	equal(t, "fields", nr.Spec.Fields, map[string]v1alpha1.FieldValue{
		"DB_PASSWORD": "REDACTED-Password", "node": "db-0",
		"REDACTED-" + v1: "mine", "REDACTED-" + v1 + "-2": "one", "REDACTED-" + v1 + "-3": "two",
	})
	equal(t, "correlation ID", nr.Spec.CorrelationID, "")
	equal(t, "body", nr.Spec.Body, "see https://example.com/?a=b")
	equal(t, "sentence", redacted(redactions[:2]),
		"3 secrets masked in what is sent and recorded, but still readable in this request: subject: Password (2), severity: "+v1)
	masked := nr.DeepCopy()
	equal(t, "masked again", mask(&nr.Spec), nil)
	equal(t, "spec", nr.Spec, masked.Spec)
}

func TestMaskingIsTheSameEachTime(t *testing.T) {
	first := newRequest(leaky)
	redactions := mask(&first.Spec)
	for range 5 {
		nr := newRequest(leaky)
		equal(t, "redactions", mask(&nr.Spec), redactions)
		equal(t, "spec", nr.Spec, first.Spec)
	}
}

func TestNothingThatIsSentOrToldHasASecretOfTheRequest(t *testing.T) {
	var sent strings.Builder
	object, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.Write(&sent)
		http.Error(w, "cannot connect to postgres://app:"+planted+"@db/app", http.StatusBadRequest)
	})
	nr := newRequest(leaky, withChannels(ops, v1alpha1.ConsoleChannel))
	spec := nr.Spec.DeepCopy()
	b := newBench(t, nr, object)
	b.IncludeBody = true
	b.mustLook()
	b.wait()
	b.ended()
	stored := b.stored()
	equal(t, "spec that is stored", &stored.Spec, spec)
	told := b.told()
	all := append(append(encode(t, b.recorded), sent.String()), told...)
	for _, m := range b.printed {
		all = append(all, fmt.Sprintf("%+v", *m))
	}
	status := spoken(t, &v1alpha1.NotificationRequest{Status: stored.Status})
	equal(t, "texts", len(all), 7)
	for _, text := range append(all, status) {
		if found := leaks(text); found != nil {
			t.Errorf("%q in %s", found, text)
		}
	}
	if !strings.Contains(status, "postgres://REDACTED-URLCredentials@db/app") {
		t.Errorf("the words of the receiver are not in status: %s", status)
	}
	masked := 0
	for _, event := range told {
		if strings.HasPrefix(event, "Warning SecretsMasked ") {
			masked++
		}
	}
	equal(t, "Events of masked secrets", masked, 1)
	condition := meta.FindStatusCondition(stored.Status.Conditions, v1alpha1.ConditionRedacted)
	if condition == nil || condition.Reason != v1alpha1.ReasonSecretsMasked || !strings.Contains(condition.Message, "subject: "+v1) {
		t.Errorf("the condition is %+v", condition)
	}
	want := map[string]float64{}
	for _, r := range stored.Status.Redactions {
		want[r.Kind] += float64(r.Count)
	}
	for kind, n := range want {
		equal(t, "counted of "+kind, testutil.ToFloat64(b.Metrics.redactions.WithLabelValues(kind)), n)
	}
}

func TestWhatWasMaskedStaysInTheStatusOfAFinishedRequest(t *testing.T) {
	b := newBench(t, newRequest(leaky, withChannels()))
	b.send()
	was := b.stored().Status.Redactions
	equal(t, "entries", len(was), maxRedactions)
	b.KeepSecrets = true
	b.acknowledge()
	b.mustLook()
	equal(t, "redactions", b.stored().Status.Redactions, was)
}

func TestSecretsAreKeptWhereTheOperatorSaysSo(t *testing.T) {
	b := newBench(t, newRequest(leaky, withChannels()))
	b.KeepSecrets = true
	b.send()
	equal(t, "printed", b.printed[0].Body, newRequest(leaky).Spec.Body)
	equal(t, "redactions", b.stored().Status.Redactions, nil)
	if c := meta.FindStatusCondition(b.stored().Status.Conditions, v1alpha1.ConditionRedacted); c != nil {
		t.Errorf("the condition is %+v", c)
	}
}
