package plan

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// rotating is a cluster whose authorities can be replaced, and what the steps of a rotation do to it.
type rotating struct {
	c   *spec.Cluster
	obs *facts.Observation
	now time.Time
	// made says that a step of this run has read or made the key that is to follow.
	made bool
}

func newRotating(t *testing.T) *rotating {
	t.Helper()
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	x := &rotating{c: c, obs: obs, now: obs.Time}
	obs.API.Kubeadm.Arguments = map[string]map[string]string{}
	obs.API.DaemonSets = []facts.DaemonSet{{Namespace: "kube-system", Name: facts.KubeProxy}, {Namespace: "kube-flannel", Name: "kube-flannel-ds"}}
	obs.API.Trusted = map[string][]string{"cluster-info": {"old"}, facts.RootCA: {"old"}, facts.ClientAuthorityKey: {"old"}, facts.ProxyAuthorityKey: {"old"}}
	for _, h := range c.Spec.Hosts {
		if !h.IsNode() {
			continue
		}
		k := x.kubernetes(h.Name)
		trust := facts.Trust{Trusted: []string{"old"}, PEM: "old", Kubeconfigs: map[string][]string{facts.KubeletKubeconfig: {"old"}}}
		k.Trust = map[facts.Authority]facts.Trust{}
		if h.Has(spec.RoleControlPlane) {
			trust.Key = "old"
			for _, name := range []string{"admin.conf", "controller-manager.conf", "scheduler.conf"} {
				trust.Kubeconfigs[name] = []string{"old"}
			}
			k.Arguments = map[string]map[string]string{facts.ControllerManager: facts.SigningArguments(false), facts.APIServer: {hostconfig.PortSharing: "true", "kubelet-certificate-authority": "/etc/kubernetes/pki/ca.crt",
				facts.ClientAuthorityKey: "/etc/kubernetes/pki/ca.crt", facts.ProxyAuthorityKey: "/etc/kubernetes/pki/front-proxy-ca.crt"}}
			k.Trust[facts.FrontProxyAuthority] = facts.Trust{Trusted: []string{"old"}, Key: "old", PEM: "old"}
			k.Certificates = append(k.Certificates, facts.Certificate{Name: facts.ApproverCertificate, Expires: obs.Time.AddDate(0, 0, 5)})
			for _, program := range []string{facts.ControllerManager, facts.Scheduler} {
				obs.Hosts[h.Name].Components[program] = facts.Component{Answer: facts.Answer{OK: true}, Started: x.now}
			}
		}
		k.Trust[facts.KubernetesAuthority] = trust
		for i, cert := range k.Certificates {
			if cert.SignedByAuthority() != "" {
				k.Certificates[i].SignedBy = "old"
			}
		}
	}
	return x
}

func (x *rotating) kubernetes(host string) *facts.Kubernetes {
	return &x.obs.Hosts[host].Facts.Kubernetes
}

func (x *rotating) plan(a facts.Authority, o RotateOptions) (*Plan, error) {
	return RotateAuthority(cluster.Evaluate(x.c, x.obs), a, o)
}

func (x *rotating) state() *cluster.State { return cluster.Evaluate(x.c, x.obs) }

// trustedAfter are the keys of a step, with the one that was made.
func trustedAfter(s Step) []string {
	out := slices.Clone(s.Trusted)
	for i := range out {
		if out[i] == facts.NextKey {
			out[i] = "new"
		}
	}
	return out
}

