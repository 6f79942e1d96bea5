package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ChannelType says what is behind a channel.
//
// +kubebuilder:validation:Enum=Webhook;Slack;Teams;Discord;Email;PagerDuty;File
type ChannelType string

// Channel types. Console is built in and stands in no NotificationChannel.
const (
	ChannelWebhook   ChannelType = "Webhook"
	ChannelSlack     ChannelType = "Slack"
	ChannelTeams     ChannelType = "Teams"
	ChannelDiscord   ChannelType = "Discord"
	ChannelEmail     ChannelType = "Email"
	ChannelPagerDuty ChannelType = "PagerDuty"
	ChannelFile      ChannelType = "File"
	ChannelConsole   ChannelType = "Console"
)

// TLSConfig says whom a channel trusts and who it is. PEM, in Secrets.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.certSecretRef) == has(self.keySecretRef)",message="needs both certSecretRef and keySecretRef, or neither"
type TLSConfig struct {
	// caSecretRef is the certificate authority that signed the receiver's
	// certificate. The system's authorities are used where it is not given.
	// +optional
	CASecretRef SecretKeyRef `json:"caSecretRef,omitzero"`

	// certSecretRef is the client certificate.
	// +optional
	CertSecretRef SecretKeyRef `json:"certSecretRef,omitzero"`

	// keySecretRef is the client certificate's private key.
	// +optional
	KeySecretRef SecretKeyRef `json:"keySecretRef,omitzero"`
}

// ProxyConfig is an HTTP proxy on the way to a receiver.
//
// +kubebuilder:validation:XValidation:rule="has(self.url) != has(self.urlSecretRef)",message="needs exactly one of url and urlSecretRef"
type ProxyConfig struct {
	// url is the proxy's address, for example http://proxy.example.com:3128.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''",message="must be an http or https URL with a host"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[^/?#]*//[^/?#]*@')",message="has a user name or a password, which anybody who can read the channel could read: keep the whole URL in a Secret and name that in urlSecretRef"
	URL string `json:"url,omitempty"`

	// urlSecretRef is where the proxy's address is kept, for one with a password.
	// +optional
	URLSecretRef SecretKeyRef `json:"urlSecretRef,omitzero"`
}

// RateLimit says how many messages go to a channel in how long. What is too many
// waits, the oldest request first, and spends no attempt with that.
type RateLimit struct {
	// messages is how many messages may be sent in each interval, from 1 to 10000, for
	// example 30. Attempts that are repeated count as well.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	Messages int32 `json:"messages,omitempty"`

	// interval is the span of time that messages is about, from 1s to 24h, for example
	// 1m.
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be from 1s to 24h"
	Interval Duration `json:"interval,omitempty"`

	// burst is how many messages may be sent at once after a quiet time, from 1 to
	// 1000; 1 by default. In any span of time no more go out than these and those that
	// the rate allows.
	// +optional
	// +default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Burst int32 `json:"burst,omitempty"`
}

// MessageTemplate makes a message's subject and body out of the request.
//
// +kubebuilder:validation:MinProperties=1
type MessageTemplate struct {
	// subject makes the subject, for example "[{{ .Priority }}] {{ .Subject }}". It
	// has up to 1024 characters, and what it makes up to 500. The request's own is
	// used where it is not given.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Subject string `json:"subject,omitempty"`

	// body makes the body, in the request's bodyFormat, for example "{{ .Body }}, says
	// {{ .Name }}". It has up to 8192 characters, and what it makes up to 32768. The
	// request's own is used where it is not given.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8192
	Body string `json:"body,omitempty"`
}

