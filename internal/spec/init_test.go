package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestInitWritesTheDefaultLab(t *testing.T) {
	data, err := Init(InitOptions{Name: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Check(data, "cluster.yaml", Options{Lab: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if want := DefaultLab("demo"); !c.Equal(want) {
		t.Errorf("Init wrote another cluster than `up` makes:\n%+v\n%+v", c, want)
	}
	var names []string
	for _, h := range c.Spec.Hosts {
		names = append(names, h.Name+"/"+h.Zone)
	}
	want := []string{"cp-a/a", "cp-b/b", "cp-c/c", "worker-a/a", "worker-b/b", "lb-a/a", "lb-b/b"}
	if !slices.Equal(names, want) {
		t.Errorf("hosts %v, want %v", names, want)
	}
	if got := c.Spec.ControlPlane.Endpoint; got != "api.demo.internal:6443" {
		t.Errorf("endpoint %s", got)
	}
}

func TestInitShapes(t *testing.T) {
	hosts := []Host{
		{Name: "cp-a", Address: "10.0.0.11", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "true", SSH: SSH{User: "admin", Port: 2222, KeyFile: "~/k, {x}: #y", Jump: "a@b:22,c@d", JumpKeyFile: "~/j"}},
		{Name: "cp-b", Address: "10.0.0.12", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "2"},
		{Name: "cp-c", Address: "10.0.0.13", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "1e3"},
		{Name: "lb-a", Address: "10.0.0.14", Roles: []string{RoleLoadBalancer}, Zone: "2"},
		{Name: "lb-b", Address: "10.0.0.15", Roles: []string{RoleLoadBalancer}, Zone: "1e3"},
	}
	dual := slices.Clone(hosts)
	dual[0].SecondaryAddress, dual[1].SecondaryAddress, dual[2].SecondaryAddress = "fd00::11", "fd00::12", "fd00::13"
	for name, tc := range map[string]struct {
		o    InitOptions
		want func(*Cluster) bool
	}{
		"real hosts": {InitOptions{Hosts: hosts, VirtualIP: "10.0.0.100"}, func(c *Cluster) bool {
			return c.Spec.Hosts[0].Zone == "true" && c.Spec.Hosts[0].SSH == (SSH{User: "admin", Port: 2222, KeyFile: "~/k, {x}: #y", Jump: "a@b:22,c@d", JumpKeyFile: "~/j"}) && c.Spec.Hosts[2].Zone == "1e3"
		}},
		"dual stack": {InitOptions{Hosts: dual, VirtualIP: "10.0.0.100", PodCIDR: "10.244.0.0/16,fd00:10:244::/56"}, func(c *Cluster) bool {
			return c.Spec.Hosts[0].SecondaryAddress == "fd00::11" && c.Spec.Hosts[3].SecondaryAddress == "" && c.Spec.Network.ServiceCIDR == DefaultServiceCIDR+","+DefaultServiceCIDR6
		}},
		"external balancer": {InitOptions{Balancer: BalancerExternal, VirtualIP: "10.0.0.100"}, func(c *Cluster) bool {
			return len(c.HostsWith(RoleLoadBalancer)) == 0
		}},
		"external balancer by DNS": {InitOptions{Balancer: BalancerExternal}, func(c *Cluster) bool { return len(c.BalancerHosts()) == 0 && c.Spec.LoadBalancer.Address == "" }},
		"balancers beside the control planes": {InitOptions{LoadBalancers: -1}, func(c *Cluster) bool {
			return len(c.HostsWith(RoleLoadBalancer)) == 0 && len(c.BalancerHosts()) == 3
		}},
		"five control planes": {InitOptions{ControlPlanes: 5}, func(c *Cluster) bool {
			return c.Spec.Hosts[3].Name == "cp-a-2" && len(c.HostsWith(RoleControlPlane)) == 5
		}},
		"no workers": {InitOptions{Workers: -1}, func(c *Cluster) bool { return len(c.HostsWith(RoleWorker)) == 3 }},
		"one zone": {InitOptions{Zones: []string{"Rack_1"}}, func(c *Cluster) bool {
			return c.Spec.ControlPlane.Placement == PlacementZonal && c.Spec.Hosts[0].Name == "cp-rack-1" && c.Spec.Hosts[0].Zone == "Rack_1"
		}},
		"etcd hosts": {InitOptions{Topology: TopologyExternal, ControlPlanes: 2}, func(c *Cluster) bool {
			return len(c.HostsWith(RoleEtcd)) == 3 && c.Spec.Hosts[2].Zone == "c" && len(c.HostsWith(RoleControlPlane)) == 2
		}},
		"existing etcd": {InitOptions{Topology: TopologyExternal, Etcd: Etcd{Endpoints: []string{"https://e1:2379", "https://e2:2379"}, CAFile: "a #b", CertFile: "c", KeyFile: "d"}}, func(c *Cluster) bool {
			return len(c.HostsWith(RoleEtcd)) == 0 && slices.Equal(c.Spec.Etcd.Endpoints, []string{"https://e1:2379", "https://e2:2379"}) && c.Spec.Etcd.CAFile == "a #b" && c.Spec.Etcd.KeyFile == "d"
		}},
		"another version": {InitOptions{Version: "v1.36.4", Versions: []string{"v1.37.2", "v1.36.4"}}, func(c *Cluster) bool {
			return c.Spec.Kubernetes.Version == "v1.36.4"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := Init(tc.o)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Check(data, "cluster.yaml", Options{Versions: tc.o.Versions, Lab: len(tc.o.Hosts) == 0})
			if err != nil {
				t.Fatal(err)
			}
			if !tc.want(c) {
				t.Errorf("not as asked for:\n%s", data)
			}
		})
	}
}

func TestInitRefusesWhatWouldNotValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		o    InitOptions
		want string
	}{
		"even":         {InitOptions{ControlPlanes: 4}, "4 control planes tolerate no more failures than 3"},
		"two zones":    {InitOptions{Zones: []string{"a", "b"}}, "at least three zones"},
		"two etcds":    {InitOptions{Topology: TopologyExternal, EtcdHosts: 2}, "2 etcd hosts are not highly available"},
		"stray etcd":   {InitOptions{Etcd: Etcd{Endpoints: []string{"https://10.0.0.41:2379"}}}, "runs on the control planes"},
		"no addresses": {InitOptions{Hosts: []Host{{Name: "a", Address: "10.0.0.1", Roles: []string{RoleWorker}, Zone: "a"}}}, "no virtual IP"},
		"injection":    {InitOptions{Name: "x\nkind: y"}, "not a DNS label"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Init(tc.o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "line ") {
				t.Errorf("names a line of a file that was never written: %v", err)
			}
		})
	}
}

func TestParseHostFlag(t *testing.T) {
	h, err := ParseHostFlag("name=cp-a,address=10.0.0.11,role=control-plane,role=worker,zone=a,user=admin,port=2222,key=~/.ssh/id,hostKey=ssh-ed25519 AAAA cp-a,jump=a@b,jump=c,jumpKey=~/.ssh/jump")
	want := Host{Name: "cp-a", Address: "10.0.0.11", Roles: []string{"control-plane", "worker"}, Zone: "a",
		SSH: SSH{User: "admin", Port: 2222, KeyFile: "~/.ssh/id", HostKey: "ssh-ed25519 AAAA cp-a", Jump: "a@b,c", JumpKeyFile: "~/.ssh/jump"}}
	if err != nil || h.Name != want.Name || !slices.Equal(h.Roles, want.Roles) || h.SSH != want.SSH || h.Address != want.Address || h.Zone != want.Zone {
		t.Errorf("got %+v, %v", h, err)
	}
	for in, want := range map[string]string{
		"name":              "not key=value",
		"":                  "not key=value",
		"name=a,name=b":     "given twice",
		"name=a,zome=b":     "did you mean `zone`?",
		"name=a,port=22abc": "not a number",
	} {
		if _, err := ParseHostFlag(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

func TestParseLogin(t *testing.T) {
	for in, want := range map[string]struct {
		address string
		ssh     SSH
	}{
		"root@10.0.0.11":            {"10.0.0.11", SSH{User: "root"}},
		"cp-a.example.com":          {"cp-a.example.com", SSH{}},
		"root@fd00::11":             {"fd00::11", SSH{User: "root"}},
		"FD00::11":                  {"fd00::11", SSH{}},
		"[fd00::11]":                {"fd00::11", SSH{}},
		"root@[fd00::11]:2222":      {"fd00::11", SSH{User: "root", Port: 2222}},
		`corp\admin@10.0.0.11:2222`: {"10.0.0.11", SSH{User: `corp\admin`, Port: 2222}},
	} {
		if address, ssh, err := ParseLogin(in); err != nil || address != want.address || ssh != want.ssh {
			t.Errorf("%q: %s, %+v, %v", in, address, ssh, err)
		}
	}
	for _, in := range []string{"", "@10.0.0.11", "root@", "a@b@c", "root@10.0.0.11:0", "root@10.0.0.11:70000", "root@-oProxyCommand=x", "root@a b", "@fd00::11", "root@[fd00::11", "root@[fd00::11]:0", "root@[10]", "root@" + strings.Repeat("a", 64)} {
		if address, _, err := ParseLogin(in); err == nil {
			t.Errorf("%q is read as %s", in, address)
		}
	}
}

// A draft is written although it is not valid, and names what is wrong with it.
func TestDraft(t *testing.T) {
	hosts := []Host{{Name: "cp-a", Address: "10.0.0.11", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "a"}}
	data, problems, err := Draft(InitOptions{Hosts: hosts, Balancer: BalancerExternal, Endpoint: "10.0.0.9:6443", CNI: CNINone, PodCIDR: "10.1.0.0/16", Notes: []string{"first\nspec: x"}}, "c.yaml")
	if err != nil || len(problems) != 1 || problems[0].File != "c.yaml" || problems[0].Line == 0 {
		t.Fatalf("%v, %v", problems, err)
	}
	for _, want := range []string{"\n# - first spec: x\n", "\n# - Not valid yet: spec.controlPlane.endpoint: ", "cni: none\n", "podCIDR: 10.1.0.0/16\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is not in\n%s", want, data)
		}
	}
	c, err := Parse(data, "c.yaml")
	if err != nil || c.Spec.ControlPlane.Endpoint != "10.0.0.9:6443" {
		t.Errorf("%v\n%s", err, data)
	}
	data, problems, err = Draft(InitOptions{Hosts: hosts, Balancer: BalancerExternal}, "c.yaml")
	if err != nil || len(problems) > 0 || strings.Contains(string(data), "Look at these") {
		t.Errorf("%v, %v\n%s", problems, err, data)
	}
}

// The comments of the file that Init writes say which fields are fixed, and are right about it.
// TestInitCommentsFitTheFamilies: what a node gets of a range depends on its family.
func TestInitCommentsFitTheFamilies(t *testing.T) {
	for pods, want := range map[string][]string{
		"":                               {"# Each node gets a /24 of this range, so a /16 is enough for 256 nodes. It must not overlap any network\n", "of Services, at most a /12. It must not overlap such a network, either. Fixed.\n", "# address: 10.0.0.100\n", "{name: cp-a, address: 10.0.0.11, roles"},
		"fd00:10:244::/56":               {"# Each node gets a /64 of this range, so a /56 is enough for 256 nodes. It", "of Services, at most a /108. It", "# address: 2001:db8:1::100\n", "{name: cp-a, address: 2001:db8:1::11, roles"},
		"fd00:10:244::/56,10.244.0.0/16": {"# Each node gets a /64 and a /24 of these ranges, so a /56 and a /16 are enough for 256 nodes. They", "of Services, at most a /108 and a /12. They"},
	} {
		data := string(mustInit(t, InitOptions{PodCIDR: pods}))
		for _, w := range want {
			if !strings.Contains(data, w) {
				t.Errorf("%q: no %q in\n%s", pods, w, data)
			}
		}
	}
}

func TestInitCommentsSayWhatIsFixed(t *testing.T) {
	fixed := map[string]bool{}
	visit(reflect.TypeFor[Cluster](), "", func(path, _ string, f reflect.StructField) { fixed[path] = declared(f).meaning == Fixed })
	host := Host{Name: "cp-a", Address: "10.0.0.1", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "a"}
	hosts := []Host{host, host, host}
	for i := range hosts {
		hosts[i].Name, hosts[i].Address, hosts[i].Zone = "cp-"+string(rune('a'+i)), "10.0.0."+string(rune('1'+i)), string(rune('a'+i))
	}
	for name, o := range map[string]InitOptions{
		"lab":      {},
		"external": {Topology: TopologyExternal, Etcd: Etcd{Endpoints: []string{"https://e:2379"}, CAFile: "a", CertFile: "b", KeyFile: "c"}, Balancer: BalancerExternal, VirtualIP: "10.0.0.9", Region: "eu", Hosts: hosts},
		"managed":  {VirtualIP: "10.0.0.9", Hosts: hosts},
	} {
		var root yaml.Node
		if err := yaml.Load(mustInit(t, o), &root); err != nil {
			t.Fatal(err)
		}
		n := 0
		var walk func(node *yaml.Node, path string)
		walk = func(node *yaml.Node, path string) {
			for i := 0; i+1 < len(node.Content); i += 2 {
				key, value := node.Content[i], node.Content[i+1]
				at := join(path, key.Value)
				if value.Kind == yaml.MappingNode {
					walk(value, at)
					continue
				}
				if at == "spec.hosts" {
					continue // its comment is about the fields of a host
				}
				n++
				if says := strings.Contains(key.HeadComment, "Fixed"); says != fixed[at] {
					t.Errorf("%s: %s is fixed: %t, and its comment says so: %t\n%s", name, at, fixed[at], says, key.HeadComment)
				}
			}
		}
		walk(root.Content[0], "")
		if n < 12 {
			t.Errorf("%s: only %d fields were found", name, n)
		}
	}
}
