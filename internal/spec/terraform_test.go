package spec

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

func terraform(t *testing.T, name string, zones ...string) *Terraform {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadTerraform(data, name+".json", zones)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// written is the cluster that Init writes and Check reads again.
func written(t *testing.T, o InitOptions) *Cluster {
	t.Helper()
	data, err := Init(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Check(data, "cluster.yaml", Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if !strings.Contains(string(data), "# The name and port that every client uses") {
		t.Error("the comments are missing")
	}
	return c
}

func TestTerraformBecomesASpec(t *testing.T) {
	got := terraform(t, "terraform")
	c := written(t, got.Options)
	s := c.Spec
	if c.Metadata.Name != "prod" || s.Region != "eu-central-1" || s.ControlPlane.Endpoint != "api.prod.example.com:6443" ||
		s.LoadBalancer.Type != BalancerExternal || s.ControlPlane.Topology != TopologyStacked || s.ControlPlane.Placement != PlacementRegional {
		t.Errorf("got %+v", s)
	}
	const jump = "admin@bastion.example.com:2222"
	for i, want := range []Host{
		{Name: "cp-a", Address: "10.0.0.11", Roles: []string{RoleControlPlane}, Zone: "eu-central-1a", SSH: SSH{User: "admin", KeyFile: "~/.ssh/prod", Jump: jump}},
		{Name: "cp-b", Address: "10.0.0.12", Roles: []string{RoleControlPlane}, Zone: "eu-central-1b", SSH: SSH{User: "admin", Port: 2200, KeyFile: "~/.ssh/prod", HostKey: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Jump: jump}},
		{Name: "cp-c", Address: "10.0.0.13", Roles: []string{RoleControlPlane}, Zone: "eu-central-1c", SSH: SSH{User: "root", Port: 22, KeyFile: "~/.ssh/prod", Jump: jump}},
	} {
		h := s.Hosts[i]
		if want.SSH.Port == 0 {
			want.SSH.Port = h.SSH.Port // a default
		}
		if h.Name != want.Name || h.Address != want.Address || h.Zone != want.Zone || h.SSH != want.SSH || !slices.Equal(h.Roles, want.Roles) {
			t.Errorf("host %d is %+v, want %+v", i, h, want)
		}
	}
	if len(s.Hosts) != 5 || len(s.NodePools) != 1 {
		t.Fatalf("%d hosts, %d pools", len(s.Hosts), len(s.NodePools))
	}
	p := s.NodePools[0]
	if p.Name != "web" || !slices.Equal(p.Hosts, []string{"worker-a", "worker-b"}) || len(p.Zones) != 2 || p.Labels["example.com/tier"] != "web" ||
		!slices.Equal(p.Taints, []Taint{{"example.com/dedicated", "web", "NoSchedule"}, {"x", "", "NoExecute"}}) {
		t.Errorf("pool %+v", p)
	}
	if len(got.Notes) > 0 || got.Sensitive {
		t.Errorf("notes %q", got.Notes)
	}
}

func TestTerraformExternalTopology(t *testing.T) {
	c := written(t, terraform(t, "terraform-external").Options)
	if !c.ManagedEtcd() || len(c.EtcdHosts()) != 3 || c.Spec.LoadBalancer.Address != "10.0.0.100" || len(c.HostsWith(RoleWorker)) != 2 {
		t.Errorf("got %+v", c.Spec)
	}
}

func TestTerraformOfKubeOne(t *testing.T) {
	got := terraform(t, "terraform-kubeone", "a", "b", "c")
	c := written(t, got.Options)
	s := c.Spec
	if c.Metadata.Name != "prod" || s.ControlPlane.Endpoint != "prod-api.elb.example.com:6443" || s.LoadBalancer.Type != BalancerExternal {
		t.Errorf("got %+v", s)
	}
	var hosts []string
	for _, h := range s.Hosts {
		hosts = append(hosts, strings.Join([]string{h.Name, h.Address, strings.Join(h.Roles, "+"), h.Zone, h.SSH.User, h.SSH.Jump}, " "))
	}
	want := []string{
		"ip-172-31-1-11 172.31.1.11 control-plane a ubuntu ubuntu@203.0.113.5:2222",
		"ip-172-31-2-12 172.31.2.12 control-plane b ubuntu ubuntu@203.0.113.5:2222",
		"ip-172-31-3-13 172.31.3.13 control-plane c ubuntu ubuntu@203.0.113.5:2222",
		"workers1-1 172.31.1.21 worker a ubuntu root@203.0.113.5",
		"workers1-2 172.31.2.22 worker b ubuntu root@203.0.113.5",
	}
	if !slices.Equal(hosts, want) {
		t.Errorf("hosts\n%s\nwant\n%s", strings.Join(hosts, "\n"), strings.Join(want, "\n"))
	}
	if len(s.NodePools) != 1 || s.NodePools[0].Name != "workers1" || len(s.NodePools[0].Hosts) != 2 {
		t.Errorf("pools %+v", s.NodePools)
	}
	if len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "kubeone_workers was left out") {
		t.Errorf("notes %q", got.Notes)
	}
}

// TestTerraformOfKubeOneNamesWhatIsLeftOut: nothing is dropped without a word.
func TestTerraformOfKubeOneNamesWhatIsLeftOut(t *testing.T) {
	const group = `"cluster_name": "prod", "private_address": ["10.0.0.1", "", "10.0.0.3"], "public_address": ["192.0.2.1", "192.0.2.2", "192.0.2.3"], "bastion": "b"`
	got, err := ReadTerraform([]byte(`{"proxy": {"value": {"https": "http://p:3128"}},
		"kubeone_api": {"value": {"endpoint": "api.example.com", "apiserver_alternative_names": ["api2.example.com"]}},
		"kubeone_hosts": {"value": {"control_plane": {`+group+`, "labels": {"a": "b"}, "ssh_cert_file": "~/c", "ipv6_addresses": [["fd00::1"]], "bastion_host_key": "", "kubelet": {"max_pods": 200}, "ssh_agent_socket": "env:SSH_AUTH_SOCK"}}},
		"kubeone_static_workers": {"value": {"w": {"private_address": ["10.0.0.9"], "labels": {"a": "b"}, "taints": [{"key": "x"}]}}}}`), "", []string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Of kubeone_hosts.value.control_plane, the spec has no counterpart for ipv6_addresses, kubelet, labels, ssh_cert_file: left out.",
		"The output proxy was left out: packages are installed with the proxy settings of each host, and everything else comes from this machine.",
		"Of kubeone_api.value, the spec has no counterpart for apiserver_alternative_names: left out.",
		"Of kubeone_static_workers.value.w, the spec has no counterpart for taints: left out.",
	}
	if !slices.Equal(got.Notes, want) {
		t.Errorf("notes\n%s", strings.Join(got.Notes, "\n"))
	}
	var addresses []string
	for _, h := range got.Options.Hosts {
		addresses = append(addresses, h.Address)
	}
	if !slices.Equal(addresses, []string{"10.0.0.1", "192.0.2.2", "10.0.0.3", "10.0.0.9"}) {
		t.Errorf("addresses %v", addresses)
	}
}

// TestTerraformOfPowerShell: a redirect writes UTF-16, or UTF-8 with a byte order mark.
func TestTerraformOfPowerShell(t *testing.T) {
	const text = `{"hosts": [{"name": "cp-a", "address": "10.0.0.1", "roles": ["control-plane"], "zone": "zürich"}]}`
	little, big := []byte{0xff, 0xfe}, []byte{0xfe, 0xff}
	for _, unit := range utf16.Encode([]rune(text)) {
		little, big = binary.LittleEndian.AppendUint16(little, unit), binary.BigEndian.AppendUint16(big, unit)
	}
	for name, data := range map[string][]byte{"UTF-8": []byte("\ufeff" + text), "UTF-16 LE": little, "UTF-16 BE": big} {
		got, err := ReadTerraform(data, "", nil)
		if err != nil || len(got.Options.Hosts) != 1 || got.Options.Hosts[0].Zone != "zürich" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestTerraformFlagsWin(t *testing.T) {
	o := terraform(t, "terraform").Options.Over(InitOptions{Name: "other", Endpoint: "api.other.example.com:6443"})
	if o.Name != "other" || o.Endpoint != "api.other.example.com:6443" || o.Balancer != BalancerExternal || len(o.Hosts) != 5 {
		t.Errorf("got %+v", o)
	}
}

func TestTerraformSensitive(t *testing.T) {
	data, err := os.ReadFile("testdata/terraform.json")
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Replace(string(data), `"sensitive": false`, `"sensitive": true`, 1)
	got, err := ReadTerraform([]byte(secret), "", nil)
	if err != nil || !got.Sensitive || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "marked as sensitive") {
		t.Errorf("got %+v, %v", got, err)
	}
	// What is sensitive is not repeated on a screen.
	_, err = ReadTerraform([]byte(strings.Replace(secret, `["control-plane"]`, `"hunter2"`, 1)), "", nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "quorate.value.hosts[0].roles: it must be a list, but it is a string") {
		t.Errorf("got %v", err)
	}
	// Nor where it only turns out to be wrong when the spec is checked.
	got, err = ReadTerraform([]byte(strings.Replace(secret, `["control-plane"]`, `["hunter2"]`, 1)), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Init(got.Options.Over(InitOptions{}))
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "quorate.value.hosts[0].roles[0]: the value is not valid") {
		t.Errorf("got %v", err)
	}
}

func TestTerraformRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ data, want string }{
		"nothing":         {" \n", "it is empty"},
		"no JSON":         {"{\n  \"quorate\": }", "tf.json:2:14: it is not JSON"},
		"half":            {`{"quorate": {"value": {`, "it is truncated"},
		"two documents":   {`{} {}`, "trailing data"},
		"a list":          {`[]`, "it is a list, not an object of outputs"},
		"no outputs":      {`{}`, "there are no outputs; add an output `quorate`"},
		"other outputs":   {`{"vpc": {"value": 1}, "quorum": {"value": {}}}`, "the outputs are quorum, vpc"},
		"a state":         {`{"format_version": "1.0", "values": {}}`, "a Terraform plan or state"},
		"no value":        {`{"quorate": {"sensitive": true}}`, "quorate: it is not an output"},
		"null":            {`{"quorate": {"value": null}}`, "quorate.value: it is null; apply the configuration"},
		"withheld":        {`{"quorate": {"sensitive": true, "value": null}}`, "remove `sensitive` from it"},
		"not an object":   {`{"quorate": {"value": "x"}}`, "quorate.value: it must be an object, but it is a string, `x`"},
		"no hosts":        {`{"quorate": {"value": {"name": "x"}}}`, "quorate.value.hosts: there are no hosts"},
		"unknown field":   {`{"quorate": {"value": {"host": []}}}`, "quorate.value.host: unknown field; did you mean `hosts`?"},
		"bad host":        {`{"quorate": {"value": {"hosts": [{"name": "a", "address": "10.0.0.1"}, 7]}}}`, "quorate.value.hosts[1]: it must be an object, but it is a number"},
		"a null host":     {`{"quorate": {"value": {"hosts": [null]}}}`, "quorate.value.hosts[0]: it is null"},
		"bad role":        {`{"quorate": {"value": {"hosts": [{"roles": ["worker", null]}]}}}`, "quorate.value.hosts[0].roles[1]: it is null"},
		"bad port":        {`{"quorate": {"value": {"ssh": {"port": "ssh"}, "hosts": []}}}`, "quorate.value.ssh.port: it must be a whole number, but it is a string, `ssh`"},
		"no address":      {`{"quorate": {"value": {"hosts": [{"name": "a", "address": null}]}}}`, "quorate.value.hosts[0].address: the host has no address"},
		"a key":           {`{"quorate": {"value": {"ssh": {"key_file": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc"}, "hosts": []}}}`, "quorate.value.ssh.key_file: this is a private key, not the path of one"},
		"bare, a typo":    {`{"hosts": [{"adress": "10.0.0.1"}]}`, "hosts[0].adress: unknown field; did you mean `address`?"},
		"KubeOne's zones": {`{"kubeone_hosts": {"value": {"control_plane": {"private_address": ["10.0.0.1"]}}}}`, "set them with --zones"},
		"KubeOne's hosts": {`{"kubeone_hosts": {"value": {"control_plane": {"private_address": []}}}}`, "kubeone_hosts.value.control_plane.private_address: the group has no addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadTerraform([]byte(tc.data), "tf.json", nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "abc") {
				t.Error("repeats the key")
			}
		})
	}
}

