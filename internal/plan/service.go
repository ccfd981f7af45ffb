package plan

import (
	"fmt"
	"net"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how pods reach the API: through the load balancers, as everybody else does (hostconfig.PodsUseEndpoint). Then the
// endpoint is the only address of the API's Service, in an EndpointSlice of its own, and no API server lists itself. What is left to do
// follows from the arguments of the API servers and from the addresses that the Service has:
//
//   - The endpoint becomes an address of the Service before the first API server stops listing itself. Until the last one has, pods use
//     both, and all of these addresses work.
//   - When none of them lists itself, nobody but Quorate removes what they left: a slice that is empty, or one of an API server that died
//     meanwhile.
//   - On the way back, the endpoint stays until all API servers list themselves again.

// ServiceChange is what becomes the address of the API's Service.
type ServiceChange struct {
	// Address is the endpoint's, as host:port.
	Address string `json:"address"`
	// Only says that no API server lists itself: what is left of their addresses is removed.
	Only bool `json:"only,omitempty"`
}

// foreignServers says that an API server of the cluster was installed without Quorate: its arguments stay as they are.
func (b *builder) foreignServers() bool {
	return b.Stage() == cluster.Foreign || slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), b.leftAsItIs)
}

// podsUseEndpoint says that the endpoint is to be the address of the API's Service.
func (b *builder) podsUseEndpoint() bool {
	return hostconfig.PodsUseEndpoint(b.c) && !b.foreignServers()
}

// serviceAddress is the address that the Service is to have then.
func (b *builder) serviceAddress() string {
	at := b.c.Endpoint()
	return net.JoinHostPort(at.Address, at.Port)
}

// reconciler is the value of hostconfig.ReconcilerArgument that the API servers must have; empty if they must not have that argument.
func (b *builder) reconciler() string {
	if b.podsUseEndpoint() {
		return hostconfig.NoReconciler
	}
	return ""
}

// otherReconciler says that an API server, or kubeadm's configuration, has another one. What could not be read says nothing, and a setting
// comes to them as settings do.
func (b *builder) otherReconciler() bool {
	if _, given := b.c.Spec.Settings.APIServer.ExtraArgs[hostconfig.ReconcilerArgument]; given || b.Seen.API == nil || b.Seen.API.Service == nil || b.foreignServers() {
		return false
	}
	other := func(have map[string]map[string]string) bool {
		server := have[facts.APIServer]
		return server != nil && server[hostconfig.ReconcilerArgument] != b.reconciler()
	}
	if k := b.Seen.API.Kubeadm; k != nil && other(k.Arguments) {
		return true
	}
	return slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
		f := b.Facts(h.Name)
		return f != nil && f.Kubernetes.KubeletConfig && other(f.Kubernetes.Arguments)
	})
}

// changesReconciler says that the plan restarts API servers to change that. A repair changes no setting.
func (b *builder) changesReconciler() bool {
	return !b.repairs && b.otherReconciler() && b.delaysRestarts() == ""
}

// delaysRestarts says why API servers are not restarted in this run for what nobody asked for with an edit of the spec: their reconciler, or
// their probes. It is empty if they are. Such a restart must keep nothing else waiting, such as the removal of a host that is lost.
func (b *builder) delaysRestarts() string {
	switch {
	case b.changesVersion():
		return "the version changes"
	case b.endpointMoves():
		return "the endpoint changes"
	case len(b.Rotations()) > 0:
		return "a rotation is not finished"
	}
	for _, h := range b.Present().HostsWith(spec.RoleControlPlane) {
		f := b.Facts(h.Name)
		switch {
		case b.Departs(h.Name):
			return h.Name + " leaves the cluster"
		case f == nil:
			return h.Name + " cannot be changed: " + b.Unreachable()[h.Name]
		case !f.Kubernetes.KubeletConfig:
			return h.Name + " joins the cluster"
		case b.rejoins(h):
			return h.Name + " joins etcd again"
		}
	}
	return b.sparesNoAPIServer()
}

// sparesNoAPIServer says why API servers cannot restart one after another; empty if they can, or if an earlier run was interrupted while
// they did: then this one goes on where that ended.
func (b *builder) sparesNoAPIServer() string {
	cps := b.c.HostsWith(spec.RoleControlPlane)
	if slices.ContainsFunc(cps, b.interrupted) {
		return ""
	}
	for _, h := range cps {
		changes := []*cluster.Change{change(cluster.Restart, cluster.APIPrograms, h.Name)}
		if len(cps) > 1 { // see leaveForReplacement
			changes = append(changes, change(cluster.Stop, cluster.PoolServer, h.Name), change(cluster.Move, cluster.Leadership, h.Name))
		}
		for _, c := range changes {
			if _, r := b.Allow(*c); r != nil {
				return r.Why
			}
		}
	}
	return ""
}

// warnOfReconciler says that pods do not use the endpoint yet.
func (b *builder) warnOfReconciler() {
	if !b.otherReconciler() {
		return
	}
	if why := b.delaysRestarts(); why != "" {
		b.out.Warnings = append(b.out.Warnings, "the API servers keep their --"+hostconfig.ReconcilerArgument+" in this run, so that "+b.pathOfPods()+" only after another `quorate apply`: "+why)
	}
}

// pathOfPods is what changes with the reconcilers.
func (b *builder) pathOfPods() string {
	if b.podsUseEndpoint() {
		return "pods reach the API through the load balancers"
	}
	return "pods reach the API servers without the load balancers"
}

