// Package plan decides what to do: from the spec and an observation to ordered steps, each with its reason.
// It only thinks: no I/O, no clock, no randomness. The same inputs give the same plan.
package plan

import (
	"fmt"
	"strings"

	"quorate.dev/quorate/internal/facts"
)

// Kind names what a step does; package step holds one implementation for each.
type Kind string

// The kinds of steps.
const (
	// InstallPackages installs what a role needs from the host's own distribution.
	InstallPackages Kind = "install-packages"
	// InstallBundle brings a bundle to a host and puts its binaries in place.
	InstallBundle Kind = "install-bundle"
	// ImportImages gives the bundle's images to the host's containerd.
	ImportImages Kind = "import-images"
	// Configure writes files, kernel settings and units, as in Step.Desired.
	Configure Kind = "configure"
	// MakePKI makes the keys that all control planes share on one of them, or reads those that are there.
	MakePKI Kind = "make-pki"
	// SharePKI hands them to another control plane inside the SSH session.
	SharePKI Kind = "share-pki"
	// MakeEtcdPKI makes the authority of an external etcd on one of its hosts, or reads the one that is there, and
	// ShareEtcdPKI hands it to another of its hosts inside the SSH session.
	MakeEtcdPKI  Kind = "make-etcd-pki"
	ShareEtcdPKI Kind = "share-etcd-pki"
	// StartEtcd starts a member of an external etcd for the first time.
	StartEtcd Kind = "start-etcd"
	// ShareEtcdClient hands a client certificate of an external etcd to a control plane.
	ShareEtcdClient Kind = "share-etcd-client"
	// ClaimEtcd signs an existing etcd as this cluster's.
	ClaimEtcd Kind = "claim-etcd"
	// StartKubelet starts a node of a new cluster with an identity that the shared keys have signed: on a control plane
	// together with its etcd member, where etcd is stacked.
	StartKubelet Kind = "start-kubelet"
	// StartControlPlane starts a control plane's API server, controller manager and scheduler; those after the first when
	// their nodes are Ready or have had time to be.
	StartControlPlane Kind = "start-control-plane"
	// RegisterNode sees to it that a new control plane's node registers as soon as the API answers.
	RegisterNode Kind = "register-node"
	// UseLocalAPI has a control plane's kubelet turn from the endpoint to the API server beside it.
	UseLocalAPI Kind = "use-local-api"
	// AwaitAPI waits until a new cluster's first API server serves, and AwaitControllers until something acts on what it holds.
	AwaitAPI         Kind = "await-api"
	AwaitControllers Kind = "await-controllers"
	// InitCluster puts kubeadm's configuration, roles and token into the new API.
	InitCluster Kind = "init-cluster"
	// InstallAddons installs kube-proxy and CoreDNS.
	InstallAddons Kind = "install-addons"
	// MakeToken creates a short-lived bootstrap token in an existing cluster.
	MakeToken Kind = "make-token"
	// RemoveTokens takes away the bootstrap tokens that Quorate made.
	RemoveTokens Kind = "remove-tokens"
	// JoinWorker and JoinControlPlane run kubeadm join.
	JoinWorker       Kind = "join-worker"
	JoinControlPlane Kind = "join-control-plane"
	// LabelNode sets labels and taints of a node.
	LabelNode Kind = "label-node"
	// ApplyManifest brings API objects that Quorate owns up to date.
	ApplyManifest Kind = "apply-manifest"
	// SpreadDNS keeps CoreDNS replicas on different nodes.
	SpreadDNS Kind = "spread-dns"
	// ProbeEndpoint looks at an external balancer from every host and from the caller, before anything is changed.
	ProbeEndpoint Kind = "probe-endpoint"
	// TestTakeover moves the virtual IP to every balancer once and sees that the endpoint answers there.
	TestTakeover Kind = "test-takeover"
	// ReadEncryptionKeys takes the keys for secrets at rest from a control plane into memory, and makes the new one.
	ReadEncryptionKeys Kind = "read-encryption-keys"
	// SetEncryptionKeys gives a control plane its keys, in order, and waits until its apiserver uses them.
	SetEncryptionKeys Kind = "set-encryption-keys"
	// RewriteSecrets has the API write every secret again, with the key that now comes first.
	RewriteSecrets Kind = "rewrite-secrets"
	// Verify waits until everything that the spec promises is seen to be so.
	Verify Kind = "verify"
)

