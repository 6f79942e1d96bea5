package delivery_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
	"kubernaut.ai/notification/test/standin"
)

// pagerDutyOf returns a sender to the stand-in.
func pagerDutyOf(t *testing.T, p *standin.PagerDuty, change ...func(*delivery.PagerDutyConfig)) *delivery.PagerDuty {
	t.Helper()
	c := delivery.PagerDutyConfig{Endpoint: delivery.Endpoint{URL: p.URL}, RoutingKey: standin.PagerDutyKey}
	for _, f := range change {
		f(&c)
	}
	sender, err := delivery.NewPagerDuty(newHTTP(t, loopback...), c)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

func byCorrelation(c *delivery.PagerDutyConfig) { c.ByCorrelation = true }

func TestPagerDutyConforms(t *testing.T) {
	for name, change := range map[string]func(*delivery.PagerDutyConfig){
		"by request": func(*delivery.PagerDutyConfig) {}, "by correlation": byCorrelation,
	} {
		t.Run(name, func(t *testing.T) {
			sendertest.Run(t, sendertest.Harness{
				New: func(t *testing.T) sendertest.Channel {
					pagerDuty := standin.NewPagerDuty(t)
					return sendertest.Channel{
						Sender: pagerDutyOf(t, pagerDuty, change),
						Arrivals: func(*testing.T) (all []sendertest.Arrival) {
							for _, e := range pagerDuty.Events() {
								all = append(all, sendertest.Arrival{Key: e.ID, Content: e.Content})
							}
							return all
						},
					}
				},
				Failing: func(t *testing.T) map[string]delivery.Sender { return failingPagerDuties(t, change) },
				Secrets: []string{plantedRoutingKey},
			})
		})
	}
}

const plantedRoutingKey = "0planted0routing0key0that0leaks0"

// failingPagerDuties are answered with the routing key in every place there is.
func failingPagerDuties(t *testing.T, change func(*delivery.PagerDutyConfig)) map[string]delivery.Sender {
	t.Helper()
	quoting := func(code int) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = io.Copy(w, r.Body)
		}).URL
	}
	listing := func(code int, words string) string {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(map[string]any{
				"status": words + plantedRoutingKey, "message": words + plantedRoutingKey, "dedup_key": plantedRoutingKey,
				"errors": []string{words + plantedRoutingKey, strings.Join(strings.Split(plantedRoutingKey, ""), `\u200b`)},
			})
		}).URL
	}
	all := map[string]delivery.Sender{}
	for name, address := range map[string]string{
		"quotes with 400": quoting(400), "quotes with 403": quoting(403), "quotes with 202": quoting(202), "quotes with 500": quoting(500),
		"lists it": listing(400, "no: "), "lists it as wrong": listing(400, "'routing_key' is "), "lists it with 429": listing(429, ""),
		"nothing listens": "http://127.0.0.1:1", "resets": "http://" + serveRaw(t, answering(reset)).address,
		"no such host": "https://pagerduty.invalid",
	} {
		all[name] = pagerDutyOf(t, &standin.PagerDuty{URL: address + "/v2/enqueue"}, change,
			func(c *delivery.PagerDutyConfig) { c.RoutingKey = plantedRoutingKey })
	}
	return all
}

