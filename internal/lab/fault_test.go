package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func testRecord() record {
	subnet := netip.MustParsePrefix("198.18.7.0/24")
	return record{Name: "dev", Subnet: subnet, Zones: []string{"a", "b"}, Machines: []Machine{
		{Name: "cp-a", Zone: "a", Address: host(subnet, 11)},
		{Name: "cp-b", Zone: "b", Address: host(subnet, 12)},
	}}
}

func TestParseTarget(t *testing.T) {
	r := testRecord()
	for in, c := range map[string]struct{ want, err string }{
		"cp-a":           {"cp-a", ""},
		"zone/a":         {"zone/a", ""},
		"cp-b:cp-a":      {"cp-a:cp-b", ""},
		"cp-a:cp-b":      {"cp-a:cp-b", ""},
		"zone/b:zone/a":  {"zone/a:zone/b", ""},
		"":               {"", `no machine ""`},
		"cp-x":           {"", `no machine "cp-x"`},
		"zone/x":         {"", `no zone "x"`},
		"cp-a:":          {"", `no machine ""`},
		":cp-a":          {"", `no machine ""`},
		"cp-a:cp-a":      {"", "two different ends"},
		"cp-a:zone/b":    {"", "not one of each"},
		"cp-a:cp-b:cp-a": {"", `no machine "cp-b:cp-a"`},
	} {
		t.Run(in, func(t *testing.T) {
			got, err := parseTarget(in, &r)
			expect(t, err, c.err)
			if err == nil && got.String() != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestSwitchRules(t *testing.T) {
	for name, c := range map[string]struct {
		cuts []string
		want []string
	}{
		"none":       {nil, nil},
		"a machine":  {[]string{"cp-a"}, []string{`iifname "m11" drop`, `oifname "m11" drop`}},
		"a zone":     {[]string{"zone/b"}, []string{`iifname "c1" drop`, `oifname "c1" drop`}},
		"a link":     {[]string{"cp-a:cp-b"}, []string{`oifname "m12" ether saddr 02:51:c6:12:07:0b drop`, `oifname "m11" ether saddr 02:51:c6:12:07:0c drop`}},
		"zones":      {[]string{"zone/a:zone/b"}, []string{`iifname "c0" oifname "c1" drop`, `iifname "c1" oifname "c0" drop`}},
		"two faults": {[]string{"cp-a", "zone/a"}, []string{`iifname "m11" drop`, `oifname "m11" drop`, `iifname "c0" drop`, `oifname "c0" drop`}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRecord()
			r.Cuts = c.cuts
			rules, err := switchRules(&r)
			expect(t, err, "")
			var got []string
			for line := range strings.Lines(rules) {
				if line = strings.TrimSpace(line); strings.HasSuffix(line, "drop") && !strings.Contains(line, callerPort) {
					got = append(got, line)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if n := slices.IndexFunc(r.Machines, func(m Machine) bool { return len(c.cuts) == 1 && (c.cuts[0] == m.Name || c.cuts[0] == "zone/"+m.Zone) }); n >= 0 {
				r.Machines[n].Profiles = []string{"three-nics"}
				rules, err = switchRules(&r)
				expect(t, err, "")
				for _, port := range r.Machines[n].morePorts() {
					if !strings.Contains(rules, `iifname "`+port+`" drop`) || !strings.Contains(rules, `oifname "`+port+`" drop`) {
						t.Errorf("%s is not cut:\n%s", port, rules)
					}
				}
			}
			if !strings.Contains(rules, `oifname "caller" ether type ip ip daddr != { 198.18.7.1,`) {
				t.Error("the caller is not fenced from being a router")
			}
		})
	}
}

func TestMentions(t *testing.T) {
	for cut, want := range map[string]bool{"cp-a": true, "cp-a:cp-b": true, "cp-b:cp-a": true, "cp-ab": false, "zone/cp-a": false, "cp-b": false} {
		if got := mentions(cut, "cp-a"); got != want {
			t.Errorf("%s mentions cp-a: %v", cut, got)
		}
	}
}