// Gate is a condition that must hold before a disruptive step.
type Gate string

// GateEtcdWhole holds when every etcd member is a healthy voter: none missing, none learning.
const GateEtcdWhole Gate = "etcd-whole"

// GateTakeover holds when the host does not have the virtual IP, or another balancer is ready to take it.
const GateTakeover Gate = "takeover"

// Step is one change on one host, or in the API when Host is empty. It is idempotent.
type Step struct {
	ID     string   `json:"id"`
	Kind   Kind     `json:"kind"`
	Host   string   `json:"host,omitempty"`
	Title  string   `json:"title"`
	Reason string   `json:"reason"`
	Needs  []string `json:"needs,omitempty"` // IDs of the steps that must be done before
	Gates  []Gate   `json:"gates,omitempty"`

	// Packages belongs to InstallPackages.
	Packages *facts.Packages `json:"packages,omitempty"`
	// Desired belongs to Configure. With FillCA the cluster's CA certificate is not known yet and takes
	// the place of every file content that is empty.
	Desired *facts.Desired `json:"desired,omitempty"`
	FillCA  bool           `json:"fillCA,omitempty"`
	// Members belongs to StartKubelet where etcd is stacked: the etcd cluster as it starts.
	Members []Member `json:"members,omitempty"`
	// ThroughEndpoint belongs to StartKubelet on a control plane: its kubelet finds the API there at first, and not beside it.
	ThroughEndpoint bool `json:"throughEndpoint,omitempty"`
	// AwaitReadySeconds belongs to StartControlPlane: how long the host's node may take to become Ready before it.
	AwaitReadySeconds int `json:"awaitReadySeconds,omitempty"`
	// Labels and Taints belong to LabelNode.
	Labels map[string]string `json:"labels,omitempty"`
	Taints []facts.Taint     `json:"taints,omitempty"`
	// EncryptionKeys belongs to SetEncryptionKeys: names in order. NewKey belongs to ReadEncryptionKeys.
	EncryptionKeys []string `json:"encryptionKeys,omitempty"`
	NewKey         string   `json:"newKey,omitempty"`
	// Manifest belongs to ApplyManifest: the name of one that Quorate can render.
	Manifest string `json:"manifest,omitempty"`
	// Nodes belongs to Verify: those between which and the others pod traffic is tried, because they are new.
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
	Steps   []Step `json:"steps"`
	// Adopts says that the plan takes on a cluster that Quorate did not build; Notes say what of it stays as it is,
	// although Quorate would have built it otherwise.
	Adopts bool     `json:"adopts,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	// Warnings are what the spec allows and what it costs.
	Warnings []string `json:"warnings,omitempty"`
	// Unreachable names the hosts that could not be observed and that the plan therefore leaves alone, with the reason.
	Unreachable map[string]string `json:"unreachable,omitempty"`
}

// Empty says that there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Steps) == 0 }

// Bundle is what a plan has to know of the bundle.
type Bundle struct {
	Digest  string
	Version string // Kubernetes release
	Pause   string // image name
	Flannel string // image name
	// Manifests maps the name of each manifest to the digest of what would be applied.
	Manifests map[string]string
	// Warnings are what the manifests need and the bundle does not have.
	Warnings []string
}

// RuleQuorum refuses to plan for a cluster that exists and does not answer. It may just be starting.
const RuleQuorum = "a quorum first"

// Refusal says why no plan was made: following the spec would be unsafe, or is impossible as things are.
type Refusal struct {
	Rule string
	Why  string
	Fix  string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused (%s): %s. %s", r.Rule, r.Why, r.Fix)
}

func id(host string, kind Kind) string {
	if host == "" {
		host = "cluster"
	}
	return host + "/" + string(kind)
}

func reasons(parts []string) string { return strings.Join(parts, ", ") }
