package datastorage

import "time"

// SetClock has the log take a clock for the time. Nothing may be under way.
func (l *Log) SetClock(now func() time.Time) { l.now = now }
