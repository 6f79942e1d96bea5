package chaos

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"kubernaut.ai/notification/api/v1alpha1"
)

// obligation is a request that the API server has taken, and so has to be honoured.
type obligation struct {
	name        string
	correlation string // the oracle's own ID of the request, or of its incident
	uid         types.UID
	created     time.Time // to the second
	onAmbiguous v1alpha1.AmbiguousPolicy
	deleted     bool                // somebody asked for its deletion
	words       map[string][]string // a person's words about deliveries in doubt

	expected
	answers
	seen
}

// expected is what a request is meant to become.
type expected struct {
	named      []string   // the channels that it names
	routes     [][]string // where routes may lead it that names none
	escalateTo []string
	asks       bool   // for an acknowledgement
	dry        bool   // nothing is to be sent
	repeats    string // those of its group have the same here
	expires    bool   // its deadline may pass in the run
	quiet      bool   // its route has quiet hours
	urgent     bool   // none hold it
	updates    bool   // it takes the place of another where it may
}

// seen is what the API server has shown of a request.
type seen struct {
	last *v1alpha1.NotificationRequest // the latest, nil where never
	gone bool

	routed  []string            // where it goes, as first said
	strayed []string            // how a decision was changed that had been taken
	begun   map[int32]time.Time // its attempts on chLimited

	conversation
}

// channels returns where a request goes that nobody has to answer for.
func (o *obligation) channels() []string {
	if len(o.routes) > 0 {
		return o.routed
	}
	return o.named
}

// see takes another look at a request.
func (s *seen) see(nr *v1alpha1.NotificationRequest) {
	if s.last != nil && version(nr) < version(s.last) {
		return
	}
	nr.ManagedFields = nil
	s.last = nr
	var routed []string
	for _, c := range nr.Status.RoutedChannels {
		routed = append(routed, c.Name)
	}
	if c := meta.FindStatusCondition(nr.Status.Conditions, v1alpha1.ConditionRouted); c != nil && c.Reason == v1alpha1.ReasonNoRouteMatched {
		routed = []string{chConsole}
	}
	if s.routed == nil {
		s.routed = routed
	} else if !slices.Equal(routed, s.routed) {
		s.strayed = append(s.strayed, fmt.Sprintf("routed to %v, and later to %v", s.routed, routed))
	}
	for _, d := range nr.Status.Deliveries {
		switch {
		case d.Channel == chLimited && d.State == v1alpha1.DeliveryInFlight:
			if s.begun == nil {
				s.begun = map[int32]time.Time{}
			}
			s.begun[d.Attempts] = d.StartedTime.Time // an attempt that was not made is begun anew
		case slackChannels[d.Channel] != "":
			if strayed := s.look(d); strayed != "" {
				s.strayed = append(s.strayed, strayed)
			}
		}
	}
}

// version is the order in which a request was written.
func version(nr *v1alpha1.NotificationRequest) uint64 {
	n, _ := strconv.ParseUint(nr.ResourceVersion, 10, 64)
	return n
}
