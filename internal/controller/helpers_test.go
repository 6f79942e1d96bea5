package controller

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
)

// born is when all requests of these tests were created.
var born = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// ops is the only channel of newRequest.
const ops = "ops"

// newRequest returns a request as the API server has it after defaulting.
func newRequest(change ...func(*v1alpha1.NotificationRequest)) *v1alpha1.NotificationRequest {
	nr := &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "order-7", UID: "6f0c7f4e-0000-4000-8000-000000000007",
			Generation: 1, CreationTimestamp: metav1.NewTime(born),
		},
		Spec: v1alpha1.NotificationRequestSpec{
			Subject: "Order 7 is late", Body: "It left the house at noon.", BodyFormat: "Plain",
			Type: "Simple", Priority: "Medium",
			Channels:    []v1alpha1.ChannelReference{{Name: ops}},
			Retry:       v1alpha1.RetryPolicy{MaxAttempts: 5, InitialDelay: "5s", MaxDelay: "5m"},
			Deadline:    "24h",
			OnAmbiguous: v1alpha1.AmbiguousRetry,
		},
	}
	for _, c := range change {
		c(nr)
	}
	return nr
}

// withChannels has a request name these channels.
func withChannels(names ...string) func(*v1alpha1.NotificationRequest) {
	return func(nr *v1alpha1.NotificationRequest) {
		nr.Spec.Channels = nil
		for _, name := range names {
			nr.Spec.Channels = append(nr.Spec.Channels, v1alpha1.ChannelReference{Name: name})
		}
	}
}

func withPolicy(policy v1alpha1.AmbiguousPolicy) func(*v1alpha1.NotificationRequest) {
	return func(nr *v1alpha1.NotificationRequest) { nr.Spec.OnAmbiguous = policy }
}

func withMaxAttempts(n int32) func(*v1alpha1.NotificationRequest) {
	return func(nr *v1alpha1.NotificationRequest) { nr.Spec.Retry.MaxAttempts = n }
}

func withDeadline(d v1alpha1.Duration) func(*v1alpha1.NotificationRequest) {
	return func(nr *v1alpha1.NotificationRequest) { nr.Spec.Deadline = d }
}

// webhook is a channel without idempotency of its own.
func webhook() channel {
	return channel{kind: v1alpha1.ChannelWebhook, timeout: 10 * time.Second, config: "A"}
}

// builtIn is the console.
func builtIn() channel {
	return channel{kind: v1alpha1.ChannelConsole, idempotent: true, timeout: consoleTimeout}
}

// longest is the jitter that draws the longest wait, shortest the one that draws none.
func longest(limit time.Duration) time.Duration { return limit }
func shortest(time.Duration) time.Duration      { return 0 }

// lab plays one process at work on one request. Every plan that it makes is made
// twice, to see that the second changes nothing.
type lab struct {
	t testing.TB
	planner
	nr *v1alpha1.NotificationRequest
}

func newLab(t testing.TB, change ...func(*v1alpha1.NotificationRequest)) *lab {
	t.Helper()
	l := &lab{t: t, nr: newRequest(change...), planner: planner{
		channels: map[string]channel{}, sends: map[string]sendState{}, receipts: map[string]audit.Receipt{},
		now: born.Add(time.Second), jitter: longest,
	}}
	for _, ref := range channelRefs(l.nr) {
		l.channels[ref.Name] = webhook()
		if ref.Name == v1alpha1.ConsoleChannel {
			l.channels[ref.Name] = builtIn()
		}
	}
	return l
}

