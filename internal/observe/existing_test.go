package observe

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"

	"quorate.dev/quorate/internal/existing"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/spec"
)

// recorded is what the API of a cluster says that kubeadm built, after some edits of the text that was recorded.
func recorded(t *testing.T, edits ...string) *facts.API {
	t.Helper()
	data, err := os.ReadFile("testdata/kubeadm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(edits...).Replace(string(data))
	var objects []runtime.Object
	for _, doc := range strings.Split(text, "\n---\n") {
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
		objects = append(objects, object)
	}
	client := fake.NewClientset(objects...)
	running := "v1.37.2"
	if strings.Contains(text, "kubernetesVersion: v1.37.5") {
		running = "v1.37.5"
	}
	client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: running}
	api, err := API(t.Context(), &kube.Client{Interface: client})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// seen is what hosts say in addition.
func seen(c *spec.Cluster, api *facts.API) *facts.Observation {
	obs := &facts.Observation{API: api, Hosts: map[string]facts.Host{}}
	for _, h := range c.Spec.Hosts {
		f := &facts.Facts{Hostname: h.Name}
		if h.Has(spec.RoleControlPlane) {
			f.Kubernetes.Manifests = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
			obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: h.Name, ID: "1", PeerURL: "https://" + h.Address + ":2380", Healthy: true, Started: true})
		}
		host := facts.Host{Facts: f}
		if c.Balances(h) {
			host.Balancer = &facts.Balancer{}
		}
		if h.Has(spec.RoleLoadBalancer) {
			host.Balancer.Others = &facts.OthersBalancing{Services: []facts.Service{{Name: "frontend kubernetes", Bind: "*:6443"}}, VirtualIPs: []string{"10.0.0.100"}}
		}
		obs.Hosts[h.Name] = host
	}
	return obs
}

var balancers = []spec.Host{
	{Name: "lb-a", Address: "10.0.0.21", Roles: []string{spec.RoleLoadBalancer}, Zone: "eu-1a"},
	{Name: "lb-b", Address: "10.0.0.22", Roles: []string{spec.RoleLoadBalancer}, Zone: "eu-1b"},
}

func TestTheSpecOfARecordedCluster(t *testing.T) {
	g := existing.Given{Login: "admin@10.0.0.11", SSH: spec.SSH{User: "admin", Port: 2222}, Hosts: balancers, Options: spec.InitOptions{Name: "prod"}}
	api := recorded(t)
	c := existing.Outline(api, g)
	d := existing.Describe(c, seen(c, api), g)
	data, problems, err := spec.Draft(d.Options, "cluster.yaml")
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v, %v\n%s", err, problems, data)
	}
	got, err := spec.Check(data, "cluster.yaml", spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, h := range got.Spec.Hosts {
		if h.SSH.User != "admin" || h.SSH.Port != 2222 {
			t.Errorf("%s is reached as %+v", h.Name, h.SSH)
		}
		hosts = append(hosts, h.Name+" "+h.Address+" "+strings.Join(h.Roles, "+")+" "+h.Zone)
	}
	want := []string{"cp-a 10.0.0.11 control-plane eu-1a", "cp-b 10.0.0.12 control-plane eu-1b", "cp-c 10.0.0.13 control-plane eu-1c",
		"worker-a 10.0.0.31 worker eu-1a", "worker-b 10.0.0.32 worker eu-1b", "worker-c 10.0.0.33 worker eu-1c",
		"lb-a 10.0.0.21 load-balancer eu-1a", "lb-b 10.0.0.22 load-balancer eu-1b"}
	if !slices.Equal(hosts, want) {
		t.Errorf("hosts\n%q, want\n%q", hosts, want)
	}
	s := got.Spec
	if got.Metadata.Name != "prod" || s.Kubernetes.Version != "v1.37.2" || s.ControlPlane.Endpoint != "api.prod.example.com:6443" || s.ControlPlane.Topology != spec.TopologyStacked ||
		s.ControlPlane.Placement != spec.PlacementRegional || s.LoadBalancer.Type != spec.BalancerManaged || s.LoadBalancer.Address != "10.0.0.100" ||
		s.Network.CNI != spec.CNIFlannel || s.Network.PodCIDR != "10.244.0.0/16" || s.Network.ServiceCIDR != "10.96.0.0/12" {
		t.Errorf("%+v", s)
	}
	if len(s.NodePools) != 2 || s.NodePools[0].Name != "web" || !slices.Equal(s.NodePools[0].Hosts, []string{"worker-a", "worker-b"}) ||
		!maps.Equal(s.NodePools[0].Labels, map[string]string{"example.com/tier": "web", "node-role.kubernetes.io/worker": ""}) ||
		!slices.Equal(s.NodePools[1].Taints, []spec.Taint{{Key: "dedicated", Value: "gpu", Effect: "NoSchedule"}}) {
		t.Errorf("pools %+v", s.NodePools)
	}
	notes := strings.Join(d.Notes, "\n")
	for _, want := range []string{"audit-log-maxage", "lb-a, lb-b", "node pools"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note names %q:\n%s", want, notes)
		}
	}
	if strings.Contains(notes, "Cannot be adopted") || strings.Contains(notes, `"30"`) {
		t.Errorf("%s", notes)
	}
}

