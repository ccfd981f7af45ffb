package balancer

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connection is the two ends of a TCP connection of this host.
type connection struct{ local, peer netip.AddrPort }

// received is what arrived through a connection.
type received struct {
	anything bool
	// silent is how long ago the last of it arrived, or the connection was established if nothing did. The kernel counts in
	// units of up to 10 ms.
	silent time.Duration
}

// arrivals asks the kernel what arrived through each of this host's TCP connections: those of IPv4 and, if it is asked for, of IPv6.
// An API server has all of its own connections among the latter, which are many.
func arrivals(six bool) (map[connection]received, error) {
	all, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
	if err == nil && six {
		var more []*netlink.InetDiagTCPInfoResp
		more, err = netlink.SocketDiagTCPInfo(unix.AF_INET6)
		all = append(all, more...)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the kernel for its TCP connections: %w", err)
	}
	out := map[connection]received{}
	for _, s := range all {
		if s.InetDiagMsg == nil || s.TCPInfo == nil || s.TCPInfo.State != netlink.TCP_ESTABLISHED {
			continue
		}
		id := s.InetDiagMsg.ID
		local, _ := netip.AddrFromSlice(id.Source)
		peer, _ := netip.AddrFromSlice(id.Destination)
		c := connection{netip.AddrPortFrom(local.Unmap(), id.SourcePort), netip.AddrPortFrom(peer.Unmap(), id.DestinationPort)}
		out[c] = received{s.TCPInfo.Bytes_received > 0, time.Duration(s.TCPInfo.Last_data_recv) * time.Millisecond}
	}
	return out, nil
}

// silences are how long ago data last arrived from each peer of this host's TCP connections, by the peer's address and port. A
// peer without a connection has no entry.
func silences(six bool) (map[string]time.Duration, error) {
	all, err := arrivals(six)
	if err != nil {
		return nil, err
	}
	heard, waiting := map[string]time.Duration{}, map[string]time.Duration{}
	for c, r := range all {
		peer := c.peer.String()
		if !r.anything {
			// The kernel establishes connections even for a program that hangs.
			waiting[peer] = max(waiting[peer], r.silent)
			continue
		}
		if have, ok := heard[peer]; !ok || r.silent < have {
			heard[peer] = r.silent
		}
	}
	for peer, silent := range waiting {
		if _, ok := heard[peer]; !ok {
			heard[peer] = silent
		}
	}
	return heard, nil
}

// monotonic is the time since the machine started, whatever happens to its clock.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err) // the kernel has had this clock since 2.6.39
	}
	return time.Duration(now.Nano())
}