// NotificationChannelSpec says where messages go and how.
//
// +kubebuilder:validation:XValidation:rule="has(self.webhook) == (self.type == 'Webhook') && has(self.slack) == (self.type == 'Slack') && has(self.teams) == (self.type == 'Teams') && has(self.discord) == (self.type == 'Discord') && has(self.pagerDuty) == (self.type == 'PagerDuty') && has(self.email) == (self.type == 'Email') && has(self.file) == (self.type == 'File')",message="needs exactly one of webhook, slack, teams, discord, email, pagerDuty and file: the one that type names"
// +kubebuilder:validation:XValidation:rule="self.type != 'File' || (!has(self.tls) && !has(self.proxy))",message="has tls or proxy, which the type File does not use: remove them"
// +kubebuilder:validation:XValidation:rule="self.type != 'Email' || !has(self.proxy)",message="has proxy, which the type Email does not use: remove it"
type NotificationChannelSpec struct {
	// type is Webhook, Slack, Teams, Discord, Email, PagerDuty or File. The member of the
	// same name configures it.
	// +required
	Type ChannelType `json:"type,omitempty"`

	// webhook configures the type Webhook.
	// +optional
	Webhook *WebhookChannel `json:"webhook,omitempty"`

	// slack configures the type Slack.
	// +optional
	Slack *SlackChannel `json:"slack,omitempty"`

	// teams configures the type Teams.
	// +optional
	Teams TeamsChannel `json:"teams,omitzero"`

	// discord configures the type Discord.
	// +optional
	Discord DiscordChannel `json:"discord,omitzero"`

	// email configures the type Email.
	// +optional
	Email EmailChannel `json:"email,omitzero"`

	// pagerDuty configures the type PagerDuty.
	// +optional
	PagerDuty PagerDutyChannel `json:"pagerDuty,omitzero"`

	// file configures the type File.
	// +optional
	File FileChannel `json:"file,omitzero"`

	// template makes the subject and the body of this channel's messages out
	// of the request, in the language of Go's text/template. Where it cannot,
	// a message is sent as the request has it, and both objects' status says
	// so.
	//
	// It sees .Subject, .Body, .Type, .Priority, .Severity, .CorrelationID,
	// .Namespace, .Name and .Channel, .Created (a time such as
	// 2026-03-01T12:30:00Z), .Regarding (.APIVersion, .Kind, .Namespace,
	// .Name), .Links (each with .Label and .URL) and .Fields (.Fields.node),
	// all of them empty where the request has none.
	//
	// Besides and, or, not, eq, ne, lt, le, gt, ge, len and index it may call
	// upper, lower, trim, quote, urlquery, truncate 80, default "none",
	// join ", ", replace "a" "b", date "15:04", contains "a", hasPrefix "a"
	// and hasSuffix "a", each followed by the text it works on. range is for
	// .Links and .Fields.
	// +optional
	Template MessageTemplate `json:"template,omitzero"`

	// timeout is how long one attempt may take, from 100ms to 2m; 10s by default.
	// +optional
	// +default="10s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) >= duration('100ms') && duration(self) <= duration('2m')",message="must be from 100ms to 2m"
	Timeout Duration `json:"timeout,omitempty"`

	// tls says whom a channel trusts and who it is. Not for the type File.
	// +optional
	TLS TLSConfig `json:"tls,omitzero"`

	// proxy is an HTTP proxy on the way to the receiver. The environment's proxies
	// are not used. Not for the types Email and File.
	// +optional
	Proxy *ProxyConfig `json:"proxy,omitempty"`

	// rateLimit says how many messages go to the channel in how long, whichever
	// requests they are from. Without it nothing is held back.
	// +optional
	RateLimit RateLimit `json:"rateLimit,omitzero"`

	// allowedNamespaces are the other namespaces whose requests may use this
	// channel, up to 64; "*" allows all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	AllowedNamespaces []NamespaceName `json:"allowedNamespaces,omitempty"`

	// suspend holds back every attempt on this channel that has not begun; false by
	// default.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
}

// NamespaceName is the name of a namespace, for example team-a, or "*".
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self == '*' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be a namespace's name, such as team-a, or * for all; no other pattern is known"
type NamespaceName string

// NotificationChannel is a place that messages can be sent to.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=nch,categories=notification
// +kubebuilder:selectablefield:JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Last Success",type=date,JSONPath=`.status.lastSuccessTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Last Failure",type=string,JSONPath=`.status.lastFailure.error.reason`,priority=1
// +kubebuilder:printcolumn:name="Circuit",type=string,JSONPath=`.status.circuit.state`,priority=1
// +kubebuilder:printcolumn:name="Template",type=string,JSONPath=`.status.conditions[?(@.type=="TemplateValid")].reason`,priority=1
// +kubebuilder:printcolumn:name="Probe",type=string,JSONPath=`.status.probe.state`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'console'",message="the name console belongs to the built-in channel: choose another"
type NotificationChannel struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says where messages go and how.
	// +required
	Spec NotificationChannelSpec `json:"spec,omitzero"`

	// status says whether the channel can be used.
	// +optional
	Status NotificationChannelStatus `json:"status,omitzero"`
}

// NotificationChannelList is a list of NotificationChannels.
//
// +kubebuilder:object:root=true
type NotificationChannelList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NotificationChannel `json:"items"`
}
