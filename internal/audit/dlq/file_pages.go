package dlq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"math/bits"
	"os"
	"slices"
)

// What follows reads SQLite's file format (sqlite.org/fileformat2.html) without
// SQLite, which gives up on all that is below a damaged page. A row with the
// right checksum is an event, wherever it is found.
const (
	walHeader   = 32
	frameHeader = 24
	tableLeaf   = 0x0d
	// maxRecord is more than any event takes.
	maxRecord = 16 << 20
)

// pages are those of a database with its write-ahead log. Either may be nil.
type pages struct {
	db, wal io.ReaderAt
	count   int // of the pages in db
	views   []view
	files   []*os.File
}

// view has the offsets in the log of the pages that are newer there.
type view map[int]int64

// openPages opens the database at path for reading, as far as it is there.
func openPages(path string) (*pages, error) {
	p := &pages{}
	var size int64
	for _, name := range []string{path, path + "-wal"} {
		file, err := openIfThere(name)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		if file == nil {
			continue
		}
		p.files = append(p.files, file)
		if name != path {
			p.wal = file
			continue
		}
		p.db = file
		info, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		size = info.Size()
	}
	p.scan(size)
	return p, nil
}

func (p *pages) close() error {
	var errs []error
	for _, file := range p.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

func (p *pages) scan(size int64) {
	p.count = int((size + pageSize - 1) / pageSize)
	p.views = []view{nil}
	if p.wal == nil {
		return
	}
	views, _ := scanWAL(p.wal)
	p.views = views[:1]
	for i := 1; i < len(views); i++ {
		if !maps.Equal(views[i], views[i-1]) {
			p.views = append(p.views, views[i])
		}
	}
}

func openIfThere(path string) (*os.File, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

// scanWAL returns three views of the pages in a write-ahead log: those that SQLite
// would find, then also those behind a damage, then also those that are damaged
// themselves. The error says that there is a damage.
func scanWAL(wal io.ReaderAt) (views [3]view, damage error) {
	const committed, written, all = 0, 1, 2
	for i := range views {
		views[i] = make(view)
	}
	header := make([]byte, walHeader)
	if n, _ := wal.ReadAt(header, 0); n < walHeader {
		return views, nil
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if header[3]&1 == 1 {
		order = binary.BigEndian
	}
	sum := walSum(order, [2]uint32{}, header[:24])
	unbroken := sum == storedSum(header[24:])
	frame := make([]byte, frameHeader+pageSize)
	salts := string(header[16:24])
	open := make(view) // pages of a transaction that has not come to its end
	for at := int64(walHeader); ; at += int64(len(frame)) {
		if n, _ := wal.ReadAt(frame, at); n < len(frame) {
			return views, damage
		}
		if at == walHeader && !unbroken {
			salts = string(frame[8:16])
		}
		if string(frame[8:16]) != salts {
			unbroken = false // or what an earlier use of the file has left
			continue
		}
		page, commits := int(binary.BigEndian.Uint32(frame)), binary.BigEndian.Uint32(frame[4:]) != 0
		stored := storedSum(frame[16:])
		right := walSum(order, walSum(order, sum, frame[:8]), frame[frameHeader:]) == stored
		// The sums are a chain. That of the frame before says whether this one is whole.
		sum = stored
		unbroken = unbroken && right
		views[all][page] = at + frameHeader
		if right {
			views[written][page] = at + frameHeader
		}
		open[page] = at + frameHeader
		switch {
		case unbroken && commits:
			maps.Copy(views[committed], open)
			clear(open)
		case commits:
			damage = fmt.Errorf("the write-ahead log is damaged before byte %d", at+int64(len(frame)))
		}
	}
}

func storedSum(b []byte) [2]uint32 {
	return [2]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}
}

func walSum(order binary.ByteOrder, sum [2]uint32, data []byte) [2]uint32 {
	for ; len(data) >= 8; data = data[8:] {
		sum[0] += order.Uint32(data) + sum[1]
		sum[1] += order.Uint32(data[4:]) + sum[0]
	}
	return sum
}

// read fills buf with page n, and reports whether there is such a page.
func (p *pages) read(v view, n int, buf []byte) bool {
	file, offset := p.db, (int64(n)-1)*pageSize
	if at, ok := v[n]; ok {
		file, offset = p.wal, at
	}
	if file == nil || n == 0 {
		return false
	}
	read, _ := file.ReadAt(buf, offset)
	clear(buf[read:])
	return read > 0
}

// found is a row, the table that it is of, and why it cannot be trusted.
type found struct {
	row
	table  string
	broken error
}

// rows returns the readable rows, view by view, and then the unreadable ones. A
// row may come more than once. The order is always the same.
func (p *pages) rows() iter.Seq[found] {
	return func(yield func(found) bool) {
		for _, broken := range []bool{false, true} {
			for _, v := range p.views {
				for _, n := range p.numbers(v) {
					for _, r := range p.leaf(v, n) {
						if (r.broken != nil) == broken && !yield(r) {
							return
						}
					}
				}
			}
		}
	}
}

// numbers returns those of the pages that there are, in order. The first page
// holds no events.
func (p *pages) numbers(v view) []int {
	var list []int
	for n := 2; n <= p.count; n++ {
		list = append(list, n)
	}
	for _, n := range slices.Sorted(maps.Keys(v)) {
		if n > max(1, p.count) {
			list = append(list, n)
		}
	}
	return list
}

// leaf returns the rows that start on page n.
func (p *pages) leaf(v view, n int) []found {
	page := make([]byte, pageSize)
	// One flipped bit in the page's type does not hide what is on it.
	if !p.read(v, n, page) || bits.OnesCount8(page[0]^tableLeaf) > 1 {
		return nil
	}
	cells := min(int(binary.BigEndian.Uint16(page[3:])), (pageSize-8)/2)
	var list []found
	for i := range cells {
		cell := binary.BigEndian.Uint16(page[8+2*i:])
		if cell >= pageSize {
			continue
		}
		seq, record, ok := p.record(v, page[cell:])
		if !ok {
			continue
		}
		r, ok := parseRow(seq, record)
		if ok && (r.broken == nil || page[0] == tableLeaf) {
			list = append(list, r)
		}
	}
	return list
}

// record returns the key and the content of a cell, with what overflows to other
// pages as far as that can be found.
func (p *pages) record(v view, cell []byte) (key int64, record []byte, ok bool) {
	size, n := uvarint(cell)
	rowid, m := uvarint(cell[n:])
	if n == 0 || m == 0 || size > maxRecord || rowid > math.MaxInt64 {
		return 0, nil, false
	}
	cell = cell[n+m:]
	const most, least = pageSize - 35, (pageSize-12)*32/255 - 23
	local := int(size)
	if local > most {
		if local = least + (local-least)%(pageSize-4); local > most {
			local = least
		}
	}
	if len(cell) < local {
		return 0, nil, false
	}
	record = append(record, cell[:local]...)
	rest := cell[local:]
	for page := make([]byte, pageSize); len(record) < int(size) && len(rest) >= 4; rest = page {
		if !p.read(v, int(binary.BigEndian.Uint32(rest)), page) {
			break
		}
		record = append(record, page[4:min(pageSize, 4+int(size)-len(record))]...)
	}
	return int64(rowid), record, true
}

// uvarint returns the number at the start of b and its length, 0 where there is none.
func uvarint(b []byte) (v uint64, n int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return v<<8 | uint64(b[i]), 9
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// parseRow returns the event in a record, unless that is of another kind.
func parseRow(seq int64, record []byte) (found, bool) {
	values := parseRecord(record)
	r := found{row: row{seq: seq}}
	var ok [7]bool
	switch {
	case len(values) == 7:
		r.table = "rejected"
		r.id, ok[0] = values[0].(string)
		r.payload, ok[1] = values[1].([]byte)
		r.status, ok[2] = values[2].(int64)
		r.reason, ok[3] = values[3].(string)
		r.firstAt, ok[4] = values[4].(int64)
		r.lastAt, ok[5] = values[5].(int64)
		r.sum, ok[6] = values[6].([]byte)
	case len(values) == 6 && values[0] == nil:
		r.table = "waiting"
		r.id, ok[0] = values[1].(string)
		r.payload, ok[1] = values[2].([]byte)
		r.sum, ok[2] = values[3].([]byte)
		r.firstAt, ok[3] = values[4].(int64)
		if r.reason, ok[4] = values[5].(string); ok[4] {
			r.table = "aside"
		} else {
			r.attempts, ok[4] = values[5].(int64)
		}
		ok[5], ok[6] = true, true
	}
	if r.id == "" || r.payload == nil {
		return found{}, false
	}
	if r.table == "aside" {
		return r, true
	}
	e, err := r.event()
	switch {
	case err != nil:
		r.broken = err
	case ok != [7]bool{true, true, true, true, true, true, true}:
		r.broken = errors.New("a column is unreadable")
	default:
		r.id = e.EventID.String()
	}
	return r, true
}

// parseRecord returns the values of a record: nil, int64, string or []byte. What
// is missing at its end is missing from the values.
func parseRecord(record []byte) []any {
	size, n := uvarint(record)
	if n == 0 || size > 100 || int(size) > len(record) {
		return nil
	}
	types, body := record[n:max(n, int(size))], record[int(size):]
	var values []any
	for len(types) > 0 {
		kind, n := uvarint(types)
		if n == 0 {
			return nil
		}
		types = types[n:]
		length := recordLength(kind)
		data := body[:min(length, len(body))]
		body = body[len(data):]
		switch {
		case kind == 0:
			values = append(values, nil)
		case kind <= 6:
			var v int64
			for _, b := range data {
				v = v<<8 | int64(b)
			}
			unused := 64 - 8*len(data)
			values = append(values, v<<unused>>unused)
		case kind == 8 || kind == 9:
			values = append(values, int64(kind-8))
		case kind < 12:
			return nil
		case kind%2 == 0:
			values = append(values, data)
		default:
			values = append(values, string(data))
		}
	}
	return values
}

// recordLength returns how many bytes a value of a kind takes.
func recordLength(kind uint64) int {
	switch {
	case kind <= 4:
		return int(kind)
	case kind == 5:
		return 6
	case kind <= 7:
		return 8
	case kind < 12:
		return 0
	default:
		return int(min(kind-12, 2*maxRecord)) / 2
	}
}
