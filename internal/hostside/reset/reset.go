// Package reset takes a host out of service: it leaves it as it was found before Quorate came, or, on a host that was
// adopted, without Kubernetes.
package reset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/hostside/found"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Request says which host is reset.
type Request struct {
	// Cluster is the name of the cluster that the host belongs to. A host that is marked as another one's is refused.
	Cluster string
	// VirtualIPs are removed from the host's interfaces if it has them, and PodCIDR is the range of pods, whose routes are removed.
	VirtualIPs []string
	PodCIDR    string
	// Keep is a directory to which etcd's data and /etc/kubernetes are moved instead of being removed; empty to remove them. It is
	// remembered: also a later reset that finishes this one moves them there.
	Keep string
}

// Report is what a reset did.
type Report struct {
	// Removed are files, directories, units, network interfaces, and tables of rules that are gone, in order.
	Removed []string `json:"removed"`
	// Restored are files, kernel settings, and units that are again as they were found.
	Restored []string `json:"restored"`
	// Notes are what is not as it was found, with the reason.
	Notes []string `json:"notes"`
}

// Reset stops everything of a cluster on a host and removes it, together with everything of Quorate's, the binary that runs
// this operation included. It can be interrupted at any moment and run again. It does not touch the membership of etcd: remove
// the host's member first (see etcd.RemoveMember), unless the whole cluster is to go.
//
// Packages of the distribution stay installed. What they had configured before Quorate came is restored.
var Reset = host.DefineChange("node.reset", func(ctx context.Context, in Request) (Report, error) {
	return local.reset(ctx, in)
})

// target is a host whose files are below root, with what is done to it besides its files.
type target struct {
	root  string // empty for the host itself, a directory in tests
	units func(ctx context.Context, names ...string) (map[string]system.Unit, error)
	// systemctl runs systemd's program.
	systemctl func(ctx context.Context, args ...string) error
	// healFaults heals what a drill has injected.
	healFaults func(ctx context.Context) error
	// stopPods removes all pods through containerd, left are the processes of pods and shims, and kill ends them.
	stopPods func(ctx context.Context) error
	left     func() ([]int, error)
	kill     func(ctx context.Context) error
	// mounts are the mount points, and unmount takes one away.
	mounts  func() ([]string, error)
	unmount func(path string) error
	// network removes interfaces, addresses, routes, and rules.
	network func(in Request) (removed []string, err error)
	// addresses removes the virtual IPs alone.
	addresses func(virtualIPs []string) (removed []string, err error)
	// unload removes a kernel module, unless it is in use.
	unload func(ctx context.Context, module string) error
	// recreate makes a directory below /run as the packages of the system want it.
	recreate func(ctx context.Context, dir string) error
	remove   func(path string) error
	// next is called between any two actions; an error ends the reset there.
	next func() error
}

var local = target{
	units: system.Units, systemctl: system.Systemctl,
	healFaults: func(ctx context.Context) error { return fault.Expire(ctx) },
	stopPods:   containerd.StopPods, left: leftContainers, kill: killContainers, mounts: mountPoints, unmount: unmount, network: clearNetwork, addresses: clearAddresses,
	unload:   func(ctx context.Context, m string) error { return system.Run(ctx, "modprobe", "-r", m) },
	recreate: recreate, remove: os.RemoveAll, next: func() error { return nil },
}

// begun is what a reset found when it began. It is stored until the reset has ended: later runs cannot see it any more.
type begun struct {
	Cluster string `json:"cluster"`
	// Node says that the host carries a part of a cluster besides a load balancer, and Adopted that somebody else set it up.
	Node    bool `json:"node"`
	Adopted bool `json:"adopted"`
	// Containerd says that containerd runs from Quorate's bundle.
	Containerd bool `json:"containerd"`
	// EtcdData is where the data of the host's member is, and EtcdWAL its write-ahead log, if that is elsewhere.
	EtcdData string `json:"etcdData"`
	EtcdWAL  string `json:"etcdWAL,omitempty"`
	// Keep is that of the request.
	Keep string `json:"keep,omitempty"`
}

func (h target) at(path string) string { return filepath.Join(h.root, path) }

// shown is the path without the root, as it is reported.
func (h target) shown(path string) string {
	if h.root == "" {
		return path
	}
	return strings.TrimPrefix(path, h.root)
}

