package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const output = `goos: linux
pkg: example.org/internal/audit
BenchmarkRecord-2   	 1000000	      1001 ns/op	     300 B/op	       2 allocs/op
BenchmarkRecordRaw-2   	 1000000	      205.4 ns/op
PASS
ok  	example.org/internal/audit	1.2s
pkg: example.org/internal/datastorage/postgres
BenchmarkAppend/raw/batch=100-2   	 10	     43210.4 events/s
pkg: example.org/test/bench
BenchmarkBuffered-2   	 1	 900.0 B/event	  600.0 json-B/event
BenchmarkPut/batch=100-2   	 1	 49999 events/s	  100000 raw-events/s
  100 of 1000 requests audited after 1s
BenchmarkEvents/postgres/batch=100-2   	 1000	     123 events/batch	     5000 events/s
BenchmarkIngest/postgres/batch=1000-2   	 2	     60000 events/s	    130000 raw-events/s
BenchmarkIngest/sqlite/batch=1000-2   	 2	     48000 events/s
BenchmarkQuery/postgres-2   	 1000	     2.000 deep-page-ms	     4990 events/s	     1.000 first-page-ms	     4.999 p99-ms	     1.500 raw-p99-ms
BenchmarkSlowClients-2   	 3600	     4980 events/s	    200.0 first-MiB	    241.0 last-MiB	    256.0 limit-MiB	    250.0 peak-MiB	    187.1 slow-clients
BenchmarkRequests/n=1000-2   	 1	  12.34 cpu-ms/request	  400 patches/s	  150.2 requests/s	  3.991 writes/request
`

func TestTheTableSetsValuesBesideTheirLimitsAndMarks(t *testing.T) {
	var passedOn, table strings.Builder
	results, err := read(strings.NewReader(output), &passedOn)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(output, passedOn.String()); diff != "" {
		t.Errorf("passed on (-want +got):\n%s", diff)
	}
	if err := show(&table, results); err != nil {
		t.Fatal(err)
	}
	want := `
WHAT                                                                       MEASURED   LIMIT BESIDE IT               MARK                      ORIGINAL
Record, ns                                                                 1,001      205 bare map and slice        at most 1,000: MISSED     21,000
Record, allocations                                                        2                                        at most 2: met            110
An event in the buffer, bytes                                              900        600 of JSON                   at most 900: met
Dead-letter queue, batch 100: events/s made durable                        49,999     100,000 write and fdatasync   at least 50,000: MISSED
PostgreSQL, batch 100: events/s, Record to committed row                   5,000      43,210 bare inserts           at least 5,000: met       500
PostgreSQL, ten producers, batch 1000: events/s                            60,000     130,000 COPY by one           at least 55,000: met      1,400
SQLite, ten producers, batch 1000: events/s                                48,000     60,000 on PostgreSQL          at least 48,000: met
PostgreSQL, ten producers, batch 1000, half of COPY: events/s              60,000     130,000 COPY by one           at least 65,000: MISSED
PostgreSQL, a correlation ID found while 5,000 events/s come in: p99, ms   5.00       1.50 by SQL alone             at most 5: met
PostgreSQL, a page of 100 halfway down, ms                                 2          1 for the first               at most 1.50: MISSED
DataStorage's memory with 200 slow clients, at the end, MiB                241        200 in the beginning          at most 240: MISSED
DataStorage's memory with 200 slow clients, at its peak, MiB               250        256 of GOMEMLIMIT             at most 320: met
events/s that come in beside the slow clients                              4,980                                    at least 4,950: met
slow clients that take an answer, on average                               187                                      at least 180: met
1,000 requests: requests/s, created to audited                             150        400 bare status patches                                 34
1,000 requests: API writes for each                                        3.99                                     at most 4: met            7.9
1,000 requests: manager's processor ms for each                            12.3
`
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestAFailedOrEmptyRunIsAnError(t *testing.T) {
	for _, line := range []string{
		"--- FAIL: BenchmarkRecord",
		"FAIL\texample.org/internal/audit [build failed]",
		"BenchmarkRecord-2 1 many ns/op",
	} {
		if _, err := read(strings.NewReader(output+line+"\n"), io.Discard); err == nil {
			t.Errorf("no error for a run with the line %q", line)
		}
	}
	if err := show(io.Discard, nil); err == nil {
		t.Error("no error where nothing was measured")
	}
}
