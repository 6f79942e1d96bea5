// Package v1alpha1 holds the kinds of the group notification.kubernaut.ai.
//
// +kubebuilder:object:generate=true
// +groupName=notification.kubernaut.ai
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// SchemeGroupVersion is the group and version of the kinds in this package.
	SchemeGroupVersion = schema.GroupVersion{Group: "notification.kubernaut.ai", Version: "v1alpha1"}

	schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
		s.AddKnownTypes(SchemeGroupVersion,
			&NotificationRequest{}, &NotificationRequestList{},
			&NotificationChannel{}, &NotificationChannelList{},
			&NotificationRoute{}, &NotificationRouteList{},
		)
		metav1.AddToGroupVersion(s, SchemeGroupVersion)
		return nil
	})

	// AddToScheme adds the kinds in this package to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)
