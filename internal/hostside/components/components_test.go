package components

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/system"
)

// fakeHost is a host in directories. Units and containerd answer what a test says; everything else is real.
type fakeHost struct {
	*reader
	t     *testing.T
	state map[string]system.Unit
}

func newHost(t *testing.T) *fakeHost {
	t.Helper()
	dir := t.TempDir()
	h := &fakeHost{reader: newReader(filepath.Join(dir, "root"), filepath.Join(dir, "proc")), t: t, state: map[string]system.Unit{}}
	h.first, h.second, h.pause = 10*time.Second, 10*time.Second, 20*time.Millisecond
	h.units = func(_ context.Context, names ...string) (map[string]system.Unit, error) {
		out := map[string]system.Unit{}
		for _, name := range names {
			out[name] = h.state[name]
		}
		return out, nil
	}
	h.version = func(context.Context) (string, error) { return "v2.4.2", nil }
	h.containers = func(context.Context, ...string) (map[string]containerd.Container, error) {
		return nil, errors.New("no containerd")
	}
	h.put("/proc/self/status", "NSpid:\t1\n")
	h.put("/root"+kubeletConfig, "kind: KubeletConfiguration\n")
	for _, name := range []string{"/etc/haproxy/haproxy.cfg", "/etc/keepalived/keepalived.conf", "/etc/systemd/system/quorate-watchdog.service", "/etc/systemd/system/quorate-approver.timer"} {
		h.put("/root"+name, "x")
	}
	return h
}

// impatient makes it a matter of moments to find out that something hangs.
func (h *fakeHost) impatient() { h.first, h.second = 200*time.Millisecond, 200*time.Millisecond }

// put writes a file below the directory of the host: /root is its root, /proc its table of processes.
func (h *fakeHost) put(name, content string) {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(h.root), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// runs puts a process into the table.
func (h *fakeHost) runs(pid, depth int, cgroup string, args ...string) {
	h.t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	name := filepath.Base(args[0])
	h.put(dir+"comm", name[:min(15, len(name))]+"\n")
	h.put(dir+"cmdline", strings.Join(args, "\x00")+"\x00")
	h.put(dir+"status", "Name:\tx\nNSpid:\t"+strings.Repeat("7\t", depth)+"\n")
	h.put(dir+"cgroup", "0::"+cgroup+"\n")
}

func (h *fakeHost) ask(name string) facts.Component {
	h.t.Helper()
	r, err := h.read(h.t.Context(), Request{Expect: []string{name}})
	if err != nil {
		h.t.Fatal(err)
	}
	c, ok := r.Components[name]
	if !ok {
		h.t.Fatalf("nothing about %s", name)
	}
	if n := strings.Count(fmt.Sprint(c.OK, c.Problem != "", c.Unknown != ""), "true"); n != 1 {
		h.t.Fatalf("an answer is one of three: %+v", c)
	}
	return c
}

// is checks that an answer is a problem (or unknown) that has these words; without words it must be fine.
func is(t *testing.T, what string, a facts.Answer, kind, words string) {
	t.Helper()
	got := map[string]string{"problem": a.Problem, "unknown": a.Unknown}[kind]
	if kind == "ok" && !a.OK || kind != "ok" && (got == "" || !strings.Contains(got, words)) {
		t.Errorf("%s: %+v, want %s %q", what, a, kind, words)
	}
}

// serve answers health questions with what respond says, and counts them.
func serve(t *testing.T, tls bool, respond func(n int64, w http.ResponseWriter, r *http.Request)) (port string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { respond(asked.Add(1), w, r) }))
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, asked
}

// closed is a port at which nothing listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func scheduler(port string) string {
	return `apiVersion: v1
kind: Pod
metadata: {name: kube-scheduler}
spec:
  containers:
  - command: [kube-scheduler]
    ports: [{name: probe-port, containerPort: ` + port + `}]
    livenessProbe: {httpGet: {host: 127.0.0.1, path: /livez, port: probe-port, scheme: HTTPS}}
    readinessProbe: {httpGet: {host: 127.0.0.1, path: /readyz, port: probe-port, scheme: HTTPS}}
`
}

