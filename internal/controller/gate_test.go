package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// limited has a channel let so many messages through.
func limited(messages int32, interval v1alpha1.Duration, burst int32) func(*v1alpha1.NotificationChannel) {
	return func(c *v1alpha1.NotificationChannel) {
		c.Spec.RateLimit = v1alpha1.RateLimit{Messages: messages, Interval: interval, Burst: burst}
	}
}

// newGate returns the gate of a channel that nothing was sent to.
func newGate(t failer, object *v1alpha1.NotificationChannel) *gate {
	t.Helper()
	g := &gate{}
	if g.learn(object, "A", born) {
		g.replay(nil, time.Time{}, born)
	}
	return g
}

// sendAt lets an attempt begin at a time, where it may.
func (g *gate) sendAt(at time.Time) bool {
	if g.wait(0, at).err.Class != "" {
		return false
	}
	g.take(at)
	return true
}

func TestRateIsRoundedDownNeverUp(t *testing.T) {
	for name, c := range map[string]struct {
		limit v1alpha1.RateLimit
		want  limit
	}{
		"none":                  {v1alpha1.RateLimit{}, limit{}},
		"even":                  {v1alpha1.RateLimit{Messages: 30, Interval: "1m", Burst: 5}, limit{2 * time.Second, 5}},
		"uneven":                {v1alpha1.RateLimit{Messages: 7, Interval: "1s", Burst: 1}, limit{142857143, 1}},
		"from before a default": {v1alpha1.RateLimit{Messages: 1, Interval: "24h"}, limit{24 * time.Hour, 1}},
	} {
		equal(t, name, rateOf(&v1alpha1.NotificationChannelSpec{RateLimit: c.limit}), c.want)
	}
}

// However attempts are asked for, in no span of time do more begin than the burst
// and what the rate allows, and what is promised comes true. A process that takes
// over knows as much from the beginnings that status keeps.
func TestNoSpanOfTimeSeesMoreThanTheRateLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := newChannel(limited(rapid.Int32Range(1, 100).Draw(t, "messages"),
			rapid.SampledFrom([]v1alpha1.Duration{"1s", "7s", "1m"}).Draw(t, "interval"), rapid.Int32Range(1, 10).Draw(t, "burst")))
		g, now := newGate(t, object), born
		var starts []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*g.limit.every)).Draw(t, "pause")))
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // another process
				again := newGate(t, object)
				again.replay(slices.Clone(starts), time.Time{}, now)
				equal(t, "who waits after a restart", again.token(0, now), g.token(0, now))
				g = again
			case 1: // what is promised to the one after the next
				at := later(g.token(1, now), now)
				for _, until := range []time.Time{later(g.token(0, now), now), at} {
					equal(t, "what was promised", g.sendAt(until), true)
					starts = append(starts, until)
				}
				now = at
			default:
				if g.sendAt(now) {
					starts = append(starts, now)
				}
			}
		}
		for i := range starts {
			for j := i; j < len(starts); j++ {
				most := g.limit.burst + int(starts[j].Sub(starts[i])/g.limit.every)
				if n := j - i + 1; n > most {
					t.Fatalf("%d attempts within %s, want at most %d", n, starts[j].Sub(starts[i]), most)
				}
			}
		}
	})
}

func TestTokensAreThereForTheBurstAndThenOneByOne(t *testing.T) {
	g := newGate(t, newChannel(limited(1, "1s", 3)))
	var at []time.Duration
	for ahead := range 6 {
		at = append(at, g.token(ahead, born).Sub(born))
	}
	s := time.Second
	equal(t, "turns", at, []time.Duration{-2 * s, -s, 0, s, 2 * s, 3 * s})
	for range 3 {
		equal(t, "burst", g.sendAt(born), true)
	}
	w := g.wait(4, born)
	equal(t, "until", w.until, born.Add(5*s))
	equal(t, "why", w.err, v1alpha1.DeliveryError{
		Class: v1alpha1.ErrorTransient, Reason: reasonRateLimit,
		Message: "waits for its turn, about 2026-03-01T10:00:05Z: the channel's rateLimit is 1 in 1s",
	})
	equal(t, "too early", g.sendAt(born.Add(s-1)), false)
	equal(t, "in time", g.sendAt(born.Add(s)), true)
	g.giveBack(time.Time{})
	equal(t, "what was not used", g.sendAt(born.Add(s)), true)
	equal(t, "and no more", g.sendAt(born.Add(s)), false)
}

