package cluster

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// TestAMemberThatNobodyAskedForIsNotCleared: a control plane without its node may be a member of an etcd that nobody could ask. A reset would remove its data.
func TestAMemberThatNobodyAskedForIsNotCleared(t *testing.T) {
	for _, known := range []bool{true, false} {
		f := whole()
		f.Seen.Hosts["cp-b"].Facts.Kubernetes.KubeletConfig = false
		f.Seen.API.Nodes = slices.DeleteFunc(f.Seen.API.Nodes, func(n facts.Node) bool { return n.Name == "cp-b" })
		f.Seen.Etcd = slices.DeleteFunc(f.Seen.Etcd, func(m facts.EtcdMember) bool { return m.Name == "cp-b" })
		if !known {
			f.Seen.Etcd, f.Seen.EtcdError = nil, "no member answers"
		}
		r := Evaluate(f.Spec, f.Seen).ruleNoPart(Change{Verb: Clear, Part: WholeHost, Subject: "cp-b"})
		if (r == nil) != known || r != nil && !strings.Contains(r.Why, "whether etcd has a member for it could not be queried") {
			t.Errorf("etcd answers %t: %+v", known, r)
		}
	}
}
