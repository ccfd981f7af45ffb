// Package lostquorum is the host's side of a recovery of etcd after a lost quorum. It reads what is left of etcd on a host without
// starting it, stops what could vote or serve, sets data aside, and starts a cluster of one on a rebuilt copy. Data of etcd are
// renamed, never removed.
package lostquorum

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/flags"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/etcddata"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

const (
	pki         = "/etc/kubernetes/pki/etcd/"
	kubeletConf = "/etc/kubernetes/kubelet.conf"
	// scratch is for copies of databases that are locked.
	scratch = "/var/lib/quorate"
)

// place is a host whose files are below root: empty for the host itself, a directory in tests.
type place struct{ root string }

var local place

func (p place) at(path string) string { return filepath.Join(p.root, path) }

// Examine reads what is left of etcd on this host. It works without a kubelet, without systemd's units, and while an etcd runs.
var Examine = host.Define("lostquorum.examine", func(ctx context.Context, in facts.RemainsRequest) (facts.EtcdRemains, error) {
	return local.examine(ctx, in, readApart)
}, host.Reads)

// read reads a data directory.
type read func(ctx context.Context, dir, scratch string) facts.EtcdCopy

func (p place) examine(ctx context.Context, in facts.RemainsRequest, read read) (facts.EtcdRemains, error) {
	m := p.member()
	out := facts.EtcdRemains{DataDir: m.dataDir, Name: m.name, PeerURL: m.peerURL, SeparateWAL: m.walDir, Manifests: p.manifests(), Certificates: true}
	for _, name := range []string{"ca.crt", "server.crt", "server.key", "peer.crt", "peer.key"} {
		out.Certificates = out.Certificates && system.Filled(p.at(pki+name))
	}
	out.Guard, out.Established = etcd.Member{Root: p.root}.Armed(), system.Exists(p.at(facts.EstablishedFile))
	if p.root == "" { // the file system of a test's directory says nothing
		out.Volatile = system.Volatile("/var/lib")
	}
	out.Joined = system.Filled(p.at(kubeletConf))
	stacked := slices.Contains(out.Manifests, etcdPod) && out.Joined
	out.Starts = m.name != "" && (stacked || system.Exists(p.at("/etc/systemd/system/"+hostconfig.EtcdUnit)))
	var err error
	if out.Running, err = p.running(m.dataDir); err != nil {
		return out, err
	}
	if out.Recovery, err = p.noted(); err != nil {
		return out, err
	}
	have := map[string]bool{}
	add := func(path, kind string) {
		if real, err := filepath.EvalSymlinks(p.at(path)); err == nil {
			if have[real] {
				return
			}
			have[real] = true
		}
		c := read(ctx, p.at(path), p.at(scratch))
		c.Path, c.Kind = path, kind
		out.Copies = append(out.Copies, c)
	}
	// If nobody can tell, the host was not examined: its disk may have the data.
	missing, err := system.Missing(filepath.Join(p.at(m.dataDir), "member"))
	if err != nil {
		return out, err
	}
	if !missing {
		add(m.dataDir, facts.CopyInPlace)
	}
	for _, dir := range facts.EtcdKeptDirs(m.dataDir) {
		kept, err := filepath.Glob(filepath.Join(p.at(dir), "*", "member"))
		if err != nil {
			return out, err
		}
		for _, k := range kept {
			kind := facts.CopyKept
			name := filepath.Base(filepath.Dir(k))
			if strings.HasSuffix(name, facts.EtcdFormer) {
				kind = facts.CopyFormer
			}
			if !strings.HasPrefix(name, workPrefix) {
				add(filepath.Join(dir, name), kind)
			}
		}
	}
	for _, dir := range in.Data {
		add(dir, facts.CopyNamed)
	}
	return out, ctx.Err()
}

// readApart reads a data directory in a process of its own, which a damaged database can end.
func readApart(ctx context.Context, dir, scratch string) facts.EtcdCopy {
	var out facts.EtcdCopy
	if err := apart(ctx, readCommand, readRequest{dir, scratch}, &out); err != nil {
		out.Error = err.Error()
	}
	return out
}

