package drill

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestCatalogue(t *testing.T) {
	make := small()
	for name, tc := range map[string]struct {
		fixture clustertest.Fixture
		limits  Limits
		skipped map[string]string // by name; part of the reason
		faults  []string          // that can be injected
	}{
		"a lab": {clustertest.Whole(), everything, map[string]string{"stop/flannel/worker": "cannot be stopped on one host", "stop/coredns/any": "DaemonSet or a Deployment", "delay/host": "neither delays nor reorders",
			"reorder/host": "neither", "press/memory/leader": "share the memory", "fail/disk": "below its file system", "jump/clock": "share the clock of this computer"},
			[]string{"power-off/host/leader", "freeze/host/worker", "power-off/zone/a", "cut/zone/c", "fill/disk/holder", "slow/disk/follower", "overload/api/leader", "stop/etcd/leader", "hang/watchdog/standby"}},
		"a shared disk": {clustertest.Whole(), Limits{Lab: true}, map[string]string{"fill/disk/leader": "share a disk with this computer", "fill/disk/worker": "share a disk"}, []string{"freeze/host/leader", "slow/disk/leader"}},
		"real hosts": {clustertest.Whole(), Limits{NoNetem: "the module sch_netem is missing"}, map[string]string{"power-off/host/leader": "only in a lab", "power-off/zone/b": "only in a lab", "freeze/host/holder": "only in a lab",
			"delay/host": "the module sch_netem is missing", "jump/clock": "putting it back does not undo that"}, []string{"cut/host/leader", "cut/zone/a", "reboot/host/follower", "fill/disk/leader", "press/memory/worker"}},
		"what hosts cannot do": {clustertest.Whole(), Limits{Cannot: map[string]string{"loss": "the kernel has no nft_numgen", "slow/*,press/memory/*": "no cgroup controller"}},
			map[string]string{"loss/host/leader": "nft_numgen", "slow/disk/leader": "no cgroup controller", "press/memory/worker": "no cgroup controller"}, []string{"press/cpu/worker"}},
		"own load balancer": {make["own load balancer"](), everything, map[string]string{"kill/haproxy/holder": "does not manage the load balancer", "cut/vrrp/standby": "load balancer", "power-off/host/holder": "load balancer"},
			[]string{"power-off/host/leader"}},
		"existing etcd": {make["existing"](), everything, map[string]string{"kill/etcd/leader": "does not manage the etcd", "cut/etcd-peers/follower": "etcd", "power-off/host/leader": "etcd", "cut/link/follower": "etcd", "slow/disk/follower": "etcd", "hang/kube-apiserver/leader": "etcd"},
			[]string{"kill/kube-apiserver/follower", "power-off/host/follower", "kill/kube-scheduler/leader"}},
		"external etcd": {make["external"](), everything, map[string]string{"kill/kube-apiserver/leader": "hosts of its own", "overload/api/leader": "hosts of its own"}, []string{"kill/kube-apiserver/follower", "power-off/host/leader", "cut/link/follower"}},
		"single": {make["single"](), everything, map[string]string{"kill/etcd/follower": "etcd has only 1 member", "cut/etcd-peers/leader": "only 1 member", "kill/kube-scheduler/follower": "only one control plane", "power-off/host/follower": "only one control plane",
			"kill/haproxy/standby": "only one load balancer", "cut/vrrp/holder": "only one load balancer", "cut/link/worker": "only one worker", "cut/link/leader": "only 1 member"}, []string{"kill/etcd/leader", "kill/haproxy/holder", "power-off/host/worker"}},
		"one zone": {func() clustertest.Fixture {
			f := clustertest.Whole()
			for i := range f.Spec.Spec.Hosts {
				f.Spec.Spec.Hosts[i].Zone = "a"
			}
			return f
		}(), everything, map[string]string{"power-off/zone/a": "all hosts are in one zone", "cut/zone/a": "one zone"}, nil},
		"no workers": {func() clustertest.Fixture { f := clustertest.Whole(); remove(f, "w-a", "w-b"); return f }(), everything, map[string]string{"power-off/host/worker": "no workers", "kill/kube-proxy/worker": "no workers"}, []string{"kill/kubelet/follower"}},
		"own network": {func() clustertest.Fixture {
			f := clustertest.Whole()
			f.Spec.Spec.Network.CNI = spec.CNINone
			for _, h := range f.Spec.Spec.Hosts {
				f.Change(h.Name, func(seen *facts.Host) { delete(seen.Components, facts.KubeProxy) })
			}
			f.Seen.API.DNSReady = 0
			return f
		}(), everything, map[string]string{"kill/flannel/worker": "not flannel", "kill/kube-proxy/worker": "no kube-proxy", "kill/coredns/any": "no CoreDNS"}, nil},
	} {
		s := cluster.Evaluate(tc.fixture.Spec, tc.fixture.Seen)
		faults, skipped := Catalogue(s, tc.limits)
		names := namesOf(faults)
		for _, f := range tc.faults {
			if !slices.Contains(names, f) {
				t.Errorf("%s: %s cannot be injected", name, f)
			}
		}
		for want, why := range tc.skipped {
			i := slices.IndexFunc(skipped, func(s Skipped) bool { return s.Name == want })
			if i < 0 || !strings.Contains(skipped[i].Why, why) {
				t.Errorf("%s: %s is not skipped because of %q: %v", name, want, why, skipped)
			}
		}
		// Each fault is in one of the two lists, once, and the lists are always the same.
		all := slices.Clone(names)
		for _, s := range skipped {
			all = append(all, s.Name)
			if s.Why == "" {
				t.Errorf("%s: %s is skipped without a reason", name, s.Name)
			}
		}
		slices.Sort(all)
		if len(slices.Compact(slices.Clone(all))) != len(all) {
			t.Errorf("%s: a fault is listed twice: %v", name, all)
		}
		again, skippedAgain := Catalogue(s, tc.limits)
		if !slices.Equal(faults, again) || !slices.Equal(skipped, skippedAgain) {
			t.Errorf("%s: the same cluster has two catalogues", name)
		}
	}
}

