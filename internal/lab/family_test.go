package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestAddressesOfFamilies(t *testing.T) {
	subnet := netip.MustParsePrefix("198.18.5.0/24")
	for _, tc := range []struct {
		family  Family
		machine string
		virtual string
		all     []string
	}{
		{IPv4, "198.18.5.11", "198.18.5.200", []string{"198.18.5.11/24"}},
		{IPv6, "fd51:c612:500::b", "fd51:c612:500::c8", []string{"fd51:c612:500::b/64"}},
		{Dual, "198.18.5.11", "198.18.5.200", []string{"198.18.5.11/24", "fd51:c612:500::b/64"}},
	} {
		reserved := tc.family.virtualIPs(subnet, 1)
		got, err := tc.family.assign(subnet, []Machine{{Name: "a"}, {Name: "b"}}, reserved)
		if err != nil || got[0].Address.String() != tc.machine || reserved[0].String() != tc.virtual {
			t.Fatalf("%s: %v, %v, %v", tc.family, got, reserved, err)
		}
		again, err := tc.family.assign(subnet, append(slices.Clone(got), Machine{Name: "c"}), reserved)
		if err != nil || again[0].Address != got[0].Address || again[1].Address != got[1].Address || again[2].Address == got[1].Address {
			t.Errorf("%s: a machine more: %v, %v", tc.family, again, err)
		}
		var all []string
		for _, p := range tc.family.all(got[0].Address) {
			all = append(all, p.String())
			if !slices.ContainsFunc([]netip.Prefix{labRange, labRange6}, func(r netip.Prefix) bool { return r.Contains(p.Addr()) }) {
				t.Errorf("%s is outside of the ranges of labs", p)
			}
		}
		if !slices.Equal(all, tc.all) {
			t.Errorf("%s: a machine has %v", tc.family, all)
		}
		// The switches know a machine by these, whatever addresses it has.
		if mac(got[0].Address).String() != "02:51:c6:12:05:0b" || port(got[0].Address) != "m11" {
			t.Errorf("%s: %s, %s", tc.family, mac(got[0].Address), port(got[0].Address))
		}
		if subnets, err := subnets(got); err != nil || len(subnets) != 1 || subnets[0] != subnet {
			t.Errorf("%s: its addresses need %v, %v", tc.family, subnets, err)
		}
	}
	if _, err := IPv6.assign(subnet, []Machine{{Name: "a", Address: netip.MustParseAddr("198.18.5.11")}}, nil); err == nil || !strings.Contains(err.Error(), "not of the lab's family") {
		t.Errorf("an IPv4 address in a lab without IPv4: %v", err)
	}
}

func TestFamiliesOfLabs(t *testing.T) {
	machines := []Machine{{Name: "cp-a", Zone: "a"}}
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{Name: "x", Zones: []string{"a"}, Machines: machines, Family: Dual}, ""},
		{Config{Name: "x", Zones: []string{"a"}, Machines: machines, Family: "both"}, `no IP family "both"`},
		{Config{Name: "x", Zones: []string{"a"}, Machines: []Machine{{Name: "cp-a", Zone: "a", Profiles: []string{"docker"}}}, Family: IPv6}, "has profiles, which are for machines with IPv4"},
	} {
		err := validate(tc.cfg)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.cfg.Family, err)
		}
	}
	// A lab of an older version says nothing about its family.
	old := &Lab{rec: record{Name: "x", Zones: []string{"a"}, Machines: machines}}
	same := Config{Name: "x", Zones: []string{"a"}, Machines: machines}
	if !old.sameShape(same) || old.Family() != IPv4 {
		t.Error("an older lab is not recognized")
	}
	if same.Family = Dual; old.sameShape(same) {
		t.Error("a lab is taken for one of another family")
	}
}

// TestNothingButTheCallerIsReached in IPv6, and nothing at all in a lab without it.
func TestNothingButTheCallerIsReached(t *testing.T) {
	r := &record{Subnet: netip.MustParsePrefix("198.18.5.0/24")}
	for family, want := range map[Family]string{
		"":   `oifname "caller" ether type ip6 drop`,
		Dual: `oifname "caller" ether type ip6 ip6 daddr != { fd51:c612:500::1, fe80::/10, ff02::/16 } drop`,
		IPv6: `oifname "caller" ether type ip6 ip6 daddr != { fd51:c612:500::1, fe80::/10, ff02::/16 } drop`,
	} {
		r.Family = family
		rules, err := switchRules(r)
		if err != nil || !strings.Contains(rules, want) {
			t.Errorf("%q: no %s in\n%s, %v", family, want, rules, err)
		}
	}
}