// Commands of `quorate host`, for work on data that may be damaged.
const (
	readCommand     = "read-etcd-data"
	rebuildCommand  = "rebuild-etcd-data"
	snapshotCommand = "snapshot-etcd-data"
)

type readRequest struct{ Dir, Scratch string }

// Apart does the work of one of the commands: it reads the request, and writes the result.
func Apart(ctx context.Context, command string, in []byte) ([]byte, error) {
	switch command {
	case readCommand:
		var r readRequest
		if err := json.Unmarshal(in, &r); err != nil {
			return nil, err
		}
		return json.Marshal(etcddata.Read(r.Dir, r.Scratch))
	case rebuildCommand:
		var r etcddata.RebuildRequest
		if err := json.Unmarshal(in, &r); err != nil {
			return nil, err
		}
		out, err := etcddata.Rebuild(ctx, r)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	case snapshotCommand:
		var r etcddata.SnapshotRequest
		if err := json.Unmarshal(in, &r); err != nil {
			return nil, err
		}
		out, err := etcddata.Snapshot(ctx, r)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	}
	return nil, fmt.Errorf("there is no %s", command)
}

// ApartCommands are those that Apart knows.
var ApartCommands = []string{readCommand, rebuildCommand, snapshotCommand}

// apart runs one of the commands in a process of its own.
func apart(ctx context.Context, command string, in, out any) error {
	request, err := json.Marshal(in)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	answer, err := system.Command{Name: self, Args: []string{"host", command}, Stdin: bytes.NewReader(request)}.Output(ctx)
	if err != nil {
		return fmt.Errorf("the data could not be processed: %w", err)
	}
	return json.Unmarshal(answer, out)
}

// configured is the member that a host is configured to run.
type configured struct{ name, peerURL, dataDir, walDir string }

// member reads the manifest of the static pod, in its place or set aside, or the environment of the unit.
func (p place) member() configured {
	out := configured{dataDir: hostconfig.EtcdDataDir}
	for _, dir := range manifestDirs {
		if pod, err := p.manifest(dir, etcdPod); err == nil {
			args := staticpod.Arguments(pod)
			out.name, out.peerURL = args["name"], args["initial-advertise-peer-urls"]
			out.dataDir, out.walDir = cmp.Or(args["data-dir"], out.dataDir), args["wal-dir"]
			return out
		}
	}
	env, err := os.ReadFile(p.at(hostconfig.EtcdEnvFile))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(env)) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), "="); name {
		case "ETCD_NAME":
			out.name = value
		case "ETCD_INITIAL_ADVERTISE_PEER_URLS":
			out.peerURL = value
		case "ETCD_DATA_DIR":
			out.dataDir = value
		case "ETCD_WAL_DIR":
			out.walDir = value
		}
	}
	return out
}

// manifestDirs are where manifests of static pods are: in their place, or set aside.
var manifestDirs = []string{staticpod.Dir, facts.WithdrawnDir}

// needed are flags without which a manifest of kubeadm's cannot be complete. A manifest without kubeadm's labels does not show by itself that its
// end is missing.
var needed = map[string][]string{etcdPod: {"name", "data-dir", "initial-advertise-peer-urls"}, facts.APIServer: {"etcd-servers"}}

// complete returns what checks the manifest of a static pod that could be read. A flag can be part of a command line for a shell.
func complete(name string) func(*corev1.Pod) error {
	return func(pod *corev1.Pod) error {
		var words []string
		for _, c := range pod.Spec.Containers {
			words = slices.Concat(words, c.Command, c.Args)
		}
		for _, flag := range needed[name] {
			if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "--"+flag) }) {
				return fmt.Errorf("the flag --%s is missing", flag)
			}
		}
		return nil
	}
}

// manifest reads the manifest of a static pod in one of the directories. One that was cut off while it was written is an error.
func (p place) manifest(dir, name string) (*corev1.Pod, error) {
	path := filepath.Join(dir, name+".yaml")
	pod, err := staticpod.Read(p.at(path))
	if err != nil {
		return nil, err
	}
	if err := complete(name)(pod); err != nil {
		return nil, fmt.Errorf("%s is incomplete: %w", path, err)
	}
	return pod, nil
}

