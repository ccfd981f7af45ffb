package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/loopdisk"
	"quorate.dev/quorate/internal/progress"
)

const (
	bootTimeout = 2 * time.Minute
	killTimeout = 30 * time.Second
	// pidFile is in a machine's folder.
	pidFile = "pid"
)

// addMachines creates the disks of all machines, connects them, and boots them in parallel.
func (l *Lab) addMachines(ctx context.Context, machines []Machine, sink progress.Sink) error {
	if err := l.makeSudoPassword(); err != nil {
		return err
	}
	err := l.each(machines, func(m Machine) error { return l.makeDisk(m) })
	if err != nil {
		return err
	}
	if err := l.writeKnownHosts(); err != nil {
		return err
	}
	return l.powerOn(ctx, machines, sink)
}

func (l *Lab) powerOn(ctx context.Context, machines []Machine, sink progress.Sink) error {
	return l.each(machines, func(m Machine) error {
		return progress.Track(ctx, sink, m.Name, "lab/boot/"+m.Name, "boot", func(ctx context.Context) error {
			return l.PowerOn(ctx, m.Name)
		})
	})
}

// PowerOn boots a machine from its disk, with the same addresses, and returns when it answers on its SSH
// port. It does nothing if the machine is running.
func (l *Lab) PowerOn(ctx context.Context, name string) error {
	m, err := l.Machine(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not up within %s", bootTimeout))
	defer cancel()
	if err := l.start(ctx, m); err != nil {
		return fmt.Errorf("power on %s: %w", name, err)
	}
	if err := l.waitSSH(ctx, m); err != nil {
		return fmt.Errorf("power on %s: wait for its SSH port: %w; end of its console output:\n%s", name, err, l.consoleTail(m))
	}
	return nil
}

// start boots a machine that is off until its PID 1 runs.
func (l *Lab) start(ctx context.Context, m Machine) error {
	unlock, err := l.lockPower(ctx, m)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := l.group(m.Name)
	if err != nil || g.running() {
		return err
	}
	if err := l.clear(ctx, m, g); err != nil {
		return err
	}
	if err := l.ensureCore(ctx); err != nil {
		return err
	}
	if err := l.plugIn(m); err != nil {
		return err
	}
	if err := l.writeSpec(m); err != nil {
		return err
	}
	return l.run(ctx, m)
}

// PowerOff simulates a power failure: the link goes down first, so that not even a reset gets out, and then every process of
// the machine is killed. The disk keeps what had reached it in a lab with OwnDisks, and otherwise all that was written.
func (l *Lab) PowerOff(ctx context.Context, name string) error {
	m, err := l.Machine(name)
	if err != nil {
		return err
	}
	if err := l.linkDown(m); err != nil {
		return fmt.Errorf("power off %s: %w", name, err)
	}
	unlock, err := l.lockPower(ctx, m)
	if err != nil {
		return fmt.Errorf("power off %s: %w", name, err)
	}
	defer unlock()
	g, err := l.group(name)
	if err == nil && l.rec.OwnDisks && g.running() {
		err = l.cutDisk(m)
	}
	if err == nil {
		err = l.clear(ctx, m, g)
	}
	if err != nil {
		return fmt.Errorf("power off %s: %w", name, err)
	}
	return nil
}

// cutDisk cuts the power of the disk of a running machine. The disk is mounted only in the machine.
func (l *Lab) cutDisk(m Machine) error {
	pid, err := os.ReadFile(filepath.Join(l.machineDir(m.Name), pidFile))
	if err != nil {
		return err
	}
	return loopdisk.Cut(filepath.Join("/proc", strings.TrimSpace(string(pid)), "root", "var"))
}

func (l *Lab) lockPower(ctx context.Context, m Machine) (unlock func(), err error) {
	return lock(ctx, filepath.Join(l.dir, "."+m.Name+".power"))
}

// clear turns a machine off, whatever state it was in.
func (l *Lab) clear(ctx context.Context, m Machine, g group) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if err := errors.Join(l.linkDown(m), g.kill(ctx)); err != nil {
		return err
	}
	if l.rec.OwnDisks {
		// The mounts disappear a moment after the last process has ended.
		for {
			used, err := loopdisk.Attached(l.image(m))
			if err != nil {
				return err
			}
			if !used {
				break
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return fmt.Errorf("wait for its disk: %w", err)
			}
		}
	}
	return errors.Join(l.unplug(m), g.remove(ctx), os.RemoveAll(filepath.Join(l.runcRoot(), l.containerID(m.Name))))
}

