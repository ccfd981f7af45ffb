// Package clustertest makes observations of clusters for tests.
package clustertest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// NoStream is why nothing could be asked in AllUnknown.
const NoStream = "the session's stream was refused"

// Now is when the fixture was observed.
var Now = time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)

// Fixture is a complete cluster: three control planes, two workers and two load balancers in three zones.
type Fixture struct {
	Spec *spec.Cluster
	Seen *facts.Observation
}

// OK is the answer of a program that works.
func OK() facts.Answer { return facts.Answer{OK: true} }

// Problem is the answer of one that does not.
func Problem(why string) facts.Answer { return facts.Answer{Problem: why} }

// Unknown is that of one that could not be asked.
func Unknown(why string) facts.Answer { return facts.Answer{Unknown: why} }

// Whole is such a cluster, in which nothing is wrong.
func Whole() Fixture {
	c := &spec.Cluster{APIVersion: spec.APIVersion, Kind: spec.Kind, Metadata: spec.Metadata{Name: "lab"}}
	c.Spec.ControlPlane.Endpoint = "api.lab.internal:6443"
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	obs := &facts.Observation{Time: Now, Hosts: map[string]facts.Host{}, Endpoint: facts.Endpoint{Hosts: map[string]facts.Answer{}, Caller: &facts.Answer{OK: true}},
		API: &facts.API{Version: "v1.37.2", Initialised: true, DNSSpread: true, DNSInZones: true, DNSReady: 2, DNSNodes: 2, DNSOn: []string{"cp-a", "cp-c"},
			Kubeadm: &facts.Kubeadm{Endpoint: "api.lab.internal:6443", PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/12"}}}
	backends := []facts.Backend{{Name: "cp-a", Healthy: true}, {Name: "cp-b", Healthy: true}, {Name: "cp-c", Healthy: true}}
	for i, name := range []string{"cp-a", "cp-b", "cp-c", "w-a", "w-b", "lb-a", "lb-b"} {
		role, zone, _ := strings.Cut(name, "-")
		h := spec.Host{Name: name, Zone: zone, Address: fmt.Sprintf("10.0.0.%d", 11+i),
			Roles: []string{map[string]string{"cp": spec.RoleControlPlane, "w": spec.RoleWorker, "lb": spec.RoleLoadBalancer}[role]}}
		c.Spec.Hosts = append(c.Spec.Hosts, h)
		seen := facts.Host{Facts: &facts.Facts{Time: Now.Add(time.Duration(i) * time.Millisecond), Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}}},
			Components: map[string]facts.Component{}}
		obs.Endpoint.Hosts[name] = OK()
		if h.IsNode() {
			obs.API.Nodes = append(obs.API.Nodes, facts.Node{Name: name, Address: h.Address, Ready: true, Version: "v1.37.2"})
			seen.Facts.Kubernetes = facts.Kubernetes{CA: "PEM", KubeletConfig: true, NodeName: name, Certificates: []facts.Certificate{{Name: "kubelet-client", Expires: Now.AddDate(1, 0, 0)}}}
			for _, p := range []string{facts.Kubelet, facts.Containerd, facts.KubeProxy, facts.Flannel} {
				seen.Components[p] = facts.Component{Answer: OK(), Version: map[string]string{facts.Kubelet: "v1.37.2", facts.Containerd: "v2.4.2"}[p]}
			}
		}
		switch role {
		case "cp":
			obs.API.Nodes[i].Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
			seen.APIServer, seen.APIServerVersion = new(OK()), "v1.37.2"
			k := &seen.Facts.Kubernetes
			k.Established, k.EtcdData, k.EtcdGuard, k.SharesPort = true, true, true, true
			k.Manifests = []string{"etcd", "kube-apiserver", facts.ControllerManager, facts.Scheduler}
			k.Certificates = append(k.Certificates, facts.Certificate{Name: "pki/apiserver.crt", Expires: Now.AddDate(1, 0, -i)})
			for _, p := range []string{facts.ControllerManager, facts.Scheduler, facts.Approver} {
				seen.Components[p] = facts.Component{Answer: OK()}
			}
			obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: name, ID: fmt.Sprint(i, "d"), Healthy: true, Started: true, Leader: i == 1, ClusterID: "c1", Version: "3.7.3",
				PeerURL: spec.PeerURL(h.Address), DBSizeBytes: 21 << 17})
		case "lb":
			seen.Balancer = &facts.Balancer{Healthy: true, Active: name == "lb-a", WrittenFor: "lab", Backends: slices.Clone(backends)}
			for _, p := range []string{facts.HAProxy, facts.Keepalived, facts.Watchdog} {
				seen.Components[p] = facts.Component{Answer: OK()}
			}
			seen.Facts.Units = map[string]string{"haproxy.service": "active", "keepalived.service": "active"}
		}
		obs.Hosts[name] = seen
	}
	c.Default()
	f := Fixture{c, obs}
	for _, h := range c.Spec.Hosts {
		f.Configured(h)
	}
	return f
}

