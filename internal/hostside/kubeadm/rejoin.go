package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

const etcdPod = "etcd"

// AsideRequest says whether etcd is stacked, and which member of a cluster that a recovery has replaced it is; empty if it is none. What such a
// member stored is nowhere else, so nothing removes its data.
type AsideRequest struct {
	Stacked   bool   `json:"stacked,omitempty"`
	Abandoned string `json:"abandoned,omitempty"`
}

// SetEtcdAside ends the etcd member on this host, which etcd does not have any more, and keeps its data aside. It returns where the
// data is; empty if there was none. If it is interrupted, it can be run again.
var SetEtcdAside = host.DefineChange("kubeadm.set-etcd-aside", func(ctx context.Context, in AsideRequest) (string, error) {
	if !in.Stacked {
		if err := system.Systemctl(ctx, "stop", hostconfig.EtcdUnit); err != nil {
			return "", err
		}
		return etcd.Local.SetAside(time.Now(), in.Abandoned)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("not within %s", stopPatience))
	defer cancel()
	if err := (withdrawal.Host{}).Withdraw(ctx, etcdPod, containerd.Held); err != nil {
		return "", err
	}
	return etcd.Local.SetAside(time.Now(), in.Abandoned)
})

// RejoinRequest is how a control plane that has no data of etcd any more gets a new member.
type RejoinRequest struct {
	Config string // kubeadm's
	// Members are those of etcd, each as name=peerURL. The new one was added to them before, as a learner.
	Members []string
}

// rejoinPatience is how long a kubelet may take to start the member.
const rejoinPatience = 2 * time.Minute

// RejoinEtcd starts a new member in the static pod of a control plane whose node is part of the cluster. It returns when the member
// has begun; the caller promotes it, and calls FinishRejoin. The manifest is the one that the host had, with the members of today.
// On a host that has data, only a manifest that was set aside returns: the data is that of an earlier call.
var RejoinEtcd = host.DefineChange("kubeadm.rejoin-etcd", func(ctx context.Context, in RejoinRequest) (struct{}, error) {
	has, err := etcd.Local.Data()
	if err != nil {
		return struct{}{}, err // the manifest that was set aside would start the former member, perhaps without data
	}
	if has {
		return struct{}{}, withdrawal.Host{}.Return(etcdPod)
	}
	// Until the manifest names the members of today, the member must not start.
	if err := etcd.Local.Arm(); err != nil {
		return struct{}{}, err
	}
	text, err := withdrawal.Host{}.Manifest(etcdPod)
	if errors.Is(err, fs.ErrNotExist) {
		if err := runKubeadm(ctx, in.Config, append([]string{"init", "phase"}, restorePhases[etcdPod]...)...); err != nil {
			return struct{}{}, err
		}
		text, err = withdrawal.Host{}.Manifest(etcdPod)
	}
	if err != nil {
		return struct{}{}, err
	}
	if text, err = joining(text, in.Members); err != nil {
		return struct{}{}, err
	}
	if err := durable.WriteFile(hostconfig.EtcdManifest, text, 0o600); err != nil {
		return struct{}{}, err
	}
	if err := (withdrawal.Host{}).Return(etcdPod); err != nil { // what was set aside is older
		return struct{}{}, err
	}
	if err := etcd.Local.Open(); err != nil {
		return struct{}{}, err
	}
	// While its guard led nowhere, the kubelet did not start with the host.
	if err := system.Systemctl(ctx, "start", kubeletUnit); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, within(ctx, rejoinPatience, "starting the new member of etcd", func(context.Context) error {
		has, err := etcd.Local.Data()
		if err == nil && !has {
			err = errors.New("it has not begun: see /var/log/pods/kube-system_etcd-*")
		}
		return err
	})
}, host.Secret)

var (
	initialCluster = regexp.MustCompile(`(?m)^(\s*- )--initial-cluster=\S*$`)
	initialState   = regexp.MustCompile(`(?m)^\s*- --initial-cluster-state=\S*\n`)
	initialToken   = regexp.MustCompile(`(?m)^\s*- --initial-cluster-token=\S*\n`)
)

// joining changes the manifest of a member so that it joins etcd with the members of today.
func joining(manifest []byte, members []string) ([]byte, error) {
	if len(members) == 0 || !initialCluster.Match(manifest) {
		return nil, fmt.Errorf("%s has no flag --initial-cluster", hostconfig.EtcdManifest)
	}
	out := initialToken.ReplaceAll(initialState.ReplaceAll(manifest, nil), nil)
	flags := "${1}--initial-cluster=" + strings.Join(members, ",") + "\n${1}--initial-cluster-state=existing"
	out = initialCluster.ReplaceAll(out, []byte(flags))
	_, err := staticpod.Parse(filepath.Base(hostconfig.EtcdManifest), out)
	return out, err
}

// FinishRejoin is called when the new member has its vote: from then on it does not start without its data. What waited for it starts.
var FinishRejoin = host.DefineChange("kubeadm.finish-rejoin", func(ctx context.Context, _ struct{}) (struct{}, error) {
	if err := awaitEtcd(ctx); err != nil {
		return struct{}{}, err
	}
	if err := etcd.Local.Arm(); err != nil {
		return struct{}{}, err
	}
	h := withdrawal.Host{}
	var errs []error
	for _, name := range h.Withdrawn() {
		errs = append(errs, h.Return(name))
	}
	return struct{}{}, errors.Join(append(errs, ForgetBackOff(ctx))...) // without their member, they ended again and again
})
