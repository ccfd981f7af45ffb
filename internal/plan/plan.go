// Package plan decides what to do: from the state of a cluster to ordered steps, each with its reason. It is pure: no I/O, no
// clock, no randomness. The same inputs give the same plan.
//
// A plan is made in three stages. Build refuses what cannot be planned (another cluster, a field that cannot be changed). It
// collects the steps in a graph: create.go is the order of a first build, maintain.go that of everything later. Then it folds
// the changes that the steps carry over the state, and refuses the whole plan if any of them would be unsafe (see
// cluster.State.Allow). Package run evaluates each change again right before it is made.
package plan

import (
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Kind names what a step does; package step has one implementation for each.
type Kind string

// The kinds of steps.
const (
	// InstallPackages installs what a role needs from the host's own distribution.
	InstallPackages Kind = "install-packages"
	// InstallBundle brings a bundle to a host and unpacks its programs next to those that run.
	InstallBundle Kind = "install-bundle"
	// SwitchPrograms makes programs of a host run from the plan's bundle, and restarts the units that run them.
	SwitchPrograms Kind = "switch-programs"
	// PruneBundles removes the bundles that a host no longer needs.
	PruneBundles Kind = "prune-bundles"
	// ImportImages imports the bundle's images into the host's containerd.
	ImportImages Kind = "import-images"
	// Configure writes files, kernel settings and units, as in Step.Desired. Without a change it restarts nothing.
	Configure Kind = "configure"
	// Mark notes on a host that Quorate began to build there, that the host was adopted, or that its cluster was complete.
	Mark Kind = "mark"
	// MakePKI makes the keys that all control planes share on one of them, or reads those that it has.
	MakePKI Kind = "make-pki"
	// SharePKI hands them to another control plane inside the SSH session. KeepPKI hands them to one that joined without them, when the
	// only control plane that has them leaves.
	SharePKI Kind = "share-pki"
	KeepPKI  Kind = "keep-pki"
	// MakeEtcdPKI makes the certificate authority of an external etcd on one of its hosts, or reads the one that it has, and
	// ShareEtcdPKI hands it to another etcd host inside the SSH session. KeepEtcdPKI is to it what KeepPKI is to SharePKI.
	MakeEtcdPKI  Kind = "make-etcd-pki"
	ShareEtcdPKI Kind = "share-etcd-pki"
	KeepEtcdPKI  Kind = "keep-etcd-pki"
	// RestorePKI gives a control plane the shared keys of a backup, and RestoreEtcd makes the data of an etcd member from its snapshot.
	RestorePKI  Kind = "restore-pki"
	RestoreEtcd Kind = "restore-etcd"
	// RepairRestored removes from the API what a restored cluster remembers of hosts, of an endpoint, and of joins that are those of the
	// cluster in the backup, and lets webhooks fail that nobody can answer yet. SettleRestored ends that.
	RepairRestored Kind = "repair-restored"
	SettleRestored Kind = "settle-restored"
	// StartEtcd starts a member of an external etcd for the first time.
	StartEtcd Kind = "start-etcd"
	// ShareEtcdClient hands a client certificate of an external etcd to a control plane.
	ShareEtcdClient Kind = "share-etcd-client"
	// ClaimEtcd marks an existing etcd as this cluster's.
	ClaimEtcd Kind = "claim-etcd"
	// StartKubelet starts a node of a new cluster with an identity that the shared keys have signed: on a control plane
	// together with its etcd member, where etcd is stacked.
	StartKubelet Kind = "start-kubelet"
	// StartControlPlane starts a control plane's API server, controller manager and scheduler for the first time, and
	// RestoreControlPlane writes manifests again that are missing on a control plane of the cluster.
	StartControlPlane   Kind = "start-control-plane"
	RestoreControlPlane Kind = "restore-control-plane"
	// RegisterNode makes sure that a new control plane's node registers as soon as the API answers.
	RegisterNode Kind = "register-node"
	// UseLocalAPI points a control plane's kubelet to its local API server.
	UseLocalAPI Kind = "use-local-api"
	// RenewKubelet gives a kubelet a new client certificate when the old one has expired.
	RenewKubelet Kind = "renew-kubelet"
	// RenewCertificates signs new certificates on a host that has their authorities' keys. RestartPrograms restarts static pods that read
	// their certificate only when they start.
	RenewCertificates Kind = "renew-certificates"
	RestartPrograms   Kind = "restart-programs"
	// AwaitAPI waits until a new cluster's first API server serves, and AwaitControllers until its controllers run.
	AwaitAPI         Kind = "await-api"
	AwaitControllers Kind = "await-controllers"
	// InitCluster puts kubeadm's configuration, roles and token into the new API.
	InitCluster Kind = "init-cluster"
	// SnapshotEtcd saves a snapshot of etcd on a host, and reads it again.
	SnapshotEtcd Kind = "snapshot-etcd"
	// KeepSnapshots copies the snapshots of etcd that are on a host to another one (Detail), and reads them again.
	KeepSnapshots Kind = "keep-snapshots"
	// CheckStored refuses to go on if etcd holds objects in versions that the bundle's API servers do not know.
	CheckStored Kind = "check-stored-objects"
	// UpgradeControlPlane replaces the static pods, containerd and the kubelet of a control plane by those of the bundle, and
	// UpgradeNode containerd and the kubelet of a worker.
	UpgradeControlPlane Kind = "upgrade-control-plane"
	UpgradeNode         Kind = "upgrade-node"
	// CheckFit refuses settings with which nodes could not run all of their pods. StoreSettings puts settings into kubeadm's
	// configuration in the cluster, and RestartKubelet restarts a kubelet with them.
	CheckFit       Kind = "check-fit"
	StoreSettings  Kind = "store-settings"
	RestartKubelet Kind = "restart-kubelet"
	// CheckAddress refuses a new virtual IP that a machine has, and TryEndpoint waits until the API answers at a new endpoint.
	CheckAddress Kind = "check-address"
	TryEndpoint  Kind = "try-endpoint"
	// RememberEndpoints notes in the cluster which endpoints clients may use while the endpoint changes. WidenCertificate makes an
	// API server's certificate valid for a new endpoint. StoreEndpoint puts an endpoint into kubeadm's configuration in the cluster.
	RememberEndpoints Kind = "remember-endpoints"
	WidenCertificate  Kind = "widen-certificate"
	StoreEndpoint     Kind = "store-endpoint"
	// PublishEndpoint makes the endpoint an address of the Service through which pods reach the API, and WithdrawEndpoint ends that.
	PublishEndpoint  Kind = "publish-endpoint"
	WithdrawEndpoint Kind = "withdraw-endpoint"
	// MoveClients has a host use a new endpoint, and MoveAgents kube-proxy and the pod network.
	MoveClients Kind = "move-clients"
	MoveAgents  Kind = "move-agents"
	// SetEtcdTimers restarts a member of an external etcd with other timers.
	SetEtcdTimers Kind = "set-etcd-timers"
	// ConvertEtcd has etcd prepare its data for older members, or ends that.
	ConvertEtcd Kind = "convert-etcd"
	// SwitchAddons gives kube-proxy and CoreDNS the bundle's images, and UpgradeCluster runs what kubeadm does once for a
	// whole cluster when its control planes are upgraded.
	SwitchAddons   Kind = "switch-addons"
	UpgradeCluster Kind = "upgrade-cluster"
	// InstallAddons installs kube-proxy and CoreDNS.
	InstallAddons Kind = "install-addons"
	// MakeToken creates a short-lived bootstrap token in an existing cluster, and RemoveTokens deletes those that Quorate
	// made.
	MakeToken    Kind = "make-token"
	RemoveTokens Kind = "remove-tokens"
	// JoinWorker and JoinControlPlane run kubeadm join; UndoJoin removes what an interrupted join of a control plane left,
	// in etcd and on the host.
	JoinWorker       Kind = "join-worker"
	JoinControlPlane Kind = "join-control-plane"
	UndoJoin         Kind = "undo-join"
	// StopControlPlane stops the API server, controller manager and scheduler of a control plane that leaves, and StopBalancer
	// a load balancer, for good. RemoveBalancer then leaves a host that stays as it was before it became a load balancer.
	StopControlPlane Kind = "stop-control-plane"
	StopBalancer     Kind = "stop-balancer"
	RemoveBalancer   Kind = "remove-balancer"
	// RemoveMember removes the etcd member of a host that leaves, or that is lost, and DeleteNode its node.
	RemoveMember Kind = "remove-member"
	DeleteNode   Kind = "delete-node"
	// JoinEtcd adds a member to an external etcd. StoreEtcdServers stores the members in kubeadm's configuration, and
	// SetEtcdServers gives them to the API server of a control plane.
	JoinEtcd         Kind = "join-etcd"
	StoreEtcdServers Kind = "store-etcd-servers"
	// StoreVersion stores the version in kubeadm's configuration with which a control plane joins while the version changes.
	StoreVersion   Kind = "store-version"
	SetEtcdServers Kind = "set-etcd-servers"
	// ScheduleBackups gives a control plane what it needs to take backups by itself, with the credentials for the store, which are not
	// in the plan. UnscheduleBackups removes that from a host.
	ScheduleBackups   Kind = "schedule-backups"
	UnscheduleBackups Kind = "unschedule-backups"
	// MakeWatchKey makes the key with which the unit of a control plane that repairs reaches the hosts. AdmitWatch admits these units to a
	// host, and ConfigureWatch tells a unit what it repairs. RemoveWatch removes all of that from a host.
	MakeWatchKey   Kind = "make-watch-key"
	AdmitWatch     Kind = "admit-watch"
	ConfigureWatch Kind = "configure-watch"
	RemoveWatch    Kind = "remove-watch"
	// RemoveExporter removes the unit that serves metrics from a host.
	RemoveExporter Kind = "remove-exporter"
	// RememberHosts stores which hosts were removed without being reset, and forbids their nodes to register.
	RememberHosts Kind = "remember-hosts"
	// AwaitNodes waits until new nodes are Ready.
	AwaitNodes Kind = "await-nodes"
	// LabelNode sets labels and taints of a node, and removes those that left the spec.
	LabelNode Kind = "label-node"
	// ApplyManifest updates API objects that Quorate owns.
	ApplyManifest Kind = "apply-manifest"
	// RemoveManifest removes API objects that Quorate owned, and that the spec does not need any more.
	RemoveManifest Kind = "remove-manifest"
	// RestartAgent restarts a DaemonSet's pod on one node: the pod network's agent, or kube-proxy.
	RestartAgent Kind = "restart-agent"
	// SpreadDNS keeps CoreDNS replicas on different nodes and in different zones, and says how many there are.
	SpreadDNS Kind = "spread-dns"
	// ProbeEndpoint probes an external load balancer from every host, before anything is changed.
	ProbeEndpoint Kind = "probe-endpoint"
	// TestTakeover moves the virtual IP to every load balancer once and checks that the endpoint answers there.
	TestTakeover Kind = "test-takeover"
	// ReadEncryptionKeys reads the keys for secrets at rest from a control plane into memory, and makes the new one.
	ReadEncryptionKeys Kind = "read-encryption-keys"
	// SetEncryptionKeys gives a control plane its keys, in order, and waits until its API server uses them.
	SetEncryptionKeys Kind = "set-encryption-keys"
	// MakeAuthority generates the authority that is to follow on a control plane, or reads it, and ShareAuthority hands it to another one
	// inside the SSH session.
	MakeAuthority  Kind = "make-authority"
	ShareAuthority Kind = "share-authority"
	// RenewAuthority signs the certificate of an authority that has expired again, for its key. SetTrust gives it to a host then.
	RenewAuthority Kind = "renew-authority"
	// SetTrust brings what a host trusts, and signs with, to a stage of a rotation. PublishTrust does the same in the API, and waits until
	// all namespaces have it. RestartClients restarts the clients of the API that Quorate and kubeadm installed in pods.
	SetTrust       Kind = "set-trust"
	PublishTrust   Kind = "publish-trust"
	RestartClients Kind = "restart-clients"
	// AwaitReload waits until API servers have read again with what they verify kubelets; in a rotation of the service account key, until
	// clients have read their token again.
	AwaitReload Kind = "await-reload"
	// CheckKeys asks what runs which keys it trusts, and ForgetAuthority ends the rotation of an authority that is read at start on a host.
	CheckKeys       Kind = "check-keys"
	ForgetAuthority Kind = "forget-authority"
	// RefreshTokens restarts a kubelet, so that it requests the tokens of its pods again.
	RefreshTokens Kind = "refresh-tokens"
	// RenewApprover has Quorate's approver on a control plane get new credentials.
	RenewApprover Kind = "renew-approver"
	// RewriteSecrets has the API write every secret again, with the key that now comes first.
	RewriteSecrets Kind = "rewrite-secrets"
	// CheckDrain refuses to begin a drain that would never end, and changes nothing.
	CheckDrain Kind = "check-drain"
	// DrainNode cordons a node and evicts its pods, within their disruption budgets; UncordonNode lets pods be placed on it again.
	DrainNode    Kind = "drain-node"
	UncordonNode Kind = "uncordon-node"
	// LeavePools takes a control plane out of the pools of the managed load balancers; JoinPools puts it back.
	LeavePools Kind = "leave-pools"
	JoinPools  Kind = "join-pools"
	// MoveLeadership has others lead what a host leads: etcd, the controller managers, the schedulers.
	MoveLeadership Kind = "move-leadership"
	// MoveVirtualIP has another load balancer take the virtual IP from a host that has it.
	MoveVirtualIP Kind = "move-virtual-ip"
	// BeginMaintenance notes in the cluster that hosts are in maintenance: from then on nothing relies on them.
	// ConfirmMaintenance notes that they can be powered off, and LeaveMaintenance that one takes part again.
	BeginMaintenance   Kind = "begin-maintenance"
	ConfirmMaintenance Kind = "confirm-maintenance"
	LeaveMaintenance   Kind = "leave-maintenance"
	// StopPrograms ends those programs of a host gracefully that clients would miss if the host vanished: the static pods of a
	// control plane without etcd, or the member of an etcd host. StartPrograms starts them again.
	StopPrograms  Kind = "stop-programs"
	StartPrograms Kind = "start-programs"
	// AwaitHost waits until everything on a host works, and until pods on it reach those on others.
	AwaitHost Kind = "await-host"
	// RebootHost reboots a host and waits until it has booted.
	RebootHost Kind = "reboot-host"
	// StopMembers ends what is left of an etcd that has lost its quorum, and its API servers. RecoverMember makes a cluster of one of a
	// copy of its data, on the host of the copy, and sets all other data aside. ServeRecovered starts it, and the API.
	StopMembers    Kind = "stop-members"
	RecoverMember  Kind = "recover-member"
	ServeRecovered Kind = "serve-recovered"
	// RejoinEtcd gives a control plane whose etcd member is gone with its data a new one.
	RejoinEtcd Kind = "rejoin-etcd"
	// CompactEtcd has etcd forget old revisions, DefragmentEtcd has a member give back free space, and EndAlarms ends alarms of etcd.
	CompactEtcd    Kind = "compact-etcd"
	DefragmentEtcd Kind = "defragment-etcd"
	EndAlarms      Kind = "end-alarms"
	// SetAsideEtcd keeps the data of a former member aside, so that the host can join etcd again.
	SetAsideEtcd Kind = "set-etcd-aside"
	// RestartUnit restarts a unit whose program does not answer, and FreeDisk removes what Quorate kept on a host and does not need.
	RestartUnit Kind = "restart-unit"
	FreeDisk    Kind = "free-disk"
	// RestoreBudgets restores the disruption budgets of the Prometheus that Quorate installed, which an interrupted drain has left relaxed.
	RestoreBudgets Kind = "restore-budgets"
	// ResetHost removes everything of a cluster, and of Quorate, from a host. It does not touch etcd's members and Node objects:
	// steps before and after it do.
	ResetHost Kind = "reset-host"
	// RecordSpec stores the spec in the cluster, so that later edits can be recognised.
	RecordSpec Kind = "record-spec"
	// Verify waits until everything that the spec says has been observed.
	Verify Kind = "verify"
	// RecordVerified notes in the cluster that it was seen to match its spec.
	RecordVerified Kind = "record-verified"
)

// effect says whether steps of a kind stop, restart, add or remove anything.
type effect uint8

const (
	harmless effect = iota + 1 // never: they carry no change
	waits                      // never: they only wait until other steps, or the cluster itself, have done something
	either                     // some do, and those carry a change
	changes                    // always: they carry a change
)

// effects declare the effect of every kind. A kind that is not listed cannot be part of a plan.
var effects = map[Kind]effect{
	InstallPackages: harmless, InstallBundle: harmless, SwitchPrograms: either, PruneBundles: harmless, ImportImages: harmless, Configure: either, Mark: harmless,
	MakePKI: harmless, SharePKI: harmless, KeepPKI: harmless, MakeEtcdPKI: harmless, ShareEtcdPKI: harmless, KeepEtcdPKI: harmless, ShareEtcdClient: harmless, ClaimEtcd: harmless,
	RestorePKI: harmless, RestoreEtcd: changes, RepairRestored: changes, SettleRestored: harmless,
	StartEtcd: changes, StartKubelet: changes, StartControlPlane: changes, RestoreControlPlane: changes, RegisterNode: changes, UseLocalAPI: changes, RenewKubelet: changes,
	RenewCertificates: changes, RestartPrograms: changes,
	AwaitAPI: waits, AwaitControllers: waits, InitCluster: harmless, InstallAddons: harmless, MakeToken: harmless, RemoveTokens: harmless,
	JoinWorker: changes, JoinControlPlane: changes, UndoJoin: changes,
	StopControlPlane: changes, StopBalancer: changes, RemoveBalancer: changes, RemoveMember: changes, DeleteNode: changes, RememberHosts: harmless, AwaitNodes: waits,
	JoinEtcd: changes, StoreEtcdServers: harmless, StoreVersion: harmless, SetEtcdServers: changes, SetEtcdTimers: changes,
	LabelNode: harmless, ApplyManifest: either, RestartAgent: changes, SpreadDNS: harmless, ProbeEndpoint: harmless, TestTakeover: changes,
	ScheduleBackups: harmless, UnscheduleBackups: harmless,
	MakeWatchKey: harmless, AdmitWatch: harmless, ConfigureWatch: harmless, RemoveWatch: harmless, RemoveExporter: harmless, RemoveManifest: harmless,
	ReadEncryptionKeys: harmless, SetEncryptionKeys: harmless, RewriteSecrets: harmless,
	MakeAuthority: harmless, ShareAuthority: harmless, RenewAuthority: harmless, SetTrust: changes, PublishTrust: harmless, RestartClients: changes, RenewApprover: harmless, AwaitReload: waits,
	CheckKeys: harmless, ForgetAuthority: harmless, RefreshTokens: changes,
	CheckDrain: harmless, DrainNode: changes, UncordonNode: changes, LeavePools: changes, JoinPools: changes, MoveLeadership: changes, MoveVirtualIP: changes,
	BeginMaintenance: changes, ConfirmMaintenance: changes, LeaveMaintenance: changes, StopPrograms: changes, StartPrograms: changes, AwaitHost: waits, RebootHost: changes,
	ResetHost:   changes,
	StopMembers: changes, RecoverMember: changes, ServeRecovered: changes, RejoinEtcd: changes,
	CompactEtcd: harmless, DefragmentEtcd: changes, EndAlarms: harmless, SetAsideEtcd: changes, RestartUnit: changes, FreeDisk: harmless, RestoreBudgets: harmless,
	SnapshotEtcd: harmless, KeepSnapshots: harmless, CheckStored: harmless, UpgradeControlPlane: changes, UpgradeNode: changes, ConvertEtcd: changes, SwitchAddons: changes, UpgradeCluster: changes,
	CheckAddress: harmless, TryEndpoint: harmless, RememberEndpoints: harmless, WidenCertificate: harmless, StoreEndpoint: harmless, MoveClients: either, MoveAgents: changes,
	PublishEndpoint: harmless, WithdrawEndpoint: harmless,
	CheckFit: harmless, StoreSettings: harmless, RestartKubelet: changes,
	RecordSpec: harmless, Verify: harmless, RecordVerified: harmless,
}

// Waits says that a step of this kind only waits. There is nothing left to wait for when another step fails.
func (k Kind) Waits() bool { return effects[k] == waits }

// Kinds are all kinds of steps.
func Kinds() (out []Kind) {
	for k := range effects {
		out = append(out, k)
	}
	return out
}

// Step is one action on one host, or in the API when Host is empty. It is idempotent.
type Step struct {
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	Host string `json:"host,omitempty"`
	// Detail tells steps of one kind on one host apart; it is part of the ID.
	Detail string `json:"detail,omitempty"`
	Title  string `json:"title"`
	Reason string `json:"reason"`
	// Needs are the IDs of the steps that must be done before.
	Needs []string `json:"needs,omitempty"`
	// Change is what the step does to the cluster's ability to survive failures; nil for a step that stops, restarts, adds
	// and removes nothing.
	Change *cluster.Change `json:"change,omitempty"`

	// Packages belongs to InstallPackages.
	Packages *facts.Packages `json:"packages,omitempty"`
	// Switch belongs to InstallBundle, on hosts on which nothing runs yet: all programs run from the bundle immediately.
	Switch bool `json:"switch,omitempty"`
	// Programs belongs to SwitchPrograms: names as of facts.ProgramOf, in the order in which they are switched. Restart are
	// the units that run them; a step that has any carries a change. With RestartPrograms, it is the kubelet, if programs may wait until
	// it starts them again.
	Programs []string `json:"programs,omitempty"`
	Restart  []string `json:"restart,omitempty"`
	// Desired belongs to Configure, Mark, MoveClients and SetEtcdTimers.
	Desired *facts.Desired `json:"desired,omitempty"`
	// Approved belongs to AdmitWatch: what may be restored on the host. Generation belongs to AdmitWatch and ConfigureWatch: it changes
	// with what that depends on.
	Approved   *facts.Desired `json:"approved,omitempty"`
	Generation string         `json:"generation,omitempty"`
	// Members belongs to StartKubelet and RestoreEtcd where etcd is stacked: the etcd cluster as it starts.
	Members []Member `json:"members,omitempty"`
	// ThroughEndpoint belongs to StartKubelet on a control plane: its kubelet reaches the API through the endpoint at first,
	// and not through its local API server.
	ThroughEndpoint bool `json:"throughEndpoint,omitempty"`
	// AwaitReadySeconds belongs to StartControlPlane: how long the host's node may take to become Ready before it.
	AwaitReadySeconds int `json:"awaitReadySeconds,omitempty"`
	// ServerFirst belongs to StartControlPlane: the controller manager and the scheduler start when the API server serves.
	ServerFirst bool `json:"serverFirst,omitempty"`
	// Labels and Taints belong to LabelNode, and so do the keys of labels and the taints that are removed.
	Labels       map[string]string `json:"labels,omitempty"`
	Taints       []facts.Taint     `json:"taints,omitempty"`
	RemoveLabels []string          `json:"removeLabels,omitempty"`
	RemoveTaints []facts.Taint     `json:"removeTaints,omitempty"`
	// EncryptionKeys belongs to SetEncryptionKeys: names in order. NewKey belongs to ReadEncryptionKeys.
	EncryptionKeys []string `json:"encryptionKeys,omitempty"`
	NewKey         string   `json:"newKey,omitempty"`
	// Authority belongs to the steps of a rotation, and to those that renew the certificate of an authority. Trusted are the keys (see facts.Trust) that are trusted after SetTrust, PublishTrust, and
	// RestartClients, and that CheckKeys asks for, the one that signs first, and Former is one that is not trusted any more, or, for
	// RefreshTokens, that signed tokens before.
	Authority facts.Authority `json:"authority,omitempty"`
	Trusted   []string        `json:"trusted,omitempty"`
	Former    string          `json:"former,omitempty"`
	// Certificates belongs to RenewCertificates and to RenewKubelet: names as of facts.Certificate. LifetimeSeconds is how long the new ones are valid; 0 if
	// only the host can tell.
	Certificates    []string `json:"certificates,omitempty"`
	LifetimeSeconds int64    `json:"lifetimeSeconds,omitempty"`
	// WaitSeconds belongs to AwaitReload and CheckKeys: how long the step waits before anything else.
	WaitSeconds int64 `json:"waitSeconds,omitempty"`
	// Replicas belongs to SpreadDNS: how many replicas CoreDNS gets; 0 if it keeps those that it has.
	Replicas int `json:"replicas,omitempty"`
	// Zones belongs to SpreadDNS: the replicas must be in different zones.
	Zones bool `json:"zones,omitempty"`
	// Manifest belongs to ApplyManifest and RemoveManifest: the name of one that Quorate can render.
	Manifest string `json:"manifest,omitempty"`
	// Hosts belongs to BeginMaintenance and ConfirmMaintenance: the hosts that are in maintenance together.
	Hosts []string `json:"hosts,omitempty"`
	// Pods belongs to RestoreControlPlane, RestartPrograms, StopControlPlane, StopPrograms and StartPrograms (static pods) and to RestartAgent and MoveAgents
	// (DaemonSets, as namespace/name), and to RestartClients, where an empty list stands for those that the cluster has.
	Pods []string `json:"pods,omitempty"`
	// Bundles belongs to FreeDisk: the digests of bundles that the cluster does not need.
	Bundles []string `json:"bundles,omitempty"`
	// Snapshots belongs to KeepSnapshots: names of files.
	Snapshots []string `json:"snapshots,omitempty"`
	// MemberID belongs to UndoJoin, RemoveMember and EndAlarms: the etcd member, in hexadecimal.
	MemberID string `json:"memberID,omitempty"`
	// Force belongs to CheckDrain and DrainNode: pods that no controller creates again are evicted, too.
	Force bool `json:"force,omitempty"`
	// Etcd belongs to ConvertEtcd: the version of the members that are to take over; empty to end that.
	Etcd string `json:"etcd,omitempty"`
	// Servers belongs to StoreEtcdServers and SetEtcdServers: client URLs.
	Servers []string `json:"servers,omitempty"`
	// Recovery belongs to StopMembers, RecoverMember and ServeRecovered.
	Recovery *Recovery `json:"recovery,omitempty"`
	// Settings belongs to StoreSettings; nil if it only remembers them.
	Settings *SettingsChange `json:"settings,omitempty"`
	// Endpoint belongs to the steps that change the endpoint.
	Endpoint *EndpointChange `json:"endpoint,omitempty"`
	// Service belongs to PublishEndpoint.
	Service *ServiceChange `json:"service,omitempty"`
	// Record belongs to RecordSpec, RecordVerified, RememberHosts, RememberEndpoints, StoreSettings, StoreVersion and CheckKeys: what is stored.
	Record string `json:"record,omitempty"`
	// Margins are those while the step is made, in the worst case; nil for a step that does not touch them.
	Margins *quorum.Margins `json:"margins,omitempty"`
	// Keep belongs to ResetHost: the directory to which etcd's data and the keys are moved; empty if they are removed.
	Keep string `json:"keep,omitempty"`
	// Nodes belongs to Verify (the new nodes, whose pod traffic to and from the others is tried), to AwaitNodes, to
	// RememberHosts (the nodes that must not register), to CheckFit, and to DrainNode (the nodes that are drained as well: no
	// pod may be placed on one of them meanwhile).
	Nodes []string `json:"nodes,omitempty"`
}

// Member is an etcd member of the initial cluster.
type Member struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Plan is what apply will do.
type Plan struct {
	Cluster string `json:"cluster"`
	Bundle  string `json:"bundle"` // digest
	// Bundles are the digests of the bundles for further architectures that hosts have.
	Bundles map[string]string `json:"bundles,omitempty"`
	Steps   []Step            `json:"steps"`
	// Adopts says that the plan takes over a cluster that Quorate did not build; Notes say what of it stays as it is,
	// although Quorate would have built it differently.
	Adopts bool     `json:"adopts,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	// Creates says that the plan builds a new cluster, or finishes one that was interrupted.
	Creates bool `json:"creates,omitempty"`
	// Resumes says that an earlier run has begun to change the version, and that the plan goes on with that, or back.
	Resumes bool `json:"resumes,omitempty"`
	// Warnings are what the spec allows and what it costs.
	Warnings []string `json:"warnings,omitempty"`
	// Continues says that the plan brings back an API whose authority had expired, and that there is more to do which can be planned only
	// when it answers.
	Continues bool `json:"continues,omitempty"`
	// Postpones says that the cluster does not match its spec when the plan is done: a part of it, which Warnings name, has to wait until then.
	Postpones bool `json:"postpones,omitempty"`
	// Unreachable names the hosts that could not be observed and that the plan therefore leaves alone, with the reason.
	Unreachable map[string]string `json:"unreachable,omitempty"`
	// Unmet is what does not match the spec although no step of the plan changes it.
	Unmet []cluster.Finding `json:"unmet,omitempty"`
	// Rotation belongs to a plan of a rotation: which stage it reaches. Waits is what somebody has to do, or what has to pass, before the
	// next stage; there are no steps then.
	Rotation cluster.RotationStage `json:"rotation,omitempty"`
	Waits    string                `json:"waits,omitempty"`
	// Files are the files whose content the plan changes, as far as hosts were asked for what they have: see Compare.
	Files []FileChange `json:"files,omitempty"`
}

// Empty says that there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Steps) == 0 }

// ForceDrains has the drains of the plan evict pods as well that no controller creates again. Disruption budgets are respected all the same.
func (p *Plan) ForceDrains() {
	for i := range p.Steps {
		if s := &p.Steps[i]; s.Kind == CheckDrain || s.Kind == DrainNode {
			s.Force = true
		}
	}
}

// Bundle is what a plan has to know of the bundle.
type Bundle struct {
	Digest string
	Arch   string // that it is for
	// Others are the digests of the bundles of the same version for other architectures that hosts have.
	Others  map[string]string
	Version string // Kubernetes release
	Pause   string // image name
	Flannel string // image name
	Etcd    string // version of etcd
	// Images are the names of the images of the control plane and its addons, by their short names.
	Images map[string]string
	// Versions are the Kubernetes versions that can be built instead.
	Versions []string
	// Manifests maps the name of each manifest to the digest of what would be applied.
	Manifests map[string]string
	// Warnings are what the manifests need and the bundle does not have.
	Warnings []string
}

// For is the digest of the bundle for an architecture; empty if there is none.
func (b Bundle) For(arch string) string {
	if arch == b.Arch {
		return b.Digest
	}
	return b.Others[arch]
}

// all are the digests of all bundles, that of the main one first.
func (b Bundle) all() []string {
	out := []string{b.Digest}
	for _, arch := range slices.Sorted(maps.Keys(b.Others)) {
		out = append(out, b.Others[arch])
	}
	return out
}

// IDs of the rules by which a plan is refused, beside those of package cluster.
const (
	RulePackages   = "packages"
	RuleAllHosts   = "all-hosts"
	RuleVersion    = "one-version"
	RuleAnswer     = "an-answering-api"
	RuleNetwork    = "one-pod-network"
	RuleOwnFiles   = "your-own-files"
	RuleKeys       = "encryption-keys"
	RuleSoundEtcd  = "sound-etcd"
	RuleWhole      = "whole-cluster"
	RuleBalancers  = "load-balancers-to-adopt"
	RuleAdoptFlag  = "adopt-flag"
	RuleAPIServers = "every-api-server"
	RulePKI        = "shared-keys"
	RuleEtcdPKI    = "etcd-keys"
	RuleStore      = "backup-credentials"
	RuleArch       = "architecture"
)

// Build makes the plan that takes the cluster from its state to its spec.
func Build(s *cluster.State, bundle Bundle) (*Plan, error) { return buildFrom(s, bundle, nil) }

func buildFrom(s *cluster.State, bundle Bundle, from *facts.Restore) (*Plan, error) {
	b := &builder{State: s, c: s.Spec, bundle: bundle, at: map[string]*hostSteps{}, from: from}
	b.out = &Plan{Cluster: s.Spec.Metadata.Name, Bundle: bundle.Digest, Bundles: bundle.Others, Unreachable: s.Unreachable()}
	for _, name := range s.InMaintenance() {
		delete(b.out.Unreachable, name)
		if s.Departs(name) {
			continue // its maintenance ends when it has left
		}
		b.out.Warnings = append(b.out.Warnings, name+" is in maintenance and is left as it is; `quorate maintain --undo "+name+"` ends that")
	}
	for _, h := range s.Present().Spec.Hosts {
		b.at[h.Name] = &hostSteps{}
	}
	if err := b.refuse(); err != nil {
		return nil, err
	}
	switch s.Stage() {
	case cluster.Absent, cluster.Partial, cluster.Undetermined:
		b.create()
	case cluster.Unresponsive:
		if err := b.revive(); err != nil {
			return nil, err
		}
	default:
		bring := b.maintain
		if s.Stage() == cluster.Complete && s.EtcdExpired() {
			bring = b.revive // one after another, each member would be cut off from the others
		}
		if err := bring(); err != nil {
			return nil, err
		}
	}
	b.endRestore()
	if b.exists() {
		b.unpackInTurn()
	}
	if err := b.fold(); err != nil {
		return nil, err
	}
	for _, w := range spec.Warnings(s.Spec) {
		b.out.Warnings = append(b.out.Warnings, w.Message+". "+w.Fix)
	}
	b.out.Warnings = append(b.out.Warnings, bundle.Warnings...)
	b.out.Steps = b.list()
	b.out.Postpones = b.blocked != nil && !b.out.Empty()
	if b.out.Empty() {
		if b.blocked != nil {
			return nil, b.blocked // the cluster does not match its spec
		}
		if s.Stage() == cluster.Unresponsive {
			r := refused(RuleAnswer, "the cluster exists, but no API server answers, and nothing in the hosts' configuration explains it"+after(": ", s.Seen.APIError),
				"Bring back enough "+b.etcdHosts()+" for etcd's majority and run it again; `quorate status` shows which are missing. If too many are lost for good: `quorate recover`.")
			r.Transient = true // machines that were all switched on a moment ago need about a minute
			return nil, r
		}
		b.out.Unmet = s.Unmet()
	}
	return b.out, nil
}

// Verification is the plan that only waits until the cluster matches its spec.
func Verification(p *Plan) *Plan {
	g := &graph{}
	g.add(verification(nil))
	return &Plan{Cluster: p.Cluster, Bundle: p.Bundle, Bundles: p.Bundles, Warnings: p.Warnings, Unreachable: p.Unreachable, Steps: g.list()}
}

func verification(nodes []string) Step {
	return Step{Kind: Verify, Title: "verify the cluster", Reason: "a step that succeeded does not prove that the cluster works", Nodes: nodes}
}

// builder makes one plan.
type builder struct {
	*cluster.State
	graph
	c      *spec.Cluster
	bundle Bundle
	out    *Plan
	at     map[string]*hostSteps
	// want is what settings returns.
	want *wanted
	// etcdEnds are the timers of etcd's members when the plan is done; nil if it does not change them.
	etcdEnds *facts.EtcdTimers
	// blocked is why the failover profile, or etcd's timers, are not changed in this run; nil if they are, or need not be. onlyServes says that nothing else
	// is done than to start what an earlier run stopped.
	blocked    *cluster.Refusal
	onlyServes bool
	// keepsEndpoint says that nobody can tell which endpoint clients use: hosts keep the one that they have.
	keepsEndpoint bool
	// from is the backup that a new cluster is restored from; nil for one that begins without data.
	from *facts.Restore
	// last is the disruptive step that was planned last: the next one comes after it.
	last *Step
	// resets are the hosts that are reset one by one.
	resets []string
	// mends says that steps only restore what was there, and that each of them is made alone (see Repairs).
	mends bool
	// repairs says that nobody who knows better decides: hosts that note that they are in maintenance are left alone, too.
	repairs bool
}

// Facts are what a host reported. A host that is in maintenance is left as it is, like one that cannot be reached, unless it leaves the cluster.
func (b *builder) Facts(host string) *facts.Facts {
	if _, in := b.Maintenance(host); in && !b.Departs(host) && !slices.Contains(b.resets, host) || b.repairs && b.NotesMaintenance(host) {
		return nil
	}
	return b.State.Facts(host)
}

// Reachable says whether the host can be changed.
func (b *builder) Reachable(host string) bool { return b.Facts(host) != nil }

// Unreachable maps the hosts that cannot be changed to the reason.
func (b *builder) Unreachable() map[string]string {
	out := b.State.Unreachable()
	for _, name := range b.InMaintenance() {
		if b.Facts(name) == nil {
			out[name] = "it is in maintenance"
		}
	}
	return out
}

// hostSteps are references to the steps of one host.
type hostSteps struct {
	packages, bundle, configure, balancer, both, images *Step
	pki, etcdPKI, etcdClient                            *Step
	etcdData                                            *Step
	kubelet, controlPlane, register, join               *Step
}

// change makes the field of a step.
func change(v cluster.Verb, p cluster.Part, subject string) *cluster.Change {
	return &cluster.Change{Verb: v, Part: p, Subject: subject}
}

// addInTurn adds a step after the disruptive one that was planned before it: only one is made at a time.
func (b *builder) addInTurn(s Step, after ...*Step) *Step {
	if b.mends {
		return b.add(s, after...)
	}
	b.last = b.add(s, append(after, b.last)...)
	return b.last
}

// sort puts the steps into an order in which they can be made, as near as possible to the one in which they were planned.
func (b *builder) sort() {
	placed, left := map[string]bool{}, b.steps
	b.steps = make([]*Step, 0, len(left))
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(s *Step) bool {
			return !slices.ContainsFunc(s.Needs, func(id string) bool { return !placed[id] })
		})
		if i < 0 {
			panic("plan: steps wait for each other: " + left[0].ID)
		}
		placed[left[i].ID] = true
		b.steps, left = append(b.steps, left[i]), slices.Delete(slices.Clone(left), i, i+1)
	}
}

// fold evaluates the changes of the plan one after the other, each on the state that the ones before it leave behind. The
// steps are in an order in which they can be made.
func (b *builder) fold() error {
	s := b.State
	for _, step := range b.steps {
		if step.Change == nil {
			continue
		}
		if _, r := s.Allow(*step.Change); r != nil {
			out := *r
			out.Why = "the plan's step \"" + step.Title + after(" on ", step.Host) + "\": " + r.Why
			return &out
		}
		if worst := s.Worst(*step.Change); b.exists() && !slices.EqualFunc(worst.Placements(), s.Placements(), sameButWorkers) {
			step.Margins = new(worst.Margins())
		}
		s = s.After(*step.Change)
	}
	return nil
}

// sameButWorkers says that a change does not touch what margins count.
func sameButWorkers(x, y quorum.Placement) bool {
	x.Worker, y.Worker = quorum.Absent, quorum.Absent
	return x == y
}

func refused(rule, why, fix string) *cluster.Refusal {
	return &cluster.Refusal{Rule: rule, Why: why, Fix: fix}
}

// after puts a separator before a text that is not empty.
func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

func reasons(parts []string) string { return strings.Join(parts, ", ") }
