package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// subnet is what flanneld says about this node.
type subnet struct {
	Networks []netip.Prefix // the whole cluster's, IPv4 first
	Subnets  []netip.Prefix // this node's, one per address family
	MTU      int
	IPMasq   bool // flanneld masquerades
}

func readSubnet(file string) (*subnet, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read this node's subnet: %w", err)
	}
	s := &subnet{}
	seen := map[string]bool{}
	for number, line := range strings.Split(string(raw), "\n") {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		if err := s.set(key, value); err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", file, number+1, key, err)
		}
		seen[key] = true
	}
	for _, key := range []string{"FLANNEL_MTU", "FLANNEL_IPMASQ"} {
		if !seen[key] {
			return nil, fmt.Errorf("%s: %s is missing", file, key)
		}
	}
	if len(s.Subnets) == 0 || len(s.Networks) == 0 {
		return nil, fmt.Errorf("%s: needs a network and a subnet, FLANNEL_NETWORK and FLANNEL_SUBNET or their IPV6 forms", file)
	}
	return s, nil
}

func (s *subnet) set(key, value string) (err error) {
	switch key {
	case "FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK":
		// A cluster may have grown by further networks.
		for text := range strings.SplitSeq(value, ",") {
			network, err := netip.ParsePrefix(text)
			if err != nil {
				return err
			}
			s.Networks = append(s.Networks, network.Masked())
		}
	case "FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET":
		// The file names the gateway's address in the subnet; IPAM wants the subnet.
		own, err := netip.ParsePrefix(value)
		if err != nil {
			return err
		}
		s.Subnets = append(s.Subnets, own.Masked())
	case "FLANNEL_MTU":
		s.MTU, err = strconv.Atoi(value)
	case "FLANNEL_IPMASQ":
		s.IPMasq, err = strconv.ParseBool(value)
	}
	return err
}
