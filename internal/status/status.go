// Package status shows how a cluster is. It renders a cluster.State, which is where everything is evaluated; nothing is
// decided here.
package status

import (
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Status is how a cluster is at one moment. Its JSON keys are stable.
type Status struct {
	Cluster string `json:"cluster"`
	// Stage says whether there is a cluster.
	Stage cluster.Stage `json:"stage"`
	// Version is what the API server that was asked runs; empty when none could be asked.
	Version       string         `json:"version"`
	Endpoint      Endpoint       `json:"endpoint"`
	Nodes         []Node         `json:"nodes"`
	Etcd          Etcd           `json:"etcd"`
	LoadBalancers []LoadBalancer `json:"loadBalancers"`
	// Hosts are all hosts of the spec, with the programs that run there.
	Hosts []Host `json:"hosts"`
	// Versions are the versions that programs run now.
	Versions     []cluster.Version `json:"versions"`
	Certificates []Certificate     `json:"certificates"` // the first to expire comes first
	// Backups are what is known of the cluster's backups; nil if the spec has none.
	Backups *Backups `json:"backups,omitempty"`
	// Watch are the units that observe or repair; nil if the spec has none.
	Watch    *Watch            `json:"watch,omitempty"`
	Margins  quorum.Margins    `json:"margins"`
	Problems []cluster.Finding `json:"problems"` // the worst comes first

	at    time.Time // of the observation
	zones int       // of all hosts, also of those that are no nodes
}

// Endpoint is what every client uses.
type Endpoint struct {
	Address   string `json:"address"`
	VirtualIP string `json:"virtualIP"`
	// Reachable says that it answers a host. Otherwise either Problem says what is wrong, or Unknown why no host could query it.
	Reachable bool   `json:"reachable"`
	Problem   string `json:"problem,omitempty"`
	Unknown   string `json:"unknown,omitempty"`
	// FromHere is how it answers the machine that runs the command; nil if that was not tried.
	FromHere *facts.Answer `json:"fromHere,omitempty"`
	// Holder is the load balancer that has the virtual IP; empty when none has, or nobody can tell.
	Holder string `json:"holder"`
}

// Node is a Kubernetes node, of the spec or of the cluster.
type Node struct {
	Name    string   `json:"name"`
	Roles   []string `json:"roles"`
	Zone    string   `json:"zone"`
	Address string   `json:"address"`
	Ready   bool     `json:"ready"`
	// Problem is why it is not ready. Unknown is why nobody can tell: the API could not be read.
	Problem string `json:"problem,omitempty"`
	Unknown string `json:"unknown,omitempty"`
	// Version is the kubelet's; empty when the API does not know the node.
	Version string `json:"version"`
	// Cordoned says that it gets no new pods.
	Cordoned bool `json:"cordoned,omitempty"`
}

// Etcd is the etcd cluster.
type Etcd struct {
	Topology string   `json:"topology"`
	Members  []Member `json:"members"`
	// Quorum is how many voters must work; Margin is how many more may fail, -1 if fewer are known to work.
	Quorum int `json:"quorum"`
	Margin int `json:"margin"`
	// Compared is how the data of the members was last compared; nil if nothing is known of that.
	Compared *cluster.Comparison `json:"compared,omitempty"`
}

// Member is one etcd member.
type Member struct {
	Name string `json:"name"`
	// Healthy says that the member works. Otherwise either Problem says what is wrong, or Unknown why it could not be asked.
	Healthy     bool     `json:"healthy"`
	Problem     string   `json:"problem,omitempty"`
	Unknown     string   `json:"unknown,omitempty"`
	Leader      bool     `json:"leader"`
	Learner     bool     `json:"learner"`
	Started     bool     `json:"started"`
	Version     string   `json:"version,omitempty"`
	DBSizeBytes int64    `json:"dbSizeBytes"`
	InUseBytes  int64    `json:"inUseBytes,omitempty"`
	QuotaBytes  int64    `json:"quotaBytes,omitempty"`
	Alarms      []string `json:"alarms,omitempty"`
	// Behind is by how many entries of the log it stays behind the leader, if these are thousands.
	Behind uint64 `json:"behind,omitempty"`
}

// LoadBalancer is one managed load balancer; Active is whether it has the virtual IP.
type LoadBalancer struct {
	Name string `json:"name"`
	// Configured says that there is a HAProxy with a configuration.
	Configured bool `json:"configured"`
	// Healthy says that HAProxy answers. Otherwise either Problem says what is wrong, or Unknown why it could not be asked.
	Healthy  bool      `json:"healthy"`
	Problem  string    `json:"problem,omitempty"`
	Unknown  string    `json:"unknown,omitempty"`
	Active   bool      `json:"active"`
	Backends []Backend `json:"backends"`
}

// Backend is an API server as one load balancer sees it: whether its checks pass, whether it is drained for maintenance, the
// connections that it has through this load balancer, and what the last check found.
type Backend struct {
	Name     string `json:"name"`
	Healthy  bool   `json:"healthy"`
	Drained  bool   `json:"drained"`
	Sessions int    `json:"sessions"`
	Check    string `json:"check"`
}

// Host is one host of the spec.
type Host struct {
	Name string `json:"name"`
	// Reachable says that the host could be queried; Unknown is why not.
	Reachable bool   `json:"reachable"`
	Unknown   string `json:"unknown,omitempty"`
	// Maintenance is set while the host is in maintenance: since when, and whether it can be powered off (ready).
	Maintenance *facts.Maintenance `json:"maintenance,omitempty"`
	// Programs are the programs of the cluster on this host, by name: whether each works (ok), what is wrong (problem) or
	// why it could not be asked (unknown), and the version that runs.
	Programs map[string]facts.Component `json:"programs"`
}

// Backups are the backups of a cluster.
type Backups struct {
	// Every is how often control planes take one by themselves, or never.
	Every string `json:"every"`
	// Last is the last good one, whoever took it; nil if there never was one, or if nobody could tell, for the reason in Unknown.
	Last    *LastBackup `json:"last,omitempty"`
	Unknown string      `json:"unknown,omitempty"`
	// Failed are the control planes whose last attempt failed.
	Failed map[string]facts.FailedBackup `json:"failed,omitempty"`
}

// LastBackup is the last good backup. Its age is by the clock of the control plane that was asked.
type LastBackup struct {
	facts.LastBackup
	AgeSeconds int64 `json:"ageSeconds"`
}

// Certificate is one certificate on one host.
type Certificate struct {
	Host    string    `json:"host"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
}

// Of describes a state.
func Of(s *cluster.State) Status {
	out := Status{Cluster: s.Spec.Metadata.Name, Stage: s.Stage(), Endpoint: endpoint(s), Nodes: nodes(s), Etcd: etcd(s), LoadBalancers: loadBalancers(s), Hosts: hosts(s),
		Versions: append([]cluster.Version{}, s.Versions()...), Certificates: []Certificate{}, Margins: s.Margins(), Problems: s.Findings(), at: s.Seen.Time}
	out.Backups = backups(s)
	out.Watch = watch(s)
	if s.Seen.API != nil {
		out.Version = s.Seen.API.Version
	}
	for _, c := range s.Certificates() {
		out.Certificates = append(out.Certificates, Certificate{Host: c.Host, Name: c.Name, Expires: c.Expires})
	}
	zones := map[string]bool{}
	for _, h := range s.Spec.Spec.Hosts {
		zones[h.Zone] = true
	}
	out.zones = len(zones)
	return out
}

// Watch are the units with which control planes observe the cluster, and repair it.
type Watch struct {
	// Leader is the control plane whose unit observes and repairs; empty if none does, or if nobody can tell.
	Leader string `json:"leader"`
	// OnlyObserves says that the units repair nothing.
	OnlyObserves bool        `json:"onlyObserves,omitempty"`
	Units        []WatchUnit `json:"units"`
}

// WatchUnit is the unit of one control plane.
type WatchUnit struct {
	Host string `json:"host"`
	// Works says that it works. Otherwise either Problem says what is wrong, or Unknown why it could not be asked.
	Works   bool   `json:"works"`
	Problem string `json:"problem,omitempty"`
	Unknown string `json:"unknown,omitempty"`
	// Last is what it last repaired, or did not repair, and At when; Hindered is why it repairs nothing now.
	Last     string    `json:"last,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Hindered string    `json:"hindered,omitempty"`
	// Metrics is where its metrics can be read, as host:port; empty if it serves none.
	Metrics string `json:"metrics,omitempty"`
}

func watch(s *cluster.State) *Watch {
	if !s.Spec.Watched() || !s.Exists() {
		return nil
	}
	out := &Watch{Leader: s.WatchLeader(), OnlyObserves: !s.Spec.Spec.Repair.Watch, Units: []WatchUnit{}}
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		a := s.WatchUnit(h.Name)
		u := WatchUnit{Host: h.Name, Works: a.OK, Problem: a.Problem, Unknown: a.Unknown}
		if f := s.Facts(h.Name); f != nil && f.Watch != nil && f.Watch.Report != nil {
			u.Last, u.At, u.Hindered = f.Watch.Report.Last, f.Watch.Report.At, f.Watch.Report.Hindered
		}
		if s.Spec.Spec.Monitoring.Exporter && s.ExporterUnit(h.Name).OK {
			u.Metrics = hostconfig.ExporterAddress(h)
		}
		out.Units = append(out.Units, u)
	}
	return out
}

