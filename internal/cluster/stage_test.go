package cluster

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

func TestStage(t *testing.T) {
	for name, c := range map[string]struct {
		change func(fixture)
		want   Stage
	}{
		"complete":            {func(fixture) {}, Complete},
		"nothing":             {func(f fixture) { f.Empty() }, Absent},
		"nothing on the rest": {func(f fixture) { f.Empty(); f.Dies("w-a") }, Undetermined},
		"no API":              {func(f fixture) { f.Silent() }, Unresponsive},
		"marks and no data":   {func(f fixture) { f.Empty(); f.Kubernetes("cp-a").Established = true }, Unresponsive},
		"begun":               {func(f fixture) { f.Empty(); f.Kubernetes("cp-a").Begun = true }, Partial},
		"begun, and initialised": {func(f fixture) {
			f.Marks(false)
			f.Kubernetes("cp-a").Begun = true
		}, Partial},
		"begun, initialised, and others joined": {func(f fixture) {
			f.Marks(false)
			f.Kubernetes("cp-a").Begun = true
			f.Seen.API.Nodes = append(f.Seen.API.Nodes, facts.Node{Name: "other"})
		}, Complete},
		"verified, and the marks were removed": {func(f fixture) { f.Marks(false); f.Seen.API.Verified = "x" }, Complete},
		"somebody else's":                      {func(f fixture) { f.Marks(false) }, Foreign},
		"somebody else's without an API":       {func(f fixture) { f.Marks(false); f.Silent() }, Unresponsive},
		"etcd data":                            {func(f fixture) { f.Empty(); f.Kubernetes("cp-a").EtcdData = true }, Partial},
		// A worker of a complete cluster has the mark that a build began, and no mark that it was complete.
		"a worker alone": {func(f fixture) {
			f.Kubernetes("w-a").Begun = true
			f.Silent()
			f.Dies("cp-a", "cp-b", "cp-c")
		}, Undetermined},
		// A control plane that was joining looks like one of an interrupted build.
		"a joining control plane alone": {func(f fixture) {
			f.Empty()
			f.Kubernetes("cp-c").Begun, f.Kubernetes("cp-c").EtcdData = true, true
			f.Dies("cp-a", "cp-b")
		}, Undetermined},
	} {
		f := whole()
		c.change(f)
		s := Evaluate(f.Spec, f.Seen)
		if s.Stage() != c.want {
			t.Errorf("%s: %s, want %s", name, s.Stage(), c.want)
		}
		if _, r := s.Allow(Change{Verb: Create, Part: ControlPlane, Subject: "cp-a"}); (r == nil) != (c.want == Absent || c.want == Partial) {
			t.Errorf("%s: creating a control plane: %v", name, r)
		}
	}
}

func TestCAIsThatOfTheCluster(t *testing.T) {
	f := whole()
	f.Kubernetes("cp-a").CA, f.Kubernetes("cp-a").Established = "OTHER", false
	if ca := Evaluate(f.Spec, f.Seen).CA(); ca != "PEM" {
		t.Errorf("the first host's, although it is marked as none of the cluster's: %q", ca)
	}
	f.Marks(false)
	if ca := Evaluate(f.Spec, f.Seen).CA(); ca != "PEM" {
		t.Errorf("not that of most hosts: %q", ca)
	}
	f.Empty()
	if ca := Evaluate(f.Spec, f.Seen).CA(); ca != "" {
		t.Errorf("%q of nothing", ca)
	}
}

func TestJoined(t *testing.T) {
	f := whole()
	f.External()
	joined := func() (out []string) {
		s := Evaluate(f.Spec, f.Seen)
		for _, h := range f.Spec.Spec.Hosts {
			if s.Joined(h) {
				out = append(out, h.Name)
			}
		}
		return out
	}
	if got := joined(); !slices.Equal(got, Names(f.Spec.Spec.Hosts)) {
		t.Errorf("%v", got)
	}
	f.Kubernetes("w-a").KubeletConfig = false
	f.Kubernetes("etcd-b").EtcdData = false
	f.Seen.Hosts["lb-a"].Balancer.WrittenFor = "another"
	f.Dies("cp-b")
	if got, want := joined(), []string{"cp-a", "w-b", "lb-b", "etcd-a", "etcd-c"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHolders(t *testing.T) {
	f := whole()
	f.Change("lb-a", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "no answer" })
	holders, unknown := Evaluate(f.Spec, f.Seen).Holders()
	if len(holders) != 0 || !slices.Equal(unknown, []string{"lb-a"}) {
		t.Errorf("holders %v, unknown %v", holders, unknown)
	}
	// Its address says it, although the load balancer itself could not be asked.
	f.Seen.Hosts["lb-a"].Facts.Addresses = append(f.Seen.Hosts["lb-a"].Facts.Addresses, facts.Address{IP: "10.0.0.100"})
	holders, unknown = Evaluate(f.Spec, f.Seen).Holders()
	if !slices.Equal(holders, []string{"lb-a"}) || len(unknown) != 0 {
		t.Errorf("holders %v, unknown %v", holders, unknown)
	}
}