func (h target) found() found.Host { return found.Host{Root: h.root, Units: h.units} }

// reset clears the host in stages. Each of them can be repeated.
func (h target) reset(ctx context.Context, in Request) (Report, error) {
	r := Report{Removed: []string{}, Restored: []string{}, Notes: []string{}}
	b, known, err := h.begin(in)
	if err != nil {
		return r, err
	}
	if known {
		record, err := h.found().Read()
		if err != nil {
			return r, err
		}
		w := work{target: h, begun: b, in: in, record: record, report: &r}
		if err := w.run(ctx, "resetting this host", w.stages()); err != nil {
			return r, err
		}
	}
	w := work{target: h, report: &r}
	return r, w.places(last)
}

// marks are the files that hold the name of the host's cluster.
var marks = []string{facts.BegunFile, facts.EstablishedFile, facts.AdoptedFile}

// begin says what the host is, and whether Quorate has done anything here.
func (h target) begin(in Request) (b begun, known bool, err error) {
	data, err := os.ReadFile(h.at(facts.ResettingFile))
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &b); err != nil {
			return b, false, fmt.Errorf("reading %s: %w", facts.ResettingFile, err)
		}
		if b.Cluster != in.Cluster {
			return b, false, fmt.Errorf("this host is being reset as a host of the cluster %s, and not of %s", b.Cluster, in.Cluster)
		}
		if b.Keep != "" || in.Keep == "" {
			return b, true, nil
		}
		// What the reset that was interrupted has left is kept from now on.
		b.Keep = in.Keep
		if data, err = json.Marshal(b); err != nil {
			return b, false, err
		}
		return b, true, durable.WriteFile(h.at(facts.ResettingFile), data, 0o600)
	case !errors.Is(err, fs.ErrNotExist):
		return b, false, err
	}
	member := etcd.Member{Root: h.root}
	b = begun{Cluster: in.Cluster, Adopted: system.Exists(h.at(facts.AdoptedFile)), Containerd: programs.Linked(h.root, "containerd"),
		EtcdData: h.shown(member.DataDir()), EtcdWAL: h.shown(member.SeparateWAL()), Keep: in.Keep}
	if b.Node, err = h.marked(in.Cluster); err != nil {
		return b, false, err
	}
	unpacked := system.Exists(h.at("/opt/quorate"))
	b.Node = b.Node || unpacked || system.Exists(h.at(facts.RestoreFile))
	known = b.Node || system.Exists(h.at(facts.FoundFile)) || slices.ContainsFunc(configuration, func(p place) bool {
		return p.kind == file && h.ours(p.path)
	})
	if !known {
		return b, false, nil
	}
	if err := h.keepKept(); err != nil {
		return b, false, err
	}
	data, err = json.Marshal(b)
	if err != nil {
		return b, false, err
	}
	return b, true, durable.WriteFile(h.at(facts.ResettingFile), data, 0o600)
}

// marked says whether the host is marked as one of the cluster. It is an error if it is marked as another one's.
func (h target) marked(cluster string) (is bool, err error) {
	for _, m := range marks {
		content, err := os.ReadFile(h.at(m))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("finding out of which cluster this host is: %w", err)
		}
		is = true
		if name := strings.TrimSpace(string(content)); name != "" && name != cluster {
			return false, fmt.Errorf("this host is marked as a host of the cluster %s (%s), and not of %s: it is not reset", name, m, cluster)
		}
	}
	return is, nil
}

// ours says that there is a file at the path that Quorate wrote, by its name or its content.
func (h target) ours(path string) bool {
	content, err := os.ReadFile(h.at(path))
	return err == nil && bytes.Contains(bytes.ToLower(append([]byte(path+"\n"), content...)), []byte("quorate"))
}

// keepKept records the files that were saved beside those that replaced them, by a version of Quorate that recorded nothing.
func (h target) keepKept() error {
	for _, p := range configuration {
		if p.kind != file || !system.Exists(h.at(p.path+facts.KeptSuffix)) {
			continue
		}
		if err := h.found().NoteFile(p.path, h.at(p.path+facts.KeptSuffix)); err != nil {
			return err
		}
	}
	return nil
}

// work is one run of a reset.
type work struct {
	target
	begun
	in     Request
	record found.Record
	report *Report
}

type stage struct {
	what string
	do   func(context.Context) error
}

