package v1alpha1

// Header is one HTTP header, its value given or kept in a Secret.
//
// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.valueSecretRef)",message="needs exactly one of value and valueSecretRef"
// +kubebuilder:validation:XValidation:rule="!(self.name.lowerAscii() in ['content-type', 'content-length', 'host', 'user-agent', 'idempotency-key', 'webhook-id', 'webhook-timestamp', 'webhook-signature', 'connection', 'transfer-encoding', 'expect', 'keep-alive', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'upgrade', 'x-idempotency-key'])",message="names a header that the controller sets itself: remove it"
type Header struct {
	// name is the header's name, for example Authorization.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches(r'^[A-Za-z0-9!#$%&\\x27*+.^_|~-]+$')",message="must be the name of a header, such as X-Team: letters, digits and !#$%&'*+-.^_|~"
	Name string `json:"name,omitempty"`

	// value is the header's value, for example production. Anybody who can read the
	// channel can read it.
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
	// url is the address, for example https://webhook.example.com/notify. Anybody who can
	// read the channel can read it: use urlSecretRef where the address itself is a
	// credential.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''",message="must be an http or https URL with a host"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[^/?#]*//[^/?#]*@')",message="has a user name or a password, which anybody who can read the channel could read: keep the whole URL in a Secret and name that in urlSecretRef"
	URL string `json:"url,omitempty"`

	// urlSecretRef is where the address is kept.
	// +optional
	URLSecretRef SecretKeyRef `json:"urlSecretRef,omitzero"`

	// format is how the message is written; JSON by default. JSON: all that the request
	// has, in a form of our own. Alertmanager: an alert as Prometheus Alertmanager posts it, version 4.
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
	// message in doubt may safely be sent again; false by default.
	// +optional
	Idempotent *bool `json:"idempotent,omitempty"`
}

// SlackChannel posts the message to Slack, through an incoming webhook or as a bot.
// Slack shows twice what is sent twice: a message in doubt is a matter of the
// request's onAmbiguous.
//
// +kubebuilder:validation:XValidation:rule="has(self.webhookURLSecretRef) != has(self.botTokenSecretRef)",message="needs exactly one of webhookURLSecretRef and botTokenSecretRef"
// +kubebuilder:validation:XValidation:rule="has(self.channel) == has(self.botTokenSecretRef)",message="needs channel where it has botTokenSecretRef, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="!has(self.followUps) || self.followUps == 'Separate' || has(self.botTokenSecretRef)",message="needs botTokenSecretRef where followUps is Reply or Update: a webhook can neither reply nor update"
// +kubebuilder:validation:XValidation:rule="!has(self.followUps) || self.followUps == 'Separate' || !has(self.channel) || self.channel.matches('^[CDG][A-Z0-9]+$')",message="needs channel to be an ID, such as C0123456789, where followUps is Reply or Update"
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

	// followUps says how a message is shown that follows others: one whose request
	// has the correlationID of an earlier request of its namespace with a message in
	// the channel. Separate: as a message of its own. Reply: in the thread of the
	// first of them, and in the channel too where its priority is High or Critical.
	// Update: a StatusUpdate or a Completion takes the place of the first, which
	// notifies nobody; anything else is a reply. Both need a bot, and channel as an ID.
	// Separate by default.
	// +optional
	// +default="Separate"
	FollowUps FollowUpMode `json:"followUps,omitempty"`
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
	// characters, for example On call.
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
	// address ends in eu.pagerduty.com. US by default.
	// +optional
	// +default="US"
	Region PagerDutyRegion `json:"region,omitempty"`

	// dedupBy says what makes one alert. Request: each request opens an alert of its
	// own. Correlation: all requests of a namespace with one correlationID are one
	// alert, and a request of the type Completion resolves it. Request by default.
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
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[^/?#]*//[^/?#]*@')",message="has a user name or a password, which everybody who gets an alert could read: remove it"
	ClientURL string `json:"clientURL,omitempty"`
}

