//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// quorumLost is a cluster that loses its quorum.
type quorumLost struct {
	c    *cluster
	file string
	p    *probe.Prober
}

// members are the hosts of the etcd members, the leader first.
func (q quorumLost) members(t *testing.T, ctx context.Context) (out []string) {
	t.Helper()
	s, _, err := q.c.statusOf(ctx, q.file)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(s.Etcd.Members, func(a, b status.Member) int {
		switch {
		case a.Leader == b.Leader:
			return 0
		case a.Leader:
			return -1
		}
		return 1
	})
	for _, m := range s.Etcd.Members {
		out = append(out, m.Name)
	}
	return out
}

// off powers machines off, all at nearly the same moment.
func (q quorumLost) off(t *testing.T, ctx context.Context, names ...string) {
	t.Helper()
	done := make(chan result, len(names))
	for _, name := range names {
		go func() { done <- q.c.run(ctx, "lab", "--lab", q.c.name, "fault", "power-off", name) }()
	}
	for range names {
		if r := <-done; r.code != 0 {
			t.Fatal(r)
		}
	}
}

// reinstall gives machines empty disks.
func (q quorumLost) reinstall(t *testing.T, ctx context.Context, names ...string) {
	t.Helper()
	l := q.c.lab(t)
	s, err := spec.Load(q.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		old, err := l.Machine(name)
		if err != nil {
			t.Fatal(err)
		}
		h, _ := s.Host(name)
		if err := l.RemoveMachine(ctx, name); err != nil {
			t.Fatal(err)
		}
		if err := l.AddMachines(ctx, []lab.Machine{{Name: name, Zone: h.Zone, Address: old.Address}}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// recovered expects that a recovery brings all members back, that apply finishes the rest, and that no write is lost that was acknowledged.
func (q quorumLost) recovered(t *testing.T, ctx context.Context, args ...string) {
	t.Helper()
	r := q.c.must(t, ctx, append([]string{"recover", "-f", q.file, "--yes", "-o", "json", "-v"}, args...)...)
	fmt.Println(r.stderr)
	var out run.Recovered
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	fmt.Printf("%s: writes accepted after %s, three voters after %s; missing: %q\n", t.Name(), out.ToWrite.Round(100*time.Millisecond), out.ToThree.Round(100*time.Millisecond), out.Missing)
	if out.ToWrite == 0 || out.ToWrite > time.Minute {
		t.Errorf("writes were accepted %s after the decision", out.ToWrite)
	}
	if len(out.Left) > 0 {
		t.Errorf("left are %v", out.Left)
	}
	q.c.must(t, ctx, "apply", "-f", q.file)
	poll(t, ctx, 2*time.Second, "full margins and no problems", func() error {
		s, _, err := q.c.statusOf(ctx, q.file)
		if err == nil && s.Margins.Etcd < 1 || err == nil && len(s.Problems) > 0 {
			err = fmt.Errorf("margins %+v, problems %+v", s.Margins, s.Problems)
		}
		return err
	})
	if err := q.p.Calm(ctx, calm); err != nil {
		t.Error(err)
	}
	lost, acked, err := q.p.Lost(ctx)
	if err != nil || len(lost) > 0 || acked == 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
	fmt.Printf("%s: %d of %d acknowledged writes lost\n", t.Name(), len(lost), acked)
	q.c.exits(t, ctx, 3, append([]string{"recover", "-f", q.file, "--yes"}, args...)...)
	q.c.unchanged(t, ctx, "-f", q.file)
}

// oneLeft loses all members but one. Those that are off are waited for; those that were installed again are not.
func (q quorumLost) oneLeft(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	left, others := members[0], members[1:]
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--from", left, "--yes"); !strings.Contains(r.stderr, "etcd has a quorum") {
		t.Errorf("a cluster that works: %s", r)
	}
	q.off(t, ctx, others...)
	eventually(t, ctx, "status points at quorate recover", func() error {
		r := q.c.run(ctx, "status", "-f", q.file)
		if !strings.Contains(r.stdout, "quorate recover") {
			return errors.New(r.String())
		}
		return nil
	})
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--from", left, "--yes"); !strings.Contains(r.stderr, others[0]) || !strings.Contains(r.stderr, "--lost") {
		t.Errorf("machines that are off: %s", r)
	}
	q.reinstall(t, ctx, others...)
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--from", others[0], "--yes"); !strings.Contains(r.stderr, "no data of etcd in place") {
		t.Errorf("the wrong host: %s", r)
	}
	fmt.Println(q.c.must(t, ctx, "recover", "-f", q.file).stdout)
	q.recovered(t, ctx, "--from", left)
	if kept := q.c.ssh(t, ctx, left, "ls -d /var/lib/etcd-kept/*/member | wc -l"); kept != "1" {
		t.Errorf("%s keeps %s old data directories", left, kept)
	}
}

