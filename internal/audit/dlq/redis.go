package dlq

import (
	"context"
	"crypto/sha256"
	_ "embed" // for the script
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"kubernaut.ai/notification/internal/audit"
)

const (
	// redisGroup is the consumer group of each stream.
	redisGroup = "replay"
	// redisIdle is how long a process may be silent before others take over what
	// it owns. A living one calls Next more often even while DataStorage tells it
	// to stay away for the longest time that it heeds.
	redisIdle = 10 * time.Minute
	// A call of the script carries at most redisPortion events and about
	// redisBytes, since Redis serves nobody else meanwhile.
	redisPortion = 1000
	redisBytes   = 4 << 20
	// redisVersion is the version of the entries that this code writes and reads.
	redisVersion = "1"
)

//go:embed redis.lua
var redisLua string

var redisScript = redis.NewScript(redisLua)

var redisPrefix = regexp.MustCompile(`^[A-Za-z0-9:._/{}-]{1,128}$`)

// Redis is a dead-letter queue in a Redis server, version 7 or one that behaves
// alike, that several processes share. Each entry of it has one owner, and each
// process sends and counts its own. What another process owned becomes this
// one's when that has been silent for ten minutes.
//
// The keys are, after the prefix, the streams waiting, rejected and aside, whose
// entry IDs say when each entry was made, and the hashes waiting:ids and
// rejected:ids from event IDs to entry IDs. Nothing in them expires or is
// trimmed. A script uses all of them, so that a Redis Cluster will not do.
//
// Redis need not be there when Redis is opened, nor stay: each call fails or
// succeeds by itself, and one that failed may be made again. As audit.DLQ says,
// one method may be called at a time.
type Redis struct {
	log      logr.Logger
	options  *redis.Options
	client   *redis.Client
	keys     []string
	instance string
	idle     time.Duration
	recheck  time.Duration

	met     bool   // the server has been reached, and what it promises been looked at
	earlier string // last rejected entry from before this process
	fresh   string // last entry that Next returned for the first time
	again   string // last entry that Next returned once more, in turn
	depth   audit.Depth
}

var _ audit.DLQ = (*Redis)(nil)

// OpenRedis returns a queue in the Redis of a URL, without connecting to it:
// redis://[[user]:password@]host[:port][/database], or rediss:// for TLS, which
// may end in ?skip_verify=true. All keys begin with prefix. The instance is
// the name by which a process that is started again finds what it owned: no
// other process may use it at the same time. Errors name the flag and never
// show what the URL says.
func OpenRedis(rawURL, prefix, instance string, log logr.Logger) (*Redis, error) {
	options, err := redisOptions(rawURL)
	if err != nil {
		return nil, err
	}
	if !redisPrefix.MatchString(prefix) {
		return nil, fmt.Errorf("--dlq-key-prefix is %q; allowed are 1 to 128 letters, digits and the characters : . _ / { } -", prefix)
	}
	if instance == "" {
		return nil, errors.New("open dead-letter queue in Redis: the process needs a name")
	}
	// All that the library would write to standard error is in the errors too.
	logging.Disable()
	r := &Redis{
		log: log.WithName("audit-dlq"), options: options, client: redis.NewClient(options), instance: instance,
		idle: redisIdle, recheck: audit.RejectedRecheck, fresh: "0-0", again: "0-0",
	}
	for _, name := range []string{"waiting", "waiting:ids", "rejected", "rejected:ids", "aside"} {
		r.keys = append(r.keys, prefix+name)
	}
	return r, nil
}

