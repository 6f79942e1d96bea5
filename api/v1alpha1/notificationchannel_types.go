package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ChannelType says what is behind a channel.
//
// +kubebuilder:validation:Enum=Webhook;Slack;Teams;Discord;PagerDuty;File
type ChannelType string

// Channel types. Console is built in and stands in no NotificationChannel.
const (
	ChannelWebhook   ChannelType = "Webhook"
	ChannelSlack     ChannelType = "Slack"
	ChannelTeams     ChannelType = "Teams"
	ChannelDiscord   ChannelType = "Discord"
	ChannelPagerDuty ChannelType = "PagerDuty"
	ChannelFile      ChannelType = "File"
	ChannelConsole   ChannelType = "Console"
)

// Header is one HTTP header, its value given or kept in a Secret.
//
// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.valueSecretRef)",message="needs exactly one of value and valueSecretRef"
// +kubebuilder:validation:XValidation:rule="!(self.name.lowerAscii() in ['content-type', 'content-length', 'host', 'user-agent', 'idempotency-key', 'webhook-id', 'webhook-timestamp', 'webhook-signature', 'connection', 'transfer-encoding', 'expect', 'keep-alive', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'upgrade', 'x-idempotency-key'])",message="names a header that the controller sets itself: remove it"
type Header struct {
	// name is the header's name, for example Authorization.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_|~-]+$`
	Name string `json:"name,omitempty"`

	// value is the header's value. Anybody who can read the channel can read it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`

	// valueSecretRef is where the header's value is kept.
	// +optional
	ValueSecretRef SecretKeyRef `json:"valueSecretRef,omitzero"`
}

// WebhookFormat is how a webhook's message is written.
//
// +kubebuilder:validation:Enum=JSON;Alertmanager;CloudEvents
type WebhookFormat string

// Formats of webhooks.
const (
	WebhookJSON         WebhookFormat = "JSON"
	WebhookAlertmanager WebhookFormat = "Alertmanager"
	WebhookCloudEvents  WebhookFormat = "CloudEvents"
)

// WebhookChannel posts the message as JSON to a web address.
//
// +kubebuilder:validation:XValidation:rule="has(self.url) != has(self.urlSecretRef)",message="needs exactly one of url and urlSecretRef"
type WebhookChannel struct {
	// url is the address. Anybody who can read the channel can read it: use
	// urlSecretRef where the address itself is a credential.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''",message="must be an http or https URL with a host"
	URL string `json:"url,omitempty"`

	// urlSecretRef is where the address is kept.
	// +optional
	URLSecretRef SecretKeyRef `json:"urlSecretRef,omitzero"`

	// format is how the message is written. JSON: all that the request has, in a form
	// of our own. Alertmanager: an alert as Prometheus Alertmanager posts it, version 4.
	// CloudEvents: a CloudEvent 1.0 in JSON, whose data is the format JSON.
	// +optional
	// +default="JSON"
	Format WebhookFormat `json:"format,omitempty"`

	// signingSecretRef is the key that signs each message as Standard Webhooks has
	// it (webhook-id, webhook-timestamp, webhook-signature).
	// +optional
	SigningSecretRef SecretKeyRef `json:"signingSecretRef,omitzero"`

	// headers are sent with each message, up to 16.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []Header `json:"headers,omitempty"`

	// idempotent says that the receiver acts once on each Idempotency-Key, so that a
	// message in doubt may safely be sent again. False where it is not given.
	// +optional
	Idempotent *bool `json:"idempotent,omitempty"`
}

