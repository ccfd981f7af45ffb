package fault

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"strconv"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// ProgramPath is a copy of quorate for the switches of a host that has none of the same build. It is where SELinux lets systemd execute
// it, and where it stays if another caller has its own program uploaded. It goes when all faults are healed with one request.
const ProgramPath = "/usr/local/bin/quorate-faults"

// healAgain is after how long the switch tries again to heal a fault that could not be healed.
const healAgain = 2 * time.Second

// urgent is what programs of the switch need on a host that has hardly any processor time or memory left.
var urgent = []string{"--property=Nice=-15", "--property=CPUWeight=1000", "--property=OOMScoreAdjust=-1000"}

// install returns the path of a program of the same build that systemd can execute.
func install() (string, error) {
	for _, path := range []string{hostconfig.SelfPath, ProgramPath} {
		if have, err := files.Self(path); err == nil && have == facts.SameCopy {
			return path, nil
		}
	}
	return ProgramPath, files.CopySelf(ProgramPath)
}

func uninstall() error { return durable.Remove(ProgramPath) }

// An ID has no underscore, so units of one fault are never those of another one. The rest of the name is new each time: systemd may not
// have forgotten the units of an earlier fault of the same ID.
func unitPrefix(id string) string { return "quorate-fault-" + id + "_" }

func newUnit(id string) string { return unitPrefix(id) + rand.Text()[:10] }

// milliseconds is a time as systemd reads it.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// arm starts the timer that heals a fault. It elapses again and again until the fault is healed.
func (h *machine) arm(ctx context.Context, program string, r record) error {
	args := append([]string{"--quiet", "--collect", "--unit=" + newUnit(r.ID), "--description=Heals the fault " + r.ID,
		"--on-active=" + milliseconds(r.Lasts), "--on-unit-inactive=" + milliseconds(healAgain), "--timer-property=AccuracySec=50ms",
		"--service-type=oneshot", "--property=TimeoutStartSec=60"}, urgent...)
	return h.run(ctx, "systemd-run", append(args, program, "host", commandHeal, r.ID)...)
}

// disarm stops the timer of a fault. It does not stop the service of the timer, which may be the one that calls it.
func (h *machine) disarm(ctx context.Context, id string) error {
	return h.systemctl(ctx, "stop", unitPrefix(id)+"*.timer")
}

// BootUnitFiles are the file of a unit that heals what a reboot would not end, and the link by which systemd starts it when the host
// starts. They exist as long as there is such a fault.
var BootUnitFiles = []string{"/etc/systemd/system/quorate-heal-faults.service", "/etc/systemd/system/multi-user.target.wants/quorate-heal-faults.service"}

func bootUnit(program string) string {
	return `[Unit]
Description=Heals the faults of a drill that were injected before this host started
Before=kubelet.service
RequiresMountsFor=` + VarDir + ` ` + filepath.Dir(program) + `

[Service]
Type=oneshot
ExecStart=` + program + ` host ` + commandHeal + `

[Install]
WantedBy=multi-user.target
`
}

func (h *machine) addBootUnit(program string) error {
	if err := durable.WriteFile(h.at(BootUnitFiles[0]), []byte(bootUnit(program)), 0o644); err != nil {
		return err
	}
	// This is what `systemctl enable` does, which would also reload all units. The running systemd need not know this one.
	return durable.Symlink(BootUnitFiles[0], h.at(BootUnitFiles[1]))
}

func (h *machine) removeBootUnit() error {
	for _, path := range []string{BootUnitFiles[1], BootUnitFiles[0]} {
		if !system.Exists(h.at(path)) {
			continue
		}
		if err := durable.Remove(h.at(path)); err != nil {
			return err
		}
	}
	return nil
}
