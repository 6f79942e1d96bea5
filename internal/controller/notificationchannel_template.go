package controller

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/delivery"
)

func templateOf(object *v1alpha1.NotificationChannel) delivery.Template {
	return delivery.Template{Subject: object.Spec.Template.Subject, Body: object.Spec.Template.Body}
}

// fill returns the message that a channel's template makes of one, or the message
// as it is and why there is no other.
func fill(object *v1alpha1.NotificationChannel, m *delivery.Message) (made *delivery.Message, failure string) {
	made, err := templateOf(object).Apply(m)
	if err != nil {
		return m, err.Error()
	}
	return made, ""
}

// checkTemplate sets the TemplateValid condition.
func checkTemplate(object *v1alpha1.NotificationChannel) {
	if object.Spec.Template == (v1alpha1.MessageTemplate{}) {
		meta.RemoveStatusCondition(&object.Status.Conditions, v1alpha1.ConditionTemplateValid)
		return
	}
	valid := metav1.Condition{
		Type: v1alpha1.ConditionTemplateValid, Status: metav1.ConditionTrue, ObservedGeneration: object.Generation,
		Reason: v1alpha1.ReasonTemplateParsed, Message: "the template makes the messages",
	}
	if err := templateOf(object).Check(); err != nil {
		valid.Status, valid.Reason = metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate
		valid.Message = "messages are sent as their requests have them: " + err.Error()
	}
	meta.SetStatusCondition(&object.Status.Conditions, valid)
}