// TestRecover recovers clusters of five from what TestHosts and TestExternalEtcd do not have.
func TestRecover(t *testing.T) {
	if !*whole {
		t.Skip("recoveries run with -whole")
	}
	c := newCluster(t, "e2e-recover")
	ctx := testContext(t)
	s := shapeOf(t, spec.InitOptions{Name: c.name, Zones: []string{"a", "b", "c"}, ControlPlanes: 5, Workers: 1})
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "spec.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "up", "-f", file)
	q := quorumLost{c, c.specFile(), c.clients(t, ctx)}
	for _, part := range []struct {
		name string
		test func(*testing.T, context.Context)
	}{
		{"two of five are left", q.twoLeft},
		{"interrupted", q.interrupted},
		{"a copy of the data", q.fromCopy},
		{"the old majority comes back", q.oldMajority}, // the last, because what is written to it is lost
	} {
		if !t.Run(part.name, func(t *testing.T) {
			part.test(t, ctx)
			if t.Failed() {
				c.collect(t, "failed")
			}
		}) {
			return
		}
	}
}

// twoLeft: a member that is left, and not chosen, joins again with its installation.
func (q quorumLost) twoLeft(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	q.off(t, ctx, members[2:]...)
	q.reinstall(t, ctx, members[2:]...)
	q.recovered(t, ctx, "--from", members[0])
	for _, host := range members[:2] {
		if kept := q.c.ssh(t, ctx, host, "ls -d /var/lib/etcd-kept/*/member | wc -l"); kept != "1" {
			t.Errorf("%s keeps %s old data directories", host, kept)
		}
	}
}

// interrupted kills the recovery at every step, and runs it again.
func (q quorumLost) interrupted(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	q.off(t, ctx, members[2:]...)
	q.reinstall(t, ctx, members[2:]...)
	args := []string{"recover", "-f", q.file, "--yes", "--from", members[0]}
	for _, at := range []struct {
		words string
		delay time.Duration
	}{
		{"stop what is left of etcd, and the API servers …", 300 * time.Millisecond},
		{"stop what is left of etcd, and the API servers … done", 0},
		{"make a cluster of one from the data on", 8 * time.Second},
		{"the data that were in place on", 0},
		{"start etcd and the API …", time.Second},
	} {
		r := q.c.start(t, ctx, append(args, "--verbose")...)
		if !r.reaches(ctx, at.words) {
			code, all := r.wait(t)
			t.Fatalf("it ends before %q: exit status %d: %s", at.words, code, all)
		}
		r.signal(t, ctx, syscall.SIGKILL, at.delay)
		if code, all := r.wait(t); code != -1 {
			t.Fatalf("it survives its end: %d: %s", code, all)
		}
		time.Sleep(time.Second)
	}
	q.recovered(t, ctx, "--from", members[0])
}

// fromCopy: every machine was installed again but one, whose data are found only on an old disk.
func (q quorumLost) fromCopy(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	left := members[0]
	q.off(t, ctx, members[1:]...)
	q.reinstall(t, ctx, members[1:]...)
	q.c.ssh(t, ctx, left, "systemctl stop kubelet; crictl ps -q --name '^(etcd|kube-apiserver)$' | xargs -r crictl stop -t 2; mkdir -p /srv/disk && mv /var/lib/etcd/member /srv/disk/member")
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--from", left, "--yes"); !strings.Contains(r.stderr, "no data of etcd") {
		t.Errorf("without the disk: %s", r)
	}
	q.recovered(t, ctx, "--from", left+":/srv/disk")
	q.c.ssh(t, ctx, left, "test -d /srv/disk/member/wal")
}

// oldMajority: machines that were declared lost boot as they were. They have a majority of the old cluster, which nobody counts any more, and
// a repair has them join again.
func (q quorumLost) oldMajority(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	lost := members[2:]
	q.off(t, ctx, lost...)
	args := []string{"recover", "-f", q.file, "--yes", "-o", "json", "--from", members[0]}
	for _, name := range lost {
		args = append(args, "--lost", name)
	}
	r := q.c.must(t, ctx, args...)
	var out run.Recovered
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if len(out.Left) != len(lost) || out.Voters != 2 {
		t.Errorf("%d voters, left are %v, want %v", out.Voters, out.Left, lost)
	}
	for _, name := range lost {
		q.c.must(t, ctx, "lab", "--lab", q.c.name, "heal", "power-off", name)
	}
	eventually(t, ctx, "status reports the old cluster", func() error {
		if r := q.c.run(ctx, "status", "-f", q.file); !strings.Contains(r.stdout, "which a recovery has replaced") {
			return errors.New(r.String())
		}
		return nil
	})
	if r := q.c.exits(t, ctx, 3, "apply", "-f", q.file); !strings.Contains(r.stderr, "quorate repair") {
		t.Errorf("apply: %s", r)
	}
	poll(t, ctx, 2*time.Second, "full margins after repairs", func() error {
		if r := q.c.run(ctx, "repair", "-f", q.file); r.code != 0 {
			return errors.New(r.String())
		}
		s, _, err := q.c.statusOf(ctx, q.file)
		if err == nil && s.Margins.Etcd < 2 {
			err = fmt.Errorf("margins %+v, problems %+v", s.Margins, s.Problems)
		}
		return err
	})
	for _, name := range lost {
		if kept := q.c.ssh(t, ctx, name, "ls -d /var/lib/etcd-kept/*-former/member | wc -l"); kept != "1" {
			t.Errorf("%s keeps %s old data directories", name, kept)
		}
	}
	q.c.must(t, ctx, "apply", "-f", q.file)
}
