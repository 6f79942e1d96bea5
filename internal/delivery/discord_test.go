package delivery_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
	"kubernaut.ai/notification/test/standin"
)

func discordAt(t *testing.T, c delivery.DiscordConfig) *delivery.Discord {
	t.Helper()
	sender, err := delivery.NewDiscord(newHTTP(t, loopback...), c)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

func discordOf(t *testing.T, address string) *delivery.Discord {
	t.Helper()
	return discordAt(t, delivery.DiscordConfig{Endpoint: delivery.Endpoint{URL: address}})
}

func TestDiscordConforms(t *testing.T) {
	sendertest.Run(t, sendertest.Harness{
		New: func(t *testing.T) sendertest.Channel {
			discord := standin.NewDiscord(t)
			return sendertest.Channel{
				Sender: discordOf(t, discord.URL),
				Arrivals: func(t *testing.T) (all []sendertest.Arrival) {
					for _, m := range discord.Messages() {
						if len(m.Mentions) > 0 {
							t.Errorf("mentions: %q", m.Mentions)
						}
						all = append(all, sendertest.Arrival{Key: m.Key, Content: m.Content})
					}
					return all
				},
			}
		},
		Failing: failingDiscords,
		Secrets: []string{"planted-discord-token", "223704706495545344"},
	})
}

func failingDiscords(t *testing.T) map[string]delivery.Sender {
	t.Helper()
	quoting := func(code int) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "no: "+r.URL.Path)
		}).URL
	}
	inJSON := func(answer func(path string) any) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(answer(r.URL.Path))
		}).URL
	}
	all := map[string]delivery.Sender{}
	for name, address := range map[string]string{
		"quotes with 400": quoting(400), "quotes with 403": quoting(403), "quotes with 200": quoting(200),
		"quotes in its message": inJSON(func(path string) any { return map[string]any{"code": 50109, "message": path} }),
		"quotes in its errors": inJSON(func(path string) any {
			return map[string]any{"code": 50035, "errors": map[string]any{path: map[string]any{"_errors": []any{map[string]any{"message": path}}}}}
		}),
		"nothing listens": "http://127.0.0.1:1", "resets": "http://" + serveRaw(t, answering(reset)).address,
		"no such host": "https://discord.invalid",
	} {
		all[name] = discordOf(t, address+"/api/webhooks/223704706495545344/planted-discord-token")
	}
	return all
}

func TestDiscordReceiptIsTheChannelAndTheMessage(t *testing.T) {
	discord := standin.NewDiscord(t)
	for thread, want := range map[string]string{"": standin.DiscordChannel, standin.DiscordThread: standin.DiscordThread} {
		sender := discordAt(t, delivery.DiscordConfig{Endpoint: delivery.Endpoint{URL: discord.URL}, ThreadID: thread, Username: "On call"})
		receipt, err := sender.Send(t.Context(), sendertest.Message())
		if err != nil {
			t.Fatal(err)
		}
		got := discord.Messages()
		want += "/" + strconv.Itoa(1200000000000000000+len(got))
		if last := got[len(got)-1]; receipt.ExternalID != want || last.Username != "On call" {
			t.Errorf("external ID %s, want %s; name %q", receipt.ExternalID, want, last.Username)
		}
	}
}

// discordErrors are all codes that can come of a message through a webhook, by what
// has to become of them.
var discordErrors = map[outcome][]int{
	{Class: delivery.Config, Reason: delivery.ReasonUnauthorized}:   {40001, 50014, 50027},
	{Class: delivery.Config, Reason: delivery.ReasonForbidden}:      {40007, 40333, 50001, 50013, 50095, 160005},
	{Class: delivery.Config, Reason: delivery.ReasonNotFound}:       {10003, 10004, 10015, 10016},
	{Class: delivery.Config, Reason: delivery.ReasonGone}:           {50083},
	{Class: delivery.Config, Reason: delivery.ReasonUnprocessable}:  {40058, 50008, 50024, 50068, 220001, 220003, 220004},
	{Class: delivery.Transient, Reason: delivery.ReasonRateLimited}: {20016, 20028, 20029, 40062},
	{Class: delivery.Transient, Reason: delivery.ReasonServerError}: {40004, 40006, 130000},
	{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge}:    {40005},
	{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest}:  {50006, 50035, 50109, 1234567},
	{Class: delivery.Permanent, Reason: delivery.ReasonRejected}:    {20009, 200000, 200001, 240000},
}

