package controller

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
)

func TestAVanishedRequestEndsAsADeletedOneDoes(t *testing.T) {
	for name, c := range map[string]struct {
		channels []string
		prepare  func(*lab)
		after    func(*lab)    // what happens between two looks
		wait     time.Duration // after the first look
		first    []string      // events after it
		want     []string
	}{
		"an attempt runs and succeeds": {
			prepare: func(l *lab) { l.begin(ops) },
			after:   func(l *lab) { l.end(ops, nil) },
			first:   []string{audit.TypeRequestCancelled},
			want:    []string{audit.TypeMessageSent, audit.TypeRequestCancelled},
		},
		"an attempt runs and would be tried again": {
			prepare: func(l *lab) { l.begin(ops) },
			after:   func(l *lab) { l.end(ops, transient()) },
			first:   []string{audit.TypeRequestCancelled},
			want:    []string{audit.TypeAttemptFailed, audit.TypeMessageFailed, audit.TypeRequestCancelled},
		},
		"the only attempt has succeeded": {
			prepare: func(l *lab) {
				l.begin(ops)
				l.sends[ops] = sendState{done: true, outcome: outcome{attempt: 1, started: l.now, finished: l.now}}
			},
			first: []string{audit.TypeMessageSent},
			want:  []string{audit.TypeMessageSent},
		},
		"one channel waits": {
			channels: []string{"mail", ops},
			prepare:  func(l *lab) { l.attempt("mail", transient()); l.begin(ops) },
			after:    func(l *lab) { l.end(ops, nil) },
			first:    []string{audit.TypeAttemptFailed, audit.TypeMessageFailed, audit.TypeRequestCancelled},
			want:     []string{audit.TypeAttemptFailed, audit.TypeMessageFailed, audit.TypeMessageSent, audit.TypeRequestCancelled},
		},
		"another process has an attempt under way": {
			prepare: func(l *lab) { l.begin(ops); l.crash() },
			after:   func(l *lab) { l.pass(40 * time.Second) },
			wait:    40 * time.Second,
			first:   []string{audit.TypeRequestCancelled},
			want:    []string{audit.TypeAttemptAmbiguous, audit.TypeMessageFailed, audit.TypeRequestCancelled},
		},
		"it was deleted before": {
			prepare: func(l *lab) {
				l.begin(ops)
				l.nr.DeletionTimestamp = new(metav1.NewTime(born))
				l.plan()
			},
			after: func(l *lab) { l.end(ops, nil) },
			first: []string{audit.TypeRequestCancelled},
			want:  []string{audit.TypeMessageSent, audit.TypeRequestCancelled},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.channels == nil {
				c.channels = []string{ops}
			}
			l := newLab(t, withChannels(c.channels...))
			l.plan()
			c.prepare(l)
			deleted := metav1.NewTime(l.now)
			if l.nr.DeletionTimestamp != nil {
				deleted = *l.nr.DeletionTimestamp
			}
			equal(t, "wait", l.planVanished(l.nr), c.wait)
			equal(t, "deleted", *l.nr.DeletionTimestamp, deleted)
			equal(t, "events at first", eventTypes(l.nr), c.first)
			before := encode(t, pendingEvents(l.nr, true))
			if c.after != nil {
				c.after(l)
			}
			l.pass(time.Hour)
			equal(t, "wait at the end", l.planVanished(l.nr), 0)
			equal(t, "events", eventTypes(l.nr), c.want)
			equal(t, "finished", l.nr.Status.FinishedTime != nil, true)
			after := encode(t, pendingEvents(l.nr, true))
			for _, e := range before {
				equal(t, "an event that was built before is the same", slices.Contains(after, e), true)
			}
		})
	}
}

