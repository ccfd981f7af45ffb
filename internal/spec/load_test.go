package spec

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseRefusesWhatIsNoSpec(t *testing.T) {
	for name, tc := range map[string]struct {
		data string
		line int
		want string
	}{
		"empty":          {"", 0, "the file is empty"},
		"only comments":  {"# nothing\n", 0, "the file is empty"},
		"only markers":   {"---\n---\n", 0, "the file is empty"},
		"two documents":  {real + "---\n" + real, strings.Count(real, "\n") + 1, "a second YAML document starts here"},
		"broken later":   {real + "---\na: [\n", strings.Count(real, "\n") + 3, "this is not YAML"},
		"open bracket":   {"kind: Cluster\nspec: [1\nx: 2\n", 3, "while parsing a flow sequence that starts in line 2"},
		"tab":            {"spec:\n\thosts: []\n", 2, "this is not YAML"},
		"unknown anchor": {"spec: *x\n", 1, "unknown anchor 'x'"},
		"binary":         {"\x7fELF\xff\x00", 1, "not text in UTF-8: it has the byte 0xff"},
		"a list":         {"- a\n", 1, "expected a mapping, got a list"},
		"a word":         {"hello\n", 1, "expected a mapping, got the string `hello`"},
		"list as a key":  {"? [a]\n: b\n", 1, "a field's name must be plain text"},
		"too large":      {strings.Repeat("#", maxSize+1), 0, "larger than 4 MiB"},
		"cyclic alias":   {"spec: &s {hosts: [*s], network: *s}\n", 1, "unknown field `hosts`"},
		"control codes":  {"\"a\\e[2J\\nb\": 1\n", 1, "unknown field `a\uFFFD[2J\uFFFDb`"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(tc.data), "cluster.yaml")
			errs, ok := errors.AsType[Errors](err)
			if !ok || c != nil {
				t.Fatalf("got %v, %v", c, err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want %q", err, tc.want)
			}
			if errs[0].Line != tc.line {
				t.Errorf("got line %d, want %d: %v", errs[0].Line, tc.line, err)
			}
		})
	}
}

// A few kilobytes of aliases must not become millions of values.
func TestAliasesCannotBlowUp(t *testing.T) {
	host := "{roles: [" + strings.Repeat("worker, ", 5000) + "worker]}"
	data := "spec: {hosts: [&h " + host + strings.Repeat(", *h", 5000) + "]}\n"
	if _, err := Parse([]byte(data), ""); err == nil || !strings.Contains(err.Error(), "expand to too many values") {
		t.Errorf("got %.200v", err)
	}
	merges := "spec:\n  network: &a0 {}\n"
	for i := range 30 {
		merges += fmt.Sprintf("  failover: &a%d {<<: [*a%d, *a%d]}\n", i+1, i, i)
	}
	if _, err := Parse([]byte(merges), ""); err == nil {
		t.Error("accepted a field that is set thirty times")
	}
}

