package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/test/harness"
)

// sinks are the receivers of all webhooks, and count what they perform. They have
// no faults but those that their names promise: the proxy before them has.
type sinks struct {
	address string
	slow    time.Duration // how long chSlow takes

	mu         sync.Mutex
	secrets    [][]byte // signing secrets that are good, the newest last
	performed  map[message]performance
	arrived    map[message]arrival   // what came first
	links      map[message]string    // by which a message that was performed is acknowledged
	tries      map[message]int       // of chBad
	notBefore  map[message]time.Time // when the next try may come
	early      map[message]string
	complaints violations
}

func newSinks(t testing.TB, slow time.Duration) *sinks {
	t.Helper()
	s := &sinks{
		slow: slow, performed: map[message]performance{}, arrived: map[message]arrival{}, links: map[message]string{},
		tries: map[message]int{}, notBefore: map[message]time.Time{}, early: map[message]string{}, complaints: violations{},
	}
	listener, err := net.Listen("tcp", harness.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.address = listener.Addr().String()
	return s
}

// arrival is how a message came.
type arrival struct {
	at   time.Time
	text []byte
	document
}

// document is what the oracle reads of a message.
type document struct {
	ID       string `json:"id"`
	Channel  string `json:"channel"`
	Priority string `json:"priority"`
	Subject  string `json:"subject"`
	Body     string `json:"body"`
	Request  struct {
		UID types.UID `json:"uid"`
	} `json:"request"`
	Links []struct {
		Label string `json:"label"`
		URL   string `json:"url"`
	} `json:"links"`
}

// ServeHTTP performs a message, unless it is the bad channel's turn to fail.
func (s *sinks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut short on its way here
	}
	var d document
	if err := json.Unmarshal(body, &d); err != nil || d.ID != r.Header.Get("Idempotency-Key") || "/"+d.Channel != r.URL.Path {
		s.complain(promiseSound, "%s: a message that is not one: %v: %s", r.URL.Path, err, body)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	m := message{d.Request.UID, d.Channel}
	s.checkContent(m, d, body)
	switch d.Channel {
	case chIdempotent:
		s.checkSignature(r.Header, body)
	case chBad:
		if s.fail(w, m, body) {
			return
		}
	}
	s.perform(m, d)
	if d.Channel == chSlow {
		select {
		case <-time.After(s.slow):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"id":"receipt-%s"}`, d.ID)
}

func (s *sinks) perform(m message, d document) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(s.performed, m, d.ID, slices.Contains(keyed, d.Channel))
	if len(d.Links) > 0 && d.Links[0].Label == delivery.AcknowledgeLabel {
		s.links[m] = d.Links[0].URL
	}
}

// link is the link by which a message can be acknowledged, "" where nobody has it.
func (s *sinks) link(m message) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[m]
}

// checkContent wants of a message what each attempt has, and no attempt may have.
func (s *sinks) checkContent(m message, d document, body []byte) {
	s.mu.Lock()
	first, ok := s.arrived[m]
	if !ok {
		s.arrived[m] = arrival{time.Now(), body, d}
	}
	s.mu.Unlock()
	if ok && !bytes.Equal(first.text, body) {
		s.complain(promiseSound, "an attempt with other content than the first: %s, %s", first.text, body)
	}
	if bytes.Contains(body, []byte(planted)) {
		s.complain(promiseSecret, "%s got the password: %s", m.channel, body)
	}
}

// add counts a performance, of each key once where the channel is said to do so.
func add(all map[message]performance, m message, key string, once bool) {
	p := all[m]
	if p.keys == nil {
		p.keys = map[string]bool{}
	}
	if !once || !p.keys[key] {
		p.times++
	}
	p.keys[key] = true
	all[m] = p
}

// fail answers badly, as often as the message's UID has it. A message in eight is
// refused for good.
func (s *sinks) fail(w http.ResponseWriter, m message, body []byte) bool {
	hash := fnv.New32()
	_, _ = io.WriteString(hash, string(m.uid))
	draw := hash.Sum32()
	s.mu.Lock()
	s.tries[m]++
	try := s.tries[m]
	if left := time.Until(s.notBefore[m]); left > 0 {
		s.early[m] = fmt.Sprintf("try %d came %s too early", try, left)
	}
	refusal := (draw/32 + uint32(try)) % 8
	if refusal == 1 || refusal > 5 {
		s.notBefore[m] = time.Now().Add(2 * time.Second)
	}
	s.mu.Unlock()
	if draw%8 == 0 {
		http.Error(w, "we do not want this one", http.StatusUnprocessableEntity)
		return true
	}
	if try > int(draw/8%4) {
		return false
	}
	switch refusal {
	case 0:
		http.Error(w, "we do not like "+string(body), http.StatusInternalServerError)
	case 1:
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
	case 2:
		w.Header().Set("Retry-After", "a while")
		w.WriteHeader(http.StatusServiceUnavailable)
	case 3:
		w.Header().Set("Content-Length", "100000")
		w.WriteHeader(http.StatusRequestTimeout)
		_, _ = w.Write(make([]byte, 1000)) // less than it promised
	case 4:
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte(strings.Repeat("\x00\xff<html>", 10000)))
	case 5:
		harness.Reset(w, nil)
	default: // a pause for this message, and not the channel's others
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooEarly)
	}
	return true
}

func (s *sinks) complain(promise, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complaints.add(promise, format, args...)
}

func (s *sinks) trust(secret []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = append(s.secrets, secret)
}

// checkSignature wants a signature with a secret that was valid at some time. The
// time that it states is not looked at: clocks are stepped.
func (s *sinks) checkSignature(header http.Header, body []byte) {
	s.mu.Lock()
	secrets := s.secrets
	s.mu.Unlock()
	for _, secret := range secrets {
		verifier, err := standardwebhooks.NewWebhookRaw(secret)
		if err == nil && verifier.VerifyIgnoringTimestamp(body, header) == nil {
			return
		}
	}
	s.complain(promiseSound, "a message with a signature that no secret made: %v", header)
}

// arrivals returns how each message came first.
func (s *sinks) arrivals() map[message]arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.arrived)
}

// count returns what all channels have performed: the webhooks, the files
// beneath a root, and the lines that the managers printed.
func (s *sinks) count(t testing.TB, root string, logs []string) map[message]performance {
	t.Helper()
	s.mu.Lock()
	all := maps.Clone(s.performed)
	s.mu.Unlock()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var d document
		if err := json.Unmarshal(text, &d); err != nil {
			return fmt.Errorf("%s is no message: %w", path, err)
		}
		if bytes.Contains(text, []byte(planted)) {
			s.complain(promiseSecret, "%s has the password: %s", path, text)
		}
		add(all, message{d.Request.UID, d.Channel}, d.ID, false)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, log := range logs {
		lines := bufio.NewScanner(strings.NewReader(log))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct {
				Msg, Key, Channel string
				RequestUID        types.UID
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "Message printed" {
				add(all, message{line.RequestUID, line.Channel}, line.Key, false)
			}
		}
		if err := lines.Err(); err != nil {
			t.Error(err)
		}
	}
	return all
}
