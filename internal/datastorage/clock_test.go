package datastorage

import (
	"net/http"
	"time"

	"kubernaut.ai/notification/internal/httpserver"
)

// SetClock has the log take a clock for the time. Nothing may be under way.
func (l *Log) SetClock(now func() time.Time) { l.now = now }

// NewServer is the server that Run serves with.
func NewServer(a *API) *http.Server { return httpserver.New(a, a.log) }

// LeaveRoom lets bodies that are under way have so many bytes, and events that
// leave.
func (a *API) LeaveRoom(bytes int64) {
	a.arriving.Store(maxArriving - bytes)
	a.leaving.Store(maxLeaving - bytes)
}
