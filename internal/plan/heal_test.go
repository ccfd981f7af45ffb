package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// copyOf is a spec that can be edited.
func copyOf(t *testing.T, c *spec.Cluster) *spec.Cluster {
	t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out := &spec.Cluster{}
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// healing is what the steps do that replace a host while the version changes; carryOut does the others.
func healing(t *testing.T, c *spec.Cluster, obs *facts.Observation, r Bundle, s Step) {
	t.Helper()
	f := obs.Hosts[s.Host].Facts
	switch s.Kind {
	case InstallBundle:
		carryOut(t, c, obs, r, s)
		if s.Switch {
			f.Binaries, f.Programs = r.Digest, map[string]string{}
			for _, p := range facts.SwitchOrder {
				f.Programs[p] = r.Digest
			}
		}
	case Configure:
		carryOut(t, c, obs, r, s)
		for _, u := range s.Desired.Enable {
			f.Units[u] = "active"
		}
	case Mark:
		f.Kubernetes.Established = true
	case SharePKI:
		f.Kubernetes.SharedPKI, f.Kubernetes.CA = true, "CA"
	case ShareEtcdPKI, ShareEtcdClient:
		for _, h := range c.EtcdHosts() {
			if k := obs.Hosts[h.Name].Facts.Kubernetes; k.EtcdCA != "" {
				f.Kubernetes.EtcdCA, f.Kubernetes.EtcdCAKey = k.EtcdCA, s.Kind == ShareEtcdPKI
				if s.Kind == ShareEtcdClient {
					f.Kubernetes.EtcdClient = k.EtcdClient
				}
			}
		}
	case RemoveMember:
		obs.Etcd = slices.DeleteFunc(obs.Etcd, func(m facts.EtcdMember) bool { return m.ID == s.MemberID && m.Name == s.Host })
		settleEtcd(obs)
	case DeleteNode:
		obs.API.Nodes = slices.DeleteFunc(obs.API.Nodes, func(n facts.Node) bool { return n.Name == s.Host })
	case RememberHosts:
		obs.API.Removed = s.Record
	case StoreVersion:
		obs.API.Kubeadm.Version = s.Record
	case StoreEtcdServers:
		obs.API.Kubeadm.EtcdEndpoints = s.Servers
	case SetEtcdServers:
		f.Kubernetes.Flags = map[string]string{facts.EtcdServersFlag: strings.Join(s.Servers, ",")}
	case MakePKI, MakeEtcdPKI, MakeToken, RemoveTokens:
	case JoinEtcd:
		f.Kubernetes.EtcdData, f.Units["etcd.service"] = true, "active"
		obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: s.Host, Healthy: true, Started: true, Version: strings.TrimPrefix(r.Etcd, "v"), StorageVersion: obs.Etcd[0].StorageVersion, DowngradeTo: obs.Etcd[0].DowngradeTo})
		settleEtcd(obs)
	case JoinControlPlane:
		h, _ := c.Host(s.Host)
		if f.Programs[facts.KubeadmProgram] != r.Digest || obs.API.Kubeadm.Version != r.Version {
			t.Errorf("%s joins with the kubeadm of another version than kubeadm's configuration says: %s", s.Host, obs.API.Kubeadm.Version)
		}
		k := &f.Kubernetes
		k.KubeletConfig, k.SharesPort, k.EtcdGuard, k.EtcdData = true, true, true, c.StackedEtcd()
		k.Manifests = slices.Clone(podsWithEtcd)
		if !c.StackedEtcd() {
			k.Manifests = slices.Clone(controlPlanePods)
		}
		k.PodImages = map[string]string{}
		for _, pod := range k.Manifests {
			k.PodImages[pod] = r.Images[pod]
		}
		k.Kubelet = obs.API.KubeletConfig
		if c.StackedEtcd() {
			obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: s.Host, Healthy: true, Started: true, Version: strings.TrimPrefix(r.Etcd, "v"), StorageVersion: obs.Etcd[0].StorageVersion, DowngradeTo: obs.Etcd[0].DowngradeTo})
			settleEtcd(obs)
		}
		labels := NodeLabels(h)
		labels[controlPlaneLabel], labels[excludeLabel] = "", ""
		obs.API.Nodes = append(obs.API.Nodes, facts.Node{Name: h.Name, Address: h.Address, Ready: true, Version: r.Version, Labels: labels, Taints: Taints(h)})
		obs.Hosts[s.Host] = facts.Host{Facts: f, APIServer: &facts.Answer{OK: true}, APIServerVersion: r.Version, Components: map[string]facts.Component{
			facts.ControllerManager: {Answer: facts.Answer{OK: true}}, facts.Scheduler: {Answer: facts.Answer{OK: true}}}}
		startedWith(obs, f)
		for _, lb := range c.BalancerHosts() {
			if seen := obs.Hosts[lb.Name].Balancer; seen != nil {
				seen.Backends = slices.DeleteFunc(seen.Backends, func(x facts.Backend) bool { return x.Name == h.Name })
				seen.Backends = append(seen.Backends, facts.Backend{Name: h.Name, Healthy: true})
			}
		}
	default:
		if s.Change != nil && s.Change.Disruptive() {
			spares(t, obs, s)
		}
		carryOut(t, c, obs, r, s)
	}
	for i := range obs.Etcd {
		obs.Etcd[i].ID = obs.Etcd[i].Name
	}
	together(t, obs, s)
}

