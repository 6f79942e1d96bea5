package chaos

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/standin"
)

// fault is one thing that goes wrong. strike begins it and returns what ends it.
type fault struct {
	name   string
	weight int
	// part is what the fault takes away: of the faults of one part one at a time
	// is in force.
	part   string
	depth  int // of faults with others, those with more depth begin later and end earlier
	kills  int // processes that it kills
	usable func(w *world) bool
	strike func(w *world, rng *rand.Rand) (heal func())
}

// catalogue returns all faults.
func catalogue() []fault {
	all := []fault{
		{name: "kill manager", weight: 40, part: "manager", kills: 1, strike: killManager},
		{name: "stop manager", weight: 4, part: "manager", strike: func(w *world, rng *rand.Rand) func() {
			r := w.replicas[rng.IntN(len(w.replicas))]
			r.process.Signal(syscall.SIGTERM)
			return func() {
				<-time.After(time.Duration(rng.IntN(2000)) * time.Millisecond)
				r.restart(w, rng)
			}
		}},
		{name: "freeze manager", weight: 1, part: "manager", usable: func(w *world) bool { return w.managers > 1 }, strike: freezeLeader},
		{name: "kill manager and damage its DLQ", weight: 4, part: "manager", kills: 1, usable: hasFileDLQ, strike: damageDLQ},
		{name: "fill the DLQ's disk", weight: 2, part: "storage", usable: func(w *world) bool { return hasFileDLQ(w) && w.unfillable == nil }, strike: fillDLQ},
		{name: "kill DataStorage", weight: 14, part: "storage", kills: 1, strike: func(w *world, _ *rand.Rand) func() {
			w.storage.Kill()
			return w.storage.Restart
		}},
		{
			name: "kill PostgreSQL", weight: 8, part: "postgres", kills: 1, usable: func(w *world) bool { return w.postgres != nil },
			strike: func(w *world, _ *rand.Rand) func() {
				w.postgres.Kill()
				return w.postgres.Start
			},
		},
		{
			name: "kill Redis", weight: 8, part: "redis", kills: 1, usable: func(w *world) bool { return w.redis != nil },
			strike: func(w *world, _ *rand.Rand) func() {
				w.redis.Kill()
				return w.redis.Start
			},
		},
		{name: "kill kube-apiserver", weight: 1, part: "api", depth: 1, kills: 1, strike: func(w *world, _ *rand.Rand) func() {
			w.control.KillAPIServer()
			return w.control.StartAPIServer
		}},
		{name: "kill etcd", weight: 1, part: "etcd", depth: 2, kills: 1, strike: func(w *world, _ *rand.Rand) func() {
			w.control.KillEtcd()
			return w.control.StartEtcd
		}},
		{name: "rotate the signing secret", weight: 4, part: "secret", strike: rotateSecret},
		{name: "delete the signing secret", weight: 2, part: "secret", strike: deleteSecret},
	}
	all = append(all, crashes()...)
	for _, f := range []struct {
		name   string
		strike func(*standin.Slack)
	}{
		{"Slack: an answer is lost", (*standin.Slack).Lose},
		{"Slack: 429", func(s *standin.Slack) { s.Limit("1") }},
		{"Slack: internal_error", func(s *standin.Slack) { s.Refuse("internal_error") }},
		{"Slack: thread_not_found", func(s *standin.Slack) { s.Refuse("thread_not_found") }},
	} {
		all = append(all, fault{name: f.name, weight: 2, part: "Slack", strike: func(w *world, _ *rand.Rand) func() {
			f.strike(w.slack)
			return func() {}
		}})
	}
	for _, p := range []struct {
		name string
		of   func(*world) *proxy
		more map[string]harness.Fault
	}{
		{"DataStorage", func(w *world) *proxy { return w.toStorage }, map[string]harness.Fault{
			"400 for one event": {
				Kind: harness.FaultAnswer, Status: http.StatusBadRequest,
				Header: http.Header{"Content-Type": {"application/problem+json"}},
				Body:   `{"title":"Bad Request","status":400,"detail":"one event is wrong","errors":[{"pointer":"/0/event_type","detail":"must not be this one"}]}`,
			},
			"401": {
				Kind: harness.FaultAnswer, Status: http.StatusUnauthorized,
				Header: http.Header{"Content-Type": {"application/problem+json"}}, Body: `{"title":"Unauthorized","status":401}`,
			},
		}},
		{"the sinks", func(w *world) *proxy { return w.toSinks }, nil},
		{"the way to Slack", func(w *world) *proxy { return w.toSlack }, nil},
		{"the API server", func(w *world) *proxy { return w.api }, nil},
	} {
		all = append(all, network(p.name, p.of, p.more)...)
	}
	return all
}

func hasFileDLQ(w *world) bool { return w.redis == nil }

func killManager(w *world, rng *rand.Rand) func() {
	r := w.replicas[rng.IntN(len(w.replicas))]
	r.process.Kill()
	return func() { r.restart(w, rng) }
}

