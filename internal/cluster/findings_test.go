package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

type fixture = clustertest.Fixture

var (
	now     = clustertest.Now
	whole   = clustertest.Whole
	ok      = clustertest.OK
	bad     = clustertest.Problem
	unknown = clustertest.Unknown
)

// installed has the cluster run Prometheus. One of its servers, on w-b, is not ready if why is given.
func installed(f fixture, why ...string) {
	f.Spec.Spec.Monitoring.Prometheus = spec.Prometheus{Install: true}
	f.Spec.Default()
	p := &facts.Prometheus{}
	for _, w := range monitoring.Workloads {
		n := 2
		if w.Kind == "DaemonSet" {
			n = len(f.Seen.API.Nodes)
		}
		p.Workloads = append(p.Workloads, facts.Workload{Kind: w.Kind, Namespace: monitoring.Namespace, Name: w.Name, Title: w.Title, Desired: n, Ready: n, Updated: n})
	}
	for _, text := range why {
		p.Workloads[0].Ready--
		p.Workloads[0].NotReady = append(p.Workloads[0].NotReady, facts.WaitingPod{Node: "w-b", Why: text})
	}
	f.Seen.API.Prometheus = p
}

func margins(controlPlanes, etcd, loadBalancers, zones int) quorum.Margins {
	return quorum.Margins{ControlPlanes: controlPlanes, Etcd: etcd, LoadBalancers: &loadBalancers, Zones: zones}
}

const noStream = clustertest.NoStream

// reported has the unit of a control plane report how it compared the members of etcd.
func reported(f fixture, host string, ago int64, hashes ...uint32) {
	c := &facts.EtcdComparison{AgoSeconds: ago, Hashes: map[string]facts.EtcdHash{}}
	for i, h := range hashes {
		c.Hashes[f.Seen.Etcd[i].ID] = facts.EtcdHash{Revision: 9, Compacted: 3, Hash: h}
	}
	f.Seen.Hosts[host].Facts.Watch = &facts.Watch{Report: &facts.WatchReport{Compared: c}}
}

// TestAReportedDifferenceIsOnlyShown: it is one look, of some minutes ago. Nothing is decided on it.
func TestAReportedDifferenceIsOnlyShown(t *testing.T) {
	f := whole()
	reported(f, "cp-a", 240, 1, 1, 2)
	s := Evaluate(f.Spec, f.Seen)
	for _, m := range s.Seen.Etcd {
		if why := s.UntrustedData(m); why != "" || m.Hash != nil {
			t.Errorf("%s: %s, %+v", m.Name, why, m.Hash)
		}
	}
	c := s.Comparison()
	if c == nil || c.By != "cp-a" || c.AgeSeconds != 240 || c.Revision != 9 || !c.Agreed || c.Same() || !slices.Equal(c.Differ, []string{"cp-c"}) || c.Hashes["cp-c"] != "00000002" || len(c.Missing) > 0 {
		t.Errorf("%+v", c)
	}
	for i := range f.Seen.Etcd { // by a comparison for the observation, a report counts no more
		f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 19, Compacted: 3, Hash: 5}
	}
	f.Seen.Etcd[1].Hash.Compacted = 4 // the revisions between which it hashed are others
	if c := Evaluate(f.Spec, f.Seen).Comparison(); c == nil || c.By != "" || c.Revision != 19 || !c.Same() || !slices.Equal(c.Missing, []string{"cp-b"}) {
		t.Errorf("%+v", c)
	}
	if c := Evaluate(whole().Spec, whole().Seen).Comparison(); c != nil {
		t.Errorf("nobody compared: %+v", c)
	}
}

// TestAFullDiskNamesWhatWasKept: the largest first, and how much a repair would remove.
func TestAFullDiskNamesWhatWasKept(t *testing.T) {
	f := whole()
	seen := f.Seen.Hosts["cp-a"].Facts
	seen.Kept = []facts.Kept{{Path: "/var/lib/etcd-kept/20260101T000000Z-a1", Bytes: 30 << 20}, {Path: "/var/lib/quorate-kept/prod-20260101T000000Z", Bytes: 3 << 30}}
	seen.Unused, seen.Kubernetes.Removable = map[string]int64{"sha256:1": 10 << 20, "": 1 << 20}, 2<<20
	const kept = "leaves them as they are; remove those that nobody needs any more: /var/lib/quorate-kept/prod-20260101T000000Z (3072 MiB), /var/lib/etcd-kept/20260101T000000Z-a1 (30 MiB)."
	const removes = "`quorate repair` removes what Quorate put there and does not need (up to 12 MiB). "
	of := func(rule string) (out []Finding) {
		for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
			if x.Rule == rule {
				out = append(out, x)
			}
		}
		return out
	}
	if found := of(RuleFullDisk); len(found) > 0 {
		t.Errorf("the disk is not full: %+v", found)
	}
	seen.DiskFreeBytes = 1 << 30
	if found := of(RuleFullDisk); len(found) != 1 || found[0].Unmet || !strings.Contains(found[0].Fix, kept) || !strings.HasPrefix(found[0].Fix, removes) {
		t.Errorf("%+v", found)
	}
	f.Seen.API.Nodes[0].Short = "kubelet has disk pressure"
	if found := of(RuleNodePressure); len(found) != 1 || !strings.Contains(found[0].Fix, kept) || !strings.Contains(found[0].Fix, strings.TrimSpace(removes)) {
		t.Errorf("%+v", found)
	}
	f.Seen.API.Nodes[0].Short = "kubelet has insufficient memory available"
	if found := of(RuleNodePressure); len(found) != 1 || strings.Contains(found[0].Fix, "quorate-kept") {
		t.Errorf("%+v", found)
	}
}

// TestCoreDNSInOneZone: it is said what to do about it, nothing is refused because of it, and where nodes are in two zones only, nobody promised anything.
func TestCoreDNSInOneZone(t *testing.T) {
	fixes := func(f fixture) (out []string) {
		for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
			out = append(out, x.Rule+": "+x.Fix)
		}
		return out
	}
	f := whole()
	f.Seen.API.DNSOn = []string{"cp-a", "w-a"}
	for spread, fix := range map[bool]string{true: "`kubectl -n kube-system rollout restart deployment coredns` spreads them again.", false: "`quorate apply` spreads them."} {
		f.Seen.API.DNSInZones = spread
		if got := fixes(f); !slices.Equal(got, []string{RuleDNS + ": " + fix, RuleMargin + ": " + fix}) {
			t.Errorf("%v", got)
		}
	}
	s, apart := Evaluate(f.Spec, f.Seen), Evaluate(whole().Spec, whole().Seen)
	for _, h := range f.Spec.Spec.Hosts {
		for _, c := range []Change{{Verb: Stop, Part: WholeHost, Subject: h.Name}, {Verb: Stop, Part: WholeZone, Subject: h.Zone}, {Verb: Restart, Part: Node, Subject: h.Name}, {Verb: Restart, Part: PodNetwork}} {
			_, got := s.Allow(c)
			if _, want := apart.Allow(c); jsonOf(got) != jsonOf(want) {
				t.Errorf("%s: %v, and if CoreDNS is in two zones %v", c, got, want)
			}
		}
	}
	f.External()
	for i := range f.Spec.Spec.Hosts {
		if h := &f.Spec.Spec.Hosts[i]; h.Name == "cp-c" {
			h.Zone = "b"
		}
	}
	f.Seen.API.DNSInZones = f.Spec.DNSInZones()
	if s := Evaluate(f.Spec, f.Seen); s.Margins().Zones != 1 || slices.ContainsFunc(s.Findings(), func(x Finding) bool { return x.Rule == RuleDNS || x.Rule == RuleMargin }) {
		t.Errorf("with two zones: %+v, %+v", s.Margins(), s.Findings())
	}
}

// TestALaggingMemberIsNotReliedOn: what etcd would need instead of it is not stopped, and it is restarted or removed only if the others are a
// majority without it.
func TestALaggingMemberIsNotReliedOn(t *testing.T) {
	f := whole()
	f.Seen.Etcd[2].Behind = 12000
	allows := func(c Change) *Refusal {
		_, r := Evaluate(f.Spec, f.Seen).Allow(c)
		return r
	}
	for _, c := range []Change{{Verb: Restart, Part: EtcdMember, Subject: "cp-b"}, {Verb: Stop, Part: WholeHost, Subject: "cp-b"}, {Verb: Defragment, Part: EtcdMember, Subject: "cp-a"}, {Verb: Stop, Part: WholeZone, Subject: "a"}} {
		if r := allows(c); r == nil || r.Rule != RuleEnough || !r.Transient || !strings.Contains(r.Why, "cp-c is far behind the leader") {
			t.Errorf("%s: %v", c, r)
		}
	}
	own := []Change{{Verb: Restart, Part: EtcdMember, Subject: "cp-c"}, {Verb: Restart, Part: ControlPlane, Subject: "cp-c"}, {Verb: Remove, Part: EtcdMember, Subject: "cp-c"}}
	for _, c := range append(own, Change{Verb: Restart, Part: Node, Subject: "cp-b"}) {
		if r := allows(c); r != nil {
			t.Errorf("%s: %v", c, r)
		}
	}
	f.Dies("cp-b")
	for _, c := range own {
		if r := allows(c); r == nil {
			t.Errorf("%s while cp-b is down", c)
		}
	}
}

