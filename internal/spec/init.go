package spec

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// InitOptions says what [Init] writes. Zero values mean the default lab cluster: three control planes in three zones, two
// workers, two load balancers, and no addresses.
type InitOptions struct {
	Name      string // default "quorate"
	Version   string // default the newest of Versions
	Topology  string // default stacked
	Placement string // default regional, zonal if there is one zone, or single if there is one control plane
	Endpoint  string // default api.NAME.internal:6443
	VirtualIP string // needed as soon as the hosts have addresses
	Balancer  string // managed or external
	// Zones of the generated hosts. Default a, b, c.
	Zones []string
	// How many hosts to generate: 0 means the default of 3, 2 and 2, a negative number means none. Without workers, control
	// planes run workloads too. Without load balancers, the control planes balance themselves.
	ControlPlanes, Workers, LoadBalancers int
	// EtcdHosts is how many etcd hosts to generate for the topology external: 0 means 3.
	EtcdHosts int
	// Etcd, if it has endpoints, is one that exists already; no hosts are then generated for it.
	Etcd Etcd
	// Hosts, if there are any, are written instead of generated ones.
	Hosts []Host
	// Region and NodePools are written as they are.
	Region    string
	NodePools []NodePool
	// CNI and the ranges: default flannel, and those of a spec that does not say them.
	CNI, PodCIDR, ServiceCIDR string
	// Notes are written at the top of the file, as comments.
	Notes []string
	// Source of the bundle; default modules.
	Source string
	// Versions as in [Options].
	Versions []string

	// placeOf says where something of the spec was taken from, for messages about it.
	placeOf func(path string) string
	// secret says that something of it came from a sensitive output, whose values are not quoted in messages.
	secret bool
}

// DefaultName is the name of the cluster that `quorate up` creates without a spec.
const DefaultName = "quorate"

//go:embed init.yaml.tmpl
var initText string

var initTemplate = template.Must(template.New("cluster.yaml").Funcs(template.FuncMap{
	"q":    scalar,
	"note": OneLine,
	"list": scalars,
	"ssh":  sshFields,
	"pool": poolFields,
	// What comments say about the ranges.
	"podRanges":     Network.describePods,
	"serviceRanges": Network.describeServices,
	"example":       Network.exampleAddress,
}).Parse(initText))

// Init writes a commented spec. If the spec would not be valid, the error is [Errors].
func Init(o InitOptions) ([]byte, error) {
	data, lab, err := o.write()
	if err != nil {
		return nil, err
	}
	if _, err := Check(data, "", Options{Versions: o.Versions, Lab: lab}); err != nil {
		if errs, ok := errors.AsType[Errors](err); ok {
			for i := range errs {
				// The lines are those of a file that will not be written: they would only confuse.
				errs[i].Line, errs[i].Column = 0, 0
				if o.placeOf != nil {
					errs[i].Path = o.placeOf(errs[i].Path)
				}
				if o.secret {
					// Messages and fixes quote what was read, and do not say which of their words are values.
					errs[i].Message, errs[i].Fix = "the value is not valid", "correct the output in your configuration; its value is not shown because it is marked as sensitive"
				}
			}
		}
		return nil, err
	}
	return data, nil
}

// Draft writes a commented spec of something that exists, also if it is not valid yet. Then problems holds what is wrong, with the lines of
// the file, and a comment at its top names each of them.
func Draft(o InitOptions, file string) (data []byte, problems Errors, _ error) {
	o.Notes = slices.Clone(o.Notes)
	check := func() error {
		var lab bool
		var err error
		if data, lab, err = o.write(); err != nil {
			return err
		}
		_, err = Check(data, file, Options{Versions: o.Versions, Lab: lab})
		problems = nil
		if err == nil || errors.As(err, &problems) {
			return nil
		}
		return err
	}
	if err := check(); err != nil || len(problems) == 0 {
		return data, problems, err
	}
	for _, p := range problems {
		p.File, p.Line, p.Column = "", 0, 0
		o.Notes = append(o.Notes, "Not valid yet: "+p.String()+".")
	}
	err := check()
	return data, problems, err
}

// write writes the spec, and says whether its hosts are to become lab machines.
func (o InitOptions) write() (data []byte, lab bool, _ error) {
	c := o.cluster()
	var b bytes.Buffer
	err := initTemplate.Execute(&b, map[string]any{"C": c, "S": c.Spec, "Lab": c.NeedsLab(), "Notes": o.Notes})
	if err != nil {
		return nil, false, fmt.Errorf("writing the spec: %w", err)
	}
	return b.Bytes(), c.NeedsLab(), nil
}