// restart starts a manager again, perhaps on a machine with another clock.
func (r *replica) restart(w *world, rng *rand.Rand) {
	step := []string{"0s", "0s", "0s", "-20s", "20s"}[rng.IntN(5)]
	if !w.steps {
		step = "0s"
	}
	if err := os.WriteFile(r.step, []byte(step), 0o600); err != nil {
		w.Fatal(err)
	}
	r.process.Restart()
}

// freezeLeader stops all managers but one without a signal that they could catch,
// for longer than a lease lasts, and wakes them again: one of them was the leader,
// or will believe for a moment that it still is.
func freezeLeader(w *world, rng *rand.Rand) func() {
	awake := rng.IntN(len(w.replicas))
	for i, r := range w.replicas {
		if i != awake {
			r.process.Signal(syscall.SIGSTOP)
		}
	}
	<-time.After(20 * time.Second)
	return func() {
		for _, r := range w.replicas {
			r.process.Signal(syscall.SIGCONT)
		}
	}
}

// damageDLQ does to the files of a dead manager's queue what a bad disk does.
func damageDLQ(w *world, rng *rand.Rand) func() {
	r := w.replicas[rng.IntN(len(w.replicas))]
	r.process.Kill()
	path := filepath.Join(r.dlq, "current", []string{"events.db", "events.db-wal"}[rng.IntN(2)])
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		switch at := rng.IntN(len(text)); rng.IntN(4) {
		case 0:
			text = text[:at]
		case 1:
			text[at] ^= 1 << rng.IntN(8)
		case 2:
			text = append(text, bytes.Repeat([]byte("garbage\x00"), 700)...)
		case 3:
			text = []byte("this is no database")
		}
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		w.Fatal(err)
	}
	return func() { r.restart(w, rng) }
}

// fillDLQ takes all room off the disk of the dead-letter queues while DataStorage
// cannot be reached, so that they are needed.
func fillDLQ(w *world, _ *rand.Rand) func() {
	w.toStorage.Refuse(true)
	var fillers []string
	for _, r := range w.replicas {
		filler := filepath.Join(r.dlq, "filler")
		fillers = append(fillers, filler)
		if file, err := os.Create(filler); err == nil {
			for err == nil {
				_, err = file.Write(make([]byte, 64<<10))
			}
			_ = file.Close()
		}
	}
	<-time.After(3 * time.Second)
	return func() {
		for _, filler := range fillers {
			_ = os.Remove(filler)
		}
		w.toStorage.Refuse(false)
	}
}

func rotateSecret(w *world, rng *rand.Rand) func() {
	secret := w.secret(rng.IntN(1 << 30))
	return func() { w.persist(func() error { return w.kube.Update(w.Context(), secret) }) }
}

func deleteSecret(w *world, rng *rand.Rand) func() {
	secret := w.secret(rng.IntN(1 << 30))
	w.persist(func() error { return client.IgnoreNotFound(w.kube.Delete(w.Context(), secret.DeepCopy())) })
	return func() {
		w.persist(func() error { return client.IgnoreAlreadyExists(w.kube.Create(w.Context(), secret.DeepCopy())) })
	}
}

// persist does something until the API server has an answer to it.
func (w *world) persist(do func() error) {
	w.Helper()
	harness.Eventually(w, 2*time.Minute, do)
}

// match reports whether a request is the one that matters.
type match func(r *http.Request, body []byte) bool

// crashes kill the managers at each row of the table of crash points: the proxies
// say when one has come there and keep it there.
func crashes() []fault {
	isWrite := func(status bool, text string) match {
		return func(r *http.Request, body []byte) bool {
			return r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/notificationrequests/") &&
				strings.HasSuffix(r.URL.Path, "/status") == status && bytes.Contains(body, []byte(text))
		}
	}
	isPost := func(r *http.Request, _ []byte) bool { return r.Method == http.MethodPost }
	var all []fault
	for _, c := range []struct {
		row   string
		of    func(*world) *proxy
		match match
	}{
		{"intent", func(w *world) *proxy { return w.api }, isWrite(true, `"state":"InFlight"`)},
		{"send", func(w *world) *proxy { return w.toSinks }, isPost},
		{"outcome", func(w *world) *proxy { return w.api }, isWrite(true, `"sentTime"`)},
		{"record", func(w *world) *proxy { return w.toStorage }, isPost},
		{"receipt", func(w *world) *proxy { return w.api }, isWrite(true, `"recordedTime"`)},
		{"finalizer", func(w *world) *proxy { return w.api }, isWrite(false, `"finalizers":null`)},
		{"acknowledgement", func(w *world) *proxy { return w.api }, isWrite(true, `"acknowledgement":{`)},
		{"escalation", func(w *world) *proxy { return w.api }, isWrite(true, `"reason":"Unanswered"`)},
		{"suppression", func(w *world) *proxy { return w.api }, isWrite(true, `"suppressedTime"`)},
		{"dry run", func(w *world) *proxy { return w.api }, isWrite(true, `"class":"DryRun"`)},
		{"quiet hours", func(w *world) *proxy { return w.api }, isWrite(true, `"quietUntil"`)},
		{"send to Slack", func(w *world) *proxy { return w.toSlack }, isPost},
	} {
		for _, kind := range []harness.FaultKind{harness.FaultHoldBefore, harness.FaultHold} {
			when := map[harness.FaultKind]string{harness.FaultHoldBefore: "before", harness.FaultHold: "after"}[kind]
			all = append(all, fault{
				name: fmt.Sprintf("kill manager %s the %s", when, c.row), weight: 4, part: "manager", kills: 1,
				strike: func(w *world, rng *rand.Rand) func() { return crash(w, rng, c.of(w), c.match, kind) },
			})
		}
	}
	return all
}

