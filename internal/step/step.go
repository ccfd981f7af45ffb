// Package step does what the steps of a plan say: one function for each kind.
package step

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/distribute"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/packages"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Env is what steps share in one run of apply.
type Env struct {
	Cluster   *spec.Cluster
	Conns     *host.Set
	Seen      *facts.Observation
	Bundle    *bundle.Bundle
	Manifests map[string]manifest.Manifest
	Progress  progress.Sink

	token string
	swarm distribute.Swarm

	mu      sync.Mutex
	pki     kubeadm.PKI
	etcdPKI kubeadm.PKI // of an external etcd that is looked after
	keys    encryption.Keys
	client  *kube.Client
}

// NewEnv prepares a run: its bootstrap token exists only in memory until the cluster has it.
func NewEnv(c *spec.Cluster, conns *host.Set, seen *facts.Observation, b *bundle.Bundle, m map[string]manifest.Manifest, sink progress.Sink) *Env {
	e := &Env{Cluster: c, Conns: conns, Seen: seen, Bundle: b, Manifests: m, Progress: sink, token: newToken()}
	e.enlistDonors()
	return e
}

// newToken makes a bootstrap token: 6 and 16 characters of a to z and 0 to 9.
func newToken() string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	raw := make([]byte, 22)
	for i := range raw {
		// Bytes beyond the largest multiple of the alphabet are drawn again, so that every letter is as likely.
		for raw[i] = 255; int(raw[i]) >= 256-256%len(letters); {
			rand.Read(raw[i : i+1]) //nolint:errcheck // never fails, as its documentation says
		}
		raw[i] = letters[int(raw[i])%len(letters)]
	}
	return string(raw[:6]) + "." + string(raw[6:])
}

var kinds = map[plan.Kind]func(context.Context, *Env, plan.Step) error{
	plan.InstallPackages:   installPackages,
	plan.InstallBundle:     installBundle,
	plan.ImportImages:      importImages,
	plan.Configure:         configure,
	plan.MakePKI:           makePKI,
	plan.SharePKI:          sharePKI,
	plan.MakeEtcdPKI:       makeEtcdPKI,
	plan.ShareEtcdPKI:      shareEtcdPKI,
	plan.StartEtcd:         startEtcd,
	plan.ShareEtcdClient:   shareEtcdClient,
	plan.ClaimEtcd:         claimEtcd,
	plan.StartKubelet:      startKubelet,
	plan.StartControlPlane: startControlPlane,
	plan.RegisterNode:      registerNode,
	plan.UseLocalAPI:       useLocalAPI,
	plan.AwaitAPI:          awaitAPI,
	plan.AwaitControllers:  awaitControllers,
	plan.InitCluster:       initCluster,
	plan.InstallAddons:     installAddons,
	plan.MakeToken:         makeToken,
	plan.RemoveTokens:      removeTokens,
	plan.JoinWorker:        join,
	plan.JoinControlPlane:  join,
	plan.LabelNode:         labelNode,
	plan.ApplyManifest:     applyManifest,
	plan.SpreadDNS:         spreadDNS,
	plan.ProbeEndpoint:     probeEndpoint,
	plan.TestTakeover:      testTakeover,
	plan.Verify:            verify,

	plan.ReadEncryptionKeys: readEncryptionKeys,
	plan.SetEncryptionKeys:  setEncryptionKeys,
	plan.RewriteSecrets:     rewriteSecrets,
}

// Run does one step.
func Run(ctx context.Context, e *Env, s plan.Step) error {
	run, ok := kinds[s.Kind]
	if !ok {
		return fmt.Errorf("this quorate cannot do the step %s", s.Kind)
	}
	for _, g := range s.Gates {
		if err := await(ctx, e, s, g); err != nil {
			return err
		}
	}
	return run(ctx, e, s)
}

func installPackages(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	_, err = packages.Install.On(ctx, c, *s.Packages)
	return err
}

func configure(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	d := *s.Desired
	if s.FillCA {
		ca, err := e.ca()
		if err != nil {
			return err
		}
		d.Files = slices.Clone(d.Files)
		for i := range d.Files {
			if d.Files[i].Content == "" {
				d.Files[i].Content = ca
			}
		}
	}
	_, err = files.Configure.On(ctx, c, d)
	return err
}

// ca is the cluster's CA certificate, from this run or from a host that has it.
func (e *Env) ca() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pki != nil {
		return e.pki.CA(), nil
	}
	for _, h := range e.Seen.Hosts {
		if h.Facts != nil && h.Facts.Kubernetes.CA != "" {
			return h.Facts.Kubernetes.CA, nil
		}
	}
	return "", errors.New("no control plane has the cluster's CA certificate yet")
}

// api is the client that all steps share.
func (e *Env) api(ctx context.Context) (*kube.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	var servers []kube.Server
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		if c, err := e.Conns.Get(h.Name); err == nil {
			servers = append(servers, kube.Server{Conn: c, Address: h.Address + ":6443"})
		}
	}
	client, err := kube.Connect(ctx, servers)
	if err == nil {
		e.client = client
	}
	return client, err
}
