package datastorage_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
)

func TestTheKeyIsMadeOnceAndSaidSo(t *testing.T) {
	dir := t.TempDir()
	url, path := "sqlite:"+filepath.Join(dir, "log.db"), filepath.Join(dir, "keys", "signing.key")
	var lines []string
	edit := func(o *datastorage.Options) {
		o.SigningKey, o.Log = path, funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{})
	}
	s := start(t, url, edit)
	first := newClient(t, "http://"+s.address())
	checkpoint := grow(first, 0, 3)
	key := first.get("/api/v1/audit/log/key").body
	s.stop()
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(lines, "\n")
	if !strings.Contains(said, "A signing key was made. Keep a copy") || !strings.Contains(said, path) || strings.Contains(said, "PRIVATE") {
		t.Errorf("log is %s", said)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file is %v, %v", info, err)
	}
	lines = nil
	s = start(t, url, edit)
	again := newClient(t, "http://"+s.address())
	grow(again, 3, 5)
	if again.get("/api/v1/audit/log/key").body != key || strings.Contains(strings.Join(lines, "\n"), "A signing key was made") {
		t.Error("there is another key after a restart")
	}
	if got := again.verify(checkpoint); got.Size != 3 {
		t.Errorf("checkpoint of the first process is %+v", got)
	}
}

func TestALogIsNotContinuedWithAnotherKey(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		dir := t.TempDir()
		run := func(key string) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			return datastorage.Run(ctx, datastorage.Options{
				Listen: "127.0.0.1:0", DatabaseURL: databaseURL, Auth: "none", SigningKey: filepath.Join(dir, key),
				Openers: openers, Log: logr.Discard(), Listening: func(net.Addr) { cancel() },
			})
		}
		if err := run("first"); err != nil {
			t.Fatal(err)
		}
		other, err := ledger.NewKey("example.com/other")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "other"), []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "nonsense"), []byte("hunter2"), 0o600); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{
			"other":    "its log was begun with another signing key than that of --signing-key; the public key of the one it needs is audit.kubernaut.ai/",
			"missing":  "is not there, and the log in the database cannot go on without the key that it was begun with; its public key is audit.kubernaut.ai/",
			"nonsense": "this is no signing key: it is one line that begins with PRIVATE+KEY+",
		} {
			err := run(key)
			if !errors.Is(err, datastorage.ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: got %v, want %q", key, err, want)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "missing")); err == nil {
			t.Error("a key was made that is of no use")
		}
		if err := run("first"); err != nil {
			t.Error(err)
		}
	})
}

// Whatever changes the right edge of the tree is seen before anything is added
// to it.
func TestNothingIsAddedToALogThatContradictsItself(t *testing.T) {
	for name, statement := range map[string]string{
		"a leaf hash":    "UPDATE audit_events SET leaf_hash = (SELECT leaf_hash FROM audit_events WHERE log_index = 520) WHERE log_index = 521",
		"a leaf is gone": "DELETE FROM audit_events WHERE log_index = 522",
		"a tile":         "UPDATE audit_tiles SET hashes = (SELECT hashes FROM audit_tiles WHERE tile_index = 1) WHERE tile_index = 0",
		"a tile is gone": "DELETE FROM audit_tiles WHERE tile_index = 1",
		"the size":       "UPDATE audit_log_head SET size = 600",
		"the checkpoint": "UPDATE audit_log_head SET checkpoint = (SELECT checkpoint FROM audit_checkpoints ORDER BY id LIMIT 1)",
		"no head":        "DELETE FROM audit_log_head",
	} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, databaseURL string) {
				store, key := openURL(t, databaseURL), storetest.NewKey(t)
				log, err := datastorage.OpenLog(t.Context(), store, key)
				if err != nil {
					t.Fatal(err)
				}
				var records []datastorage.Record
				for n := range 2*ledger.TileWidth + 100 {
					records = append(records, storetest.Record(n))
				}
				if _, err := log.Append(t.Context(), records); err != nil {
					t.Fatal(err)
				}
				log.Close()
				storetest.Change(t, databaseURL, statement)
				if _, err := datastorage.OpenLog(t.Context(), store, key); !errors.Is(err, datastorage.ErrTampered) {
					t.Errorf("got %v, want %v", err, datastorage.ErrTampered)
				}
			})
		})
	}
}

func TestReplicasThatTakeTurnsGrowOneTree(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		key := storetest.NewKey(t)
		var logs []*datastorage.Log
		for range 2 {
			log, err := datastorage.OpenLog(t.Context(), openURL(t, databaseURL), key)
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			logs = append(logs, log)
		}
		tree := &ledger.Tree{}
		for turn, size := range []int{1, 3, 255, 1, 256, 1, 1, 300, 700} {
			var records []datastorage.Record
			for range size {
				r := storetest.Record(int(tree.Size()))
				records = append(records, r)
				tree.Append(r.LeafHash)
			}
			outcome, err := logs[turn%2].Append(t.Context(), records)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ledger.Verify(outcome.Checkpoint, key.Verifier())
			if err != nil || c.Size != tree.Size() || c.Root != tree.Root() {
				t.Errorf("turn %d: checkpoint is %+v, %v, want size %d", turn, c, err, tree.Size())
			}
		}
	})
}

