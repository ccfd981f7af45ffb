package fault

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/staticpod"
)

// EndPatience is how long a program may take to end that is stopped: the kubelet gives a pod half a minute, and systemd a unit a minute and a half. The
// switch is armed before, so a request to stop one lasts this much longer.
const EndPatience = 100 * time.Second

// stopping ends programs as an operator would, and keeps them from being started again.
type stopping struct{ *machine }

func (s stopping) look(ctx context.Context, r *record) error {
	p, err := programOf(r.Target)
	if err != nil {
		return err
	}
	if p.unit != "" {
		all, err := s.units(ctx, p.unit)
		if err != nil {
			return err
		}
		if state := all[p.unit].Active; slices.Contains([]string{"active", "activating", "reloading"}, state) {
			r.Unit, r.What = p.unit, "stopped "+p.unit
			return nil
		} else if p.pod == "" {
			return impossible("%s does not run on this host: %s is %s", r.Target, p.unit, state)
		}
	}
	switch {
	case p.pod == "":
		return impossible("%s runs in pods that a DaemonSet or a Deployment replaces, so it cannot be stopped on one host; it can be killed and hung", r.Target)
	case slices.Contains(s.pods().Withdrawn(), p.pod):
		return impossible("the static pod %s is set aside for a maintenance of this host", p.pod)
	case !system.Exists(s.at(filepath.Join(staticpod.Dir, p.pod+".yaml"))):
		return impossible("%s does not run on this host", r.Target)
	}
	r.Pod, r.What = p.pod, "ended the static pod "+p.pod+", whose manifest is set aside"
	return nil
}

func (s stopping) pods() withdrawal.Host { return withdrawal.Host{Root: s.root} }

func (s stopping) inject(ctx context.Context, r *record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, EndPatience, fmt.Errorf("not within %s", EndPatience))
	defer cancel()
	if r.Pod != "" {
		program, err := s.install()
		if err == nil {
			err = s.addBootUnit(program)
		}
		if err != nil {
			return fmt.Errorf("noting that the static pod %s returns when this host starts: %w", r.Pod, err)
		}
		return s.pods().Withdraw(ctx, r.Pod, s.held)
	}
	if err := durable.WriteFile(s.dropIn(*r), []byte(kept(s.path(*r))), 0o644); err != nil {
		return err
	}
	if err := s.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	return s.run(ctx, "systemctl", "stop", r.Unit)
}

// dropIn keeps a unit from being started by systemd, by other units that want it, by a repair, and by an operator. It is below /run,
// so it is gone after a reboot. A unit cannot be masked there if its file is in /etc, which is where those of Kubernetes are.
func (s stopping) dropIn(r record) string {
	return s.at(filepath.Join("/run/systemd/system", r.Unit+".d", "90-quorate-fault.conf"))
}

// kept is an assertion and not a condition: with a condition, starting the unit would seem to succeed.
func kept(record string) string {
	return "# A drill has stopped this unit, for as long as the file exists.\n[Unit]\nAssertPathExists=!" + record + "\n"
}

func (s stopping) heal(ctx context.Context, r record) error {
	if r.Pod != "" {
		return s.pods().Return(r.Pod)
	}
	path := s.dropIn(r)
	if system.Exists(path) {
		if err := durable.Remove(path); err != nil {
			return err
		}
		os.Remove(filepath.Dir(path)) //nolint:errcheck // others may have files in it
	}
	// Also if the file is gone already: an earlier attempt may have been cut short here.
	if err := s.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	// It is healed when it may start again. How long that takes is measured.
	return s.systemctl(ctx, "start", "--no-block", r.Unit)
}
