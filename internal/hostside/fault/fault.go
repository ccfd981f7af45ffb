// Package fault injects faults into the host that it runs on, each with a dead man's switch, heals them, and lists them.
//
// The switch is armed before the fault is injected: what healing needs is noted, and a timer of systemd is started that heals the fault
// after a while. It needs neither the network, nor the kubelet, nor containerd, nor space on a disk. All of that is below /run, so a
// reboot ends a fault as well; what a reboot would not undo is healed when the host starts. Every way of healing works on what an
// interrupted injection has left, and can be repeated.
package fault

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/system"
)

// Request is one fault of this host.
type Request struct {
	// ID names the fault on the host: lower-case letters, digits, and hyphens, 63 at most.
	ID string `json:"id"`
	// Kind and Target are words of package drill.
	Kind   string `json:"kind"`
	Target string `json:"target"`
	// Peers are addresses: for a cut of the host, or of one direction, and for loss, the other hosts of the cluster and the virtual
	// IPs; for a link, its other end; otherwise the other etcd members, or the other load balancers.
	Peers []string `json:"peers,omitempty"`
	// Percent is how many packets are lost, or how much of the memory that is available is taken.
	Percent int `json:"percent,omitempty"`
	// BytesPerSecond is how fast a slow disk is written.
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
	// Lasts is after how long the host heals the fault without being asked. Faults that happen once have none.
	Lasts time.Duration `json:"lasts"`
}

// Injected says what was done.
type Injected struct {
	// What is a description for people.
	What string `json:"what"`
	// PIDs are the processes that were killed or hung.
	PIDs []int `json:"pids,omitempty"`
	// Until is when the host heals the fault without being asked; zero for one that happens once.
	Until time.Time `json:"until,omitzero"`
}

// Current is a fault that is injected now.
type Current struct {
	Request
	What  string    `json:"what"`
	Until time.Time `json:"until"`
}

// Inject injects a fault. Repeating a request with the same ID does nothing as long as the fault is not healed or, for one that happens
// once, for half a minute. An error means that nothing is injected, or that its switch is healing it. See also IsImpossible.
var Inject = host.DefineChange("node.inject-fault", func(ctx context.Context, in Request) (Injected, error) { return local.inject(ctx, in) })

// Heal heals faults by their IDs, or all if there are none, and returns those that it healed. Healing one that is over is no error.
var Heal = host.Define("node.heal-faults", func(ctx context.Context, ids []string) ([]string, error) { return local.heal(ctx, ids...) })

// Active lists the faults that are injected on this host now.
var Active = host.Define("node.faults", func(context.Context, struct{}) ([]Current, error) { return local.active() }, host.Reads)

// Prepare installs what the switches of this host need, so that Inject does not have to: the first time it would take a second.
var Prepare = host.Define("node.prepare-faults", func(context.Context, struct{}) (struct{}, error) {
	_, err := local.install()
	return struct{}{}, err
})

// Expire is the dead man's switch: it heals faults by their IDs, or all if there are none.
func Expire(ctx context.Context, ids ...string) error {
	_, err := local.heal(ctx, ids...)
	return err
}

// Impossible says that a fault cannot be injected on this host, and why. IsImpossible recognizes it, also in the error of another host.
type Impossible struct{ Why string }

func (e Impossible) Error() string { return e.Why }

// Unwrap returns what keeps its identity on the way from the host.
func (e Impossible) Unwrap() error { return errImpossible }

var errImpossible = host.NewCause("impossible-fault", "this fault cannot be injected here")

// IsImpossible says that a fault was not injected because that is not possible on the host. The text of the error says why.
func IsImpossible(err error) bool { return errors.Is(err, errImpossible) }

func impossible(format string, args ...any) error { return Impossible{fmt.Sprintf(format, args...)} }

// Kinds of faults, in the words of package drill.
const (
	kindKill   = "kill"
	kindHang   = "hang"
	kindStop   = "stop"
	kindReboot = "reboot"
	kindCut    = "cut"
	kindLoss   = "loss"
	kindFill   = "fill"
	kindSlow   = "slow"
	kindPress  = "press"
)

// Targets that are no programs, in the words of package drill.
const (
	targetHost      = "host"
	targetIncoming  = "incoming"
	targetOutgoing  = "outgoing"
	targetVRRP      = "vrrp"
	targetEtcdPeers = "etcd-peers"
	targetLink      = "link"
	targetDisk      = "disk"
	targetMemory    = "memory"
	targetCPU       = "cpu"
)

