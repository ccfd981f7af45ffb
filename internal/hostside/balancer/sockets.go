package balancer

import (
	"net"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// silences asks the kernel how long ago data last arrived from each peer of this host's TCP connections, by the peer's
// address and port. A peer without a connection has no entry.
func silences() (map[string]time.Duration, error) {
	all, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
	if err != nil {
		return nil, err
	}
	heard, waiting := map[string]time.Duration{}, map[string]time.Duration{}
	for _, s := range all {
		if s.InetDiagMsg == nil || s.TCPInfo == nil || s.TCPInfo.State != netlink.TCP_ESTABLISHED {
			continue
		}
		peer := net.JoinHostPort(s.InetDiagMsg.ID.Destination.String(), strconv.Itoa(int(s.InetDiagMsg.ID.DestinationPort)))
		silent := time.Duration(s.TCPInfo.Last_data_recv) * time.Millisecond
		if s.TCPInfo.Bytes_received == 0 {
			// The kernel counts from when the connection was established, which it does even for a program that hangs.
			waiting[peer] = max(waiting[peer], silent)
			continue
		}
		if have, ok := heard[peer]; !ok || silent < have {
			heard[peer] = silent
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
