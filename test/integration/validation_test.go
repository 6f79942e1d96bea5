package integration

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"kubernaut.ai/notification/test/harness"
	"kubernaut.ai/notification/test/testenv"
)

func TestTheAPIServerRefusesBadInputAndSaysWhatIsAllowed(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, testenv.Config(t))
	namespace := testenv.Namespace(t)
	strict := client.WithFieldValidation(c, "Strict")
	try := func(valid string, refusals []refusal, ask func(*unstructured.Unstructured) error) []refusal {
		for _, r := range refusals {
			if r.at == "" {
				r.at = r.path
			}
			o := parse(t, valid, namespace)
			set(o.Object, r.path, r.value)
			err := ask(o)
			want := r.at + ": "
			if strings.HasPrefix(r.want, "unknown field") {
				want = ""
			}
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), r.want) {
				t.Errorf("%s = %.60v:\n got %.600v\nwant %s%s", r.path, r.value, err, want, r.want)
				continue
			}
			if status, ok := errors.AsType[*apierrors.StatusError](err); r.alone && (!ok || len(status.ErrStatus.Details.Causes) != 1) {
				t.Errorf("%s = %.60v:\n got %.900v\nwant %s%s and nothing else", r.path, r.value, err, want, r.want)
			}
		}
		return refusals
	}
	create := func(o *unstructured.Unstructured) error { return strict.Create(t.Context(), o, client.DryRunAll) }
	for _, valid := range []string{
		validRequest, validWebhook, validSecretWebhook, validSlackHook, validSlackBot, validTeams, validDiscord, validEmail, validRelay,
		validPagerDuty, validFile, validRoute,
	} {
		if err := create(parse(t, valid, namespace)); err != nil {
			t.Errorf("a valid object is refused: %v", err)
		}
	}
	existing := parse(t, validRequest, namespace)
	if err := strict.Create(t.Context(), existing); err != nil {
		t.Fatal(err)
	}
	update := func(o *unstructured.Unstructured) error {
		o.SetResourceVersion(existing.GetResourceVersion())
		return strict.Update(t.Context(), o, client.DryRunAll)
	}
	resumed := parse(t, validRequest, namespace)
	set(resumed.Object, "spec.suspend", nil)
	if err := update(resumed); err != nil {
		t.Errorf("suspend cannot be taken away: %v", err)
	}
	// A client in Go writes times in UTC, whatever it has read.
	same := parse(t, validRequest, namespace)
	set(same.Object, "spec.notBefore", "2026-01-01T01:30:00.000+01:30")
	if err := update(same); err != nil {
		t.Errorf("a time that is written in another way is refused: %v", err)
	}

	tried := try(validRequest, requestRefusals, create)
	tried = append(tried, try(validRequest, changes, update)...)
	wantAllRules(t, "../../config/crd/notification.kubernaut.ai_notificationrequests.yaml", tried)
	tried = try(validWebhook, webhookRefusals, create)
	tried = append(tried, try(validSecretWebhook, slices.Concat(secretRef("spec.webhook.urlSecretRef"), secretRef("spec.proxy.urlSecretRef")), create)...)
	tried = append(tried, try(validSlackHook, slackHookRefusals, create)...)
	tried = append(tried, try(validSlackBot, slackBotRefusals, create)...)
	tried = append(tried, try(validSlackFollowUps, slackFollowUpsRefusals, create)...)
	tried = append(tried, try(validTeams, teamsRefusals, create)...)
	tried = append(tried, try(validDiscord, discordRefusals, create)...)
	tried = append(tried, try(validPagerDuty, pagerDutyRefusals, create)...)
	tried = append(tried, try(validEmail, emailRefusals, create)...)
	tried = append(tried, try(validFile, fileRefusals, create)...)
	wantAllRules(t, "../../config/crd/notification.kubernaut.ai_notificationchannels.yaml", tried)
	wantAllRules(t, "../../config/crd/notification.kubernaut.ai_notificationroutes.yaml", try(validRoute, routeRefusals, create))
}