// run does what a step does, or, if it is killed, a part of it.
func (x *rotating) run(t *testing.T, s Step, killed bool, random *rand.Rand) {
	t.Helper()
	x.now = x.now.Add(time.Second)
	for _, h := range x.c.Spec.Hosts {
		x.obs.Hosts[h.Name].Facts.Time = x.now
	}
	if killed && s.Kind != SetTrust && s.Kind != RenewKubelet {
		return
	}
	var k *facts.Kubernetes
	if s.Host != "" {
		k = x.kubernetes(s.Host)
	}
	written := func(name string) {
		for i := range k.Certificates {
			if k.Certificates[i].Name == name {
				k.Certificates[i].Written = x.now
			}
		}
	}
	if s.Kind == SetTrust || s.Kind == PublishTrust {
		x.obtainable(t, s)
	}
	switch s.Kind {
	case MakeAuthority, ShareAuthority:
		x.made = true
		tr := k.Trust[s.Authority]
		tr.Next, tr.NextPEM = "new", "new"
		k.Trust[s.Authority] = tr
	case StoreSettings:
		arguments := map[string]string{}
		for name, value := range s.Settings.Arguments[facts.ControllerManager] {
			if value != "" {
				arguments[name] = value
			}
		}
		x.obs.API.Kubeadm.Arguments[facts.ControllerManager] = arguments
	case SetTrust:
		x.setTrust(t, s, k, written, killed, random)
	case RestartPrograms:
		for _, program := range s.Pods {
			x.obs.Hosts[s.Host].Components[program] = facts.Component{Answer: facts.Answer{OK: true}, Started: x.now}
		}
	case Configure:
		f := s.Desired.Files[0]
		if f.Content == "" {
			f.Content = x.kubernetes("cp-a").Trust[facts.KubernetesAuthority].PEM
		}
		x.obs.Hosts[s.Host].Facts.Files[f.Key()] = f.Sum()
	case PublishTrust:
		for _, name := range s.Authority.Published() {
			if x.obs.API.Trusted[name] != nil {
				x.obs.API.Trusted[name] = trustedAfter(s)
			}
		}
	case RestartClients:
		for i := range x.obs.API.DaemonSets {
			x.obs.API.DaemonSets[i].Authority = trustedAfter(s)[1]
		}
	case RenewCertificates:
		for i, c := range k.Certificates {
			if slices.Contains(s.Certificates, c.Name) {
				k.Certificates[i].SignedBy = k.Trust[c.SignedByAuthority()].Key
				written(c.Name)
			}
		}
	case RenewKubelet:
		k.KubeletDue = true
		for i, c := range k.Certificates {
			if slices.Contains(s.Certificates, c.Name) {
				k.Certificates[i].SignedBy = cmp.Or(k.Trust[facts.KubernetesAuthority].Key, x.kubernetes("cp-c").Trust[facts.KubernetesAuthority].Key)
				if killed {
					return
				}
			}
		}
		k.KubeletDue = false
	case RenewApprover:
		for i, c := range k.Certificates {
			if c.Name == facts.ApproverCertificate {
				k.Certificates[i].SignedBy = x.kubernetes("cp-b").Trust[facts.KubernetesAuthority].Key
			}
		}
	}
}

// obtainable expects that the certificates which a step distributes are known to this run, or on a host.
func (x *rotating) obtainable(t *testing.T, s Step) {
	t.Helper()
	for _, key := range s.Trusted {
		found := x.made && trustedAfter(Step{Trusted: []string{key}})[0] == "new"
		for _, h := range x.c.Spec.Hosts {
			if !h.IsNode() {
				continue
			}
			tr := x.kubernetes(h.Name).Trust[s.Authority]
			for _, pem := range []string{tr.PEM, tr.NextPEM, tr.FormerPEM} {
				found = found || slices.Contains(strings.Split(pem, "+"), key)
			}
		}
		if !found {
			t.Fatalf("%s: no host has the certificate for the key %s", s.ID, key)
		}
	}
}

