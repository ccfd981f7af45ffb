package run

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// TestReadersDoNotWaitLong for what may pass, and look more than once all the same. A run that changes something waits longer.
func TestReadersDoNotWaitLong(t *testing.T) {
	may := &cluster.Refusal{Rule: "x", Why: "cp-c cannot be reached", Transient: true}
	for name, tc := range map[string]struct {
		reads   bool
		refused *cluster.Refusal
		after   time.Duration // the last look
	}{
		"a reader":                      {true, may, 12 * time.Second},
		"a run":                         {false, may, 122 * time.Second},
		"a reader, and nothing to hope": {true, &cluster.Refusal{Rule: "x"}, 0},
		"a run, and nothing to hope":    {false, &cluster.Refusal{Rule: "x"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := host.DialAll(t.Context(), nil)
				defer conns.Close()
				e := &Engine{Cluster: spec.DefaultLab("test"), Conns: conns, Progress: progress.Discard, reads: tc.reads}
				begin, last, looks := time.Now(), time.Duration(0), 0
				_, err := e.decide(t.Context(), func(*cluster.State) (*plan.Plan, error) {
					last = time.Since(begin)
					looks++
					return nil, tc.refused
				})
				if !errors.Is(err, tc.refused) || last != tc.after || looks != 1+int(tc.after/lookEach) {
					t.Errorf("%d looks, the last one after %s: %v", looks, last, err)
				}
			})
		})
	}
}

// TestReadersLookTwiceBeforeTheyComplain: a busy host may have answered one probe late.
func TestReadersLookTwiceBeforeTheyComplain(t *testing.T) {
	wrong, right := &plan.Plan{Unmet: []cluster.Finding{{Rule: "x"}}}, &plan.Plan{}
	steps := &plan.Plan{Unmet: wrong.Unmet, Steps: []plan.Step{{}}}
	for name, tc := range map[string]struct {
		reads bool
		plans []*plan.Plan // by look
		want  *plan.Plan
	}{
		"it passed":                     {true, []*plan.Plan{wrong, right}, right},
		"it did not":                    {true, []*plan.Plan{wrong, wrong}, wrong},
		"a host that answered late":     {true, []*plan.Plan{{Unreachable: map[string]string{"a": "late"}}, right}, right},
		"there is something to do":      {true, []*plan.Plan{steps}, steps},
		"a run does what there is":      {false, []*plan.Plan{wrong}, wrong},
		"there is nothing wrong at all": {true, []*plan.Plan{right}, right},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := host.DialAll(t.Context(), nil)
				defer conns.Close()
				e := &Engine{Cluster: spec.DefaultLab("test"), Conns: conns, Progress: progress.Discard, reads: tc.reads}
				looks := 0
				w, err := e.decide(t.Context(), func(*cluster.State) (*plan.Plan, error) {
					looks++
					return tc.plans[looks-1], nil
				})
				if err != nil || w.Plan != tc.want || looks != len(tc.plans) {
					t.Errorf("%d looks, %+v, %v", looks, w, err)
				}
			})
		})
	}
}

// TestAWaitTriesToReachMoreHosts: without that, a host that comes back would be taken for unreachable as long as the run waits for it.
func TestAWaitTriesToReachMoreHosts(t *testing.T) {
	keyFile, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	server, err := sshtest.Start(ctx, sshtest.Options{Key: public})
	if err != nil {
		t.Fatal(err)
	}
	c := spec.DefaultLab("test")
	c.Spec.Hosts = c.Spec.Hosts[:1]
	target := server.Target(c.Spec.Hosts[0].Name, keyFile, filepath.Join(t.TempDir(), "known_hosts"))
	end()
	address := net.JoinHostPort(target.Address, strconv.Itoa(target.Port))
	for { // until nothing listens there
		nc, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		nc.Close()
	}
	conns := host.DialAll(t.Context(), []host.Target{target})
	defer conns.Close()
	if _, err := sshtest.Start(t.Context(), sshtest.Options{Key: public, Address: address}); err != nil {
		t.Fatal(err)
	}
	e := &Engine{Cluster: c, Conns: conns, Progress: progress.Discard}
	looks := 0
	_, err = e.decide(t.Context(), func(s *cluster.State) (*plan.Plan, error) {
		if looks++; s.Reachable(c.Spec.Hosts[0].Name) {
			return &plan.Plan{}, nil
		}
		return nil, &cluster.Refusal{Rule: "x", Transient: true}
	})
	if err != nil || looks != 2 {
		t.Errorf("%d looks: %v", looks, err)
	}
}

// TestAControlPlaneThatCannotBeAsked may have a kubeconfig all the same, and the error says of each why it could not be asked.
func TestAControlPlaneThatCannotBeAsked(t *testing.T) {
	conns := host.DialAll(t.Context(), nil)
	defer conns.Close()
	e := &Engine{Cluster: spec.DefaultLab("test"), Conns: conns, Progress: progress.Discard}
	_, err := e.Kubeconfig(t.Context())
	_, apiErr := e.client(t.Context())
	for what, err := range map[string]error{"kubeconfig": err, "client": apiErr} {
		if err == nil || !strings.Contains(err.Error(), "cp-a: no session") || !strings.Contains(err.Error(), "cp-c: no session") || strings.Contains(err.Error(), "no control plane has") || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWhyAHostIsWaitedFor is said while it is waited for: with a wrong key, waiting does not help.
func TestWhyAHostIsWaitedFor(t *testing.T) {
	conns := host.DialAll(t.Context(), nil)
	defer conns.Close()
	e := &Engine{Cluster: spec.DefaultLab("test"), Conns: conns, Progress: progress.Discard}
	if names, why := e.missing([]string{"cp-b", "cp-a"}); len(names) != 2 || why != "cp-b: no session to this host" {
		t.Errorf("%v: %s", names, why)
	}
}
