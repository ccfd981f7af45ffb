package observe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// seenTimeout is how long a host that cannot be asked may take to accept a connection from another host.
const seenTimeout = 2 * time.Second

// seenBy has other hosts try the ports of a host that could not be asked. A host that has crashed answers none of them, a host
// on which a program stopped refuses, and one that only the caller cannot reach answers. The answers from several zones count.
func seenBy(ctx context.Context, c *spec.Cluster, h spec.Host, conns *host.Set, obs *facts.Observation) map[string]facts.Answer {
	out := map[string]facts.Answer{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range neighbours(c, h, obs) {
		conn, err := conns.Get(name)
		if err != nil {
			continue
		}
		wg.Go(func() {
			a := answersAt(ctx, conn, h, portsOf(c, h))
			mu.Lock()
			defer mu.Unlock()
			out[name] = a
		})
	}
	wg.Wait()
	return out
}

// neighbours are hosts that can be asked, from as many zones as possible.
func neighbours(c *spec.Cluster, h spec.Host, obs *facts.Observation) []string {
	zones := map[string]int{}
	var rank []int
	var all []spec.Host
	for _, o := range c.Spec.Hosts {
		if o.Name == h.Name || obs.Hosts[o.Name].Facts == nil {
			continue
		}
		all, rank = append(all, o), append(rank, zones[o.Zone])
		zones[o.Zone]++
	}
	var out []string
	for round := range len(all) {
		for i, o := range all {
			if rank[i] == round && len(out) < askers {
				out = append(out, o.Name)
			}
		}
	}
	return out
}

// portsOf are the ports on which the host listens while it works.
func portsOf(c *spec.Cluster, h spec.Host) []string {
	ports := []string{strconv.Itoa(h.SSHPort())}
	if h.IsNode() {
		ports = append(ports, "10250")
	}
	if h.Has(spec.RoleControlPlane) {
		ports = append(ports, hostconfig.APIPort)
	}
	if slices.ContainsFunc(c.EtcdHosts(), func(e spec.Host) bool { return e.Name == h.Name }) {
		ports = append(ports, "2379", "2380")
	}
	if c.Balances(h) {
		ports = append(ports, hostconfig.EndpointPort(c))
	}
	return ports
}

// answersAt says whether anything answers at the host's address: a connection that is refused was refused by somebody.
func answersAt(ctx context.Context, conn *host.Conn, h spec.Host, ports []string) facts.Answer {
	ctx, cancel := context.WithTimeoutCause(ctx, seenTimeout, fmt.Errorf("no answer within %s", seenTimeout))
	defer cancel()
	errs := make([]error, len(ports))
	var wg sync.WaitGroup
	for i, port := range ports {
		wg.Go(func() {
			nc, err := conn.DialContext(ctx, "tcp", net.JoinHostPort(h.Address, port))
			if err == nil {
				nc.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	var out facts.Answer
	for _, err := range errs {
		switch {
		case err == nil, errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
			return facts.Answer{OK: true}
		case host.Unanswered(err):
			out.Unknown = strings.TrimPrefix(err.Error(), conn.Name()+": ")
		default:
			out.Problem = strings.TrimPrefix(err.Error(), conn.Name()+": ")
		}
	}
	if out.Unknown != "" {
		out.Problem = ""
	}
	return out
}