// findingCases change one thing at a time. What is wanted is the severity and the beginning of the summary of every finding,
// with a star before those because of which the cluster does not match its spec.
var findingCases = []struct {
	name    string
	change  func(fixture)
	margins quorum.Margins
	want    []string
}{
	{"healthy", func(fixture) {}, margins(1, 1, 1, 1), nil},

	// Hosts that cannot be reached: everything on them is unknown, and nothing of it is reported as down.
	{"dead-host", func(f fixture) { f.Dies("cp-b") }, margins(0, 0, 1, 0), []string{
		"warning: host cp-b cannot be reached: dial tcp: i/o timeout",
		"warning: the cluster is not known to survive the loss of a control plane, or an etcd member, or zone a"}},
	{"dead-worker", func(f fixture) { f.Dies("w-a") }, margins(1, 1, 1, 1), []string{"warning: host w-a cannot be reached: dial tcp: i/o timeout"}},
	{"dead-zone", func(f fixture) { f.Dies("cp-b", "w-b", "lb-b") }, margins(0, 0, 0, 0), []string{
		"warning: no host of zone b can be reached (cp-b, w-b, lb-b): dial tcp",
		"warning: the cluster is not known to survive"}},
	{"nothing-reachable", func(f fixture) {
		f.Dies("cp-a", "cp-b", "cp-c", "w-a", "w-b", "lb-a", "lb-b")
		f.Seen.API, f.Seen.Etcd, f.Seen.Endpoint = nil, nil, facts.Endpoint{Unknown: "no host could query it"}
	}, margins(-1, -1, -1, -1), []string{"*critical: no host can be reached, so nothing is known about the cluster; cp-a: dial tcp: i/o timeout"}},
	{"only-workers-reachable", func(f fixture) {
		f.Dies("cp-a", "cp-b", "cp-c", "lb-a", "lb-b")
		f.Seen.API, f.Seen.APIError, f.Seen.Etcd, f.Seen.EtcdError = nil, "no control plane can be reached", nil, "no member's host can be reached"
		f.AnswerEndpoint(bad("no route to host"))
	}, margins(-1, -1, -1, -1), []string{
		"*critical: it is unknown whether the cluster works, or was ever complete: cp-a, cp-b and cp-c could not be queried", "*critical: the endpoint api.lab.internal:6443 does not answer: no route to host",
		"warning: host cp-a", "warning: host cp-b", "warning: host cp-c", "warning: host lb-a", "warning: host lb-b"}},

	// Whether there is a cluster.
	{"fresh", func(f fixture) { f.Empty() }, margins(-1, -1, -1, -1), []string{"*info: there is no cluster on these hosts yet"}},
	{"fresh-with-a-dead-host", func(f fixture) { f.Empty(); f.Dies("w-b") }, margins(-1, -1, -1, -1), []string{
		"*warning: it is unknown whether there is a cluster: the hosts that could be queried carry no part of one", "warning: host w-b"}},
	{"interrupted-build", func(f fixture) {
		f.Empty()
		f.Kubernetes("cp-a").Begun, f.Kubernetes("cp-a").KubeletConfig, f.Kubernetes("cp-a").EtcdData = true, true, true
	}, margins(-1, -1, -1, -1), []string{"*warning: the cluster is not complete: the run that built it was interrupted"}},
	{"interrupted-reset", func(f fixture) {
		f.Kubernetes("w-b").Resetting = true
	}, margins(1, 1, 1, 1), []string{"*warning: a reset of w-b began and did not end"}},
	{"interrupted-restore", func(f fixture) {
		f.Empty()
		for _, cp := range []string{"cp-a", "cp-b"} {
			f.Kubernetes(cp).Restore = &facts.Restore{Backup: "0123", File: "prod.backup.age"}
		}
		k := f.Kubernetes("cp-a")
		k.Begun, k.KubeletConfig, k.EtcdData = true, true, true
		// The API has the nodes and the spec of the cluster before. Nothing follows from that.
		f.Seen.API = &facts.API{Initialised: true, Verified: "yes", Record: "nonsense", Nodes: []facts.Node{{Name: "old"}}}
	}, margins(-1, -1, -1, -1), []string{"warning: a restore from the backup prod.backup.age (taken 0001-01-01T00:00:00Z) began on cp-a and cp-b and did not end"}},
	{"interrupted-build-with-other-members", func(f fixture) {
		f.Empty()
		k := f.Kubernetes("cp-a")
		k.Begun, k.EtcdData, k.EtcdInitial = true, true, []string{"cp-a=https://10.0.0.11:2380", "cp-b=https://10.0.0.12:2380", "cp-x=https://10.0.0.99:2380"}
	}, margins(-1, -1, -1, -1), []string{"*error: etcd on cp-a was started with the members", "*warning: the cluster is not complete"}},
	{"parts-that-nobody-owns", func(f fixture) { f.Empty(); f.Kubernetes("cp-b").EtcdData = true }, margins(-1, -1, -1, -1), []string{
		"*warning: cp-b carries parts of a cluster that Quorate did not build, and no API answers"}},
	{"stale-marks", func(f fixture) { f.Empty(); f.Kubernetes("cp-b").Established = true }, margins(-1, -1, -1, -1), []string{
		"*critical: cp-b is marked as part of a cluster that was once complete, but no host carries any part of it now"}},
	{"foreign", func(f fixture) {
		for _, h := range f.Seen.Hosts {
			h.Facts.Kubernetes.Established = false
			if h.Balancer != nil {
				h.Balancer.Backends, h.Balancer.Others, h.Balancer.WrittenFor = nil, &facts.OthersBalancing{}, ""
			}
		}
	}, margins(1, 1, 1, 1), []string{"info: this cluster was not built by Quorate", "info: the load balancer on lb-a was not set up by Quorate", "info: the load balancer on lb-b was not set up by Quorate"}},
	{"foreign-and-down", func(f fixture) {
		f.Silent()
		for _, h := range f.Seen.Hosts {
			h.Facts.Kubernetes.Established = false
		}
	}, margins(-1, 1, 1, -1), []string{"*critical: no API server answers", "*critical: the endpoint", "*warning: kube-apiserver on cp-a", "*warning: kube-apiserver on cp-b", "*warning: kube-apiserver on cp-c"}},

	// Which cluster it is.
	{"host-of-another-cluster", func(f fixture) { f.Kubernetes("w-a").CA = "OTHER" }, margins(1, 1, 1, 1), []string{
		"*error: cp-a and w-a belong to different clusters: their CA certificates differ"}},
	{"first-host-of-another-cluster", func(f fixture) { f.Kubernetes("cp-a").CA = "OTHER" }, margins(1, 1, 1, 1), []string{
		"*error: cp-b and cp-a belong to different clusters: their CA certificates differ"}},
	{"marked-for-another-cluster", func(f fixture) { f.Kubernetes("w-a").Clusters = []string{"stage"} }, margins(1, 1, 1, 1), []string{
		"*error: w-a is marked as a host of the cluster stage, but this is the spec of lab"}},
	{"load-balancer-of-another-cluster", func(f fixture) { f.Seen.Hosts["lb-b"].Balancer.WrittenFor = "stage" }, margins(1, 1, 1, 1), []string{
		"*error: lb-b is a load balancer of the cluster stage"}},
	{"two-etcd-CAs", func(f fixture) { f.Kubernetes("cp-a").EtcdCA, f.Kubernetes("cp-b").EtcdCA = "A", "B" }, margins(1, 1, 1, 1), []string{
		"*error: cp-a and cp-b belong to different etcds"}},
	{"two-etcds", func(f fixture) { f.Seen.Etcd[1].ClusterID, f.Seen.Etcd[2].ClusterID = "c2", "c2" }, margins(1, 1, 1, 1), []string{
		"*critical: the etcd members belong to different clusters, and clients may write to either: cp-a in c1; cp-b and cp-c in c2"}},
	{"edited-range", func(f fixture) { f.Spec.Spec.Network.PodCIDR = "10.200.0.0/16" }, margins(1, 1, 1, 1), []string{
		"*warning: the spec changes what cannot be changed in an existing cluster: the cluster's pods are in 10.244.0.0/16, but the spec says 10.200.0.0/16"}},
	{"recorded-and-edited", func(f fixture) {
		f.Record()
		f.Spec.Spec.Network.ServiceCIDR = "10.97.0.0/16"
	}, margins(1, 1, 1, 1), []string{"*warning: the spec changes what cannot be changed in an existing cluster: spec.network.serviceCIDR changed from 10.96.0.0/12 to 10.97.0.0/16"}},
	{"recorded-by-a-newer-quorate", func(f fixture) { f.Seen.API.Record = "apiVersion: quorate.dev/v9\n" }, margins(1, 1, 1, 1), []string{"*warning: "}},
	{"worker-made-a-control-plane", func(f fixture) {
		f.Spec.Spec.Hosts[3].Roles = []string{spec.RoleControlPlane, spec.RoleWorker}
	}, margins(1, 1, 1, 1), []string{
		"*warning: the spec changes what cannot be changed in an existing cluster: w-a joined the cluster as a worker, but is a control plane in the spec"}},

	// etcd.
	{"lost-majority", func(f fixture) {
		for _, i := range []int{0, 1} {
			f.Seen.Etcd[i].Healthy, f.Seen.Etcd[i].Leader, f.Seen.Etcd[i].Problem = false, false, "connection refused"
		}
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "it has no leader"
		f.Silent()
	}, margins(-1, -1, 1, -1), []string{
		"*critical: etcd has lost its majority: 0 of 3 members work, and 2 are needed; nothing can be changed in the cluster: cp-a and cp-b do not work: connection refused; cp-c does not work: it has no leader",
		"*critical: no API server answers: connection refused",
		"*critical: the endpoint api.lab.internal:6443 does not answer: it closes the connection",
		"*warning: etcd member cp-a does not work: connection refused", "*warning: etcd member cp-b", "*warning: etcd member cp-c does not work: it has no leader",
		"*warning: kube-apiserver on cp-a does not work: connection refused", "*warning: kube-apiserver on cp-b", "*warning: kube-apiserver on cp-c"}},
	{"majority-on-dead-hosts", func(f fixture) {
		f.Dies("cp-a", "cp-b")
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "it has no leader"
		f.Silent()
	}, margins(-1, -1, 1, -1), []string{
		"*critical: it is unknown whether etcd has a majority: 0 of 3 members are known to work, and 2 are needed",
		"*critical: it is unknown whether any API server answers: 1 does not answer, and 2 of 3 could not be queried",
		"*critical: the endpoint", "warning: host cp-a", "warning: host cp-b",
		"*warning: etcd member cp-c does not work: it has no leader", "*warning: kube-apiserver on cp-c"}},
	{"etcd-member", func(f fixture) { f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "connection refused" }, margins(0, 0, 1, 0), []string{
		"*warning: etcd member cp-c does not work: connection refused", "warning: the cluster does not survive the loss of a control plane, or an etcd member, or zone a"}},
	{"etcd-data-missing", func(f fixture) {
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "connection refused"
		f.Kubernetes("cp-c").EtcdData = false
	}, margins(0, 0, 1, 0), []string{"*warning: the data of etcd member cp-c is missing (there is no /var/lib/etcd/member/wal), and the member does not start without it", "warning: the cluster does not survive"}},
	{"etcd-manifest", func(f fixture) {
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "connection refused"
		f.Kubernetes("cp-c").Manifests = f.Kubernetes("cp-c").Manifests[1:]
	}, margins(0, 0, 1, 0), []string{"*warning: etcd member cp-c does not work: connection refused", "warning: the cluster does not survive"}},
	{"etcd-learner", func(f fixture) { f.Seen.Etcd[2].Learner = true }, margins(0, 0, 1, 0), []string{
		"*warning: etcd member cp-c is still a learner and has no vote", "warning: the cluster does not survive"}},
	{"etcd-unstarted", func(f fixture) { // as the address in its peer URL, as long as it has never started
		f.Seen.Etcd[2] = facts.EtcdMember{Name: "10.0.0.13", ID: "7", Learner: true, PeerURL: "https://10.0.0.13:2380"}
	}, margins(0, 0, 1, 0), []string{"*warning: etcd member cp-c was added, but has never started", "warning: the cluster does not survive"}},
	{"etcd-missing", func(f fixture) { f.Seen.Etcd = f.Seen.Etcd[:2] }, margins(0, 0, 1, 0), []string{
		"*warning: control plane cp-c has no etcd member", "warning: the cluster does not survive"}},
	{"etcd-alarm-on-all", func(f fixture) {
		for i := range f.Seen.Etcd {
			m := &f.Seen.Etcd[i]
			m.Healthy, m.Problem, m.Alarms, m.Raised = false, "it has raised the alarm NOSPACE", []string{"NOSPACE"}, []string{"NOSPACE"}
		}
	}, margins(-1, -1, 1, -1), []string{"*critical: etcd has raised the alarm NOSPACE on cp-a, cp-b and cp-c"}},
	{"etcd-corrupt", func(f fixture) {
		m := &f.Seen.Etcd[0]
		m.Healthy, m.Problem, m.Alarms, m.Raised = false, "it has raised the alarm CORRUPT", []string{"CORRUPT"}, []string{"CORRUPT"}
	}, margins(0, 0, 1, 0), []string{"*critical: the data of etcd member cp-a must not be used: etcd found that its data differs", "*critical: etcd has raised the alarm CORRUPT on cp-a", "warning: the cluster does not survive"}},
	{"etcd-corrupt-was-removed", func(f fixture) { // its alarm stays, and counts for all
		for i := range f.Seen.Etcd {
			m := &f.Seen.Etcd[i]
			m.Healthy, m.Problem, m.Alarms = false, "it has raised the alarm CORRUPT", []string{"CORRUPT"}
		}
	}, margins(-1, -1, 1, -1), []string{"*critical: etcd still has the alarm CORRUPT of a member that was removed"}},
	{"etcd-other-data", func(f fixture) {
		for i, hash := range []uint32{1, 1, 2} {
			f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 9, Compacted: 3, Hash: hash}
		}
	}, margins(1, 1, 1, 1), []string{"*critical: the data of etcd member cp-c must not be used: its data differs from that of 2 other members at revision 9"}},
	{"etcd-two-other-data", func(f fixture) { // nobody can tell which is right
		for i := range f.Seen.Etcd {
			f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 9, Compacted: 3, Hash: uint32(i)}
		}
	}, margins(1, 1, 1, 1), []string{"*critical: the data of the etcd members differs, and no majority agrees on it: 00000000 on cp-a; 00000001 on cp-b; 00000002 on cp-c"}},
	{"etcd-other-data-and-too-few-work", func(f fixture) { // one of those that agree does not work, so nobody is replaced
		for i, hash := range []uint32{1, 1, 2} {
			f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 9, Compacted: 3, Hash: hash}
		}
		f.Seen.Etcd[0].Healthy, f.Seen.Etcd[0].Problem = false, "it has no leader"
	}, margins(0, 0, 1, 0), []string{"*critical: the data of the etcd members differs, and too few of those that agree are known to work for another one to be replaced: 00000001 on cp-a and cp-b; 00000002 on cp-c",
		"*warning: etcd member cp-a does not work", "warning: the cluster does not survive"}},
	{"etcd-reported-other-data", func(f fixture) { // a difference that the unit found, minutes ago; what other units found before counts no more
		reported(f, "cp-a", 240, 1, 1, 2)
		reported(f, "cp-b", 900, 1, 2, 2)
	}, margins(1, 1, 1, 1), []string{"critical: cp-a compared the data of the etcd members 4 minutes ago, and the data of cp-c must not be used: its data differs from that of 2 other members at revision 9"}},
	{"etcd-reported-two-other-data", func(f fixture) { reported(f, "cp-b", 30, 1, 2, 3) }, margins(1, 1, 1, 1), []string{
		"critical: cp-b compared the data of the etcd members 30 s ago: it differs, and no majority agrees on it: 00000001 on cp-a; 00000002 on cp-b; 00000003 on cp-c"}},
	{"etcd-reported-and-replaced-since", func(f fixture) {
		reported(f, "cp-a", 240, 1, 1, 2)
		f.Seen.Etcd[2].ID = "77"
	}, margins(1, 1, 1, 1), nil},
	{"etcd-reported-and-compared-since", func(f fixture) {
		reported(f, "cp-a", 240, 1, 1, 2)
		for i := range f.Seen.Etcd {
			f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 19, Compacted: 3, Hash: 5}
		}
	}, margins(1, 1, 1, 1), nil},
	{"etcd-damaged", func(f fixture) {
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "connection refused"
		f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: "walpb: crc mismatch"}
	}, margins(0, 0, 1, 0), []string{"*critical: the data of etcd member cp-c must not be used: it does not start, because its data is damaged", "warning: the cluster does not survive"}},
	{"etcd-forgot", func(f fixture) {
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "connection refused"
		f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdForgot, Said: "tocommit(9) is out of range"}
	}, margins(0, 0, 1, 0), []string{"*critical: the data of etcd member cp-c must not be used: it does not start, because its data is older", "warning: the cluster does not survive"}},
	{"etcd-learner-forgot", func(f fixture) {
		f.Seen.Etcd[2].Learner, f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = true, false, "connection refused"
		f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdForgot, Said: "tocommit(9) is out of range"}
	}, margins(0, 0, 1, 0), []string{"*critical: the data of etcd member cp-c must not be used: it does not start, because its data is older", "warning: the cluster does not survive"}},
	{"etcd-went-back", func(f fixture) { f.Seen.Etcd[2].WentBack = "it had 9 entries, and has 7" }, margins(1, 1, 1, 1),
		[]string{"*critical: the data of etcd member cp-c must not be used: it had 9 entries"}},
	{"etcd-lag", func(f fixture) { f.Seen.Etcd[2].Behind = 12000 }, margins(0, 0, 1, 0), []string{
		"*warning: etcd member cp-c is 12000 entries of the log behind the leader, and does not catch up", "warning: the cluster does not survive the loss of a control plane, or an etcd member"}},
	{"etcd-lag-ends", func(f fixture) { f.Seen.Etcd[2].Behind, f.Seen.Etcd[2].CatchesUp = 12000, true }, margins(0, 0, 1, 0), []string{
		"*warning: etcd member cp-c is 12000 entries of the log behind the leader, and catches up", "warning: the cluster does not survive the loss of a control plane, or an etcd member"}},
	{"etcd-patience", func(f fixture) {
		f.Spec.Spec.Failover.ElectionTimeout = "300ms"
		f.Change("cp-b", func(h *facts.Host) {
			h.EtcdDisk = &facts.Durations{Count: 2000, Within: []facts.Within{{Seconds: 0.016, Count: 1000}, {Seconds: 0.032, Count: 2000}}}
		})
	}, margins(1, 1, 1, 1), []string{"warning: 99 of 100 fsyncs of etcd's disk on cp-b take up to 31.7 ms (since its member was started), and etcd's election timeout of 300ms is too short"}},
	{"etcd-damaged-twice", func(f fixture) { // without a majority that works, no data is given up
		for _, i := range []int{1, 2} {
			f.Seen.Etcd[i].Healthy, f.Seen.Etcd[i].Problem = false, "connection refused"
			f.Kubernetes(f.Seen.Etcd[i].Name).EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: "walpb: crc mismatch"}
		}
	}, margins(-1, -1, 1, -1), []string{"*critical: etcd has lost its majority", "*warning: etcd member cp-b does not work", "*warning: etcd member cp-c does not work"}},
	{"etcd-quota", func(f fixture) {
		f.Seen.Etcd[0].DBSizeBytes, f.Seen.Etcd[0].InUseBytes, f.Seen.Etcd[0].QuotaBytes = 85<<20, 85<<20, 100<<20
		f.Seen.Etcd[1].DBSizeBytes = 2<<30 - 1
	}, margins(1, 1, 1, 1), []string{"critical: etcd's database uses more than 95 % of its quota on cp-b", "warning: etcd's database uses more than 80 % of its quota on cp-a"}},
	{"stranger-member", func(f fixture) {
		f.Seen.Etcd = append(f.Seen.Etcd, facts.EtcdMember{Name: "cp-z", ID: "99", Healthy: true, Started: true, ClusterID: "c1", Version: "3.7.3"})
	}, margins(1, 1, 1, 1), []string{"*warning: etcd has the member cp-z, for which the spec has no host"}},

	// The API and the programs of control planes.
	{"no-api", func(f fixture) { f.Silent() }, margins(-1, 1, 1, -1), []string{
		"*critical: no API server answers: connection refused", "*critical: the endpoint", "*warning: kube-apiserver on cp-a", "*warning: kube-apiserver on cp-b", "*warning: kube-apiserver on cp-c"}},
	{"api-unreadable", func(f fixture) { f.Seen.API, f.Seen.APIError = nil, "listing nodes: Unauthorized" }, margins(1, 1, 1, 1), []string{
		"*critical: the API server on cp-a is ready, but the API could not be read: listing nodes: Unauthorized"}},
	{"api-server", func(f fixture) { f.Change("cp-b", func(h *facts.Host) { h.APIServer = new(bad("/readyz: 500")) }) }, margins(1, 1, 1, 1), []string{
		"*warning: kube-apiserver on cp-b does not work: /readyz: 500"}},
	{"api-server-manifest", func(f fixture) {
		f.Kubernetes("cp-b").Manifests = []string{"etcd", facts.ControllerManager, facts.Scheduler}
		f.Change("cp-b", func(h *facts.Host) { h.APIServer = new(bad("connection refused")) })
	}, margins(1, 1, 1, 1), []string{"*warning: kube-apiserver is not running on cp-b: its manifest is missing"}},
	{"scheduler", func(f fixture) { f.Component("cp-a", facts.Scheduler, bad("connection refused")) }, margins(1, 1, 1, 1), []string{
		"*warning: kube-scheduler on cp-a does not work: connection refused"}},
	{"scheduler-manifest", func(f fixture) {
		f.Kubernetes("cp-a").Manifests = f.Kubernetes("cp-a").Manifests[:3]
		f.Component("cp-a", facts.Scheduler, bad("connection refused"))
	}, margins(1, 1, 1, 1), []string{"*warning: kube-scheduler is not running on cp-a: its manifest is missing"}},
	{"two-schedulers", func(f fixture) {
		f.Component("cp-a", facts.Scheduler, bad("connection refused"))
		f.Component("cp-b", facts.Scheduler, bad("connection refused"))
	}, margins(0, 1, 1, 0), []string{"*warning: kube-scheduler on cp-a", "*warning: kube-scheduler on cp-b", "warning: the cluster does not survive the loss of a control plane, or zone c"}},
	{"one-scheduler-unknown", func(f fixture) {
		f.Component("cp-a", facts.Scheduler, bad("connection refused"))
		f.Component("cp-b", facts.Scheduler, unknown(noStream))
	}, margins(0, 1, 1, 0), []string{
		"*warning: kube-scheduler on cp-b could not be queried: " + noStream, "*warning: kube-scheduler on cp-a does not work", "warning: the cluster is not known to survive the loss of a control plane, or zone c"}},
	{"no-scheduler", func(f fixture) {
		for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Component(h, facts.Scheduler, bad("connection refused"))
		}
	}, margins(-1, 1, 1, -1), []string{"*critical: no scheduler works, so new pods are not started", "*warning: kube-scheduler on cp-a", "*warning: kube-scheduler on cp-b", "*warning: kube-scheduler on cp-c"}},
	{"no-controller-manager-known", func(f fixture) {
		f.Component("cp-a", facts.ControllerManager, bad("connection refused"))
		f.Component("cp-b", facts.ControllerManager, unknown(noStream))
		f.Component("cp-c", facts.ControllerManager, unknown(noStream))
	}, margins(-1, 1, 1, -1), []string{"*critical: it is unknown whether any controller manager works: 1 does not work, and 2 of 3 could not be queried",
		"*warning: kube-controller-manager on cp-b and cp-c could not be queried: " + noStream, "*warning: kube-controller-manager on cp-a does not work"}},

	// Nodes and the other programs.
	{"node-not-ready", func(f fixture) { f.Seen.API.Nodes[3].Ready, f.Seen.API.Nodes[3].NotReady = false, "PLEG" }, margins(1, 1, 1, 1), []string{"*warning: node w-a is not ready: PLEG"}},
	{"node-absent", func(f fixture) { f.Seen.API.Nodes = f.Seen.API.Nodes[:4]; f.Kubernetes("w-b").KubeletConfig = false }, margins(1, 1, 1, 1), []string{"*warning: node w-b is not in the cluster"}},
	{"node-without-network", func(f fixture) {
		n := &f.Seen.API.Nodes[3]
		n.Ready, n.NoNetwork, n.NotReady = false, true, "flannel is not there"
	}, margins(1, 1, 1, 1), []string{"*warning: node w-a is not ready: flannel is not there"}},
	{"nodes-that-wait-for-your-network", func(f fixture) {
		f.Spec.Spec.Network.CNI = spec.CNINone
		for i := range f.Seen.API.Nodes {
			n := &f.Seen.API.Nodes[i]
			n.Ready, n.NoNetwork, n.NotReady = false, true, "no network"
		}
		f.Seen.API.DNSReady, f.Seen.API.DNSNodes, f.Seen.API.DNSOn = 0, 0, nil
	}, margins(1, 1, 1, 1), []string{"warning: node cp-a", "warning: node cp-b", "warning: node cp-c", "warning: node w-a", "warning: node w-b"}},
	{"full-disk", func(f fixture) { f.Seen.Hosts["cp-b"].Facts.DiskFreeBytes = 512 << 20 }, margins(1, 1, 1, 1), []string{
		"warning: a disk of cp-b is almost full: 512 MiB are free below /var/lib"}},
	{"disk-without-any-space", func(f fixture) { f.Seen.Hosts["cp-b"].Facts.DiskBytes = 40 << 30 }, margins(1, 1, 1, 1), []string{
		"warning: a disk of cp-b is almost full: 0 MiB are free below /var/lib"}},
	{"full-disk-of-etcd", func(f fixture) {
		f.Seen.Hosts["cp-b"].Facts.Disks = map[string]facts.Disk{"/var/lib/etcd": {FreeBytes: 700 << 20, SizeBytes: 8 << 30}, "/var/lib/kubelet": {FreeBytes: 1 << 30, SizeBytes: 8 << 30}}
	}, margins(1, 1, 1, 1), []string{"warning: a disk of cp-b is almost full: 700 MiB are free below /var/lib/etcd"}},
	{"short-of-disk", func(f fixture) { f.Seen.API.Nodes[3].Short = "kubelet has disk pressure" }, margins(1, 1, 1, 1), []string{
		"*warning: node w-a accepts no new pods and may evict those that it has: kubelet has disk pressure"}},
	{"a-departure-that-was-given-up", func(f fixture) {
		f.Seen.API.Nodes[3].Unschedulable, f.Seen.API.Nodes[3].Cordoned = true, true
		f.Seen.API.Nodes[4].Unschedulable = true // by its administrator
	}, margins(1, 1, 1, 1), []string{"warning: node w-a gets no new pods: an earlier run cordoned it"}},
	{"stranger", func(f fixture) {
		f.Seen.API.Nodes = append(f.Seen.API.Nodes, facts.Node{Name: "cp-d", Ready: true, Version: "v1.37.2", Labels: map[string]string{controlPlaneNode: ""}})
		f.Seen.Etcd = append(f.Seen.Etcd, facts.EtcdMember{Name: "cp-d", ID: "4d", Started: true, Problem: "connection refused"})
	}, margins(0, 0, 1, 0), []string{"*warning: node cp-d is in the cluster, but not in the spec", "*warning: etcd member cp-d does not work", "warning: the cluster does not survive"}},
	{"stranger-that-was-removed-from-the-spec", func(f fixture) {
		f.Record()
		f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "w-b" })
	}, margins(1, 1, 1, 1), []string{"*warning: host w-b is not in the spec any more, and still is part of the cluster (worker)"}},
	{"departing-and-dead", func(f fixture) {
		f.Record()
		f.Dies("w-b")
		f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "w-b" })
	}, margins(1, 1, 1, 1), []string{"*warning: host w-b is not in the spec any more, and still is part of the cluster (worker); it cannot be reached"}},
	{"removed-and-down", func(f fixture) { f.Removed("w-z", nil) }, margins(1, 1, 1, 1), []string{"info: host w-z (10.0.0.99) was removed from the cluster while it was down"}},
	{"removed-and-back", func(f fixture) {
		f.Removed("w-z", &facts.Facts{Kubernetes: facts.Kubernetes{CA: "PEM", KubeletConfig: true}})
	}, margins(1, 1, 1, 1), []string{"warning: host w-z (10.0.0.99) is back. It was removed from the cluster while it was down, and is locked out: the API does not let its kubelet register"}},
	{"removed-and-cleared", func(f fixture) { f.Removed("w-z", &facts.Facts{}) }, margins(1, 1, 1, 1), []string{"info: host w-z (10.0.0.99), which was removed while it was down, was reset"}},
	{"kube-proxy", func(f fixture) { f.Component("w-a", facts.KubeProxy, bad("/healthz: 503")) }, margins(1, 1, 1, 1), []string{"*warning: kube-proxy on w-a does not work: /healthz: 503"}},
	{"flannel", func(f fixture) {
		f.Component("w-b", facts.Flannel, bad("its rules are missing in the kernel: FLANNEL-POSTRTG"))
	}, margins(1, 1, 1, 1), []string{
		"*warning: flannel on w-b does not work: its rules are missing in the kernel"}},
	{"kubelet", func(f fixture) {
		f.Component("w-b", facts.Kubelet, bad("kubelet.service is failed"))
		f.Seen.API.Nodes[4].Ready, f.Seen.API.Nodes[4].NotReady = false, "Kubelet stopped posting node status."
	}, margins(1, 1, 1, 1), []string{"*warning: kubelet on w-b does not work: kubelet.service is failed", "*warning: node w-b is not ready: Kubelet stopped posting node status."}},
	{"approver", func(f fixture) { f.Component("cp-c", facts.Approver, bad("quorate-approver.timer is inactive")) }, margins(1, 1, 1, 1), []string{
		"*warning: quorate-approver on cp-c does not work: quorate-approver.timer is inactive"}},
	{"watchdog", func(f fixture) { f.Component("lb-b", facts.Watchdog, bad("quorate-watchdog.service is failed")) }, margins(1, 1, 1, 1), []string{
		"*warning: quorate-watchdog on lb-b does not work: quorate-watchdog.service is failed"}},
	{"not-queried-on-one-host", func(f fixture) {
		for _, p := range []string{facts.Kubelet, facts.KubeProxy} {
			f.Component("w-a", p, unknown("w-a: no answer within 5s"))
		}
	}, margins(1, 1, 1, 1), []string{"*warning: kube-proxy and kubelet on w-a could not be queried: no answer within 5s"}},
	{"all-queries-unknown", func(f fixture) {
		f.AllUnknown()
	}, margins(-1, -1, -1, -1), []string{
		"*critical: it is unknown whether etcd has a majority: 0 of 3 members are known to work, and 2 are needed",
		"*critical: it is unknown whether any API server answers: 3 of 3 could not be queried; " + noStream,
		"*critical: no load balancer is known to work: lb-a and lb-b could not be queried",
		"*warning: it is unknown whether the endpoint api.lab.internal:6443 answers: " + noStream,
		"*warning: which load balancer has the virtual IP 10.0.0.100 is unknown",
		"*warning: kube-apiserver, kube-controller-manager, kube-scheduler, containerd, flannel, kube-proxy, kubelet, quorate-approver, haproxy, quorate-watchdog and etcd on cp-a, cp-b, cp-c, w-a, w-b, lb-a and lb-b could not be queried"}},
	{"versions", func(f fixture) {
		f.Seen.Hosts["w-a"].Components[facts.Containerd] = facts.Component{Answer: ok(), Version: "v2.4.1"}
	}, margins(1, 1, 1, 1), []string{"info: containerd runs in different versions: v2.4.1 on w-a, v2.4.2 on cp-a, cp-b, cp-c and w-b"}},
	{"half-upgraded", func(f fixture) {
		f.Seen.Hosts["w-a"].Components[facts.Kubelet] = facts.Component{Answer: ok(), Version: "v1.36.3"}
	}, margins(1, 1, 1, 1), []string{"*warning: kubelet runs v1.36.3 on w-a, and the spec says v1.37.2", "info: kubelet runs in different versions: v1.36.3 on w-a, v1.37.2 on cp-a, cp-b, cp-c and w-b"}},
	{"other-version-adopted", func(f fixture) {
		f.Seen.Hosts["w-a"].Components[facts.Kubelet] = facts.Component{Answer: ok(), Version: "v1.36.3"}
		f.Kubernetes("w-a").Adopted = true
	}, margins(1, 1, 1, 1), []string{"info: kubelet runs in different versions: v1.36.3 on w-a, v1.37.2 on cp-a, cp-b, cp-c and w-b"}},
	{"replaced", func(f fixture) {
		for _, h := range []string{"w-a", "w-b"} {
			f.Seen.Hosts[h].Components[facts.Kubelet] = facts.Component{Answer: ok(), Version: "v1.37.2", Replaced: true}
		}
	}, margins(1, 1, 1, 1), []string{"info: kubelet on w-a and w-b was started from a file that has been replaced since"}},
	{"dns-one-node", func(f fixture) { f.Seen.API.DNSNodes, f.Seen.API.DNSOn = 1, []string{"cp-a"} }, margins(1, 1, 1, 0), []string{"*warning: all CoreDNS replicas are on one node",
		"warning: the cluster does not survive the loss of zone a, which has all CoreDNS replicas that work"}},
	{"dns-not-spread", func(f fixture) {
		f.Seen.API.DNSNodes, f.Seen.API.DNSOn, f.Seen.API.DNSSpread = 1, []string{"cp-a"}, false
	}, margins(1, 1, 1, 0), []string{"*warning: all CoreDNS replicas are on one node", "warning: the cluster does not survive the loss of zone a"}},
	{"dns-one-zone", func(f fixture) { f.Seen.API.DNSOn = []string{"cp-b", "w-b"} }, margins(1, 1, 1, 0), []string{"warning: all CoreDNS replicas are in zone b",
		"warning: the cluster does not survive the loss of zone b, which has all CoreDNS replicas that work"}},
	{"dns-one-replica", func(f fixture) {
		f.Seen.API.DNSReady, f.Seen.API.DNSNodes, f.Seen.API.DNSOn, f.Seen.API.DNSNotReady = 1, 1, []string{"cp-a"}, "dns on cp-b: CrashLoopBackOff"
	}, margins(1, 1, 1, 0), []string{"*warning: only one CoreDNS replica is ready: dns on cp-b: CrashLoopBackOff", "warning: the cluster does not survive the loss of zone a"}},
	{"dns-restarts", func(f fixture) {
		f.Seen.API.DNSReady, f.Seen.API.DNSNodes, f.Seen.API.DNSNotReady = 1, 1, "dns on w-b: ContainerCreating"
	}, margins(1, 1, 1, 1), []string{"*warning: only one CoreDNS replica is ready: dns on w-b: ContainerCreating"}},
	{"dns-on-a-dead-node", func(f fixture) {
		f.Seen.API.DNSOn = []string{"cp-a", "w-b"}
		f.Dies("w-b")
	}, margins(1, 1, 1, 0), []string{"warning: host w-b cannot be reached",
		"warning: the cluster does not survive the loss of zone a, which has all CoreDNS replicas that work"}},
	{"dns-elsewhere", func(f fixture) {
		f.Seen.API.DNSOn = []string{"cp-a", "x"}
		f.Seen.API.Nodes = append(f.Seen.API.Nodes, facts.Node{Name: "x", Address: "10.0.0.99", Ready: true, Version: "v1.37.2"})
	}, margins(1, 1, 1, 1), []string{"*warning: node x is in the cluster, but not in the spec"}},
	{"dns-replacing", func(f fixture) { f.Seen.API.DNSReplacing = true }, margins(1, 1, 1, 1), []string{"*warning: replicas of CoreDNS with a former configuration"}},
	{"dns-none", func(f fixture) { f.Seen.API.DNSReady, f.Seen.API.DNSNodes, f.Seen.API.DNSOn = 0, 0, nil }, margins(1, 1, 1, 1), []string{"*critical: no CoreDNS replica is ready"}},

	// Prometheus in the cluster.
	{"prometheus", func(f fixture) { installed(f) }, margins(1, 1, 1, 1), nil},
	{"prometheus-not-wanted", func(f fixture) {
		installed(f)
		f.Spec.Spec.Monitoring.Prometheus = spec.Prometheus{}
		f.Seen.API.Prometheus.Workloads[0].Ready = 0
	}, margins(1, 1, 1, 1), nil},
	{"prometheus-unknown", func(f fixture) { installed(f); f.Seen.API.Prometheus = &facts.Prometheus{Unknown: "pods: forbidden"} }, margins(1, 1, 1, 1), []string{
		"*warning: whether Prometheus and Alertmanager run is unknown: pods: forbidden"}},
	{"prometheus-image", func(f fixture) { installed(f, "prometheus on w-b: ErrImagePull: no such host") }, margins(1, 1, 1, 1), []string{
		"*warning: Prometheus runs in 1 of 2 replicas: prometheus on w-b: ErrImagePull: no such host"}},
	{"prometheus-relaxed", func(f fixture) {
		installed(f)
		f.Seen.API.Prometheus.Relaxed = []string{"quorate-monitoring/alertmanager", "quorate-monitoring/prometheus"}
	}, margins(1, 1, 1, 1), []string{
		"warning: the disruption budgets quorate-monitoring/alertmanager and quorate-monitoring/prometheus let all replicas go at the same time: a drain has relaxed them, and goes on or was interrupted"}},
	{"prometheus-no-room", func(f fixture) {
		installed(f)
		w := &f.Seen.API.Prometheus.Workloads[1]
		w.Ready, w.NotReady = 1, []facts.WaitingPod{{Why: "alertmanager: Unschedulable: 0/5 nodes are available: 5 Insufficient memory."}}
	}, margins(1, 1, 1, 1), []string{"*warning: Alertmanager runs in 1 of 2 replicas: alertmanager: Unschedulable: 0/5 nodes are available"}},
	{"prometheus-no-pods", func(f fixture) {
		installed(f)
		w := &f.Seen.API.Prometheus.Workloads[0]
		w.Ready, w.Updated, w.Problem = 0, 0, "pods are forbidden: exceeded quota"
		f.Seen.API.Prometheus.Workloads[2] = facts.Workload{Kind: "Deployment", Namespace: monitoring.Namespace, Name: "kube-state-metrics", Title: "kube-state-metrics", Missing: true}
	}, margins(1, 1, 1, 1), []string{"*warning: Prometheus runs in 0 of 2 replicas: pods are forbidden: exceeded quota; kube-state-metrics is not in the cluster: the Deployment quorate-monitoring/kube-state-metrics was removed"}},
	{"prometheus-rolls-out", func(f fixture) { installed(f); f.Seen.API.Prometheus.Workloads[3].Updated = 2 }, margins(1, 1, 1, 1), []string{
		"*warning: the node exporter has its current configuration on 2 of 5 nodes"}},
	{"prometheus-changed", func(f fixture) { installed(f); f.Seen.API.Prometheus.Workloads[0].Stale = true }, margins(1, 1, 1, 1), []string{
		"*warning: Prometheus was changed, and no controller manager has looked at it yet"}},
	{"prometheus-secret", func(f fixture) {
		installed(f)
		f.Spec.Spec.Monitoring.Prometheus.AlertmanagerSecret = "receivers"
		w := &f.Seen.API.Prometheus.Workloads[1]
		w.Ready, w.NotReady = 1, []facts.WaitingPod{{Node: "w-a", Why: `alertmanager on w-a: ContainerCreating: FailedMount: MountVolume.SetUp failed for volume "config" : secret "receivers" not found`}}
	}, margins(1, 1, 1, 1), []string{"warning: Alertmanager runs in 1 of 2 replicas: alertmanager on w-a: ContainerCreating: FailedMount"}},
	{"prometheus-volume", func(f fixture) {
		installed(f, `prometheus on w-b: ContainerCreating: FailedMount: secret "other" not found`)
	}, margins(1, 1, 1, 1), []string{"*warning: Prometheus runs in 1 of 2 replicas: prometheus on w-b: ContainerCreating: FailedMount"}},
	{"prometheus-on-a-dead-node", func(f fixture) {
		installed(f, "prometheus on w-b: it does not answer yet")
		exporters := &f.Seen.API.Prometheus.Workloads[3]
		exporters.Ready, exporters.Updated, exporters.NotReady = 4, 4, []facts.WaitingPod{{Node: "w-b", Why: "node-exporter on w-b: it does not answer yet"}}
		f.Seen.API.Nodes[4].Ready = false
		f.Dies("w-b")
	}, margins(1, 1, 1, 1), []string{"warning: host w-b cannot be reached", "warning: the node exporter has its current configuration on 4 of 5 nodes"}},
	{"prometheus-waits-for-a-node", func(f fixture) {
		installed(f)
		w := &f.Seen.API.Prometheus.Workloads[0]
		w.Ready, w.NotReady = 1, []facts.WaitingPod{{Why: "prometheus: Unschedulable: 0/5 nodes are available"}}
		f.Seen.API.Nodes[4].Ready = false
		f.Dies("w-b")
	}, margins(1, 1, 1, 1), []string{"warning: host w-b cannot be reached", "warning: Prometheus runs in 1 of 2 replicas: prometheus: Unschedulable: 0/5 nodes are available"}},
	{"prometheus-broken-beside-a-dead-node", func(f fixture) {
		installed(f, "prometheus on w-a: CrashLoopBackOff")
		f.Seen.API.Prometheus.Workloads[0].NotReady[0].Node = "w-a"
		f.Seen.API.Nodes[4].Ready = false
		f.Dies("w-b")
	}, margins(1, 1, 1, 1), []string{"warning: host w-b cannot be reached", "*warning: Prometheus runs in 1 of 2 replicas: prometheus on w-a: CrashLoopBackOff"}},

	// Load balancers and the endpoint.
	{"no-load-balancer-reachable", func(f fixture) {
		f.Dies("lb-a", "lb-b")
		f.AnswerEndpoint(bad("no route to host"))
	}, margins(1, 1, -1, -1), []string{
		"*critical: no load balancer is known to work: lb-a and lb-b could not be queried", "*critical: the endpoint api.lab.internal:6443 does not answer: no route to host",
		"warning: which load balancer has the virtual IP 10.0.0.100 is unknown: lb-a and lb-b could not be queried", "warning: host lb-a", "warning: host lb-b"}},
	{"no-load-balancer-works", func(f fixture) {
		for _, h := range []string{"lb-a", "lb-b"} {
			f.Change(h, func(h *facts.Host) { h.Balancer = &facts.Balancer{WrittenFor: "lab"} })
		}
		f.AnswerEndpoint(bad("no route to host"))
	}, margins(1, 1, -1, -1), []string{
		"*critical: no load balancer works", "*critical: the endpoint", "*critical: no load balancer has the virtual IP",
		"*warning: the load balancer on lb-a does not work: HAProxy does not answer", "*warning: the load balancer on lb-b does not work"}},
	{"hung-load-balancer", func(f fixture) {
		f.Seen.Hosts["lb-a"].Balancer.Healthy = false
		f.Seen.Hosts["lb-a"].Balancer.Backends = nil
	}, margins(1, 1, 0, 0), []string{
		"*warning: the load balancer on lb-a does not work: HAProxy does not answer", "warning: the cluster does not survive the loss of a load balancer, or zone b"}},
	{"load-balancer-without-keepalived", func(f fixture) { f.Component("lb-b", facts.Keepalived, bad("keepalived.service is failed")) }, margins(1, 1, 0, 0), []string{
		"*warning: the load balancer on lb-b does not take part in the failover of the virtual IP: keepalived.service is failed", "warning: the cluster does not survive the loss of a load balancer, or zone a"}},
	{"keepalived-unit", func(f fixture) {
		delete(f.Seen.Hosts["lb-b"].Components, facts.Keepalived)
		f.Seen.Hosts["lb-b"].Facts.Units["keepalived.service"] = "failed"
	}, margins(1, 1, 0, 0), []string{"*warning: the load balancer on lb-b does not take part in the failover of the virtual IP: keepalived.service is failed", "warning: the cluster does not survive"}},
	{"keepalived-unknown", func(f fixture) {
		f.Component("lb-b", facts.Keepalived, unknown(noStream))
		delete(f.Seen.Hosts["lb-b"].Facts.Units, "keepalived.service")
	}, margins(1, 1, 0, 0), []string{"*warning: keepalived on lb-b could not be queried: " + noStream, "warning: the cluster is not known to survive the loss of a load balancer, or zone a"}},
	{"haproxy-says-why", func(f fixture) {
		f.Seen.Hosts["lb-b"].Balancer.Healthy, f.Seen.Hosts["lb-b"].Balancer.Backends = false, nil
		f.Component("lb-b", facts.HAProxy, bad("haproxy.service is failed"))
	}, margins(1, 1, 0, 0), []string{"*warning: the load balancer on lb-b does not work: haproxy.service is failed", "warning: the cluster does not survive"}},
	{"units-unknown", func(f fixture) {
		f.Seen.Hosts["w-a"].Facts.Unknown = map[string]string{facts.UnitsPart: "systemctl: no answer within 5s"}
	}, margins(1, 1, 1, 1), []string{
		"*warning: units on w-a could not be queried: systemctl: no answer within 5s"}},
	{"dead-load-balancer", func(f fixture) { f.Dies("lb-a"); f.Seen.Hosts["lb-b"].Balancer.Active = true }, margins(1, 1, 0, 0), []string{
		"warning: host lb-a cannot be reached", "warning: the cluster is not known to survive the loss of a load balancer, or zone b"}},
	{"load-balancer-never-set-up", func(f fixture) { f.Change("lb-b", func(h *facts.Host) { h.Balancer = nil }) }, margins(1, 1, 0, 0), []string{
		"*warning: the load balancer on lb-b does not work: it was never set up", "warning: the cluster does not survive"}},
	{"load-balancer-unknown", func(f fixture) {
		f.Change("lb-b", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "no answer within 5s" })
	}, margins(1, 1, 0, 0), []string{"*warning: haproxy on lb-b could not be queried: no answer within 5s", "warning: the cluster is not known to survive the loss of a load balancer, or zone a"}},
	{"server-down", func(f fixture) {
		b := &f.Seen.Hosts["lb-b"].Balancer.Backends[1]
		b.Healthy, b.Check = false, "L4TOUT"
	}, margins(1, 1, 1, 1), []string{"*warning: the load balancer on lb-b does not reach the API server on cp-b, which is ready: its check says L4TOUT"}},
	{"server-comes-back", func(f fixture) {
		b := &f.Seen.Hosts["lb-b"].Balancer.Backends[1]
		b.Healthy, b.Check = false, "L7OK 200"
	}, margins(1, 1, 1, 1), []string{"*warning: the load balancer on lb-b does not use the API server on cp-b yet: its last check succeeded, and more have to"}},
	{"server-was-not-ready", func(f fixture) {
		b := &f.Seen.Hosts["lb-b"].Balancer.Backends[1]
		b.Healthy, b.Check = false, "L7STS 500 Internal Server Error"
	}, margins(1, 1, 1, 1), []string{"*warning: the load balancer on lb-b does not use the API server on cp-b, which is ready now: it answered the last check with an error (L7STS 500 Internal Server Error)"}},
	{"server-not-known", func(f fixture) { f.Seen.Hosts["lb-b"].Balancer.Backends = f.Seen.Hosts["lb-b"].Balancer.Backends[:2] }, margins(1, 1, 1, 1), []string{
		"*warning: the load balancer on lb-b does not know the control plane cp-c"}},
	{"virtual-ip-nowhere", func(f fixture) {
		f.Seen.Hosts["lb-a"].Balancer.Active = false
		f.AnswerEndpoint(bad("no route to host"))
	}, margins(1, 1, 1, 1), []string{"*critical: the endpoint api.lab.internal:6443 does not answer: no route to host", "*critical: no load balancer has the virtual IP 10.0.0.100"}},
	{"virtual-ip-twice", func(f fixture) { f.Seen.Hosts["lb-b"].Balancer.Active = true }, margins(1, 1, 1, 1), []string{
		"*critical: lb-a and lb-b have the virtual IP 10.0.0.100 at the same time"}},
	{"virtual-ip-on-a-stranger", func(f fixture) {
		f.Seen.Hosts["w-a"].Facts.Addresses = append(f.Seen.Hosts["w-a"].Facts.Addresses, facts.Address{IP: "10.0.0.100", Prefix: 32, Interface: "eth0"})
	}, margins(1, 1, 1, 1), []string{"*critical: w-a has the virtual IP 10.0.0.100, but the spec does not have it as a load balancer"}},
	{"virtual-ip-outside-the-spec", func(f fixture) { f.AsksForVirtualIP("02:00:00:00:00:ff") }, margins(1, 1, 1, 1), []string{
		"*critical: an unknown machine with the hardware address 02:00:00:00:00:ff, which is not in the spec, has the virtual IP 10.0.0.100"}},
	{"virtual-ip-of-its-holder", func(f fixture) { f.AsksForVirtualIP() }, margins(1, 1, 1, 1), nil},
	{"virtual-ip-on-a-load-balancer-that-cannot-be-asked", func(f fixture) {
		f.AsksForVirtualIP()
		f.Dies("lb-a")
	}, margins(1, 1, 0, 0), []string{"warning: host lb-a cannot be reached", "warning: the cluster is not known to survive the loss of a load balancer, or zone b"}},
	{"virtual-ip-on-one-that-cannot-be-asked-and-another", func(f fixture) {
		f.AsksForVirtualIP()
		f.Dies("lb-a")
		f.Seen.Hosts["lb-b"].Balancer.Active = true
	}, margins(1, 1, 0, 0), []string{"*critical: lb-a and lb-b have the virtual IP 10.0.0.100 at the same time", "warning: host lb-a", "warning: the cluster is not known"}},
	{"virtual-ip-on-somebody-while-one-cannot-be-asked", func(f fixture) {
		f.AsksForVirtualIP()
		f.Dies("lb-a")
		f.Seen.Hosts["lb-b"].VirtualIP.Peers = nil // so that nobody knows lb-a's hardware address
	}, margins(1, 1, 0, 0), []string{"warning: which load balancer has the virtual IP 10.0.0.100 is unknown: lb-a could not be queried", "warning: host lb-a", "warning: the cluster is not known"}},
	{"virtual-ip-cannot-be-asked-for", func(f fixture) {
		for _, lb := range []string{"lb-a", "lb-b"} {
			f.Change(lb, func(h *facts.Host) {
				h.VirtualIP = &facts.AddressHolders{Unknown: lb + ": interface ib0 has no Ethernet address, so ARP cannot be used"}
			})
		}
	}, margins(1, 1, 1, 1), []string{"info: whether machines outside the spec have the virtual IP 10.0.0.100 too is unknown: lb-a: interface ib0"}},
	{"virtual-ip-holder-cannot-be-reached", func(f fixture) { f.Dies("lb-a") }, margins(1, 1, 0, 0), []string{
		"warning: which load balancer has the virtual IP 10.0.0.100 is unknown: lb-a could not be queried",
		"warning: host lb-a cannot be reached", "warning: the cluster is not known to survive"}},
	{"virtual-ip-holder-unknown", func(f fixture) {
		f.Change("lb-a", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "no answer within 5s" })
	}, margins(1, 1, 0, 0), []string{"*warning: which load balancer has the virtual IP 10.0.0.100 is unknown: lb-a could not be queried",
		"*warning: haproxy on lb-a could not be queried", "warning: the cluster is not known to survive"}},
	{"api-service", func(f fixture) { servedTo(f, "10.0.0.100:6443") }, margins(1, 1, 1, 1), nil},
	{"api-service-without-an-address", func(f fixture) {
		f.Seen.API.Service = &facts.APIService{Slices: map[string][]string{facts.APIServiceName: {}}}
	}, margins(1, 1, 1, 1), []string{"*critical: pods do not reach the API: the Service default/kubernetes has no address"}},
	{"api-service-with-a-leftover", func(f fixture) { servedTo(f, "10.0.0.100:6443", "10.0.0.11:6443") }, margins(1, 1, 1, 1), []string{
		"warning: connections of pods to 10.0.0.11:6443 fail whenever nothing answers there"}},
	{"api-service-while-an-api-server-lists-itself", func(f fixture) {
		servedTo(f, "10.0.0.100:6443", "10.0.0.13:6443")
		f.Kubernetes("cp-c").Arguments = nil
	}, margins(1, 1, 1, 1), nil},
	{"endpoint-from-here", func(f fixture) { f.Seen.Endpoint.Caller = new(bad("no route to host")) }, margins(1, 1, 1, 1), []string{
		"info: the endpoint api.lab.internal:6443 answers the hosts, but not this machine: no route to host"}},
	{"endpoint-for-some-hosts", func(f fixture) { f.Seen.Endpoint.Hosts["cp-a"] = bad("no route to host") }, margins(1, 1, 1, 1), nil},
	{"endpoint-unknown", func(f fixture) {
		f.Seen.Endpoint = facts.Endpoint{Unknown: "no host could open a stream", Caller: new(bad("no route to host"))}
	}, margins(1, 1, 1, 1), []string{"*warning: it is unknown whether the endpoint api.lab.internal:6443 answers: no host could open a stream"}},
	{"maintenance", func(f fixture) {
		f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Since: now.Add(-time.Hour), Ready: true}, "lb-b": {Ready: true}}
		f.Dies("cp-b", "lb-b")
	}, margins(0, 0, 0, 0), []string{
		"warning: the cluster does not survive the loss of a control plane, or an etcd member, or a load balancer, or zone a while cp-b and lb-b are in maintenance",
		"info: host cp-b is in maintenance since 2026-08-03 11:00 UTC and can be powered off", "info: host lb-b is in maintenance and can be powered off"}},
	{"maintenance-of-a-zone", func(f fixture) {
		f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}, "lb-b": {Ready: true}, "w-b": {Ready: true}}
		f.Dies("cp-b", "lb-b", "w-b")
	}, margins(0, 0, 0, 0), []string{"warning: the cluster does not survive", "info: host cp-b is in", "info: host w-b is in", "info: host lb-b is in"}},
	{"maintenance-and-a-failure", func(f fixture) {
		f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}}
		f.Dies("cp-a")
	}, margins(-1, -1, 1, -1), []string{"warning: host cp-a cannot be reached", "info: host cp-b is in"}},
	{"maintenance-cut-short", func(f fixture) {
		f.Seen.API.Maintenance = map[string]facts.Maintenance{"w-b": {}}
		f.Seen.API.Nodes[4].Ready = false
	}, margins(1, 1, 1, 1), []string{"warning: host w-b is in maintenance, and not all of it was done: it cannot be powered off yet"}},
	{"drained", func(f fixture) {
		for _, name := range []string{"lb-a", "lb-b"} {
			b := f.Seen.Hosts[name].Balancer.Backends
			b[1].Drained, b[1].Healthy = true, false
		}
	}, margins(1, 1, 1, 1), []string{"info: control plane cp-b is drained: the load balancers on lb-a and lb-b send it no new clients"}},

	// Other shapes of clusters.
	{"colocated-load-balancers", func(f fixture) {
		backends := f.Seen.Hosts["lb-a"].Balancer.Backends
		f.Spec.Spec.Hosts = f.Spec.Spec.Hosts[:5]
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Change(name, func(h *facts.Host) {
				h.Balancer = &facts.Balancer{Healthy: true, Active: name == "cp-b", Backends: backends}
			})
		}
	}, margins(1, 1, 2, 1), nil},
	{"external-load-balancer", func(f fixture) {
		f.Spec.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal}
		f.Spec.Spec.Hosts = f.Spec.Spec.Hosts[:5]
	}, quorum.Margins{ControlPlanes: 1, Etcd: 1, Zones: 1}, nil},
	{"zonal", func(f fixture) {
		f.Spec.Spec.ControlPlane.Placement = spec.PlacementZonal
		for i := range f.Spec.Spec.Hosts {
			f.Spec.Spec.Hosts[i].Zone = "a"
		}
	}, margins(1, 1, 1, 0), []string{"info: zonal placement: all 3 control planes are in zone a"}},
	{"external-etcd", func(f fixture) { f.External() }, margins(1, 1, 1, 1), nil},
	{"external-etcd-dead-host", func(f fixture) { f.External(); f.Dies("etcd-b") }, margins(1, 0, 1, 0), []string{
		"warning: host etcd-b cannot be reached", "warning: the cluster is not known to survive the loss of an etcd member, or zone a"}},
	{"external-etcd-member", func(f fixture) { f.External(); f.Seen.Etcd[2].Healthy = false }, margins(1, 0, 1, 0), []string{
		"*warning: etcd member etcd-c does not work", "warning: the cluster does not survive"}},
	{"external-etcd-data-missing", func(f fixture) {
		f.External()
		f.Seen.Etcd[2].Healthy = false
		f.Kubernetes("etcd-c").EtcdData, f.Kubernetes("etcd-c").EtcdInitial = false, []string{"etcd-c=https://10.0.0.33:2380"}
	}, margins(1, 0, 1, 0), []string{"*warning: the data of etcd member etcd-c is missing", "warning: the cluster does not survive"}},
	{"external-etcd-missing", func(f fixture) { f.External(); f.Seen.Etcd = f.Seen.Etcd[:2] }, margins(1, 0, 1, 0), []string{
		"*warning: etcd has no member on etcd-c", "warning: the cluster does not survive"}},
	{"external-etcd-certificates", func(f fixture) {
		f.External()
		f.Kubernetes("etcd-a").Certificates[0].Expires = now.AddDate(0, 0, 9)
	}, margins(1, 1, 1, 1), []string{"warning: certificate pki/etcd/server.crt on etcd-a expires in 9 days"}},
	{"existing-etcd", func(f fixture) { f.Existing() }, margins(2, 1, 1, 1), nil},
	{"existing-etcd-member", func(f fixture) { f.Existing(); f.Seen.Etcd[1].Healthy = false }, margins(2, 0, 1, 1), []string{
		"warning: etcd member their-2 does not work", "warning: the cluster does not survive the loss of an etcd member"}},
	{"existing-etcd-gone", func(f fixture) {
		f.Existing()
		f.Silent()
		f.Seen.Etcd, f.Seen.EtcdError = nil, "e1: connection refused"
	}, margins(-1, -1, 1, -1), []string{
		"*critical: no endpoint of your etcd could be queried: e1: connection refused", "*critical: no API server answers", "*critical: the endpoint",
		"*warning: kube-apiserver on cp-a", "*warning: kube-apiserver on cp-b", "*warning: kube-apiserver on cp-c"}},
	{"built-without-margin", func(f fixture) {
		f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "lb-b" })
	}, margins(1, 1, 0, 0), []string{"warning: the cluster does not survive the loss of a load balancer, or zone a"}},

	// Hosts.
	{"certificates", func(f fixture) {
		k := f.Kubernetes("cp-b").Certificates
		k[0].Expires, k[1].Expires = now.AddDate(0, 0, 20), now.AddDate(0, 0, 25)
		f.Kubernetes("cp-c").Certificates[1].Expires = now.Add(26 * time.Hour)
		f.Kubernetes("cp-a").Certificates[1].Expires = now.Add(27 * time.Hour)
	}, margins(1, 1, 1, 1), []string{"critical: certificate pki/apiserver.crt on cp-c expires in 26 hours, and 1 more with the same remedy",
		"warning: certificate kubelet-client on cp-b expires in 20 days", "warning: certificate pki/apiserver.crt on cp-b expires in 25 days"}},
	{"certificate-expired", func(f fixture) { f.Kubernetes("w-a").Certificates[0].Expires = now.AddDate(0, 0, -1) }, margins(1, 1, 1, 1),
		[]string{"critical: certificate kubelet-client on w-a expired on 2026-08-02"}},
	{"damaged-program", func(f fixture) {
		f.Seen.Hosts["w-a"].Facts.ProgramProblems = []string{"/opt/quorate/programs/x/usr/local/bin/runc has 0 bytes instead of 9329008"}
	}, margins(1, 1, 1, 1), []string{"*warning: programs on w-a are not as they were installed: /opt/quorate/programs/x/usr/local/bin/runc has 0 bytes"}},
	{"damaged-bundle", func(f fixture) {
		f.Seen.Hosts["w-a"].Facts.BundleDamage = map[string]string{"sha256:1": "the index of bundle sha256:1 is damaged: its content is sha256:2"}
	}, margins(1, 1, 1, 1), []string{"warning: the copy of the bundle on w-a is damaged, and nothing of it can be removed to free its disk: the index of bundle sha256:1 is damaged"}},
	{"settings", func(f fixture) {
		for _, h := range []string{"w-a", "w-b"} {
			s := f.Seen.Hosts[h].Facts
			s.Sysctls["net.ipv4.ip_forward"], s.Modes["/etc/systemd/system/kubelet.service"] = "0", facts.Mode{Bits: 0o644, Owner: "root", Group: "root"}
		}
		f.Seen.Hosts["lb-b"].Facts.Enabled["keepalived.service"] = "disabled"
		delete(f.Seen.Hosts["cp-a"].Facts.Files, "/etc/sysctl.d/90-quorate.conf")
		f.Seen.Hosts["cp-b"].Facts.Files["/etc/containerd/config.toml"] = "of another bundle"
		f.Seen.Hosts["cp-c"].Facts.Modules["br_netfilter"] = facts.Loadable
	}, margins(1, 1, 1, 1), []string{
		"warning: the settings of cp-a are not what Quorate set up: /etc/sysctl.d/90-quorate.conf is missing",
		"warning: the settings of cp-c are not what Quorate set up: the kernel module br_netfilter is not loaded",
		"warning: the settings of w-a and w-b are not what Quorate set up: /etc/systemd/system/kubelet.service has mode 644 instead of 600, net.ipv4.ip_forward is 0 instead of 1",
		"warning: the settings of lb-b are not what Quorate set up: keepalived.service is disabled: it would not start after a reboot"}},
	{"adopted-settings", func(f fixture) {
		f.Kubernetes("w-a").Adopted = true
		f.Seen.Hosts["w-a"].Facts.Sysctls["net.ipv4.ip_forward"] = "0"
	}, margins(1, 1, 1, 1), nil},
	{"rotation", func(f fixture) {
		for _, name := range []string{"cp-a", "cp-b", "cp-c", "w-a", "w-b"} {
			f.Kubernetes(name).Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: []string{"old", "new"}}}
		}
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Kubernetes(name).Trust[facts.KubernetesAuthority] = facts.Trust{Trusted: []string{"old", "new"}, Key: "old", Next: "new"}
		}
	}, margins(1, 1, 1, 1), []string{"warning: the rotation of the authority ca is not finished: every host trusts both keys, and the old one signs"}},
	{"rotation-unclear", func(f fixture) {
		f.Kubernetes("cp-a").Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: []string{"new"}, Key: "new"}}
		f.Kubernetes("cp-b").Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: []string{"old"}, Key: "old"}}
	}, margins(1, 1, 1, 1), []string{"warning: the rotation of the authority ca is not finished: two keys are trusted, control planes sign with different ones"}},
	{"rotation-not-read", func(f fixture) {
		for i, name := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Kubernetes(name).Trust = map[facts.Authority]facts.Trust{facts.EtcdAuthority: {Trusted: []string{"old", "new"}, Key: "old", Next: "new", Written: now.Add(-time.Hour)}}
			f.Change(name, func(h *facts.Host) {
				h.Started = map[string]time.Time{facts.Etcd: now.Add(-time.Minute), facts.APIServer: now.Add(time.Duration(-90+i*60) * time.Minute)}
			})
		}
		f.Change("cp-c", func(h *facts.Host) { delete(h.Started, facts.Etcd) })
	}, margins(1, 1, 1, 1), []string{"warning: the rotation of the authority etcd-ca is not finished: kube-apiserver on cp-a may not have read the changed files yet; the same holds for 1 more host"}},
	{"rotation-forgets", func(f fixture) {
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Kubernetes(name).Trust = map[facts.Authority]facts.Trust{facts.ServiceAccountKey: {Trusted: []string{"new"}, Key: "new", Former: "old", Written: now.Add(-time.Hour)}}
			f.Change(name, func(h *facts.Host) { h.Started = map[string]time.Time{facts.APIServer: now} })
		}
	}, margins(1, 1, 1, 1), []string{"warning: the rotation of the service account key is not finished: every host trusts the new key alone, and the last steps are left"}},
	{"keys-of-somebody-else", func(f fixture) {
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Kubernetes(name).Trust = map[facts.Authority]facts.Trust{facts.ServiceAccountKey: {Trusted: []string{"old", "other"}, Key: "old"}}
		}
	}, margins(1, 1, 1, 1), nil},
	{"super-admins", func(f fixture) { f.Kubernetes("cp-a").SuperAdmin, f.Kubernetes("cp-c").SuperAdmin = true, true }, margins(1, 1, 1, 1), []string{"warning: cp-a and cp-c have super-admin.conf"}},
	{"super-admin", func(f fixture) { f.Kubernetes("cp-b").SuperAdmin = true }, margins(1, 1, 1, 1), nil},
	{"clock", func(f fixture) { f.Seen.Hosts["w-b"].Facts.Time = now.Add(-time.Minute) }, margins(1, 1, 1, 1), []string{"warning: the clock of w-b is 1m0s behind the others"}},
	{"swap", func(f fixture) {
		for _, h := range []string{"w-a", "w-b", "lb-a"} {
			f.Seen.Hosts[h].Facts.SwapBytes = 1
		}
	}, margins(1, 1, 1, 1), []string{"warning: swap is on: w-a, w-b;"}},

	{"a-duplicate-address", func(f fixture) { f.Seen.Hosts["w-a"].Facts.Addresses[0].Duplicate = true }, margins(1, 1, 1, 1), []string{"warning: w-a cannot use its address"}},
	{"a-tentative-address", func(f fixture) { f.Seen.Hosts["cp-a"].Facts.Addresses[0].Tentative = true }, margins(1, 1, 1, 1), []string{"warning: cp-a cannot use its address"}},
	{"a-duplicate-that-is-not-ours", func(f fixture) {
		own := f.Seen.Hosts["w-a"].Facts
		own.Addresses = append(own.Addresses, facts.Address{IP: "fd00::9", Prefix: 64, Interface: "eth7", Duplicate: true})
	}, margins(1, 1, 1, 1), nil},

	// Backups. The last one is an hour old, and one is due every six hours.
	{"backups", func(f fixture) { f.Backups() }, margins(1, 1, 1, 1), nil},
	{"backups-from-the-future", func(f fixture) { r := f.Backups(); r.Last.Time = r.Now.AddDate(1, 0, 0) }, margins(1, 1, 1, 1), []string{"warning: the last backup does not count as a good one: by the clock of cp-b, it was taken 365 days in the future"}},
	{"clocks-that-agree", func(f fixture) { r := f.Backups(); r.Last.Time = r.Now.Add(9 * time.Minute) }, margins(1, 1, 1, 1), nil},
	{"nobody-can-take-one", func(f fixture) {
		r := f.Backups()
		r.Last.Time = r.Now.Add(-7 * time.Hour)
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-time.Hour), Error: "first"}, "cp-b": {Time: r.Now.Add(-3 * time.Minute), Error: "no such bucket"}, "cp-c": {Time: r.Now.Add(-time.Hour), Error: "third"}}
	}, margins(1, 1, 1, 1), []string{"warning: a backup is due, and no control plane can take it; the last attempt, 3 minutes ago by cp-b, failed: no such bucket"}},
	{"nobody-can-take-the-first", func(f fixture) {
		r := f.Backups()
		r.Last, r.Since = nil, r.Now.Add(-time.Hour)
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-time.Hour)}, "cp-b": {Time: r.Now.Add(-3 * time.Minute), Error: "no such bucket"}, "cp-c": {Time: r.Now.Add(-time.Hour)}}
	}, margins(1, 1, 1, 1), []string{"warning: a backup is due, and no control plane can take it; the last attempt, 3 minutes ago by cp-b, failed: no such bucket"}},
	{"one-has-not-tried-since", func(f fixture) {
		r := f.Backups()
		r.Last.Time = r.Now.Add(-7 * time.Hour)
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-8 * time.Hour), Error: "old"}, "cp-b": {Time: r.Now.Add(-time.Hour), Error: "b"}, "cp-c": {Time: r.Now.Add(-time.Hour), Error: "c"}}
	}, margins(1, 1, 1, 1), []string{"info: cp-a could not take a backup 8 hours ago: old", "info: cp-b could not take a backup 60 minutes ago: b", "info: cp-c could not take a backup 60 minutes ago: c"}},
	{"no-schedule-and-no-credentials-here", func(f fixture) {
		r := f.Backups()
		r.Last, r.Since = nil, time.Time{}
		f.Seen.Backups.Schedules, f.Seen.Backups.ScheduleError = nil, "there are no credentials for the S3 store"
		for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
			delete(f.Seen.Hosts[h].Facts.Files, facts.BackupScheduleFile)
		}
	}, margins(1, 1, 1, 1), []string{"warning: cp-a, cp-b and cp-c have no schedule of backups", "warning: there has never been a good backup, and no control plane has a schedule of backups"}},
	{"no-schedule", func(f fixture) { f.Backups().Last = nil; f.Spec.Spec.Backup.Every = spec.BackupNever }, margins(1, 1, 1, 1), nil},
	{"no-backups", func(f fixture) { f.Backups().Last = nil; f.Spec.Spec.Backup = spec.Backup{} }, margins(1, 1, 1, 1), nil},
	{"first-backup-due", func(f fixture) { r := f.Backups(); r.Last, r.Since = nil, r.Now.Add(-12*time.Hour) }, margins(1, 1, 1, 1), nil},
	{"not-scheduled-yet", func(f fixture) { r := f.Backups(); r.Last, r.Since = nil, time.Time{} }, margins(1, 1, 1, 1), nil},
	{"never-a-backup", func(f fixture) {
		r := f.Backups()
		r.Last, r.Since = nil, r.Now.Add(-13*time.Hour)
	}, margins(1, 1, 1, 1), []string{"critical: there has never been a good backup, although the control planes should have taken one every 6h for 13 hours"}},
	{"never-a-backup-because", func(f fixture) {
		r := f.Backups()
		r.Last, r.Failed = nil, map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-time.Hour), Error: "first"}, "cp-c": {Time: r.Now.Add(-time.Minute), Error: "no such bucket"}}
	}, margins(1, 1, 1, 1), []string{"critical: there has never been a good backup, although the control planes should have taken one every 6h for 30 days; the last attempt, 60 s ago by cp-c, failed: no such bucket"}},
	{"twice-the-interval", func(f fixture) { r := f.Backups(); r.Last.Time = r.Now.Add(-12 * time.Hour) }, margins(1, 1, 1, 1), nil},
	{"old-backup", func(f fixture) {
		r := f.Backups()
		r.Last.Time = r.Now.Add(-13 * time.Hour)
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-20 * time.Hour), Error: "before the last good one"}}
	}, margins(1, 1, 1, 1), []string{"warning: the last good backup is 13 hours old, and the control planes should take one every 6h"}},
	{"old-backup-because", func(f fixture) {
		r := f.Backups()
		r.Last.Time = r.Now.Add(-60 * time.Hour)
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-5 * time.Minute), Error: "connection refused"}, "cp-z": {Time: r.Now, Error: "of a host that has left"}}
	}, margins(1, 1, 1, 1), []string{"warning: the last good backup is 2 days old, and the control planes should take one every 6h; the last attempt, 5 minutes ago by cp-a, failed: connection refused"}},
	{"lost-backups", func(f fixture) { r := f.Backups(); r.Last.Time = r.Now.Add(-61 * time.Hour) }, margins(1, 1, 1, 1), []string{"critical: the last good backup is 2 days old"}},
	{"another-took-it", func(f fixture) {
		r := f.Backups()
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-61 * time.Minute), Error: "/srv/backups does not exist"}, "cp-z": {Time: r.Now, Error: "of a host that has left"}}
	}, margins(1, 1, 1, 1), []string{"info: cp-a could not take a backup 61 minutes ago: /srv/backups does not exist"}},
	{"backups-unknown", func(f fixture) {
		f.Backups()
		f.Seen.Backups.Report, f.Seen.Backups.Unknown = nil, "cp-a: no answer within 5s"
	}, margins(1, 1, 1, 1), []string{"warning: it is unknown when the last good backup was taken: cp-a: no answer within 5s"}},
	{"backups-not-asked-for", func(f fixture) { f.Backups(); f.Seen.Backups = nil }, margins(1, 1, 1, 1), []string{"warning: it is unknown when the last good backup was taken: it was not asked for"}},
	{"schedules", func(f fixture) {
		f.Backups()
		delete(f.Seen.Hosts["cp-a"].Facts.Files, facts.BackupScheduleFile)
		f.Seen.Hosts["cp-b"].Facts.Files[facts.BackupScheduleFile] = "of other credentials"
		f.Seen.Hosts["cp-c"].Facts.Files[facts.BackupScheduleFile] = "of other credentials"
	}, margins(1, 1, 1, 1), []string{"warning: cp-a has no schedule of backups", "warning: cp-b and cp-c have another schedule of backups, or other credentials for their store, than the spec says"}},
	{"schedules-without-credentials-here", func(f fixture) {
		f.Backups()
		f.Seen.Backups.Schedules, f.Seen.Backups.ScheduleError = nil, "there are no credentials for the S3 store"
	}, margins(1, 1, 1, 1), nil},
	{"schedule-that-cannot-be-read", func(f fixture) {
		f.Backups()
		delete(f.Seen.Hosts["cp-a"].Facts.Files, facts.BackupScheduleFile)
		f.Seen.Hosts["cp-a"].Facts.Unknown = map[string]string{facts.BackupScheduleFile: "input/output error"}
	}, margins(1, 1, 1, 1), []string{"*warning: /var/lib/quorate/backup/schedule.json on cp-a could not be queried: input/output error"}},
	{"backups-of-somebody-else", func(f fixture) {
		f.Backups().Last = nil
		for _, h := range f.Seen.Hosts {
			h.Facts.Kubernetes.Established = false
		}
	}, margins(1, 1, 1, 1), []string{"info: this cluster was not built by Quorate"}},
	{"control-planes-repair", func(f fixture) { f.Watch("1") }, margins(1, 1, 1, 1), nil},
	{"a-unit-that-repairs-is-stopped", func(f fixture) {
		f.Watch("1")
		f.Seen.Hosts["cp-b"].Facts.Units["quorate-watch.service"] = "inactive"
	}, margins(1, 1, 1, 1), []string{"warning: the unit that repairs does not work on cp-b: quorate-watch.service does not run"}},
}

