package spec

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// The outputs of a Terraform configuration that describe a cluster: Quorate's own, and those that KubeOne reads.
const (
	outputQuorate        = "quorate"
	outputKubeOneHosts   = "kubeone_hosts"
	outputKubeOneAPI     = "kubeone_api"
	outputKubeOneWorkers = "kubeone_static_workers"
	outputKubeOnePools   = "kubeone_workers"
)

// Terraform is what a Terraform output says about a cluster.
type Terraform struct {
	// Options are for Init; flags may still change them.
	Options InitOptions
	// Notes are for the user: what was left out, and what to look at.
	Notes []string
	// Sensitive says that an output that was read is marked as sensitive.
	Sensitive bool
}

// ReadTerraform reads what `terraform output -json` prints, or `terraform output -json quorate`. Zones are for KubeOne's
// outputs, which have none: each group of hosts is given them in turn. An error is [Errors], with paths in the document.
func ReadTerraform(data []byte, file string, zones []string) (*Terraform, error) {
	r := &terraformReader{file: file, zones: zones}
	top, err := r.parse(data)
	if err != nil {
		return nil, err
	}
	r.outputs(top)
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	r.out.Notes = append(r.out.Notes, GatewayPorts(r.out.Options.Hosts)...)
	r.out.Options.placeOf, r.out.Options.secret = r.placeOf, r.out.Sensitive
	return &r.out, nil
}

type terraformReader struct {
	file  string
	zones []string
	out   Terraform
	errs  Errors
	// places are where hosts and pools were read, prefix is where the cluster was; KubeOne's outputs have no such place.
	places, pools []string
	prefix        string
}

// value is one value of the document and the way to it.
type value struct {
	path string
	any  any
	// secret values are not quoted in messages.
	secret bool
}

func (v value) field(name string, of map[string]any) value {
	return value{join(v.path, name), of[name], v.secret}
}

func (r *terraformReader) refuse(path, fix, format string, args ...any) {
	r.errs = append(r.errs, Problem{File: r.file, Path: path, Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (r *terraformReader) note(format string, args ...any) {
	r.out.Notes = append(r.out.Notes, fmt.Sprintf(format, args...))
}

const terraformHint = "pass the output of `terraform output -json`"

func (r *terraformReader) parse(data []byte) (map[string]any, error) {
	fail := func(offset int64, message, fix string) error {
		p := Problem{File: r.file, Message: message, Fix: fix}
		if offset > 0 && offset <= int64(len(data)) {
			before := data[:offset]
			p.Line, p.Column = 1+bytes.Count(before, []byte("\n")), len(before)-bytes.LastIndexByte(before, '\n')-1
		}
		return Errors{p}
	}
	data = inUTF8(data)
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fail(0, "it is empty", terraformHint+"; a configuration that was never applied has no outputs")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var all any
	err := d.Decode(&all)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, fail(syntax.Offset, "it is not JSON: "+syntax.Error(), terraformHint)
	case err != nil:
		return nil, fail(int64(len(data)), "it is not JSON: it is truncated", terraformHint)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fail(d.InputOffset(), "there is trailing data after the JSON document", terraformHint)
	}
	top, ok := all.(map[string]any)
	if !ok {
		return nil, fail(0, "it is "+kindOf(all)+", not an object of outputs", terraformHint)
	}
	return top, nil
}

// inUTF8 removes a byte order mark, and converts UTF-16 that has one: PowerShell writes either when it redirects output to a file.
func inUTF8(data []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}):
		order = binary.LittleEndian
	case bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		order = binary.BigEndian
	default:
		return bytes.TrimPrefix(data, []byte("\ufeff"))
	}
	var units []uint16
	for pair := range slices.Chunk(data[2:], 2) {
		if len(pair) == 2 {
			units = append(units, order.Uint16(pair))
		}
	}
	return []byte(string(utf16.Decode(units)))
}

