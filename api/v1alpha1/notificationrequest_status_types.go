package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

	// checkpoint is what DataStorage signed its log to be when it acknowledged the
	// event: whoever keeps it can be shown that the event is in that log still.
	// +optional
	Checkpoint LogCheckpoint `json:"checkpoint,omitzero"`

	// recordedTime is when DataStorage acknowledged or rejected the event.
	// +optional
	RecordedTime *metav1.Time `json:"recordedTime,omitempty"`

	// message is DataStorage's reason for a rejected event.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
}

// LogCheckpoint says what DataStorage's log held at one time. It is there only
// where the log's key had signed it.
type LogCheckpoint struct {
	// size is the number of events in the log.
	// +required
	// +kubebuilder:validation:Minimum=1
	Size int64 `json:"size,omitempty"`

	// root is the root hash of the log's Merkle tree (RFC 6962), in base64.
	// +required
	// +kubebuilder:validation:MinLength=44
	// +kubebuilder:validation:MaxLength=44
	Root string `json:"root,omitempty"`
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

	// channelType is the channel's type at the time.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	ChannelType string `json:"channelType,omitempty"`

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

	// idempotent says whether the channel acts once on a message that it is sent
	// twice, as configured when the latest attempt began.
	// +optional
	Idempotent *bool `json:"idempotent,omitempty"`

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

// RouteReference names a NotificationRoute as it was at one time.
type RouteReference struct {
	// name is the route's name, in the request's namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// uid tells the route from another one that has its name later.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid,omitempty"`

	// generation is the generation of the route's spec that was used.
	// +required
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation,omitempty"`
}

// RoutedChannel is a channel that a request goes to without naming it.
type RoutedChannel struct {
	// name is the channel's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// namespace is where the NotificationChannel lives; the request's own where it
	// is not given.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// route is the first NotificationRoute that leads to the channel. No route does
	// to console where none matched.
	// +optional
	Route RouteReference `json:"route,omitzero"`

	// quietUntil is the end of the route's quiet hours, where they hold the message.
	// +optional
	QuietUntil *metav1.Time `json:"quietUntil,omitempty"`
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

// Duplicate names the request that stands for this one, since both have the same
// dedup.key.
//
// +kubebuilder:validation:XValidation:rule="has(self.suppressedTime) == has(self.audit)",message="needs both suppressedTime and audit, or neither"
type Duplicate struct {
	// name is the other request's name, in the same namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// uid is the other request's UID.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid,omitempty"`

	// suppressedTime is when the other request was seen to have reached a channel, so
	// that this one is not sent. Without it this request waits for the other, and is
	// sent in its place where that reaches none.
	// +optional
	SuppressedTime *metav1.MicroTime `json:"suppressedTime,omitempty"`

	// audit is the event that records that this request is not sent.
	// +optional
	Audit AuditRecord `json:"audit,omitzero"`
}

// NotificationRequestStatus says what happened, why, and where the evidence is.
//
// +kubebuilder:validation:MinProperties=1
type NotificationRequestStatus struct {
	// conditions are Ready, Reconciling, Stalled, Routed, Delivered, Audited and,
	// where an acknowledgement is asked for, Acknowledged.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// routedChannels are the channels of a request that names none, as the
	// NotificationRoutes said when the controller first saw it. They stay as they are,
	// whatever becomes of the routes.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	RoutedChannels []RoutedChannel `json:"routedChannels,omitempty"`

	// summary counts the deliveries.
	// +optional
	Summary Summary `json:"summary,omitzero"`

	// deliveries is the message on its way to each channel, those that it was escalated
	// to included.
	// +optional
	// +listType=map
	// +listMapKey=channel
	// +kubebuilder:validation:MaxItems=24
	Deliveries []Delivery `json:"deliveries,omitempty"`

	// duplicateOf is the request that stands for this one.
	// +optional
	DuplicateOf Duplicate `json:"duplicateOf,omitzero"`

	// acknowledgement is set once a person has acknowledged the message. The first one
	// stays.
	// +optional
	Acknowledgement Acknowledgement `json:"acknowledgement,omitzero"`

	// escalation is what happens, or has happened, where nobody acknowledges.
	// +optional
	Escalation Escalation `json:"escalation,omitzero"`

	// finishedTime is when the last delivery ended, the acknowledgement that was asked
	// for came or could come no more, or the request was suppressed.
	// +optional
	FinishedTime *metav1.MicroTime `json:"finishedTime,omitempty"`

	// cancellation is set where the request was deleted before it finished.
	// +optional
	Cancellation Cancellation `json:"cancellation,omitzero"`
}