// DefaultLab is the cluster that `quorate up` creates without a spec, with its defaults filled in. Its bundle is compiled.
func DefaultLab(name string) *Cluster { return DefaultLabFrom(name, SourceModules) }

// DefaultLabFrom is DefaultLab with the bundle of another source, and with these IP families instead of IPv4.
func DefaultLabFrom(name, source string, families ...Family) *Cluster {
	o := InitOptions{Name: name, Source: source}
	o.PodCIDR, o.ServiceCIDR = DefaultRanges(families)
	c := o.cluster()
	c.Default()
	return c
}

// cluster is the spec that Init writes, without what Default fills in and a file need not say.
func (o InitOptions) cluster() *Cluster {
	fill(&o.Name, DefaultName)
	fill(&o.Version, newest(Options{Versions: o.Versions}.versions()))
	fill(&o.Topology, TopologyStacked)
	fill(&o.Balancer, BalancerManaged)
	fill(&o.Endpoint, "api."+o.Name+".internal:"+DefaultPort)
	fill(&o.Source, SourceModules)
	fill(&o.CNI, CNIFlannel)
	if len(o.Zones) == 0 {
		o.Zones = []string{"a", "b", "c"}
	}
	if len(o.Hosts) == 0 {
		o.Hosts = o.generate()
	}
	network := Network{CNI: o.CNI, PodCIDR: o.PodCIDR, ServiceCIDR: o.ServiceCIDR}
	network.fill(o.Hosts)
	if o.Placement == "" {
		o.Placement = PlacementRegional
		switch cps := (&Cluster{Spec: Spec{Hosts: o.Hosts}}).HostsWith(RoleControlPlane); {
		case len(cps) == 1:
			o.Placement = PlacementSingle
		case len(zonesOf(cps)) == 1:
			o.Placement = PlacementZonal
		}
	}
	return &Cluster{
		APIVersion: APIVersion, Kind: Kind, Metadata: Metadata{Name: o.Name},
		Spec: Spec{
			Kubernetes:   Kubernetes{Version: o.Version},
			ControlPlane: ControlPlane{Endpoint: o.Endpoint, Topology: o.Topology, Placement: o.Placement},
			Etcd:         o.Etcd,
			LoadBalancer: LoadBalancer{Type: o.Balancer, Address: o.VirtualIP},
			Network:      network,
			Components:   Components{Source: o.Source},
			Failover:     Failover{Profile: ProfileFast},
			Hosts:        o.Hosts,
			Region:       o.Region,
			NodePools:    o.NodePools,
		},
	}
}

// generate makes hosts without addresses, dealt out over the zones in turn.
func (o InitOptions) generate() []Host {
	var hosts []Host
	deal := func(prefix string, n, otherwise int, roles ...string) {
		if n == 0 {
			n = otherwise
		}
		for i := range n {
			zone := o.Zones[i%len(o.Zones)]
			name := prefix + "-" + strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(zone))
			if round := i / len(o.Zones); round > 0 {
				name += fmt.Sprintf("-%d", round+1)
			}
			hosts = append(hosts, Host{Name: name, Roles: roles, Zone: zone})
		}
	}
	if o.Topology == TopologyExternal && len(o.Etcd.Endpoints) == 0 {
		deal("etcd", o.EtcdHosts, 3, RoleEtcd)
	}
	if o.Workers < 0 {
		deal("cp", o.ControlPlanes, 3, RoleControlPlane, RoleWorker)
	} else {
		deal("cp", o.ControlPlanes, 3, RoleControlPlane)
		deal("worker", o.Workers, 2, RoleWorker)
	}
	if o.Balancer != BalancerExternal {
		deal("lb", o.LoadBalancers, 2, RoleLoadBalancer)
	}
	return hosts
}

