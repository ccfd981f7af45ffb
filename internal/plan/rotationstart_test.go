package plan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// runningProgram is a program, with what it has read when it was started.
type runningProgram struct {
	trusts []string
	signs  string
	// token is the key that signed the token with which it comes to the API.
	token string
}

// starting is a cluster whose authority programs read only when they start, and what the steps of a rotation do to it. The programs are
// apart from the files, and only the files and the times at which programs were started are in the observation.
type starting struct {
	c         *spec.Cluster
	obs       *facts.Observation
	authority facts.Authority
	now       time.Time
	random    *rand.Rand
	runs      map[string]*runningProgram // by host and program
	tokens    map[string]string          // the key that signed the tokens in the files of a node
}

func newStarting(t *testing.T, c *spec.Cluster, a facts.Authority, seed uint64) *starting {
	t.Helper()
	obs := finished(t, c)
	if !c.StackedEtcd() {
		obs = finishedExternal(t, c)
	}
	certified(c, obs, 200)
	obs.API.Kubeadm.Arguments = map[string]map[string]string{}
	obs.API.DaemonSets = []facts.DaemonSet{{Namespace: "kube-system", Name: facts.KubeProxy}}
	x := &starting{c, obs, a, obs.Time, rand.New(rand.NewPCG(seed, 11)), map[string]*runningProgram{}, map[string]string{}}
	long := x.now.AddDate(0, 0, -50)
	for _, h := range c.Spec.Hosts {
		k := x.kubernetes(h.Name)
		if h.Has(spec.RoleControlPlane) {
			k.Arguments = map[string]map[string]string{
				facts.APIServer:         {facts.EtcdCAFileFlag: pkiDir + "etcd/ca.crt", facts.AccountKeyFileFlag: pkiDir + "sa.pub", facts.AccountSigningKeyFlag: pkiDir + "sa.key"},
				facts.ControllerManager: {facts.AccountPrivateKeyFlag: pkiDir + "sa.key"},
			}
			k.Issuers = []string{"https://kubernetes.default.svc.cluster.local"}
			k.Flags = map[string]string{facts.EtcdTrustedCAFlag: pkiDir + "etcd/ca.crt", facts.EtcdPeerTrustedCAFlag: pkiDir + "etcd/ca.crt"}
			x.change(h.Name, func(seen *facts.Host) {
				seen.Components[facts.ControllerManager] = facts.Component{Answer: facts.Answer{OK: true}, Started: long}
			})
			if a == facts.ServiceAccountKey {
				x.runs[h.Name+"/"+facts.ControllerManager] = &runningProgram{signs: "old", token: "old"}
			}
		}
		if h.IsNode() {
			x.tokens[h.Name] = "old"
		}
		for i, cert := range k.Certificates {
			if cert.SignedByAuthority() == a {
				k.Certificates[i].SignedBy = "old"
			}
		}
	}
	for _, h := range x.state().TrustingHosts(a) {
		tr := facts.Trust{Trusted: []string{"old"}, PEM: "old", Written: long.AddDate(0, 0, -50)}
		if slices.ContainsFunc(x.state().SigningHosts(a), func(s spec.Host) bool { return s.Name == h.Name }) {
			tr.Key = "old"
		}
		x.kubernetes(h.Name).Trust = map[facts.Authority]facts.Trust{a: tr}
		for _, program := range x.state().Readers(h.Name, a) {
			x.starts(h.Name, program)
			x.change(h.Name, func(seen *facts.Host) { seen.Started[program] = long })
		}
	}
	if len(x.runs) == 0 {
		t.Fatal("nothing reads the authority")
	}
	return x
}

func (x *starting) kubernetes(host string) *facts.Kubernetes {
	return &x.obs.Hosts[host].Facts.Kubernetes
}

func (x *starting) change(host string, change func(*facts.Host)) {
	seen := x.obs.Hosts[host]
	change(&seen)
	x.obs.Hosts[host] = seen
}

func (x *starting) state() *cluster.State { return cluster.Evaluate(x.c, x.obs) }

