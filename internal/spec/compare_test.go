package spec

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// filler sets every field below a value to something that occurs nowhere else.
type filler struct{ n int }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("v%03d", f.n))
	case reflect.Int:
		v.SetInt(int64(f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if yamlName(v.Type().Field(i)) != "" {
				f.fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			f.n++
			value := reflect.ValueOf(fmt.Sprintf("v%03d", f.n))
			if v.Type().Elem().Kind() == reflect.Bool {
				value = reflect.ValueOf(true)
			}
			v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("k%03d", f.n)), value)
		}
	default:
		panic("the spec has a kind of field that this test does not know: " + v.Type().String())
	}
}

// full is a spec in which every field is set. It is no cluster that could be built.
func full() *Cluster {
	c := &Cluster{}
	(&filler{}).fill(reflect.ValueOf(c).Elem())
	c.APIVersion, c.Kind = APIVersion, Kind
	c.Spec.LoadBalancer.Type = BalancerManaged // otherwise, no host needs a frontAddress
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Roles = []string{RoleControlPlane, RoleWorker} // nodes: for them a zone is not free
	}
	return c
}

// place is one value of a spec: where it is, and how to get at it in a copy.
type place struct {
	path    string // as an edit names it
	element string // the list's element that a change of this value replaces by another one; empty for most
	meaning Meaning
	at      func(*Cluster) reflect.Value
	change  func(reflect.Value)
}

// places lists everything in the spec that can be edited. It walks the types by itself, so that a field that Compare
// overlooks is missed here.
func places(c *Cluster) (out []place) {
	var walk func(v reflect.Value, path, element string, at func(*Cluster) reflect.Value)
	walk = func(v reflect.Value, path, element string, at func(*Cluster) reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" {
				continue
			}
			meaning, options, _ := strings.Cut(f.Tag.Get("edit"), ",")
			p := place{path: strings.TrimPrefix(path+"."+name, "."), meaning: Meaning(meaning),
				at: func(c *Cluster) reflect.Value { return at(c).Field(i) }}
			if slices.Contains(strings.Split(options, ","), "key") {
				p.element = element
			}
			switch v := v.Field(i); {
			case v.Kind() == reflect.Struct:
				walk(v, p.path, "", p.at)
			case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
				for j := range v.Len() {
					var key string
					switch e := v.Index(j).Interface().(type) {
					case Host:
						key = e.Name
					case NodePool:
						key = e.Name
					case Taint:
						key = e.Key + ":" + e.Effect
					case Registry:
						key = e.Name
					case Objective:
						key = e.Faults + ":" + e.Clients
					default:
						panic("how are elements of " + p.path + " named?")
					}
					at := fmt.Sprintf("%s[%s]", p.path, key)
					walk(v.Index(j), at, at, func(c *Cluster) reflect.Value { return p.at(c).Index(j) })
				}
			case v.Kind() == reflect.Map:
				other, added := reflect.ValueOf("other"), reflect.ValueOf("x")
				if v.Type().Elem().Kind() == reflect.Bool {
					other, added = reflect.ValueOf(false), reflect.ValueOf(true)
				}
				for _, k := range v.MapKeys() {
					q := p
					q.path += "[" + k.String() + "]"
					q.change = func(m reflect.Value) { m.SetMapIndex(k, other) }
					out = append(out, q)
					q.change = func(m reflect.Value) { m.SetMapIndex(k, reflect.Value{}) }
					out = append(out, q)
				}
				q := p
				q.path += "[another]"
				q.change = func(m reflect.Value) { m.SetMapIndex(reflect.ValueOf("another"), added) }
				out = append(out, q)
			case v.Kind() == reflect.Slice:
				for j := range v.Len() {
					q := p
					q.change = func(l reflect.Value) { l.Index(j).SetString("other") }
					out = append(out, q)
				}
				q := p
				q.change = func(l reflect.Value) { l.Set(reflect.Append(l, reflect.ValueOf("another"))) }
				out = append(out, q)
				q.change = func(l reflect.Value) { l.SetZero() }
				out = append(out, q)
			case v.Kind() == reflect.Int:
				p.change = func(n reflect.Value) { n.SetInt(n.Int() + 1000) }
				out = append(out, p)
			case v.Kind() == reflect.Bool:
				p.change = func(b reflect.Value) { b.SetBool(!b.Bool()) }
				out = append(out, p)
			case v.Kind() == reflect.Pointer:
				for _, value := range []any{new(0), new(1000), (*int)(nil)} {
					q := p
					q.change = func(n reflect.Value) { n.Set(reflect.ValueOf(value)) }
					out = append(out, q)
				}
			default:
				p.change = func(s reflect.Value) { s.SetString("other") }
				out = append(out, p)
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "", "", func(c *Cluster) reflect.Value { return reflect.ValueOf(c).Elem() })
	return out
}

