package lostquorum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/etcddata"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: etcd, labels: {tier: control-plane}}
spec:
  containers:
  - name: etcd
    command: [etcd, --name=cp-a, --data-dir=/var/lib/etcd, "--initial-advertise-peer-urls=https://10.0.0.11:2380"]
status: {}
`

func (p place) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.at(path)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.at(path), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// data puts a directory into place whose identity is its content.
func (p place) data(t *testing.T, dir, member string) {
	t.Helper()
	p.write(t, filepath.Join(dir, "member", "id"), "c1/"+member)
}

// readID reads what data wrote.
func readID(_ context.Context, dir, _ string) facts.EtcdCopy {
	raw, err := os.ReadFile(filepath.Join(dir, "member", "id"))
	if err != nil {
		return facts.EtcdCopy{Error: err.Error()}
	}
	cluster, member, _ := strings.Cut(string(raw), "/")
	return facts.EtcdCopy{ClusterID: cluster, MemberID: member}
}

func (p place) examined(t *testing.T, data ...string) facts.EtcdRemains {
	t.Helper()
	out, err := p.examine(t.Context(), facts.RemainsRequest{Data: data}, readID)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestExamine looks at hosts of every kind, also at ones on which nothing is installed.
func TestExamine(t *testing.T) {
	p := place{t.TempDir()}
	if got := p.examined(t); got.Starts || got.Certificates || got.Guard || got.Established || len(got.Copies) > 0 || got.DataDir != hostconfig.EtcdDataDir {
		t.Errorf("an empty machine: %+v", got)
	}
	p.data(t, "/mnt/var/lib/etcd", "a1")
	if got := p.examined(t, "/mnt/var/lib/etcd", "/mnt/nothing"); len(got.Copies) != 2 || got.Copies[0].MemberID != "a1" || got.Copies[0].Kind != facts.CopyNamed || got.Copies[1].Error == "" {
		t.Errorf("a rescue system: %+v", got.Copies)
	}
	p.write(t, kubeletConf, "x")
	if got := p.examined(t); !got.Joined || got.Starts || got.Name != "" {
		t.Errorf("a control plane without manifests: %+v", got)
	}
	p.write(t, hostconfig.EtcdManifest, manifest)
	for _, name := range []string{"ca.crt", "server.crt", "server.key", "peer.crt", "peer.key"} {
		p.write(t, pki+name, "x")
	}
	p.data(t, "/var/lib/etcd", "a1")
	p.data(t, facts.EtcdKeptDir+"/20250101T000000Z-a1", "a1")
	p.data(t, "/var/lib/etcd/"+facts.EtcdKeptName+"/20240101T000000Z-a1", "a1")
	p.data(t, facts.EtcdKeptDir+"/"+workPrefix+"20250101T000000Z", "new")
	want := []string{"/var/lib/etcd", facts.EtcdKeptDir + "/20250101T000000Z-a1", "/var/lib/etcd/" + facts.EtcdKeptName + "/20240101T000000Z-a1", "/mnt/var/lib/etcd"}
	check := func(name string) {
		t.Helper()
		got := p.examined(t, "/mnt/var/lib/etcd", "/var/lib/etcd/")
		var paths []string
		for _, c := range got.Copies {
			paths = append(paths, c.Path)
		}
		if !got.Starts || !got.Joined || !got.Certificates || got.Name != "cp-a" || got.PeerURL != "https://10.0.0.11:2380" || !slices.Equal(paths, want) {
			t.Errorf("%s: %+v, paths %v", name, got, paths)
		}
	}
	check("a control plane")
	if err := os.MkdirAll(p.at(facts.WithdrawnDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.at(hostconfig.EtcdManifest), p.at(facts.WithdrawnDir+"/etcd.yaml")); err != nil {
		t.Fatal(err)
	}
	check("one whose manifest was set aside")

	// Its data were on a disk that is not mounted.
	member := etcd.Member{Root: p.root}
	if err := member.Arm(); err != nil {
		t.Fatal(err)
	}
	p.write(t, facts.EstablishedFile, "prod\n")
	if got := p.examined(t); !got.Guard || !got.Established {
		t.Errorf("a member that is guarded: %+v", got)
	}
	if err := member.Open(); err != nil {
		t.Fatal(err)
	}
	if got := p.examined(t); got.Guard || !got.Established {
		t.Errorf("a member whose guard is open: %+v", got)
	}

	p.write(t, "/proc/99/comm", "etcd\n")
	p.write(t, "/proc/99/cmdline", "etcd\x00--data-dir=/srv/other\x00")
	if got := p.examined(t); got.Running != 0 {
		t.Errorf("another etcd: %+v", got)
	}
	p.write(t, "/proc/100/comm", "etcd\n")
	p.write(t, "/proc/100/cmdline", "etcd\x00--data-dir\x00/var/lib/etcd\x00")
	if got := p.examined(t); got.Running != 100 {
		t.Errorf("its own etcd: %+v", got)
	}

	external := place{t.TempDir()}
	external.write(t, hostconfig.EtcdEnvFile, "# by quorate\nETCD_NAME=etcd-a\nETCD_DATA_DIR=/srv/etcd\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.21:2380\n")
	external.write(t, "/etc/systemd/system/"+hostconfig.EtcdUnit, "x")
	external.write(t, "/proc/100/comm", "etcd\n")
	external.write(t, "/proc/100/cmdline", "/usr/local/bin/etcd\x00")
	external.write(t, "/proc/100/environ", "A=b\x00ETCD_DATA_DIR=/srv/etcd\x00")
	if got := external.examined(t); !got.Starts || got.Name != "etcd-a" || got.DataDir != "/srv/etcd" || got.Running != 100 {
		t.Errorf("an etcd host: %+v", got)
	}
}

// TestIncompleteManifests: what a program has left that was killed while it wrote a manifest is none, and the kubelet does not get it.
func TestIncompleteManifests(t *testing.T) {
	const server = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, "--etcd-servers=https://127.0.0.1:2379"]
status: {}
`
	unlabeled := strings.ReplaceAll(manifest, ", labels: {tier: control-plane}", "") // as somebody wrote it by hand
	for name, tc := range map[string]struct {
		pod, inPlace, aside string
		complete            bool
	}{
		"none":                     {etcdPod, "", "", false},
		"etcd":                     {etcdPod, manifest, "", true},
		"set aside":                {etcdPod, "", manifest, true},
		"without its end":          {etcdPod, strings.TrimSuffix(manifest, "status: {}\n"), "", false},
		"the beginning":            {etcdPod, manifest[:40], "", false},
		"empty":                    {etcdPod, " ", "", false},
		"half, and one set aside":  {etcdPod, manifest[:40], manifest, true},
		"half of both":             {etcdPod, manifest[:40], manifest[:60], false},
		"by hand":                  {etcdPod, strings.TrimSuffix(unlabeled, "status: {}\n"), "", true},
		"by hand, without a flag":  {etcdPod, strings.ReplaceAll(unlabeled, ` "--initial-advertise-peer-urls=https://10.0.0.11:2380"`, ""), "", false},
		"an API server":            {facts.APIServer, server, "", true},
		"half an API server":       {facts.APIServer, strings.TrimSuffix(server, "status: {}\n"), "", false},
		"an API server without it": {facts.APIServer, strings.ReplaceAll(server, "--etcd-servers", "--x"), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := place{t.TempDir()}
			for path, content := range map[string]string{"/etc/kubernetes/manifests/": tc.inPlace, facts.WithdrawnDir + "/": tc.aside} {
				if content != "" {
					p.write(t, path+tc.pod+".yaml", content)
				}
			}
			check := func(when string) {
				t.Helper()
				if got := slices.Contains(p.examined(t).Manifests, tc.pod); got != tc.complete {
					t.Errorf("%s: complete is %t", when, got)
				}
				if name := p.member().name; (name != "") != (tc.complete && tc.pod == etcdPod) {
					t.Errorf("%s: the member is %q", when, name)
				}
			}
			check("before")
			ended := func(context.Context, string) (int, error) { return 0, nil }
			for range 2 {
				if err := p.stop(t.Context(), tc.pod, ended); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(p.at("/etc/kubernetes/manifests/" + tc.pod + ".yaml")); err == nil {
					t.Error("the kubelet can start what is left in the manifest")
				}
				check("stopped")
			}
		})
	}
}

