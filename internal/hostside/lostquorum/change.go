package lostquorum

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/etcddata"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	etcdPod = "etcd"

	// endGrace is how long a program has to end. Without a quorum there is nothing that it could finish.
	endGrace   = 2 * time.Second
	endTimeout = time.Minute
	// workPrefix begins the names of directories in which data are rebuilt.
	workPrefix = "work-"
)

// StopRequest says what ends on a host.
type StopRequest struct {
	// Etcd is the member, and API is the API server with the controller manager and the scheduler.
	Etcd bool `json:"etcd,omitempty"`
	API  bool `json:"api,omitempty"`
}

// controllers are stopped with the API server. Without it they only crash, and the kubelet lets them wait longer each time.
var controllers = []string{facts.ControllerManager, facts.Scheduler}

// Stop ends the member and the API programs of this host, and keeps them from being started again, also when the host boots, until
// Start, StartAPI and StartControllers, or a new join. The manifests of static pods are set aside.
var Stop = host.DefineChange("lostquorum.stop", func(ctx context.Context, in StopRequest) (struct{}, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("not within %s", endTimeout))
	defer cancel()
	if in.API {
		for _, pod := range append([]string{facts.APIServer}, controllers...) {
			if err := local.stop(ctx, pod, end); err != nil {
				return struct{}{}, err
			}
		}
	}
	if !in.Etcd {
		return struct{}{}, nil
	}
	if system.Exists(hostconfig.EtcdEnvFile) {
		if err := system.Run(ctx, "systemctl", "disable", "--now", hostconfig.EtcdUnit); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, local.stop(ctx, etcdPod, end)
})

