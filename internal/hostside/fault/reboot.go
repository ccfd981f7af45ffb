package fault

import (
	"context"
	"fmt"
	"os"
	"strings"

	"quorate.dev/quorate/internal/hostside/system"
)

// rebooting resets the host without ending anything first. systemctl has the kernel write what is in memory for the disks before that, so
// that users' files are not the price of a drill; etcd does not rely on it.
type rebooting struct{ *machine }

// initialPIDs is the kernel's first namespace of processes, whose number is fixed. Only a process in it can mean the computer when it
// reboots.
const initialPIDs = "pid:[4026531836]"

// look refuses whatever may be a container: a reset would be that of the computer below it, with everything else that runs there. All
// signs must agree, and a sign that cannot be read counts as one of a container.
func (b rebooting) look(ctx context.Context, r *record) error {
	if r.Target != targetHost {
		return fmt.Errorf("the fault %s: a host injects no %s of %q", r.ID, r.Kind, r.Target)
	}
	if kind := b.container(); kind != "" {
		return impossible("this host is a container (%s): a reset would be one of the computer below it", kind)
	}
	if inside, err := os.Readlink(b.at("/proc/self/ns/pid")); err != nil || inside != initialPIDs {
		return impossible("this host is not certain to be a computer of its own: its processes are in the namespace %q", inside)
	}
	if first := system.ReadTrimmed(b.at("/proc/1/comm")); first != "systemd" {
		return impossible("this host is not certain to be a computer of its own: its first process is %q instead of systemd", first)
	}
	// The exit status says as well that there is no container, as a failure.
	if out, _ := b.output(ctx, "systemd-detect-virt", "--container"); strings.TrimSpace(string(out)) != "none" {
		return impossible("this host is not certain to be a computer of its own: systemd-detect-virt --container says %q instead of none", strings.TrimSpace(string(out)))
	}
	r.What = "reset without a shutdown"
	return nil
}

// inject leaves a moment for the answer to the caller. It is systemctl that resets, which means the system that systemd runs.
func (b rebooting) inject(ctx context.Context, r *record) error {
	return b.run(ctx, "systemd-run", "--quiet", "--collect", "--unit="+newUnit(r.ID), "--on-active=200ms", "--timer-property=AccuracySec=10ms", "systemctl", "reboot", "--force", "--force")
}

func (rebooting) heal(context.Context, record) error { return nil }