func (l *Lab) runcRoot() string                  { return filepath.Join(runDir(l.Name()), "runc") }
func (l *Lab) containerID(machine string) string { return l.Name() + "." + machine }

func (l *Lab) console(m Machine) string { return filepath.Join(l.machineDir(m.Name), "console.log") }

// run makes runc start the machine in its own mount namespace, and returns once PID 1 runs. The machine outlives this process.
func (l *Lab) run(ctx context.Context, m Machine) error {
	console, err := os.OpenFile(l.console(m), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	runc, err := tool("runc")
	if err != nil {
		return err
	}
	pidFile := filepath.Join(l.machineDir(m.Name), pidFile)
	cmd := exec.CommandContext(ctx, runc, "--root", l.runcRoot(), "run", "--detach", "--no-new-keyring", "--pid-file", pidFile,
		"--bundle", filepath.Join(l.machineDir(m.Name), "bundle"), l.containerID(m.Name))
	cmd.Stdout, cmd.Stderr = console, console
	cmd.Dir = "/"
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("create its mount namespace: %w", err)
		}
		if err := l.mountDisk(m); err != nil {
			return err
		}
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("start it with runc: %w; end of its console output:\n%s", err, l.consoleTail(m))
		}
		return shareMounts(pidFile)
	})
}

// shareMounts makes every mount of a machine shared, as systemd does on a real one, because pods rely on it. runc leaves the
// root private, whatever its configuration says.
func shareMounts(pidFile string) error {
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	ns, err := os.Open(filepath.Join("/proc", strings.TrimSpace(string(pid)), "ns/mnt"))
	if err != nil {
		return fmt.Errorf("enter its mount namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter its mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share its mounts: %w", err)
	}
	return nil
}

// waitSSH waits for the greeting of the machine's SSH server. It connects from within the machine's own network namespace, so
// that it works for a cut machine, and gets a refusal, not silence, until sshd listens.
func (l *Lab) waitSSH(ctx context.Context, m Machine) error {
	g, err := l.group(m.Name)
	if err != nil {
		return err
	}
	return inNetNS(l.machineNS(m.Name), func() error {
		for {
			if err := greet(ctx, m); err == nil {
				return nil
			}
			if !g.running() {
				return errors.New("the machine has stopped")
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	})
}

func greet(ctx context.Context, m Machine) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(m.Address.String(), "22"))
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetReadDeadline(deadline)
	greeting := make([]byte, 4)
	if _, err = conn.Read(greeting); err == nil && string(greeting) != "SSH-" {
		err = fmt.Errorf("port 22 answers with %q instead of an SSH banner", greeting)
	}
	return err
}

// consoleTail is the end of what the machine has printed, and of what its profiles have: a machine accepts no connections without them.
func (l *Lab) consoleTail(m Machine) string {
	var tail []string
	// In a lab with OwnDisks, the profiles' file cannot be read from here.
	for _, file := range []string{l.console(m), filepath.Join(l.disk(m), bootLog)} {
		data, _ := os.ReadFile(file)
		if text := strings.TrimSpace(string(data)); text != "" {
			lines := strings.Split(text, "\n")
			tail = append(tail, lines[max(0, len(lines)-10):]...)
		}
	}
	return "  " + strings.Join(tail, "\n  ")
}