// starts has a program read its files.
func (x *starting) starts(host, program string) {
	tr := x.kubernetes(host).Trust[x.authority]
	x.runs[host+"/"+program] = &runningProgram{trusts: slices.Clone(tr.Trusted), signs: tr.Key}
	x.change(host, func(seen *facts.Host) {
		if seen.Started == nil {
			seen.Started = map[string]time.Time{}
		}
		seen.Started[program] = x.now
	})
}

// anyToken is the key that signs a token which somebody gets from the API now: that of any API server.
func (x *starting) anyToken() string {
	cps := x.c.HostsWith(spec.RoleControlPlane)
	if api := x.runs[cps[x.random.IntN(len(cps))].Name+"/"+facts.APIServer]; api != nil {
		return api.signs
	}
	return ""
}

// happens is what goes on besides the steps: a program crashes, and a kubelet requests tokens again.
func (x *starting) happens() {
	var all []string
	for name := range x.runs {
		all = append(all, name)
	}
	slices.Sort(all)
	if host, program, _ := strings.Cut(all[x.random.IntN(len(all))], "/"); x.random.IntN(20) == 0 && program != facts.ControllerManager {
		x.starts(host, program)
	}
	nodes := slices.DeleteFunc(slices.Clone(x.c.Spec.Hosts), func(h spec.Host) bool { return !h.IsNode() })
	if x.random.IntN(20) == 0 {
		x.tokens[nodes[x.random.IntN(len(nodes))].Name] = x.anyToken()
	}
}

func (x *starting) plan(o RotateOptions) (*Plan, error) {
	x.now = x.now.Add(time.Second)
	x.obs.Time = x.now
	for _, h := range x.c.Spec.Hosts {
		if f := x.obs.Hosts[h.Name].Facts; f != nil {
			f.Time = x.now
		}
	}
	s := x.state()
	if _, all := s.SignsSince(s.Rotation(x.authority)); all && o.OldTokens == nil {
		o.OldTokens = map[string][]string{}
		for node, key := range x.tokens {
			if key == "old" {
				o.OldTokens[node] = []string{"default/web"}
			}
		}
	}
	return RotateAuthority(s, x.authority, o)
}

// run does what a step does, or, if it is killed, a part of it.
func (x *starting) run(t *testing.T, s Step, killed bool) {
	t.Helper()
	x.now = x.now.Add(time.Second)
	left := 100
	if killed {
		left = x.random.IntN(5)
	}
	goesOn := func() bool { left--; return left >= 0 }
	pools := func(drained bool) {
		for _, lb := range x.c.BalancerHosts() {
			all := x.obs.Hosts[lb.Name].Balancer.Backends
			for i := range all {
				if all[i].Name == s.Host && goesOn() {
					all[i].Drained = drained
				}
			}
		}
	}
	switch s.Kind {
	case LeavePools:
		pools(true)
	case JoinPools:
		pools(false)
	case MakeAuthority, ShareAuthority:
		if tr := x.kubernetes(s.Host).Trust[s.Authority]; goesOn() {
			tr.Next = "new"
			x.kubernetes(s.Host).Trust[s.Authority] = tr
		}
	case SetTrust:
		x.setTrust(t, s, goesOn)
	case RestartPrograms:
		x.restart(t, s, goesOn)
	case RenewCertificates:
		k := x.kubernetes(s.Host)
		for i, c := range k.Certificates {
			if slices.Contains(s.Certificates, c.Name) && goesOn() {
				k.Certificates[i].SignedBy = k.Trust[x.authority].Key
			}
		}
	case ShareEtcdClient:
		from := x.certificate(s.Detail, facts.EtcdClientCertificate)
		if to := x.certificate(s.Host, facts.EtcdClientCertificate); goesOn() {
			to.SignedBy = from.SignedBy
		}
	case CheckKeys:
		x.now = x.now.Add(time.Duration(s.WaitSeconds) * time.Second)
		for name, p := range x.runs {
			if strings.HasSuffix(name, facts.ControllerManager) {
				continue
			}
			for _, key := range s.Trusted {
				if !slices.Contains(p.trusts, key) {
					t.Fatalf("%s does not trust %s: %+v", name, key, p)
				}
			}
			if s.Former != "" && slices.Contains(p.trusts, s.Former) || s.Detail == SignsDetail && p.signs != s.Trusted[0] {
				t.Fatalf("%s has %+v, and the step wants %+v", name, p, s)
			}
		}
		if s.Record != "" {
			x.obs.API.AccountKey = s.Record
		}
	case RefreshTokens:
		if goesOn() {
			x.tokens[s.Host] = x.anyToken()
		}
	case ForgetAuthority:
		if tr := x.kubernetes(s.Host).Trust[s.Authority]; goesOn() {
			tr.Former = ""
			x.kubernetes(s.Host).Trust[s.Authority] = tr
		}
	case MoveLeadership, Verify:
	default:
		t.Fatalf("a rotation does not need %s", s.ID)
	}
}