// outputs finds the outputs that describe a cluster.
func (r *terraformReader) outputs(top map[string]any) {
	_, hosts := top["hosts"]
	switch {
	case top[outputQuorate] != nil:
		if v, ok := r.output(top, outputQuorate); ok {
			r.cluster(v)
		}
	case top[outputKubeOneHosts] != nil:
		r.kubeone(top)
	case hosts:
		r.cluster(value{any: top}) // terraform output -json quorate
	case top["format_version"] != nil || top["terraform_version"] != nil:
		r.refuse("", terraformHint, "it is a Terraform plan or state, not the outputs")
	case len(top) == 0:
		r.refuse("", "add an output `quorate` to your configuration, as docs/terraform.md shows, and apply it", "there are no outputs")
	default:
		names := slices.Sorted(maps.Keys(top))
		r.refuse("", suggest(outputQuorate, names, "add it to your configuration, as docs/terraform.md shows, and apply it"),
			"there is no output `%s`, and no output `%s` as in KubeOne; the outputs are %s", outputQuorate, outputKubeOneHosts, few(names))
	}
}

// output unwraps one output, {"sensitive": …, "type": …, "value": …}.
func (r *terraformReader) output(top map[string]any, name string) (value, bool) {
	v := value{path: name, any: top[name]}
	wrapped, ok := v.any.(map[string]any)
	inner, has := wrapped["value"]
	if !ok || !has {
		r.refuse(name, terraformHint, "it is not an output: it has no `value`")
		return v, false
	}
	secret, _ := wrapped["sensitive"].(bool)
	if secret {
		r.out.Sensitive = true
		r.note("The output %s is marked as sensitive. The spec contains its names, addresses, and paths unencrypted, so only you can read the file.", name)
	}
	v = value{name + ".value", inner, secret}
	if inner == nil {
		fix := "apply the configuration, so that the output has a value"
		if secret {
			fix += "; if sensitive outputs are withheld, remove `sensitive` from it"
		}
		r.refuse(v.path, fix, "it is null")
		return v, false
	}
	return v, true
}

// cluster reads Quorate's own output.
func (r *terraformReader) cluster(v value) {
	o := &r.out.Options
	r.prefix = v.path
	m, ok := r.object(v, "name", "kubernetes_version", "region", "endpoint", "topology", "placement", "load_balancer", "etcd", "ssh", "hosts", "node_pools")
	if !ok {
		return
	}
	for name, into := range map[string]*string{"name": &o.Name, "kubernetes_version": &o.Version, "region": &o.Region, "endpoint": &o.Endpoint,
		"topology": &o.Topology, "placement": &o.Placement} {
		*into = r.text(v.field(name, m))
	}
	if o.Endpoint != "" && !strings.Contains(o.Endpoint, ":") {
		o.Endpoint += ":" + DefaultPort
	}
	lb := v.field("load_balancer", m)
	if m, ok := r.object(lb, "type", "address"); ok {
		o.Balancer, o.VirtualIP = r.text(lb.field("type", m)), r.text(lb.field("address", m))
	}
	etcd := v.field("etcd", m)
	if m, ok := r.object(etcd, "endpoints", "ca_file", "cert_file", "key_file"); ok {
		o.Etcd = Etcd{Endpoints: r.texts(etcd.field("endpoints", m)), CAFile: r.text(etcd.field("ca_file", m)),
			CertFile: r.text(etcd.field("cert_file", m)), KeyFile: r.keyFile(etcd.field("key_file", m))}
	}
	usual := r.ssh(v.field("ssh", m), SSH{})
	if usual.HostKey != "" {
		r.refuse("quorate.value.ssh.host_key", "write it into the `ssh` of its host", "every host has a key of its own")
	}
	if usual.Address != "" {
		r.refuse("quorate.value.ssh.address", "write it into the `ssh` of its host", "every host has an address of its own")
	}
	hosts := v.field("hosts", m)
	for i, h := range r.list(hosts) {
		r.host(value{fmt.Sprintf("%s[%d]", hosts.path, i), h, v.secret}, usual)
	}
	if hosts.any == nil || len(o.Hosts) == 0 && len(r.errs) == 0 {
		r.refuse(hosts.path, "list every machine, as docs/terraform.md shows", "there are no hosts")
	}
	pools := v.field("node_pools", m)
	for i, p := range r.list(pools) {
		r.pool(value{fmt.Sprintf("%s[%d]", pools.path, i), p, v.secret})
	}
}

