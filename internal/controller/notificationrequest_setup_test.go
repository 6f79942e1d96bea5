package controller

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/event"

	"kubernaut.ai/notification/api/v1alpha1"
)

func TestALostFinalizerIsNoticedUntilTheRequestIsSettled(t *testing.T) {
	held := newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Finalizers = []string{v1alpha1.Finalizer} })
	loose := newRequest(func(nr *v1alpha1.NotificationRequest) { nr.Finalizers = nil })
	done := loose.DeepCopy()
	done.Status.FinishedTime = micro(born)
	equal(t, "taken away", letGo.Update(event.UpdateEvent{ObjectOld: held, ObjectNew: loose}), true)
	equal(t, "never there", letGo.Update(event.UpdateEvent{ObjectOld: loose, ObjectNew: loose}), false)
	equal(t, "still there", letGo.Update(event.UpdateEvent{ObjectOld: held, ObjectNew: held}), false)
	equal(t, "let go when settled", letGo.Update(event.UpdateEvent{ObjectOld: held, ObjectNew: done}), false)
}
