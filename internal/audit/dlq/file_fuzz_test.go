package dlq

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/audit"
)

// trust fails where a row passes for readable and is not what was written.
func trust(t *testing.T, r found) {
	t.Helper()
	switch {
	case r.broken != nil || r.table == "aside":
	case !bytes.Equal(r.sum, r.checksum()):
		t.Errorf("a row with a wrong checksum is readable: %+v", r)
	default:
		if _, err := r.decode(); err != nil {
			t.Errorf("a row that cannot be decoded is readable: %v", err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, seq int64, record []byte) {
		if r, ok := parseRow(seq, record); ok {
			trust(t, r)
		}
	})
}

func FuzzPages(f *testing.F) {
	dir := f.TempDir()
	queue, err := Open(dir, roomy, logr.Discard())
	if err != nil {
		f.Fatal(err)
	}
	defer queue.Close()
	if _, err := queue.Put(f.Context(), []audit.Event{sized(0, 100), sized(1, 9000)}); err != nil {
		f.Fatal(err)
	}
	db, err := os.ReadFile(filepath.Join(dir, dbName))
	if err != nil {
		f.Fatal(err)
	}
	wal, err := os.ReadFile(filepath.Join(dir, walName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(db, wal)
	f.Add(db, wal[:len(wal)-1])
	f.Add([]byte(nil), wal)
	f.Add(wal, db)
	f.Fuzz(func(t *testing.T, db, wal []byte) {
		p := &pages{db: bytes.NewReader(db), wal: bytes.NewReader(wal)}
		p.scan(int64(len(db)))
		for r := range p.rows() {
			trust(t, r)
		}
	})
}
