package verify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// maxLine is longer than an event is, which canonical JSON may have lengthened.
const maxLine = 64 << 20

// export is an export under verification.
type export struct {
	*checker
	began bool  // a manifest was read
	size  int64 // of the last manifest
}

// exported verifies an export, or the parts of one in their order.
func exported(ctx context.Context, c *checker, paths []string) error {
	e := &export{checker: c}
	for _, path := range paths {
		if err := e.readOwn(ctx, path); err != nil {
			return err
		}
	}
	e.expired.ready()
	for i, path := range paths {
		if err := e.file(ctx, path, i == len(paths)-1); err != nil {
			return err
		}
	}
	if e.next < e.size {
		e.add(e.next, "the export ends after event %d of %d: it was cut off. Get the rest with from=%d, and verify both together", e.next-1, e.size, e.next)
	}
	return e.finish(func() (int64, error) { return e.size, nil })
}

// file reads one part.
func (e *export) file(ctx context.Context, path string, last bool) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--export: %w", err)
	}
	defer file.Close()
	in := scanner(file)
	for number := 1; in.Scan(); number++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		line, whole := bytes.CutSuffix(in.Bytes(), []byte("\n"))
		switch {
		case !whole && !last: // The next part has it again.
		case !whole:
			e.add(e.next, "line %d of %s is cut off", number, path)
		case number == 1:
			err = e.manifest(line, path)
		default:
			err = e.event(line, fmt.Sprintf("line %d of %s", number, path))
		}
		if err != nil {
			return err
		}
	}
	if err := in.Err(); errors.Is(err, bufio.ErrTooLong) {
		e.add(e.next, "%s has a line that is longer than any event", path)
	} else if err != nil {
		return fmt.Errorf("read export: %w", err)
	}
	return nil
}

// readOwn reads what a part says of what has expired, and of holds.
func (e *export) readOwn(ctx context.Context, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--export: %w", err)
	}
	defer file.Close()
	in := scanner(file)
	for in.Scan() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !bytes.Contains(in.Bytes(), []byte(`"datastorage.`)) {
			continue
		}
		row, err := datastorage.ParseLine(bytes.TrimSuffix(in.Bytes(), []byte("\n")))
		if err != nil {
			continue // It is found when the line's turn comes.
		}
		e.expired.note(row.LogIndex, row.Body)
	}
	return nil // An error is met again when the file is verified.
}

func scanner(file *os.File) *bufio.Scanner {
	in := bufio.NewScanner(file)
	in.Buffer(make([]byte, 0, 1<<20), maxLine)
	in.Split(lines)
	return in
}

// lines is a bufio.SplitFunc that keeps the ends of lines.
func lines(data []byte, atEOF bool) (int, []byte, error) {
	if at := bytes.IndexByte(data, '\n'); at >= 0 {
		return at + 1, data[:at+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// manifest reads the first line of a part.
func (e *export) manifest(line []byte, path string) error {
	var first struct{ Manifest *datastorage.Manifest }
	if err := json.Unmarshal(line, &first); err != nil || first.Manifest == nil {
		return fmt.Errorf("--export %s does not begin with the manifest of an export", path)
	}
	m := first.Manifest
	edge, err := ledger.FromEdge(m.From, m.Left)
	if err != nil {
		e.add(m.From, "the manifest of %s was changed: %v", path, err)
		edge = &ledger.Tree{}
	}
	e.setVerifier(m.Verifier, "the manifest of "+path)
	checkpoint := mark{name: "the checkpoint of " + path, size: m.To, signed: m.Checkpoint}
	switch {
	case !e.began:
		e.began, e.from, e.next, e.agreed = true, m.From, m.From, m.From
		e.bodies, e.tiles = edge, edge.Clone()
	case m.From > e.next:
		e.present()
		if err := e.skip(m.From); err != nil {
			return err
		}
	case m.From < e.next:
		e.add(m.From, "%s begins with event %d, and the part before it ends with event %d: the parts must be in order", path, m.From, e.next-1)
	case e.tiles != nil && edge.Root() != e.tiles.Root() && (e.bodies == nil || edge.Root() != e.bodies.Root()):
		e.add(m.From, "%s goes on with another log than the part before it: one of them was changed, or the log was", path)
	}
	e.size = m.To
	e.marks.add(checkpoint)
	return nil
}

// event reads the line of an event.
func (e *export) event(line []byte, where string) error {
	row, err := datastorage.ParseLine(line)
	switch {
	case err != nil:
		e.add(e.next, "%s is no event as an export has it: %v", where, err)
		return nil
	case row.LogIndex < e.next:
		e.addEvent(row.LogIndex, row.ID(), "it stands after event %d: it was put in, or the lines were reordered", e.next-1)
		return nil
	case row.LogIndex >= e.size:
		e.addEvent(row.LogIndex, row.ID(), "it was put in beyond the end: the manifest is of %d events", e.size)
		return nil
	}
	if err := e.skip(row.LogIndex); err != nil {
		return err
	}
	e.progress.at(e.next-e.from, e.size-e.from)
	if _, err := e.step(row, nil); err != nil {
		return err
	}
	e.expired.exported(row, line)
	return nil
}
