package controller

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

var (
	place  = types.NamespacedName{Namespace: "shop", Name: "ops"}
	place2 = types.NamespacedName{Namespace: "shop", Name: "mail"}
)

func requestKey(n int) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: fmt.Sprintf("request-%d", n)}
}

func newTestSends(wake func(types.NamespacedName)) *sends {
	return newSends(wake, &ChannelHealth{}, func(types.NamespacedName) ([]*turn, []time.Time) { return nil, nil })
}

// want has a request, all of the same age, ask for a place on a channel without limits.
func (s *sends) want(channel, request types.NamespacedName) bool {
	_, _, ok := s.acquire(wish{
		channel: &v1alpha1.NotificationChannel{ObjectMeta: metav1.ObjectMeta{Namespace: channel.Namespace, Name: channel.Name}},
		request: request, created: born, lastChance: born.Add(24 * time.Hour),
	})
	return ok
}

// ask is a look at a request that wants a place.
func (s *sends) ask(channel, request types.NamespacedName) bool {
	defer s.looked(request)
	return s.want(channel, request)
}

// crowded returns sends whose place is full with the requests 0 to 15, and the
// list of the requests that it wakes.
func crowded(t *testing.T) (*sends, *[]types.NamespacedName) {
	t.Helper()
	var woken []types.NamespacedName
	s := newTestSends(func(key types.NamespacedName) { woken = append(woken, key) })
	for n := range channelLimit {
		equal(t, "place", s.ask(place, requestKey(n)), true)
	}
	return s, &woken
}

func TestChannelHasSoManyPlacesAndNoMore(t *testing.T) {
	s, woken := crowded(t)
	equal(t, "one more", s.ask(place, requestKey(20)), false)
	equal(t, "another channel", s.ask(place2, requestKey(30)), true)
	s.release(place)
	equal(t, "woken", *woken, []types.NamespacedName{requestKey(20)})
	equal(t, "its place", s.ask(place, requestKey(20)), true)
	equal(t, "one more", s.ask(place, requestKey(21)), false)
}

func TestTheConsoleHasAPlaceForEachWorkerAndIsBoundedAllTheSame(t *testing.T) {
	var woken []types.NamespacedName
	s := newTestSends(func(key types.NamespacedName) { woken = append(woken, key) })
	place := client.ObjectKeyFromObject(console)
	for n := range consoleLimit {
		equal(t, "place", s.ask(place, requestKey(n)), true)
	}
	equal(t, "one more", s.ask(place, requestKey(consoleLimit)), false)
	s.release(place)
	equal(t, "woken", woken, []types.NamespacedName{requestKey(consoleLimit)})
}

func placeOf(n int) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: fmt.Sprintf("channel-%d", n)}
}

func TestAllChannelsTogetherHaveSoManyPlacesAndOneEachBeyond(t *testing.T) {
	const channels, each = 500, 20
	woken := map[types.NamespacedName]bool{}
	s := newTestSends(func(key types.NamespacedName) { woken[key] = true })
	taken := map[types.NamespacedName]int{} // by channel
	var waiting [][2]types.NamespacedName   // channel and request
	for n := range channels * each {
		channel, request := placeOf(n/each), requestKey(n)
		if s.ask(channel, request) {
			taken[channel]++
			continue
		}
		waiting = append(waiting, [2]types.NamespacedName{channel, request})
	}
	total, full := 0, 0
	for channel, n := range taken {
		equal(t, "places of "+channel.Name, n == channelLimit || n == 1, true)
		if total += n; n == channelLimit {
			full++
		}
	}
	equal(t, "channels with a place", len(taken), channels)
	equal(t, "channels with all of theirs", full, attemptLimit/channelLimit)
	equal(t, "places", total, attemptLimit+channels-full)

	// Each attempt ends, and those that are woken begin theirs.
	for len(waiting) > 0 {
		left := len(waiting)
		for channel, n := range taken {
			if taken[channel] = 0; n == 0 {
				continue
			}
			for range n {
				s.release(channel)
			}
		}
		equal(t, "places without an attempt", s.places <= attemptLimit+channels, true)
		waiting = slices.DeleteFunc(waiting, func(w [2]types.NamespacedName) bool {
			ok := woken[w[1]] && s.ask(w[0], w[1])
			if ok {
				taken[w[0]]++
			}
			return ok
		})
		if len(waiting) == left {
			t.Fatalf("%d wait and nobody wakes them", left)
		}
	}
	for channel, n := range taken {
		for range n {
			s.release(channel)
		}
	}
	equal(t, "kept", s.places+len(s.slots), 0)
}

