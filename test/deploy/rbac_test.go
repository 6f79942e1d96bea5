package deploy

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/kubeauth"
	"kubernaut.ai/notification/test/testenv"
)

const (
	managerUser     = "system:serviceaccount:" + namespace + ":notification-manager"
	datastorageUser = "system:serviceaccount:" + namespace + ":datastorage"
	auditor         = "notification-audit-reader"
	scraper         = "notification-metrics-reader"
)

// allowed asks the API server as the user. An access is "VERB PATH" or "VERB
// GROUP/RESOURCE[/SUBRESOURCE] [NAMESPACE [NAME]]", the group core for "".
func allowed(t *testing.T, user, access string) bool {
	t.Helper()
	c, err := client.New(testenv.User(t, user), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	words := append(strings.Fields(access), "", "")
	review := &authorizationv1.SelfSubjectAccessReview{}
	if strings.HasPrefix(words[1], "/") {
		review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Verb: words[0], Path: words[1]}
	} else {
		resource := append(strings.Split(words[1], "/"), "")
		review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
			Verb: words[0], Group: strings.TrimPrefix(resource[0], "core"), Resource: resource[1], Subresource: resource[2],
			Namespace: words[2], Name: words[3],
		}
	}
	if err := c.Create(t.Context(), review); err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

func TestManagerMayDoWhatItNeedsAndNoMore(t *testing.T) {
	install(t, administrator(t))
	for _, tc := range []struct {
		want     bool
		accesses []string
	}{
		{true, []string{
			"get notification.kubernaut.ai/notificationrequests team",
			"list notification.kubernaut.ai/notificationrequests",
			"watch notification.kubernaut.ai/notificationrequests",
			"patch notification.kubernaut.ai/notificationrequests team",
			"delete notification.kubernaut.ai/notificationrequests team",
			"patch notification.kubernaut.ai/notificationrequests/status team",
			"get notification.kubernaut.ai/notificationchannels team",
			"list notification.kubernaut.ai/notificationchannels",
			"watch notification.kubernaut.ai/notificationchannels",
			"patch notification.kubernaut.ai/notificationchannels/status team",
			"get notification.kubernaut.ai/notificationroutes team",
			"list notification.kubernaut.ai/notificationroutes",
			"watch notification.kubernaut.ai/notificationroutes",
			"patch notification.kubernaut.ai/notificationroutes/status team",
			"get core/secrets team",
			"list core/secrets",
			"watch core/secrets",
			"create events.k8s.io/events team",
			"patch events.k8s.io/events team",
			"create authentication.k8s.io/tokenreviews",
			"create authorization.k8s.io/subjectaccessreviews",
			"create coordination.k8s.io/leases " + namespace,
			"get coordination.k8s.io/leases " + namespace + " notification.kubernaut.ai",
			"update coordination.k8s.io/leases " + namespace + " notification.kubernaut.ai",
			"create core/events " + namespace,
			"patch core/events " + namespace,
			"create core/configmaps " + namespace,
			"get core/configmaps " + namespace + " notification-audit-witness",
			"update core/configmaps " + namespace + " notification-audit-witness",
			"get apps/deployments " + namespace + " notification-manager",
			"post /audit/events",
			"get /audit/log",
		}},
		{false, []string{
			"create notification.kubernaut.ai/notificationrequests team",
			"update notification.kubernaut.ai/notificationrequests team",
			"deletecollection notification.kubernaut.ai/notificationrequests team",
			"create notification.kubernaut.ai/notificationchannels team",
			"patch notification.kubernaut.ai/notificationchannels team",
			"delete notification.kubernaut.ai/notificationchannels team",
			"create notification.kubernaut.ai/notificationroutes team",
			"patch notification.kubernaut.ai/notificationroutes team",
			"delete notification.kubernaut.ai/notificationroutes team",
			"create core/secrets team",
			"update core/secrets team",
			"patch core/secrets team",
			"delete core/secrets team",
			"list core/pods team",
			"create core/pods team",
			"create core/pods/exec team",
			"get core/configmaps team",
			"create core/configmaps team",
			"get core/configmaps " + namespace + " other",
			"update core/configmaps " + namespace + " other",
			"delete core/configmaps " + namespace + " notification-audit-witness",
			"get apps/deployments " + namespace + " other",
			"patch apps/deployments " + namespace + " notification-manager",
			"create core/serviceaccounts/token " + namespace + " datastorage",
			"update core/nodes",
			"list core/namespaces",
			"create core/events team",
			"create coordination.k8s.io/leases team",
			"get coordination.k8s.io/leases " + namespace + " other",
			"update coordination.k8s.io/leases " + namespace + " other",
			"update apiextensions.k8s.io/customresourcedefinitions",
			"bind rbac.authorization.k8s.io/clusterroles",
			"escalate rbac.authorization.k8s.io/clusterroles",
			"impersonate core/users",
			"get /audit/events",
			"get /metrics",
		}},
	} {
		for _, access := range tc.accesses {
			if got := allowed(t, managerUser, access); got != tc.want {
				t.Errorf("%s: allowed %t, want %t", access, got, tc.want)
			}
		}
	}
}

func TestDataStorageMayOnlyAskAboutTokensAndAccess(t *testing.T) {
	install(t, administrator(t))
	for access, want := range map[string]bool{
		"create authentication.k8s.io/tokenreviews":               true,
		"create authorization.k8s.io/subjectaccessreviews":        true,
		"get core/secrets " + namespace + " datastorage-tls":      false,
		"list notification.kubernaut.ai/notificationrequests":     false,
		"get core/pods " + namespace:                              false,
		"create core/serviceaccounts/token " + namespace + " any": false,
		"post /audit/events":                                      false,
		"get /audit/events":                                       false,
		"get /audit/log":                                          false,
	} {
		if got := allowed(t, datastorageUser, access); got != want {
			t.Errorf("%s: allowed %t, want %t", access, got, want)
		}
	}
}

