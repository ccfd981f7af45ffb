package balancer

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// A load balancer that was removed from the cluster while it was down comes back with its old configuration. Those that replaced
// it are not its peers: it does not hear their advertisements, and would take the virtual IP from them. So the watchdog looks who
// has the address, and keeps it away from this host while that is a machine that is none of its peers.
const (
	strangerPace = 10 * time.Second
	// strangerAgain is the time until the second look: one alone could have missed the answer of a peer.
	strangerAgain = time.Second
	// strangerWait is how long keepalived waits for the first looks when the watchdog starts.
	strangerWait = 5 * time.Second
)

// strangers is what is known of them.
type strangers struct {
	present atomic.Bool
	looked  chan struct{} // closed after the first looks
}

// watch looks again and again, until ctx ends.
func (s *strangers) watch(ctx context.Context, logger *log.Logger, look func(context.Context) (string, error)) {
	first := sync.OnceFunc(func() { close(s.looked) })
	for {
		mac, err := look(ctx)
		if mac != "" && !s.present.Load() && wait(ctx, strangerAgain) {
			mac, err = look(ctx)
		}
		switch is := mac != ""; {
		case ctx.Err() != nil:
			return
		case err != nil: // nothing is known, so nothing changes
		case is != s.present.Load():
			s.present.Store(is)
			if is {
				logger.Printf("a machine that is no peer of this load balancer has the virtual IP (%s): this host must not have it. If this host was removed from the cluster, quorate apply resets it", mac)
			} else {
				logger.Print("no machine but the peers has the virtual IP any more")
			}
		}
		first()
		if !wait(ctx, strangerPace) {
			return
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// stranger is the hardware address of a machine that has a virtual IP and is none of the peers; empty if there is none.
func stranger(ctx context.Context) (string, error) {
	text := cmp.Or(system.ReadTrimmed(hostconfig.KeepalivedRunning), system.ReadTrimmed(hostconfig.KeepalivedFile))
	var config facts.OthersBalancing
	readKeepalived(text, &config)
	from := sourcesOf(text)
	if len(config.VirtualIPs) == 0 || len(from) == 0 {
		return "", nil
	}
	var holders []string
	for _, address := range config.VirtualIPs { // two while the endpoint changes
		macs, err := askARP(ctx, address, from)
		if err != nil {
			return "", err
		}
		holders = append(holders, macs...)
	}
	if len(holders) == 0 {
		return "", nil
	}
	var mu sync.Mutex
	var known []string
	var wg sync.WaitGroup
	for _, peer := range peers(text) {
		wg.Go(func() {
			macs, err := askARP(ctx, peer, from)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			known = append(known, macs...)
		})
	}
	wg.Wait()
	return strange(holders, known), nil
}

// strange is the first holder that is not known.
func strange(holders, known []string) string {
	i := slices.IndexFunc(holders, func(mac string) bool { return !slices.Contains(known, mac) })
	if i < 0 {
		return ""
	}
	return holders[i]
}

// askARP returns the hardware addresses that answer for an address.
func askARP(ctx context.Context, address string, from []string) ([]string, error) {
	a, err := whoHas(ctx, WhoHasRequest{Address: address, From: from})
	if err != nil {
		return nil, fmt.Errorf("asking who has %s: %w", address, err)
	}
	return a.Answers, nil
}

// sourcesOf are the addresses from which keepalived sends advertisements: one, or one in each network while the endpoint moves to another one.
func sourcesOf(keepalived string) (out []string) {
	for line := range strings.Lines(keepalived) {
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "unicast_src_ip" || f[0] == "mcast_src_ip") {
			if _, err := netip.ParseAddr(f[1]); err == nil && !slices.Contains(out, f[1]) {
				out = append(out, f[1])
			}
		}
	}
	return out
}
