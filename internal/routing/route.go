package routing

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"time"

	"kubernaut.ai/notification/api/v1alpha1"
)

// maxInstructions bounds a compiled regular expression. What it takes to match
// grows with them, and a short pattern can have very many: x{1000} has 1000.
const maxInstructions = 1000

// prepared is a route that can be used.
type prepared struct {
	route *v1alpha1.NotificationRoute
	zone  *time.Location
	// patterns are those of the matchers that have one, by the matcher's index.
	patterns map[int]*regexp.Regexp
}

// Check says in a word and a sentence why a route cannot be used, "" where it can.
// The API server finds most of it when the route is applied; another version of it
// may know other time zones and expressions.
func Check(route *v1alpha1.NotificationRoute) (reason, message string) {
	_, reason, message = prepare(route)
	return reason, message
}

func prepare(route *v1alpha1.NotificationRoute) (r prepared, reason, message string) {
	r = prepared{route: route, patterns: map[int]*regexp.Regexp{}}
	var err error
	if r.zone, err = time.LoadLocation(route.Spec.TimeZone); err != nil || route.Spec.TimeZone == "Local" {
		return r, v1alpha1.ReasonInvalidTimeZone, fmt.Sprintf("timeZone %s is not in the IANA database", route.Spec.TimeZone)
	}
	if alwaysOpen(route.Spec.QuietHours) {
		return r, v1alpha1.ReasonAlwaysQuiet, "quietHours leave no minute of the week in which a message could be sent"
	}
	for i, m := range route.Spec.Match {
		if m.Matches == "" {
			continue
		}
		if r.patterns[i], err = compile(m.Matches); err != nil {
			return r, v1alpha1.ReasonInvalidPattern, fmt.Sprintf("match[%d].matches cannot be used: %v", i, err)
		}
	}
	return r, "", ""
}

// compile compiles a regular expression that finds the longest match.
func compile(pattern string) (*regexp.Regexp, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if n := len(program.Inst); n > maxInstructions {
		return nil, fmt.Errorf("it takes %d steps, and %d are allowed: repeat less", n, maxInstructions)
	}
	compiled, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	compiled.Longest()
	return compiled, nil
}

// matches reports whether a route takes a request at the given time.
func (r prepared) matches(nr *v1alpha1.NotificationRequest, at time.Time) bool {
	if windows := r.route.Spec.ActiveWindows; len(windows) > 0 && !anyOpen(windows, at.In(r.zone)) {
		return false
	}
	for i, m := range r.route.Spec.Match {
		if !holds(m, r.patterns[i], nr) {
			return false
		}
	}
	return true
}

func holds(m v1alpha1.RouteMatcher, pattern *regexp.Regexp, nr *v1alpha1.NotificationRequest) bool {
	value, there := attribute(nr, m)
	switch {
	case m.Exists != nil:
		return there == *m.Exists
	case len(m.NotIn) > 0:
		return !there || !slices.Contains(m.NotIn, v1alpha1.RouteValue(value))
	case !there:
		return false
	case len(m.In) > 0:
		return slices.Contains(m.In, v1alpha1.RouteValue(value))
	case pattern != nil:
		// A pattern that is put between anchors can be another one: of \Qa the end is
		// open. The longest of the leftmost matches is the whole value where one is.
		at := pattern.FindStringIndex(value)
		return at != nil && at[0] == 0 && at[1] == len(value)
	default:
		return value == string(m.Equals)
	}
}

// attribute returns what a matcher looks at, and whether the request has it.
func attribute(nr *v1alpha1.NotificationRequest, m v1alpha1.RouteMatcher) (value string, there bool) {
	switch m.Attribute {
	case v1alpha1.AttributeType:
		value = string(nr.Spec.Type)
	case v1alpha1.AttributePriority:
		value = string(nr.Spec.Priority)
	case v1alpha1.AttributeSeverity:
		value = nr.Spec.Severity
	case v1alpha1.AttributeCorrelationID:
		value = nr.Spec.CorrelationID
	case v1alpha1.AttributeField:
		field, there := nr.Spec.Fields[m.Key]
		return string(field), there
	case v1alpha1.AttributeLabel:
		value, there = nr.Labels[m.Key]
		return value, there
	}
	return value, value != ""
}