// TestTerraformHostKeys: KubeOne lists them by host.
func TestTerraformHostKeys(t *testing.T) {
	data, err := os.ReadFile("testdata/terraform-kubeone.json")
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := func(c string) string { return "SHA256:" + strings.Repeat(c, 43) }
	read := func(keys string) (*Terraform, error) {
		return ReadTerraform([]byte(strings.Replace(string(data), `"ssh_hosts_keys": null`, `"ssh_hosts_keys": `+keys, 1)), "", []string{"a", "b", "c"})
	}
	got, err := read(`["` + fingerprint("A") + `", "` + fingerprint("E") + `", "` + fingerprint("I") + `"]`)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"A", "E", "I"} {
		if key := got.Options.Hosts[i].SSH.HostKey; key != fingerprint(want) {
			t.Errorf("host %d has the key %q", i, key)
		}
	}
	if _, err := read(`["x"]`); err == nil || !strings.Contains(err.Error(), "1 host keys for 3 hosts") {
		t.Errorf("got %v", err)
	}
	data, err = os.ReadFile("testdata/terraform.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTerraform([]byte(strings.Replace(string(data), `"user": "admin", "port": null`, `"user": "admin", "host_key": "x"`, 1)), "", nil); err == nil || !strings.Contains(err.Error(), "every host has a key of its own") {
		t.Errorf("got %v", err)
	}
}

