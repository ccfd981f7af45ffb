// Package step runs the steps of a plan, with one function for each kind.
package step

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
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
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Env is what steps share in one run of apply.
type Env struct {
	Cluster *spec.Cluster
	// Present is the spec with everything that is still part of the cluster, and Departing are its hosts that the spec does not name
	// any more.
	Present   *spec.Cluster
	Departing []spec.Host
	Conns     *host.Set
	Seen      *facts.Observation
	Bundle    *bundle.Bundle // what all bundles have in common; see bundleFor
	bundles   bundle.Set
	Manifests map[string]manifest.Manifest
	Progress  progress.Sink
	// Permit evaluates the change of a step on the cluster as it is now, and waits while it is refused for something that
	// passes. Operations that change a host demand what it returns, so no step can go around it.
	Permit func(context.Context, plan.Step) (cluster.Permit, error)

	// Restoration is the backup that a new cluster is restored from; nil if it is not.
	Restoration *Restoration

	token string
	swarm distribute.Swarm
	// reached is what at returns.
	reached *spec.Cluster
	// virtualIPs are those that load balancers may have.
	virtualIPs []string

	mu      sync.Mutex
	pki     kubeadm.PKI
	etcdPKI kubeadm.PKI // of a managed external etcd
	keys    encryption.Keys
	// authority is the one that is to follow, and trusted what hosts trust of the Kubernetes CA since a step of this run has changed it.
	authority kubeadm.AuthorityPair
	trusted   string
	renewed   map[facts.Authority][]byte // certificates that hosts have signed again; authorities may share a key
	client    *kube.Client
	started   []string // load balancers that this run has set up
	retired   []string // load balancers that it has stopped for good
	// lastRecord and lastRemoved are what the cluster recorded when the API last answered.
	lastRecord, lastRemoved string
}