// spares checks that etcd keeps a majority while a step takes a member away.
func spares(t *testing.T, obs *facts.Observation, s Step) {
	t.Helper()
	if s.Kind != UpgradeControlPlane || s.Change.Etcd == "" {
		return
	}
	up := 0
	for _, m := range obs.Etcd {
		if m.Healthy && m.Name != s.Host {
			up++
		}
	}
	if up < len(obs.Etcd)/2+1 {
		t.Errorf("%s leaves %d of %d members", s.ID, up, len(obs.Etcd))
	}
}

// together checks what runs at the same time after a step, without the rules of package cluster.
func together(t *testing.T, obs *facts.Observation, s Step) {
	t.Helper()
	oldest := ""
	for _, seen := range obs.Hosts {
		if v := seen.APIServerVersion; v != "" && (oldest == "" || cluster.Older(v, oldest)) {
			oldest = v
		}
	}
	for _, n := range obs.API.Nodes {
		own := obs.Hosts[n.Name].APIServerVersion
		if n.Ready && own == "" && oldest != "" && obs.Hosts[n.Name].Facts != nil && !slices.Contains(obs.Hosts[n.Name].Facts.Kubernetes.Manifests, "kube-apiserver") && obs.Hosts[n.Name].Facts.Kubernetes.PodImages == nil && cluster.Older(oldest, n.Version) {
			t.Errorf("after %s: the kubelet of %s runs %s, and an API server %s", s.ID, n.Name, n.Version, oldest)
		}
	}
	if len(obs.API.DaemonSets) > 0 && oldest != "" && cluster.Older(oldest, obs.API.DaemonSets[0].Version) {
		t.Errorf("after %s: kube-proxy runs %s, and an API server %s", s.ID, obs.API.DaemonSets[0].Version, oldest)
	}
	for _, m := range obs.Etcd {
		if m.Healthy && cluster.Older(m.Version, m.StorageVersion) && !cluster.SameMinor(m.Version, m.StorageVersion) {
			t.Errorf("after %s: %s runs etcd %s on data of %s", s.ID, m.Name, m.Version, m.StorageVersion)
		}
	}
}

// replaced takes a dead host out of the spec and puts a new one in its place.
func replaced(c *spec.Cluster, obs *facts.Observation, name string) {
	h, _ := c.Host(name)
	for i := range obs.Etcd {
		obs.Etcd[i].ID = obs.Etcd[i].Name
	}
	dies(obs, name)
	seen := obs.Hosts[name]
	seen.SeenBy = map[string]facts.Answer{"lb-a": {Problem: "no route to host"}, "worker-b": {Problem: "no route to host"}}
	obs.Hosts[name] = seen
	without(c, name)
	if h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd) {
		added(c, obs, "new-"+h.Zone, h.Roles...)
	}
}

// heals plans and carries out until nothing is left to do. Every so many steps, the run is killed.
func heals(t *testing.T, c *spec.Cluster, obs *facts.Observation, r Bundle, killed int, what string) {
	t.Helper()
	for range 200 {
		p, err := planFor(c, obs, r)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if p.Empty() {
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				if got := cluster.Evaluate(c, obs).Runs(h.Name, facts.APIServer); got != r.Version {
					t.Errorf("%s: %s ends with an API server %q", what, h.Name, got)
				}
			}
			if len(obs.Etcd) != len(c.EtcdHosts()) {
				t.Errorf("%s: ends with %d members", what, len(obs.Etcd))
			}
			for _, m := range obs.Etcd {
				if "v"+m.Version != r.Etcd || m.DowngradeTo != "" {
					t.Errorf("%s: ends with etcd %+v", what, m)
				}
			}
			return
		}
		for i, s := range p.Steps {
			if killed > 0 && i == killed && slices.ContainsFunc(p.Steps[:i], func(s Step) bool { return s.Change != nil }) {
				break
			}
			healing(t, c, obs, r, s)
		}
	}
	p, _ := planFor(c, obs, r)
	t.Fatalf("%s: it never ends: %v: %s", what, outline(p), p.Steps[0].Reason)
}

