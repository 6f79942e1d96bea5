package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// Channels finds the channels of requests and makes their senders.
type Channels struct {
	// Reader reads NotificationChannels and the metadata of Secrets, from a cache.
	Reader client.Reader
	// Secrets reads Secrets from the API server, so that none is kept in memory.
	Secrets client.Reader
	// HTTP is the client of all channels over HTTP. It knows which networks any
	// channel may reach.
	HTTP *delivery.HTTP
	// Console is the sender of the built-in channel.
	Console delivery.Sender
	// FileRoot is the directory beneath which all file channels write.
	FileRoot string
}

var secretMetadata = metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}

// console stands for the built-in channel, which no object describes.
var console = &v1alpha1.NotificationChannel{
	ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ConsoleChannel},
	Spec:       v1alpha1.NotificationChannelSpec{Type: v1alpha1.ChannelConsole},
}

// consoleTimeout is ample for a write to a pipe that is read.
const consoleTimeout = 10 * time.Second

// lookup returns what the plan needs to know of the channels of nr, and the
// NotificationChannels themselves. It reads no secret.
func (c *Channels) lookup(ctx context.Context, nr *v1alpha1.NotificationRequest) (map[string]channel, map[string]*v1alpha1.NotificationChannel) {
	known := map[string]channel{}
	objects := map[string]*v1alpha1.NotificationChannel{}
	for _, ref := range allRefs(nr) {
		if ref.Name == v1alpha1.ConsoleChannel {
			known[ref.Name] = channel{kind: v1alpha1.ChannelConsole, idempotent: true, timeout: consoleTimeout}
			objects[ref.Name] = console
			continue
		}
		object := &v1alpha1.NotificationChannel{}
		key := channelKey(nr, ref)
		err := c.Reader.Get(ctx, key, object)
		switch {
		case apierrors.IsNotFound(err):
			known[ref.Name] = channel{blocked: blocked(v1alpha1.ReasonChannelNotFound,
				"there is no NotificationChannel %s: create it", key)}
			continue
		case err != nil:
			known[ref.Name] = channel{blocked: unreadable("the channel", key, err)}
			continue
		}
		known[ref.Name] = c.describe(ctx, nr.Namespace, object)
		objects[ref.Name] = object
	}
	return known, objects
}

// describe says what the plan needs to know of a channel that a request in the
// given namespace names.
func (c *Channels) describe(ctx context.Context, namespace string, object *v1alpha1.NotificationChannel) channel {
	revision, missing, err := c.revision(ctx, object)
	ch := channel{
		kind:       object.Spec.Type,
		idempotent: idempotent(&object.Spec),
		timeout:    object.Spec.Timeout.Value(),
		config:     revision,
	}
	key := client.ObjectKeyFromObject(object)
	switch {
	case namespace != object.Namespace && !allows(object, namespace):
		ch.blocked = blocked(v1alpha1.ReasonNamespaceNotAllowed,
			"the channel %s does not allow requests of namespace %s: add it to the channel's allowedNamespaces", key, namespace)
	case isTrue(object.Spec.Suspend):
		ch.blocked = blocked("ChannelSuspended", "the channel %s is suspended: set its suspend to false", key)
	case err != nil:
		ch.blocked = unreadable("a Secret of the channel", key, err)
	case missing != "":
		ch.blocked = blocked(v1alpha1.ReasonSecretNotFound, "the channel %s needs the Secret %s, which does not exist: create it", key, missing)
	}
	return ch
}

// idempotent reports whether a message may be sent again without harm. PagerDuty
// takes one key for one alert while that is open.
func idempotent(spec *v1alpha1.NotificationChannelSpec) bool {
	switch spec.Type {
	case v1alpha1.ChannelFile, v1alpha1.ChannelPagerDuty:
		return true
	default:
		return spec.Webhook != nil && isTrue(spec.Webhook.Idempotent)
	}
}

// isTrue reads a field that is false where it is not given.
func isTrue(field *bool) bool { return field != nil && *field }

func allows(object *v1alpha1.NotificationChannel, namespace string) bool {
	return slices.Contains(object.Spec.AllowedNamespaces, v1alpha1.NamespaceName(namespace)) ||
		slices.Contains(object.Spec.AllowedNamespaces, "*")
}

// revision identifies the channel's configuration with its Secrets, and names
// the first Secret that is missing.
func (c *Channels) revision(ctx context.Context, object *v1alpha1.NotificationChannel) (id, missing string, err error) {
	parts := []string{string(object.UID), fmt.Sprint(object.Generation)}
	for _, name := range secretNames(object) {
		meta := secretMetadata.DeepCopy()
		key := types.NamespacedName{Namespace: object.Namespace, Name: name}
		switch err := c.Reader.Get(ctx, key, meta); {
		case apierrors.IsNotFound(err):
			if missing == "" {
				missing = name
			}
		case err != nil:
			return "", "", fmt.Errorf("get metadata of secret %s: %w", key, err)
		}
		parts = append(parts, name, string(meta.UID), meta.ResourceVersion)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:16]), missing, nil
}

