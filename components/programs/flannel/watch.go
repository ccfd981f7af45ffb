package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// watched is what other programs may change and flanneld wants to know of.
type watched struct {
	tables   []string // of nftables
	overlays []*overlay
}

// watch calls wake after each event of the kernel that may concern what flanneld owns. Events can be lost. It has the network
// namespace of the calling thread.
func (w watched) watch(wake func()) (stop func(), err error) {
	nft, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_NEIGH)
	for _, o := range w.overlays {
		if o.family == ipv6Family {
			groups |= unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE
		} else {
			groups |= unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE
		}
	}
	route, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch routes: %w", err), nft.Close())
	}
	var background sync.WaitGroup
	background.Go(func() { follow(nft, w.concernsRules, wake) })
	background.Go(func() { follow(route, w.concernsOverlay, wake) })
	return func() {
		nft.Close()
		route.Close()
		background.Wait()
	}, nil
}

// follow reads events until the connection is closed. The kernel drops events when they come faster than they are read: that it
// did so is an event, too.
func follow(c *netlink.Conn, concerns func(netlink.Message) bool, wake func()) {
	for {
		events, err := c.Receive()
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return
		case errors.Is(err, unix.ENOBUFS):
			wake()
		case err != nil:
			klog.Errorf("watch the kernel's network configuration: %v", err)
			time.Sleep(pause) // so that a lasting error does not fill the log; the resync finds what was missed
		case slices.ContainsFunc(events, concerns):
			wake()
		}
	}
}

// concernsRules reports whether an event is about one of the tables. Each object of nftables names its table in the first
// attribute.
func (w watched) concernsRules(m netlink.Message) bool {
	const header = 4 // nfgenmsg
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < header {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return false
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_TABLE_NAME {
			return slices.Contains(w.tables, attributes.String())
		}
	}
	return false
}

// concernsOverlay reports whether an event removes a route, or changes an overlay's interface or removes what belongs to it.
func (w watched) concernsOverlay(m netlink.Message) bool {
	const index = 4 // offset in ifinfomsg, ifaddrmsg, and ndmsg
	switch m.Header.Type {
	case unix.RTM_DELROUTE:
		return len(w.overlays) > 0
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELNEIGH:
		return slices.ContainsFunc(w.overlays, func(o *overlay) bool {
			link := o.index.Load() // 0 while there is none
			return link == 0 || len(m.Data) >= index+4 && binary.NativeEndian.Uint32(m.Data[index:]) == link
		})
	}
	return false
}
