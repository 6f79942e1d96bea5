package controller

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/test/standin"
)

// planted is what no error may repeat.
const planted = "hunter2-very-secret"

func testScheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return scheme
}

// newChannels returns Channels over a cluster that holds these objects.
func newChannels(t testing.TB, objects ...client.Object) (*Channels, client.Client) {
	t.Helper()
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).
		WithStatusSubresource(&v1alpha1.NotificationChannel{}).Build()
	return &Channels{
		Reader: c, Secrets: c, FileRoot: t.TempDir(),
		HTTP: delivery.NewHTTP(delivery.HTTPOptions{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}),
	}, c
}

func newChannel(change ...func(*v1alpha1.NotificationChannel)) *v1alpha1.NotificationChannel {
	object := &v1alpha1.NotificationChannel{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: ops, UID: "c-1", Generation: 1},
		Spec: v1alpha1.NotificationChannelSpec{
			Type: v1alpha1.ChannelWebhook, Timeout: "10s",
			Webhook: &v1alpha1.WebhookChannel{URL: "https://receiver.example/hook"},
		},
	}
	for _, c := range change {
		c(object)
	}
	return object
}

func newSecret(name string, data map[string]string) *corev1.Secret {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string][]byte{}}
	for key, value := range data {
		secret.Data[key] = []byte(value)
	}
	return secret
}

func secretRef(name, key string) v1alpha1.SecretKeyRef {
	return v1alpha1.SecretKeyRef{Name: name, Key: key}
}

// asSlack makes a channel one to Slack, by a webhook.
func asSlack(c *v1alpha1.NotificationChannel) {
	c.Spec.Type, c.Spec.Webhook = v1alpha1.ChannelSlack, nil
	c.Spec.Slack = &v1alpha1.SlackChannel{WebhookURLSecretRef: secretRef("slack", "url")}
}

// asEmail makes a channel one by mail, with a password.
func asEmail(c *v1alpha1.NotificationChannel) {
	c.Spec.Type, c.Spec.Webhook = v1alpha1.ChannelEmail, nil
	c.Spec.Email = v1alpha1.EmailChannel{
		Host: "mail.example.com", Port: 587, Encryption: v1alpha1.EmailStartTLS,
		From: "robot@example.com", To: []v1alpha1.EmailAddress{"ops@example.com"}, CC: []v1alpha1.EmailAddress{"archive@example.com"}, ReplyTo: "help@example.com",
		Auth: v1alpha1.EmailAuth{Mechanism: v1alpha1.EmailPlain, Username: "robot", PasswordSecretRef: secretRef("mail", "password")},
	}
}

// asSlackBot makes it one by a bot.
func asSlackBot(c *v1alpha1.NotificationChannel) {
	asSlack(c)
	c.Spec.Slack = &v1alpha1.SlackChannel{BotTokenSecretRef: secretRef("slack", "token"), Channel: "#alerts"}
}

// asDiscord makes a channel one to Discord.
func asDiscord(c *v1alpha1.NotificationChannel) {
	c.Spec.Type, c.Spec.Webhook = v1alpha1.ChannelDiscord, nil
	c.Spec.Discord = v1alpha1.DiscordChannel{WebhookURLSecretRef: secretRef("discord", "url"), ThreadID: standin.DiscordThread, Username: "On call"}
}

// asTeams makes a channel one to a workflow of Teams.
func asTeams(c *v1alpha1.NotificationChannel) {
	c.Spec.Type, c.Spec.Webhook = v1alpha1.ChannelTeams, nil
	c.Spec.Teams = v1alpha1.TeamsChannel{WebhookURLSecretRef: secretRef("teams", "url")}
}

// asPagerDuty makes it one to PagerDuty.
func asPagerDuty(c *v1alpha1.NotificationChannel) {
	c.Spec.Type, c.Spec.Webhook = v1alpha1.ChannelPagerDuty, nil
	c.Spec.PagerDuty = v1alpha1.PagerDutyChannel{RoutingKeySecretRef: secretRef("pagerduty", "key")}
}