func TestFindings(t *testing.T) {
	for _, c := range findingCases {
		t.Run(c.name, func(t *testing.T) {
			f := whole()
			c.change(f)
			s := Evaluate(f.Spec, f.Seen)
			if got, want := jsonOf(s.Margins()), jsonOf(c.margins); got != want {
				t.Errorf("margins %s, want %s", got, want)
			}
			var got []string
			for _, x := range s.Findings() {
				line := string(x.Severity) + ": " + x.Summary
				if x.Unmet {
					line = "*" + line
				}
				got = append(got, line)
			}
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("found\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
		})
	}
}

func jsonOf(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// Every rule has a case in which it is broken, with each of its severities, and no finding has a rule that is not listed.
func TestEveryRuleOfFindingsHasACase(t *testing.T) {
	broken := map[string]map[Severity]bool{}
	for _, c := range findingCases {
		f := whole()
		c.change(f)
		for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
			if broken[x.Rule] == nil {
				broken[x.Rule] = map[Severity]bool{}
			}
			broken[x.Rule][x.Severity] = true
			if !strings.HasSuffix(x.Fix, ".") && x.Rule != RuleChosen {
				t.Errorf("%s: the fix of %q is no sentence: %q", c.name, x.Summary, x.Fix)
			}
			if x.Summary == "" || strings.HasSuffix(x.Summary, ": ") || strings.Contains(x.Summary+x.Fix, "%!") || strings.Contains(x.Fix, "``") {
				t.Errorf("%s: %+v", c.name, x)
			}
		}
	}
	for _, r := range Rules {
		for _, sev := range r.Severities {
			if !broken[r.ID][sev] {
				t.Errorf("no case breaks %s as %s", r.ID, sev)
			}
			delete(broken[r.ID], sev)
		}
		if len(broken[r.ID]) > 0 {
			t.Errorf("%s is not declared to be %v", r.ID, slices.Collect(maps.Keys(broken[r.ID])))
		}
		delete(broken, r.ID)
	}
	for id := range broken {
		t.Errorf("the rule %s is not listed", id)
	}
}

// servedTo has pods use addresses, of which the first is the endpoint, while no API server lists itself.
func servedTo(f fixture, addresses ...string) {
	for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
		f.Kubernetes(cp).Arguments = map[string]map[string]string{facts.APIServer: {"endpoint-reconciler-type": "none"}}
	}
	f.Seen.API.Service = &facts.APIService{Slices: map[string][]string{facts.OwnSlice: addresses[:1]}}
	if len(addresses) > 1 {
		f.Seen.API.Service.Slices[facts.APIServiceName] = addresses[1:]
	}
}

