package delivery_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"

	"kubernaut.ai/notification/internal/delivery"
	"kubernaut.ai/notification/internal/delivery/sendertest"
)

var blockPattern = regexp.MustCompile(`(?s)--- message (\S+)\n.*?--- end\n`)

func TestConsoleConforms(t *testing.T) {
	sendertest.Run(t, sendertest.Harness{
		New: func(*testing.T) sendertest.Channel {
			var out lineWriter
			return sendertest.Channel{
				Sender: delivery.NewConsole(logr.Discard(), &out),
				Arrivals: func(t *testing.T) (all []sendertest.Arrival) {
					for _, block := range blockPattern.FindAllSubmatch(out.Bytes(), -1) {
						all = append(all, sendertest.Arrival{Key: string(block[1]), Content: block[0]})
					}
					if len(all) != out.writes {
						t.Errorf("%d blocks in %d writes", len(all), out.writes)
					}
					return all
				},
			}
		},
		Failing: func(*testing.T) map[string]delivery.Sender {
			return map[string]delivery.Sender{"broken writer": delivery.NewConsole(logr.Discard(), brokenWriter{})}
		},
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestFileConforms(t *testing.T) {
	sendertest.Run(t, sendertest.Harness{
		New: func(t *testing.T) sendertest.Channel {
			root := t.TempDir()
			f, err := delivery.NewFile(root, "team/inbox")
			if err != nil {
				t.Fatal(err)
			}
			return sendertest.Channel{Sender: f, Arrivals: func(t *testing.T) []sendertest.Arrival {
				return filesIn(t, filepath.Join(root, "team", "inbox"))
			}}
		},
		Failing: func(t *testing.T) map[string]delivery.Sender {
			f, err := delivery.NewFile(filepath.Join(t.TempDir(), "missing"), "inbox")
			if err != nil {
				t.Fatal(err)
			}
			return map[string]delivery.Sender{"missing root": f}
		},
	})
}

// filesIn fails for everything but finished documents.
func filesIn(t *testing.T, directory string) (all []sendertest.Arrival) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		key, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			t.Errorf("left behind: %s", e.Name())
			continue
		}
		content, err := os.ReadFile(filepath.Join(directory, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sendertest.Arrival{Key: key, Content: content})
	}
	return all
}

func TestWebhookConforms(t *testing.T) {
	for _, format := range []delivery.WebhookFormat{"", delivery.FormatJSON, delivery.FormatAlertmanager, delivery.FormatCloudEvents} {
		t.Run("format "+string(format), func(t *testing.T) {
			sendertest.Run(t, sendertest.Harness{
				New: func(t *testing.T) sendertest.Channel {
					var mu sync.Mutex
					var all []sendertest.Arrival
					server := serve(t, func(w http.ResponseWriter, r *http.Request) {
						content, err := io.ReadAll(r.Body)
						if err != nil {
							t.Errorf("read request: %v", err)
						}
						mu.Lock()
						defer mu.Unlock()
						all = append(all, sendertest.Arrival{Key: r.Header.Get("Idempotency-Key"), Content: content})
						w.WriteHeader(http.StatusAccepted)
					})
					return sendertest.Channel{
						Sender: webhookOf(t, server.URL, format),
						Arrivals: func(*testing.T) []sendertest.Arrival {
							mu.Lock()
							defer mu.Unlock()
							return all
						},
					}
				},
				Failing: failingWebhooks,
				Secrets: plantedSecrets,
			})
		})
	}
}
