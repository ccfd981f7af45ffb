package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/hostside/repairs"
)

const (
	// historyTimeout is how long hosts and the API may take to tell what was repaired.
	historyTimeout = 5 * time.Second
	// sameAttempt is by how much the clocks of hosts may differ, and how long it may take to note one attempt on several of them.
	sameAttempt = 30 * time.Second
)

// PastRepair is a repair that was tried, or one that was due and not made.
type PastRepair struct {
	repairs.Attempt
	// Hosts are those whose journals have it: one for the repair of a host, several for one of the whole cluster. For one that was not made, it is the
	// host that it is about, if any.
	Hosts []string
	// Held says that it was refused, or limited. Problem is then all that is known of it, in words.
	Held bool
}

// PastRepairs are the repairs of the last days, the newest first: those that were tried are in the journals of the hosts, and those that were
// not made are events, which the API keeps for an hour. unknown are the hosts that could not be asked, with the reason; the API has an empty name.
func (e *Engine) PastRepairs(ctx context.Context, s *cluster.State) (out []PastRepair, unknown map[string]string) {
	ctx, cancel := context.WithTimeoutCause(ctx, historyTimeout, fmt.Errorf("no answer within %s", historyTimeout))
	defer cancel()
	unknown = map[string]string{}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	add := func(name string, more []PastRepair, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			unknown[name] = strings.TrimPrefix(err.Error(), name+": ")
		}
		out = append(out, more...)
	}
	for _, h := range s.Spec.Spec.Hosts {
		wg.Go(func() {
			c, err := e.Conns.Get(h.Name)
			var journal []repairs.Attempt
			if err == nil {
				journal, err = repairs.ReadJournal.On(ctx, c, struct{}{})
			}
			var more []PastRepair
			for _, a := range journal {
				more = append(more, PastRepair{Attempt: a, Hosts: []string{h.Name}})
			}
			add(h.Name, more, err)
		})
	}
	if s.Seen.API != nil {
		wg.Go(func() {
			client, err := e.client(ctx)
			var events *corev1.EventList
			if err == nil {
				events, err = client.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "source=quorate"})
			}
			if err != nil {
				add("", nil, fmt.Errorf("reading events: %w", err))
				return
			}
			add("", heldIn(events.Items), nil)
		})
	} else {
		add("", nil, errors.New(cmp.Or(s.Seen.APIError, "it could not be read")))
	}
	wg.Wait()
	return merged(out), unknown
}

// heldIn are the repairs that events say were not made.
func heldIn(events []corev1.Event) (out []PastRepair) {
	for _, x := range events {
		if x.Reason != reasons[RepairRefused] && x.Reason != reasons[RepairLimited] {
			continue
		}
		p := PastRepair{Attempt: repairs.Attempt{Problem: x.Message, Began: x.FirstTimestamp.UTC()}, Held: true}
		if x.Source.Host != "" {
			p.Hosts = []string{x.Source.Host}
		}
		out = append(out, p)
	}
	return out
}

// merged sorts repairs, the newest first, and makes one of the entries about a repair of the whole cluster, which is noted on many hosts.
func merged(all []PastRepair) (out []PastRepair) {
	slices.SortStableFunc(all, func(a, b PastRepair) int {
		return cmp.Or(b.Began.Compare(a.Began), strings.Compare(strings.Join(a.Hosts, ","), strings.Join(b.Hosts, ",")))
	})
	for _, p := range all {
		i := slices.IndexFunc(out, func(o PastRepair) bool {
			return !p.Held && !o.Held && o.Repair == p.Repair && o.Problem == p.Problem && o.By == p.By && o.Began.Sub(p.Began) < sameAttempt && !slices.Contains(o.Hosts, p.Hosts[0])
		})
		if i < 0 {
			out = append(out, p)
			continue
		}
		out[i].Hosts = append(slices.Clone(out[i].Hosts), p.Hosts...)
		slices.Sort(out[i].Hosts)
		if out[i].Ended.IsZero() { // it could not be noted there how it ended
			out[i].Ended, out[i].Error, out[i].Made = p.Ended, p.Error, p.Made
		}
	}
	return out
}