func (l *lab) plan() decision {
	l.t.Helper()
	before := l.nr.DeepCopy()
	l.spent = nil
	d := l.planner.plan(l.nr)
	once := l.nr.DeepCopy()
	again := l.planner.plan(l.nr)
	again.spent = d.spent
	if diff := cmp.Diff(d, again, cmp.AllowUnexported(decision{})); diff != "" {
		l.t.Errorf("a second plan decides otherwise (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff(once.Status, l.nr.Status); diff != "" {
		l.t.Errorf("a second plan changes status (-first +second):\n%s", diff)
	}
	before.Status = l.nr.Status
	if diff := cmp.Diff(before, l.nr); diff != "" {
		l.t.Errorf("the plan changed more than status (-before +after):\n%s", diff)
	}
	checkSchema(l.t, l.nr)
	return d
}

func (l *lab) pass(d time.Duration) { l.now = l.now.Add(d) }

func (l *lab) delivery(channel string) *v1alpha1.Delivery {
	l.t.Helper()
	d := deliveryOf(&l.nr.Status, channel)
	if d == nil {
		l.t.Fatalf("status has no delivery to %s", channel)
	}
	return d
}

// begin marks the next attempt as begun by this process.
func (l *lab) begin(channel string) {
	l.t.Helper()
	d := l.delivery(channel)
	begin(d, l.channels[channel], l.now)
	l.sends[channel] = sendState{outcome: outcome{attempt: d.Attempts}}
}

// end gives the running attempt its outcome one second later, nil for success,
// brings it to status and forgets it.
func (l *lab) end(channel string, err *delivery.Error) decision {
	l.t.Helper()
	started := l.now
	l.pass(time.Second)
	l.sends[channel] = sendState{done: true, outcome: outcome{
		attempt: l.sends[channel].attempt, config: l.channels[channel].config, started: started, finished: l.now,
		receipt: delivery.Receipt{Digest: "sha256:" + strings.Repeat("a", 64)}, err: err,
	}}
	if err == nil {
		s := l.sends[channel]
		s.receipt.ExternalID = "msg-1"
		l.sends[channel] = s
	}
	d := l.plan()
	delete(l.sends, channel)
	return d
}

// attempt makes one attempt from its beginning to its end. It must be due.
func (l *lab) attempt(channel string, err *delivery.Error) decision {
	l.t.Helper()
	if d := l.plan(); !slices.Contains(d.due, channel) {
		l.t.Fatalf("no attempt on %s is due: %+v", channel, *l.delivery(channel))
	}
	l.begin(channel)
	return l.end(channel, err)
}

// say has a person's words followed and taken off.
func (l *lab) say(words string) {
	l.t.Helper()
	l.nr.Annotations = map[string]string{v1alpha1.ResolveAnnotation: words}
	dropResolutions(l.nr, l.plan().spent)
}

// crash loses all that this process knew.
func (l *lab) crash() { clear(l.sends); clear(l.receipts) }

// record answers for all pending events as DataStorage does.
func (l *lab) record() {
	for _, e := range pendingEvents(l.nr, false) {
		l.receipts[e.EventID.String()] = audit.Receipt{EventID: e.EventID, Recorded: true, LogIndex: new(int64(4)), Time: l.now}
	}
}

func transient() *delivery.Error {
	return &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "503", Message: "receiver.example answered 503"}
}

func permanent() *delivery.Error {
	return &delivery.Error{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest, Code: "400", Message: "receiver.example answered 400"}
}

func refused() *delivery.Error {
	return &delivery.Error{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "401", Message: "receiver.example answered 401"}
}

func unanswered() *delivery.Error {
	return &delivery.Error{Class: delivery.Ambiguous, Reason: delivery.ReasonTimeout, Message: "receiver.example: timed out after the message was written", MaybeDelivered: true}
}

// eventTypes returns the types of the events that are still to be recorded.
func eventTypes(nr *v1alpha1.NotificationRequest) (all []string) {
	for _, e := range pendingEvents(nr, false) {
		all = append(all, e.EventType)
	}
	return all
}

// statusSchema is read from the generated definition.
var statusSchema = sync.OnceValues(func() (*spec.Schema, error) {
	raw, err := os.ReadFile("../../config/crd/notification.kubernaut.ai_notificationrequests.yaml")
	if err != nil {
		return nil, err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema spec.Schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		return nil, err
	}
	schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"]
	return &schema, nil
})

// failer is what testing.TB and rapid.T share.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkSchema checks status against the generated definition: what the API
// server would not take, the controller could never write.
func checkSchema(t failer, nr *v1alpha1.NotificationRequest) {
	t.Helper()
	schema, err := statusSchema()
	if err != nil {
		t.Fatalf("read definition: %v", err)
	}
	raw, err := utiljson.Marshal(nr.Status)
	if err != nil {
		t.Fatalf("encode status: %v", err)
	}
	var value map[string]any
	if err := utiljson.Unmarshal(raw, &value); err != nil {
		t.Fatalf("decode status: %v", err)
	}
	if result := validate.NewSchemaValidator(schema, nil, "status", strfmt.Default).Validate(value); !result.IsValid() {
		t.Fatalf("the API server would not take the status: %v\n%s", result.Errors, raw)
	}
}

// equal fails where two values differ, naming what they are.
func equal[T any](t failer, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.AllowUnexported(limit{}, wait{})); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}