func (r *terraformReader) host(v value, usual SSH) {
	m, ok := r.object(v, "name", "address", "private_address", "secondary_address", "front_address", "roles", "zone", "region", "fails_with", "ssh")
	if !ok {
		r.missing(v)
		return
	}
	h := Host{Name: r.text(v.field("name", m)), Roles: r.texts(v.field("roles", m)), Zone: r.text(v.field("zone", m)), Region: r.text(v.field("region", m)),
		FailsWith: r.texts(v.field("fails_with", m)), Address: r.text(v.field("address", m)), SecondaryAddress: r.text(v.field("secondary_address", m)),
		FrontAddress: r.text(v.field("front_address", m)), SSH: r.ssh(v.field("ssh", m), usual)}
	// Hosts meet each other at this address, which must not be one that a gateway translates.
	if private := r.text(v.field("private_address", m)); private != "" {
		if h.Address != private && h.SSH.Jump == "" { // a jump host is in the network of the hosts
			fill(&h.SSH.Address, h.Address)
		}
		h.Address = private
	}
	if h.Address == "" {
		r.refuse(join(v.path, "address"), "set address or private_address; a machine that is not running yet may not have one", "the host has no address")
	}
	r.add(h, v.path)
}

func (r *terraformReader) missing(v value) {
	if v.any == nil {
		r.refuse(v.path, "remove it, or apply the configuration until every machine has its values", "it is null")
	}
}

func (r *terraformReader) add(h Host, place string) {
	r.out.Options.Hosts = append(r.out.Options.Hosts, h)
	r.places = append(r.places, place)
}

func (r *terraformReader) pool(v value) {
	m, ok := r.object(v, "name", "size", "zones", "labels", "taints", "hosts")
	if !ok {
		r.missing(v)
		return
	}
	p := NodePool{Name: r.text(v.field("name", m)), Size: r.number(v.field("size", m)), Zones: r.texts(v.field("zones", m)),
		Hosts: r.texts(v.field("hosts", m)), Labels: r.labels(v.field("labels", m))}
	taints := v.field("taints", m)
	for i, t := range r.list(taints) {
		at := value{fmt.Sprintf("%s[%d]", taints.path, i), t, v.secret}
		if m, ok := r.object(at, "key", "value", "effect"); ok {
			p.Taints = append(p.Taints, Taint{Key: r.text(at.field("key", m)), Value: r.text(at.field("value", m)), Effect: r.text(at.field("effect", m))})
		}
	}
	r.out.Options.NodePools = append(r.out.Options.NodePools, p)
	r.pools = append(r.pools, v.path)
}

// ssh reads how a host is reached; what it does not say is as usual.
func (r *terraformReader) ssh(v value, usual SSH) SSH {
	m, ok := r.object(v, "address", "user", "port", "host_port", "key_file", "known_hosts_file", "host_key", "jump", "jump_key_file")
	if !ok {
		return usual
	}
	s := SSH{Address: r.text(v.field("address", m)), User: r.text(v.field("user", m)), Port: r.number(v.field("port", m)), HostPort: r.number(v.field("host_port", m)), KeyFile: r.keyFile(v.field("key_file", m)),
		KnownHostsFile: r.text(v.field("known_hosts_file", m)), HostKey: strings.TrimSpace(r.text(v.field("host_key", m))), Jump: r.text(v.field("jump", m)), JumpKeyFile: r.keyFile(v.field("jump_key_file", m))}
	return s.Or(usual)
}

