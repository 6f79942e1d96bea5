// Package docs tests that the documentation says what the programs do.
package docs

import (
	"bytes"
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

func TestEveryFieldIsOnThePageOfItsKind(t *testing.T) {
	for crd, page := range map[string]string{
		"notificationrequests": "notificationrequest.md",
		"notificationchannels": "notificationchannel.md",
		"notificationroutes":   "notificationroute.md",
	} {
		t.Run(page, func(t *testing.T) {
			var definition apiextensionsv1.CustomResourceDefinition
			if err := yaml.Unmarshal([]byte(read(t, root, "config/crd/notification.kubernaut.ai_"+crd+".yaml")), &definition); err != nil {
				t.Fatal(err)
			}
			known := words(read(t, docs, page))
			var visit func(path string, schema apiextensionsv1.JSONSchemaProps)
			visit = func(path string, schema apiextensionsv1.JSONSchemaProps) {
				if path == ".status.conditions" { // its members are those of all kinds
					return
				}
				if schema.Items != nil && schema.Items.Schema != nil {
					visit(path, *schema.Items.Schema)
				}
				for name, member := range schema.Properties {
					if !slices.Contains(known, name) {
						t.Errorf("%s.%s is not on the page", path, name)
					}
					visit(path+"."+name, member)
				}
			}
			schema := definition.Spec.Versions[0].Schema.OpenAPIV3Schema
			visit(".spec", schema.Properties["spec"])
			visit(".status", schema.Properties["status"])
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

// TestExamplesAreWellFormed decodes each object of each example, and refuses
// members that its kind does not have.
func TestExamplesAreWellFormed(t *testing.T) {
	examples := 0
	for path, page := range pages(t) {
		for _, block := range fenced.FindAllStringSubmatch(page, -1) {
			text := block[2]
			if _, after, ok := strings.Cut(text, "kubectl apply -f - <<'EOF'\n"); ok && block[1] == "sh" {
				text, _, _ = strings.Cut(after, "\nEOF\n")
			} else if block[1] != "yaml" {
				continue
			}
			for object := range strings.SplitSeq(text, "\n---\n") {
				var kind struct{ Kind string }
				if err := yaml.Unmarshal([]byte(object), &kind); err != nil {
					t.Errorf("%s: %v\n%s", path, err, object)
				}
				into, ok := map[string]any{
					"NotificationRequest": &v1alpha1.NotificationRequest{},
					"NotificationChannel": &v1alpha1.NotificationChannel{},
					"NotificationRoute":   &v1alpha1.NotificationRoute{},
					"Secret":              &corev1.Secret{},
				}[kind.Kind]
				if !ok {
					t.Errorf("%s: kind %q is not known to this test", path, kind.Kind)
				} else if err := yaml.UnmarshalStrict([]byte(object), into); err != nil {
					t.Errorf("%s: %v\n%s", path, err, object)
				}
				examples++
			}
		}
	}
	if examples < 5 {
		t.Errorf("found %d examples only", examples)
	}
}
