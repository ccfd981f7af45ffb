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
		may   bool
	}{
		"two bytes of the address":                    {equal(10, 244), "10.244.0.0/16", true, false},
		"the address behind a mask":                   {equal(10, 244, 0, 0), "10.244.0.0/16", true, false},
		"another address":                             {equal(172, 17, 0, 0), "10.244.0.0/16", false, false},
		"a part of the range":                         {equal(10, 244, 3, 0), "10.244.0.0/16", false, false},
		"a larger range":                              {equal(10, 244), "10.244.16.0/20", true, false},
		"all but the range":                           {[]expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Data: []byte{10, 244}}}, "10.244.0.0/16", false, false},
		"the bridge of pods":                          {equal([]byte("cni0\x00\x00")...), "10.244.0.0/16", true, false},
		"Docker's bridge":                             {equal([]byte("docker0\x00")...), "10.244.0.0/16", false, false},
		"a protocol, or the first byte of an address": {equal(10), "10.0.0.0/8", false, true},
		"a counter in front of an accept":             {append([]expr.Any{&expr.Counter{}}, equal(10, 244)...), "10.244.0.0/16", true, false},
		"a set":                                       {[]expr.Any{&expr.Lookup{SetName: "pods"}}, "10.244.0.0/16", false, true},
		"an address range":                            {[]expr.Any{&expr.Range{Op: expr.CmpOpEq, FromData: []byte{10, 0, 0, 0}, ToData: []byte{10, 255, 0, 0}}}, "10.244.0.0/16", false, true},
		"a network around it":                         {append([]expr.Any{&expr.Bitwise{Mask: []byte{255, 128, 0, 0}}}, equal(10, 128, 0, 0)...), "10.244.0.0/16", true, false},
		"all interfaces of CNI":                       {equal([]byte("cni")...), "10.244.0.0/16", true, false},
		"everything":                                  {[]expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}, "10.244.0.0/16", true, false},
		"connections that exist":                      {append(equal(6), &expr.Verdict{Kind: expr.VerdictAccept}), "10.244.0.0/16", false, false},
	} {
		if is, may := concerns(&nftables.Rule{Exprs: tc.exprs}, netip.MustParsePrefix(tc.pods)); is != tc.want || may != tc.may {
			t.Errorf("%s: %v, %v", name, is, may)
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
		"a network around":  {docker + "-A FORWARD -s 10.0.0.0/8 -j ACCEPT\n", []facts.ForwardDrop{allowed}},
		"interfaces":        {docker + "-A FORWARD -i cni+ -j ACCEPT\n", []facts.ForwardDrop{allowed}},
		"everything":        {docker + "-A FORWARD -j ACCEPT\n", []facts.ForwardDrop{allowed}},
	} {
		if got := legacyDrop(tc.rules, netip.MustParsePrefix("10.244.0.0/16")); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestNetworks: the network of the loopback interface is not a route of the main table, so this only shows that the kernel is read.
func TestNetworks(t *testing.T) {
	for _, n := range networks("") {
		if p, err := netip.ParsePrefix(n.Prefix); err != nil || p.Bits() == 0 || n.Interface == "" && !n.Gateway {
			t.Errorf("%+v: %v", n, err)
		}
	}
}
