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

// AmbiguousPolicy says what becomes of an attempt whose outcome nobody can know.
//
// +kubebuilder:validation:Enum=Retry;Hold;AssumeSent
type AmbiguousPolicy string

// Policies for an attempt in doubt.
const (
	AmbiguousRetry      AmbiguousPolicy = "Retry"
	AmbiguousHold       AmbiguousPolicy = "Hold"
	AmbiguousAssumeSent AmbiguousPolicy = "AssumeSent"
)

// DeliveryState says how far the delivery to one channel is.
//
// +kubebuilder:validation:Enum=Pending;InFlight;Retrying;Sent;Failed;Ambiguous;Skipped
type DeliveryState string

// Delivery states. Sent, Failed and Skipped are final.
const (
	DeliveryPending   DeliveryState = "Pending"
	DeliveryInFlight  DeliveryState = "InFlight"
	DeliveryRetrying  DeliveryState = "Retrying"
	DeliverySent      DeliveryState = "Sent"
	DeliveryFailed    DeliveryState = "Failed"
	DeliveryAmbiguous DeliveryState = "Ambiguous"
	DeliverySkipped   DeliveryState = "Skipped"
)

// Final reports whether nothing more will be sent.
func (s DeliveryState) Final() bool {
	return s == DeliverySent || s == DeliveryFailed || s == DeliverySkipped
}

// AuditState says where an audit event is.
//
// +kubebuilder:validation:Enum=Pending;Recorded;Rejected
type AuditState string

// Audit states. Recorded: DataStorage holds the event. Rejected: DataStorage
// refused it and it is set aside with the reason.
const (
	AuditPending  AuditState = "Pending"
	AuditRecorded AuditState = "Recorded"
	AuditRejected AuditState = "Rejected"
)

// ErrorClass says what an error means for the delivery.
//
// +kubebuilder:validation:Enum=Transient;Permanent;Config;Ambiguous;Cancelled;Expired
type ErrorClass string

// Error classes. The first four are decided by the channel's sender; Cancelled
// and Expired by the controller, for a deleted request and a passed deadline.
const (
	ErrorTransient ErrorClass = "Transient"
	ErrorPermanent ErrorClass = "Permanent"
	ErrorConfig    ErrorClass = "Config"
	ErrorAmbiguous ErrorClass = "Ambiguous"
	ErrorCancelled ErrorClass = "Cancelled"
	ErrorExpired   ErrorClass = "Expired"
)