// run does one stage after the other.
func (w work) run(ctx context.Context, doing string, stages []stage) error {
	for _, s := range stages {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := w.next()
		if err == nil {
			err = s.do(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w; run it again", doing, s.what, err)
		}
	}
	return nil
}

// stages are the order of a reset: first what would get in its way or start other things again, then what runs, then what it
// leaves, then how it was configured, and last the marks by which others see that this host is part of something.
func (w work) stages() []stage {
	return []stage{
		{"healing the faults of a drill", w.healFaults}, // later, the program that heals them would be gone
		{"revoking the access of control planes", func(context.Context) error { return watch.Revoke(w.at("")) }},
		{"stopping the services", func(ctx context.Context) error { return w.stopUnits(ctx, units) }},
		{"stopping the pods", w.stopContainers},
		{"unmounting volumes", w.unmountAll},
		{"keeping etcd's data and the keys", func(context.Context) error { return w.keep() }},
		{"removing the cluster's state", func(context.Context) error { return w.clearState() }},
		{"removing interfaces and rules", func(context.Context) error {
			removed, err := w.network(w.in)
			w.report.Removed = append(w.report.Removed, removed...)
			return err
		}},
		{"restoring configuration files", func(context.Context) error {
			return errors.Join(w.places(configuration), w.clearHosts(), w.clearLinks())
		}},
		{"restoring kernel settings", w.restoreKernel},
		{"restoring units", func(ctx context.Context) error {
			return w.restoreUnits(ctx, slices.Concat(names(units), []string{containerdUnit}))
		}},
		{"removing containerd's state", func(context.Context) error {
			if !w.Containerd {
				return nil
			}
			return w.places(containers)
		}},
		{"removing programs", func(context.Context) error { return w.clearPrograms() }},
		{"removing what Quorate kept", func(context.Context) error { return w.places(ownState) }},
		{"removing the mark of the reset", func(context.Context) error { return durable.Remove(w.at(facts.ResettingFile)) }},
	}
}

// mine says whether a unit is Quorate's, or configured by it.
func (w work) mine(u unit) bool {
	return !(u.own && w.Adopted) && (u.marker == "" || system.Exists(w.at(u.marker)) || len(w.record.Units) > 0 && has(w.record.Units, u.name))
}

func (w work) stopUnits(ctx context.Context, all []unit) error {
	for _, u := range all {
		if !w.mine(u) || u.name == "kubelet.service" && !w.Node {
			continue
		}
		if err := w.stop(ctx, u.name); err != nil {
			return err
		}
	}
	return nil
}

// stop stops a unit and keeps it from starting when the host does. It is disabled first: this run may be killed, and the host
// may lose its power, at any moment.
func (w work) stop(ctx context.Context, name string) error {
	all, err := w.units(ctx, name)
	if err != nil {
		return err
	}
	u := all[name]
	if !u.Exists {
		return nil
	}
	did := false
	if u.Enabled == "enabled" || u.Enabled == "enabled-runtime" {
		if err := w.systemctl(ctx, "disable", name); err != nil {
			return err
		}
		did = true
	}
	if u.Active != "inactive" && u.Active != "failed" {
		if err := w.systemctl(ctx, "stop", name); err != nil {
			return err
		}
		did = true
	}
	if did {
		w.removed(name)
	}
	return nil
}

func (w work) removed(what string) { w.report.Removed = append(w.report.Removed, what) }

func (w work) note(format string, args ...any) {
	w.report.Notes = append(w.report.Notes, fmt.Sprintf(format, args...))
}

// podsPatience is how long all pods of a host may take to end. A CNI plugin that wants to tell an API which does not answer that a
// pod is gone keeps the pod until then.
const podsPatience = 2 * time.Minute

// stopContainers ends all pods. Where containerd is Quorate's, whatever does not end through it is killed. Where it is not, it
// has to work: other containers may run in it.
func (w work) stopContainers(ctx context.Context) error {
	if !w.Node {
		return nil
	}
	all, err := w.units(ctx, containerdUnit)
	if err != nil {
		return err
	}
	running := all[containerdUnit].Active == "active"
	if running {
		ctx, cancel := context.WithTimeoutCause(ctx, podsPatience, fmt.Errorf("they did not end within %s", podsPatience))
		err = w.stopPods(ctx)
		cancel()
	}
	switch {
	case !w.Containerd && !running:
		left, err := w.left()
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("containerd is %s, and processes of pods run that only it can end (%v)", all[containerdUnit].Active, left)
		}
		if err != nil {
			return fmt.Errorf("%w. containerd on this host was not installed by Quorate, so its containers are not killed without it. Start it (`systemctl start containerd`)", err)
		}
		return nil
	case !w.Containerd:
		if err != nil {
			return fmt.Errorf("%w. containerd on this host was not installed by Quorate, so its containers are not killed without it. Restart it (`systemctl restart containerd`)", err)
		}
		return nil
	case err != nil:
		w.note("pods were killed, because containerd did not stop them: %v", err)
	}
	if err := w.stop(ctx, containerdUnit); err != nil {
		return err
	}
	if err := w.kill(ctx); err != nil {
		return err
	}
	return w.stopSlice(ctx)
}

