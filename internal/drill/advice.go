package drill

import (
	"fmt"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// advised is the shortest election timeout that is advised where disks and networks support it: an election begins within a second then. A shorter one
// is a choice of those who know their hosts.
const advised = 500 * time.Millisecond

// Advise adds to the report what would shorten outages that were longer than promised, as far as that is known. The state is that of the cluster before
// the drill.
func (r *Report) Advise(s *cluster.State) {
	n := 0
	for _, o := range r.Faults {
		if len(o.Missed) > 0 && o.LeaderChanges > 0 {
			n++
		}
	}
	timeout, _ := s.Spec.EtcdElectionTimeout()
	if timeout == 0 {
		timeout = time.Duration(facts.EtcdDefaultTimers.Election) * time.Millisecond
	}
	if n == 0 || timeout <= advised || s.Spec.ExistingEtcd() || len(s.Spec.EtcdHosts()) < 2 {
		return
	}
	var slowest cluster.Patience
	for _, p := range s.Patiences() {
		if p.Needs > slowest.Needs {
			slowest = p
		}
	}
	const step = 100 * time.Millisecond
	shorter := max(advised, (slowest.Needs+step-1)/step*step)
	text := fmt.Sprintf("In %s that missed an objective, etcd elected another leader. With its election timeout of %s, an election begins after %s to %s.",
		ui.Plural(n, "fault"), timeout, timeout, 2*timeout)
	switch {
	case slowest.Needs == 0:
		text += fmt.Sprintf(" Members with fast disks in one place support `%s` (%s); `quorate plan` says whether these do.", shorter, spec.ElectionTimeoutPath)
	case shorter < timeout:
		text += fmt.Sprintf(" The members support %s: set %s to `%s`, and see what `quorate plan` says.", shorter, spec.ElectionTimeoutPath, shorter)
	default:
		text += fmt.Sprintf(" The members support no shorter one: %s. Faster disks, and a faster network between them, would allow it.", slowest.Measure)
	}
	r.Advice = append(r.Advice, text)
}
