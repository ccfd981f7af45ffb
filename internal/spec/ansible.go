package spec

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Ansible is what an inventory of Ansible says about a cluster.
type Ansible struct {
	// Options are for Init; flags may still change them.
	Options InitOptions
	// Notes are for the user: what was left out, and what to look at.
	Notes []string
}

// AnsibleOptions say what an inventory does not.
type AnsibleOptions struct {
	// Zones are given in turn to the hosts of each role that have no zone.
	Zones []string
	// Lookup finds the IPv4 address of a name, or nothing; nil if no name is looked up.
	Lookup func(name string) string
}

// The groups of kubespray, and what other people call theirs, by role. In all of them, an underscore stands for a dash as well.
var ansibleGroups = map[string][]string{
	RoleControlPlane: {"kube_control_plane", "kube_control_planes", "kube_master", "kube_masters", "control_plane", "control_planes", "controlplane", "masters", "master"},
	RoleWorker:       {"kube_node", "kube_nodes", "kube_worker", "kube_workers", "workers", "worker", "nodes", "node"},
	RoleEtcd:         {"etcd"},
	RoleLoadBalancer: {"load_balancer", "load_balancers", "loadbalancer", "loadbalancers", "lb", "lbs", "haproxy"},
}

// bastionGroup is kubespray's group of the jump host.
const bastionGroup = "bastion"

// ReadAnsible reads an inventory in INI or YAML format, or what `ansible-inventory --list` prints. An error is [Errors].
func ReadAnsible(data []byte, file string, o AnsibleOptions) (*Ansible, error) {
	r := &ansibleReader{file: file, o: o, inventory: inventory{groups: map[string]*ansibleGroup{}, hosts: map[string]*ansibleHost{}}, used: map[string]bool{}}
	r.parse(inUTF8(data))
	if len(r.errs) == 0 {
		r.resolve()
	}
	if len(r.errs) == 0 {
		r.cluster()
	}
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	for _, n := range GatewayPorts(r.out.Options.Hosts) {
		r.note("%s", n)
	}
	r.out.Options.placeOf = r.placeOf
	return &r.out, nil
}

// inventory is what Ansible would make of an inventory: groups, hosts, and variables.
type inventory struct {
	groups map[string]*ansibleGroup
	hosts  map[string]*ansibleHost
	// names are those of the hosts, in the order of the inventory, and groupNames those of the groups.
	names, groupNames []string
}

// ansibleGroup is a group. Its depth is how far it is below `all`, which decides whose variables count.
type ansibleGroup struct {
	name            string
	hosts, children []string
	vars            map[string]any
	depth           int
	line            int
	// defined says that it is more than a child that another group names.
	defined bool
}

type ansibleHost struct {
	name string
	line int
	own  map[string]any // its own variables
	vars map[string]any // those that count
}

// encrypted stands for a value that only Ansible can decrypt.
type encrypted struct{}

func (v *inventory) group(name string) *ansibleGroup {
	g := v.groups[name]
	if g == nil {
		g = &ansibleGroup{name: name, vars: map[string]any{}}
		v.groups[name], v.groupNames = g, append(v.groupNames, name)
	}
	return g
}

func (v *inventory) host(name string, line int) *ansibleHost {
	h := v.hosts[name]
	if h == nil {
		h = &ansibleHost{name: name, line: line, own: map[string]any{}}
		v.hosts[name], v.names = h, append(v.names, name)
	}
	return h
}

func (g *ansibleGroup) add(host string) {
	if !slices.Contains(g.hosts, host) {
		g.hosts = append(g.hosts, host)
	}
}

// priorityVar decides between groups of the same depth: the highest counts.
const priorityVar = "ansible_group_priority"

func (g *ansibleGroup) priority() int {
	n, err := strconv.Atoi(scalarOf(g.vars[priorityVar]))
	if err != nil {
		return 1 // as in Ansible
	}
	return n
}

