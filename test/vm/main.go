// Command vm boots virtual machines with Debian 12 and Debian 13, which have cgroup v2, and in each of them builds a cluster in a lab, looks at it,
// cuts the power of one of its machines, boots that again, and removes everything.
//
// A machine has no network. It gets the binary, the bundle, and the image of the lab's machines from this computer. It runs with KVM if that works here,
// and is otherwise emulated. The machines run one after the other. The last line is JSON, and a failure leaves the logs in artifacts/vm.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// requirements are the Debian packages that this test needs on this computer.
func requirements() []string { return append(lab.Requirements(), "e2fsprogs", "qemu-system-x86") }

// options are what the flags say.
type options struct {
	images  []string
	accel   string
	clock   string
	cluster string
	// machines is the image of the lab's machines; empty for the one that `quorate up` takes.
	machines string
	slow     float64
	memory   int // MiB
	quorate  string
	keep     bool
}

// What flags can be.
const (
	auto         = "auto"
	clockMachine = "machine"
	clockReal    = "real"
	clusterSmall = "small"
	clusterFull  = "default"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == guestCommand {
		runGuest()
		return
	}
	var o options
	images := flag.String("images", strings.Join(lab.Images, ","), "the systems of the machines")
	flag.StringVar(&o.accel, "accel", auto, "kvm, tcg (emulated), or auto: KVM if a machine boots with it")
	flag.StringVar(&o.clock, "clock", auto, "the clock of an emulated machine: machine (it counts instructions, so that timeouts fit the speed of the machine) or real; auto: machine")
	flag.StringVar(&o.cluster, "cluster", auto, "default (that of quorate up) or small (three control planes, standard failover); auto: default with KVM, and otherwise small")
	flag.StringVar(&o.machines, "machines", "", "the system of the lab's machines (default: that of quorate up)")
	flag.Float64Var(&o.slow, "slow", 0, "multiply the limits of steps; 0: 1 with KVM, 20 emulated, and 60 with a clock that counts instructions")
	flag.IntVar(&o.memory, "memory", 0, "the memory of a machine in MiB; 0: 12288 for the default cluster, and 8192 for the small one")
	flag.StringVar(&o.quorate, "quorate", filepath.Join("bin", "quorate"), "the binary to test")
	flag.BoolVar(&o.keep, "keep", false, "keep the disks")
	flag.Parse()
	o.images = strings.Split(*images, ",")
	if err := o.check(flag.NArg()); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func (o options) check(arguments int) error {
	if arguments > 0 {
		return errors.New("unexpected arguments; see -help")
	}
	for _, image := range slices.Concat(o.images, []string{o.machines}) {
		if image != "" && !slices.Contains(lab.Images, image) {
			return fmt.Errorf("there is no image %q: must be one of %s", image, strings.Join(lab.Images, ", "))
		}
	}
	if slices.Contains(o.images, "") {
		return errors.New("-images has an empty name")
	}
	for _, f := range []struct {
		name, value string
		choices     []string
	}{
		{"accel", o.accel, []string{auto, string(kvm), string(tcg)}},
		{"clock", o.clock, []string{auto, clockMachine, clockReal}},
		{"cluster", o.cluster, []string{auto, clusterFull, clusterSmall}},
	} {
		if !slices.Contains(f.choices, f.value) {
			return fmt.Errorf("-%s is %q: must be one of %s", f.name, f.value, strings.Join(f.choices, ", "))
		}
	}
	if o.slow < 0 || o.memory < 0 {
		return errors.New("-slow and -memory must not be negative")
	}
	return nil
}

// modes are how to try to run a machine, in this order: the next one only if it does not boot.
func (o options) modes(kvmHere bool) []mode {
	var all []mode
	if o.accel == string(kvm) || o.accel == auto && kvmHere {
		all = append(all, mode{accelerator: kvm, slow: 1})
	}
	if o.accel != string(kvm) {
		m := mode{accelerator: tcg, ownClock: o.clock != clockReal, slow: 20}
		if m.ownClock {
			m.slow = 60
		}
		all = append(all, m)
	}
	for i := range all {
		m := &all[i]
		m.small = o.cluster == clusterSmall || o.cluster == auto && m.accelerator == tcg
		if o.slow > 0 {
			m.slow = o.slow
		}
	}
	return all
}

func (o options) memoryFor(m mode) int {
	switch {
	case o.memory > 0:
		return o.memory
	case m.small:
		return 8 << 10
	}
	return 12 << 10
}

// result is the last line's part about one machine.
type result struct {
	Image   string     `json:"image"`
	System  string     `json:"system"`
	Mode    string     `json:"mode"`
	Cluster string     `json:"cluster"`
	Passed  bool       `json:"passed"`
	Error   string     `json:"error,omitempty"`
	Steps   []measured `json:"steps"`
}

// summary is the last line.
type summary struct {
	Machines int      `json:"machines"`
	Passed   int      `json:"passed"`
	Results  []result `json:"results"`
}

var artifacts = filepath.Join("artifacts", "vm")

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("not running as root: only root can install Debian in a directory")
	}
	work, release, err := workDir()
	if err != nil {
		return err
	}
	defer func() {
		if o.keep {
			fmt.Fprintln(os.Stderr, "vm: the disks are in", work)
		} else {
			err = errors.Join(err, os.RemoveAll(work))
		}
		release()
	}()
	if err := errors.Join(os.RemoveAll(artifacts), os.RemoveAll(artifacts+".json")); err != nil {
		return err
	}
	c, err := gather(ctx, o)
	if err != nil {
		return err
	}
	var s summary
	var failures []error
	for _, image := range o.images {
		r := test(ctx, o, image, work, c)
		s.Machines++
		s.Results = append(s.Results, r)
		if r.Passed {
			s.Passed++
		} else {
			failures = append(failures, fmt.Errorf("%s: %s", image, r.Error))
		}
		if ctx.Err() != nil {
			break
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	failures = append(failures, os.MkdirAll(artifacts, 0o755), os.WriteFile(artifacts+".json", append(data, '\n'), 0o644))
	fmt.Printf("%s\n", data)
	return errors.Join(failures...)
}

// workDir is a new directory for disks, in the cache: files of the cache can be linked there. It removes what killed runs have left.
func workDir() (dir string, release func(), err error) {
	parent := paths.Cache("vm")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(parent, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return "", nil, fmt.Errorf("lock %s: %w (another make test-vm may be running)", lock.Name(), err)
	}
	left, err := filepath.Glob(filepath.Join(parent, "work-*"))
	for _, old := range left {
		err = errors.Join(err, os.RemoveAll(old))
	}
	if err == nil {
		err = lab.CheckDisk(parent, neededSpace, "a virtual machine needs")
	}
	if err == nil {
		dir, err = os.MkdirTemp(parent, "work-")
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // apt reads files as another user
	}
	if err != nil {
		lock.Close()
		return "", nil, err
	}
	return dir, func() { lock.Close() }, nil
}

// gather prepares what this computer gives to the machines.
func gather(ctx context.Context, o options) (c contents, err error) {
	sink, done := ui.NewProgress(os.Stderr, ui.Options{})
	defer done()
	if err := require.Packages(ctx, requirements(), sink); err != nil {
		return c, err
	}
	if c.test, err = os.Executable(); err != nil {
		return c, err
	}
	if c.quorate, err = filepath.Abs(o.quorate); err != nil {
		return c, err
	}
	b, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		return c, err
	}
	if !b.Current(false) {
		return c, fmt.Errorf("the bundle of Kubernetes %s is one of other sources, and nothing can be compiled in the machine: run `quorate bundle build`", spec.DefaultVersion)
	}
	c.bundle = b.Dir()
	c.base, err = lab.EnsureBase(ctx, lab.Config{Image: o.machines, Progress: sink})
	return c, err
}

