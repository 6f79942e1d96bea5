package delivery_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
	"kubernaut.ai/notification/test/standin"
)

func teamsOf(t *testing.T, address string) *delivery.Teams {
	t.Helper()
	sender, err := delivery.NewTeams(newHTTP(t, loopback...), delivery.TeamsConfig{Endpoint: delivery.Endpoint{URL: address}})
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

func TestTeamsConforms(t *testing.T) {
	sendertest.Run(t, sendertest.Harness{
		New: func(t *testing.T) sendertest.Channel {
			teams := standin.NewTeams(t)
			return sendertest.Channel{
				Sender: teamsOf(t, teams.URL),
				Arrivals: func(t *testing.T) (all []sendertest.Arrival) {
					for _, m := range teams.Messages() {
						if len(m.Mentions) > 0 {
							t.Errorf("markup is left: %q", m.Mentions)
						}
						all = append(all, sendertest.Arrival{Key: m.Key, Content: m.Content})
					}
					return all
				},
			}
		},
		Failing: failingTeams,
		Secrets: []string{"6d922addb840a60a611b4d3287be6d76", "PlantedSignature42"},
	})
}

func failingTeams(t *testing.T) map[string]delivery.Sender {
	t.Helper()
	quoting := func(code int) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "no: "+r.URL.String())
		}).URL
	}
	inJSON := func(word string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": word, "message": "no: " + r.URL.String()}})
		}).URL
	}
	all := map[string]delivery.Sender{}
	for name, address := range map[string]string{
		"quotes with 400": quoting(400), "quotes with 404": quoting(404), "quotes with 200": quoting(200),
		"quotes in JSON": inJSON("InvalidRequestContent"), "quotes as its word": inJSON("PlantedSignature42"),
		"nothing listens": "http://127.0.0.1:1", "resets": "http://" + serveRaw(t, answering(reset)).address,
		"no such host": "https://teams.invalid",
	} {
		all[name] = teamsOf(t, address+"/workflows/6d922addb840a60a611b4d3287be6d76/triggers/manual/paths/invoke?sv=1.0&sig=PlantedSignature42")
	}
	return all
}

func TestTeamsReceiptIsTheRunOfTheWorkflow(t *testing.T) {
	teams := standin.NewTeams(t)
	receipt, err := teamsOf(t, teams.URL).Send(t.Context(), sendertest.Message())
	if want := "08584661236364846013464561000001CU16"; err != nil || receipt.ExternalID != want {
		t.Errorf("external ID %q, want %s; %v", receipt.ExternalID, want, err)
	}
}

// teamsWords are all that the service is known to say, by what has to become of them.
var teamsWords = map[outcome][]string{
	{Class: delivery.Config, Reason: delivery.ReasonUnauthorized}: {
		"DirectApiAuthorizationRequired", "DirectApiInvalidAuthorizationScheme", "DirectApiRequestHasMoreThanOneAuthorization", "MisMatchingOAuthClaims",
	},
	{Class: delivery.Config, Reason: delivery.ReasonNotFound}:                    {"WorkflowNotFound", "WorkflowTriggerNotFound", "WorkflowTriggerVersionNotFound"},
	{Class: delivery.Config, Reason: delivery.ReasonGone}:                        {"WorkflowTriggerIsNotEnabled"},
	{Class: delivery.Config, Reason: delivery.ReasonUnprocessable}:               {"TriggerInputSchemaMismatch"},
	{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest}:               {"InvalidRequestContent", "SomethingNew"},
	{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge}:                 {"RequestEntityTooLarge"},
	{Class: delivery.Transient, Reason: delivery.ReasonServerError, Maybe: true}: {"ServerTimeout"},
}

func TestEveryWordOfTeamsHasAClassAndSaysWhatToDo(t *testing.T) {
	teams := standin.NewTeams(t)
	for want, words := range teamsWords {
		for _, word := range words {
			want.Code = word
			teams.Refuse(word)
			_, err := teamsOf(t, teams.URL).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, want)
			if want.Class == delivery.Config && !strings.Contains(err.Error(), " answered "+word+": ") {
				t.Errorf("%s: %q does not say what to do", word, err)
			}
		}
	}
	if got := teams.Messages(); len(got) != 0 {
		t.Errorf("%d messages arrived", len(got))
	}
}