func TestLookup(t *testing.T) {
	asFile := func(c *v1alpha1.NotificationChannel) {
		c.Spec.Type, c.Spec.Webhook, c.Spec.File = v1alpha1.ChannelFile, nil, v1alpha1.FileChannel{Directory: "team-a"}
	}
	inNamespace := func(allowed ...v1alpha1.NamespaceName) func(*v1alpha1.NotificationChannel) {
		return func(c *v1alpha1.NotificationChannel) {
			c.Namespace, c.Spec.AllowedNamespaces = "platform", allowed
		}
	}
	suspended := func(c *v1alpha1.NotificationChannel) { c.Spec.Suspend = new(true) }
	needsSecret := func(c *v1alpha1.NotificationChannel) {
		c.Spec.Webhook.URL, c.Spec.Webhook.URLSecretRef = "", secretRef("hook", "url")
	}
	for name, c := range map[string]struct {
		channel    *v1alpha1.NotificationChannel
		namespace  string
		kind       v1alpha1.ChannelType
		idempotent bool
		reason     string
		message    string
	}{
		"webhook":               {channel: newChannel(), kind: v1alpha1.ChannelWebhook},
		"idempotent webhook":    {channel: newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.Idempotent = new(true) }), kind: v1alpha1.ChannelWebhook, idempotent: true},
		"webhook that is not":   {channel: newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.Idempotent = new(false) }), kind: v1alpha1.ChannelWebhook},
		"file":                  {channel: newChannel(asFile), kind: v1alpha1.ChannelFile, idempotent: true},
		"slack":                 {channel: newChannel(asSlack), kind: v1alpha1.ChannelSlack, reason: "SecretNotFound", message: "the channel shop/ops needs the Secret slack, which does not exist: create it"},
		"teams":                 {channel: newChannel(asTeams), kind: v1alpha1.ChannelTeams, reason: "SecretNotFound", message: "the channel shop/ops needs the Secret teams, which does not exist: create it"},
		"discord":               {channel: newChannel(asDiscord), kind: v1alpha1.ChannelDiscord, reason: "SecretNotFound", message: "the channel shop/ops needs the Secret discord, which does not exist: create it"},
		"pagerduty":             {channel: newChannel(asPagerDuty), kind: v1alpha1.ChannelPagerDuty, idempotent: true, reason: "SecretNotFound", message: "the channel shop/ops needs the Secret pagerduty, which does not exist: create it"},
		"email":                 {channel: newChannel(asEmail), kind: v1alpha1.ChannelEmail, reason: "SecretNotFound", message: "the channel shop/ops needs the Secret mail, which does not exist: create it"},
		"missing":               {reason: "ChannelNotFound", message: "there is no NotificationChannel shop/ops: create it"},
		"not in that namespace": {channel: newChannel(), namespace: "platform", reason: "ChannelNotFound", message: "there is no NotificationChannel platform/ops: create it"},
		"not allowed": {
			channel: newChannel(inNamespace("warehouse")), namespace: "platform", kind: v1alpha1.ChannelWebhook, reason: "NamespaceNotAllowed",
			message: "the channel platform/ops does not allow requests of namespace shop: add it to the channel's allowedNamespaces",
		},
		"not allowed, whatever else is wrong": {
			channel: newChannel(inNamespace(), suspended, needsSecret), namespace: "platform", kind: v1alpha1.ChannelWebhook, reason: "NamespaceNotAllowed",
			message: "the channel platform/ops does not allow requests of namespace shop: add it to the channel's allowedNamespaces",
		},
		"allowed":            {channel: newChannel(inNamespace("warehouse", "shop")), namespace: "platform", kind: v1alpha1.ChannelWebhook},
		"allowed to all":     {channel: newChannel(inNamespace("*")), namespace: "platform", kind: v1alpha1.ChannelWebhook},
		"own namespace":      {channel: newChannel(), namespace: "shop", kind: v1alpha1.ChannelWebhook},
		"suspended":          {channel: newChannel(suspended), kind: v1alpha1.ChannelWebhook, reason: "ChannelSuspended", message: "the channel shop/ops is suspended: set its suspend to false"},
		"without its Secret": {channel: newChannel(needsSecret), kind: v1alpha1.ChannelWebhook, reason: "SecretNotFound", message: "the channel shop/ops needs the Secret hook, which does not exist: create it"},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []client.Object
			if c.channel != nil {
				objects = append(objects, c.channel)
			}
			channels, _ := newChannels(t, objects...)
			nr := newRequest()
			nr.Spec.Channels[0].Namespace = c.namespace
			known, found := channels.lookup(t.Context(), nr)
			got := known[ops]
			equal(t, "type", got.kind, c.kind)
			equal(t, "idempotent", got.idempotent, c.idempotent)
			equal(t, "reason", got.blocked.Reason, c.reason)
			equal(t, "message", got.blocked.Message, c.message)
			equal(t, "found", found[ops] != nil, c.kind != "")
			if c.reason != "" {
				equal(t, "class", got.blocked.Class, v1alpha1.ErrorConfig)
			} else {
				equal(t, "timeout", got.timeout, 10*time.Second)
			}
		})
	}
}

