// Package docs tests that the documentation says what the programs do.
package docs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/verify"
	"kubernaut.ai/notification/internal/manager"
)

const (
	root = "../.."
	docs = root + "/docs"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pages returns the texts of all pages by their paths.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(root + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(docs, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, path := range paths {
		all[path] = read(t, path)
	}
	return all
}

// found returns what the first group of a pattern matches, sorted, each once.
func found(pattern, text string) []string {
	var all []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, match[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// section returns a page from one heading to the next of the same level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, heading+"\n")
	if !ok {
		t.Fatalf("no heading %q", heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

var (
	fenced  = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors returns the names by which the headings of a page can be linked to.
func anchors(page string) []string {
	var all []string
	for _, match := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		all = append(all, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-"))
	}
	return all
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	all := pages(t)
	for path, page := range all {
		for _, match := range link.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(match[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", path, match[1], err)
			} else if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
				t.Errorf("%s: %s: no such heading", path, match[1])
			}
		}
	}
}

func TestEveryFlagIsInOperations(t *testing.T) {
	page := read(t, docs, "operations.md")
	for name, run := range map[string]func(*bytes.Buffer) error{
		"manager": func(usage *bytes.Buffer) error {
			return manager.Main(t.Context(), []string{"-help"}, io.Discard, usage)
		},
		"datastorage": func(usage *bytes.Buffer) error {
			return datastorage.Main(t.Context(), []string{"-help"}, io.Discard, usage, nil)
		},
		"verify": func(usage *bytes.Buffer) error {
			return verify.Main(t.Context(), []string{"-help"}, io.Discard, usage, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var usage bytes.Buffer
			if err := run(&usage); err != nil {
				t.Fatal(err)
			}
			want := found(`(?m)^  -([a-z-]+)`, usage.String())
			got := found("(?m)^\\| `--([a-z-]+)` \\|", section(t, page, map[string]string{"manager": "## Flags of the manager", "datastorage": "## Flags of datastorage", "verify": "## Verifying the log"}[name]))
			if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
				t.Errorf("flags of the program (-) and of the page (+):\n%s", diff)
			}
		})
	}
}

func TestEveryMetricIsInMetrics(t *testing.T) {
	want := found(`"((?:notification|datastorage)_\w*[a-z])"`, read(t, root, "internal/controller/metrics.go")+
		read(t, root, "internal/audit/metrics.go")+read(t, root, "internal/acknowledge/server.go")+read(t, root, "internal/datastorage/metrics.go"))
	for _, name := range found(`\t(?:counter|gauge)\("(\w+)"`, read(t, root, "internal/audit/metrics.go")) {
		want = append(want, "notification_audit_"+name)
	}
	slices.Sort(want)
	got := found("(?m)^\\| `((?:notification|datastorage)_\\w+)` \\|", read(t, docs, "metrics.md"))
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 20 {
		t.Errorf("metrics of the code (-) and of the page (+):\n%s", diff)
	}
}

// words returns all words that stand within backquotes.
func words(page string) []string {
	var all []string
	for _, code := range found("`([^`\n]+)`", page) {
		all = append(all, found(`(\w+)`, code)...)
	}
	return all
}

var kinds = map[string]string{
	"notificationrequests": "notificationrequest.md",
	"notificationchannels": "notificationchannel.md",
	"notificationroutes":   "notificationroute.md",
}

// eachField calls do with each field of a kind, by its path from spec or status on.
// The fields of a list's items are those of the list.
func eachField(t *testing.T, crd string, do func(path string, schema apiextensionsv1.JSONSchemaProps)) {
	t.Helper()
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(read(t, root, "config/crd/notification.kubernaut.ai_"+crd+".yaml")), &definition); err != nil {
		t.Fatal(err)
	}
	var visit func(path string, schema apiextensionsv1.JSONSchemaProps)
	visit = func(path string, schema apiextensionsv1.JSONSchemaProps) {
		if path == "status.conditions" { // its members are those of all kinds
			return
		}
		if schema.Items != nil && schema.Items.Schema != nil {
			visit(path, *schema.Items.Schema)
		}
		for name, member := range schema.Properties {
			do(path+"."+name, member)
			visit(path+"."+name, member)
		}
	}
	schema := definition.Spec.Versions[0].Schema.OpenAPIV3Schema
	visit("spec", schema.Properties["spec"])
	visit("status", schema.Properties["status"])
}

func TestEveryFieldIsOnThePageOfItsKind(t *testing.T) {
	for crd, page := range kinds {
		t.Run(page, func(t *testing.T) {
			known := map[string][]string{}
			eachField(t, crd, func(path string, _ apiextensionsv1.JSONSchemaProps) {
				// What one type of channel or a template has is on a page of its own.
				at := page
				member := strings.ToLower(strings.Split(path, ".")[1])
				for _, own := range []string{"channels/" + member + ".md", member + "s.md"} {
					if _, err := os.Stat(filepath.Join(docs, own)); err == nil && crd == "notificationchannels" {
						at = own
					}
				}
				if known[at] == nil {
					known[at] = words(read(t, docs, at))
				}
				if name := path[strings.LastIndex(path, ".")+1:]; !slices.Contains(known[at], name) {
					t.Errorf("%s is not on the page %s", path, at)
				}
			})
			if crd == "notificationchannels" && len(known) != 9 {
				t.Errorf("the fields are on %d pages, want one for each type, for templates and for the kind", len(known))
			}
		})
	}
}

// TestExplainTellsDefaultsAndExamples holds what kubectl explain prints, which has no
// place for a default but the description.
func TestExplainTellsDefaultsAndExamples(t *testing.T) {
	for crd := range kinds {
		eachField(t, crd, func(path string, schema apiextensionsv1.JSONSchemaProps) {
			if !strings.HasPrefix(path, "spec.") {
				return
			}
			text := strings.Join(strings.Fields(schema.Description), " ")
			var value any
			if schema.Default != nil {
				if err := yaml.Unmarshal(schema.Default.Raw, &value); err != nil {
					t.Fatal(err)
				}
			}
			switch value.(type) {
			case nil:
				if schema.Type == "string" && schema.Format == "" && schema.Enum == nil && !strings.Contains(text, "for example ") && !strings.Contains(text, "such as ") {
					t.Errorf("%s: %s has no example: %s", crd, path, text)
				}
			case map[string]any, bool: // told in words
				if !strings.Contains(text, "by default") {
					t.Errorf("%s: %s does not tell its default: %s", crd, path, text)
				}
			default:
				if !strings.Contains(text, fmt.Sprint(value)+" by default") {
					t.Errorf("%s: %s does not tell its default %v: %s", crd, path, value, text)
				}
			}
		})
	}
}

func TestEveryReasonIsExplained(t *testing.T) {
	sources, err := filepath.Glob(root + "/internal/controller/*.go")
	if err != nil {
		t.Fatal(err)
	}
	routing, err := filepath.Glob(root + "/internal/routing/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var controller strings.Builder
	for _, source := range slices.Concat(sources, routing) {
		if !strings.HasSuffix(source, "_test.go") {
			controller.WriteString(read(t, source))
		}
	}
	reasons := append(found(`Reason\w+ += "(\w+)"`, read(t, root, "internal/delivery/errors.go")),
		found(`(?:blocked\(|Reason: |warn\(|reason, why = )"([A-Z]\w+)"`, controller.String())...)
	for _, name := range found(`v1alpha1\.(Reason\w+)`, controller.String()) {
		reasons = append(reasons, found(name+` += "(\w+)"`, read(t, root, "api/v1alpha1/common_types.go"))...)
	}
	if len(reasons) < 50 {
		t.Fatalf("found %d reasons in the code only: %v", len(reasons), reasons)
	}
	known := words(read(t, docs, "notificationrequest.md") + read(t, docs, "notificationchannel.md") + read(t, docs, "notificationroute.md"))
	for _, reason := range reasons {
		if !slices.Contains(known, reason) {
			t.Errorf("%s is on no page", reason)
		}
	}
}

// example is an object that a page has a reader paste, or one of a sample.
type example struct{ from, text string }

var pasted = regexp.MustCompile(`(?ms)^kubectl (?:apply|create) -f - <<'EOF'\n(.*?)^EOF$`)

func exampleObjects(t *testing.T) []example {
	t.Helper()
	var all []example
	add := func(from, text string) {
		for object := range strings.SplitSeq(text, "\n---\n") {
			all = append(all, example{from, strings.TrimRight(object, "\n") + "\n"})
		}
	}
	for path, page := range pages(t) {
		for _, block := range fenced.FindAllStringSubmatch(page, -1) {
			for _, match := range pasted.FindAllStringSubmatch(block[2], -1) {
				add(path, match[1])
			}
		}
	}
	samples, err := filepath.Glob(root + "/config/samples/notification_*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, sample := range samples {
		add(sample, read(t, sample))
	}
	if len(samples) < 15 || len(all) < 60 {
		t.Fatalf("found %d examples only, and %d samples", len(all), len(samples))
	}
	return all
}

// TestExamplesAreWellFormed decodes each object of each example, and refuses
// members that its kind does not have.
func TestExamplesAreWellFormed(t *testing.T) {
	for _, e := range exampleObjects(t) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(e.text), &kind); err != nil {
			t.Errorf("%s: %v\n%s", e.from, err, e.text)
		}
		into, ok := map[string]any{
			"NotificationRequest": &v1alpha1.NotificationRequest{},
			"NotificationChannel": &v1alpha1.NotificationChannel{},
			"NotificationRoute":   &v1alpha1.NotificationRoute{},
			"Secret":              &corev1.Secret{},
			"Namespace":           &corev1.Namespace{},
		}[kind.Kind]
		if !ok {
			t.Errorf("%s: kind %q is not known to this test", e.from, kind.Kind)
		} else if err := yaml.UnmarshalStrict([]byte(e.text), into); err != nil {
			t.Errorf("%s: %v\n%s", e.from, err, e.text)
		}
	}
}

// TestWhatIsToBeAppliedCanBePasted keeps objects out of blocks that a reader would
// have to put into a file first.
func TestWhatIsToBeAppliedCanBePasted(t *testing.T) {
	for path, page := range pages(t) {
		for _, block := range fenced.FindAllStringSubmatch(page, -1) {
			if strings.Contains(pasted.ReplaceAllString(block[2], ""), "notification.kubernaut.ai/v1alpha1\n") && block[1] != "console" {
				t.Errorf("%s has an object outside of kubectl apply -f - <<'EOF':\n%s", path, block[2])
			}
		}
	}
}

// TestOneNameIsOneThing lets a reader apply the examples in any order: none changes
// what another has made, and none is refused because of another.
func TestOneNameIsOneThing(t *testing.T) {
	type object struct {
		Kind     string
		Metadata struct{ Namespace, Name, GenerateName string }
	}
	known := map[object]example{}
	for _, e := range exampleObjects(t) {
		var key object
		if err := yaml.Unmarshal([]byte(e.text), &key); err != nil {
			t.Fatal(err)
		}
		was, ok := known[key]
		if !ok {
			known[key] = e
			continue
		}
		var one, other any
		if err := errors.Join(yaml.Unmarshal([]byte(was.text), &one), yaml.Unmarshal([]byte(e.text), &other)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(one, other); diff != "" {
			t.Errorf("the %s %s of %s (-) is another one than that of %s (+):\n%s", key.Kind, key.Metadata.Name, was.from, e.from, diff)
		}
	}
}

func TestEveryChannelPageSaysHowToTryTheChannel(t *testing.T) {
	paths, err := filepath.Glob(docs + "/channels/*.md")
	if err != nil || len(paths) != 7 {
		t.Fatalf("found %v, %v", paths, err)
	}
	for _, path := range paths {
		names := found(`kind: NotificationChannel\nmetadata:\n  name: (\S+)`, read(t, path))
		text := section(t, read(t, path), "## Does it work?")
		if !slices.ContainsFunc(names, func(name string) bool {
			return strings.Contains(text, "\nkubectl annotate nch "+name+" "+v1alpha1.ProbeAnnotation+"=") &&
				strings.Contains(text, "\nkubectl get nch "+name+" -o jsonpath='{.status.probe}")
		}) {
			t.Errorf("%s does not say how to send a test message through one of %v and how to see what came of it", path, names)
		}
	}
}
