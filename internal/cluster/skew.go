package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// What Kubernetes and etcd allow to run at the same time (https://kubernetes.io/releases/version-skew-policy/).
const (
	// RuleSkew: components of one cluster run in versions that work together, also in the middle of an upgrade.
	RuleSkew = "version-skew"
	// RulePath: one minor at a time.
	RulePath = "one-minor-at-a-time"

	// kubeletsBehind is how many minors a kubelet may be older than an API server.
	kubeletsBehind = 3
)

// minEtcdBefore is what every member must run before a member of the minor is started.
var minEtcdBefore = map[string]string{"3.7": "3.6.11"}

// etcdProgram is the name under which the versions of etcd members are noted.
const etcdProgram = "etcd"

// number parses a version such as v1.37.2, 3.7.3, or 3.7.0-0; false for anything else.
func number(v string) (*version.Version, bool) {
	n, err := version.ParseGeneric(strings.TrimPrefix(v, "v"))
	return n, err == nil
}

// minor is the minor release of a version, such as 1.37.
func minor(v *version.Version) string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }

// apart is by how many minors a is newer than b; negative if it is older. Different majors are infinitely far apart.
func apart(a, b *version.Version) int {
	const far = 1000
	return int(a.Major())*far + int(a.Minor()) - int(b.Major())*far - int(b.Minor())
}

// SameMinor says that both are versions of one minor release, of Kubernetes or of etcd.
func SameMinor(a, b string) bool {
	x, okX := number(a)
	y, okY := number(b)
	return okX && okY && apart(x, y) == 0
}

// Older says that version a is older than b. It is false when either is no version.
func Older(a, b string) bool {
	x, okX := number(a)
	y, okY := number(b)
	return okX && okY && x.LessThan(y)
}

// Runs is the version in which a program of the cluster runs on a host, or is about to run; empty if it does not run there, or
// if nobody can tell. Programs are kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and etcd.
func (s *State) Runs(host, program string) string {
	if v, moved := s.moved[host+"/"+program]; moved {
		return v
	}
	seen := s.Seen.Hosts[host]
	var v string
	switch program {
	case etcdProgram:
		if m, ok := s.Member(host); ok && m.Version != "" {
			return "v" + strings.TrimPrefix(m.Version, "v")
		}
		return ""
	case apiServer:
		v = seen.APIServerVersion
	default:
		v = seen.Components[program].Version
	}
	switch {
	case v != "":
	case program == facts.Kubelet:
		if n := s.Node(host); n != nil {
			v = n.Version
		}
	case seen.Facts != nil:
		v = ImageTag(seen.Facts.Kubernetes.PodImages[program])
	}
	return v
}

// ImageTag is the tag of an image's name; empty if it has none.
func ImageTag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	i := strings.LastIndex(image, ":")
	if i < 0 || strings.Contains(image[i:], "/") {
		return ""
	}
	return image[i+1:]
}

// kubelets are the versions of all kubelets by node, also of nodes that the spec does not name.
func (s *State) kubelets() map[string]string {
	out := map[string]string{}
	if s.Seen.API != nil {
		for _, n := range s.Seen.API.Nodes {
			out[n.Name] = n.Version
		}
	}
	for _, h := range s.Spec.Spec.Hosts {
		if v := s.Runs(h.Name, facts.Kubelet); h.IsNode() && v != "" {
			out[h.Name] = v
		}
	}
	maps.DeleteFunc(out, func(node, _ string) bool { return s.gone[node+"/"+facts.Kubelet] })
	return out
}

// members are those of etcd, without those that changes have removed.
func (s *State) members() []facts.EtcdMember {
	return slices.DeleteFunc(slices.Clone(s.Seen.Etcd), func(m facts.EtcdMember) bool { return s.gone[s.MemberHost(m)+"/"+etcdProgram] })
}

// apiServers are the versions of the API servers by host.
func (s *State) apiServers() map[string]string {
	out := map[string]string{}
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		if v := s.Runs(h.Name, apiServer); v != "" {
			out[h.Name] = v
		}
	}
	return out
}

// Path refuses a version to which the cluster cannot go in one step. Buildable are the versions that can be written into the
// spec instead.
func (s *State) Path(target string, buildable []string) *Refusal {
	to, ok := number(target)
	if !ok {
		return &Refusal{Rule: RulePath, Why: fmt.Sprintf("%q is not a version", target), Fix: "Write a full version, such as v1.37.2."}
	}
	for _, host := range slices.Sorted(maps.Keys(s.apiServers())) {
		v := s.apiServers()[host]
		from, ok := number(v)
		if !ok || max(apart(to, from), apart(from, to)) <= 1 {
			continue
		}
		return &Refusal{Rule: RulePath, Subjects: []string{host},
			Why: fmt.Sprintf("the API server on %s runs %s, and %s is more than one minor release away: nothing but one minor release after the other is tested or supported", host, v, target), Fix: wayTo(from, to, target, buildable)}
	}
	return nil
}