func TestWhatIsNotFoundOutOrCannotBeAdopted(t *testing.T) {
	for name, tc := range map[string]struct {
		edits  []string
		change func(*spec.Cluster, *facts.Observation, *existing.Given)
		notes  []string
		// problem is part of what makes the spec invalid; empty for a valid one.
		problem string
		check   func(*spec.Cluster) bool
	}{
		"an address as the endpoint": {edits: []string{"controlPlaneEndpoint: api.prod.example.com:6443", "controlPlaneEndpoint: 10.0.0.9:6443"},
			notes: []string{"Cannot be adopted as it is: its endpoint is the address 10.0.0.9"}, problem: "the endpoint is an IP address"},
		"names with dots": {edits: []string{"name: cp-a\n", "name: cp-a.example.com\n"},
			notes: []string{"cp-a.example.com", "kubeadm join --node-name"}, check: func(c *spec.Cluster) bool { return c.Spec.Hosts[0].Name == "cp-a" }},
		"another network": {edits: []string{"kube-flannel-ds", "calico-node", "namespace: kube-flannel", "namespace: calico-system"},
			notes: []string{"calico-system/calico-node", "cni: none"}, check: func(c *spec.Cluster) bool { return c.Spec.Network.CNI == spec.CNINone }},
		"no network": {edits: []string{"/etc/cni/net.d", "/etc/other"}, notes: []string{"No DaemonSet sets up a pod network"}},
		"a network that Quorate installed": {change: func(_ *spec.Cluster, o *facts.Observation, _ *existing.Given) {
			o.API.Applied, o.API.Networks = map[string]string{"cni": "sha256:ab"}, nil
		}, notes: []string{"from your files or your chart"}, check: func(c *spec.Cluster) bool { return c.Spec.Network.CNI == spec.CNINone }},
		"another runtime": {edits: []string{"containerd://2.1.4", "cri-o://1.37.0"},
			notes: []string{"cri-o://1.37.0", "only containerd"}},
		"half of an upgrade": {edits: []string{"kubeletVersion: v1.37.2\n    machineID", "kubeletVersion: v1.36.9\n    machineID"}, notes: []string{"is v1.36.9"}},
		"a patch release that is not compiled": {edits: []string{"v1.37.2", "v1.37.5"}, notes: []string{"not v1.37.5", "source: official"},
			check: func(c *spec.Cluster) bool {
				return c.Spec.Kubernetes.Version == "v1.37.5" && c.Spec.Components.Source == spec.SourceOfficial
			}},
		"no zones": {edits: []string{"topology.kubernetes.io/zone", "example.com/zone"}, notes: []string{"claims nothing"},
			check: func(c *spec.Cluster) bool {
				return c.Spec.ControlPlane.Placement == spec.PlacementZonal && c.Spec.Hosts[3].Zone == "a"
			}},
		"zones of the caller": {edits: []string{"topology.kubernetes.io/zone", "example.com/zone"}, notes: []string{"as --zones says"},
			change: func(_ *spec.Cluster, _ *facts.Observation, g *existing.Given) { g.Zones = []string{"x", "y", "z"} },
			check: func(c *spec.Cluster) bool {
				return c.Spec.ControlPlane.Placement == spec.PlacementRegional && c.Spec.Hosts[1].Zone == "y" && c.Spec.Hosts[3].Zone == "x"
			}},
		"an unreachable host": {change: func(_ *spec.Cluster, o *facts.Observation, _ *existing.Given) {
			o.Hosts["worker-b"] = facts.Host{Error: "worker-b: no route to host"}
		}, notes: []string{"worker-b could not be reached from here: no route to host.", "--ssh-jump"}, check: func(c *spec.Cluster) bool { _, has := c.Host("worker-b"); return has }},
		"no load balancer": {change: func(_ *spec.Cluster, _ *facts.Observation, g *existing.Given) { g.Hosts = nil },
			notes: []string{"No load balancer was found", "role=load-balancer"}, check: func(c *spec.Cluster) bool { return c.Spec.LoadBalancer.Type == spec.BalancerExternal }},
		"no load balancer on what could be reached": {change: func(_ *spec.Cluster, o *facts.Observation, g *existing.Given) {
			g.Hosts = nil
			o.Hosts["cp-b"] = facts.Host{Error: "cp-b: no route to host"}
		}, notes: []string{"It is unknown whether load balancers run on cp-b.", "No load balancer was found"}},
		"load balancers in pods": {change: func(c *spec.Cluster, o *facts.Observation, g *existing.Given) {
			g.Hosts = nil
			h := o.Hosts["cp-a"]
			h.Facts.Kubernetes.Manifests = append(h.Facts.Kubernetes.Manifests, "haproxy", "keepalived")
			h.Balancer = &facts.Balancer{Others: &facts.OthersBalancing{VirtualIPs: []string{"10.0.0.99"}}}
			o.Hosts["cp-a"] = h
		}, notes: []string{"haproxy, keepalived as static pods"}, check: func(c *spec.Cluster) bool {
			return c.Spec.LoadBalancer == spec.LoadBalancer{Type: spec.BalancerExternal, Address: "10.0.0.99"}
		}},
		"load balancers beside the control planes": {change: func(c *spec.Cluster, o *facts.Observation, g *existing.Given) {
			g.Hosts = nil
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				seen := o.Hosts[h.Name]
				seen.Balancer = &facts.Balancer{Others: &facts.OthersBalancing{VirtualIPs: []string{"10.0.0.99"}}}
				o.Hosts[h.Name] = seen
			}
		}, notes: []string{"load balancers on cp-a, cp-b, cp-c"}, check: func(c *spec.Cluster) bool {
			return c.Spec.LoadBalancer.Type == spec.BalancerManaged && c.Spec.LoadBalancer.Address == "10.0.0.99"
		}},
		"etcd elsewhere": {edits: []string{"      local:\n        dataDir: /var/lib/etcd", "      external:\n        endpoints: [https://10.0.0.41:2379]\n        caFile: /a\n        certFile: /b\n        keyFile: /c"},
			notes: []string{"etcd is at https://10.0.0.41:2379", "role=etcd"}, check: func(c *spec.Cluster) bool { return c.ExistingEtcd() }},
		"a member that is gone": {change: func(_ *spec.Cluster, o *facts.Observation, _ *existing.Given) {
			o.Etcd = append(o.Etcd, facts.EtcdMember{Name: "cp-x", ID: "abc", PeerURL: "https://10.0.0.19:2380"})
		}, notes: []string{"etcd has the member cp-x", "member remove abc"}},
		"closed /readyz": {change: func(_ *spec.Cluster, o *facts.Observation, _ *existing.Given) {
			o.Hosts["cp-b"].Facts.Kubernetes.Flags = map[string]string{"kube-apiserver/anonymous-auth": "false"}
		}, notes: []string{"API server of cp-b rejects"}},
		"two stacks of pods": {edits: []string{"podSubnet: 10.244.0.0/16", "podSubnet: 10.244.0.0/16,fd00::/48"}, problem: "but the Services only IPv4"},
		"two stacks": {edits: []string{"podSubnet: 10.244.0.0/16", "podSubnet: 10.244.0.0/16,fd00::/48", "serviceSubnet: 10.96.0.0/12", "serviceSubnet: 10.96.0.0/12,fd00:10:96::/112"},
			problem: "has only IPv4"},
		"nodes with addresses that the cluster does not use": {change: func(_ *spec.Cluster, o *facts.Observation, _ *existing.Given) {
			o.API.Nodes[0].SecondaryAddress = "fd00::11"
		}, check: func(c *spec.Cluster) bool { return c.Spec.Hosts[0].SecondaryAddress == "" }},
		"files of the operator": {edits: []string{"      extraArgs:\n", "      extraVolumes:\n      - {name: a, hostPath: /etc/audit, mountPath: /etc/audit}\n      extraArgs:\n"},
			notes: []string{"only you have: /etc/audit"}},
		"another DNS domain":                  {edits: []string{"dnsDomain: cluster.local", "dnsDomain: k8s.example.com"}, notes: []string{"k8s.example.com"}},
		"a text that would leave the comment": {edits: []string{"audit-log-maxage", `"a\nkind: Secret"`}, notes: []string{"kind: Secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := existing.Given{Login: "root@10.0.0.11", Hosts: slices.Clone(balancers), Options: spec.InitOptions{Name: "prod", Versions: []string{"v1.37.2"}}}
			api := recorded(t, tc.edits...)
			c := existing.Outline(api, g)
			obs := seen(c, api)
			if tc.change != nil {
				tc.change(c, obs, &g)
				if c = existing.Outline(api, g); len(g.Hosts) == 0 {
					for _, lb := range balancers {
						delete(obs.Hosts, lb.Name)
					}
				}
			}
			d := existing.Describe(c, obs, g)
			notes := strings.Join(d.Notes, "\n")
			for _, want := range tc.notes {
				if !strings.Contains(notes, want) {
					t.Errorf("no note has %q:\n%s", want, notes)
				}
			}
			d.Options.Notes = d.Notes
			data, problems, err := spec.Draft(d.Options, "cluster.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if tc.problem != "" {
				if !strings.Contains(problems.Error(), tc.problem) || !strings.Contains(string(data), "# - Not valid yet: ") {
					t.Errorf("problems %v in\n%s", problems, data)
				}
				return
			}
			got, err := spec.Check(data, "cluster.yaml", spec.Options{})
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			if tc.check != nil && !tc.check(got) {
				t.Errorf("%s", data)
			}
		})
	}
}
