package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestOneLineSaysAllThatIsKnownOfTheBuild(t *testing.T) {
	build := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	at := []debug.BuildSetting{
		{Key: "-trimpath", Value: "true"},
		{Key: "vcs", Value: "git"},
		{Key: "vcs.revision", Value: "67cdeef9"},
		{Key: "vcs.time", Value: "2026-11-23T16:30:00Z"},
	}
	machine := runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	for what, c := range map[string]struct {
		linked     string
		info       *debug.BuildInfo
		name, line string
	}{
		"a tag":                        {"v0.1.0", build("v0.1.1-0.20261123163000-67cdeef9", at...), "v0.1.0", "manager v0.1.0, revision 67cdeef9 of 2026-11-23T16:30:00Z, " + machine},
		"a changed clone":              {"", build("(devel)", append(at, debug.BuildSetting{Key: "vcs.modified", Value: "true"})...), "unknown", "manager unknown, revision 67cdeef9 of 2026-11-23T16:30:00Z, modified, " + machine},
		"a clean clone":                {"", build("v0.1.1", append(at, debug.BuildSetting{Key: "vcs.modified", Value: "false"})...), "v0.1.1", "manager v0.1.1, revision 67cdeef9 of 2026-11-23T16:30:00Z, " + machine},
		"an image":                     {"v0.1.0", build("(devel)"), "v0.1.0", "manager v0.1.0, " + machine},
		"an image of what has no name": {"unknown", build(""), "unknown", "manager unknown, " + machine},
		"nothing":                      {"", nil, "unknown", "manager unknown, " + machine},
	} {
		if got := name(c.linked, c.info); got != c.name {
			t.Errorf("%s: name %q, want %q", what, got, c.name)
		}
		if got := line("manager", c.linked, c.info); got != c.line {
			t.Errorf("%s: line %q, want %q", what, got, c.line)
		}
	}
}