// sender makes the sender of a channel with its secrets filled in. A secret that
// is missing is a *delivery.Error of class Config.
func (c *Channels) sender(ctx context.Context, object *v1alpha1.NotificationChannel) (delivery.Sender, error) {
	secrets := secretReader{ctx: ctx, reader: c.Secrets, namespace: object.Namespace, secrets: map[string]*corev1.Secret{}}
	spec := object.Spec
	switch spec.Type {
	case v1alpha1.ChannelConsole:
		return c.Console, nil
	case v1alpha1.ChannelFile:
		return delivery.NewFile(c.FileRoot, filepath.Join(object.Namespace, spec.File.Directory))
	case v1alpha1.ChannelSlack:
		return c.slack(&secrets, spec)
	case v1alpha1.ChannelTeams:
		return c.teams(&secrets, spec)
	case v1alpha1.ChannelDiscord:
		return c.discord(&secrets, spec)
	case v1alpha1.ChannelEmail:
		return c.email(&secrets, spec)
	case v1alpha1.ChannelPagerDuty:
		return c.pagerDuty(&secrets, spec)
	default:
		return c.webhook(&secrets, spec)
	}
}

func (c *Channels) webhook(secrets *secretReader, spec v1alpha1.NotificationChannelSpec) (delivery.Sender, error) {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text(spec.Webhook.URL, spec.Webhook.URLSecretRef)
	endpoint.Headers = map[string]string{}
	for _, h := range spec.Webhook.Headers {
		endpoint.Headers[h.Name] = secrets.text(h.Value, h.ValueSecretRef)
	}
	config := delivery.WebhookConfig{
		Endpoint: endpoint, SigningSecret: secrets.value(spec.Webhook.SigningSecretRef), Content: delivery.WebhookFormat(spec.Webhook.Format),
	}
	if secrets.err != nil {
		return nil, secrets.err
	}
	return delivery.NewWebhook(c.HTTP, config)
}

func (c *Channels) slack(secrets *secretReader, spec v1alpha1.NotificationChannelSpec) (delivery.Sender, error) {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text("", spec.Slack.WebhookURLSecretRef)
	config := delivery.SlackConfig{
		Endpoint: endpoint, Token: secrets.text("", spec.Slack.BotTokenSecretRef), Channel: spec.Slack.Channel,
	}
	if secrets.err != nil {
		return nil, secrets.err
	}
	return delivery.NewSlack(c.HTTP, config)
}

func (c *Channels) teams(secrets *secretReader, spec v1alpha1.NotificationChannelSpec) (delivery.Sender, error) {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text("", spec.Teams.WebhookURLSecretRef)
	if secrets.err != nil {
		return nil, secrets.err
	}
	return delivery.NewTeams(c.HTTP, delivery.TeamsConfig{Endpoint: endpoint})
}

func (c *Channels) discord(secrets *secretReader, spec v1alpha1.NotificationChannelSpec) (delivery.Sender, error) {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text("", spec.Discord.WebhookURLSecretRef)
	if secrets.err != nil {
		return nil, secrets.err
	}
	return delivery.NewDiscord(c.HTTP, delivery.DiscordConfig{
		Endpoint: endpoint, ThreadID: spec.Discord.ThreadID, Username: spec.Discord.Username,
	})
}

func (c *Channels) email(secrets *secretReader, spec v1alpha1.NotificationChannelSpec) (delivery.Sender, error) {
	config := delivery.EmailConfig{
		Endpoint: secrets.endpoint(spec),
		Host:     spec.Email.Host, Port: spec.Email.Port, Encryption: string(spec.Email.Encryption),
		From: string(spec.Email.From), ReplyTo: string(spec.Email.ReplyTo),
		Mechanism: string(spec.Email.Auth.Mechanism), Username: spec.Email.Auth.Username,
		Password: secrets.text("", spec.Email.Auth.PasswordSecretRef),
	}
	for _, to := range spec.Email.To {
		config.To = append(config.To, string(to))
	}
	for _, cc := range spec.Email.CC {
		config.Cc = append(config.Cc, string(cc))
	}
	if secrets.err != nil {
		return nil, secrets.err
	}
	return delivery.NewEmail(c.HTTP, config)
}

func (c *Channels) pagerDuty(secrets *secretReader, spec v1alpha1.NotificationChannelSpec) (delivery.Sender, error) {
	p := spec.PagerDuty
	config := delivery.PagerDutyConfig{
		Endpoint:      secrets.endpoint(spec),
		RoutingKey:    secrets.text("", p.RoutingKeySecretRef),
		ByCorrelation: p.DedupBy == v1alpha1.PagerDutyByCorrelation,
		Source:        string(p.Source),
		Component:     string(p.Component),
		Group:         string(p.Group),
		Class:         string(p.Class),
		ClientURL:     p.ClientURL,
	}
	if p.Region == v1alpha1.PagerDutyEU {
		config.URL = delivery.PagerDutyEU
	}
	if secrets.err != nil {
		return nil, secrets.err
	}
	return delivery.NewPagerDuty(c.HTTP, config)
}