// TestTerraformHostsWithASSHAddress: one host's address does not become that of all. A host with two addresses is reached at the public one, unless it says another.
func TestTerraformHostsWithASSHAddress(t *testing.T) {
	data, err := os.ReadFile("testdata/terraform.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTerraform([]byte(strings.Replace(string(data), `"user": "admin", "port": null`, `"user": "admin", "address": "203.0.113.1"`, 1)), "", nil); err == nil || !strings.Contains(err.Error(), "quorate.value.ssh.address") {
		t.Errorf("got %v", err)
	}
	const at = `"zone": "eu-central-1a"}` // of cp-a, which has two addresses
	for ssh, want := range map[string]string{at: "203.0.113.11", `"zone": "eu-central-1a", "ssh": {"address": "203.0.113.99"}}`: "203.0.113.99"} {
		text := strings.Replace(strings.Replace(string(data), `"jump": "`, `"known_hosts_file": "`, 1), at, ssh, 1)
		out, err := ReadTerraform([]byte(text), "", nil)
		if err != nil || out.Options.Hosts[0].Address != "10.0.0.11" || out.Options.Hosts[0].SSH.Address != want {
			t.Errorf("%s: %+v, %v", ssh, out, err)
		}
	}
	out, err := ReadTerraform(data, "", nil)
	if err != nil || out.Options.Hosts[0].SSH.Address != "" {
		t.Errorf("a jump host reaches the private address: %+v, %v", out, err)
	}
}