func TestParseKeepsWhatIsWritten(t *testing.T) {
	c, err := Parse([]byte("---\n# a comment\nkind: Cluster\nmetadata:\nspec: {hosts: [{name: no, roles: []}]}\n...\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Spec.Kubernetes.Version != "" || c.APIVersion != "" {
		t.Error("Parse filled in a default")
	}
	if c.Spec.Hosts[0].Name != "no" { // a boolean in YAML 1.1
		t.Errorf("name %q", c.Spec.Hosts[0].Name)
	}
}

func TestMergedFieldsNeverReplaceWrittenOnes(t *testing.T) {
	data := edit(t, real, "zone: a}", "zone: a, ssh: &a {user: admin, port: 1000}}",
		"zone: b}", "zone: b, ssh: &b {<<: *a, port: 2000, jump: x}}", "zone: c}", "zone: c, ssh: {<<: [*b, *a], keyFile: k}}")
	c := mustParse(t, data)
	if got, want := c.Spec.Hosts[2].SSH, (SSH{User: "admin", Port: 2000, Jump: "x", KeyFile: "k"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cluster.yaml")
	if err := os.WriteFile(path, []byte(real), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || c.Metadata.Name != "prod" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := Load(path + "x"); err == nil || !strings.Contains(err.Error(), "`quorate init` writes one") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a folder was read as a spec")
	}
}

func TestDefault(t *testing.T) {
	c := &Cluster{Spec: Spec{ControlPlane: ControlPlane{Endpoint: "api.example.com"}, Hosts: []Host{{}, {SSH: SSH{User: "admin", Port: 2222}}}}}
	c.Default()
	want := &Cluster{Spec: Spec{
		Kubernetes:   Kubernetes{Version: "v1.37.2"},
		ControlPlane: ControlPlane{Endpoint: "api.example.com:6443", Topology: "stacked", Placement: "regional"},
		LoadBalancer: LoadBalancer{Type: "managed", MaxConnections: 8000},
		Network:      Network{CNI: "flannel", Policies: "enforced", PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/12"},
		Components:   Components{Source: "modules"},
		Failover:     Failover{Profile: "fast"},
		Hosts:        []Host{{SSH: SSH{User: "root", Port: 22}}, {SSH: SSH{User: "admin", Port: 2222}}},
	}}
	if !c.Equal(want) {
		t.Errorf("got %+v", c)
	}
	again := *c
	again.Default()
	if !again.Equal(c) {
		t.Error("a second Default changed something")
	}
	newest, err := Check([]byte(edit(t, real, "{version: v1.37.2}", "{}")), "", Options{Versions: []string{"v1.9.1", "v1.40.0", "v1.38.7"}})
	if err != nil || newest.Spec.Kubernetes.Version != "v1.40.0" {
		t.Errorf("got %v, %v; want the newest version that a bundle can be made of", newest, err)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"control-plane", "worker", "load-balancer", "podCIDR", "hosts"}
	for word, want := range map[string]string{
		"worker": "worker", "wroker": "worker", "Worker": "worker", "controlplane": "control-plane", "control_plane": "control-plane",
		"loadbalancer": "load-balancer", "pod-cidr": "podCIDR", "hsots": "hosts", "host": "hosts", "": "", "x": "", "banana": "", "häst": "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
	if Nearest("x", nil) != "" {
		t.Error("found something among nothing")
	}
}

// Whatever strings a spec holds, what Marshal writes is read back the same.
func TestMarshalRoundTrips(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		c := randomCluster(r)
		data, err := Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(data, "cluster.yaml")
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if !back.Equal(c) {
			t.Fatalf("wrote %+v\nread %+v\nas\n%s", c, back, data)
		}
	}
}

// Every shape that Init accepts validates, marshals, and comes back equal.
func TestGeneratedShapesRoundTrip(t *testing.T) {
	for cps := 3; cps <= 7; cps += 2 {
		for zones := 3; zones <= 7; zones++ {
			for _, workers := range []int{-1, 1, 5} {
				o := InitOptions{ControlPlanes: cps, Workers: workers, LoadBalancers: 2 + zones%2, Zones: strings.Split("abcdefg", "")[:zones]}
				c, err := Check(mustInit(t, o), "", Options{Lab: true})
				if err != nil {
					t.Fatalf("%+v: %v", o, err)
				}
				data, err := Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				back, err := Check(data, "", Options{Lab: true})
				if err != nil || !back.Equal(c) {
					t.Fatalf("%+v: %v", o, err)
				}
			}
		}
	}
}

func randomCluster(r *rand.Rand) *Cluster {
	text := func() string {
		alphabet := []rune("ab01.:/-_#{}[]&*!|>'\"%@`, \t\n~=?yesnotrueNULL\\é\u2028😀")
		word := make([]rune, r.IntN(8))
		for i := range word {
			word[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(word)
	}
	list := func() []string {
		var l []string
		for range r.IntN(3) {
			l = append(l, text())
		}
		return l
	}
	c := &Cluster{APIVersion: text(), Kind: text(), Metadata: Metadata{Name: text()}}
	s := &c.Spec
	s.Kubernetes.Version, s.ControlPlane.Endpoint, s.ControlPlane.Placement = text(), text(), text()
	s.LoadBalancer.Address, s.Network.CNI, s.Components.File = text(), text(), text()
	for range r.IntN(3) {
		s.Hosts = append(s.Hosts, Host{Name: text(), Address: text(), Roles: list(), Zone: text(), SSH: SSH{User: text(), Port: r.IntN(3), Jump: text()}})
	}
	for range r.IntN(3) {
		p := NodePool{Name: text(), Zones: list(), Hosts: list()}
		for range r.IntN(3) {
			p.Taints = append(p.Taints, Taint{Key: text(), Effect: text()})
		}
		if r.IntN(2) == 0 {
			p.Labels = map[string]string{text(): text(), "a.b/c": "1"}
		}
		s.NodePools = append(s.NodePools, p)
	}
	return c
}

// Parse and Check never panic; whatever they accept comes back equal from Marshal.
func FuzzParse(f *testing.F) {
	f.Add([]byte(real), true)
	f.Add([]byte("a: &a [*a]\n<<: *a\n? {x: y}\n: z\n"), false)
	f.Add([]byte("spec: &s {hosts: [*s], <<: [*s, {a: b}]}\n---\n"), true)
	if data, err := Init(InitOptions{}); err == nil {
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, lab bool) {
		opts := Options{Lab: lab}
		c, err := Check(data, "cluster.yaml", opts)
		if err != nil {
			errs, ok := errors.AsType[Errors](err)
			if !ok || len(errs) == 0 {
				t.Fatalf("refused without saying why: %v", err)
			}
			if n := strings.Count(err.Error(), "\n") + 1; n != len(errs) {
				t.Fatalf("%d problems on %d lines", len(errs), n)
			}
			return
		}
		out, err := Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Check(out, "cluster.yaml", opts)
		if err != nil || !back.Equal(c) {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}
