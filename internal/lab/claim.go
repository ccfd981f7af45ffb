package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
)

// The fence is what keeps lab packets on this computer: while a lab exists, its subnet is unreachable in the caller's
// namespace, except through the cable into the lab. Without it, a packet for a machine that is gone would follow the default
// route out. It is also the claim on the subnet: the kernel adds the route for only one lab.
const fenceMetric = 1 << 30

// claim finds a free subnet, assigns its addresses, saves the first record, and adds the fence.
func (l *Lab) claim(ctx context.Context, cfg Config) error {
	candidates, err := subnets(cfg.Machines)
	if err != nil {
		return fmt.Errorf("create lab %s: %w", cfg.Name, err)
	}
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	free, why, err := freeSubnet(candidates)
	if err != nil {
		return fmt.Errorf("create lab %s: %w", cfg.Name, err)
	}
	if !free.IsValid() {
		return fmt.Errorf("create lab %s: no free subnet: %s; delete a lab that is no longer needed (`quorate lab list` shows them), or leave the addresses out", cfg.Name, why)
	}
	l.rec.Subnet = free
	l.rec.VirtualIPs = cfg.family().virtualIPs(free, cfg.VirtualIPs)
	if l.rec.Machines, err = cfg.family().assign(free, cfg.Machines, l.rec.VirtualIPs); err != nil {
		return fmt.Errorf("create lab %s: %w", cfg.Name, err)
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return fmt.Errorf("create lab %s: %w", cfg.Name, err)
	}
	if err := l.save(); err != nil {
		return fmt.Errorf("create lab %s: %w", cfg.Name, err)
	}
	if err := l.fence(); err != nil {
		return err
	}
	return raiseLimits() // again: the last other lab may have been deleted since Check, which restores the limits
}

// reclaim is claim for a lab that already has its addresses: a reboot removed the fence.
func (l *Lab) reclaim(ctx context.Context) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.fence(); err != nil {
		return err
	}
	return raiseLimits()
}

// freeSubnet returns the first candidate that no route and no other lab uses.
func freeSubnet(candidates []netip.Prefix) (free netip.Prefix, why string, err error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return netip.Prefix{}, "", fmt.Errorf("read the routes of this machine: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if ok && ones > 0 {
			used = append(used, netip.PrefixFrom(a, ones))
		}
	}
	labs, _ := List() // a damaged lab still has its fence among the routes
	for _, l := range labs {
		used = append(used, l.Subnet())
	}
	free, conflict := pickSubnet(candidates, used)
	if !free.IsValid() {
		why = fmt.Sprintf("%s is already in use on this machine (see `ip route show table all`)", conflict)
	}
	return free, why, nil
}

func pickSubnet(candidates, used []netip.Prefix) (free, conflict netip.Prefix) {
next:
	for _, c := range candidates {
		for _, u := range used {
			if c.Overlaps(u) {
				conflict = u
				continue next
			}
		}
		return c, netip.Prefix{}
	}
	return netip.Prefix{}, conflict
}

// fence adds the fence and records for which lab. The record is lost in a reboot, like the kernel's route.
func (l *Lab) fence() error {
	if err := os.MkdirAll(runDir(l.Name()), 0o755); err != nil {
		return err
	}
	owner := l.dir + "\n" + l.Subnet().String() + "\n"
	if err := durable.WriteFile(ownerFile(l.Name()), []byte(owner), 0o644); err != nil {
		return err
	}
	for _, subnet := range l.Family().all(l.Subnet().Addr()) {
		if err := netlink.RouteReplace(fenceRoute(subnet)); err != nil {
			return fmt.Errorf("lab %s: add the route that keeps traffic to %s on this machine: %w", l.Name(), subnet, err)
		}
	}
	return nil
}

func fenceRoute(subnet netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(subnet), Type: unix.RTN_UNREACHABLE, Priority: fenceMetric}
}

func ownerFile(name string) string { return filepath.Join(runDir(name), "owner") }

// owner returns the state directory and the subnet to which the kernel's objects of this name belong.
func owner(name string) (dir string, subnet netip.Prefix) {
	data, err := os.ReadFile(ownerFile(name))
	if err != nil {
		return "", netip.Prefix{}
	}
	dir, rest, _ := strings.Cut(string(data), "\n")
	subnet, _ = netip.ParsePrefix(strings.TrimSpace(rest))
	return dir, subnet
}

// refuseForeign keeps two state directories from using the same lab name in the kernel.
func refuseForeign(name string) error {
	dir, _ := owner(name)
	if dir == "" || dir == stateDir(name) {
		return nil
	}
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // its state no longer exists, so this lab takes over the rest
	}
	return fmt.Errorf("lab %s: %w in another state directory: choose another name, or set QUORATE_STATE=%s to use that lab",
		name, ErrExists, filepath.Dir(filepath.Dir(dir)))
}

// lowerFence removes the fence. It comes last, after nothing can send any more.
func lowerFence(subnet netip.Prefix) error {
	if !subnet.IsValid() {
		return nil
	}
	if err := netlink.RouteDel(fenceRoute(subnet)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route that fences %s: %w", subnet, err)
	}
	// Most labs have no fence for IPv6, and not every kernel has IPv6.
	six := fenceRoute(subnet6(subnet))
	if err := netlink.RouteDel(six); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("remove the route that fences %s: %w", six.Dst, err)
	}
	return nil
}
