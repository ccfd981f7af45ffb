package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/drillpods"
	"quorate.dev/quorate/internal/spec"
)

// cluster has three control planes and some workers in turn in zones a, b, and c.
func cluster(workers int) *spec.Cluster {
	c := &spec.Cluster{}
	zone := func(n int) string { return string(rune('a' + n%3)) }
	for n := range 3 {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "cp-" + zone(n), Address: fmt.Sprintf("10.0.0.%d", n+1), Zone: zone(n), Roles: []string{spec.RoleControlPlane}})
	}
	for n := range workers {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprintf("worker-%d", n), Address: fmt.Sprintf("10.0.1.%d", n+1), Zone: zone(n), Roles: []string{spec.RoleWorker}})
	}
	c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "lb", Address: "10.0.2.1", Zone: "a", Roles: []string{spec.RoleLoadBalancer}})
	return c
}

// running are clients without a cluster.
func running(c *spec.Cluster, o Options) *Clients {
	o.Cluster = c
	o.fill()
	return &Clients{options: o, nodes: chosen(c, mostNodes), logs: newLogs(), pods: map[string]*podLog{}, processes: map[string]*process{},
		service: &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{NodePort: 30000}}}}}
}

// all are all clients.
func (c *Clients) all() (out []probe.Client) {
	out = append(endpointClients(c.options), registerClients()...)
	for _, h := range c.nodes {
		out = append(out, c.podClients(h)...)
		out = append(out, c.nodePortClients(h)...)
		if h.Has(spec.RoleControlPlane) {
			out = append(out, readyClients(h)...)
		}
	}
	return out
}

func TestClients(t *testing.T) {
	for _, o := range []Options{{}, {Few: true}, {Few: true, Every: true}} {
		c := running(cluster(2), o)
		// What clients log is found by their name.
		known := map[string]bool{}
		for _, one := range c.all() {
			if known[one.String()] {
				t.Errorf("two clients are %s", one)
			}
			known[one.String()] = true
			if text, err := json.Marshal(one); err != nil {
				t.Error(err)
			} else if again := (probe.Client{}); json.Unmarshal(text, &again) != nil || again != one {
				t.Errorf("%s in a log is %+v", one, again)
			}
		}
		for _, h := range c.nodes {
			own := slices.ContainsFunc(c.podClients(h), func(c probe.Client) bool { return strings.HasPrefix(c.Path, OwnServer) })
			if own != h.Has(spec.RoleControlPlane) {
				t.Errorf("%s: %v", h.Name, c.podClients(h))
			}
		}
		beats := 0
		for _, one := range c.all() {
			if one.Operation == probe.Beat {
				beats++
			}
		}
		if beats != 1 {
			t.Errorf("%d clients count up", beats)
		}
	}
}

// TestEvery: each way to the API has every operation on every kind of connection.
func TestEvery(t *testing.T) {
	kinds := map[string]int{}
	for _, one := range running(cluster(2), Options{Few: true, Every: true}).all() {
		kinds[Kind(one)]++
	}
	for way, n := range map[string]int{"endpoint": 1, "kubernetes-service": 5, "local-api-server": 3} {
		for _, use := range []string{"read/new", "read/kept", "read/http2", "cached-read/new", "cached-read/kept", "cached-read/http2", "write/new", "write/kept", "write/http2", "watch/kept", "watch/http2"} {
			want := n
			if way == "local-api-server" && strings.HasPrefix(use, "watch") { // see everyUse
				want = 0
			}
			if got := kinds[way+"/"+use]; got != want {
				t.Errorf("%d clients are of the kind %s/%s, want %d", got, way, use, want)
			}
		}
	}
}

