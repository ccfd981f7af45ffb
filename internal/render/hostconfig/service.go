package hostconfig

import "quorate.dev/quorate/internal/spec"

const (
	// ReconcilerArgument is the argument of kube-apiserver that says who keeps the addresses of the Service through which pods reach the
	// API. Without it, the API servers do: they list themselves, each for as long as it renews a lease of 15 seconds.
	ReconcilerArgument = "endpoint-reconciler-type"
	// NoReconciler is its value if the API servers do not.
	NoReconciler = "none"
)

// PodsUseEndpoint reports whether pods reach the API through the load balancers, as everybody else does: then the virtual IP is the only
// address of the Service, and no API server lists itself. It is so behind load balancers that Quorate manages, unless the spec sets
// another value of ReconcilerArgument. A load balancer of the user's own may be known only by its name, and may not answer hosts that are
// behind it.
func PodsUseEndpoint(c *spec.Cluster) bool {
	given, set := c.Spec.Settings.APIServer.ExtraArgs[ReconcilerArgument]
	return c.Spec.LoadBalancer.Type == spec.BalancerManaged && c.Spec.LoadBalancer.Address != "" && (!set || given == NoReconciler)
}