func TestAChangedRateLimitCountsFromWhatWasSent(t *testing.T) {
	starts := func(n int) (all []time.Time) { return slices.Repeat([]time.Time{born}, n) }
	for name, c := range map[string]struct {
		change func(*v1alpha1.NotificationChannel)
		starts []time.Time
		latest time.Time
		want   time.Duration
	}{
		"raised":                             {limited(10, "1s", 1), starts(1), time.Time{}, 100 * time.Millisecond},
		"lowered":                            {limited(1, "1m", 1), starts(1), time.Time{}, time.Minute},
		"lowered after many":                 {limited(1, "1m", 1), starts(50), time.Time{}, time.Minute},
		"a larger burst":                     {limited(1, "1s", 9), starts(8), time.Time{}, 0},
		"taken away":                         {func(*v1alpha1.NotificationChannel) {}, starts(50), time.Time{}, 0},
		"of a message that is gone":          {limited(1, "1m", 1), nil, born.Add(-10 * time.Second), 50 * time.Second},
		"of a message that is gone and here": {limited(1, "1m", 2), starts(1), born, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, newChannel(limited(1, "1s", 1)))
			g.take(born)
			if g.learn(newChannel(c.change), "B", born) {
				g.replay(c.starts, c.latest, born)
			}
			equal(t, "the next turn", max(g.token(0, born).Sub(born), 0), c.want)
			equal(t, "a second time", g.learn(newChannel(c.change), "B", born), false)
		})
	}
}

// result is the outcome of an attempt that began at the given time and took a second.
func result(at time.Time, err *delivery.Error) outcome {
	return outcome{config: "A", started: at, finished: at.Add(time.Second), err: err}
}

// failing returns a gate whose circuit opened a second after born.
func failing(t failer, err *delivery.Error) *gate {
	t.Helper()
	g := newGate(t, newChannel())
	for range circuitFailures {
		equal(t, "closed", g.sendAt(born), true)
		g.judge(result(born, err))
	}
	return g
}

func TestCircuitOpensForWhatSpeaksAgainstTheChannel(t *testing.T) {
	for name, c := range map[string]struct {
		errs []*delivery.Error // one after the other
		want v1alpha1.CircuitState
	}{
		"5 passing faults":        {slices.Repeat([]*delivery.Error{transient()}, 5), v1alpha1.CircuitOpen},
		"5 refusals":              {slices.Repeat([]*delivery.Error{refused()}, 5), v1alpha1.CircuitOpen},
		"5 without an answer":     {slices.Repeat([]*delivery.Error{unanswered()}, 5), v1alpha1.CircuitOpen},
		"4":                       {slices.Repeat([]*delivery.Error{transient()}, 4), ""},
		"messages that are wrong": {slices.Repeat([]*delivery.Error{permanent()}, 50), ""},
		"a success among them":    {[]*delivery.Error{transient(), transient(), transient(), transient(), nil, transient()}, ""},
		"an answer among them":    {[]*delivery.Error{transient(), transient(), transient(), transient(), permanent(), transient()}, ""},
		"too many messages":       {slices.Repeat([]*delivery.Error{{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, RetryAfter: time.Second}}, 9), ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, newChannel())
			for _, err := range c.errs {
				g.judge(result(born, err))
			}
			equal(t, "circuit", g.circuit.State, c.want)
		})
	}
}

