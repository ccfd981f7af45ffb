// Package pods tests the pod network from network namespaces that are connected like pods.
package pods

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netns"

	"quorate.dev/quorate/internal/host"
)

// Pod traffic is tested from network namespaces that are connected like pods, so that the test covers the whole path: the
// pod's interface, the plugin's bridge or routes, the overlay and its MTU, and the node's firewall.

const (
	cniConfigDir = "/etc/cni/net.d"
	cniBinDir    = "/opt/cni/bin"
	// trialID is the container ID of a temporary attachment. It is always the same, so that a leftover attachment is found and
	// detached.
	trialID        = "quorate-trial"
	trialInterface = "eth0"

	// unwatchedFor is how long a test pod stays open if its caller does not close it. It also ends with the session.
	unwatchedFor = 2 * time.Minute
	// trialSize is many packets of full size, and more than a socket's initial window.
	trialSize    = 64 << 10
	trialTimeout = 3 * time.Second
)

// Request opens a network namespace for a test: that of a pod that runs here, by its UID, or without a UID a temporary one
// that is attached through the node's CNI configuration.
type Request struct{ UID string }

// Opened is where the echo server listens in the pod's network.
type Opened struct {
	Token   string
	Address string // with port
}

// trialPod is a network namespace with an echo server in it.
type trialPod struct {
	ns     netns.NsHandle
	listen net.Listener
	detach func() error
}

var trialPods = struct {
	sync.Mutex
	open map[string]*trialPod
}{open: map[string]*trialPod{}}

// Open prepares one end of a test; Close ends it.
var Open = host.Define("pod.open", func(ctx context.Context, in Request) (Opened, error) {
	p, address, err := openPod(ctx, in)
	if err != nil {
		return Opened{}, err
	}
	token := rand.Text()
	trialPods.Lock()
	trialPods.open[token] = p
	trialPods.Unlock()
	time.AfterFunc(unwatchedFor, func() { closePod(token) }) //nolint:errcheck // there is nobody to tell
	return Opened{Token: token, Address: address}, nil
})

// Close ends what Open started.
var Close = host.Define("pod.close", func(_ context.Context, token string) (struct{}, error) {
	return struct{}{}, closePod(token)
})

// ReachRequest sends from an opened pod to the echo of another.
type ReachRequest struct {
	Token string
	To    string
}

// Reach sends more than fits into a few packets, and expects all of it back.
var Reach = host.Define("pod.reach", func(ctx context.Context, in ReachRequest) (struct{}, error) {
	trialPods.Lock()
	p := trialPods.open[in.Token]
	trialPods.Unlock()
	if p == nil {
		return struct{}{}, errors.New("the test pod is gone")
	}
	return struct{}{}, p.reach(ctx, in.To)
})

func closePod(token string) error {
	trialPods.Lock()
	p := trialPods.open[token]
	delete(trialPods.open, token)
	trialPods.Unlock()
	if p == nil {
		return nil
	}
	return p.close()
}

func openPod(ctx context.Context, in Request) (p *trialPod, address string, err error) {
	p = &trialPod{ns: netns.None(), detach: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	var ip net.IP
	if in.UID != "" {
		p.ns, err = podNamespace(in.UID)
	} else {
		ip, err = p.attach(ctx)
	}
	if err != nil {
		return p, "", err
	}
	err = p.inside(func() (err error) {
		if ip == nil {
			if ip, err = ownAddress(); err != nil {
				return err
			}
		}
		p.listen, err = net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
		return err
	})
	if err != nil {
		return p, "", fmt.Errorf("listening in the pod's network: %w", err)
	}
	go echo(p.listen)
	return p, p.listen.Addr().String(), nil
}

// attach creates a network namespace and connects it as the runtime connects those of pods.
func (p *trialPod) attach(ctx context.Context) (net.IP, error) {
	list, err := firstNetwork(cniConfigDir)
	if err != nil {
		return nil, err
	}
	if err := newNamespace(&p.ns); err != nil {
		return nil, fmt.Errorf("creating a network namespace: %w", err)
	}
	// The plugins are separate processes that find the namespace through this process, and the namespace disappears when this
	// process ends.
	c := libcni.NewCNIConfig([]string{cniBinDir}, nil)
	config := &libcni.RuntimeConf{ContainerID: trialID, IfName: trialInterface, NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(p.ns)), Args: [][2]string{{"IgnoreUnknown", "1"}}}
	if left, _, err := c.GetNetworkListCachedConfig(list, config); err == nil && left != nil {
		if err := c.DelNetworkList(ctx, list, config); err != nil {
			return nil, fmt.Errorf("detaching what an earlier test left behind: %w", err)
		}
	}
	// Detach even after a failed attachment, as plugins expect it.
	p.detach = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
		defer cancel()
		return c.DelNetworkList(ctx, list, config)
	}
	result, err := c.AddNetworkList(ctx, list, config)
	if err != nil {
		return nil, fmt.Errorf("attaching to the pod network %s: %w", list.Name, err)
	}
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("attaching to the pod network %s: %w", list.Name, err)
	}
	if len(current.IPs) == 0 {
		return nil, fmt.Errorf("the pod network %s gave no address", list.Name)
	}
	return current.IPs[0].Address.IP, nil // flannel gives that of IPv4 first, if there are two
}

