package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/redact"
)

// maxRedactions is how many entries status has for what was masked.
const maxRedactions = 64

// mask masks the secrets in what a request says and returns what they are. It is
// the first thing that is done to a request that was read, so that nothing which
// sends, records or logs ever holds one.
func (r *NotificationRequestReconciler) mask(nr *v1alpha1.NotificationRequest) []v1alpha1.Redaction {
	if r.KeepSecrets {
		return nil
	}
	return mask(&nr.Spec)
}

// keepMasked writes nr and leaves its spec masked, which the API server's answer
// has as the user wrote it. It cannot have changed: each write has a lock.
func keepMasked(nr *v1alpha1.NotificationRequest, write func() error) error {
	spec := nr.Spec
	err := write()
	nr.Spec = spec
	return err
}

// mask masks what a spec says. It is a function of the spec alone, and does
// nothing to one that is masked.
func mask(spec *v1alpha1.NotificationRequestSpec) []v1alpha1.Redaction {
	var all redactions
	text := func(s *string, part string) { *s = all.note(part)(redact.Text(*s)) }
	whole := func(s *string, part string) { *s = all.note(part)(redact.Whole(*s)) }
	text(&spec.Subject, "subject")
	text(&spec.Body, "body")
	whole(&spec.Severity, "severity")
	// Two that are masked alike would be one incident: each stands for itself then.
	if raw := spec.CorrelationID; raw != "" {
		if whole(&spec.CorrelationID, "correlationID"); spec.CorrelationID != raw {
			spec.CorrelationID = ""
		}
	}
	whole(&spec.Regarding.APIVersion, "regarding.apiVersion")
	whole(&spec.Regarding.Kind, "regarding.kind")
	whole(&spec.Regarding.Namespace, "regarding.namespace")
	whole(&spec.Regarding.Name, "regarding.name")
	for i := range spec.Links {
		text(&spec.Links[i].Label, fmt.Sprintf("links[%d].label", i))
		text(&spec.Links[i].URL, fmt.Sprintf("links[%d].url", i))
	}
	fields := maps.Clone(spec.Fields)
	for _, name := range slices.Sorted(maps.Keys(spec.Fields)) {
		shown := all.note("fields")(redact.Whole(name))
		if shown != name {
			delete(fields, name)
			shown = unused(fields, shown)
		}
		value := all.note("fields[" + shown + "]")(redact.Named(name, string(spec.Fields[name])))
		fields[shown] = v1alpha1.FieldValue(value)
	}
	spec.Fields = fields
	return bounded(all)
}

// unused returns a name that no field has.
func unused(fields map[string]v1alpha1.FieldValue, name string) string {
	free := name
	for n := 2; ; n++ {
		if _, ok := fields[free]; !ok {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, n)
	}
}

// redactions are gathered part by part.
type redactions []v1alpha1.Redaction

// note returns a function that notes what was masked in a part and passes on the
// masked text.
func (all *redactions) note(part string) func(string, []redact.Finding) string {
	return func(masked string, found []redact.Finding) string {
		for _, f := range found {
			all.add(v1alpha1.Redaction{Part: part, Kind: f.Kind, Count: int32(f.Count)}) //nolint:gosec // a text has at most some ten thousand
		}
		return masked
	}
}

// add counts a kind once in each part.
func (all *redactions) add(r v1alpha1.Redaction) {
	for i := range *all {
		if a := &(*all)[i]; a.Part == r.Part && a.Kind == r.Kind {
			a.Count += r.Count
			return
		}
	}
	*all = append(*all, r)
}

// bounded returns what status has room for.
func bounded(all []v1alpha1.Redaction) []v1alpha1.Redaction {
	if len(all) <= maxRedactions {
		return all
	}
	rest := v1alpha1.Redaction{Part: "others", Kind: "Others"}
	for _, r := range all[maxRedactions-1:] {
		rest.Count += r.Count
	}
	return append(slices.Clone(all[:maxRedactions-1]), rest)
}

// redacted says in a sentence what was masked.
func redacted(all []v1alpha1.Redaction) string {
	var total int32
	parts := make([]string, len(all))
	for i, r := range all {
		total += r.Count
		parts[i] = fmt.Sprintf("%s: %s", r.Part, r.Kind)
		if r.Count > 1 {
			parts[i] += fmt.Sprintf(" (%d)", r.Count)
		}
	}
	return fmt.Sprintf("%s masked in what is sent and recorded, but still readable in this request: %s",
		count(total, "secret"), truncate(strings.Join(parts, ", "), 512))
}

// maskError masks what a receiver has quoted of its own secrets.
func (r *NotificationRequestReconciler) maskError(e *delivery.Error) *delivery.Error {
	if r.KeepSecrets {
		return e
	}
	masked := *e
	text, _ := redact.Text(e.Message)
	masked.Message = truncate(text, 256)
	return &masked
}