// memory is a store that keeps what a log needs and no more.
type memory struct {
	datastorage.Store
	head       datastorage.Head
	milestones []string
}

func (m *memory) Append(_ context.Context, _ []uuid.UUID, plan func(datastorage.Known) (datastorage.Addition, error)) error {
	add, err := plan(datastorage.Known{Head: m.head, Stored: map[uuid.UUID]datastorage.Placed{}})
	if err == nil && add.Head.Verifier != "" {
		if m.head = add.Head; add.Milestone {
			m.milestones = append(m.milestones, m.head.Checkpoint)
		}
	}
	return err
}

func TestSilenceIsSignedToo(t *testing.T) {
	key := storetest.NewKey(t)
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		log, err := datastorage.OpenLog(t.Context(), m, key)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		start := time.Now()
		var outcome datastorage.Outcome
		for n := range 30 {
			if outcome, err = log.Append(t.Context(), []datastorage.Record{storetest.Record(n)}); err != nil {
				t.Fatal(err)
			}
			<-time.After(100 * time.Millisecond)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		var got []string
		for _, milestone := range m.milestones {
			c, err := ledger.Verify(milestone, key.Verifier())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(c.Size, " after ", c.Time.Sub(start).Truncate(time.Second)))
		}
		want := "[0 after 0s 11 after 1s 21 after 2s 30 after 10m2s 30 after 20m2s 30 after 30m2s 30 after 40m2s 30 after 50m2s 30 after 1h0m2s]"
		if fmt.Sprint(got) != want {
			t.Errorf("checkpoints that are kept: %v, want %s", got, want)
		}
		if c, err := ledger.Verify(outcome.Checkpoint, key.Verifier()); err != nil || c.Size != 30 {
			t.Errorf("the last answer has %+v, %v", c, err)
		}
	})
}

// slowStore commits when it is told to, and notes how many events each
// transaction had.
type slowStore struct {
	memory
	commit chan struct{}
	sizes  []int
}

func (s *slowStore) Append(ctx context.Context, ids []uuid.UUID, plan func(datastorage.Known) (datastorage.Addition, error)) error {
	err := s.memory.Append(ctx, ids, plan)
	if s.commit != nil {
		s.sizes = append(s.sizes, len(ids))
		<-s.commit
	}
	return err
}

func TestWhatQueuesDuringACommitIsTheNextAndNobodyIsAnsweredBefore(t *testing.T) {
	key := storetest.NewKey(t)
	for name, tt := range map[string]struct {
		requests []int // events of each, after one of one event
		commits  []int
	}{
		"small ones":             {slices.Repeat([]int{10}, 30), []int{1, 300}},
		"more than one commit's": {[]int{1000, 1000, 1000}, []int{1, 2000, 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &slowStore{}
				log, err := datastorage.OpenLog(t.Context(), store, key)
				if err != nil {
					t.Fatal(err)
				}
				defer log.Close()
				store.commit = make(chan struct{})
				start, next, answered := time.Now(), 0, 0
				var mu sync.Mutex
				var seen []int64
				for _, size := range append([]int{1}, tt.requests...) {
					var records []datastorage.Record
					for range size {
						records = append(records, storetest.Record(next))
						next++
					}
					go func() {
						outcome, err := log.Append(t.Context(), records)
						mu.Lock()
						defer mu.Unlock()
						answered += len(records)
						c, verifyErr := ledger.Verify(outcome.Checkpoint, key.Verifier())
						for _, a := range outcome.Appended {
							if seen = append(seen, a.LogIndex); a.LogIndex >= c.Size {
								t.Errorf("event %d is answered with a checkpoint of %d", a.LogIndex, c.Size)
							}
						}
						if err = errors.Join(err, verifyErr); err != nil {
							t.Error(err)
						}
					}()
					synctest.Wait()
				}
				committed := 0
				for _, size := range tt.commits {
					mu.Lock()
					if answered != committed {
						t.Errorf("%d events are answered, and %d committed", answered, committed)
					}
					mu.Unlock()
					committed += size
					store.commit <- struct{}{}
					synctest.Wait()
				}
				slices.Sort(seen)
				if !slices.Equal(store.sizes, tt.commits) || answered != next || len(slices.Compact(seen)) != next {
					t.Errorf("transactions of %v events, want %v; %d of %d are answered", store.sizes, tt.commits, answered, next)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("a timer was waited for: %s", took)
				}
			})
		})
	}
}