func backups(s *cluster.State) *Backups {
	b, seen := s.Spec.Spec.Backup, s.Seen.Backups
	if !b.Given() || !s.Exists() {
		return nil
	}
	out := &Backups{Every: b.Every}
	switch {
	case seen == nil:
		out.Unknown = "it was not asked for"
	case seen.Report == nil:
		out.Unknown = seen.Unknown
	default:
		out.Failed = seen.Report.Failed
		if last := seen.Report.Last; last != nil {
			out.Last = &LastBackup{*last, int64(max(seen.Report.Now.Sub(last.Time), 0).Seconds())}
		}
	}
	return out
}

func endpoint(s *cluster.State) Endpoint {
	a := s.Endpoint()
	at := s.Reached().Endpoint()
	e := Endpoint{Address: at.HostPort(), VirtualIP: at.Address, Reachable: a.OK, Problem: a.Problem, Unknown: a.Unknown, FromHere: s.Seen.Endpoint.Caller}
	if holders, _ := s.Holders(); len(holders) > 0 {
		e.Holder = holders[0]
	}
	return e
}

func nodes(s *cluster.State) []Node {
	out := []Node{}
	for _, h := range s.Spec.Spec.Hosts {
		if !h.IsNode() {
			continue
		}
		n := Node{Name: h.Name, Roles: append([]string{}, h.Roles...), Zone: h.Zone, Address: h.Address}
		switch seen := s.Node(h.Name); {
		case seen != nil:
			n.Ready, n.Problem, n.Version, n.Cordoned = seen.Ready, seen.NotReady, seen.Version, seen.Unschedulable
		case s.Stage() == cluster.Absent:
			n.Problem = "there is no cluster yet"
		case s.Seen.API != nil:
			n.Problem = "it is not in the cluster"
		case s.Seen.APIError != "":
			n.Unknown = "the API could not be read: " + s.Seen.APIError
		default:
			n.Unknown = "the API could not be read"
		}
		out = append(out, n)
	}
	for _, n := range s.Strangers() {
		roles := []string{spec.RoleWorker}
		if _, ok := n.Labels["node-role.kubernetes.io/control-plane"]; ok {
			roles = []string{spec.RoleControlPlane}
		}
		out = append(out, Node{Name: n.Name, Roles: roles, Zone: n.Labels["topology.kubernetes.io/zone"], Address: n.Address, Ready: n.Ready, Problem: n.NotReady, Version: n.Version})
	}
	return out
}

