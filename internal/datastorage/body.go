package datastorage

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync/atomic"
)

const (
	// maxArriving bounds the memory of bodies from their first byte until what they hold
	// is stored, for which a few times as much is needed. It is not their number that is
	// bounded, or a few clients that are slow would keep out all others.
	maxArriving = 64 << 20
	// smallBody is one for which some of that is kept, so that a few clients that are
	// slow with large ones keep out nobody who writes as most do.
	smallBody    = 1 << 20
	keptForSmall = 8 << 20
)

// readBody returns the body of a request, which counts among those under way until
// free is called.
func (a *API) readBody(r *http.Request) (body []byte, free func(), p *Problem) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return nil, nil, problem(unsupportedMedia, "Content-Type must be application/json")
	}
	source := &sourceReader{reader: r.Body}
	reader := io.LimitReader(source, maxBodyBytes+1)
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unzipped, err := gzip.NewReader(reader)
		if err != nil && source.err == nil {
			return nil, nil, problem(invalidRequest, "the body is not gzip although Content-Encoding says so")
		}
		if unzipped != nil {
			reader = io.LimitReader(unzipped, maxBodyBytes+1)
		}
	default:
		return nil, nil, problem(unsupportedMedia, fmt.Sprintf("Content-Encoding %q is not known; send gzip or none", encoding))
	}
	counted := &share{reader: reader, arriving: &a.arriving}
	defer func() {
		if p != nil {
			counted.free()
		}
	}()
	body, err = io.ReadAll(counted)
	if errors.Is(err, errNoRoom) {
		return nil, nil, retryable(tooManyRequests, "the bodies of other requests take all the memory there is for them; send this one again later")
	}
	if len(body) > maxBodyBytes {
		return nil, nil, problem(tooLarge, fmt.Sprintf("the body has more than %d bytes", maxBodyBytes))
	}
	if source.err != nil {
		return nil, nil, retryable(requestTimeout, "the body did not arrive whole: "+source.err.Error())
	}
	if err != nil {
		return nil, nil, problem(invalidRequest, "the body is damaged gzip: "+err.Error())
	}
	return body, counted.free, nil
}

// sourceReader remembers an error of the connection, to be told from one of the
// content: the client may send the former again, not the latter.
type sourceReader struct {
	reader io.Reader
	err    error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// share reads a body and counts it among all that are under way.
type share struct {
	reader   io.Reader
	arriving *atomic.Int64
	bytes    int64
}

var errNoRoom = errors.New("no room for the body")

func (s *share) Read(p []byte) (int, error) {
	n, err := s.reader.Read(p)
	s.bytes += int64(n)
	room := int64(maxArriving)
	if s.bytes > smallBody {
		room -= keptForSmall
	}
	if s.arriving.Add(int64(n)) > room {
		return n, errNoRoom
	}
	return n, err
}

func (s *share) free() { s.arriving.Add(-s.bytes) }
