package controller

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// channelLimit is how many attempts on one channel run at the same time, so that
// a slow channel holds neither memory nor connections without bound.
const channelLimit = 16

// consoleLimit is the same for the console. A line is written faster than the next
// intent, so its places fill only where nobody reads them.
const consoleLimit = 256

// attemptLimit is how many attempts run at the same time on all channels together. One
// that gets no answer holds 55 to 110 KiB, by its message, three goroutines and a socket.
// A channel without an attempt has a place beyond that, so that none waits because others
// are stuck.
const attemptLimit = 1024

var consoleKey = client.ObjectKeyFromObject(console)

func limitOf(channel types.NamespacedName) int {
	if channel == consoleKey {
		return consoleLimit
	}
	return channelLimit
}

// room reports whether a channel has a place for one more attempt.
func (s *sends) room(channel types.NamespacedName, c *slots) bool {
	n := c.taken + len(c.reserved)
	return n < limitOf(channel) && (n == 0 || s.places < attemptLimit)
}

// slots shares out a channel's places. A request that finds none, or that may not
// begin yet for another reason, waits in line, the oldest request first. What comes
// free is kept for the next in line until it has been looked at again.
type slots struct {
	taken    int
	reserved map[types.NamespacedName]*turn
	waiting  map[types.NamespacedName]*turn
	line     []*turn // those of waiting, in order
	timer    *time.Timer
}

// turn is a request's place in line: by its creation and, within a second, by its
// number.
type turn struct {
	request types.NamespacedName
	created time.Time
	number  int64
	// asked says that the request has asked for a place since it was last looked at.
	asked bool
}

func compare(a, b *turn) int {
	return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.number, b.number))
}

// rank is how many are before p in line, where p is in it or belongs.
func (c *slots) rank(p *turn) int {
	i, _ := slices.BinarySearchFunc(c.line, p, compare)
	return i
}

func (c *slots) enter(p *turn) {
	c.waiting[p.request] = p
	c.line = slices.Insert(c.line, c.rank(p), p)
}

func (c *slots) leave(p *turn) {
	delete(c.waiting, p.request)
	i := c.rank(p)
	c.line = slices.Delete(c.line, i, i+1)
}

// wish is that of a request to begin an attempt on a channel.
type wish struct {
	channel *v1alpha1.NotificationChannel
	// config identifies the channel's configuration, its Secrets included.
	config  string
	request types.NamespacedName
	created time.Time
	// lastChance is from when the circuit holds the attempt back no more.
	lastChance time.Time
}

// acquire takes a place on a channel, or puts the request in line for one and says
// what it waits for: nothing that needs saying where all places are taken. trial is for
// cancel.
func (s *sends) acquire(a wish) (trial time.Time, w wait, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return trial, wait{}, false
	}
	now, key := time.Now(), client.ObjectKeyFromObject(a.channel)
	c := s.slots[key]
	if c == nil {
		c = &slots{reserved: map[types.NamespacedName]*turn{}, waiting: map[types.NamespacedName]*turn{}}
		s.slots[key] = c
	}
	s.learn(key, c, a, now)
	mine := c.reserved[a.request]
	if mine == nil {
		if mine = c.waiting[a.request]; mine == nil {
			mine = &turn{request: a.request, created: a.created, number: s.number()}
			c.enter(mine)
		}
		mine.asked = true
		s.next(key, a.request)
	}
	promised := c.reserved[a.request] != nil
	s.unreserve(c, a.request)
	s.health.use(key, func(g *gate) {
		ahead := len(c.reserved)
		if !promised {
			ahead += c.rank(mine)
		}
		// The channel may have failed since a place was promised.
		w = g.wait(ahead, now)
		switch {
		case w.err.Class == "":
			ok = promised
		case w.err.Reason == reasonCircuitOpen && !now.Before(a.lastChance) && s.room(key, c):
			ok = !g.token(len(c.reserved), now).After(now)
		}
		if ok {
			trial = g.take(now)
		}
	})
	waiting := c.waiting[a.request] != nil
	switch {
	case ok && waiting:
		c.leave(mine)
	case !ok && !waiting:
		mine.asked = true
		c.enter(mine)
	}
	if ok {
		c.taken++
		s.places++
		s.wg.Add(1)
	}
	s.next(key, types.NamespacedName{})
	return trial, w, ok
}

func (s *sends) number() int64 {
	s.turns++
	return s.turns
}

// learn brings what is known of a channel up to date. The order of those who wait
// and the tokens that are spent are read from the requests where this process does
// not know them: at its first message and after a change of the rate limit.
func (s *sends) learn(key types.NamespacedName, c *slots, a wish, now time.Time) {
	changed := false
	s.health.use(key, func(g *gate) { changed = g.learn(a.channel, a.config, now) })
	if !changed {
		return
	}
	line, starts := s.history(key)
	var latest time.Time
	if t := a.channel.Status.LastSuccessTime; t != nil {
		latest = t.Time
	}
	s.health.use(key, func(g *gate) { g.replay(starts, latest, now) })
	for _, p := range line {
		if c.waiting[p.request] == nil && c.reserved[p.request] == nil {
			p.number = s.number()
			c.enter(p)
		}
	}
}

// release gives a place back.
func (s *sends) release(channel types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[channel].taken--
	s.places--
	s.next(channel, types.NamespacedName{})
	s.wg.Done()
}

// cancel gives a place back whose attempt was not made.
func (s *sends) cancel(channel types.NamespacedName, trial time.Time) {
	s.health.use(channel, func(g *gate) { g.giveBack(trial) })
	s.release(channel)
}

// looked ends what a request had reserved and did not use, and its waiting where
// it has not asked for it again.
func (s *sends) looked(request types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for channel, c := range s.slots {
		p := cmp.Or(c.reserved[request], c.waiting[request])
		if p == nil {
			continue
		}
		if p.asked {
			p.asked = false // what was reserved since then has it woken
			continue
		}
		if s.unreserve(c, request); c.waiting[request] != nil {
			c.leave(p)
		}
		s.next(channel, types.NamespacedName{})
	}
}

// reopen has those in line looked at that may begin by now.
func (s *sends) reopen(channel types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next(channel, types.NamespacedName{})
}

func (s *sends) unreserve(c *slots, request types.NamespacedName) {
	if c.reserved[request] != nil {
		delete(c.reserved, request)
		s.places--
	}
}

// next reserves what is free for those first in line and wakes them, apart from
// the one that is being looked at. Where time has to pass first, it comes back; where
// other channels have all the places, the end of an attempt of its own does.
func (s *sends) next(channel, looking types.NamespacedName) {
	c := s.slots[channel]
	if c == nil {
		return
	}
	now := time.Now()
	for len(c.line) > 0 && s.room(channel, c) {
		var w wait
		s.health.use(channel, func(g *gate) { w = g.wait(len(c.reserved), now) })
		if w.err.Class != "" {
			if c.timer == nil {
				c.timer = time.AfterFunc(w.until.Sub(now), func() { s.reopen(channel) })
			} else {
				c.timer.Reset(w.until.Sub(now))
			}
			break
		}
		p := c.line[0]
		c.leave(p)
		c.reserved[p.request] = p
		s.places++
		if p.request != looking {
			s.wake(p.request)
		}
	}
	if c.taken == 0 && len(c.reserved) == 0 && len(c.line) == 0 {
		if c.timer != nil {
			c.timer.Stop()
		}
		delete(s.slots, channel)
	}
}