// TestADeadHostIsReplacedWhileTheVersionChanges: from every point of an upgrade, and of the way back, with any one host dead: a plan
// replaces or removes it, and then goes on, or back. No step is refused, and what runs together may always do so.
func TestADeadHostIsReplacedWhileTheVersionChanges(t *testing.T) {
	for _, kind := range []string{"3", "5", "external"} {
		for _, way := range []struct{ from, to Bundle }{{older, newer}, {newer, older}} {
			t.Run(kind+" to "+way.to.Version, func(t *testing.T) {
				t.Parallel()
				c := stackedLab()
				switch kind {
				case "5":
					for i, zone := range []string{"a", "b"} {
						c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprintf("cp-%d", i+4), Address: fmt.Sprintf("10.0.0.%d", 80+i), Zone: zone, Roles: []string{spec.RoleControlPlane}})
					}
				case "external":
					c = external()
				}
				obs := upgraded(t, c, way.from)
				p := mustPlan(t, c, obs, way.to)
				from := func(obs *facts.Observation, at int, what string) {
					for j, h := range c.Spec.Hosts {
						central := h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd)
						if !central && at%5 != 0 || kind != "3" && (at+j)%4 != 0 {
							continue
						}
						for _, to := range []Bundle{way.to, way.from} {
							d, o := copyOf(t, c), clone(t, obs)
							replaced(d, o, h.Name)
							if kind == "5" && at%2 == 0 { // four are enough
								without(d, "new-"+h.Zone)
								delete(o.Hosts, "new-"+h.Zone)
							}
							killed := 0
							if (at+j)%3 == 0 {
								killed = 4 + at%7
							}
							heals(t, d, o, to, killed, fmt.Sprintf("%s, %s is dead, to %s, killed %d", what, h.Name, to.Version, killed))
						}
					}
				}
				for i, s := range p.Steps {
					cut := clone(t, obs)
					if interrupt(c, cut, s, i%2 == 0) {
						// Two that do not work at the same time are more than three members survive: the interrupted one dies.
						for _, to := range []Bundle{way.to, way.from} {
							d, o := copyOf(t, c), clone(t, cut)
							replaced(d, o, s.Host)
							heals(t, d, o, to, 0, s.ID+" interrupted, and its host dies, to "+to.Version)
						}
					}
					carryOut(t, c, obs, way.to, s)
					if s.Change != nil || i%6 == 0 {
						from(obs, i, "after "+s.ID)
					}
				}
			})
		}
	}
}

// halfUpgraded is a cluster whose upgrade was interrupted after its first control plane.
func halfUpgraded(t *testing.T) (*spec.Cluster, *facts.Observation) {
	t.Helper()
	c := stackedLab()
	obs := upgraded(t, c, older)
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		if s.Kind == LeavePools && s.Host == "cp-b" {
			break
		}
		carryOut(t, c, obs, newer, s)
	}
	return c, obs
}

// TestADeadHostInTheSpecIsNamed: the refusal says how to go on.
func TestADeadHostInTheSpecIsNamed(t *testing.T) {
	c, obs := halfUpgraded(t)
	alive := clone(t, obs)
	dies(obs, "cp-c")
	_, err := planFor(c, obs, newer)
	var r *cluster.Refusal
	if !errors.As(err, &r) || r.Rule != RuleAPIServers || !strings.Contains(r.Fix, "put a new host into the spec in its place") {
		t.Errorf("%v", err)
	}
	finish(t, c, alive, newer, "the host is back")
}

// TestAHostThatIsBackAfterItWasReplacedIsReset: it does not keep the version from changing.
func TestAHostThatIsBackAfterItWasReplacedIsReset(t *testing.T) {
	c, obs := halfUpgraded(t)
	was := clone(t, obs).Hosts["cp-c"]
	replaced(c, obs, "cp-c")
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		if s.Kind == JoinControlPlane {
			break
		}
		healing(t, c, obs, newer, s)
	}
	was.APIServer = &facts.Answer{Problem: "etcd does not know it"}
	obs.Hosts["cp-c"] = was
	p := mustPlan(t, c, obs, newer)
	if len(stepsOf(p, "cp-c", ResetHost)) != 1 || len(stepsOf(p, "cp-b", UpgradeControlPlane)) != 1 {
		t.Error(outline(p))
	}
}

// TestTwoMembersCannotSpareOne: the refusal names what helps.
func TestTwoMembersCannotSpareOne(t *testing.T) {
	c := stackedLab()
	obs := upgraded(t, c, older)
	dies(obs, "cp-c")
	without(c, "cp-c")
	_, err := planFor(c, obs, newer)
	var r *cluster.Refusal
	if !errors.As(err, &r) || r.Rule != cluster.RuleEnough || !strings.Contains(r.Fix, "add a host") {
		t.Errorf("%v", err)
	}
}