const (
	// longest is how long a fault may last.
	longest = 24 * time.Hour
	// repeatedWithin is how soon after a fault that happens once a request counts as a repetition, and not as a new one.
	repeatedWithin = 30 * time.Second
	// healPatience is how long a fault that could not be injected may take to be healed before that is left to the switch.
	healPatience = 30 * time.Second
)

var validID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// once says that the fault happens in one moment, and that there is nothing to heal.
func (r Request) once() bool { return r.Kind == kindKill || r.Kind == kindReboot }

func (r Request) equal(o Request) bool {
	return r.Kind == o.Kind && r.Target == o.Target && slices.Equal(r.Peers, o.Peers) && r.Percent == o.Percent && r.BytesPerSecond == o.BytesPerSecond && r.Lasts == o.Lasts
}

// mechanism injects and heals the faults of one kind.
type mechanism interface {
	// look says whether the fault can be injected here, and notes in the record what would be done and what healing needs. It changes
	// nothing.
	look(ctx context.Context, r *record) error
	// inject injects what look found.
	inject(ctx context.Context, r *record) error
	// heal undoes what inject did, or began.
	heal(ctx context.Context, r record) error
}

// mechanism is that of a kind of fault; nil if a host does not inject it.
func (h *machine) mechanism(kind string) mechanism {
	switch kind {
	case kindKill:
		return killing{h}
	case kindHang:
		return hanging{h}
	case kindStop:
		return stopping{h}
	case kindReboot:
		return rebooting{h}
	case kindCut, kindLoss:
		return cutting{h}
	case kindFill:
		return filling{h}
	case kindSlow:
		return slowing{h}
	case kindPress:
		return pressing{h}
	}
	return nil
}

// machine is a host as this package sees it, and what it does to it besides reading and writing files. Tests have others.
type machine struct {
	// root is the directory that has the host's files; empty for the host itself.
	root string
	now  func() time.Time
	// install installs this program where a unit can run it, and returns its path. uninstall removes it.
	install   func() (string, error)
	uninstall func() error
	units     func(ctx context.Context, names ...string) (map[string]system.Unit, error)
	// systemctl and run run programs to their end; output returns what a program printed, also if it failed.
	systemctl func(ctx context.Context, args ...string) error
	run       func(ctx context.Context, name string, args ...string) error
	output    func(ctx context.Context, name string, args ...string) ([]byte, error)
	// containers are those of a name that run in pods of a namespace, and held counts what shows that a static pod has not ended.
	containers func(ctx context.Context, namespace, name string) ([]string, error)
	held       func(ctx context.Context, pod string) (int, error)
	signal     func(p process, s signal) error
	// addTables adds tables of nftables, and returns why optional ones are missing. removeTables removes those of a name.
	addTables    func(name string, all []table) (missing []string, err error)
	removeTables func(name string) error
	devices      func(peers []string) []string
	// container is the kind of container that the host is; empty for none. files describes the file system of a directory.
	container func() string
	files     func(path string) (fileSystem, error)
}

var local = &machine{
	now: time.Now, install: install, uninstall: uninstall, units: system.Units, systemctl: system.Systemctl, run: system.Run, output: system.Output,
	containers: containerd.IDsIn, held: containerd.Held, signal: sendSignal,
	addTables: addTables, removeTables: removeTables, devices: devicesTo,
	container: system.Container, files: fileSystemOf,
}

func (h *machine) inject(ctx context.Context, in Request) (Injected, error) {
	m := h.mechanism(in.Kind)
	switch {
	case !validID.MatchString(in.ID):
		return Injected{}, fmt.Errorf("%q is no ID of a fault: lower-case letters, digits, and hyphens, 63 at most", in.ID)
	case m == nil:
		return Injected{}, fmt.Errorf("%q is no kind of fault that a host injects", in.Kind)
	case !in.once() && (in.Lasts < time.Second || in.Lasts > longest):
		return Injected{}, fmt.Errorf("the fault %s lasts for %s: it must be between a second and %s", in.ID, in.Lasts, longest)
	}
	release, err := h.lock(ctx, in.ID)
	if err != nil {
		return Injected{}, err
	}
	defer release()
	have, err := h.read(in.ID)
	switch {
	case err != nil:
		return Injected{}, err
	case have == nil:
	case !have.Done: // its injection was cut short
		if err := h.undo(ctx, *have); err != nil {
			return Injected{}, err
		}
	case have.once() && h.now().Sub(have.At).Abs() > repeatedWithin:
		if err := h.forget(*have); err != nil {
			return Injected{}, err
		}
	case have.equal(in):
		return have.Injected, nil
	default:
		return Injected{}, fmt.Errorf("the fault %s is injected on this host, and it is another one (%s): heal it first", in.ID, have.What)
	}
	if err := h.collides(in); err != nil {
		return Injected{}, err
	}
	r := &record{Request: in, At: h.now()}
	if err := m.look(ctx, r); err != nil {
		return Injected{}, err
	}
	if in.once() {
		if err := m.inject(ctx, r); err != nil {
			return Injected{}, err
		}
		r.Done = true
		return r.Injected, h.write(*r)
	}
	if err := h.hold(ctx, m, r); err != nil {
		// Also if the caller is gone, and without the deadline that may have been the reason.
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), healPatience)
		defer cancel()
		return Injected{}, errors.Join(err, h.undo(after, *r))
	}
	return r.Injected, nil
}