// ParseHostFlag reads one host as it is given on a command line:
// name=cp-a,address=10.0.0.11,role=control-plane,zone=a. role and failsWith may be repeated; sshAddress, user, port, hostPort, key, knownHosts,
// hostKey, jump (repeated for several jump hosts) and jumpKey (once, or once for each of them) set how SSH reaches it. What the values may be is for [Validate] to say.
func ParseHostFlag(s string) (Host, error) {
	var h Host
	seen := map[string]bool{}
	var jumpKeys []string
	for _, pair := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || value == "" && key != "jumpKey" { // of several jump hosts, some may accept key
			return Host{}, fmt.Errorf("reading the host %q: %q is not key=value; write it like name=cp-a,address=10.0.0.11,role=control-plane,zone=a", s, pair)
		}
		if seen[key] && key != "role" && key != "failsWith" && key != "jump" && key != "jumpKey" {
			return Host{}, fmt.Errorf("reading the host %q: %s is given twice", s, key)
		}
		seen[key] = true
		switch key {
		case "name":
			h.Name = value
		case "address":
			h.Address = value
		case "secondaryAddress":
			h.SecondaryAddress = value
		case "frontAddress":
			h.FrontAddress = value
		case "role":
			h.Roles = append(h.Roles, value)
		case "zone":
			h.Zone = value
		case "region":
			h.Region = value
		case "failsWith":
			h.FailsWith = append(h.FailsWith, value)
		case "sshAddress":
			h.SSH.Address = value
		case "user":
			h.SSH.User = value
		case "port", "hostPort":
			n, err := strconv.Atoi(value)
			if err != nil {
				return Host{}, fmt.Errorf("reading the host %q: the %s %q is not a number", s, key, value)
			}
			if key == "port" {
				h.SSH.Port = n
			} else {
				h.SSH.HostPort = n
			}
		case "knownHosts":
			h.SSH.KnownHostsFile = value
		case "key":
			h.SSH.KeyFile = value
		case "hostKey":
			h.SSH.HostKey = value
		case "jump":
			if h.SSH.Jump != "" {
				value = h.SSH.Jump + "," + value
			}
			h.SSH.Jump = value
		case "jumpKey":
			jumpKeys = append(jumpKeys, value)
		default:
			keys := []string{"name", "address", "secondaryAddress", "frontAddress", "role", "zone", "region", "failsWith", "sshAddress", "user", "port", "hostPort", "key", "knownHosts", "hostKey", "jump", "jumpKey"}
			return Host{}, fmt.Errorf("reading the host %q: unknown key %q; %s", s, key, suggest(key, keys, "use "+or(keys)))
		}
	}
	h.SSH.JumpKeyFile = strings.Join(jumpKeys, ",")
	return h, nil
}

// sshFields writes what an SSH section sets, on one line; nothing if it sets nothing.
func sshFields(s SSH) (string, error) {
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"address", s.Address}, {"user", s.User}, {"keyFile", s.KeyFile}, {"knownHostsFile", s.KnownHostsFile}, {"hostKey", s.HostKey}, {"jump", s.Jump}, {"jumpKeyFile", s.JumpKeyFile},
	} {
		if f.value != "" {
			v, err := scalar(f.value)
			if err != nil {
				return "", err
			}
			parts = append(parts, f.name+": "+v)
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"port", s.Port}, {"hostPort", s.HostPort}} {
		if f.value != 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", f.name, f.value))
		}
	}
	if len(parts) == 0 {
		return "", nil
	}
	return "{" + strings.Join(parts, ", ") + "}", nil
}

// poolFields writes what a pool has beside its name, each on a line of its own.
func poolFields(p NodePool) ([]string, error) {
	var lines []string
	add := func(name, value string, err error) error {
		if err == nil && value != "" && value != "[]" && value != "{}" {
			lines = append(lines, name+": "+value)
		}
		return err
	}
	if p.Size > 0 {
		lines = append(lines, fmt.Sprintf("size: %d", p.Size))
	}
	zones, err1 := scalars(p.Zones)
	hosts, err2 := scalars(p.Hosts)
	labels, err3 := mapping(p.Labels)
	var taints []string
	var err4 error
	for _, t := range p.Taints {
		fields := map[string]string{"key": t.Key, "effect": t.Effect}
		if t.Value != "" {
			fields["value"] = t.Value
		}
		text, err := mapping(fields)
		taints, err4 = append(taints, text), errors.Join(err4, err)
	}
	err := errors.Join(add("zones", zones, err1), add("hosts", hosts, err2), add("labels", labels, err3),
		add("taints", "["+strings.Join(taints, ", ")+"]", err4))
	return lines, err
}

// mapping writes a mapping of strings on one line.
func mapping(m map[string]string) (string, error) {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		k, err1 := scalar(key)
		v, err2 := scalar(m[key])
		if err := errors.Join(err1, err2); err != nil {
			return "", err
		}
		parts = append(parts, k+": "+v)
	}
	return "{" + strings.Join(parts, ", ") + "}", nil
}

// OneLine writes a text that may quote a cluster or a file so that it neither leaves a line or a comment nor steers a terminal.
func OneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

func scalars(items []string) (string, error) {
	quoted := make([]string, len(items))
	for i, item := range items {
		var err error
		if quoted[i], err = scalar(item); err != nil {
			return "", err
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]", nil
}

// scalar writes a string as YAML, in quotes if it would be read as something else.
func scalar(s string) (string, error) {
	node := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.ContainsAny(s, "\n\r,[]{}") {
		node.Style = yaml.DoubleQuotedStyle // for the one-line lists and mappings of the template
	}
	data, err := yaml.Dump(&node, yaml.WithLineWidth(-1))
	return strings.TrimSuffix(string(data), "\n"), err
}
