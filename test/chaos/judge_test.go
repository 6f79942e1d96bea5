package chaos

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

// stored is an event as the log of a history has it, at the next place.
func (h *history) store(o *obligation, kind, channel string, attempt int) *harness.Stored {
	e := harness.Stored{LogIndex: int64(len(h.events))}
	e.EventType, e.ResourceID, e.CorrelationID = kind, o.name, o.correlation
	e.Data.UID, e.Data.Channel, e.Data.Attempt = string(o.uid), channel, attempt
	parts := []string{kind, string(o.uid)}
	if channel != "" {
		parts = append(parts, channel)
	}
	if kind == audit.TypeAttemptFailed || kind == audit.TypeAttemptAmbiguous {
		parts = append(parts, string(rune('0'+attempt)))
	}
	e.EventID = audit.EventID(parts...)
	h.events = append(h.events, e)
	return &h.events[len(h.events)-1]
}

// good is a history in which a request went to a plain channel twice, the second
// time because the first was in doubt, and said so.
func good() *history {
	o := &obligation{
		name: "r", correlation: "c", uid: "u", onAmbiguous: v1alpha1.AmbiguousRetry,
		words: map[string][]string{}, expected: expected{named: []string{chPlain}},
	}
	h := &history{
		obligations: []*obligation{o}, secrets: []string{"hush"},
		performed: map[message]performance{{o.uid, chPlain}: {times: 2, keys: map[string]bool{"k": true}}},
		timeouts:  map[string]time.Duration{chPlain: 32 * time.Second},
	}
	doubt := h.store(o, audit.TypeAttemptAmbiguous, chPlain, 1)
	doubt.DurationMS, doubt.Data.Error = new(int64(32_000)), "OutcomeUnknown"
	h.store(o, audit.TypeMessageSent, chPlain, 2).Data.PossibleDuplicate = true
	record := func(n int) v1alpha1.AuditRecord {
		return v1alpha1.AuditRecord{EventID: h.events[n].EventID.String(), State: v1alpha1.AuditRecorded, LogIndex: new(int64(n))}
	}
	o.last = &v1alpha1.NotificationRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r", UID: o.uid},
		Status: v1alpha1.NotificationRequestStatus{
			FinishedTime: new(metav1.NewMicroTime(time.Now())),
			Conditions:   []metav1.Condition{{Type: v1alpha1.ConditionAudited, Status: metav1.ConditionTrue}},
			Deliveries: []v1alpha1.Delivery{{
				Channel: chPlain, State: v1alpha1.DeliverySent, Attempts: 2, PossibleDuplicate: new(true), Audit: record(1),
				AttemptFailures: []v1alpha1.AttemptFailure{{Attempt: 1, Audit: record(0)}},
			}},
		},
	}
	return h
}