// stopSlice ends systemd's group of all pods, which is empty now.
func (w work) stopSlice(ctx context.Context) error {
	all, err := w.units(ctx, podsSlice)
	if err != nil || !all[podsSlice].Exists || all[podsSlice].Active == "inactive" {
		return err
	}
	return w.systemctl(ctx, "stop", podsSlice)
}

// volumes are the directories below which mounts belong to pods.
func (w work) volumes() []string {
	if !w.Node {
		return nil
	}
	out := []string{"/var/lib/kubelet", "/run/netns/cni-"}
	if w.Containerd {
		out = append(out, "/run/containerd", "/var/lib/containerd")
	}
	return out
}

// ofPods says that a path is below one of volumes.
func (w work) ofPods(path string) bool {
	return slices.ContainsFunc(w.volumes(), func(dir string) bool {
		return strings.HasPrefix(path, w.at(dir)+"/") || strings.HasSuffix(dir, "-") && strings.HasPrefix(path, w.at(dir))
	})
}

// unmountAll takes away what is mounted for pods, the innermost first. Nothing is removed below a mount: a volume on the
// network would lose its files.
func (w work) unmountAll(context.Context) error {
	mounts, err := w.mounts()
	if err != nil {
		return err
	}
	slices.Reverse(mounts) // what was mounted last comes first
	for _, m := range mounts {
		if !w.ofPods(m) {
			continue
		}
		if err := w.next(); err != nil {
			return err
		}
		if err := w.unmount(m); err != nil {
			return fmt.Errorf("unmounting %s: %w", m, err)
		}
	}
	return nil
}

// clearState removes what the cluster left. The data of etcd goes first: the files that say where it is, and that it belongs
// to a cluster, come after it.
func (w work) clearState() error {
	if !w.Node {
		return nil
	}
	state := stateOf
	for _, dir := range []string{w.EtcdData, w.EtcdWAL} {
		if dir != "" && dir != stateOf[0].path && !wholeSystem(dir) {
			state = append([]place{{path: dir, kind: tree}}, state...)
		}
	}
	return w.places(state)
}

// wholeSystem says that a directory of etcd is none that could be cleared, or moved, as a whole.
func wholeSystem(dir string) bool {
	return slices.Contains([]string{"/", "/etc", "/var", "/var/lib", "/home", "/root", "/srv", "/data", "/mnt", "/opt"}, filepath.Clean(dir))
}

// places clears places in order.
func (w work) places(all []place) error {
	mounts, err := w.mounts()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.own && w.Adopted {
			if p.path == hostconfig.RegistriesDir {
				if err := w.registries(); err != nil {
					return err
				}
			}
			continue
		}
		paths, err := filepath.Glob(w.at(p.path))
		if err != nil {
			return err
		}
		if p.kind == file && len(paths) == 0 && w.record.Files[p.path] != nil {
			paths = []string{w.at(p.path)} // it was there before
		}
		for _, path := range paths {
			if err := w.next(); err != nil {
				return err
			}
			if err := w.clear(p, path, mounts); err != nil {
				return fmt.Errorf("%s: %w", w.shown(path), err)
			}
		}
		if p.path == hostconfig.RegistriesDir {
			if err := w.registries(); err != nil {
				return err
			}
		}
		if p.kind == file {
			if err := w.clearTemporary(filepath.Dir(w.at(p.path))); err != nil {
				return err
			}
		}
	}
	return nil
}

