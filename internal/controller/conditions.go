package controller

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions are those of an object of a generation, as they are at a time.
type conditions struct {
	all        *[]metav1.Condition
	generation int64
	now        time.Time
}

func (c conditions) set(kind string, is bool, reason, message string) {
	condition := metav1.Condition{
		Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: c.generation, LastTransitionTime: *second(c.now),
	}
	if is {
		condition.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(c.all, condition)
}
