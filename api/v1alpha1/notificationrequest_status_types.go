package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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

	// failed is the number of channels that did not get the message, or in a dry run
	// would not have got it.
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

	// channels are the names of the channels as one text, for example
	// console,slack-alerts; what is longer than 256 characters is cut. A column cannot
	// show more than the first member of a list.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Channels string `json:"channels,omitempty"`
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

// Redaction says how many secrets of one kind were masked in one part of the
// message.
type Redaction struct {
	// part is where in spec they are, for example body, fields[note] or links[0].url.
	// A field's name that has a secret itself is masked here too.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Part string `json:"part,omitempty"`

	// kind is what they are, for example Password or GitHubToken.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Kind string `json:"kind,omitempty"`

	// count is how many there are.
	// +required
	// +kubebuilder:validation:Minimum=1
	Count int32 `json:"count,omitempty"`
}

// NotificationRequestStatus says what happened, why, and where the evidence is.
//
// +kubebuilder:validation:MinProperties=1
type NotificationRequestStatus struct {
	// conditions are Ready, Reconciling, Stalled, Routed, Delivered, Audited, Redacted
	// and, where an acknowledgement is asked for, Acknowledged.
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

	// redactions are the secrets in spec that are masked in all that is sent and
	// recorded. They are in spec still, where whoever can read this request can read
	// them. Of more than 64 entries the last stands for the rest.
	// +optional
	// +listType=map
	// +listMapKey=part
	// +listMapKey=kind
	// +kubebuilder:validation:MaxItems=64
	Redactions []Redaction `json:"redactions,omitempty"`

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
