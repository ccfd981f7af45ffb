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
	"quorate.dev/quorate/internal/hostside/staticpod"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
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

// Join runs kubeadm join. Files of an earlier join that was interrupted are removed first. etcd data is not: AbandonJoin
// removes it, after its member.
var Join = host.DefineChange("kubeadm.join", func(ctx context.Context, in JoinRequest) (struct{}, error) {
	l := local(in.ControlPlane, in.Stacked)
	if err := l.notJoined(); err != nil {
		return struct{}{}, err
	}
	if in.Stacked {
		if etcd.Local.HasData() {
			return struct{}{}, fmt.Errorf("%s holds the data of an earlier member, with which a new one cannot join", hostconfig.EtcdDataDir)
		}
		// A host that was part of a complete cluster, and was cleared, begins again.
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

// AbandonRequest says what of an interrupted join of a control plane is undone.
type AbandonRequest struct {
	// Stacked says that the host was to get an etcd member, whose data is then removed.
	Stacked bool
}

// AbandonJoin undoes a join of a control plane that did not finish: it stops the pods that the join left, and removes the
// etcd data and what kubeadm wrote. The shared keys and Quorate's marks stay. It refuses on a host that has joined, that
// was part of a complete cluster, or that Quorate did not begin to set up. Interrupted itself, it can be run again.
//
// etcd's member of the host is the caller's to remove (see package etcd): until then the others wait for it.
var AbandonJoin = host.DefineChange("kubeadm.abandon-join", func(ctx context.Context, in AbandonRequest) (struct{}, error) {
	return struct{}{}, local(true, in.Stacked).abandon(ctx)
})

// leftovers are what an interrupted join leaves on a host.
type leftovers struct {
	root         string // empty for the host itself, a directory in tests
	controlPlane bool
	stacked      bool
	// What is done to the host besides its files.
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
		return errors.New("this host has joined a cluster: its kubelet has a client certificate")
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
		return errors.New("undoing a join: Quorate did not begin to set up this host")
	case l.stacked && system.Exists(l.at(hostconfig.EtcdMembersFile)):
		return errors.New("undoing a join: this host has a member of an external etcd")
	}
	return nil
}

func (l leftovers) abandon(ctx context.Context) error {
	if err := l.mayAbandon(); err != nil {
		return err
	}
	if err := l.clear(ctx); err != nil {
		return err
	}
	if !l.stacked {
		return nil
	}
	// The data goes last: as long as it exists, the host shows that an interrupted join is to be undone.
	if err := l.remove(l.at(hostconfig.EtcdDataDir + "/member")); err != nil {
		return err
	}
	if err := durable.SyncDir(l.at(hostconfig.EtcdDataDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return etcd.Member{Root: l.root}.Open()
}

// clear stops what an interrupted join left running, and removes its files but for etcd's data.
func (l leftovers) clear(ctx context.Context) error {
	if !system.Exists(l.at(kubeletConfig)) && !system.Exists(l.at(staticpod.Dir+"/kube-apiserver.yaml")) && !system.Exists(l.at(hostconfig.EtcdManifest)) {
		// Nothing of it was ever started. kubeadm creates its manifests before the kubelet's configuration.
		return l.removeFiles()
	}
	if err := l.kubelet(ctx, "stop"); err != nil {
		return err
	}
	// A kubelet goes on joining when kubeadm was killed. It may have finished until it was stopped.
	if err := l.notJoined(); err != nil {
		return errors.Join(err, l.kubelet(context.WithoutCancel(ctx), "start"))
	}
	if l.controlPlane {
		for _, pod := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			if err := l.remove(l.at(filepath.Join(staticpod.Dir, pod+".yaml"))); err != nil {
				return err
			}
		}
		if err := l.stopPods(ctx); err != nil {
			return err
		}
	}
	return l.removeFiles()
}

// removeFiles removes what kubeadm makes for this host alone. The kubelet's configuration goes last: with it, the kubelet of
// an unfinished join would start at the next boot.
func (l leftovers) removeFiles() error {
	var paths []string
	for _, name := range kubeconfigs {
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