// bind gives a user of the role's name the ClusterRole until the test's end.
func bind(t *testing.T, c client.Client, role string) {
	t.Helper()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test-" + role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: role}},
	}
	if err := c.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.WithoutCancel(t.Context()), binding); err != nil {
			t.Error(err)
		}
	})
}

// asked keeps what DataStorage wants of a caller, and refuses it.
type asked struct{ audience, access string }

func (a *asked) Authorize(_ context.Context, _, audience, verb, path string) error {
	a.audience, a.access = audience, verb+" "+path
	return kubeauth.ErrForbidden
}

func TestDataStorageIsOpenToItsRolesAlone(t *testing.T) {
	c := administrator(t)
	install(t, c)
	bind(t, c, auditor)
	bind(t, c, scraper)
	auth := &asked{}
	api := datastorage.NewAPI(nil, auth, logr.Discard())
	for request, want := range map[string][]string{
		"POST /api/v1/audit/events/batch":                               {managerUser},
		"POST /api/v1/audit/events":                                     {managerUser},
		"GET /api/v1/audit/events":                                      {auditor},
		"GET /api/v1/audit/events/11111111-1111-1111-1111-111111111111": {auditor},
		"GET /api/v1/audit/log/checkpoint":                              {auditor, managerUser},
		"GET /api/v1/audit/log/key":                                     {auditor, managerUser},
		"GET /api/v1/audit/log/proof/consistency?from=1":                {auditor, managerUser},
		"GET /metrics":                                                  {scraper},
	} {
		method, path, _ := strings.Cut(request, " ")
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		r.Header.Set("Authorization", "Bearer token")
		*auth = asked{}
		api.ServeHTTP(httptest.NewRecorder(), r)
		if auth.access == "" {
			t.Errorf("%s: nobody is asked", request)
			continue
		}
		// Prometheus cannot get itself a token for another audience than the cluster's.
		if audience := map[bool]string{true: "", false: "datastorage"}[want[0] == scraper]; auth.audience != audience {
			t.Errorf("%s: the audience is %q, want %q", request, auth.audience, audience)
		}
		for _, user := range []string{managerUser, datastorageUser, auditor, scraper, "somebody", "system:serviceaccount:team:default"} {
			if got := allowed(t, user, auth.access); got != slices.Contains(want, user) {
				t.Errorf("%s, which is %q: %s is allowed %t", request, auth.access, user, got)
			}
		}
	}
}

func TestRolesHaveNoWildcardAndNoWayUp(t *testing.T) {
	for name, kustomization := range kustomizations(t) {
		for _, u := range overlay(t, kustomization) {
			var rules []rbacv1.PolicyRule
			switch u.GetKind() {
			case "ClusterRole":
				rules = into[rbacv1.ClusterRole](t, u).Rules
			case "Role":
				rules = into[rbacv1.Role](t, u).Rules
			default:
				continue
			}
			for _, rule := range rules {
				for _, word := range slices.Concat(rule.Verbs, rule.APIGroups, rule.Resources, rule.ResourceNames, rule.NonResourceURLs) {
					if strings.Contains(word, "*") || slices.Contains([]string{"bind", "escalate", "impersonate"}, word) {
						t.Errorf("%s: %s %s has %q", name, u.GetKind(), u.GetName(), word)
					}
				}
				if slices.Contains(rule.Resources, "secrets") {
					for _, verb := range rule.Verbs {
						if !slices.Contains([]string{"get", "list", "watch"}, verb) {
							t.Errorf("%s: %s %s may %s Secrets", name, u.GetKind(), u.GetName(), verb)
						}
					}
				}
			}
		}
	}
}

func TestUsersMayNotWriteStatusAndEditorsNeitherChannelsNorRoutes(t *testing.T) {
	c := administrator(t)
	install(t, c)
	users := []string{"notification-viewer", "notification-editor", "notification-admin"}
	for _, user := range users {
		bind(t, c, user)
	}
	for access, want := range map[string][3]bool{
		"get notification.kubernaut.ai/notificationrequests team":          {true, true, true},
		"create notification.kubernaut.ai/notificationrequests team":       {false, true, true},
		"patch notification.kubernaut.ai/notificationrequests team":        {false, true, true},
		"patch notification.kubernaut.ai/notificationrequests/status team": {false, false, false},
		"get notification.kubernaut.ai/notificationchannels team":          {true, true, true},
		"create notification.kubernaut.ai/notificationchannels team":       {false, false, true},
		"patch notification.kubernaut.ai/notificationchannels team":        {false, false, true},
		"patch notification.kubernaut.ai/notificationchannels/status team": {false, false, false},
		"get notification.kubernaut.ai/notificationroutes team":            {true, true, true},
		"create notification.kubernaut.ai/notificationroutes team":         {false, false, true},
		"patch notification.kubernaut.ai/notificationroutes team":          {false, false, true},
		"patch notification.kubernaut.ai/notificationroutes/status team":   {false, false, false},
		"get core/secrets team": {false, false, false},
	} {
		for i, user := range users {
			if got := allowed(t, user, access); got != want[i] {
				t.Errorf("%s: %s is allowed %t, want %t", access, user, got, want[i])
			}
		}
	}
}