// TestPodsAreNotExpectedAtAPIServers: where pods use the endpoint, the list of API servers is left over from another time.
func TestPodsAreNotExpectedAtAPIServers(t *testing.T) {
	f := whole()
	servedTo(f, "10.0.0.100:6443")
	f.Seen.API.APIServers = new(int)
	if got := Evaluate(f.Spec, f.Seen).UnmetInAPI(); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

// TestHostsAreClearedCompletely: a host that keeps a trace of its cluster cannot be used for another one, and a command that
// forgets one leads into a dead end.
func TestHostsAreClearedCompletely(t *testing.T) {
	fixes := map[string]string{}
	for _, c := range findingCases {
		f := whole()
		c.change(f)
		for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
			fixes[x.Rule+": "+x.Fix] = x.Fix
		}
	}
	f := whole()
	f.Spec.Spec.Hosts = append(f.Spec.Spec.Hosts, spec.Host{Name: "cp-d", Address: "10.0.0.31", Roles: []string{spec.RoleControlPlane}})
	f.Seen.Hosts["cp-d"] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true}}}
	_, old := Evaluate(f.Spec, f.Seen).Allow(Change{Verb: Add, Part: ControlPlane, Subject: "cp-d"})
	if old == nil || old.Rule != RuleOldData {
		t.Fatalf("%v", old)
	}
	fixes[old.Rule] = old.Fix
	clears := 0
	for what, fix := range fixes {
		switch {
		case strings.Contains(fix, facts.HowToClear()), strings.Contains(fix, "`quorate reset"):
			clears++
		case strings.Contains(fix, "clear") || strings.Contains(fix, "kubeadm reset") && !strings.Contains(fix, "kubectl delete node"):
			t.Errorf("%s", what)
		}
	}
	if clears < 5 {
		t.Errorf("only %d fixes clear a host", clears)
	}
}