// NewEnv prepares a run: its bootstrap token exists only in memory until the cluster has it.
func NewEnv(s *cluster.State, conns *host.Set, bundles bundle.Set, m map[string]manifest.Manifest, sink progress.Sink, permit func(context.Context, plan.Step) (cluster.Permit, error)) *Env {
	e := &Env{Cluster: s.Spec, Present: s.Present(), Departing: s.Departing(), Conns: conns, Seen: s.Seen, Bundle: bundles.Main(), bundles: bundles, Manifests: m, Progress: sink, Permit: permit, token: newToken(), reached: s.Reached(), virtualIPs: s.VirtualIPs()}
	e.lastRecord, e.lastRemoved = s.Seen.LastRecord, s.Seen.LastRemoved
	if api := s.Seen.API; api != nil {
		e.lastRecord, e.lastRemoved = api.Record, api.Removed
	}
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
	plan.SwitchPrograms:    switchPrograms,
	plan.PruneBundles:      pruneBundles,
	plan.ImportImages:      importImages,
	plan.Configure:         configure,
	plan.Mark:              mark,
	plan.MakePKI:           makePKI,
	plan.SharePKI:          handOver(kubeadm.WritePKI, sharedPKI),
	plan.KeepPKI:           handOver(kubeadm.KeepPKI, sharedPKI),
	plan.MakeEtcdPKI:       makeEtcdPKI,
	plan.ShareEtcdPKI:      handOver(kubeadm.WritePKI, etcdCA),
	plan.RestorePKI:        restorePKI,
	plan.RestoreEtcd:       restoreEtcd,
	plan.RepairRestored:    repairRestored,
	plan.SettleRestored:    settleRestored,
	plan.KeepEtcdPKI:       handOver(kubeadm.KeepPKI, etcdCA),
	plan.StartEtcd:         startEtcd,
	plan.ShareEtcdClient:   shareEtcdClient,
	plan.ClaimEtcd:         claimEtcd,
	plan.StartKubelet:      startKubelet,
	plan.StartControlPlane: startControlPlane,
	plan.RegisterNode:      registerNode,
	plan.UseLocalAPI:       useLocalAPI,
	plan.RenewKubelet:      renewKubelet,
	plan.RenewCertificates: renewCertificates,
	plan.RestartPrograms:   restartPrograms,

	plan.RestoreControlPlane: restoreControlPlane,
	plan.RestartAgent:        restartAgent,
	plan.UndoJoin:            undoJoin,
	plan.StopControlPlane:    stopControlPlane,
	plan.StopBalancer:        stopBalancer,
	plan.RemoveBalancer:      removeBalancer,
	plan.RemoveMember:        removeMember,
	plan.DeleteNode:          deleteNode,
	plan.RememberHosts:       rememberHosts,
	plan.AwaitNodes:          awaitNodes,
	plan.JoinEtcd:            joinEtcd,
	plan.StoreEtcdServers:    storeEtcdServers,
	plan.StoreVersion:        storeVersion,
	plan.SetEtcdServers:      setEtcdServers,
	plan.SetEtcdTimers:       setEtcdTimers,
	plan.RecordSpec:          recordSpec,
	plan.RecordVerified:      recordVerified,

	plan.CheckDrain:     checkDrain,
	plan.DrainNode:      drainNode,
	plan.UncordonNode:   uncordonNode,
	plan.LeavePools:     leavePools,
	plan.JoinPools:      joinPools,
	plan.MoveLeadership: moveLeadership,
	plan.MoveVirtualIP:  moveVirtualIP,

	plan.BeginMaintenance:    beginMaintenance,
	plan.ConfirmMaintenance:  confirmMaintenance,
	plan.LeaveMaintenance:    leaveMaintenance,
	plan.StopPrograms:        stopPrograms,
	plan.StartPrograms:       startPrograms,
	plan.AwaitHost:           awaitHost,
	plan.RebootHost:          rebootHost,
	plan.SnapshotEtcd:        snapshotEtcd,
	plan.KeepSnapshots:       keepSnapshots,
	plan.CheckStored:         checkStored,
	plan.UpgradeControlPlane: upgradeControlPlane,
	plan.UpgradeNode:         upgradeNode,
	plan.ConvertEtcd:         convertEtcd,
	plan.CheckAddress:        checkAddress,
	plan.TryEndpoint:         tryEndpoint,
	plan.RememberEndpoints:   rememberEndpoints,
	plan.WidenCertificate:    widenCertificate,
	plan.StoreEndpoint:       storeEndpoint,
	plan.MoveClients:         moveClients,
	plan.MoveAgents:          moveAgents,
	plan.PublishEndpoint:     publishEndpoint,
	plan.WithdrawEndpoint:    withdrawEndpoint,
	plan.CheckFit:            checkFit,
	plan.StoreSettings:       storeSettings,
	plan.RestartKubelet:      restartKubelet,
	plan.SwitchAddons:        switchAddons,
	plan.UpgradeCluster:      upgradeCluster,

	plan.AwaitAPI:         awaitAPI,
	plan.AwaitControllers: awaitControllers,
	plan.InitCluster:      initCluster,
	plan.InstallAddons:    installAddons,
	plan.MakeToken:        makeToken,
	plan.RemoveTokens:     removeTokens,
	plan.JoinWorker:       join,
	plan.JoinControlPlane: join,
	plan.LabelNode:        labelNode,
	plan.ApplyManifest:    applyManifest,
	plan.RemoveManifest:   removeManifest,
	plan.SpreadDNS:        spreadDNS,
	plan.ProbeEndpoint:    probeEndpoint,
	plan.TestTakeover:     testTakeover,
	plan.Verify:           verify,
	plan.ResetHost:        resetHost,
	plan.CompactEtcd:      compactEtcd,
	plan.DefragmentEtcd:   defragmentEtcd,
	plan.EndAlarms:        endAlarms,
	plan.SetAsideEtcd:     setEtcdAside,
	plan.RestartUnit:      restartUnit,
	plan.FreeDisk:         freeDisk,
	plan.RestoreBudgets:   restorePrometheusBudgets,

	plan.StopMembers:    stopMembers,
	plan.RecoverMember:  recoverMember,
	plan.ServeRecovered: serveRecovered,
	plan.RejoinEtcd:     rejoinEtcd,

	plan.ScheduleBackups:   scheduleBackups,
	plan.UnscheduleBackups: unscheduleBackups,

	plan.MakeWatchKey:   makeWatchKey,
	plan.AdmitWatch:     admitWatch,
	plan.ConfigureWatch: configureWatch,
	plan.RemoveWatch:    removeWatch,
	plan.RemoveExporter: removeExporter,

	plan.MakeAuthority:  makeAuthority,
	plan.ShareAuthority: shareAuthority,
	plan.RenewAuthority: renewAuthority,
	plan.SetTrust:       setTrust,
	plan.PublishTrust:   publishTrust,
	plan.RestartClients: restartClients,
	plan.AwaitReload:    awaitReload,
	plan.RenewApprover:  renewApprover,

	plan.CheckKeys:       checkKeys,
	plan.ForgetAuthority: forgetAuthority,
	plan.RefreshTokens:   refreshTokens,

	plan.ReadEncryptionKeys: readEncryptionKeys,
	plan.SetEncryptionKeys:  setEncryptionKeys,
	plan.RewriteSecrets:     rewriteSecrets,
}