// crash kills the managers as soon as one of them is where the rule says, or at
// any moment where that takes too long.
func crash(w *world, rng *rand.Rand, p *proxy, match match, kind harness.FaultKind) func() {
	there := make(chan struct{}, 1)
	remove := p.add(func(r *http.Request, body []byte) (harness.Fault, bool) {
		return harness.Fault{Kind: kind, Held: func() {
			select {
			case there <- struct{}{}:
			default:
			}
		}}, match(r, body)
	})
	select {
	case <-there:
		w.precise++
	case <-time.After(3 * time.Second):
	}
	for _, r := range w.replicas {
		r.process.Kill()
	}
	remove()
	p.Release()
	return func() {
		for _, r := range w.replicas {
			r.restart(w, rng)
		}
	}
}

// network are the faults of the connections to one server.
func network(name string, of func(*world) *proxy, more map[string]harness.Fault) []fault {
	answer := func(status int, header http.Header) harness.Fault {
		return harness.Fault{Kind: harness.FaultAnswer, Status: status, Header: header}
	}
	kinds := map[string]harness.Fault{
		"reset":               {Kind: harness.FaultReset},
		"reset after reading": {Kind: harness.FaultResetAfterRead},
		"cut answers":         {Kind: harness.FaultCutAnswer},
		"cut answers midway":  {Kind: harness.FaultCutMiddle},
		"hold requests":       {Kind: harness.FaultHoldBefore},
		"hold answers":        {Kind: harness.FaultHold},
		"trickle":             {Kind: harness.FaultTrickle, Pause: 10 * time.Millisecond, Limit: time.Second},
		"429":                 answer(http.StatusTooManyRequests, http.Header{"Retry-After": {"1"}}),
		"503":                 answer(http.StatusServiceUnavailable, nil),
		"202":                 {Kind: harness.FaultReplace, Status: http.StatusAccepted},
		"200 with garbage":    {Kind: harness.FaultReplace, Status: http.StatusOK, Body: "<html>\x00\xff"},
	}
	maps.Copy(kinds, more)
	if name == "the API server" {
		delete(kinds, "202") // its clients believe it, as they may
		delete(kinds, "200 with garbage")
	}
	all := []fault{{name: name + ": refuse", weight: 3, part: name, strike: func(w *world, _ *rand.Rand) func() {
		of(w).Refuse(true)
		return func() { of(w).Refuse(false) }
	}}}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, fault{name: name + ": " + kind, weight: 2, part: name, strike: func(w *world, rng *rand.Rand) func() {
			share, draw := 0.2+0.8*rng.Float64(), rand.New(rand.NewPCG(rng.Uint64(), 2))
			remove := of(w).add(func(r *http.Request, _ []byte) (harness.Fault, bool) {
				return kinds[kind], r.URL.Query().Get("watch") == "" && r.URL.Path != "/readyz" && draw.Float64() < share
			})
			return func() {
				remove()
				of(w).Release()
			}
		}})
	}
	return all
}

// rule says what is to happen to a request, and whether it has anything to say.
type rule func(r *http.Request, body []byte) (harness.Fault, bool)

// proxy is a fault proxy whose faults can be had side by side.
type proxy struct {
	*harness.FaultProxy

	mu    sync.Mutex
	rules map[int]rule
	next  int
}

func newProxy(p *harness.FaultProxy) *proxy {
	all := &proxy{FaultProxy: p, rules: map[int]rule{}}
	p.Decide(all.decide)
	return all
}

// add puts a rule in force and returns what ends it. The oldest rule comes first.
func (p *proxy) add(r rule) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.next
	p.next++
	p.rules[n] = r
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.rules, n)
	}
}

func (p *proxy) decide(r *http.Request) harness.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rules) == 0 {
		return harness.Fault{}
	}
	var body []byte
	if r.Method != http.MethodGet {
		body, _ = harness.PeekBody(r)
	}
	for n := range p.next {
		if rule, ok := p.rules[n]; ok {
			if fault, applies := rule(r, body); applies {
				return fault
			}
		}
	}
	return harness.Fault{}
}