func (x *starting) certificate(host, name string) *facts.Certificate {
	all := x.kubernetes(host).Certificates
	return &all[slices.IndexFunc(all, func(c facts.Certificate) bool { return c.Name == name })]
}

// setTrust is the order in which kubeadm.SetTrust writes files.
func (x *starting) setTrust(t *testing.T, s Step, goesOn func() bool) {
	t.Helper()
	want := slices.Clone(s.Trusted)
	for i := range want {
		if want[i] == facts.NextKey {
			want[i] = "new"
		}
	}
	k := x.kubernetes(s.Host)
	tr := k.Trust[s.Authority]
	defer func() { k.Trust[s.Authority] = tr }()
	if tr.Key != "" && tr.Key != want[0] && tr.Next != want[0] {
		t.Fatalf("%s is to sign with %s and has %s and %s", s.Host, want[0], tr.Key, tr.Next)
	}
	if signs := tr.Key != "" && len(want) == 2 && want[0] == "new"; signs || s.Former != "" {
		if !goesOn() {
			return
		}
		tr.Former = "old"
	}
	if tr.Key != "" && tr.Key != want[0] {
		if !goesOn() {
			return
		}
		tr.Key, tr.Written = want[0], x.now
	}
	if !slices.Equal(tr.Trusted, want) {
		if !goesOn() {
			return
		}
		tr.Trusted, tr.Written = want, x.now
	}
	if tr.Next == want[0] || len(want) == 1 {
		if !goesOn() {
			return
		}
		tr.Next = ""
	}
}

func (x *starting) restart(t *testing.T, s Step, goesOn func() bool) {
	t.Helper()
	for _, program := range s.Pods {
		if program == facts.ControllerManager {
			if goesOn() {
				x.runs[s.Host+"/"+program] = &runningProgram{signs: x.kubernetes(s.Host).Trust[x.authority].Key, token: x.anyToken()}
				x.change(s.Host, func(seen *facts.Host) {
					seen.Components[program] = facts.Component{Answer: facts.Answer{OK: true}, Started: x.now}
				})
			}
			continue
		}
		if h, _ := x.c.Host(s.Host); h.Has(spec.RoleControlPlane) {
			for _, lb := range x.c.BalancerHosts() {
				all := x.obs.Hosts[lb.Name].Balancer.Backends
				if i := slices.IndexFunc(all, func(b facts.Backend) bool { return b.Name == s.Host }); !all[i].Drained {
					t.Fatalf("%s: clients use the API server on %s", s.ID, s.Host)
				}
			}
			if program == facts.Etcd && (s.Change.Part != cluster.ControlPlane || !slices.Contains(s.Pods, facts.APIServer)) {
				t.Fatalf("%+v: the API server on the host of the member would keep its clients waiting", s)
			}
		}
		if goesOn() {
			x.starts(s.Host, program)
		}
	}
}

// check is what must hold at every moment: everything that runs trusts what is in use.
func (x *starting) check(t *testing.T, after string) {
	t.Helper()
	used := map[string]string{}
	if x.authority == facts.EtcdAuthority {
		for _, h := range x.c.Spec.Hosts {
			for _, c := range x.kubernetes(h.Name).Certificates {
				if c.SignedByAuthority() == x.authority {
					used[c.SignedBy] = c.Name + " of " + h.Name
				}
			}
		}
	} else {
		for node, key := range x.tokens {
			used[key] = "tokens of pods on " + node
		}
		for name, p := range x.runs {
			if p.token != "" {
				used[p.token] = "the token of " + name
			}
			used[p.signs] = "tokens that " + name + " signs"
		}
	}
	for key, what := range used {
		for name, p := range x.runs {
			if !strings.HasSuffix(name, facts.ControllerManager) && !slices.Contains(p.trusts, key) {
				t.Fatalf("after %s: %s trusts %v, and %s were signed by %s", after, name, p.trusts, what, key)
			}
		}
	}
}

