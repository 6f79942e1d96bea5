package delivery

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
)

func TestOnlyAMailThatWasWrittenToItsEndIsInDoubt(t *testing.T) {
	m := &Message{Key: "key", Subject: "s", Body: strings.Repeat("a long body\n", 1000)}
	e := testMail(t)
	e.config.Encryption, e.credentials = EmailNone, nil
	whole := len(e.encode(m)) + len(".\r\n")
	for _, read := range []int{0, 1, whole / 2, whole - 3, whole - 1, whole} {
		gone := make(chan struct{})
		e.dial = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer close(gone)
				defer server.Close()
				r := bufio.NewReaderSize(server, 16) // takes no more than the line end of what it reads
				_, _ = io.WriteString(server, "220 a\r\n")
				for _, answer := range []string{"250 a", "250 a", "250 a", "250 a", "354 a"} {
					_, _ = r.ReadString('\n')
					_, _ = io.WriteString(server, answer+"\r\n")
				}
				_, _ = io.CopyN(io.Discard, r, int64(read))
			}()
			return client, nil
		}
		_, err := e.Send(t.Context(), m)
		<-gone
		want := Transient
		if read == whole {
			want = Ambiguous
		}
		if got := Classify(err); got == nil || got.Class != want || got.MaybeDelivered != (want == Ambiguous) {
			t.Errorf("after %d of %d bytes: %+v, want the class %s", read, whole, got, want)
		}
	}
}