// registries restores the files of registries that Quorate replaced, and removes those that it made in directories that stay. One
// that somebody else has written since is left as it is.
func (w work) registries() error {
	for _, path := range slices.Sorted(maps.Keys(w.record.Files)) {
		if filepath.Dir(filepath.Dir(path)) != hostconfig.RegistriesDir {
			continue
		}
		have, err := os.ReadFile(w.at(path))
		if err == nil && !bytes.HasPrefix(have, []byte(hostconfig.WrittenRegistry+"\n")) || err != nil && w.record.Files[path] == nil {
			continue
		}
		if err := w.restore(place{path: path, own: true}, w.at(path)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (w work) clear(p place, path string, mounts []string) error {
	switch p.kind {
	case file:
		return w.restore(p, path)
	case empty:
		if err := os.Remove(path); err == nil {
			w.removed(w.shown(path))
			return durable.SyncDir(filepath.Dir(path))
		}
		return nil // something is in it, or it is no directory
	}
	before := w.record.Directories[p.path]
	existed := before != nil
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	did := false
	for _, e := range entries {
		if p.kind == shared && existed && slices.Contains(before, e.Name()) {
			continue
		}
		if p.kind == shared && !has(w.record.Directories, p.path) && !w.leftByCluster(p.path, e.Name()) {
			continue // nobody knows whose it is
		}
		if err := w.removeTree(filepath.Join(path, e.Name()), mounts); err != nil {
			return err
		}
		did = true
	}
	keep := existed || slices.Contains(mounts, path)
	if !keep {
		if err := os.Remove(path); err == nil {
			w.removed(w.shown(path))
			return durable.SyncDir(filepath.Dir(path))
		}
	}
	if did {
		w.removed(w.shown(path) + "/*")
		return durable.SyncDir(path)
	}
	return nil
}

// removeTree removes a directory with everything in it. A mount point stays, and is emptied: a part of etcd's data may be on a disk
// of its own. The mounts of pods are gone by now; if one is not, nothing below it is touched.
func (w work) removeTree(path string, mounts []string) error {
	if err := w.next(); err != nil {
		return err
	}
	if !slices.ContainsFunc(mounts, func(m string) bool { return m == path || strings.HasPrefix(m, path+"/") }) {
		return w.remove(path)
	}
	if w.ofPods(path) {
		return fmt.Errorf("%s has a mount of a pod in it", w.shown(path))
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := w.removeTree(filepath.Join(path, e.Name()), mounts); err != nil {
			return err
		}
	}
	return nil
}

// leftByCluster recognises files in a shared directory of which was not noted what it held before.
func (w work) leftByCluster(dir, name string) bool {
	switch dir {
	case "/etc/cni/net.d":
		return strings.Contains(name, "flannel")
	case "/opt/cni/bin":
		return name == "flannel"
	case hostconfig.RegistriesDir:
		return bytes.HasPrefix(system.ReadAll(w.at(filepath.Join(dir, name, "hosts.toml"))), []byte(hostconfig.WrittenRegistry+"\n"))
	}
	return false
}

// restore brings a file back to how it was found, or removes it. Without a record, only what is certainly Quorate's goes.
func (w work) restore(p place, path string) error {
	before, noted := w.record.Files[p.path]
	if noted && before != nil {
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, before.Content) {
			if err := durable.WriteFile(path, before.Content, before.Mode); err != nil {
				return err
			}
			w.report.Restored = append(w.report.Restored, p.path)
		}
		if err := os.Chmod(path, before.Mode); err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			if err := os.Lchown(path, before.UID, before.GID); err != nil {
				return err
			}
		}
		return durable.Remove(path + facts.KeptSuffix)
	}
	if !noted && !strings.Contains(p.path, "quorate") && !w.ours(p.path) && !(p.own && w.Node) && !strings.HasPrefix(p.path, "/run/") {
		return nil
	}
	if err := durable.Remove(path); err != nil {
		return err
	}
	w.removed(w.shown(path))
	return nil
}

// clearTemporary removes what writers left in a directory that were killed.
func (w work) clearTemporary(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".quorate-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := w.remove(path); err != nil {
			return err
		}
	}
	return nil
}

