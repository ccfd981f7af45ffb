package leases

import (
	"context"
	"io"
	"log"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"quorate.dev/quorate/internal/hostside/components"
)

// api is an API with one lease.
type api struct {
	holder  string
	version int
	down    atomic.Bool
	// takes is who takes the lease, or renews it, between a read and a write.
	takes string
	freed int
}

func (a *api) Get(context.Context, string, metav1.GetOptions) (*coordinationv1.Lease, error) {
	if a.down.Load() {
		return nil, context.DeadlineExceeded
	}
	out := &coordinationv1.Lease{}
	out.ResourceVersion = string(rune('a' + a.version))
	out.Spec.HolderIdentity, out.Spec.LeaseDurationSeconds = new(a.holder), new(int32(6))
	if a.takes != "" {
		a.holder, a.takes = a.takes, ""
		a.version++
	}
	return out, nil
}

func (a *api) Update(_ context.Context, l *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	if l.ResourceVersion != string(rune('a'+a.version)) {
		return nil, apierrors.NewConflict(schema.GroupResource{}, "", nil)
	}
	a.holder = *l.Spec.HolderIdentity
	a.version++
	a.freed++
	return l, nil
}

func TestLeasesOfTheDeadAreGivenBack(t *testing.T) {
	const ours, former, others = "cp-a_1", "cp-a_0", "cp-b_1"
	for name, tc := range map[string]struct {
		before string        // who holds the lease while the process runs
		ends   func(*api)    // what else happens when it ends
		host   string        // how this host signs
		after  time.Duration // that it runs
		want   string        // who holds it afterwards
		within time.Duration // how soon
	}{
		"the leader":                       {ours, nil, "cp-a", 10 * time.Second, "", time.Second},
		"the leader, by another spelling":  {"CP-A_1", nil, "cp-a", 10 * time.Second, "", time.Second},
		"a standby":                        {others, nil, "cp-a", 10 * time.Second, others, patience},
		"nobody":                           {"", nil, "cp-a", 10 * time.Second, "", patience},
		"one that led before":              {former, nil, "cp-a", 10 * time.Second, "", time.Second},
		"the next one took it":             {ours, func(a *api) { a.holder = "cp-a_2" }, "cp-a", 10 * time.Second, "cp-a_2", patience},
		"somebody takes it at that moment": {ours, func(a *api) { a.takes = others }, "cp-a", 10 * time.Second, others, patience},
		"its holder lives elsewhere":       {ours, func(a *api) { a.takes = ours }, "cp-a", 10 * time.Second, ours, patience},
		"it was not known to lead":         {ours, nil, "cp-a", readEvery / 2, ours, patience},
		"a host without a name of its own": {ours, nil, "", 10 * time.Second, ours, patience},
		"the API does not answer at first": {ours, func(a *api) { a.down.Store(true) }, "cp-a", 10 * time.Second, "", 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				a := &api{holder: tc.before}
				var ended atomic.Bool
				k := keeper{name: "kube-scheduler", host: func() string { return tc.host }, logger: log.New(io.Discard, "", 0),
					find:    func(string) (components.Process, bool) { return components.Process{PID: 1}, !ended.Load() },
					ended:   func(components.Process) bool { return ended.Load() },
					connect: func() (client, error) { return a, nil }}
				done := make(chan struct{})
				go func() { k.run(ctx); close(done) }()
				time.Sleep(tc.after)
				synctest.Wait()
				if a.freed > 0 {
					t.Fatal("the lease of a process that runs was given back")
				}
				if tc.ends != nil {
					tc.ends(a)
				}
				ended.Store(true)
				if a.down.Load() {
					time.Sleep(5 * time.Second)
					synctest.Wait()
					a.down.Store(false)
					tc.within -= 5 * time.Second
				}
				time.Sleep(tc.within)
				synctest.Wait()
				if a.holder != tc.want || (a.freed > 0) != (tc.want == "" && tc.before != "") || a.freed > 1 {
					t.Errorf("held by %q, and given back %d times; want %q", a.holder, a.freed, tc.want)
				}
				cancel()
				<-done
			})
		})
	}
}

func TestNamed(t *testing.T) {
	nodes := map[string][]string{"cp-a": {"fd00::11", "10.0.0.11"}, "cp-b": {"10.0.0.12"}}
	addresses := []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1)}, &net.IPNet{IP: net.IPv4(10, 0, 0, 11)}}
	for name, want := range map[string]string{"cp-a": "cp-a", "CP-A": "CP-A", "cp-a.example.com": "cp-a.example.com", "cp-b": "", "localhost": "", "cp-a-2": ""} {
		if got := named(name, nodes, addresses); got != want {
			t.Errorf("%s signs as %q, want %q", name, got, want)
		}
	}
}
