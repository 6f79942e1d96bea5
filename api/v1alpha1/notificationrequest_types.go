package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BodyFormat says how a body is written.
//
// +kubebuilder:validation:Enum=Plain;Markdown
type BodyFormat string

// RequestType says what kind of message a request is.
//
// +kubebuilder:validation:Enum=Simple;Escalation;StatusUpdate;Approval;ManualReview;Completion
type RequestType string

// Priority says how urgent a message is.
//
// +kubebuilder:validation:Enum=Critical;High;Medium;Low
type Priority string

// PriorityCritical is that of messages which no quiet hours hold back.
const PriorityCritical Priority = "Critical"

// AmbiguousPolicy says what becomes of an attempt whose outcome nobody can know.
//
// +kubebuilder:validation:Enum=Retry;Hold;AssumeSent
type AmbiguousPolicy string

// RequestMode says whether a request is sent.
//
// +kubebuilder:validation:Enum=Send;DryRun
type RequestMode string

// Modes of a request.
const (
	ModeSend   RequestMode = "Send"
	ModeDryRun RequestMode = "DryRun"
)

// Policies for an attempt in doubt.
const (
	AmbiguousRetry      AmbiguousPolicy = "Retry"
	AmbiguousHold       AmbiguousPolicy = "Hold"
	AmbiguousAssumeSent AmbiguousPolicy = "AssumeSent"
)

// ChannelReference names a channel.
//
// +kubebuilder:validation:XValidation:rule="self.name != 'console' || !has(self.__namespace__)",message="the channel console is built in and lives in no namespace: remove namespace"
type ChannelReference struct {
	// name is the name of a NotificationChannel, for example slack-alerts, or console,
	// which is built in and writes the message to the controller's output. Each name
	// may stand once.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="must be the name of a NotificationChannel, such as slack-alerts, or console: lower case letters, digits, '-' and '.', beginning and ending with a letter or a digit"
	Name string `json:"name,omitempty"`

	// namespace is where the NotificationChannel lives, for example platform; the
	// request's own by default. A channel in another namespace must list the request's
	// namespace in its allowedNamespaces.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be the name of a namespace, such as platform: lower case letters, digits and '-', beginning and ending with a letter or a digit"
	Namespace string `json:"namespace,omitempty"`
}

