package chaos

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// various is a good history with a request of each kind that has promises of its own.
// All of them are gone in the end.
func various() *history {
	h := &history{performed: map[message]performance{}, timeouts: map[string]time.Duration{}}
	begin := time.Now().Truncate(time.Second)
	request := func(name string, e expected) *obligation {
		o := &obligation{
			name: name, correlation: name, uid: types.UID(name), onAmbiguous: v1alpha1.AmbiguousRetry,
			words: map[string][]string{}, expected: e, seen: seen{gone: true},
		}
		h.obligations = append(h.obligations, o)
		return o
	}
	send := func(o *obligation, channels ...string) {
		for _, ch := range channels {
			h.store(o, audit.TypeMessageSent, ch, 1).EventTimestamp = begin
			add(h.performed, message{o.uid, ch}, "key", false)
		}
	}
	routed := request("routed", expected{routes: movingRoute})
	routed.routed = movingRoute[1]
	send(routed, routed.routed...)

	original := request("original", expected{repeats: "group", named: []string{chPlain}})
	send(original, chPlain)
	repeat := request("repeat", expected{repeats: "group", named: []string{chPlain}})
	h.store(repeat, audit.TypeMessageSuppressed, "", 0).Data.DuplicateOfUID = "original"

	for i := range rateBurst + 1 {
		o := request(fmt.Sprint("limited-", i), expected{named: []string{chLimited}})
		send(o, chLimited)
		o.begun = map[int32]time.Time{1: begin.Add(time.Duration(i/rateBurst) * rateEvery)}
	}

	templated := request("templated", expected{named: []string{chTemplated}})
	send(templated, chTemplated)
	h.arrived = map[message]arrival{{"templated", chTemplated}: {document: document{Priority: "High", Subject: "[HIGH] Message 7", Body: "templated of templated"}}}

	dry := request("dry", expected{dry: true, named: []string{chPlain, chFile}})
	h.store(dry, audit.TypeMessageDryRun, chPlain, 0)
	h.store(dry, audit.TypeMessageDryRun, chFile, 0)

	answered := request("answered", expected{asks: true, named: []string{chPlain}, escalateTo: []string{chFile}})
	answered.answers = answers{pressed: []string{"Ada", "Ben"}, confirmed: []string{"Ada", "Ada"}, calm: true, spared: []string{chFile}}
	send(answered, chPlain)
	h.store(answered, audit.TypeMessageAcknowledged, "", 0).Data.AcknowledgedBy = "Ada"

	escalated := request("escalated", expected{asks: true, named: []string{chPlain}, escalateTo: []string{chFile}})
	send(escalated, chPlain, chFile)
	e := h.store(escalated, audit.TypeMessageEscalated, "", 0)
	e.EventTimestamp, e.Data.EscalatedTo = begin.Add(within), []string{chFile}

	for i, name := range []string{"first", "second"} {
		o := request(name, expected{named: []string{chIncident}})
		o.correlation = "incident"
		m := standin.SlackMessage{Channel: "C1", TS: string(rune('1' + i)), Key: keyOf(o)}
		if i > 0 {
			m.Thread, o.followed = "1", v1alpha1.FollowUp{Mode: v1alpha1.FollowUpReply, ExternalID: "C1/1"}
		}
		h.posted = append(h.posted, m)
		h.store(o, audit.TypeMessageSent, chIncident, 1)
	}
	h.countPosted()
	return h
}