// Configured gives a host the files and settings that Quorate makes for its roles.
func (f Fixture) Configured(h spec.Host) {
	seen := f.Seen.Hosts[h.Name].Facts
	seen.Files, seen.Modes, seen.Sysctls, seen.Modules, seen.Enabled = map[string]string{}, map[string]facts.Mode{}, map[string]string{}, map[string]facts.Feature{}, map[string]string{}
	var all []facts.Desired
	if h.IsNode() {
		all = append(all, hostconfig.Runtime(seen, "pause"))
	}
	if h.Has(spec.RoleControlPlane) {
		all = append(all, hostconfig.ControlPlane(f.Spec))
	}
	if h.Has(spec.RoleEtcd) {
		all = append(all, hostconfig.Etcd(h, seen, hostconfig.EtcdTimers(f.Spec)))
	}
	if f.Spec.Balances(h) {
		all = append(all, hostconfig.Balancer(f.Spec, h, seen, "PEM"))
	}
	all = append(all, hostconfig.Watched(f.Spec, h))
	for _, d := range all {
		for _, file := range d.Files {
			seen.Files[file.Key()] = file.Sum()
			seen.Modes[file.Path] = facts.Mode{Bits: uint32(cmp.Or(file.Mode, 0o644)), Owner: "root", Group: "root"}
		}
		maps.Copy(seen.Sysctls, d.Sysctls)
		for _, m := range d.Modules {
			seen.Modules[m] = facts.Present
		}
		for _, u := range d.Enable {
			seen.Enabled[u] = "enabled"
		}
	}
}

// Backups has the control planes take a backup every six hours. The last one is an hour old, and the schedule thirty days.
func (f Fixture) Backups() *facts.BackupReport {
	const schedule = "the digest of the schedule"
	f.Spec.Spec.Backup = spec.Backup{Recipients: []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"}, Directory: "/srv/backups"}
	f.Spec.Default()
	schedules := map[string]string{}
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		f.Configured(h)
		f.Seen.Hosts[h.Name].Facts.Files[facts.BackupScheduleFile], schedules[h.Name] = schedule, schedule
	}
	clock := Now.Add(time.Second) // of the control plane that answers
	report := &facts.BackupReport{Now: clock, Since: clock.AddDate(0, 0, -30), Last: &facts.LastBackup{Time: clock.Add(-time.Hour), Host: "cp-b",
		File: "lab.1a2b3c4d.5e6f7a8b.20260803T110001Z.cp-b.backup.age", Bytes: 21 << 17, Store: "/srv/backups"}}
	f.Seen.Backups = &facts.Backups{Schedules: schedules, Report: report}
	return report
}

// Watch has the control planes repair the cluster, and the first one lead. The generation is that of everything that was written for it.
func (f Fixture) Watch(generation string) {
	f.Spec.Spec.Repair.Watch = true
	units, keys := map[string]facts.WatchUnit{}, map[string][]string{}
	for _, h := range f.Spec.Spec.Hosts {
		keys[h.Name] = []string{"ssh-ed25519 host-" + h.Name}
	}
	cps := f.Spec.HostsWith(spec.RoleControlPlane)
	for _, h := range cps {
		units[h.Name] = facts.WatchUnit{Key: "ssh-ed25519 unit-" + h.Name, Address: h.Address}
	}
	for _, h := range f.Spec.Spec.Hosts {
		f.Configured(h)
		seen := f.Seen.Hosts[h.Name].Facts
		seen.Self = facts.SameCopy
		w := &facts.Watch{HostKeys: keys[h.Name], Admits: &facts.WatchAdmits{Generation: generation, User: h.SSH.User, Units: maps.Clone(units)}}
		if h.Has(spec.RoleControlPlane) {
			w.Key, w.Config = units[h.Name].Key, &facts.WatchNote{Generation: generation, HostKeys: maps.Clone(keys)}
			w.Report = &facts.WatchReport{AgoSeconds: 4, Leads: h.Name == cps[0].Name, Leader: cps[0].Name}
			if seen.Units == nil {
				seen.Units = map[string]string{}
			}
			seen.Units[hostconfig.WatchUnit] = "active"
		}
		seen.Watch = w
	}
}