func TestDefaultSet(t *testing.T) {
	f := clustertest.Whole()
	s := cluster.Evaluate(f.Spec, f.Seen)
	for name, tc := range map[string]struct {
		limits Limits
		want   []string
	}{
		"a lab": {everything, []string{"kill/kube-apiserver/follower", "kill/etcd/leader", "kill/haproxy/holder", "kill/keepalived/holder", "hang/kube-apiserver/follower", "hang/etcd/leader", "hang/haproxy/holder",
			"power-off/host/leader", "power-off/host/follower", "power-off/host/holder", "cut/host/leader"}},
		"real hosts": {Limits{}, []string{"kill/kube-apiserver/follower", "kill/etcd/leader", "kill/haproxy/holder", "kill/keepalived/holder", "hang/kube-apiserver/follower", "hang/etcd/leader", "hang/haproxy/holder",
			"cut/host/leader", "cut/host/follower", "cut/host/holder"}},
	} {
		faults, _ := Catalogue(s, tc.limits)
		got, err := Select(faults, nil)
		if err != nil || !slices.Equal(namesOf(got), tc.want) {
			t.Errorf("%s: %v, %v", name, namesOf(got), err)
		}
	}
}

func TestSelect(t *testing.T) {
	f := clustertest.Whole()
	faults, _ := Catalogue(cluster.Evaluate(f.Spec, f.Seen), everything)
	for name, tc := range map[string]struct {
		only []string
		want []string // all of them; nil if only their number counts
		n    int
		err  string
	}{
		"a name":           {only: []string{"hang/etcd/leader"}, want: []string{"hang/etcd/leader"}},
		"a list":           {only: []string{"hang/etcd/leader, kill/etcd/leader", "kill/haproxy/holder"}, want: []string{"kill/etcd/leader", "kill/haproxy/holder", "hang/etcd/leader"}},
		"one twice":        {only: []string{"kill/etcd/leader", "kill/etcd/*"}, want: []string{"kill/etcd/leader", "kill/etcd/follower"}},
		"a kind":           {only: []string{"freeze"}, n: 5},
		"a kind, any":      {only: []string{"freeze/*"}, n: 5},
		"any kind":         {only: []string{"*/etcd/leader"}, n: 3},
		"a class":          {only: []string{"power-off/zone/[ab]"}, want: []string{"power-off/zone/a", "power-off/zone/b"}},
		"part of a word":   {only: []string{"kill/kube-*/leader"}, n: 3},
		"everything":       {only: []string{"*"}, n: len(faults)},
		"a slip":           {only: []string{"kil/etcd/leader"}, err: "did you mean `kill/etcd/leader`?"},
		"a slip of a part": {only: []string{"kill/etc/*"}, err: "did you mean `kill/etcd/*`?"},
		"another role":     {only: []string{"kill/etcd/holder"}, err: "did you mean `kill/etcd/leader` or `kill/etcd/follower`?"},
		"without the kind": {only: []string{"etcd/leader"}, err: "did you mean `*/etcd/leader`?"},
		"only the role":    {only: []string{"standby"}, err: "did you mean `*/*/standby`?"},
		"nothing near":     {only: []string{"explode"}, err: "did you mean `kill`, `hang`, `stop`, `power-off`, `freeze` or `reboot`?"},
		"an unknown zone":  {only: []string{"power-off/zone/d"}, err: "`power-off/zone/d`; did you mean"},
		"one of a list":    {only: []string{"kill/etcd/leader,hang/etcd/boss"}, err: "matches `hang/etcd/boss`"},
		"no pattern":       {only: []string{"kill/["}, err: "`kill/[` is not a pattern"},
		"an empty one":     {only: []string{""}, err: "a pattern is empty"},
		"too many parts":   {only: []string{"a/b/c/d"}, err: "at most 3 parts"},
	} {
		got, err := Select(faults, tc.only)
		switch {
		case tc.err != "":
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %q", name, err, tc.err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != nil && !slices.Equal(namesOf(got), tc.want), tc.want == nil && len(got) != tc.n:
			t.Errorf("%s: %v", name, namesOf(got))
		}
	}
}