// A host that is removed by hand takes its etcd member with it: otherwise one more voter is missing than anybody knows.
func TestAStrangersMemberIsRemovedWithIt(t *testing.T) {
	f := whole()
	f.Seen.API.Nodes = append(f.Seen.API.Nodes, facts.Node{Name: "cp-d", Ready: true}, facts.Node{Name: "w-c", Ready: true})
	f.Seen.Etcd = append(f.Seen.Etcd, facts.EtcdMember{Name: "cp-d", ID: "4d", Started: true, Problem: "connection refused"})
	removes := map[string]bool{"cp-d": true, "w-c": false}
	for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
		if x.Rule == RuleStranger && strings.Contains(x.Fix, "member remove 4d") != removes[x.Subjects[0]] {
			t.Errorf("%s: %s", x.Summary, x.Fix)
		}
		if x.Rule == RuleStranger {
			delete(removes, x.Subjects[0])
		}
	}
	if len(removes) > 0 {
		t.Errorf("not reported: %v", removes)
	}
}

// What could not be queried is unknown: neither down, nor absent, nor lost.
func TestUnknownIsNeverDown(t *testing.T) {
	f := whole()
	f.AllUnknown()
	s := Evaluate(f.Spec, f.Seen)
	if s.Stage() != Unresponsive {
		t.Errorf("stage %s", s.Stage())
	}
	for _, x := range s.Findings() {
		for _, claim := range []string{"lost", "is down", "does not answer", "does not work", "not healthy", "no API server", "works:", "never"} {
			if strings.Contains(x.Summary, claim) {
				t.Errorf("%q claims that something is %q", x.Summary, claim)
			}
		}
	}
	for _, p := range s.Placements() {
		for _, part := range quorum.Parts {
			if *part(&p) == quorum.Down {
				t.Errorf("%s counts as down: %+v", p.Host, p)
			}
		}
	}
}