// setTrust is the order in which kubeadm.SetTrust writes files.
func (x *rotating) setTrust(t *testing.T, s Step, k *facts.Kubernetes, written func(string), killed bool, random *rand.Rand) {
	t.Helper()
	left := 100
	if killed {
		left = random.IntN(9)
	}
	goesOn := func() bool { left--; return left >= 0 }
	want := trustedAfter(s)
	tr := k.Trust[s.Authority]
	defer func() { k.Trust[s.Authority] = tr }()
	signs := tr.Key != ""
	if signs && tr.Key != want[0] && tr.Next != want[0] {
		t.Fatalf("%s is to sign with %s and has %s and %s", s.Host, want[0], tr.Key, tr.Next)
	}
	manages := signs && s.Authority == facts.KubernetesAuthority
	if manages && len(want) > 1 {
		if !goesOn() {
			return
		}
		tr.Apart = true
		if !goesOn() {
			return
		}
		k.Arguments[facts.ControllerManager] = facts.SigningArguments(true)
	}
	if signs {
		if !goesOn() {
			return
		}
		tr.Key = want[0]
	}
	if !goesOn() {
		return
	}
	tr.Trusted, tr.PEM = want, strings.Join(want, "+")
	if s.Authority == facts.KubernetesAuthority {
		k.CA = tr.PEM
		confs := map[string][]string{}
		for name, have := range tr.Kubeconfigs {
			confs[name] = have
			if !(facts.Trust{Trusted: have}).Trusts(want...) && name != facts.KubeletKubeconfig {
				if !goesOn() {
					return
				}
				confs[name] = want
				written(name)
			}
		}
		tr.Kubeconfigs = confs
	}
	if manages && len(want) == 1 {
		if !goesOn() {
			return
		}
		k.Arguments[facts.ControllerManager] = facts.SigningArguments(false)
		if !goesOn() {
			return
		}
		tr.Apart = false
	}
	if tr.Next == want[0] || len(want) == 1 {
		if !goesOn() {
			return
		}
		tr.Next, tr.NextPEM = "", ""
	}
	if have := tr.Kubeconfigs[facts.KubeletKubeconfig]; have != nil && (k.KubeletDue || !(facts.Trust{Trusted: have}).Trusts(want...)) {
		k.KubeletDue = true
		if !goesOn() {
			return
		}
		tr.Kubeconfigs[facts.KubeletKubeconfig] = want
		if !goesOn() {
			return
		}
		k.KubeletDue = false
	}
}

// check is what must hold at every moment: everybody trusts what signs, and what was signed.
func (x *rotating) check(t *testing.T, a facts.Authority, after string) {
	t.Helper()
	signed := map[string]string{}
	for _, h := range x.c.Spec.Hosts {
		k := x.kubernetes(h.Name)
		if key := k.Trust[a].Key; key != "" {
			signed[key] = h.Name + " signs with it"
		}
		for _, c := range k.Certificates {
			if c.SignedByAuthority() == a && c.SignedBy != "" {
				signed[c.SignedBy] = "it signed " + c.Name + " of " + h.Name
			}
		}
	}
	for key, why := range signed {
		for _, h := range x.c.Spec.Hosts {
			tr, known := x.kubernetes(h.Name).Trust[a]
			if !known {
				continue
			}
			for name, have := range tr.Kubeconfigs {
				if !slices.Contains(have, key) {
					t.Fatalf("after %s: %s on %s does not trust the key %s, and %s", after, name, h.Name, key, why)
				}
			}
			if !slices.Contains(tr.Trusted, key) {
				t.Fatalf("after %s: %s does not trust the key %s, and %s", after, h.Name, key, why)
			}
		}
		for _, name := range a.Published() {
			if have, known := x.obs.API.Trusted[name]; known && !slices.Contains(have, key) {
				t.Fatalf("after %s: %s does not have the key %s, and %s", after, name, key, why)
			}
		}
	}
	if a == facts.KubernetesAuthority {
		for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
			k := x.kubernetes(h.Name)
			if len(k.Trust[a].Trusted) > 1 && k.Arguments[facts.ControllerManager][facts.SigningCertificateFlag] == facts.SigningArguments(false)[facts.SigningCertificateFlag] {
				t.Fatalf("after %s: the controller manager on %s would sign with a file that holds two certificates", after, h.Name)
			}
		}
	}
}

