package inspect

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"quorate.dev/quorate/internal/facts"
)

// TestConcerns has rules as nft and iptables-nft write them.
func TestConcerns(t *testing.T) {
	equal := func(data ...byte) []expr.Any { return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Data: data}} }
	for name, tc := range map[string]struct {
		exprs []expr.Any
		pods  string
		want  bool
	}{
		"two bytes of the address":        {equal(10, 244), "10.244.0.0/16", true},
		"the address behind a mask":       {equal(10, 244, 0, 0), "10.244.0.0/16", true},
		"another address":                 {equal(172, 17, 0, 0), "10.244.0.0/16", false},
		"a part of the range":             {equal(10, 244, 3, 0), "10.244.0.0/16", false},
		"a larger range":                  {equal(10, 244), "10.244.16.0/20", false},
		"all but the range":               {[]expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Data: []byte{10, 244}}}, "10.244.0.0/16", false},
		"the bridge of pods":              {equal([]byte("cni0\x00\x00")...), "10.244.0.0/16", true},
		"Docker's bridge":                 {equal([]byte("docker0\x00")...), "10.244.0.0/16", false},
		"a protocol":                      {equal(10), "10.0.0.0/8", false},
		"a counter in front of an accept": {append([]expr.Any{&expr.Counter{}}, equal(10, 244)...), "10.244.0.0/16", true},
	} {
		if got := concerns(&nftables.Rule{Exprs: tc.exprs}, netip.MustParsePrefix(tc.pods)); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLegacyDrop(t *testing.T) {
	const docker = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n"
	drop := facts.ForwardDrop{Chain: "FORWARD of iptables-legacy"}
	allowed := drop
	allowed.Pods = true
	for name, tc := range map[string]struct {
		rules string
		want  []facts.ForwardDrop
	}{
		"nothing":           {"-P INPUT DROP\n-P FORWARD ACCEPT\n", nil},
		"Docker":            {docker, []facts.ForwardDrop{drop}},
		"Docker, and pods":  {docker + "-A DOCKER-USER -s 10.244.0.0/16 -j ACCEPT\n", []facts.ForwardDrop{allowed}},
		"by the interface":  {docker + "-A DOCKER-USER -i cni0 -j ACCEPT\n", []facts.ForwardDrop{allowed}},
		"another interface": {docker + "-A DOCKER-USER -i docker0 -j ACCEPT\n", []facts.ForwardDrop{drop}},
	} {
		if got := legacyDrop(tc.rules, netip.MustParsePrefix("10.244.0.0/16")); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestNetworks: the network of the loopback interface is not a route of the main table, so this only shows that the kernel is read.
func TestNetworks(t *testing.T) {
	for _, n := range networks() {
		if p, err := netip.ParsePrefix(n.Prefix); err != nil || p.Bits() == 0 || n.Interface == "" && !n.Gateway {
			t.Errorf("%+v: %v", n, err)
		}
	}
}