// wayTo says how a cluster comes from one version to a target, one minor release after the other.
func wayTo(from, to *version.Version, target string, buildable []string) string {
	if from.Major() != to.Major() {
		return "Write a version of the same major release."
	}
	step := 1
	if apart(to, from) < 0 {
		step = -1
	}
	var path, missing []string
	for m := int(from.Minor()) + step; m != int(to.Minor()); m += step {
		next := fmt.Sprintf("%d.%d", from.Major(), m)
		i := len(buildable) - 1
		for ; i >= 0; i-- { // the newest comes last
			if n, ok := number(buildable[i]); ok && minor(n) == next {
				break
			}
		}
		if i < 0 {
			missing, path = append(missing, "v"+next), append(path, "v"+next)
			continue
		}
		path = append(path, buildable[i])
	}
	path = append(path, target)
	if len(missing) == 0 {
		return fmt.Sprintf("Write `kubernetes: {version: %s}` first and run `quorate apply`; then do the same with %s.", path[0], strings.Join(path[1:], ", then with "))
	}
	return fmt.Sprintf("The path is %s. This version of Quorate cannot build %s, and accepts no other versions than those of the minor releases that it can build (`quorate bundle versions` lists them). "+
		"Go that part of the way with a version of Quorate that can build it, or with `kubeadm upgrade` if Quorate did not install the programs. Then go on with this one.", List(path), List(missing))
}

// ruleSkew holds for changes that bring another version: afterwards everything that works together may still do so.
func (s *State) ruleSkew(c Change) *Refusal {
	if c.Kubernetes != "" {
		to, ok := number(c.Kubernetes)
		if !ok {
			return &Refusal{Rule: RuleSkew, Why: fmt.Sprintf("%s: %q is not a version", c, c.Kubernetes), Fix: "`quorate status` shows the versions."}
		}
		switch c.Part {
		case ControlPlane, APIPrograms:
			if r := s.skewOfAPIServer(c, to); r != nil {
				return r
			}
		case Node:
			if r := s.skewOfKubelet(c, to); r != nil {
				return r
			}
		}
	}
	if c.Etcd != "" {
		return s.skewOfEtcd(c)
	}
	return nil
}

func (c Change) skew(why string) *Refusal {
	return &Refusal{Rule: RuleSkew, Subjects: []string{c.Subject}, Why: c.String() + ": " + why, Fix: "`quorate plan` shows an order in which every step is allowed; `quorate status` shows what runs which version."}
}

func (s *State) skewOfAPIServer(c Change, to *version.Version) *Refusal {
	for host, v := range s.apiServers() {
		n, ok := number(v)
		if host == c.Subject || !ok {
			continue
		}
		if max(apart(n, to), apart(to, n)) > 1 {
			return c.skew(fmt.Sprintf("the API server on %s runs %s, and API servers may be at most one minor release apart", host, v))
		}
	}
	kubelets := s.kubelets()
	for _, node := range slices.Sorted(maps.Keys(kubelets)) {
		n, ok := number(kubelets[node])
		if h, known := s.present.Host(node); !ok || known && h.Has(spec.RoleControlPlane) {
			continue // it uses the API server of its own host, and moves with it
		}
		switch behind := apart(to, n); {
		case behind < 0:
			return c.skew(fmt.Sprintf("the kubelet of %s runs %s, and a kubelet must never be newer than its API server", node, kubelets[node]))
		case behind > kubeletsBehind:
			return c.skew(fmt.Sprintf("the kubelet of %s runs %s, and a kubelet may be at most %d minor releases older than its API server", node, kubelets[node], kubeletsBehind))
		}
	}
	return nil
}

func (s *State) skewOfKubelet(c Change, to *version.Version) *Refusal {
	servers := s.apiServers()
	if own, local := servers[c.Subject]; local {
		servers = map[string]string{c.Subject: own}
	}
	for _, host := range slices.Sorted(maps.Keys(servers)) {
		n, ok := number(servers[host])
		switch {
		case !ok:
		case apart(to, n) > 0:
			return c.skew(fmt.Sprintf("the API server on %s runs %s, and a kubelet must never be newer than its API server", host, servers[host]))
		case apart(n, to) > kubeletsBehind:
			return c.skew(fmt.Sprintf("the API server on %s runs %s, and a kubelet may be at most %d minor releases older", host, servers[host], kubeletsBehind))
		}
	}
	return nil
}