func TestTheOracleFindsEachBrokenPromiseOfEachKind(t *testing.T) {
	if found := judge(*various()); len(found) > 0 {
		t.Fatalf("it complains of a good history: %v", found)
	}
	get := func(h *history, name string) *obligation {
		return h.obligations[slices.IndexFunc(h.obligations, func(o *obligation) bool { return o.name == name })]
	}
	index := func(h *history, name, kind string) int {
		return slices.IndexFunc(h.events, func(e harness.Stored) bool { return e.ResourceID == name && e.EventType == kind })
	}
	event := func(h *history, name, kind string) *harness.Stored { return &h.events[index(h, name, kind)] }
	forget := func(h *history, name, kind string) { // its place is kept, so that the log has no gap
		i := index(h, name, kind)
		other := *h.store(get(h, "original"), audit.TypeAttemptFailed, chPlain, 1)
		other.LogIndex = h.events[i].LogIndex
		h.events[i], h.events = other, h.events[:len(h.events)-1]
	}
	lastLimited := fmt.Sprint("limited-", rateBurst)
	perform := func(h *history, name, channel string) {
		add(h.performed, message{types.UID(name), channel}, "key", false)
	}
	for name, tc := range map[string]struct {
		change func(h *history)
		want   []string
	}{
		"routed elsewhere":          {func(h *history) { perform(h, "routed", chSlow) }, []string{promiseDecided}},
		"routed as no route says":   {func(h *history) { get(h, "routed").routes = [][]string{{chConsole}} }, []string{promiseDecided}},
		"a decision changed":        {func(h *history) { get(h, "routed").strayed = []string{"changed"} }, []string{promiseDecided}},
		"two of a group sent":       {func(h *history) { get(h, "routed").named, get(h, "limited-0").repeats = []string{chPlain}, "group" }, []string{promiseRepeated}},
		"the deleted one sent too":  {func(h *history) { o := get(h, "limited-0"); o.repeats, o.deleted = "group", true }, nil},
		"suppressed and performed":  {func(h *history) { perform(h, "repeat", chPlain) }, []string{promiseSuppressed}},
		"suppressed and sent":       {func(h *history) { h.store(get(h, "repeat"), audit.TypeMessageSent, chPlain, 1) }, []string{promiseSuppressed, promiseRepeated}},
		"suppressed for a stranger": {func(h *history) { event(h, "repeat", audit.TypeMessageSuppressed).Data.DuplicateOfUID = "dry" }, []string{promiseSuppressed}},
		"suppressed for itself":     {func(h *history) { event(h, "repeat", audit.TypeMessageSuppressed).Data.DuplicateOfUID = "repeat" }, []string{promiseSuppressed}},
		"suppressed for nothing": {func(h *history) {
			e := event(h, "original", audit.TypeMessageSent)
			e.EventType, e.EventID = audit.TypeMessageFailed, audit.EventID(audit.TypeMessageFailed, "original", chPlain)
			get(h, "original").deleted = true
			delete(h.performed, message{"original", chPlain})
		}, []string{promiseSuppressed}},
		"too many in a burst": {func(h *history) { get(h, lastLimited).begun[1] = get(h, "limited-0").begun[1] }, []string{promiseRate}},
		"too many in a burst, by clocks that are off": {func(h *history) {
			get(h, lastLimited).begun[1] = get(h, "limited-0").begun[1]
			h.timeouts = nil
		}, nil},
		"the words of no template":     {func(h *history) { h.arrived[message{"templated", chTemplated}] = arrival{} }, []string{promiseWords}},
		"a dry run performed":          {func(h *history) { perform(h, "dry", chFile) }, []string{promiseDry}},
		"a dry run on another channel": {func(h *history) { perform(h, "dry", chSlow) }, []string{promiseDecided}},
		"a dry run untold":             {func(h *history) { forget(h, "dry", audit.TypeMessageDryRun) }, []string{promiseDry}},
		"a dry run cancelled": {func(h *history) {
			get(h, "dry").deleted = true
			h.store(get(h, "dry"), audit.TypeRequestCancelled, "", 0)
		}, []string{promiseCancelled}},
		"an acknowledgement lost": {func(h *history) {
			forget(h, "answered", audit.TypeMessageAcknowledged)
			get(h, "answered").escalateTo = nil
		}, []string{promiseAcknowledged}},
		"an acknowledgement stored twice": {func(h *history) {
			h.store(get(h, "answered"), audit.TypeMessageAcknowledged, "", 0).Data.AcknowledgedBy = "Ada"
		}, []string{promiseAcknowledged, promiseLog}},
		"two told to be the first":      {func(h *history) { get(h, "answered").confirmed[1] = "Ben" }, []string{promiseAcknowledged}},
		"told before it was written":    {func(h *history) { get(h, "answered").untrue = []string{"Ada"} }, []string{promiseAcknowledged}},
		"acknowledged by nobody":        {func(h *history) { get(h, "answered").pressed, get(h, "answered").confirmed = nil, nil }, []string{promiseButton}},
		"acknowledged by a forged link": {func(h *history) { get(h, "answered").forged = 1 }, []string{promiseButton}},
		"escalated though acknowledged": {func(h *history) {
			h.store(get(h, "answered"), audit.TypeMessageEscalated, "", 0).Data.EscalatedTo = []string{chFile}
			h.store(get(h, "answered"), audit.TypeMessageSent, chFile, 1)
			perform(h, "answered", chFile)
		}, []string{promiseEscalated}},
		"sent on without a word": {func(h *history) { perform(h, "answered", chFile) }, []string{promiseEscalated}},
		"escalated twice":        {func(h *history) { h.store(get(h, "escalated"), audit.TypeMessageEscalated, "", 0) }, []string{promiseEscalated, promiseLog}},
		"escalated elsewhere": {func(h *history) {
			event(h, "escalated", audit.TypeMessageEscalated).Data.EscalatedTo = []string{chPlain}
		}, []string{promiseEscalated}},
		"escalated too soon": {func(h *history) {
			e := event(h, "escalated", audit.TypeMessageEscalated)
			e.EventTimestamp = e.EventTimestamp.Add(-time.Second)
		}, []string{promiseEscalated}},
		"not escalated":          {func(h *history) { forget(h, "escalated", audit.TypeMessageEscalated) }, []string{promiseEscalated}},
		"escalated and lost":     {func(h *history) { forget(h, "escalated", audit.TypeMessageSent) }, []string{promiseTerminal}},
		"a reply elsewhere":      {func(h *history) { get(h, "first").correlation = "another" }, []string{promiseReply, promiseAttempts, promiseTerminal}},
		"a reply not as decided": {func(h *history) { h.posted[1].Thread = "" }, []string{promiseReply}},
		"a message of nobody":    {func(h *history) { h.posted[0].Key = "x" }, []string{promiseUnfounded, promiseReply}},
	} {
		t.Run(name, func(t *testing.T) { find(t, various(), tc.change, tc.want) })
	}
}

