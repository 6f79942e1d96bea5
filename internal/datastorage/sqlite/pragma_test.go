package sqlite

import (
	"database/sql"
	"path/filepath"
	"testing"
)

func TestNoTemporaryFilesAreNeeded(t *testing.T) {
	opened, closeStore, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "datastorage.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeStore() }()
	s := opened.(*store)
	for name, db := range map[string]*sql.DB{"writer": s.writer, "reader": s.reader} {
		var got int
		const memory = 2
		if err := db.QueryRow("PRAGMA temp_store").Scan(&got); err != nil || got != memory {
			t.Errorf("temp_store of the %s is %d, %v; want %d", name, got, err, memory)
		}
	}
}
