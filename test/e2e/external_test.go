//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// TestExternalEtcd builds the example with etcd on its own hosts, kills the run in between, and powers off the leader.
func TestExternalEtcd(t *testing.T) {
	besideAnother(t)
	c := newCluster(t, "e2e-etcd")
	ctx := testContext(t)
	example, err := filepath.Abs("../../examples/lab-external.yaml")
	if err != nil {
		t.Fatal(err)
	}
	up := []string{"up", "-f", example, "--name", c.name}
	r := c.start(t, ctx, append(up, "--verbose")...)
	if !r.reaches(ctx, "start etcd …") {
		code, all := r.wait(t)
		t.Fatalf("up ends before it starts etcd: exit status %d: %s", code, all)
	}
	r.signal(t, ctx, syscall.SIGKILL, 200*time.Millisecond)
	if code, all := r.wait(t); code != -1 {
		t.Fatalf("up survives its end: exit status %d: %s", code, all)
	}
	c.must(t, ctx, up...)
	s := c.whole(t, ctx)

	for _, part := range sample([]struct {
		name string
		test func(*testing.T, context.Context, *cluster, status.Status)
	}{
		{"shape", externalShape},
		{"nothing to do", func(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
			c.unchanged(t, ctx, "-f", c.specFile())
		}},
		{"benchmark", func(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
			benchmark(t, ctx, c, "cis-external.txt")
		}},
		{"leader's host powered off", etcdLeaderOff},
		{"lost data", etcdDataLost},
		{"repairs", repairsOfExternal},
		{"an etcd host is replaced", etcdHostReplaced},
		{"an etcd host is maintained", etcdHostMaintained},
		{"a dead etcd host is replaced", etcdHostDies},
		{"the quorum is lost", func(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
			quorumLost{c, c.specFile(), c.clients(t, ctx)}.oneLeft(t, ctx)
		}},
		{"certificates are renewed", func(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
			certificatesRenewedOnEtcdHosts(t, ctx, c)
		}},
		{"certificates have expired", func(t *testing.T, ctx context.Context, c *cluster, _ status.Status) { certificatesExpired(t, ctx, c) }},
	}, 0, 1, 2, 3, 4) {
		t.Run(part.name, func(t *testing.T) {
			inTimePart(t)
			defer c.healIfFailed(t)
			defer c.collectIfFailed(t)
			part.test(t, ctx, c, s)
		})
	}
	if *whole { // it takes a quarter of an hour
		t.Run("etcd's authority is replaced", func(t *testing.T) {
			var hosts []string // others than at first
			for _, m := range c.whole(t, ctx).Etcd.Members {
				hosts = append(hosts, m.Name)
			}
			authorityRotation{c, facts.EtcdAuthority, hosts}.run(t, ctx, nil)
		})
	}
}

// externalShape checks the topology: which host has which keys, and which host runs what.
func externalShape(t *testing.T, ctx context.Context, c *cluster, s status.Status) {
	var names []string
	for _, m := range s.Etcd.Members {
		names = append(names, m.Name)
	}
	if s.Etcd.Topology != spec.TopologyExternal || !slices.Equal(names, []string{"etcd-a", "etcd-b", "etcd-c"}) || len(s.Nodes) != 3 {
		t.Errorf("etcd is %+v, nodes %+v", s.Etcd, s.Nodes)
	}
	const pki = "/etc/kubernetes/pki/"
	for machine, commands := range map[string]map[string]string{
		"cp-a": {
			"ls /etc/kubernetes/manifests":                    "kube-apiserver.yaml\nkube-controller-manager.yaml\nkube-scheduler.yaml",
			"ls " + pki + "etcd":                              "ca.crt",
			"stat -c %a " + pki + "apiserver-etcd-client.key": "600",
			"kubectl -n kube-system get configmap kubeadm-config -o yaml | grep -c 'certFile: /etc/kubernetes/pki/apiserver-etcd-client.crt'":              "1",
			"etcdctl --endpoints https://etcd-a:2379 --cacert " + pki + "etcd/ca.crt --command-timeout 2s endpoint health >/dev/null 2>&1 || echo refused": "refused",
		},
		"etcd-b": {
			"systemctl is-active etcd":                            "active",
			"systemctl is-active kubelet":                         "inactive",
			"stat -c %a /var/lib/etcd":                            "700",
			"stat -c %a " + pki + "etcd/ca.key":                   "600",
			"ls " + pki:                                           "apiserver-etcd-client.crt\napiserver-etcd-client.key\nbegun-by-quorate\netcd",
			"ss -Hltn 'sport = 2381' | grep -v 127.0.0.1 | wc -l": "0",
		},
	} {
		for command, want := range commands {
			var out bytes.Buffer
			_ = c.lab(t).Exec(ctx, machine, []string{"sh", "-c", command}, nil, &out, &out) // what it says is what counts
			if got := strings.TrimSpace(out.String()); got != want {
				t.Errorf("%s on %s: %q, want %q", command, machine, got, want)
			}
		}
	}
}