// redisOptions reads a URL. A password that is not escaped can end up in any
// part of it, so that no error may show one.
func redisOptions(rawURL string) (*redis.Options, error) {
	const allowed = "allowed is redis://[[user]:password@]host[:port][/database], or rediss:// for TLS, with ?skip_verify=true where its certificate is not to be checked; special characters in user and password are written as %XX"
	if rawURL == "" {
		return nil, errors.New("--redis-url is required with --dlq-backend=redis; " + allowed)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("--redis-url is not a URL; " + allowed)
	}
	switch {
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return nil, errors.New("--redis-url has another scheme; " + allowed)
	case u.Hostname() == "":
		return nil, errors.New("--redis-url names no host; " + allowed)
	case u.Fragment != "" || (u.RawQuery != "" && (u.Scheme != "rediss" || u.RawQuery != "skip_verify=true")):
		return nil, errors.New("--redis-url has an option that is not known; " + allowed)
	}
	o, err := redis.ParseURL(rawURL)
	if err != nil || o.DB < 0 {
		return nil, errors.New("--redis-url has a database that is not a number; " + allowed)
	}
	// Nothing is tried twice here, since whoever calls tries again, and nothing
	// lasts longer than the context.
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled = true
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = 3*time.Second, 5*time.Second, 5*time.Second
	o.PoolSize, o.PipelinePoolSize = 2, -1
	o.Protocol, o.DisableIdentity = 2, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return o, nil
}

// Close lets go of the connections. What this process owns in Redis stays its
// own until it is started again or another takes over.
func (r *Redis) Close() error { return r.client.Close() }

// Put implements audit.DLQ. More than 1000 events or 4 MiB go in several
// portions, each of which Redis takes as a whole or not at all.
func (r *Redis) Put(ctx context.Context, events []audit.Event) (int, error) {
	total := 0
	for left := events; len(left) > 0; {
		var args []any
		bytes, n := 0, 0
		for ; n < min(len(left), redisPortion) && bytes < redisBytes; n++ {
			payload, sum := seal(&left[n])
			args = append(args, left[n].EventID.String(), payload, sum)
			bytes += len(payload)
		}
		reply, err := r.run(ctx, "put", args...)
		if err != nil {
			return 0, fmt.Errorf("put %d events: %w", len(events), err)
		}
		added, _ := reply[0].(int64)
		total += int(added)
		left = left[n:]
	}
	return total, nil
}

// Next implements audit.DLQ. It also takes over what dead processes owned, and
// what somebody has added to the stream by hand.
func (r *Redis) Next(ctx context.Context, limit int) ([]audit.Event, audit.Depth, error) {
	reply, err := r.run(ctx, "next", limit, redisBytes, r.fresh, r.again, r.recheck.Milliseconds(), r.idle.Milliseconds())
	if err != nil {
		return nil, r.depth, fmt.Errorf("read next events: %w", err)
	}
	entries, _ := reply[0].([]any)
	depth, _ := reply[1].([]any)
	r.setDepth(depth)
	r.fresh, _ = reply[2].(string)
	r.again, _ = reply[3].(string)
	var events []audit.Event
	var unreadable []any
	for i := range entries {
		entry, _ := entries[i].([]any)
		id, _ := entry[0].(string)
		fields, _ := entry[1].([]any)
		e, err := decodeEntry(fields)
		if err != nil {
			unreadable = append(unreadable, id, err.Error())
			continue
		}
		events = append(events, e)
	}
	if len(unreadable) > 0 {
		r.setAside(ctx, unreadable)
	}
	return events, r.depth, nil
}

// setAside is given entry IDs and what is wrong with each. Where it fails, the
// entries come again, and nothing waits for them.
func (r *Redis) setAside(ctx context.Context, unreadable []any) {
	reply, err := r.run(ctx, "aside", unreadable...)
	if err != nil {
		r.log.Error(err, "Could not set unreadable dead letters aside", "entries", len(unreadable)/2)
		return
	}
	r.setDepth(reply)
	for i := 0; i < len(unreadable); i += 2 {
		r.log.Error(nil, "Set an unreadable dead letter aside", "entry", unreadable[i], "reason", unreadable[i+1])
	}
}

// Settle implements audit.DLQ. It removes the recorded events whoever owns them.
// A mere report repeats what was last known where Redis does not answer.
func (r *Redis) Settle(ctx context.Context, recorded []uuid.UUID, rejected []audit.Rejection) (audit.Depth, error) {
	args := []any{len(recorded)}
	for _, id := range recorded {
		args = append(args, id.String())
	}
	for i := range rejected {
		payload, sum := seal(&rejected[i].Event)
		args = append(args, rejected[i].Event.EventID.String(), payload, sum, rejected[i].Status, rejected[i].Reason)
	}
	reply, err := r.run(ctx, "settle", args...)
	switch {
	case err == nil:
		r.setDepth(reply)
	case len(recorded)+len(rejected) > 0:
		return r.depth, fmt.Errorf("settle %d events: %w", len(recorded)+len(rejected), err)
	default:
		r.log.Error(err, "Could not ask the dead-letter queue what it holds; until it answers, no event can be put there")
	}
	return r.depth, nil
}