func TestStaticPods(t *testing.T) {
	const manifest = "/root" + manifests + "/kube-scheduler.yaml"
	ready, _ := serve(t, true, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	sick, asked := serve(t, true, func(_ int64, w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, "[+]ping ok\n[-]leaderElection failed: reason withheld\nreadyz check failed\n")
	})
	late, _ := serve(t, true, func(n int64, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	hung, _ := serve(t, true, func(_ int64, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for name, tc := range map[string]struct{ manifest, kind, words string }{
		"ready":                     {scheduler(ready), "ok", ""},
		"without a readiness probe": {strings.ReplaceAll(strings.ReplaceAll(scheduler(ready), "readinessProbe", "startupProbe"), "/livez", "/readyz"), "ok", ""},
		"not ready":                 {scheduler(sick), "problem", "leaderElection failed"},
		"ready the second time":     {scheduler(late), "ok", ""},
		"hangs":                     {scheduler(hung), "problem", "no answer within"},
		"down":                      {scheduler(closed(t)), "problem", "nothing listens on 127.0.0.1:"},
		"empty manifest":            {" \n", "problem", "is empty"},
		"damaged manifest":          {"spec: [", "problem", "is damaged"},
		"no probe":                  {"spec: {containers: [{command: [kube-scheduler]}]}", "unknown", "no probe"},
		"port without a number":     {strings.ReplaceAll(scheduler(ready), "name: probe-port", "name: other"), "unknown", "probe-port"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			if name == "hangs" {
				h.impatient()
			}
			h.put(manifest, tc.manifest)
			is(t, name, h.ask(facts.Scheduler).Answer, tc.kind, tc.words)
		})
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("a program that fails was asked %d times, not twice", n)
	}
	is(t, "no manifest", newHost(t).ask(facts.Scheduler).Answer, "problem", "its manifest /etc/kubernetes/manifests/kube-scheduler.yaml is missing")
}

// TestCallerWhoGivesUp learns nothing about a program that had no time to answer.
func TestCallerWhoGivesUp(t *testing.T) {
	hung, _ := serve(t, true, func(_ int64, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for name, patience := range map[string]time.Duration{"during the first question": 100 * time.Millisecond, "during the second": 300 * time.Millisecond} {
		h := newHost(t)
		h.impatient()
		h.put("/root"+manifests+"/kube-scheduler.yaml", scheduler(hung))
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the caller gave up"))
		defer cancel()
		r, err := h.read(ctx, Request{Expect: []string{facts.Scheduler}})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		is(t, name, r.Components[facts.Scheduler].Answer, "unknown", "")
	}
}

// TestAnswerThatIsTooLate does not count, although the client may receive it.
func TestAnswerThatIsTooLate(t *testing.T) {
	const times = 200
	giveUp := make(chan context.CancelFunc, 1)
	port, _ := serve(t, true, func(int64, http.ResponseWriter, *http.Request) { (<-giveUp)() })
	for range times {
		ctx, cancel := context.WithCancel(t.Context())
		giveUp <- cancel
		if got := get(ctx, "https://127.0.0.1:"+port); got.OK || got.Unknown == "" {
			t.Fatalf("%+v", got)
		}
	}
}

func TestUnits(t *testing.T) {
	active := system.Unit{Exists: true, Active: "active", Sub: "running", Enabled: "enabled", Result: "success"}
	for name, tc := range map[string]struct {
		unit        system.Unit
		kind, words string
	}{
		"active":      {active, "ok", ""},
		"missing":     {system.Unit{Active: "inactive"}, "problem", "haproxy.service does not exist"},
		"stopped":     {system.Unit{Exists: true, Active: "inactive", Sub: "dead"}, "problem", "haproxy.service is inactive"},
		"failed":      {system.Unit{Exists: true, Active: "failed", Result: "exit-code"}, "problem", "failed (exit-code)"},
		"fails again": {system.Unit{Exists: true, Active: "activating", Sub: "auto-restart"}, "problem", "starts it again and again"},
		"skipped":     {system.Unit{Exists: true, Active: "inactive", Skipped: true}, "problem", "condition"},
	} {
		h := newHost(t)
		h.state["haproxy.service"] = tc.unit
		is(t, name, h.ask(facts.HAProxy).Answer, tc.kind, tc.words)
	}

	h := newHost(t)
	h.units = func(context.Context, ...string) (map[string]system.Unit, error) {
		return nil, errors.New("no bus")
	}
	is(t, "systemd that does not answer", h.ask(facts.Keepalived).Answer, "unknown", "no bus")

	h = newHost(t)
	asked := 0
	h.units = func(context.Context, ...string) (map[string]system.Unit, error) {
		if asked++; asked == 1 {
			return map[string]system.Unit{"quorate-watchdog.service": {Exists: true, Active: "activating"}}, nil
		}
		return map[string]system.Unit{"quorate-watchdog.service": active}, nil
	}
	is(t, "a unit that was starting", h.ask(facts.Watchdog).Answer, "ok", "")
}

// TestUnitsAreAskedForOnce, whatever many components have one.
func TestUnitsAreAskedForOnce(t *testing.T) {
	h := newHost(t)
	var asked atomic.Int64
	h.units = func(context.Context, ...string) (map[string]system.Unit, error) {
		asked.Add(1)
		active := system.Unit{Exists: true, Active: "active"}
		return map[string]system.Unit{"haproxy.service": active, "keepalived.service": active, "quorate-watchdog.service": active}, nil
	}
	if _, err := h.read(t.Context(), Request{Expect: []string{facts.HAProxy, facts.Keepalived, facts.Watchdog}}); err != nil || asked.Load() != 1 {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
}

func TestApprover(t *testing.T) {
	waiting := system.Unit{Exists: true, Active: "active", Sub: "waiting"}
	idle := system.Unit{Exists: true, Active: "inactive", Sub: "dead", Result: "success"}
	for name, tc := range map[string]struct {
		timer, service system.Unit
		kind, words    string
	}{
		"waits":            {waiting, idle, "ok", ""},
		"runs":             {system.Unit{Exists: true, Active: "active", Sub: "running"}, system.Unit{Exists: true, Active: "activating"}, "ok", ""},
		"failed once":      {waiting, system.Unit{Exists: true, Active: "activating", Sub: "auto-restart", Result: "exit-code", Restarts: 1}, "ok", ""},
		"fails all along":  {waiting, system.Unit{Exists: true, Active: "activating", Sub: "auto-restart", Result: "exit-code", Restarts: 5}, "problem", "failed 5 times in a row"},
		"stopped":          {system.Unit{Exists: true, Active: "inactive"}, idle, "problem", "quorate-approver.timer is inactive"},
		"will not be back": {system.Unit{Exists: true, Active: "active", Sub: "elapsed"}, idle, "problem", "will not elapse again"},
		"no admin.conf":    {waiting, system.Unit{Exists: true, Active: "inactive", Skipped: true}, "problem", "is skipped"},
		"no service":       {waiting, system.Unit{}, "problem", "quorate-approver.service does not exist"},
	} {
		h := newHost(t)
		h.state["quorate-approver.timer"], h.state["quorate-approver.service"] = tc.timer, tc.service
		is(t, name, h.ask(facts.Approver).Answer, tc.kind, tc.words)
	}
}

func TestKubelet(t *testing.T) {
	active := system.Unit{Exists: true, Active: "active"}
	well, _ := serve(t, false, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	sick, _ := serve(t, false, func(_ int64, w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "[-]syncloop failed: reason withheld", http.StatusInternalServerError)
	})
	for name, tc := range map[string]struct {
		unit                system.Unit
		config, kind, words string
	}{
		"well":           {active, "healthzPort: " + well, "ok", ""},
		"every address":  {active, "healthzPort: " + well + "\nhealthzBindAddress: 0.0.0.0", "ok", ""},
		"sick":           {active, "healthzPort: " + sick, "problem", "syncloop failed"},
		"does not tell":  {active, "healthzPort: 0", "ok", ""},
		"does not serve": {active, "healthzPort: " + closed(t), "problem", "nothing listens"},
		"stopped":        {system.Unit{Exists: true, Active: "inactive"}, "healthzPort: " + well, "problem", "kubelet.service is inactive"},
	} {
		h := newHost(t)
		h.state["kubelet.service"] = tc.unit
		h.put("/root"+kubeletConfig, tc.config+"\n")
		is(t, name, h.ask(facts.Kubelet).Answer, tc.kind, tc.words)
	}
	h := newHost(t)
	h.units = func(context.Context, ...string) (map[string]system.Unit, error) { return nil, errors.New("no bus") }
	h.put("/root"+kubeletConfig, "healthzPort: "+well+"\n")
	is(t, "healthy, whatever systemd says", h.ask(facts.Kubelet).Answer, "ok", "")
}

func TestContainerd(t *testing.T) {
	h := newHost(t)
	h.state["containerd.service"] = system.Unit{Exists: true, Active: "active"}
	if c := h.ask(facts.Containerd); !c.OK || c.Version != "v2.4.2" {
		t.Errorf("%+v", c)
	}
	h.version = func(context.Context) (string, error) { return "", fmt.Errorf("socket: %w", fs.ErrNotExist) }
	is(t, "no socket", h.ask(facts.Containerd).Answer, "problem", "its socket is missing")
	h.impatient()
	h.version = func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	is(t, "hangs", h.ask(facts.Containerd).Answer, "problem", "no answer within")
	h.state["containerd.service"] = system.Unit{Exists: true, Active: "failed", Result: "signal"}
	is(t, "unit failed", h.ask(facts.Containerd).Answer, "problem", "containerd.service is failed (signal)")
}

// TestWhatIsNotSetUp is not asked at all: on a new host there is nobody to ask.
func TestWhatIsNotSetUp(t *testing.T) {
	h := newHost(t)
	if err := os.RemoveAll(h.root); err != nil {
		t.Fatal(err)
	}
	h.units = func(context.Context, ...string) (map[string]system.Unit, error) {
		t.Error("systemd was asked")
		return nil, nil
	}
	h.version = func(context.Context) (string, error) {
		t.Error("containerd was asked")
		return "", nil
	}
	for _, name := range []string{facts.ControllerManager, facts.Scheduler, facts.Kubelet, facts.Containerd, facts.KubeProxy, facts.Flannel, facts.Approver, facts.Watchdog, facts.HAProxy, facts.Keepalived} {
		is(t, name, h.ask(name).Answer, "problem", "not set up")
	}
}

func TestComplaint(t *testing.T) {
	for body, want := range map[string]string{
		"ok\n": "ok",
		"[+]ping ok\n[-]a failed: reason withheld\n[-]b failed: gone\n": "a failed, b failed: gone",
		strings.Repeat("x", 1000): strings.Repeat("x", 300) + "…",
	} {
		if got := complaint(body); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]string{"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "10.0.0.11": "10.0.0.11", "127.0.0.1": "127.0.0.1"} {
		if got := loopback(address); got != want {
			t.Errorf("%q: %s, want %s", address, got, want)
		}
	}
}