// test tests one machine.
func test(ctx context.Context, o options, image, work string, c contents) result {
	r := result{Image: image}
	dir := filepath.Join(artifacts, image)
	say := func(text string) {
		fmt.Fprintf(os.Stderr, "%s %s: %s\n", time.Now().Format(time.TimeOnly), image, text)
	}
	fail := func(err error) result {
		r.Error = err.Error()
		say("failed: " + r.Error)
		return r
	}
	space := filepath.Join(work, image)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Mkdir(space, 0o755)); err != nil {
		return fail(err)
	}
	if !o.keep {
		defer os.RemoveAll(space) // the next machine needs the room
	}
	t, err := install(ctx, image, space, c)
	if err != nil {
		return fail(err)
	}
	var failed error
	for _, mode := range o.modes(hasKVM()) {
		r.Mode, r.Cluster = mode.String(), clusterFull
		if mode.small {
			r.Cluster = clusterSmall
		}
		m := &machine{mode: mode, image: image, tree: t, memory: o.memoryFor(mode), disk: filepath.Join(space, "disk.img"), dir: dir}
		cluster, err := clusterSpec(mode.small)
		if err != nil {
			return fail(err)
		}
		data, err := spec.Marshal(cluster)
		if err != nil {
			return fail(err)
		}
		if err := makeDisk(ctx, t, data, settings{Image: o.machines}, m.disk); err != nil {
			return fail(err)
		}
		say(fmt.Sprintf("boot with %s, %d MiB, the %s cluster", r.Mode, m.memory, r.Cluster))
		out, err := m.run(ctx, say)
		r.System, r.Steps = out.system, out.steps
		if err == nil {
			r.Passed = true
			return r
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
		say("failed: " + err.Error())
		if out.booted {
			if err := saveLogs(ctx, cluster, m.disk, dir); err != nil {
				say("not all logs were saved: " + err.Error())
			}
			break
		}
	}
	return fail(failed)
}

func install(ctx context.Context, image, dir string, c contents) (tree, error) {
	sink, done := ui.NewProgress(os.Stderr, ui.Options{})
	defer done()
	return makeTree(ctx, image, dir, c, sink)
}