func TestConsoleNeedsNoObject(t *testing.T) {
	channels, _ := newChannels(t)
	channels.Console = senderFunc(func(context.Context, *delivery.Message) (delivery.Receipt, error) {
		return delivery.Receipt{ExternalID: "7"}, nil
	})
	known, objects := channels.lookup(t.Context(), newRequest(withChannels()))
	equal(t, "type", known["console"].kind, v1alpha1.ChannelConsole)
	equal(t, "idempotent", known["console"].idempotent, true)
	equal(t, "timeout", known["console"].timeout, 10*time.Second)
	equal(t, "blocked", known["console"].blocked.Reason, "")
	sender, err := channels.sender(t.Context(), objects["console"])
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := sender.Send(t.Context(), nil)
	equal(t, "receipt", receipt.ExternalID, "7")
	equal(t, "error", err, nil)
}

func TestUnreadableChannelBlocksNoOther(t *testing.T) {
	withSecret := func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.SigningSecretRef = secretRef("locked", "key") }
	channels, c := newChannels(t, newChannel(),
		newChannel(func(c *v1alpha1.NotificationChannel) { c.Name = "far" }),
		newChannel(func(c *v1alpha1.NotificationChannel) { c.Name = "locked" }, withSecret))
	channels.Reader = interceptor.NewClient(c.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
			if key.Name == "far" || key.Name == "locked" && object.GetObjectKind().GroupVersionKind().Kind == "Secret" {
				return errors.New("the cache knows no such namespace")
			}
			return c.Get(ctx, key, object, opts...)
		},
	})
	nr := newRequest(withChannels("far", "locked", ops))
	known, _ := channels.lookup(t.Context(), nr)
	for _, name := range []string{"far", "locked"} {
		equal(t, name, known[name].blocked.Reason, "ChannelUnreadable")
		equal(t, name, known[name].blocked.Class, v1alpha1.ErrorTransient)
	}
	equal(t, "the other", known[ops].blocked.Reason, "")

	l := newLab(t, withChannels("far", "locked", ops))
	l.channels = known
	d := l.plan()
	equal(t, "due", d.due, []string{ops})
	equal(t, "looked at again", d.wait, recheck)
}

func TestRevisionIsThatOfTheConfiguration(t *testing.T) {
	object := newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.SigningSecretRef = secretRef("key", "key") })
	for name, c := range map[string]struct {
		change func(context.Context, client.Client) error
		same   bool
	}{
		"nothing": {func(context.Context, client.Client) error { return nil }, true},
		"the Secret's content": {func(ctx context.Context, c client.Client) error {
			return c.Update(ctx, newSecret("key", map[string]string{"key": "other"}))
		}, false},
		"the Secret is gone": {func(ctx context.Context, c client.Client) error {
			return c.Delete(ctx, newSecret("key", nil))
		}, false},
		"another Secret": {func(ctx context.Context, c client.Client) error {
			return c.Create(ctx, newSecret("unrelated", nil))
		}, true},
		"the channel's spec": {func(ctx context.Context, c client.Client) error {
			changed := newChannel()
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), changed); err != nil {
				return err
			}
			changed.Generation++
			return c.Update(ctx, changed)
		}, false},
		"another channel of the name": {func(ctx context.Context, c client.Client) error {
			changed := newChannel()
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), changed); err != nil {
				return err
			}
			changed.UID = "c-2"
			return c.Update(ctx, changed)
		}, false},
		"the channel's status and labels": {func(ctx context.Context, c client.Client) error {
			changed := newChannel()
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), changed); err != nil {
				return err
			}
			changed.Labels = map[string]string{"team": "a"}
			if err := c.Update(ctx, changed); err != nil {
				return err
			}
			changed.Status.LastSuccessTime = new(metav1.NewTime(born))
			return c.Status().Update(ctx, changed)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			channels, cluster := newChannels(t, object.DeepCopy(), newSecret("key", map[string]string{"key": "one"}))
			revision := func() string {
				t.Helper()
				known, _ := channels.lookup(t.Context(), newRequest())
				config := known[ops].config
				if len(config) == 0 || len(config) > 64 {
					t.Fatalf("revision %q does not fit into heldConfig", config)
				}
				return config
			}
			before := revision()
			if err := c.change(t.Context(), cluster); err != nil {
				t.Fatal(err)
			}
			equal(t, "same revision", revision() == before, c.same)
		})
	}
}

// sendThrough makes the channel's sender and sends one message with it.
func sendThrough(t *testing.T, object *v1alpha1.NotificationChannel, objects ...client.Object) (delivery.Receipt, error) {
	t.Helper()
	channels, _ := newChannels(t, objects...)
	sender, err := channels.sender(t.Context(), object)
	if err != nil {
		t.Fatalf("no sender: %v", err)
	}
	return sender.Send(t.Context(), message(newRequest(), ops, 1))
}