func TestKind(t *testing.T) {
	kinds := map[string]int{}
	for _, one := range running(cluster(2), Options{}).all() {
		kinds[Kind(one)]++
	}
	want := map[string]int{
		"endpoint/read/new": 1, "endpoint/read/kept": 1, "endpoint/read/http2": streams, "endpoint/cached-read/new": 1, "endpoint/cached-read/kept": 1, "endpoint/cached-read/http2": 1,
		"endpoint/write/new": 1, "endpoint/write/kept": 1, "endpoint/write/http2": 1, "endpoint/beat/new": 1, "endpoint/watch/kept": 1, "endpoint/watch/http2": 1, "endpoint/list/new": 1,
		"endpoint/register/new": registers, "endpoint/register/kept": registers, "endpoint/register/http2": registers,
		"kubernetes-service/read/new": 5, "kubernetes-service/read/http2": 5, "kubernetes-service/watch/http2": 5, "kubernetes-service/write/http2": 2,
		"local-api-server/read/kept": 3, "local-api-server/ready/kept": 3, "service/get/new": 5, "service/echo/kept": 5, "dns/lookup": 5, "pod/get/new": 5, "node-port/get/new": 5,
	}
	for kind, n := range want {
		if kinds[kind] != n {
			t.Errorf("%d clients are of the kind %s, want %d", kinds[kind], kind, n)
		}
	}
	for kind := range kinds {
		if want[kind] == 0 {
			t.Errorf("clients of the kind %s", kind)
		}
	}
}

func TestOn(t *testing.T) {
	c := running(cluster(2), Options{})
	var on []string
	for _, one := range c.all() {
		if On(one, []string{"worker-0", "lb"}) {
			on = append(on, one.String())
		}
		if On(one, nil) || On(one, []string{""}) {
			t.Errorf("%s is on no host", one)
		}
	}
	for _, want := range []string{"Service kubernetes, pod on worker-0: write, http2", "NodePort of worker-0: get, new", "DNS, pod on worker-0: lookup",
		"pod on worker-0, pod on cp-c: get, new", "pod on worker-1, pod on worker-0: get, new"} {
		if !slices.Contains(on, want) {
			t.Errorf("%s is not on worker-0: %q", want, on)
		}
	}
	if len(on) != 10 {
		t.Errorf("%d clients are on worker-0: %q", len(on), on)
	}
}

func TestChosen(t *testing.T) {
	for _, test := range []struct {
		workers, most int
		want          string
	}{
		{0, 32, "cp-a cp-b cp-c"},
		{2, 32, "cp-a cp-b cp-c worker-0 worker-1"},
		{9, 7, "cp-a cp-b cp-c worker-0 worker-1 worker-2 worker-3"},
		{2, 2, "cp-a cp-b cp-c"},
	} {
		var names []string
		for _, h := range chosen(cluster(test.workers), test.most) {
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%d workers: %s, want %s", test.workers, got, test.want)
		}
	}
	// Workers of the same zone do not displace those of others.
	c := cluster(9)
	for i := range c.Spec.Hosts {
		if c.Spec.Hosts[i].Name != "worker-8" {
			c.Spec.Hosts[i].Zone = "a"
		}
	}
	if got := chosen(c, 5); got[4].Name != "worker-8" {
		t.Errorf("%v are in one zone", got)
	}
}

func TestPeerOf(t *testing.T) {
	nodes := chosen(cluster(2), mostNodes)
	used := map[string]bool{}
	for _, h := range nodes {
		peer := peerOf(nodes, h)
		if peer.Name == h.Name || peer.Name == "" {
			t.Errorf("%s uses the pod on %q", h.Name, peer.Name)
		}
		used[peer.Name] = true
	}
	if len(used) != len(nodes) {
		t.Errorf("only %v are used", used)
	}
	if p := peerOf(nodes[:1], nodes[0]); p.Name != "" {
		t.Errorf("the only node uses %s", p.Name)
	}
}

func TestPeers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := &peers{}
	dial := func(name string) error {
		conn, err := p.dial(t.Context(), "tcp", net.JoinHostPort(name, port))
		if err == nil {
			conn.Close()
		}
		return err
	}
	if dial(peerName("worker-0")) == nil {
		t.Error("a pod that nobody knows")
	}
	gone := metav1.Now()
	p.learn([]corev1.Pod{
		{Spec: corev1.PodSpec{NodeName: "worker-0"}, Status: corev1.PodStatus{PodIP: "127.0.0.1"}},
		{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &gone}, Spec: corev1.PodSpec{NodeName: "worker-0"}, Status: corev1.PodStatus{PodIP: "192.0.2.1"}},
		{Spec: corev1.PodSpec{NodeName: "worker-0"}},
	})
	if err := dial(peerName("worker-0")); err != nil {
		t.Error(err)
	}
	if err := dial("127.0.0.1"); err != nil {
		t.Error(err)
	}
}

// second is a line of a log.
func second(c probe.Client, at int64, requests, failed int, phase probe.Phase) probe.Second {
	out := probe.Second{At: at, Result: probe.Result{Client: c}}
	out.Requests, out.Failed, out.Phases, out.Slowest = requests, failed, map[probe.Phase]int{phase: failed}, 20*time.Millisecond
	return out
}

