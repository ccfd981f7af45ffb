// Package leases gives back the leases of controller managers and schedulers that have ended on this control plane. A lease outlives its
// holder, because nobody else can know that a process on another machine has ended. On its own machine, one can.
package leases

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/approve"
	"quorate.dev/quorate/internal/hostside/components"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	// lookEvery is how soon the end of a process is noticed, and searchEvery how soon a new one is found.
	lookEvery   = 200 * time.Millisecond
	searchEvery = time.Second
	// readEvery is how often a lease is read while the process runs: who began to lead since then, and ends, keeps its lease until it runs
	// out.
	readEvery = 2 * time.Second
	// requestTimeout is for one request to the local API server.
	requestTimeout = 2 * time.Second
	// patience is for giving a lease back: longer than any is valid.
	patience = 20 * time.Second
	// replacedEvery is how often it is checked whether this program has been replaced.
	replacedEvery = time.Minute
)

// programs are those that elect a leader. The lease of each has its name, and its own credentials are enough for that.
var programs = map[string]string{
	facts.ControllerManager: "/etc/kubernetes/controller-manager.conf",
	facts.Scheduler:         "/etc/kubernetes/scheduler.conf",
}

// client is the part of a client for leases that is needed here.
type client interface {
	Get(context.Context, string, metav1.GetOptions) (*coordinationv1.Lease, error)
	Update(context.Context, *coordinationv1.Lease, metav1.UpdateOptions) (*coordinationv1.Lease, error)
}

// Keep gives leases back until ctx ends, or until its own program has been replaced: systemd then starts the new one.
func Keep(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := log.New(os.Stderr, "", 0) // the journal adds the time
	system.Notify("READY=1")
	var wg sync.WaitGroup
	for name, kubeconfig := range programs {
		k := keeper{name: name, host: hostName, find: components.Only, ended: components.Process.Ended, logger: logger,
			connect: func() (client, error) { return connect(kubeconfig) }}
		wg.Go(func() { k.run(ctx) })
	}
	wg.Go(func() {
		for wait(ctx, replacedEvery) {
			if system.Replaced(hostconfig.SelfPath) {
				cancel()
			}
		}
	})
	wg.Wait()
	return nil
}

// keeper keeps the lease of one program.
type keeper struct {
	name    string
	host    func() string // the name with which leaders on this host sign; empty if another one could have it as well
	find    func(program string) (components.Process, bool)
	ended   func(components.Process) bool
	connect func() (client, error)
	logger  *log.Logger
}

func (k keeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		p, ok := k.find(k.name)
		if !ok {
			wait(ctx, searchEvery)
			continue
		}
		if led := k.follow(ctx, p); led != "" && ctx.Err() == nil {
			k.giveBack(ctx, led)
		}
	}
}

// follow waits until the process ends. It returns who held the lease when that was last read while the process ran, if it was a process
// on this host: this one, or one before it. Either has ended by then. It is not enough to read the lease afterwards: the next process on
// this host may have taken it.
func (k keeper) follow(ctx context.Context, p components.Process) (led string) {
	answers := make(chan string, 1)
	reading := false
	look, read := time.NewTicker(lookEvery), time.NewTicker(readEvery)
	defer look.Stop()
	defer read.Stop()
	for {
		select {
		case <-ctx.Done():
			return ""
		case <-look.C:
			if k.ended(p) {
				return led
			}
		case <-read.C:
			if !reading {
				reading = true
				go func() { answers <- k.holder(ctx) }()
			}
		case holder := <-answers:
			reading = false
			switch name, _, _ := strings.Cut(holder, "_"); {
			case holder == "": // it could not be read
			case k.ended(p):
				return led
			case k.host() != "" && strings.EqualFold(name, k.host()):
				led = holder
			default:
				led = ""
			}
		}
	}
}

// cached has the API server answer from its memory, without a read in etcd. An answer that is a little old names a holder that has ended,
// too, or one that no longer holds the lease when it is to be given back.
const cached = "0"

// holder is who holds the lease; empty if it could not be read.
func (k keeper) holder(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c, err := k.connect()
	if err != nil {
		return ""
	}
	lease, err := c.Get(ctx, k.name, metav1.GetOptions{ResourceVersion: cached})
	if err != nil {
		return ""
	}
	if id := lease.Spec.HolderIdentity; id != nil && *id != "" {
		return *id
	}
	return "_" // nobody
}

// giveBack makes the lease of a holder that has ended free, unless somebody else has it by now.
func (k keeper) giveBack(ctx context.Context, holder string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		done, err := k.free(ctx, holder)
		switch {
		case done && err == nil:
			k.logger.Printf("%s has ended, and its lease was given back", holder)
			return
		case done:
			return
		}
		if !wait(ctx, lookEvery) {
			k.logger.Printf("the lease of %s, which has ended, was not given back: %v", holder, err)
			return
		}
	}
}

// errTaken says that somebody else has the lease.
var errTaken = errors.New("somebody else has it")

func (k keeper) free(ctx context.Context, holder string) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c, err := k.connect()
	if err != nil {
		return false, err
	}
	lease, err := c.Get(ctx, k.name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	if id := lease.Spec.HolderIdentity; id == nil || *id != holder {
		return true, errTaken
	}
	_, err = c.Update(ctx, Freed(lease), metav1.UpdateOptions{FieldManager: "quorate"})
	if apierrors.IsConflict(err) { // somebody took it in the meantime, or renewed it: then its holder lives elsewhere
		return true, errTaken
	}
	return err == nil, err
}

// Freed is a lease that nobody holds, as a leader leaves it that gives it back itself. Its resource version makes a renewal or a takeover
// in the meantime a conflict.
func Freed(lease *coordinationv1.Lease) *coordinationv1.Lease {
	out := lease.DeepCopy()
	out.Spec.HolderIdentity, out.Spec.LeaseDurationSeconds = new(""), new(int32(1))
	return out
}

// connected are the clients by the content of their kubeconfig: certificates are renewed, and authorities are replaced.
var (
	connectedMu sync.Mutex
	connected   = map[string]struct {
		text   string
		client client
	}{}
)

func connect(path string) (client, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	connectedMu.Lock()
	defer connectedMu.Unlock()
	if have := connected[path]; have.client != nil && have.text == string(text) {
		return have.client, nil
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	config.Timeout, config.Proxy = requestTimeout, host.Direct
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	have := connected[path]
	have.text, have.client = string(text), c.CoordinationV1().Leases(metav1.NamespaceSystem)
	connected[path] = have
	return have.client, nil
}

// hostName is the name of this host, if it is that of a node of the cluster with an address of this host. Two hosts with one name would
// sign alike.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	file, err := os.ReadFile(hostconfig.NodesFile)
	if err != nil {
		return ""
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	return named(name, approve.ParseNodes(string(file)), addresses)
}

func named(name string, nodes map[string][]string, addresses []net.Addr) string {
	short, _, _ := strings.Cut(name, ".")
	for node, its := range nodes {
		if !strings.EqualFold(node, name) && !strings.EqualFold(node, short) {
			continue
		}
		for _, a := range addresses {
			if own, is := a.(*net.IPNet); is && slices.Contains(its, own.IP.String()) {
				return name
			}
		}
	}
	return ""
}

// wait says whether ctx lasted longer than d.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
