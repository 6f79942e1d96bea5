package dlq

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kubernaut.ai/notification/internal/audit"
)

func TestWhatRedisAcknowledgedOutlivesItsKills(t *testing.T) {
	s := startRedis(t)
	r := s.open("one")
	next := 0
	for range 4 {
		var killer sync.WaitGroup
		for n := 0; ; n++ {
			if n == 20 {
				killer.Go(s.kill)
			}
			if _, err := r.Put(t.Context(), events(next, next+7)); err != nil {
				if n < 20 {
					t.Fatal(err)
				}
				break
			}
			next += 7
		}
		killer.Wait()
		s.start()
		if _, err := r.Put(t.Context(), events(next, next+7)); err != nil {
			t.Errorf("the first call after the restart: %v", err)
		}
		next += 7
	}
	wantDepth(t, audit.Depth{Waiting: next}, mustSettle(t, r, nil, nil))
	var got []audit.Event
	for len(got) < next {
		got = append(got, mustNext(t, r, next-len(got))...)
	}
	if diff := cmp.Diff(ids(events(0, next)), ids(got)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	depth := mustSettle(t, r, ids(got[:next/2]), nil)
	s.kill()
	s.start()
	wantDepth(t, audit.Depth{Waiting: next - next/2}, depth)
	wantNext(t, s.open("one"), 2, events(next/2, next/2+2))
}

func TestALostAnswerOfRedisLosesAndDoublesNothing(t *testing.T) {
	s := startRedis(t)
	r := s.open("one")
	lose := s.lossy(r)

	*lose = true
	_, err := r.Put(t.Context(), events(0, 10))
	if n := s.do("XLEN", prefix+"waiting"); err == nil || n != int64(10) {
		t.Fatalf("error %v, %v entries; the server was to do the work", err, n)
	}
	mustPut(t, r, events(0, 12), 2)

	*lose = true
	if _, _, err := r.Next(t.Context(), 5); err == nil {
		t.Error("next: no error")
	}
	wantNext(t, r, 5, events(0, 5))

	*lose = true
	rejected := []audit.Rejection{{Event: event(3), Status: 400, Reason: "bad"}}
	if _, err = r.Settle(t.Context(), ids(events(0, 3)), rejected); err == nil {
		t.Error("settle: no error")
	}
	wantNext(t, r, 100, append(events(5, 12), event(4)))
	wantDepth(t, audit.Depth{Waiting: 8, Rejected: 1}, mustSettle(t, r, ids(events(0, 3)), rejected))
}

func TestRedisMayBeAwayAtAnyTime(t *testing.T) {
	s := startRedis(t)
	s.kill()
	var log lines
	r := openRedis(t, s.url(), "one", log.log())
	wantDepth(t, audit.Depth{}, mustSettle(t, r, nil, nil))
	away := func() {
		t.Helper()
		_, putErr := r.Put(t.Context(), events(0, 1))
		_, _, nextErr := r.Next(t.Context(), 1)
		_, settleErr := r.Settle(t.Context(), ids(events(0, 1)), nil)
		for _, err := range []error{putErr, nextErr, settleErr} {
			if err == nil || !strings.Contains(err.Error(), s.addr+" (--redis-url)") || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("error is %v", err)
			}
		}
	}
	away()
	s.start()
	mustPut(t, r, events(0, 3), 3)
	want := mustSettle(t, r, nil, nil)
	s.kill()
	away()
	if diff := cmp.Diff(want, mustSettle(t, r, nil, nil)); diff != "" {
		t.Errorf("last known depth (-want +got):\n%s", diff)
	}
	s.start()
	wantNext(t, r, 10, events(0, 3))
	if n := len(log.all()); n != 2 {
		t.Errorf("%d lines, want one for each report that got no answer: %q", n, log.all())
	}
}