func TestLogs(t *testing.T) {
	l := newLogs()
	read := probe.Client{Path: endpoint, Operation: probe.Read, Connection: probe.New}
	write := probe.Client{Path: "Service kubernetes, pod on cp-a", Way: kubernetesService, Operation: probe.Write, Connection: probe.HTTP2, Host: "cp-a"}
	beat := probe.Client{Path: endpoint, Operation: probe.Beat, Connection: probe.New}
	for at := int64(100); at < 110; at++ {
		l.add(outside(endpoint), second(read, at, 20, 0, ""))
		l.add(outside(endpoint), second(beat, at, 2, 0, ""))
		line := second(write, at, 2, 1, []probe.Phase{probe.Dial, probe.Header, probe.Status}[at%3])
		line.Ledger, line.Acknowledged = "w", []int{int(at)}
		l.add("cp-a", line)
	}
	l.add("cp-a", second(write, 104, 1, 0, "")) // its clock was set back
	from, to := time.Unix(103, 4e8), time.Unix(106, 9e8)
	if s := l.summary(from, to).Results(); len(s) != 3 || s[0].Client != write || s[0].Requests != 3*2+1 || s[0].Failed != 3 || s[1].Requests != 60 {
		t.Errorf("summary: %+v", s)
	}
	want := []drill.Sample{
		{Second: 103, Client: "endpoint/read/new", OK: 20, Slowest: 20}, {Second: 103, Client: "kubernetes-service/write/http2", OK: 1, Failed: 1, Slowest: 20},
		{Second: 104, Client: "endpoint/read/new", OK: 20, Slowest: 20}, {Second: 104, Client: "kubernetes-service/write/http2", OK: 2, Failed: 1, Slowest: 20},
	}
	if got := l.samples(from, time.Unix(105, 0)); !slices.Equal(got, want) {
		t.Errorf("samples: %+v", got)
	}
	if !l.has("cp-a", time.Unix(109, 9e8)) || l.has("cp-a", time.Unix(110, 0)) || l.has("cp-b", time.Unix(1, 0)) {
		t.Error("until when lines are there")
	}
	ledgers, unknown := l.written()
	if len(ledgers["w"]) != 10 || unknown != 7 { // in the seconds 102, 105, and 108, there was no connection
		t.Errorf("%d writes, %d unknown", len(ledgers["w"]), unknown)
	}
	line := second(write, 110, 1, 0, "")
	line.Ledger, line.Acknowledged = "w", []int{110}
	l.add("cp-a", line)
	l.checked(ledgers)
	l.forget(time.Unix(105, 0))
	if ledgers, _ := l.written(); !slices.Equal(ledgers["w"], []int{110}) {
		t.Errorf("after the check: %v", ledgers)
	}
	if s := l.summary(time.Unix(0, 0), time.Unix(200, 0)).Results(); s[1].Requests != 5*20 {
		t.Errorf("what was forgotten counts: %+v", s[1])
	}
}

// TestReadyIsKnown: a connection to an API server counts as late also if the client that knows its certificate connected long before.
func TestReadyIsKnown(t *testing.T) {
	l := newLogs()
	ready := readyClients(spec.Host{Name: "cp-a", Address: "10.0.0.1"})[0]
	line := second(ready, 50, 5, 0, "")
	line.Connected = map[string][]int64{"1": {50100}}
	l.add("x", line)
	line = second(ready, 100, 5, 5, probe.Status)
	line.FailedAt = map[string]int64{probe.ShuttingDown: 100100}
	l.add("x", line)
	line = second(probe.Client{Path: endpoint, Operation: probe.Read}, 106, 5, 0, "")
	line.Connected = map[string][]int64{"1": {106500}}
	l.add("x", line)
	if late, _, unknown := l.summary(time.Unix(90, 0), time.Unix(120, 0)).Late(4 * time.Second); late != 1 || len(unknown) > 0 {
		t.Errorf("%d late connections, %v", late, unknown)
	}
}

