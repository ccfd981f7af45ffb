// Package status says how a cluster is: from one observation to nodes, etcd, balancers, certificates, margins, and
// what is wrong with what to do about it. It only thinks and writes text; package observe does the looking.
package status

import (
	"slices"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Status is how a cluster is at one moment. Its JSON keys are stable.
type Status struct {
	Cluster string `json:"cluster"`
	// Version is what the API servers run; empty when none answers.
	Version       string         `json:"version"`
	Endpoint      Endpoint       `json:"endpoint"`
	Nodes         []Node         `json:"nodes"`
	Etcd          Etcd           `json:"etcd"`
	LoadBalancers []LoadBalancer `json:"loadBalancers"`
	Certificates  []Certificate  `json:"certificates"` // the first to expire comes first
	Margins       quorum.Margins `json:"margins"`
	Problems      []Problem      `json:"problems"` // the worst comes first

	at    time.Time // of the observation
	zones int       // of all hosts, also of those that are no nodes
}

// Endpoint is what every client uses.
type Endpoint struct {
	Address   string `json:"address"`
	VirtualIP string `json:"virtualIP"`
	Reachable bool   `json:"reachable"`
	// Holder is the balancer that has the virtual IP; empty when none has, or nobody can tell.
	Holder string `json:"holder"`
}

// Node is a Kubernetes node, of the spec or of the cluster.
type Node struct {
	Name    string   `json:"name"`
	Roles   []string `json:"roles"`
	Zone    string   `json:"zone"`
	Address string   `json:"address"`
	Ready   bool     `json:"ready"`
	// Version is the kubelet's; empty when the API does not know the node.
	Version string `json:"version"`
}

// Etcd is the etcd cluster.
type Etcd struct {
	Topology string   `json:"topology"`
	Members  []Member `json:"members"`
	// Quorum is how many voters must be healthy; Margin is how many more may fail, -1 if too many have.
	Quorum int `json:"quorum"`
	Margin int `json:"margin"`
}

// Member is one etcd member.
type Member struct {
	Name        string `json:"name"`
	Healthy     bool   `json:"healthy"`
	Leader      bool   `json:"leader"`
	Learner     bool   `json:"learner"`
	DBSizeBytes int64  `json:"dbSizeBytes"`
}

// LoadBalancer is one managed balancer; Active is whether it holds the virtual IP.
type LoadBalancer struct {
	Name     string    `json:"name"`
	Healthy  bool      `json:"healthy"`
	Active   bool      `json:"active"`
	Backends []Backend `json:"backends"`
}

// Backend is an API server as one balancer sees it: whether its checks pass, whether it is drained for maintenance, the
// connections that it has through this balancer, and what the last check found.
type Backend struct {
	Name     string `json:"name"`
	Healthy  bool   `json:"healthy"`
	Drained  bool   `json:"drained"`
	Sessions int    `json:"sessions"`
	Check    string `json:"check"`
}

// Certificate is one certificate on one host.
type Certificate struct {
	Host    string    `json:"host"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
}

// Severity says how bad a problem is.
type Severity string

// Critical is an outage or soon one, Warning a cluster that works with less in reserve, Info neither.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
	Info     Severity = "info"
)

// Problem is something wrong and what to do about it.
type Problem struct {
	Severity Severity `json:"severity"`
	Summary  string   `json:"summary"`
	Fix      string   `json:"fix"`
}

// FromObservation judges what was observed against what the spec says.
func FromObservation(c *spec.Cluster, obs *facts.Observation) Status {
	j := judge{c: c, obs: obs, built: built(obs)}
	s := Status{Cluster: c.Metadata.Name, Nodes: j.nodes(), Etcd: j.etcd(), LoadBalancers: j.balancers(), Certificates: j.certificates(), at: obs.Time}
	s.Endpoint = Endpoint{Address: c.Spec.ControlPlane.Endpoint, VirtualIP: c.Spec.LoadBalancer.Address, Reachable: obs.Endpoint.Reachable}
	if obs.API != nil {
		s.Version = obs.API.Version
	}
	if i := slices.IndexFunc(s.LoadBalancers, func(b LoadBalancer) bool { return b.Active }); i >= 0 {
		s.Endpoint.Holder = s.LoadBalancers[i].Name
	}
	s.zones = j.zones()
	placements := j.placements(s.Etcd.Members)
	s.Margins = quorum.Survives(placements)
	s.Problems = j.problems(&s, placements)
	return s
}

// judge is what every part of the status is made from.
type judge struct {
	c   *spec.Cluster
	obs *facts.Observation
	// built says that there is a cluster, or that nobody can tell: then none is the last thing to assume.
	built bool
}

func built(obs *facts.Observation) bool {
	if obs.API != nil || obs.Etcd != nil {
		return true
	}
	seen := false
	for _, h := range obs.Hosts {
		if h.Facts == nil {
			continue
		}
		seen = true
		if k := h.Facts.Kubernetes; k.Established || k.KubeletConfig || k.EtcdData || len(k.Manifests) > 0 {
			return true
		}
	}
	return !seen
}

func (j judge) reachable(host string) bool { return j.obs.Hosts[host].Facts != nil }

func (j judge) zones() int {
	zones := map[string]bool{}
	for _, h := range j.c.Spec.Hosts {
		zones[h.Zone] = true
	}
	return len(zones)
}

func (j judge) managed() bool { return j.c.Spec.LoadBalancer.Type == spec.BalancerManaged }

// node finds a node in the API; nil if it is not there.
func (j judge) node(name string) *facts.Node {
	if j.obs.API == nil {
		return nil
	}
	for i, n := range j.obs.API.Nodes {
		if n.Name == name {
			return &j.obs.API.Nodes[i]
		}
	}
	return nil
}

func (j judge) nodes() []Node {
	out := []Node{}
	for _, h := range j.c.Spec.Hosts {
		if !h.IsNode() {
			continue
		}
		n := Node{Name: h.Name, Roles: append([]string{}, h.Roles...), Zone: h.Zone, Address: h.Address}
		if seen := j.node(h.Name); seen != nil {
			n.Ready, n.Version = seen.Ready, seen.Version
		}
		out = append(out, n)
	}
	for _, n := range j.strangers() {
		roles := []string{spec.RoleWorker}
		if _, ok := n.Labels["node-role.kubernetes.io/control-plane"]; ok {
			roles = []string{spec.RoleControlPlane}
		}
		out = append(out, Node{Name: n.Name, Roles: roles, Zone: n.Labels["topology.kubernetes.io/zone"], Ready: n.Ready, Version: n.Version})
	}
	return out
}

// strangers are nodes of the cluster that the spec does not name.
func (j judge) strangers() (out []facts.Node) {
	if j.obs.API == nil {
		return nil
	}
	for _, n := range j.obs.API.Nodes {
		if h, ok := j.c.Host(n.Name); !ok || !h.IsNode() {
			out = append(out, n)
		}
	}
	return out
}

func (j judge) etcd() Etcd {
	e := Etcd{Topology: j.c.Spec.ControlPlane.Topology, Members: []Member{}}
	for _, m := range j.obs.Etcd {
		e.Members = append(e.Members, Member{Name: m.Name, Healthy: m.Healthy, Leader: m.Leader, Learner: m.Learner, DBSizeBytes: m.DBSizeBytes})
	}
	if j.obs.Etcd == nil && j.built { // none answers: those that should
		for _, h := range j.c.EtcdHosts() {
			e.Members = append(e.Members, Member{Name: h.Name})
		}
	}
	var voters []quorum.Member
	for _, m := range e.Members {
		if !m.Learner {
			voters = append(voters, quorum.Member{Name: m.Name, Healthy: m.Healthy})
		}
	}
	e.Quorum, e.Margin = quorum.Quorum(len(voters)), quorum.Margin(voters)
	return e
}

func (j judge) balancers() []LoadBalancer {
	out := []LoadBalancer{}
	if !j.managed() {
		return out
	}
	for _, h := range j.c.BalancerHosts() {
		b := LoadBalancer{Name: h.Name, Backends: []Backend{}}
		if seen := j.obs.Hosts[h.Name].Balancer; seen != nil {
			b.Healthy, b.Active = seen.Healthy, seen.Active
			for _, s := range seen.Backends {
				b.Backends = append(b.Backends, Backend(s))
			}
		}
		out = append(out, b)
	}
	return out
}

func (j judge) certificates() []Certificate {
	out := []Certificate{}
	for _, h := range j.c.Spec.Hosts {
		if f := j.obs.Hosts[h.Name].Facts; f != nil {
			for _, c := range f.Kubernetes.Certificates {
				out = append(out, Certificate{Host: h.Name, Name: c.Name, Expires: c.Expires})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Certificate) int { return a.Expires.Compare(b.Expires) })
	return out
}

// placements say what each host carries now. What cannot be asked counts as failed.
func (j judge) placements(members []Member) []quorum.Placement {
	voter := map[string]quorum.State{}
	for _, m := range members {
		if !m.Learner {
			voter[m.Name] = working(m.Healthy)
		}
	}
	var out []quorum.Placement
	for _, h := range j.c.Spec.Hosts {
		p := quorum.Placement{Host: h.Name, Zone: h.Zone, Voter: voter[h.Name]}
		delete(voter, h.Name)
		seen := j.obs.Hosts[h.Name]
		if h.Has(spec.RoleControlPlane) {
			p.APIServer = working(seen.APIServer != nil && *seen.APIServer)
		}
		if j.c.Balances(h) {
			p.Balancer = working(seen.Balancer != nil && seen.Balancer.Healthy)
		}
		out = append(out, p)
	}
	for _, m := range members { // members that the spec does not name still vote
		if state, left := voter[m.Name]; left {
			out = append(out, quorum.Placement{Host: m.Name, Voter: state})
		}
	}
	return out
}

func working(ok bool) quorum.State {
	if ok {
		return quorum.Up
	}
	return quorum.Down
}