// ObjectReference names the object that a message is about.
type ObjectReference struct {
	// apiVersion is the object's group and version, for example apps/v1.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	APIVersion string `json:"apiVersion,omitempty"`

	// kind is the object's kind, for example Deployment.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind,omitempty"`

	// namespace is the object's namespace, for example shop; none for a cluster-wide
	// object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// name is the object's name, for example db-0.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// Link is a web address shown with the message.
type Link struct {
	// label is the text shown for the link, for example Runbook.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Label string `json:"label,omitempty"`

	// url is an http or https address, for example https://runbooks.example.com/disk.
	// +required
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.startsWith('https://') || self.startsWith('http://')",message="must start with https:// or http://"
	URL string `json:"url,omitempty"`
}

// RetryPolicy says how failed attempts are repeated. The wait before attempt n+1
// is drawn evenly from zero to initialDelay*2^(n-1), at most maxDelay; a longer
// Retry-After of the channel wins.
//
// +kubebuilder:validation:XValidation:rule="!self.initialDelay.matches('^([0-9]+(ms|s|m|h))+$') || !self.maxDelay.matches('^([0-9]+(ms|s|m|h))+$') || duration(self.initialDelay) <= duration(self.maxDelay)",message="has an initialDelay longer than its maxDelay: raise maxDelay or lower initialDelay"
// +kubebuilder:validation:MinProperties=1
type RetryPolicy struct {
	// maxAttempts is how often a channel is tried, from 1 to 20; 5 by default. Attempts
	// that fail because of a channel's configuration are not counted.
	// +optional
	// +default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=20
	MaxAttempts int32 `json:"maxAttempts,omitempty"`

	// initialDelay is the longest wait after the first failed attempt, up to 24h; 5s by
	// default.
	// +optional
	// +default="5s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be more than 0 and at most 24h"
	InitialDelay Duration `json:"initialDelay,omitempty"`

	// maxDelay is the longest wait between two attempts, up to 24h; 5m by default.
	// +optional
	// +default="5m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be more than 0 and at most 24h"
	MaxDelay Duration `json:"maxDelay,omitempty"`
}

// Dedup says which requests repeat one another.
type Dedup struct {
	// key is the same for all requests of a namespace that say the same thing, 1 to
	// 253 characters, for example disk-full/db-0.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="contains a NUL character: remove it"
	Key string `json:"key,omitempty"`

	// window is how far apart two requests with the same key may have been created
	// for the one to stand for the other, from 1s to 24h; 10m by default.
	// +optional
	// +default="10m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be from 1s to 24h"
	Window Duration `json:"window,omitempty"`
}

// NotificationRequestSpec is the message, where it goes and how hard to try. All
// of it but suspend is fixed once the request exists, so what was approved is
// what is sent.
//
// +kubebuilder:validation:XValidation:rule="has(self.severity) == has(oldSelf.severity) && has(self.correlationID) == has(oldSelf.correlationID) && has(self.regarding) == has(oldSelf.regarding) && has(self.channels) == has(oldSelf.channels) && has(self.links) == has(oldSelf.links) && has(self.fields) == has(oldSelf.fields) && has(self.notBefore) == has(oldSelf.notBefore) && has(self.ttlSecondsAfterFinished) == has(oldSelf.ttlSecondsAfterFinished) && has(self.dedup) == has(oldSelf.dedup) && has(self.acknowledge) == has(oldSelf.acknowledge)",message="cannot gain or lose a field, suspend excepted: create a new NotificationRequest instead"
// +kubebuilder:validation:XValidation:rule="!has(self.acknowledge) || !self.acknowledge.within.matches('^([0-9]+(ms|s|m|h))+$') || !self.deadline.matches('^([0-9]+(ms|s|m|h))+$') || duration(self.acknowledge.within) <= duration(self.deadline)",message="has an acknowledge.within longer than its deadline: raise deadline or lower acknowledge.within"
// +kubebuilder:validation:XValidation:rule="!has(self.acknowledge) || !has(self.acknowledge.escalateTo) || !has(self.channels) || self.acknowledge.escalateTo.all(e, !self.channels.exists(c, c.name == e.name))",message="has a channel in acknowledge.escalateTo that is among channels too: name it in one of them"
type NotificationRequestSpec struct {
	// subject is the message's first line, 1 to 500 characters, for example Disk of db-0
	// is 95% full.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=500
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="contains a NUL character: remove it"
	Subject string `json:"subject,omitempty"`

	// body is the message's text, 1 to 32768 characters, for example It will be full in
	// about two hours.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32768
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="contains a NUL character: remove it"
	Body string `json:"body,omitempty"`

	// bodyFormat says how body is written: Plain or Markdown; Plain by default. A channel
	// that cannot show Markdown shows the text as it stands.
	// +optional
	// +default="Plain"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	BodyFormat BodyFormat `json:"bodyFormat,omitempty"`

	// type says what kind of message this is: Simple, Escalation, StatusUpdate,
	// Approval, ManualReview or Completion; Simple by default.
	// +optional
	// +default="Simple"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Type RequestType `json:"type,omitempty"`

	// priority says how urgent the message is: Critical, High, Medium or Low; Medium by
	// default.
	// +optional
	// +default="Medium"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Priority Priority `json:"priority,omitempty"`

	// severity is a word of your own, shown with the message, up to 64 characters, for
	// example sev2.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="contains a NUL character: remove it"
	Severity string `json:"severity,omitempty"`

	// correlationID ties the audit events of this request to those of an incident,
	// 1 to 253 characters, for example incident-4711. The request's UID is used where it
	// is not given.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="contains a NUL character: remove it"
	CorrelationID string `json:"correlationID,omitempty"`

	// regarding is the object that the message is about.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Regarding ObjectReference `json:"regarding,omitzero"`

	// channels says where the message goes, up to 16 channels. Where none is given
	// the NotificationRoutes of the namespace say it, and where none of them matches
	// the channel console is used.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Channels []ChannelReference `json:"channels,omitempty"`

	// links are web addresses shown with the message, up to 16.
	// +optional
	// +listType=map
	// +listMapKey=label
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Links []Link `json:"links,omitempty"`

	// fields are short facts shown with the message and recorded with its audit
	// events, up to 32, for example node: worker-3. A name has up to 63 characters, a
	// value up to 1024.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) >= 1 && size(k) <= 63 && !k.contains('\\u0000'))",message="has a name that is empty, longer than 63 characters, or contains a NUL character"
	Fields map[string]FieldValue `json:"fields,omitempty"`

	// retry says how failed attempts are repeated: by default 5 times, with waits of up
	// to 5s at first and 5m later.
	// +optional
	// +default={"maxAttempts": 5, "initialDelay": "5s", "maxDelay": "5m"}
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Retry RetryPolicy `json:"retry,omitzero"`

	// deadline is the whole time a message has, from its creation, from notBefore, from
	// the end of a route's quiet hours or from its escalation, up to 720h; 24h by default.
	// What is not sent by then has failed. It runs on while suspended.
	// +optional
	// +default="24h"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) > duration('0s') && duration(self) <= duration('720h')",message="must be more than 0 and at most 720h"
	Deadline Duration `json:"deadline,omitempty"`

	// onAmbiguous says what to do with an attempt whose outcome nobody can know, on
	// a channel without idempotency of its own; Retry by default. Retry sends again, and
	// the message may arrive twice; Hold waits for the annotation
	// notification.kubernaut.ai/resolve with <channel>=Sent, <channel>=Retry or
	// <channel>=Failed; AssumeSent takes it as sent. Where Retry has led to a
	// possible duplicate already, another attempt in doubt is held as with Hold.
	// +optional
	// +default="Retry"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	OnAmbiguous AmbiguousPolicy `json:"onAmbiguous,omitempty"`

	// notBefore is the earliest time to send, for example 2026-12-24T18:00:00Z.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}([.][0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$') && timestamp(self) > timestamp('0001-01-01T00:00:00Z')",message="must be a time such as 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf || timestamp(self) == timestamp(oldSelf)",message="cannot be changed: create a new NotificationRequest instead"
	NotBefore *metav1.Time `json:"notBefore,omitempty"`

	// dedup lets one request stand for others that say the same thing: where one with
	// the same key has reached a channel, this one is not sent, and its status says
	// which one it repeats. While that is not certain it waits.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Dedup Dedup `json:"dedup,omitzero"`

	// mode is Send or DryRun; Send by default. A dry run finds the channels, makes the
	// content of each message and says in deliveries what would have been sent, or why
	// it could not be, to the channels of acknowledge.escalateTo too. It sends nothing,
	// waits for nothing, and is recorded as a dry run.
	// +optional
	// +default="Send"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Mode RequestMode `json:"mode,omitempty"`

	// acknowledge asks for a person to acknowledge the message by a link that goes out
	// with it, and says what happens where nobody does. The request is not finished
	// before somebody has, or nobody can any more.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Acknowledge Acknowledge `json:"acknowledge,omitzero"`

	// ttlSecondsAfterFinished deletes the request this many seconds after it finished,
	// for example 86400 for a day, and not before all its events are recorded and its
	// dedup.window is over. It stays where this is not given.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`

	// suspend holds back every attempt that has not begun; false by default. It is the
	// one field that may be changed.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
}

// FieldValue is the value of one field, for example worker-3.
//
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="contains a NUL character: remove it"
type FieldValue string

// NotificationRequest is one message to one or more channels. Like a Job it runs
// once. The controller delivers it and records what happened in DataStorage; the
// object stays until every event is recorded.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=nr,categories=notification
// +kubebuilder:selectablefield:JSONPath=`.spec.type`
// +kubebuilder:selectablefield:JSONPath=`.spec.priority`
// +kubebuilder:selectablefield:JSONPath=`.spec.correlationID`
// +kubebuilder:selectablefield:JSONPath=`.spec.dedup.key`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Sent",type=string,JSONPath=`.status.summary.ratio`
// +kubebuilder:printcolumn:name="Audited",type=string,JSONPath=`.status.conditions[?(@.type=="Audited")].status`
// +kubebuilder:printcolumn:name="Stalled",type=string,JSONPath=`.status.conditions[?(@.type=="Stalled")].reason`
// +kubebuilder:printcolumn:name="Acknowledged",type=string,JSONPath=`.status.conditions[?(@.type=="Acknowledged")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Channels",type=string,JSONPath=`.status.summary.channels`,priority=1
// +kubebuilder:printcolumn:name="Priority",type=string,JSONPath=`.spec.priority`,priority=1
// +kubebuilder:printcolumn:name="Correlation ID",type=string,JSONPath=`.spec.correlationID`,priority=1
type NotificationRequest struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is the message, where it goes and how hard to try.
	// +required
	Spec NotificationRequestSpec `json:"spec,omitzero"`

	// status says what happened, why, and where the evidence is.
	// +optional
	Status NotificationRequestStatus `json:"status,omitzero"`
}

// NotificationRequestList is a list of NotificationRequests.
//
// +kubebuilder:object:root=true
type NotificationRequestList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NotificationRequest `json:"items"`
}
