package v1alpha1

import "time"

// Condition types. A condition that is not listed in an object's status is False.
const (
	// ConditionReady says whether every channel has accepted the message (a request)
	// or the channel or the route can be used.
	ConditionReady = "Ready"
	// ConditionReconciling is True while the controller is still at work.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True where nothing will change until a person acts.
	ConditionStalled = "Stalled"
	// ConditionDelivered is a request's Ready, by the name that goes with Audited.
	ConditionDelivered = "Delivered"
	// ConditionRouted says how a request got its channels. It is True once it has them.
	ConditionRouted = "Routed"
	// ConditionTemplateValid says whether a channel's template can be used. A channel
	// without a template does not have it.
	ConditionTemplateValid = "TemplateValid"
	// ConditionAcknowledged says whether a person has acknowledged a request that asks
	// for it.
	ConditionAcknowledged = "Acknowledged"
	// ConditionAudited is True once DataStorage holds every event of a finished request.
	ConditionAudited = "Audited"
	// ConditionRedacted is True where the request has secrets that were masked in
	// what was sent and recorded.
	ConditionRedacted = "Redacted"
)

// Reasons of a NotificationRequest's Ready condition.
const (
	ReasonPending       = "Pending"
	ReasonSending       = "Sending"
	ReasonRetrying      = "Retrying"
	ReasonSuspended     = "Suspended"
	ReasonSent          = "Sent"
	ReasonPartiallySent = "PartiallySent"
	ReasonFailed        = "Failed"
	ReasonSuppressed    = "Suppressed"
	ReasonDryRun        = "DryRun"
	ReasonDryRunFailed  = "DryRunFailed"
)

// Reasons of the other conditions.
const (
	ReasonAmbiguous           = "Ambiguous"
	ReasonRecorded            = "Recorded"
	ReasonRejected            = "Rejected"
	ReasonConfigResolved      = "ConfigResolved"
	ReasonSecretNotFound      = "SecretNotFound"
	ReasonChannelNotFound     = "ChannelNotFound"
	ReasonNamespaceNotAllowed = "NamespaceNotAllowed"
	ReasonCancelled           = "Cancelled"
	ReasonQuietHours          = "QuietHours"
)

// Reasons of a NotificationRequest's Acknowledged condition, besides Cancelled and
// Suppressed.
const (
	ReasonAcknowledged  = "Acknowledged"
	ReasonWaiting       = "Waiting"
	ReasonNotConfigured = "NotConfigured"
	ReasonEscalated     = "Escalated"
	ReasonUnanswered    = "Unanswered"
	ReasonNotAsked      = "NotAsked"
)

// Reasons of a NotificationRequest's Routed condition.
const (
	ReasonChannelsGiven  = "ChannelsGiven"
	ReasonRouteMatched   = "RouteMatched"
	ReasonNoRouteMatched = "NoRouteMatched"
)

// Reasons of a NotificationChannel's TemplateValid condition.
const (
	ReasonTemplateParsed  = "TemplateParsed"
	ReasonInvalidTemplate = "InvalidTemplate"
)

// Reasons of Events about a NotificationChannel, besides those of its conditions.
const (
	ReasonCircuitOpened    = "CircuitOpened"
	ReasonCircuitClosed    = "CircuitClosed"
	ReasonProbeFailed      = "ProbeFailed"
	ReasonProbeInterrupted = "ProbeInterrupted"
)

// Reasons of a NotificationRoute's Ready condition.
const (
	ReasonRouteValid      = "RouteValid"
	ReasonInvalidPattern  = "InvalidPattern"
	ReasonInvalidTimeZone = "InvalidTimeZone"
	ReasonAlwaysQuiet     = "AlwaysQuiet"
	ReasonSecretsMasked   = "SecretsMasked"
)

const (
	// Finalizer holds a request until all its audit events are recorded.
	Finalizer = "notification.kubernaut.ai/audit"
	// ResolveAnnotation settles a delivery that is held because its outcome is in
	// doubt: "<channel>=Sent", "<channel>=Retry" or "<channel>=Failed", several
	// separated by commas.
	ResolveAnnotation = "notification.kubernaut.ai/resolve"
	// ProbeAnnotation asks a channel for a test message: one for each new value, for
	// example the time.
	ProbeAnnotation = "notification.kubernaut.ai/probe-requested-at"
	// ConsoleChannel is the built-in channel that needs no NotificationChannel.
	ConsoleChannel = "console"
)

// Duration is a span of time as Go writes it, in whole milliseconds, seconds,
// minutes and hours: "500ms", "30s", "1h30m".
//
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+(ms|s|m|h))+$')",message="must be a duration such as 500ms, 30s, 15m or 1h30m: whole numbers, each with ms, s, m or h"
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
type Duration string

// Value returns the duration, 0 where it is empty or not a duration; the API
// server admits neither.
func (d Duration) Value() time.Duration {
	v, _ := time.ParseDuration(string(d))
	return v
}

// SecretKeyRef names one entry of a Secret in the object's own namespace.
type SecretKeyRef struct {
	// name is the Secret's name, for example on-call-webhook.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the entry in the Secret's data, for example url.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}