// clearHosts removes Quorate's blocks from the hosts file.
func (w work) clearHosts() error {
	path := w.at(hostsFile)
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var rest bytes.Buffer
	inside := ""
	for line := range bytes.Lines(have) {
		text := strings.TrimSpace(string(line))
		name, begins := strings.CutPrefix(text, "# BEGIN quorate ")
		switch {
		case inside == "" && begins && bytes.Contains(have, []byte("# END quorate "+name)):
			inside = name
		case inside != "" && text == "# END quorate "+inside:
			inside = ""
		case inside == "":
			rest.Write(line)
		}
	}
	if bytes.Equal(rest.Bytes(), have) {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	w.report.Restored = append(w.report.Restored, hostsFile)
	return durable.Update(path, rest.Bytes(), info.Mode().Perm())
}

// clearLinks removes links to what is gone.
func (w work) clearLinks() error {
	for _, path := range slices.Sorted(maps.Keys(links)) {
		if target, err := os.Readlink(w.at(path)); err != nil || target != links[path] {
			continue
		}
		if err := durable.Remove(w.at(path)); err != nil {
			return err
		}
		w.removed(path)
		os.Remove(filepath.Dir(w.at(path))) //nolint:errcheck // others may have files in it
	}
	return nil
}

// restoreKernel sets kernel settings to what they were. Settings that cannot be written (in a container, or because what they
// belong to is gone) are noted.
func (w work) restoreKernel(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(w.record.Sysctls)) {
		path, want := w.at(facts.SysctlFile(name)), w.record.Sysctls[name]
		have, err := os.ReadFile(path)
		if err != nil || strings.Join(strings.Fields(string(have)), " ") == want {
			continue
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			w.note("%s stays %s (it was %s): %v", name, strings.TrimSpace(string(have)), want, err)
			continue
		}
		w.report.Restored = append(w.report.Restored, name+" = "+want)
	}
	for _, m := range slices.Sorted(maps.Keys(w.record.Modules)) {
		if !w.record.Modules[m] && system.Exists(w.at("/sys/module/"+m)) {
			if err := w.unload(ctx, m); err != nil {
				w.note("the kernel module %s stays loaded until the next start: something uses it", m)
			}
		}
	}
	return nil
}

// restoreUnits has systemd read what is left, and starts the units that ran before Quorate came. A keepalived is not started:
// its former configuration may claim an address that others use.
func (w work) restoreUnits(ctx context.Context, of []string) error {
	if err := w.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if err := w.recreate(ctx, "/run/haproxy"); err != nil {
		w.note("/run/haproxy is not as its package makes it: %v", err)
	}
	for _, name := range of {
		if name == containerdUnit && !w.Containerd {
			continue
		}
		all, err := w.units(ctx, name)
		if err != nil {
			return err
		}
		if all[name].Active == "failed" {
			if err := w.systemctl(ctx, "reset-failed", name); err != nil {
				return err
			}
		}
		before := w.record.Units[name]
		if !all[name].Exists || !before.Exists || !before.Enabled && !before.Active {
			continue
		}
		if name == "keepalived.service" {
			w.note("keepalived was in use before Quorate configured it. It stays stopped, because it could claim an address that others use. To start it: `systemctl enable --now keepalived`")
			continue
		}
		if before.Enabled && all[name].Enabled == "disabled" {
			if err := w.systemctl(ctx, "enable", name); err != nil {
				return err
			}
			w.report.Restored = append(w.report.Restored, name)
		}
		if before.Active && all[name].Active != "active" {
			if err := w.systemctl(ctx, "start", name); err != nil {
				w.note("%s ran before Quorate came and does not start: %v", name, err)
			}
		}
	}
	return nil
}

func names(all []unit) (out []string) {
	for _, u := range all {
		out = append(out, u.name)
	}
	return out
}

func (w work) clearPrograms() error {
	removed, err := programs.RemoveAll(w.root)
	for _, path := range removed {
		w.removed(w.shown(path))
	}
	if err != nil {
		return err
	}
	return w.places(bundles)
}

func has[V any](m map[string]V, key string) bool { _, ok := m[key]; return ok }

// recreate has systemd-tmpfiles make a directory again. Quorate's configuration of a unit made it differently.
func recreate(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) == 0 {
		err = os.Remove(dir)
	}
	if err != nil {
		return err
	}
	return system.Run(ctx, "systemd-tmpfiles", "--create", "--prefix="+dir)
}