// One answer that is unknown, of any program, is never reported as a failure of it.
func TestOneUnknownAnswerIsNoFailure(t *testing.T) {
	const why = "the stream was cut"
	unknowns := map[string]func(fixture){
		"API server":    func(f fixture) { f.Change("cp-a", func(h *facts.Host) { h.APIServer = new(unknown(why)) }) },
		"load balancer": func(f fixture) { f.Change("lb-b", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, why }) },
		"etcd": func(f fixture) {
			f.Seen.Etcd[0] = facts.EtcdMember{Name: "cp-a", Started: true, Unknown: why}
		},
		"endpoint": func(f fixture) { f.AnswerEndpoint(unknown(why)) },
	}
	for host, seen := range whole().Seen.Hosts {
		for name := range seen.Components {
			if slices.Contains(balancerPrograms, name) {
				continue // the load balancer itself and systemd say how they are
			}
			unknowns[name+" on "+host] = func(f fixture) { f.Component(host, name, unknown(why)) }
		}
	}
	for what, change := range unknowns {
		f := whole()
		change(f)
		found := Evaluate(f.Spec, f.Seen).Findings()
		reported := false
		for _, x := range found {
			reported = reported || strings.Contains(x.Summary, why) && (strings.Contains(x.Summary, "could not be queried") || strings.Contains(x.Summary, "unknown"))
			if strings.Contains(x.Summary, "does not") && !strings.Contains(x.Summary, "known to") {
				t.Errorf("%s: %q", what, x.Summary)
			}
		}
		if !reported {
			t.Errorf("%s: not reported in %+v", what, found)
		}
	}
}

