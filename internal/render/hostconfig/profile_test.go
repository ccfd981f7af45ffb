package hostconfig

import (
	"reflect"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestProfile(t *testing.T) {
	c := cluster()
	arguments, kubelet := Profile(c)
	if got := arguments[facts.ControllerManager]["node-monitor-grace-period"]; got != FastGracePeriod || kubelet["nodeStatusUpdateFrequency"] != "4s" {
		t.Errorf("%v, %v", arguments, kubelet)
	}
	c.Spec.Settings.Scheduler.ExtraArgs = map[string]string{"leader-elect-retry-period": "3s"}
	if arguments, _ := Profile(c); len(arguments[facts.Scheduler]) > 0 {
		t.Errorf("a setting does not win: %v", arguments)
	}
	c.Spec.Settings = spec.Settings{}
	c.Spec.Failover.Profile = spec.ProfileStandard
	slowArguments, slowKubelet := Profile(c)
	for program, all := range arguments {
		for name := range all {
			if value, named := slowArguments[program][name]; value != "" || !named {
				t.Errorf("--%s of %s is %q, named %t", name, program, value, named)
			}
		}
	}
	for field := range kubelet {
		if value, named := slowKubelet[field]; value != nil || !named {
			t.Errorf("%s is %v, named %t", field, value, named)
		}
	}
}

// TestTheProfileChangesNoFile: what depends on it is arguments of control planes and fields of kubelets, which the plan changes in
// an order that keeps nodes alive. Timers of keepalived, HAProxy, or etcd would each need an order of their own.
func TestTheProfileChangesNoFile(t *testing.T) {
	render := func(profile string) (out []facts.Desired) {
		for _, balancers := range []bool{true, false} {
			c := cluster()
			c.Spec.Failover.Profile = profile
			if !balancers {
				for i := range c.Spec.Hosts {
					if c.Spec.Hosts[i].Has(spec.RoleLoadBalancer) {
						c.Spec.Hosts[i].Roles = []string{spec.RoleWorker}
					}
				}
			}
			out = append(out, Hosts(c), ControlPlane(c), Settings(c, &facts.Facts{}))
			for _, h := range c.Spec.Hosts {
				f := &facts.Facts{Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}}}
				out = append(out, Adopted(c, h))
				if c.Balances(h) {
					out = append(out, Balancer(c, h, f, "ca"))
				}
			}
		}
		return out
	}
	if !reflect.DeepEqual(render(spec.ProfileFast), render(spec.ProfileStandard)) {
		t.Error("a file on a host depends on the profile")
	}
}