func TestEveryCodeOfDiscordHasAClassAndSaysWhatToDo(t *testing.T) {
	discord := standin.NewDiscord(t)
	for want, codes := range discordErrors {
		for _, code := range codes {
			want.Code = strconv.Itoa(code)
			discord.Refuse(code)
			_, err := discordOf(t, discord.URL).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, want)
			if want.Class == delivery.Config && !strings.Contains(err.Error(), " answered "+want.Code+": ") {
				t.Errorf("%d: %q does not say what to do", code, err)
			}
		}
	}
	if got := discord.Messages(); len(got) != 0 {
		t.Errorf("%d messages arrived", len(got))
	}
}

func TestDiscordSaysHowLongToWait(t *testing.T) {
	for seconds, want := range map[float64]time.Duration{64.57: 64570 * time.Millisecond, 0.0312: 32 * time.Millisecond, 1e12: 24 * time.Hour} {
		discord := standin.NewDiscord(t)
		discord.Limit(seconds)
		sender := discordOf(t, discord.URL)
		_, err := sender.Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429", RetryAfter: want})
		if _, err := sender.Send(t.Context(), sendertest.Message()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestWhatDiscordRefusesIsNamed(t *testing.T) {
	discord := standin.NewDiscord(t)
	host := strings.TrimPrefix(strings.Split(discord.URL, "/api")[0], "http://")
	for name, c := range map[string]struct {
		config delivery.DiscordConfig
		want   string
	}{
		"a name":    {delivery.DiscordConfig{Username: "My Discord"}, host + ` answered 50035: username: Username cannot contain "discord"`},
		"a thread":  {delivery.DiscordConfig{ThreadID: "1"}, host + " answered 10003: there is no such channel or thread: correct threadID, or create a new webhook"},
		"a token":   {delivery.DiscordConfig{Endpoint: delivery.Endpoint{URL: discord.URL[:len(discord.URL)-4]}}, host + " answered 50027: the token in the URL is wrong: put the webhook's whole URL into the Secret"},
		"a webhook": {delivery.DiscordConfig{Endpoint: delivery.Endpoint{URL: strings.Replace(discord.URL, "2237", "2238", 1)}}, host + " answered 10015: the webhook is no more: create a new one and put its URL into the Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.config.URL == "" {
				c.config.URL = discord.URL
			}
			_, err := discordAt(t, c.config).Send(t.Context(), sendertest.Message())
			if e := delivery.Classify(err); e == nil || e.Class != delivery.Config || e.Message != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestWhatIsNotDiscordsMessageIsNoSuccess(t *testing.T) {
	malformed := func(code string) outcome {
		return outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: code, Maybe: true}
	}
	for name, c := range map[string]struct {
		status int
		body   string
		want   outcome
	}{
		"a message":                {200, `{"id":"2","channel_id":"1"}`, outcome{}},
		"no message":               {204, "", malformed("204")},
		"a message without an ID":  {200, `{"channel_id":"1"}`, malformed("200")},
		"an ID that is none":       {200, `{"id":"<b>","channel_id":"1"}`, malformed("200")},
		"a page":                   {200, "<html>Sign in to the guest network</html>", malformed("200")},
		"null":                     {200, "null", malformed("200")},
		"a status without a code":  {404, "404 page not found", outcome{Class: delivery.Permanent, Reason: delivery.ReasonNotFound, Code: "404"}},
		"a status with the code 0": {401, `{"message":"401: Unauthorized","code":0}`, outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "401"}},
		"a code that is negative":  {400, `{"code":-1}`, outcome{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest, Code: "400"}},
		"a server's error":         {502, "", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "502", Maybe: true}},
		"a ban":                    {429, "error code: 1015", outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			_, err := discordOf(t, server.URL).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
		})
	}
	t.Run("a connection that breaks", func(t *testing.T) {
		raw := serveRaw(t, answering(func(conn *net.TCPConn) { reset(conn) }))
		_, err := discordOf(t, "http://"+raw.address).Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonNoAnswer, Maybe: true})
	})
}

func TestDiscordRefusesAURLForMessagesOfOthers(t *testing.T) {
	for _, path := range []string{"/slack", "/github"} {
		_, err := delivery.NewDiscord(newHTTP(t), delivery.DiscordConfig{Endpoint: delivery.Endpoint{URL: "https://discord.com/api/webhooks/1/x" + path}})
		if e := delivery.Classify(err); e == nil || e.Class != delivery.Config || e.Message != "url is for messages of Slack or GitHub: take its last part away" {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestDiscordPayloadsAreWhatTheyWere(t *testing.T) {
	for name, m := range goldenMessages() {
		t.Run(name, func(t *testing.T) {
			discord := standin.NewDiscord(t)
			if _, err := discordOf(t, discord.URL).Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if got := discord.Messages()[0].Mentions; len(got) > 0 {
				t.Errorf("mentions: %q", got)
			}
			checkGolden(t, "discord/"+name, discord.Messages()[0].Content)
		})
	}
}
