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
