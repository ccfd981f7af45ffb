package observe

import (
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestAMemberWhoseHostIsEmptyDoesNotWork: no route leads to it, which alone would leave it unknown.
func TestAMemberWhoseHostIsEmptyDoesNotWork(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Hosts[0].Address = "10.0.0.11"
	const url = "https://10.0.0.11:2380"
	for name, tc := range map[string]struct {
		facts *facts.Facts
		url   string
		down  bool
	}{
		"an empty host":      {&facts.Facts{}, url, true},
		"its data is there":  {&facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true}}, url, false},
		"its manifest":       {&facts.Facts{Kubernetes: facts.Kubernetes{Manifests: []string{"etcd"}}}, url, false},
		"nobody could ask":   {nil, url, false},
		"it is elsewhere":    {&facts.Facts{}, "https://10.0.0.99:2380", false},
		"an etcd of systemd": {&facts.Facts{Units: map[string]string{"etcd.service": "active"}}, url, false},
	} {
		obs := &facts.Observation{Hosts: map[string]facts.Host{"cp-a": {Facts: tc.facts}}, Etcd: []facts.EtcdMember{{Name: "cp-a", PeerURL: tc.url, Started: true, Unknown: "no host leads to it"}}}
		emptyHosts(c, obs)
		if m := obs.Etcd[0]; (m.Problem != "") != tc.down || (m.Unknown == "") != tc.down {
			t.Errorf("%s: %+v", name, m)
		}
	}
}
