package sqlite

import (
	"database/sql"
	"path/filepath"
	"testing"
)

func TestWhatIsAcknowledgedIsOnTheDiskAndNeedsNoTemporaryFile(t *testing.T) {
	opened, closeStore, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "datastorage.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeStore() }()
	s := opened.(*store)
	// https://www.sqlite.org/pragma.html
	const full, memory = "2", "2"
	for _, tt := range []struct {
		name, pragma, want string
		db                 *sql.DB
	}{
		{"writer", "journal_mode", "wal", s.writer},
		{"writer", "synchronous", full, s.writer},
		{"writer", "temp_store", memory, s.writer},
		{"reader", "temp_store", memory, s.reader},
	} {
		var got string
		if err := tt.db.QueryRow("PRAGMA " + tt.pragma).Scan(&got); err != nil || got != tt.want {
			t.Errorf("%s of the %s is %s, %v; want %s", tt.pragma, tt.name, got, err, tt.want)
		}
	}
}
