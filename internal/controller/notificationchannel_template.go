package controller

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

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
func checkTemplate(object *v1alpha1.NotificationChannel, now time.Time) {
	if object.Spec.Template == (v1alpha1.MessageTemplate{}) {
		meta.RemoveStatusCondition(&object.Status.Conditions, v1alpha1.ConditionTemplateValid)
		return
	}
	set := conditions{&object.Status.Conditions, object.Generation, now}.set
	if err := templateOf(object).Check(); err != nil {
		set(v1alpha1.ConditionTemplateValid, false, v1alpha1.ReasonInvalidTemplate, "messages are sent as their requests have them: "+err.Error())
		return
	}
	set(v1alpha1.ConditionTemplateValid, true, v1alpha1.ReasonTemplateParsed, "the template makes the messages")
}
