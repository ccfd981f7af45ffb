package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/status"
)

// guestCommand is the argument with which this program is the one in the machine.
const guestCommand = "guest"

// Where the program in the machine finds what it needs.
const (
	guestProgram   = "/usr/local/bin/test-vm"
	quorateProgram = "/usr/local/bin/quorate"
	specFile       = "/root/vm.yaml"
	settingsFile   = "/root/settings.json"
)

// clusterName is the name of the cluster in the machine, and of its lab.
const clusterName = "vm"

// settings are what the program in the machine is told.
type settings struct {
	// Image is the system of the lab's machines.
	Image string `json:"image"`
}

// lookEach is how often the condition of the cluster is looked at. Looking uses CPU time that the cluster needs.
const lookEach = 5 * time.Second

// guest runs the steps in the machine.
type guest struct {
	settings
	port *port
	// off is the host that was powered off.
	off string
}

// runGuest runs the steps, reports on each, and turns the machine off. It has no time limits: this is for the other side, whose clock
// is the real one.
func runGuest() {
	p, err := openPort(filepath.Join("/dev/virtio-ports", portName))
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err) // the console is all that is left
	} else if err := (&guest{port: p}).run(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "vm: power off:", err)
	}
}

func (g *guest) run() error {
	var failed error
	data, err := os.ReadFile(settingsFile)
	if err == nil {
		err = json.Unmarshal(data, &g.settings)
	}
	if err != nil {
		return err
	}
	g.port.send(event{Kind: kindHello, Text: system()})
	for _, s := range steps {
		g.port.send(event{Kind: kindBegin, Step: s.name})
		begin := time.Now()
		failed = s.run(g)
		e := event{Kind: kindEnd, Step: s.name, Elapsed: time.Since(begin)}
		if failed != nil {
			e.Error = failed.Error()
		}
		g.port.send(e)
		if failed != nil {
			break
		}
	}
	unix.Sync() // the logs are read from the disk
	e := event{Kind: kindFinished}
	if failed != nil {
		e.Error = failed.Error()
	}
	return g.port.send(e)
}

// system names the kernel and the distribution.
func system() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	name := "an unknown system"
	data, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			name = strings.Trim(value, `"`)
		}
	}
	return name + ", Linux " + unix.ByteSliceToString(u.Release[:])
}

// port is where the machine reports.
type port struct {
	mu  sync.Mutex
	out io.Writer
}