// secretReader reads the entries of Secrets and keeps the first error.
type secretReader struct {
	ctx       context.Context
	reader    client.Reader
	namespace string
	secrets   map[string]*corev1.Secret
	err       error
}

// endpoint returns what all channels over a network have in common.
func (s *secretReader) endpoint(spec v1alpha1.NotificationChannelSpec) delivery.Endpoint {
	endpoint := delivery.Endpoint{
		Timeout: spec.Timeout.Value(),
		CA:      s.value(spec.TLS.CASecretRef),
		Cert:    s.value(spec.TLS.CertSecretRef),
		Key:     s.value(spec.TLS.KeySecretRef),
	}
	if spec.Proxy != nil {
		endpoint.Proxy = s.text(spec.Proxy.URL, spec.Proxy.URLSecretRef)
	}
	return endpoint
}

func (s *secretReader) text(value string, ref v1alpha1.SecretKeyRef) string {
	if ref.Name == "" {
		return value
	}
	return strings.TrimSpace(string(s.value(ref)))
}

func (s *secretReader) value(ref v1alpha1.SecretKeyRef) []byte {
	if ref.Name == "" || s.err != nil {
		return nil
	}
	secret := s.secrets[ref.Name]
	if secret == nil {
		secret = &corev1.Secret{}
		err := s.reader.Get(s.ctx, types.NamespacedName{Namespace: s.namespace, Name: ref.Name}, secret)
		switch {
		case apierrors.IsNotFound(err):
			s.err = &delivery.Error{
				Class: delivery.Config, Reason: v1alpha1.ReasonSecretNotFound,
				Message: fmt.Sprintf("the Secret %s does not exist: create it", ref.Name),
			}
			return nil
		case err != nil:
			s.err = fmt.Errorf("get secret %s/%s: %w", s.namespace, ref.Name, err)
			return nil
		}
		s.secrets[ref.Name] = secret
	}
	value, ok := secret.Data[ref.Key]
	if !ok || len(value) == 0 {
		s.err = &delivery.Error{
			Class: delivery.Config, Reason: "SecretKeyNotFound",
			Message: fmt.Sprintf("the Secret %s has no entry %s: add it", ref.Name, ref.Key),
		}
	}
	return value
}

// secretRefs returns all references to Secrets of a channel.
func secretRefs(object *v1alpha1.NotificationChannel) []v1alpha1.SecretKeyRef {
	refs := []v1alpha1.SecretKeyRef{
		object.Spec.TLS.CASecretRef, object.Spec.TLS.CertSecretRef, object.Spec.TLS.KeySecretRef,
		object.Spec.Teams.WebhookURLSecretRef, object.Spec.Discord.WebhookURLSecretRef, object.Spec.Email.Auth.PasswordSecretRef,
		object.Spec.PagerDuty.RoutingKeySecretRef,
	}
	if p := object.Spec.Proxy; p != nil {
		refs = append(refs, p.URLSecretRef)
	}
	if w := object.Spec.Webhook; w != nil {
		refs = append(refs, w.URLSecretRef, w.SigningSecretRef)
		for _, h := range w.Headers {
			refs = append(refs, h.ValueSecretRef)
		}
	}
	if s := object.Spec.Slack; s != nil {
		refs = append(refs, s.WebhookURLSecretRef, s.BotTokenSecretRef)
	}
	return slices.DeleteFunc(refs, func(r v1alpha1.SecretKeyRef) bool { return r.Name == "" })
}

// secretNames returns the names of the Secrets that a channel needs, sorted.
func secretNames(object *v1alpha1.NotificationChannel) []string {
	var names []string
	for _, ref := range secretRefs(object) {
		names = append(names, ref.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func channelKey(nr *v1alpha1.NotificationRequest, ref v1alpha1.ChannelReference) types.NamespacedName {
	key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	if key.Namespace == "" {
		key.Namespace = nr.Namespace
	}
	return key
}

// unreadable blocks one channel, and no other, while something of it cannot be
// read.
func unreadable(what string, key types.NamespacedName, err error) v1alpha1.DeliveryError {
	// The cache of several namespaces has no type for this error.
	if strings.Contains(err.Error(), "unknown namespace for the cache") {
		return blocked("NamespaceNotWatched", "the controller does not look at the namespace %s: add it to its --watch-namespaces", key.Namespace)
	}
	return hindrance(v1alpha1.ErrorTransient, "ChannelUnreadable", "%s %s cannot be read: %v", what, key, err)
}

// blocked is what a person has to see to.
func blocked(reason, format string, args ...any) v1alpha1.DeliveryError {
	return hindrance(v1alpha1.ErrorConfig, reason, format, args...)
}

// hindrance is why no attempt begins.
func hindrance(class v1alpha1.ErrorClass, reason, format string, args ...any) v1alpha1.DeliveryError {
	return v1alpha1.DeliveryError{Class: class, Reason: reason, Message: truncate(fmt.Sprintf(format, args...), 256)}
}
