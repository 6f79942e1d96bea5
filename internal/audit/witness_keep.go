package audit

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"kubernaut.ai/notification/internal/ledger"
)

const (
	// keepEvery is how often what is known is written at most, but for evidence. A
	// process that is killed forgets no more than that.
	keepEvery   = time.Minute
	keepTimeout = 5 * time.Second
	// maxEvidence bounds what is kept. The first contradictions tell the most.
	maxEvidence    = 10
	evidencePrefix = "contradiction-"
	keptKey        = "key"
	keptCheckpoint = "checkpoint"
)

// ErrChanged is a Keeper's where somebody else has changed or removed what it kept.
var ErrChanged = errors.New("somebody else has changed it")

// Keeper keeps what the witness knows across restarts. It is for one goroutine.
type Keeper interface {
	// Load returns what was saved, and nothing where nothing was.
	Load(ctx context.Context) (map[string]string, error)
	// Save replaces what was loaded or saved last. It changes nothing and returns
	// ErrChanged where something else is there by now.
	Save(ctx context.Context, data map[string]string) error
}

// keepEvidence keeps the evidence of a contradiction, unless there is enough, and
// returns its name.
func (w *Witness) keepEvidence(cause, text string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.evidence) >= maxEvidence {
		return ""
	}
	// As RFC 3339 has it, but for the colons, which no key of a ConfigMap may have.
	name := evidencePrefix + time.Now().UTC().Format("2006-01-02T150405Z") + "-" + cause
	w.evidence[name] = strings.ToValidUTF8(text, "?")
	w.dirty, w.tried = true, time.Time{}
	return name
}

// load takes up what an earlier process has kept. Where that cannot be read, the
// witness goes on without: it will not be able to save either, or be told that
// something is there.
func (w *Witness) load(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	data, err := w.keeper.Load(ctx)
	if err != nil {
		w.log.Error(err, "What was known of the audit log cannot be read")
		w.failing = true
	}
	w.adopt(data)
}

// adopt forgets all but what data has, and of that what is not the log's.
func (w *Witness) adopt(data map[string]string) {
	w.told, w.doubts, w.dirty = map[string]time.Time{}, 0, false
	evidence := maps.Clone(data)
	maps.DeleteFunc(evidence, func(name, _ string) bool { return !strings.HasPrefix(name, evidencePrefix) })
	key, newest := cmp.Or(w.given, data[keptKey]), seen{signed: data[keptCheckpoint]}
	if err := ledger.CheckVerifier(key); key != "" && err != nil {
		w.log.Error(err, "The kept public key is none and is left aside")
		key = ""
	}
	if newest.signed != "" {
		var err error
		if newest.Checkpoint, err = ledger.Verify(newest.signed, key); err != nil {
			w.log.Error(err, "The kept checkpoint is not the log's and is left aside")
			newest = seen{}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key, w.newest, w.evidence = key, newest, evidence
	if evidence == nil {
		w.evidence = map[string]string{}
	}
}

// save keeps what is known. Where somebody else has changed or removed what was
// kept, the witness goes by that, since so a person has it begin anew. A
// contradiction that lasts is found again.
func (w *Witness) save(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	w.tried = time.Now()
	key, newest := w.known()
	data := maps.Clone(w.evidence)
	for name, value := range map[string]string{keptKey: key, keptCheckpoint: newest.signed} {
		if value != "" {
			data[name] = value
		}
	}
	err := w.keeper.Save(ctx, data)
	if errors.Is(err, ErrChanged) {
		if data, err = w.keeper.Load(ctx); err == nil {
			w.log.Info("What is known of the audit log was changed by somebody else, and is taken from there", "removed", len(data) == 0)
			w.adopt(data)
		}
	}
	if err != nil && !w.failing {
		w.log.Error(err, "What is known of the audit log cannot be kept, and ends with this process")
	}
	w.failing = err != nil
	w.dirty = err != nil
}