// openPort waits for the port: its driver is a module that udev loads.
func openPort(path string) (*port, error) {
	if err := exec.Command("modprobe", "virtio_console").Run(); err != nil {
		fmt.Fprintln(os.Stderr, "vm: modprobe virtio_console:", err)
	}
	for {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			return &port{out: os.NewFile(uintptr(fd), path)}, nil
		}
		if !errors.Is(err, unix.ENOENT) {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (p *port) send(e event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.out.Write(append(data, '\n'))
	return err
}

// lines sends each line that is written to it as output.
type lines struct {
	port  *port
	begun []byte
}

func (l *lines) Write(data []byte) (int, error) {
	l.begun = append(l.begun, data...)
	for {
		line, rest, found := bytes.Cut(l.begun, []byte("\n"))
		if !found {
			return len(data), nil
		}
		if err := l.port.send(event{Kind: kindOutput, Text: string(line)}); err != nil {
			return 0, err
		}
		l.begun = bytes.Clone(rest)
	}
}

func (l *lines) flush() {
	if len(l.begun) > 0 {
		l.port.send(event{Kind: kindOutput, Text: string(l.begun)})
		l.begun = nil
	}
}

func (g *guest) say(format string, args ...any) {
	g.port.send(event{Kind: kindOutput, Text: fmt.Sprintf(format, args...)})
}

// quorate runs a command of quorate and returns what it prints as its result. Its progress and messages are output.
func (g *guest) quorate(args ...string) (stdout string, err error) {
	var out bytes.Buffer
	messages := &lines{port: g.port}
	cmd := exec.Command(quorateProgram, args...)
	cmd.Dir, cmd.Env = "/root", append(os.Environ(), "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = &out, messages
	err = cmd.Run()
	messages.flush()
	if err != nil {
		return out.String(), fmt.Errorf("quorate %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), nil
}

// show runs a command of quorate whose result is output as well.
func (g *guest) show(args ...string) error {
	g.say("$ quorate %s", strings.Join(args, " "))
	out, err := g.quorate(args...)
	results := &lines{port: g.port}
	results.Write([]byte(out))
	results.flush()
	return err
}

const cgroupRoot = "/sys/fs/cgroup"

// up creates the cluster.
func (g *guest) up() error {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: cgroupRoot, Err: err}
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s has the type %#x: this test is for cgroup v2", cgroupRoot, st.Type)
	}
	if g.Image != "" {
		// up keeps what a lab has.
		if err := g.show("lab", "create", "-f", specFile, "--image", g.Image); err != nil {
			return err
		}
	}
	return g.show("up", "-f", specFile)
}

// status waits until everything is healthy, and checks that the cluster uses cgroup v2 as it should.
func (g *guest) status() error {
	s, err := g.reach("")
	if err != nil {
		return err
	}
	if err := g.show("status", "-f", specFile); err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if err := usesSystemdDriver(filepath.Join(cgroupRoot, "quorate", clusterName, n.Name)); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}

// usesSystemdDriver checks that the kubelet and containerd let systemd create the cgroups of pods and containers, as they should with cgroup v2. group
// is the directory of the node's cgroup.
func usesSystemdDriver(group string) error {
	pods := filepath.Join(group, "kubepods.slice")
	if _, err := os.Stat(pods); err != nil {
		return fmt.Errorf("the kubelet does not create the cgroups of pods with systemd: %w", err)
	}
	found := false
	err := filepath.WalkDir(pods, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a container has ended
			}
			return err
		}
		if strings.HasPrefix(d.Name(), "cri-containerd-") && strings.HasSuffix(d.Name(), ".scope") {
			found = true
			return filepath.SkipAll
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("containerd does not create the cgroups of containers with systemd: %s has no scope of one", pods)
	}
	return err
}

// reach waits until everything is healthy but the host that is off, if there is one.
func (g *guest) reach(off string) (status.Status, error) {
	last := ""
	for {
		s, missing := g.look(off)
		if len(missing) == 0 {
			return s, nil
		}
		if now := strings.Join(missing, "; "); now != last {
			g.say("waiting: %s", now)
			last = now
		}
		time.Sleep(lookEach)
	}
}

func (g *guest) look(off string) (s status.Status, missing []string) {
	out, err := g.quorate("status", "-f", specFile, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		return s, []string{err.Error()}
	}
	return s, lacks(s, off)
}

// lacks says what is missing until everything is healthy but the host that is off. Margins and findings are not part of it: on an emulated
// computer, some check is late at nearly any moment.
func lacks(s status.Status, off string) []string {
	var out []string
	if s.Stage != cluster.Complete {
		out = append(out, fmt.Sprintf("the cluster is %s", s.Stage))
	}
	if !s.Endpoint.Reachable {
		out = append(out, "the endpoint cannot be reached")
	}
	part := func(what, name string, works bool) {
		switch {
		case name != off && !works:
			out = append(out, fmt.Sprintf("%s %s does not work", what, name))
		case name == off && works:
			out = append(out, fmt.Sprintf("%s %s is still taken for one that works", what, name))
		}
	}
	for _, n := range s.Nodes {
		part("node", n.Name, n.Ready)
	}
	for _, m := range s.Etcd.Members {
		part("etcd member", m.Name, m.Healthy)
	}
	for _, b := range s.LoadBalancers {
		part("load balancer", b.Name, b.Healthy)
	}
	if len(s.Nodes) == 0 || len(s.Etcd.Members) == 0 {
		out = append(out, "no nodes or no members of etcd are known")
	}
	return out
}

// powerOff cuts the power of the host with etcd's leader, and writes to the API when the others have noticed.
func (g *guest) powerOff() error {
	s, err := g.reach("")
	if err != nil {
		return err
	}
	other := ""
	for _, m := range s.Etcd.Members {
		if m.Leader {
			g.off = m.Name
		} else {
			other = m.Name
		}
	}
	if g.off == "" || other == "" {
		return errors.New("etcd has no leader and a follower")
	}
	if err := g.show("lab", "--lab", clusterName, "fault", "power-off", g.off); err != nil {
		return err
	}
	if _, err := g.reach(g.off); err != nil {
		return err
	}
	g.kubectl(other, "annotate", "--overwrite", "namespace", "default", "writtenWithout="+g.off)
	return nil
}

// powerOn boots the host again, and checks that nothing was lost.
func (g *guest) powerOn() error {
	if err := g.show("lab", "--lab", clusterName, "heal", "power-off", g.off); err != nil {
		return err
	}
	if _, err := g.reach(""); err != nil {
		return err
	}
	if value := g.kubectl(g.off, "get", "namespace", "default", "-o", "jsonpath={.metadata.annotations.writtenWithout}"); value != g.off {
		return fmt.Errorf("what was written while %s was off is lost: the API has %q", g.off, value)
	}
	return nil
}

// kubectl runs kubectl on a host until it succeeds, and returns what it prints. A command may be carried out more than once. The time limit of the
// step ends this.
func (g *guest) kubectl(host string, args ...string) string {
	args = append([]string{"lab", "--lab", clusterName, "exec", host, "--", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "-n", "default"}, args...)
	for {
		g.say("$ quorate %s", strings.Join(args, " "))
		out, err := g.quorate(args...)
		if err == nil {
			return strings.TrimSpace(out)
		}
		g.say("%v", err)
		time.Sleep(lookEach)
	}
}

// down removes the cluster, and checks that nothing of it is left.
func (g *guest) down() error {
	if err := g.show("down", "-f", specFile); err != nil {
		return err
	}
	last := ""
	for {
		left := leftovers()
		if len(left) == 0 {
			return nil
		}
		// The kernel removes namespaces and their links a moment later.
		if now := strings.Join(left, "; "); now != last {
			g.say("waiting: %s", now)
			last = now
		}
		time.Sleep(lookEach)
	}
}

func leftovers() []string {
	var left []string
	for _, path := range []string{filepath.Join(cgroupRoot, "quorate"), paths.State("labs"), paths.State("clusters")} {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path+" is still there")
		} else if !errors.Is(err, fs.ErrNotExist) {
			left = append(left, err.Error())
		}
	}
	out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").Output()
	if err != nil {
		left = append(left, fmt.Sprintf("ip link: %v", err))
	} else if links := strings.TrimSpace(string(out)); links != "" {
		left = append(left, "links are still there: "+links)
	}
	return left
}