func TestPlacesGoToTheFirstInLine(t *testing.T) {
	s, woken := crowded(t)
	for _, n := range []int{20, 21, 20, 22, 21} { // to ask again changes nothing
		equal(t, "place", s.ask(place, requestKey(n)), false)
	}
	s.release(place)
	s.release(place)
	equal(t, "woken", *woken, []types.NamespacedName{requestKey(20), requestKey(21)})
	equal(t, "who comes by", s.ask(place, requestKey(30)), false)
	equal(t, "second in line", s.ask(place, requestKey(21)), true)
	equal(t, "first in line", s.ask(place, requestKey(20)), true)
	s.release(place)
	s.release(place)
	equal(t, "woken", (*woken)[2:], []types.NamespacedName{requestKey(22), requestKey(30)})
}

func TestUnusedPlaceGoesToTheNextInLine(t *testing.T) {
	s, woken := crowded(t)
	for n := 20; n < 23; n++ {
		s.ask(place, requestKey(n))
	}
	s.release(place)
	s.looked(requestKey(20)) // it was deleted, or has no more use for it
	s.looked(requestKey(21))
	s.looked(requestKey(21))
	equal(t, "woken", *woken, []types.NamespacedName{requestKey(20), requestKey(21), requestKey(22)})
	s.looked(requestKey(22))
	equal(t, "place", s.ask(place, requestKey(40)), true)
}

// The one whose time is up first was promised a place, and then the channel failed.
func TestLastChanceIsGivenThoughThePlaceWasPromisedBefore(t *testing.T) {
	s, woken := crowded(t)
	last := time.Now().Add(-time.Second)
	wanted := wish{channel: newChannel(), config: "A", request: requestKey(20), created: born, lastChance: last}
	_, _, ok := s.acquire(wanted)
	equal(t, "while all places are taken", ok, false)
	s.looked(wanted.request)
	s.release(place)
	equal(t, "woken", *woken, []types.NamespacedName{requestKey(20)})
	s.health.use(place, func(g *gate) {
		for range circuitFailures {
			g.judge(outcome{config: "A", started: time.Now(), finished: time.Now(), err: transient()})
		}
	})
	late := wanted
	late.request, late.lastChance = requestKey(21), time.Now().Add(time.Hour)
	_, w, ok := s.acquire(late)
	equal(t, "another one", ok, false)
	equal(t, "waits for", w.err.Reason, reasonCircuitOpen)
	_, _, ok = s.acquire(wanted)
	equal(t, "its last chance", ok, true)
}

func TestWhoeverDoesNotAskAgainLeavesTheLine(t *testing.T) {
	s, woken := crowded(t)
	s.ask(place, requestKey(20))
	s.ask(place, requestKey(21))
	s.looked(requestKey(20))
	s.release(place)
	equal(t, "woken", *woken, []types.NamespacedName{requestKey(21)})
}

func TestNothingIsKeptOfAnIdleChannel(t *testing.T) {
	s, _ := crowded(t)
	s.ask(place, requestKey(20))
	for range channelLimit {
		s.release(place)
	}
	s.looked(requestKey(20))
	equal(t, "channels", len(s.slots), 0)
}

func TestOutcomeIsKeptUntilStatusHoldsIt(t *testing.T) {
	key, uid := requestKey(1), types.UID("1")
	s := newTestSends(func(types.NamespacedName) {})
	put := func(channel string, attempt int32, done bool) {
		s.put(key, uid, channel, sendState{done: done, outcome: outcome{attempt: attempt}})
	}
	put("a", 1, true)
	put("b", 1, false)
	put("c", 1, true)
	known := s.of(uid)
	put("b", 1, true)
	put("c", 2, false)
	equal(t, "what was handed out", known["b"].done, false)
	s.forget(uid, known, true)
	left := s.of(uid)
	equal(t, "in status", left["a"].attempt, 0)
	equal(t, "came since", left["b"].done, true)
	equal(t, "the attempt after it", left["c"].attempt, 2)
	equal(t, "running", s.running(), 1)

	put("c", 2, true)
	s.forget(uid, s.of(uid), true)
	equal(t, "requests", len(s.attempts)+len(s.owners), 0)
	s.forget(uid, known, true)
	equal(t, "requests", len(s.attempts)+len(s.owners), 0)
}