// The kind is a copy of the requests', which gets the rules about times later.
func TestARequestWithATimeFromBeforeItsRulesCanBeLetGo(t *testing.T) {
	t.Parallel()
	c, namespace := harness.NewClient(t, testenv.Config(t)), testenv.Namespace(t)
	text, err := os.ReadFile("../../config/crd/notification.kubernaut.ai_notificationrequests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	copied := strings.NewReplacer("notification.kubernaut.ai", "former.kubernaut.ai")
	strict := parse(t, copied.Replace(string(text)), "")
	kind := strict.DeepCopy()
	set(kind.Object, "spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.notBefore.x-kubernetes-validations", nil)
	if err := c.Create(t.Context(), kind); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.WithoutCancel(t.Context()), kind); err != nil {
			t.Error(err)
		}
	})
	request := parse(t, copied.Replace(validRequest), namespace)
	set(request.Object, "spec.notBefore", "2026-01-01t00:00:00z")
	request.SetFinalizers([]string{"former.kubernaut.ai/evidence"})
	until := func(what string, done func() bool) {
		t.Helper()
		tick, end := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
		defer tick.Stop()
		for !done() {
			select {
			case <-tick.C:
			case <-end:
				t.Fatalf("waited a minute until %s", what)
			}
		}
	}
	held := request.DeepCopy()
	until("the kind is served", func() bool { return c.Create(t.Context(), held) == nil })
	lax := kind.DeepCopy()
	kind.Object["spec"] = strict.Object["spec"]
	if err := c.Patch(t.Context(), kind, client.MergeFrom(lax)); err != nil {
		t.Fatal(err)
	}
	request.SetName("another")
	until("such a time is refused", func() bool { return apierrors.IsInvalid(c.Create(t.Context(), request.DeepCopy(), client.DryRunAll)) })
	held.SetFinalizers(nil)
	if err := c.Update(t.Context(), held); err != nil {
		t.Errorf("its finalizer cannot be taken away: %v", err)
	}
}

func parse(t *testing.T, text, namespace string) *unstructured.Unstructured {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(asJSON); err != nil {
		t.Fatal(err)
	}
	o.SetNamespace(namespace)
	return o
}

// set sets the value at a path such as spec.links[0].url, or takes it away.
func set(object map[string]any, path string, value any) {
	var at any = object
	steps := strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
	for i, step := range steps {
		last := i == len(steps)-1
		switch node := at.(type) {
		case map[string]any:
			switch {
			case last && value == nil:
				delete(node, step)
			case last:
				node[step] = value
			}
			at = node[step]
		case []any:
			index, _ := strconv.Atoi(step)
			if last {
				node[index] = value
			}
			at = node[index]
		}
	}
}

// keywords are the schema's limits and how the API server says that one is broken.
var keywords = map[string]string{
	"enum": "Unsupported value", "minLength": "should be at least", "maxLength": "Too long", "pattern": "should match",
	"minimum": "greater than or equal", "maximum": "less than or equal", "maxItems": "Too many", "maxProperties": "Too many",
	"minProperties": "should have at least", "minItems": "should have at least",
}

// wantAllRules fails the test where a rule or a limit of a kind's spec was not tried.
func wantAllRules(t *testing.T, file string, tried []refusal) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		t.Fatal(err)
	}
	wasTried := func(path, want string) bool {
		return slices.ContainsFunc(tried, func(r refusal) bool {
			if r.at == "" {
				r.at = r.path
			}
			return strings.NewReplacer("[0]", "[]", "[1]", "[]", "[2]", "[]", "[3]", "[]", "fields.node", "fields.*", "fields[node]", "fields.*").Replace(r.at) == path && strings.Contains(r.want, want)
		})
	}
	var visit func(path string, schema apiextensionsv1.JSONSchemaProps)
	visit = func(path string, schema apiextensionsv1.JSONSchemaProps) {
		for _, rule := range schema.XValidations {
			if !wasTried(path, rule.Message) {
				t.Errorf("no row tries the rule %q of %s", rule.Message, path)
			}
		}
		own := schema
		own.Properties, own.Items, own.AdditionalProperties = nil, nil, nil
		asJSON, err := json.Marshal(own)
		if err != nil {
			t.Fatal(err)
		}
		for keyword, words := range keywords {
			if keyword == "minProperties" && (path == "spec.retry" || path == "spec.acknowledge") {
				continue // an empty one has got its defaults before it is looked at
			}
			if strings.Contains(string(asJSON), `"`+keyword+`":`) && !wasTried(path, words) {
				t.Errorf("no row tries the %s of %s", keyword, path)
			}
		}
		for name, property := range schema.Properties {
			visit(path+"."+name, property)
		}
		if schema.Items != nil {
			visit(path+"[]", *schema.Items.Schema)
		}
		if schema.AdditionalProperties != nil {
			visit(path+".*", *schema.AdditionalProperties.Schema)
		}
	}
	root := *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	visit("spec", root.Properties["spec"])
	for _, rule := range root.XValidations {
		if !wasTried("<nil>", rule.Message) {
			t.Errorf("no row tries the rule %q", rule.Message)
		}
	}
}
