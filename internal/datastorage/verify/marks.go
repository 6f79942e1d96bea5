package verify

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// mark is what somebody says that the log was at a size.
type mark struct {
	name   string // as a finding calls it
	given  bool   // with --checkpoint
	size   int64
	root   ledger.Hash
	time   time.Time // zero where it is not known
	signed string    // empty for a receipt

	checked bool
	wrong   string // once checked
}

// check verifies the mark's signature, once. It returns what is wrong with it, or
// nothing.
func (m *mark) check(verifier string) string {
	if !m.checked && m.signed != "" {
		m.wrong = m.verify(verifier)
	}
	m.checked = true
	return m.wrong
}

func (m *mark) verify(verifier string) string {
	c, err := ledger.Verify(m.signed, verifier)
	switch {
	case err != nil:
		return fmt.Sprintf("%s is not signed with the log's key: it was changed, it is of another log, or the key was changed (%v)", m.name, err)
	case m.size != c.Size:
		return fmt.Sprintf("%s stands where one of %d events was, but is of %d", m.name, m.size, c.Size)
	}
	m.root, m.time = c.Root, c.Time
	return ""
}

// marks are those that the log has not been compared with yet.
type marks struct {
	list []mark // by size
	// kept returns the next of the checkpoints that the log keeps, nil after the
	// last one.
	kept func() (*datastorage.Kept, error)
	next *mark // the next one of kept
}

func (m *marks) add(added ...mark) {
	m.list = append(m.list, added...)
	slices.SortStableFunc(m.list, func(a, b mark) int { return cmp.Compare(a.size, b.size) })
}

// peek returns the mark of the smallest size, nil where there are no more.
func (m *marks) peek() (*mark, error) {
	if m.next == nil && m.kept != nil {
		kept, err := m.kept()
		if err != nil {
			return nil, err
		}
		if kept != nil {
			m.next = &mark{name: fmt.Sprintf("the kept checkpoint %d of %d events", kept.ID, kept.Size), size: kept.Size, signed: kept.Checkpoint}
		} else {
			m.kept = nil
		}
	}
	if m.next != nil && (len(m.list) == 0 || m.next.size < m.list[0].size) {
		return m.next, nil
	}
	if len(m.list) == 0 {
		return nil, nil
	}
	return &m.list[0], nil
}

// skip goes past what peek returned.
func (m *marks) skip(passed *mark) {
	if passed == m.next {
		m.next = nil
	} else {
		m.list = m.list[1:]
	}
}

var (
	// notes finds signed checkpoints in any text, also where they are part of
	// JSON or of YAML.
	notes = regexp.MustCompile(`[^\s"']+\n\d+\n[A-Za-z0-9+/]{43}=\n(?:[^\n]+\n)*\n(?:— \S+ [A-Za-z0-9+/=]+\n)+`)
	// receipts finds the size and the root that a request's status has.
	receipts = regexp.MustCompile(`(?i)size"?:\s*(\d+)\W{1,40}\w*root\w*"?:\s*"?([A-Za-z0-9+/]{43}=)|` +
		`root\w*"?:\s*"?([A-Za-z0-9+/]{43}=)\W{1,40}\w*size"?:\s*(\d+)`)
	// plainText undoes what JSON and YAML do to a text of several lines.
	plainText = strings.NewReplacer("\r\n", "\n", `\n`, "\n", `\u2014`, "—")
	indented  = regexp.MustCompile(`(?m)^[ \t]+`)
)

// read adds the checkpoints and receipts that files have.
func (m *marks) read(paths []string) error {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("--checkpoint: %w", err)
		}
		found := find(string(text), path)
		if found == nil {
			return fmt.Errorf("--checkpoint %s has neither a signed checkpoint nor a receipt with a size and a root", path)
		}
		m.add(found...)
	}
	return nil
}

func find(text, path string) (found []mark) {
	for _, signed := range notes.FindAllString(indented.ReplaceAllString(plainText.Replace(text)+"\n", ""), -1) {
		size := strings.Split(signed, "\n")[1]
		found = append(found, mark{name: fmt.Sprintf("the checkpoint of %s events in %s", size, path), given: true, size: number(size), signed: signed})
	}
	for _, r := range receipts.FindAllStringSubmatch(text, -1) {
		size := r[1] + r[4]
		m := mark{name: fmt.Sprintf("the receipt of %s events in %s", size, path), given: true, size: number(size)}
		root, _ := base64.StdEncoding.DecodeString(r[2] + r[3])
		copy(m.root[:], root)
		found = append(found, m)
	}
	return found
}

// number reads digits; so many that no log has had that size are less than none.
func number(digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return -1
	}
	return n
}
