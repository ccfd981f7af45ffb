//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// The networks of machines with the profile three-nics, and their interfaces.
const (
	frontLink, podLink = "eth1", "eth2"
	frontVIP           = "10.97.0.200"
	podNetwork         = "10.98.0.0/24"
)

// TestNetworks builds a cluster on machines with three interfaces: the nodes use the first network, the virtual IP is in the second one, and pods use the
// third. The counters of the interfaces say which of them carries what. The virtual IP moves when its holder loses the front network only, and when it is
// cut off as a whole. This machine has no interface in these networks, so everything is asked on the machines. With -whole, the virtual IP then moves into the network of the nodes,
// and back.
func TestNetworks(t *testing.T) {
	c := newCluster(t, "e2e-nics")
	ctx := testContext(t)
	shape := shapeOf(t, spec.InitOptions{Name: c.name, Workers: 1})
	shape.Spec.Network.ServiceCIDR = "10.112.0.0/12" // the default contains the networks of the lab
	text, err := spec.Marshal(shape)
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(c.dir, "shape.yaml")
	write(t, first, text)
	c.must(t, ctx, "lab", "create", "-f", first, "--profile", "three-nics")
	file := c.edited(t, func(s *spec.Cluster) {
		s.Spec.LoadBalancer.Address, s.Spec.Network.PodTrafficCIDR = frontVIP, podNetwork
		for i, h := range s.Spec.Hosts {
			if s.Balances(h) {
				s.Spec.Hosts[i].FrontAddress = inNetwork(t, h, "10.97.0.0")
			}
		}
	})
	s, err := spec.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	n := &networks{c, s, file}
	n.refused(t, ctx)
	c.must(t, ctx, "apply", "-f", file, "--ignore", "disk")
	n.sound(t, ctx)
	c.unchanged(t, ctx, "-f", file)
	t.Run("virtual IP", func(t *testing.T) { n.virtualIP(t, ctx) })
	t.Run("pods", func(t *testing.T) { n.pods(t, ctx) })
	t.Run("edits", func(t *testing.T) { n.edits(t, ctx) })
	t.Run("front network lost", func(t *testing.T) {
		holder := n.holder(t, ctx, frontVIP, frontLink)
		n.on(t, ctx, holder, "ip link set "+frontLink+" down")
		n.moves(t, ctx, holder)
		n.on(t, ctx, holder, "ip link set "+frontLink+" up")
		n.sound(t, ctx)
	})
	t.Run("nodes' network lost", func(t *testing.T) {
		holder := n.holder(t, ctx, frontVIP, frontLink)
		n.on(t, ctx, holder, "ip -4 route show dev eth0 > /run/routes-of-eth0; ip link set eth0 down")
		n.moves(t, ctx, holder)
		n.on(t, ctx, holder, "ip link set eth0 up; while read -r route; do ip route replace $route dev eth0; done < /run/routes-of-eth0")
		n.sound(t, ctx)
	})
	t.Run("nodes' network lost further away", func(t *testing.T) {
		holder := n.holder(t, ctx, frontVIP, frontLink)
		n.on(t, ctx, holder, "nft -f - <<'E'\ntable inet cut-nodes {\n chain in { type filter hook input priority -300; iifname eth0 drop; }\n chain out { type filter hook output priority -300; oifname eth0 drop; }\n}\nE")
		n.moves(t, ctx, holder)
		n.on(t, ctx, holder, "nft delete table inet cut-nodes")
		n.sound(t, ctx)
	})
	t.Run("host cut off", func(t *testing.T) {
		holder := n.holder(t, ctx, frontVIP, frontLink)
		c.must(t, ctx, "lab", "--lab", c.name, "fault", "cut", holder)
		n.moves(t, ctx, holder)
		c.must(t, ctx, "lab", "--lab", c.name, "heal")
		n.sound(t, ctx)
	})
	if *whole {
		t.Run("to the nodes and back", func(t *testing.T) { n.there(t, ctx) })
	}
}

type networks struct {
	*cluster
	spec *spec.Cluster
	file string
}

// inNetwork is the address of a machine in another of its networks: it ends with the same number.
func inNetwork(t *testing.T, h spec.Host, network string) string {
	t.Helper()
	a, err := netip.ParseAddr(h.Address)
	if err != nil {
		t.Fatal(err)
	}
	b := netip.MustParseAddr(network).As4()
	b[3] = a.As4()[3]
	return netip.AddrFrom4(b).String()
}

