package plan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func encrypted(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := finished(t, c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		o := obs.Hosts[h.Name]
		o.Facts.Kubernetes.EncryptionKeys = []string{"key1"}
		obs.Hosts[h.Name] = o
	}
	return obs
}

// TestRotationSurvivesBeingKilled plays rotations that are killed at every possible moment, with steps of different hosts
// in any order, and apiservers that load their file only while somebody waits for it. At no moment may an apiserver meet
// a secret that it cannot read, and in the end no secret needs the old key.
func TestRotationSurvivesBeingKilled(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			c := testCluster()
			obs := encrypted(t, c)
			files, loaded := map[string][]string{}, map[string][]string{}
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				files[h.Name], loaded[h.Name] = []string{"key1"}, []string{"key1"}
			}
			secrets := []string{"key1", "key1", "key1"}
			readable := func() {
				for host, keys := range loaded {
					for _, s := range secrets {
						if !slices.Contains(keys, s) {
							t.Fatalf("the apiserver on %s has %v and meets a secret of %s", host, keys, s)
						}
					}
				}
			}
			for run := 0; ; run++ {
				for host := range files {
					obs.Hosts[host].Facts.Kubernetes.EncryptionKeys = files[host]
				}
				p, err := RotateEncryption(cluster.Evaluate(c, obs))
				if err != nil {
					t.Fatal(err)
				}
				checkOrder(t, p)
				if run > 0 && len(loaded) > 0 && !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == SetEncryptionKeys }) {
					t.Fatal("a plan that sets nothing")
				}
				left := random.IntN(len(p.Steps) + 2) // more than there are: this run is not killed
				done := map[string]bool{}
				for len(done) < len(p.Steps) && left > 0 {
					s := p.Steps[random.IntN(len(p.Steps))]
					if done[s.ID] || slices.ContainsFunc(s.Needs, func(n string) bool { return !done[n] }) {
						continue
					}
					left--
					if s.Kind == SetEncryptionKeys {
						files[s.Host] = s.EncryptionKeys
						if left == 0 && random.IntN(2) == 0 {
							break // killed before the apiserver had loaded it
						}
						loaded[s.Host] = s.EncryptionKeys
					}
					if s.Kind == RewriteSecrets {
						for i := range secrets {
							secrets[i] = loaded["cp-a"][0]
						}
					}
					done[s.ID] = true
					readable()
					for _, writer := range loaded { // everybody writes all the time
						secrets[random.IntN(len(secrets))] = writer[0]
						readable()
					}
				}
				if len(done) == len(p.Steps) {
					break
				}
			}
			for host, keys := range files {
				if len(keys) != 1 || keys[0] == "key1" {
					t.Errorf("%s is left with %v", host, keys)
				}
			}
		})
	}
}

func TestRotationIsRefused(t *testing.T) {
	for name, change := range map[string]func(*facts.Observation){
		"no API":           func(o *facts.Observation) { o.API = nil },
		"a dead host":      func(o *facts.Observation) { o.Hosts["cp-b"] = facts.Host{Error: "dead"} },
		"not ready":        func(o *facts.Observation) { h := o.Hosts["cp-b"]; h.APIServer = nil; o.Hosts["cp-b"] = h },
		"no keys":          func(o *facts.Observation) { o.Hosts["cp-c"].Facts.Kubernetes.EncryptionKeys = nil },
		"strange keys":     func(o *facts.Observation) { o.Hosts["cp-c"].Facts.Kubernetes.EncryptionKeys = []string{"mine"} },
		"two steps behind": func(o *facts.Observation) { o.Hosts["cp-c"].Facts.Kubernetes.EncryptionKeys = []string{"key2", "key1"} },
		"too many keys": func(o *facts.Observation) {
			o.Hosts["cp-c"].Facts.Kubernetes.EncryptionKeys = []string{"key3", "key2"}
		},
		"an order of nobody's": func(o *facts.Observation) {
			o.Hosts["cp-c"].Facts.Kubernetes.EncryptionKeys = []string{"key1", "key2", "key1"}
		},
		"a stranger": func(o *facts.Observation) {
			o.API.Nodes = append(o.API.Nodes, facts.Node{Name: "other", Labels: map[string]string{controlPlaneLabel: ""}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := encrypted(t, c)
			change(obs)
			var refusal *cluster.Refusal
			if _, err := RotateEncryption(cluster.Evaluate(c, obs)); !errors.As(err, &refusal) {
				t.Fatalf("not refused: %v", err)
			}
		})
	}
}

func TestTokensAreRemoved(t *testing.T) {
	c := testCluster()
	p := build(t, c, empty(c))
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RemoveTokens })
	if i < 0 || !slices.Contains(p.Steps[i].Needs, stepID("cp-a", InitCluster)) {
		t.Fatal("the token of the bootstrap stays")
	}
	obs := finished(t, c)
	obs.Hosts["worker-a"].Facts.Kubernetes = facts.Kubernetes{}
	p = build(t, c, obs)
	i = slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RemoveTokens })
	if i < 0 || !slices.Contains(p.Steps[i].Needs, stepID("worker-a", JoinWorker)) {
		t.Fatalf("the token may go before worker-a has joined: %+v", p.Steps)
	}
	obs = finished(t, c)
	obs.API.JoinTokens = []string{"bootstrap-token-abcdef"}
	p = build(t, c, obs)
	if len(p.Steps) != 2 || p.Steps[0].Kind != RemoveTokens {
		t.Errorf("a token that a killed run has left: %+v", p.Steps)
	}
}
