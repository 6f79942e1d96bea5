package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Acknowledge asks for a person to say that the message was seen.
//
// +kubebuilder:validation:MinProperties=1
type Acknowledge struct {
	// required is true, which it is by default too: whoever wants no acknowledgement
	// leaves acknowledge out.
	// +optional
	// +default=true
	// +kubebuilder:validation:XValidation:rule="self",message="must be true: leave acknowledge out where nobody has to acknowledge"
	Required *bool `json:"required,omitempty"`

	// within is how long a person has once the first channel has accepted the message,
	// from 1m to 24h and not longer than deadline; 15m by default. Where no channel
	// accepts it, the time runs from when it could first be sent.
	// +optional
	// +default="15m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+(ms|s|m|h))+$') || duration(self) >= duration('1m') && duration(self) <= duration('24h')",message="must be from 1m to 24h"
	Within Duration `json:"within,omitempty"`

	// escalateTo are up to 8 channels that get the message too where nobody has
	// acknowledged it within that time, or at once where no channel can be reached. None
	// of them may be among channels; one that a route leads to already gets no second
	// message.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	EscalateTo []ChannelReference `json:"escalateTo,omitempty"`
}

// EscalationReason says why a message went to further channels.
//
// +kubebuilder:validation:Enum=Unanswered;NotReached
type EscalationReason string

// Reasons of an escalation. Unanswered: a channel accepted the message and nobody
// acknowledged it in time. NotReached: no channel accepted it.
const (
	EscalationUnanswered EscalationReason = "Unanswered"
	EscalationNotReached EscalationReason = "NotReached"
)

// Acknowledgement is a person's word that the message was seen.
type Acknowledgement struct {
	// time is when the link's button was pressed.
	// +required
	Time *metav1.MicroTime `json:"time,omitempty"`

	// channel is the channel whose link it was.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Channel string `json:"channel,omitempty"`

	// by is the name that the person typed, if any. Nobody has verified it: all that is
	// certain is that whoever it was had the link that was sent to the channel.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=100
	By string `json:"by,omitempty"`

	// audit is the event that records it.
	// +required
	Audit AuditRecord `json:"audit,omitzero"`
}

// Escalation says when a message that nobody acknowledges goes to further
// channels, or that it has.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.time) == has(self.audit) && has(self.time) == has(self.reason) && has(self.time) == has(self.channels)",message="needs all of time, reason, channels and audit, or none"
type Escalation struct {
	// dueTime is when the time to acknowledge is over.
	// +optional
	DueTime *metav1.MicroTime `json:"dueTime,omitempty"`

	// time is when the message was escalated.
	// +optional
	Time *metav1.MicroTime `json:"time,omitempty"`

	// reason is Unanswered, or NotReached where no channel had accepted the message.
	// +optional
	Reason EscalationReason `json:"reason,omitempty"`

	// channels are the names of the channels that it was escalated to.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Channels []string `json:"channels,omitempty"`

	// audit is the event that records it.
	// +optional
	Audit AuditRecord `json:"audit,omitzero"`
}
