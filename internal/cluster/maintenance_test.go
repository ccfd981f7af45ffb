package cluster

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// maintained is the whole cluster with hosts in maintenance.
func maintained(hosts ...string) fixture {
	f := whole()
	f.Seen.API.Maintenance = map[string]facts.Maintenance{}
	for _, h := range hosts {
		f.Seen.API.Maintenance[h] = facts.Maintenance{Ready: true}
	}
	return f
}

// TestNothingReliesOnAHostInMaintenance: it may be switched off at any moment.
func TestNothingReliesOnAHostInMaintenance(t *testing.T) {
	for name, tc := range map[string]struct {
		in     []string
		change Change
		rule   string // that refuses; empty if the change is allowed
	}{
		"the first control plane":                   {nil, Change{Verb: Stop, Part: WholeHost, Subject: "cp-a"}, ""},
		"a second one":                              {[]string{"cp-a"}, Change{Verb: Stop, Part: WholeHost, Subject: "cp-b"}, RuleEnough},
		"restarting an API server elsewhere":        {[]string{"cp-a"}, Change{Verb: Restart, Part: APIPrograms, Subject: "cp-b"}, ""},
		"restarting an etcd member elsewhere":       {[]string{"cp-a"}, Change{Verb: Restart, Part: EtcdMember, Subject: "cp-b"}, RuleEnough},
		"the same one again":                        {[]string{"cp-a"}, Change{Verb: Stop, Part: WholeHost, Subject: "cp-a"}, ""},
		"restarting the host itself":                {[]string{"cp-a"}, Change{Verb: Restart, Part: WholeHost, Subject: "cp-a"}, ""},
		"ending it":                                 {[]string{"cp-a"}, Change{Verb: Start, Part: WholeHost, Subject: "cp-a"}, ""},
		"a load balancer":                           {nil, Change{Verb: Stop, Part: WholeHost, Subject: "lb-a"}, ""},
		"the other load balancer":                   {[]string{"lb-a"}, Change{Verb: Stop, Part: WholeHost, Subject: "lb-b"}, RuleEnough},
		"moving the virtual IP away":                {nil, Change{Verb: Move, Part: VirtualIP, Subject: "lb-a"}, ""},
		"moving it to one in maintenance":           {[]string{"lb-b"}, Change{Verb: Move, Part: VirtualIP, Subject: "lb-a"}, RuleSuccessor},
		"draining a worker":                         {nil, Change{Verb: Stop, Part: Node, Subject: "w-a"}, ""},
		"draining the last worker":                  {[]string{"w-b"}, Change{Verb: Stop, Part: Node, Subject: "w-a"}, RuleEnough},
		"stopping the last worker's host":           {[]string{"w-b"}, Change{Verb: Stop, Part: WholeHost, Subject: "w-a"}, RuleEnough},
		"moving leadership":                         {nil, Change{Verb: Move, Part: Leadership, Subject: "cp-a"}, ""},
		"a zone":                                    {nil, Change{Verb: Stop, Part: WholeZone, Subject: "a"}, ""},
		"a zone while a host elsewhere is away":     {[]string{"cp-b"}, Change{Verb: Stop, Part: WholeZone, Subject: "a"}, RuleEnough},
		"a zone while one of its own hosts is away": {[]string{"cp-a"}, Change{Verb: Stop, Part: WholeZone, Subject: "a"}, ""},
	} {
		f := maintained(tc.in...)
		s := Evaluate(f.Spec, f.Seen)
		_, r := s.Allow(tc.change)
		if tc.rule == "" && r != nil || tc.rule != "" && (r == nil || r.Rule != tc.rule) {
			t.Errorf("%s: %v", name, r)
		}
		if r != nil && r.Rule == RuleEnough && !strings.Contains(r.Fix, "quorate maintain --undo "+tc.in[0]) {
			t.Errorf("%s: it does not say how to go on: %s", name, r.Fix)
		}
	}
}

// TestWhatIsAddedTakesNothingAway: another worker is what a cluster needs whose workers do not work.
func TestWhatIsAddedTakesNothingAway(t *testing.T) {
	f := whole()
	for _, host := range []string{"w-a", "w-b"} {
		f.Dies(host)
	}
	if _, r := Evaluate(f.Spec, f.Seen).Allow(Change{Verb: Add, Part: Node, Subject: "w-c"}); r != nil {
		t.Error(r)
	}
}

// TestAFailureDuringMaintenanceIsNoticed: the host that is in maintenance may work, but a change that stops it is judged on
// what is left without it.
func TestAFailureDuringMaintenanceIsNoticed(t *testing.T) {
	f := maintained("cp-a")
	f.Dies("cp-b")
	s := Evaluate(f.Spec, f.Seen)
	for _, c := range []Change{{Verb: Stop, Part: WholeHost, Subject: "cp-a"}, {Verb: Restart, Part: WholeHost, Subject: "cp-a"}, {Verb: Stop, Part: EtcdMember, Subject: "cp-a"}} {
		if _, r := s.Allow(c); r == nil || r.Rule != RuleEnough {
			t.Errorf("%s with cp-b dead: %v", c, r)
		}
	}
	if _, r := s.Allow(Change{Verb: Start, Part: WholeHost, Subject: "cp-a"}); r != nil {
		t.Errorf("the maintenance cannot be ended: %v", r)
	}
	if got := s.Margins(); got.Etcd != -1 {
		t.Errorf("margins %+v", got)
	}
	for _, x := range s.Findings() {
		if x.Rule == RuleEtcdMajority {
			t.Errorf("etcd works, and this is said: %s", x.Summary)
		}
	}
}

func TestMaintenanceTakesFromTheMargins(t *testing.T) {
	f := maintained("cp-a", "lb-b")
	s := Evaluate(f.Spec, f.Seen)
	if m := s.Margins(); m.ControlPlanes != 0 || m.Etcd != 0 || *m.LoadBalancers != 0 {
		t.Errorf("%+v", m)
	}
	if got := s.InMaintenance(); !slices.Equal(got, []string{"cp-a", "lb-b"}) {
		t.Error(got)
	}
	after := s.After(Change{Verb: Start, Part: WholeHost, Subject: "cp-a"}).After(Change{Verb: Start, Part: WholeHost, Subject: "lb-b"})
	if m := after.Margins(); m.ControlPlanes != 1 || m.Etcd != 1 || *m.LoadBalancers != 1 {
		t.Errorf("afterwards %+v", m)
	}
}