// etcdLeaderOff powers off the leader while clients write.
func etcdLeaderOff(t *testing.T, ctx context.Context, c *cluster, s status.Status) {
	p := c.clients(t, ctx)
	i := slices.IndexFunc(s.Etcd.Members, func(m status.Member) bool { return m.Leader })
	if i < 0 {
		t.Fatalf("no leader in %+v", s.Etcd.Members)
	}
	leader := s.Etcd.Members[i].Name
	powerOff := c.labDo("fault", "power-off", leader)
	c.whole(t, ctx)
	injected := time.Now()
	powerOff(t, ctx)
	// Requests that an API server sent to the dead member wait for ten seconds. The API server must not count as dead
	// because of that.
	if s, r, err := c.status(ctx); err != nil || s.Version == "" || s.Margins.Etcd != 0 {
		t.Errorf("status a moment after the power-off: %v: %s", err, r)
	}
	if err := p.Calm(ctx, calm); err != nil {
		t.Errorf("clients do not get over it: %v", err)
	}
	met, err := p.Between(ctx, injected, time.Now())
	if err != nil {
		t.Error(err)
	}
	printMet(t, "outage-external-etcd", time.Since(injected), met)
	if met.Longest() > sane {
		t.Errorf("an outage of %s", met.Longest())
	}
	c.labDo("heal", "power-off", leader)(t, ctx)
	c.sound(t, ctx, p, injected)
}

// etcdDataLost deletes the data of a member of a complete cluster. The member must not start empty, and the plan must not
// start it.
func etcdDataLost(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
	c.ssh(t, ctx, "etcd-c", "systemctl stop etcd && mv /var/lib/etcd/member /var/lib/etcd/away")
	if r := c.run(ctx, "lab", "--lab", c.name, "ssh", "etcd-c", "systemctl start etcd"); r.code == 0 {
		t.Errorf("an emptied member starts: %s", r)
	}
	if r := c.exits(t, ctx, 3, "plan", "-f", c.specFile()); !strings.Contains(r.stderr, "etcd-c is empty") {
		t.Errorf("got %s", r)
	}
	c.ssh(t, ctx, "etcd-c", "mv /var/lib/etcd/away /var/lib/etcd/member")
	c.whole(t, ctx) // the unit tries again every second, because a disk may be mounted late
}

// etcdHostReplaced replaces the first etcd host by a new one, under load, while it is the leader. The first one also issued the API
// servers' client certificate.
func etcdHostReplaced(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
	const old = "etcd-a"
	c.lead(t, ctx, old)
	client := func(host string) string {
		return c.ssh(t, ctx, host, "sha256sum </etc/kubernetes/pki/apiserver-etcd-client.crt")
	}
	if client("cp-a") != client(old) {
		t.Errorf("the API server on cp-a has no client certificate of %s", old)
	}
	h := &changingHosts{c: c, spec: c.specFile(), p: c.clients(t, ctx)}
	fresh := h.machine(t, ctx, "etcd-d", "a", spec.RoleEtcd)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, old)
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	h.apply(t, ctx, true)
	h.gone(t, ctx, old)
	for _, cp := range []string{"cp-a", "cp-b"} {
		if flags := c.ssh(t, ctx, cp, "tr '\\0' '\\n' </proc/$(pidof kube-apiserver)/cmdline | grep etcd-servers"); !strings.Contains(flags, fresh.Address) {
			t.Errorf("the API server on %s uses %s", cp, flags)
		}
		if client(cp) != client("etcd-b") {
			t.Errorf("the API server on %s has no client certificate of the first etcd host that stays", cp)
		}
	}
	if s := h.status(t, ctx); len(s.Etcd.Members) != 3 || s.Margins.Etcd != 1 {
		t.Errorf("etcd has %d members and survives %d failures", len(s.Etcd.Members), s.Margins.Etcd)
	}
}