// run calls an operation of the script.
func (r *Redis) run(ctx context.Context, operation string, args ...any) ([]any, error) {
	err := r.meet(ctx)
	if err == nil {
		var reply []any
		reply, err = redisScript.Run(ctx, r.client, r.keys, append([]any{operation, redisGroup, r.instance, r.earlier}, args...)...).Slice()
		if err == nil {
			return reply, nil
		}
	}
	if _, answered := errors.AsType[redis.Error](err); !answered && !errors.Is(err, redis.ErrClosed) {
		// The library would refuse to connect for a second after some failures, and
		// go on using a connection to a server that another has taken the place of.
		_ = r.client.Close()
		r.client = redis.NewClient(r.options)
	}
	return nil, fmt.Errorf("use Redis at %s (--redis-url): %w", r.options.Addr, err)
}

// meet is done when the server is reached for the first time.
func (r *Redis) meet(ctx context.Context) error {
	if r.met {
		return nil
	}
	last, err := r.client.XRevRangeN(ctx, r.keys[2], "+", "-", 1).Result()
	if err != nil {
		return err
	}
	r.earlier = "0-0"
	if len(last) > 0 {
		r.earlier = last[0].ID
	}
	var risks []string
	for _, setting := range []struct{ name, want, risk string }{
		{"appendonly", "yes", "what came since its last snapshot is lost when Redis ends"},
		{"appendfsync", "always", "what came last is lost when the machine of Redis fails"},
		{"maxmemory-policy", "noeviction", "Redis deletes events when its memory is full"},
	} {
		values, err := r.client.ConfigGet(ctx, setting.name).Result()
		if _, refused := errors.AsType[redis.Error](err); refused {
			r.log.Error(err, "Could not check whether Redis keeps dead letters safe: it needs appendonly yes, appendfsync always and maxmemory-policy noeviction")
			r.met = true
			return nil
		}
		if err != nil {
			return err
		}
		if got := values[setting.name]; got != setting.want {
			risks = append(risks, fmt.Sprintf("%s is %q and should be %q: %s", setting.name, got, setting.want, setting.risk))
		}
	}
	if len(risks) > 0 {
		r.log.Error(nil, "Redis may lose dead letters as it is set up", "risks", risks)
	}
	r.met = true
	return nil
}

// setDepth takes the script's answer: the numbers of entries that wait, were
// rejected and are aside, and the ID of the oldest that waits.
func (r *Redis) setDepth(reply []any) {
	waiting, _ := reply[0].(int64)
	rejected, _ := reply[1].(int64)
	aside, _ := reply[2].(int64)
	oldest, _ := reply[3].(string)
	r.depth = audit.Depth{Waiting: int(waiting), Rejected: int(rejected), Aside: int(aside)}
	millis, _, _ := strings.Cut(oldest, "-")
	if at, err := strconv.ParseInt(millis, 10, 64); err == nil {
		r.depth.Oldest = time.UnixMilli(at)
	}
}

func seal(e *audit.Event) (payload []byte, sum string) {
	payload = e.Append(nil)
	return payload, sha256Hex(payload)
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// decodeEntry reads an entry from its fields, names and values in turn.
func decodeEntry(list []any) (audit.Event, error) {
	var e audit.Event
	fields := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		name, _ := list[i].(string)
		fields[name], _ = list[i+1].(string)
	}
	if v := fields["v"]; v != redisVersion {
		return e, fmt.Errorf("the entry's version is %.20q, and this program knows only %q", v, redisVersion)
	}
	payload := []byte(fields["event"])
	if sha256Hex(payload) != fields["sha256"] {
		return e, errors.New("the checksum does not match")
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, fmt.Errorf("decode event: %w", err)
	}
	if id := fields["id"]; e.EventID.String() != id {
		return e, fmt.Errorf("the entry of event %.40q holds event %s", id, e.EventID)
	}
	return e, nil
}