func TestTheOracleFindsEachBrokenPromise(t *testing.T) {
	if found := judge(*good()); len(found) > 0 {
		t.Fatalf("it complains of a good history: %v", found)
	}
	perform := func(h *history, channel string, times, keys int) {
		p := performance{times: times, keys: map[string]bool{}}
		for i := range keys {
			p.keys[string(rune('a'+i))] = true
		}
		h.performed[message{"u", channel}] = p
	}
	// toChannel makes the history one of another channel.
	toChannel := func(h *history, channel string) {
		h.obligations[0].named[0], h.obligations[0].last.Status.Deliveries[0].Channel = channel, channel
		delete(h.performed, message{"u", chPlain})
		events := h.events
		h.events = nil
		for i, e := range events {
			again := h.store(h.obligations[0], e.EventType, channel, e.Data.Attempt)
			again.Data.PossibleDuplicate = e.Data.PossibleDuplicate
			d := &h.obligations[0].last.Status.Deliveries[0]
			if i == 0 {
				d.AttemptFailures[0].Audit.EventID = again.EventID.String()
			} else {
				d.Audit.EventID = again.EventID.String()
			}
		}
	}
	delivery := func(h *history) *v1alpha1.Delivery { return &h.obligations[0].last.Status.Deliveries[0] }
	for name, tc := range map[string]struct {
		change func(h *history)
		want   []string
	}{
		"lost":             {func(h *history) { h.events = h.events[:1] }, []string{promiseTerminal, promiseReceipts}},
		"sent and failed":  {func(h *history) { h.store(h.obligations[0], audit.TypeMessageFailed, chPlain, 2) }, []string{promiseTerminal}},
		"stored twice":     {func(h *history) { h.events = append(h.events, h.events[0]) }, []string{promiseLog, promiseAttempts}},
		"a gap in the log": {func(h *history) { h.events[1].LogIndex = 7 }, []string{promiseLog, promiseReceipts}},
		"a random ID":      {func(h *history) { h.events[1].EventID = audit.EventID("x") }, []string{promiseIDs, promiseReceipts}},
		"nobody has it":    {func(h *history) { clear(h.performed) }, []string{promiseUnfounded}},
		"not asked for":    {func(h *history) { h.performed[message{"v", chPlain}] = performance{times: 1} }, []string{promiseUnfounded}},
		"thrice":           {func(h *history) { perform(h, chPlain, 3, 1) }, []string{promiseTwice}},
		"twice, not said":  {func(h *history) { h.events[1].Data.PossibleDuplicate = false }, []string{promiseTwice, promiseReceipts}},
		"twice with Hold":  {func(h *history) { h.obligations[0].onAmbiguous = v1alpha1.AmbiguousHold }, []string{promiseHold}},
		"twice, asked for": {func(h *history) {
			h.obligations[0].onAmbiguous, h.obligations[0].words[chPlain] = v1alpha1.AmbiguousHold, []string{"Retry"}
		}, nil},
		"idempotent, twice":  {func(h *history) { toChannel(h, chIdempotent); perform(h, chIdempotent, 2, 1) }, []string{promiseIdempotent}},
		"two keys":           {func(h *history) { toChannel(h, chFile); perform(h, chFile, 2, 2) }, []string{promiseIdempotent}},
		"in doubt too soon":  {func(h *history) { h.events[0].DurationMS = new(int64(31_999)) }, []string{promiseFence}},
		"too early":          {func(h *history) { h.early = map[message]string{{"u", chConsole}: "early"} }, []string{promiseTime}},
		"too early, unheard": {func(h *history) { h.early = map[message]string{{"u", chPlain}: "early"} }, nil},
		"a secret printed":   {func(h *history) { h.texts = []string{"a hush b"} }, []string{promiseSecret}},
		"a secret in status": {func(h *history) { delivery(h).LastError.Message = "hush" }, []string{promiseSecret}},
		"a secret in events": {func(h *history) { h.events[0].ErrorMessage = "hush" }, []string{promiseSecret}},
		"an attempt without": {func(h *history) { delivery(h).Attempts = 3 }, []string{promiseAttempts}},
		"an attempt unknown": {func(h *history) { delivery(h).Attempts = 0 }, []string{promiseAttempts}},
		"an unknown request": {func(h *history) { h.store(&obligation{name: "x", uid: "x"}, audit.TypeMessageSent, chPlain, 1) }, []string{promiseAttempts}},
		"an unknown channel": {func(h *history) { h.store(h.obligations[0], audit.TypeMessageSent, "x", 1) }, []string{promiseAttempts}},
		"not finished":       {func(h *history) { h.obligations[0].last.Status.FinishedTime = nil }, []string{promiseFinished}},
		"not audited":        {func(h *history) { h.obligations[0].last.Status.Conditions = nil }, []string{promiseFinished}},
		"not let go":         {func(h *history) { h.obligations[0].last.Finalizers = []string{"f"} }, []string{promiseFinished}},
		"another receipt":    {func(h *history) { delivery(h).Audit.LogIndex = new(int64(5)) }, []string{promiseReceipts}},
		"not recorded":       {func(h *history) { delivery(h).Audit.State = v1alpha1.AuditRejected }, []string{promiseReceipts}},
		"dropped":            {func(h *history) { h.closed = []int{0, 1} }, []string{promiseDropped}},
		"not conserved":      {func(h *history) { h.conserved = map[string]float64{"difference": -1} }, []string{promiseDropped}},
		"cancelled unasked": {func(h *history) {
			h.store(h.obligations[0], audit.TypeRequestCancelled, "", 0)
		}, []string{promiseCancelled}},
		"accepted, then failed": {func(h *history) {
			fail(h)
			h.events[0].EventType, h.events[0].EventID = audit.TypeAttemptFailed, audit.EventID(audit.TypeAttemptFailed, "u", chPlain, "1")
			delivery(h).AttemptFailures[0].Audit.EventID = h.events[0].EventID.String()
			h.obligations[0].expires = true
		}, []string{promiseAccepted, promiseAttempts}},
		"failed for nothing":   {fail, []string{promiseUndecided, promiseAttempts}},
		"failed without words": {func(h *history) { fail(h); delivery(h).LastError.Reason = "" }, []string{promiseUndecided, promiseAttempts, promiseReason}},
		"a wait as an attempt": {func(h *history) { h.events[0].Data.Error = "CircuitOpen" }, []string{promiseWait}},
	} {
		t.Run(name, func(t *testing.T) { find(t, good(), tc.change, tc.want) })
	}
}

// find changes a history and wants the oracle to find the given promises broken.
func find(t *testing.T, h *history, change func(h *history), want []string) {
	t.Helper()
	change(h)
	found := judge(*h)
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(maps.Keys(found))); diff != "" {
		t.Errorf("promises found broken (-want +got):\n%s\n%v", diff, found)
	}
}

// fail makes the message of a history one that was not sent.
func fail(h *history) {
	d := &h.obligations[0].last.Status.Deliveries[0]
	e := &h.events[1]
	e.EventType, e.EventID = audit.TypeMessageFailed, audit.EventID(audit.TypeMessageFailed, "u", chPlain)
	d.State, d.Audit.EventID = v1alpha1.DeliveryFailed, e.EventID.String()
	d.LastError = v1alpha1.DeliveryError{Class: v1alpha1.ErrorTransient, Reason: "Reason", Message: "message"}
}