// hold injects a fault that lasts, after its switch was armed.
func (h *machine) hold(ctx context.Context, m mechanism, r *record) error {
	program, err := h.install()
	if err != nil {
		return fmt.Errorf("installing the program that heals the fault: %w", err)
	}
	r.Until = h.now().Add(r.Lasts)
	if err := h.write(*r); err != nil {
		return fmt.Errorf("noting the fault before it is injected: %w", err)
	}
	if err := h.arm(ctx, program, *r); err != nil {
		return fmt.Errorf("arming the switch that heals the fault: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Lasts, fmt.Errorf("it was not injected within the %s that it should last", r.Lasts))
	defer cancel()
	if err := m.inject(ctx, r); err != nil {
		return err
	}
	// The switch does not wait forever for an injection to end.
	if noted, err := h.read(r.ID); err != nil || noted == nil {
		return errors.Join(err, errors.New("the switch has healed the fault while it was being injected"))
	}
	r.Done = true
	return h.write(*r)
}

// collides is an error if a fault concerns what another one concerns already: to heal one of them would heal the other.
func (h *machine) collides(in Request) error {
	if in.once() || in.Kind == kindCut || in.Kind == kindLoss {
		return nil
	}
	all, err := h.active()
	if err != nil {
		return err
	}
	for _, f := range all {
		if f.ID != in.ID && f.Kind == in.Kind && f.Target == in.Target {
			return fmt.Errorf("the fault %s is injected on this host and concerns the same (%s): heal it first", f.ID, f.What)
		}
	}
	return nil
}

func (h *machine) heal(ctx context.Context, ids ...string) ([]string, error) {
	healed, all := []string{}, len(ids) == 0
	if all {
		ids = h.ids()
	}
	var errs []error
	for _, id := range ids {
		switch did, err := h.healOne(ctx, id); {
		case err != nil:
			errs = append(errs, err)
		case did:
			healed = append(healed, id)
		}
	}
	if all && len(errs) == 0 && len(h.ids()) == 0 {
		errs = append(errs, h.uninstall())
	}
	return healed, errors.Join(errs...)
}

func (h *machine) healOne(ctx context.Context, id string) (did bool, err error) {
	if !validID.MatchString(id) {
		return false, fmt.Errorf("%q is no ID of a fault", id)
	}
	release, err := h.lock(ctx, id)
	if err == nil {
		defer release()
	} else if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	// Without the lock, somebody is injecting for much too long. It notices that the fault is not noted any more.
	r, err := h.read(id)
	if err != nil {
		return false, err
	}
	if r == nil {
		return false, h.disarm(ctx, id)
	}
	return !r.once(), h.undo(ctx, *r)
}

// undo heals a fault, and forgets it only then: until that, its switch tries again.
func (h *machine) undo(ctx context.Context, r record) error {
	m := h.mechanism(r.Kind)
	if m == nil {
		return fmt.Errorf("healing the fault %s: this version of quorate does not know the kind %q", r.ID, r.Kind)
	}
	if err := m.heal(ctx, r); err != nil {
		return fmt.Errorf("healing the fault %s: %w", r.ID, err)
	}
	if err := h.forget(r); err != nil {
		return fmt.Errorf("healing the fault %s: %w", r.ID, err)
	}
	if r.once() {
		return nil
	}
	return h.disarm(ctx, r.ID)
}

func (h *machine) active() ([]Current, error) {
	out := []Current{}
	for _, id := range h.ids() {
		r, err := h.read(id)
		if err != nil {
			return nil, err
		}
		if r != nil && !r.once() {
			out = append(out, Current{r.Request, r.What, r.Until})
		}
	}
	return out, nil
}
