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
// +kubebuilder:validation:Enum=Transient;Permanent;Config;Ambiguous;Cancelled;Expired;DryRun
type ErrorClass string

// Error classes. The first four are decided by the channel's sender; Cancelled
// and Expired by the controller, for a deleted request and a passed deadline, and
// DryRun for a message that was never to be sent.
const (
	ErrorTransient ErrorClass = "Transient"
	ErrorPermanent ErrorClass = "Permanent"
	ErrorConfig    ErrorClass = "Config"
	ErrorAmbiguous ErrorClass = "Ambiguous"
	ErrorCancelled ErrorClass = "Cancelled"
	ErrorExpired   ErrorClass = "Expired"
	ErrorDryRun    ErrorClass = "DryRun"
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
	// Cancelled and Expired end a delivery, DryRun says that the message was not to
	// be sent.
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

// FollowUpMode says how a message is shown that follows an earlier one.
//
// +kubebuilder:validation:Enum=Separate;Reply;Update
type FollowUpMode string

// How a message is shown that follows an earlier one.
const (
	FollowUpSeparate FollowUpMode = "Separate"
	FollowUpReply    FollowUpMode = "Reply"
	FollowUpUpdate   FollowUpMode = "Update"
)

// FollowUp says which earlier message on the channel a message follows, and how.
type FollowUp struct {
	// mode is Reply or Update as decided for the first attempt, or Separate where it
	// turned out that neither can be.
	// +required
	Mode FollowUpMode `json:"mode,omitempty"`

	// externalID is the channel's receipt for the earlier message.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ExternalID string `json:"externalID,omitempty"`
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
	// twice, as configured when the latest attempt began. A message that takes the
	// place of another may be sent twice.
	// +optional
	Idempotent *bool `json:"idempotent,omitempty"`

	// attempts is how often the message was sent, whatever came of it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Attempts int32 `json:"attempts,omitempty"`

	// uncountedAttempts is how many of the attempts failed because of the channel's
	// configuration, or of what the message follows, and are not held against
	// retry.maxAttempts.
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

	// followUp is the earlier message that this one follows, where the channel shows
	// messages with one correlationID together. It is decided with the first attempt.
	// +optional
	FollowUp FollowUp `json:"followUp,omitzero"`

	// contentDigest is the SHA-256 of what was last sent, or in a dry run would have
	// been.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=71
	ContentDigest string `json:"contentDigest,omitempty"`

	// contentSize is the size of the same, in bytes.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ContentSize int64 `json:"contentSize,omitempty"`

	// templateError is why the channel's template was not used, up to 256 characters:
	// the message goes out as the request has it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	TemplateError string `json:"templateError,omitempty"`

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