func TestShifted(t *testing.T) {
	shift := int64(0)
	for _, step := range []struct {
		ahead time.Duration
		want  int64
	}{
		{20 * time.Millisecond, 0}, {600 * time.Millisecond, 0}, {-700 * time.Millisecond, 0}, {800 * time.Millisecond, 1}, {400 * time.Millisecond, 1},
		{-10 * time.Second, -10}, {time.Hour, 3600}, {0, 0},
	} {
		if shift = shifted(shift, step.ahead); shift != step.want {
			t.Errorf("a clock that is %s ahead: %d seconds, want %d", step.ahead, shift, step.want)
		}
	}
	line := second(probe.Client{Path: "x"}, 1000, 5, 1, probe.Dial)
	line.Since, line.Connected, line.FailedAt = time.Unix(990, 0), map[string][]int64{"1": {1000100}}, map[string]int64{"x": 1000200}
	got := atCaller(line, 10)
	if got.At != 990 || !got.Since.Equal(time.Unix(980, 0)) || got.Connected["1"][0] != 990100 || got.FailedAt["x"] != 990200 {
		t.Errorf("a line of a clock that is 10 s ahead: %+v", got)
	}
}

func TestPodLog(t *testing.T) {
	dir := t.TempDir()
	p := &podLog{host: "worker-0", dir: dir, to: newLogs(), from: map[string]int64{}}
	name := drillpods.LogName(time.Unix(1000, 0))
	text, err := json.Marshal(second(probe.Client{Path: "x", Operation: probe.Read}, 1000, 5, 0, ""))
	if err != nil {
		t.Fatal(err)
	}
	line := string(text) + "\n"
	for _, data := range []string{line, "\x00\x00\x00\n" + line, `{"at": 17, "cli` + "\n"} {
		if err := p.add(drillpods.Part{File: name, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.to.summary(time.Unix(990, 0), time.Unix(1010, 0)).Results(); len(got) != 1 || got[0].Requests != 10 {
		t.Errorf("%+v", got)
	}
	if want := int64(2*len(line) + 4 + 16); p.from[name] != want {
		t.Errorf("%d bytes were read, want %d", p.from[name], want)
	}
	for _, bad := range []string{"../" + name, "x.jsonl", name + "/..", ""} {
		if p.add(drillpods.Part{File: bad, Data: []byte(line)}) == nil {
			t.Errorf("a host names a file %q", bad)
		}
	}
}

// TestExpected follows the clients of a host that leaves, and those of the one that replaces it.
func TestExpected(t *testing.T) {
	c := running(cluster(2), Options{Few: true})
	old := c.nodes[0]
	next := old
	next.Name += "-new"
	mine := append(c.podClients(old), c.nodePortClients(old)...)
	c.expect(endpointClients(c.options), c.options.StreamPace, time.Time{})
	c.expect(mine, c.options.PodPace, time.Time{})
	c.expect(readyClients(old), c.options.StreamPace, time.Time{})
	c.expectEnd(leavingWith(old), time.Unix(150, 0))
	c.expect(c.podClients(next), c.options.PodPace, time.Time{})
	for _, e := range c.expected {
		if leaves := slices.Contains(mine, e.Client); leaves == e.to.IsZero() {
			t.Errorf("%s runs until %s", e.Client, e.to)
		}
		if e.to.IsZero() && e.Host == old.Name && e.Operation != probe.Ready {
			t.Errorf("%s has no node any more", e.Client)
		}
	}
	if err := c.Left(old); err != nil || slices.ContainsFunc(c.expected, func(e *expected) bool { return e.Host == old.Name && e.to.IsZero() }) {
		t.Errorf("its last client goes on, %v", err)
	}
}

func TestStarved(t *testing.T) {
	for name, test := range map[string]struct {
		pod  [2]int64 // the seconds in which the clients of a pod run
		lag  time.Duration
		away []string
		want []string
	}{
		"all run": {pod: [2]int64{90, 200}},
		"a pod is gone": {pod: [2]int64{90, 150}, want: []string{
			"Service kubernetes, pod on worker-0: read, new sent 0 requests instead of 100 in 50 seconds from 00:02:30"}},
		"its host was away":     {pod: [2]int64{90, 150}, away: []string{"worker-0"}},
		"it ran late":           {pod: [2]int64{90, 200}, lag: 400 * time.Millisecond, want: []string{"the pod of the clients on worker-0 ran up to 400ms late: it is too busy to measure outages"}},
		"its host was busy":     {pod: [2]int64{90, 200}, lag: 400 * time.Millisecond, away: []string{"worker-0"}},
		"it ran a little late":  {pod: [2]int64{90, 200}, lag: 100 * time.Millisecond},
		"another host was away": {pod: [2]int64{90, 200}, away: []string{"worker-1"}},
	} {
		c := running(cluster(1), Options{})
		own := c.podClients(c.nodes[3])[0]
		other := endpointClients(c.options)[0]
		c.expect([]probe.Client{own}, c.options.PodPace, time.Unix(90, 0))
		c.expect([]probe.Client{other}, c.options.StreamPace, time.Unix(90, 0))
		c.pods["worker-0"] = &podLog{host: "worker-0"}
		for at := int64(90); at < 200; at++ {
			c.logs.add(outside(endpoint), second(other, at, 20, 0, ""))
			if at >= test.pod[0] && at < test.pod[1] {
				line := second(own, at, 2, 0, "")
				if at == 120 {
					line.Lag = test.lag
				}
				c.logs.add("worker-0", line)
			}
		}
		c.logs.add("worker-0", second(own, 201, 2, 0, "")) // what was logged is known until then
		got := c.Starved(t.Context(), time.Unix(100, 0), time.Unix(200, 0), test.away)
		if len(got) > len(test.want) && len(test.want) > 0 {
			got = got[:len(test.want)] // a tenth of the time as well
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func node(name string, images []corev1.ContainerImage, taints ...corev1.Taint) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}, Status: corev1.NodeStatus{Images: images,
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
}

func TestImageOf(t *testing.T) {
	image := func(name string, size int64) corev1.ContainerImage {
		return corev1.ContainerImage{Names: []string{name + "@sha256:0", name}, SizeBytes: size}
	}
	own := cluster(0).Spec.Hosts[:2]
	proxy, pause, other := image("kube-proxy:v1", 100), image("pause:3", 1), image("web:1", 2)
	for _, test := range []struct {
		nodes []corev1.Node
		want  string
	}{
		{[]corev1.Node{node("cp-a", []corev1.ContainerImage{proxy, pause, other}), node("cp-b", []corev1.ContainerImage{pause, proxy}), node("fake", nil)}, "pause:3"},
		{[]corev1.Node{node("cp-a", []corev1.ContainerImage{proxy, pause}), node("cp-b", []corev1.ContainerImage{proxy, other})}, "kube-proxy:v1"},
		{[]corev1.Node{node("cp-a", []corev1.ContainerImage{pause}), node("cp-b", []corev1.ContainerImage{other})}, ""},
		{[]corev1.Node{node("cp-a", []corev1.ContainerImage{pause})}, ""},
	} {
		if got, err := imageOf(test.nodes, own); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q, %v, want %q", got, err, test.want)
		}
	}
}

func TestTolerations(t *testing.T) {
	hosts := cluster(2).Spec.Hosts
	cp := corev1.Taint{Key: controlPlane, Effect: corev1.TaintEffectNoSchedule}
	gpu := corev1.Taint{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}
	bad := corev1.Taint{Key: kubernetesTaints + "not-ready", Effect: corev1.TaintEffectNoSchedule}
	soft := corev1.Taint{Key: "soft", Effect: corev1.TaintEffectPreferNoSchedule}
	foreign := corev1.Taint{Key: "kwok", Effect: corev1.TaintEffectNoSchedule}
	nodes := []corev1.Node{node("cp-a", nil, cp), node("worker-0", nil, gpu, bad), node("worker-1", nil, soft), node("fake", nil, foreign)}
	keys := func(all []corev1.Toleration) (out []string) {
		for _, t := range all {
			out = append(out, t.Key)
		}
		return out
	}
	if got := keys(tolerations(nodes, hosts)); !slices.Equal(got, []string{controlPlane, "gpu"}) {
		t.Errorf("clients tolerate %q", got)
	}
	if got := forWorkload(nodes, hosts); got != nil {
		t.Errorf("there is a worker for everything, and the workload tolerates %q", keys(got))
	}
	if got := keys(forWorkload(nodes[:2], hosts)); !slices.Equal(got, []string{controlPlane, "gpu"}) {
		t.Errorf("without such a worker, the workload tolerates %q", got)
	}
	term := without(nodes, hosts).NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(term) != 1 || len(term[0].MatchFields) != 1 || !slices.Equal(term[0].MatchFields[0].Values, []string{"fake"}) {
		t.Errorf("pods stay away from %+v", term)
	}
	for _, name := range []string{"sim-00000", "sim-00001"} {
		simulated := node(name, nil)
		simulated.Labels = map[string]string{facts.SimulatedLabel: "running"}
		nodes = append(nodes, simulated)
	}
	term = without(nodes, hosts).NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(term[0].MatchFields) != 1 || !slices.ContainsFunc(term[0].MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
		return r.Key == facts.SimulatedLabel && r.Operator == corev1.NodeSelectorOpDoesNotExist
	}) {
		t.Errorf("simulated nodes are named one by one, or not at all: %+v", term)
	}
}

// TestRemoveNamespace leaves alone what somebody else created.
func TestRemoveNamespace(t *testing.T) {
	named := func(labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "quorate-drill", Labels: labels}}
	}
	api := fake.NewClientset(named(map[string]string{createdBy: "helm"}))
	if err := removeNamespace(t.Context(), api, "quorate-drill"); err == nil || !strings.Contains(err.Error(), "Quorate has not created it") {
		t.Errorf("somebody else's namespace: %v", err)
	}
	if _, err := api.CoreV1().Namespaces().Get(t.Context(), "quorate-drill", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	api = fake.NewClientset(named(map[string]string{createdBy: creator}))
	for range 2 { // the second time, there is none
		if err := removeNamespace(t.Context(), api, "quorate-drill"); err != nil {
			t.Error(err)
		}
		if _, err := api.CoreV1().Namespaces().Get(t.Context(), "quorate-drill", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("it is still there: %v", err)
		}
	}
}

func TestCrowded(t *testing.T) {
	replica := func(name, node string, age int64, ready corev1.ConditionStatus) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0)}, Spec: corev1.PodSpec{NodeName: node},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	}
	yes, no := corev1.ConditionTrue, corev1.ConditionFalse
	ending := replica("c", "worker-1", 100, no)
	ending.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	both := []corev1.Node{node("worker-0", nil), node("worker-1", nil)}
	for name, test := range map[string]struct {
		pods  []corev1.Pod
		nodes []corev1.Node
		want  string
	}{
		"spread":                 {pods: []corev1.Pod{replica("a", "worker-0", 10, yes), replica("b", "worker-1", 5, yes)}},
		"on one node":            {pods: []corev1.Pod{replica("a", "worker-0", 5, yes), replica("b", "worker-0", 10, yes)}, want: "a"},
		"and one that is ending": {pods: []corev1.Pod{replica("a", "worker-0", 10, yes), replica("b", "worker-0", 5, yes), ending}, want: "b"},
		"one is not ready":       {pods: []corev1.Pod{replica("a", "worker-0", 10, yes), replica("b", "worker-0", 5, no)}},
		"there is no other node": {pods: []corev1.Pod{replica("a", "worker-0", 10, yes), replica("b", "worker-0", 5, yes)}, nodes: both[:1]},
		"one is missing":         {pods: []corev1.Pod{replica("a", "worker-0", 10, yes)}},
	} {
		if test.nodes == nil {
			test.nodes = both
		}
		if got := crowded(test.pods, test.nodes); got != test.want {
			t.Errorf("%s: %q moves, want %q", name, got, test.want)
		}
	}
}

