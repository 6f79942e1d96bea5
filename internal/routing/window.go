package routing

import (
	"slices"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
)

// longestQuiet bounds quiet hours. The only minute of a week without them may be one
// that a zone's clocks skip when they are put forward.
const longestQuiet = 8 * 24 * time.Hour

// anyOpen reports whether the clocks that show this time show one within a window.
// Where they are put back, a window that has ended can so be open again.
func anyOpen(windows []v1alpha1.TimeWindow, local time.Time) bool {
	return slices.ContainsFunc(windows, func(w v1alpha1.TimeWindow) bool {
		minute := local.Hour()*60 + local.Minute()
		start, end := minuteOf(w.Start), minuteOf(w.End)
		today, yesterday := begins(w, local.Weekday()), begins(w, (local.Weekday()+6)%7)
		if start < end {
			return today && start <= minute && minute < end
		}
		return today && start <= minute || yesterday && minute < end
	})
}

func begins(w v1alpha1.TimeWindow, day time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, v1alpha1.Weekday(day.String()))
}

// minuteOf returns the minute of the day of a time such as 22:30.
func minuteOf(clock string) int {
	digit := func(i int) int { return int(clock[i] - '0') }
	return (digit(0)*10+digit(1))*60 + digit(3)*10 + digit(4)
}

// alwaysOpen reports whether some window is open in each minute of a week.
func alwaysOpen(windows []v1alpha1.TimeWindow) bool {
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	for minute := range 7 * 24 * 60 {
		if !anyOpen(windows, start.Add(time.Duration(minute)*time.Minute)) {
			return false
		}
	}
	return true
}

// quietUntil returns the first whole minute from the given time on in which no
// window is open, that time itself where none is, at most longestQuiet later.
func quietUntil(windows []v1alpha1.TimeWindow, from time.Time) time.Time {
	until := from
	for anyOpen(windows, until) && until.Sub(from) < longestQuiet {
		until = until.Truncate(time.Minute).Add(time.Minute)
	}
	return until
}
