package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// containerdPatience is how long containerd may take to say which containers run.
const containerdPatience = 10 * time.Second

const (
	kubeSystem  = "kube-system"
	kubeFlannel = "kube-flannel"
	etcdTarget  = "etcd"
)

// program is how a program of a cluster runs on its hosts: as a unit of systemd, in a static pod, or in pods of a controller.
type program struct {
	unit string
	// all says that the main process of the unit has started others that belong to it. What containerd has started does not.
	all bool
	// pod is the static pod, whose container has the same name.
	pod string
	// namespaces and containers are where it runs otherwise.
	namespaces, containers []string
}

// programs are those that can be killed, hung, and stopped, by the words of package drill.
var programs = map[string]program{
	facts.APIServer:         {pod: facts.APIServer},
	facts.ControllerManager: {pod: facts.ControllerManager},
	facts.Scheduler:         {pod: facts.Scheduler},
	etcdTarget:              {unit: hostconfig.EtcdUnit, pod: etcdTarget},
	facts.Kubelet:           {unit: "kubelet.service"},
	"containerd":            {unit: "containerd.service"},
	"haproxy":               {unit: "haproxy.service", all: true},
	"keepalived":            {unit: "keepalived.service", all: true},
	"watchdog":              {unit: hostconfig.WatchdogUnit},
	facts.KubeProxy:         {namespaces: []string{kubeSystem}, containers: []string{facts.KubeProxy}},
	"coredns":               {namespaces: []string{kubeSystem}, containers: []string{"coredns"}},
	// In the project's own manifest, and in clusters that were adopted, its container has another name than in Quorate's.
	"flannel": {namespaces: []string{kubeFlannel, kubeSystem}, containers: []string{"flannel", "kube-flannel"}},
}

func programOf(target string) (program, error) {
	p, known := programs[target]
	if !known {
		return p, fmt.Errorf("%q is no program of a cluster", target)
	}
	return p, nil
}

// process is a process that is not mistaken for a later one with the same ID.
type process struct {
	PID int `json:"pid"`
	// Start is when it began, in clock ticks since the kernel did.
	Start uint64 `json:"start"`
}

// concerns notes which processes of its target a fault concerns, and what is done to them.
func (r *record) concerns(all []process, did string) {
	r.Processes, r.PIDs = all, nil
	var names []string
	for _, p := range all {
		r.PIDs = append(r.PIDs, p.PID)
		names = append(names, strconv.Itoa(p.PID))
	}
	what := "process"
	if len(all) > 1 {
		what = "processes"
	}
	r.What = fmt.Sprintf("%s %s (%s %s)", did, r.Target, what, strings.Join(names, ", "))
}

// processesOf are the processes of a program of this host's cluster, those first that start others. They are found by the unit or the
// container that they belong to, because a process of another cluster, or of a machine on the same computer, can have the same name.
func (h *machine) processesOf(ctx context.Context, target string) ([]process, error) {
	p, err := programOf(target)
	if err != nil {
		return nil, err
	}
	if p.unit != "" {
		all, err := h.units(ctx, p.unit)
		if err != nil {
			return nil, err
		}
		if main := all[p.unit].PID; main != 0 {
			out := h.tree(main, p.all)
			if len(out) == 0 {
				err = fmt.Errorf("the main process of %s, %d, has just ended", p.unit, main)
			}
			return out, err
		}
		if p.pod == "" {
			return nil, impossible("%s does not run on this host: %s is %s", target, p.unit, cmp.Or(all[p.unit].Active, "unknown"))
		}
	}
	if p.pod != "" {
		p.namespaces, p.containers = []string{kubeSystem}, []string{p.pod}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, containerdPatience, fmt.Errorf("containerd does not say which containers run, for %s", containerdPatience))
	defer cancel()
	var ids []string
	for _, namespace := range p.namespaces {
		for _, name := range p.containers {
			some, err := h.containers(ctx, namespace, name)
			if err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return nil, err
			}
			ids = append(ids, some...)
		}
	}
	out := h.within(ids)
	if len(out) == 0 {
		return nil, impossible("%s does not run on this host", target)
	}
	return out, nil
}

// running is a process with what its files in /proc say.
type running struct {
	process
	parent int
	dir    string
}

// table reads the process table, in the order of the IDs. Processes that have ended, and that nobody has collected, are left out.
func (h *machine) table() (out []running) {
	dirs, _ := filepath.Glob(h.at("/proc/[0-9]*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		start, ok := system.StartTicks(filepath.Join(dir, "stat"))
		if err != nil || !ok {
			continue
		}
		if state := status(dir, "State"); !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
			parent, _ := strconv.Atoi(status(dir, "PPid"))
			out = append(out, running{process{pid, start}, parent, dir})
		}
	}
	slices.SortFunc(out, func(a, b running) int { return cmp.Compare(a.PID, b.PID) })
	return out
}

