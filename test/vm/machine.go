package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// accelerator is how QEMU runs the machine's instructions.
type accelerator string

const (
	kvm accelerator = "kvm" // the processor runs them
	tcg accelerator = "tcg" // they are translated
)

// kvmGetAPIVersion is KVM_GET_API_VERSION of linux/kvm.h.
const kvmGetAPIVersion = 0xae00

// hasKVM says that this computer has KVM. Whether a machine boots with it is another question.
func hasKVM() bool {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	version, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	return err == nil && version == 12
}

// mode is how a machine runs.
type mode struct {
	accelerator accelerator
	// ownClock makes the machine's clock count its instructions, one nanosecond for each, instead of following this computer's. Timeouts in
	// the machine are then those of a computer with a slow processor, and not shorter by the factor by which the emulation is slower.
	ownClock bool
	// slow is by how much the limits of steps are multiplied.
	slow float64
	// small is whether the cluster is small.
	small bool
}

func (m mode) String() string {
	if m.ownClock {
		return string(m.accelerator) + " with its own clock"
	}
	return string(m.accelerator)
}

// machine is one virtual machine.
type machine struct {
	mode
	image  string
	tree   tree
	memory int // MiB
	disk   string
	// dir is where its console, and what it reports, are written.
	dir string
}

func (m *machine) console() string { return filepath.Join(m.dir, "console.log") }
func (m *machine) reports() string { return filepath.Join(m.dir, "report.jsonl") }
func (m *machine) log() string     { return filepath.Join(m.dir, "qemu.log") }

