package facts

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestInNetworkOf(t *testing.T) {
	f := Facts{Addresses: []Address{{IP: "10.0.0.31", Prefix: 8, Interface: "eth0"}, {IP: "192.0.2.31", Prefix: 24, Interface: "eth1"}, {IP: "10.20.0.31", Prefix: 24, Interface: "eth2"},
		{IP: "fd00::31", Prefix: 64, Interface: "eth0"}}}
	for _, tc := range []struct {
		address string
		own     []string
		want    string
	}{
		{"10.0.0.100", []string{"10.0.0.31"}, "10.0.0.31"},
		{"10.0.0.100", []string{"10.0.0.31", "192.0.2.31"}, "10.0.0.31"},
		{"192.0.2.100", []string{"10.0.0.31", "192.0.2.31"}, "192.0.2.31"},
		{"10.20.0.100", []string{"10.0.0.31", "10.20.0.31"}, "10.20.0.31"},
		{"198.51.100.1", []string{"10.0.0.31", "192.0.2.31"}, "192.0.2.31"},
		{"198.51.100.1", []string{"10.0.0.31"}, "10.0.0.31"},
		{"192.0.2.100", []string{"10.0.0.31", "192.0.2.99"}, "192.0.2.99"},
		{"fd00::100", []string{"10.0.0.31", "fd00::31"}, "fd00::31"},
		{"192.0.2.100", nil, ""},
		{"", []string{"10.0.0.31"}, "10.0.0.31"},
	} {
		if got := f.InNetworkOf(tc.address, tc.own...); got != tc.want {
			t.Errorf("%s, of %v: %q, want %q", tc.address, tc.own, got, tc.want)
		}
	}
}

func TestLostFor(t *testing.T) {
	f := Facts{Addresses: []Address{{IP: "10.0.0.31", Prefix: 24, Interface: "eth0"}}}
	for _, tc := range []struct {
		address string
		own     []string
		want    string
	}{
		{"10.0.0.100", []string{"10.0.0.31", "192.0.2.31"}, ""},
		{"192.0.2.100", []string{"10.0.0.31", "192.0.2.31"}, "192.0.2.31"},
		{"198.51.100.1", []string{"10.0.0.99", "10.0.0.31"}, "10.0.0.99"},
		{"198.51.100.1", []string{"10.0.0.31"}, ""},
		{"10.0.0.100", []string{"10.0.0.99"}, "10.0.0.99"},
		{"10.0.0.100", nil, ""},
	} {
		if got := f.LostFor(tc.address, tc.own...); got != tc.want {
			t.Errorf("%s, of %v: %q, want %q", tc.address, tc.own, got, tc.want)
		}
	}
}

// TestInNetworkOfIsOnLinkIfAnyIs tries random addresses and networks.
func TestInNetworkOfIsOnLinkIfAnyIs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() string {
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(2)), byte(r.IntN(8))}).String()
	}
	for range 5000 {
		var f Facts
		own := []string{random(), random()}
		for _, o := range own {
			if r.IntN(8) > 0 {
				f.Addresses = append(f.Addresses, Address{IP: o, Prefix: 8 + r.IntN(25)})
			}
		}
		address := random()
		got := f.InNetworkOf(address, own...)
		at, _ := f.Interface(got)
		for _, o := range own {
			if other, ok := f.Interface(o); ok && f.OnLink(o, address) && (!f.OnLink(got, address) || other.Prefix > at.Prefix) {
				t.Fatalf("%+v: %s is in the network of %s, and got %s", f, address, o, got)
			}
		}
		if !f.OnLink(own[0], address) && !f.OnLink(own[1], address) && got != own[1] {
			t.Fatalf("%+v: %s is in none of the networks, and got %s", f, address, got)
		}
	}
}
