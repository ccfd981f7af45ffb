package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/plan"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

func (e *Env) kubeadm() kubeadmconfig.Config {
	cfg := kubeadmconfig.Config{Cluster: e.Cluster, Token: e.token, Backup: e.backupID()}
	for _, h := range e.Cluster.Spec.Hosts {
		if f := e.Seen.Hosts[h.Name].Facts; f != nil && h.IsNode() {
			cfg.Facts = append(cfg.Facts, f)
		}
	}
	return cfg
}

// target is a step's host, in the spec or as it is recorded, and as a session.
func (e *Env) target(s plan.Step) (spec.Host, *host.Conn, error) {
	c, err := e.Conns.Get(s.Host)
	h, _ := e.Present.Host(s.Host)
	return h, c, err
}

// permitted is the session to the host of a step, with the permit for its change.
func (e *Env) permitted(ctx context.Context, s plan.Step) (*host.Conn, cluster.Permit, error) {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return nil, cluster.Permit{}, err
	}
	permit, err := e.permit(ctx, s)
	return c, permit, err
}

// initConfig is kubeadm's configuration for the control plane of a step, with the host and its session.
func (e *Env) initConfig(s plan.Step) (spec.Host, *host.Conn, string, error) {
	h, c, err := e.target(s)
	if err != nil {
		return h, nil, "", err
	}
	cfg := e.kubeadm()
	if len(s.Members) > 0 { // the token of the new etcd is made of the CA
		if cfg.CA, err = e.ca(); err != nil {
			return h, nil, "", err
		}
	}
	config, err := cfg.Init(h, s.Members)
	return h, c, string(config), err
}

func makePKI(ctx context.Context, e *Env, s plan.Step) error {
	_, c, config, err := e.initConfig(s)
	if err != nil {
		return err
	}
	pki, err := kubeadm.MakePKI.On(ctx, c, kubeadm.PKIRequest{Config: config, Files: plan.SharedPKI(e.Cluster, e.Seen)})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pki = pki
	return nil
}

// handOver gives a host keys that an earlier step of the run has read or made.
func handOver(write host.Op[kubeadm.PKI, struct{}], keys func(*Env) kubeadm.PKI) func(context.Context, *Env, plan.Step) error {
	return func(ctx context.Context, e *Env, s plan.Step) error {
		_, c, err := e.target(s)
		if err != nil {
			return err
		}
		e.mu.Lock()
		pki := keys(e)
		e.mu.Unlock()
		_, err = write.On(ctx, c, pki)
		return err
	}
}

// sharedPKI are the keys that all control planes share, and etcdCA is the authority of a managed external etcd. The caller holds mu.
func sharedPKI(e *Env) kubeadm.PKI { return e.pki }

func etcdCA(e *Env) kubeadm.PKI { return e.etcdPKI.Only(facts.EtcdPKI) }

// startKubelet starts a node of a new cluster. A control plane has the keys to make its own identity; a worker gets one.
func startKubelet(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	if err := certify(ctx, e, s, kubeadmconfig.Serving); err != nil {
		return err
	}
	if h.Has(spec.RoleControlPlane) {
		return startControlPlanesKubelet(ctx, e, s)
	}
	if err := certify(ctx, e, s, kubeadmconfig.Client); err != nil {
		return err
	}
	cfg := e.kubeadm()
	if cfg.CA, err = e.ca(); err != nil {
		return err
	}
	config, err := cfg.Worker(h)
	if err != nil {
		return err
	}
	kubeconfig, err := cfg.Kubelet()
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.StartWorker.Make(ctx, c, permit, kubeadm.WorkerRequest{Config: string(config), Kubeconfig: string(kubeconfig), CA: cfg.CA})
	return err
}

