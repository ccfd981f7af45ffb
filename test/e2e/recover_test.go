//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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

// The times that a recovery may take, from the decision on.
const (
	untilWrites      = time.Minute
	untilThreeVoters = 2 * time.Minute
)

// recover recovers, and expects that it is over in time.
func (q quorumLost) recover(t *testing.T, ctx context.Context, args ...string) (out run.Recovered) {
	t.Helper()
	r := q.c.run(ctx, append([]string{"recover", "-f", q.file, "--yes", "-o", "json", "-v"}, args...)...)
	fmt.Println(r.stderr)
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if want := map[bool]int{true: 0, false: 1}[out.Complete]; r.code != want {
		t.Fatalf("exit status %d, want %d: %s", r.code, want, r)
	}
	fmt.Printf("%s: writes accepted after %s, three voters after %s, %d voters; missing: %q\n", t.Name(), out.ToWrite.Round(100*time.Millisecond), out.ToThree.Round(100*time.Millisecond), out.Voters, out.Missing)
	inGoodTime(t, "writes were accepted", out.ToWrite, untilWrites)
	if out.Voters >= 3 {
		inGoodTime(t, "etcd had three voters", out.ToThree, untilThreeVoters)
	}
	return out
}

func inGoodTime(t *testing.T, what string, after, limit time.Duration) {
	t.Helper()
	if after == 0 || after > limit {
		t.Errorf("%s %s after the decision, which is to take no more than %s", what, after, limit)
	}
}

// recovered expects that a recovery brings all members back, that apply finishes the rest, and that no write is lost that was acknowledged.
func (q quorumLost) recovered(t *testing.T, ctx context.Context, args ...string) {
	t.Helper()
	if out := q.recover(t, ctx, args...); len(out.Left) > 0 {
		t.Errorf("left are %v", out.Left)
	}
	q.finished(t, ctx)
	q.c.exits(t, ctx, 3, append([]string{"recover", "-f", q.file, "--yes"}, args...)...)
	q.c.unchanged(t, ctx, "-f", q.file)
}

// finished has apply finish the rest.
func (q quorumLost) finished(t *testing.T, ctx context.Context) {
	t.Helper()
	q.c.must(t, ctx, "apply", "-f", q.file)
	settles(t, ctx, 2*time.Second, "full margins and no problems", func() (wrong []string, err error) {
		s, _, err := q.c.statusOf(ctx, q.file)
		if err != nil {
			return nil, err
		}
		if wrong = problems(s); s.Margins.Etcd < fullMargin(s) {
			wrong = append(wrong, "margin of etcd")
		}
		if len(wrong) > 0 {
			err = fmt.Errorf("margins %+v, problems %+v", s.Margins, s.Problems)
		}
		return wrong, err
	})
	q.nothingLost(t, ctx)
}

// fullMargin is how many failures its members could survive.
func fullMargin(s status.Status) int { return (len(s.Etcd.Members) - 1) / 2 }

