package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

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
	all = append(all, row{
		title: "PostgreSQL, ten producers, batch 1000, half of COPY: events/s", value: of("Ingest/postgres/batch=1000", "events/s"),
		limit: of("Ingest/postgres/batch=1000", "raw-events/s"), limitOf: "COPY by one", share: 0.5, atLeast: true,
	})
	for _, db := range []struct{ pkg, name string }{{"sqlite", "SQLite"}, {"postgres", "PostgreSQL"}} {
		name := "Query/" + db.pkg
		all = append(all,
			row{
				title: db.name + ", a correlation ID found while 5,000 events/s come in: p99, ms", value: of(name, "p99-ms"),
				limit: of(name, "raw-p99-ms"), limitOf: "by SQL alone", mark: 5,
			},
			row{title: db.name + ", the same where its files are not in memory: p99, ms", value: of(name, "cold-p99-ms")},
			row{title: db.name + ", a page of 100 halfway down, ms", value: of(name, "deep-page-ms"), limit: of(name, "first-page-ms"), limitOf: "for the first", share: 1.5})
	}
	return append(all,
		row{
			title: "DataStorage's memory with 200 slow clients, at the end, MiB", value: of("SlowClients", "last-MiB"),
			limit: of("SlowClients", "first-MiB"), limitOf: "in the beginning", share: 1.2,
		},
		row{
			title: "DataStorage's memory with 200 slow clients, at its peak, MiB", value: of("SlowClients", "peak-MiB"),
			limit: of("SlowClients", "limit-MiB"), limitOf: "of GOMEMLIMIT", share: 512.0 / 410, // as a pod has it, since SQLite takes memory besides
		},
		row{title: "events/s that come in beside the slow clients", value: of("SlowClients", "events/s"), mark: 0.99 * 5000, atLeast: true},
		row{title: "slow clients that take an answer, on average", value: of("SlowClients", "slow-clients"), mark: 0.9 * 200, atLeast: true})
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