// stop sets the manifest of a static pod aside and ends its containers. They are also ended if the manifest is missing: a kubelet that does not run
// has left them running.
func (p place) stop(ctx context.Context, pod string, end func(context.Context, string) (int, error)) error {
	h := withdrawal.Host{Root: p.root}
	if err := h.Clear(pod, complete(pod)); err != nil {
		return err
	}
	if slices.Contains(p.manifests(), pod) {
		return h.Withdraw(ctx, pod, end)
	}
	for {
		n, err := end(ctx, pod)
		if err == nil && n == 0 {
			return nil
		}
		if err == nil {
			err = errors.New("it still runs")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ending %s, which has no manifest any more: %w (%w)", pod, err, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// end ends the containers of a static pod whose manifest was set aside, and counts those that run. It does not wait for the kubelet,
// which may not run.
func end(ctx context.Context, name string) (int, error) {
	ids, err := containerd.IDs(ctx, name)
	if err != nil {
		return 0, local.unasked(name, err)
	}
	if err := containerd.Stop(ctx, ids, endGrace); err != nil {
		return 0, err
	}
	return containerd.Running(ctx, name)
}

// unasked returns nil if the containers of a program could not be asked for because nothing on this host runs any, and the program has no
// process. A containerd that does not answer may run it, or may be starting it; only one that has no part for Kubernetes does not. Nobody can end what a
// containerd has left that ended itself.
func (p place) unasked(program string, why error) error {
	if status.Code(why) != codes.Unimplemented {
		pids, err := p.processes("containerd")
		if err != nil {
			return errors.Join(why, err)
		}
		if len(pids) > 0 {
			return fmt.Errorf("containerd (process %d) does not say whether it runs %s: restart it, or stop it (`systemctl stop containerd`). %w", pids[0], program, why)
		}
	}
	left, err := p.processes(program)
	if err != nil {
		return errors.Join(why, err)
	}
	if program == etcdPod && len(left) > 0 { // another etcd is none of this cluster's
		pid, err := p.running(p.member().dataDir)
		if err != nil {
			return errors.Join(why, err)
		}
		left = []int{pid}
	}
	if len(left) > 0 && left[0] != 0 {
		return fmt.Errorf("%s runs (process %d), and containerd cannot end it: start containerd (`systemctl start containerd`), or end the process. %w", program, left[0], why)
	}
	return nil
}

// AsideRequest says which data are set aside.
type AsideRequest struct {
	Stamp string `json:"stamp"`
	// ClusterID and MemberID are those that were read in the data. Other data are not touched.
	ClusterID string `json:"clusterID"`
	MemberID  string `json:"memberID"`
}

// SetAside renames the data of the member on this host, and returns where they are. Nothing is done if they are not in place any more.
// It refuses while an etcd runs on them.
var SetAside = host.DefineChange("lostquorum.set-aside", func(ctx context.Context, in AsideRequest) (string, error) {
	return local.setAside(ctx, in, readApart)
})

func (p place) setAside(ctx context.Context, in AsideRequest, read read) (string, error) {
	m := p.member()
	from := filepath.Join(p.at(m.dataDir), "member")
	if missing, err := system.Missing(from); err != nil || missing {
		return "", err
	}
	if pid, err := p.running(m.dataDir); err != nil || pid != 0 {
		return "", errors.Join(err, fmt.Errorf("an etcd runs on %s (process %d)", m.dataDir, pid))
	}
	if have := read(ctx, p.at(m.dataDir), p.at(scratch)); have.ClusterID != in.ClusterID || have.MemberID != in.MemberID {
		return "", fmt.Errorf("%s has the data of the member %s of the cluster %s, and when it was examined they were of %s of %s: run it again", m.dataDir, have.MemberID, have.ClusterID, in.MemberID, in.ClusterID)
	}
	root, err := etcd.KeptDir(p.root, m.dataDir)
	if err != nil {
		return "", err
	}
	to := filepath.Join(root, in.Stamp+"-"+cmp.Or(in.MemberID, "unknown"))
	if err := durable.MkdirAll(p.at(to), 0o700); err != nil {
		return "", err
	}
	return to, durable.Move(from, filepath.Join(p.at(to), "member"))
}

// BuildRequest says which copy becomes the cluster.
type BuildRequest struct {
	// Source is a data directory on this host.
	Source string `json:"source"`
	Stamp  string `json:"stamp"`
	// Token tells the new cluster from every other one.
	Token string `json:"token"`
	// Name and PeerURL are those of the member if no manifest names them any more: it is written again before the member starts.
	Name    string `json:"name,omitempty"`
	PeerURL string `json:"peerURL,omitempty"`
	// Now is the time by the caller's clock (see etcddata.RebuildRequest).
	Now time.Time `json:"now"`
}

// Build makes the data of a cluster of one from a copy, beside the data in place. It refuses while an etcd runs on the copy.
var Build = host.DefineChange("lostquorum.build", func(ctx context.Context, in BuildRequest) (etcddata.Rebuilt, error) {
	return local.build(ctx, in, func(ctx context.Context, r etcddata.RebuildRequest) (out etcddata.Rebuilt, err error) {
		err = apart(ctx, rebuildCommand, r, &out)
		return out, err
	})
})

func (p place) build(ctx context.Context, in BuildRequest, rebuild func(context.Context, etcddata.RebuildRequest) (etcddata.Rebuilt, error)) (out etcddata.Rebuilt, err error) {
	m := p.member()
	if m.name == "" {
		m.name, m.peerURL = in.Name, in.PeerURL
	}
	switch {
	case m.name == "" || m.peerURL == "":
		return out, errors.New("no member of etcd is configured on this host")
	case m.walDir != "":
		return out, fmt.Errorf("the member on this host has its write-ahead log in %s: only members that have it in their data directory can be recovered", m.walDir)
	}
	for _, dir := range []string{m.dataDir, in.Source} {
		if pid, err := p.running(dir); err != nil || pid != 0 {
			return out, errors.Join(err, fmt.Errorf("an etcd runs on %s (process %d)", dir, pid))
		}
	}
	if err := durable.MkdirAll(p.at(m.dataDir), 0o700); err != nil {
		return out, err
	}
	root, err := etcd.KeptDir(p.root, m.dataDir)
	if err != nil {
		return out, err
	}
	return rebuild(ctx, etcddata.RebuildRequest{Source: p.at(in.Source), Work: filepath.Join(p.at(root), workPrefix+in.Stamp), Name: m.name, PeerURL: m.peerURL, Token: in.Token, Now: in.Now})
}

// Put puts rebuilt data in the place of the data that were set aside. The argument is what Build returned.
var Put = host.DefineChange("lostquorum.put", func(_ context.Context, in etcddata.Rebuilt) (struct{}, error) {
	return struct{}{}, local.put(in)
})

func (p place) put(in etcddata.Rebuilt) error {
	to := filepath.Join(p.at(p.member().dataDir), "member")
	switch missing, err := system.Missing(to); {
	case err != nil:
		return err
	case !missing:
		return fmt.Errorf("%s exists: data are never overwritten", to)
	}
	return durable.Move(in.Member, to)
}

// Start starts the member on this host again. It does not wait until it answers: see kubeadm.AwaitEtcd.
var Start = host.DefineChange("lostquorum.start", func(ctx context.Context, _ struct{}) (struct{}, error) {
	if slices.Contains(local.manifests(), etcdPod) {
		if err := (withdrawal.Host{}).Return(etcdPod); err != nil {
			return struct{}{}, err
		}
		// It does not run where the data were missing when the host booted. Where it runs, pods have crashed often without a quorum.
		return struct{}{}, kubeadm.ForgetBackOff(ctx)
	}
	return struct{}{}, system.Systemctl(ctx, "enable", "--now", hostconfig.EtcdUnit)
})

// APIRequest says what an API server uses.
type APIRequest struct {
	// EtcdServers are the client URLs of the members of an external etcd; empty where etcd is stacked.
	EtcdServers []string `json:"etcdServers,omitempty"`
}

// StartAPI starts the API server of this host again. With an external etcd, it uses the members of the request and no others: the manifest that was set aside
// names those of the old cluster, and a machine that comes back as it was would serve from its data.
var StartAPI = host.DefineChange("lostquorum.start-api", func(_ context.Context, in APIRequest) (struct{}, error) {
	return struct{}{}, local.startAPI(in)
})

func (p place) startAPI(in APIRequest) error {
	h := withdrawal.Host{Root: p.root}
	if len(in.EtcdServers) > 0 {
		if err := h.Edit(facts.APIServer, func(manifest []byte) ([]byte, error) { return kubeadm.WithEtcdServers(manifest, in.EtcdServers) }); err != nil {
			return err
		}
	}
	return h.Return(facts.APIServer)
}

// StartControllers starts the controller manager and the scheduler of this host again.
var StartControllers = host.DefineChange("lostquorum.start-controllers", func(context.Context, struct{}) (struct{}, error) {
	var errs []error
	for _, pod := range controllers {
		errs = append(errs, withdrawal.Host{}.Return(pod))
	}
	return struct{}{}, errors.Join(errs...)
})