// keyFile reads the path of a private key. Terraform has many keys at hand themselves, and none of them may get into a spec.
func (r *terraformReader) keyFile(v value) string {
	s := r.text(value{v.path, v.any, true})
	if strings.ContainsAny(s, "\r\n") || strings.Contains(s, "-----BEGIN") {
		r.refuse(v.path, "put the key into a file that only you can read, and set this to its path", "this is a private key, not the path of one")
		return ""
	}
	return s
}

// kubeone reads the outputs that KubeOne's own example configurations have.
func (r *terraformReader) kubeone(top map[string]any) {
	o := &r.out.Options
	o.Balancer = BalancerExternal
	if len(r.zones) == 0 {
		r.refuse(outputKubeOneHosts, "set them with --zones a,b,c: they are assigned to the hosts of each group in turn, as in KubeOne's examples", "these outputs do not contain the zones of the hosts")
	}
	hosts, ok := r.output(top, outputKubeOneHosts)
	if !ok {
		return
	}
	m, ok := r.lenient(hosts)
	if !ok {
		return
	}
	cp := hosts.field("control_plane", m)
	group, ok := r.lenient(cp)
	if !ok {
		r.missing(cp)
		return
	}
	o.Name = r.text(cp.field("cluster_name", group))
	roles := []string{RoleControlPlane}
	if alone, _ := group["untaint"].(bool); alone {
		roles = append(roles, RoleWorker)
	}
	r.group(cp, group, "cp", roles)
	r.dropped(cp, group, "cluster_name", "untaint")
	if top["proxy"] != nil { // which KubeOne reads as well
		r.note("The output proxy was left out: packages are installed with the proxy settings of each host, and everything else comes from this machine.")
	}
	if top[outputKubeOneAPI] != nil {
		r.kubeoneAPI(top)
	}
	if top[outputKubeOneWorkers] != nil {
		r.kubeoneWorkers(top)
	}
	if top[outputKubeOnePools] != nil {
		r.note("%s was left out: it describes machines that KubeOne's machine-controller creates. Add existing workers to %s, or to the spec.", outputKubeOnePools, outputKubeOneWorkers)
	}
}

func (r *terraformReader) kubeoneAPI(top map[string]any) {
	v, ok := r.output(top, outputKubeOneAPI)
	if !ok {
		return
	}
	m, ok := r.lenient(v)
	if !ok {
		return
	}
	r.dropped(v, m, "endpoint")
	at := v.field("endpoint", m)
	name := r.text(at)
	if name == "" {
		return
	}
	if a, err := netip.ParseAddr(name); err == nil {
		// The name is for the user to choose; Init has a default, and flags win.
		r.out.Options.VirtualIP = a.String()
		r.note("%s is an address, but the endpoint of a cluster is a name: set the name with --endpoint, and make it resolve to that address.", at.path)
		return
	}
	if !strings.Contains(name, ":") {
		name += ":" + DefaultPort
	}
	r.out.Options.Endpoint = name
}

func (r *terraformReader) kubeoneWorkers(top map[string]any) {
	v, ok := r.output(top, outputKubeOneWorkers)
	if !ok {
		return
	}
	groups, ok := r.lenient(v)
	if !ok {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		at := v.field(name, groups)
		m, ok := r.lenient(at)
		if !ok {
			r.missing(at)
			continue
		}
		names := r.group(at, m, name, []string{RoleWorker})
		r.dropped(at, m, "labels")
		if labels := r.labels(at.field("labels", m)); len(labels) > 0 {
			r.out.Options.NodePools = append(r.out.Options.NodePools, NodePool{Name: name, Labels: labels, Hosts: names})
			r.pools = append(r.pools, at.path)
		}
	}
}

