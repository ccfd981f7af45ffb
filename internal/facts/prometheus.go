package facts

// Prometheus is what the API tells of the Prometheus that Quorate installs, with all that belongs to it.
type Prometheus struct {
	Workloads []Workload `json:"workloads,omitempty"`
	// Relaxed are the disruption budgets that a drain has relaxed, as namespace/name, in order (see RelaxedAnnotation). It goes on, or was interrupted.
	Relaxed []string `json:"relaxed,omitempty"`
	// Unknown is why they could not be read: whether they run is not known then.
	Unknown string `json:"unknown,omitempty"`
}

// Missing says that one of its Deployments or DaemonSets does not exist.
func (p *Prometheus) Missing() bool {
	for i := range p.Workloads {
		if p.Workloads[i].Missing {
			return true
		}
	}
	return false
}

// Workload is a Deployment or a DaemonSet.
type Workload struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Title is what people call the program.
	Title string `json:"title"`
	// Missing says that the API has none with this name.
	Missing bool `json:"missing,omitempty"`
	// Desired is how many pods it should have, Ready how many are ready, and Updated how many have the current configuration.
	Desired int `json:"desired"`
	Ready   int `json:"ready"`
	Updated int `json:"updated"`
	// Stale says that no controller manager has counted since it was changed.
	Stale bool `json:"stale,omitempty"`
	// Problem is why its controller cannot create pods.
	Problem string `json:"problem,omitempty"`
	// On are the nodes of those that are ready, in order.
	On []string `json:"on,omitempty"`
	// NotReady are those of its pods that are not ready, without those that others replace already.
	NotReady []WaitingPod `json:"notReady,omitempty"`
}

// WaitingPod is a pod that is not ready.
type WaitingPod struct {
	// Node is empty if none was found for it.
	Node string `json:"node,omitempty"`
	// Why starts with the name of the pod.
	Why string `json:"why"`
}
