package chaos

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"
	"time"

	"kubernaut.ai/notification/test/harness"
)

// mutant is the product with one rule broken. Either a run that uses some of the
// faults finds it, or the tests of a package do: what the outbox in status makes
// good again shows nowhere else.
type mutant struct {
	name  string
	edits []edit

	faults   string // regular expression of the faults of a run
	setup    string // and of its setup
	kinds    string // and of its requests
	episodes int    // 25 where it is 0

	tests string // package, relative to the module
}

const (
	controllerDir = "internal/controller/notificationrequest_"
	oneSQLite     = "sqlite, redis"
)

var mutants = []mutant{
	{name: "R1 the wait for the next attempt is in memory", faults: "kill manager$", setup: oneSQLite, episodes: 40, edits: []edit{{
		controllerDir + "outcome.go",
		"d.NextAttemptTime = micro(from.Add(max(p.jitter(backoff(nr.Spec.Retry, d.Attempts)), retryAfter)))",
		"_, _ = from, retryAfter",
	}}},
	{name: "R2 sent before the intent is written", faults: "the (intent|send)$|API server: (reset|refuse)", setup: oneSQLite, edits: []edit{{
		controllerDir + "controller.go",
		"	summarize(nr, p.now)\n	if err := r.writeStatus(ctx, base, nr); err != nil {\n		r.giveUp(nr, begun)\n",
		"	summarize(nr, p.now)\n	r.start(ctx, nr, begun)\n	started := begun\n	begun = nil\n	if err := r.writeStatus(ctx, base, nr); err != nil {\n		_ = started\n",
	}}},
	{name: "R3 success recorded before the channel accepted", faults: "the sinks: reset", setup: oneSQLite, edits: []edit{{
		controllerDir + "outcome.go",
		"	case delivery.Ambiguous:\n		p.doubt(nr, d, failure, o.finished)\n",
		"	case delivery.Ambiguous:\n		sent(nr, d, o.finished)\n",
	}}},
	{name: "R4 random event IDs", faults: "kill manager", setup: oneSQLite, edits: []edit{{
		"internal/audit/event.go",
		"	return uuid.NewSHA1(Namespace, []byte(strings.Join(parts, \"/\")))\n",
		"	_ = strings.Join(parts, \"/\")\n	return uuid.New()\n",
	}}},
	{name: "R5 an audit failure sends again", faults: "DataStorage: 400", setup: oneSQLite, edits: []edit{{
		controllerDir + "plan.go",
		"	applyReceipts(&nr.Status, p.receipts)\n",
		"	applyReceipts(&nr.Status, p.receipts)\n	for i := range nr.Status.Deliveries {\n		if d := &nr.Status.Deliveries[i]; d.Audit.State == v1alpha1.AuditRejected {\n			d.State, d.Audit, nr.Status.FinishedTime = v1alpha1.DeliveryRetrying, v1alpha1.AuditRecord{}, nil\n		}\n	}\n",
	}}},
	{name: "R6 the finalizer goes before the evidence", faults: "manager after the finalizer|DataStorage: (refuse|503|hold requests)", setup: oneSQLite, episodes: 80, edits: []edit{{
		controllerDir + "controller.go",
		"	return nr.Status.FinishedTime != nil && countAudit(&nr.Status, v1alpha1.AuditPending) == 0\n",
		"	return nr.Status.FinishedTime != nil\n",
	}}},
	{name: "R7 a retry underneath a retry", faults: "the sinks: (cut|hold)", setup: oneSQLite, edits: []edit{{
		"internal/delivery/webhook.go",
		"	answer, err := w.client.Post(ctx, header, content)\n",
		"	answer, err := w.client.Post(ctx, header, content)\n	if err != nil {\n		answer, err = w.client.Post(ctx, header, content)\n	}\n",
	}}},
	{name: "R8 drop when full", tests: "internal/audit", edits: []edit{{
		"internal/audit/buffer.go",
		"	if err := s.recordFull(&e, spills); err != nil {\n",
		"	if _ = spills; len(s.pending) >= s.cfg.BufferSize {\n		return nil\n	}\n	if err := s.recordFull(&e, spills); err != nil {\n",
	}}},
	{name: "R9 a secret in a log line", faults: "secret", setup: oneSQLite, edits: []edit{{
		"internal/controller/channel_sender.go",
		"		return delivery.NewWebhook(c.HTTP, webhookConfig(secrets, spec))\n",
		"		config := webhookConfig(secrets, spec)\n		println(string(config.SigningSecret))\n		return delivery.NewWebhook(c.HTTP, config)\n",
	}}},
	{name: "R10 a failure without a reason", faults: "kill manager$", setup: oneSQLite, edits: []edit{{
		controllerDir + "outcome.go",
		"	d.NextAttemptTime, d.AttemptDeadline, d.HeldConfig = nil, nil, \"\"\n	d.LastError = e\n	d.Audit = pending(audit.TypeMessageFailed",
		"	d.NextAttemptTime, d.AttemptDeadline, d.HeldConfig = nil, nil, \"\"\n	d.LastError = v1alpha1.DeliveryError{}\n	d.Audit = pending(audit.TypeMessageFailed",
	}}},
	{name: "R11 a new leader takes an attempt for lost at once", faults: "kill manager", setup: oneSQLite, edits: []edit{{
		controllerDir + "plan.go",
		"		if dl.AttemptDeadline != nil && p.now.Before(dl.AttemptDeadline.Time) {\n",
		"		if dl.AttemptDeadline != nil && p.now.Before(dl.AttemptDeadline.Add(-time.Hour)) {\n",
	}}},
	{name: "R12 a bad event takes the others of its batch along", faults: "DataStorage: 400", setup: oneSQLite, edits: []edit{{
		"internal/audit/deliver.go",
		"			rest = append(rest, *e)\n",
		"			_ = rest\n",
	}}},
	{name: "acknowledged before the commit", faults: "kill DataStorage", setup: oneSQLite, edits: []edit{
		{"internal/datastorage/log.go", "		return addition, err\n	})\n", "		for _, r := range batch {\n			close(r.answered)\n		}\n		<-time.After(300 * time.Millisecond)\n		return addition, err\n	})\n"},
		{"internal/datastorage/log.go", "			r.err = err\n		}\n		close(r.answered)\n", "			r.err = err\n		}\n"},
	}},
	{name: "deleted from the DLQ before the 2xx", tests: "internal/audit/dlq", edits: []edit{{
		"internal/audit/dlq/file_index.go",
		"			l.tries++\n			heap.Push(&x.turns, l)\n",
		"			x.remove(l.id)\n",
	}}},
	{name: "dead-lettered for good on a transient error", tests: "internal/audit", edits: []edit{{
		"internal/audit/deliver.go",
		"	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:\n",
		"	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusServiceUnavailable:\n",
	}}},
	{name: "closed with the Runnable, and what comes later is dropped", tests: "internal/audit", edits: []edit{
		{"internal/audit/writer.go", "	defer ticker.Stop()\n", "	defer ticker.Stop()\n	defer func() { _ = s.Close(context.Background()) }()\n"},
		{"internal/audit/buffer.go", "	s.mu.Lock()\n	kept, spills := s.keep(&e), s.spills\n", "	s.mu.Lock()\n	if s.sealed {\n		s.mu.Unlock()\n		return nil\n	}\n	kept, spills := s.keep(&e), s.spills\n"},
	}},
	{name: "a suppressed request is sent too", faults: "kill manager", setup: oneSQLite, kinds: "repeated", edits: []edit{
		{
			controllerDir + "plan.go",
			"	if len(nr.Status.Deliveries) > 0 || nr.Status.DuplicateOf.SuppressedTime != nil {\n",
			"	if len(nr.Status.Deliveries) > 0 {\n",
		},
		{
			controllerDir + "dedup.go",
			"	case original.Name != \"\":\n",
			"	case original.Name != \"\" && original.SuppressedTime == nil:\n",
		},
	}},
	{name: "the last one to acknowledge counts", faults: "kill manager", setup: oneSQLite, kinds: "asking", edits: []edit{{
		"internal/acknowledge/server.go",
		"		if err != nil || nr == nil || nr.Status.Acknowledgement.Time != nil {\n",
		"		if err != nil || nr == nil {\n",
	}}},
	{name: "a page says what is not written", faults: "API server: (503|reset)|before the acknowledgement", setup: oneSQLite, kinds: "asking", edits: []edit{{
		"internal/acknowledge/server.go",
		"			return nil, fmt.Errorf(\"write status: %w\", err)\n",
		"			return nr, nil\n",
	}}},
	{name: "a preview acknowledges", faults: "kill manager", setup: oneSQLite, kinds: "asking", edits: []edit{{
		"internal/acknowledge/server.go",
		"	return s.page(ctx, claims, r.Method == http.MethodPost, name)\n",
		"	return s.page(ctx, claims, true, name)\n",
	}}},
	{name: "escalated though acknowledged", faults: "kill manager", setup: oneSQLite, kinds: "asking", edits: []edit{
		{
			controllerDir + "acknowledge.go",
			"	case !asks(nr), nr.Status.Acknowledgement.Time != nil, nr.DeletionTimestamp",
			"	case !asks(nr), nr.DeletionTimestamp",
		},
		{
			controllerDir + "acknowledge.go",
			"	if !asks(nr) || nr.Status.Acknowledgement.Time != nil || nr.Status.Cancellation",
			"	if !asks(nr) || nr.Status.Cancellation",
		},
	}},
	{name: "a rate limit is forgotten over a restart", faults: "kill manager$", setup: oneSQLite, kinds: "limited", episodes: 4, edits: []edit{{
		"internal/controller/slots.go",
		"	s.health.use(key, func(g *gate) { g.replay(starts, latest, now) })\n",
		"	_, _ = starts, latest\n",
	}}},
	{name: "a wait for a rate limit spends an attempt", faults: "kill manager", setup: oneSQLite, kinds: "limited", episodes: 2, edits: []edit{{
		controllerDir + "attempt.go",
		"				postpone(d, w.err, w.until)\n",
		"				postpone(d, w.err, w.until)\n				d.Attempts++\n",
	}}},
	{name: "a route decides again", faults: "kill manager", setup: oneSQLite, kinds: "routed", edits: []edit{{
		controllerDir + "route.go",
		"	if len(nr.Status.Deliveries) > 0 || len(nr.Status.RoutedChannels) > 0 || nr",
		"	if nr.Status.FinishedTime != nil || nr",
	}}},
	{name: "a retry forgets the template", faults: "kill manager", setup: oneSQLite, kinds: "templated", edits: []edit{{
		controllerDir + "attempt.go",
		"		m, failure := fill(object, message(nr, d.Channel, d.Attempts+1))\n",
		"		m, failure := fill(object, message(nr, d.Channel, d.Attempts+1))\n		if d.Attempts > 0 {\n			m = message(nr, d.Channel, d.Attempts+1)\n		}\n",
	}}},
	{name: "a template is left out", faults: "kill manager", setup: oneSQLite, kinds: "templated", edits: []edit{{
		controllerDir + "attempt.go",
		"		m, failure := fill(object, message(nr, d.Channel, d.Attempts+1))\n",
		"		_, failure := fill(object, message(nr, d.Channel, d.Attempts+1))\n		m := message(nr, d.Channel, d.Attempts+1)\n",
	}}},
	{name: "a dry run sends", faults: "kill manager", setup: oneSQLite, kinds: "rehearsed", edits: []edit{{
		controllerDir + "plan.go",
		"	if isDryRun(nr) {\n		p.planDryRun(nr)\n",
		"	if isDryRun(nr) && nr.Status.FinishedTime != nil {\n		p.planDryRun(nr)\n",
	}}},
	{name: "each attempt decides what a message follows", faults: "kill manager|Slack", setup: oneSQLite, kinds: "incident", edits: []edit{{
		controllerDir + "followup.go",
		"	slack, first := object.Spec.Slack, d.Attempts == 0\n",
		"	slack, first := object.Spec.Slack, true\n",
	}}},
	{name: "nobody follows a request that is finished", faults: "kill manager|Slack", setup: oneSQLite, kinds: "incident|updated", edits: []edit{{
		controllerDir + "followup.go",
		"		if o.delivery.State == v1alpha1.DeliverySent && strings",
		"		if o.delivery.State == v1alpha1.DeliverySent && o.request.Status.FinishedTime == nil && strings",
	}}},
	{name: "an update that comes late takes the place of a newer one", faults: "kill manager|Slack", setup: oneSQLite, kinds: "updated", edits: []edit{{
		controllerDir + "followup.go",
		"		return newer || asked\n",
		"		return !newer && asked\n",
	}}},
	{name: "an update in doubt that is to be held is posted", faults: "send to Slack|Slack: (cut|an answer)", setup: oneSQLite, kinds: "updated", edits: []edit{{
		controllerDir + "followup.go",
		"	case (doubted || unknown) && nr.Spec.OnAmbiguous == v1alpha1.AmbiguousHold:\n",
		"	case !replaced && nr.Spec.OnAmbiguous == v1alpha1.AmbiguousHold:\n",
	}}},
	{name: "what Slack did not answer is posted again underneath", faults: "the way to Slack: cut", setup: oneSQLite, kinds: "incident", edits: []edit{{
		"internal/delivery/slack.go",
		"	if answer == nil {\n",
		"	if answer == nil {\n		answer, err = client.Post(ctx, http.Header{\"Content-Type\": {\"application/json; charset=utf-8\"}}, content)\n	}\n	if answer == nil {\n",
	}}},
	{name: "quiet hours go by the manager's clock", faults: "kill manager", setup: oneSQLite, kinds: "quiet", edits: []edit{{
		"internal/routing/routing.go",
		"r.route.Spec.QuietHours, at.In(r.zone))",
		"r.route.Spec.QuietHours, at.UTC())",
	}}},
	{name: "the spec is recorded as the API server answers with it", faults: "kill manager", setup: oneSQLite, edits: []edit{{
		controllerDir + "redact.go",
		"	err := write()\n	nr.Spec = spec\n	return err\n",
		"	_ = spec\n	return write()\n",
	}}},
}