// group reads the hosts of one of KubeOne's groups: lists of addresses and names, side by side.
func (r *terraformReader) group(v value, m map[string]any, prefix string, roles []string) (names []string) {
	public, private := r.texts(v.field("public_address", m)), r.texts(v.field("private_address", m))
	known := r.texts(v.field("hostnames", m))
	s := SSH{User: r.text(v.field("ssh_user", m)), Port: r.number(v.field("ssh_port", m)), KeyFile: r.keyFile(v.field("ssh_private_key_file", m))}
	if bastion := r.text(v.field("bastion", m)); bastion != "" {
		user, port := r.text(v.field("bastion_user", m)), r.number(v.field("bastion_port", m))
		fill(&user, "root")
		if port != 0 {
			bastion = net.JoinHostPort(bastion, strconv.Itoa(port))
		}
		s.Jump = user + "@" + bastion
	}
	var addresses, from, reached []string // host by host, as in KubeOne, which logs in at the public address unless there is a bastion
	for i := range max(len(private), len(public)) {
		switch {
		case nth(private, i) != "":
			addresses, from = append(addresses, private[i]), append(from, "private_address")
			if at := nth(public, i); at != private[i] && s.Jump == "" {
				reached = append(reached, at)
			} else {
				reached = append(reached, "")
			}
		case nth(public, i) != "":
			addresses, from, reached = append(addresses, public[i]), append(from, "public_address"), append(reached, "")
		default:
			r.refuse(fmt.Sprintf("%s[%d]", join(v.path, "private_address"), i), "apply the configuration, so that the machines have addresses", "the host has no address")
			return nil
		}
	}
	if len(addresses) == 0 {
		r.refuse(join(v.path, "private_address"), "apply the configuration, so that the machines have addresses", "the group has no addresses")
	}
	keys := r.texts(v.field("ssh_hosts_keys", m))
	if len(keys) > 0 && len(keys) != len(addresses) {
		r.refuse(join(v.path, "ssh_hosts_keys"), "give one key for each host, in the order of the addresses", "%d host keys for %d hosts", len(keys), len(addresses))
		keys = nil
	}
	for i, address := range addresses {
		h := Host{Name: fmt.Sprintf("%s-%d", prefix, i+1), Address: address, Roles: roles, SSH: s}
		h.SSH.Address = reached[i]
		if len(keys) > 0 {
			h.SSH.HostKey = strings.TrimSpace(keys[i])
		}
		if i < len(known) && known[i] != "" {
			h.Name, _, _ = strings.Cut(known[i], ".")
		}
		if len(r.zones) > 0 {
			h.Zone = r.zones[i%len(r.zones)]
		}
		names = append(names, h.Name)
		r.add(h, fmt.Sprintf("%s.%s[%d]", v.path, from[i], i))
	}
	return names
}

// nth is an element of a list; empty beyond its end.
func nth(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// groupFields are what group reads of a group of KubeOne's hosts, and what Quorate finds out on the hosts.
var groupFields = []string{"public_address", "private_address", "hostnames", "ssh_user", "ssh_port", "ssh_private_key_file", "ssh_hosts_keys", "bastion", "bastion_user", "bastion_port",
	"cloud_provider", "operating_system"}

// dropped notes what of KubeOne's fields has no counterpart in the spec, apart from those that are read.
func (r *terraformReader) dropped(v value, m map[string]any, read ...string) {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		switch x := m[name].(type) {
		case nil:
			continue
		case string:
			if x == "" || name == "ssh_agent_socket" && x == "env:SSH_AUTH_SOCK" { // which Quorate uses anyway
				continue
			}
		case bool:
			if !x {
				continue
			}
		case []any:
			if !slices.ContainsFunc(x, func(e any) bool { return e != nil && e != "" }) {
				continue
			}
		case map[string]any:
			if len(x) == 0 {
				continue
			}
		}
		if !slices.Contains(read, name) && !slices.Contains(groupFields, name) {
			out = append(out, name)
		}
	}
	if len(out) > 0 {
		r.note("Of %s, the spec has no counterpart for %s: left out.", v.path, strings.Join(out, ", "))
	}
}

// object reads an object that has no other fields than these. ok is false for null, which is what Terraform has for
// things that are not set.
func (r *terraformReader) object(v value, fields ...string) (map[string]any, bool) {
	m, ok := r.lenient(v)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(fields, name) {
			r.refuse(join(v.path, name), suggest(name, fields, "the fields are "+strings.Join(fields, ", ")), "unknown field")
		}
	}
	return m, ok
}