func etcd(s *cluster.State) Etcd {
	voters, _ := quorum.Count(s.Placements(), quorum.Member)
	e := Etcd{Topology: s.Spec.Spec.ControlPlane.Topology, Members: []Member{}, Quorum: quorum.Majority(voters), Margin: s.Margins().Etcd, Compared: s.Comparison()}
	for _, m := range s.Seen.Etcd {
		e.Members = append(e.Members, Member{Name: s.MemberHost(m), Healthy: m.Healthy, Problem: m.Problem, Unknown: m.Unknown, Leader: m.Leader, Learner: m.Learner, Started: m.Started,
			Version: m.Version, DBSizeBytes: m.DBSizeBytes, InUseBytes: m.InUseBytes, QuotaBytes: m.QuotaBytes, Alarms: m.Alarms, Behind: m.Behind})
	}
	if s.Seen.Etcd == nil && s.Exists() { // those that there should be
		why := s.Seen.EtcdError
		if why == "" {
			why = "it was not queried"
		}
		for _, h := range s.Spec.EtcdHosts() {
			e.Members = append(e.Members, Member{Name: h.Name, Unknown: why, Started: true})
		}
	}
	return e
}

func loadBalancers(s *cluster.State) []LoadBalancer {
	out := []LoadBalancer{}
	if s.Spec.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return out
	}
	holders := map[string]bool{}
	names, _ := s.Holders()
	for _, name := range names {
		holders[name] = true
	}
	for _, h := range s.Spec.BalancerHosts() {
		a := s.LoadBalancer(h.Name)
		b := LoadBalancer{Name: h.Name, Healthy: a.OK, Problem: a.Problem, Unknown: a.Unknown, Active: holders[h.Name], Backends: []Backend{}}
		if seen := s.Seen.Hosts[h.Name].Balancer; seen != nil {
			b.Configured = true
			for _, x := range seen.Backends {
				b.Backends = append(b.Backends, Backend{Name: x.Name, Healthy: x.Healthy, Drained: x.Drained, Sessions: x.Sessions, Check: x.Check})
			}
		}
		out = append(out, b)
	}
	return out
}

func hosts(s *cluster.State) []Host {
	out := []Host{}
	unreachable := s.Unreachable()
	for _, h := range s.Spec.Spec.Hosts {
		x := Host{Name: h.Name, Reachable: s.Reachable(h.Name), Unknown: unreachable[h.Name], Programs: map[string]facts.Component{}}
		seen := s.Seen.Hosts[h.Name]
		if m, in := s.Maintenance(h.Name); in {
			x.Maintenance = &m
		}
		for name, c := range seen.Components {
			x.Programs[name] = c
		}
		if seen.APIServer != nil {
			x.Programs["kube-apiserver"] = facts.Component{Answer: *seen.APIServer, Version: seen.APIServerVersion}
		}
		out = append(out, x)
	}
	return out
}
