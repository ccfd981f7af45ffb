package spec

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const real = `apiVersion: quorate.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec:
  kubernetes: {version: v1.37.2}
  controlPlane:
    endpoint: api.prod.example.com:6443
    topology: stacked
    placement: regional
  loadBalancer:
    type: managed
    address: 10.0.0.100
  network:
    cni: flannel
    podCIDR: 10.244.0.0/16
    serviceCIDR: 10.96.0.0/12
  components: {source: modules}
  failover: {profile: fast}
  hosts:
    - {name: cp-a, address: 10.0.0.11, roles: [control-plane], zone: a}
    - {name: cp-b, address: 10.0.0.12, roles: [control-plane], zone: b}
    - {name: cp-c, address: 10.0.0.13, roles: [control-plane], zone: c}
    - {name: worker-a, address: 10.0.0.21, roles: [worker], zone: a}
    - {name: worker-b, address: 10.0.0.22, roles: [worker], zone: b}
    - {name: lb-a, address: 10.0.0.31, roles: [load-balancer], zone: a}
    - {name: lb-b, address: 10.0.0.32, roles: [load-balancer], zone: b}
  nodePools:
    - name: web
      zones: [a, b]
      labels: {example.com/tier: web}
      taints: [{key: dedicated, value: web, effect: NoSchedule}]
      hosts: [worker-a, worker-b]
`

// Edits that turn the real spec's topology into external, with etcd hosts or with an etcd that exists already.
var (
	managedEtcd = []string{"topology: stacked", "topology: external", "    - {name: worker-a", `    - {name: etcd-a, address: 10.0.0.41, roles: [etcd], zone: a}
    - {name: etcd-b, address: 10.0.0.42, roles: [etcd], zone: b}
    - {name: etcd-c, address: 10.0.0.43, roles: [etcd], zone: c}
    - {name: worker-a`}
	existingEtcd = []string{"topology: stacked", "topology: external", "  loadBalancer:", `  etcd:
    endpoints:
      - https://10.0.0.41:2379
      - https://etcd-2.example.com:2379
      - https://etcd-3.example.com:2379
    caFile: ca.pem
    certFile: client.pem
    keyFile: client.key
  loadBalancer:`}
	// Edits that turn its hosts, endpoint, and ranges into IPv6, or that add IPv6 to them.
	ipv6Edits = []string{"address: 10.0.0.100", "address: 'fd00::100'", "10.244.0.0/16", "fd00:10:244::/56", "10.96.0.0/12", "fd00:10:96::/112",
		"10.0.0.11", "'fd00::11'", "10.0.0.12", "'fd00::12'", "10.0.0.13", "'fd00::13'", "10.0.0.21", "'fd00::21'", "10.0.0.22", "'fd00::22'",
		"10.0.0.31", "'fd00::31'", "10.0.0.32", "'fd00::32'"}
	dualEdits = []string{"10.244.0.0/16", "'10.244.0.0/16,fd00:10:244::/56'", "10.96.0.0/12", "'10.96.0.0/12,fd00:10:96::/112'",
		"10.0.0.11", "10.0.0.11, secondaryAddress: 'fd00::11'", "10.0.0.12", "10.0.0.12, secondaryAddress: 'fd00::12'",
		"10.0.0.13", "10.0.0.13, secondaryAddress: 'fd00::13'", "10.0.0.21", "10.0.0.21, secondaryAddress: 'fd00::21'",
		"10.0.0.22", "10.0.0.22, secondaryAddress: 'fd00::22'"}
	// frontEdits give the virtual IP a network of its own.
	frontEdits = []string{"address: 10.0.0.100", "address: 192.0.2.100", "10.0.0.31", "10.0.0.31, frontAddress: 192.0.2.31", "10.0.0.32", "10.0.0.32, frontAddress: 192.0.2.32"}
	// trafficEdits give the packets of pods a network of their own.
	trafficEdits        = []string{"    podCIDR: 10.244.0.0/16\n", "    podCIDR: 10.244.0.0/16\n    podTrafficCIDR: 10.1.0.0/24\n"}
	untainted           = []string{"effect: NoSchedule", "effect: PreferNoSchedule"}
	oneControlPlaneLess = []string{"    - {name: cp-c, address: 10.0.0.13, roles: [control-plane], zone: c}\n", ""}
)

func with(edits []string, more ...string) []string { return append(slices.Clone(edits), more...) }