// TestMutantsFit finds the mutants that no longer fit the code, without a run.
func TestMutantsFit(t *testing.T) {
	for _, m := range mutants {
		if len((sources{}).all(t, m.edits)) == 0 {
			t.Errorf("%s: nothing is broken", m.name)
		}
	}
}

func (s sources) all(t testing.TB, edits []edit) sources {
	t.Helper()
	for _, e := range edits {
		s.apply(t, e)
	}
	return s
}

// TestMutants checks the checkers: each mutant has to be found.
func TestMutants(t *testing.T) {
	if *mutantsFlag == "" {
		t.Skip("make chaos MUTANTS=. runs this")
	}
	quieten()
	lines := []string{"| broken on purpose | found by | what it says |", "|---|---|---|"}
	var control *harness.ControlPlane
	wanted := expression(t, "MUTANTS", *mutantsFlag)
	if !slices.ContainsFunc(mutants, func(m mutant) bool { return wanted.MatchString(m.name) }) {
		t.Fatalf("MUTANTS=%s leaves no mutant; docs/chaos.md names them", *mutantsFlag)
	}
	for i, m := range mutants {
		if !wanted.MatchString(m.name) {
			continue
		}
		say("mutant %d of %d: %s", i+1, len(mutants), m.name)
		var by, says string
		if m.tests != "" {
			by, says = "`go test ./"+m.tests+"`", m.test(t)
		} else {
			if control == nil {
				control = harness.StartControlPlane(quiet{t}, user)
			}
			by, says = "the oracle", m.run(t, control, 100+i)
		}
		if says == "" {
			t.Errorf("%s: nobody noticed", m.name)
		}
		lines = append(lines, fmt.Sprintf("| %s | %s | %s |", m.name, by, says))
		say("%s", lines[len(lines)-1])
	}
	for _, line := range lines {
		say("%s", line)
	}
}