// etcdHostMaintained takes the etcd host whose member leads out of service, cuts its power, and brings it back, under load.
func etcdHostMaintained(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
	members := c.whole(t, ctx).Etcd.Members
	host, other := members[0].Name, members[1].Name
	c.lead(t, ctx, host)
	_, api := c.client(t, ctx)
	p := c.clients(t, ctx)
	member := func() string { return c.ssh(t, ctx, host, "systemctl is-active etcd || true") }
	begin := time.Now()
	c.must(t, ctx, "maintain", "-f", c.specFile(), host)
	inMaintenance(t, ctx, c, api, host)
	if is := member(); is != "inactive" {
		t.Errorf("the etcd member on %s is %s", host, is)
	}
	if r := c.exits(t, ctx, 3, "maintain", "-f", c.specFile(), other); !strings.Contains(r.stderr, "etcd") {
		t.Errorf("a second member of three: %s", r)
	}
	c.labDo("fault", "power-off", host)(t, ctx)
	pause(ctx, calm)
	c.unchanged(t, ctx, "-f", c.specFile()) // apply would leave it alone
	c.labDo("heal", "power-off", host)(t, ctx)
	c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", host)
	if is := member(); is != "active" {
		t.Errorf("the etcd member on %s is %s after the maintenance", host, is)
	}
	c.whole(t, ctx)
	report, err := p.Between(ctx, begin, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if failed := c.noticed(t, ctx, begin, time.Now(), report); failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
	if lost, acked, err := p.Lost(ctx); err != nil || acked == 0 || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
}

// etcdHostDies cuts the power of the etcd host whose member leads, replaces it under load, and powers it on again: it is locked out until
// the next apply resets it.
func etcdHostDies(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	hosts := s.EtcdHosts()
	old := hosts[len(hosts)-1]
	c.lead(t, ctx, old.Name)
	h := &changingHosts{c: c, spec: c.specFile(), p: c.clients(t, ctx)}
	c.labDo("fault", "power-off", old.Name)(t, ctx)
	eventually(t, ctx, "its member is missed", func() error {
		s, r, err := c.status(ctx)
		if err == nil && s.Margins.Etcd != 0 {
			err = errors.New(r.String())
		}
		return err
	})
	fresh := h.machine(t, ctx, "etcd-e", old.Zone, spec.RoleEtcd)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, old.Name)
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	h.apply(t, ctx, false)
	now := h.status(t, ctx)
	if len(now.Etcd.Members) != 3 || now.Margins.Etcd != 1 || slices.ContainsFunc(now.Etcd.Members, func(m status.Member) bool { return m.Name == old.Name }) {
		t.Errorf("etcd has the members %+v and survives %d failures", now.Etcd.Members, now.Margins.Etcd)
	}
	for _, cp := range s.HostsWith(spec.RoleControlPlane) {
		flags := c.ssh(t, ctx, cp.Name, "tr '\\0' '\\n' </proc/$(pidof kube-apiserver)/cmdline | grep etcd-servers")
		if !strings.Contains(flags, fresh.Address) || strings.Contains(flags, old.Address) {
			t.Errorf("the API server on %s uses %s", cp.Name, flags)
		}
	}
	c.labDo("heal", "power-off", old.Name)(t, ctx)
	eventually(t, ctx, "status says that "+old.Name+" is back and locked out", func() error {
		s, r, err := c.status(ctx)
		if err == nil && !slices.ContainsFunc(s.Problems, func(f model.Finding) bool {
			return strings.Contains(f.Summary, old.Name) && strings.Contains(f.Summary, "locked out")
		}) {
			err = errors.New(r.String())
		}
		return err
	})
	h.apply(t, ctx, true)
	h.gone(t, ctx, old.Name)
}

// lead has an etcd member become the leader.
func (c *cluster) lead(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	members := c.whole(t, ctx).Etcd.Members
	if i := slices.IndexFunc(members, func(m status.Member) bool { return m.Leader }); i >= 0 && members[i].Name != name {
		c.ssh(t, ctx, members[i].Name, etcdctlAsAPIServer+"move-leader $("+etcdctlAsAPIServer+"member list | awk -F', ' '$3 == \""+name+"\" {print $1}')")
	}
	eventually(t, ctx, name+" leads", func() error {
		s, r, err := c.status(ctx)
		if err == nil && !slices.ContainsFunc(s.Etcd.Members, func(m status.Member) bool { return m.Leader && m.Name == name }) {
			err = errors.New(r.String())
		}
		return err
	})
}