// with writes the spec with a change, and returns the file.
func (n *networks) with(t *testing.T, change func(*spec.Cluster)) string {
	t.Helper()
	s, err := spec.Load(n.file)
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	write(t, file, text)
	return file
}

// on runs a script on a machine without its network.
func (n *networks) on(t *testing.T, ctx context.Context, machine, script string) string {
	t.Helper()
	var out, said bytes.Buffer
	if err := n.lab(t).Exec(ctx, machine, []string{"bash", "-ec", script}, nil, &out, &said); err != nil {
		t.Fatalf("on %s: %s: %v: %s", machine, script, err, said.String())
	}
	return strings.TrimSpace(out.String())
}

// sound waits until nothing is wrong but that this machine does not reach the endpoint.
func (n *networks) sound(t *testing.T, ctx context.Context) (s status.Status) {
	t.Helper()
	eventually(t, ctx, "full margins and no problems", func() (err error) {
		if s, _, err = n.statusOf(ctx, n.file); err != nil {
			return err
		}
		wrong := slices.DeleteFunc(lacks(s), func(w string) bool { return strings.HasPrefix(w, string(model.RuleEndpointFromHere)) })
		if len(wrong) > 0 {
			return fmt.Errorf("%q", wrong)
		}
		return nil
	})
	return s
}

// holder is the load balancer that has a virtual IP. It has it on the given interface, and nobody else has it.
func (n *networks) holder(t *testing.T, ctx context.Context, vip, link string) (holder string) {
	t.Helper()
	eventually(t, ctx, "one load balancer has "+vip, func() error {
		var have []string
		for _, h := range n.spec.Spec.Hosts {
			var out bytes.Buffer
			if err := n.lab(t).Exec(ctx, h.Name, []string{"ip", "-o", "address", "show", "to", vip}, nil, &out, &out); err != nil {
				return err
			}
			if f := strings.Fields(out.String()); len(f) > 1 {
				have = append(have, h.Name+" "+f[1])
			}
		}
		if len(have) != 1 {
			return fmt.Errorf("%q have it", have)
		}
		var on string
		if holder, on, _ = strings.Cut(have[0], " "); on != link {
			return fmt.Errorf("%s has it on %s", holder, on)
		}
		return nil
	})
	return holder
}

// moves waits until another load balancer than one has the virtual IP, and the API answers there. Who is cut off may keep the address: nobody reaches it.
func (n *networks) moves(t *testing.T, ctx context.Context, from string) {
	t.Helper()
	eventually(t, ctx, "the virtual IP leaves "+from, func() error {
		for _, h := range n.spec.BalancerHosts() {
			var out bytes.Buffer
			if err := n.lab(t).Exec(ctx, h.Name, []string{"ip", "-o", "address", "show", "to", frontVIP}, nil, &out, &out); err != nil {
				return err
			}
			if h.Name != from && strings.Contains(out.String(), frontLink) {
				return nil
			}
		}
		return fmt.Errorf("no other load balancer has it")
	})
	cp := n.spec.HostsWith(spec.RoleControlPlane)[0].Name
	eventually(t, ctx, "the API answers at "+frontVIP, func() error {
		var out bytes.Buffer
		err := n.lab(t).Exec(ctx, cp, []string{"bash", "-ec", viaEndpoint + "get --raw /readyz"}, nil, &out, &out)
		if err != nil || !strings.HasPrefix(out.String(), "ok") {
			return fmt.Errorf("%w: %s", err, out.String())
		}
		return nil
	})
}

// viaEndpoint uses the endpoint.
const viaEndpoint = "timeout 20 " + kubectlAsAdmin

// bytes are what an interface has sent and received.
func (n *networks) bytes(t *testing.T, ctx context.Context, machine, link string) (sent, received int) {
	t.Helper()
	f := strings.Fields(n.on(t, ctx, machine, "cat /sys/class/net/"+link+"/statistics/tx_bytes /sys/class/net/"+link+"/statistics/rx_bytes"))
	sent, err1 := strconv.Atoi(f[0])
	received, err2 := strconv.Atoi(f[1])
	if err1 != nil || err2 != nil {
		t.Fatalf("%s of %s: %q", link, machine, f)
	}
	return sent, received
}