// TestRotationsOfWhatIsReadAtStartConverge plays rotations that are killed between any two steps, and inside of them, while programs crash.
func TestRotationsOfWhatIsReadAtStartConverge(t *testing.T) {
	for name, tc := range map[string]struct {
		c *spec.Cluster
		a facts.Authority
	}{
		"stacked":  {testCluster(), facts.EtcdAuthority},
		"external": {external(), facts.EtcdAuthority},
		"accounts": {testCluster(), facts.ServiceAccountKey},
	} {
		for seed := range uint64(30) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				x := newStarting(t, tc.c, tc.a, seed)
				stages := []cluster.RotationStage{}
				for run := 0; ; run++ {
					if run > 400 {
						t.Fatalf("it does not end: %+v", x.state().Rotation(tc.a))
					}
					p, err := x.plan(RotateOptions{Drop: true})
					if err != nil {
						t.Fatalf("run %d: %v", run, err)
					}
					r := x.state().Rotation(tc.a)
					if len(stages) == 3 && !r.Begun {
						break
					}
					checkOrder(t, p)
					if p.Empty() {
						t.Fatalf("run %d: nothing is planned: %q, %+v", run, p.Waits, r)
					}
					if !slices.Contains(stages, p.Rotation) {
						stages = append(stages, p.Rotation)
					}
					for i, s := range p.Steps {
						killed := seed > 0 && x.random.IntN(2*len(p.Steps)) == i
						x.run(t, s, killed)
						x.check(t, s.ID)
						if killed {
							break
						}
						if seed > 0 {
							x.happens()
							x.check(t, "what happened after "+s.ID)
						}
					}
				}
				if want := []cluster.RotationStage{cluster.TrustStage, cluster.SignStage, cluster.DropStage}; !slices.Equal(stages, want) {
					t.Errorf("stages %v", stages)
				}
				x.ended(t)
			})
		}
	}
}

func (x *starting) ended(t *testing.T) {
	t.Helper()
	for _, h := range x.state().TrustingHosts(x.authority) {
		tr := x.kubernetes(h.Name).Trust[x.authority]
		if !slices.Equal(tr.Trusted, []string{"new"}) || tr.Next != "" || tr.Former != "" || tr.Key == "old" {
			t.Errorf("%s has %+v", h.Name, tr)
		}
	}
	for name, p := range x.runs {
		if p.signs == "old" || p.token == "old" || slices.Contains(p.trusts, "old") {
			t.Errorf("%s has %+v", name, p)
		}
	}
	for node, key := range x.tokens {
		if key != "new" && x.authority == facts.ServiceAccountKey {
			t.Errorf("pods on %s have tokens of %s", node, key)
		}
	}
	for _, h := range x.c.Spec.Hosts {
		for _, c := range x.kubernetes(h.Name).Certificates {
			if c.SignedByAuthority() == x.authority && c.SignedBy != "new" {
				t.Errorf("%s on %s", c.Name, h.Name)
			}
		}
		if balancer := x.obs.Hosts[h.Name].Balancer; balancer != nil && slices.ContainsFunc(balancer.Backends, func(b facts.Backend) bool { return b.Drained }) {
			t.Errorf("%s sends no clients to %+v", h.Name, balancer.Backends)
		}
	}
}

// reach runs plans until one waits, and returns it.
func (x *starting) reach(t *testing.T, o RotateOptions) *Plan {
	t.Helper()
	for range 8 {
		p, err := x.plan(o)
		if err != nil {
			t.Fatal(err)
		}
		if p.Empty() {
			return p
		}
		for _, s := range p.Steps {
			x.run(t, s, false)
		}
	}
	t.Fatal("it does not wait")
	return nil
}

