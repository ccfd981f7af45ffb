package lab

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	good := Config{Name: "dev", Zones: []string{"a", "b"}, Machines: []Machine{{Name: "one", Zone: "a"}, {Name: "two", Zone: "b"}}, VirtualIPs: 2,
		Files: []File{{Path: "/usr/local/bin/x"}}}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":              {func(*Config) {}, ""},
		"lab name":          {func(c *Config) { c.Name = "Dev.1" }, `lab name "Dev.1"`},
		"name too long":     {func(c *Config) { c.Name = strings.Repeat("x", 64) }, "at most 63"},
		"machine name":      {func(c *Config) { c.Machines[0].Name = "../x" }, `machine name "../x"`},
		"zone name":         {func(c *Config) { c.Zones[0] = "" }, `zone name ""`},
		"zone twice":        {func(c *Config) { c.Zones = []string{"a", "b", "a"} }, "zone a is listed twice"},
		"machine twice":     {func(c *Config) { c.Machines[1].Name = "one" }, "machine one is listed twice"},
		"unknown zone":      {func(c *Config) { c.Machines[1].Zone = "z" }, `unknown zone "z"`},
		"too many virtual":  {func(c *Config) { c.VirtualIPs = 41 }, "between 0 and 40"},
		"relative path":     {func(c *Config) { c.Files[0].Path = "bin/x" }, "absolute path"},
		"no negative count": {func(c *Config) { c.VirtualIPs = -1 }, "between 0 and 40"},
		"an image":          {func(c *Config) { c.Image = "debian-13" }, ""},
		"unknown image":     {func(c *Config) { c.Image = "debian-6" }, `no image "debian-6": must be one of debian-12, debian-13`},
		"a profile":         {func(c *Config) { c.Machines[0].Profiles = []string{"docker"} }, ""},
		"unknown profile":   {func(c *Config) { c.Machines[0].Profiles = []string{"soft"} }, `machine one: there is no profile "soft"`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			cfg.Zones, cfg.Machines, cfg.Files = append([]string(nil), good.Zones...), append([]Machine(nil), good.Machines...), append([]File(nil), good.Files...)
			c.change(&cfg)
			expect(t, validate(cfg), c.want)
		})
	}
}

func TestAssign(t *testing.T) {
	subnet := netip.MustParsePrefix("198.18.7.0/24")
	at := func(n int) netip.Addr { return host(subnet, n) }
	for name, c := range map[string]struct {
		machines []Machine
		want     []int
		err      string
	}{
		"in order":       {[]Machine{{Name: "x"}, {Name: "y"}}, []int{11, 12}, ""},
		"around given":   {[]Machine{{Name: "x"}, {Name: "y", Address: at(11)}, {Name: "z"}}, []int{12, 11, 13}, ""},
		"given twice":    {[]Machine{{Name: "x", Address: at(20)}, {Name: "y", Address: at(20)}}, nil, "machine y: address 198.18.7.20 already belongs to x"},
		"the caller's":   {[]Machine{{Name: "x", Address: at(1)}}, nil, "already belongs to this computer"},
		"a virtual one":  {[]Machine{{Name: "x", Address: at(200)}}, nil, "already belongs to a virtual IP"},
		"outside":        {[]Machine{{Name: "x", Address: netip.MustParseAddr("198.18.8.20")}}, nil, "outside the lab's subnet"},
		"full":           {make([]Machine, firstVirtualHost-firstMachineHost+1), nil, "holds at most 189 machines"},
		"full but fits":  {make([]Machine, 2), []int{11, 12}, ""},
		"none, no error": {nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := IPv4.assign(subnet, c.machines, IPv4.virtualIPs(subnet, 1))
			expect(t, err, c.err)
			for i, n := range c.want {
				if got[i].Address != at(n) {
					t.Errorf("machine %d has %s, want %s", i, got[i].Address, at(n))
				}
			}
		})
	}
}

func TestSubnets(t *testing.T) {
	all, err := subnets([]Machine{{Name: "x"}})
	if err != nil || len(all) != 512 || all[0].String() != "198.18.0.0/24" || all[511].String() != "198.19.255.0/24" {
		t.Errorf("%d subnets from %v to %v, %v", len(all), all[0], all[len(all)-1], err)
	}
	one, err := subnets([]Machine{{Name: "x"}, {Name: "y", Address: netip.MustParseAddr("198.19.3.4")}})
	if err != nil || len(one) != 1 || one[0].String() != "198.19.3.0/24" {
		t.Errorf("a given address leaves %v, %v", one, err)
	}
	_, err = subnets([]Machine{{Name: "x", Address: netip.MustParseAddr("10.0.0.1")}})
	expect(t, err, "outside 198.18.0.0/15")
}

func TestPickSubnet(t *testing.T) {
	p := netip.MustParsePrefix
	candidates := []netip.Prefix{p("198.18.0.0/24"), p("198.18.1.0/24"), p("198.18.2.0/24")}
	for name, c := range map[string]struct {
		used           []netip.Prefix
		free, conflict string
	}{
		"all free":          {nil, "198.18.0.0/24", "invalid Prefix"},
		"first taken":       {[]netip.Prefix{p("198.18.0.0/24")}, "198.18.1.0/24", "invalid Prefix"},
		"one host is taken": {[]netip.Prefix{p("198.18.0.9/32"), p("198.18.1.128/25")}, "198.18.2.0/24", "invalid Prefix"},
		"a VPN has all":     {[]netip.Prefix{p("198.18.0.0/15")}, "invalid Prefix", "198.18.0.0/15"},
	} {
		t.Run(name, func(t *testing.T) {
			free, conflict := pickSubnet(candidates, c.used)
			if free.String() != c.free || conflict.String() != c.conflict {
				t.Errorf("got %s, %s; want %s, %s", free, conflict, c.free, c.conflict)
			}
		})
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	last := netip.MustParsePrefix("198.19.255.0/24")
	for _, name := range []string{callerLink(last), port(host(last, 254)), zoneSwitch(999), zoneUplink(999), corePort(999), coreSwitch, callerPort} {
		if len(name) > 15 {
			t.Errorf("link name %s is longer than the kernel takes", name)
		}
	}
	if a, b := switchMAC(last, "z0"), switchMAC(last, "z1"); a.String() == b.String() || a[0]&3 != 2 {
		t.Errorf("switch addresses %s, %s", a, b)
	}
	if m := mac(host(last, 11)); m[0]&3 != 2 {
		t.Errorf("%s is not a locally administered unicast address", m)
	}
}

// expect checks that an error contains a text, or that there is none.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got error %v, want one with %q", err, want)
	}
}
