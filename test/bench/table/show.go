package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

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