// skewOfEtcd: members move one minor at a time, upwards when all are recent enough, and downwards when their data was brought
// to that version before. One that joins with an older version gets the data of the others, so that it must be able to read it.
func (s *State) skewOfEtcd(c Change) *Refusal {
	to, ok := number(c.Etcd)
	if !ok {
		return c.skew(fmt.Sprintf("%q is not a version of etcd", c.Etcd))
	}
	for _, m := range s.members() {
		host := s.MemberHost(m)
		have := s.Runs(host, etcdProgram)
		n, ok := number(have)
		switch least := minEtcdBefore[minor(to)]; {
		case !ok && (host == c.Subject || m.Learner):
			continue // it does not run, and is started with the version
		case !ok:
			r := c.skew("the version of the etcd member on " + host + " is not known" + after(": ", m.Unknown+m.Problem))
			r.Transient = true
			return r
		case max(apart(to, n), apart(n, to)) > 1:
			return c.skew(fmt.Sprintf("the etcd member on %s runs %s, and members may be at most one minor release apart from %s", host, have, c.Etcd))
		case apart(to, n) == 1 && least != "" && Older(have, least):
			return c.skew(fmt.Sprintf("the etcd member on %s runs %s, and every member must run %s or later before one runs %s", host, have, least, c.Etcd))
		}
		if c.Verb == Downgrade || c.Verb != Add && host != c.Subject || apart(to, n) >= 0 {
			continue
		}
		data := m.StorageVersion
		if d, moved := s.moved["data/"+etcdProgram]; moved {
			data = d
		} else if !s.staysBehind(to) {
			data = have // if not yet, then within seconds: every member has the newer version
		}
		if d, ok := number(data); !ok || apart(d, to) > 0 {
			r := c.skew(fmt.Sprintf("the data of the etcd member on %s has the version %s, which etcd %s cannot read", host, orUnknown(data), c.Etcd))
			r.Fix, r.Transient = "`quorate apply` has etcd bring it to the older version first.", true
			return r
		}
	}
	return nil
}

// staysBehind says that the data of etcd keeps the older version: a member still runs it, or etcd was told to downgrade to it.
func (s *State) staysBehind(to *version.Version) bool {
	return slices.ContainsFunc(s.members(), func(m facts.EtcdMember) bool {
		runs, okRuns := number(s.Runs(s.MemberHost(m), etcdProgram))
		under, okUnder := number(m.DowngradeTo)
		return okRuns && apart(runs, to) == 0 || okUnder && apart(under, to) == 0
	})
}

func orUnknown(v string) string {
	if v == "" {
		return "that it does not tell"
	}
	return v
}

// move notes the versions that a change brings.
func (s *State) move(c Change) map[string]string {
	if c.Kubernetes == "" && c.Etcd == "" {
		return s.moved
	}
	out := maps.Clone(s.moved)
	if out == nil {
		out = map[string]string{}
	}
	set := func(version string, programs ...string) {
		for _, p := range programs {
			if version != "" {
				out[c.Subject+"/"+p] = version
			}
		}
	}
	switch {
	case c.Verb == Downgrade:
		out["data/"+etcdProgram] = c.Etcd
	case c.Part == ControlPlane || c.Part == APIPrograms:
		set(c.Kubernetes, apiServer, facts.ControllerManager, facts.Scheduler, facts.Kubelet)
		if c.Part == ControlPlane {
			set(c.Etcd, etcdProgram)
		}
	case c.Part == Node:
		set(c.Kubernetes, facts.Kubelet)
	case c.Part == EtcdMember:
		set(c.Etcd, etcdProgram)
	}
	return out
}

// VersionChanges says that something runs another version of Kubernetes than the spec's, and that apply would change that.
func (s *State) VersionChanges() bool { return len(s.wrongVersion()) > 0 }

// wrongVersion are the hosts on which a program of the control plane, or the kubelet, runs another version of Kubernetes than the
// spec's. Hosts whose programs Quorate does not manage are not among them.
func (s *State) wrongVersion() (out []Version) {
	want := s.Spec.Spec.Kubernetes.Version
	for _, v := range s.Versions() {
		if !slices.Contains([]string{apiServer, facts.ControllerManager, facts.Scheduler, facts.Kubelet}, v.Program) || v.Version == want {
			continue
		}
		v.Hosts = slices.DeleteFunc(slices.Clone(v.Hosts), func(host string) bool {
			f := s.Facts(host)
			return f == nil || f.Kubernetes.Adopted || s.stage == Foreign
		})
		if len(v.Hosts) > 0 {
			out = append(out, v)
		}
	}
	return out
}