func TestWhatWasDecidedIsNoticedWhenItChanges(t *testing.T) {
	routed := func(version string, channels ...string) *v1alpha1.NotificationRequest {
		nr := &v1alpha1.NotificationRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}}
		for _, ch := range channels {
			nr.Status.RoutedChannels = append(nr.Status.RoutedChannels, v1alpha1.RoutedChannel{Name: ch})
		}
		return nr
	}
	following := func(version string, attempt int32, f v1alpha1.FollowUp) *v1alpha1.NotificationRequest {
		nr := routed(version)
		nr.Status.Deliveries = []v1alpha1.Delivery{{Channel: chIncident, State: v1alpha1.DeliveryInFlight, Attempts: attempt, FollowUp: f}}
		return nr
	}
	reply, separate := v1alpha1.FollowUp{Mode: v1alpha1.FollowUpReply, ExternalID: "C1/1"}, v1alpha1.FollowUp{Mode: v1alpha1.FollowUpSeparate, ExternalID: "C1/1"}
	for name, tc := range map[string]struct {
		looks []*v1alpha1.NotificationRequest
		want  int
	}{
		"routed once":               {[]*v1alpha1.NotificationRequest{routed("1"), routed("2", chPlain), routed("10", chPlain)}, 0},
		"seen late":                 {[]*v1alpha1.NotificationRequest{routed("2", chPlain), routed("1")}, 0},
		"routed twice":              {[]*v1alpha1.NotificationRequest{routed("2", chPlain), routed("10", chFile)}, 1},
		"begun anew":                {[]*v1alpha1.NotificationRequest{following("1", 1, v1alpha1.FollowUp{}), following("2", 1, reply)}, 0},
		"follows in the second try": {[]*v1alpha1.NotificationRequest{following("1", 1, v1alpha1.FollowUp{}), following("2", 2, reply)}, 1},
		"cannot follow":             {[]*v1alpha1.NotificationRequest{following("1", 1, reply), following("2", 2, separate), following("3", 3, separate)}, 0},
	} {
		var s seen
		for _, nr := range tc.looks {
			s.see(nr)
		}
		if len(s.strayed) != tc.want {
			t.Errorf("%s: %q, want %d", name, s.strayed, tc.want)
		}
	}
}
