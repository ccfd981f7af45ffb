package etcd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

var (
	abc = hostconfig.EtcdCluster{Members: []string{"a=https://10.0.0.11:2380", "b=https://10.0.0.12:2380", "c=https://10.0.0.13:2380"}, Token: "prod-1"}
	ade = hostconfig.EtcdCluster{Members: []string{"a=https://10.0.0.11:2380", "d=https://10.0.0.14:2380", "e=https://10.0.0.15:2380"}, Token: "prod-1"}
)

func (m Member) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path(path), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m Member) start(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(m.path(hostconfig.EtcdWAL), 0o700); err != nil {
		t.Fatal(err)
	}
}

func manifest(e hostconfig.EtcdCluster, volumes string) string {
	return `metadata: {labels: {tier: control-plane}}
spec:
  containers:
  - command:
    - etcd
    - --initial-cluster=` + strings.Join(e.Members, ",") + `
    - --initial-cluster-token=` + e.Token + `
  volumes: [` + volumes + `]
status: {}
`
}

// TestNoSecondCluster tries every state of a host in which a member of a new cluster may be asked to start.
func TestNoSecondCluster(t *testing.T) {
	noToken := hostconfig.EtcdCluster{Members: abc.Members}
	stacked := func(e hostconfig.EtcdCluster) func(*testing.T, Member) {
		return func(t *testing.T, m Member) { m.write(t, hostconfig.EtcdManifest, manifest(e, "")) }
	}
	external := func(e hostconfig.EtcdCluster) func(*testing.T, Member) {
		return func(t *testing.T, m Member) { m.write(t, hostconfig.EtcdMembersFile, e.Environment()) }
	}
	data := func(t *testing.T, m Member) { m.start(t) }
	mark := func(t *testing.T, m Member) { m.write(t, facts.EstablishedFile, "prod\n") }
	half := func(t *testing.T, m Member) { m.write(t, hostconfig.EtcdManifest, manifest(abc, "")[:60]) }
	for name, tc := range map[string]struct {
		has     []func(*testing.T, Member)
		refused string
	}{
		"nothing":                                    {},
		"this build's manifest":                      {has: []func(*testing.T, Member){stacked(abc)}},
		"this build's manifest, and data":            {has: []func(*testing.T, Member){stacked(abc), data}},
		"this build's environment":                   {has: []func(*testing.T, Member){external(abc)}},
		"a manifest that was not finished":           {has: []func(*testing.T, Member){half}},
		"another run's manifest":                     {has: []func(*testing.T, Member){stacked(ade)}, refused: "second etcd"},
		"another run's manifest, and data":           {has: []func(*testing.T, Member){stacked(ade), data}, refused: "second etcd"},
		"another run's environment":                  {has: []func(*testing.T, Member){external(ade)}, refused: "second etcd"},
		"the same members with another token":        {has: []func(*testing.T, Member){external(noToken)}, refused: "second etcd"},
		"data alone":                                 {has: []func(*testing.T, Member){data}, refused: "did not start"},
		"data, and a manifest that was not finished": {has: []func(*testing.T, Member){half, data}, refused: "is unknown"},
		"a complete cluster's mark":                  {has: []func(*testing.T, Member){mark}, refused: "lost its data"},
		"a complete cluster's mark and manifest":     {has: []func(*testing.T, Member){mark, stacked(abc)}, refused: "lost its data"},
	} {
		t.Run(name, func(t *testing.T) {
			m := Member{Root: t.TempDir()}
			for _, put := range tc.has {
				put(t, m)
			}
			err := m.MayBegin(abc)
			if (err == nil) != (tc.refused == "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("refused as %v, want %q", err, tc.refused)
			}
		})
	}
}

func TestBegan(t *testing.T) {
	m := Member{Root: t.TempDir()}
	if got, err := m.Began(); err != nil || len(got.Members) > 0 {
		t.Errorf("nothing began as %s, %v", got, err)
	}
	m.write(t, hostconfig.EtcdMembersFile, abc.Environment())
	if got, err := m.Began(); err != nil || !got.Equal(abc) {
		t.Errorf("%s, %v", got, err)
	}
	m.write(t, hostconfig.EtcdManifest, manifest(ade, ""))
	if got, err := m.Began(); err != nil || !got.Equal(ade) {
		t.Errorf("%s, %v", got, err)
	}
}

// TestGuard follows a member's guard through its life.
func TestGuard(t *testing.T) {
	m := Member{Root: t.TempDir()}
	leads := func() bool { info, err := os.Stat(m.path(hostconfig.EtcdGuard)); return err == nil && info.IsDir() }
	step := func(name string, do func() error, armed, mayStart bool) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.Armed() != armed || leads() != mayStart {
			t.Errorf("%s: armed %t, leads to a directory %t", name, m.Armed(), leads())
		}
	}
	step("before the first start", m.Guard, false, true)
	m.start(t)
	step("while the cluster is built", m.Guard, false, true)
	m.write(t, facts.EstablishedFile, "prod\n")
	step("when it is complete", m.Guard, true, true)
	step("in every later run", m.Guard, true, true)
	step("when the data is gone", func() error { return os.RemoveAll(m.path(hostconfig.EtcdDataDir)) }, true, false)
	step("in a run after that", m.Guard, true, false)
	step("for a member that begins anew", m.Open, false, true)
	step("after the join", m.Arm, true, false)

	// The data of a cluster that was not built by Quorate can be elsewhere.
	m.write(t, hostconfig.EtcdManifest, strings.Replace(manifest(abc, ""), "    - etcd\n", "    - etcd\n    - --data-dir=/srv/etcd\n", 1))
	if m.HasData() || m.DataDir() != m.path("/srv/etcd") {
		t.Errorf("data in %s", m.DataDir())
	}
	step("while nothing is in the place that the manifest names", func() error { return errors.Join(m.Open(), m.Guard()) }, false, true)
	if err := os.MkdirAll(m.path("/srv/etcd/member/wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	step("when the data is there", m.Guard, true, true)
	if target, err := os.Readlink(m.path(hostconfig.EtcdGuard)); err != nil || target != m.path("/srv/etcd/member/wal") {
		t.Errorf("the guard leads to %s, %v", target, err)
	}
	if err := os.Remove(m.path(hostconfig.EtcdManifest)); err != nil {
		t.Fatal(err)
	}

	if m.PodGuarded() {
		t.Error("no static pod is guarded")
	}
	m.write(t, hostconfig.EtcdManifest, manifest(abc, ""))
	if m.PodGuarded() {
		t.Error("a static pod without the volume is guarded")
	}
	m.write(t, hostconfig.EtcdManifest, manifest(abc, "{name: quorate-guard, hostPath: {path: "+hostconfig.EtcdGuard+", type: Directory}}"))
	if !m.PodGuarded() {
		t.Error("the static pod's guard is not seen")
	}
}
