package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/florianl/go-nfqueue"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestQueueDecides(t *testing.T) { queueDecides(t, ipv4Family, "10.244.%d.1", "10.244.%d.2", 24) }
func TestIPv6QueueDecides(t *testing.T) {
	queueDecides(t, ipv6Family, "fd00:10:244:%d::1", "fd00:10:244:%d::2", 64)
}

// A node forwards between two pods: what concerns a pod that policies select passes only if a program at the queue lets it, and what
// does not concern it is not queued.
func queueDecides(t *testing.T, family ipFamily, gateway, pod string, bits int) {
	namespace(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	node, err := netns.Get()
	must(err)
	defer node.Close()
	if family == ipv6Family {
		must(os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
	} else {
		must(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	}
	flags := 0
	if family == ipv6Family {
		flags = unix.IFA_F_NODAD
	}
	address := func(format string, i int) *netlink.Addr {
		ip := net.ParseIP(fmt.Sprintf(format, i))
		return &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, 8*family.addressLen)}, Flags: flags}
	}
	var pods [3]netns.NsHandle // the first is not used
	for i := 1; i <= 2; i++ {
		pods[i], err = netns.New()
		must(err)
		defer pods[i].Close()
		must(netns.Set(node))
		here, there := fmt.Sprint("pod", i), "eth0"
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: here}, PeerName: there, PeerNamespace: netlink.NsFd(pods[i])}))
		link, err := netlink.LinkByName(here)
		must(err)
		must(netlink.AddrAdd(link, address(gateway, i)))
		must(netlink.LinkSetUp(link))
		inside, err := netlink.NewHandleAt(pods[i])
		must(err)
		defer inside.Close()
		link, err = inside.LinkByName(there)
		must(err)
		must(inside.AddrAdd(link, address(pod, i)))
		must(inside.LinkSetUp(link))
		must(inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(fmt.Sprintf(gateway, i))}))
	}
	in := func(ns netns.NsHandle, f func() error) {
		t.Helper()
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: this thread ends with the goroutine
			if err := netns.Set(ns); err != nil {
				done <- err
				return
			}
			done <- f()
		}()
		must(<-done)
	}
	var server net.PacketConn
	in(pods[2], func() (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(fmt.Sprintf(pod, 2), "9999"))
		return err
	})
	defer server.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], from) // the client would miss it
		}
	}()
	// Each request is a connection of its own.
	answers := func(patient time.Duration) (ok bool) {
		t.Helper()
		in(pods[1], func() error {
			c, err := net.Dial("udp", server.LocalAddr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
			if err := c.SetReadDeadline(time.Now().Add(patient)); err != nil {
				return err
			}
			_, err = c.Read(make([]byte, 100))
			ok = err == nil
			return nil
		})
		return ok
	}
	const dropped, passed = 300 * time.Millisecond, 5 * time.Second
	x := &xtables{families: []ipFamily{family}}
	client, other := netip.MustParseAddr(fmt.Sprintf(pod, 1)), netip.MustParseAddr(fmt.Sprintf(pod, 9))
	eventually(t, "the pods to reach each other", func() bool { return answers(dropped) })
	must(x.apply([]netip.Addr{client}, false))
	if answers(dropped) {
		t.Error("a packet passes that nothing judged")
	}

	queue, err := nfqueue.Open(&nfqueue.Config{NfQueue: packetQueue, MaxPacketLen: 128, MaxQueueLen: 16, Copymode: nfqueue.NfQnlCopyPacket})
	must(err)
	var (
		mu      sync.Mutex
		sources []string
		verdict = nfqueue.NfAccept
	)
	ctx, cancel := context.WithCancel(t.Context())
	must(queue.RegisterWithErrorFunc(ctx, func(a nfqueue.Attribute) int {
		mu.Lock()
		defer mu.Unlock()
		from, _ := netip.AddrFromSlice((*a.Payload)[12:16])
		if family == ipv6Family {
			from, _ = netip.AddrFromSlice((*a.Payload)[8:24])
		}
		sources = append(sources, from.String())
		if err := queue.SetVerdict(*a.PacketID, verdict); err != nil {
			t.Error(err)
		}
		return 0
	}, func(error) int { return 0 }))
	if !answers(passed) {
		t.Error("a packet is lost that was accepted")
	}
	mu.Lock()
	if len(sources) != 1 || sources[0] != client.String() { // not the answer: its connection was judged
		t.Errorf("queued: %v", sources)
	}
	verdict = nfqueue.NfDrop
	mu.Unlock()
	if answers(dropped) {
		t.Error("a packet passes that was refused")
	}
	cancel()
	queue.Close()

	must(x.apply([]netip.Addr{other}, false))
	if !answers(passed) {
		t.Error("a packet is lost that no policy concerns")
	}
	must(x.apply(nil, true))
	if !answers(passed) {
		t.Error("a packet is lost without rules")
	}
}