// within returns the hosts of a group and of those below it.
func (v *inventory) within(name string) []string {
	var out []string
	seen := map[string]bool{}
	var walk func(string)
	walk = func(name string) {
		g := v.groups[name]
		if g == nil || seen[name] {
			return
		}
		seen[name] = true
		for _, h := range g.hosts {
			if !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
		for _, c := range g.children {
			walk(c)
		}
	}
	walk(name)
	return out
}

type ansibleReader struct {
	inventory
	file string
	o    AnsibleOptions
	out  Ansible
	errs Errors
	// used are the variables that were read, and places are where the hosts of the spec come from.
	used   map[string]bool
	places []string
}

func (r *ansibleReader) refuse(line int, path, fix, format string, args ...any) {
	p := Problem{File: r.file, Line: line, Path: path, Message: fmt.Sprintf(format, args...), Fix: fix}
	if line > 0 {
		p.Column = 1
	}
	r.errs = append(r.errs, p)
}

func (r *ansibleReader) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(r.out.Notes, n) {
		r.out.Notes = append(r.out.Notes, n)
	}
}

// resolve works out which variables of each host count: a host's own before those of its groups, and those of a group before those of the
// groups above it.
func (r *ansibleReader) resolve() {
	all := r.group("all")
	for _, name := range r.groupNames {
		if g := r.groups[name]; g != all && !g.defined && len(g.vars) > 0 {
			r.refuse(g.line, name, suggest(name, r.definedGroups(), "define the group, or remove the section"), "there are variables for the group `%s`, and there is no group of that name", name)
		}
		for _, child := range r.groups[name].children {
			if c := r.groups[child]; c == nil || !c.defined {
				r.refuse(r.groups[name].line, name, suggest(child, r.definedGroups(), "define it, or remove it from the children"), "the group has the child `%s`, and there is no group of that name", child)
			}
		}
	}
	if len(r.errs) > 0 {
		return
	}
	// A group is below all groups that have it as a child. Each round goes one level down, so a cycle never ends.
	for round, changed := 0, true; changed; round++ {
		changed = false
		for _, name := range r.groupNames {
			g := r.groups[name]
			if g != all && g.depth == 0 {
				g.depth, changed = 1, true
			}
			for _, child := range g.children {
				if c := r.groups[child]; c.depth <= g.depth {
					c.depth, changed = g.depth+1, true
				}
			}
		}
		if round > len(r.groupNames)+1 {
			r.refuse(0, "", "remove one of the children", "a group contains itself: %s", strings.Join(r.cycle(), ", "))
			return
		}
	}
	r.used[priorityVar] = true
	order := slices.Clone(r.groupNames)
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(r.groups[a].depth, r.groups[b].depth), cmp.Compare(r.groups[a].priority(), r.groups[b].priority()), cmp.Compare(a, b))
	})
	for _, h := range r.hosts {
		h.vars = maps.Clone(all.vars)
	}
	for _, name := range order {
		if name == "all" {
			continue
		}
		for _, member := range r.within(name) {
			maps.Copy(r.hosts[member].vars, r.groups[name].vars)
		}
	}
	for _, h := range r.hosts {
		maps.Copy(h.vars, h.own)
	}
}

func (r *ansibleReader) definedGroups() (out []string) {
	for _, name := range r.groupNames {
		if r.groups[name].defined {
			out = append(out, name)
		}
	}
	return out
}

// cycle are the groups that are below themselves.
func (r *ansibleReader) cycle() (out []string) {
	for _, name := range r.groupNames {
		seen := map[string]bool{}
		var reaches func(string) bool
		reaches = func(at string) bool {
			for _, c := range r.groups[at].children {
				if c == name || !seen[c] && r.groups[c] != nil {
					seen[c] = true
					if c == name || reaches(c) {
						return true
					}
				}
			}
			return false
		}
		if reaches(name) {
			out = append(out, name)
		}
	}
	return out
}