// nothingLost expects that clients are served, and that no write is lost that was acknowledged.
func (q quorumLost) nothingLost(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := q.p.Calm(ctx, calm); err != nil {
		t.Error(err)
	}
	lost, acked, err := q.p.Lost(ctx)
	if err != nil || len(lost) > 0 || acked == 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
	fmt.Printf("%s: %d of %d acknowledged writes lost\n", t.Name(), len(lost), acked)
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

// TestRecover recovers a cluster of five from what TestHosts and TestExternalEtcd, which lose all members but one, do not have.
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
		{"only data directories", q.onlyData},
		{"a rescue system", q.rescueSystem},
		{"the old majority comes back", q.oldMajority},
	} {
		if !t.Run(part.name, func(t *testing.T) {
			defer c.collectIfFailed(t)
			part.test(t, ctx)
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
		{"make a cluster of one from the data on", 300 * time.Millisecond}, // of a few seconds; once it is done, it is not done again
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

// ends are commands that end programs on a machine and wait until they are gone. Without the kubelet, nobody starts them again.
func ends(programs ...string) string {
	var out strings.Builder
	for _, p := range programs {
		fmt.Fprintf(&out, "pkill -x %[1]s; timeout 20 sh -c 'while pidof %[1]s; do sleep 0.2; done' >/dev/null; ", p)
	}
	return out.String()
}

// fromCopy: every machine was installed again but one, whose data are found only on an old disk.
func (q quorumLost) fromCopy(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	left := members[0]
	q.off(t, ctx, members[1:]...)
	q.reinstall(t, ctx, members[1:]...)
	q.c.ssh(t, ctx, left, "systemctl stop kubelet; "+ends("etcd", "kube-apiserver")+"mkdir -p /srv/disk && mv /var/lib/etcd/member /srv/disk/member")
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--from", left, "--yes"); !strings.Contains(r.stderr, "no data of etcd") && !strings.Contains(r.stderr, "there are only data of etcd clusters that a recovery has replaced") { // what an earlier part set aside does not count
		t.Errorf("without the disk: %s", r)
	}
	q.recovered(t, ctx, "--from", left+":/srv/disk")
	q.c.ssh(t, ctx, left, "test -d /srv/disk/member/wal")
}

// onlyData: one control plane is left, with its data and its keys. Its etcd and its kubelet are stopped, and all of its manifests are gone; no
// kubelet has ended what else ran there. It prints the times to people.
func (q quorumLost) onlyData(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	left := members[0]
	q.off(t, ctx, members[1:]...)
	q.reinstall(t, ctx, members[1:]...)
	q.c.ssh(t, ctx, left, "systemctl stop kubelet; "+ends("etcd")+"rm /etc/kubernetes/manifests/*.yaml; ! pidof etcd")
	r := q.c.must(t, ctx, "recover", "-f", q.file, "--yes", "-v", "--from", left)
	fmt.Println(r.stderr + r.stdout)
	for _, want := range []string{`Writes were accepted (.+) after the decision\.`, `etcd had three voters (.+) after the decision, and has 5 now\.`} {
		if !regexp.MustCompile(want).MatchString(r.stdout) {
			t.Errorf("it does not print %q: %s", want, r.stdout)
		}
	}
	q.finished(t, ctx)
	if manifests := q.c.ssh(t, ctx, left, "ls /etc/kubernetes/manifests"); manifests != "etcd.yaml\nkube-apiserver.yaml\nkube-controller-manager.yaml\nkube-scheduler.yaml" {
		t.Errorf("%s has the manifests %s", left, manifests)
	}
	q.c.unchanged(t, ctx, "-f", q.file)
}

// rescueSystem: the machine with the most data boots only a rescue system, in which its disk is mounted elsewhere. Another one has its installation
// and its own data, and the rest was installed again.
func (q quorumLost) rescueSystem(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	rescued, left, gone := members[0], members[1], members[2:]
	q.off(t, ctx, slices.Concat([]string{rescued}, gone)...)
	q.reinstall(t, ctx, gone...)
	q.rescue(t, ctx, rescued)
	const mounted = "/mnt/var/lib/etcd"
	disk := rescued + ":" + mounted
	if r := q.c.must(t, ctx, "recover", "-f", q.file, "--data", disk); !strings.Contains(r.stdout, mounted+" (named)") || !strings.Contains(r.stdout, "is this a rescue system?") {
		t.Errorf("the disk in the rescue system: %s", r)
	} else {
		fmt.Println(r.stdout)
	}
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--yes", "--from", disk); !strings.Contains(r.stderr, rescued+" has nothing that could run etcd") || !strings.Contains(r.stderr, "copy the directory") {
		t.Errorf("from the rescue system: %s", r)
	}
	q.copyData(t, ctx, rescued, mounted, left, "/srv/rescued")
	out := q.recover(t, ctx, "--from", left+":/srv/rescued", "--data", disk)
	if why := out.Left[rescued]; len(out.Left) != 1 || out.Complete || !strings.Contains(why, "rescue system") || out.Voters != len(members)-1 {
		t.Errorf("%d voters, left are %v", out.Voters, out.Left)
	}
	q.nothingLost(t, ctx)
	q.c.ssh(t, ctx, rescued, "test -d "+mounted+"/member/wal && test ! -e /etc/kubernetes/kubelet.conf") // nobody touched it
	q.off(t, ctx, rescued)
	q.reinstall(t, ctx, rescued)
	q.finished(t, ctx)
	q.c.unchanged(t, ctx, "-f", q.file)
}

// rescue boots another system on a machine that is off: with sshd, without anything of Kubernetes, and with /var/lib in memory. The data of etcd
// on the machine's disk are mounted below /mnt.
func (q quorumLost) rescue(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	l := q.c.lab(t)
	disk := func(elem ...string) string {
		return filepath.Join(append([]string{l.Dir(), "machines", name, "var"}, elem...)...)
	}
	kept := filepath.Join(l.Dir(), "disk-of-"+name)
	if err := os.Rename(disk("lib", "etcd"), kept); err != nil {
		t.Fatal(err)
	}
	q.reinstall(t, ctx, name)
	err := os.MkdirAll(disk("disk", "var", "lib"), 0o755)
	if err == nil {
		err = os.Rename(kept, disk("disk", "var", "lib", "etcd"))
	}
	if err != nil {
		t.Fatal(err)
	}
	q.c.ssh(t, ctx, name, "mount --bind /var/disk /mnt && mount -t tmpfs tmpfs /var/lib")
}

// copyData copies a data directory from one machine to another, as an operator does with rsync.
func (q quorumLost) copyData(t *testing.T, ctx context.Context, from, dir, to, into string) {
	t.Helper()
	l := q.c.lab(t)
	packed, w := io.Pipe()
	var sender errgroup.Group
	sender.Go(func() error {
		err := l.Exec(ctx, from, []string{"tar", "-C", dir, "-cf", "-", "member"}, nil, w, os.Stderr)
		w.CloseWithError(err)
		return err
	})
	err := l.Exec(ctx, to, []string{"sh", "-ec", "mkdir -m 700 " + into + "; tar -C " + into + " -xf -"}, packed, os.Stderr, os.Stderr)
	packed.CloseWithError(err)
	if err = errors.Join(err, sender.Wait()); err != nil {
		t.Fatal(err)
	}
}

// oldMajority: machines that were declared lost boot as they were. They have a majority of the old cluster, which works again. Nobody counts it any
// more, no client gets there, and a repair has them join again.
func (q quorumLost) oldMajority(t *testing.T, ctx context.Context) {
	members := q.members(t, ctx)
	lost := members[2:]
	kept := func(host string) string {
		return q.c.ssh(t, ctx, host, "ls -d /var/lib/etcd-kept/*/member 2>/dev/null || true")
	}
	before := map[string]string{} // from earlier parts
	for _, name := range lost {
		before[name] = kept(name)
	}
	q.off(t, ctx, lost...)
	if r := q.c.exits(t, ctx, 3, "recover", "-f", q.file, "--yes", "--from", members[0], "--lost", members[1]); !strings.Contains(r.stderr, members[1]+" was declared lost, and it answers") {
		t.Errorf("a machine that is there is declared lost: %s", r)
	}
	args := []string{"--from", members[0]}
	for _, name := range lost {
		args = append(args, "--lost", name)
	}
	if out := q.recover(t, ctx, args...); len(out.Left) != len(lost) || !out.Complete || out.Voters != 2 || out.ToThree != 0 {
		t.Errorf("%d voters, three of them after %s, left are %v, want %v", out.Voters, out.ToThree, out.Left, lost)
	}
	for _, name := range lost {
		q.c.must(t, ctx, "lab", "--lab", q.c.name, "heal", "power-off", name)
	}
	eventually(t, ctx, "the old cluster works", func() error {
		if r := q.c.run(ctx, "lab", "--lab", q.c.name, "ssh", lost[0], etcdctlAsAPIServer+"put /e2e/old-cluster works"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	eventually(t, ctx, "status reports the old cluster", func() error {
		if r := q.c.run(ctx, "status", "-f", q.file); !strings.Contains(r.stdout, "which a recovery has replaced") {
			return errors.New(r.String())
		}
		return nil
	})
	if r := q.c.exits(t, ctx, 3, "apply", "-f", q.file); !strings.Contains(r.stderr, "quorate repair") {
		t.Errorf("apply: %s", r)
	}
	q.c.exits(t, ctx, 3, append([]string{"recover", "-f", q.file, "--yes"}, args...)...)
	q.nothingLost(t, ctx) // clients stay where they are
	// Three members join again, one after another, which takes longer than a poll. A server that was busy when it was looked at last may be left.
	fmt.Printf("%s: %s\n", t.Name(), q.c.run(ctx, "repair", "-f", q.file).stdout)
	poll(t, ctx, 2*time.Second, "full margins after repairs", func() error {
		if r := q.c.run(ctx, "repair", "-f", q.file); r.code != 0 {
			return errors.New(r.String())
		}
		s, _, err := q.c.statusOf(ctx, q.file)
		if err == nil && (len(s.Etcd.Members) != len(members) || s.Margins.Etcd < fullMargin(s)) {
			err = fmt.Errorf("margins %+v, problems %+v", s.Margins, s.Problems)
		}
		return err
	})
	for _, name := range lost {
		if now, was := strings.Fields(kept(name)), strings.Fields(before[name]); len(now) != len(was)+1 {
			t.Errorf("%s keeps the old data directories %v, and kept %v before", name, now, was)
		}
	}
	q.finished(t, ctx)
	for _, name := range []string{members[0], lost[0]} {
		if text := q.c.ssh(t, ctx, name, etcdctlAsAPIServer+"get /e2e/old-cluster"); text != "" {
			t.Errorf("%s has what was written to the old cluster: %s", name, text)
		}
	}
}
