package main

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/containernetworking/cni/pkg/types"
)

// config is the plugin's entry in a network configuration list.
type config struct {
	types.PluginConf
	SubnetFile    string         `json:"subnetFile"`
	DataDir       string         `json:"dataDir"`
	Delegate      delegate       `json:"delegate"`
	IPAM          map[string]any `json:"ipam"`
	RuntimeConfig map[string]any `json:"runtimeConfig"`
}

// delegate is the configuration of the plugin that does the work; its fields are that plugin's own.
type delegate map[string]any

func parse(stdin []byte) (*config, error) {
	conf := &config{SubnetFile: "/run/flannel/subnet.env", DataDir: "/var/lib/cni/flannel"}
	if err := json.Unmarshal(stdin, conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration of flannel", err.Error())
	}
	if _, ok := conf.Delegate["name"]; ok {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "delegate must not have its own name: it gets the network's", "")
	}
	if t, ok := conf.Delegate["type"]; ok {
		if _, ok := t.(string); !ok {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "delegate's type must be a string", "")
		}
	}
	return conf, nil
}

// delegate fills in what only the node knows; what the user set stays.
func (c *config) delegate(node *subnet) (delegate, error) {
	d := delegate{
		"type": "bridge",
		"mtu":  node.MTU,
		// Whoever masquerades, it must be one of the two: flanneld or the delegate.
		"ipMasq": !node.IPMasq,
	}
	maps.Copy(d, c.Delegate)
	if _, set := d["isGateway"]; !set && d["type"] == "bridge" {
		d["isGateway"] = true
	}
	d["name"], d["cniVersion"] = c.Name, c.CNIVersion
	if len(c.RuntimeConfig) > 0 {
		d["runtimeConfig"] = c.RuntimeConfig
	}

	ipam := map[string]any{"type": "host-local"}
	if own, ok := d["ipam"].(map[string]any); ok {
		maps.Copy(ipam, own)
	}
	maps.Copy(ipam, c.IPAM)
	var ranges, routes []any
	if given, ok := ipam["routes"]; ok {
		if routes, ok = given.([]any); !ok {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "ipam.routes must be a list", fmt.Sprint(given))
		}
	}
	for _, s := range node.Subnets {
		ranges = append(ranges, []any{map[string]any{"subnet": s.String()}})
	}
	for _, n := range node.Networks {
		routes = append(routes, map[string]any{"dst": n.String()})
	}
	ipam["ranges"], ipam["routes"] = ranges, routes
	d["ipam"] = ipam
	return d, nil
}

// with gives the delegate what the runtime passes to a call after ADD.
func (d delegate) with(c *config) delegate {
	d = maps.Clone(d)
	d["cniVersion"] = c.CNIVersion
	if len(c.RuntimeConfig) > 0 {
		d["runtimeConfig"] = c.RuntimeConfig
	}
	if c.RawPrevResult != nil {
		d["prevResult"] = c.RawPrevResult
	}
	if c.ValidAttachments != nil {
		d["cni.dev/valid-attachments"] = c.ValidAttachments
	}
	return d
}

func (d delegate) plugin() string { return d["type"].(string) }

func (d delegate) encode() ([]byte, error) {
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration of %s: %w", d.plugin(), err)
	}
	return raw, nil
}
