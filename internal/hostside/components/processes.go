package components

import (
	"context"
	"debug/buildinfo"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// modulesOf are the Go modules whose versions are those of programs.
var modulesOf = map[string]string{
	apiServer: "k8s.io/kubernetes", facts.ControllerManager: "k8s.io/kubernetes", facts.Scheduler: "k8s.io/kubernetes", facts.KubeProxy: "k8s.io/kubernetes",
	facts.Kubelet: "k8s.io/kubernetes", flanneld: "github.com/flannel-io/flannel", "quorate": "quorate.dev/quorate", facts.Etcd: "go.etcd.io/etcd/server/v3",
}

// process is a running process.
type process struct {
	pid  int
	args []string // with the name
}

// name is the program's own.
func (p process) name() string { return filepath.Base(p.args[0]) }

// processes are those of the programs in modulesOf, by program.
type processes map[string][]process

// findProcesses reads the process table. Programs of a cluster inside a pod of this cluster do not count: they are in a PID
// namespace below those of this host's own containers.
func findProcesses(proc string) processes {
	short := map[string]bool{}
	for name := range modulesOf {
		short[name[:min(len(name), 15)]] = true // the kernel keeps no more of a name
	}
	own := depth(filepath.Join(proc, "self"))
	out := processes{}
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !short[system.ReadTrimmed(filepath.Join(dir, "comm"))] {
			continue
		}
		p := process{pid, arguments(dir)}
		if p.args == nil || modulesOf[p.name()] == "" || depth(dir) > own+1 {
			continue
		}
		out[p.name()] = append(out[p.name()], p)
	}
	return out
}

// arguments are those of a process with its name before them; nil when it has ended.
func arguments(dir string) []string {
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(line) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
}

// depth is how many PID namespaces a process is in.
func depth(dir string) int {
	for line := range strings.Lines(system.ReadTrimmed(filepath.Join(dir, "status"))) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(ids))
		}
	}
	return 1
}

// find finds the process of a program of the cluster. If several have its name, for example because the user runs another
// scheduler, containerd knows which of them is in kubeadm's pod.
func (a *attempt) find(ctx context.Context, name string) (process, bool) {
	found := a.processes()[name]
	if len(found) < 2 {
		if len(found) == 0 {
			return process{}, false
		}
		return found[0], true
	}
	ids := map[string]process{}
	for _, p := range found {
		if id := a.containerOf(p); id != "" {
			ids[id] = p
		}
	}
	var keys []string
	for id := range ids {
		keys = append(keys, id)
	}
	if len(keys) == 0 {
		return process{}, false
	}
	known, err := a.containers(ctx, keys...)
	if err != nil {
		return process{}, false
	}
	for id, c := range known {
		if inPodOf(c.Labels, name) {
			return ids[id], true
		}
	}
	return process{}, false
}

var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

// containerOf is the ID of the container that a process is in; empty outside of all.
func (a *attempt) containerOf(p process) string {
	ids := containerID.FindAllString(system.ReadTrimmed(filepath.Join(a.proc, strconv.Itoa(p.pid), "cgroup")), -1)
	if len(ids) == 0 {
		return ""
	}
	return ids[len(ids)-1]
}

// programVersion is the version of a program that runs in a container.
func (a *attempt) programVersion(ctx context.Context, name string) string {
	p, ok := a.find(ctx, name)
	if !ok {
		return ""
	}
	if v := a.builtFrom(p.pid, name); v != "" {
		return v
	}
	// Kubernetes' own releases do not have their version there. The tag of the image has it.
	id := a.containerOf(p)
	if id == "" {
		return ""
	}
	known, err := a.containers(ctx, id)
	if err != nil {
		return ""
	}
	return Tag(known[id].Image)
}

// Tag is the version in the name of an image; empty if it has none.
func Tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, ok := strings.Cut(path.Base(image), ":")
	if !ok || !versionWord.MatchString(tag) {
		return ""
	}
	return tag
}

