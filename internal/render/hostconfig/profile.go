package hostconfig

import (
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// FastGracePeriod is how long a node may be silent with the failover profile fast.
const FastGracePeriod = "6s"

// etcdReadyTimeout is the argument for how long an API server waits for etcd before it answers, when it is asked whether it is ready. An answer of
// etcd's takes milliseconds, and a load balancer waits 600 ms for the API server's. With the default of 2 s, a load balancer
// gives up first, and in between gets the former answer, so a server whose etcd hangs seems ready for two seconds.
const etcdReadyTimeout = "etcd-readycheck-timeout"

// The profile fast moves the pods of a dead node after seconds instead of minutes; docs/failover.md says what each figure is
// for. The profile standard sets none of them, so that Kubernetes' own defaults hold. Nothing else depends on the profile.
var (
	fastArguments = map[string]map[string]string{
		facts.APIServer: {"default-not-ready-toleration-seconds": "5", "default-unreachable-toleration-seconds": "5", etcdReadyTimeout: "400ms"},
		facts.ControllerManager: {
			"node-monitor-grace-period": FastGracePeriod, "node-monitor-period": "1s",
			// A controller manager sends about eighty requests to the API before its controllers run. With the default of 20 requests
			// a second, this takes several seconds, in a new cluster and each time that another one takes over.
			"kube-api-qps": "100", "kube-api-burst": "200",
			// How often standbys check whether the leader's lease is free.
			"leader-elect-retry-period": "1s",
		},
		facts.Scheduler: {"leader-elect-retry-period": "1s"},
	}
	fastKubelet = map[string]any{"nodeLeaseDurationSeconds": 6, "nodeStatusUpdateFrequency": "4s"}
)

// Profile is what the failover profile of the spec sets: arguments by program and name, and fields of the kubelets' configuration.
// It names all that any profile sets. An argument that is empty, and a field that is nil, must not be there. What a setting of
// the spec gives is not part of it.
func Profile(c *spec.Cluster) (arguments map[string]map[string]string, kubelet map[string]any) {
	fast := c.Spec.Failover.Profile == spec.ProfileFast
	given, fields := Arguments(c), KubeletFields(c, nil)
	arguments, kubelet = map[string]map[string]string{}, map[string]any{}
	for program, all := range fastArguments {
		arguments[program] = map[string]string{}
		for name, value := range all {
			if _, set := given[program][name]; set {
				continue
			}
			if !fast {
				value = ""
			}
			arguments[program][name] = value
		}
	}
	for field, value := range fastKubelet {
		if _, set := fields[field]; set {
			continue
		}
		if !fast {
			value = nil
		}
		kubelet[field] = value
	}
	return arguments, kubelet
}
