package datastorage_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/datastorage/kubeauth"
)

// fakeAuth knows three tokens.
type fakeAuth struct{ asked []string }

func (f *fakeAuth) Authorize(_ context.Context, token, audience, verb, path string) error {
	f.asked = append(f.asked, strings.TrimSpace(verb+" "+path+" "+audience))
	switch token {
	case "good":
		return nil
	case "weak":
		return kubeauth.ErrForbidden
	case "unlucky":
		return errors.New("connection to 10.0.0.1 refused")
	}
	return kubeauth.ErrUnauthenticated
}

func TestAuthentication(t *testing.T) {
	auth := &fakeAuth{}
	c := serve(t, openSQLite(t), auth)
	tests := []struct {
		header string
		code   int
		kind   string
	}{
		{"", 401, "unauthenticated"},
		{"Basic good", 401, "unauthenticated"},
		{"Bearer ", 401, "unauthenticated"},
		{"Bearer bad", 401, "unauthenticated"},
		{"Bearer weak", 403, "forbidden"},
		{"Bearer unlucky", 503, "unavailable"},
	}
	for _, tt := range tests {
		for _, path := range []string{eventsPath, eventsPath + "/" + id(0), exportPath, "/metrics"} {
			a := c.do("GET", path, "", "Authorization", tt.header)
			a.problem(t, tt.code, tt.kind)
			if got := a.header.Get("WWW-Authenticate"); (got == "Bearer") != (tt.code == 401) {
				t.Errorf("%q: WWW-Authenticate is %q", tt.header, got)
			}
		}
		c.post(batchPath, batch(event(0)), "Authorization", tt.header).problem(t, tt.code, tt.kind)
	}
	auth.asked = nil
	c.post(batchPath, batch(event(0)), "Authorization", "Bearer good").want(t, 201)
	c.post(eventsPath, event(1), "Authorization", "bearer good").want(t, 201)
	c.do("GET", eventsPath, "", "Authorization", "Bearer good").want(t, 200)
	c.do("GET", eventsPath+"/"+id(0), "", "Authorization", "Bearer good").want(t, 200)
	c.do("GET", exportPath, "", "Authorization", "Bearer good").want(t, 200)
	c.post(chainPath, `{"correlation_id":"a"}`, "Authorization", "Bearer good").want(t, 200)
	c.do("GET", "/metrics", "", "Authorization", "Bearer good").want(t, 200)
	want := []string{
		"post /audit/events datastorage", "post /audit/events datastorage", "get /audit/events datastorage", "get /audit/events datastorage",
		"get /audit/events datastorage", "get /audit/events datastorage", "get /metrics",
	}
	if diff := cmp.Diff(want, auth.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	for _, path := range []string{"/health", "/livez", "/readyz", "/openapi.yaml"} {
		c.get(path).want(t, 200)
	}
}