func TestPagerDutyReceiptIsTheKeyOfTheAlert(t *testing.T) {
	pagerDuty := standin.NewPagerDuty(t)
	m := fixedMessage()
	receipt, err := pagerDutyOf(t, pagerDuty).Send(t.Context(), m)
	if err != nil || receipt.ExternalID != m.Key {
		t.Errorf("external ID %q and %v, want the message's key", receipt.ExternalID, err)
	}
	receipt, err = pagerDutyOf(t, pagerDuty, byCorrelation).Send(t.Context(), m)
	if err != nil || receipt.ExternalID != "payments/incident-42" {
		t.Errorf("external ID %q and %v, want namespace and correlation ID", receipt.ExternalID, err)
	}
	quoting := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"status":"success","dedup_key":"`+standin.PagerDutyKey+`"}`)
	})
	receipt, err = pagerDutyOf(t, &standin.PagerDuty{URL: quoting.URL}).Send(t.Context(), m)
	if err != nil || receipt.ExternalID != "[redacted]" {
		t.Errorf("external ID %q and %v, want no routing key", receipt.ExternalID, err)
	}
}

// sendTypes sends messages of these types, each after a change.
func sendTypes(t *testing.T, sender delivery.Sender, change func(*delivery.Message), types ...string) {
	t.Helper()
	for _, kind := range types {
		m := sendertest.Message()
		m.Type = kind
		change(m)
		if _, err := sender.Send(t.Context(), m); err != nil {
			t.Fatalf("send %s: %v", kind, err)
		}
	}
}

func TestPagerDutyMakesOneAlertOfWhatBelongsTogether(t *testing.T) {
	as := func(*delivery.Message) {}
	elsewhere := func(m *delivery.Message) { m.Namespace = "shop" }
	other := func(m *delivery.Message) { m.CorrelationID = "incident-43" }
	const first = "payments/incident-42"
	for name, c := range map[string]struct {
		send func(t *testing.T, s delivery.Sender)
		want []standin.PagerDutyAlert
	}{
		"all of an incident": {
			func(t *testing.T, s delivery.Sender) {
				t.Helper()
				sendTypes(t, s, as, "Escalation", "StatusUpdate")
			},
			[]standin.PagerDutyAlert{{DedupKey: first, Triggers: 2, Open: true}},
		},
		"its end": {
			func(t *testing.T, s delivery.Sender) {
				t.Helper()
				sendTypes(t, s, as, "Escalation", "Completion")
			},
			[]standin.PagerDutyAlert{{DedupKey: first, Triggers: 1}},
		},
		"an end without a beginning is dropped": {
			func(t *testing.T, s delivery.Sender) { t.Helper(); sendTypes(t, s, as, "Completion") }, nil,
		},
		"what comes after the end is another alert": {
			func(t *testing.T, s delivery.Sender) {
				t.Helper()
				sendTypes(t, s, as, "Escalation", "Completion", "StatusUpdate")
			},
			[]standin.PagerDutyAlert{{DedupKey: first, Triggers: 1}, {DedupKey: first, Triggers: 1, Open: true}},
		},
		"another namespace ends nothing": {
			func(t *testing.T, s delivery.Sender) {
				t.Helper()
				sendTypes(t, s, as, "Escalation")
				sendTypes(t, s, elsewhere, "Completion")
			},
			[]standin.PagerDutyAlert{{DedupKey: first, Triggers: 1, Open: true}},
		},
		"nor does another incident": {
			func(t *testing.T, s delivery.Sender) {
				t.Helper()
				sendTypes(t, s, as, "Escalation")
				sendTypes(t, s, other, "Simple", "Completion")
			},
			[]standin.PagerDutyAlert{{DedupKey: first, Triggers: 1, Open: true}, {DedupKey: "payments/incident-43", Triggers: 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			pagerDuty := standin.NewPagerDuty(t)
			c.send(t, pagerDutyOf(t, pagerDuty, byCorrelation))
			if diff := cmp.Diff(c.want, pagerDuty.Alerts()); diff != "" {
				t.Errorf("alerts, want (-) and got (+):\n%s", diff)
			}
		})
	}
	t.Run("by request each is its own, sent again or not", func(t *testing.T) {
		pagerDuty := standin.NewPagerDuty(t)
		sender := pagerDutyOf(t, pagerDuty)
		again := sendertest.Message()
		sendTypes(t, sender, func(m *delivery.Message) { m.Key = again.Key }, "Escalation", "Escalation")
		other := sendertest.Message()
		sendTypes(t, sender, func(m *delivery.Message) { m.Key = other.Key }, "Completion")
		want := []standin.PagerDutyAlert{{DedupKey: again.Key, Triggers: 2, Open: true}, {DedupKey: other.Key, Triggers: 1, Open: true}}
		if diff := cmp.Diff(want, pagerDuty.Alerts()); diff != "" {
			t.Errorf("alerts, want (-) and got (+):\n%s", diff)
		}
	})
}

func TestPagerDutysAnswersHaveAClass(t *testing.T) {
	badKey := outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "400"}
	badEvent := outcome{Class: delivery.Permanent, Reason: delivery.ReasonBadRequest, Code: "400"}
	const advice = "put the integration key of an Events API v2 integration into the Secret, and check the region"
	for name, c := range map[string]struct {
		status int
		body   string
		want   outcome
		says   string
	}{
		"a short key":         {400, `{"status":"invalid event","message":"Event object is invalid","errors":["Length of 'routing_key' is incorrect (should be 32 characters)"]}`, badKey, advice},
		"a key with a dash":   {400, `{"status":"invalid event","message":"Event object is invalid","errors":["'payload.source' is missing or blank","'routing_key' cannot contain non-alphanumeric characters."]}`, badKey, advice},
		"a key nobody knows":  {400, "Invalid routing key", badKey, advice},
		"the same in JSON":    {400, `{"status":"invalid event","message":"Invalid routing key"}`, badKey, advice},
		"a bad event":         {400, `{"status":"invalid event","message":"Event object is invalid","errors":["'payload.severity' is missing or blank","'payload.source' is missing or blank"]}`, badEvent, "'payload.severity' is missing or blank; 'payload.source' is missing or blank"},
		"no event":            {400, `{"status":"Unrecognized object","message":"Event object format is unrecognized","errors":["JSON parse error"]}`, badEvent, "JSON parse error"},
		"errors of no list":   {400, `{"status":"invalid event","message":"Event object is invalid","errors":"one"}`, badEvent, "Event object is invalid"},
		"400 without a word":  {400, "", badEvent, "answered 400 Bad Request"},
		"too large":           {413, "", outcome{Class: delivery.Permanent, Reason: delivery.ReasonTooLarge, Code: "413"}, "413"},
		"too many":            {429, "", outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429"}, "429"},
		"forbidden":           {403, "", outcome{Class: delivery.Config, Reason: delivery.ReasonForbidden, Code: "403"}, "403"},
		"an error within":     {500, `{"status":"error","message":"Internal error"}`, outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "500", Maybe: true}, "Internal error"},
		"not available":       {503, "routing_key service is down", outcome{Class: delivery.Transient, Reason: delivery.ReasonServerError, Code: "503"}, "503"},
		"a page":              {200, "<html>Sign in to the guest network</html>", outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: "200", Maybe: true}, "is it PagerDuty"},
		"nothing":             {202, "", outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: "202", Maybe: true}, "is it PagerDuty"},
		"no success":          {202, `{"status":"throttled"}`, outcome{Class: delivery.Ambiguous, Reason: delivery.ReasonMalformedAnswer, Code: "202", Maybe: true}, "is it PagerDuty"},
		"success":             {202, `{"status":"success","message":"Event processed","dedup_key":"k"}`, outcome{}, ""},
		"success of 200":      {200, `{"status":"success"}`, outcome{}, ""},
		"success with a word": {202, `{"status":"success","dedup_key":7}`, outcome{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			_, err := pagerDutyOf(t, &standin.PagerDuty{URL: server.URL}).Send(t.Context(), sendertest.Message())
			checkOutcome(t, err, c.want)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
		})
	}
}

func TestPagerDutyThatKnowsAnotherKeyIsAMatterOfConfiguration(t *testing.T) {
	pagerDuty := standin.NewPagerDuty(t)
	pagerDuty.SetKey(plantedRoutingKey)
	_, err := pagerDutyOf(t, pagerDuty).Send(t.Context(), sendertest.Message())
	checkOutcome(t, err, outcome{Class: delivery.Config, Reason: delivery.ReasonUnauthorized, Code: "400"})
}

func TestPagerDutySaysHowLongToWait(t *testing.T) {
	for value, want := range map[string]time.Duration{"60": time.Minute, "": 0} {
		pagerDuty := standin.NewPagerDuty(t)
		pagerDuty.Limit(value)
		sender := pagerDutyOf(t, pagerDuty)
		_, err := sender.Send(t.Context(), sendertest.Message())
		checkOutcome(t, err, outcome{Class: delivery.Transient, Reason: delivery.ReasonRateLimited, Code: "429", RetryAfter: want})
		if _, err := sender.Send(t.Context(), sendertest.Message()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestPagerDutyRefusesAConfigurationThatCannotWork(t *testing.T) {
	const want = "routing key has to be 32 letters and digits: use the integration key of an Events API v2 integration"
	for _, key := range []string{"", "short", standin.PagerDutyKey + "1", strings.Repeat("-", 32), strings.Repeat("\u00e9", 16), standin.PagerDutyKey[1:] + "\n"} {
		_, err := delivery.NewPagerDuty(newHTTP(t), delivery.PagerDutyConfig{RoutingKey: key})
		if e := delivery.Classify(err); e == nil || e.Class != delivery.Config || e.Reason != delivery.ReasonInvalidSecret || e.Message != want {
			t.Errorf("%q: got %v, want %s", key, err, want)
		}
	}
}

func TestPrintedPagerDutyKeepsItsKey(t *testing.T) {
	config := delivery.PagerDutyConfig{RoutingKey: plantedRoutingKey}
	sender, err := delivery.NewPagerDuty(newHTTP(t), config)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v %+v %#v %+v", config, &config, config, sender, sender, *sender); strings.Contains(text, plantedRoutingKey) {
		t.Errorf("shows the routing key: %s", text)
	}
}

func TestPagerDutyPayloadsAreWhatTheyWere(t *testing.T) {
	resolve := fixedMessage()
	resolve.Type, resolve.Subject = "Completion", "Disk of node-7 is free again"
	all := goldenMessages()
	all["resolve"] = resolve
	for name, m := range all {
		t.Run(name, func(t *testing.T) {
			pagerDuty := standin.NewPagerDuty(t)
			sender := pagerDutyOf(t, pagerDuty, func(c *delivery.PagerDutyConfig) {
				if c.ByCorrelation = name == "resolve"; c.ByCorrelation {
					c.Source, c.Component, c.Group, c.Class, c.ClientURL = "prod-1", "disk", "db", "capacity", "https://grafana.example.com/"
				}
			})
			if _, err := sender.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, "pagerduty/"+name, pagerDuty.Events()[0].Content)
		})
	}
}
