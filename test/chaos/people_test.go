package chaos

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"kubernaut.ai/notification/api/v1alpha1"
)

// answer gives a person's word about deliveries that are held in doubt.
func (w *workload) answer() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		}
		for _, o := range w.obligations() {
			w.mu.Lock()
			nr := o.last
			skip := nr == nil || o.gone || nr.Annotations[v1alpha1.ResolveAnnotation] != ""
			w.mu.Unlock()
			if skip {
				continue
			}
			i := slices.IndexFunc(nr.Status.Deliveries, func(d v1alpha1.Delivery) bool { return d.State == v1alpha1.DeliveryAmbiguous })
			if i < 0 {
				continue
			}
			ch, word := nr.Status.Deliveries[i].Channel, pick(w, "Sent", "Sent", "Failed", "Retry")
			w.mu.Lock()
			o.words[ch] = append(o.words[ch], word) // whether or not it will be heard
			w.mu.Unlock()
			_ = w.patch(o, fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{%q:"%s=%s"}}}`,
				o.uid, nr.ResourceVersion, v1alpha1.ResolveAnnotation, ch, word))
		}
	}
}

// answers are what people did about a message that asks for an acknowledgement.
type answers struct {
	answering bool     // somebody is still at it
	pressed   []string // the name that each gave who pressed the button
	confirmed []string // who has acknowledged, by each page that said so
	forged    int      // forged links that were taken
	// calm says that nothing had been escalated when the first page said so, spared
	// names the channels where no attempt had begun: none may begin any more.
	calm   bool
	spared []string
	// untrue are the pages that said what status did not.
	untrue []string
}

// person answers for a message, or does not.
func (w *workload) person(o *obligation) {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		o.answering = false
	}()
	plan := pick(w, "at once", "at once", "both", "later", "late", "when escalated", "never")
	readers := o.named
	if plan == "when escalated" {
		readers = o.escalateTo
	}
	link := w.link(o, readers)
	if link == "" {
		return
	}
	w.visit(http.MethodGet, link, "") // a preview
	forged := link[:len(link)-30] + string('A'+(link[len(link)-30]+1)%26) + link[len(link)-29:]
	if code, _ := w.visit(http.MethodPost, forged, "Forger"); code == http.StatusOK {
		w.mu.Lock()
		o.forged++
		w.mu.Unlock()
	}
	switch plan {
	case "never":
		return
	case "later":
		w.wait(time.Duration(pick(w, 1, 3, 6)) * time.Second)
	case "late": // when it is being escalated
		w.wait(within + time.Duration(pick(w, -1500, -1000, -500, 0, 500))*time.Millisecond)
	}
	var both sync.WaitGroup
	both.Go(func() { w.press(o, link, "Ada") })
	if plan == "both" {
		both.Go(func() { w.press(o, link, "Ben") })
	}
	both.Wait()
	w.press(o, link, "Cem")
}

// link waits for a message with a link and returns that, "" where none comes.
func (w *workload) link(o *obligation, channels []string) string {
	for {
		w.mu.Lock()
		over := o.done()
		w.mu.Unlock()
		for _, ch := range channels {
			if link := w.sinks.link(message{o.uid, ch}); link != "" {
				return link
			}
		}
		if over || len(channels) == 0 || w.ctx.Err() != nil {
			return ""
		}
		w.wait(50 * time.Millisecond)
	}
}

var whoAnswered = regexp.MustCompile(`gave the name "(\w+)", which nobody has verified, acknowledged this message`)

// press presses the button until a page says what has come of it.
func (w *workload) press(o *obligation, link, by string) {
	w.mu.Lock()
	o.pressed = append(o.pressed, by)
	w.mu.Unlock()
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && w.ctx.Err() == nil; w.wait(100 * time.Millisecond) {
		code, page := w.visit(http.MethodPost, link, by)
		switch code {
		case http.StatusOK:
			who := whoAnswered.FindStringSubmatch(page)
			if who == nil {
				who = []string{"", "nobody: " + page}
			}
			w.confirm(o, who[1])
			return
		case http.StatusNotFound, http.StatusGone:
			return
		}
	}
}

// confirm compares what a page said with what the API server says after it.
func (w *workload) confirm(o *obligation, by string) {
	current, there := &v1alpha1.NotificationRequest{}, false
	w.persist(func() error {
		err := w.kube.Get(w.ctx, client.ObjectKeyFromObject(w.object(o)), current)
		there = err == nil && current.UID == o.uid
		return client.IgnoreNotFound(err)
	})
	if there {
		w.see(current, false)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o.confirmed = append(o.confirmed, by)
	if !there || len(o.confirmed) > 1 {
		return
	}
	if current.Status.Acknowledgement.Time == nil {
		o.untrue = append(o.untrue, by)
	}
	o.calm = current.Status.Escalation.Time == nil
	for _, ch := range o.escalateTo {
		i := slices.IndexFunc(current.Status.Deliveries, func(d v1alpha1.Delivery) bool { return d.Channel == ch })
		if i < 0 || current.Status.Deliveries[i].Attempts == 0 {
			o.spared = append(o.spared, ch)
		}
	}
}

// visit asks any of the managers for a page. The code is 0 where it does not answer.
func (w *workload) visit(method, link, by string) (code int, page string) {
	address, _ := url.Parse(link) // the sinks have seen to it
	address.Host = pick(w, w.pages...)
	r, err := http.NewRequestWithContext(w.ctx, method, address.String(), strings.NewReader(url.Values{"by": {by}}.Encode()))
	if err != nil {
		return 0, ""
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(r)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, html.UnescapeString(string(body))
}
