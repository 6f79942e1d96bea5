package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/harness"
)

func TestEventsWaitInRedisAndOutliveTheManager(t *testing.T) {
	if !harness.HaveRedis() {
		t.Skip("redis-server is not installed")
	}
	t.Parallel()
	const password = "planted-password"
	redis := harness.StartRedis(t, password)
	s := newStack(t)
	s.startStorage()
	// Redis down at the start is not fatal.
	redis.Kill()
	flags := []string{"--dlq-backend=redis", "--redis-url=" + redis.URL()}
	s.startManager(flags...)
	s.webhook("hook")
	s.send("before", "hook")
	s.wait("before", isSent, isAudited)
	redis.Start()

	s.storageProcess.Kill()
	n := many(40)
	s.sendMany(n, "hook")
	s.waitAll(soon, isSent)
	harness.Eventually(t, soon, func() error {
		if got := s.metric("notification_audit_dead_letters"); got != strconv.Itoa(n) {
			return fmt.Errorf("%s dead letters, want %d", got, n)
		}
		return nil
	})
	s.manager.Kill()
	first := s.manager.Log()
	s.startManager(flags...)
	s.startStorage()
	s.waitAll(60*time.Second, isAudited)
	s.wantEachArrivedOnce(n + 1)
	harness.WantEvents(t, s.storage.Events(t), map[string]int{audit.TypeMessageSent: n + 1})
	if strings.Contains(first+s.manager.Log(), password) {
		t.Error("the password is in the manager's log")
	}
}