// inContainer reads the version of a program that runs in a container, and since when it does.
func (a *attempt) inContainer(ctx context.Context, c *facts.Component, program string) {
	c.Version = a.programVersion(ctx, program)
	if p, ok := a.find(ctx, program); ok {
		c.Started = a.started(p.pid)
	}
}

// startOf is when a program was started that runs in a static pod, or, on a host of an external etcd, as a unit; zero if that cannot be
// determined.
func startOf(ctx context.Context, a *attempt, name string) time.Time {
	ctx, cancel := a.bound(ctx)
	defer cancel()
	if name == facts.Etcd {
		states, err := a.states(ctx)
		if err != nil {
			return time.Time{}
		}
		if unit := states[hostconfig.EtcdUnit]; unit.Exists {
			if unit.PID == 0 {
				return time.Time{}
			}
			return a.started(unit.PID)
		}
	}
	p, ok := a.find(ctx, name)
	if !ok {
		return time.Time{}
	}
	return a.started(p.pid)
}

// started is when a process was started; zero if that cannot be determined.
func (a *attempt) started(pid int) time.Time {
	ticks, ok := system.StartTicks(filepath.Join(a.proc, strconv.Itoa(pid), "stat"))
	uptime, _, _ := strings.Cut(system.ReadTrimmed(filepath.Join(a.proc, "uptime")), " ")
	seconds, err := strconv.ParseFloat(uptime, 64)
	if !ok || err != nil {
		return time.Time{}
	}
	const perSecond = 100 // USER_HZ, which is the same on all architectures that Kubernetes runs on
	return time.Now().Add(time.Duration((float64(ticks)/perSecond - seconds) * float64(time.Second)))
}

func (a *attempt) exe(pid int) string { return filepath.Join(a.proc, strconv.Itoa(pid), "exe") }

// builtFrom is the module version from which a running program was built, even if its file has been replaced or deleted since;
// empty if the program does not contain it.
func (a *attempt) builtFrom(pid int, name string) string {
	info, err := buildinfo.ReadFile(a.exe(pid))
	if err != nil {
		return ""
	}
	return moduleVersion(info, modulesOf[name])
}

func moduleVersion(info *debug.BuildInfo, want string) string {
	all := append([]*debug.Module{&info.Main}, info.Deps...)
	i := slices.IndexFunc(all, func(m *debug.Module) bool { return m.Path == want })
	if i < 0 || !semver.IsValid(all[i].Version) {
		return ""
	}
	if v := all[i].Version; want == modulesOf["quorate"] {
		return v
	} else if module.IsPseudoVersion(v) {
		return "" // built from a commit: the version is stamped elsewhere
	} else {
		return semver.Canonical(v)
	}
}

// running fills in what can be known about the process of a systemd unit: its version, and whether its file was replaced.
func (a *attempt) running(ctx context.Context, c *facts.Component, pid int) {
	args := arguments(filepath.Join(a.proc, strconv.Itoa(pid)))
	if pid == 0 || args == nil {
		return
	}
	if running, err := os.Stat(a.exe(pid)); err == nil {
		installed, err := os.Stat(args[0])
		c.Replaced = errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(running, installed)
	}
	c.Started = a.started(pid)
	name := filepath.Base(args[0])
	if c.Version == "" && modulesOf[name] != "" {
		c.Version = a.builtFrom(pid, name)
	}
	if flag := versionFlags[name]; c.Version == "" && flag != "" {
		c.Version = said(ctx, a.exe(pid), name, flag)
	}
}

// versionFlags make those programs print their version whose build information does not have it.
var versionFlags = map[string]string{facts.Kubelet: "--version", facts.HAProxy: "-v", facts.Keepalived: "--version"}

var (
	versionWord = regexp.MustCompile(`^v?\d+\.\d+\S*$`)
	versionText = regexp.MustCompile(`\bv?\d+\.\d+[^\s,;)]*`)
)

// said returns the first version that a program prints.
func said(ctx context.Context, exe, name, flag string) string {
	out, err := system.Command{Name: exe, As: name, Args: []string{flag}}.CombinedOutput(ctx)
	if err != nil {
		return ""
	}
	return versionText.FindString(string(out))
}
