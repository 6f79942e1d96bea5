package harness

import (
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// post posts on a connection of its own and returns the status, or the error.
func post(t *testing.T, url string) (int, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 300 * time.Millisecond}
	resp, err := client.Post(url, "text/plain", strings.NewReader("hello"))
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close()
	return resp.StatusCode, nil
}

func TestProxyBreaksConnectionsAsItIsTold(t *testing.T) {
	t.Parallel()
	sink := NewSink(t)
	proxy := NewProxy(t, strings.TrimPrefix(sink.URL, "http://"))
	type result struct {
		Outcome string
		Arrived bool
	}
	outcome := func(status int, err error) string {
		var timeout interface{ Timeout() bool }
		switch {
		case err == nil:
			return http.StatusText(status)
		case errors.Is(err, syscall.ECONNREFUSED):
			return "refused"
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
			return "broken"
		case errors.As(err, &timeout) && timeout.Timeout():
			return "no answer"
		}
		return err.Error()
	}
	pass := result{"OK", true}
	for _, row := range []struct {
		name string
		mode Mode
		n    int
		want []result
	}{
		{"pass", Pass, 0, []result{pass, pass}},
		{"refuse", Refuse, 0, []result{{"refused", false}, {"refused", false}}},
		{"reset two", ResetConnections, 2, []result{{"broken", false}, {"broken", false}, pass}},
		{"cut one", CutAnswers, 1, []result{{"broken", true}, pass}},
		{"hold all", Hold, 0, []result{{"no answer", false}, {"no answer", false}}},
		{"hold one", Hold, 1, []result{{"no answer", false}, pass}},
		{"pass again", Pass, 0, []result{pass}},
	} {
		proxy.Set(row.mode, row.n)
		var got []result
		for range row.want {
			before := len(sink.Received(""))
			said := outcome(post(t, "http://"+proxy.Address))
			got = append(got, result{said, len(sink.Received("")) > before})
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
}

func TestSinkAnswersInTurnAndThenTheSame(t *testing.T) {
	t.Parallel()
	sink := NewSink(t)
	sink.Answer("/a", Status(503), Status(400))
	var got []int
	for _, path := range []string{"/a", "/b", "/a", "/a"} {
		status, err := post(t, sink.URL+path)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, status)
	}
	if diff := cmp.Diff([]int{503, 200, 400, 400}, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	sink.Answer("/a", Reset)
	if status, err := post(t, sink.URL+"/a"); err == nil {
		t.Errorf("the answer is %d, want none", status)
	}
	if got := len(sink.Received("/a")); got != 4 {
		t.Errorf("%d requests were received, want 4: one without an answer is one too", got)
	}
}

func TestAProcessIsSeenToPrintAndToEnd(t *testing.T) {
	t.Parallel()
	p := Start(t, exec.Command("sh", "-c", `trap "echo asked; exit 0" TERM; echo first; while :; do read -r x || sleep 0.01; done`))
	if line := p.WaitLog(5*time.Second, "fir"); line != "first" {
		t.Errorf("the line is %q", line)
	}
	if p.Ended() {
		t.Error("it has ended by itself")
	}
	p.Stop(5 * time.Second)
	if !p.Ended() || !strings.Contains(p.Log(), "asked") {
		t.Errorf("it was not asked to end: %s", p.Log())
	}
}
