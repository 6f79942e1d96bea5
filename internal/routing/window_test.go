package routing

import (
	"testing"
	"time"
	_ "time/tzdata" // the machine's may be older

	"pgregory.net/rapid"

	"kubernaut.ai/notification/api/v1alpha1"
)

func zone(t interface{ Fatal(...any) }, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestQuietHoursEndByTheClocksOfTheirZone(t *testing.T) {
	night := v1alpha1.TimeWindow{Start: "22:00", End: "07:00"}
	weekend := []v1alpha1.TimeWindow{
		{Days: []v1alpha1.Weekday{"Friday"}, Start: "18:00", End: "24:00"},
		{Days: []v1alpha1.Weekday{"Saturday", "Sunday"}, Start: "00:00", End: "24:00"},
		{Days: []v1alpha1.Weekday{"Monday"}, Start: "00:00", End: "07:00"},
	}
	one := func(start, end string, days ...v1alpha1.Weekday) []v1alpha1.TimeWindow {
		return []v1alpha1.TimeWindow{{Days: days, Start: start, End: end}}
	}
	for name, c := range map[string]struct {
		zone     string
		windows  []v1alpha1.TimeWindow
		from, to string // the same where it is not quiet
	}{
		"none":                            {"UTC", nil, "2026-01-05T03:00:00Z", "2026-01-05T03:00:00Z"},
		"before it begins":                {"UTC", []v1alpha1.TimeWindow{night}, "2026-01-05T21:59:59Z", "2026-01-05T21:59:59Z"},
		"as it begins":                    {"UTC", []v1alpha1.TimeWindow{night}, "2026-01-05T22:00:00Z", "2026-01-06T07:00:00Z"},
		"after midnight":                  {"UTC", []v1alpha1.TimeWindow{night}, "2026-01-05T06:59:59Z", "2026-01-05T07:00:00Z"},
		"as it ends":                      {"UTC", []v1alpha1.TimeWindow{night}, "2026-01-05T07:00:00Z", "2026-01-05T07:00:00Z"},
		"another zone":                    {"Asia/Kathmandu", []v1alpha1.TimeWindow{night}, "2026-01-05T16:15:00Z", "2026-01-06T01:15:00Z"},
		"a day's own night":               {"UTC", one("22:00", "07:00", "Monday"), "2026-01-06T06:00:00Z", "2026-01-06T07:00:00Z"},
		"not the night before":            {"UTC", one("22:00", "07:00", "Monday"), "2026-01-05T06:00:00Z", "2026-01-05T06:00:00Z"},
		"not the night after":             {"UTC", one("22:00", "07:00", "Monday"), "2026-01-06T23:00:00Z", "2026-01-06T23:00:00Z"},
		"up to midnight":                  {"UTC", one("22:00", "00:00", "Monday"), "2026-01-05T23:00:00Z", "2026-01-06T00:00:00Z"},
		"windows that follow each other":  {"Europe/Berlin", weekend, "2026-01-02T17:00:00Z", "2026-01-05T06:00:00Z"},
		"a whole day":                     {"UTC", one("00:00", "24:00", "Sunday"), "2026-01-04T00:00:00Z", "2026-01-05T00:00:00Z"},
		"Berlin, clocks forward":          {"Europe/Berlin", []v1alpha1.TimeWindow{night}, "2026-03-28T21:00:00Z", "2026-03-29T05:00:00Z"},
		"Berlin, clocks back":             {"Europe/Berlin", []v1alpha1.TimeWindow{night}, "2026-10-24T20:00:00Z", "2026-10-25T06:00:00Z"},
		"New York, clocks forward":        {"America/New_York", []v1alpha1.TimeWindow{night}, "2026-03-08T03:00:00Z", "2026-03-08T11:00:00Z"},
		"New York, clocks back":           {"America/New_York", []v1alpha1.TimeWindow{night}, "2026-11-01T02:00:00Z", "2026-11-01T12:00:00Z"},
		"Lord Howe, half an hour forward": {"Australia/Lord_Howe", []v1alpha1.TimeWindow{night}, "2026-10-03T12:00:00Z", "2026-10-03T20:00:00Z"},
		"Lord Howe, half an hour back":    {"Australia/Lord_Howe", []v1alpha1.TimeWindow{night}, "2026-04-04T12:00:00Z", "2026-04-04T20:30:00Z"},
		"an end that is skipped":          {"Europe/Berlin", one("00:00", "02:30"), "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"},
		"a window that is skipped":        {"Europe/Berlin", one("02:00", "03:00"), "2026-03-29T00:59:00Z", "2026-03-29T00:59:00Z"},
		"an end that comes twice":         {"Europe/Berlin", one("22:00", "02:30"), "2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z"},
		"open again":                      {"Europe/Berlin", one("22:00", "02:30"), "2026-10-25T01:15:00Z", "2026-10-25T01:30:00Z"},
		"only what is skipped is loud":    {"Europe/Berlin", one("03:00", "02:00"), "2026-03-28T03:00:00Z", "2026-03-30T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			from, err := time.Parse(time.RFC3339, c.from)
			if err != nil {
				t.Fatal(err)
			}
			if got := quietUntil(c.windows, from.In(zone(t, c.zone))).UTC().Format(time.RFC3339); got != c.to {
				t.Errorf("quiet until %s, want %s", got, c.to)
			}
		})
	}
}