// TestWorkload stops the workload: it serves on until nobody is sent to it.
func TestWorkload(t *testing.T) {
	for _, port := range []int{webPort, echoPort} {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Skipf("the workload's port %d is in use: %v", port, err)
		}
		l.Close()
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- RunWorkload(ctx) }()
	get := func(path string) int {
		for range 100 {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", webPort, path))
			if err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				return resp.StatusCode
			}
			time.Sleep(50 * time.Millisecond)
		}
		return 0
	}
	if get("/ready") != 200 || get("/") != 200 {
		t.Error("it does not serve")
	}
	var conn net.Conn
	var err error
	for range 100 {
		if conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", echoPort)); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	echoed := bufio.NewReader(conn)
	if line, err := echoed.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("%q comes back, %v", line, err)
	}
	stop()
	for deadline := time.Now().Add(5 * time.Second); get("/ready") != 503; {
		if time.Now().After(deadline) {
			t.Fatal("it stays ready")
		}
	}
	if got := get("/"); got != 200 {
		t.Errorf("while it stops, it answers %d", got)
	}
	conn.SetReadDeadline(time.Now().Add(leaving + 10*time.Second))
	if line, err := echoed.ReadString('\n'); err != nil || line != probe.Bye+"\n" {
		t.Errorf("before it ends, it says %q, %v", line, err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(leaving + 20*time.Second):
		t.Error("it does not stop")
	}
}