// inRole are the hosts in the groups of a role.
func (r *ansibleReader) inRole(role string) (out []string) {
	for _, name := range r.groupNames {
		if !slices.Contains(ansibleGroups[role], normalGroup(name)) {
			continue
		}
		for _, h := range r.within(name) {
			if !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
	}
	return out
}

func normalGroup(name string) string { return strings.ReplaceAll(strings.ToLower(name), "-", "_") }

// cluster reads the hosts and what the variables say about the cluster.
func (r *ansibleReader) cluster() {
	if len(r.names) == 0 {
		r.refuse(0, "", "pass an inventory with the groups kube_control_plane and kube_node, as kubespray has them", "there are no hosts")
		return
	}
	controls, workers, members, balancers := r.inRole(RoleControlPlane), r.inRole(RoleWorker), r.inRole(RoleEtcd), r.inRole(RoleLoadBalancer)
	if len(controls) == 0 {
		r.refuse(0, "", suggest("kube_control_plane", r.groupNames, "put the control planes into the group kube_control_plane, as in kubespray"), "no group of control planes has a host; the groups are %s", few(r.groupNames))
		return
	}
	if both := slices.DeleteFunc(slices.Clone(controls), func(name string) bool { return !slices.Contains(workers, name) }); len(both) > 0 {
		r.note("These control planes are in a group of workers as well, so they also run workloads: %s.", strings.Join(both, ", "))
	}
	own := r.etcdHosts(controls, workers, members)
	jump := r.bastion()
	var left []string
	dealt := map[string]int{}
	for _, name := range r.order(controls, workers, own, balancers) {
		h := Host{Name: name}
		for role, group := range map[string][]string{RoleControlPlane: controls, RoleWorker: workers, RoleEtcd: own, RoleLoadBalancer: balancers} {
			if slices.Contains(group, name) {
				h.Roles = append(h.Roles, role)
			}
		}
		slices.SortFunc(h.Roles, func(a, b string) int {
			return cmp.Compare(slices.Index(choices["Host.roles"], a), slices.Index(choices["Host.roles"], b))
		})
		r.hostOf(r.hosts[name], &h, jump)
		if h.Zone == "" && len(r.o.Zones) > 0 {
			h.Zone = r.o.Zones[dealt[h.Roles[0]]%len(r.o.Zones)]
			dealt[h.Roles[0]]++
		}
		r.out.Options.Hosts = append(r.out.Options.Hosts, h)
		r.places = append(r.places, r.place(name))
	}
	for _, name := range r.names {
		if !slices.Contains(r.within(bastionGroup), name) && !slices.ContainsFunc(r.out.Options.Hosts, func(h Host) bool { return h.Name == name }) {
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		r.note("These hosts have no role in the spec, and were left out: %s. Roles follow from the groups kube_control_plane, kube_node, etcd, and load_balancer.", strings.Join(left, ", "))
	}
	if slices.ContainsFunc(r.out.Options.Hosts, func(h Host) bool { return h.Zone == "" }) {
		r.refuse(0, "", "set them with --zones a,b,c: they are assigned to the hosts of each role in turn; or give each host a variable `zone`", "some hosts have no zone, such as %s", r.withoutZone())
		return
	}
	r.rename()
	r.settings()
	r.pools()
	r.dropped()
}

func (r *ansibleReader) withoutZone() string {
	i := slices.IndexFunc(r.out.Options.Hosts, func(h Host) bool { return h.Zone == "" })
	return r.out.Options.Hosts[i].Name
}

// order is the order of hosts in the spec: by role, and within a role as in the inventory.
func (r *ansibleReader) order(groups ...[]string) (out []string) {
	for _, group := range groups {
		for _, name := range r.names {
			if slices.Contains(group, name) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// etcdHosts are those that have etcd and nothing else. Etcd next to the API servers needs no role.
func (r *ansibleReader) etcdHosts(controls, workers, members []string) []string {
	isNode := func(name string) bool { return slices.Contains(controls, name) || slices.Contains(workers, name) }
	switch {
	case len(members) == 0:
		return nil
	case !slices.ContainsFunc(members, isNode):
		r.out.Options.Topology = TopologyExternal
		return members
	}
	r.out.Options.Topology = TopologyStacked
	if !slices.Equal(slices.Sorted(slices.Values(members)), slices.Sorted(slices.Values(controls))) {
		r.note("The group etcd (%s) is not that of the control planes (%s). With the topology stacked, which the spec has, etcd runs on all control planes and nowhere else; with external, it runs on hosts that are in no other group.",
			strings.Join(members, ", "), strings.Join(controls, ", "))
	}
	return nil
}

// bastion is kubespray's jump host for all hosts; the zero value if there is none.
func (r *ansibleReader) bastion() SSH {
	hosts := r.within(bastionGroup)
	if len(hosts) == 0 {
		return SSH{}
	}
	if len(hosts) > 1 {
		r.note("The group bastion has several hosts, of which the spec uses %s as the jump host.", hosts[0])
	}
	h := r.hosts[hosts[0]]
	var s SSH
	r.sshOf(h, &s, SSH{})
	hops, keys := s.hop(cmp.Or(r.text(h, "ansible_host", "ansible_ssh_host"), h.name))
	return SSH{Jump: hops, JumpKeyFile: keys}
}

// sshOf reads how a host is reached.
func (r *ansibleReader) sshOf(h *ansibleHost, s *SSH, bastion SSH) {
	s.User = r.text(h, "ansible_user", "ansible_ssh_user")
	s.Port = r.number(h, "ansible_port", "ansible_ssh_port")
	s.KeyFile = r.keyFile(h, "ansible_ssh_private_key_file", "ansible_private_key_file")
	for _, name := range []string{"ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args"} {
		r.sshArgs(h, name, s)
	}
	if s.Jump == "" {
		s.Jump = bastion.Jump
		if bastion.JumpKeyFile != s.KeyFile {
			s.JumpKeyFile = bastion.JumpKeyFile
		}
	}
	if c := r.text(h, "ansible_connection"); c != "" && c != "ssh" && c != "smart" && c != "paramiko" && c != "paramiko_ssh" {
		r.refuse(h.line, h.name, "Quorate reaches every host over SSH: use its address", "its connection is `%s`", c)
	}
}

// hostOf reads a host's variables.
func (r *ansibleReader) hostOf(h *ansibleHost, out *Host, bastion SSH) {
	s := &out.SSH
	r.sshOf(h, s, bastion)
	r.become(h)
	reached, internal, access := r.text(h, "ansible_host", "ansible_ssh_host"), r.text(h, "ip"), r.text(h, "access_ip")
	out.Address = cmp.Or(internal, access)
	if access != "" && internal != "" && access != internal {
		r.note("%s has ip (%s) and access_ip (%s). The spec has one address at which the other hosts reach it: ip.", h.name, internal, access)
	}
	at, address := cmp.Or(reached, h.name), ""
	if out.Address == "" {
		address = r.address(at)
	}
	switch {
	case address != "":
		out.Address = address
		if address != at {
			r.note("The address of %s is %s, as %s resolves on this machine. The other hosts must reach it there.", h.name, address, at)
		}
	case out.Address == "" && r.o.Lookup == nil: // something else finds it, or Init misses it
	case out.Address == "":
		r.note("%s has no address: `%s` does not resolve to one on this machine. Set ansible_host or ip.", h.name, at)
	case reached != "" && reached != out.Address: // where Ansible logs in, which may be a gateway with a port for each host
		s.Address = reached
	}
	out.SecondaryAddress, out.FrontAddress = r.text(h, "secondary_address", "ip6", "access_ip6"), r.text(h, "front_address")
	out.FailsWith = r.texts(h, "fails_with")
	s.HostKey, s.HostPort = strings.TrimSpace(r.text(h, "ssh_host_key")), r.number(h, "ssh_host_port")
	labels := r.mapping(h, "node_labels")
	out.Zone = cmp.Or(r.text(h, "zone", "availability_zone", "failure_domain"), r.item(h, "node_labels", labels, "topology.kubernetes.io/zone"))
	out.Region = cmp.Or(r.text(h, "region"), r.item(h, "node_labels", labels, "topology.kubernetes.io/region"))
}

// address is the IPv4 address of a host that is named so; empty if nobody knows it.
func (r *ansibleReader) address(name string) string {
	if a, err := netip.ParseAddr(name); err == nil {
		return a.String()
	}
	if r.o.Lookup == nil {
		return ""
	}
	return r.o.Lookup(name)
}

// become checks how a user becomes root, which Quorate does with sudo.
func (r *ansibleReader) become(h *ansibleHost) {
	r.text(h, "ansible_become") // Quorate always does
	if m := r.text(h, "ansible_become_method"); m != "" && m != "sudo" {
		r.note("%s uses %s to become root, and Quorate uses sudo.", h.name, m)
	}
	if u := r.text(h, "ansible_become_user"); u != "" && u != DefaultSSHUser {
		r.note("%s becomes the user %s, and Quorate needs root.", h.name, u)
	}
}

// rename gives hosts names that are names of machines.
func (r *ansibleReader) rename() {
	used := map[string]int{}
	for _, h := range r.out.Options.Hosts {
		name, _, _ := strings.Cut(h.Name, ".")
		used[name]++
	}
	count := map[string]int{}
	for i := range r.out.Options.Hosts {
		h := &r.out.Options.Hosts[i]
		if a, err := netip.ParseAddr(h.Name); err == nil {
			prefix := map[string]string{RoleControlPlane: "cp", RoleWorker: "worker", RoleEtcd: "etcd", RoleLoadBalancer: "lb"}[h.Roles[0]]
			count[prefix]++
			h.Name = fmt.Sprintf("%s-%d", prefix, count[prefix])
			r.note("The inventory has the host %s by its address. The spec calls it %s: use the host name of the machine.", a, h.Name)
			continue
		}
		if name, _, dotted := strings.Cut(h.Name, "."); dotted && used[name] == 1 {
			r.note("The spec has %s by its short name, %s: names of nodes have no dots.", h.Name, name)
			h.Name = name
		}
	}
}

// settings reads what kubespray's variables say about the cluster. They are those of the first control plane.
func (r *ansibleReader) settings() {
	o := &r.out.Options
	first := r.hosts[r.order(r.inRole(RoleControlPlane))[0]]
	if o.Version = r.text(first, "kube_version"); o.Version != "" && !strings.HasPrefix(o.Version, "v") {
		o.Version = "v" + o.Version
	}
	o.PodCIDR, o.ServiceCIDR = r.text(first, "kube_pods_subnet"), r.text(first, "kube_service_addresses")
	pods, services := r.text(first, "kube_pods_subnet_ipv6"), r.text(first, "kube_service_addresses_ipv6")
	if dual := r.text(first, "enable_dual_stack_networks", "ipv6_stack"); strings.EqualFold(dual, "true") && pods != "" && services != "" && o.PodCIDR != "" && o.ServiceCIDR != "" {
		o.PodCIDR, o.ServiceCIDR = o.PodCIDR+","+pods, o.ServiceCIDR+","+services
	}
	if (o.PodCIDR != "" || o.ServiceCIDR != "") && !strings.Contains(o.PodCIDR+o.ServiceCIDR, ",") {
		for i := range o.Hosts {
			if h := &o.Hosts[i]; h.SecondaryAddress != "" {
				r.note("The addresses of a second IP family (ip6, secondary_address) were left out, because the ranges of pods and Services have one family.")
				h.SecondaryAddress = ""
			}
		}
	}
	if plugin := r.text(first, "kube_network_plugin"); plugin != "" && plugin != CNIFlannel {
		o.CNI = CNINone
		r.note("The network plugin is %s (kube_network_plugin), which Quorate does not bring: the spec says `cni: none`. Use manifest or chart to have Quorate install yours.", plugin)
	}
	if domain := r.text(first, "apiserver_loadbalancer_domain_name"); domain != "" {
		o.Endpoint = domain + ":" + DefaultPort
	}
	balancer := r.mapping(first, "loadbalancer_apiserver")
	if len(balancer) == 0 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(balancer)) {
		if key != "address" && key != "port" {
			r.note("The spec has no counterpart for %s of loadbalancer_apiserver, which was left out.", key)
		}
	}
	address, port := r.item(first, "loadbalancer_apiserver", balancer, "address"), r.item(first, "loadbalancer_apiserver", balancer, "port")
	o.VirtualIP = address
	if len(r.inRole(RoleLoadBalancer)) == 0 {
		o.Balancer = BalancerExternal
	}
	if name, _, found := strings.Cut(o.Endpoint, ":"); found && port != "" {
		o.Endpoint = name + ":" + port
	} else if port != "" && port != DefaultPort {
		r.note("The load balancer's port is %s (loadbalancer_apiserver): set the name and port of the endpoint with --endpoint.", port)
	}
}

// pools are workers with the same labels and taints.
func (r *ansibleReader) pools() {
	for i := range r.out.Options.Hosts {
		out := &r.out.Options.Hosts[i]
		h := r.hosts[r.nameAt(i)]
		labels := map[string]string{}
		given := r.mapping(h, "node_labels")
		for _, key := range slices.Sorted(maps.Keys(given)) {
			if r.readable(h, "node_labels."+key, given[key]) {
				labels[key] = scalarOf(given[key])
			}
		}
		var taints []Taint
		value := r.get(h, "node_taints")
		list, ok := value.([]any)
		if value != nil && !ok {
			r.note("node_taints of %s is %s, and no list, so it was left out.", h.name, kindOf(value))
		}
		for _, x := range list {
			t, ok := parseTaint(scalarOf(x))
			if !ok {
				r.note("The taint `%s` of %s is not of the form key=value:Effect, and was left out.", scalarOf(x), h.name)
				continue
			}
			taints = append(taints, t)
		}
		for _, key := range []string{"topology.kubernetes.io/zone", "topology.kubernetes.io/region"} {
			delete(labels, key) // hostOf has read these
		}
		if len(labels)+len(taints) == 0 {
			continue
		}
		if !out.Has(RoleWorker) {
			r.note("%s is no worker, and the spec has no field for labels and taints of other hosts: node_labels and node_taints were left out.", h.name)
			continue
		}
		j := slices.IndexFunc(r.out.Options.NodePools, func(p NodePool) bool { return maps.Equal(p.Labels, labels) && slices.Equal(p.Taints, taints) })
		if j < 0 {
			j = len(r.out.Options.NodePools)
			r.out.Options.NodePools = append(r.out.Options.NodePools, NodePool{Name: fmt.Sprintf("pool-%d", j+1), Labels: labels, Taints: taints})
		}
		r.out.Options.NodePools[j].Hosts = append(r.out.Options.NodePools[j].Hosts, out.Name)
	}
}

// nameAt is the name in the inventory of a host of the spec.
func (r *ansibleReader) nameAt(i int) string {
	name, _, _ := strings.Cut(r.places[i], " (")
	return name
}

// parseTaint reads key=value:Effect; the value may be missing.
func parseTaint(s string) (Taint, bool) {
	i := strings.LastIndex(s, ":")
	if i < 1 {
		return Taint{}, false
	}
	key, value, _ := strings.Cut(s[:i], "=")
	return Taint{Key: key, Value: value, Effect: s[i+1:]}, key != ""
}

// passwords are variables that Ansible logs in with, and what Quorate does instead.
var passwords = map[string]string{
	"ansible_password":              "Quorate logs in with keys",
	"ansible_ssh_pass":              "Quorate logs in with keys",
	"ansible_become_password":       "use --ask-sudo-password",
	"ansible_become_pass":           "use --ask-sudo-password",
	"ansible_sudo_pass":             "use --ask-sudo-password",
	"ansible_ssh_host_key_checking": "Quorate always verifies host keys",
	"ansible_host_key_checking":     "Quorate always verifies host keys",
}

// dropped names the variables that have no counterpart. Their values are not shown: some of them are secrets.
func (r *ansibleReader) dropped() {
	where := map[string][]string{}
	for _, name := range r.groupNames {
		for v := range r.groups[name].vars {
			where[v] = append(where[v], name)
		}
	}
	for _, name := range r.names {
		for v := range r.hosts[name].own {
			where[v] = append(where[v], name)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(where)) {
		if advice := passwords[v]; advice != "" {
			r.note("The variable %s was left out: %s.", v, advice)
			delete(where, v)
		}
	}
	var out []string
	for _, v := range slices.Sorted(maps.Keys(where)) {
		if !r.used[v] {
			out = append(out, v+" ("+few(where[v])+")")
		}
	}
	if len(out) > 0 {
		r.note("The spec has no counterpart for these variables, which were left out: %s.", strings.Join(out, ", "))
	}
}

// get is a variable of a host, under the first of its names that it has.
func (r *ansibleReader) get(h *ansibleHost, names ...string) any {
	for _, name := range names {
		r.used[name] = true
	}
	for _, name := range names {
		if v := h.vars[name]; v != nil && v != "" && r.readable(h, name, v) {
			return v
		}
	}
	return nil
}

// readable says that a value is not one that only Ansible can evaluate. A note names the others.
func (r *ansibleReader) readable(h *ansibleHost, name string, v any) bool {
	switch v := v.(type) {
	case encrypted:
		r.note("%s of %s is encrypted (Ansible Vault), so it was left out. Write it into the spec if it is no secret.", name, h.name)
		return false
	case string:
		if strings.Contains(v, "{{") {
			r.note("%s of %s is a template, which only Ansible can evaluate, so it was left out. Write its value into the spec.", name, h.name)
			return false
		}
	}
	return true
}

// item is the text under a key of a variable that is a mapping.
func (r *ansibleReader) item(h *ansibleHost, name string, m map[string]any, key string) string {
	if !r.readable(h, name+"."+key, m[key]) {
		return ""
	}
	return scalarOf(m[key])
}

func (r *ansibleReader) text(h *ansibleHost, names ...string) string {
	v := r.get(h, names...)
	switch v.(type) {
	case nil, string:
	default:
		r.refuse(h.line, h.name+"."+names[0], "correct the variable", "it must be a text, but it is %s", kindOf(v))
	}
	return scalarOf(v)
}

// texts is a variable that is a list of texts, or one text with commas in it.
func (r *ansibleReader) texts(h *ansibleHost, name string) (out []string) {
	switch v := r.get(h, name).(type) {
	case nil:
	case string:
		for s := range strings.SplitSeq(v, ",") {
			out = append(out, strings.TrimSpace(s))
		}
	case []any:
		for _, x := range v {
			if _, ok := x.(string); !ok {
				r.refuse(h.line, h.name+"."+name, "correct the variable", "it must be a list of texts, but it has %s in it", kindOf(x))
				return nil
			}
			out = append(out, x.(string))
		}
	default:
		r.refuse(h.line, h.name+"."+name, "correct the variable", "it must be a list of texts, but it is %s", kindOf(v))
	}
	return out
}

// mapping is a variable that has to be a mapping; nil if it is something else, which a note says.
func (r *ansibleReader) mapping(h *ansibleHost, name string) map[string]any {
	v := r.get(h, name)
	m, ok := v.(map[string]any)
	if v != nil && !ok {
		r.note("%s of %s is %s, and no mapping, so it was left out.", name, h.name, kindOf(v))
	}
	return m
}

func (r *ansibleReader) number(h *ansibleHost, names ...string) int {
	s := r.text(h, names...)
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		r.refuse(h.line, h.name+"."+names[0], "correct the variable", "`%s` is not a number", s)
	}
	return n
}

// keyFile reads the path of a private key, and refuses a key.
func (r *ansibleReader) keyFile(h *ansibleHost, names ...string) string {
	s := r.text(h, names...)
	if strings.ContainsAny(s, "\r\n") || strings.Contains(s, "-----BEGIN") {
		r.refuse(h.line, h.name+"."+names[0], "put the key into a file that only you can read, and set this to its path", "this is a private key, not the path of one")
		return ""
	}
	return s
}

// scalarOf is the text of a value; empty for a list, a mapping, and nothing.
func scalarOf(v any) string {
	s, _ := v.(string)
	return s
}

// place is where a host is in the inventory.
func (r *ansibleReader) place(name string) string {
	if line := r.hosts[name].line; line > 0 {
		return fmt.Sprintf("%s (line %d)", name, line)
	}
	return name + " (in the inventory)"
}

// placeOf finds where the spec has a host from.
func (r *ansibleReader) placeOf(path string) string {
	rest, ok := strings.CutPrefix(path, "spec.hosts[")
	index, field, closed := strings.Cut(rest, "]")
	if i, err := strconv.Atoi(index); ok && closed && err == nil && i < len(r.places) {
		return r.places[i] + field
	}
	return path
}