// What only the whole spec shows to be wrong is found by validation, and named where Terraform has it.
func TestTerraformNamesPlacesInTheDocument(t *testing.T) {
	data, err := os.ReadFile("testdata/terraform.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ old, new, want string }{
		"a role":     {`"roles": ["worker"]`, `"roles": ["wroker"]`, "quorate.value.hosts[3].roles[0]: `wroker` is not known; did you mean `worker`?"},
		"an address": {`"10.0.0.13"`, `"10.0.0.11"`, "quorate.value.hosts[2].address: 10.0.0.11 is already used"},
		"a pool":     {`"hosts": ["worker-a", "worker-b"]`, `"hosts": ["worker-a", "worker-x"]`, "quorate.value.node_pools[0].hosts[1]: there is no host `worker-x`"},
		"a key":      {`"port": 22}`, `"port": 22, "host_key": "ssh-rsa x"}`, "quorate.value.hosts[2].ssh.host_key: `ssh-rsa x` is not a host key"},
		"the jump":   {`"jump": "admin@bastion.example.com:2222"`, `"jump": "a b"`, "quorate.value.hosts[0].ssh.jump: "},
		"the count":  {`"name": "cp-c", "address": "10.0.0.13", "roles": ["control-plane"]`, `"name": "cp-c", "address": "10.0.0.13", "roles": ["worker"]`, "quorate.value.hosts: 2 control planes are not highly available"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(data), tc.old, tc.new, 1)
			if text == string(data) {
				t.Fatal("nothing was changed")
			}
			got, err := ReadTerraform([]byte(text), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Init(got.Options); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// Whatever is read either becomes a spec that is valid, or is refused with words.
func FuzzTerraform(f *testing.F) {
	for _, name := range []string{"terraform", "terraform-external", "terraform-kubeone"} {
		data, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"quorate":{"value":{"hosts":[{"name":"a: #","zone":"{x}","roles":["- y"],"ssh":{"user":"\u0000"}}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ReadTerraform(data, "f", []string{"a", "b", "c"})
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		text, err := Init(got.Options)
		if err != nil {
			return
		}
		c, err := Check(text, "", Options{Lab: true})
		if err != nil {
			t.Fatalf("Init wrote what does not validate: %v\n%s", err, text)
		}
		for i, h := range got.Options.Hosts {
			if c.Spec.Hosts[i].Name != h.Name || c.Spec.Hosts[i].Address != h.Address || c.Spec.Hosts[i].Zone != h.Zone || !slices.Equal(c.Spec.Hosts[i].Roles, h.Roles) {
				t.Fatalf("%+v was written as %+v", h, c.Spec.Hosts[i])
			}
		}
	})
}