// The table of outages has a column for each kind of client that it names: a drill has all of them.
func TestTheTableOfOutagesHasItsClients(t *testing.T) {
	gaps := map[string]drill.Spread{}
	for _, kind := range Kinds(true) {
		gaps[kind] = drill.Spread{}
	}
	var out strings.Builder
	r := drill.Report{Summaries: []drill.Summary{{Name: "kill/etcd/leader", Repeats: 1, Valid: 1, Gaps: gaps}}}
	if err := r.WriteOutages(&out); err != nil {
		t.Fatal(err)
	}
	if want := "| fault | repeats | new reads | writes | HTTP/2 | watches | pods: new reads | pods: HTTP/2 | Service | DNS |"; !strings.Contains(out.String(), want) {
		t.Errorf("the table is\n%s", &out)
	}
}

// TestArchitectures: where nodes have several, each has its own program, so that each has pods of its own. Where they have one, pods are what they always were.
func TestArchitectures(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	hosts := cluster(3).Spec.Hosts
	at := func(arch string, names ...string) (out []corev1.Node) {
		for _, name := range names {
			n := node(name, nil)
			n.Labels = map[string]string{corev1.LabelArchStable: arch}
			out = append(out, n)
		}
		return out
	}
	for name, tc := range map[string]struct {
		nodes []corev1.Node
		archs []string
		most  string
	}{
		"one":                 {at(runtime.GOARCH, "cp-a", "worker-0"), []string{runtime.GOARCH}, runtime.GOARCH},
		"another one":         {at(other, "cp-a", "worker-0"), []string{other}, other},
		"both, as many":       {slices.Concat(at(other, "worker-0"), at(runtime.GOARCH, "worker-1")), []string{runtime.GOARCH, other}, runtime.GOARCH},
		"both, more of other": {slices.Concat(at(other, "worker-0", "worker-1"), at(runtime.GOARCH, "worker-2")), []string{runtime.GOARCH, other}, other},
		"not in the spec":     {slices.Concat(at(runtime.GOARCH, "worker-0"), at(other, "x", "y")), []string{runtime.GOARCH}, runtime.GOARCH},
		"nobody says":         {[]corev1.Node{node("worker-0", nil)}, []string{runtime.GOARCH}, runtime.GOARCH},
		"no nodes":            {nil, []string{runtime.GOARCH}, runtime.GOARCH},
	} {
		archs := architectures(tc.nodes, hosts)
		if !slices.Equal(archs, tc.archs) || mostOf(tc.nodes, hosts, archs, nil) != tc.most {
			t.Errorf("%s: %v, most %s", name, archs, mostOf(tc.nodes, hosts, archs, nil))
		}
	}

	own := append(at(runtime.GOARCH, "worker-0"), at(other, "worker-1")...)
	for _, nodes := range [][]corev1.Node{own[:1], own} {
		c := &Clients{options: Options{API: fake.NewClientset(), Namespace: "drill", Cluster: cluster(2)}, nodes: hosts, image: "pause:3"}
		err := c.deployClients(t.Context(), nodes)
		sets, lerr := c.options.API.AppsV1().DaemonSets("drill").List(t.Context(), metav1.ListOptions{LabelSelector: ""})
		if lerr != nil {
			t.Fatal(lerr)
		}
		// There is no program for the other architecture next to the tests, and the error says which one is missing.
		if several := len(nodes) > 1; several != (err != nil) || several && !strings.Contains(err.Error(), "quorate-linux-"+other) {
			t.Errorf("%d nodes: %v", len(nodes), err)
		}
		want := map[bool]string{false: clientsApp, true: clientsApp + "-" + runtime.GOARCH}[len(nodes) > 1]
		if len(sets.Items) != 1 || sets.Items[0].Name != want {
			t.Fatalf("%d nodes: %+v", len(nodes), sets.Items)
		}
		set := sets.Items[0].Spec
		chosen := slices.ContainsFunc(set.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == corev1.LabelArchStable && slices.Equal(r.Values, []string{runtime.GOARCH})
		})
		if chosen != (len(nodes) > 1) || (set.Selector.MatchLabels[corev1.LabelArchStable] != "") != (len(nodes) > 1) || set.Template.Labels[appLabel] != clientsApp {
			t.Errorf("%d nodes: %+v", len(nodes), set)
		}
	}
}