// ChannelReference names a channel.
//
// +kubebuilder:validation:XValidation:rule="self.name != 'console' || !has(self.__namespace__)",message="the channel console is built in and lives in no namespace: remove namespace"
type ChannelReference struct {
	// name is the name of a NotificationChannel, or console, which is built in and
	// writes the message to the controller's output. Each name may stand once.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// namespace is where the NotificationChannel lives; the request's own where it
	// is not given. A channel in another namespace must list the request's
	// namespace in its allowedNamespaces.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
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

	// namespace is the object's namespace; none for a cluster-wide object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// name is the object's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// Link is a web address shown with the message.
type Link struct {
	// label is the text shown for the link.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Label string `json:"label,omitempty"`

	// url is an http or https address.
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
// +kubebuilder:validation:XValidation:rule="duration(self.initialDelay) <= duration(self.maxDelay)",message="has an initialDelay longer than its maxDelay: raise maxDelay or lower initialDelay"
// +kubebuilder:validation:MinProperties=1
type RetryPolicy struct {
	// maxAttempts is how often a channel is tried, from 1 to 20. Attempts that fail
	// because of a channel's configuration are not counted.
	// +optional
	// +default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=20
	MaxAttempts int32 `json:"maxAttempts,omitempty"`

	// initialDelay is the longest wait after the first failed attempt, for example 5s.
	// +optional
	// +default="5s"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be more than 0 and at most 24h"
	InitialDelay Duration `json:"initialDelay,omitempty"`

	// maxDelay is the longest wait between two attempts, for example 5m.
	// +optional
	// +default="5m"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be more than 0 and at most 24h"
	MaxDelay Duration `json:"maxDelay,omitempty"`
}

// NotificationRequestSpec is the message, where it goes and how hard to try. All
// of it but suspend is fixed once the request exists, so what was approved is
// what is sent.
//
// +kubebuilder:validation:XValidation:rule="has(self.severity) == has(oldSelf.severity) && has(self.correlationID) == has(oldSelf.correlationID) && has(self.regarding) == has(oldSelf.regarding) && has(self.channels) == has(oldSelf.channels) && has(self.links) == has(oldSelf.links) && has(self.fields) == has(oldSelf.fields) && has(self.notBefore) == has(oldSelf.notBefore) && has(self.ttlSecondsAfterFinished) == has(oldSelf.ttlSecondsAfterFinished)",message="cannot gain or lose a field, suspend excepted: create a new NotificationRequest instead"
type NotificationRequestSpec struct {
	// subject is the message's first line, 1 to 500 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=500
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Subject string `json:"subject,omitempty"`

	// body is the message's text, 1 to 32768 characters.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32768
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Body string `json:"body,omitempty"`

	// bodyFormat says how body is written: Plain or Markdown. A channel that cannot
	// show Markdown shows the text as it stands.
	// +optional
	// +default="Plain"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	BodyFormat BodyFormat `json:"bodyFormat,omitempty"`

	// type says what kind of message this is: Simple, Escalation, StatusUpdate,
	// Approval, ManualReview or Completion.
	// +optional
	// +default="Simple"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Type RequestType `json:"type,omitempty"`

	// priority says how urgent the message is: Critical, High, Medium or Low.
	// +optional
	// +default="Medium"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Priority Priority `json:"priority,omitempty"`

	// severity is a word of your own, shown with the message, up to 64 characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Severity string `json:"severity,omitempty"`

	// correlationID ties the audit events of this request to those of an incident,
	// 1 to 253 characters. The request's UID is used where it is not given.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	CorrelationID string `json:"correlationID,omitempty"`

	// regarding is the object that the message is about.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Regarding ObjectReference `json:"regarding,omitzero"`

	// channels says where the message goes, up to 16 channels. The channel console
	// is used where none is given.
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
	// events, up to 32. A name has up to 63 characters, a value up to 1024.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) >= 1 && size(k) <= 63)",message="has a name that is empty or longer than 63 characters: shorten it"
	Fields map[string]FieldValue `json:"fields,omitempty"`

	// retry says how failed attempts are repeated.
	// +optional
	// +default={"maxAttempts": 5, "initialDelay": "5s", "maxDelay": "5m"}
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	Retry RetryPolicy `json:"retry,omitzero"`

	// deadline is the whole time a message has, from its creation or from notBefore,
	// up to 720h. What is not sent by then has failed. It runs on while suspended.
	// +optional
	// +default="24h"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('720h')",message="must be more than 0 and at most 720h"
	Deadline Duration `json:"deadline,omitempty"`

	// onAmbiguous says what to do with an attempt whose outcome nobody can know, on
	// a channel without idempotency of its own: Retry sends again, and the message
	// may arrive twice; Hold waits for the annotation
	// notification.kubernaut.ai/resolve with <channel>=Sent, <channel>=Retry or
	// <channel>=Failed; AssumeSent takes it as sent.
	// +optional
	// +default="Retry"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	OnAmbiguous AmbiguousPolicy `json:"onAmbiguous,omitempty"`

	// notBefore is the earliest time to send, for example 2026-12-24T18:00:00Z.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	NotBefore *metav1.Time `json:"notBefore,omitempty"`

	// ttlSecondsAfterFinished deletes the request this long after it finished and
	// all its events are recorded. It stays where this is not given.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: create a new NotificationRequest instead"
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`

	// suspend holds back every attempt that has not begun. It is the one field that
	// may be changed.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
}

// FieldValue is the value of one field.
//
// +kubebuilder:validation:MaxLength=1024
type FieldValue string

// AuditRecord says where one audit event is: the evidence for a fact in status.
type AuditRecord struct {
	// eventID is the event's ID in DataStorage.
	// +required
	// +kubebuilder:validation:MinLength=36
	// +kubebuilder:validation:MaxLength=36
	EventID string `json:"eventID,omitempty"`

	// state is Pending until DataStorage has answered, then Recorded or Rejected.
	// +required
	State AuditState `json:"state,omitempty"`

	// logIndex is the event's place in DataStorage's log.
	// +optional
	// +kubebuilder:validation:Minimum=0
	LogIndex *int64 `json:"logIndex,omitempty"`

	// recordedTime is when DataStorage acknowledged or rejected the event.
	// +optional
	RecordedTime *metav1.Time `json:"recordedTime,omitempty"`

	// message is DataStorage's reason for a rejected event.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
}

// DeliveryError is why something was not sent.
type DeliveryError struct {
	// class is what the error means: Transient is tried again, Permanent is not,
	// Config waits until the channel or its Secret changes, Ambiguous is in doubt,
	// Cancelled and Expired end a delivery.
	// +required
	Class ErrorClass `json:"class,omitempty"`

	// reason is the error in one word, for example RateLimited.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`

	// code is the channel's own code, for example 503.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Code string `json:"code,omitempty"`

	// message is the error in a sentence, up to 256 characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
}

// AttemptFailure is one attempt that did not succeed.
type AttemptFailure struct {
	// attempt is the attempt's number, from 1.
	// +required
	// +kubebuilder:validation:Minimum=1
	Attempt int32 `json:"attempt,omitempty"`

	// startedTime is when the attempt began.
	// +required
	StartedTime *metav1.MicroTime `json:"startedTime,omitempty"`

	// time is when the attempt failed, or was found to be in doubt.
	// +required
	Time *metav1.MicroTime `json:"time,omitempty"`

	// error is why it failed.
	// +required
	Error DeliveryError `json:"error,omitzero"`

	// contentDigest is the SHA-256 of what was sent, where anything was.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=71
	ContentDigest string `json:"contentDigest,omitempty"`

	// audit is the event that records this attempt.
	// +required
	Audit AuditRecord `json:"audit,omitzero"`
}

// Delivery is the message on its way to one channel.
type Delivery struct {
	// channel is the channel's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Channel string `json:"channel,omitempty"`

	// channelType is the channel's type when it was last tried.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	ChannelType string `json:"channelType,omitempty"`

	// state is Pending (not tried yet), InFlight, Retrying, Ambiguous (held, in
	// doubt), Sent, Failed, or Skipped (ended before anything was sent).
	// +required
	State DeliveryState `json:"state,omitempty"`

	// attempts is how often the message was sent, whatever came of it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Attempts int32 `json:"attempts,omitempty"`

	// uncountedAttempts is how many of the attempts failed because of the channel's
	// configuration and are not held against retry.maxAttempts.
	// +optional
	// +kubebuilder:validation:Minimum=1
	UncountedAttempts int32 `json:"uncountedAttempts,omitempty"`

	// startedTime is when the latest attempt began.
	// +optional
	StartedTime *metav1.MicroTime `json:"startedTime,omitempty"`

	// attemptDeadline is when the latest attempt, if nobody reports its outcome,
	// counts as in doubt.
	// +optional
	AttemptDeadline *metav1.MicroTime `json:"attemptDeadline,omitempty"`

	// nextAttemptTime is when the next attempt is due.
	// +optional
	NextAttemptTime *metav1.MicroTime `json:"nextAttemptTime,omitempty"`

	// sentTime is when the channel accepted the message.
	// +optional
	SentTime *metav1.MicroTime `json:"sentTime,omitempty"`

	// failedTime is when the delivery ended without success.
	// +optional
	FailedTime *metav1.MicroTime `json:"failedTime,omitempty"`

	// externalID is the channel's own receipt, for example a message ID.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ExternalID string `json:"externalID,omitempty"`

	// contentDigest is the SHA-256 of what was last sent.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=71
	ContentDigest string `json:"contentDigest,omitempty"`

	// possibleDuplicate says that the message may have arrived more than once.
	// +optional
	PossibleDuplicate *bool `json:"possibleDuplicate,omitempty"`

	// heldConfig identifies the channel's configuration that the channel refused;
	// another one is tried at once.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	HeldConfig string `json:"heldConfig,omitempty"`

	// lastError is why the message is not sent yet, or was not sent.
	// +optional
	LastError DeliveryError `json:"lastError,omitzero"`

	// attemptFailures are the attempts that did not succeed. The oldest ones are
	// removed, once they are recorded, when there are more than 20.
	// +optional
	// +listType=map
	// +listMapKey=attempt
	// +kubebuilder:validation:MaxItems=20
	AttemptFailures []AttemptFailure `json:"attemptFailures,omitempty"`

	// audit is the event that records the end of this delivery.
	// +optional
	Audit AuditRecord `json:"audit,omitzero"`
}

// Summary counts the deliveries of a request.
type Summary struct {
	// total is the number of channels.
	// +required
	// +kubebuilder:validation:Minimum=0
	Total *int32 `json:"total,omitempty"`

	// sent is the number of channels that accepted the message.
	// +required
	// +kubebuilder:validation:Minimum=0
	Sent *int32 `json:"sent,omitempty"`

	// failed is the number of channels that did not get the message.
	// +required
	// +kubebuilder:validation:Minimum=0
	Failed *int32 `json:"failed,omitempty"`

	// pending is the number of channels that are not finished.
	// +required
	// +kubebuilder:validation:Minimum=0
	Pending *int32 `json:"pending,omitempty"`

	// audited is the number of channels whose end is recorded.
	// +required
	// +kubebuilder:validation:Minimum=0
	Audited *int32 `json:"audited,omitempty"`

	// ratio is sent and total as one text, for example 2/2.
	// +required
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=8
	Ratio string `json:"ratio,omitempty"`
}

// Cancellation says that the request was deleted before it finished.
type Cancellation struct {
	// time is when the deletion was asked for.
	// +required
	Time *metav1.Time `json:"time,omitempty"`

	// audit is the event that records it.
	// +required
	Audit AuditRecord `json:"audit,omitzero"`
}

// NotificationRequestStatus says what happened, why, and where the evidence is.
//
// +kubebuilder:validation:MinProperties=1
type NotificationRequestStatus struct {
	// conditions are Ready, Reconciling, Stalled, Delivered and Audited.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// summary counts the deliveries.
	// +optional
	Summary Summary `json:"summary,omitzero"`

	// deliveries is the message on its way to each channel.
	// +optional
	// +listType=map
	// +listMapKey=channel
	// +kubebuilder:validation:MaxItems=16
	Deliveries []Delivery `json:"deliveries,omitempty"`

	// finishedTime is when the last delivery ended.
	// +optional
	FinishedTime *metav1.MicroTime `json:"finishedTime,omitempty"`

	// cancellation is set where the request was deleted before it finished.
	// +optional
	Cancellation Cancellation `json:"cancellation,omitzero"`
}

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
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Sent",type=string,JSONPath=`.status.summary.ratio`
// +kubebuilder:printcolumn:name="Audited",type=string,JSONPath=`.status.conditions[?(@.type=="Audited")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
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
