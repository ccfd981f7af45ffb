package limited

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	_ "quorate.dev/quorate/internal/hostside"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/hostside/machine"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// known are the operations that somebody looked at: with none of them can a caller have a host run a program of his own, or write contents
// of his own.
var known = []string{
	"backup.report", "components.read", "etcd.probe",
	"kubeadm.admin", "kubeadm.await-etcd", "kubeadm.etcd-client", "kubeadm.finish-rejoin", "kubeadm.install-certificate", "kubeadm.join-etcd", "kubeadm.rejoin-etcd",
	"kubeadm.request-certificate", "kubeadm.restart-kubelet", "kubeadm.restart-programs", "kubeadm.restore-control-plane", "kubeadm.set-etcd-aside", "kubeadm.set-node-labels", "kubeadm.sign-certificate", "kubeadm.use-local-api", "lostquorum.abandon",
	"node.balancer", "node.clock", "node.configure", "node.facts", "node.lead", "node.lease", "node.reconfigure", "node.set-pool", "node.start-programs", "node.stop-container", "node.stop-programs", "node.who-has",
	"programs.tidy", "repairs.begin", "repairs.end", "repairs.free-disk", "repairs.restart-unit",
}

func TestTheOperations(t *testing.T) {
	var all []string
	for _, op := range host.Operations() {
		all = append(all, op.Name)
	}
	have := slices.Sorted(maps.Keys(allowed(watch.Admission{})))
	if !slices.Equal(have, known) {
		t.Errorf("the limits allow\n%v\nand these were looked at:\n%v", have, known)
	}
	for _, name := range have {
		if !slices.Contains(all, name) {
			t.Errorf("there is no operation %s", name)
		}
	}
}

// TestWhoObservesChangesNothing: of the operations that a unit may make that repairs nothing, none takes a lease or changes anything.
func TestWhoObservesChangesNothing(t *testing.T) {
	want := []string{"backup.report", "components.read", "etcd.probe", "kubeadm.admin", "kubeadm.etcd-client", "node.balancer", "node.clock", "node.facts", "node.lead", "node.who-has"}
	only := watch.Admission{WatchAdmits: facts.WatchAdmits{ReadOnly: true}, Approved: watch.Approve(facts.Desired{Files: []facts.File{{Path: "/etc/x"}}}, "config")}
	if have := slices.Sorted(maps.Keys(allowed(only))); !slices.Equal(have, want) {
		t.Errorf("the limits allow\n%v\nand these were looked at:\n%v", have, want)
	}
	for _, op := range host.Operations() {
		if slices.Contains(want, op.Name) && !slices.Contains([]string{"node.lead", "node.who-has"}, op.Name) && op.Kind&host.Reads == 0 { // a lock, and a question to the network
			t.Errorf("%s is not defined as one that only reads", op.Name)
		}
	}
	if err := For(only).Allow(files.Configure.Name(), []byte("{}")); err == nil || !strings.Contains(err.Error(), "spec.repair.watch") {
		t.Errorf("%v", err)
	}
}

func TestRequests(t *testing.T) {
	file := facts.File{Path: "/etc/x", Content: "x"}
	l := For(watch.Admission{Approved: watch.Approve(facts.Desired{Files: []facts.File{file}}, "config"), Reach: []string{"10.0.0.11", "api.test"}})
	changed := file
	changed.Content = "y"
	for _, tc := range []struct {
		op   string
		in   any
		good bool
	}{
		{files.Configure.Name(), facts.Desired{Files: []facts.File{file}}, true},
		{files.Reconfigure.Name(), facts.Desired{Files: []facts.File{changed}}, false},
		{"node.reset", struct{}{}, false},
		{"programs.unpack", struct{}{}, false},
		{"kubeadm.make-pki", struct{}{}, false},
		{"no such", struct{}{}, false},
		{machine.Stop.Name(), machine.Programs{Pods: []string{"kube-apiserver"}}, true},
		{machine.Stop.Name(), machine.Programs{Pods: []string{"../../../etc/passwd"}}, false},
		{kubeadm.RestoreControlPlane.Name(), kubeadm.RestoreRequest{Config: "config"}, true},
		{kubeadm.RestoreControlPlane.Name(), kubeadm.RestoreRequest{Config: "config: other"}, false},
		{kubeadm.RejoinEtcd.Name(), kubeadm.RejoinRequest{Config: "config", Members: []string{"cp-a=https://10.0.0.11:2380", "cp-b=https://[fd00::1]:2380"}}, true},
		{kubeadm.RejoinEtcd.Name(), kubeadm.RejoinRequest{Config: "config", Members: []string{"cp-a=https://10.0.0.11:2380\n    - --x"}}, false},
		{kubeadm.JoinEtcd.Name(), kubeadm.EtcdStart{Config: "config", Etcd: hostconfig.EtcdCluster{Token: "a b"}}, false},
		{kubeadm.JoinEtcd.Name(), kubeadm.EtcdStart{Config: "config", Etcd: hostconfig.EtcdCluster{Token: "prod-1a2b", Members: []string{"a=https://10.0.0.11:2380"}}}, true},
		{etcd.Probe.Name(), etcd.ProbeRequest{Endpoints: []string{"https://10.0.0.11:2379"}}, true},
		{etcd.Probe.Name(), etcd.ProbeRequest{Endpoints: []string{"https://10.0.0.11:2379", "https://192.0.2.1:2379"}}, false},
		{machine.Stop.Name(), machine.Programs{Etcd: true}, false},
		{kubeadm.RestartPrograms.Name(), kubeadm.RestartRequest{Pods: []string{"etcd", "kube-apiserver"}, Await: true, Node: "cp-a"}, true},
		{kubeadm.RestartPrograms.Name(), kubeadm.RestartRequest{Pods: []string{"sshd"}}, false},
		{kubeadm.SetNodeLabels.Name(), map[string]string{"topology.kubernetes.io/zone": "a"}, true},
		{kubeadm.SetNodeLabels.Name(), map[string]string{"x": `a" --config=/tmp/x`}, false},
		{lostquorum.Abandon.Name(), []string{"8e9e05c52164694d"}, true},
		{lostquorum.Abandon.Name(), []string{"8e9e05c52164694d", "a\nb"}, false},
		{kubeadm.SetEtcdAside.Name(), kubeadm.AsideRequest{Stacked: true, Abandoned: "8e9e05c52164694d"}, true},
		{kubeadm.SetEtcdAside.Name(), kubeadm.AsideRequest{Abandoned: "../x"}, false},
	} {
		raw, err := json.Marshal(tc.in)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Allow(tc.op, raw); (err == nil) != tc.good {
			t.Errorf("%s of %s: %v", tc.op, raw, err)
		}
	}
	for address, good := range map[string]bool{"10.0.0.11:6443": true, "api.test:6443": true, "10.0.0.99:22": false, "127.0.0.1:10250": false, "": false} {
		if err := l.Dial("tcp", address); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
	if l.Dial("unix", "10.0.0.11:1") == nil {
		t.Error("a socket of another kind")
	}
}