func TestAClosedRedisQueueSaysSo(t *testing.T) {
	r := startRedis(t).open("one")
	mustPut(t, r, events(0, 1), 1)
	r.Close()
	for range 2 {
		if _, err := r.Put(t.Context(), events(1, 2)); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestWhatRedisRefusesIsAnErrorAndCanBeTriedAgain(t *testing.T) {
	s := startRedis(t)
	r := s.open("one")
	mustPut(t, r, events(0, 5), 5)
	for name, c := range map[string]struct {
		refuse, relent []any
		want           string
	}{
		"memory is full":    {[]any{"CONFIG", "SET", "maxmemory", "1"}, []any{"CONFIG", "SET", "maxmemory", "0"}, "OOM"},
		"is a replica":      {[]any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}, "READONLY"},
		"user may not hset": {[]any{"ACL", "SETUSER", "default", "-hset"}, []any{"ACL", "SETUSER", "default", "+@all"}, "can't run this command"},
		"user may not read": {[]any{"ACL", "SETUSER", "default", "-xreadgroup"}, []any{"ACL", "SETUSER", "default", "+@all"}, "can't run this command"},
	} {
		s.do(c.refuse...)
		if _, err := r.Put(t.Context(), events(3, 8)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--redis-url") {
			t.Errorf("%s: error is %v", name, err)
		}
		s.do(c.relent...)
		s.do("SCRIPT", "FLUSH")
		if _, err := r.Put(t.Context(), events(3, 8)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := sorted(mustNext(t, r, 100)...)
		if diff := cmp.Diff(sorted(events(0, 8)...), slices.Compact(got)); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s", name, diff)
		}
		// A script that was broken off between two commands leaves a copy, which
		// comes once the first is settled.
		mustSettle(t, r, ids(events(5, 8)), nil)
		mustNext(t, r, 100)
		wantDepth(t, audit.Depth{Waiting: 5}, mustSettle(t, r, ids(events(5, 8)), nil))
	}
}

func TestAFullRedisCanGetEmpty(t *testing.T) {
	s := startRedis(t)
	dead := s.open("dead")
	mustPut(t, dead, events(0, 5), 5)
	mustSettle(t, dead, nil, []audit.Rejection{{Event: event(90), Status: 400, Reason: "bad"}})
	r := s.open("one")
	mustPut(t, r, events(5, 10), 5)
	s.do("XADD", prefix+"waiting", "*", "v", "0")
	s.do("CONFIG", "SET", "maxmemory", "1")
	r.idle = 0
	wantNext(t, r, 100, append(events(0, 10), event(90)))
	wantDepth(t, audit.Depth{Waiting: 10, Rejected: 1, Aside: 1}, mustSettle(t, r, nil, []audit.Rejection{{Event: event(9), Status: 400, Reason: "bad"}}))
	wantDepth(t, audit.Depth{Waiting: 1, Rejected: 1, Aside: 1}, mustSettle(t, r, ids(events(0, 9)), nil))
}

func TestLivingReplicasKeepWhatIsTheirs(t *testing.T) {
	s := startRedis(t)
	a, b := s.open("a"), s.open("b")
	mustPut(t, a, events(0, 5), 5)
	mustPut(t, b, events(3, 10), 5)
	mustSettle(t, a, nil, []audit.Rejection{{Event: event(90), Status: 400}})
	for _, r := range []*Redis{a, b, a, b} {
		for n := range 10 {
			owner := map[bool]string{true: "a", false: "b"}[n < 5]
			s.do("XCLAIM", prefix+"waiting", redisGroup, owner, 0, s.entryOf(n), "IDLE", 24*3600*1000, "JUSTID")
		}
		want := events(0, 5)
		if r == b {
			want = events(5, 10)
		}
		wantNext(t, r, 100, want)
	}
	wantDepth(t, audit.Depth{Waiting: 5, Rejected: 1}, mustSettle(t, a, nil, nil))
	wantDepth(t, audit.Depth{Waiting: 5}, mustSettle(t, b, nil, nil))
}

func TestAnEventThatTwoReplicasPutWaitsOnce(t *testing.T) {
	s := startRedis(t)
	replicas := []*Redis{s.open("a"), s.open("b")}
	var both sync.WaitGroup
	sums := make([]int, 2)
	for i, r := range replicas {
		both.Go(func() {
			for n := range 100 {
				added, err := r.Put(t.Context(), events(n*5, n*5+10))
				if err != nil {
					t.Error(err)
				}
				sums[i] += added
			}
		})
	}
	both.Wait()
	if sums[0]+sums[1] != 505 {
		t.Errorf("%v were added, want 505 in all", sums)
	}
	got := sorted(append(mustNext(t, replicas[0], 1000), mustNext(t, replicas[1], 1000)...)...)
	if diff := cmp.Diff(sorted(events(0, 505)...), got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	// It is settled by whoever brings it to DataStorage.
	mustSettle(t, replicas[0], ids(events(0, 505)), nil)
	wantDepth(t, audit.Depth{}, mustSettle(t, replicas[1], nil, nil))
}

func TestWhatADeadReplicaOwnedComesToALivingOne(t *testing.T) {
	s := startRedis(t)
	dead := s.open("dead")
	mustPut(t, dead, events(0, 2500), 2500)
	s.do("XADD", prefix+"waiting", "*", "v", "0")
	for range 3 {
		mustNext(t, dead, 1000)
	}
	mustSettle(t, dead, nil, []audit.Rejection{{Event: event(3000), Status: 400, Reason: "bad"}})
	r := s.open("living")
	mustPut(t, r, events(2500, 2501), 1)
	r.idle = 0
	var got []audit.Event
	for i, want := range []int{1002, 2002, 2502} {
		list, depth, err := r.Next(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		wantDepth(t, audit.Depth{Waiting: want, Aside: 1}, depth)
		if i < 2 {
			got = append(got, list...)
		}
	}
	for len(got) < 5000 {
		got = append(got, mustNext(t, r, 1000)...)
	}
	if diff := cmp.Diff(sorted(append(events(0, 2501), event(3000))...), slices.Compact(sorted(got...))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for _, stream := range []string{"waiting", "rejected", "aside"} {
		if consumers, err := s.client.XInfoConsumers(t.Context(), prefix+stream, redisGroup).Result(); err != nil || len(consumers) != 1 {
			t.Errorf("%s: consumers are %v, %v; want the living one alone", stream, consumers, err)
		}
	}
}

func TestAReplicaThatWasTakenForDeadDoublesNothing(t *testing.T) {
	s := startRedis(t)
	frozen, other := s.open("frozen"), s.open("other")
	mustPut(t, frozen, events(0, 10), 10)
	wantNext(t, frozen, 10, events(0, 10))
	other.idle = 0
	wantNext(t, other, 5, events(0, 5))
	wantDepth(t, audit.Depth{Waiting: 7}, mustSettle(t, other, ids(events(0, 3)), nil))
	// It wakes and its request was answered.
	wantDepth(t, audit.Depth{}, mustSettle(t, frozen, ids(events(0, 10)), nil))
	mustPut(t, frozen, events(10, 12), 2)
	wantNext(t, frozen, 10, events(10, 12))
	other.idle = redisIdle
	wantNext(t, other, 10, nil)
	wantDepth(t, audit.Depth{}, mustSettle(t, other, nil, nil))
}

func TestARejectedEventRestsBeforeRedisOffersItAgain(t *testing.T) {
	s := startRedis(t)
	r := s.open("one")
	mustSettle(t, r, nil, []audit.Rejection{{Event: event(1), Status: 409, Reason: "is stored"}})
	wantNext(t, r, 10, nil)
	list, err := s.client.XRange(t.Context(), prefix+"rejected", "-", "+").Result()
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	payload, sum := seal(new(event(1)))
	want := map[string]any{"v": "1", "id": event(1).EventID.String(), "event": string(payload), "sha256": sum, "status": "409", "reason": "is stored"}
	if diff := cmp.Diff(want, list[0].Values); diff != "" {
		t.Errorf("rejected entry (-want +got):\n%s", diff)
	}
	// While the event waits, its rejected copy stays where it is.
	mustPut(t, r, events(1, 2), 1)
	r.recheck = 0
	wantNext(t, r, 10, events(1, 2))
	wantDepth(t, audit.Depth{Rejected: 1}, mustSettle(t, r, ids(events(1, 2)), nil))
	wantNext(t, r, 10, events(1, 2))
	wantDepth(t, audit.Depth{}, mustSettle(t, r, ids(events(1, 2)), nil))
	// What is offered again waits, whether it has been returned or not.
	mustSettle(t, r, nil, []audit.Rejection{{Event: event(3), Status: 400}, {Event: event(4), Status: 400}})
	wantNext(t, r, 1, events(3, 4))
	mustPut(t, r, events(3, 5), 0)
}

func TestUnreadableEntriesAreSetAsideWhileOthersFlow(t *testing.T) {
	s := startRedis(t)
	var log lines
	r := openRedis(t, s.url(), "one", log.log())
	mustPut(t, r, events(0, 2), 2)
	payload, sum := seal(new(event(5)))
	id := event(5).EventID.String()
	entry := s.do("XADD", prefix+"waiting", "*", "v", "1", "id", id, "event", strings.Replace(string(payload), "success", "failure", 1), "sha256", sum)
	s.do("HSET", prefix+"waiting:ids", id, entry)
	s.do("XADD", prefix+"waiting", "*", "v", "2", "id", event(6).EventID.String(), "event", payload, "sha256", sum)
	s.do("XADD", prefix+"waiting", "*", "v", "1", "id", event(7).EventID.String(), "event", payload, "sha256", sum)
	s.do("XADD", prefix+"waiting", "*", "garbage", "\xff\x00")
	s.do("XADD", prefix+"waiting", "*", "v", "1", "event", payload, "sha256", "")
	mustPut(t, r, events(2, 4), 2)
	wantNext(t, r, 100, events(0, 4))
	wantNext(t, r, 100, events(0, 4))
	wantDepth(t, audit.Depth{Waiting: 4, Aside: 5}, mustSettle(t, r, nil, nil))
	aside, err := s.client.XRange(t.Context(), prefix+"aside", "-", "+").Result()
	if err != nil || len(aside) != 5 {
		t.Fatalf("%v, %v", aside, err)
	}
	if v := aside[0].Values; v["entry"] != entry || v["id"] != id || v["unreadable"] != "the checksum does not match" {
		t.Errorf("aside is %v", v)
	}
	if v := aside[3].Values; v["garbage"] != "\xff\x00" {
		t.Errorf("aside is %v", v)
	}
	if n := len(log.all()); n != 5 {
		t.Errorf("%d lines, want one for each: %q", n, log.all())
	}
	// The fact behind an unreadable event can be recorded anew.
	mustPut(t, r, events(5, 6), 1)
	wantNext(t, s.open("one"), 100, append(events(0, 4), event(5)))
}

func TestRedisQueueGetsOverWhatPeopleDoToIt(t *testing.T) {
	s := startRedis(t)
	r := s.open("one")
	mustPut(t, r, events(0, 4), 4)
	s.do("XDEL", prefix+"waiting", s.entryOf(0))
	wantNext(t, r, 10, events(1, 4))
	wantDepth(t, audit.Depth{Waiting: 3}, mustSettle(t, r, nil, nil))
	s.do("XDEL", prefix+"waiting", s.entryOf(1))
	mustPut(t, r, events(0, 4), 2)

	s.do("XGROUP", "DESTROY", prefix+"waiting", redisGroup)
	mustPut(t, r, events(4, 5), 1)
	if diff := cmp.Diff(sorted(events(0, 5)...), sorted(mustNext(t, r, 10)...)); diff != "" {
		t.Errorf("without its group (-want +got):\n%s", diff)
	}

	payload, sum := seal(new(event(5)))
	s.do("XADD", prefix+"waiting", "*", "v", "1", "id", event(5).EventID.String(), "event", payload, "sha256", sum)
	mustPut(t, s.open("two"), events(6, 7), 1)
	s.do("DEL", prefix+"waiting:ids")
	if diff := cmp.Diff(sorted(events(0, 6)...), sorted(append(mustNext(t, r, 10), mustNext(t, s.open("two"), 10)[:1]...)...)); diff != "" {
		t.Logf("by hand (-want +got):\n%s", diff)
	}
	mustSettle(t, r, ids(events(0, 7)), nil)
	for _, name := range []string{"one", "two"} {
		wantNext(t, s.open(name), 10, nil)
	}

	mustPut(t, r, events(0, 4), 4)
	s.do("FLUSHALL")
	wantNext(t, r, 10, nil)
	mustPut(t, r, events(0, 4), 4)
	wantNext(t, r, 10, events(0, 4))
}

func TestNothingInRedisExpiresAndAllIsBelowThePrefix(t *testing.T) {
	s := startRedis(t)
	r := s.open("one")
	mustPut(t, r, events(0, 5), 5)
	s.do("XADD", prefix+"waiting", "*", "garbage", "")
	mustNext(t, r, 10)
	mustSettle(t, r, nil, []audit.Rejection{{Event: event(1), Status: 400, Reason: "bad"}})
	keys, err := s.client.Keys(t.Context(), "*").Result()
	slices.Sort(keys)
	want := []string{prefix + "aside", prefix + "rejected", prefix + "rejected:ids", prefix + "waiting", prefix + "waiting:ids"}
	if diff := cmp.Diff(want, keys); diff != "" || err != nil {
		t.Errorf("error %v, keys (-want +got):\n%s", err, diff)
	}
	for _, key := range keys {
		if ttl := s.do("TTL", key); ttl != int64(-1) {
			t.Errorf("%s expires after %v s", key, ttl)
		}
	}
}

// TestNoOrderOfCallsAndFaultsLosesAnEventInRedis runs random calls of three
// processes, some of which lose their answers, and deaths of processes. Then one
// process takes all over and finds what was acknowledged and not settled.
func TestNoOrderOfCallsAndFaultsLosesAnEventInRedis(t *testing.T) {
	s := startRedis(t, "--appendfsync", "no")
	rapid.Check(t, func(rt *rapid.T) {
		s.do("FLUSHALL")
		names := []string{"a", "b", "c"}
		processes := make([]*Redis, len(names))
		lose := make([]*bool, len(names))
		start := func(i int) {
			if processes[i] != nil {
				processes[i].Close()
			}
			processes[i] = s.open(names[i])
			lose[i] = s.lossy(processes[i])
		}
		for i := range names {
			start(i)
		}
		owed, perhaps := map[int]bool{}, map[int]bool{} // perhaps: a settlement's answer was lost
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {
				for i := range lose {
					*lose[i] = false
				}
			},
			"put": func(rt *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(rt, "process")
				*lose[i] = rapid.IntRange(0, 3).Draw(rt, "lost") == 0
				from := rapid.IntRange(0, 30).Draw(rt, "from")
				if _, err := processes[i].Put(t.Context(), events(from, from+5)); err == nil {
					for n := from; n < from+5; n++ {
						owed[n] = true
						delete(perhaps, n)
					}
				}
			},
			"settle": func(rt *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(rt, "process")
				lost := rapid.IntRange(0, 5).Draw(rt, "lost")
				*lose[i] = lost == 0
				batch, _, err := processes[i].Next(t.Context(), rapid.IntRange(1, 5).Draw(rt, "limit"))
				if err != nil {
					return
				}
				recorded, rejected := ids(batch), []audit.Rejection(nil)
				if len(batch) > 0 && rapid.Bool().Draw(rt, "reject") {
					recorded, rejected = recorded[1:], []audit.Rejection{{Event: batch[0], Status: 400}}
				}
				*lose[i] = lost == 1
				_, err = processes[i].Settle(t.Context(), recorded, rejected)
				for n := range owed {
					if slices.Contains(recorded, event(n).EventID) {
						perhaps[n] = true
						if err == nil {
							delete(owed, n)
						}
					}
				}
			},
			"adopt": func(rt *rapid.T) {
				r := processes[rapid.IntRange(0, 2).Draw(rt, "process")]
				r.idle = 0
				_, _, _ = r.Next(t.Context(), 1)
				r.idle = redisIdle
			},
			"restart": func(rt *rapid.T) { start(rapid.IntRange(0, 2).Draw(rt, "process")) },
		})
		last := s.open("last")
		last.idle, last.recheck = 0, 0
		got := map[string]bool{}
		for range 5 {
			batch := mustNext(t, last, 1000)
			for _, e := range batch {
				got[e.EventID.String()] = true
			}
			// A rejected copy of an event that waits comes after it.
			mustSettle(t, last, ids(batch), nil)
		}
		for n := range owed {
			if !got[event(n).EventID.String()] && !perhaps[n] {
				rt.Errorf("event %d is lost", n)
			}
		}
		if depth := mustSettle(t, last, nil, nil); depth != (audit.Depth{}) {
			rt.Errorf("depth is %+v after all was settled", depth)
		}
		for name, length := range map[string]string{"waiting": "XLEN", "rejected": "XLEN", "aside": "XLEN", "waiting:ids": "HLEN", "rejected:ids": "HLEN"} {
			if n := s.do(length, prefix+name); n != int64(0) {
				rt.Errorf("%v entries are left in %s", n, name)
			}
		}
		for _, r := range append(processes, last) {
			r.Close()
		}
	})
}

func FuzzRedisEntry(f *testing.F) {
	payload, sum := seal(new(event(1)))
	f.Add("1", event(1).EventID.String(), payload, sum)
	f.Add("1", event(2).EventID.String(), payload, sum)
	f.Add("2", event(1).EventID.String(), payload, sum)
	f.Add("1", "", []byte("{"), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
	f.Add("", "", []byte(nil), "")
	f.Fuzz(func(t *testing.T, version, id string, payload []byte, sum string) {
		for _, digest := range []string{sum, sha256Hex(payload)} {
			e, err := decodeEntry([]any{"v", version, "id", id, "event", string(payload), "sha256", digest, "odd"})
			if err != nil {
				continue
			}
			if digest != sha256Hex(payload) || e.EventID.String() != id || version != redisVersion {
				t.Errorf("accepted version %q, id %q, sum %q of %q", version, id, digest, payload)
			}
			if again, err := json.Marshal(&e); err != nil || !json.Valid(again) {
				t.Errorf("%q cannot be sent: %v", payload, err)
			}
		}
	})
}