func startControlPlanesKubelet(ctx context.Context, e *Env, s plan.Step) error {
	_, c, config, err := e.initConfig(s)
	if err != nil {
		return err
	}
	in := kubeadm.KubeletRequest{Config: config, Initialises: !s.ThroughEndpoint}
	if len(s.Members) > 0 {
		cfg := e.kubeadm()
		if cfg.CA, err = e.ca(); err != nil {
			return err
		}
		if in.Etcd, err = cfg.StackedEtcd(s.Members); err != nil {
			return err
		}
	}
	if s.ThroughEndpoint {
		in.Server = "https://" + e.Cluster.Spec.ControlPlane.Endpoint
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.StartKubelet.Make(ctx, c, permit, in)
	return err
}

func startControlPlane(ctx context.Context, e *Env, s plan.Step) error {
	h, c, config, err := e.initConfig(s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	in := kubeadm.ControlPlaneRequest{Config: config, Node: h.Name, Patience: time.Duration(s.AwaitReadySeconds) * time.Second}
	if s.ServerFirst {
		in.ServerFirst = apiPatience
	}
	_, err = kubeadm.StartControlPlane.Make(ctx, c, permit, in)
	return err
}

func registerNode(ctx context.Context, e *Env, s plan.Step) error {
	return awaitNode(ctx, e, s, kubeadm.RegisterNode)
}

func useLocalAPI(ctx context.Context, e *Env, s plan.Step) error {
	return awaitNode(ctx, e, s, kubeadm.UseLocalAPI)
}

func awaitNode(ctx context.Context, e *Env, s plan.Step, op host.Change[kubeadm.NodeRequest, struct{}]) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = op.Make(ctx, c, permit, kubeadm.NodeRequest{Name: h.Name, Patience: apiPatience})
	return err
}

func initCluster(ctx context.Context, e *Env, s plan.Step) error {
	return runInit(ctx, e, s, kubeadm.InitCluster)
}

func installAddons(ctx context.Context, e *Env, s plan.Step) error {
	return runInit(ctx, e, s, kubeadm.InstallAddons)
}

func runInit(ctx context.Context, e *Env, s plan.Step, op host.Op[string, struct{}]) error {
	_, c, config, err := e.initConfig(s)
	if err != nil {
		return err
	}
	_, err = op.On(ctx, c, config)
	return err
}

func join(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	cfg := e.kubeadm()
	if cfg.CA, err = e.ca(); err != nil {
		return err
	}
	config, err := cfg.Join(h, kubeadm.DiscoveryFile)
	if err != nil {
		return err
	}
	discovery, err := cfg.Discovery()
	if err != nil {
		return err
	}
	if err := certify(ctx, e, s, kubeadmconfig.Serving); err != nil {
		return err
	}
	if err := e.keepToken(ctx); err != nil {
		return err
	}
	if h.Has(spec.RoleControlPlane) && e.Cluster.StackedEtcd() {
		e.tellAbandoned(ctx, s, c)
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.Join.Make(ctx, c, permit, kubeadm.JoinRequest{Config: string(config), Discovery: string(discovery), ControlPlane: h.Has(spec.RoleControlPlane),
		Stacked: h.Has(spec.RoleControlPlane) && e.Cluster.StackedEtcd()})
	return err
}

// certify gives a node a certificate with which its kubelet begins. A control plane signs its own; for a worker any of
// them does.
func certify(ctx context.Context, e *Env, s plan.Step, usage kubeadmconfig.Usage) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	request, err := kubeadm.RequestCertificate.On(ctx, c, usage)
	if err != nil {
		return err
	}
	signers := []spec.Host{h}
	if !h.Has(spec.RoleControlPlane) {
		signers = e.Cluster.HostsWith(spec.RoleControlPlane)
	}
	var errs []error
	for _, signer := range signers {
		conn, err := e.Conns.Get(signer.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		certificate, err := kubeadm.SignCertificate.On(ctx, conn, kubeadm.SigningRequest{Request: request, Usage: usage, Node: h.Name, Addresses: h.Addresses()})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_, err = kubeadm.InstallCertificate.On(ctx, c, kubeadm.Signed{Usage: usage, Certificate: certificate})
		return err
	}
	return fmt.Errorf("no control plane could sign the kubelet's %s certificate: %w", usage, errors.Join(errs...))
}