// lenient reads an object of somebody else's, which may have more in it.
func (r *terraformReader) lenient(v value) (map[string]any, bool) {
	m, ok := v.any.(map[string]any)
	if !ok && v.any != nil {
		r.wrong(v, "an object")
	}
	return m, ok
}

func (r *terraformReader) list(v value) []any {
	l, ok := v.any.([]any)
	if !ok && v.any != nil {
		r.wrong(v, "a list")
	}
	return l
}

func (r *terraformReader) text(v value) string {
	s, ok := v.any.(string)
	if !ok && v.any != nil {
		r.wrong(v, "a string")
	}
	return s
}

func (r *terraformReader) texts(v value) []string {
	var out []string
	for i, e := range r.list(v) {
		at := value{fmt.Sprintf("%s[%d]", v.path, i), e, v.secret}
		r.missing(at)
		out = append(out, r.text(at))
	}
	return out
}

// number reads a whole number, also from a string: that is what Terraform makes of a number in many places.
func (r *terraformReader) number(v value) int {
	var text string
	switch n := v.any.(type) {
	case nil:
		return 0
	case json.Number:
		text = n.String()
	case string:
		text = n
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		r.wrong(v, "a whole number")
	}
	return n
}

func (r *terraformReader) labels(v value) map[string]string {
	m, _ := r.lenient(v)
	var out map[string]string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if out == nil {
			out = map[string]string{}
		}
		out[key] = r.text(v.field(key, m))
	}
	return out
}

func (r *terraformReader) wrong(v value, want string) {
	is := kindOf(v.any)
	if s, ok := v.any.(string); ok && !v.secret {
		is += fmt.Sprintf(", `%s`", s)
	}
	r.refuse(v.path, "correct the output in your configuration", "it must be %s, but it is %s", want, is)
}

func kindOf(v any) string {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	}
	return "null"
}

// placeOf finds where in the document the spec has something from.
func (r *terraformReader) placeOf(path string) string {
	for _, of := range []struct {
		in     string
		places []string
	}{{"spec.hosts[", r.places}, {"spec.nodePools[", r.pools}} {
		rest, ok := strings.CutPrefix(path, of.in)
		index, field, closed := strings.Cut(rest, "]")
		if i, err := strconv.Atoi(index); ok && closed && err == nil && i < len(of.places) {
			if r.prefix == "" && strings.HasPrefix(of.places[i], "kubeone_") {
				return of.places[i]
			}
			return of.places[i] + snake(field)
		}
	}
	if name, ok := map[string]string{"metadata.name": "name", "spec.kubernetes.version": "kubernetes_version", "spec.controlPlane.endpoint": "endpoint",
		"spec.controlPlane.topology": "topology", "spec.controlPlane.placement": "placement", "spec.loadBalancer.type": "load_balancer.type",
		"spec.loadBalancer.address": "load_balancer.address", "spec.hosts": "hosts", "spec.region": "region", "spec.nodePools": "node_pools"}[path]; ok && r.prefix != "" {
		return join(r.prefix, name)
	}
	return path
}

// snake writes a path of the spec in the manner of Terraform: keyFile is key_file there.
func snake(path string) string {
	var b strings.Builder
	for _, c := range path {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// Over lets other options, such as those of flags, win where they say something.
func (o InitOptions) Over(flags InitOptions) InitOptions {
	for _, f := range []struct{ into, given *string }{
		{&o.Name, &flags.Name}, {&o.Version, &flags.Version}, {&o.Topology, &flags.Topology}, {&o.Placement, &flags.Placement},
		{&o.Endpoint, &flags.Endpoint}, {&o.VirtualIP, &flags.VirtualIP}, {&o.Balancer, &flags.Balancer},
	} {
		if *f.given != "" {
			*f.into = *f.given
		}
	}
	if flags.Etcd.given() {
		o.Etcd = flags.Etcd
	}
	o.Versions = flags.Versions
	return o
}