// virtualIP has a control plane read much through the virtual IP, and looks where it passed: through the front network of the holder, and from the API server
// through the network of the nodes.
func (n *networks) virtualIP(t *testing.T, ctx context.Context) {
	holder := n.holder(t, ctx, frontVIP, frontLink)
	cp := n.spec.HostsWith(spec.RoleControlPlane)[0].Name
	if route := n.on(t, ctx, cp, "ip -o route get "+frontVIP); !strings.Contains(route, "dev "+frontLink) {
		t.Errorf("the route to the virtual IP: %s", route)
	}
	size, err := strconv.Atoi(n.on(t, ctx, cp, viaEndpoint+"get --raw /openapi/v2 | wc -c"))
	if err != nil {
		t.Fatal(err)
	}
	const times = 30 // it is compressed to less than a tenth
	front, _ := n.bytes(t, ctx, holder, frontLink)
	_, node := n.bytes(t, ctx, holder, "eth0")
	pods, _ := n.bytes(t, ctx, holder, podLink)
	n.on(t, ctx, cp, fmt.Sprintf("for i in {1..%d}; do %s get --raw /openapi/v2 >/dev/null; done", times, viaEndpoint))
	frontAfter, _ := n.bytes(t, ctx, holder, frontLink)
	_, nodeAfter := n.bytes(t, ctx, holder, "eth0")
	podsAfter, _ := n.bytes(t, ctx, holder, podLink)
	fmt.Printf("networks: %d × %d bytes through the virtual IP: %s sent %d on %s and %d on %s, and received %d on eth0\n", times, size, holder,
		frontAfter-front, frontLink, podsAfter-pods, podLink, nodeAfter-node)
	if least := size; frontAfter-front < least || nodeAfter-node < least || podsAfter-pods > least/10 {
		t.Errorf("want at least %d bytes on %s and eth0, and few on %s", least, frontLink, podLink)
	}
	// The load balancers hear each other there: an advertisement every 100 ms.
	for _, h := range n.spec.BalancerHosts() {
		if config := n.on(t, ctx, h.Name, "cat /etc/keepalived/keepalived.conf"); !strings.Contains(config, "unicast_src_ip "+h.FrontAddress+"\n") || strings.Contains(config, " interface eth0\n") || strings.Contains(config, "dev eth0") {
			t.Errorf("keepalived on %s:\n%s", h.Name, config)
		}
	}
}

// pods has the worker read much from a pod on another node, and looks where it passed.
func (n *networks) pods(t *testing.T, ctx context.Context) {
	cp, worker := n.spec.HostsWith(spec.RoleControlPlane)[0].Name, n.spec.HostsWith(spec.RoleWorker)[0].Name
	network := netip.MustParsePrefix(podNetwork)
	for _, line := range strings.Fields(n.on(t, ctx, cp, viaEndpoint+`get nodes -o jsonpath='{range .items[*]}{.metadata.name}={.metadata.annotations.flannel\.alpha\.coreos\.com/public-ip}{"\n"}{end}'`)) {
		if _, at, _ := strings.Cut(line, "="); !network.Contains(netip.MustParseAddr(at)) {
			t.Errorf("the others send packets for pods to %s", line)
		}
	}
	var pod, on string
	for _, line := range strings.Split(n.on(t, ctx, cp, viaEndpoint+`-n kube-system get pods -l k8s-app=kube-dns -o jsonpath='{range .items[*]}{.status.podIP} {.spec.nodeName}{"\n"}{end}'`), "\n") {
		if f := strings.Fields(line); len(f) == 2 && f[1] != worker {
			pod, on = f[0], f[1]
		}
	}
	if pod == "" {
		t.Fatal("no replica of CoreDNS is on another node")
	}
	if route := n.on(t, ctx, worker, "ip -o route get "+pod); !strings.Contains(route, "dev flannel.1") {
		t.Errorf("the route to the pod: %s", route)
	}
	if link := n.on(t, ctx, worker, "ip -d link show flannel.1"); !strings.Contains(link, "dev "+podLink) {
		t.Errorf("flannel sends through another interface: %s", link)
	}
	const times = 200
	get := `printf 'GET /metrics HTTP/1.0\r\n\r\n' | timeout 10 socat -t 10 - TCP:` + pod + `:9153`
	_, podBefore := n.bytes(t, ctx, worker, podLink)
	_, nodeBefore := n.bytes(t, ctx, worker, "eth0")
	_, frontBefore := n.bytes(t, ctx, worker, frontLink)
	size, err := strconv.Atoi(n.on(t, ctx, worker, fmt.Sprintf("for i in {1..%d}; do %s; done | wc -c", times, get)))
	if err != nil || size < times*1000 {
		t.Fatalf("%d bytes were read: %v", size, err)
	}
	_, podAfter := n.bytes(t, ctx, worker, podLink)
	_, nodeAfter := n.bytes(t, ctx, worker, "eth0")
	_, frontAfter := n.bytes(t, ctx, worker, frontLink)
	fmt.Printf("networks: %d bytes from a pod on %s: %s received %d on %s, %d on eth0, and %d on %s\n", size, on, worker, podAfter-podBefore, podLink, nodeAfter-nodeBefore, frontAfter-frontBefore, frontLink)
	if podAfter-podBefore < size || nodeAfter-nodeBefore > size/2 || frontAfter-frontBefore > size/2 {
		t.Errorf("want at least %d bytes on %s, and few on the others", size, podLink)
	}
}

