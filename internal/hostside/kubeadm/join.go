package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// JoinRequest is how a host joins an existing cluster.
type JoinRequest struct {
	Config       string
	Discovery    string
	ControlPlane bool
	// Stacked says that the host gets an etcd member.
	Stacked bool
}

// DiscoveryFile is where kubeadm finds the request's discovery kubeconfig.
var DiscoveryFile = system.Input(1)

// Join runs kubeadm join. It first removes the files of an earlier join that was interrupted. It does not remove etcd's data:
// AbandonJoin does, after the member was removed.
var Join = host.DefineChange("kubeadm.join", func(ctx context.Context, in JoinRequest) (struct{}, error) {
	l := local(in.ControlPlane, in.Stacked)
	if err := l.notJoined(); err != nil {
		return struct{}{}, err
	}
	if in.Stacked {
		if etcd.Local.HasData() {
			return struct{}{}, fmt.Errorf("%s contains the data of an earlier member, and a new member cannot join with it", etcd.Local.DataDir())
		}
		// If the host was part of a complete cluster and was cleared, it no longer is.
		if err := durable.Remove(facts.EstablishedFile); err != nil {
			return struct{}{}, err
		}
		if err := etcd.Local.Open(); err != nil {
			return struct{}{}, err
		}
	}
	if err := l.clear(ctx); err != nil {
		return struct{}{}, err
	}
	if in.Stacked {
		if err := durable.Remove(hostconfig.EtcdManifest); err != nil {
			return struct{}{}, err
		}
	}
	if in.ControlPlane {
		if err := prepareAuditLog(); err != nil {
			return struct{}{}, err
		}
	}
	if err := (kubeadmCommand{args: []string{"join", "--skip-phases=preflight"}, inputs: []string{in.Config, in.Discovery}}).run(ctx); err != nil {
		return struct{}{}, err
	}
	if in.Stacked {
		if err := etcd.Local.Arm(); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, errors.Join(tighten(), useAdmin())
}, host.Secret, host.Secret)

// AbandonRequest says what an interrupted join of a control plane may have started.
type AbandonRequest struct {
	// Stacked says that the host was to get an etcd member, whose data is then removed.
	Stacked bool
}

// AbandonJoin undoes a join of a control plane that did not finish: it stops the pods that the join started, and removes
// etcd's data and what kubeadm wrote. The shared keys and Quorate's marks stay. It refuses on a host that has joined, that
// was part of a complete cluster, or that Quorate did not begin to set up. If it is interrupted, it can be run again.
//
// The caller removes the host's member from etcd first: see etcd.RemoveMember.
var AbandonJoin = host.DefineChange("kubeadm.abandon-join", func(ctx context.Context, in AbandonRequest) (struct{}, error) {
	return struct{}{}, local(true, in.Stacked).abandon(ctx)
})

// leftovers are what an interrupted join leaves on a host.
type leftovers struct {
	root         string // empty for the host itself, a directory in tests
	controlPlane bool
	stacked      bool
	// What is done to the host apart from its files.
	kubelet  func(ctx context.Context, verb string) error
	stopPods func(context.Context) error
	remove   func(path string) error
}

func local(controlPlane, stacked bool) leftovers {
	return leftovers{controlPlane: controlPlane, stacked: stacked,
		kubelet:  func(ctx context.Context, verb string) error { return system.Run(ctx, "systemctl", verb, kubeletUnit) },
		stopPods: containerd.StopPods, remove: os.RemoveAll}
}

func (l leftovers) at(path string) string { return filepath.Join(l.root, path) }

// joined says that the kubelet of the host has its configuration and its identity.
func joined(root string) bool {
	return pkifile.Identity(root) == nil && system.Filled(filepath.Join(root, kubeletConfig))
}

func (l leftovers) notJoined() error {
	if joined(l.root) {
		return errors.New("this host has joined a cluster in the meantime: its kubelet has a client certificate; run `quorate apply` again")
	}
	return nil
}

func (l leftovers) mayAbandon() error {
	if err := l.notJoined(); err != nil {
		return fmt.Errorf("undoing a join: %w", err)
	}
	switch {
	case system.Exists(l.at(facts.EstablishedFile)):
		return fmt.Errorf("undoing a join: %s says that this host was part of a complete cluster: its etcd data may be needed", facts.EstablishedFile)
	case !system.Exists(l.at(facts.BegunFile)):
		return errors.New("undoing a join: Quorate did not start to set up this host")
	case l.stacked && system.Exists(l.at(hostconfig.EtcdMembersFile)):
		return errors.New("undoing a join: this host has a member of an external etcd")
	}
	return nil
}

func (l leftovers) abandon(ctx context.Context) error {
	if err := l.mayAbandon(); err != nil {
		return err
	}
	m := etcd.Member{Root: l.root}
	dataDir := m.DataDir()
	if err := l.clear(ctx); err != nil {
		return err
	}
	if !l.stacked {
		return nil
	}
	// The data goes last, but for the manifest that says where it is: as long as it exists, it shows that an interrupted join
	// has to be undone.
	if err := l.remove(filepath.Join(dataDir, "member")); err != nil {
		return err
	}
	if err := durable.SyncDir(dataDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := l.remove(l.at(hostconfig.EtcdManifest)); err != nil {
		return err
	}
	return m.Open()
}

// clear stops what an interrupted join left running, and removes its files, except for etcd's data and manifest.
func (l leftovers) clear(ctx context.Context) error {
	started := []string{kubeletConfig, hostconfig.EtcdManifest, staticpod.Dir + "/kube-apiserver.yaml"}
	if !slices.ContainsFunc(started, func(path string) bool { return system.Exists(l.at(path)) }) {
		return l.removeFiles()
	}
	if err := l.kubelet(ctx, "stop"); err != nil {
		return err
	}
	// The kubelet continues to join after kubeadm was killed. It may have finished before it was stopped.
	if err := l.notJoined(); err != nil {
		return errors.Join(err, l.kubelet(context.WithoutCancel(ctx), "start"))
	}
	if l.controlPlane {
		if err := l.stopPods(ctx); err != nil {
			return err
		}
	}
	return l.removeFiles()
}

// removeFiles removes what kubeadm writes for this host only. The kubelet's configuration goes last: as long as it exists, the
// kubelet starts when the host does, and the pods have to be stopped again.
func (l leftovers) removeFiles() error {
	var paths []string
	if l.controlPlane {
		for _, pod := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			paths = append(paths, filepath.Join(staticpod.Dir, pod+".yaml"))
		}
	}
	for _, name := range facts.Kubeconfigs {
		paths = append(paths, filepath.Join(kubernetesDir, name))
	}
	pki := []string{"apiserver", "apiserver-kubelet-client", "front-proxy-client"}
	if l.stacked {
		pki = append(pki, "apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client")
	}
	for _, stem := range pki {
		paths = append(paths, filepath.Join(pkiDir, stem+".crt"), filepath.Join(pkiDir, stem+".key"))
	}
	if !l.controlPlane {
		paths = append(paths, filepath.Join(pkiDir, "ca.crt"))
	}
	client, err := filepath.Glob(l.at("/var/lib/kubelet/pki/kubelet-client*"))
	if err != nil {
		return err
	}
	for i := range paths {
		paths[i] = l.at(paths[i])
	}
	paths = append(paths, client...)
	for _, name := range []string{"instance-config.yaml", "kubeadm-flags.env", "config.yaml"} {
		paths = append(paths, l.at(filepath.Join("/var/lib/kubelet", name)))
	}
	for _, path := range slices.Compact(paths) {
		if err := l.remove(path); err != nil {
			return err
		}
	}
	return nil
}
