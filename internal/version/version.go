// Package version says which version of the programs this is.
package version

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// linked is set by the linker where the name of a version is known, such as that of
// a tag. An image is built without the repository, so that go build knows none there.
var linked string

// Name returns the version's name, "unknown" where it has none.
func Name() string {
	info, _ := debug.ReadBuildInfo()
	return name(linked, info)
}

// Line returns all that is known of a program's version in one line without a line
// break, for example
//
//	manager v0.1.0, revision 67cdeef9... of 2026-11-23T16:30:00Z, go1.26.8 linux/amd64
func Line(program string) string {
	info, _ := debug.ReadBuildInfo()
	return line(program, linked, info)
}

func name(linked string, info *debug.BuildInfo) string {
	switch {
	case linked != "" && linked != "unknown":
		return linked
	case info != nil && info.Main.Version != "" && info.Main.Version != "(devel)":
		return info.Main.Version
	}
	return "unknown"
}

func line(program, linked string, info *debug.BuildInfo) string {
	parts := []string{program + " " + name(linked, info)}
	if info != nil {
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if revision := settings["vcs.revision"]; revision != "" {
			parts = append(parts, "revision "+revision+" of "+settings["vcs.time"])
		}
		if settings["vcs.modified"] == "true" {
			parts = append(parts, "modified")
		}
	}
	parts = append(parts, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH)
	return strings.Join(parts, ", ")
}