// Kubernetes is what a host holds of the cluster.
func (f Fixture) Kubernetes(host string) *facts.Kubernetes {
	return &f.Seen.Hosts[host].Facts.Kubernetes
}

// Component sets how a program on a host answers.
func (f Fixture) Component(host, name string, a facts.Answer) {
	c := f.Seen.Hosts[host].Components[name]
	c.Answer = a
	f.Seen.Hosts[host].Components[name] = c
}

// Change changes what was observed of a host.
func (f Fixture) Change(host string, change func(*facts.Host)) {
	h := f.Seen.Hosts[host]
	change(&h)
	f.Seen.Hosts[host] = h
}

// AnswerEndpoint gives all hosts and the caller the same answer.
func (f Fixture) AnswerEndpoint(a facts.Answer) {
	for name := range f.Seen.Endpoint.Hosts {
		f.Seen.Endpoint.Hosts[name] = a
	}
	f.Seen.Endpoint.Caller = &a
}

// AsksForVirtualIP has the load balancers ask their network who has the virtual IP. The one that has it answers, and so do
// others with these hardware addresses.
func (f Fixture) AsksForVirtualIP(others ...string) {
	macs := map[string]string{"lb-a": "02:00:00:00:00:0a", "lb-b": "02:00:00:00:00:0b"}
	for lb, other := range map[string]string{"lb-a": "lb-b", "lb-b": "lb-a"} {
		peer, _ := f.Spec.Host(other)
		f.Change(lb, func(h *facts.Host) {
			h.Facts.Addresses[0].MAC = macs[lb]
			h.VirtualIP = &facts.AddressHolders{Interface: "eth0", MAC: macs[lb], Has: h.Balancer.Active, Answers: slices.Clone(others), Peers: map[string]string{peer.Address: macs[other]}}
			if f.Seen.Hosts[other].Balancer.Active {
				h.VirtualIP.Answers = append(h.VirtualIP.Answers, macs[other])
			}
		})
	}
}

// Dies takes hosts away, with everything that the others then see of them.
func (f Fixture) Dies(names ...string) {
	for _, name := range names {
		f.Seen.Hosts[name] = facts.Host{Error: name + ": dial tcp: i/o timeout"}
		delete(f.Seen.Endpoint.Hosts, name)
		if f.Seen.API != nil {
			for i, n := range f.Seen.API.Nodes {
				f.Seen.API.Nodes[i].Ready = n.Ready && n.Name != name
			}
		}
		for i, m := range f.Seen.Etcd {
			if m.Name == name {
				f.Seen.Etcd[i] = facts.EtcdMember{Name: name, ID: m.ID, Started: true, PeerURL: m.PeerURL, Unknown: "the session to its host ended"}
			}
		}
		for _, h := range f.Seen.Hosts {
			if h.Balancer != nil {
				for i, b := range h.Balancer.Backends {
					h.Balancer.Backends[i].Healthy = b.Healthy && b.Name != name
				}
			}
		}
	}
}

// Silent has no API server answer any more.
func (f Fixture) Silent() {
	f.Seen.API, f.Seen.APIError = nil, "connection refused"
	f.AnswerEndpoint(Problem("it closes the connection"))
	for name, h := range f.Seen.Hosts {
		if h.APIServer != nil {
			f.Change(name, func(h *facts.Host) { h.APIServer = new(Problem("connection refused")) })
		}
		if h.Balancer != nil {
			for i := range h.Balancer.Backends {
				h.Balancer.Backends[i].Healthy = false
			}
		}
	}
}