// edit applies pairs of old and new text; each old text must be there.
func edit(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the spec has no %q", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// lineOf returns the first line that contains the text.
func lineOf(t *testing.T, text, part string) int {
	t.Helper()
	for i, line := range strings.Split(text, "\n") {
		if strings.Contains(line, part) {
			return i + 1
		}
	}
	t.Fatalf("no line contains %q", part)
	return 0
}

func TestSpecsThatAreFine(t *testing.T) {
	noAddresses := real
	for _, h := range mustParse(t, real).Spec.Hosts {
		noAddresses = edit(t, noAddresses, ", address: "+h.Address, "")
	}
	noAddresses = edit(t, noAddresses, "    address: 10.0.0.100\n", "")
	for name, tc := range map[string]struct {
		data string
		opts Options
	}{
		"real hosts":                     {data: real},
		"real hosts that are lab's":      {data: real, opts: Options{Lab: true}},
		"lab":                            {data: noAddresses, opts: Options{Lab: true}},
		"zonal":                          {data: edit(t, real, "placement: regional", "placement: zonal", "[control-plane], zone: b", "[control-plane], zone: a", "[control-plane], zone: c", "[control-plane], zone: a")},
		"zonal, balancers in one zone":   {data: edit(t, real, "placement: regional", "placement: zonal", "[control-plane], zone: b", "[control-plane], zone: a", "[control-plane], zone: c", "[control-plane], zone: a", "[load-balancer], zone: b", "[load-balancer], zone: a")},
		"external balancer":              {data: edit(t, real, "type: managed", "type: external", "    - {name: lb-a, address: 10.0.0.31, roles: [load-balancer], zone: a}\n", "", "    - {name: lb-b, address: 10.0.0.32, roles: [load-balancer], zone: b}\n", "")},
		"external balancer by DNS":       {data: edit(t, real, "    address: 10.0.0.100\n", "", "type: managed", "type: external", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]")},
		"a short endpoint":               {data: edit(t, real, "api.prod.example.com", "cluster-endpoint")},
		"the longest endpoint":           {data: edit(t, real, "api.prod.example.com", strings.Repeat("abcdefg.", 31)+"abcde")},
		"no balancers":                   {data: edit(t, real, "[load-balancer]", "[worker]", "[load-balancer]", "[worker]")},
		"balancers beside control":       {data: edit(t, real, "[control-plane]", "[control-plane, load-balancer]", "[control-plane]", "[control-plane, load-balancer]", "[load-balancer], zone: a}\n    - {name: lb-b", "[worker], zone: a}\n    - {name: lb-b", "[load-balancer], zone: b}\n  node", "[worker], zone: b}\n  node")},
		"beside control, another port":   {data: edit(t, real, ":6443", ":8443", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]")},
		"worker and balancer share":      {data: edit(t, real, "[worker], zone: a", "[worker, load-balancer], zone: a")},
		"control planes as only workers": {data: edit(t, real, "[control-plane], zone: a", "[control-plane, worker], zone: a", "[worker]", "[load-balancer]", "[worker]", "[load-balancer]", real[strings.Index(real, "  nodePools"):], "")},
		"defaults only":                  {data: edit(t, real, "  kubernetes: {version: v1.37.2}\n", "", "    topology: stacked\n    placement: regional\n", "", "    type: managed\n", "", real[strings.Index(real, "  network:"):strings.Index(real, "  hosts:")], "", ":6443", "")},
		"two of five in a zone":          {data: edit(t, real, "[worker], zone: a", "[control-plane, worker], zone: a", "[worker], zone: b", "[control-plane, worker], zone: b")},
		"two jump hosts with two keys":   {data: edit(t, real, "zone: a}", "zone: a, ssh: {jump: 'me@one.example.com:2022,two', jumpKeyFile: '~/i,~/j'}}")},
		"two jump hosts":                 {data: edit(t, real, "zone: a}", "zone: a, ssh: {jump: 'me@one.example.com:2022,two', jumpKeyFile: ~/j}}")},
		"ssh behind a gateway":           {data: edit(t, real, "zone: a}", "zone: a, ssh: {address: gate.example.com, port: 2201}}", "[control-plane], zone: b}", "[control-plane], zone: b, ssh: {address: gate.example.com, port: 2202}}")},
		"ssh behind two jump hosts":      {data: edit(t, real, "zone: a}", "zone: a, ssh: {address: 192.168.0.2, jump: me@a.example.com}}", "[control-plane], zone: b}", "[control-plane], zone: b, ssh: {address: 192.168.0.2, jump: me@b.example.com}}")},
		"ssh":                            {data: edit(t, real, "zone: a}", "zone: a, ssh: {user: first.last, port: 2222, keyFile: ~/k, hostKey: 'SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', jump: me@bastion.example.com:22}}")},
		"anchors":                        {data: edit(t, real, "zone: a}", "zone: a, ssh: &s {user: admin}}", "zone: b}", "zone: b, ssh: *s}", "zone: c}", "zone: c, ssh: {<<: *s, port: 2222}}")},
		"tight ranges":                   {data: edit(t, real, "10.244.0.0/16", "10.244.0.0/21", "10.96.0.0/12", "10.96.0.0/28")},
		"an older version":               {data: edit(t, real, "v1.37.2", "v1.36.1"), opts: Options{Versions: []string{"v1.37.2", "v1.36.1"}}},
		"etcd hosts":                     {data: edit(t, real, managedEtcd...)},
		"etcd hosts, two control planes": {data: edit(t, real, with(managedEtcd, oneControlPlaneLess...)...)},
		"etcd hosts, even":               {data: edit(t, real, with(managedEtcd, "[worker], zone: a", "[worker, control-plane], zone: a")...)},
		"etcd beside a balancer":         {data: edit(t, real, with(managedEtcd, "[etcd]", "[etcd, load-balancer]")...)},
		"existing etcd":                  {data: edit(t, real, existingEtcd...)},
		"IPv6":                           {data: edit(t, real, ipv6Edits...)},
		"IPv6, external balancer":        {data: edit(t, real, with(ipv6Edits, "type: managed", "type: external", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]")...)},
		"IPv6, default ranges":           {data: edit(t, real, with(ipv6Edits, "    podCIDR: fd00:10:244::/56\n    serviceCIDR: fd00:10:96::/112\n", "")...)},
		"IPv6, tight ranges":             {data: edit(t, real, with(ipv6Edits, "fd00:10:244::/56", "fd00:10:244::/61", "fd00:10:96::/112", "fd00:10:96::/124")...)},
		"IPv6, large ranges":             {data: edit(t, real, with(ipv6Edits, "fd00:10:244::/56", "fd00:10::/48", "fd00:10:96::/112", "fd00:11:96::/108")...)},
		"IPv6 etcd":                      {data: edit(t, real, with(ipv6Edits, with(existingEtcd, "10.0.0.41", "[fd00::41]")...)...)},
		"dual stack":                     {data: edit(t, real, dualEdits...)},
		"dual stack, default Services":   {data: edit(t, real, with(dualEdits, "    serviceCIDR: '10.96.0.0/12,fd00:10:96::/112'\n", "")...)},
		"dual stack, balancers, too":     {data: edit(t, real, with(dualEdits, "10.0.0.31", "10.0.0.31, secondaryAddress: 'fd00::31'")...)},
		"a front network":                {data: edit(t, real, frontEdits...)},
		"a front network of all":         {data: edit(t, real, with(frontEdits, "10.0.0.11", "10.0.0.11, frontAddress: 192.0.2.11")...)},
		"a front network, IPv6":          {data: edit(t, real, with(ipv6Edits, "'fd00::31'", "'fd00::31', frontAddress: 'fd00:1::31'", "'fd00::32'", "'fd00::32', frontAddress: 'fd00:1::32'")...)},
		"pods in another network":        {data: edit(t, real, trafficEdits...)},
		"pods in the nodes' network":     {data: edit(t, real, with(trafficEdits, "10.1.0.0/24", "10.0.1.0/24")...)},
		"pods in another one, IPv6":      {data: edit(t, real, with(ipv6Edits, "podCIDR: fd00:10:244::/56", "podCIDR: fd00:10:244::/56\n    podTrafficCIDR: fd00:1::/64")...)},
		"pods in another one, dual":      {data: edit(t, real, with(dualEdits, "    podCIDR:", "    podTrafficCIDR: 10.1.0.0/24,fd00:1::/64\n    podCIDR:")...)},
		"SSH at other addresses":         {data: edit(t, real, "10.0.0.11, roles: [control-plane], zone: a", "10.0.0.11, roles: [control-plane], zone: a, ssh: {address: 203.0.113.11}", "10.0.0.12, roles: [control-plane], zone: b", "10.0.0.12, roles: [control-plane], zone: b, ssh: {address: cp-b.mgmt.example.com}")},
		"dual stack, IPv6 first":         {data: edit(t, real, with(ipv6Edits, "podCIDR: fd00:10:244::/56", "podCIDR: 'fd00:10:244::/56,10.244.0.0/16'", "serviceCIDR: fd00:10:96::/112", "serviceCIDR: 'fd00:10:96::/112,10.96.0.0/12'", "'fd00::11'", "'fd00::11', secondaryAddress: 10.0.0.11", "'fd00::12'", "'fd00::12', secondaryAddress: 10.0.0.12", "'fd00::13'", "'fd00::13', secondaryAddress: 10.0.0.13", "'fd00::21'", "'fd00::21', secondaryAddress: 10.0.0.21", "'fd00::22'", "'fd00::22', secondaryAddress: 10.0.0.22")...)},
		"existing etcd, two":             {data: edit(t, real, with(existingEtcd, oneControlPlaneLess...)...)},
		"another published patch":        {data: edit(t, real, "{source: modules}", "{source: official}", "v1.37.2", "v1.37.9")},
		"another patch in a bundle":      {data: edit(t, real, "{source: modules}", "{source: bundle, file: b.tar}", "v1.37.2", "v1.37.0")},
		"bundle":                         {data: edit(t, real, "{source: modules}", "{source: bundle, file: b.tar}")},
		"bundle that must be this one":   {data: edit(t, real, "{source: modules}", "{source: bundle, file: b.tar, digest: sha256:abababababababababababababababababababababababababababababababab}")},
		"a bundle for each architecture": {data: edit(t, real, "{source: modules}", "{source: bundle, amd64: {file: x}, arm64: {reference: r.example.com/b@sha256:abababababababababababababababababababababababababababababababab}}")},
		"pins for both architectures":    {data: edit(t, real, "{source: modules}", "{source: official, arm64: {digest: sha256:abababababababababababababababababababababababababababababababab}}")},
		"bundle in a registry":           {data: edit(t, real, "{source: modules}", "{source: bundle, reference: r.example.com:5000/b@sha256:abababababababababababababababababababababababababababababababab, username: u, passwordFile: p, caFile: c}")},
		"official":                       {data: edit(t, real, "{source: modules}", "{source: official}")},
		"mirror":                         {data: edit(t, real, "{source: modules}", "{source: mirror, releases: https://m.example.com/a/b, registry: r.example.com/c, caFile: c}")},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Check([]byte(tc.data), "cluster.yaml", tc.opts); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestManagedVersions: clusters that this quorate cannot build can be looked at, but not those of every version.
func TestManagedVersions(t *testing.T) {
	opts := Options{Versions: []string{"v1.37.2"}, Managed: []string{"v1.33", "v1.34"}}
	for version, valid := range map[string]bool{"v1.37.2": true, "v1.34.8": true, "v1.33.0": true, "v1.32.9": false, "v1.35.1": false, "1.34.8": false, "v1.34": false} {
		_, err := Check([]byte(edit(t, real, "v1.37.2", version)), "cluster.yaml", opts)
		if (err == nil) != valid {
			t.Errorf("%s: %v", version, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	type refusal struct {
		edits []string // pairs of old and new text
		lab   bool
		path  string
		at    string   // part of the line that must be named
		want  []string // parts of the reason and the fix
	}
	for name, tc := range map[string]refusal{
		"apiVersion":         {edits: []string{"v1alpha1", "v1"}, path: "apiVersion", at: "apiVersion", want: []string{"`quorate.dev/v1` is not known", "quorate.dev/v1alpha1"}},
		"kind":               {edits: []string{"kind: Cluster", "kind: Clutser"}, path: "kind", at: "kind:", want: []string{"not known", "use `Cluster`"}},
		"no name":            {edits: []string{"{name: prod}", "{}"}, path: "metadata.name", at: "metadata:", want: []string{"has no name"}},
		"name with capitals": {edits: []string{"{name: prod}", "{name: Prod_1}"}, path: "metadata.name", at: "metadata:", want: []string{"not a DNS label", "write `prod-1`"}},
		"long name":          {edits: []string{"{name: prod}", "{name: " + strings.Repeat("x", 41) + "}"}, path: "metadata.name", at: "metadata:", want: []string{"41 characters", "at most 40"}},

		"version without v":              {edits: []string{"v1.37.2", "1.37.2"}, path: "spec.kubernetes.version", at: "version:", want: []string{"lacks the prefix v", "write v1.37.2"}},
		"unknown version":                {edits: []string{"v1.37.2", "v1.37.9"}, path: "spec.kubernetes.version", at: "version:", want: []string{"cannot build Kubernetes v1.37.9", "nearest supported version is v1.37.2"}},
		"a published pre-release":        {edits: []string{"source: modules", "source: official", "v1.37.2", "v1.37.9-rc.1"}, path: "spec.kubernetes.version", at: "version:", want: []string{"cannot build Kubernetes v1.37.9-rc.1"}},
		"another published minor":        {edits: []string{"source: modules", "source: official", "v1.37.2", "v1.38.0"}, path: "spec.kubernetes.version", at: "version:", want: []string{"cannot build Kubernetes v1.38.0"}},
		"a compiled patch":               {edits: []string{"v1.37.2", "v1.37.9"}, path: "spec.kubernetes.version", at: "version:", want: []string{"source: official", "quorate bundle versions"}},
		"half a version":                 {edits: []string{"v1.37.2", "v1.37"}, path: "spec.kubernetes.version", at: "version:", want: []string{"not a Kubernetes release", "such as v1.37.2"}},
		"unknown topology":               {edits: []string{"topology: stacked", "topology: stakced"}, path: "spec.controlPlane.topology", at: "topology:", want: []string{"`stakced` is not known", "did you mean `stacked`?"}},
		"unknown placement":              {edits: []string{"placement: regional", "placement: regoinal"}, path: "spec.controlPlane.placement", at: "placement:", want: []string{"did you mean `regional`?"}},
		"unknown profile":                {edits: []string{"profile: fast", "profile: slow"}, path: "spec.failover.profile", at: "profile:", want: []string{"`fast` or `standard`"}},
		"election timeout of no unit":    {edits: []string{"{profile: fast}", "{profile: fast, electionTimeout: \"300\"}"}, path: "spec.failover.electionTimeout", at: "failover:", want: []string{"`300` is not a duration", "write `300ms`"}},
		"election timeout of words":      {edits: []string{"{profile: fast}", "{profile: fast, electionTimeout: short}"}, path: "spec.failover.electionTimeout", at: "failover:", want: []string{"`short` is not a duration", "like `300ms`"}},
		"short election timeout":         {edits: []string{"{profile: fast}", "{profile: fast, electionTimeout: 299ms}"}, path: "spec.failover.electionTimeout", at: "failover:", want: []string{"at least `300ms`"}},
		"negative election timeout":      {edits: []string{"{profile: fast}", "{profile: fast, electionTimeout: -1s}"}, path: "spec.failover.electionTimeout", at: "failover:", want: []string{"at least `300ms`"}},
		"long election timeout":          {edits: []string{"{profile: fast}", "{profile: fast, electionTimeout: 5010ms}"}, path: "spec.failover.electionTimeout", at: "failover:", want: []string{"at most `5s`"}},
		"uneven election timeout":        {edits: []string{"{profile: fast}", "{profile: fast, electionTimeout: 305ms}"}, path: "spec.failover.electionTimeout", at: "failover:", want: []string{"a multiple of 10ms"}},
		"an etcd's timeout as a setting": {edits: []string{"failover: {profile: fast}", "failover: {profile: fast}\n  settings: {etcd: {extraArgs: {election-timeout: \"300\"}}}"}, path: "spec.settings.etcd", at: "settings:", want: []string{"unknown field `etcd`"}},
		"unknown cni":                    {edits: []string{"cni: flannel", "cni: cilium"}, path: "spec.network.cni", at: "cni:", want: []string{"not known", "`manifest`, `chart` or `none`"}},
		"bundle without":                 {edits: []string{"source: modules", "source: bundle"}, path: "spec.components.file", at: "components:", want: []string{"reads a file", "quorate bundle export"}},
		"modules with file":              {edits: []string{"source: modules", "source: modules, file: x.tar"}, path: "spec.components.file", at: "components:", want: []string{"has no field file", "choose `bundle`"}},
		"modules with a CA":              {edits: []string{"source: modules", "source: modules, caFile: x"}, path: "spec.components.caFile", at: "components:", want: []string{"has no field caFile", "`mirror` or `bundle`"}},
		"official with base":             {edits: []string{"source: modules", "source: official, releases: https://m"}, path: "spec.components.releases", at: "components:", want: []string{"has no field releases", "choose `mirror`"}},
		"mirror of no files":             {edits: []string{"source: modules", "source: mirror, registry: r.example.com"}, path: "spec.components.releases", at: "components:", want: []string{"none is given", "bundle sources"}},
		"mirror of no image":             {edits: []string{"source: modules", "source: mirror, releases: https://m.example.com"}, path: "spec.components.registry", at: "components:", want: []string{"none is given"}},
		"mirror without TLS":             {edits: []string{"source: modules", "source: mirror, registry: r.example.com, releases: http://m.example.com"}, path: "spec.components.releases", at: "components:", want: []string{"change the files together with their checksums", "use https"}},
		"mirror, no address":             {edits: []string{"source: modules", "source: mirror, registry: r.example.com, releases: m.example.com/x"}, path: "spec.components.releases", at: "components:", want: []string{"not an address"}},
		"password in a URL":              {edits: []string{"source: modules", "source: mirror, registry: r.example.com, releases: \"https://u:p@m.example.com\""}, path: "spec.components.releases", at: "components:", want: []string{"must not contain a password"}},
		"registry as a URL":              {edits: []string{"source: modules", "source: mirror, registry: \"https://r.example.com\", releases: https://m.example.com"}, path: "spec.components.registry", at: "components:", want: []string{"without a scheme"}},
		"half a login":                   {edits: []string{"source: modules", "source: mirror, registry: r.example.com, releases: https://m.example.com, username: u"}, path: "spec.components.username", at: "components:", want: []string{"must be set together"}},
		"reference by tag":               {edits: []string{"source: modules", "source: bundle, reference: r.example.com/b:v1"}, path: "spec.components.reference", at: "components:", want: []string{"by its digest", "quorate bundle push"}},
		"arm64 by tag":                   {edits: []string{"source: modules", "source: bundle, file: x, arm64: {reference: r.example.com/b:v1}"}, path: "spec.components.arm64.reference", at: "components:", want: []string{"by its digest", "quorate bundle push"}},
		"arm64 twice":                    {edits: []string{"source: modules", "source: bundle, file: x, arm64: {file: y, reference: r.example.com/b@sha256:abababababababababababababababababababababababababababababababab}"}, path: "spec.components.arm64.reference", at: "components:", want: []string{"keep one"}},
		"a file for modules":             {edits: []string{"source: modules", "source: modules, arm64: {file: x}"}, path: "spec.components.arm64.file", at: "components:", want: []string{"has no field file"}},
		"arm64 without a digest":         {edits: []string{"source: modules", "source: official, arm64: {digest: x}"}, path: "spec.components.arm64.digest", at: "components:", want: []string{"is not a digest"}},
		"file and reference":             {edits: []string{"source: modules", "source: bundle, file: x, reference: r.example.com/b@sha256:abababababababababababababababababababababababababababababababab"}, path: "spec.components.reference", at: "components:", want: []string{"keep one"}},
		"file with login":                {edits: []string{"source: modules", "source: bundle, file: x, caFile: y"}, path: "spec.components.file", at: "components:", want: []string{"needs no login"}},
		"signed by nobody":               {edits: []string{"source: modules", "source: official, signatures: {require: all}"}, path: "spec.components.signatures.require", at: "components:", want: []string{"set publicKeyFile, or identity and issuer"}},
		"signed by two":                  {edits: []string{"source: modules", "source: official, signatures: {require: all, publicKeyFile: k, identity: a, issuer: b}"}, path: "spec.components.signatures.require", at: "components:", want: []string{"one signer"}},
		"half an identity":               {edits: []string{"source: modules", "source: official, signatures: {require: all, identity: a}"}, path: "spec.components.signatures.identity", at: "components:", want: []string{"set both"}},
		"a key for nothing":              {edits: []string{"source: modules", "source: official, signatures: {publicKeyFile: k}"}, path: "spec.components.signatures.require", at: "components:", want: []string{"set require: all"}},
		"a root for nothing":             {edits: []string{"source: modules", "source: official, signatures: {require: none, trustedRootFile: r}"}, path: "spec.components.signatures.trustedRootFile", at: "components:", want: []string{"none is verified"}},
		"a mirror's root for nothing": {edits: []string{"source: modules", "source: mirror, releases: https://m.example.com, registry: r.example.com, signatures: {trustedRootFile: r}"},
			path: "spec.components.signatures.trustedRootFile", at: "components:", want: []string{"none is verified", "set require: published or all"}},
		"signed how":                          {edits: []string{"source: modules", "source: official, signatures: {require: publishd}"}, path: "spec.components.signatures.require", at: "components:", want: []string{"did you mean `published`?"}},
		"signed modules":                      {edits: []string{"source: modules", "source: modules, signatures: {require: all}"}, path: "spec.components.signatures", at: "components:", want: []string{"has no field signatures", "`official` or `mirror`"}},
		"digest that is no":                   {edits: []string{"source: modules", "source: official, digest: sha256:12"}, path: "spec.components.digest", at: "components:", want: []string{"not a digest", "bundle list"}},
		"no endpoint":                         {edits: []string{"    endpoint: api.prod.example.com:6443\n", ""}, path: "spec.controlPlane.endpoint", at: "controlPlane:", want: []string{"no endpoint"}},
		"endpoint IP":                         {edits: []string{"api.prod.example.com:6443", "10.0.0.100:6443"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is an IP address", "only a name can be moved", "resolves to 10.0.0.100"}},
		"endpoint bare IP":                    {edits: []string{"api.prod.example.com:6443", "10.0.0.100"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is an IP address"}},
		"endpoint IPv6":                       {edits: []string{"api.prod.example.com:6443", "'[fd00::1]:6443'"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is an IP address"}},
		"endpoint bare IPv6":                  {edits: []string{"api.prod.example.com:6443", "'fd00::1'"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is an IP address"}},
		"endpoint URL":                        {edits: []string{"api.prod.example.com:6443", "https://api.prod.example.com:6443/"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"without a scheme", "write `api.prod.example.com:6443`"}},
		"endpoint port":                       {edits: []string{":6443", ":70000"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"`70000` is not a port"}},
		"endpoint port 0":                     {edits: []string{":6443", ":0"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"`0` is not a port"}},
		"endpoint capitals":                   {edits: []string{"api.prod.example", "API.prod.example"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"capital letters", "write `api.prod.example.com:6443`"}},
		"endpoint no name":                    {edits: []string{"api.prod.example.com", "api_prod"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"`api_prod` is not a DNS name"}},
		"endpoint short IP":                   {edits: []string{"api.prod.example.com", "10.1"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"`10.1` is not a DNS name"}},
		"endpoint localhost":                  {edits: []string{"api.prod.example.com", "localhost"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"different machine on every host"}},
		"endpoint in-house":                   {edits: []string{"api.prod.example.com", "api.cluster.local"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"cluster's own DNS"}},
		"endpoint is the Service":             {edits: []string{"api.prod.example.com", "kubernetes"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"`kubernetes` is the name of the API's Service"}},
		"endpoint is its FQDN":                {edits: []string{"api.prod.example.com:6443", "kubernetes.default.svc"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is the name of the API's Service"}},
		"endpoint ends with a dot":            {edits: []string{"api.prod.example.com:6443", "api.prod.example.com.:443"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"ends with a dot", "write `api.prod.example.com:443`"}},
		"endpoint is a dot":                   {edits: []string{"api.prod.example.com:6443", "'.:443'"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is not a DNS name"}},
		"endpoint too long":                   {edits: []string{"api.prod.example.com", strings.Repeat("abcdefg.", 31) + "abcdef"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"has 254 characters", "allows 253"}},
		"endpoint's long label":               {edits: []string{"api.prod", strings.Repeat("x", 64)}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"has 64 characters", "allows 63"}},
		"etcd too long":                       {edits: with(existingEtcd, "etcd-2.", strings.Repeat("x", 64)+"."), path: "spec.etcd.endpoints[1]", at: "xxx", want: []string{"has 64 characters"}},
		"etcd has the VIP":                    {edits: with(existingEtcd, "10.0.0.41:2379", "10.0.0.100:2379"), path: "spec.etcd.endpoints[0]", at: "10.0.0.100:2379", want: []string{"is also spec.loadBalancer.address (line"}},
		"etcd in pod range":                   {edits: with(existingEtcd, "10.0.0.41:2379", "10.244.0.41:2379"), path: "spec.network.podCIDR", at: "podCIDR", want: []string{"contains the addresses of your etcd: 10.244.0.41"}},
		"jump host too long":                  {edits: []string{"zone: a}", "zone: a, ssh: {jump: me@" + strings.Repeat("x", 64) + ".example.com}}"}, path: "spec.hosts[0].ssh.jump", at: "jump", want: []string{"has 64 characters"}},
		"VIP in pods":                         {edits: []string{"10.0.0.100", "10.244.0.100"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"contains the load balancer's address 10.244.0.100"}},
		"VIP is broadcast":                    {edits: []string{"10.0.0.100", "255.255.255.255"}, path: "spec.loadBalancer.address", at: "address: 255", want: []string{"no other machine can reach"}},
		"endpoint is a host":                  {edits: []string{"api.prod.example.com", "cp-a"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"also the name of a host"}},
		"endpoint is sshd's behind a gateway": {edits: []string{":6443", ":2222", "[load-balancer], zone: a", "[load-balancer], zone: a, ssh: {port: 2201, hostPort: 2222}"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"sshd already listens on port 2222 of `lb-a`"}},
		"a port of sshd on the host":          {edits: []string{"[load-balancer], zone: a", "[load-balancer], zone: a, ssh: {hostPort: 70000}"}, path: "spec.hosts[5].ssh.hostPort", at: "hostPort:", want: []string{"70000 is not a port"}},
		"endpoint is sshd's":                  {edits: []string{":6443", ":2222", "[load-balancer], zone: a", "[load-balancer], zone: a, ssh: {port: 2222}"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"sshd already listens on port 2222 of `lb-a`"}},
		"endpoint NodePort":                   {edits: []string{":6443", ":30443", "[worker], zone: a", "[worker, load-balancer], zone: a"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"NodePort range"}},
		"endpoint kubelet":                    {edits: []string{":6443", ":10250", "[worker], zone: a", "[worker, load-balancer], zone: a"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"belongs to kubelet"}},

		"more nodes than exist":  {edits: []string{"spec:\n", "spec:\n  size: {nodes: 6000}\n", "10.244.0.0/16", "10.128.0.0/10"}, path: "spec.size.nodes", at: "nodes: 6000", want: []string{"no cluster of 6000 nodes", "split the cluster"}},
		"more pods than exist":   {edits: []string{"spec:\n", "spec:\n  size: {pods: 200000}\n"}, path: "spec.size.pods", at: "pods: 200000", want: []string{"no cluster of 200000 pods"}},
		"few pods":               {edits: []string{"spec:\n", "spec:\n  size: {pods: -1}\n"}, path: "spec.size.pods", at: "pods: -1", want: []string{"no cluster of -1 pods"}},
		"pod range for plans":    {edits: []string{"spec:\n", "spec:\n  size: {nodes: 300}\n"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"enough for 256 nodes, but there are 300, or are to be", "use at least a /15"}},
		"one DNS replica":        {edits: []string{"spec:\n", "spec:\n  settings: {dns: {replicas: 1}}\n"}, path: "spec.settings.dns.replicas", at: "replicas: 1", want: []string{"single point of failure", "at least 2"}},
		"few connections":        {edits: []string{"address: 10.0.0.100", "address: 10.0.0.100\n    maxConnections: 999"}, path: "spec.loadBalancer.maxConnections", at: "maxConnections:", want: []string{"cannot accept 999", "from 1000 to 100000"}},
		"many connections":       {edits: []string{"address: 10.0.0.100", "address: 10.0.0.100\n    maxConnections: 100001"}, path: "spec.loadBalancer.maxConnections", at: "maxConnections:", want: []string{"cannot accept 100001"}},
		"negative connections":   {edits: []string{"address: 10.0.0.100", "address: 10.0.0.100\n    maxConnections: -1"}, path: "spec.loadBalancer.maxConnections", at: "maxConnections:", want: []string{"cannot accept -1"}},
		"connections of yours":   {edits: []string{"type: managed", "type: external\n    maxConnections: 5000", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]"}, path: "spec.loadBalancer.maxConnections", at: "maxConnections:", want: []string{"belongs to managed load balancers"}},
		"no VIP":                 {edits: []string{"    address: 10.0.0.100\n", ""}, path: "spec.loadBalancer.address", at: "loadBalancer:", want: []string{"no virtual IP", "free address"}},
		"external with hosts":    {edits: []string{"type: managed", "type: external"}, path: "spec.loadBalancer.type", at: "type:", want: []string{"needs no hosts", "`lb-a`"}},
		"unknown balancer":       {edits: []string{"type: managed", "type: manged"}, path: "spec.loadBalancer.type", at: "type:", want: []string{"did you mean `managed`?"}},
		"VIP is a name":          {edits: []string{"10.0.0.100", "vip.example.com"}, path: "spec.loadBalancer.address", at: "    address:", want: []string{"not an IP address"}},
		"VIP is a host's":        {edits: []string{"10.0.0.100", "10.0.0.21"}, path: "spec.hosts[3].address", at: "name: worker-a", want: []string{"already used by spec.loadBalancer.address (line 12)"}},
		"VIP in services":        {edits: []string{"10.0.0.100", "10.96.0.100"}, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"contains the load balancer's address 10.96.0.100"}},
		"endpoint of metrics":    {edits: []string{":6443", ":10270", "spec:\n", "spec:\n  monitoring: {exporter: true}\n", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is used for its metrics"}},
		"Prometheus, no metrics": {edits: append([]string{"spec:\n", "spec:\n  monitoring: {prometheus: {install: true}}\n"}, untainted...), path: "spec.monitoring.prometheus.install", at: "monitoring:", want: []string{"spec.monitoring.exporter does not expose them", "set `exporter: true`"}},
		"Prometheus, downloads":  {edits: append([]string{"spec:\n", "spec:\n  monitoring: {exporter: true, prometheus: {install: true}}\n", "source: modules", "source: official"}, untainted...), path: "spec.monitoring.prometheus.install", at: "monitoring:", want: []string{"the source `official` downloads does not contain Prometheus", "quorate bundle build --monitoring"}},
		"Prometheus, no workers": {edits: []string{"spec:\n", "spec:\n  monitoring: {exporter: true, prometheus: {install: true}}\n"}, path: "spec.monitoring.prometheus.install", at: "monitoring:", want: []string{"run on different nodes that take workloads, and the cluster has 0", "add workers"}},
		"retention":              {edits: []string{"spec:\n", "spec:\n  monitoring: {prometheus: {retention: 2 weeks}}\n"}, path: "spec.monitoring.prometheus.retention", at: "monitoring:", want: []string{"`2 weeks` is not a time", "like `12h`"}},
		"retention for ever":     {edits: []string{"spec:\n", "spec:\n  monitoring: {prometheus: {retention: 1000y}}\n"}, path: "spec.monitoring.prometheus.retention", at: "monitoring:", want: []string{"`1000y` is not a time"}},
		"little storage":         {edits: []string{"spec:\n", "spec:\n  monitoring: {prometheus: {storage: 500Mi}}\n"}, path: "spec.monitoring.prometheus.storage", at: "monitoring:", want: []string{"cannot work with `500Mi`", "at least `1Gi`"}},
		"no storage":             {edits: []string{"spec:\n", "spec:\n  monitoring: {prometheus: {storage: much}}\n"}, path: "spec.monitoring.prometheus.storage", at: "monitoring:", want: []string{"cannot work with `much`"}},
		"secret of Alertmanager": {edits: []string{"spec:\n", "spec:\n  monitoring: {prometheus: {alertmanagerSecret: other/receivers}}\n"}, path: "spec.monitoring.prometheus.alertmanagerSecret", at: "monitoring:", want: []string{"is not the name of a Secret"}},
		"endpoint of nodes":      {edits: append([]string{":6443", ":9100", "spec:\n", "spec:\n  monitoring: {exporter: true, prometheus: {install: true}}\n", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]"}, untainted...), path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"is used by the node exporter"}},

		"endpoint HAProxy's":    {edits: []string{":6443", ":8404"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"used by HAProxy for its watchdog"}},
		"endpoint etcd's":       {edits: []string{":6443", ":2379", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]"}, path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"`cp-a` belongs to etcd"}},
		"one balancer":          {edits: []string{"[load-balancer]", "[worker]"}, path: "spec.hosts", at: "hosts:", want: []string{"single point of failure", "`lb-b`"}},
		"balancers in one zone": {edits: []string{"[load-balancer], zone: b", "[load-balancer], zone: a"}, path: "spec.hosts", at: "hosts:", want: []string{"all load balancers are in zone `a`"}},

		"pod range host bits":     {edits: []string{"10.244.0.0/16", "10.244.1.0/16"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"does not start with its first address", "write 10.244.0.0/16"}},
		"pod range not a range":   {edits: []string{"10.244.0.0/16", "10.244.0.0"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"not an address range"}},
		"pod range IPv6":          {edits: []string{"10.244.0.0/16", "fd00::/48"}, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"the pods have only IPv6, but the Services only IPv4", "fd00:10:96::/112"}},
		"pod range dual-stack":    {edits: []string{"10.244.0.0/16", "'10.244.0.0/16,fd00::/48'"}, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"the pods have IPv4 first, then IPv6, but the Services only IPv4", "10.96.0.0/12,fd00:10:96::/112"}},
		"pod range twice":         {edits: []string{"10.244.0.0/16", "'10.244.0.0/16,10.245.0.0/16'"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"several ranges of one family", "10.244.0.0/16,fd00:10:244::/56"}},
		"pod range with a space":  {edits: []string{"10.244.0.0/16", "'10.244.0.0/16, fd00::/48'"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"contains a space"}},
		"pod range long form":     {edits: []string{"10.244.0.0/16", "'fd00:0::/56'"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"not the usual form", "write fd00::/56"}},
		"hosts of no family":      {edits: []string{"10.244.0.0/16", "fd00:10:244::/56", "10.96.0.0/12", "fd00:10:96::/112"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"the hosts have IPv4 addresses, but the pods have only IPv6"}},
		"IPv6 pods too large":     {edits: with(ipv6Edits, "fd00:10:244::/56", "fd10::/47"), path: "spec.network.podCIDR", at: "podCIDR", want: []string{"too large", "/48"}},
		"IPv6 pods too small":     {edits: with(ipv6Edits, "fd00:10:244::/56", "fd00:10:244::/62"), path: "spec.network.podCIDR", at: "podCIDR", want: []string{"each node gets a /64", "enough for 4 nodes, but there are 5", "use a /56, or at least a /61"}},
		"IPv6 services too large": {edits: with(ipv6Edits, "fd00:10:96::/112", "fd00:10:96::/107"), path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"too large", "/108"}},
		"IPv6 services too small": {edits: with(ipv6Edits, "fd00:10:96::/112", "fd00:10:96::/125"), path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"too small", "/124"}},
		"IPv6 ranges overlap":     {edits: with(ipv6Edits, "fd00:10:96::/112", "fd00:10:244::/112"), path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"overlaps the pods' fd00:10:244::/56"}},
		"IPv6 lab range":          {edits: with(ipv6Edits, "fd00:10:244::/56", "fd51:c612::/56"), lab: true, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"the range of lab machines"}},
		"IPv4 endpoint":           {edits: with(ipv6Edits, "'fd00::100'", "10.0.0.100"), path: "spec.loadBalancer.address", at: "    address:", want: []string{"the endpoint has an IPv4 address", "IPv6"}},
		"secondary missing":       {edits: with(dualEdits, ", secondaryAddress: 'fd00::11'", ""), path: "spec.hosts[0]", at: "cp-a", want: []string{"`cp-a` has only IPv4", "`secondaryAddress`"}},
		"secondary of one family": {edits: with(dualEdits, "secondaryAddress: 'fd00::11'", "secondaryAddress: 10.0.0.111"), path: "spec.hosts[0].secondaryAddress", at: "cp-a", want: []string{"both addresses of `cp-a` are IPv4"}},
		"secondary not used":      {edits: []string{"address: 10.0.0.11", "address: 10.0.0.11, secondaryAddress: 'fd00::11'"}, path: "spec.hosts[0].secondaryAddress", at: "cp-a", want: []string{"the pods have only IPv4", "podCIDR: 10.244.0.0/16,fd00:10:244::/56"}},
		"secondary twice":         {edits: with(dualEdits, "'fd00::12'", "'fd00::11'"), path: "spec.hosts[1].secondaryAddress", at: "cp-b", want: []string{"already used by spec.hosts[0].secondaryAddress"}},
		"secondary in pods":       {edits: with(dualEdits, "'fd00::11'", "'fd00:10:244::11'"), path: "spec.network.podCIDR", at: "podCIDR", want: []string{"contains the addresses of hosts: cp-a"}},
		"front missing":           {edits: with(frontEdits, ", frontAddress: 192.0.2.32", ""), path: "spec.hosts[6].frontAddress", at: "lb-b", want: []string{"`lb-b` has no frontAddress, but lb-a has one", "add the address that `lb-b` has in that network"}},
		"front of a worker":       {edits: with(frontEdits, "10.0.0.21", "10.0.0.21, frontAddress: 192.0.2.21"), path: "spec.hosts[3].frontAddress", at: "worker-a", want: []string{"`worker-a` has a frontAddress and is no load balancer"}},
		"front is the address":    {edits: with(frontEdits, "frontAddress: 192.0.2.31", "frontAddress: 10.0.0.31"), path: "spec.hosts[5].frontAddress", at: "lb-a", want: []string{"already used by spec.hosts[5].address"}},
		"front is the virtual IP": {edits: with(frontEdits, "frontAddress: 192.0.2.31", "frontAddress: 192.0.2.100"), path: "spec.hosts[5].frontAddress", at: "lb-a", want: []string{"already used by spec.loadBalancer.address"}},
		"front in pods":           {edits: with(frontEdits, "192.0.2.31", "10.244.0.31"), path: "spec.network.podCIDR", at: "podCIDR", want: []string{"contains the addresses of hosts: lb-a"}},
		"front of IPv6":           {edits: with(frontEdits, "192.0.2.31", "'fd00::31'"), path: "spec.hosts[5].frontAddress", at: "lb-a", want: []string{"the frontAddress of `lb-a` is an IPv6 address", "IPv4"}},
		"front of your own":       {edits: []string{"type: managed", "type: external", "[load-balancer]", "[worker]", "[load-balancer]", "[worker]", "10.0.0.11", "10.0.0.11, frontAddress: 192.0.2.11"}, path: "spec.hosts[0].frontAddress", at: "cp-a", want: []string{"your own"}},
		"traffic of one family":   {edits: with(dualEdits, "    podCIDR:", "    podTrafficCIDR: 10.1.0.0/24\n    podCIDR:"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"the pods have IPv4 first, then IPv6, but the network between their nodes only IPv4"}},
		"traffic of the other":    {edits: with(trafficEdits, "10.1.0.0/24", "fd00:1::/64"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"the pods have only IPv4, but the network between their nodes only IPv6"}},
		"traffic of odd IPv6":     {edits: with(ipv6Edits, "podCIDR: fd00:10:244::/56", "podCIDR: fd00:10:244::/56\n    podTrafficCIDR: fd00:1::/60"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"multiple of 16", "use a /48"}},
		"traffic in pods":         {edits: with(trafficEdits, "10.1.0.0/24", "10.244.8.0/24"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"overlaps 10.244.0.0/16"}},
		"traffic in services":     {edits: with(trafficEdits, "10.1.0.0/24", "10.97.0.0/24"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"overlaps 10.96.0.0/12"}},
		"traffic of a plugin":     {edits: with(trafficEdits, "cni: flannel", "cni: none"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"it is for flannel, but this is `cni: none`"}},
		"traffic, an address":     {edits: with(trafficEdits, "10.1.0.0/24", "10.1.0.5/24"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"does not start with its first address"}},
		"traffic and virtual IP":  {edits: with(trafficEdits, "10.1.0.0/24", "10.0.0.0/24", "10.0.0.31, roles: [load-balancer]", "10.0.0.31, roles: [load-balancer, worker]"), path: "spec.network.podTrafficCIDR", at: "podTrafficCIDR", want: []string{"contains the virtual IP 10.0.0.100, which nodes have"}},
		"SSH at user and address": {edits: []string{"10.0.0.11, roles: [control-plane], zone: a", "10.0.0.11, roles: [control-plane], zone: a, ssh: {address: 'root@203.0.113.11:22'}"}, path: "spec.hosts[0].ssh.address", at: "cp-a", want: []string{"`root@203.0.113.11:22` is neither an address nor a DNS name"}},
		"families swapped":        {edits: with(dualEdits, "address: 10.0.0.11, secondaryAddress: 'fd00::11'", "address: 'fd00::11', secondaryAddress: 10.0.0.11"), path: "spec.hosts[0].address", at: "cp-a", want: []string{"reached by IPv6, but the first range of the pods is IPv4"}},
		"pod range too small":     {edits: []string{"10.244.0.0/16", "10.244.0.0/22"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"enough for 4 nodes, but there are 5", "at least a /21"}},
		"pod range tiny":          {edits: []string{"10.244.0.0/16", "10.244.0.0/25"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"too small", "/24"}},
		"pod range too large":     {edits: []string{"10.244.0.0/16", "64.0.0.0/7"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"too large", "/8"}},
		"pod range multicast":     {edits: []string{"10.244.0.0/16", "224.0.0.0/16"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"not a range that machines can use"}},
		"service range too large": {edits: []string{"10.96.0.0/12", "172.0.0.0/11"}, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"too large", "/12"}},
		"service range too small": {edits: []string{"10.96.0.0/12", "10.96.0.0/29"}, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"too small", "/28"}},
		"ranges overlap":          {edits: []string{"10.244.0.0/16", "10.100.0.0/16"}, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"10.96.0.0/12 overlaps the pods' 10.100.0.0/16"}},
		"hosts in pod range":      {edits: []string{"10.0.0.11", "10.244.0.11", "10.0.0.12", "10.244.0.12"}, path: "spec.network.podCIDR", at: "podCIDR", want: []string{"contains the addresses of hosts: cp-a, cp-b"}},
		"lab in service range":    {edits: []string{"10.96.0.0/12", "198.18.0.0/16"}, lab: true, path: "spec.network.serviceCIDR", at: "serviceCIDR", want: []string{"the range of lab machines"}},

		"duplicate name":         {edits: []string{"cp-b", "cp-a"}, path: "spec.hosts[1].name", at: "10.0.0.12", want: []string{"already the name of spec.hosts[0] (line 20)"}},
		"duplicate address":      {edits: []string{"10.0.0.12", "10.0.0.11"}, path: "spec.hosts[1].address", at: "cp-b", want: []string{"already used by spec.hosts[0].address (line 20)"}},
		"no host name":           {edits: []string{"name: cp-a, ", ""}, path: "spec.hosts[0].name", at: "10.0.0.11", want: []string{"the host has no name"}},
		"capital host name":      {edits: []string{"cp-a", "CP_A"}, path: "spec.hosts[0].name", at: "CP_A", want: []string{"not a DNS label", "write `cp-a`"}},
		"dotted host name":       {edits: []string{"cp-a", "cp-a.example.com"}, path: "spec.hosts[0].name", at: "10.0.0.11", want: []string{"use the short name, `cp-a`"}},
		"host name localhost":    {edits: []string{"cp-a", "localhost"}, path: "spec.hosts[0].name", at: "10.0.0.11", want: []string{"localhost is the name of every machine"}},
		"host name number":       {edits: []string{"cp-a", "'17'"}, path: "spec.hosts[0].name", at: "10.0.0.11", want: []string{"parsed as an IP address"}},
		"address is a name":      {edits: []string{"10.0.0.11", "cp-a.example.com"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"not an IP address", "does not depend on DNS"}},
		"address is a network":   {edits: []string{"10.0.0.11", "10.0.0.11/24"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"leave out the prefix length"}},
		"address with port":      {edits: []string{"10.0.0.11", "'10.0.0.11:22'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"leave out the port"}},
		"address IPv6":           {edits: []string{"10.0.0.11", "'fd00::11'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"`cp-a` has an IPv6 address, but the pods have only IPv4"}},
		"address mapped":         {edits: []string{"10.0.0.11", "'::ffff:10.0.0.11'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"write `10.0.0.11`"}},
		"address long form":      {edits: []string{"10.0.0.11", "'FD00:0::11'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"write `fd00::11`"}},
		"address in brackets":    {edits: []string{"10.0.0.11", "'[fd00::11]'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"write `fd00::11`"}},
		"address with IPv6 port": {edits: []string{"10.0.0.11", "'[fd00::11]:22'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"leave out the port"}},
		"address link-local":     {edits: []string{"10.0.0.11", "'fe80::11'"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"link-local"}},
		"address loopback":       {edits: []string{"10.0.0.11", "127.0.0.1"}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"no other machine can reach 127.0.0.1"}},
		"address missing":        {edits: []string{", address: 10.0.0.11", ""}, path: "spec.hosts[0].address", at: "cp-a", want: []string{"`cp-a` has no address, while other hosts have one"}},
		"address mixed in lab":   {edits: []string{", address: 10.0.0.11", ""}, lab: true, path: "spec.hosts[0].address", at: "cp-a", want: []string{"cannot be mixed"}},
		"no zone":                {edits: []string{", zone: c}", "}"}, path: "spec.hosts[2].zone", at: "cp-c", want: []string{"the host has no zone"}},
		"impossible zone":        {edits: []string{"zone: c}", "zone: c/d}"}, path: "spec.hosts[2].zone", at: "cp-c", want: []string{"`c/d` cannot be a zone"}},
		"no roles":               {edits: []string{"[worker]", "[]"}, path: "spec.hosts[3].roles", at: "10.0.0.21", want: []string{"the host has no role"}},
		"unknown role":           {edits: []string{"[worker]", "[worker, wroker]"}, path: "spec.hosts[3].roles[1]", at: "10.0.0.21", want: []string{"`wroker` is not known", "did you mean `worker`?"}},
		"etcd role, stacked":     {edits: []string{"[worker]", "[worker, etcd]"}, path: "spec.hosts[3].roles[1]", at: "10.0.0.21", want: []string{"runs on the control planes", "topology: external"}},
		"role twice":             {edits: []string{"[worker]", "[worker, worker]"}, path: "spec.hosts[3].roles[1]", at: "10.0.0.21", want: []string{"given twice"}},
		"ssh address of another": {edits: []string{"zone: a}", "zone: a, ssh: {address: gate.example.com}}", "[control-plane], zone: b}", "[control-plane], zone: b, ssh: {address: Gate.example.com}}"}, path: "spec.hosts[1].ssh.address", at: "cp-b", want: []string{"`cp-a` is reached there, too", "port"}},
		"ssh address of a node":  {edits: []string{"zone: a}", "zone: a, ssh: {address: 10.0.0.12}}"}, path: "spec.hosts[0].ssh.address", at: "cp-a", want: []string{"`cp-b` is reached there, too"}},
		"ssh user":               {edits: []string{"zone: a}", "zone: a, ssh: {user: '-oProxyCommand=x'}}"}, path: "spec.hosts[0].ssh.user", at: "cp-a", want: []string{"not a user name"}},
		"ssh port":               {edits: []string{"zone: a}", "zone: a, ssh: {port: 99999}}"}, path: "spec.hosts[0].ssh.port", at: "cp-a", want: []string{"99999 is not a port"}},
		"ssh host key":           {edits: []string{"zone: a}", "zone: a, ssh: {hostKey: 'SHA256:abc'}}"}, path: "spec.hosts[0].ssh.hostKey", at: "cp-a", want: []string{"`SHA256:abc` is not a host key", "ssh-keygen -lf"}},
		"ssh host key, private":  {edits: []string{"zone: a}", "zone: a, ssh: {hostKey: '-----BEGIN OPENSSH PRIVATE KEY-----'}}"}, path: "spec.hosts[0].ssh.hostKey", at: "cp-a", want: []string{"neither a fingerprint nor a public key"}},
		"ssh jump":               {edits: []string{"zone: a}", "zone: a, ssh: {jump: 'a b'}}"}, path: "spec.hosts[0].ssh.jump", at: "cp-a", want: []string{"not a jump host", "user@address:port"}},
		"ssh jumps":              {edits: []string{"zone: a}", "zone: a, ssh: {jump: 'a@b, c'}}"}, path: "spec.hosts[0].ssh.jump", at: "cp-a", want: []string{"` c` is not a jump host", "commas"}},
		"a key too many":         {edits: []string{"zone: a}", "zone: a, ssh: {jump: 'one,two', jumpKeyFile: '~/i,~/j,~/k'}}"}, path: "spec.hosts[0].ssh.jumpKeyFile", at: "cp-a", want: []string{"has 3 keys, and jump names 2"}},
		"a space between keys":   {edits: []string{"zone: a}", "zone: a, ssh: {jump: 'one,two', jumpKeyFile: '~/i, ~/j'}}"}, path: "spec.hosts[0].ssh.jumpKeyFile", at: "cp-a", want: []string{"without spaces"}},
		"a key for no jump":      {edits: []string{"zone: a}", "zone: a, ssh: {jumpKeyFile: ~/j}}"}, path: "spec.hosts[0].ssh.jumpKeyFile", at: "cp-a", want: []string{"there is none"}},
		"ssh jump port":          {edits: []string{"zone: a}", "zone: a, ssh: {jump: 'a@b:0'}}"}, path: "spec.hosts[0].ssh.jump", at: "cp-a", want: []string{"not a jump host"}},

		"no control planes":    {edits: []string{"[control-plane]", "[worker]", "[control-plane]", "[worker]", "[control-plane]", "[worker]"}, path: "spec.hosts", at: "hosts:", want: []string{"no host has the role control-plane"}},
		"one control plane":    {edits: []string{"[control-plane]", "[worker]", "[control-plane]", "[worker]"}, path: "spec.hosts", at: "hosts:", want: []string{"not highly available", "use 3"}},
		"two control planes":   {edits: []string{"[control-plane]", "[worker]"}, path: "spec.hosts", at: "hosts:", want: []string{"2 control planes", "tolerate no failure", "use 3"}},
		"four control planes":  {edits: []string{"[worker]", "[control-plane, worker]"}, path: "spec.hosts", at: "hosts:", want: []string{"4 control planes tolerate no more failures than 3", "quorum of 4 is 3", "survive the loss of 1", "use 3, or 5, which survive the loss of 2"}},
		"two zones":            {edits: []string{"zone: c}", "zone: b}"}, path: "spec.controlPlane.placement", at: "placement:", want: []string{"at least three zones", "they are in 2 (a, b)", "zonal"}},
		"majority in one zone": {edits: []string{"[worker], zone: a", "[worker, control-plane], zone: a", "[worker], zone: b", "[worker, control-plane], zone: a", "zones: [a, b]", "zones: [a]"}, path: "spec.hosts", at: "hosts:", want: []string{"zone `a` holds 3 of 5 control planes", "at most 2"}},
		"zonal over zones":     {edits: []string{"placement: regional", "placement: zonal"}, path: "spec.controlPlane.placement", at: "placement:", want: []string{"one zone; they are in 3 (a, b, c)"}},
		"no workers":           {edits: []string{"[worker]", "[load-balancer]", "[worker]", "[load-balancer]", real[strings.Index(real, "  nodePools"):], ""}, path: "spec.hosts", at: "hosts:", want: []string{"no host runs workloads"}},
		"no hosts":             {edits: []string{real[strings.Index(real, "  hosts:"):], ""}, path: "spec.hosts", at: "spec:", want: []string{"no hosts", "quorate init"}},

		"no etcd":              {edits: []string{"topology: stacked", "topology: external"}, path: "spec.controlPlane.topology", at: "topology:", want: []string{"needs an etcd", "role etcd to three hosts", "etcd.endpoints"}},
		"one etcd host":        {edits: with(managedEtcd, "[etcd], zone: a", "[load-balancer], zone: a", "[etcd], zone: b", "[load-balancer], zone: b"), path: "spec.hosts", at: "hosts:", want: []string{"one etcd host is not highly available", "`etcd-c`", "use 3"}},
		"two etcd hosts":       {edits: with(managedEtcd, "[etcd], zone: a", "[load-balancer], zone: a"), path: "spec.hosts", at: "hosts:", want: []string{"2 etcd hosts are not highly available"}},
		"four etcd hosts":      {edits: with(managedEtcd, "[load-balancer], zone: a", "[load-balancer, etcd], zone: a"), path: "spec.hosts", at: "hosts:", want: []string{"4 etcd hosts tolerate no more failures than 3"}},
		"etcd in two zones":    {edits: with(managedEtcd, "[etcd], zone: c", "[etcd], zone: b"), path: "spec.controlPlane.placement", at: "placement:", want: []string{"needs etcd hosts in at least three zones", "in 2 (a, b)"}},
		"etcd's majority":      {edits: with(managedEtcd, "[load-balancer], zone: a", "[load-balancer, etcd], zone: a", "[load-balancer], zone: b", "[load-balancer, etcd], zone: b", "10.0.0.41, roles: [etcd], zone: a", "10.0.0.41, roles: [etcd], zone: b"), path: "spec.hosts", at: "hosts:", want: []string{"zone `b` holds 3 of 5 etcd hosts", "at most 2"}},
		"control planes apart": {edits: with(managedEtcd, "[control-plane], zone: b", "[control-plane], zone: a", "[control-plane], zone: c", "[control-plane], zone: a"), path: "spec.controlPlane.placement", at: "placement:", want: []string{"at least two zones", "all in a"}},
		"zonal, etcd apart":    {edits: with(managedEtcd, "placement: regional", "placement: zonal", "[control-plane], zone: b", "[control-plane], zone: a", "[control-plane], zone: c", "[control-plane], zone: a"), path: "spec.controlPlane.placement", at: "placement:", want: []string{"control planes and etcd hosts in one zone", "in 3 (a, b, c)"}},
		"lonely API server":    {edits: with(managedEtcd, "[control-plane], zone: b", "[worker], zone: b", "[control-plane], zone: c", "[worker], zone: c"), path: "spec.hosts", at: "hosts:", want: []string{"one control plane is not highly available", "use 2"}},
		"etcd on a node":       {edits: with(managedEtcd, "[worker], zone: a", "[worker, etcd], zone: a", "[load-balancer], zone: b", "[load-balancer, etcd], zone: b"), path: "spec.hosts[6].roles[1]", at: "10.0.0.21", want: []string{"shares `worker-a` with Kubernetes"}},
		"endpoint is etcd's":   {edits: with(managedEtcd, ":6443", ":2379", "[etcd]", "[etcd, load-balancer]"), path: "spec.controlPlane.endpoint", at: "endpoint:", want: []string{"port 2379 of `etcd-a` belongs to etcd"}},
		"etcd, stacked":        {edits: with(existingEtcd, "topology: external", "topology: stacked"), path: "spec.etcd", at: "  etcd:", want: []string{"runs on the control planes", "topology: external"}},
		"two etcds":            {edits: with(existingEtcd, "[load-balancer]", "[load-balancer, etcd]"), path: "spec.etcd.endpoints", at: "endpoints:", want: []string{"there are two etcds", "`lb-a`"}},
		"etcd without a key":   {edits: with(existingEtcd, "    keyFile: client.key\n", ""), path: "spec.etcd.keyFile", at: "  etcd:", want: []string{"lacks the key of the client certificate"}},
		"etcd without TLS":     {edits: with(existingEtcd, "https://10.0.0.41", "http://10.0.0.41"), path: "spec.etcd.endpoints[0]", at: "10.0.0.41", want: []string{"without TLS", "write `https://10.0.0.41:2379`"}},
		"etcd no URL":          {edits: with(existingEtcd, "https://10.0.0.41", "10.0.0.41"), path: "spec.etcd.endpoints[0]", at: "10.0.0.41", want: []string{"is not a URL", "write `https://10.0.0.41:2379`"}},
		"etcd no port":         {edits: with(existingEtcd, "10.0.0.41:2379", "10.0.0.41"), path: "spec.etcd.endpoints[0]", at: "10.0.0.41", want: []string{"has no port", "write `https://10.0.0.41:2379`"}},
		"etcd path":            {edits: with(existingEtcd, "10.0.0.41:2379", "10.0.0.41:2379/v3"), path: "spec.etcd.endpoints[0]", at: "10.0.0.41", want: []string{"https://host:port"}},
		"etcd on loopback":     {edits: with(existingEtcd, "10.0.0.41:2379", "127.0.0.1:2379"), path: "spec.etcd.endpoints[0]", at: "127.0.0.1", want: []string{"a different machine on every host"}},
		"etcd IPv6":            {edits: with(existingEtcd, "10.0.0.41:2379", "[fd00::1]:2379"), path: "spec.etcd.endpoints[0]", at: "fd00", want: []string{"the control planes have no IPv6 address"}},
		"etcd no name":         {edits: with(existingEtcd, "10.0.0.41:2379", "etcd_1:2379"), path: "spec.etcd.endpoints[0]", at: "etcd_1", want: []string{"neither an address nor a DNS name"}},
		"etcd endpoint twice":  {edits: with(existingEtcd, "- https://etcd-2.example.com:2379", "- https://etcd-3.example.com:2379 # one", "      - https://etcd-3.example.com:2379\n    caFile", "      - https://etcd-3.example.com:2379 # two\n    caFile"), path: "spec.etcd.endpoints[2]", at: "# two", want: []string{"already spec.etcd.endpoints[1] (line 13)"}},
		"etcd no endpoints":    {edits: with(existingEtcd, "    endpoints:\n      - https://10.0.0.41:2379\n      - https://etcd-2.example.com:2379\n      - https://etcd-3.example.com:2379\n", ""), path: "spec.etcd.endpoints", at: "  etcd:", want: []string{"none of its endpoints"}},
		"etcd's field":         {edits: with(existingEtcd, "caFile", "caFlie"), path: "spec.etcd.caFlie", at: "caFlie", want: []string{"unknown field `caFlie`", "did you mean `caFile`?"}},

		"pool no name":        {edits: []string{"name: web", "name: ''"}, path: "spec.nodePools[0].name", at: "name: ''", want: []string{"the pool has no name"}},
		"pool bad name":       {edits: []string{"name: web", "name: Web"}, path: "spec.nodePools[0].name", at: "name: Web", want: []string{"write `web`"}},
		"pool no hosts":       {edits: []string{"      zones: [a, b]\n", "", "[worker-a, worker-b]", "[]"}, path: "spec.nodePools[0].hosts", at: "hosts: []", want: []string{"has no hosts"}},
		"pool unknown host":   {edits: []string{"[worker-a, worker-b]", "[worker-a, worker-b, workr-b]"}, path: "spec.nodePools[0].hosts[2]", at: "hosts: [w", want: []string{"no host `workr-b`", "did you mean `worker-b`?"}},
		"pool control plane":  {edits: []string{"[worker-a, worker-b]", "[worker-a, worker-b, cp-a]"}, path: "spec.nodePools[0].hosts[2]", at: "hosts: [w", want: []string{"`cp-a` is not a worker"}},
		"pool host twice":     {edits: []string{"[worker-a, worker-b]", "[worker-a, worker-b, worker-a]"}, path: "spec.nodePools[0].hosts[2]", at: "hosts: [w", want: []string{"in the pool twice"}},
		"host in two pools":   {edits: []string{"      hosts: [worker-a, worker-b]", "      hosts: [worker-a, worker-b]\n    - {name: db, hosts: [worker-a]}"}, path: "spec.nodePools[1].hosts[0]", at: "name: db", want: []string{"already in another pool, spec.nodePools[0] (line 28)"}},
		"pool name twice":     {edits: []string{"      hosts: [worker-a, worker-b]", "      hosts: [worker-a]\n    - {name: web, hosts: [worker-b]}", "zones: [a, b]", "zones: [a]"}, path: "spec.nodePools[1].name", at: "- {name: web", want: []string{"two pools `web`"}},
		"pool unknown zone":   {edits: []string{"zones: [a, b]", "zones: [a, b, z]"}, path: "spec.nodePools[0].zones[2]", at: "zones:", want: []string{"no host is in zone `z`"}},
		"pool zone twice":     {edits: []string{"zones: [a, b]", "zones: [a, b, a]"}, path: "spec.nodePools[0].zones[2]", at: "zones:", want: []string{"given twice"}},
		"pool empty zone":     {edits: []string{"zones: [a, b]", "zones: [a, b, c]"}, path: "spec.nodePools[0].zones[2]", at: "zones:", want: []string{"none of the pool's hosts is in zone `c`"}},
		"pool host elsewhere": {edits: []string{"zones: [a, b]", "zones: [a]"}, path: "spec.nodePools[0].hosts[1]", at: "hosts: [w", want: []string{"`worker-b` is in zone `b`, which is not one of the pool's (a)"}},
		"label key":           {edits: []string{"example.com/tier: web", "'example.com/a b': web"}, path: "spec.nodePools[0].labels[example.com/a b]", at: "labels:", want: []string{"is not a label key"}},
		"label value":         {edits: []string{"example.com/tier: web", "tier: 'a b'"}, path: "spec.nodePools[0].labels[tier]", at: "labels:", want: []string{"`a b` is not a label value"}},
		"label of the host":   {edits: []string{"example.com/tier: web", "topology.kubernetes.io/zone: x"}, path: "spec.nodePools[0].labels[topology.kubernetes.io/zone]", at: "labels:", want: []string{"comes from the host's zone"}},
		"taint key":           {edits: []string{"key: dedicated", "key: -x"}, path: "spec.nodePools[0].taints[0]", at: "taints:", want: []string{"is not a taint key"}},
		"taint effect":        {edits: []string{"effect: NoSchedule", "effect: NoSchedul"}, path: "spec.nodePools[0].taints[0].effect", at: "taints:", want: []string{"did you mean `NoSchedule`?"}},
		"taint no effect":     {edits: []string{", effect: NoSchedule", ""}, path: "spec.nodePools[0].taints[0].effect", at: "taints:", want: []string{"it is empty", "`NoExecute`"}},
		"taint twice":         {edits: []string{"effect: NoSchedule}", "effect: NoSchedule}, {key: dedicated, effect: NoSchedule}"}, path: "spec.nodePools[0].taints[1]", at: "taints:", want: []string{"given twice"}},

		"unknown field":        {edits: []string{"endpoint:", "endpont:"}, path: "spec.controlPlane.endpont", at: "endpont:", want: []string{"unknown field `endpont`", "did you mean `endpoint`?"}},
		"other spelling":       {edits: []string{"podCIDR:", "pod_cidr:"}, path: "spec.network.pod_cidr", at: "pod_cidr", want: []string{"did you mean `podCIDR`?"}},
		"misplaced field":      {edits: []string{"kubernetes: {version: v1.37.2}", "kubernetes: {version: v1.37.2, endpoint: x}"}, path: "spec.kubernetes.endpoint", at: "kubernetes:", want: []string{"`endpoint` belongs in spec.controlPlane"}},
		"nothing near":         {edits: []string{"failover: {profile: fast}", "failover: {gadget: fast}"}, path: "spec.failover.gadget", at: "failover", want: []string{"unknown field `gadget`", "the fields here are profile, electionTimeout"}},
		"string for a list":    {edits: []string{"roles: [worker]", "roles: worker"}, path: "spec.hosts[3].roles", at: "10.0.0.21", want: []string{"expected a list of strings, got the string `worker`", "write [worker]"}},
		"number for a string":  {edits: []string{"zone: c}", "zone: 3}"}, path: "spec.hosts[2].zone", at: "cp-c", want: []string{"expected a string, got the number `3`", `"3"`}},
		"boolean for a string": {edits: []string{"example.com/tier: web", "gpu: true"}, path: "spec.nodePools[0].labels[gpu]", at: "labels:", want: []string{"expected a string, got the boolean `true`"}},
		"string for a number":  {edits: []string{"zone: a}", "zone: a, ssh: {port: ssh}}"}, path: "spec.hosts[0].ssh.port", at: "cp-a", want: []string{"expected a whole number, got the string `ssh`"}},
		"huge number":          {edits: []string{"zone: a}", "zone: a, ssh: {port: 99999999999999999999}}"}, path: "spec.hosts[0].ssh.port", at: "cp-a", want: []string{"expected a whole number"}},
		"list for a mapping":   {edits: []string{"failover: {profile: fast}", "failover: [fast]"}, path: "spec.failover", at: "failover", want: []string{"expected a mapping, got a list"}},
		"set twice":            {edits: []string{"kind: Cluster", "kind: Cluster\nkind:  Cluster"}, path: "kind", at: "kind:  Cluster", want: []string{"`kind` is set twice, first in line 2"}},
		"merged nonsense":      {edits: []string{"zone: a}", "zone: a, ssh: {<<: 3}}"}, path: "spec.hosts[0].ssh.<<", at: "cp-a", want: []string{"only a mapping can be merged"}},
	} {
		t.Run(name, func(t *testing.T) {
			data := edit(t, real, tc.edits...)
			_, err := Check([]byte(data), "cluster.yaml", Options{Lab: tc.lab})
			errs, ok := errors.AsType[Errors](err)
			if !ok {
				t.Fatalf("got %v, want Errors", err)
			}
			if len(errs) != 1 {
				t.Fatalf("want exactly one problem, got:\n%v", err)
			}
			p := errs[0]
			line := lineOf(t, data, tc.at)
			if p.Path != tc.path || p.Line != line || p.Column == 0 || p.File != "cluster.yaml" {
				t.Errorf("placed at %s:%d:%d %s, want line %d %s", p.File, p.Line, p.Column, p.Path, line, tc.path)
			}
			if p.Fix == "" {
				t.Errorf("%s\nsays nothing about what to do", p)
			}
			for _, part := range tc.want {
				if !strings.Contains(p.String(), part) {
					t.Errorf("%s\nlacks %q", p, part)
				}
			}
		})
	}
}

func TestTooManyControlPlanes(t *testing.T) {
	for _, n := range []int{8, 9} {
		c := InitOptions{ControlPlanes: n}.cluster()
		c.Default()
		errs := Validate(c, Options{Lab: true})
		if len(errs) != 1 || !strings.Contains(errs[0].Message, "too many") || errs[0].Line != 0 {
			t.Errorf("%d control planes: %v", n, errs)
		}
	}
}

func TestNoAddressAtAllIsOneProblem(t *testing.T) {
	data := mustInit(t, InitOptions{})
	_, err := Check(data, "cluster.yaml", Options{})
	errs, _ := errors.AsType[Errors](err)
	if len(errs) != 2 || !strings.Contains(err.Error(), "no host has an address") || !strings.Contains(err.Error(), "no virtual IP") {
		t.Errorf("got %v", err)
	}
}

// All problems come at once, in the order of the file, one to a line, and none that only follows from another.
func TestAllProblemsAtOnce(t *testing.T) {
	data := edit(t, real, "kind: Cluster", "kind: Klaster", "endpoint:", "endpont:", "podCIDR: 10.244.0.0/16", "podCIDR: [1]",
		"zone: c}", "zone: 3}", "10.0.0.22", "10.0.0.21", "hosts: [worker-a, worker-b]", "hosts: [worker-a, worker-x]")
	_, err := Check([]byte(data), "cluster.yaml", Options{})
	lines := strings.Split(err.Error(), "\n")
	want := []string{
		"cluster.yaml:2:1: kind: `Klaster` is not known",
		"cluster.yaml:7:5: spec.controlPlane.endpont: unknown field `endpont`; did you mean `endpoint`?",
		"cluster.yaml:15:14: spec.network.podCIDR: expected a string, got a list",
		"cluster.yaml:22:70: spec.hosts[2].zone: expected a string, got the number `3`; put it in quotes: \"3\"",
		"cluster.yaml:24:24: spec.hosts[4].address: 10.0.0.21 is already used by spec.hosts[3].address (line 23); give each host its own address",
		"cluster.yaml:32:25: spec.nodePools[0].hosts[1]: there is no host `worker-x`",
	}
	if len(lines) != len(want) {
		t.Fatalf("got\n%v", err)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("line %d is\n%s\nwant\n%s", i, lines[i], want[i])
		}
	}
}

func TestNearestVersion(t *testing.T) {
	opts := Options{Versions: []string{"v1.35.9", "v1.36.4", "v1.37.2", "v1.37.0"}}
	for given, want := range map[string]string{
		"v1.37.1": "v1.37.2", "v1.36.9": "v1.36.4", "v1.20.0": "v1.35.9", "v2.0.0": "v1.37.2", "v1.38.0": "v1.37.2",
	} {
		c := DefaultLab("x")
		c.Spec.Kubernetes.Version = given
		errs := Validate(c, Options{Versions: opts.Versions, Lab: true})
		if len(errs) != 1 || !strings.Contains(errs[0].Fix+";", "version is "+want+";") {
			t.Errorf("%s: got %v, want %s", given, errs, want)
		}
	}
	c := DefaultLab("x")
	if errs := Validate(c, Options{Versions: []string{}, Lab: true}); len(errs) != 1 {
		t.Errorf("without any bundle: %v", errs)
	}
}

func mustParse(t *testing.T, data string) *Cluster {
	t.Helper()
	c, err := Parse([]byte(data), "cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPrometheusHasDefaults where it is installed, and a spec without it stays as it is.
func TestPrometheusHasDefaults(t *testing.T) {
	c := DefaultLab("test")
	if c.Spec.Monitoring != (Monitoring{}) {
		t.Errorf("by default: %+v", c.Spec.Monitoring)
	}
	c.Spec.Monitoring = Monitoring{Exporter: true, Prometheus: Prometheus{Install: true}}
	c.Default()
	if p := c.Spec.Monitoring.Prometheus; p != (Prometheus{Install: true, Retention: "15d", Storage: "10Gi"}) {
		t.Errorf("%+v", p)
	}
	if errs := Validate(c, Options{Lab: true}); len(errs) > 0 {
		t.Error(errs)
	}
	if n := c.WorkloadZones(); n != 2 {
		t.Errorf("its workers are in %d zones", n)
	}
}