// firstNetwork is the configuration that the runtime uses: the first by name.
func firstNetwork(dir string) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("reading the CNI configuration: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no CNI configuration in %s", dir)
	}
	slices.Sort(files)
	if strings.HasSuffix(files[0], ".conflist") {
		return libcni.ConfListFromFile(files[0])
	}
	// The older format is a single plugin, not a list.
	raw, err := os.ReadFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("reading the CNI configuration: %w", err)
	}
	var plugin map[string]any
	if err := json.Unmarshal(raw, &plugin); err != nil {
		return nil, fmt.Errorf("reading the CNI configuration %s: %w", files[0], err)
	}
	if raw, err = json.Marshal(map[string]any{"cniVersion": plugin["cniVersion"], "name": plugin["name"], "plugins": []any{plugin}}); err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(raw)
}

// podNamespace finds a pod that runs here by the name of its cgroup, which contains the UID in every layout.
func podNamespace(uid string) (netns.NsHandle, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return netns.None(), err
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		// The systemd driver writes underscores for the dashes, which separate slices there.
		if text := strings.ReplaceAll(string(raw), "_", "-"); strings.Contains(text, uid) {
			return netns.GetFromPath(filepath.Join(filepath.Dir(f), "ns/net"))
		}
	}
	return netns.None(), fmt.Errorf("no process of the pod %s runs here", uid)
}

// ownAddress is the address of the pod's network.
func ownAddress() (net.IP, error) {
	i, err := net.InterfaceByName(trialInterface)
	if err != nil {
		return nil, err
	}
	all, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var six net.IP
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		switch {
		case ok && n.IP.To4() != nil:
			return n.IP, nil
		case ok && n.IP.IsGlobalUnicast():
			six = n.IP
		}
	}
	if six != nil {
		return six, nil
	}
	return nil, errors.New("the pod has no address")
}

func newNamespace(ns *netns.NsHandle) error {
	return onThread(func() (err error) {
		*ns, err = netns.New()
		return err
	})
}

// inside runs f in the pod's network namespace. Sockets that f opens stay there.
func (p *trialPod) inside(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(p.ns); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a separate thread that ends with it, because a thread that was in another namespace must not run anything
// else.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- f()
	}()
	return <-done
}

func (p *trialPod) reach(ctx context.Context, to string) error {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	var conn net.Conn
	err := p.inside(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	sent, back := make([]byte, trialSize), make([]byte, trialSize)
	rand.Read(sent)     //nolint:errcheck // never fails, as its documentation says
	go conn.Write(sent) //nolint:errcheck // what was not sent does not come back
	n, err := io.ReadFull(conn, back)
	if err != nil {
		return fmt.Errorf("connected, but of %d bytes only %d came back: packets of full size do not pass, for example because the MTU is too large for the path: %w", trialSize, n, err)
	}
	if !bytes.Equal(sent, back) {
		return errors.New("what came back is not what was sent")
	}
	return nil
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(trialTimeout)) //nolint:errcheck // a TCP connection has deadlines
			io.Copy(c, c)                               //nolint:errcheck // the other side notices
		}()
	}
}

func (p *trialPod) close() error {
	var errs []error
	if p.listen != nil {
		errs = append(errs, p.listen.Close())
	}
	errs = append(errs, p.detach())
	if p.ns.IsOpen() {
		errs = append(errs, p.ns.Close())
	}
	return errors.Join(errs...)
}
