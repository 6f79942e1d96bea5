package controller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
)

// storage is a DataStorage that a hold asks.
type storage struct {
	mu    sync.Mutex
	err   error
	asked int
}

func (s *storage) ask(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.err
}

func (s *storage) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *storage) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func TestHeldRequestsAreWokenWithinASecondOfTheOutagesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var woken []types.NamespacedName
		s := &storage{}
		h := newHold(s.ask, func(key types.NamespacedName) { woken = append(woken, key) })
		go func() { _ = h.watch(t.Context()) }()
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		pass(time.Hour)
		equal(t, "questions before there is anything to send", s.questions(), 0)
		equal(t, "held", h.check(t.Context(), requestKey(0)).Reason, "")
		pass(time.Hour)
		equal(t, "questions", s.questions(), 1)

		s.set(errors.New("connection refused"))
		for n := range 3 {
			equal(t, "held", h.check(t.Context(), requestKey(n)), v1alpha1.DeliveryError{
				Class: v1alpha1.ErrorTransient, Reason: "AuditOutage",
				Message: "nothing is sent while DataStorage cannot record it: connection refused",
			})
		}
		equal(t, "questions though three want to send", s.questions(), 2)
		pass(time.Minute)
		s.set(errors.New("no database"))
		pass(time.Second)
		equal(t, "held", h.check(t.Context(), requestKey(1)).Message, "nothing is sent while DataStorage cannot record it: no database")
		equal(t, "woken", woken, nil)
		s.set(nil)
		pass(time.Second)
		slices.SortFunc(woken, func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
		equal(t, "woken", woken, []types.NamespacedName{requestKey(0), requestKey(1), requestKey(2)})

		n := s.questions()
		pass(time.Hour)
		equal(t, "questions after the outage", s.questions()-n, 0)
		equal(t, "held", h.check(t.Context(), requestKey(1)).Reason, "")

		// The next outage is noticed and ends as the first did.
		woken = nil
		s.set(errors.New("connection refused"))
		h.check(t.Context(), requestKey(4))
		pass(time.Minute)
		s.set(nil)
		pass(time.Second)
		equal(t, "woken", woken, []types.NamespacedName{requestKey(4)})
	})
}

func TestAHangingDataStorageHoldsUpNoWorkerThatKnowsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHold(func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			<-ctx.Done()
			return ctx.Err()
		}, func(types.NamespacedName) {})
		go func() { _ = h.watch(t.Context()) }()
		h.check(t.Context(), requestKey(0))
		start := time.Now()
		for n := range 100 {
			equal(t, "held", h.check(t.Context(), requestKey(n)).Reason, "AuditOutage")
			<-time.After(time.Millisecond)
		}
		equal(t, "time for a hundred", time.Since(start), 100*time.Millisecond)
	})
}

func TestNothingIsHeldWhereNobodyAskedForIt(t *testing.T) {
	h := newHold(nil, nil)
	equal(t, "held", h.check(t.Context(), requestKey(0)).Reason, "")
}