func TestOpenCircuitLetsOneTrialThroughAfterGrowingPauses(t *testing.T) {
	g, opened := failing(t, transient()), born.Add(time.Second)
	var pauses []time.Duration
	for trials := range int32(6) {
		until := g.circuit.NextTrialTime.Time
		w := g.wait(0, until.Add(-1))
		equal(t, "reason", w.err.Reason, reasonCircuitOpen)
		equal(t, "until", w.until, until)
		equal(t, "failed trials", g.circuit.FailedTrials, trials)
		equal(t, "since", g.circuit.Since.Time, opened)
		equal(t, "another while it is due", g.wait(1, until).err.Reason, reasonCircuitOpen)
		equal(t, "the trial", g.sendAt(until), true)
		equal(t, "state", g.circuit.State, v1alpha1.CircuitHalfOpen)
		equal(t, "another while it is on its way", g.wait(0, until).err.Reason, reasonCircuitOpen)
		g.judge(result(opened, transient())) // began before the trial
		equal(t, "state after another's failure", g.circuit.State, v1alpha1.CircuitHalfOpen)
		g.judge(result(until, transient()))
		pauses = append(pauses, g.circuit.NextTrialTime.Sub(until)-time.Second)
	}
	equal(t, "pauses", pauses, []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute})

	until := g.circuit.NextTrialTime.Time
	g.take(until)
	g.judge(result(until, nil))
	equal(t, "after a success", g.circuit, v1alpha1.ChannelCircuit{})
	equal(t, "the next one", g.wait(100, until.Add(time.Second)), wait{})
}

func TestTrialThatIsNotMadeOrNeverEndsIsFollowedByAnother(t *testing.T) {
	g := failing(t, transient())
	until := g.circuit.NextTrialTime.Time
	g.giveBack(g.take(until))
	equal(t, "state", g.circuit.State, v1alpha1.CircuitOpen)
	equal(t, "the next trial", g.sendAt(until), true)
	end := until.Add(10*time.Second + outcomeGrace)
	equal(t, "before it must have ended", g.sendAt(end.Add(-1)), false)
	equal(t, "after that", g.sendAt(end), true)
}

// One whose time is up passes by the circuit, and one is the trial of a configuration that
// has changed since: neither is made, while another is on its way.
func TestATrialGoesOnThoughAnotherAttemptIsNotMade(t *testing.T) {
	for name, other := range map[string]func(g *gate, now time.Time) (trial time.Time){
		"a last chance": func(g *gate, now time.Time) time.Time {
			g.take(now)
			return g.take(now.Add(time.Second))
		},
		"the trial before": func(g *gate, now time.Time) time.Time {
			trial := g.take(now)
			g.learn(newChannel(), "B", now.Add(time.Second))
			g.take(now.Add(time.Second))
			return trial
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := failing(t, transient())
			until := g.circuit.NextTrialTime.Time
			trial := other(g, until)
			g.giveBack(trial)
			equal(t, "state", g.circuit.State, v1alpha1.CircuitHalfOpen)
			equal(t, "another trial", g.sendAt(until.Add(2*time.Second)), false)
			g.judge(outcome{config: g.config, started: until.Add(time.Second), finished: until.Add(2 * time.Second), err: transient()})
			equal(t, "failed trials", g.circuit.FailedTrials, int32(1))
		})
	}
}

func TestChangedConfigurationIsTriedAtOnce(t *testing.T) {
	g := failing(t, refused())
	now := born.Add(2 * time.Second)
	equal(t, "class", g.wait(0, now).err.Class, v1alpha1.ErrorConfig) // so that Stalled says it
	g.learn(newChannel(), "A", now)
	equal(t, "the same configuration", g.sendAt(now), false)
	g.learn(newChannel(), "B", now)
	equal(t, "another one", g.sendAt(now), true)
	equal(t, "one only", g.sendAt(now), false)
	g.judge(result(now, refused())) // of configuration A
	equal(t, "what the old one comes to", g.circuit.State, v1alpha1.CircuitHalfOpen)
	g.judge(outcome{config: "B", started: now, finished: now, err: refused()})
	equal(t, "the pause begins anew", g.circuit.NextTrialTime.Sub(now), time.Minute)
}

