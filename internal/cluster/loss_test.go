package cluster

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// What Allow refuses because too little would be left is permitted in a lab, and nothing else.
func TestLossIsAllowedOnlyInALab(t *testing.T) {
	f := whole()
	f.Dies("cp-c", "lb-b")
	s := Evaluate(f.Spec, f.Seen)
	for _, c := range []Change{{Verb: Stop, Part: ControlPlane, Subject: "cp-a"}, {Verb: Stop, Part: WholeHost, Subject: "cp-b"}, {Verb: Stop, Part: LoadBalancer, Subject: "lb-a"}, {Verb: Stop, Part: WholeZone, Subject: "a"}} {
		if _, r := s.Allow(c); r == nil {
			t.Errorf("%s: it is allowed anyway, so nothing is shown", c)
		}
		permit, r := s.AllowLoss(c, true)
		if r != nil {
			t.Errorf("%s: %v", c, r)
		}
		if err := permit.Covers(c.Subject); c.Part != WholeZone && err != nil {
			t.Errorf("%s: %v", c, err)
		}
		if c.Part != WholeZone && permit.Covers("w-a") == nil {
			t.Errorf("%s: the permit covers another host", c)
		}
		if permit, r := s.AllowLoss(c, false); r == nil || r.Rule != RuleOnlyInLab || permit.Covers(c.Subject) == nil {
			t.Errorf("%s outside of a lab: %v", c, r)
		}
	}
	for _, verb := range []Verb{Create, Add, Remove, Restart, Start, Reload, Clear, Move, Recover, Downgrade, Defragment} {
		if permit, r := s.AllowLoss(Change{Verb: verb, Part: ControlPlane, Subject: "cp-a"}, true); r == nil || permit.Covers("cp-a") == nil {
			t.Errorf("%s is permitted as a loss", verb)
		}
	}
	// The other rules count: what is not known is not stopped.
	f = whole()
	f.Change("lb-a", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "no answer" })
	if _, r := Evaluate(f.Spec, f.Seen).AllowLoss(Change{Verb: Stop, Part: LoadBalancer, Subject: "lb-a"}, true); r == nil || r.Rule != RuleUnknown {
		t.Errorf("a load balancer of which nothing is known: %v", r)
	}
}

// There is one way around the rules, and only a drill takes it.
func TestOnlyADrillAllowsALoss(t *testing.T) {
	var users []string
	for _, top := range []string{"../../internal", "../../cmd"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			if strings.Contains(string(data), ".AllowLoss(") {
				users = append(users, filepath.ToSlash(path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"../../internal/drill/permit.go"}; !slices.Equal(users, want) {
		t.Errorf("%v use AllowLoss, want %v", users, want)
	}
}