// EmailAddress is an address such as ops@example.com, without a name and in ASCII:
// a domain beyond that is written as its xn-- form.
//
// +kubebuilder:validation:MinLength=3
// +kubebuilder:validation:MaxLength=254
// +kubebuilder:validation:XValidation:rule="self.matches(r'^[A-Za-z0-9!#$%&\\x27*+/=?^_\\x60{|}~-]+([.][A-Za-z0-9!#$%&\\x27*+/=?^_\\x60{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$')",message="must be an address such as ops@example.com, and nothing else"
type EmailAddress string

// EmailEncryption says how the connection to a mail server is encrypted.
//
// +kubebuilder:validation:Enum=StartTLS;TLS;None
type EmailEncryption string

// How the connection to a mail server is encrypted.
const (
	// EmailStartTLS begins in the clear and sends nothing before it is encrypted.
	EmailStartTLS EmailEncryption = "StartTLS"
	// EmailTLS encrypts from the first byte on.
	EmailTLS EmailEncryption = "TLS"
	// EmailNone encrypts nothing.
	EmailNone EmailEncryption = "None"
)

// EmailMechanism is a way to prove who one is to a mail server.
//
// +kubebuilder:validation:Enum=Plain;Login;XOAUTH2
type EmailMechanism string

// Ways to prove who one is to a mail server.
const (
	EmailPlain   EmailMechanism = "Plain"
	EmailLogin   EmailMechanism = "Login"
	EmailXOAUTH2 EmailMechanism = "XOAUTH2"
)

// EmailAuth is what a mail server asks for before it takes mail.
type EmailAuth struct {
	// mechanism is Plain, Login or XOAUTH2; Plain by default. The server has to offer it.
	// +optional
	// +default="Plain"
	Mechanism EmailMechanism `json:"mechanism,omitempty"`

	// username is the name of the account, often its address, for example
	// notifications@example.com.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=254
	// +kubebuilder:validation:XValidation:rule="!self.matches('[[:cntrl:]]')",message="has a control character, such as a line break: remove it"
	Username string `json:"username,omitempty"`

	// passwordSecretRef is where the password is kept, with XOAUTH2 an OAuth 2.0
	// access token. Tokens expire: something has to write new ones into the Secret.
	// +required
	PasswordSecretRef SecretKeyRef `json:"passwordSecretRef,omitzero"`
}

// EmailChannel sends the message by SMTP, as one mail to all recipients. Mail knows
// no idempotency key: a message in doubt is a matter of the request's onAmbiguous.
//
// +kubebuilder:validation:XValidation:rule="!has(self.auth) || self.encryption != 'None'",message="has auth and the encryption None, with which the password could be read on the way: remove auth, or set encryption to StartTLS or TLS"
type EmailChannel struct {
	// host is the mail server's name, for example smtp.example.com, or its IP address.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="isIP(self) || self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$')",message="must be a host's name, such as smtp.example.com, or an IP address"
	Host string `json:"host,omitempty"`

	// port is the mail server's port: 587 is for StartTLS, 465 for TLS; 587 by default.
	// +optional
	// +default=587
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// encryption is StartTLS, TLS or None; StartTLS by default. With StartTLS nothing is
	// sent to a server that does not offer it. None is only for addresses that the
	// controller's flag --delivery-allow-networks contains.
	// +optional
	// +default="StartTLS"
	Encryption EmailEncryption `json:"encryption,omitempty"`

	// from is the sender's address, which has to be one that the server lets us use, for
	// example notifications@example.com.
	// +required
	From EmailAddress `json:"from,omitempty"`

	// to are the recipients, from 1 to 50. Where the server refuses one of them or
	// of cc, nobody is sent anything.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=50
	To []EmailAddress `json:"to,omitempty"`

	// cc are further recipients, up to 50.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=50
	CC []EmailAddress `json:"cc,omitempty"`

	// replyTo is where answers go, for example help@example.com. They go to from where it
	// is not given.
	// +optional
	ReplyTo EmailAddress `json:"replyTo,omitempty"`

	// auth is what the server asks for before it takes mail.
	// +optional
	Auth EmailAuth `json:"auth,omitzero"`
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
