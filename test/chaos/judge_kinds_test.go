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

	h.quiet = []span{{begin, begin.Add(time.Minute)}}
	for name, at := range map[string]time.Duration{"held": time.Minute, "urgent": time.Second} {
		o := request(name, expected{routes: [][]string{quietChannels}, quiet: true, urgent: name == "urgent"})
		o.created, o.routed = begin.Add(time.Second), quietChannels
		send(o, quietChannels...)
		h.arrived[message{o.uid, chPlain}] = arrival{at: begin.Add(at)}
	}
	h.converse(request, begin)
	h.countPosted()
	return h
}

// converse adds an incident on each channel in Slack: a message with a reply, and one whose
// place two updates took. They were in flight together, and the older one came last.
func (h *history) converse(request func(string, expected) *obligation, begin time.Time) {
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	tell := func(name, ch string, made int, mode v1alpha1.FollowUpMode) (key string) {
		o := request(name, expected{named: []string{ch}, updates: mode == v1alpha1.FollowUpUpdate})
		o.correlation, o.created, o.gone = ch, at(made), false
		o.conversation = conversation{place: slackChannels[ch] + "/1", placed: at(made), replaces: at(4)}
		if mode != "" {
			o.followed = v1alpha1.FollowUp{Mode: mode, ExternalID: o.place}
		}
		o.last = &v1alpha1.NotificationRequest{Status: v1alpha1.NotificationRequestStatus{
			FinishedTime: new(metav1.NewMicroTime(at(5))),
			Conditions:   []metav1.Condition{{Type: v1alpha1.ConditionAudited, Status: metav1.ConditionTrue}},
		}}
		h.store(o, audit.TypeMessageSent, ch, 1).EventTimestamp = at(4)
		return keyOf(o.uid, ch)
	}
	begins := tell("begins", chUpdated, 0, "")
	h.posted = []standin.SlackMessage{
		{Channel: slackChannels[chIncident], TS: "1", Key: tell("first", chIncident, 0, "")},
		{Channel: slackChannels[chIncident], TS: "2", Key: tell("second", chIncident, 1, v1alpha1.FollowUpReply), Thread: "1"},
		{
			Channel: slackChannels[chUpdated], TS: "1", Key: tell("older", chUpdated, 1, v1alpha1.FollowUpUpdate),
			Before: []string{begins, tell("newer", chUpdated, 2, v1alpha1.FollowUpUpdate)},
		},
	}
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
	beginAgain := func(h *history) { h.posted[1].Thread, get(h, "second").followed = "", v1alpha1.FollowUp{} }
	late := func(h *history) { get(h, "older").replaces = get(h, "older").replaces.Add(aMoment + time.Millisecond) }
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
		"begun again":            {beginAgain, []string{promiseBegun}},
		"begun again, together":  {func(h *history) { beginAgain(h); get(h, "first").placed = get(h, "second").created }, nil},
		"begun again, forgotten": {func(h *history) { beginAgain(h); get(h, "first").gone = true }, nil},
		"begun again, for it could not follow": {func(h *history) {
			beginAgain(h)
			get(h, "urgent").followed = v1alpha1.FollowUp{Mode: v1alpha1.FollowUpSeparate, ExternalID: get(h, "first").place}
		}, nil},
		"an update elsewhere":     {func(h *history) { get(h, "newer").followed.ExternalID = "C1/1" }, []string{promiseReply}},
		"an update come late":     {late, []string{promiseNewest}},
		"late, by clocks far off": {func(h *history) { late(h); h.timeouts = nil }, nil},
		"late, and nobody knew":   {func(h *history) { late(h); get(h, "newer").gone = true }, nil},
		"put there in doubt, and posted": {func(h *history) {
			event(h, "older", audit.TypeMessageSent).Data.PossibleDuplicate = true
			perform(h, "older", chUpdated)
		}, nil},
		"put there in doubt, and posted with Hold": {func(h *history) {
			get(h, "older").onAmbiguous, event(h, "older", audit.TypeMessageSent).Data.PossibleDuplicate = v1alpha1.AmbiguousHold, true
			perform(h, "older", chUpdated)
		}, []string{promiseHold}},
		"an update as a reply": {func(h *history) { get(h, "second").updates = true }, []string{promiseNewest}},
		"in quiet hours":       {func(h *history) { h.arrived[message{"held", chPlain}] = h.arrived[message{"urgent", chPlain}] }, []string{promiseQuiet}},
		"Critical, and held": {func(h *history) {
			held := v1alpha1.RoutedChannel{Name: chPlain, QuietUntil: new(metav1.Now())}
			get(h, "urgent").last = &v1alpha1.NotificationRequest{Status: v1alpha1.NotificationRequestStatus{RoutedChannels: []v1alpha1.RoutedChannel{held}}}
		}, []string{promiseQuiet}},
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
		nr.Status.Deliveries = []v1alpha1.Delivery{{Channel: chIncident, State: v1alpha1.DeliveryInFlight, Attempts: attempt, FollowUp: f, StartedTime: new(metav1.NowMicro())}}
		return nr
	}
	reply, separate := v1alpha1.FollowUp{Mode: v1alpha1.FollowUpReply, ExternalID: "C1/1"}, v1alpha1.FollowUp{Mode: v1alpha1.FollowUpSeparate, ExternalID: "C1/1"}
	update := v1alpha1.FollowUp{Mode: v1alpha1.FollowUpUpdate, ExternalID: "C1/1"}
	for name, tc := range map[string]struct {
		looks []*v1alpha1.NotificationRequest
		want  int
	}{
		"routed once":               {[]*v1alpha1.NotificationRequest{routed("1"), routed("2", chPlain), routed("10", chPlain)}, 0},
		"seen late":                 {[]*v1alpha1.NotificationRequest{routed("2", chPlain), routed("1")}, 0},
		"routed twice":              {[]*v1alpha1.NotificationRequest{routed("2", chPlain), routed("10", chFile)}, 1},
		"begun anew":                {[]*v1alpha1.NotificationRequest{following("1", 1, v1alpha1.FollowUp{}), following("2", 1, reply)}, 0},
		"follows in the second try": {[]*v1alpha1.NotificationRequest{following("1", 1, v1alpha1.FollowUp{}), following("2", 2, reply)}, 1},
		"replies, not to be late":   {[]*v1alpha1.NotificationRequest{following("1", 1, update), following("2", 2, reply)}, 0},
		"replaces what it answered": {[]*v1alpha1.NotificationRequest{following("1", 1, reply), following("2", 2, update)}, 1},
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
