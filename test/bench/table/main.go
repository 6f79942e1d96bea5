// Command table reads the output of go test -bench, passes it on, and prints what
// matters of it in a table, beside what it is to be compared with. It fails where
// a benchmark failed.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
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

// metric is one value of one benchmark.
type metric struct{ pkg, benchmark, unit string }

// read copies the output of go test and returns the values in it.
func read(in io.Reader, out io.Writer) (map[metric]float64, error) {
	results := map[metric]float64{}
	failed, pkg := false, ""
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(out, line)
		failed = failed || strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "--- FAIL")
		if name, ok := strings.CutPrefix(line, "pkg: "); ok {
			pkg = name[strings.LastIndex(name, "/")+1:]
		}
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name := words[0]
		if i := strings.LastIndex(name, "-"); i > 0 {
			name = name[:i] // the number of processors
		}
		for i := 2; i+1 < len(words); i += 2 {
			value, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", line, err)
			}
			results[metric{pkg, name, words[i+1]}] = value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	if failed {
		return nil, errors.New("a benchmark failed, see above")
	}
	return results, nil
}

// row is a line of the table: a value, the limit that was measured beside it, the
// mark to reach, and what the system had that this one takes the place of.
type row struct {
	title    string
	value    metric
	limit    metric
	limitOf  string
	mark     float64
	atLeast  bool // the mark is the least, not the most
	original string
}

func rows(results map[metric]float64) []row {
	all := []row{
		{title: "Record, ns", value: metric{"audit", "BenchmarkRecord", "ns/op"}, mark: 2000, original: "21,000"},
		{title: "Record, allocations", value: metric{"audit", "BenchmarkRecord", "allocs/op"}, mark: 3, original: "110"},
	}
	for _, db := range []struct{ pkg, name string }{{"sqlite", "SQLite"}, {"postgres", "PostgreSQL"}} {
		for _, size := range []string{"10", "100", "1000"} {
			r := row{
				title:   fmt.Sprintf("%s, batch %s: events/s, Record to committed row", db.name, size),
				value:   metric{"bench", "BenchmarkEvents/" + db.pkg + "/batch=" + size, "events/s"},
				limit:   metric{db.pkg, "BenchmarkAppend/raw/batch=" + size, "events/s"},
				limitOf: "bare inserts",
			}
			if db.pkg == "postgres" && size == "100" {
				r.mark, r.atLeast, r.original = 5000, true, "500"
			}
			all = append(all, r)
		}
	}
	const requests = "BenchmarkRequests/n="
	var sizes []int
	for m := range results {
		if size, ok := strings.CutPrefix(m.benchmark, requests); ok && m.unit == "requests/s" {
			n, _ := strconv.Atoi(size)
			sizes = append(sizes, n)
		}
	}
	slices.Sort(sizes)
	for _, n := range sizes {
		of := func(unit string) metric { return metric{"bench", requests + strconv.Itoa(n), unit} }
		prefix := number(float64(n)) + " requests: "
		all = append(all,
			row{title: prefix + "requests/s, created to audited", value: of("requests/s"), limit: of("patches/s"), limitOf: "bare status patches", original: "34"},
			row{title: prefix + "API writes for each", value: of("writes/request"), mark: 4, original: "7.9"},
			row{title: prefix + "Kubernetes Events for each", value: of("events/request"), mark: 1},
			row{title: prefix + "manager's processor ms for each", value: of("cpu-ms/request")},
			row{title: prefix + "manager's memory at its peak, MB", value: of("peak-MB")},
			row{title: prefix + "manager's memory when all are finished, MB", value: of("rss-MB")})
	}
	return all
}

// show prints the rows that were measured.
func show(out io.Writer, results map[metric]float64) error {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\nWHAT\tMEASURED\tLIMIT BESIDE IT\tMARK\tORIGINAL")
	printed := false
	for _, r := range rows(results) {
		value, ok := results[r.value]
		if !ok {
			continue
		}
		printed = true
		cells := []string{r.title, number(value), "", "", r.original}
		if limit, ok := results[r.limit]; ok {
			cells[2] = number(limit) + " " + r.limitOf
		}
		if r.mark > 0 {
			word, sign, met := "MISSED", "at most ", value <= r.mark
			if r.atLeast {
				sign, met = "at least ", value >= r.mark
			}
			if met {
				word = "met"
			}
			cells[3] = sign + number(r.mark) + ": " + word
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	if !printed {
		return errors.New("there are no results that the table has a row for")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	return nil
}

// number writes a value with three digits or more, and commas from 1,000 on.
func number(v float64) string {
	decimals := 0
	switch {
	case v == float64(int64(v)):
	case v < 10:
		decimals = 2
	case v < 100:
		decimals = 1
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	whole, _, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