func TestConfigurationThatIsChangedDuringATrialHasATrialOfItsOwn(t *testing.T) {
	g := failing(t, refused())
	now := g.circuit.NextTrialTime.Time
	equal(t, "the trial", g.sendAt(now), true)
	g.learn(newChannel(), "B", now)
	equal(t, "another one", g.sendAt(now), true)
	equal(t, "one only", g.sendAt(now), false)
}

func TestRetryAfterHoldsBackTheChannel(t *testing.T) {
	throttled := func(d time.Duration) *delivery.Error {
		return &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429", RetryAfter: d}
	}
	conflict := &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonConflict, Code: "409", RetryAfter: time.Hour}
	g := newGate(t, newChannel())
	g.judge(result(born, conflict))
	equal(t, "what is about one message", g.wait(0, born.Add(time.Second)), wait{})
	g.judge(result(born, throttled(time.Minute)))
	g.judge(result(born, throttled(time.Second)))
	until := born.Add(time.Minute + time.Second)
	w := g.wait(0, until.Add(-1))
	equal(t, "until", w.until, until)
	equal(t, "why", w.err, v1alpha1.DeliveryError{
		Class: v1alpha1.ErrorTransient, Reason: reasonThrottled, Message: "the receiver has asked for no more messages until 2026-03-01T10:01:01Z",
	})
	equal(t, "after that", g.wait(100, until), wait{})
	g.learn(newChannel(), "B", born)
	equal(t, "another configuration", g.wait(0, born.Add(time.Second)), wait{})
}

// What a gate writes into status is all that the next process has.
func TestGateOutlastsTheProcess(t *testing.T) {
	now := born.Add(10 * time.Second)
	for name, c := range map[string]struct {
		prepare func(*gate)
		want    wait
	}{
		"open": {func(g *gate) { *g = *failing(t, transient()) }, failing(t, transient()).wait(0, now)},
		"half open": {func(g *gate) {
			*g = *failing(t, transient())
			g.take(g.circuit.NextTrialTime.Time)
		}, failing(t, transient()).wait(0, now)},
		"throttled": {func(g *gate) { g.throttled = now.Add(time.Hour) }, waitFor(reasonThrottled, v1alpha1.ErrorTransient, now.Add(time.Hour),
			"the receiver has asked for no more messages until 2026-03-01T11:00:10Z")},
		"throttled for less than a restart takes": {func(g *gate) { g.throttled = now.Add(time.Second) }, wait{}},
		"closed": {func(*gate) {}, wait{}},
	} {
		t.Run(name, func(t *testing.T) {
			object := newChannel()
			g := newGate(t, object)
			c.prepare(g)
			g.apply(&object.Status, now)
			again := newGate(t, object)
			equal(t, "wait", again.wait(0, now).err, c.want.err)
			equal(t, "until", again.wait(0, now).until.UTC(), c.want.until.UTC())
		})
	}
}

func TestReasonsSayUntilWhen(t *testing.T) {
	long := strings.Repeat("x", 256)
	g := failing(t, &delivery.Error{Class: delivery.Transient, Reason: delivery.ReasonServerError, Message: long})
	message := g.wait(0, born.Add(2*time.Second)).err.Message
	equal(t, "length", len(message), 256)
	equal(t, "begins", strings.HasPrefix(message, "the channel fails; the next trial is at 2026-03-01T10:00:31Z; last ServerError: x"), true)
	equal(t, "rounded up", stamp(born.Add(1)), born.Add(time.Second).Format(time.RFC3339))
}