// TestIsOwnService: an address that only begins like the Service's is somebody else's.
func TestIsOwnService(t *testing.T) {
	for address, want := range map[string]bool{"https://kubernetes.default.svc": true, "https://kubernetes.default.svc.cluster.local": true, "https://kubernetes.default.svc:443/openid/v1/jwks": true,
		"https://kubernetes.default.svc-x.example.com": false, "https://keys.example.com": false, "": false} {
		if isOwnService(address) != want {
			t.Errorf("%s: %t", address, !want)
		}
	}
}

func TestWhatTheLastStageOfWhatIsReadAtStartWaitsFor(t *testing.T) {
	x := newStarting(t, testCluster(), facts.ServiceAccountKey, 0)
	for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
		x.kubernetes(h.Name).Issuers = []string{"https://keys.example.com", "https://kubernetes.default.svc.cluster.local"}
	}
	if p := x.reach(t, RotateOptions{Drop: true}); p.Rotation != cluster.SignStage || !strings.Contains(p.Waits, "--service-account-issuer=https://keys.example.com") || !strings.Contains(p.Waits, "--keys-published") {
		t.Errorf("%s: %s", p.Rotation, p.Waits)
	}
	if r := x.state().Rotation(x.authority); len(r.Signs) > 0 {
		t.Errorf("%+v", r)
	}
	x.reach(t, RotateOptions{Published: true})
	for want, o := range map[string]RotateOptions{
		"shop/robot":    {Drop: true, TokenSecrets: []string{"shop/robot"}, StaleClients: []string{"Deployment shop/web"}},
		"shop/web":      {Drop: true, StaleClients: []string{"Deployment shop/web"}},
		"--yes":         {},
		"create token":  {},
		"patch secret ": {TokenSecrets: []string{"shop/robot"}},
	} {
		if p := x.reach(t, o); p.Rotation != cluster.DropStage || !strings.Contains(p.Waits, want) {
			t.Errorf("%s: %s: %s", want, p.Rotation, p.Waits)
		}
	}
	if p, err := x.plan(RotateOptions{Drop: true, Settle: time.Minute}); err != nil || p.Steps[0].Kind != AwaitReload || p.Steps[0].WaitSeconds < 60 || !dependsOn(p, p.Steps[len(p.Steps)-1].ID, p.Steps[0].ID) {
		t.Errorf("%v, %+v", err, p)
	}
	x.tokens["worker-a"] = "old" // as in a file that nobody could read a moment ago
	if p, err := x.plan(RotateOptions{Drop: true}); err != nil || p.Rotation != cluster.SignStage || !slices.Equal(kindsOf(p)[RefreshTokens], []string{"worker-a"}) {
		t.Errorf("%v, %+v", err, p)
	}

	e := newStarting(t, external(), facts.EtcdAuthority, 0)
	if p := e.reach(t, RotateOptions{}); p.Rotation != cluster.DropStage || !strings.Contains(p.Waits, "--yes") || !strings.Contains(p.Waits, "etcd/ca.crt") {
		t.Errorf("%s: %s", p.Rotation, p.Waits)
	}
	found := slices.ContainsFunc(e.state().Findings(), func(f cluster.Finding) bool {
		return f.Rule == cluster.RuleRotation && strings.Contains(f.Fix, "quorate certs rotate etcd-ca")
	})
	if !found {
		t.Error("status does not say that a rotation is in progress")
	}
}

// TestWhatIsUnknownWasNotRead: a program of which nobody can tell since when it runs restarts, and one that was started before the files were
// written does, too.
func TestWhatIsUnknownWasNotRead(t *testing.T) {
	for name, change := range map[string]func(*starting){
		"nobody can tell": func(x *starting) { x.change("cp-b", func(h *facts.Host) { delete(h.Started, facts.APIServer) }) },
		"started before": func(x *starting) {
			x.change("cp-b", func(h *facts.Host) { h.Started[facts.APIServer] = x.kubernetes("cp-b").Trust[x.authority].Written })
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newStarting(t, testCluster(), facts.ServiceAccountKey, 0)
			p, err := x.plan(RotateOptions{})
			if err != nil || p.Rotation != cluster.TrustStage {
				t.Fatalf("%v, %+v", err, p)
			}
			for _, s := range p.Steps {
				x.run(t, s, false)
			}
			change(x)
			p, err = x.plan(RotateOptions{})
			if err != nil || p.Rotation != cluster.TrustStage || !slices.Equal(kindsOf(p)[RestartPrograms], []string{"cp-b"}) || len(kindsOf(p)[SetTrust]) > 0 {
				t.Errorf("%v, %+v", err, p)
			}
			if r := x.state().Rotation(x.authority); !strings.Contains(r.Progress(), "kube-apiserver on cp-b may not have read") {
				t.Error(r.Progress())
			}
		})
	}
}

