package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// With returns a copy of the spec with more hosts.
func (c *Cluster) With(hosts ...Host) *Cluster {
	out := *c
	out.Spec.Hosts = append(slices.Clone(c.Spec.Hosts), hosts...)
	return &out
}

// Balancing returns the spec with the load balancers of before as well, as far as it has their hosts: while load balancers move, the
// old and the new ones exist. Where both specs agree, nothing changes. Otherwise every load balancer has the role in the result,
// because the control planes balance only as long as no host has it. One that leaves has the frontAddress of before: at another one, the others
// would not hear it while it still runs.
func (c *Cluster) Balancing(spec, before *Cluster) *Cluster {
	balances := func(h Host) bool { return spec.Balances(h) || before.Balances(h) }
	if !slices.ContainsFunc(c.Spec.Hosts, func(h Host) bool { return balances(h) != c.Balances(h) }) {
		return c
	}
	out := c.With()
	for i, h := range out.Spec.Hosts {
		if balances(h) && !h.Has(RoleLoadBalancer) {
			out.Spec.Hosts[i].Roles = append(slices.Clone(h.Roles), RoleLoadBalancer)
		}
		if former, has := before.Host(h.Name); has && before.Balances(h) && !spec.Balances(h) {
			out.Spec.Hosts[i].FrontAddress = former.FrontAddress
		}
	}
	return out
}

// MarshalHosts writes a list of hosts without what makes sense only on the caller's machine. The cluster remembers hosts in
// this form that were removed while they were down.
func MarshalHosts(hosts []Host) (string, error) {
	var out []Host
	for _, h := range hosts {
		strip(reflect.ValueOf(&h).Elem())
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	text, err := yaml.Marshal(out)
	return string(text), err
}

// ParseHosts reads what MarshalHosts wrote.
func ParseHosts(text string) ([]Host, error) {
	var out []Host
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("reading the list of removed hosts: %w", err)
	}
	return out, nil
}

// Reachable gives a host that was read from the cluster what a host of this spec is reached with: paths are not stored
// in the cluster. It prefers those of a host with the same user.
func (c *Cluster) Reachable(h Host) Host {
	if len(c.Spec.Hosts) == 0 {
		return h
	}
	like := c.Spec.Hosts[0]
	if i := slices.IndexFunc(c.Spec.Hosts, func(o Host) bool { return o.SSH.User == h.SSH.User && o.SSH.Jump == h.SSH.Jump }); i >= 0 {
		like = c.Spec.Hosts[i]
	} else if i := slices.IndexFunc(c.Spec.Hosts, func(o Host) bool { return o.SSH.User == h.SSH.User }); i >= 0 {
		like = c.Spec.Hosts[i]
	}
	if h.SSH.KeyFile == "" {
		h.SSH.KeyFile = like.SSH.KeyFile
	}
	if h.SSH.JumpKeyFile == "" && h.SSH.Jump != "" && h.SSH.Jump == like.SSH.Jump {
		h.SSH.JumpKeyFile = like.SSH.JumpKeyFile
	}
	if h.SSH.KnownHostsFile == "" {
		h.SSH.KnownHostsFile = like.SSH.KnownHostsFile
	}
	return h
}
