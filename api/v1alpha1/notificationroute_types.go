package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RouteAttribute is what a matcher looks at in a request.
//
// +kubebuilder:validation:Enum=Type;Priority;Severity;CorrelationID;Field;Label
type RouteAttribute string

// Attributes that routes can match.
const (
	AttributeType          RouteAttribute = "Type"
	AttributePriority      RouteAttribute = "Priority"
	AttributeSeverity      RouteAttribute = "Severity"
	AttributeCorrelationID RouteAttribute = "CorrelationID"
	AttributeField         RouteAttribute = "Field"
	AttributeLabel         RouteAttribute = "Label"
)

// RouteValue is a value that an attribute is compared with, for example checkout.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
type RouteValue string

// RouteMatcher is one thing that must be so of a request.
//
// +kubebuilder:validation:XValidation:rule="has(self.key) == (self.attribute in ['Field', 'Label'])",message="needs key where attribute is Field or Label, and must not have it otherwise"
// +kubebuilder:validation:XValidation:rule="[has(self.equals), has(self.__in__), has(self.notIn), has(self.exists), has(self.matches)].filter(given, given).size() == 1",message="needs exactly one of equals, in, notIn, exists and matches"
// +kubebuilder:validation:XValidation:rule="self.attribute != 'Priority' || (!has(self.equals) || self.equals in ['Critical', 'High', 'Medium', 'Low']) && (!has(self.__in__) || self.__in__.all(v, v in ['Critical', 'High', 'Medium', 'Low'])) && (!has(self.notIn) || self.notIn.all(v, v in ['Critical', 'High', 'Medium', 'Low']))",message="names a priority that does not exist: use Critical, High, Medium or Low"
// +kubebuilder:validation:XValidation:rule="self.attribute != 'Type' || (!has(self.equals) || self.equals in ['Simple', 'Escalation', 'StatusUpdate', 'Approval', 'ManualReview', 'Completion']) && (!has(self.__in__) || self.__in__.all(v, v in ['Simple', 'Escalation', 'StatusUpdate', 'Approval', 'ManualReview', 'Completion'])) && (!has(self.notIn) || self.notIn.all(v, v in ['Simple', 'Escalation', 'StatusUpdate', 'Approval', 'ManualReview', 'Completion']))",message="names a type that does not exist: use Simple, Escalation, StatusUpdate, Approval, ManualReview or Completion"
type RouteMatcher struct {
	// attribute is what is looked at: the request's Type, Priority, Severity or
	// CorrelationID, one of its fields (Field) or one of the labels in its metadata
	// (Label).
	// +required
	Attribute RouteAttribute `json:"attribute,omitempty"`

	// key is the name of the field or the label, for example app.kubernetes.io/name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key,omitempty"`

	// equals is the one value that matches, for example checkout.
	// +optional
	Equals RouteValue `json:"equals,omitempty"`

	// in are the values that match, up to 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	In []RouteValue `json:"in,omitempty"`

	// notIn are the values that do not match, up to 16. A request without the
	// attribute matches.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	NotIn []RouteValue `json:"notIn,omitempty"`

	// exists says whether the request must have the attribute, whatever its value,
	// or must not have it.
	// +optional
	Exists *bool `json:"exists,omitempty"`

	// matches is a regular expression of RE2 that the whole value must match, up to
	// 256 characters, for example incident-[0-9]+.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="''.matches(self) in [true, false]",message="must be a regular expression of RE2"
	Matches string `json:"matches,omitempty"`
}

// Weekday is a day of the week.
//
// +kubebuilder:validation:Enum=Monday;Tuesday;Wednesday;Thursday;Friday;Saturday;Sunday
type Weekday string

// TimeWindow is open while the clocks of the route's time zone show a time from
// start to end.
//
// +kubebuilder:validation:XValidation:rule="self.start != self.end",message="has a start that is its end: write 00:00 and 24:00 for a whole day"
type TimeWindow struct {
	// days are the days on which the window begins; every day where none is given.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=7
	Days []Weekday `json:"days,omitempty"`

	// start is when the window begins, from 00:00 to 23:59, for example "22:00".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",message="must be a time of day from 00:00 to 23:59, such as 07:00"
	Start string `json:"start,omitempty"`

	// end is the first minute after the window, up to 24:00, for example "07:00".
	// Where it is earlier than start, it is of the next day.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')",message="must be a time of day from 00:00 to 24:00, such as 07:00"
	End string `json:"end,omitempty"`
}

// NotificationRouteSpec says which requests go where.
type NotificationRouteSpec struct {
	// order is the route's place among the routes of its namespace, from 1 to 1000;
	// 100 by default. Lower ones are asked first; among equals the name decides.
	// +optional
	// +default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Order int32 `json:"order,omitempty"`

	// match is what must be so of a request, all of it, up to 16 matchers. Every
	// request matches where none is given.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Match []RouteMatcher `json:"match,omitempty"`

	// channels are where a request that matches goes, up to 16.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Channels []ChannelReference `json:"channels,omitempty"`

	// continue has the routes after this one asked too where this one matches; false by
	// default, which makes the first route that matches the last.
	// +optional
	Continue *bool `json:"continue,omitempty"`

	// timeZone is the time zone of activeWindows and quietHours, by its name in the
	// IANA database, for example Europe/Berlin; UTC by default.
	// +optional
	// +default="UTC"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && !self.contains(':') && timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0",message="must be the name of a time zone in the IANA database, such as Europe/Berlin"
	TimeZone string `json:"timeZone,omitempty"`

	// activeWindows are when the route matches at all, up to 16; always where none
	// is given.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	ActiveWindows []TimeWindow `json:"activeWindows,omitempty"`

	// quietHours are when messages that are not of the priority Critical wait, up to
	// 16. They are sent when the quiet hours are over, and their deadline counts from
	// then.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	QuietHours []TimeWindow `json:"quietHours,omitempty"`
}

// NotificationRouteStatus says whether the route can be used.
//
// +kubebuilder:validation:MinProperties=1
type NotificationRouteStatus struct {
	// conditions hold Ready: whether the route can be used, and its channels exist and
	// may be used from its namespace. One that cannot be used is skipped; where a channel
	// cannot, the requests that are routed to it wait.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// channels are the names of spec.channels as one text, for example
	// archive,slack-alerts; what is longer than 256 characters is cut. A column cannot
	// show more than the first member of a list.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Channels string `json:"channels,omitempty"`
}

// NotificationRoute sends the requests of its namespace that name no channels to
// the channels that it names. A request is routed once, when the controller first
// sees it; what becomes of the route later does not alter that.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=nrt,categories=notification
// +kubebuilder:printcolumn:name="Order",type=integer,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Channels",type=string,JSONPath=`.status.channels`
// +kubebuilder:printcolumn:name="Continue",type=boolean,JSONPath=`.spec.continue`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Time Zone",type=string,JSONPath=`.spec.timeZone`,priority=1
type NotificationRoute struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says which requests go where.
	// +required
	Spec NotificationRouteSpec `json:"spec,omitzero"`

	// status says whether the route can be used.
	// +optional
	Status NotificationRouteStatus `json:"status,omitzero"`
}

// NotificationRouteList is a list of NotificationRoutes.
//
// +kubebuilder:object:root=true
type NotificationRouteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NotificationRoute `json:"items"`
}
