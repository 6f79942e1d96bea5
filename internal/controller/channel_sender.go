package controller

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

// sender makes the sender of a channel with its secrets filled in. A secret that
// is missing is a *delivery.Error of class Config.
func (c *Channels) sender(ctx context.Context, object *v1alpha1.NotificationChannel) (delivery.Sender, error) {
	secrets := secretReader{ctx: ctx, reader: c.Secrets, namespace: object.Namespace, secrets: map[string]*corev1.Secret{}}
	sender, err := c.senderOf(&secrets, object)
	if secrets.err != nil {
		return nil, secrets.err
	}
	return sender, err
}

// senderOf makes a sender of the secrets that can be read.
func (c *Channels) senderOf(secrets *secretReader, object *v1alpha1.NotificationChannel) (delivery.Sender, error) {
	spec := &object.Spec
	switch spec.Type {
	case v1alpha1.ChannelConsole:
		return c.Console, nil
	case v1alpha1.ChannelFile:
		return delivery.NewFile(c.FileRoot, filepath.Join(object.Namespace, spec.File.Directory))
	case v1alpha1.ChannelSlack:
		return delivery.NewSlack(c.HTTP, slackConfig(secrets, spec))
	case v1alpha1.ChannelTeams:
		return delivery.NewTeams(c.HTTP, teamsConfig(secrets, spec))
	case v1alpha1.ChannelDiscord:
		return delivery.NewDiscord(c.HTTP, discordConfig(secrets, spec))
	case v1alpha1.ChannelEmail:
		return delivery.NewEmail(c.HTTP, emailConfig(secrets, spec))
	case v1alpha1.ChannelPagerDuty:
		return delivery.NewPagerDuty(c.HTTP, pagerDutyConfig(secrets, spec))
	default:
		return delivery.NewWebhook(c.HTTP, webhookConfig(secrets, spec))
	}
}

func webhookConfig(secrets *secretReader, spec *v1alpha1.NotificationChannelSpec) delivery.WebhookConfig {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text(spec.Webhook.URL, spec.Webhook.URLSecretRef)
	endpoint.Headers = map[string]string{}
	for _, h := range spec.Webhook.Headers {
		endpoint.Headers[h.Name] = secrets.text(h.Value, h.ValueSecretRef)
	}
	return delivery.WebhookConfig{
		Endpoint: endpoint, SigningSecret: secrets.value(spec.Webhook.SigningSecretRef), Content: delivery.WebhookFormat(spec.Webhook.Format),
	}
}

func slackConfig(secrets *secretReader, spec *v1alpha1.NotificationChannelSpec) delivery.SlackConfig {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text("", spec.Slack.WebhookURLSecretRef)
	return delivery.SlackConfig{
		Endpoint: endpoint, Token: secrets.text("", spec.Slack.BotTokenSecretRef), Channel: spec.Slack.Channel,
	}
}

func teamsConfig(secrets *secretReader, spec *v1alpha1.NotificationChannelSpec) delivery.TeamsConfig {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text("", spec.Teams.WebhookURLSecretRef)
	return delivery.TeamsConfig{Endpoint: endpoint}
}

func discordConfig(secrets *secretReader, spec *v1alpha1.NotificationChannelSpec) delivery.DiscordConfig {
	endpoint := secrets.endpoint(spec)
	endpoint.URL = secrets.text("", spec.Discord.WebhookURLSecretRef)
	return delivery.DiscordConfig{Endpoint: endpoint, ThreadID: spec.Discord.ThreadID, Username: spec.Discord.Username}
}

func emailConfig(secrets *secretReader, spec *v1alpha1.NotificationChannelSpec) delivery.EmailConfig {
	e := &spec.Email
	config := delivery.EmailConfig{
		Endpoint: secrets.endpoint(spec),
		Host:     e.Host, Port: e.Port, Encryption: string(e.Encryption),
		From: string(e.From), ReplyTo: string(e.ReplyTo),
		Mechanism: string(e.Auth.Mechanism), Username: e.Auth.Username, Password: secrets.text("", e.Auth.PasswordSecretRef),
	}
	for _, to := range e.To {
		config.To = append(config.To, string(to))
	}
	for _, cc := range e.CC {
		config.Cc = append(config.Cc, string(cc))
	}
	return config
}

func pagerDutyConfig(secrets *secretReader, spec *v1alpha1.NotificationChannelSpec) delivery.PagerDutyConfig {
	p := &spec.PagerDuty
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
	return config
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
func (s *secretReader) endpoint(spec *v1alpha1.NotificationChannelSpec) delivery.Endpoint {
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