// status is a field of the file status of a process's directory in /proc.
func status(dir, field string) string {
	for line := range strings.Lines(system.ReadTrimmed(filepath.Join(dir, "status"))) {
		if key, value, _ := strings.Cut(line, ":"); key == field {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// tree is a process and, with descendants, everything that it has started, parents first.
func (h *machine) tree(main int, descendants bool) (out []process) {
	table := h.table()
	for _, r := range table {
		if r.PID == main {
			out = append(out, r.process)
		}
	}
	for i := 0; descendants && i < len(out); i++ {
		for _, r := range table {
			if r.parent == out[i].PID && !slices.Contains(out, r.process) {
				out = append(out, r.process)
			}
		}
	}
	return out
}

// within are the processes in containers.
func (h *machine) within(ids []string) (out []process) {
	for _, r := range h.table() {
		groups := system.ReadTrimmed(filepath.Join(r.dir, "cgroup"))
		if slices.ContainsFunc(ids, func(id string) bool { return id != "" && strings.Contains(groups, id) }) {
			out = append(out, r.process)
		}
	}
	return out
}

type signal = syscall.Signal

// sendSignal sends a signal to a process. That it has ended is the error os.ErrProcessDone.
func sendSignal(p process, s signal) error {
	// The handle is taken before the comparison: from then on it means the same process, or none.
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer handle.Release() //nolint:errcheck // nothing depends on it
	if start, ok := system.StartTicks(filepath.Join("/proc", strconv.Itoa(p.PID), "stat")); !ok || start != p.Start {
		return os.ErrProcessDone
	}
	return handle.Signal(s)
}

// sendAll sends a signal to processes and returns how many there were. One that has ended is no error.
func (h *machine) sendAll(all []process, s signal) (n int, err error) {
	var errs []error
	for _, p := range all {
		switch err := h.signal(p, s); {
		case err == nil:
			n++
		case !errors.Is(err, os.ErrProcessDone):
			errs = append(errs, fmt.Errorf("process %d: %w", p.PID, err))
		}
	}
	return n, errors.Join(errs...)
}

// killing kills processes. Whatever runs them starts them again.
type killing struct{ *machine }

func (k killing) look(ctx context.Context, r *record) error {
	all, err := k.processesOf(ctx, r.Target)
	r.concerns(all, "killed")
	return err
}

func (k killing) inject(_ context.Context, r *record) error {
	n, err := k.sendAll(r.Processes, syscall.SIGKILL)
	if err == nil && n == 0 {
		err = errors.New("it ended before it could be killed")
	}
	if err != nil {
		return fmt.Errorf("killing %s: %w", r.Target, err)
	}
	return nil
}

func (killing) heal(context.Context, record) error { return nil }

// hanging suspends processes. One that is killed and started again meanwhile, for example by the kubelet, runs: that something notices
// a hung program and starts it again is what a drill is to find out.
type hanging struct{ *machine }

func (s hanging) look(ctx context.Context, r *record) error {
	all, err := s.processesOf(ctx, r.Target)
	r.concerns(all, "suspended")
	return err
}

// rounds is how often processes are looked for that others have started before they were suspended.
const rounds = 5

func (s hanging) inject(ctx context.Context, r *record) error {
	fresh := r.Processes
	for range rounds {
		switch n, err := s.sendAll(fresh, syscall.SIGSTOP); {
		case err != nil:
			return fmt.Errorf("suspending %s: %w", r.Target, err)
		case n == 0:
			return fmt.Errorf("suspending %s: it has ended", r.Target)
		}
		now, err := s.processesOf(ctx, r.Target)
		if err != nil {
			return fmt.Errorf("suspending %s: %w", r.Target, err)
		}
		if fresh = slices.DeleteFunc(now, func(p process) bool { return slices.Contains(r.Processes, p) }); len(fresh) == 0 {
			return nil
		}
		r.concerns(slices.Concat(r.Processes, fresh), "suspended")
		if err := s.write(*r); err != nil {
			return err
		}
	}
	return fmt.Errorf("suspending %s: it starts processes faster than they can be suspended", r.Target)
}

// heal lets the processes go on, and no others: those that were started by others first.
func (s hanging) heal(_ context.Context, r record) error {
	all := slices.Clone(r.Processes)
	slices.Reverse(all)
	_, err := s.sendAll(all, syscall.SIGCONT)
	return err
}