// TestARotationConverges plays rotations that are killed between any two steps, and inside of those that write several files.
func TestARotationConverges(t *testing.T) {
	for _, a := range slices.DeleteFunc(slices.Clone(facts.Authorities), facts.Authority.ReadAtStart) {
		for seed := range uint64(40) {
			t.Run(fmt.Sprint(a, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				x := newRotating(t)
				stages := []cluster.RotationStage{}
				for run := 0; ; run++ {
					if run > 300 {
						t.Fatalf("it does not end: %+v", x.state().Rotation(a))
					}
					r := x.state().Rotation(a)
					if r.Unclear != "" {
						t.Fatalf("run %d: %s", run, r.Unclear)
					}
					if run > 0 && !r.Begun && len(stages) == 3 {
						break
					}
					x.made = false
					p, err := x.plan(a, RotateOptions{Drop: true})
					if err != nil {
						t.Fatalf("run %d: %v", run, err)
					}
					checkOrder(t, p)
					if p.Empty() {
						t.Fatalf("run %d: nothing is planned: %q, %+v", run, p.Waits, r)
					}
					if !slices.Contains(stages, p.Rotation) {
						stages = append(stages, p.Rotation)
					}
					for i, s := range p.Steps {
						killed := seed > 0 && random.IntN(2*len(p.Steps)) == i // a plan of one step is not always killed
						x.run(t, s, killed, random)
						x.check(t, a, s.ID)
						if killed {
							break
						}
					}
				}
				if want := []cluster.RotationStage{cluster.TrustStage, cluster.SignStage, cluster.DropStage}; !slices.Equal(stages, want) {
					t.Errorf("stages %v", stages)
				}
				x.ended(t, a)
			})
		}
	}
}

// ended is what must hold afterwards.
func (x *rotating) ended(t *testing.T, a facts.Authority) {
	t.Helper()
	for _, h := range x.c.Spec.Hosts {
		k := x.kubernetes(h.Name)
		tr, known := k.Trust[a]
		if known && (!tr.Trusts("new") || tr.Next != "" || tr.Key == "old" || tr.Apart) || k.KubeletDue {
			t.Errorf("%s has %+v", h.Name, tr)
		}
		for _, c := range k.Certificates {
			if c.SignedByAuthority() == a && c.SignedBy == "old" {
				t.Errorf("%s on %s", c.Name, h.Name)
			}
		}
		if outdated := x.state().Outdated(h.Name); len(outdated) > 0 {
			t.Errorf("%v on %s did not restart", outdated, h.Name)
		}
		if have := k.Arguments[facts.ControllerManager]; h.Has(spec.RoleControlPlane) && have[facts.SigningKeyFlag] != facts.SigningArguments(false)[facts.SigningKeyFlag] {
			t.Errorf("the controller manager on %s signs with %v", h.Name, have)
		}
		if d := hostconfig.BalancerAuthority("new"); a == facts.KubernetesAuthority && x.c.Balances(h) && len(hostconfig.Missing(d, x.obs.Hosts[h.Name].Facts)) > 0 {
			t.Errorf("HAProxy on %s trusts something else", h.Name)
		}
	}
	for _, name := range a.Published() {
		if have, known := x.obs.API.Trusted[name]; known && !slices.Equal(have, []string{"new"}) {
			t.Errorf("%s has %v", name, have)
		}
	}
	if left := x.obs.API.Kubeadm.Arguments[facts.ControllerManager]; len(left) > 0 {
		t.Errorf("kubeadm's configuration has %v", left)
	}
}

