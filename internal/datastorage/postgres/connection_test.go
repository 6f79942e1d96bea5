package postgres_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// cutter stands between a store and its server and cuts all connections in the
// middle of what one says to the other.
type cutter struct {
	server string

	mu    sync.Mutex
	armed bool
	// answers says which of the two directions is counted, left how many pieces may
	// still pass in it: messages of the server, and whatever a client writes at once.
	answers bool
	left    int
	conns   map[net.Conn]bool
}

const socket = ".s.PGSQL.5432"

// newCutter returns the URL of the same database behind a cutter.
func newCutter(t *testing.T, databaseURL string) (*cutter, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	query := u.Query()
	c := &cutter{server: filepath.Join(query.Get("host"), socket), conns: map[net.Conn]bool{}}
	listener, err := net.Listen("unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	query.Set("host", dir)
	u.RawQuery = query.Encode()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", c.server)
			if err != nil {
				t.Error(err)
				return
			}
			c.keep(client, server)
			work.Go(func() { c.pass(server, client, false, readSome) })
			work.Go(func() { c.pass(client, server, true, readMessage) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.cut()
		work.Wait()
	})
	return c, u.String()
}

func (c *cutter) keep(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		c.conns[conn] = true
	}
}

// arm has all connections cut once so many pieces have passed in one direction.
func (c *cutter) arm(answers bool, after int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.answers, c.left = true, answers, after
}

// disarm reports whether anything was cut since arm.
func (c *cutter) disarm() (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, c.armed = !c.armed, false
	return was
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
}

func (c *cutter) pass(to io.WriteCloser, from io.ReadCloser, answers bool, read func(io.Reader) ([]byte, error)) {
	defer to.Close()
	defer from.Close()
	for {
		piece, err := read(from)
		if err != nil {
			return
		}
		if c.due(answers) {
			c.cut()
			return
		}
		if _, err := to.Write(piece); err != nil {
			return
		}
	}
}

func readSome(from io.Reader) ([]byte, error) {
	buffer := make([]byte, 64<<10)
	n, err := from.Read(buffer)
	return buffer[:n], err
}

// readMessage reads one message of a PostgreSQL server: a letter, the length of what
// follows with its own four bytes, and that.
func readMessage(from io.Reader) ([]byte, error) {
	message := make([]byte, 5)
	if _, err := io.ReadFull(from, message); err != nil {
		return nil, err
	}
	message = append(message, make([]byte, binary.BigEndian.Uint32(message[1:])-4)...)
	_, err := io.ReadFull(from, message[5:])
	return message, err
}

func (c *cutter) due(answers bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed || c.answers != answers {
		return false
	}
	c.left--
	c.armed = c.left >= 0
	return !c.armed
}

// A connection that breaks at COMMIT leaves the sender without an answer and the
// events stored; one that breaks before leaves them not stored. Either way the
// sender sends them again.
func TestConnectionThatBreaksLosesAndDoublesNothing(t *testing.T) {
	for name, answers := range map[string]bool{"asking": false, "answering": true} {
		t.Run(name, func(t *testing.T) {
			direct := storetest.SharedPostgres(t).NewDatabase(t)
			c, behind := newCutter(t, direct)
			log := storetest.OpenLog(t, open(t, behind))
			stored, cuts, inDoubt := 0, 0, 0
			for was := true; was; {
				records := []datastorage.Record{storetest.Record(stored), storetest.Record(stored + 1), storetest.Record(stored + 2)}
				stored += len(records)
				c.arm(answers, cuts)
				_, err := log.Append(t.Context(), records)
				was = c.disarm()
				if !was && err != nil {
					t.Fatalf("nothing was cut: %v", err)
				}
				if !was {
					break
				}
				cuts++
				if err == nil {
					t.Errorf("cut %d: the events are acknowledged", cuts)
				}
				outcome, err := log.Append(t.Context(), records)
				if err != nil {
					t.Fatalf("cut %d: sent again: %v", cuts, err)
				}
				for i, e := range outcome.Appended {
					if e.LogIndex != int64(stored-len(records)+i) {
						t.Errorf("cut %d: event %d is at %d", cuts, stored-len(records)+i, e.LogIndex)
					}
					if e.Duplicate && i == 0 {
						inDoubt++
					}
				}
			}
			page, err := open(t, direct).Query(t.Context(), datastorage.Filter{Limit: 1000})
			if err != nil || len(page.Events) != stored {
				t.Errorf("%d events are stored, %v, want %d", len(page.Events), err, stored)
			}
			if cuts < 3 || answers != (inDoubt > 0) {
				t.Errorf("%d cuts, %d of them after the events were stored", cuts, inDoubt)
			}
		})
	}
}
