package hostconfig

import (
	"fmt"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

const (
	// KubeadmLivePath is what kubeadm has the kubelet ask an API server to decide whether to restart it. It includes etcd.
	KubeadmLivePath = "/livez"
	// LivePath is the same without etcd: a restart does not repair etcd, and an API server that starts while etcd does not answer ends again. In
	// Kubernetes 1.36 and 1.37, the check etcd is all of /livez that asks etcd; those of --etcd-servers-overrides are excluded with it. The hooks of
	// the start need etcd as well, and stay done once they are. /readyz has etcd and etcd-readiness, and stays as it is.
	LivePath = KubeadmLivePath + "?exclude=etcd"

	// startAttempts are the attempts of the startup probe, one every ten seconds: 15 minutes instead of kubeadm's four. While etcd has no quorum, an
	// API server exits within a minute or so, because one of its hooks gives up. While etcd is slow, its hooks take longer, and a restart
	// would begin them again.
	startAttempts = 90

	// apiServerPatchFile sorts after a file of the administrator's without a suffix. kubeadm applies patches in the order of their names.
	apiServerPatchFile = PatchesDir + "/kube-apiserverquorate+strategic.yaml"
)

// apiServerPatch keeps kubelets from restarting API servers because of etcd.
func apiServerPatch() facts.File {
	return facts.File{Path: apiServerPatchFile, Mode: 0o600, Content: fmt.Sprintf(`# The kubelet restarts an API server that hangs, but not because of etcd: that would repair nothing, and the API server could not start again.
spec:
  containers:
  - name: kube-apiserver
    livenessProbe:
      httpGet: {path: "%[1]s"}
    startupProbe:
      httpGet: {path: "%[1]s"}
      failureThreshold: %[2]d
`, LivePath, startAttempts)}
}

// PlainAPIServerPatch is the patch for a cluster that is built by hand, if it is to have one. An API server with a stacked etcd uses no other
// member than its own. The checks of PlainBalancer leave out etcd, and there is no watchdog, so behind it only the kubelet ends an API server
// whose member is dead: there, kubeadm's probes stay.
func PlainAPIServerPatch(c *spec.Cluster) (facts.File, bool) {
	return apiServerPatch(), !c.StackedEtcd() || len(c.BalancerHosts()) == 0
}