// TestExistingEtcd builds a cluster on an existing etcd, after all problems with that etcd have been refused and fixed.
func TestExistingEtcd(t *testing.T) {
	besideAnother(t)
	c := newCluster(t, "e2e-theirs")
	ctx := testContext(t)
	theirs := newTheirEtcd(t, c, "lb-a", "lb-b", "worker-a")
	file := theirs.write(t, "spec.yaml", string(theirs.spec(t, []string{"https://etcd.example.com:2379"})))
	c.must(t, ctx, "lab", "create", "-f", file)
	theirs.start(t, ctx)
	resolved, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	resolved.Spec.Etcd.Endpoints = theirs.endpoints
	text, err := spec.Marshal(resolved)
	if err != nil {
		t.Fatal(err)
	}
	file = theirs.write(t, "spec.yaml", string(text))

	refused := func(t *testing.T, file, want string) {
		t.Helper()
		if r := c.exits(t, ctx, 3, "plan", "-f", file); !strings.Contains(r.stderr, want) {
			t.Errorf("want %q, got %s", want, r)
		}
	}
	t.Run("of another cluster", func(t *testing.T) {
		theirs.etcdctl(t, ctx, "put /registry/pods/default/web theirs")
		refused(t, file, "1 objects of another Kubernetes cluster")
		theirs.etcdctl(t, ctx, "del /registry/pods/default/web")
		theirs.etcdctl(t, ctx, "put /quorate.dev/owner '"+facts.EtcdOwner("other", "CA")+"'")
		refused(t, file, "belongs to the cluster other")
		theirs.etcdctl(t, ctx, "del /quorate.dev/owner")
	})
	t.Run("without a member", func(t *testing.T) {
		c.ssh(t, ctx, "lb-b", "systemctl stop their-etcd")
		refused(t, file, "member of-lb-b is not healthy")
		c.ssh(t, ctx, "lb-b", "systemctl start their-etcd")
	})
	t.Run("with the wrong CA", func(t *testing.T) {
		other := newAuthority(t, "another CA")
		theirs.write(t, "wrong.pem", string(other.pem))
		refused(t, theirs.write(t, "wrong.yaml", strings.Replace(string(text), theirs.file("ca.pem"), theirs.file("wrong.pem"), 1)), "unknown authority")
	})
	if t.Failed() {
		return
	}
	revision := theirs.etcdctl(t, ctx, "get --prefix / --keys-only --limit 1 -w json")
	steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
	if !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind == plan.ClaimEtcd }) {
		t.Errorf("nobody claims the etcd: %+v", steps)
	}
	if now := theirs.etcdctl(t, ctx, "get --prefix / --keys-only --limit 1 -w json"); revisionOf(now) != revisionOf(revision) {
		t.Errorf("a plan has written into their etcd: %s, before: %s", now, revision)
	}
	c.must(t, ctx, "apply", "-f", file)
	theirs.writeTo(t, c.specFile(), string(text))
	s := c.whole(t, ctx)
	if s.Etcd.Topology != spec.TopologyExternal || len(s.Etcd.Members) != 3 || s.Etcd.Members[0].Name != "of-lb-a" {
		t.Errorf("etcd is %+v", s.Etcd)
	}
	c.unchanged(t, ctx, "-f", c.specFile())
	if owner := theirs.etcdctl(t, ctx, "get /quorate.dev/owner --print-value-only"); !strings.HasPrefix(owner, c.name+" sha256:") {
		t.Errorf("their etcd belongs to %q", owner)
	}
	if keys := c.ssh(t, ctx, "cp-b", "ls /etc/kubernetes/pki/etcd"); keys != "ca.crt" {
		t.Errorf("a control plane has of etcd's authority: %q", keys)
	}

	t.Run("a renewed certificate", func(t *testing.T) {
		theirs.renewClient(t)
		steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json"))
		if len(steps) != 3 || steps[0].Kind != plan.ShareEtcdClient || steps[1].Kind != plan.ShareEtcdClient {
			t.Errorf("%+v", steps)
		}
		c.must(t, ctx, "apply", "-f", c.specFile())
		if got, want := c.ssh(t, ctx, "cp-a", "cat /etc/kubernetes/pki/apiserver-etcd-client.crt"), strings.TrimSpace(theirs.read(t, "client.pem")); got != want {
			t.Errorf("cp-a has\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("a member dies", func(t *testing.T) {
		c.ssh(t, ctx, "worker-a", "systemctl stop their-etcd")
		eventually(t, ctx, "status says which member is missing", func() error {
			s, r, err := c.status(ctx)
			if err != nil {
				return err
			}
			if s.Margins.Etcd != 0 || len(s.Problems) == 0 || !strings.Contains(s.Problems[0].Summary, "of-worker-a") {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		c.unchanged(t, ctx, "-f", c.specFile())
		c.ssh(t, ctx, "worker-a", "systemctl start their-etcd")
		c.whole(t, ctx)
	})
}

// revisionOf returns the revision in etcdctl's JSON, which every write increments.
func revisionOf(answer string) string {
	_, after, _ := strings.Cut(answer, `"revision":`)
	revision, _, _ := strings.Cut(after, ",")
	return revision
}