func TestQuietHoursAreBoundedWhereTheOnlyLoudMinuteIsSkipped(t *testing.T) {
	windows := []v1alpha1.TimeWindow{
		{Days: []v1alpha1.Weekday{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}, Start: "00:00", End: "24:00"},
		{Days: []v1alpha1.Weekday{"Sunday"}, Start: "02:31", End: "24:00"},
		{Days: []v1alpha1.Weekday{"Sunday"}, Start: "00:00", End: "02:30"},
	}
	if alwaysOpen(windows) {
		t.Error("02:30 on Sunday is taken for quiet")
	}
	from := time.Date(2026, 3, 22, 2, 31, 0, 0, zone(t, "Europe/Berlin"))
	if got := quietUntil(windows, from); !got.Equal(from.Add(longestQuiet)) {
		t.Errorf("quiet until %s", got)
	}
}

// Whatever the windows, quiet hours end in the future and within bounds, at the
// first minute that the clocks show outside them.
func TestQuietHoursEnd(t *testing.T) {
	clock := rapid.Custom(func(t *rapid.T) string {
		return time.Date(2026, 1, 1, 0, rapid.IntRange(0, 24*60-1).Draw(t, "minute"), 0, 0, time.UTC).Format("15:04")
	})
	window := rapid.Custom(func(t *rapid.T) v1alpha1.TimeWindow {
		return v1alpha1.TimeWindow{
			Days:  rapid.SliceOfDistinct(rapid.SampledFrom([]v1alpha1.Weekday{"Monday", "Tuesday", "Saturday", "Sunday"}), rapid.ID).Draw(t, "days"),
			Start: clock.Draw(t, "start"), End: rapid.OneOf(clock, rapid.Just("24:00")).Draw(t, "end"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		loc := zone(t, rapid.SampledFrom([]string{
			"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns", "Africa/Casablanca",
		}).Draw(t, "zone"))
		windows := rapid.SliceOfN(window, 1, 4).Draw(t, "windows")
		from := drawTime(t).In(loc)
		until := quietUntil(windows, from)
		if until.Before(from) || until.Sub(from) > longestQuiet+time.Minute {
			t.Fatalf("from %s quiet until %s", from, until)
		}
		if anyOpen(windows, from) == until.Equal(from) {
			t.Fatalf("at %s, where a window is open: %t, quiet until %s", from, anyOpen(windows, from), until)
		}
		if anyOpen(windows, until) && until.Sub(from) < longestQuiet {
			t.Fatalf("quiet until %s, when a window is open", until)
		}
		for at := from; at.Before(until); at = at.Add(time.Minute) {
			if !anyOpen(windows, at) {
				t.Fatalf("quiet until %s, though no window is open at %s", until, at)
			}
		}
	})
}