// TestAnAPIServerStartsWithTheRecoveredMember of an external etcd, and with no other: each of those that it had may come back with the old data.
func TestAnAPIServerStartsWithTheRecoveredMember(t *testing.T) {
	const before = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --etcd-servers=https://10.0.0.41:2379,https://10.0.0.42:2379
    - --secure-port=6443
status: {}
`
	one := APIRequest{EtcdServers: []string{"https://10.0.0.42:2379"}}
	for name, tc := range map[string]struct {
		in    APIRequest
		aside string
		want  string
	}{
		"external":           {one, before, strings.ReplaceAll(before, "https://10.0.0.41:2379,", "")},
		"stacked":            {APIRequest{}, before, before},
		"it has no manifest": {one, "", ""},
	} {
		p := place{t.TempDir()}
		if tc.aside != "" {
			p.write(t, facts.WithdrawnDir+"/kube-apiserver.yaml", tc.aside)
		}
		for range 2 {
			if err := p.startAPI(tc.in); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got, _ := os.ReadFile(p.at("/etc/kubernetes/manifests/kube-apiserver.yaml")); string(got) != tc.want {
				t.Errorf("%s: it starts with %q", name, got)
			}
		}
	}
	p := place{t.TempDir()}
	p.write(t, facts.WithdrawnDir+"/kube-apiserver.yaml", strings.ReplaceAll(before, "--etcd-servers", "--x"))
	if err := p.startAPI(one); err == nil {
		t.Error("it would start with members that nobody knows")
	}
}

// TestUnknownIsNotEnded: a program has ended when that was seen, not when nobody could tell.
func TestUnknownIsNotEnded(t *testing.T) {
	p := place{t.TempDir()}
	limited := func() context.Context {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("the time is over"))
		t.Cleanup(cancel)
		return ctx
	}
	silent := func(context.Context, string) (int, error) { return 0, errors.New("containerd hangs") }
	if err := p.stop(limited(), etcdPod, silent); err == nil || !strings.Contains(err.Error(), "containerd hangs") {
		t.Errorf("nobody knows whether it runs: %v", err)
	}
	if err := p.stop(limited(), etcdPod, func(context.Context, string) (int, error) { return 1, nil }); err == nil || !strings.Contains(err.Error(), "it still runs") {
		t.Errorf("it runs: %v", err)
	}
	asked := 0
	if err := p.stop(t.Context(), etcdPod, func(ctx context.Context, pod string) (int, error) {
		if asked++; asked == 1 {
			return silent(ctx, pod)
		}
		return 0, nil
	}); err != nil {
		t.Errorf("it answers again: %v", err)
	}

	why := errors.New("no socket")
	is := func(program string, err error, process string) {
		t.Helper()
		got := p.unasked(program, err)
		if (got != nil) != (process != "") || got != nil && !(errors.Is(got, why) && strings.Contains(got.Error(), "process "+process)) {
			t.Errorf("%s, %v: %v", program, err, got)
		}
	}
	p.write(t, "/proc/self/comm", "quorate\n")
	is(etcdPod, why, "")
	p.write(t, "/proc/60/comm", "kube-controller\n")
	is(facts.ControllerManager, why, "60")
	is(facts.APIServer, why, "")
	p.write(t, "/proc/70/comm", "etcd\n")
	p.write(t, "/proc/70/cmdline", "etcd\x00--data-dir=/srv/other\x00")
	is(etcdPod, why, "")
	p.write(t, "/proc/71/comm", "etcd\n")
	p.write(t, "/proc/71/cmdline", "etcd\x00--data-dir=/var/lib/etcd\x00")
	is(etcdPod, why, "71")
	p.write(t, "/proc/80/comm", "containerd\n")
	is(facts.APIServer, why, "80")
	is(facts.APIServer, fmt.Errorf("asking containerd: %w", status.Error(codes.Unimplemented, "no CRI")), "")
}

// TestADiskThatDoesNotAnswer has data, or has none: nobody knows.
func TestADiskThatDoesNotAnswer(t *testing.T) {
	p := place{t.TempDir()}
	p.write(t, "/var/lib/etcd", "what is below a file cannot be looked up")
	if got, err := p.examine(t.Context(), facts.RemainsRequest{}, readID); err == nil {
		t.Errorf("examined: %+v", got)
	}
	if to, err := p.setAside(t.Context(), AsideRequest{Stamp: "s"}, readID); err == nil {
		t.Errorf("set aside: %q", to)
	}
	member := etcd.Member{Root: p.root}
	if has, err := member.Data(); err == nil || !member.HasData() {
		t.Errorf("it has data: %t", has)
	}
	if err := member.MayBegin(hostconfig.EtcdCluster{Members: []string{"cp-a=https://10.0.0.11:2380"}, Token: "t"}); err == nil {
		t.Error("a member could start without its data")
	}
	if to, err := member.SetAside(time.Now(), ""); err == nil {
		t.Errorf("set aside by a repair: %q", to)
	}
}

// TestAnEtcdByAnotherPath: what its flags do not show, its open database does.
func TestAnEtcdByAnotherPath(t *testing.T) {
	p := place{t.TempDir()}
	p.write(t, "/var/lib/etcd/member/snap/db", "x")
	p.write(t, "/var/lib/etcd/member/wal/0.wal", "x")
	p.write(t, "/mnt/etcd/member/snap/db", "x")
	p.write(t, "/proc/100/comm", "etcd\n")
	p.write(t, "/proc/100/cmdline", "etcd\x00--config-file=/etc/etcd.yaml\x00")
	p.write(t, "/proc/100/fd/3", "")
	if pid, err := p.running("/var/lib/etcd"); err != nil || pid != 0 {
		t.Errorf("it has nothing open: %d, %v", pid, err)
	}
	if err := os.Symlink(p.at("/var/lib/etcd/member/snap/db"), p.at("/proc/100/fd/9")); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]int{"/var/lib/etcd": 100, "/var/lib/etcd/member": 100, "/mnt/etcd": 0, "/mnt/none": 0} {
		if pid, err := p.running(dir); err != nil || pid != want {
			t.Errorf("%s: %d, %v", dir, pid, err)
		}
	}
	// Nobody can tell what another one has open.
	p.write(t, "/proc/101/comm", "etcd\n")
	p.write(t, "/proc/101/fd", "what is in a file cannot be listed")
	if pid, err := p.running("/mnt/etcd"); err == nil {
		t.Errorf("it has something open that nobody can list: %d", pid)
	}
}

// TestBuildWithoutAManifest: who recovers says which member it becomes, where no manifest does.
func TestBuildWithoutAManifest(t *testing.T) {
	p := place{t.TempDir()}
	p.data(t, "/var/lib/etcd", "a1")
	var asked etcddata.RebuildRequest
	build := func(_ context.Context, r etcddata.RebuildRequest) (etcddata.Rebuilt, error) {
		asked = r
		return etcddata.Rebuilt{}, nil
	}
	in := BuildRequest{Source: "/var/lib/etcd", Stamp: "s"}
	if _, err := p.build(t.Context(), in, build); err == nil {
		t.Error("a member without a name was built")
	}
	in.Name, in.PeerURL = "cp-z", "https://10.0.0.99:2380"
	if _, err := p.build(t.Context(), in, build); err != nil || asked.Name != "cp-z" || asked.PeerURL != in.PeerURL {
		t.Errorf("%+v, %v", asked, err)
	}
	p.write(t, hostconfig.EtcdManifest, manifest)
	if _, err := p.build(t.Context(), in, build); err != nil || asked.Name != "cp-a" {
		t.Errorf("the manifest counts: %+v, %v", asked, err)
	}
}

// TestNothingIsLost sets data aside and puts others in their place, with everything that can be in the way.
func TestNothingIsLost(t *testing.T) {
	p := place{t.TempDir()}
	p.write(t, hostconfig.EtcdManifest, manifest)
	p.data(t, "/var/lib/etcd", "a1")
	in := AsideRequest{Stamp: "20261127T160000Z", ClusterID: "c1", MemberID: "a1"}
	is := func(path, want string) {
		t.Helper()
		if got := readID(t.Context(), p.at(path), ""); got.ClusterID+"/"+got.MemberID != want {
			t.Errorf("%s has %+v, want %s", path, got, want)
		}
	}
	if _, err := p.setAside(t.Context(), AsideRequest{Stamp: in.Stamp, ClusterID: "c1", MemberID: "b2"}, readID); err == nil {
		t.Error("data that nobody has examined were set aside")
	}
	p.write(t, "/proc/100/comm", "etcd\n")
	p.write(t, "/proc/100/cmdline", "etcd\x00--data-dir=/var/lib/etcd\x00")
	if _, err := p.setAside(t.Context(), in, readID); err == nil {
		t.Error("data on which an etcd runs were set aside")
	}
	build := func(_ context.Context, r etcddata.RebuildRequest) (etcddata.Rebuilt, error) {
		p.data(t, strings.TrimPrefix(r.Work, p.root)+"/ready", "new-of-"+r.Name)
		return etcddata.Rebuilt{Member: filepath.Join(r.Work, "ready", "member")}, nil
	}
	if _, err := p.build(t.Context(), BuildRequest{Source: "/var/lib/etcd", Stamp: in.Stamp}, build); err == nil {
		t.Error("data on which an etcd runs were copied")
	}
	if err := os.RemoveAll(p.at("/proc")); err != nil {
		t.Fatal(err)
	}
	built, err := p.build(t.Context(), BuildRequest{Source: "/var/lib/etcd", Stamp: in.Stamp}, build)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.put(built); err == nil {
		t.Error("data were overwritten")
	}
	is("/var/lib/etcd", "c1/a1")
	to, err := p.setAside(t.Context(), in, readID)
	if err != nil || to != facts.EtcdKeptDir+"/20261127T160000Z-a1" {
		t.Fatal(to, err)
	}
	is(to, "c1/a1")
	if again, err := p.setAside(t.Context(), in, readID); err != nil || again != "" {
		t.Errorf("a second time: %q, %v", again, err)
	}
	if err := p.put(built); err != nil {
		t.Fatal(err)
	}
	is("/var/lib/etcd", "c1/new-of-cp-a")
	if err := p.put(built); err == nil {
		t.Error("put a second time")
	}

	// The same name is taken: what is there stays, and so does what is in place.
	p.data(t, facts.EtcdKeptDir+"/20261127T160000Z-new-of-cp-a", "earlier")
	if _, err := p.setAside(t.Context(), AsideRequest{Stamp: in.Stamp, ClusterID: "c1", MemberID: "new-of-cp-a"}, readID); err == nil {
		t.Error("renamed onto other data")
	}
	is(facts.EtcdKeptDir+"/20261127T160000Z-new-of-cp-a", "c1/earlier")
	is("/var/lib/etcd", "c1/new-of-cp-a")

	note, err := json.Marshal(facts.EtcdRecovery{Stamp: in.Stamp, Host: "cp-a"})
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, facts.RecoveryFile, string(note))
	if got := p.examined(t); got.Recovery == nil || got.Recovery.Host != "cp-a" {
		t.Errorf("the note: %+v", got.Recovery)
	}
	for range 2 {
		if err := p.finish(); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.examined(t); got.Recovery != nil || len(got.Copies) != 3 {
		t.Errorf("afterwards: %+v", got)
	}
	if left, _ := filepath.Glob(p.at(facts.EtcdKeptDir + "/" + workPrefix + "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