func TestWhatAStageOfARotationWaitsFor(t *testing.T) {
	const a = facts.KubernetesAuthority
	x := newRotating(t)
	reach := func(o RotateOptions) *Plan {
		for range 5 {
			p, err := x.plan(a, o)
			if err != nil {
				t.Fatal(err)
			}
			if p.Empty() {
				return p
			}
			for _, s := range p.Steps {
				x.run(t, s, false, nil)
			}
		}
		t.Fatal("it does not wait")
		return nil
	}
	p := reach(RotateOptions{Drop: true, StaleClients: []string{"Deployment default/web"}})
	if p.Rotation != cluster.DropStage || !strings.Contains(p.Waits, "Deployment default/web") {
		t.Errorf("%s: %s", p.Rotation, p.Waits)
	}
	p, err := x.plan(a, RotateOptions{Drop: true, RestartOwn: true, StaleOwn: []string{"kube-system/kube-proxy"}, StaleClients: []string{"Deployment default/web"}})
	if err != nil || p.Waits != "" || len(p.Steps) != 2 || p.Steps[0].Kind != RestartClients || !slices.Equal(p.Steps[0].Pods, []string{"kube-system/kube-proxy"}) || !slices.Equal(p.Steps[0].Trusted, []string{"old", "new"}) {
		t.Errorf("what is Quorate's own is restarted before anybody else has to do anything: %v, %+v", err, p)
	}
	p = reach(RotateOptions{})
	if p.Rotation != cluster.DropStage || !strings.Contains(p.Waits, "--yes") {
		t.Errorf("%s: %s", p.Rotation, p.Waits)
	}
	for _, h := range x.c.Spec.Hosts { // who trusts only the old key, or has a certificate of it, goes on
		if tr, known := x.kubernetes(h.Name).Trust[a]; known && !tr.Trusts("old", "new") {
			t.Errorf("%s has %+v", h.Name, tr)
		}
		for _, c := range x.kubernetes(h.Name).Certificates {
			if want := map[bool]string{true: "old", false: "new"}[c.Name == facts.ServingCertificate]; c.SignedByAuthority() == a && c.SignedBy != want {
				t.Errorf("%s on %s is signed by %s", c.Name, h.Name, c.SignedBy)
			}
		}
	}
	found := slices.ContainsFunc(x.state().Findings(), func(f cluster.Finding) bool {
		return f.Rule == cluster.RuleRotation && strings.Contains(f.Fix, "quorate certs rotate ca")
	})
	if !found {
		t.Error("status does not say that a rotation is in progress")
	}
}

func TestRotationsThatAreRefused(t *testing.T) {
	const a = facts.KubernetesAuthority
	for name, tc := range map[string]struct {
		change func(*rotating)
		want   string
	}{
		"a host that cannot be reached": {func(x *rotating) { x.obs.Hosts["worker-a"] = facts.Host{Error: "no route to host"} }, cluster.RuleRotationHosts},
		"a node outside the spec": {func(x *rotating) {
			x.obs.API.Nodes = append(x.obs.API.Nodes, facts.Node{Name: "stranger", Ready: true})
		}, cluster.RuleRotationHosts},
		"an offline key": {func(x *rotating) {
			k := x.kubernetes("cp-b")
			tr := k.Trust[a]
			tr.Key = ""
			k.Trust[a] = tr
		}, cluster.RuleAuthorityKey},
		"another signer": {func(x *rotating) {
			x.kubernetes("cp-c").Arguments[facts.ControllerManager] = map[string]string{facts.SigningCertificateFlag: "/etc/kubernetes/pki/other.crt"}
		}, cluster.RuleRotationSigner},
		"another rotation": {func(x *rotating) {
			k := x.kubernetes("cp-a")
			tr := k.Trust[facts.FrontProxyAuthority]
			tr.Next = "new"
			k.Trust[facts.FrontProxyAuthority] = tr
		}, cluster.RuleRotation},
		"an expired authority": {func(x *rotating) {
			k := x.kubernetes("cp-a")
			for i := range k.Certificates {
				if k.Certificates[i].Name == facts.ClusterCA {
					k.Certificates[i].Expires = x.obs.Time.Add(-time.Hour)
				}
			}
		}, cluster.RuleAuthorityExpired},
		"a second certificate that somebody added": {func(x *rotating) {
			for _, h := range x.c.Spec.Hosts {
				k := x.kubernetes(h.Name)
				if tr, known := k.Trust[a]; known {
					tr.Trusted = []string{"old", "other"}
					k.Trust[a] = tr
				}
			}
		}, cluster.RuleRotationUnclear},
		"a control plane whose copy of the new key was removed": {func(x *rotating) {
			for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
				k := x.kubernetes(h.Name)
				tr := k.Trust[a]
				tr.Trusted, tr.Apart = []string{"old", "new"}, true
				if h.Name == "cp-a" {
					tr.Trusted, tr.Key = []string{"new", "old"}, "new"
				}
				k.Trust[a] = tr
			}
		}, cluster.RuleRotationUnclear},
		"a host that trusts only the new key while the old one signs": {func(x *rotating) {
			for _, h := range x.c.Spec.Hosts {
				k := x.kubernetes(h.Name)
				if tr, known := k.Trust[a]; known {
					tr.Trusted = []string{"old", "new"}
					if h.Name == "worker-a" {
						tr.Trusted = []string{"new"}
					}
					if tr.Key != "" {
						tr.Next = "new"
					}
					k.Trust[a] = tr
				}
			}
		}, cluster.RuleRotationUnclear},
	} {
		t.Run(name, func(t *testing.T) {
			x := newRotating(t)
			tc.change(x)
			_, err := x.plan(a, RotateOptions{Drop: true})
			r, ok := errors.AsType[*cluster.Refusal](err)
			if !ok || r.Rule != tc.want || r.Fix == "" {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// TestNothingJoinsDuringARotation: it would not get the key that is to follow.
func TestNothingJoinsDuringARotation(t *testing.T) {
	x := newRotating(t)
	k := x.kubernetes("cp-a")
	tr := k.Trust[facts.KubernetesAuthority]
	tr.Next = "new"
	k.Trust[facts.KubernetesAuthority] = tr
	for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
		x.kubernetes(h.Name).Arguments = nil // as apply reads them, they would be those of another failover profile
	}
	p := build(t, x.c, x.obs)
	if !slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "quorate certs rotate ca") }) {
		t.Errorf("apply does not say that a rotation is in progress: %q", p.Warnings)
	}
	// A host that is reset would be one that has to join.
	for host, want := range map[string]string{"cp-b": cluster.RuleRotation, "worker-a": cluster.RuleRotation, "lb-b": ""} {
		_, err := Reset(x.state(), []string{host})
		if r, _ := errors.AsType[*cluster.Refusal](err); want == "" && err != nil || want != "" && (r == nil || r.Rule != want) {
			t.Errorf("%s: %v", host, err)
		}
	}
	added(x.c, x.obs, "worker-z", spec.RoleWorker)
	if r := refusalOf(t, x.c, x.obs); r.Rule != cluster.RuleRotation || !strings.Contains(r.Fix, "Take worker-z out of the spec") {
		t.Errorf("%+v", r)
	}
	// Neither of the two commands names only the other one.
	_, err := x.plan(facts.KubernetesAuthority, RotateOptions{})
	if r, _ := errors.AsType[*cluster.Refusal](err); r == nil || r.Rule != cluster.RuleRotationHosts || strings.Contains(r.Fix, "quorate apply") {
		t.Errorf("%v", err)
	}
}

