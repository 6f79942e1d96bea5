// Command table reads the output of go test -bench, passes it on, and prints what
// matters of it in a table, beside what it is to be compared with. It fails where
// a benchmark failed.
package main

import (
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"
)

func main() {
	log.SetFlags(0)
	before := load()
	results, err := read(os.Stdin, os.Stdout)
	if err == nil {
		err = show(os.Stdout, results)
	}
	if err != nil {
		log.Fatal("bench: ", err)
	}
	fmt.Fprintf(os.Stdout, "\n%d processors; load average %s at the start, %s at the end\n", runtime.NumCPU(), before, load())
}

// load is what the system says about the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
