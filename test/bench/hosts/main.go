// Command hosts measures plan and preflight against many hosts: real SSH servers with the real host side, all in one other
// process, each at its own address in a separate network namespace. Once the hosts have all programs that they need, and once
// they have none of them, so that each also looks at its package repositories. Each plan and each preflight is a process of its own, as
// for a user; the memory is that of the process which needs most. The CPU
// time is that of the caller and of all hosts together: on this machine they share its CPUs, and would not elsewhere.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

const sshPort = 22

func main() {
	hosts := flag.Int("hosts", 200, "how many hosts")
	runs := flag.Int("runs", 3, "how many runs of each; the best counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := start(ctx, flag.Arg(0), *hosts, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "hosts:", err)
		os.Exit(1)
	}
}

// start is four programs in one: the command, which creates the namespace; the caller in it; the servers; and each plan and preflight.
func start(ctx context.Context, part string, hosts, runs int) error {
	switch part {
	case "":
		cmd := again(ctx, "caller", hosts, runs)
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
		return cmd.Run()
	case "servers":
		return servers(ctx, hosts)
	case "caller":
		return caller(ctx, hosts, runs)
	case planJob, preflightJob:
		return job(ctx, part, hosts)
	}
	return fmt.Errorf("no such part: %s", part)
}

func again(ctx context.Context, part string, hosts, runs int) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "--hosts", strconv.Itoa(hosts), "--runs", strconv.Itoa(runs), part)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd
}

func address(i int) net.IP { return net.IPv4(198, 18, byte(1+i/250), byte(1+i%250)) }

// shape is three control planes, two load balancers, and workers.
func shape(hosts int, keyFile, knownHostsFile string) (*spec.Cluster, error) {
	c := spec.DefaultLab("many")
	c.Spec.Hosts = nil
	c.Spec.LoadBalancer.Address = "198.18.200.1"
	for i := range hosts {
		h := spec.Host{Name: fmt.Sprintf("worker-%03d", i), Roles: []string{spec.RoleWorker}}
		switch {
		case i < 3:
			h = spec.Host{Name: fmt.Sprintf("cp-%d", i), Roles: []string{spec.RoleControlPlane}}
		case i < 5:
			h = spec.Host{Name: fmt.Sprintf("lb-%d", i), Roles: []string{spec.RoleLoadBalancer}}
		}
		h.Address, h.Zone = address(i).String(), string(rune('a'+i%3))
		h.SSH = spec.SSH{User: "root", Port: sshPort, KeyFile: keyFile, KnownHostsFile: knownHostsFile}
		c.Spec.Hosts = append(c.Spec.Hosts, h)
	}
	data, err := spec.Marshal(c)
	if err != nil {
		return nil, err
	}
	return spec.Check(data, "the benchmark's cluster", spec.Options{Versions: bundle.Versions()})
}

const (
	keyVariable = "BENCH_HOSTS_KEY"
	knownHosts  = "known_hosts"
)

func servers(ctx context.Context, hosts int) error {
	line, err := os.ReadFile(os.Getenv(keyVariable))
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return err
	}
	for i := range hosts {
		if _, err := sshtest.Start(ctx, sshtest.Options{Key: key, Address: net.JoinHostPort(address(i).String(), strconv.Itoa(sshPort))}); err != nil {
			return err
		}
	}
	os.Stdout.WriteString("ready\n") //nolint:errcheck // the caller would wait
	<-ctx.Done()
	return nil
}

func network(hosts int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// With the default MTU of a loopback interface, packets would have 64 KiB instead of 1500 bytes.
	if err := netlink.LinkSetMTU(lo, 1500); err != nil {
		return err
	}
	for i := range hosts {
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: address(i), Mask: net.CIDRMask(16, 32)}}); err != nil {
			return err
		}
	}
	return nil
}

func caller(ctx context.Context, hosts, runs int) error {
	if err := network(hosts); err != nil {
		return fmt.Errorf("giving the namespace its addresses: %w", err)
	}
	dir, err := os.MkdirTemp("", "quorate-bench-hosts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	keyFile, public, err := sshtest.NewKey(dir, "")
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile+".pub", ssh.MarshalAuthorizedKey(public), 0o600); err != nil {
		return err
	}
	c, err := shape(hosts, keyFile, filepath.Join(dir, knownHosts))
	if err != nil {
		return err
	}
	result := map[string]any{"hosts": len(c.Spec.Hosts), "cpus": runtime.NumCPU(), "peakMiB": int64(0)}
	for _, equipped := range []bool{true, false} {
		if err := measure(ctx, c, equipped, keyFile, runs, result); err != nil {
			return err
		}
	}
	fmt.Printf("peak memory of the caller: %d MiB\n", result["peakMiB"])
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", data)
	return nil
}

// helpers are the programs that hosts run in this benchmark.
var helpers = []string{"apt-get", "apt-config", "dpkg", "systemctl"}