// arguments are those of QEMU.
func (m *machine) arguments() []string {
	value := func(s string) string { return strings.ReplaceAll(s, ",", ",,") } // within an option
	args := []string{
		"-name", "quorate-" + m.image, "-machine", "pc", "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot",
		"-kernel", m.tree.kernel, "-initrd", m.tree.initrd,
		// tsc=reliable: the others are so slow to read that an emulated machine does little else. Watchdogs of the kernel and its warnings of stalls
		// are for real processors.
		"-append", "root=/dev/vda rw console=ttyS0 panic=-1 fsck.mode=skip mitigations=off tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1",
		"-drive", "file=" + value(m.disk) + ",if=virtio,format=raw,cache=unsafe",
		"-device", "virtio-rng-pci",
		"-chardev", "file,id=console,path=" + value(m.console()), "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "file,id=report,path=" + value(m.reports()), "-device", "virtserialport,nr=1,chardev=report,name=" + portName,
	}
	switch {
	case m.accelerator == kvm:
		return append(args, "-accel", "kvm")
	case m.ownClock:
		// sleep=on: while the machine is idle, its clock follows this computer's.
		return append(args, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on,align=off", "-rtc", "base=utc,clock=vm")
	}
	return append(args, "-accel", "tcg,thread=multi")
}

// measured is how long a step took: by this computer's clock, and by the machine's.
type measured struct {
	Name           string  `json:"name"`
	Seconds        float64 `json:"seconds"`
	MachineSeconds float64 `json:"machineSeconds"`
	Error          string  `json:"error,omitempty"`
}

// outcome is what a run of a machine led to.
type outcome struct {
	// booted says that the program in the machine has begun.
	booted bool
	system string
	steps  []measured
}

// killLimit is how long QEMU may take to end when it was killed: a virtual processor that hangs in KVM can keep it for ever.
const killLimit = 30 * time.Second

// errNotBooted is that a machine did not begin the test.
var errNotBooted = errors.New("the machine did not boot")

// run boots the machine and returns when it has finished the test and is off. It calls say with each line that is to be shown. A machine that fails, exceeds a
// limit, or is no longer wanted is killed.
func (m *machine) run(ctx context.Context, say func(string)) (o outcome, err error) {
	for _, path := range []string{m.console(), m.reports()} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return o, err
		}
	}
	log, err := os.Create(m.log())
	if err != nil {
		return o, err
	}
	defer log.Close()
	r, err := openReport(m.reports())
	if err != nil {
		return o, err
	}
	defer r.Close()
	cmd := exec.Command("qemu-system-x86_64", m.arguments()...)
	cmd.Stdout, cmd.Stderr = log, log
	// It gets no signals from a terminal, and does not outlive this program.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	ended := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return o, err
	}
	go func() { ended <- cmd.Wait() }()
	running := true
	defer func() {
		if !running {
			return
		}
		cmd.Process.Kill()
		select {
		case <-ended:
		case <-time.After(killLimit):
			say("QEMU was killed and has not ended: it may be stuck in the kernel")
		}
	}()
	w := &watch{outcome: &o, say: say, slow: m.slow, now: time.Now}
	w.enter("", bootLimit)
	for {
		select {
		case <-ended:
			running = false
		default:
		}
		events, err := r.more()
		for _, e := range events {
			w.take(e)
		}
		switch {
		case err != nil:
			return o, err
		case w.finished && (!running || w.late()):
			return o, w.failed
		case !w.finished && !running:
			return o, fmt.Errorf("QEMU ended during the test: %s", m.lastWords())
		case !w.finished && w.late():
			return o, fmt.Errorf("%w: %s", w.lateness(), m.lastWords())
		}
		select {
		case <-ctx.Done():
			return o, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// lastWords are the ends of what QEMU and the console say.
func (m *machine) lastWords() string {
	said := "the console has printed nothing"
	if console := tail(m.console(), 15); console != "" {
		said = "the end of the console:\n" + console
	}
	if warnings := tail(m.log(), 5); warnings != "" {
		said += "\nand of what QEMU prints:\n" + warnings
	}
	return said
}

func tail(path string, lines int) string {
	data, _ := os.ReadFile(path)
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// watch follows what a machine reports.
type watch struct {
	outcome *outcome
	say     func(string)
	slow    float64
	now     func() time.Time

	step     string
	limit    time.Duration
	since    time.Time
	finished bool
	failed   error
}

// enter begins a step, or the time between two of them, which has no name.
func (w *watch) enter(step string, limit time.Duration) {
	w.step, w.since, w.limit = step, w.now(), time.Duration(float64(limit)*w.slow)
}

func (w *watch) late() bool { return w.now().Sub(w.since) > w.limit }

func (w *watch) lateness() error {
	switch {
	case !w.outcome.booted:
		return fmt.Errorf("%w within %s", errNotBooted, w.limit)
	case w.step == "":
		return fmt.Errorf("no step began within %s (-slow makes limits longer)", w.limit)
	}
	return fmt.Errorf("%s did not end within %s (-slow makes limits longer)", w.step, w.limit)
}

func (w *watch) take(e event) {
	switch e.Kind {
	case kindHello:
		w.outcome.booted, w.outcome.system = true, e.Text
		w.say(fmt.Sprintf("booted after %.0f s: %s", w.now().Sub(w.since).Seconds(), e.Text))
		w.enter("", bootLimit)
	case kindBegin:
		w.enter(e.Step, limitOf(e.Step))
		w.say(fmt.Sprintf("%s (at most %s)", e.Step, w.limit))
	case kindOutput:
		w.say("  " + e.Text)
	case kindEnd:
		took := w.now().Sub(w.since)
		w.outcome.steps = append(w.outcome.steps, measured{Name: e.Step, Seconds: took.Seconds(), MachineSeconds: e.Elapsed.Seconds(), Error: e.Error})
		w.say(fmt.Sprintf("%s: %.0f s, %.0f s by the machine's clock", e.Step, took.Seconds(), e.Elapsed.Seconds()))
		w.enter("", bootLimit)
	case kindFinished:
		w.finished = true
		if e.Error != "" {
			w.failed = errors.New(e.Error)
			if n := len(w.outcome.steps); n > 0 && w.outcome.steps[n-1].Error != "" {
				w.failed = fmt.Errorf("%s: %s", w.outcome.steps[n-1].Name, e.Error)
			}
		} else if len(w.outcome.steps) != len(steps) {
			w.failed = fmt.Errorf("the machine finished after %d of %d steps", len(w.outcome.steps), len(steps))
		}
		w.enter("", time.Minute) // to turn itself off
	}
}
