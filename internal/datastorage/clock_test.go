package datastorage

import (
	"net/http"
	"time"
)

// SetClock has the log take a clock for the time. Nothing may be under way.
func (l *Log) SetClock(now func() time.Time) { l.now = now }

// NewServer is the server that Run serves with.
var NewServer func(*API) *http.Server = newServer

// LeaveRoom lets bodies that arrive have so many bytes.
func (a *API) LeaveRoom(bytes int64) { a.arriving.Store(maxArriving - bytes) }
