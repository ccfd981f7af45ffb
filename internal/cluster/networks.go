package cluster

import (
	"slices"

	"quorate.dev/quorate/internal/spec"
)

// PodTrafficAddresses are the addresses of a host between which flannel sends the packets of pods, one of each family, as in the spec. Without a network of their own, they
// are those of the node. One in such a network is known only if the host can be queried, and empty otherwise.
func (s *State) PodTrafficAddresses(h spec.Host) (out []string) {
	networks := s.Spec.Spec.Network.PodTrafficCIDRs()
	if len(networks) == 0 || !h.IsNode() {
		return h.Addresses()
	}
	f := s.Facts(h.Name)
	for _, cidr := range networks {
		address := ""
		if f != nil {
			if within := f.Within(cidr); len(within) > 0 {
				address = within[0].IP
			}
		}
		out = append(out, address)
	}
	return out
}

// VIPAddress is the address of a load balancer in the network of the spec's virtual IP. frontAddress can stay in the spec when the virtual IP moves back into the network of the
// nodes, so the networks decide, those of any load balancer that can be queried. If none can, it is the frontAddress.
func (s *State) VIPAddress(h spec.Host) string {
	vip := s.Spec.Spec.LoadBalancer.Address
	for _, lb := range append([]spec.Host{h}, s.Spec.BalancerHosts()...) {
		if f := s.Facts(lb.Name); f != nil && lb.FrontAddress != "" && f.InNetworkOf(vip, lb.VIPAddresses()...) == lb.Address {
			return h.Address
		}
	}
	return h.VIPAddress()
}

// AllAddresses are the addresses at which a host is a part of the cluster, in all networks, as far as they are known.
func (s *State) AllAddresses(h spec.Host) []string {
	out := h.AllAddresses()
	for _, a := range s.PodTrafficAddresses(h) {
		if a != "" && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