func TestSenderUsesWhatTheSecretsHold(t *testing.T) {
	var got *http.Request
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	object := newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Webhook = &v1alpha1.WebhookChannel{
			URLSecretRef:     secretRef("hook", "url"),
			SigningSecretRef: secretRef("hook", "sign"),
			Headers: []v1alpha1.Header{
				{Name: "Authorization", ValueSecretRef: secretRef("hook", "token")},
				{Name: "X-Team", Value: "a"},
			},
		}
		c.Spec.TLS.CASecretRef = secretRef("tls", "ca.crt")
	})
	_, err := sendThrough(t, object,
		newSecret("hook", map[string]string{"url": server.URL + "/in/" + planted + "\n", "sign": planted, "token": "Bearer " + planted + "\n"}),
		newSecret("tls", map[string]string{"ca.crt": ca}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "path", got.URL.Path, "/in/"+planted)
	equal(t, "header from a Secret", got.Header.Get("Authorization"), "Bearer "+planted)
	equal(t, "header as given", got.Header.Get("X-Team"), "a")
	equal(t, "signed", got.Header.Get("Webhook-Signature") != "", true)
	equal(t, "key", got.Header.Get("Idempotency-Key"), message(newRequest(), ops, 1).Key)
}

func TestSenderGoesThroughTheProxy(t *testing.T) {
	for name, ref := range map[string]bool{"address as given": false, "address from a Secret": true} {
		t.Run(name, func(t *testing.T) {
			var got *http.Request
			proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
			defer proxy.Close()
			address, err := url.Parse(proxy.URL)
			if err != nil {
				t.Fatal(err)
			}
			address.User = url.UserPassword("me", planted)
			object := newChannel(func(c *v1alpha1.NotificationChannel) {
				c.Spec.Webhook.URL = "http://127.0.0.9/hook"
				c.Spec.Proxy = &v1alpha1.ProxyConfig{URL: proxy.URL}
				if ref {
					c.Spec.Proxy = &v1alpha1.ProxyConfig{URLSecretRef: secretRef("proxy", "url")}
				}
			})
			if _, err := sendThrough(t, object, newSecret("proxy", map[string]string{"url": address.String()})); err != nil {
				t.Fatal(err)
			}
			equal(t, "asked for", got.RequestURI, "http://127.0.0.9/hook")
			equal(t, "with a password", got.Header.Get("Proxy-Authorization") != "", ref)
		})
	}
}

func TestSenderWritesFilesBeneathTheRoot(t *testing.T) {
	object := newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Type, c.Spec.Webhook, c.Spec.File = v1alpha1.ChannelFile, nil, v1alpha1.FileChannel{Directory: "team-a"}
	})
	receipt, err := sendThrough(t, object)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "file", receipt.ExternalID, "shop/team-a/"+message(newRequest(), ops, 1).Key+".json")
}

func TestSlackIsReachedThroughItsWebhookAndAsABot(t *testing.T) {
	slack := standin.NewSlack(t)
	if _, err := sendThrough(t, newChannel(asSlack), newSecret("slack", map[string]string{"url": slack.URL + "/services/alerts\n"})); err != nil {
		t.Errorf("webhook: %v", err)
	}
	// A bot's address is not for the channel to choose: the proxy sees it.
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.Host
		w.WriteHeader(http.StatusForbidden)
	}))
	defer proxy.Close()
	_, err := sendThrough(t, newChannel(asSlackBot, func(c *v1alpha1.NotificationChannel) {
		c.Spec.Proxy = &v1alpha1.ProxyConfig{URL: proxy.URL}
	}), newSecret("slack", map[string]string{"token": planted + "\n"}))
	equal(t, "reason", delivery.Classify(err).Reason, delivery.ReasonProxyRefused)
	equal(t, "asked for", asked, "CONNECT slack.com:443")
	equal(t, "messages", len(slack.Messages()), 1)
}

