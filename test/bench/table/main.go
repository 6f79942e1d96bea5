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
	share    float64 // the mark as a part of the limit, in place of mark
	atLeast  bool    // the mark is the least, not the most
	original string
}

func rows(results map[metric]float64) []row {
	all := []row{
		{
			title: "Record, ns", value: metric{"audit", "BenchmarkRecord", "ns/op"},
			limit: metric{"audit", "BenchmarkRecordRaw", "ns/op"}, limitOf: "bare map and slice", mark: 1000, original: "21,000",
		},
		{title: "Record, allocations", value: metric{"audit", "BenchmarkRecord", "allocs/op"}, mark: 2, original: "110"},
	}
	all = append(all, storeRows()...)
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
	all = append(all, logRows()...)
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

// logRows are about DataStorage under load.
func logRows() []row {
	of := func(benchmark, unit string) metric { return metric{"bench", "Benchmark" + benchmark, unit} }
	var all []row
	for _, r := range []struct {
		size     string
		mark     float64
		original string
	}{{"10", 10_000, "240"}, {"100", 40_000, "500"}, {"1000", 55_000, "1,400"}} {
		name := "Ingest/postgres/batch=" + r.size
		all = append(all,
			row{
				title: "PostgreSQL, ten producers, batch " + r.size + ": events/s", value: of(name, "events/s"),
				limit: of(name, "raw-events/s"), limitOf: "COPY by one", mark: r.mark, atLeast: true, original: r.original,
			},
			row{
				title: "SQLite, ten producers, batch " + r.size + ": events/s", value: of("Ingest/sqlite/batch="+r.size, "events/s"),
				limit: of(name, "events/s"), limitOf: "on PostgreSQL", share: 0.8, atLeast: true,
			})
	}
	for _, db := range []struct{ pkg, name string }{{"sqlite", "SQLite"}, {"postgres", "PostgreSQL"}} {
		name := "Query/" + db.pkg
		all = append(all,
			row{
				title: db.name + ", a correlation ID found while 5,000 events/s come in: p99, ms", value: of(name, "p99-ms"),
				limit: of(name, "raw-p99-ms"), limitOf: "by SQL alone", mark: 5,
			},
			row{title: db.name + ", a page of 100 halfway down, ms", value: of(name, "deep-page-ms"), limit: of(name, "first-page-ms"), limitOf: "for the first"})
	}
	return append(all, row{
		title: "DataStorage's memory with 200 slow clients, at the end, MiB", value: of("SlowClients", "last-MiB"),
		limit: of("SlowClients", "first-MiB"), limitOf: "in the beginning", share: 1.2,
	})
}

// storeRows are about the store and its dead-letter queue, without DataStorage.
func storeRows() []row {
	of := func(benchmark, unit string) metric { return metric{"bench", "Benchmark" + benchmark, unit} }
	all := []row{{
		title: "An event in the buffer, bytes", value: of("Buffered", "B/event"),
		limit: of("Buffered", "json-B/event"), limitOf: "of JSON", share: 1.5,
	}}
	for _, producers := range []string{"1", "8"} {
		name := "Null/producers=" + producers
		all = append(all,
			row{
				title: "Null server, callers: " + producers + ", events/s", value: of(name, "events/s"),
				limit: of(name, "raw-events/s"), limitOf: "bare posts", mark: 200_000, atLeast: true,
			},
			row{title: "Null server, callers: " + producers + ", processor us for each, server included", value: of(name, "cpu-us/event")})
	}
	for _, size := range []string{"10", "100", "1000"} {
		r := row{
			title: "Dead-letter queue, batch " + size + ": events/s made durable", value: of("Put/batch="+size, "events/s"),
			limit: of("Put/batch="+size, "raw-events/s"), limitOf: "write and fdatasync", atLeast: true,
		}
		if size == "100" {
			r.share = 0.5
		}
		all = append(all, r)
	}
	return append(all,
		row{
			title: "100,000 dead letters sent to a null server, s", value: of("Drain", "s"),
			limit: of("Drain", "raw-s"), limitOf: "read and removed",
		},
		row{
			title: "A million events, DataStorage away: events/s made durable", value: of("Million", "events/s"),
			limit: of("Million", "raw-events/s"), limitOf: "write and fdatasync",
		},
		row{title: "A million events, DataStorage away: heap's growth at its peak, MB", value: of("Million", "peak-MB")},
		row{title: "A million events, DataStorage back: events/s sent, each once", value: of("Million", "drained-events/s")})
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
			r.mark += r.share * limit
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
