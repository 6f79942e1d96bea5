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

func TestAnObjectThatWasMadeAgainUnseenIsNoticed(t *testing.T) {
	first := newRequest()
	touched := first.DeepCopy()
	touched.Labels = map[string]string{"touched": "1"}
	second := first.DeepCopy()
	second.UID = "another"
	equal(t, "touched", changed.Update(event.UpdateEvent{ObjectOld: first, ObjectNew: touched}), false)
	equal(t, "made again", changed.Update(event.UpdateEvent{ObjectOld: first, ObjectNew: second}), true)
	second.UID, second.Generation = first.UID, 2
	equal(t, "changed", changed.Update(event.UpdateEvent{ObjectOld: first, ObjectNew: second}), true)
	equal(t, "created", changed.Create(event.CreateEvent{Object: first}), true)
	equal(t, "deleted", changed.Delete(event.DeleteEvent{Object: first}), true)
}
