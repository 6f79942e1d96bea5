package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ChannelFailure is the latest failure on a channel.
type ChannelFailure struct {
	// time is when it happened.
	// +required
	Time *metav1.Time `json:"time,omitempty"`

	// error is what happened.
	// +required
	Error DeliveryError `json:"error,omitzero"`
}

// CircuitState says whether messages go to a channel.
//
// +kubebuilder:validation:Enum=Closed;Open;HalfOpen
type CircuitState string

// Circuit states.
const (
	CircuitClosed   CircuitState = "Closed"
	CircuitOpen     CircuitState = "Open"
	CircuitHalfOpen CircuitState = "HalfOpen"
)

// ChannelCircuit keeps messages from a channel that fails, until one of them that is
// let through as a trial finds it to work again.
type ChannelCircuit struct {
	// state is Closed where messages go to the channel; Open where the channel has
	// failed 5 times in a row and messages wait; HalfOpen while one message is on its
	// way as a trial.
	// +required
	State CircuitState `json:"state,omitempty"`

	// since is when the channel was found to fail.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`

	// nextTrialTime is when the next message goes to the channel as a trial. A change
	// of the channel or one of its Secrets lets one go at once.
	// +optional
	NextTrialTime *metav1.MicroTime `json:"nextTrialTime,omitempty"`

	// failedTrials is how many trials have failed since then. The pauses between them
	// grow from 30 seconds to 5 minutes.
	// +optional
	// +kubebuilder:validation:Minimum=1
	FailedTrials int32 `json:"failedTrials,omitempty"`

	// lastError is how the channel failed last.
	// +optional
	LastError DeliveryError `json:"lastError,omitzero"`

	// heldConfig identifies the channel's configuration that this is about.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	HeldConfig string `json:"heldConfig,omitempty"`
}

// ProbeState says what became of a probe.
//
// +kubebuilder:validation:Enum=InFlight;Sent;Failed;Interrupted
type ProbeState string

// Probe states. All but InFlight are final.
const (
	ProbeInFlight    ProbeState = "InFlight"
	ProbeSent        ProbeState = "Sent"
	ProbeFailed      ProbeState = "Failed"
	ProbeInterrupted ProbeState = "Interrupted"
)

// ChannelProbe is the latest test message.
type ChannelProbe struct {
	// requestedAt is the value of the annotation that asked for it, as far as 64
	// bytes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RequestedAt string `json:"requestedAt,omitempty"`

	// state is InFlight, Sent (the channel accepted it), Failed, or Interrupted: the
	// controller stopped meanwhile, and nobody knows whether it arrived. It is not
	// sent again for the same value.
	// +required
	State ProbeState `json:"state,omitempty"`

	// startedTime is when it was sent.
	// +required
	StartedTime *metav1.MicroTime `json:"startedTime,omitempty"`

	// deadline is when a probe whose outcome nobody reports counts as interrupted.
	// +optional
	Deadline *metav1.MicroTime `json:"deadline,omitempty"`

	// finishedTime is when the channel's answer came, or was no longer waited for.
	// +optional
	FinishedTime *metav1.MicroTime `json:"finishedTime,omitempty"`

	// duration is how long the channel took, for example 142ms.
	// +optional
	Duration Duration `json:"duration,omitempty"`

	// externalID is the channel's own receipt.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ExternalID string `json:"externalID,omitempty"`

	// error is why it was not sent.
	// +optional
	Error DeliveryError `json:"error,omitzero"`
}

// NotificationChannelStatus says whether the channel can be used.
//
// +kubebuilder:validation:MinProperties=1
type NotificationChannelStatus struct {
	// conditions hold Ready: whether the configuration is complete, its Secrets
	// included, and the channel is not suspended; and, where there is a template,
	// TemplateValid: whether it can be used. Messages are sent although it cannot.
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

	// circuit says whether messages go to the channel, and why not.
	// +optional
	Circuit ChannelCircuit `json:"circuit,omitzero"`

	// throttledUntil is until when the receiver has asked for no more messages. It is
	// not given for less than 30 seconds.
	// +optional
	ThrottledUntil *metav1.MicroTime `json:"throttledUntil,omitempty"`

	// probe is the latest test message, which a new value of the annotation
	// notification.kubernaut.ai/probe-requested-at sends.
	// +optional
	Probe ChannelProbe `json:"probe,omitzero"`
}