// run has the oracle judge a short run, and returns the first promise that it
// finds broken, "" for none.
func (m mutant) run(t *testing.T, control *harness.ControlPlane, n int) (says string) {
	t.Run(m.name, func(t *testing.T) {
		all := sources{}.all(t, m.edits)
		p := programs{datastorage: all.build(t, "datastorage")}
		all.stepClock(t)
		p.manager = all.build(t, "manager")
		for _, s := range setups {
			if !regexp.MustCompile(m.setup).MatchString(s.String()) || !s.possible(t) {
				continue
			}
			settle := 80 * time.Second
			if m.kinds != "" {
				settle = settleTime
			}
			r := round{seed: 1, kills: 0, requests: 5 * cmp.Or(m.episodes, 25), episodes: cmp.Or(m.episodes, 25), settle: settle, only: regexp.MustCompile(m.faults), kinds: kindsOf(regexp.MustCompile(cmp.Or(m.kinds, "plain")))}
			found := r.run(quiet{t}, control, p, s, n).violations
			for _, promise := range promises {
				late := promise == promiseFinished || promise == promiseFresh // as any may be on a slow machine
				if len(found[promise]) > 0 && says == "" && !late {
					says = fmt.Sprintf("%s: %d times not", promise, len(found[promise]))
				}
			}
		}
	})
	return says
}

// test runs the tests of a package and returns the first that fails, "" for none.
func (m mutant) test(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-timeout", "3m", "-overlay", (sources{}).all(t, m.edits).overlay(t), "kubernaut.ai/notification/"+m.tests)
	cmd.Env = append(os.Environ(), "RAPID_NOFAILFILE=true")
	out, _ := cmd.CombinedOutput()
	for line := range bytes.Lines(out) {
		if name, ok := bytes.CutPrefix(line, []byte("--- FAIL: ")); ok {
			return string(bytes.Fields(name)[0])
		}
		if bytes.HasPrefix(line, []byte("panic: test timed out")) {
			return "its tests do not end"
		}
	}
	if !bytes.Contains(out, []byte("\nok ")) && !bytes.HasPrefix(out, []byte("ok ")) {
		t.Errorf("%s: %s", m.name, out)
	}
	return ""
}
