package preflight

import (
	"net/netip"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// carried are healthy hosts with a cluster on them: its programs listen, and its files are everywhere.
func carried(c *spec.Cluster) world {
	obs, seen := healthy(c)
	w := world{c, obs, seen}
	for _, h := range c.Spec.Hosts {
		k := &w.facts(h.Name).Kubernetes
		k.CA, k.Established = "CA", h.Has(spec.RoleControlPlane)
		if k.KubeletConfig = h.IsNode(); k.Established {
			k.EtcdData, k.Manifests = true, []string{"etcd", "kube-apiserver"}
		}
		w.in(h.Name, func(in *facts.Inspection) {
			for _, l := range []facts.Listener{{Port: 6443, Program: "kube-apiserver"}, {Port: 10257, Program: "kube-controller"}, {Port: 2379, Program: "etcd"}, {Port: 10250, Program: "kubelet"}, {Port: 8404, Program: "haproxy", Own: true}} {
				l.Addresses = []netip.Addr{netip.IPv4Unspecified()}
				in.Listeners = append(in.Listeners, l)
			}
			in.Leftovers = facts.Leftovers{Files: []string{"/etc/kubernetes", "/var/lib/etcd"}, Interfaces: []string{"cni0"}}
		})
	}
	return w
}

// TestReplacement: what a reset ends is no reason to keep a cluster, and what would refuse the next one is.
func TestReplacement(t *testing.T) {
	const snapshot = 2 * gib
	for name, tc := range map[string]struct {
		change func(world)
		check  string // empty for no finding
		says   string
	}{
		"nothing":                  {func(world) {}, "", ""},
		"an unfinished reset":      {func(w world) { w.facts("worker-a").Kubernetes = facts.Kubernetes{Resetting: true} }, "", ""},
		"another role than before": {func(w world) { w.in("lb-a", func(in *facts.Inspection) { in.Listeners[0].Port = 8404 }) }, "", ""},
		"swap":                     {func(w world) { w.facts("cp-b").SwapBytes = gib }, "swap", "cp-b"},
		"another distribution": {func(w world) {
			w.in("cp-b", func(in *facts.Inspection) { in.Leftovers.Files = append(in.Leftovers.Files, "/etc/rancher/k3s") })
		}, "leftovers", "/etc/rancher/k3s"},
		"a port that others have": {func(w world) {
			w.in("cp-b", func(in *facts.Inspection) { in.Listeners[0].Program = "nginx" })
		}, "ports", "nginx"},
		"a new host with an old cluster": {func(w world) {
			w.facts("worker-a").Kubernetes = facts.Kubernetes{}
			w.in("worker-a", func(in *facts.Inspection) { in.Listeners, in.Leftovers.Interfaces = nil, nil })
		}, "leftovers", "/etc/kubernetes"},
		"no room for the snapshot": {func(w world) {
			w.facts("cp-b").DiskFreeBytes, w.facts("cp-b").Images = 4*gib, "sha256:x"
			w.in("cp-b", func(in *facts.Inspection) { in.DiskBytes = 8 * gib })
		}, "disk", "the snapshot in the backup"},
		"room on a disk of its own": {func(w world) {
			w.facts("cp-b").Disks = map[string]facts.Disk{"/var/lib/etcd": {SizeBytes: 8 * gib, FreeBytes: gib, InodesFree: 1}}
		}, "", ""},
		"too small a disk": {func(w world) {
			w.facts("cp-b").Disks = map[string]facts.Disk{"/var/lib/etcd": {SizeBytes: 4 * gib, FreeBytes: 3 * gib, InodesFree: 1}}
		}, "disk", "too small"},
		"no room for what is kept": {func(w world) {
			w.facts("cp-b").Disks = map[string]facts.Disk{"/var/lib/etcd": {SizeBytes: 50 * gib, FreeBytes: 10 * gib, InodesFree: 1}}
		}, "disk", "is kept there"},
	} {
		t.Run(name, func(t *testing.T) {
			w := carried(labSpec())
			tc.change(w)
			found := JudgeReplacement(cluster.Evaluate(w.c, w.obs), w.seen, snapshot)
			switch {
			case tc.check == "" && len(found) > 0:
				t.Errorf("%+v", found)
			case tc.check != "" && (len(found) != 1 || found[0].Rule != tc.check || found[0].Severity != failure || !strings.Contains(found[0].Summary, tc.says)):
				t.Errorf("%+v, want %s: %s", found, tc.check, tc.says)
			}
		})
	}
}
