package controller

import (
	"fmt"
	"slices"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// Reasons for which a delivery waits until its nextAttemptTime without an attempt
// of its own having failed.
const (
	// reasonRateLimit: the channel's rateLimit.
	reasonRateLimit = "ChannelRateLimit"
	// reasonThrottled: the receiver asked for it, of whatever message.
	reasonThrottled = "ChannelThrottled"
	// reasonCircuitOpen: the channel failed too often.
	reasonCircuitOpen = "CircuitOpen"
)

const (
	// circuitFailures is how many failures in a row open the circuit: as many as
	// a request spends on a channel by default, so that one message that meets a
	// passing fault does not hold up others.
	circuitFailures = 5
	// shortestPause is the first wait for a trial, each further one is twice as long:
	// long enough for a receiver to restart.
	shortestPause = 30 * time.Second
	// longestPause is how long a channel that works again may go unnoticed. It is
	// the wait after a refused configuration too, which therefore is not doubled.
	longestPause = refusedRecheck
)

// wait is why an attempt may not begin, and until when it is known that it may not.
type wait struct {
	err   v1alpha1.DeliveryError
	until time.Time
}

// limit is a rate limit: one token in each span of time, and how many can be saved.
// It is zero where there is none.
type limit struct {
	every time.Duration
	burst int
}

// rateOf returns a channel's rate limit. A span that cannot be divided is rounded
// up, so that the rate is never exceeded.
func rateOf(spec *v1alpha1.NotificationChannelSpec) limit {
	r := spec.RateLimit
	if r.Messages == 0 {
		return limit{}
	}
	n := time.Duration(r.Messages)
	return limit{every: (r.Interval.Value() + n - 1) / n, burst: max(int(r.Burst), 1)}
}

// gate says when the next attempt on a channel may begin. It does nothing by itself
// and reads no clock.
type gate struct {
	known   bool   // status has been read
	config  string // identifies the configuration that all this is about
	timeout time.Duration

	limit limit
	text  string // the limit in words
	// full is when the bucket has all its tokens if none is taken any more. One time
	// is all there is to a bucket.
	full time.Time

	// throttled is until when the receiver has asked to be left alone.
	throttled time.Time

	circuit  v1alpha1.ChannelCircuit // zero while it is closed
	failures int                     // in a row, while it is closed
	trial    time.Time               // when the latest trial began
	trialEnd time.Time               // when its outcome is known at the latest
}

// learn brings the gate up to date with a channel and its status. It reports whether
// the bucket has another limit now and is to be filled by replay.
func (g *gate) learn(object *v1alpha1.NotificationChannel, config string, now time.Time) (changed bool) {
	if !g.known {
		g.known = true
		g.restore(&object.Status)
	}
	if g.circuit.State != "" && g.circuit.HeldConfig != config {
		// Whoever changed it waits to see whether it works now, which no trial tells that
		// is on its way.
		g.circuit.State, g.circuit.HeldConfig = v1alpha1.CircuitOpen, config
		g.circuit.NextTrialTime, g.circuit.FailedTrials, g.trialEnd = micro(now), 0, time.Time{}
	}
	if g.config != "" && g.config != config {
		g.throttled, g.failures = time.Time{}, 0
	}
	g.config, g.timeout = config, object.Spec.Timeout.Value()
	rate := rateOf(&object.Spec)
	if changed = rate != g.limit; changed {
		g.limit, g.full = rate, time.Time{}
		g.text = fmt.Sprintf("%d in %s", object.Spec.RateLimit.Messages, object.Spec.RateLimit.Interval)
	}
	return changed && rate != limit{}
}

// restore reads what another process knew. Nobody makes its trial any more.
func (g *gate) restore(status *v1alpha1.NotificationChannelStatus) {
	if c := status.Circuit; c.State != v1alpha1.CircuitClosed && c.NextTrialTime != nil {
		g.circuit = c
		g.circuit.State = v1alpha1.CircuitOpen
	}
	if status.ThrottledUntil != nil {
		g.throttled = status.ThrottledUntil.Time
	}
}

// apply writes down what another process will have to know.
func (g *gate) apply(status *v1alpha1.NotificationChannelStatus, now time.Time) {
	if !g.known {
		return
	}
	status.Circuit = *g.circuit.DeepCopy()
	status.ThrottledUntil = nil
	if g.throttled.Sub(now) >= healthInterval { // a restart takes as long
		status.ThrottledUntil = micro(g.throttled)
	}
}

// replay takes the tokens of the attempts that began at the given times, as far as
// they are not replaced yet. The latest message is known though its request may be
// gone. A bucket is empty at worst.
func (g *gate) replay(starts []time.Time, latest, now time.Time) {
	slices.SortFunc(starts, time.Time.Compare)
	for _, at := range starts {
		g.full = later(g.full, at).Add(g.limit.every)
	}
	g.full = later(g.full, latest.Add(g.limit.every))
	if empty := now.Add(time.Duration(g.limit.burst) * g.limit.every); g.full.After(empty) {
		g.full = empty
	}
}

// token is when there is a token for one who has so many others before him.
func (g *gate) token(ahead int, now time.Time) time.Time {
	if g.limit == (limit{}) {
		return now
	}
	return later(g.full, now).Add(time.Duration(ahead+1-g.limit.burst) * g.limit.every)
}

// wait returns why an attempt that has so many others before it may not begin, zero
// where it may.
func (g *gate) wait(ahead int, now time.Time) wait {
	c := &g.circuit
	switch {
	case now.Before(g.throttled):
		return waitFor(reasonThrottled, v1alpha1.ErrorTransient, g.throttled, "the receiver has asked for no more messages until %s", stamp(g.throttled))
	case c.State == v1alpha1.CircuitHalfOpen && now.Before(g.trialEnd):
		return g.open(g.trialEnd, "another message is on its way to find out whether it works again")
	case c.State == v1alpha1.CircuitOpen && now.Before(c.NextTrialTime.Time):
		return g.open(c.NextTrialTime.Time, "the next trial is at "+stamp(c.NextTrialTime.Time))
	case c.State != "" && ahead > 0:
		return g.open(now.Add(g.timeout+outcomeGrace), "another message is about to find out whether it works again")
	}
	if at := g.token(ahead, now); at.After(now) {
		return waitFor(reasonRateLimit, v1alpha1.ErrorTransient, at, "waits for its turn, about %s: the channel's rateLimit is %s", stamp(at), g.text)
	}
	return wait{}
}

// open is a wait for the circuit. It needs a person where the failures do.
func (g *gate) open(until time.Time, next string) wait {
	class := g.circuit.LastError.Class
	if class != v1alpha1.ErrorConfig {
		class = v1alpha1.ErrorTransient
	}
	last := g.circuit.LastError
	return waitFor(reasonCircuitOpen, class, until, "the channel fails; %s; last %s: %s", next, last.Reason, last.Message)
}

func waitFor(reason string, class v1alpha1.ErrorClass, until time.Time, format string, args ...any) wait {
	return wait{err: hindrance(class, reason, format, args...), until: until}
}

// take lets one attempt begin. It returns when the attempt began as a trial, zero where
// it is none.
func (g *gate) take(now time.Time) (trial time.Time) {
	if g.limit != (limit{}) {
		g.full = later(g.full, now).Add(g.limit.every)
	}
	if g.circuit.State != "" && !now.Before(g.circuit.NextTrialTime.Time) && !now.Before(g.trialEnd) {
		g.circuit.State = v1alpha1.CircuitHalfOpen
		trial, g.trial, g.trialEnd = now, now, now.Add(g.timeout+outcomeGrace)
	}
	return trial
}

// giveBack undoes take, which returned trial, for an attempt that was not made. The trial
// of another attempt goes on.
func (g *gate) giveBack(trial time.Time) {
	g.full = g.full.Add(-g.limit.every)
	if g.circuit.State == v1alpha1.CircuitHalfOpen && g.trial.Equal(trial) {
		g.circuit.State, g.trialEnd = v1alpha1.CircuitOpen, time.Time{}
	}
}

// judge takes the outcome of an attempt.
func (g *gate) judge(o outcome) {
	switch {
	case o.err != nil && o.config != g.config:
		// It says nothing about the configuration that there is now.
	case o.err == nil, o.err.Class == delivery.Permanent, o.err.CannotFollow:
		// The channel has answered; a refusal was about the message.
		g.close()
	case o.err.RetryAfter > 0 && (o.err.Reason == delivery.ReasonRateLimited || o.err.Reason == delivery.ReasonServerError):
		g.close()
		g.throttled = later(g.throttled, o.finished.Add(o.err.RetryAfter))
	case g.circuit.State == "":
		if g.failures++; g.failures >= circuitFailures {
			g.fail(o, 0)
		}
	case g.circuit.State == v1alpha1.CircuitHalfOpen && !o.started.Before(g.trial):
		g.fail(o, g.circuit.FailedTrials+1)
	}
}

func (g *gate) close() {
	g.circuit, g.failures, g.trialEnd = v1alpha1.ChannelCircuit{}, 0, time.Time{}
}

// fail opens the circuit until the next trial.
func (g *gate) fail(o outcome, trials int32) {
	pause := longestPause
	if trials < 4 {
		pause = min(shortestPause<<trials, longestPause)
	}
	since := g.circuit.Since
	if since == nil {
		since = micro(o.finished)
	}
	g.trialEnd = time.Time{}
	g.circuit = v1alpha1.ChannelCircuit{
		State: v1alpha1.CircuitOpen, Since: since, NextTrialTime: micro(o.finished.Add(pause)),
		FailedTrials: trials, LastError: deliveryError(o.err), HeldConfig: g.config,
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// stamp is a time as sentences have it: never before it.
func stamp(t time.Time) string {
	return t.Add(time.Second - time.Nanosecond).UTC().Truncate(time.Second).Format(time.RFC3339)
}