// No field can be edited without Compare naming it, and nothing else.
func TestEveryEditIsNamed(t *testing.T) {
	all := places(full())
	if len(all) < 100 {
		t.Fatalf("only %d places were found", len(all))
	}
	fields := 0
	visit(reflect.TypeFor[Cluster](), "", func(path, _ string, f reflect.StructField) {
		if k := f.Type; k.Kind() == reflect.Struct || k.Kind() == reflect.Slice && k.Elem().Kind() == reflect.Struct {
			return
		}
		fields++
		if !slices.ContainsFunc(all, func(p place) bool { return keyless(p.path) == strings.ReplaceAll(path, "[]", "") }) {
			t.Errorf("%s is not edited by this test", path)
		}
	})
	for _, p := range all {
		before, after := full(), full()
		p.change(p.at(after))
		edits := Compare(before, after)
		if p.element != "" {
			if len(edits) != 2 || edits[0].Kind == edits[1].Kind || edits[0].Kind == Changed || edits[1].Kind == Changed ||
				!slices.ContainsFunc(edits, func(e Edit) bool { return e.Kind == Removed && e.Path == p.element }) {
				t.Errorf("%s renamed: want its removal and an addition, got %v", p.path, edits)
			}
			continue
		}
		if len(edits) != 1 || edits[0].Path != p.path {
			t.Errorf("%s edited: got %v", p.path, edits)
			continue
		}
		e := edits[0]
		if e.Meaning != p.meaning {
			t.Errorf("%s is declared as %s, its edit is %s", p.path, p.meaning, e.Meaning)
		}
		if (e.How != "") != (e.Meaning == Fixed) {
			t.Errorf("%s: %s, and how: %q", p.path, e.Meaning, e.How)
		}
		if e.Before == e.After && e.Kind == Changed {
			t.Errorf("%s: %q before and after", p.path, e.Before)
		}
		if again := Compare(after, before); len(again) != 1 || again[0].Path != p.path || again[0].Before != e.After || again[0].After != e.Before {
			t.Errorf("%s undone: got %v", p.path, again)
		}
	}
	t.Logf("%d fields, %d edits", fields, len(all))
}