// SlackChannel posts the message to Slack, through an incoming webhook or as a bot.
// Slack shows twice what is sent twice: a message in doubt is a matter of the
// request's onAmbiguous.
//
// +kubebuilder:validation:XValidation:rule="has(self.webhookURLSecretRef) != has(self.botTokenSecretRef)",message="needs exactly one of webhookURLSecretRef and botTokenSecretRef"
// +kubebuilder:validation:XValidation:rule="has(self.channel) == has(self.botTokenSecretRef)",message="needs channel where it has botTokenSecretRef, and must not have it otherwise"
type SlackChannel struct {
	// webhookURLSecretRef is where the incoming webhook's URL is kept. It is a
	// credential, and leads to one channel.
	// +optional
	WebhookURLSecretRef SecretKeyRef `json:"webhookURLSecretRef,omitzero"`

	// botTokenSecretRef is where a bot's token is kept, xoxb-..., of an app with the
	// scope chat:write.
	// +optional
	BotTokenSecretRef SecretKeyRef `json:"botTokenSecretRef,omitzero"`

	// channel is where the bot posts: a channel's ID, for example C0123456789, or its
	// name. The bot has to be a member of it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=81
	// +kubebuilder:validation:XValidation:rule="self.matches('^#?[^#@<>&,|[:space:][:cntrl:]]+$')",message="must be a channel's ID, such as C0123456789, or its name"
	Channel string `json:"channel,omitempty"`
}

// TeamsChannel hands the message to a workflow of Microsoft Teams, which posts it.
// That the workflow took it does not say that it was posted, and what is handed over
// twice is shown twice: a message in doubt is a matter of the request's onAmbiguous.
type TeamsChannel struct {
	// webhookURLSecretRef is where the URL of the workflow's webhook is kept, with its
	// signature. It is a credential. The URL of an Office 365 connector is refused.
	// +required
	WebhookURLSecretRef SecretKeyRef `json:"webhookURLSecretRef,omitzero"`
}

// DiscordChannel posts the message to a channel or a thread of Discord, through a
// webhook. Discord shows twice what is sent twice: a message in doubt is a matter of
// the request's onAmbiguous.
type DiscordChannel struct {
	// webhookURLSecretRef is where the webhook's URL is kept, for example
	// https://discord.com/api/webhooks/ID/TOKEN. It is a credential, and leads to one
	// channel.
	// +required
	WebhookURLSecretRef SecretKeyRef `json:"webhookURLSecretRef,omitzero"`

	// threadID is the ID of a thread in that channel, for example 1187452905223458876.
	// A forum needs it: each of its posts is a thread.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{15,20}$')",message="must be a thread's ID, which has 15 to 20 digits"
	ThreadID string `json:"threadID,omitempty"`

	// username is shown as the author instead of the webhook's own name, up to 80
	// characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=80
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^[:cntrl:]]*[^[:space:][:cntrl:]][^[:cntrl:]]*$') && !self.lowerAscii().matches('clyde|discord')",message="must be a name in one line, and not have clyde or discord in it, which Discord refuses"
	Username string `json:"username,omitempty"`
}

// PagerDutyRegion is where PagerDuty keeps an account.
//
// +kubebuilder:validation:Enum=US;EU
type PagerDutyRegion string

// Regions of PagerDuty.
const (
	PagerDutyUS PagerDutyRegion = "US"
	PagerDutyEU PagerDutyRegion = "EU"
)

// PagerDutyDedup says which messages are about one alert.
//
// +kubebuilder:validation:Enum=Request;Correlation
type PagerDutyDedup string

// Ways to make alerts out of messages.
const (
	PagerDutyByRequest     PagerDutyDedup = "Request"
	PagerDutyByCorrelation PagerDutyDedup = "Correlation"
)

// PagerDutyText stands in every alert of a channel.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=255
type PagerDutyText string

// PagerDutyChannel opens alerts in PagerDuty, through an integration of the Events
// API v2. While an alert is open, what is sent twice is one alert.
type PagerDutyChannel struct {
	// routingKeySecretRef is where the integration key is kept: 32 letters and digits.
	// It is a credential.
	// +required
	RoutingKeySecretRef SecretKeyRef `json:"routingKeySecretRef,omitzero"`

	// region is where PagerDuty keeps the account: US, or EU for an account whose
	// address ends in eu.pagerduty.com.
	// +optional
	// +default="US"
	Region PagerDutyRegion `json:"region,omitempty"`

	// dedupBy says what makes one alert. Request: each request opens an alert of its
	// own. Correlation: all requests of a namespace with one correlationID are one
	// alert, and a request of the type Completion resolves it.
	// +optional
	// +default="Request"
	DedupBy PagerDutyDedup `json:"dedupBy,omitempty"`

	// source is what has the problem, for example prod-cluster-1. Where it is not
	// given, it is the object that the message is about, or else the request.
	// +optional
	Source PagerDutyText `json:"source,omitempty"`

	// component is the part of the source that is broken, for example mysql.
	// +optional
	Component PagerDutyText `json:"component,omitempty"`

	// group is what the source belongs to, for example app-stack.
	// +optional
	Group PagerDutyText `json:"group,omitempty"`

	// class is the kind of problem, for example cpu load.
	// +optional
	Class PagerDutyText `json:"class,omitempty"`

	// clientURL is where a person gets from the alert, for example a dashboard.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''",message="must be an http or https URL with a host"
	ClientURL string `json:"clientURL,omitempty"`
}

