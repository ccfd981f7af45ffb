package recovery

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestDisk: one disk is left. Members whose machines are in the spec were installed again; of the others nobody knows.
func TestDisk(t *testing.T) {
	const where = "new-a"
	for name, tc := range map[string]struct {
		voters  int
		hosts   int // how many of them are hosts of the spec
		lost    []string
		change  func(*facts.EtcdCopy)
		refused string
		missing int
	}{
		"all machines were installed again":         {voters: 3, hosts: 3, missing: 2},
		"other machines":                            {voters: 3, refused: "nothing is known of cp-b, cp-c"},
		"other machines, one declared lost":         {voters: 3, lost: []string{"cp-b"}, missing: 2},
		"other machines, all declared lost":         {voters: 3, lost: []string{"cp-b", "cp-c"}, missing: 2},
		"two of three are the same":                 {voters: 3, hosts: 2, missing: 2},
		"five, of which two are the same":           {voters: 5, hosts: 2, refused: "nothing is known of cp-c, cp-d, cp-e"},
		"five, of which three are the same":         {voters: 5, hosts: 3, missing: 4},
		"a cluster of one":                          {voters: 1},
		"somebody else is declared lost":            {voters: 3, hosts: 3, lost: []string{"cp-x"}, refused: "--lost cp-x", missing: 2},
		"damaged":                                   {voters: 3, hosts: 3, change: func(c *facts.EtcdCopy) { c.Error = "a page is wrong" }, refused: "a page is wrong"},
		"no identity":                               {voters: 3, hosts: 3, change: func(c *facts.EtcdCopy) { c.ClusterID = "" }, refused: "of which cluster"},
		"a learner without a vote is not missed":    {voters: 3, hosts: 3, change: func(c *facts.EtcdCopy) { c.Members[2].Learner = true }, missing: 1},
		"the last entry was not written as a whole": {voters: 3, hosts: 3, change: func(c *facts.EtcdCopy) { c.Torn = true }, missing: 2},
	} {
		w := newWorld(tc.voters)
		copied := w.seen.LostQuorum.Remains["cp-a"].Copies[0]
		copied.Path, copied.Members = "/mnt/etcd/", append([]facts.EtcdCopyMember(nil), copied.Members...)
		if tc.change != nil {
			tc.change(&copied)
		}
		for i := tc.hosts; i < tc.voters; i++ {
			w.c.Spec.Hosts[i] = spec.Host{Name: "new-" + string(rune('a'+i)), Address: "10.0.1." + string(rune('1'+i)), Roles: []string{spec.RoleControlPlane}}
		}
		j := Disk(w.c, where, copied, tc.lost, false)
		for _, v := range Disk(w.c, where, copied, tc.lost, true).Voters {
			if strings.Contains(v.Why, "has no data") || v.Host != "" && v.Name != "cp-a" && !strings.Contains(v.Why, v.Host+" is reset") {
				t.Errorf("%s: over a cluster, %s is gone because %s", name, v.Name, v.Why)
			}
		}
		var why string
		for _, o := range j.Obstacles {
			why += o.Why + "\n"
			if o.Fix == "" {
				t.Errorf("%s: nothing says what to do about %q", name, o.Why)
			}
		}
		if (why == "") != (tc.refused == "") || !strings.Contains(why, tc.refused) || strings.Contains(why, "cp-a") {
			t.Errorf("%s: %q, want %q", name, why, tc.refused)
		}
		if len(j.Missing) != tc.missing && tc.refused == "" {
			t.Errorf("%s: missing is %q", name, j.Missing)
		}
		if j.Candidates[0].String() != "new-a:/mnt/etcd" || j.Candidates[0].Of != "cp-a" {
			t.Errorf("%s: %s of %q", name, j.Candidates[0], j.Candidates[0].Of)
		}
	}
}
