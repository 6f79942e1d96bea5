package controller

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// sends are the attempts that this process has begun and whose outcomes status
// does not hold yet. Losing them loses nothing: an attempt in status that no
// process knows of is in doubt once its deadline has passed.
type sends struct {
	// wake has a request looked at again. It does not block and calls nothing here.
	wake func(types.NamespacedName)
	// health knows when attempts on a channel may begin.
	health *ChannelHealth
	// history returns what status says of a channel: who waits for it, in order, and
	// when attempts on it began.
	history func(types.NamespacedName) ([]*turn, []time.Time)

	// wg counts the places taken.
	wg sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	attempts map[types.UID]map[string]sendState
	owners   map[types.UID]types.NamespacedName
	// last is what status was last written to say of the requests with attempts.
	// It is read only, and matters where a request vanishes.
	last map[types.UID]*v1alpha1.NotificationRequest
	// unsent are the starts of attempts that were not made, since the answer to
	// the write of their intent was lost: status may hold them all the same.
	unsent map[types.UID]map[string][]time.Time
	slots  map[types.NamespacedName]*slots
	// places are those that are taken or reserved on all channels.
	places int
	// turns counts those that were given out.
	turns int64
}

func newSends(wake func(types.NamespacedName), health *ChannelHealth, history func(types.NamespacedName) ([]*turn, []time.Time)) *sends {
	return &sends{
		wake:     wake,
		health:   health,
		history:  history,
		attempts: map[types.UID]map[string]sendState{},
		owners:   map[types.UID]types.NamespacedName{},
		last:     map[types.UID]*v1alpha1.NotificationRequest{},
		unsent:   map[types.UID]map[string][]time.Time{},
		slots:    map[types.NamespacedName]*slots{},
	}
}

// of returns the attempts of one request by channel.
func (s *sends) of(uid types.UID) map[string]sendState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.attempts[uid])
}

// start makes an attempt in a goroutine of its own and keeps its outcome until
// forget. Then it gives the place back and wakes the request.
func (s *sends) start(request types.NamespacedName, uid types.UID, channel string, slot types.NamespacedName, attempt int32, send func() outcome) {
	s.put(request, uid, channel, sendState{outcome: outcome{attempt: attempt}})
	go func() {
		s.put(request, uid, channel, sendState{done: true, outcome: send()})
		s.release(slot)
		s.wake(request)
	}()
}

func (s *sends) put(request types.NamespacedName, uid types.UID, channel string, state sendState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempts[uid] == nil {
		s.attempts[uid] = map[string]sendState{}
		s.owners[uid] = request
	}
	s.attempts[uid][channel] = state
}

// doubtIntent notes that an attempt was not made though status may say so.
func (s *sends) doubtIntent(request types.NamespacedName, uid types.UID, channel string, started time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsent[uid] == nil {
		s.unsent[uid] = map[string][]time.Time{}
		s.owners[uid] = request
	}
	s.unsent[uid][channel] = append(s.unsent[uid][channel], started)
}

// doubted returns the starts of the attempts that were not made, by channel.
func (s *sends) doubted(uid types.UID) map[string][]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.unsent[uid])
}

// forget drops the outcomes that status now holds and, where status was written,
// the intents that were in doubt until then.
func (s *sends) forget(uid types.UID, known map[string]sendState, written bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if written {
		delete(s.unsent, uid)
	}
	for channel, state := range known {
		if state.done && s.attempts[uid][channel].attempt == state.attempt {
			delete(s.attempts[uid], channel)
		}
	}
	s.tidy(uid)
}

// drain lets no attempt begin any more and returns once none runs, with the
// requests whose outcomes are not in status yet.
func (s *sends) drain() []types.NamespacedName {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.owners))
}

// keep keeps what status says of a request with attempts.
func (s *sends) keep(nr *v1alpha1.NotificationRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[nr.UID], s.owners[nr.UID] = nr, client.ObjectKeyFromObject(nr)
}

// vanished returns what was kept of the requests that had a name before the one
// with the given UID, and forgets intents of theirs.
func (s *sends) vanished(request types.NamespacedName, present types.UID) (all []*v1alpha1.NotificationRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, owner := range s.owners {
		if owner != request || uid == present {
			continue
		}
		delete(s.unsent, uid)
		if s.tidy(uid); s.last[uid] != nil {
			all = append(all, s.last[uid])
		}
	}
	return all
}

// drop forgets a request that is gone, whose attempts have ended.
func (s *sends) drop(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.attempts, uid)
	delete(s.unsent, uid)
	s.tidy(uid)
}

func (s *sends) tidy(uid types.UID) {
	if len(s.attempts[uid]) == 0 && len(s.unsent[uid]) == 0 {
		delete(s.attempts, uid)
		delete(s.owners, uid)
		delete(s.last, uid)
	}
}

// running counts the attempts that have no outcome yet.
func (s *sends) running() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, byChannel := range s.attempts {
		for _, state := range byChannel {
			if !state.done {
				n++
			}
		}
	}
	return n
}