func TestWhatStatusSaidLastIsKeptAsLongAsAttemptsAre(t *testing.T) {
	nr, other := newRequest(), newRequest()
	other.UID, other.Name = "another", "another"
	key := client.ObjectKeyFromObject(nr)
	s := newTestSends(func(types.NamespacedName) {})
	for _, nr := range []*v1alpha1.NotificationRequest{nr, other} {
		s.put(client.ObjectKeyFromObject(nr), nr.UID, ops, sendState{done: true, outcome: outcome{attempt: 1}})
		s.keep(nr)
	}
	equal(t, "while it is there", len(s.vanished(key, nr.UID)), 0)
	equal(t, "when it is gone", s.vanished(key, "its heir"), []*v1alpha1.NotificationRequest{nr})
	equal(t, "attempts of the other", len(s.of(other.UID)), 1)
	s.forget(other.UID, s.of(other.UID), true)
	equal(t, "once status holds the outcome", len(s.vanished(client.ObjectKeyFromObject(other), "")), 0)
	s.drop(nr.UID)
	s.doubtIntent(key, nr.UID, ops, born)
	equal(t, "where no attempt was made", len(s.vanished(key, "")), 0)
	equal(t, "kept", len(s.attempts)+len(s.owners)+len(s.last)+len(s.unsent), 0)
}

func TestDrainWaitsForAttemptsThatBeganOrAreAboutTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSends(func(types.NamespacedName) {})
		s.ask(place, requestKey(1)) // status is being written
		s.ask(place, requestKey(2))
		answered := make(chan struct{})
		s.start(requestKey(2), "2", ops, place, 1, func() outcome { <-answered; return outcome{attempt: 1} })

		var left []types.NamespacedName
		drained := make(chan struct{})
		go func() { left = s.drain(); close(drained) }()
		synctest.Wait()
		equal(t, "a new attempt after the drain began", s.ask(place2, requestKey(3)), false)
		close(answered)
		synctest.Wait()
		select {
		case <-drained:
			t.Fatal("drained while status was being written")
		default:
		}
		s.start(requestKey(1), "1", ops, place, 1, func() outcome { return outcome{attempt: 1} })
		<-drained
		slices.SortFunc(left, func(a, b types.NamespacedName) int {
			return len(a.Name) - len(b.Name) + int(a.Name[8]) - int(b.Name[8])
		})
		equal(t, "outcomes that are not in status", left, []types.NamespacedName{requestKey(1), requestKey(2)})
	})
}

// Many requests want one channel while their writes fail, they vanish, or they are
// looked at for no reason. All that stay get their turn, and the channel never
// has more than its share.
func TestEveryRequestGetsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, workers = 300, 8
		queue := workqueue.NewTyped[types.NamespacedName]()
		s := newTestSends(queue.Add)
		var running, most atomic.Int32
		var mu sync.Mutex
		sent := map[types.NamespacedName]int{}
		handled := func(key types.NamespacedName) {
			mu.Lock()
			defer mu.Unlock()
			sent[key]++
			if len(sent) == requests {
				queue.ShutDown()
			}
		}
		look := func(key types.NamespacedName) {
			defer s.looked(key)
			uid := types.UID(key.Name)
			known := s.of(uid)
			if state, ok := known[ops]; ok {
				if state.done {
					s.forget(uid, known, true)
					handled(key)
				}
				return
			}
			mu.Lock()
			over := sent[key] > 0
			mu.Unlock()
			if over {
				return
			}
			if rand.IntN(5) == 0 { // it is gone, or something else is in the way
				mu.Lock()
				again := sent[key] == 0
				mu.Unlock()
				if again {
					time.AfterFunc(time.Millisecond, func() { queue.Add(key) })
				}
				return
			}
			if !s.want(place, key) {
				return
			}
			if rand.IntN(4) == 0 { // the write met a conflict
				s.release(place)
				queue.Add(key)
				return
			}
			s.start(key, uid, ops, place, 1, func() outcome {
				for n := running.Add(1); ; {
					if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
						break
					}
				}
				<-time.After(time.Duration(rand.IntN(20)) * time.Millisecond)
				running.Add(-1)
				return outcome{attempt: 1}
			})
		}
		for n := range requests {
			queue.Add(requestKey(n))
		}
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for {
					key, stop := queue.Get()
					if stop {
						return
					}
					look(key)
					queue.Done(key)
				}
			})
		}
		all.Wait()
		s.drain()
		for key, n := range sent {
			equal(t, "attempts of "+key.Name, n, 1)
		}
		equal(t, "requests", len(sent), requests)
		equal(t, "most at once", most.Load(), int32(channelLimit))
		equal(t, "left", len(s.attempts)+len(s.owners), 0)
	})
}
