package vip

import (
	"reflect"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestHolders(t *testing.T) {
	c := spec.DefaultLab("test")
	macs := map[string]string{}
	obs := &facts.Observation{Hosts: map[string]facts.Host{}}
	for i, name := range []string{"cp-a", "worker-a", "lb-a", "lb-b"} {
		for j := range c.Spec.Hosts {
			if c.Spec.Hosts[j].Name == name {
				c.Spec.Hosts[j].Address = "10.0.0." + string(rune('1'+i))
			}
		}
		macs[name] = "02:00:00:00:00:0" + string(rune('1'+i))
		obs.Hosts[name] = facts.Host{Facts: &facts.Facts{Addresses: []facts.Address{{IP: "10.0.0." + string(rune('1'+i)), Interface: "eth0", MAC: macs[name]}}}}
	}
	delete(obs.Hosts, "lb-b") // it could not be asked for its facts
	asked := func(name string, has bool, answers ...string) (string, facts.AddressHolders) {
		return name, facts.AddressHolders{Interface: "eth0", MAC: macs[name], Has: has, Answers: answers}
	}
	type seen = map[string]facts.AddressHolders
	both := func(a, b facts.AddressHolders) seen { return seen{"lb-a": a, "lb-b": b} }
	_, aHas := asked("lb-a", true)
	_, bSeesA := asked("lb-b", false, macs["lb-a"])
	_, aHasSeesB := asked("lb-a", true, macs["lb-b"])
	_, bHasSeesA := asked("lb-b", true, macs["lb-a"])
	_, aSeesStranger := asked("lb-a", true, "02:00:00:00:00:ff")
	_, aSeesRouter := asked("lb-a", false, "00:00:5e:00:01:33")
	_, aSeesWorker := asked("lb-a", false, macs["worker-a"])
	_, aFree := asked("lb-a", false)
	_, aSeesPeer := asked("lb-a", true, macs["lb-b"])
	lbB, _ := c.Host("lb-b")
	aSeesPeer.Peers = map[string]string{lbB.Address: macs["lb-b"]}
	// A kernel answers on every interface for all of its addresses.
	const second = "02:00:00:00:01:02"
	obs.Hosts["worker-a"].Facts.Addresses = append(obs.Hosts["worker-a"].Facts.Addresses, facts.Address{IP: "10.8.0.2", Interface: "eth1", MAC: second})
	_, aSeesSecond := asked("lb-a", false, second)
	for name, tc := range map[string]struct {
		seen      seen
		holders   []string
		strangers string
	}{
		"nobody was asked":                 {nil, nil, ""},
		"nobody has it":                    {seen{"lb-a": aFree}, nil, ""},
		"one has it":                       {both(aHas, bSeesA), []string{"lb-a"}, ""},
		"two have it":                      {both(aHasSeesB, bHasSeesA), []string{"lb-a", "lb-b"}, ""},
		"a load balancer that was removed": {seen{"lb-a": aSeesStranger}, []string{"lb-a", "an unknown machine with the hardware address 02:00:00:00:00:ff"}, "02:00:00:00:00:ff"},
		"another cluster's":                {seen{"lb-a": aSeesRouter}, []string{"an unknown machine with the hardware address 00:00:5e:00:01:33 (of a virtual router: VRRP or CARP)"}, "00:00:5e:00:01:33"},
		"a host that is no load balancer":  {seen{"lb-a": aSeesWorker}, []string{"worker-a"}, "worker-a"},
		"its other interface":              {seen{"lb-a": aSeesSecond}, []string{"worker-a"}, "worker-a"},
		"a peer that could not be asked":   {seen{"lb-a": aSeesPeer}, []string{"lb-a", "lb-b"}, ""},
	} {
		var holders, strangers []string
		all := Holders(c, obs, tc.seen)
		for _, h := range all {
			holders = append(holders, h.String())
		}
		for _, h := range Strangers(all) {
			strangers = append(strangers, h.String())
		}
		if !reflect.DeepEqual(holders, tc.holders) || (len(strangers) > 0) != (tc.strangers != "") || !strings.Contains(strings.Join(strangers, " "), tc.strangers) {
			t.Errorf("%s: holders %q, strangers %q", name, holders, strangers)
		}
	}
	if got := Holders(c, obs, both(aHas, bSeesA)); len(got) != 1 || !reflect.DeepEqual(got[0].SeenBy, []string{"lb-a", "lb-b"}) {
		t.Errorf("%+v", got)
	}
}
