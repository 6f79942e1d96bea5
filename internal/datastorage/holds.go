package datastorage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"unicode/utf8"
)

const (
	holdsPath = "/api/v1/audit/legal-hold"
	// holdsAccess is asked of RBAC apart from the events: whoever releases a hold
	// decides what is forgotten.
	holdsAccess = "/audit/holds"
	// maxHoldBytes is ample for the texts of a hold.
	maxHoldBytes = 16 << 10
)

func (a *API) postHold(w http.ResponseWriter, r *http.Request) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		problem(unsupportedMedia, "Content-Type must be application/json").write(w)
		return
	}
	var hold Hold
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHoldBytes))
	if err == nil {
		err = json.Unmarshal(body, &hold)
	}
	if err != nil {
		problem(invalidRequest, "the body must be a JSON object with correlation_id, reason and placed_by").write(w)
		return
	}
	for _, text := range []struct {
		name, value string
		limit       int
	}{{"correlation_id", hold.CorrelationID, 255}, {"reason", hold.Reason, 1000}, {"placed_by", hold.PlacedBy, 255}} {
		if detail := checkText(text.name, text.value, text.limit); detail != "" {
			problem(invalidRequest, detail).write(w)
			return
		}
	}
	if slices.Contains([]string{".", "..", "/"}, hold.CorrelationID) {
		problem(invalidRequest, fmt.Sprintf("correlation_id must be other than %q, which no path can hold to release it", hold.CorrelationID)).write(w)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), storeTimeout)
	defer cancel()
	hold, err = a.events.PlaceHold(ctx, hold)
	switch {
	case errors.Is(err, ErrHeld):
		writeJSON(w, http.StatusOK, hold)
	case err != nil:
		a.holdProblem(r, err).write(w)
	default:
		writeJSON(w, http.StatusCreated, hold)
	}
}

func checkText(name, value string, limit int) string {
	if n := utf8.RuneCountInString(value); n < 1 || n > limit {
		return fmt.Sprintf("%s must have 1 to %d characters", name, limit)
	}
	for _, c := range value {
		if c == 0 {
			return name + " must be without NUL characters"
		}
	}
	return ""
}

func (a *API) deleteHold(w http.ResponseWriter, r *http.Request) {
	by := r.URL.Query().Get("released_by")
	if detail := checkText("released_by", by, 255); detail != "" {
		problem(invalidRequest, detail).write(w)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), storeTimeout)
	defer cancel()
	correlationID := r.PathValue("correlation_id")
	err := a.events.ReleaseHold(ctx, correlationID, by)
	switch {
	case errors.Is(err, ErrNotHeld):
		problem(notFound, fmt.Sprintf("there is no hold on correlation_id %q", correlationID)).write(w)
	case err != nil:
		a.holdProblem(r, err).write(w)
	default:
		writeJSON(w, http.StatusOK, map[string]string{"correlation_id": correlationID, "released_by": by})
	}
}

func (a *API) getHolds(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	holds, err := a.events.Holds(ctx)
	if err != nil {
		a.holdProblem(r, err).write(w)
		return
	}
	if holds == nil {
		holds = []Hold{}
	}
	writeJSON(w, http.StatusOK, map[string][]Hold{"data": holds})
}

func (a *API) holdProblem(r *http.Request, err error) *Problem {
	if r.Context().Err() == nil {
		requestLog(r).Error(err, "Legal hold failed")
	}
	return retryable(unavailable, "the database does not answer at present; ask again")
}