// External moves etcd to hosts of its own.
func (f Fixture) External() {
	f.Spec.Spec.ControlPlane.Topology = spec.TopologyExternal
	f.Spec.Spec.ControlPlane.Placement = spec.PlacementRegional
	f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "cp-c" })
	f.Seen.API.Nodes = slices.DeleteFunc(f.Seen.API.Nodes, func(n facts.Node) bool { return n.Name == "cp-c" })
	for _, h := range f.Seen.Hosts {
		if h.Balancer != nil {
			h.Balancer.Backends = h.Balancer.Backends[:2]
		}
	}
	for _, cp := range []string{"cp-a", "cp-b"} {
		k := f.Kubernetes(cp)
		k.EtcdData, k.Manifests = false, k.Manifests[1:]
	}
	for i, zone := range []string{"a", "b", "c"} {
		name := "etcd-" + zone
		h := spec.Host{Name: name, Zone: zone, Address: fmt.Sprintf("10.0.0.%d", 41+i), Roles: []string{spec.RoleEtcd}}
		f.Spec.Spec.Hosts = append(f.Spec.Spec.Hosts, h)
		f.Seen.Hosts[name] = facts.Host{Facts: &facts.Facts{Time: Now, Kubernetes: facts.Kubernetes{EtcdData: true, Established: true,
			Certificates: []facts.Certificate{{Name: "pki/etcd/server.crt", Expires: Now.AddDate(1, 0, 0)}}}}}
		f.Configured(h)
		f.Seen.Etcd[i].Name, f.Seen.Etcd[i].PeerURL = name, spec.PeerURL(h.Address)
		f.Seen.API.Kubeadm.EtcdEndpoints = append(f.Seen.API.Kubeadm.EtcdEndpoints, spec.ClientURL(h.Address))
	}
	f.Seen.API.DNSInZones = f.Spec.DNSInZones()
}

// Existing has the control planes use an etcd of somebody else's.
func (f Fixture) Existing() {
	f.Spec.Spec.ControlPlane.Topology = spec.TopologyExternal
	f.Spec.Spec.Etcd = spec.Etcd{Endpoints: []string{"https://e1:2379", "https://e2:2379"}, CAFile: "ca", CertFile: "crt", KeyFile: "key"}
	f.Seen.API.Kubeadm.EtcdEndpoints = f.Spec.Spec.Etcd.Endpoints
	for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
		k := f.Kubernetes(cp)
		k.EtcdData, k.Manifests = false, k.Manifests[1:]
	}
	for i := range f.Seen.Etcd {
		f.Seen.Etcd[i].Name = fmt.Sprintf("their-%d", i+1)
	}
}

// Empty leaves nothing on the hosts.
func (f Fixture) Empty() {
	for name, h := range f.Seen.Hosts {
		f.Seen.Hosts[name] = facts.Host{Facts: &facts.Facts{Time: h.Facts.Time}}
	}
	f.Seen.API, f.Seen.Etcd, f.Seen.Endpoint = nil, nil, facts.Endpoint{Unknown: "there is no cluster to ask for"}
}

// Record notes the spec as it is in the cluster.
func (f Fixture) Record() {
	text, err := spec.NewRecord(f.Spec).Marshal()
	if err != nil {
		panic(err)
	}
	f.Seen.API.Record = string(text)
}

// Removed remembers a host as removed while it was down. With facts it is back.
func (f Fixture) Removed(name string, seen *facts.Facts) {
	text, err := spec.MarshalHosts([]spec.Host{{Name: name, Address: "10.0.0.99", Zone: "a", Roles: []string{spec.RoleWorker}, SSH: spec.SSH{User: "root", Port: 22}}})
	if err != nil {
		panic(err)
	}
	f.Seen.API.Removed = text
	h := facts.Host{Facts: seen}
	if seen == nil {
		h.Error = name + ": no SSH connection"
	}
	f.Seen.Hosts[name] = h
}

// AllUnknown is a cluster of which only the hosts themselves can be asked, as when no stream can be opened.
func (f Fixture) AllUnknown() {
	f.Seen.API, f.Seen.APIError = nil, NoStream
	f.AnswerEndpoint(Unknown(NoStream))
	for i := range f.Seen.Etcd {
		m := &f.Seen.Etcd[i]
		*m = facts.EtcdMember{Name: m.Name, ID: m.ID, PeerURL: m.PeerURL, Started: true, Unknown: NoStream}
	}
	for name := range f.Seen.Hosts {
		f.Change(name, func(h *facts.Host) {
			if h.APIServer != nil {
				h.APIServer = new(Unknown(NoStream))
			}
			if h.Balancer != nil {
				h.Balancer, h.BalancerError = nil, NoStream
			}
			for p := range h.Components {
				h.Components[p] = facts.Component{Answer: Unknown(NoStream)}
			}
		})
	}
}

// Marks sets or removes the mark of a complete cluster.
func (f Fixture) Marks(set bool) {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		f.Kubernetes(h.Name).Established = set
	}
}