func TestDiscordIsReachedThroughItsWebhook(t *testing.T) {
	discord := standin.NewDiscord(t)
	receipt, err := sendThrough(t, newChannel(asDiscord), newSecret("discord", map[string]string{"url": discord.URL + "\n"}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "receipt", receipt.ExternalID, standin.DiscordThread+"/1200000000000000001")
	equal(t, "name", discord.Messages()[0].Username, "On call")
}

func TestTeamsIsReachedThroughItsWorkflow(t *testing.T) {
	teams := standin.NewTeams(t)
	receipt, err := sendThrough(t, newChannel(asTeams), newSecret("teams", map[string]string{"url": teams.URL + "\n"}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "receipt", receipt.ExternalID, "08584661236364846013464561000001CU16")
	equal(t, "key", teams.Messages()[0].Key, message(newRequest(), ops, 1).Key)
}

func TestPagerDutyIsReachedWhereItsRegionIs(t *testing.T) {
	pagerDuty := standin.NewPagerDuty(t)
	for region, host := range map[v1alpha1.PagerDutyRegion]string{
		"": "events.pagerduty.com", v1alpha1.PagerDutyUS: "events.pagerduty.com", v1alpha1.PagerDutyEU: "events.eu.pagerduty.com",
	} {
		object := newChannel(asPagerDuty, func(c *v1alpha1.NotificationChannel) {
			c.Spec.PagerDuty = v1alpha1.PagerDutyChannel{
				RoutingKeySecretRef: c.Spec.PagerDuty.RoutingKeySecretRef, Region: region, DedupBy: v1alpha1.PagerDutyByCorrelation,
				Source: "a-source", Component: "a-component", Group: "a-group", Class: "a-class", ClientURL: "https://a-client.example",
			}
			c.Spec.Proxy = &v1alpha1.ProxyConfig{URL: pagerDuty.Proxy}
			c.Spec.TLS.CASecretRef = secretRef("pagerduty", "ca.crt")
		})
		receipt, err := sendThrough(t, object, newSecret("pagerduty", map[string]string{
			"key": standin.PagerDutyKey + "\n", "ca.crt": string(pagerDuty.CA),
		}))
		if err != nil {
			t.Fatal(err)
		}
		nr := newRequest()
		equal(t, "receipt", receipt.ExternalID, nr.Namespace+"/"+correlationID(nr))
		events := pagerDuty.Events()
		event := events[len(events)-1]
		equal(t, "host", event.Host, host)
		for _, text := range []string{"a-source", "a-component", "a-group", "a-class", "https://a-client.example"} {
			equal(t, text, strings.Contains(string(event.Content), `"`+text+`"`), true)
		}
	}
}

func TestEmailIsReachedOverTLSWithThePassword(t *testing.T) {
	// httptest's certificate is good for 127.0.0.1.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	server := standin.NewSMTP(t, standin.SMTPOptions{TLS: web.TLS, Username: "robot", Password: planted})
	object := newChannel(asEmail, func(c *v1alpha1.NotificationChannel) {
		c.Spec.Email.Host, c.Spec.Email.Port = server.Host, server.Port
		c.Spec.TLS.CASecretRef = secretRef("mail", "ca")
	})
	receipt, err := sendThrough(t, object, newSecret("mail", map[string]string{"password": planted + "\n", "ca": string(ca)}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "receipt", receipt.ExternalID, "4F1C0001")
	got := server.Mails()[0]
	equal(t, "envelope", []string{got.From, strings.Join(got.To, " "), got.Username}, []string{"robot@example.com", "ops@example.com archive@example.com", "robot"})
	if !strings.Contains(string(got.Content), "Reply-To: help@example.com\r\n") {
		t.Errorf("the mail is %s", got.Content)
	}
}

func TestWhatIsWrongWithASecretIsSaidWithoutIt(t *testing.T) {
	hook := func(change func(*v1alpha1.NotificationChannel)) *v1alpha1.NotificationChannel {
		return newChannel(change)
	}
	fromSecret := hook(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Webhook.URL, c.Spec.Webhook.URLSecretRef = "", secretRef("hook", "url")
	})
	header := hook(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Webhook.Headers = []v1alpha1.Header{{Name: "Authorization", ValueSecretRef: secretRef("hook", "token")}}
	})
	signing := hook(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.SigningSecretRef = secretRef("hook", "sign") })
	ca := hook(func(c *v1alpha1.NotificationChannel) { c.Spec.TLS.CASecretRef = secretRef("hook", "ca") })
	cert := hook(func(c *v1alpha1.NotificationChannel) {
		c.Spec.TLS.CertSecretRef, c.Spec.TLS.KeySecretRef = secretRef("hook", "cert"), secretRef("hook", "key")
	})
	proxy := hook(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Proxy = &v1alpha1.ProxyConfig{URLSecretRef: secretRef("hook", "proxy")}
	})
	for name, c := range map[string]struct {
		channel *v1alpha1.NotificationChannel
		data    map[string]string
		none    bool
		reason  string
		message string
	}{
		"no Secret":                    {channel: fromSecret, none: true, reason: "SecretNotFound", message: "the Secret hook does not exist: create it"},
		"no entry":                     {channel: fromSecret, data: map[string]string{"URL": planted}, reason: "SecretKeyNotFound", message: "the Secret hook has no entry url: add it"},
		"empty entry":                  {channel: header, data: map[string]string{"token": ""}, reason: "SecretKeyNotFound", message: "the Secret hook has no entry token: add it"},
		"no URL":                       {channel: fromSecret, data: map[string]string{"url": planted}, reason: delivery.ReasonInvalidURL},
		"a URL that cannot be read":    {channel: fromSecret, data: map[string]string{"url": "https://" + planted + ".example/%zz"}, reason: delivery.ReasonInvalidURL},
		"a header of two lines":        {channel: header, data: map[string]string{"token": planted + "\n" + planted}, reason: delivery.ReasonInvalidHeader},
		"a signing key not encoded":    {channel: signing, data: map[string]string{"sign": "whsec_" + planted + "!"}, reason: delivery.ReasonInvalidSecret},
		"no authority":                 {channel: ca, data: map[string]string{"ca": planted}, reason: delivery.ReasonInvalidTLS},
		"no pair":                      {channel: cert, data: map[string]string{"cert": planted, "key": planted}, reason: delivery.ReasonInvalidTLS},
		"no key":                       {channel: cert, data: map[string]string{"cert": planted}, reason: "SecretKeyNotFound", message: "the Secret hook has no entry key: add it"},
		"a proxy that is none":         {channel: proxy, data: map[string]string{"proxy": "socks5://" + planted}, reason: delivery.ReasonInvalidProxy},
		"no bot token":                 {channel: newChannel(asSlackBot), data: map[string]string{"url": planted}, reason: "SecretKeyNotFound", message: "the Secret slack has no entry token: add it"},
		"a blank bot token":            {channel: newChannel(asSlackBot), data: map[string]string{"token": " \n"}, reason: delivery.ReasonInvalidSecret, message: "bot token is empty"},
		"a bot token of two lines":     {channel: newChannel(asSlackBot), data: map[string]string{"token": planted + "\n" + planted}, reason: delivery.ReasonInvalidSecret},
		"a workflow of Slack":          {channel: newChannel(asSlack), data: map[string]string{"url": "https://hooks.slack.com/triggers/" + planted}, reason: delivery.ReasonInvalidURL},
		"no routing key":               {channel: newChannel(asPagerDuty), data: map[string]string{"token": planted}, reason: "SecretKeyNotFound", message: "the Secret pagerduty has no entry key: add it"},
		"a routing key too short":      {channel: newChannel(asPagerDuty), data: map[string]string{"key": planted}, reason: delivery.ReasonInvalidSecret},
		"a URL of Discord's for Slack": {channel: newChannel(asDiscord), data: map[string]string{"url": "https://discord.com/api/webhooks/1/" + planted + "/slack"}, reason: delivery.ReasonInvalidURL},
		"a connector of Teams":         {channel: newChannel(asTeams), data: map[string]string{"url": "https://contoso.webhook.office.com/webhookb2/" + planted}, reason: delivery.ReasonInvalidURL},
		"a password of two lines":      {channel: newChannel(asEmail), data: map[string]string{"password": planted + "\n" + planted}, reason: delivery.ReasonInvalidSecret},
		"no password":                  {channel: newChannel(asEmail), data: map[string]string{"token": planted}, reason: "SecretKeyNotFound", message: "the Secret mail has no entry password: add it"},
		"an address that is refused":   {channel: fromSecret, data: map[string]string{"url": "https://10.0.0.1/" + planted}, reason: delivery.ReasonAddressNotAllowed, message: "address 10.0.0.1 is not public: --delivery-allow-networks has to contain it"},
		"a URL of another service":     {channel: newChannel(asDiscord), data: map[string]string{"url": "https://hooks.slack.com/services/" + planted}, reason: delivery.ReasonInvalidURL, message: "url looks like one of Slack, not of Discord: put the URL of a webhook of Discord into the Secret, or make a channel of the type Slack"},
		"only blanks for an address":   {channel: fromSecret, data: map[string]string{"url": " \n"}, reason: delivery.ReasonInvalidURL},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []client.Object
			if !c.none {
				objects = append(objects, newSecret(secretNames(c.channel)[0], c.data))
			}
			channels, _ := newChannels(t, objects...)
			_, err := channels.sender(t.Context(), c.channel)
			var unusable *delivery.Error
			if !errors.As(err, &unusable) {
				t.Fatalf("got %v", err)
			}
			equal(t, "class", unusable.Class, delivery.Config)
			equal(t, "reason", unusable.Reason, c.reason)
			if c.message != "" {
				equal(t, "message", unusable.Message, c.message)
			}
			if strings.Contains(err.Error(), planted) || unusable.Message == "" || len(unusable.Message) > 256 {
				t.Errorf("message %q", err)
			}
		})
	}
}