// keyless takes the keys of elements out of a path.
func keyless(path string) string {
	var b strings.Builder
	depth := 0
	for _, r := range path {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func TestNoEdit(t *testing.T) {
	for name, text := range map[string]string{
		"stacked":       real,
		"etcd hosts":    edit(t, real, managedEtcd...),
		"existing etcd": edit(t, real, existingEtcd...),
		"defaults only": edit(t, real, "  kubernetes: {version: v1.37.2}\n", "", "    topology: stacked\n    placement: regional\n", "", "    type: managed\n", "", real[strings.Index(real, "  network:"):strings.Index(real, "  hosts:")], "", ":6443", ""),
	} {
		t.Run(name, func(t *testing.T) {
			written, checked := mustParse(t, text), mustParse(t, text)
			checked.Default()
			for _, pair := range [][2]*Cluster{{written, written}, {written, checked}, {checked, written}, {checked, mustParse(t, real)}} {
				if name == "etcd hosts" || name == "existing etcd" {
					pair[1] = checked
				}
				if got := Compare(pair[0], pair[1]); len(got) > 0 {
					t.Errorf("got %v", got)
				}
			}
		})
	}
	if lab := DefaultLab("x"); len(Compare(lab, lab)) > 0 {
		t.Error("a lab differs from itself")
	}
}

// The order in which hosts and everything else is listed means nothing.
func TestOrderIsNoEdit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, make := range []func() *Cluster{full, func() *Cluster { return mustParse(t, real) }, func() *Cluster { return mustParse(t, edit(t, real, existingEtcd...)) }} {
		for range 20 {
			before, after := make(), make()
			shuffle(random, after.Spec.Hosts)
			shuffle(random, after.Spec.NodePools)
			shuffle(random, after.Spec.Etcd.Endpoints)
			for _, h := range after.Spec.Hosts {
				shuffle(random, h.Roles)
			}
			for _, p := range after.Spec.NodePools {
				shuffle(random, p.Zones)
				shuffle(random, p.Hosts)
				shuffle(random, p.Taints)
			}
			if got := Compare(before, after); len(got) > 0 {
				t.Fatalf("got %v", got)
			}
		}
	}
}

func shuffle[T any](random *rand.Rand, list []T) {
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// Any number of edits at a time, in any order: each is named, and the result is always the same.
func TestManyEdits(t *testing.T) {
	all := places(full())
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		before, after := full(), full()
		want := map[string]bool{}
		for range 1 + random.IntN(8) {
			p := all[random.IntN(len(all))]
			if p.element == "" && !want[p.path] {
				want[p.path] = true
				p.change(p.at(after))
			}
		}
		edits := Compare(before, after)
		for _, e := range edits {
			if !want[e.Path] {
				t.Errorf("%s was not edited: %v", e.Path, e)
			}
			delete(want, e.Path)
		}
		if len(want) > 0 {
			t.Errorf("edited and not named: %v", want)
		}
		shuffle(random, after.Spec.Hosts)
		shuffle(random, before.Spec.NodePools)
		if again := Compare(before, after); !reflect.DeepEqual(edits, again) {
			t.Errorf("first %v, then %v", edits, again)
		}
	}
}

// What operators do, and what they are told.
func TestEdits(t *testing.T) {
	colocated := edit(t, real, "    - {name: lb-a, address: 10.0.0.31, roles: [load-balancer], zone: a}\n", "", "    - {name: lb-b, address: 10.0.0.32, roles: [load-balancer], zone: b}\n", "")
	const balancers = "    - {name: lb-a, address: 10.0.0.31, roles: [load-balancer], zone: a}\n"
	type want struct {
		path    string
		kind    EditKind
		meaning Meaning
		how     []string // parts of it
	}
	for name, tc := range map[string]struct {
		before string
		edits  []string
		want   []want
	}{
		"port":             {real, []string{":6443", ":443"}, []want{{"spec.controlPlane.endpoint", Changed, Rolling, nil}}},
		"name":             {real, []string{"api.prod", "api.test"}, []want{{"spec.controlPlane.endpoint", Changed, Rolling, nil}}},
		"virtual IP":       {real, []string{"10.0.0.100", "10.0.0.101"}, []want{{"spec.loadBalancer.address", Changed, Rolling, nil}}},
		"pod range":        {real, []string{"10.244.0.0", "10.245.0.0"}, []want{{"spec.network.podCIDR", Changed, Fixed, nil}}},
		"services":         {real, []string{"10.96.0.0", "10.112.0.0"}, []want{{"spec.network.serviceCIDR", Changed, Fixed, []string{"ServiceCIDR object"}}}},
		"profile":          {real, []string{"profile: fast", "profile: standard"}, []want{{"spec.failover.profile", Changed, Rolling, nil}}},
		"election timeout": {real, []string{"{profile: fast}", "{profile: fast, electionTimeout: 300ms}"}, []want{{"spec.failover.electionTimeout", Changed, Rolling, nil}}},
		"version":          {real, []string{"v1.37.2", "v1.38.0"}, []want{{"spec.kubernetes.version", Changed, Rolling, nil}}},
		"cluster name":     {real, []string{"{name: prod}", "{name: other}"}, []want{{"metadata.name", Changed, Fixed, nil}}},
		"topology":         {real, []string{"topology: stacked", "topology: external"}, []want{{"spec.controlPlane.topology", Changed, Fixed, nil}}},
		"policies":         {real, []string{"cni: flannel", "cni: flannel\n    policies: ignored"}, []want{{"spec.network.policies", Changed, Rolling, nil}}},
		"chart": {edit(t, real, "cni: flannel", "cni: manifest\n    manifests: [net.yaml]"), []string{"cni: manifest\n    manifests: [net.yaml]", "cni: chart\n    chart: {path: chart}"}, []want{{"spec.network.cni", Changed, Rolling, nil},
			{"spec.network.manifests", Changed, Rolling, nil}, {"spec.network.chart.path", Changed, Rolling, nil}, {"spec.network.chart.namespace", Changed, Rolling, nil}}},
		"a default": {real, []string{"cni: flannel", "cni: flannel\n    policies: enforced"}, nil},
		"grow 3 to 5 by roles": {real, []string{"[worker], zone: a", "[control-plane, worker], zone: a", "[worker], zone: b", "[control-plane], zone: b"}, []want{
			{"spec.hosts[worker-a].roles", Changed, Fixed, []string{"Put `worker` back", "add a host"}}, {"spec.hosts[worker-b].roles", Changed, Fixed, nil}}},
		"swap roles": {real, []string{"[control-plane], zone: a", "[worker], zone: a", "[worker], zone: a}\n    - {name: worker-b", "[control-plane], zone: a}\n    - {name: worker-b"}, []want{
			{"spec.hosts[cp-a].roles", Changed, Fixed, nil}, {"spec.hosts[worker-a].roles", Changed, Fixed, nil}}},
		"workloads on a control plane": {real, []string{"[control-plane], zone: c", "[worker, control-plane], zone: c"}, []want{
			{"spec.hosts[cp-c].roles", Changed, Fixed, []string{"Put `control-plane` back", "kubectl taint nodes cp-c"}}}},
		"host address":            {real, []string{"10.0.0.21", "10.0.0.29"}, []want{{"spec.hosts[worker-a].address", Changed, Fixed, []string{"Put `10.0.0.21` back"}}}},
		"address of an etcd host": {edit(t, real, managedEtcd...), []string{"10.0.0.41", "10.0.0.49"}, []want{{"spec.hosts[etcd-a].address", Changed, Fixed, []string{"Put `10.0.0.41` back", "`quorate reset etcd-a`"}}}},
		"zone of a node": {real, []string{"[worker], zone: a", "[worker], zone: b", "zones: [a, b]", "zones: [b]"}, []want{
			{"spec.hosts[worker-a].zone", Changed, Rolling, nil}, {"spec.nodePools[web].zones", Changed, Free, nil}}},
		"zone of a balancer": {real, []string{"[load-balancer], zone: b", "[load-balancer], zone: c"}, []want{{"spec.hosts[lb-b].zone", Changed, Free, nil}}},
		"region":             {real, []string{"spec:\n", "spec:\n  region: eu\n"}, []want{{"spec.region", Changed, Rolling, nil}}},
		"region of a host":   {real, []string{"[worker], zone: a", "[worker], zone: a, region: eu"}, []want{{"spec.hosts[worker-a].region", Changed, Rolling, nil}}},
		"ssh":                {real, []string{"[worker], zone: a", "[worker], zone: a, ssh: {user: admin, port: 2222, keyFile: k}"}, []want{{"spec.hosts[worker-a].ssh.user", Changed, Free, nil}, {"spec.hosts[worker-a].ssh.port", Changed, Free, nil}, {"spec.hosts[worker-a].ssh.keyFile", Changed, Free, nil}}},
		"another worker":     {real, []string{balancers, "    - {name: worker-c, address: 10.0.0.23, roles: [worker], zone: c}\n" + balancers}, []want{{"spec.hosts[worker-c]", Added, Rolling, nil}}},
		"another balancer":   {real, []string{balancers, "    - {name: lb-c, address: 10.0.0.33, roles: [load-balancer], zone: c}\n" + balancers}, []want{{"spec.hosts[lb-c]", Added, Rolling, nil}}},
		"another etcd host": {edit(t, real, managedEtcd...), []string{balancers, "    - {name: etcd-d, address: 10.0.0.44, roles: [load-balancer, etcd], zone: c}\n" + balancers}, []want{
			{"spec.hosts[etcd-d]", Added, Rolling, nil}}},
		"balancers of their own":           {colocated, []string{"  nodePools", balancers + "  nodePools"}, []want{{"spec.hosts[lb-a]", Added, Rolling, nil}}},
		"a control plane balances, too":    {real, []string{"[control-plane], zone: c", "[load-balancer, control-plane], zone: c"}, []want{{"spec.hosts[cp-c].roles", Changed, Rolling, nil}}},
		"a control plane balances no more": {edit(t, real, "[control-plane], zone: c", "[control-plane, load-balancer], zone: c"), []string{"[control-plane, load-balancer], zone: c", "[control-plane], zone: c"}, []want{{"spec.hosts[cp-c].roles", Changed, Rolling, nil}}},
		"a worker balances no more, and has no frontAddress": {edit(t, real, with(frontEdits, "address: 10.0.0.21, roles: [worker]", "address: 10.0.0.21, frontAddress: 192.0.2.21, roles: [worker, load-balancer]")...), []string{"frontAddress: 192.0.2.21, roles: [worker, load-balancer]", "roles: [worker]"}, []want{
			{"spec.hosts[worker-a].frontAddress", Changed, Rolling, nil}, {"spec.hosts[worker-a].roles", Changed, Rolling, nil}}},
		"a frontAddress that nobody uses":              {edit(t, real, with(frontEdits, "10.0.0.11", "10.0.0.11, frontAddress: 192.0.2.11")...), []string{"frontAddress: 192.0.2.11", "frontAddress: 192.0.2.12"}, []want{{"spec.hosts[cp-a].frontAddress", Changed, Free, nil}}},
		"a frontAddress of a load balancer that stays": {edit(t, real, frontEdits...), []string{"192.0.2.31", "192.0.2.33"}, []want{{"spec.hosts[lb-a].frontAddress", Changed, Fixed, []string{"Put `192.0.2.31` back"}}}},
		"two roles change":                             {real, []string{"[control-plane], zone: c", "[control-plane, load-balancer, worker], zone: c"}, []want{{"spec.hosts[cp-c].roles", Changed, Fixed, []string{"Put `control-plane` back"}}}},
		"a load balancer becomes a worker":             {real, []string{"[load-balancer], zone: b", "[worker], zone: b"}, []want{{"spec.hosts[lb-b].roles", Changed, Fixed, []string{"Put `load-balancer` back"}}}},
		"a balancer less":                              {real, []string{balancers, ""}, []want{{"spec.hosts[lb-a]", Removed, Rolling, nil}}},
		"the last balancers": {real, []string{balancers, "", "    - {name: lb-b, address: 10.0.0.32, roles: [load-balancer], zone: b}\n", ""}, []want{
			{"spec.hosts[lb-a]", Removed, Rolling, nil}, {"spec.hosts[lb-b]", Removed, Rolling, nil}}},
		"a balancer replaced": {real, []string{"lb-a, address: 10.0.0.31", "lb-d, address: 10.0.0.34"}, []want{
			{"spec.hosts[lb-a]", Removed, Rolling, nil}, {"spec.hosts[lb-d]", Added, Rolling, nil}}},
		"a balancer renamed": {real, []string{"lb-a, address: 10.0.0.31", "lb-x, address: 10.0.0.31"}, []want{
			{"spec.hosts[lb-a]", Removed, Rolling, nil}, {"spec.hosts[lb-x]", Added, Fixed, []string{"Put lb-a back", "`quorate reset lb-a`"}}}},
		"a machine gets another name and role": {real, []string{"{name: worker-b, address: 10.0.0.22, roles: [worker], zone: b}", "{name: cp-d, address: 10.0.0.22, roles: [control-plane], zone: b}", "hosts: [worker-a, worker-b]", "hosts: [worker-a]", "zones: [a, b]", "zones: [a]"}, []want{
			{"spec.hosts[cp-d]", Added, Fixed, []string{"Put worker-b back"}}, {"spec.hosts[worker-b]", Removed, Rolling, nil}, {"spec.nodePools[web].zones", Changed, Free, nil}, {"spec.nodePools[web].hosts", Changed, Rolling, nil}}},
		"a balancer renamed that keeps one of its addresses": {edit(t, real, frontEdits...), []string{"lb-a, address: 10.0.0.31", "lb-x, address: 10.0.0.39"}, []want{
			{"spec.hosts[lb-a]", Removed, Rolling, nil}, {"spec.hosts[lb-x]", Added, Fixed, []string{"lb-a has the address 192.0.2.31 in the cluster", "Put lb-a back"}}}},
		"swapped addresses": {real, []string{"worker-a, address: 10.0.0.21", "worker-a, address: 10.0.0.22", "worker-b, address: 10.0.0.22", "worker-b, address: 10.0.0.21"}, []want{
			{"spec.hosts[worker-a].address", Changed, Fixed, nil}, {"spec.hosts[worker-b].address", Changed, Fixed, nil}}},
		"a control plane less": {real, []string{"    - {name: cp-c, address: 10.0.0.13, roles: [control-plane], zone: c}\n", ""}, []want{
			{"spec.hosts[cp-c]", Removed, Rolling, nil}}},
		"a control plane that balances less": {colocated, []string{"    - {name: cp-c, address: 10.0.0.13, roles: [control-plane], zone: c}\n", ""}, []want{
			{"spec.hosts[cp-c]", Removed, Rolling, nil}}},
		"an etcd host less": {edit(t, real, managedEtcd...), []string{"    - {name: etcd-c, address: 10.0.0.43, roles: [etcd], zone: c}\n", ""}, []want{
			{"spec.hosts[etcd-c]", Removed, Rolling, nil}}},
		"labels": {real, []string{"{example.com/tier: web}", "{example.com/disk: ssd}"}, []want{
			{"spec.nodePools[web].labels[example.com/disk]", Added, Rolling, nil}, {"spec.nodePools[web].labels[example.com/tier]", Removed, Rolling, nil}}},
		"taint": {real, []string{"value: web, effect", "value: www, effect"}, []want{{"spec.nodePools[web].taints[dedicated:NoSchedule].value", Changed, Rolling, nil}}},
		"members of a pool": {real, []string{"hosts: [worker-a, worker-b]", "hosts: [worker-b]"}, []want{
			{"spec.nodePools[web].hosts", Changed, Rolling, nil}}},
		"no pool": {real, []string{real[strings.Index(real, "  nodePools"):], ""}, []want{{"spec.nodePools[web]", Removed, Rolling, nil}}},
		"etcd's endpoints": {edit(t, real, existingEtcd...), []string{"      - https://etcd-3.example.com:2379\n", ""}, []want{
			{"spec.etcd.endpoints", Changed, Fixed, []string{"--etcd-servers"}}}},
		"etcd's certificate": {edit(t, real, existingEtcd...), []string{"client.pem", "new.pem"}, []want{{"spec.etcd.certFile", Changed, Rolling, nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			edits := Compare(mustParse(t, tc.before), mustParse(t, edit(t, tc.before, tc.edits...)))
			if len(edits) != len(tc.want) {
				t.Fatalf("got %v, want %v", edits, tc.want)
			}
			for i, w := range tc.want {
				e := edits[i]
				if e.Path != w.path || e.Kind != w.kind || e.Meaning != w.meaning {
					t.Errorf("got %s %s %s, want %v", e.Path, e.Kind, e.Meaning, w)
				}
				if (e.How != "") != (e.Meaning == Fixed) || strings.Contains(e.How, "HOST") {
					t.Errorf("%s: %q", e.Path, e.How)
				}
				for _, part := range w.how {
					if !strings.Contains(e.How, part) {
						t.Errorf("%s: %q does not say %q", e.Path, e.How, part)
					}
				}
				if _, host, _ := strings.Cut(e.Path, "spec.hosts["); host != "" && (e.Host == "" || !strings.HasPrefix(host, e.Host+"]")) {
					t.Errorf("%s is of the host %q", e.Path, e.Host)
				}
				if (len(e.Roles) > 0) != (e.Host != "" && e.Kind != Changed) {
					t.Errorf("%s: roles %v", e, e.Roles)
				}
			}
		})
	}
}

func TestEditsAsText(t *testing.T) {
	for want, e := range map[string]Edit{
		"spec.network.cni changed from flannel to none":                  {Path: "spec.network.cni", Kind: Changed, Before: "flannel", After: "none"},
		"spec.region changed from nothing to eu":                         {Path: "spec.region", Kind: Changed, After: "eu"},
		"spec.hosts[cp-c] removed (control-plane, worker)":               {Path: "spec.hosts[cp-c]", Kind: Removed, Roles: []string{"control-plane", "worker"}},
		"spec.nodePools[web].labels[example.com/tier] added: web":        {Path: "spec.nodePools[web].labels[example.com/tier]", Kind: Added, After: "web"},
		"spec.nodePools[web] removed: worker-a":                          {Path: "spec.nodePools[web]", Kind: Removed, Before: "worker-a"},
		"spec.nodePools[web].taints[dedicated:NoSchedule] removed":       {Path: "spec.nodePools[web].taints[dedicated:NoSchedule]", Kind: Removed},
		"spec.nodePools[web].labels[example.com/tier] changed from a to": {Path: "spec.nodePools[web].labels[example.com/tier]", Kind: Changed, Before: "a"},
	} {
		if got := e.String(); got != want && !strings.HasPrefix(got, want+" ") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestALoadBalancerThatLeavesKeepsItsFrontAddress until it has left: the others have to hear it there.
func TestALoadBalancerThatLeavesKeepsItsFrontAddress(t *testing.T) {
	text := edit(t, real, with(frontEdits, "address: 10.0.0.21, roles: [worker]", "address: 10.0.0.21, frontAddress: 192.0.2.21, roles: [worker, load-balancer]")...)
	before, after := mustParse(t, text), mustParse(t, edit(t, text, "frontAddress: 192.0.2.21, roles: [worker, load-balancer]", "roles: [worker]"))
	present := after.Balancing(after, before)
	if h, _ := present.Host("worker-a"); !present.Balances(h) || h.FrontAddress != "192.0.2.21" {
		t.Errorf("while it leaves, it is %+v", h)
	}
	if h, _ := after.Host("worker-a"); h.FrontAddress != "" {
		t.Errorf("the spec was changed: %+v", h)
	}
}
