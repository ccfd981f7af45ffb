package inspect

import (
	"bytes"
	"compress/gzip"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// TestKernelFeatures reads file systems as distributions have them, cut to what matters.
func TestKernelFeatures(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write([]byte("CONFIG_OVERLAY_FS=y\nCONFIG_BRIDGE_NETFILTER=y\nCONFIG_NF_TABLES=y\nCONFIG_NF_CONNTRACK=y\nCONFIG_VXLAN=m\nCONFIG_VETH=y\nCONFIG_BRIDGE=y\n# CONFIG_NFT_QUEUE is not set\nCONFIG_NFT_COMPAT=y\nCONFIG_NETFILTER_XT_TARGET_NFQUEUE=y\nCONFIG_NETFILTER_NETLINK_QUEUE=y\n# CONFIG_IP_VS is not set\n"))
	z.Close()
	const debian = "kernel/fs/overlayfs/overlay.ko:\nkernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko\nkernel/net/netfilter/nf_tables.ko: \n" +
		"kernel/net/netfilter/nft_queue.ko:\nkernel/net/netfilter/nft_compat.ko:\nkernel/net/netfilter/xt_NFQUEUE.ko:\nkernel/net/netfilter/nfnetlink_queue.ko:\n" +
		"kernel/net/netfilter/nf_conntrack.ko:\nkernel/drivers/net/vxlan/vxlan.ko:\nkernel/drivers/net/veth.ko:\nkernel/net/bridge/bridge.ko:\n"
	all := func(f facts.Feature, but map[string]facts.Feature) map[string]facts.Feature {
		out := map[string]facts.Feature{}
		for name := range features {
			out[name] = f
		}
		maps.Copy(out, but)
		return out
	}
	for name, tc := range map[string]struct {
		files fstest.MapFS
		want  map[string]facts.Feature
	}{
		"Debian 12": {fstest.MapFS{
			"boot/config-6.1":                 file("CONFIG_OVERLAY_FS=m\n"),
			"lib/modules/6.1/modules.dep":     file(debian),
			"lib/modules/6.1/modules.builtin": file("kernel/fs/ext4/ext4.ko\n"),
			"sys/module/bridge/refcnt":        file("0"),
		}, all(facts.Loadable, map[string]facts.Feature{"bridge": facts.Present})},
		"Ubuntu without its extra modules": {fstest.MapFS{
			"boot/config-6.1":                 file("CONFIG_OVERLAY_FS=m\nCONFIG_VXLAN=m\n"),
			"lib/modules/6.1/modules.dep":     file("kernel/fs/overlayfs/overlay.ko.zst:\n"),
			"lib/modules/6.1/modules.builtin": file("kernel/net/bridge/bridge.ko\n"),
		}, all(facts.Absent, map[string]facts.Feature{"overlay": facts.Loadable, "bridge": facts.Present})},
		"RHEL 9": {fstest.MapFS{
			"lib/modules/6.1/config":      file("CONFIG_OVERLAY_FS=m\n"),
			"lib/modules/6.1/modules.dep": file("kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/netfilter/nf_tables.ko.xz: kernel/lib/libcrc32c.ko.xz\n"),
		}, all(facts.Absent, map[string]facts.Feature{"overlay": facts.Loadable, "nf_tables": facts.Loadable})},
		"a kernel without modules":    {fstest.MapFS{"proc/config.gz": {Data: packed.Bytes()}}, all(facts.Present, map[string]facts.Feature{"vxlan": facts.Unknown, "nft_queue": facts.Absent})},
		"a kernel that tells nothing": {fstest.MapFS{}, all(facts.Unknown, nil)},
	} {
		if got := kernelFeatures(tc.files, "6.1"); !maps.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: C80112C6:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:1D14 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000000000000000 100 0 0 10 0
   3: 0100007F:0947 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
   4: 0100007F:0948 0100007F:C350 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0000000000000000
`
	want := []socket{{netip.IPv4Unspecified(), 6443, "4711"}, {netip.MustParseAddr("198.18.1.200"), 7443, "4713"}, {netip.MustParseAddr("127.0.0.1"), 7444, "4714"}}
	if got := listening(strings.NewReader(table)); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

// TestAccepts: what listens only on a virtual IP or on loopback does not listen on the host's address.
func TestAccepts(t *testing.T) {
	for listens, want := range map[string]bool{"0.0.0.0": true, "::": true, "198.18.1.11": true, "198.18.1.200": false, "127.0.0.1": false} {
		l := facts.Listener{Port: 7443, Addresses: []netip.Addr{netip.MustParseAddr(listens)}}
		if l.Accepts("198.18.1.11") != want {
			t.Errorf("%s: %v", listens, !want)
		}
	}
	for listens, want := range map[string]bool{"0.0.0.0": false, "::": true, "fd00::11": true, "198.18.1.11": false} {
		if (facts.Listener{Port: 7443, Addresses: []netip.Addr{netip.MustParseAddr(listens)}}).Accepts("fd00::11") != want {
			t.Errorf("%s: %v for IPv6", listens, !want)
		}
	}
	if (facts.Listener{Port: 7443}).Accepts("198.18.1.11") {
		t.Error("a listener of which no address is known accepts connections")
	}
}

// TestInspectFindsWhoListens asks for a port of this process.
func TestInspectFindsWhoListens(t *testing.T) {
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	in, err := Inspect.On(t.Context(), c, facts.InspectRequest{Name: "localhost", Address: "127.0.0.1", Ports: []int{port}})
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Listeners) != 1 || in.Listeners[0].Port != port || in.Listeners[0].PID != os.Getpid() || in.Listeners[0].Own {
		t.Errorf("listeners %+v", in.Listeners)
	}
	if in.BootID == "" || in.MTU == 0 || len(in.Features) != len(features) || in.DiskBytes == 0 || in.OwnName.Error != "" {
		t.Errorf("%+v", in)
	}
}
