package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/staticpod"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const etcdPod = "etcd"

// SetEtcdAside ends the etcd member on this host, which etcd does not have any more, and keeps its data aside. It returns where the
// data is; empty if there was none. The request says whether etcd is stacked. If it is interrupted, it can be run again.
var SetEtcdAside = host.DefineChange("kubeadm.set-etcd-aside", func(ctx context.Context, stacked bool) (string, error) {
	if !stacked {
		if err := system.Systemctl(ctx, "stop", hostconfig.EtcdUnit); err != nil {
			return "", err
		}
		return etcd.Local.SetAside(time.Now())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("not within %s", stopPatience))
	defer cancel()
	if err := (staticpod.Host{}).Withdraw(ctx, etcdPod, containerd.Running); err != nil {
		return "", err
	}
	return etcd.Local.SetAside(time.Now())
})

// RejoinEtcd starts a stacked member that was added to etcd as a learner, on a control plane that had one before. It returns when its
// manifest is in place; the caller promotes it. With data that the member has already, it only makes sure of that.
var RejoinEtcd = host.DefineChange("kubeadm.rejoin-etcd", func(ctx context.Context, in EtcdStart) (struct{}, error) {
	if err := etcdManifest(ctx, in.Config); err != nil {
		return struct{}{}, err
	}
	if etcd.Local.HasData() {
		return struct{}{}, staticpod.Host{}.Return(etcdPod)
	}
	if err := etcd.Local.Open(); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, rejoining("", in.Etcd)
}, host.Secret)

// etcdManifest has kubeadm write the manifest of etcd if the host has none, not even one that was set aside. It is set aside at
// once: as kubeadm writes it, it would start a new cluster. The guard keeps it from that, too.
func etcdManifest(ctx context.Context, config string) error {
	aside := filepath.Join(facts.WithdrawnDir, etcdPod+".yaml")
	if system.Exists(hostconfig.EtcdManifest) || system.Exists(aside) {
		return nil
	}
	if err := etcd.Local.Arm(); err != nil {
		return err
	}
	if err := runKubeadm(ctx, config, append([]string{"init", "phase"}, restorePhases[etcdPod]...)...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("not within %s", stopPatience))
	defer cancel()
	return staticpod.Host{}.Withdraw(ctx, etcdPod, containerd.Running)
}

// What a member that joins is started with, in its manifest. A token belongs to the start of a new cluster.
var (
	initialCluster = regexp.MustCompile(`(?m)^(\s*- )--initial-cluster=\S+$`)
	initialState   = regexp.MustCompile(`(?m)^\s*- --initial-cluster-(?:state|token)=\S+\n`)
)

// rejoining puts the manifest in its place with which the member joins these others.
func rejoining(root string, as hostconfig.EtcdCluster) error {
	place, aside := filepath.Join(root, hostconfig.EtcdManifest), filepath.Join(root, facts.WithdrawnDir, etcdPod+".yaml")
	text, err := os.ReadFile(place)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(aside)
	}
	if err != nil {
		return err
	}
	text = initialState.ReplaceAll(text, nil)
	changed := initialCluster.ReplaceAll(text, []byte("${1}--initial-cluster="+strings.Join(as.Members, ",")+"\n${1}--initial-cluster-state=existing"))
	if len(as.Members) == 0 || !initialCluster.Match(text) {
		return fmt.Errorf("%s does not say with which members etcd starts", hostconfig.EtcdManifest)
	}
	if _, err := staticpod.Parse(place, changed); err != nil {
		return err
	}
	if err := durable.WriteFile(place, changed, 0o600); err != nil {
		return err
	}
	return durable.Remove(aside)
}