func TestUnreadableSecretIsNoConfigurationError(t *testing.T) {
	channels, c := newChannels(t)
	channels.Secrets = interceptor.NewClient(c.(client.WithWatch), interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errors.New("the server is shutting down")
		},
	})
	_, err := channels.sender(t.Context(), newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Spec.Webhook.SigningSecretRef = secretRef("hook", "sign")
	}))
	var unusable *delivery.Error
	equal(t, "a configuration error", errors.As(err, &unusable), false)
	equal(t, "error", err.Error(), "get secret shop/hook: the server is shutting down")
}

func TestEverySecretOfAChannelIsWatched(t *testing.T) {
	object := newChannel(func(c *v1alpha1.NotificationChannel) {
		c.Spec.TLS = v1alpha1.TLSConfig{CASecretRef: secretRef("ca", "x"), CertSecretRef: secretRef("pair", "x"), KeySecretRef: secretRef("pair", "y")}
		c.Spec.Proxy = &v1alpha1.ProxyConfig{URLSecretRef: secretRef("proxy", "x")}
		c.Spec.Webhook = &v1alpha1.WebhookChannel{
			URLSecretRef: secretRef("url", "x"), SigningSecretRef: secretRef("sign", "x"),
			Headers: []v1alpha1.Header{{Name: "a", ValueSecretRef: secretRef("header", "x")}, {Name: "b", Value: "v"}},
		}
	})
	equal(t, "secrets", secretNames(object), []string{"ca", "header", "pair", "proxy", "sign", "url"})
	equal(t, "secrets of a webhook of Slack", secretNames(newChannel(asSlack)), []string{"slack"})
	equal(t, "secrets of a bot of Slack", secretNames(newChannel(asSlackBot)), []string{"slack"})
	equal(t, "secrets of a webhook of Discord", secretNames(newChannel(asDiscord)), []string{"discord"})
	equal(t, "secrets of a workflow of Teams", secretNames(newChannel(asTeams)), []string{"teams"})
	equal(t, "secrets of a mail server", secretNames(newChannel(asEmail)), []string{"mail"})
	equal(t, "secrets of a plain channel", secretNames(newChannel()), nil)
}

func TestChannelStatusSaysWhetherItCanBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*v1alpha1.NotificationChannel)
		status  metav1.ConditionStatus
		reason  string
		message string
	}{
		"yes":       {func(*v1alpha1.NotificationChannel) {}, metav1.ConditionTrue, "ConfigResolved", "the channel's configuration is complete"},
		"suspended": {func(c *v1alpha1.NotificationChannel) { c.Spec.Suspend = new(true) }, metav1.ConditionFalse, "Suspended", "suspend is set: messages wait until it is not"},
		"an address that is refused": {
			func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.URL = "http://169.254.169.254/latest" },
			metav1.ConditionFalse, "AddressNotAllowed", "address 169.254.169.254 is not public: --delivery-allow-networks has to contain it",
		},
		"no Secret": {
			func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.SigningSecretRef = secretRef("key", "key") },
			metav1.ConditionFalse, "SecretNotFound", "the Secret key does not exist: create it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			channels, cluster := newChannels(t, newChannel(c.change))
			r := &NotificationChannelReconciler{Client: cluster, Channels: channels, Health: &ChannelHealth{}, Events: events.NewFakeRecorder(10)}
			for range 2 {
				if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: place}); err != nil {
					t.Fatal(err)
				}
			}
			got := newChannel()
			if err := cluster.Get(t.Context(), place, got); err != nil {
				t.Fatal(err)
			}
			ready := got.Status.Conditions[0]
			equal(t, "ready", ready.Status, c.status)
			equal(t, "reason", ready.Reason, c.reason)
			equal(t, "message", ready.Message, c.message)
			equal(t, "observed generation", got.Status.ObservedGeneration, int64(1))
			equal(t, "writes", got.ResourceVersion, "1000")
		})
	}
}