// vanish has the API server let the request go whatever it says.
func (b *bench) vanish() {
	b.t.Helper()
	nr := b.stored()
	nr.Finalizers = nil
	if err := errors.Join(b.cluster.Update(b.t.Context(), nr), b.cluster.Delete(b.t.Context(), nr)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) kept() int {
	return len(b.sends.attempts) + len(b.sends.owners) + len(b.sends.last) + len(b.receipts.m) + len(b.receipts.offered)
}

func TestTheOutcomeOfAnAttemptIsRecordedThoughItsRequestVanished(t *testing.T) {
	answer := make(chan struct{})
	object, calls := receiver(t, func(http.ResponseWriter, *http.Request) { <-answer })
	b := newBench(t, newRequest(), object)
	taken := 1 // so many events are taken until the disk is full
	b.Record = func(e audit.Event) error {
		if taken--; taken < 0 {
			return errors.New("the disk is full")
		}
		b.recorded = append(b.recorded, e)
		return nil
	}
	b.mustLook()
	b.vanish()
	equal(t, "looked at again while the attempt runs", b.mustLook(), 0)
	equal(t, "events while the attempt runs", len(b.recorded), 1)
	close(answer)
	taken = 0
	equal(t, "looked at again where no event was taken", b.ended(), auditRetry)
	taken = 1
	equal(t, "looked at again where one was taken", b.mustLook(), auditRetry)
	taken = 2
	equal(t, "looked at again", b.mustLook(), 0)
	built := map[string]string{}
	for i, line := range encode(t, b.recorded) {
		kind := b.recorded[i].EventType
		if built[kind] != "" {
			equal(t, kind, line, built[kind])
		}
		built[kind] = line
	}
	equal(t, "events", len(built), 2)
	equal(t, "the message was sent", built[audit.TypeMessageSent] != "", true)
	equal(t, "the request was cancelled", built[audit.TypeRequestCancelled] != "", true)
	b.acknowledge()
	n := len(b.recorded)
	equal(t, "looked at again", b.mustLook(), 0)
	equal(t, "recorded again", len(b.recorded), n)
	equal(t, "calls", calls.Load(), int32(1))
	equal(t, "kept", b.kept(), 0)
	equal(t, "told", b.told(), []string{"Normal Sent 1 channel accepted the message"})
}

func TestAnOutcomeThatMetNoRequestAnyMoreIsRecorded(t *testing.T) {
	b := newBench(t, newRequest(withChannels()))
	b.mustLook()
	b.wait()
	b.vanish()
	b.mustLook()
	equal(t, "events", len(b.recorded), 1)
	equal(t, "type", b.recorded[0].EventType, audit.TypeMessageSent)
	equal(t, "kept", b.kept(), 0)
}

func TestWhatStatusHoldsAlreadyIsNoDoubtWhenARequestVanishes(t *testing.T) {
	answer := make(chan struct{})
	object, _ := receiver(t, func(http.ResponseWriter, *http.Request) { <-answer })
	b := newBench(t, newRequest(withChannels("console", ops)), object)
	b.send()
	equal(t, "events of the console", len(b.recorded), 1)
	b.acknowledge()
	b.mustLook()
	b.vanish()
	b.mustLook()
	close(answer)
	b.ended()
	kinds := map[string]int{}
	for _, e := range b.recorded {
		kinds[e.EventType+" "+e.EventID.String()]++
	}
	equal(t, "events", len(kinds), 3)
	for kind := range kinds {
		equal(t, "the console is not in doubt: "+kind, strings.HasPrefix(kind, audit.TypeAttemptAmbiguous), false)
	}
	equal(t, "kept", b.kept(), 0)
}

func TestAVanishedRequestAndItsHeirAreToldApart(t *testing.T) {
	answer := make(chan struct{})
	object, calls := receiver(t, func(http.ResponseWriter, *http.Request) { <-answer })
	b := newBench(t, newRequest(), object)
	b.mustLook()
	b.vanish()
	heir := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.UID, nr.Spec.Suspend, nr.CreationTimestamp = "heir", new(true), metav1.Now()
	})
	if err := b.cluster.Create(t.Context(), heir); err != nil {
		t.Fatal(err)
	}
	b.mustLook()
	close(answer)
	b.ended()
	uids := map[types.UID]bool{}
	for _, e := range b.recorded {
		for _, uid := range []types.UID{newRequest().UID, heir.UID} {
			if slices.Contains([]string{
				audit.EventID(audit.TypeMessageSent, string(uid), ops).String(), audit.EventID(audit.TypeRequestCancelled, string(uid)).String(),
			}, e.EventID.String()) {
				uids[uid] = true
			}
		}
	}
	equal(t, "requests that have events", uids, map[types.UID]bool{newRequest().UID: true})
	nr := b.stored()
	equal(t, "state of the heir", nr.Status.Deliveries[0].State, v1alpha1.DeliveryPending)
	equal(t, "attempts of the heir", nr.Status.Deliveries[0].Attempts, int32(0))
	equal(t, "calls", calls.Load(), int32(1))
	equal(t, "attempts kept", len(b.sends.attempts)+len(b.sends.owners)+len(b.sends.last), 0)
}
