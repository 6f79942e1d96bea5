package datastorage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"kubernaut.ai/notification/internal/audit"
)

const (
	// maxDepth is far above any event's need and far below what PostgreSQL's
	// and Go's JSON parsers allow, so that both databases take the same events.
	maxDepth = 64
	// maxValues is far above any event's need, too. Canonical JSON is made of a tree
	// of values, each of which takes a hundred times the bytes that the least have.
	maxValues = 10_000
	// maxExactInteger is the largest integer that canonical JSON, whose numbers
	// are doubles, keeps to the last digit.
	maxExactInteger = 1<<53 - 1
	// maxPlainDigits is the length up to which every integer is below maxExactInteger.
	maxPlainDigits = 15
)

// checkEvent returns the first thing in valid JSON that canonical JSON or one of
// the databases would change or refuse, nil where there is none.
func checkEvent(raw []byte) *audit.Violation {
	if plain(raw) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return checkValue(dec, 0, new(maxValues))
}

// plain reports whether valid JSON is so simple that checkValue, which takes
// far longer, would find nothing. It may answer false for JSON that is fine.
func plain(raw []byte) bool {
	depth, digits, values, inString := 0, 0, 0, false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if inString {
			switch {
			case c == '"':
				inString = false
			case c == '\\' && bytes.HasPrefix(raw[i:], []byte(`\u0000`)):
				return false
			case c == '\\':
				i++
			}
			continue
		}
		switch {
		case '0' <= c && c <= '9':
			if digits++; digits > maxPlainDigits {
				return false
			}
			continue
		case digits > 0 && (c == 'e' || c == 'E'):
			return false
		case c == '"':
			inString = true
		case c == ',':
			values++
		case c == '{' || c == '[':
			// Nothing may be in it, or one more value than there are commas.
			values++
			if depth++; depth > maxDepth {
				return false
			}
		case c == '}' || c == ']':
			depth--
		}
		digits = 0
	}
	return values < maxValues
}

// checkValue reads one value and returns the first thing in it that canonical
// JSON or one of the databases would change or refuse. It takes from left, which is
// how many values there may be.
func checkValue(dec *json.Decoder, depth int, left *int) *audit.Violation {
	token, err := dec.Token()
	if err != nil {
		return &audit.Violation{Detail: "is not JSON: " + err.Error()}
	}
	if *left--; *left < 0 {
		return &audit.Violation{Detail: fmt.Sprintf("is one value too many; an event may have %d", maxValues)}
	}
	switch t := token.(type) {
	case string:
		return checkString(t)
	case json.Number:
		return checkNumber(t)
	case json.Delim:
		if depth == maxDepth {
			return &audit.Violation{Detail: fmt.Sprintf("is nested deeper than %d levels", maxDepth)}
		}
		for i := 0; dec.More(); i++ {
			name := strconv.Itoa(i)
			if t == '{' {
				key, err := dec.Token()
				if err != nil {
					return &audit.Violation{Detail: "is not JSON: " + err.Error()}
				}
				name = key.(string)
				if v := checkString(name); v != nil {
					return &audit.Violation{Detail: "has a member whose name " + v.Detail}
				}
			}
			if v := checkValue(dec, depth+1, left); v != nil {
				v.Pointer = "/" + escapePointer(name) + v.Pointer
				return v
			}
		}
		if _, err := dec.Token(); err != nil && !errors.Is(err, io.EOF) {
			return &audit.Violation{Detail: "is not JSON: " + err.Error()}
		}
	}
	return nil
}

func checkString(s string) *audit.Violation {
	if strings.ContainsRune(s, 0) {
		return &audit.Violation{Detail: "must not contain the NUL character (\\u0000)"}
	}
	return nil
}

func checkNumber(n json.Number) *audit.Violation {
	f, err := n.Float64()
	if err != nil {
		return &audit.Violation{Detail: "is a number beyond the range of a double"}
	}
	if !strings.ContainsAny(n.String(), ".eE") && (f > maxExactInteger || f < -maxExactInteger) {
		return &audit.Violation{Detail: "is an integer beyond 2^53-1, which would lose digits; send it as a string"}
	}
	return nil
}

var escapePointer = strings.NewReplacer("~", "~0", "/", "~1").Replace