func TestRotationsOfWhatIsReadAtStartThatAreRefused(t *testing.T) {
	set := func(x *starting, host string, change func(*facts.Trust)) {
		tr := x.kubernetes(host).Trust[x.authority]
		change(&tr)
		x.kubernetes(host).Trust[x.authority] = tr
	}
	everywhere := func(x *starting, change func(*facts.Trust)) {
		for _, h := range x.state().TrustingHosts(x.authority) {
			set(x, h.Name, change)
		}
	}
	for name, tc := range map[string]struct {
		c      *spec.Cluster
		a      facts.Authority
		change func(*starting)
		want   string
	}{
		"a member with another file": {testCluster(), facts.EtcdAuthority, func(x *starting) { x.kubernetes("cp-c").Flags[facts.EtcdPeerTrustedCAFlag] = "/etc/etcd/ca.pem" }, cluster.RuleRotationSigner},
		"an API server with another key": {testCluster(), facts.ServiceAccountKey, func(x *starting) {
			x.kubernetes("cp-a").Arguments[facts.APIServer][facts.AccountSigningKeyFlag] = "/etc/keys/sa.key"
		}, cluster.RuleRotationSigner},
		"an offline key":                      {external(), facts.EtcdAuthority, func(x *starting) { set(x, "etcd-b", func(tr *facts.Trust) { tr.Key = "" }) }, cluster.RuleAuthorityKey},
		"an etcd host that cannot be reached": {external(), facts.EtcdAuthority, func(x *starting) { x.obs.Hosts["etcd-a"] = facts.Host{Error: "no route to host"} }, cluster.RuleRotationHosts},
		"an etcd host that has not joined": {external(), facts.EtcdAuthority, func(x *starting) {
			x.kubernetes("etcd-c").EtcdData, x.kubernetes("etcd-c").Trust = false, nil
		}, cluster.RuleRotationHosts},
		"keys that somebody added": {testCluster(), facts.ServiceAccountKey, func(x *starting) { everywhere(x, func(tr *facts.Trust) { tr.Trusted = []string{"old", "other"} }) }, cluster.RuleRotationUnclear},
		"three keys during a rotation": {testCluster(), facts.ServiceAccountKey, func(x *starting) {
			everywhere(x, func(tr *facts.Trust) { tr.Trusted, tr.Next = []string{"old", "other"}, "new" })
		}, cluster.RuleRotationUnclear},
		"a host that trusts only the new key while the old one signs": {testCluster(), facts.EtcdAuthority, func(x *starting) {
			everywhere(x, func(tr *facts.Trust) { tr.Trusted, tr.Next = []string{"old", "new"}, "new" })
			set(x, "cp-b", func(tr *facts.Trust) { tr.Trusted = []string{"new"} })
		}, cluster.RuleRotationUnclear},
	} {
		t.Run(name, func(t *testing.T) {
			x := newStarting(t, tc.c, tc.a, 0)
			tc.change(x)
			_, err := x.plan(RotateOptions{Drop: true})
			r, ok := errors.AsType[*cluster.Refusal](err)
			if !ok || r.Rule != tc.want || r.Fix == "" {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
	c := existing()
	obs := finishedExternal(t, c)
	certified(c, obs, 200)
	_, err := RotateAuthority(cluster.Evaluate(c, obs), facts.EtcdAuthority, RotateOptions{Drop: true})
	if r, ok := errors.AsType[*cluster.Refusal](err); !ok || r.Rule != cluster.RuleRotationEtcd {
		t.Errorf("an etcd of the user's own: %v", err)
	}
}

// TestKeysThatSomebodyAddedAreNoRotation: nothing is said of them, and hosts join.
func TestKeysThatSomebodyAddedAreNoRotation(t *testing.T) {
	x := newStarting(t, testCluster(), facts.ServiceAccountKey, 0)
	for _, h := range x.c.HostsWith(spec.RoleControlPlane) {
		tr := x.kubernetes(h.Name).Trust[x.authority]
		tr.Trusted = []string{"old", "other"}
		x.kubernetes(h.Name).Trust[x.authority] = tr
	}
	if all := x.state().Rotations(); len(all) > 0 {
		t.Errorf("%+v", all)
	}
}

// TestTheCertificateOfAnEtcdOfYourOwn: an authority that was added to the file comes to the control planes, too.
func TestTheCertificateOfAnEtcdOfYourOwn(t *testing.T) {
	c := existing()
	obs := finishedExternal(t, c)
	const one, two = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.EtcdCA = one
	}
	obs.ExistingEtcd.CA = "# ours\n" + one
	if p := build(t, c, obs); len(kindsOf(p)[ShareEtcdClient]) > 0 {
		t.Errorf("%v", kindsOf(p))
	}
	obs.ExistingEtcd.CA = one + two
	if p := build(t, c, obs); !slices.Equal(kindsOf(p)[ShareEtcdClient], []string{"cp-a", "cp-b"}) {
		t.Errorf("%v", kindsOf(p))
	}
}

// TestAnAPIServerThatRestartsWithoutAReason has signed with the new key before: nothing has to restart again because of it.
func TestAnAPIServerThatRestartsWithoutAReason(t *testing.T) {
	x := newStarting(t, testCluster(), facts.ServiceAccountKey, 0)
	x.reach(t, RotateOptions{})
	before, all := x.state().SignsSince(x.state().Rotation(x.authority))
	if !all {
		t.Fatal("API servers do not sign with the new key")
	}
	x.now = x.now.Add(time.Hour)
	x.starts("cp-b", facts.APIServer)
	if p, err := x.plan(RotateOptions{}); err != nil || p.Rotation != cluster.DropStage || !p.Empty() {
		t.Errorf("%v, %+v", err, p)
	}
	if after, all := x.state().SignsSince(x.state().Rotation(x.authority)); !all || !after.Equal(before) {
		t.Errorf("%s, and it was %s", after, before)
	}
	// What the cluster remembers of another key says nothing.
	x.obs.API.AccountKey = "other" + strings.TrimPrefix(x.obs.API.AccountKey, "new")
	if after, _ := x.state().SignsSince(x.state().Rotation(x.authority)); !after.After(before) {
		t.Errorf("%s, and it was %s", after, before)
	}
}

// TestAResumedRotationAsksAgain: a host signs with the new key already, and another one does not. What runs is asked before that goes on.
func TestAResumedRotationAsksAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		c *spec.Cluster
		a facts.Authority
	}{"stacked": {testCluster(), facts.EtcdAuthority}, "external": {external(), facts.EtcdAuthority}, "accounts": {testCluster(), facts.ServiceAccountKey}} {
		t.Run(name, func(t *testing.T) {
			x := newStarting(t, tc.c, tc.a, 0)
			for {
				p, err := x.plan(RotateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if p.Rotation != cluster.SignStage {
					for _, s := range p.Steps {
						x.run(t, s, false)
					}
					continue
				}
				for _, s := range p.Steps { // killed after the first host
					x.run(t, s, false)
					if s.Kind == SetTrust {
						break
					}
				}
				break
			}
			p, err := x.plan(RotateOptions{})
			if err != nil || p.Rotation != cluster.SignStage || len(kindsOf(p)[CheckKeys]) != 1 {
				t.Fatalf("%v, %+v", err, p)
			}
			for _, s := range p.Steps {
				if (s.Kind == SetTrust || s.Kind == RenewCertificates) && !dependsOn(p, s.ID, id(Step{Kind: CheckKeys})) {
					t.Errorf("%s does not wait for the answers", s.ID)
				}
			}
		})
	}
}