// refused are specs that preflight finds fault with, before the build.
func (n *networks) refused(t *testing.T, ctx context.Context) {
	lb := n.spec.BalancerHosts()[0]
	for name, tc := range map[string]struct {
		edit  func(*spec.Cluster)
		words string
	}{
		"no front address":       {func(s *spec.Cluster) { each(s, func(h *spec.Host) { h.FrontAddress = "" }) }, "frontAddress: " + lb.FrontAddress},
		"another front address":  {func(s *spec.Cluster) { host(s, lb.Name).FrontAddress = "10.97.0.250" }, "no interface of " + lb.Name + " has its frontAddress 10.97.0.250"},
		"another pods' network":  {func(s *spec.Cluster) { s.Spec.Network.PodTrafficCIDR = "10.99.0.0/24" }, "has no address in 10.99.0.0/24"},
		"a network of all cards": {func(s *spec.Cluster) { s.Spec.Network.PodTrafficCIDR = "10.96.0.0/14" }, "has several addresses in 10.96.0.0/14"},
	} {
		t.Run(name, func(t *testing.T) {
			got := n.run(ctx, "preflight", "-f", n.with(t, tc.edit), "--ignore", "disk")
			if said := strings.Join(strings.Fields(got.stdout+got.stderr), " "); got.code != 3 && got.code != 1 || !strings.Contains(said, tc.words) {
				t.Errorf("no %q in %s", tc.words, got)
			}
		})
	}
}

func each(s *spec.Cluster, change func(*spec.Host)) {
	for i := range s.Spec.Hosts {
		change(&s.Spec.Hosts[i])
	}
}

func host(s *spec.Cluster, name string) *spec.Host {
	return &s.Spec.Hosts[slices.IndexFunc(s.Spec.Hosts, func(h spec.Host) bool { return h.Name == name })]
}

// edits of these fields are refused in a cluster that exists, and explained.
func (n *networks) edits(t *testing.T, ctx context.Context) {
	lb := n.spec.BalancerHosts()[0].Name
	for field, edit := range map[string]func(*spec.Cluster){
		"spec.hosts[" + lb + "].frontAddress": func(s *spec.Cluster) { host(s, lb).FrontAddress = "10.97.0.250" },
		"spec.network.podTrafficCIDR":         func(s *spec.Cluster) { s.Spec.Network.PodTrafficCIDR = "" },
	} {
		if got := n.exits(t, ctx, 3, "plan", "-f", n.with(t, edit)); !strings.Contains(strings.Join(strings.Fields(got.stdout+got.stderr), " "), field) {
			t.Errorf("no %s in %s", field, got)
		}
	}
}

// there moves the virtual IP into the network of the nodes, and back.
func (n *networks) there(t *testing.T, ctx context.Context) {
	nodes := n.lab(t).VirtualIPs()[0].String()
	for _, at := range []struct{ vip, link, ended string }{{nodes, "eth0", frontVIP}, {frontVIP, frontLink, nodes}} {
		n.spec.Spec.LoadBalancer.Address = at.vip
		text, err := spec.Marshal(n.spec)
		if err != nil {
			t.Fatal(err)
		}
		write(t, n.file, text)
		n.must(t, ctx, "apply", "-f", n.file, "--ignore", "disk")
		n.holder(t, ctx, at.vip, at.link)
		for _, h := range n.spec.Spec.Hosts {
			if left := n.on(t, ctx, h.Name, "ip -o address show to "+at.ended); left != "" {
				t.Errorf("%s still has %s: %s", h.Name, at.ended, left)
			}
		}
		n.sound(t, ctx)
		n.unchanged(t, ctx, "-f", n.file)
	}
}