// TestAControlPlaneIsLostDuringARotation: a spec with two of three control planes is refused, and no other host can join. So the cluster goes on with one, and
// neither apply nor the rotation refuses that.
func TestAControlPlaneIsLostDuringARotation(t *testing.T) {
	x := newRotating(t)
	for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
		k := x.kubernetes(h.Name)
		tr := k.Trust[facts.KubernetesAuthority]
		tr.Next = "new"
		k.Trust[facts.KubernetesAuthority] = tr
	}
	dies(x.obs, "cp-b")
	without(x.c, "cp-b", "cp-c")
	x.c.Spec.ControlPlane.Placement = spec.PlacementSingle
	for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
		x.kubernetes(h.Name).Arguments = nil // as apply reads them, they would be those of another failover profile
	}
	p := build(t, x.c, x.obs)
	inOrder(t, p, "cp-b/remove-member", "cp-c/remove-member", "cp-c/reset-host", "cluster/record-spec")
	// When both have left:
	gone := func(name string) bool { return name == "cp-b" || name == "cp-c" }
	x.obs.Etcd = slices.DeleteFunc(x.obs.Etcd, func(m facts.EtcdMember) bool { return gone(m.Name) })
	x.obs.API.Nodes = slices.DeleteFunc(x.obs.API.Nodes, func(n facts.Node) bool { return gone(n.Name) })
	delete(x.obs.Hosts, "cp-b")
	delete(x.obs.Hosts, "cp-c")
	x.kubernetes("cp-a").Arguments = map[string]map[string]string{facts.ControllerManager: facts.SigningArguments(false), facts.APIServer: {}}
	remembered(x.c, x.obs)
	p, err := x.plan(facts.KubernetesAuthority, RotateOptions{})
	if err != nil || p.Rotation != cluster.TrustStage {
		t.Errorf("%v, %v", err, p)
	}
}