func TestChannelHealthIsWrittenAtMostEveryHalfMinute(t *testing.T) {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	h := &ChannelHealth{}
	if err := h.wake.start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	woken := func() (n int) {
		for queue.Len() > 0 {
			item, _ := queue.Get()
			equal(t, "woken", item.NamespacedName, place)
			queue.Done(item)
			n++
		}
		return n
	}
	at := born.Add
	object := newChannel()
	note := func(d time.Duration, err *delivery.Error) { h.note(place, outcome{finished: at(d), err: err}) }
	apply := func(d time.Duration) time.Duration { return h.apply(object, at(d)) }
	success := func() string { return object.Status.LastSuccessTime.UTC().Format("05") }

	equal(t, "nothing known", apply(0), time.Duration(0))
	note(1500*time.Millisecond, nil)
	note(1600*time.Millisecond, nil)
	equal(t, "woken once", woken(), 1)
	equal(t, "the first one at once", apply(2*time.Second), time.Duration(0))
	equal(t, "success", success(), "01")
	equal(t, "nothing new", apply(3*time.Second), time.Duration(0))

	note(4*time.Second, nil)
	equal(t, "woken", woken(), 1)
	equal(t, "too early", apply(5*time.Second), 26*time.Second)
	equal(t, "success", success(), "01")
	note(6*time.Second, nil)
	equal(t, "a look is planned already", woken(), 0)
	note(7*time.Second, transient())
	equal(t, "a failure alone is written at once, the success waits", apply(8*time.Second), 23*time.Second)
	equal(t, "failure", object.Status.LastFailure, v1alpha1.ChannelFailure{Time: new(metav1.NewTime(at(7 * time.Second))), Error: v1alpha1.DeliveryError{
		Class: v1alpha1.ErrorTransient, Reason: "ServerError", Code: "503", Message: "receiver.example answered 503",
	}})
	note(9*time.Second, permanent())
	equal(t, "both wait, for the earlier one", apply(10*time.Second), 21*time.Second)
	equal(t, "failure", object.Status.LastFailure.Error.Code, "503")
	equal(t, "the success is due", apply(31*time.Second), 6*time.Second)
	equal(t, "success", success(), "06")
	equal(t, "the failure is due", apply(37*time.Second), time.Duration(0))
	equal(t, "failure", object.Status.LastFailure.Error.Code, "400")

	note(50*time.Second, nil)
	equal(t, "woken again", woken(), 1)
	h.drop(place)
	equal(t, "a channel that is gone", apply(time.Hour), time.Duration(0))
	equal(t, "kept", len(h.m), 0)
}

// indexingManager hands indexes to a fake client.
type indexingManager struct {
	ctrl.Manager
	builder *fake.ClientBuilder
}

func (m *indexingManager) GetFieldIndexer() client.FieldIndexer { return m }

func (m *indexingManager) IndexField(_ context.Context, object client.Object, field string, extract client.IndexerFunc) error {
	m.builder.WithIndex(object, field, extract)
	return nil
}

func TestRequestsOfAChangedChannelAreLookedAt(t *testing.T) {
	waiting := newRequest()
	far := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.Namespace, nr.Spec.Channels[0].Namespace = "office", "shop"
	})
	finished := newRequest(func(nr *v1alpha1.NotificationRequest) {
		nr.Name, nr.Status.FinishedTime = "finished", micro(born)
	})
	other := newRequest(withChannels("mail"), func(nr *v1alpha1.NotificationRequest) { nr.Name = "other" })
	object := newChannel(func(c *v1alpha1.NotificationChannel) { c.Spec.Webhook.SigningSecretRef = secretRef("key", "key") })
	mgr := &indexingManager{builder: fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(waiting, far, finished, other, object)}
	if err := indexFields(mgr); err != nil {
		t.Fatal(err)
	}
	r := &NotificationRequestReconciler{Channels: &Channels{Reader: mgr.builder.Build()}}
	want := []reconcile.Request{
		{NamespacedName: client.ObjectKeyFromObject(far)}, {NamespacedName: client.ObjectKeyFromObject(waiting)},
	}
	equal(t, "requests of the channel", r.requestsOfChannel(t.Context(), object), want)
	equal(t, "requests of the Secret", r.requestsOfSecret(t.Context(), newSecret("key", nil)), want)
	equal(t, "requests of another Secret", r.requestsOfSecret(t.Context(), newSecret("other", nil)), nil)
	equal(t, "requests of another channel", len(r.requestsOfChannel(t.Context(), newChannel(func(c *v1alpha1.NotificationChannel) { c.Name = "none" }))), 0)
}

// A standby must not keep answers for requests that another process looks after.
func TestReceiptsBeforeTheStartAreNotKept(t *testing.T) {
	r := &NotificationRequestReconciler{}
	l := newLab(t)
	l.attempt(ops, nil)
	l.record()
	for _, receipt := range l.receipts {
		receipt.Namespace, receipt.ResourceID = "shop", "order-7"
		r.OnReceipts([]audit.Receipt{receipt})
	}
	key := types.NamespacedName{Namespace: "shop", Name: "order-7"}
	equal(t, "kept", len(r.receipts.of(key)), 0)

	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	if err := r.wake.start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	for _, receipt := range l.receipts {
		receipt.Namespace, receipt.ResourceID = "shop", "order-7"
		r.OnReceipts([]audit.Receipt{receipt})
	}
	equal(t, "kept", len(r.receipts.of(key)), 1)
	item, _ := queue.Get()
	equal(t, "woken", item.NamespacedName, key)
}