// programs creates a directory of the programs that hosts have: the helpers as far as this machine has them, and on equipped
// hosts all that plan and preflight look for. They do no more than look for them, so that others may stand for those that this
// machine lacks.
func programs(c *spec.Cluster, equipped bool) (string, error) {
	dir, err := os.MkdirTemp("", "quorate-bench-hosts-")
	if err != nil {
		return "", err
	}
	names, needed := slices.Clone(helpers), hostconfig.Request(c).Programs
	if equipped {
		names = append(names, needed...)
	}
	for _, name := range names {
		program, err := exec.LookPath(name)
		if err != nil && slices.Contains(needed, name) {
			program, err = exec.LookPath("true")
		}
		if err == nil {
			err = os.Symlink(program, filepath.Join(dir, name))
		}
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			return dir, err
		}
	}
	return dir, nil
}

// measure runs everything against hosts that have what they need, or that lack it.
func measure(ctx context.Context, c *spec.Cluster, equipped bool, keyFile string, runs int, result map[string]any) error {
	suffix, condition := "", "nothing missing"
	if !equipped {
		suffix, condition = "Missing", "packages missing"
	}
	// The servers of each condition have new host keys.
	if err := os.Remove(filepath.Join(filepath.Dir(keyFile), knownHosts)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	path, err := programs(c, equipped)
	defer os.RemoveAll(path)
	if err != nil {
		return err
	}
	cmd := again(ctx, "servers", len(c.Spec.Hosts), runs)
	cmd.Env = append(os.Environ(), keyVariable+"="+keyFile+".pub", "PATH="+path)
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	end := sync.OnceFunc(func() {
		cmd.Cancel() //nolint:errcheck // it may have ended
		cmd.Wait()   //nolint:errcheck // ended by a signal
	})
	defer end()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		return errors.New("the servers did not start")
	}
	var own time.Duration
	for _, name := range []string{planJob, preflightJob} {
		best := outcome{}
		for i := range runs {
			one, err := ask(ctx, c, name, keyFile, runs)
			if err != nil {
				return err
			}
			own += one.CPU
			fmt.Printf("%s of %d hosts, %s, run %d: %.2f s, of which %.2f s for the SSH sessions (%s)\n", name, len(c.Spec.Hosts), condition, i+1, one.Seconds, one.Dial, one.What)
			if i == 0 || one.Seconds < best.Seconds {
				best = one
			}
			result["peakMiB"] = max(result["peakMiB"].(int64), one.Peak>>20)
		}
		result[name+suffix+"Seconds"], result[name+suffix+"DialSeconds"] = round(best.Seconds), round(best.Dial)
	}
	end()
	theirs := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // with the programs that they ran
	here, there := own.Seconds()/float64(runs), theirs.Seconds()/float64(runs)
	fmt.Printf("CPU time of a plan and a preflight, %s: %.2f s of the caller, %.2f s of all hosts\n", condition, here, there)
	result["caller"+suffix+"CPUSeconds"], result["hosts"+suffix+"CPUSeconds"] = round(here), round(there)
	return nil
}

const (
	planJob      = "plan"
	preflightJob = "preflight"
)

// outcome is what one plan or preflight took.
type outcome struct {
	Seconds, Dial float64 // in all, and until every SSH session was open
	What          string
	CPU           time.Duration
	Peak          int64 // bytes of memory
}

// ask runs a plan or a preflight in a process of its own.
func ask(ctx context.Context, c *spec.Cluster, name, keyFile string, runs int) (o outcome, err error) {
	cmd := again(ctx, name, len(c.Spec.Hosts), runs)
	cmd.Env, cmd.Stdout = append(os.Environ(), keyVariable+"="+keyFile), nil
	out, err := cmd.Output()
	if err != nil {
		return o, fmt.Errorf("%s: %w", name, err)
	}
	return o, json.Unmarshal(out, &o)
}

// job is the process of ask.
func job(ctx context.Context, name string, hosts int) error {
	keyFile := os.Getenv(keyVariable)
	c, err := shape(hosts, keyFile, filepath.Join(filepath.Dir(keyFile), knownHosts))
	if err != nil {
		return err
	}
	b, err := sources.Bundle(ctx, c, progress.Discard)
	if err != nil {
		return err
	}
	var o outcome
	begin := time.Now()
	e := run.OpenToRead(ctx, c, progress.Discard)
	defer e.Close()
	for _, h := range c.Spec.Hosts {
		if _, err := e.Conns.Get(h.Name); err != nil {
			return err
		}
	}
	o.Dial = time.Since(begin).Seconds()
	switch name {
	case planJob:
		w, err := e.Plan(ctx, b)
		if err != nil {
			return err
		}
		o.What = fmt.Sprintf("%d steps", len(w.Plan.Steps))
	case preflightJob:
		r, err := e.Preflight(ctx, e.State(ctx), nil)
		if err != nil {
			return err
		}
		o.What = fmt.Sprintf("%d findings over %d paths", len(r.Findings), len(preflight.Paths(c, nil, nil)))
	}
	o.Seconds = time.Since(begin).Seconds()
	if o.CPU, err = used(); err != nil {
		return err
	}
	if o.Peak, err = peak(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(o)
}

// used is the CPU time of this process.
func used() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

func round(f float64) float64 { return float64(int(f*100+0.5)) / 100 }

// peak is the peak memory of this process, as the kernel counts it.
func peak() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not tell the peak of memory")
}