// TestAddressesOfBothFamilies: a node is where the spec says only if both of its addresses are, and a removed host is back in the spec by either.
func TestAddressesOfBothFamilies(t *testing.T) {
	dual := func() fixture {
		f := whole()
		for i := range f.Spec.Spec.Hosts {
			f.Spec.Spec.Hosts[i].SecondaryAddress = fmt.Sprintf("fd00::%x", i+1)
		}
		for i := range f.Seen.API.Nodes {
			h, _ := f.Spec.Host(f.Seen.API.Nodes[i].Name)
			f.Seen.API.Nodes[i].SecondaryAddress = h.SecondaryAddress
		}
		return f
	}
	about := func(f fixture) (out []string) {
		for _, d := range Evaluate(f.Spec, f.Seen).Differences() {
			if strings.Contains(d.What, "w-a") {
				out = append(out, d.What)
			}
		}
		return out
	}
	for address, want := range map[string][]string{
		"fd00::4":  nil,
		"fd00::44": {"the node w-a has the secondary address fd00::44, but in the spec the secondary address fd00::4"},
		"":         {"the node w-a has only one address, but in the spec the secondary address fd00::4"},
	} {
		f := dual()
		f.Seen.API.Nodes[3].SecondaryAddress = address
		if got := about(f); !slices.Equal(got, want) {
			t.Errorf("%q: %q", address, got)
		}
	}
	f := whole()
	f.Seen.API.Nodes[3].SecondaryAddress = "fd00::44" // the cluster does not use it
	if got := about(f); got != nil {
		t.Errorf("a second address in a cluster with one family: %q", got)
	}

	for address, again := range map[string]bool{"fd00::4": true, "fd00::44": false} {
		f := dual()
		text, err := spec.MarshalHosts([]spec.Host{{Name: "w-z", Address: "10.0.0.99", SecondaryAddress: address, Roles: []string{spec.RoleWorker}}})
		if err != nil {
			t.Fatal(err)
		}
		f.Seen.API.Removed = text
		if removed := Evaluate(f.Spec, f.Seen).Removed(); (len(removed) == 0) != again {
			t.Errorf("%s: %+v", address, removed)
		}
	}
}

