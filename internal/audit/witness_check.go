package audit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Causes of contradictions. A contradiction that lasts is known by its cause.
const (
	causeSignature       = "signature"
	causeAcknowledgement = "acknowledgement"
	causeHistory         = "history"
)

// check holds a checkpoint against the newest one. An error says that it cannot
// be decided yet.
func (w *Witness) check(ctx context.Context, s seen) error {
	switch {
	case s.fault != "" && s.Origin == "":
		w.contradict(ctx, s, causeSignature, s.fault)
		return nil
	case s.fault != "":
		w.contradict(ctx, s, causeAcknowledgement, s.fault)
	}
	_, newest := w.known()
	if newest.signed == "" {
		w.accept(s)
		return nil
	}
	against, err := w.compare(ctx, newest, s)
	if err != nil {
		return err
	}
	if against == nil {
		w.accept(s)
		return nil
	}
	// Two roots of one size need no more proof. A proof that is not given may have
	// been asked of a server that is being replaced.
	if w.doubts++; s.Size != newest.Size && w.doubts < maxDoubts && !w.lately(causeHistory) {
		return against
	}
	w.doubts = 0
	w.contradict(ctx, s, causeHistory, against.Error())
	return nil
}

// compare asks for the proof that one of two logs begins with the other. against
// says why they are not one log; err, that there is no telling.
func (w *Witness) compare(ctx context.Context, older, newer seen) (against, err error) {
	if newer.Size < older.Size {
		older, newer = newer, older
	}
	if older.Size == newer.Size {
		return newer.Extends(older.Checkpoint, nil), nil
	}
	// Any log begins with an empty one, but one that was emptied has no proof to give.
	proof, err := w.remote.Consistency(ctx, max(older.Size, 1), newer.Size)
	answer, ok := errors.AsType[*PostError](err)
	switch {
	case ok && !answer.Foreign && (answer.Kind == "not-found" || answer.Kind == "log-tampered"):
		return fmt.Errorf("the log of %d events is not shown to begin with that of %d: %w", newer.Size, older.Size, answer), nil
	case err != nil:
		return nil, err
	}
	return newer.Extends(older.Checkpoint, proof), nil
}

// accept takes note of a checkpoint that is proven.
func (w *Witness) accept(s seen) {
	_, newest := w.known()
	if newest.signed != "" && (s.Size < newest.Size || s.Size == newest.Size && !s.Time.After(newest.Time)) {
		return
	}
	w.mu.Lock()
	w.newest = s
	w.mu.Unlock()
	w.dirty = true
	w.log.Info("The audit log is what it was, and more", "size", s.Size, "root", s.Root.String(), "time", s.Time)
}

// lately reports whether a contradiction of the same cause is known already.
func (w *Witness) lately(cause string) bool {
	at, ok := w.told[cause]
	return ok && time.Since(at) < tellAgain
}

// contradict makes known that a checkpoint and the newest cannot both be true.
// What goes on with a log that is known to contradict is no news for a while.
func (w *Witness) contradict(ctx context.Context, s seen, cause, reason string) {
	if w.lately(cause) {
		return
	}
	w.told[cause] = time.Now()
	_, newest := w.known()
	w.mu.Lock()
	w.contradictions++
	w.mu.Unlock()
	name := w.keepEvidence(cause, fmt.Sprintf("%s\n\nKnown before:\n\n%s\nContradicts it:\n\n%s", reason, newest.signed, s.signed))
	w.log.Error(errors.New(reason), "DataStorage's audit log is not what it was", "evidence", name,
		"knownSize", newest.Size, "knownRoot", newest.Root.String(), "size", s.Size, "root", s.Root.String())
	if w.alarm != nil {
		ctx, cancel := context.WithTimeout(ctx, keepTimeout)
		defer cancel()
		w.alarm(ctx, reason)
	}
}