// manifests are the static pods of the host whose manifests are complete, also those that are set aside.
func (p place) manifests() (out []string) {
	for _, dir := range manifestDirs {
		files, _ := filepath.Glob(filepath.Join(p.at(dir), "*.yaml"))
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), ".yaml")
			if _, err := p.manifest(dir, name); err == nil {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// processes are those of a program on this host, inside and outside of containers.
func (p place) processes(program string) (out []int, _ error) {
	dirs, err := os.ReadDir(p.at("/proc"))
	if errors.Is(err, fs.ErrNotExist) && p.root != "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	short := program[:min(len(program), 15)] // the kernel keeps no more of a name
	for _, d := range dirs {
		if pid, err := strconv.Atoi(d.Name()); err == nil && system.ReadTrimmed(filepath.Join(p.at("/proc"), d.Name(), "comm")) == short {
			out = append(out, pid)
		}
	}
	return out, nil
}

// running finds the process of an etcd that works on a data directory, 0 for none. The etcd may name it by another path, or in a configuration
// file: whoever has the database open works on it.
func (p place) running(dataDir string) (int, error) {
	pids, err := p.processes(etcdPod)
	if err != nil {
		return 0, err
	}
	database, err := os.Stat(filepath.Join(etcddata.Member(p.at(dataDir)), "snap", "db"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, pid := range pids {
		dir := filepath.Join(p.at("/proc"), strconv.Itoa(pid))
		args := flags.Parse(strings.Split(string(system.ReadAll(filepath.Join(dir, "cmdline"))), "\x00"))
		at := args["data-dir"]
		for v := range strings.SplitSeq(string(system.ReadAll(filepath.Join(dir, "environ"))), "\x00") {
			if value, is := strings.CutPrefix(v, "ETCD_DATA_DIR="); is && at == "" {
				at = value
			}
		}
		works := filepath.Clean(at) == filepath.Clean(dataDir)
		if !works && database != nil {
			if works, err = opened(dir, database); err != nil {
				return 0, fmt.Errorf("finding out on which data the etcd of process %d works: %w", pid, err)
			}
		}
		if works {
			return pid, nil
		}
	}
	return 0, nil
}

// opened says whether a process has a file open. One that has ended has none.
func opened(process string, file fs.FileInfo) (bool, error) {
	gone := func(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }
	open, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil && !gone(err) {
		return false, err
	}
	for _, fd := range open {
		info, err := os.Stat(filepath.Join(process, "fd", fd.Name()))
		switch {
		case err == nil && os.SameFile(info, file):
			return true, nil
		case err != nil && !gone(err):
			return false, err
		}
	}
	return false, nil
}

// noted is the recovery that is under way on the host.
func (p place) noted() (*facts.EtcdRecovery, error) {
	data, err := os.ReadFile(p.at(facts.RecoveryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out facts.EtcdRecovery
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", facts.RecoveryFile, err)
	}
	return &out, nil
}

// Note notes on this host that a recovery of its cluster is under way.
var Note = host.Define("lostquorum.note", func(_ context.Context, in facts.EtcdRecovery) (struct{}, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, durable.WriteFile(facts.RecoveryFile, data, 0o600)
})

// Abandon notes on this host which etcd clusters were replaced, by their IDs: from then on, nobody counts their members any more.
var Abandon = host.Define("lostquorum.abandon", func(_ context.Context, ids []string) (struct{}, error) {
	return struct{}{}, etcd.Local.Abandon(ids...)
})

// Finish removes the note, and what the recovery needed besides.
var Finish = host.Define("lostquorum.finish", func(context.Context, struct{}) (struct{}, error) {
	return struct{}{}, local.finish()
})

func (p place) finish() error {
	for _, dir := range facts.EtcdKeptDirs(p.member().dataDir) {
		works, err := filepath.Glob(filepath.Join(p.at(dir), workPrefix+"*"))
		if err != nil {
			return err
		}
		for _, w := range works {
			if err := os.RemoveAll(w); err != nil {
				return err
			}
		}
	}
	return durable.Remove(p.at(facts.RecoveryFile))
}
