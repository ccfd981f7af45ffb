package dashboard

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

// gone is a cluster of which no host can be reached.
func gone() clustertest.Fixture {
	f := clustertest.Whole()
	f.Dies("cp-a", "cp-b", "cp-c", "w-a", "w-b", "lb-a", "lb-b")
	f.Seen.API, f.Seen.APIError, f.Seen.Etcd, f.Seen.EtcdError = nil, "no host", nil, "no host"
	return f
}

// TestAfter: an observation that says nothing does not replace one that does.
func TestAfter(t *testing.T) {
	now := clustertest.Now.Add(time.Minute)
	whole := Look{State: stateOf(clustertest.Whole()), Plan: Planned{Unknown: "x"}}
	in := Input{}.after(Look{}, errors.New("no session"), now)
	if in.State != nil || in.Stale == nil || in.Stale.Why != "no session" || !in.Stale.Since.Equal(now) {
		t.Errorf("nothing is known: %+v", in)
	}
	in = in.after(whole, nil, now)
	if in.State != whole.State || in.Stale != nil || !in.Since.Equal(clustertest.Now) || in.Plan.Unknown != "x" || len(in.Changes) != 0 {
		t.Errorf("the first observation: %+v", in)
	}
	in = in.after(Look{State: stateOf(gone())}, nil, now)
	if in.State != whole.State || in.Stale == nil || !in.Stale.Since.Equal(clustertest.Now) || !strings.Contains(in.Stale.Why, "no host can be reached from here (cp-a: dial tcp: i/o timeout)") {
		t.Errorf("no host: %+v", in.Stale)
	}
	in = in.after(Look{}, errors.New("other"), now.Add(time.Minute))
	if in.Stale == nil || !in.Stale.Since.Equal(clustertest.Now) || in.Stale.Why != "other" {
		t.Errorf("since when: %+v", in.Stale)
	}
	dead := clustertest.Whole()
	dead.Dies("w-b")
	in = in.after(Look{State: stateOf(dead)}, nil, now)
	if in.Stale != nil || len(in.Changes) == 0 || in.Changes[0].Gone {
		t.Errorf("a dead host: %+v, %+v", in.Stale, in.Changes)
	}
	found := len(in.Changes)
	if in = in.after(whole, nil, now); len(in.Changes) != 2*found || !in.Changes[0].Gone {
		t.Errorf("it is back: %+v", in.Changes)
	}
}

// TestHiddenFindingsAreNotGone: what is wrong with a host is not repaired because the host cannot be queried.
func TestHiddenFindingsAreNotGone(t *testing.T) {
	broken, hidden := clustertest.Whole(), clustertest.Whole()
	broken.Component("w-a", facts.KubeProxy, clustertest.Problem("connection refused"))
	hidden.Dies("w-a")
	in := Input{}.after(Look{State: stateOf(broken)}, nil, clustertest.Now).after(Look{State: stateOf(hidden)}, nil, clustertest.Now)
	found := false
	for _, c := range in.Changes {
		if c.Gone && slices.Contains(c.Finding.Subjects, "w-a") {
			found = true
			if !c.Unknown {
				t.Errorf("%q is said to be gone", c.Finding.Summary)
			}
		}
	}
	if !found {
		t.Errorf("no finding was hidden: %+v", in.Changes)
	}
	for _, e := range Of(in).Events {
		if e.Label == "gone" && strings.Contains(e.Words, "kube-proxy") {
			t.Errorf("%q is said to be gone", e.Words)
		}
	}
}

// TestTheFirstObservationIsShown: its findings say what to do, even if no host could be reached.
func TestTheFirstObservationIsShown(t *testing.T) {
	in := Input{}.after(Look{State: stateOf(gone())}, nil, clustertest.Now)
	if in.State == nil || in.Stale != nil {
		t.Fatalf("%+v", in)
	}
	if p := Of(in); len(p.Findings) == 0 {
		t.Error("nothing says what to do")
	}
}

// TestFeed: a view follows each look, and a look that hangs makes the page stale.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		looks, hang := 0, make(chan struct{})
		look := func(context.Context) (Look, error) {
			if looks++; looks == 3 {
				<-hang
			}
			s := stateOf(clustertest.Whole())
			s.Seen.Time = s.Seen.Time.Add(time.Duration(looks) * time.Second)
			return Look{State: s}, nil
		}
		f, err := NewFeed(look, time.Second, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, changed := f.View()
		if first.page.Known {
			t.Error("something is known before the first look")
		}
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		<-changed
		second, changed := f.View()
		if !second.page.Known || second.page.Stale != nil || second.page.Cluster != "lab" {
			t.Errorf("%+v", second.page)
		}
		<-changed
		_, changed = f.View()
		<-changed
		stale, changed := f.View()
		if stale.page.Stale == nil || stale.page.Title != "lab: stale" || !strings.Contains(stale.page.Stale.Why, "did not end within 40s") {
			t.Errorf("%+v", stale.page.Stale)
		}
		close(hang)
		<-changed
		if again, _ := f.View(); again.page.Stale != nil {
			t.Errorf("%+v", again.page.Stale)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestMessagesHaveWhatChanged and nothing else.
func TestMessagesHaveWhatChanged(t *testing.T) {
	view := func(f clustertest.Fixture) *View {
		p := Of(Input{State: stateOf(f)})
		parts, err := p.parts()
		if err != nil {
			t.Fatal(err)
		}
		return &View{page: p, parts: parts, announce: p.announcement()}
	}
	sent := map[string]string{}
	whole := view(clustertest.Whole())
	m := whole.since(sent)
	if len(m.Parts) != len(sections)+1 || m.Parts[0].ID != summary || m.Announce != "lab: healthy. It survives the loss of 1 control plane, 1 etcd member, 1 load balancer, 1 zone." || m.Title != "lab: healthy" {
		t.Errorf("%d parts, %q, %q", len(m.Parts), m.Announce, m.Title)
	}
	if m = whole.since(sent); len(m.Parts) != 0 || m.Announce != "" {
		t.Errorf("nothing changed: %+v", m)
	}
	f := clustertest.Whole()
	f.Seen.Hosts["lb-a"].Balancer.Backends[0].Sessions = 7
	m = view(f).since(sent)
	if len(m.Parts) != 1 || m.Parts[0].ID != "balancers" || m.Announce != "" {
		t.Errorf("connections changed: %+v", m)
	}
}