func TestTeamsRefusesAWrongAddress(t *testing.T) {
	teams := standin.NewTeams(t)
	for name, c := range map[string]struct {
		url  string
		want outcome
	}{
		"without its signature": {strings.Split(teams.URL, "&sig=")[0], outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "DirectApiAuthorizationRequired"}},
		"of no workflow":        {strings.Replace(teams.URL, "6d922add", "6d922ade", 1), outcome{Class: delivery.Config, Reason: delivery.ReasonNotFound, Code: "WorkflowNotFound"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := teamsOf(t, c.url).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
		})
	}
}

func TestTeamsSaysHowLongToWait(t *testing.T) {
	at := time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat)
	for value, want := range map[string]time.Duration{"30": 30 * time.Second, "": 0, at: 2 * time.Hour} {
		teams := standin.NewTeams(t)
		teams.Limit(value)
		sender := teamsOf(t, teams.URL)
		_, err := sender.Send(t.Context(), sendertest.Message())
		got := outcomeOf(err)
		if late := want - got.RetryAfter; late < 0 || late > time.Minute {
			t.Errorf("%q: retry after %s", value, got.RetryAfter)
		}
		if want := (outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "TooManyRequests", RetryAfter: got.RetryAfter}); got != want {
			t.Errorf("%q: got %+v", value, got)
		}
		if _, err := sender.Send(t.Context(), sendertest.Message()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestWhatIsNotAWorkflowsRunIsNoSuccess(t *testing.T) {
	malformed := outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: "200", Maybe: true}
	for name, c := range map[string]struct {
		status int
		run    string
		body   string
		want   outcome
		id     string
	}{
		"a run":                              {status: 202, run: "0858", id: "0858"},
		"taken, without a run":               {status: 202},
		"a workflow that answers by itself":  {status: 200, run: "0858", body: "thank you", id: "0858"},
		"a page":                             {status: 200, body: "<html>Sign in to the guest network</html>", want: malformed},
		"a connector that failed":            {status: 200, body: "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429", want: malformed},
		"a connector":                        {status: 200, body: "1", want: malformed},
		"a status without a word":            {status: 404, body: "404 page not found", want: outcome{Class: delivery.Config, Reason: delivery.ReasonNotFound, Code: "404"}},
		"a status that says gone":            {status: 410, want: outcome{Class: delivery.Config, Reason: delivery.ReasonNotFound, Code: "410"}},
		"a word that is none":                {status: 400, body: `{"error":{"code":"<b>no</b>"}}`, want: outcome{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest, Code: "400"}},
		"a server's error":                   {status: 503, want: outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "503"}},
		"an error of whoever stands between": {status: 502, run: "0858", want: outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "502", Maybe: true}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.run != "" {
					w.Header().Set("x-ms-workflow-run-id", c.run)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			receipt, err := teamsOf(t, server.URL).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
			if receipt.ExternalID != c.id {
				t.Errorf("external ID %q, want %q", receipt.ExternalID, c.id)
			}
		})
	}
	t.Run("a connection that breaks", func(t *testing.T) {
		raw := serveRaw(t, answering(func(conn *net.TCPConn) { reset(conn) }))
		_, err := teamsOf(t, "http://"+raw.address).Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonNoAnswer, Maybe: true})
	})
}

func TestTeamsRefusesRetiredConnectors(t *testing.T) {
	for _, address := range []string{
		"https://contoso.webhook.office.com/webhookb2/1/IncomingWebhook/2/3", "https://WEBHOOK.office.com/x",
		"https://outlook.office.com/webhook/1/IncomingWebhook/2/3", "https://outlook.office365.com/webhook/1",
	} {
		_, err := delivery.NewTeams(newHTTP(t), delivery.TeamsConfig{Endpoint: delivery.Endpoint{URL: address}})
		if e := delivery.Classify(err); e == nil || e.Class != delivery.Config || e.Message != "url is of an Office 365 connector, which Microsoft has retired: use that of a workflow" {
			t.Errorf("%s: got %v", address, err)
		}
	}
}

func TestTeamsPayloadsAreWhatTheyWere(t *testing.T) {
	for name, m := range goldenMessages() {
		t.Run(name, func(t *testing.T) {
			teams := standin.NewTeams(t)
			if _, err := teamsOf(t, teams.URL).Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if got := teams.Messages()[0].Mentions; len(got) > 0 {
				t.Errorf("markup is left: %q", got)
			}
			checkGolden(t, "teams/"+name, teams.Messages()[0].Content)
		})
	}
}
