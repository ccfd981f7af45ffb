package facts

// Workloads are the pods of a cluster and what they depend on, as an audit needs them.
type Workloads struct {
	// Pods are all pods that have not ended, without static pods.
	Pods []Pod `json:"pods,omitempty"`
	// Budgets are the disruption budgets.
	Budgets []Budget `json:"budgets,omitempty"`
	// Volumes are the persistent volumes that pods use and that not every node can reach.
	Volumes []Volume `json:"volumes,omitempty"`
	// Webhooks are the admission webhooks without which requests are rejected.
	Webhooks []Webhook `json:"webhooks,omitempty"`
	// Images are the images that each node has, by the name of the node. A node that has as many as it can report is not
	// among them: it may have more.
	Images map[string][]string `json:"images,omitempty"`
	// Unknown maps parts that could not be read (pods, budgets, volumes, webhooks, images) to the reason. Such a part is empty,
	// and nothing may be inferred from that.
	Unknown map[string]string `json:"unknown,omitempty"`
}

// The parts of Workloads that can be unknown.
const (
	PodsPart          = "pods"
	BudgetsPart       = "disruption budgets"
	VolumesPart       = "volumes"
	WebhooksPart      = "admission webhooks"
	ImagesOfNodesPart = "images of nodes"
)

// Pod is one pod.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Kind and Owner say what creates the pod again: a Deployment, StatefulSet, DaemonSet, Job, or another kind; empty if
	// nothing does.
	Kind  string `json:"kind,omitempty"`
	Owner string `json:"owner,omitempty"`
	// Node is empty for a pod that has not been scheduled.
	Node  string `json:"node,omitempty"`
	Ready bool   `json:"ready"`
	// DNS says that it is a replica of CoreDNS.
	DNS bool `json:"dns,omitempty"`
	// Images are those of its containers.
	Images []PodImage `json:"images,omitempty"`
	// Volumes names those among Workloads.Volumes that it uses.
	Volumes []string `json:"volumes,omitempty"`
	// Evicted is how many seconds after its node became unreachable the pod is evicted; nil if it never is.
	Evicted *int64 `json:"evicted,omitempty"`
}

// PodImage is an image of a pod.
type PodImage struct {
	// Name is complete: registry, repository, and tag or digest.
	Name string `json:"name"`
	// Always says that every start of a container asks the registry, even if the node has the image.
	Always bool `json:"always,omitempty"`
}

// Budget is a disruption budget.
type Budget struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Expected pods are counted, Desired of them must be healthy, and Allowed is how many evictions it allows now.
	Expected int `json:"expected"`
	Desired  int `json:"desired"`
	Allowed  int `json:"allowed"`
	// Pods are the names of the pods that it holds.
	Pods []string `json:"pods,omitempty"`
}

// BlocksForGood says that a disruption budget allows no eviction now, and would not if all of its pods were healthy.
func BlocksForGood(expected, desired, allowed int) bool {
	return expected > 0 && allowed == 0 && desired >= expected
}

// Volume is a persistent volume that only some nodes can reach.
type Volume struct {
	Name string `json:"name"`
	// Zones are the zones in which it can be used; Nodes the nodes, for a volume on the disk of a node. One of them is empty.
	Zones []string `json:"zones,omitempty"`
	Nodes []string `json:"nodes,omitempty"`
}

// Webhook is an admission webhook whose failure policy is Fail: while it does not answer, the requests that it judges are rejected.
type Webhook struct {
	Name string `json:"name"`
	// Configuration is the name of the object that registers it.
	Configuration string `json:"configuration"`
	// Resources are what it judges, such as deployments.apps: pods if it judges new pods, and * if it judges everything.
	Resources []string `json:"resources,omitempty"`
	// Selective says that it judges only some of these objects, by their namespace, their labels, or a condition.
	Selective bool `json:"selective,omitempty"`
	// Service is the namespace and name of the Service that it is behind; empty for a webhook outside of the cluster.
	Service string `json:"service,omitempty"`
	URL     string `json:"url,omitempty"`
	// Ready is how many endpoints of the Service are ready, and Nodes are their nodes, one for each. An endpoint that is on no node has
	// an empty name.
	Ready int      `json:"ready"`
	Nodes []string `json:"nodes,omitempty"`
	// Unknown is why its endpoints could not be read.
	Unknown string `json:"unknown,omitempty"`
}