// FileChannel writes each message as a JSON file of its own.
type FileChannel struct {
	// directory is where the files go, beneath a directory of the channel's namespace
	// in the one that the controller's flag --file-root names, for example incidents.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$')",message="must be a relative path of names that begin with a letter or a digit and go on with letters, digits, '.', '_' and '-'"
	Directory string `json:"directory,omitempty"`
}

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
	URL string `json:"url,omitempty"`

	// urlSecretRef is where the proxy's address is kept, for one with a password.
	// +optional
	URLSecretRef SecretKeyRef `json:"urlSecretRef,omitzero"`
}

// NotificationChannelSpec says where messages go and how.
//
// +kubebuilder:validation:XValidation:rule="has(self.webhook) == (self.type == 'Webhook')",message="needs webhook where type is Webhook, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.slack) == (self.type == 'Slack')",message="needs slack where type is Slack, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.teams) == (self.type == 'Teams')",message="needs teams where type is Teams, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.discord) == (self.type == 'Discord')",message="needs discord where type is Discord, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.pagerDuty) == (self.type == 'PagerDuty')",message="needs pagerDuty where type is PagerDuty, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.file) == (self.type == 'File')",message="needs file where type is File, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="self.type != 'File' || (!has(self.tls) && !has(self.proxy))",message="has tls or proxy, which the type File does not use: remove them"
type NotificationChannelSpec struct {
	// type is Webhook, Slack, Teams, Discord, PagerDuty or File. The member of the same
	// name configures it.
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

	// pagerDuty configures the type PagerDuty.
	// +optional
	PagerDuty PagerDutyChannel `json:"pagerDuty,omitzero"`

	// file configures the type File.
	// +optional
	File FileChannel `json:"file,omitzero"`

	// timeout is how long one attempt may take, from 100ms to 2m.
	// +optional
	// +default="10s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) >= duration('100ms') && duration(self) <= duration('2m')",message="must be from 100ms to 2m"
	Timeout Duration `json:"timeout,omitempty"`

	// tls says whom a channel trusts and who it is. Not for the type File.
	// +optional
	TLS TLSConfig `json:"tls,omitzero"`

	// proxy is an HTTP proxy on the way to the receiver. The environment's proxies
	// are not used. Not for the type File.
	// +optional
	Proxy *ProxyConfig `json:"proxy,omitempty"`

	// allowedNamespaces are the other namespaces whose requests may use this
	// channel, up to 64; "*" allows all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	AllowedNamespaces []NamespaceName `json:"allowedNamespaces,omitempty"`

	// suspend holds back every attempt on this channel that has not begun.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
}

// NamespaceName is the name of a namespace, or "*".
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
type NamespaceName string

// ChannelFailure is the latest failure on a channel.
type ChannelFailure struct {
	// time is when it happened.
	// +required
	Time *metav1.Time `json:"time,omitempty"`

	// error is what happened.
	// +required
	Error DeliveryError `json:"error,omitzero"`
}

// NotificationChannelStatus says whether the channel can be used.
//
// +kubebuilder:validation:MinProperties=1
type NotificationChannelStatus struct {
	// conditions hold Ready: whether the configuration is complete, its Secrets
	// included, and the channel is not suspended.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// lastSuccessTime is when the channel last accepted a message. It is brought up
	// to date at most every 30 seconds.
	// +optional
	LastSuccessTime *metav1.Time `json:"lastSuccessTime,omitempty"`

	// lastFailure is the latest failed attempt. It is brought up to date at most
	// every 30 seconds.
	// +optional
	LastFailure ChannelFailure `json:"lastFailure,omitzero"`
}

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