func TestUnmetLeavesOutWhatCannotBeReached(t *testing.T) {
	f := whole()
	f.Dies("cp-b", "w-b", "lb-b")
	if unmet := Evaluate(f.Spec, f.Seen).Unmet(); len(unmet) > 0 {
		t.Errorf("%+v", unmet)
	}
}

// The same spec and observation give the same findings, in the same order.
func TestFindingsAreStable(t *testing.T) {
	for _, c := range findingCases {
		var first string
		for range 5 {
			f := whole()
			c.change(f)
			again := jsonOf(Evaluate(f.Spec, f.Seen).Findings())
			if first == "" {
				first = again
			}
			if again != first {
				t.Fatalf("%s:\n%s\n%s", c.name, first, again)
			}
		}
	}
}

func TestSkews(t *testing.T) {
	clocks := []Clock{{"a", time.Hour, time.Second}, {"b", time.Hour + time.Minute, 2 * time.Second}, {"c", time.Hour + time.Second, time.Second}}
	skews, median := Skews(clocks)
	if median != time.Hour+time.Second || skews[0].Beyond(0) || !skews[1].Beyond(50*time.Second) || skews[1].Beyond(58*time.Second) {
		t.Errorf("%v, median %v", skews, median)
	}
	if skews[0].Direction() != "behind" || skews[1].Direction() != "ahead of" {
		t.Errorf("%v", skews)
	}
	if none, _ := Skews(nil); none != nil {
		t.Errorf("%v", none)
	}
}

// TestDocumentationHasTheRules keeps the table in the documentation equal to the code's. With UPDATE_DOCS it writes it.
func TestDocumentationHasTheRules(t *testing.T) {
	const file, begin, end = "../../docs/findings.md", "<!-- rules -->\n", "<!-- end of rules -->"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| rule | severity | what must hold |\n|---|---|---|\n")
	for _, r := range Rules {
		var severities []string
		for _, s := range r.Severities {
			severities = append(severities, string(s))
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", r.ID, strings.Join(severities, ", "), r.What)
	}
	before, rest, found := strings.Cut(string(data), begin)
	have, after, found2 := strings.Cut(rest, end)
	switch {
	case !found || !found2:
		t.Fatalf("%s has no marks around the table", file)
	case have == table.String():
	case os.Getenv("UPDATE_DOCS") == "":
		t.Errorf("the table in %s is not the code's; UPDATE_DOCS=1 go test ./internal/cluster writes it", file)
	default:
		if err := os.WriteFile(file, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEachReasonOfPrometheusHasItsFix: where the Secret is missing and a node is down, both have to come before everything runs.
func TestEachReasonOfPrometheusHasItsFix(t *testing.T) {
	for name, tc := range map[string]struct {
		secret, node, broken bool
		want                 []string
	}{
		"a Secret":             {secret: true, want: []string{"create secret generic receivers"}},
		"a node":               {node: true, want: []string{"bring back the nodes"}},
		"both":                 {secret: true, node: true, want: []string{"create secret generic receivers", "bring back the nodes"}},
		"and something broken": {secret: true, node: true, broken: true, want: []string{"describe pods", "create secret generic receivers", "bring back the nodes"}},
	} {
		f := whole()
		installed(f)
		f.Spec.Spec.Monitoring.Prometheus.AlertmanagerSecret = "receivers"
		w := f.Seen.API.Prometheus.Workloads
		if tc.secret {
			w[1].Ready, w[1].NotReady = 1, []facts.WaitingPod{{Node: "w-a", Why: `alertmanager on w-a: ContainerCreating: FailedMount: secret "receivers" not found`}}
		}
		if tc.node {
			w[0].Ready, w[0].NotReady = 1, []facts.WaitingPod{{Why: "prometheus: Unschedulable"}}
			f.Seen.API.Nodes[4].Ready = false
			f.Dies("w-b")
		}
		if tc.broken {
			w[2].Ready, w[2].NotReady = 1, []facts.WaitingPod{{Node: "w-a", Why: "kube-state-metrics on w-a: CrashLoopBackOff"}}
		}
		all := Evaluate(f.Spec, f.Seen).Findings()
		i := slices.IndexFunc(all, func(x Finding) bool { return x.Rule == RulePrometheus })
		if i < 0 {
			t.Errorf("%s: no finding", name)
			continue
		}
		for _, fix := range []string{"describe pods", "create secret generic receivers", "bring back the nodes"} {
			if strings.Contains(all[i].Fix, fix) != slices.Contains(tc.want, fix) {
				t.Errorf("%s: %q", name, all[i].Fix)
			}
		}
	}
}
