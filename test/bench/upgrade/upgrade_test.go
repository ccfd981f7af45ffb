package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/spec"
)

func lines(commands []command) (out []string) {
	for _, c := range commands {
		out = append(out, c.host+": "+c.line)
	}
	return out
}

func TestDocumentedOrder(t *testing.T) {
	c, err := shape()
	if err != nil {
		t.Fatal(err)
	}
	plain, workaround := documentedCommands(c, false), documentedCommands(c, true)
	text := strings.Join(lines(plain), "\n")
	last := -1
	for _, part := range []string{
		"cp-a: kubeadm upgrade plan", "cp-a: kubeadm upgrade apply --yes " + to, ": kubectl drain cp-a", "cp-a: systemctl restart kubelet", ": kubectl uncordon cp-a",
		"cp-b: kubeadm upgrade node", ": kubectl drain cp-b", ": kubectl uncordon cp-b", ": kubectl uncordon cp-c", "worker-a: kubeadm upgrade node", ": kubectl uncordon worker-b",
	} {
		at := strings.Index(text, part)
		if at <= last {
			t.Errorf("%q is at %d, the one before it at %d, in\n%s", part, at, last, text)
		}
		last = at
	}
	if n := strings.Count(text, "upgrade apply"); n != 1 {
		t.Errorf("kubeadm upgrade apply runs %d times", n)
	}
	// The workaround adds two lines on each control plane, and changes nothing else.
	var added []string
	for _, line := range lines(workaround) {
		if strings.Contains(line, "pkill") || strings.Contains(line, "sleep") {
			added = append(added, line)
		}
	}
	if len(added) != 2*3 || len(workaround) != len(plain)+len(added) || !strings.HasPrefix(added[0], "cp-a: pkill -TERM") {
		t.Errorf("the workaround adds %v", added)
	}
}

func TestClients(t *testing.T) {
	c, err := shape()
	if err != nil {
		t.Fatal(err)
	}
	var all []probe.Client
	for _, h := range c.Spec.Hosts {
		if !h.IsNode() {
			t.Errorf("%s is no node", h.Name)
		}
		h.Address = "10.0.0.1"
		mine := podClients(h, "10.96.0.7")
		if own := slices.ContainsFunc(mine, func(c probe.Client) bool { return strings.HasPrefix(c.Path, ownServer) }); own != h.Has(spec.RoleControlPlane) {
			t.Errorf("%s: %v", h.Name, mine)
		}
		all = append(all, mine...)
	}
	all = append(all, outsideClients(c.Spec.Hosts, 30000)...)
	// What clients log is found by their name.
	known := map[string]bool{}
	for _, c := range all {
		if known[c.String()] {
			t.Errorf("two clients are %s", c)
		}
		known[c.String()] = true
	}
}

func result(path string, o probe.Operation, failed int, phase probe.Phase) probe.Result {
	r := probe.Result{Client: probe.Client{Path: path, Operation: o, Connection: probe.New}}
	r.Requests, r.Failed, r.Phases, r.Disruption = 2000, failed, map[probe.Phase]int{phase: failed}, failed/20
	return r
}

func TestOutcome(t *testing.T) {
	o := outcome{ControlPlanes: 3, Elections: 3, Results: []probe.Result{
		result("endpoint", probe.Read, 0, probe.Dial),
		result(ownServer+"cp-a", probe.Read, 400, probe.Dial),
		result("endpoint", probe.Watch, 0, probe.Body),
		result("DNS", probe.Lookup, 0, probe.Header),
		result(ownServer+"cp-a", probe.Ready, 40, probe.Status), // only tells of the shutdown
	}}
	if !o.unnoticed() || o.disruption() != 0 {
		t.Errorf("a server that is replaced is not there meanwhile: %+v", o)
	}
	for name, edit := range map[string]func(*outcome){
		"an API request":             func(o *outcome) { o.Results[0].Failed = 1 },
		"a request that was begun":   func(o *outcome) { o.Results[1] = result(ownServer+"cp-a", probe.Read, 1, probe.Header) },
		"a watch":                    func(o *outcome) { o.Results[2].Failed = 1 },
		"a lookup":                   func(o *outcome) { o.Results[3].Failed = 1 },
		"a late connection":          func(o *outcome) { o.LateConnections = 1 },
		"a write":                    func(o *outcome) { o.LostWrites = 1 },
		"too many elections":         func(o *outcome) { o.Elections = 4 },
		"a client that did not work": func(o *outcome) { o.Invalid = []string{"x"} },
	} {
		other := o
		other.Results = slices.Clone(o.Results)
		if edit(&other); other.unnoticed() {
			t.Errorf("%s fails, and nobody notices", name)
		}
	}
}

func TestInvalid(t *testing.T) {
	read, watch := result("endpoint", probe.Read, 0, probe.Dial), result("endpoint", probe.Watch, 0, probe.Dial)
	expected := []probe.Client{read.Client, watch.Client, {Path: "endpoint", Operation: probe.Write, Connection: probe.New}}
	if got := invalid([]probe.Result{read, watch}, expected[:2], 4*time.Minute, 50*time.Millisecond); !slices.Equal(got, []string{"endpoint: read, new sent 2000 requests instead of 4800"}) {
		t.Errorf("half of the requests: %q", got)
	}
	if got := invalid([]probe.Result{read, watch}, expected, 100*time.Second, 50*time.Millisecond); !slices.Equal(got, []string{"endpoint: write, new logged nothing"}) {
		t.Errorf("a client is missing: %q", got)
	}
}

func TestLastLine(t *testing.T) {
	fails := func(contender, way string, seconds float64, failed int) outcome {
		return outcome{Contender: contender, Way: way, Seconds: seconds, ControlPlanes: 3, Elections: 3, Results: []probe.Result{result("endpoint", probe.Read, failed, probe.Dial)}}
	}
	line := lastLine([]outcome{fails("quorate", "upgrade", 150, 0), fails("quorate", "rollback", 140, 1), fails("documented", "upgrade", 300, 70), fails("documented-sigterm", "upgrade", 370, 30)})
	text, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"failedApiRequests": 1, "failedWorkloadRequests": 0, "disruptionSeconds1Hz": 0, "seconds": 150.0, "documentedSeconds": 300.0,
		"documentedFailedApiRequests": 70, "ratio": 0.5, "unnoticed": false, "sigtermSeconds": 370.0, "sigtermFailedApiRequests": 30, "elections": 3} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v, in %s", key, line[key], want, text)
		}
	}
	if line := lastLine([]outcome{fails("documented", "upgrade", 300, 70)}); line["ratio"] != nil || line["seconds"] != nil {
		t.Errorf("without Quorate: %v", line)
	}
	bad := fails("quorate", "upgrade", 150, 0)
	bad.Invalid = []string{"x"}
	if line := lastLine([]outcome{bad, fails("quorate", "rollback", 140, 0)}); line["unnoticed"] != false || !slices.Equal(line["invalid"].([]string), []string{"quorate/upgrade"}) {
		t.Errorf("what is not valid counts: %v", line)
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
	go func() { done <- runWorkload(ctx) }()
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
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
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
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(leaving + 20*time.Second):
		t.Error("it does not stop")
	}
}