// listsItself says whether the API server of a host may list itself as an address of the Service when the steps so far were made. One that
// cannot be asked may.
func (b *builder) listsItself(h spec.Host) bool {
	replaced := slices.ContainsFunc(b.steps, func(s *Step) bool {
		switch {
		case s.Host != h.Name:
			return false
		case s.Kind == UpgradeControlPlane, s.Kind == RestoreControlPlane:
			return slices.Contains(s.Pods, facts.APIServer)
		}
		return s.Kind == StartControlPlane || s.Kind == JoinControlPlane
	})
	f := b.Facts(h.Name)
	switch {
	case replaced:
		return b.configuredReconciler() != hostconfig.NoReconciler
	case f == nil:
		return true
	}
	return f.Kubernetes.Arguments[facts.APIServer][hostconfig.ReconcilerArgument] != hostconfig.NoReconciler
}

// configuredReconciler is what kubeadm's configuration says, from which manifests of API servers are written.
func (b *builder) configuredReconciler() string {
	api := b.Seen.API
	if value, settled := b.settings().configured[facts.APIServer][hostconfig.ReconcilerArgument]; settled && api != nil {
		return value
	}
	switch {
	case api != nil && api.Kubeadm != nil:
		return api.Kubeadm.Arguments[facts.APIServer][hostconfig.ReconcilerArgument]
	case b.exists():
		return "" // it could not be read
	}
	return b.reconciler() // it is about to be written
}

// noneLists says that no API server lists itself when the steps so far were made. Those that leave are stopped by then.
func (b *builder) noneLists() bool {
	return !slices.ContainsFunc(b.Present().HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return !b.Departs(h.Name) && b.listsItself(h) })
}

// needsEndpoint says that the Service needs the endpoint: an API server does not list itself, or is not to.
func (b *builder) needsEndpoint() bool {
	return b.podsUseEndpoint() && (b.configuredReconciler() == hostconfig.NoReconciler || slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return !b.listsItself(h) }))
}

// publishEndpoint makes the endpoint an address of the Service, before an API server stops listing itself.
func (b *builder) publishEndpoint(after ...*Step) {
	if b.Seen.API == nil || b.Seen.API.Service == nil || len(b.ofKind(PublishEndpoint)) > 0 || !b.needsEndpoint() {
		return
	}
	at, have := b.serviceAddress(), b.Seen.API.Service.Slices[facts.OwnSlice]
	if slices.Equal(have, []string{at}) {
		return
	}
	s := Step{Kind: PublishEndpoint, Title: "let pods use the endpoint", Service: &ServiceChange{Address: at, Only: b.noneLists()},
		Reason: "the API's Service does not send pods to " + at + ", where a load balancer chooses an API server that works"}
	var tried *Step
	switch {
	case len(have) > 0:
		s.Reason = fmt.Sprintf("the API's Service sends pods to %s instead of %s", cluster.List(have), at)
	case b.changesReconciler():
		tried = b.add(Step{Kind: TryEndpoint, Title: "try the endpoint from every host", Endpoint: &EndpointChange{To: b.c.Endpoint()},
			Reason: "the pods of every node are to reach the API there"}, after...)
	}
	b.add(s, append(after, tried)...)
}

// onlyEndpoint makes the endpoint the only address of the Service, when no API server lists itself any more.
func (b *builder) onlyEndpoint(after ...*Step) {
	if b.Seen.API == nil || b.Seen.API.Service == nil || !b.podsUseEndpoint() || !b.noneLists() || b.Seen.API.Service.Only(b.serviceAddress()) ||
		slices.ContainsFunc(b.ofKind(PublishEndpoint), func(s *Step) bool { return s.Service.Only }) {
		return
	}
	b.add(Step{Kind: PublishEndpoint, Detail: "only", Title: "let pods use nothing but the endpoint", Service: &ServiceChange{Address: b.serviceAddress(), Only: true},
		Reason: "no API server lists itself as an address of the API's Service, and nobody else removes addresses that are left there"}, after...)
}

// publishFirst makes the endpoint the address of the Service in a new cluster, as soon as its API can store that.
func (b *builder) publishFirst(after ...*Step) {
	if !b.podsUseEndpoint() || b.Seen.API != nil && b.Seen.API.Service != nil && b.Seen.API.Service.Only(b.serviceAddress()) {
		return
	}
	b.add(Step{Kind: PublishEndpoint, Title: "let pods use the endpoint", Service: &ServiceChange{Address: b.serviceAddress(), Only: b.noneLists()},
		Reason: "the API servers do not list themselves as addresses of the API's Service: when one vanishes, a load balancer notices it sooner"}, after...)
}

// withdrawEndpoint ends that the endpoint is an address of the Service, when all API servers list themselves.
func (b *builder) withdrawEndpoint(after ...*Step) {
	if b.Seen.API == nil || b.Seen.API.Service == nil || b.podsUseEndpoint() {
		return
	}
	_, published := b.Seen.API.Service.Slices[facts.OwnSlice]
	if !published || slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return b.Facts(h.Name) == nil || !b.listsItself(h) }) {
		return
	}
	b.add(Step{Kind: WithdrawEndpoint, Title: "let pods use the API servers", Reason: "all API servers list themselves as addresses of the API's Service, so that the endpoint need not be one"}, after...)
}

// podsUse says that the Service sends pods to a former endpoint.
func (b *builder) podsUse(former spec.Endpoint) bool {
	at := net.JoinHostPort(former.Address, former.Port)
	return b.Seen.API != nil && b.Seen.API.Service != nil && at != b.serviceAddress() && slices.Contains(b.Seen.API.Service.Slices[facts.OwnSlice], at)
}