// Faults of certain hosts are chosen only by who names a host.
func TestSelectOnHosts(t *testing.T) {
	f := clustertest.Whole()
	s := cluster.Evaluate(f.Spec, f.Seen)
	roles, _ := Catalogue(s, everything)
	hosts, _ := OnHosts(s, everything)
	all := slices.Concat(roles, hosts)
	for name, tc := range map[string]struct {
		only string
		want []string // nil: as without faults of hosts
		err  string
	}{
		"a kind":              {only: "kill/*"},
		"everything":          {only: "*"},
		"a host":              {only: "stop/etcd/on=cp-a", want: []string{"stop/etcd/on=cp-a"}},
		"all hosts":           {only: "stop/haproxy/on=*", want: []string{"stop/haproxy/on=lb-a", "stop/haproxy/on=lb-b"}},
		"a host and a role":   {only: "stop/etcd/on=cp-a,stop/etcd/leader", want: []string{"stop/etcd/leader", "stop/etcd/on=cp-a"}},
		"an unknown host":     {only: "stop/haproxy/on=lb-c", err: "did you mean `stop/haproxy/on=lb-a`"},
		"what it does not do": {only: "stop/haproxy/on=cp-a", err: "matches `stop/haproxy/on=cp-a`"},
		"another role":        {only: "kill/etcd/holder", err: "did you mean `kill/etcd/leader` or `kill/etcd/follower`?"},
	} {
		got, err := Select(all, []string{tc.only})
		want := tc.want
		if want == nil && tc.err == "" {
			chosen, err := Select(roles, []string{tc.only})
			if err != nil {
				t.Fatal(err)
			}
			want = namesOf(chosen)
		}
		switch {
		case tc.err != "":
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %q", name, err, tc.err)
			}
		case err != nil || !slices.Equal(namesOf(got), want):
			t.Errorf("%s: %v, %v, want %v", name, namesOf(got), err, want)
		}
	}
	if got, err := Select(all, nil); err != nil || slices.ContainsFunc(got, func(f Fault) bool { return f.On != "" }) {
		t.Errorf("a default fault is for a certain host: %v, %v", namesOf(got), err)
	}
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		patterns, name string
		want           bool
	}{
		{"kill", "kill/etcd/leader", true}, {"kill/*", "kill/etcd/leader", true}, {"kill/*/leader", "kill/etcd/leader", true}, {"kill/etcd/*", "kill/etcd/leader", true},
		{"kill/etcd/leader", "kill/etcd/leader", true}, {"kill/etcd/leader/*", "kill/etcd/leader", true}, {"kill/etcd/leader/now", "kill/etcd/leader", false},
		{"*", "kill/etcd/leader", true}, {"k*", "kill/etcd/leader", true}, {"kil", "kill/etcd/leader", false}, {"*/etcd", "kill/etcd/leader", true}, {"etcd", "kill/etcd/leader", false},
		{"hang,kill", "kill/etcd/leader", true}, {"hang, kill", "kill/etcd/leader", true}, {"hang,stop", "kill/etcd/leader", false}, {"", "kill/etcd/leader", false}, {"[", "kill/etcd/leader", false},
		{"dns/*", "dns/lookup", true}, {"dns/*/*", "dns/lookup", true}, {"dns/*/new", "dns/lookup", false}, {"endpoint/*/new", "endpoint/read/new", true},
	} {
		if got := Match(tc.patterns, tc.name); got != tc.want {
			t.Errorf("%q and %q: %t", tc.patterns, tc.name, got)
		}
	}
}