// at is the spec with the endpoint at which the cluster is reached, which is another one while the endpoint is to change.
func (e *Env) at() *spec.Cluster {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reached
}

// permit evaluates the change of the step. Call it on the line before the change is made.
func (e *Env) permit(ctx context.Context, s plan.Step) (cluster.Permit, error) {
	if s.Change == nil {
		return cluster.Permit{}, fmt.Errorf("the step %s changes what runs and carries no change", s.ID)
	}
	return e.Permit(ctx, s)
}

// permitFor evaluates another change of the same step.
func (e *Env) permitFor(ctx context.Context, s plan.Step, c cluster.Change) (cluster.Permit, error) {
	s.Change = &c
	return e.permit(ctx, s)
}

// permittedAPI is the client for a step whose change is made through the API. Call it on the lines before the change is made.
func (e *Env) permittedAPI(ctx context.Context, s plan.Step) (*kube.Client, error) {
	client, err := e.api(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := e.permit(ctx, s); err != nil {
		return nil, err
	}
	return client, nil
}

// Run does one step.
func Run(ctx context.Context, e *Env, s plan.Step) error {
	run, ok := kinds[s.Kind]
	if !ok {
		return fmt.Errorf("this version of quorate cannot run the step %s", s.Kind)
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
	if d.Files, err = e.withCA(d.Files); err != nil {
		return err
	}
	if s.Change == nil {
		_, err = files.Configure.On(ctx, c, d)
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err = files.Reconfigure.Make(ctx, c, permit, d); err != nil {
		return err
	}
	if s.Change.Part == cluster.LoadBalancer {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.started = append(e.started, s.Host)
	}
	return nil
}

// withCA gives the files that hold the cluster's CA certificate their content, if it was not known when the plan was made.
func (e *Env) withCA(in []facts.File) ([]facts.File, error) {
	out := slices.Clone(in)
	for i := range out {
		if !out[i].ClusterCA || out[i].Content != "" {
			continue
		}
		ca, err := e.ca()
		if err != nil {
			return nil, err
		}
		out[i].Content = ca
	}
	return out, nil
}

func mark(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	_, err = files.Configure.On(ctx, c, *s.Desired)
	return err
}

// ca is the cluster's CA certificate, from this run or from a host that has it.
func (e *Env) ca() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.trusted != "":
		return e.trusted, nil
	case e.pki != nil:
		return e.pki.CA(), nil
	}
	if ca := cluster.Evaluate(e.Cluster, e.Seen).CA(); ca != "" {
		return ca, nil
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
	var away []error
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		if cluster.ServesAbandoned(e.Cluster, e.Seen, h.Name) {
			continue // it serves what a recovery has replaced
		}
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			away = append(away, err)
			continue
		}
		servers = append(servers, kube.Server{Conn: c, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)})
	}
	client, err := kube.Connect(ctx, servers, away...)
	if err == nil {
		e.client = client
	}
	return client, err
}
