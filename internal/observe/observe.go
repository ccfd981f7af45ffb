// Package observe reads the actual condition of a cluster: hosts, etcd, load balancers and the API, in parallel, at one
// moment. It changes nothing.
package observe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/components"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Deadlines of the parts of one observation, which ends within seconds even if a host or a zone is dead.
const (
	hostTimeout = 5 * time.Second
	apiTimeout  = 5 * time.Second
	// currentTimeout, of it, is for the answers as of now; the rest is for those from an API server's memory.
	currentTimeout = 3 * time.Second
)

// ConfigMap, in kube-system, is where Quorate stores what it must remember about the cluster. Its other entries are the
// digests of the manifests that were applied, by name.
const (
	ConfigMap = facts.ConfigMap
	// SpecKey holds the recorded spec (see spec.Record).
	SpecKey = facts.SpecKey
	// RemovedKey lists the hosts that were removed while they were down (see spec.MarshalHosts).
	RemovedKey = "removed-hosts"
	// VerifiedKey holds the spec and bundle that the cluster was last verified to match.
	VerifiedKey = "verified"
	// SettingsKey holds which settings the spec made (see plan.Managed).
	SettingsKey = "settings"
	// EndpointsKey holds the endpoints that clients may use while the endpoint changes (see cluster.State.FormerEndpoints).
	EndpointsKey = "endpoints"
	// AccountKey holds since when API servers sign the tokens of service accounts with which key (see cluster.State.SignsRecord).
	AccountKey = "account-key"
	// TakeoverKey names the load balancers among which the takeover of the virtual IP was tested.
	TakeoverKey = "takeover-tested"
	// RecoveryKey holds what was recovered when etcd last lost its quorum (see plan.Recovery), for people who look into it.
	RecoveryKey = "recovery"
	// MaintenanceKey, followed by the name of a host, holds what is remembered of its maintenance (see facts.Maintenance).
	MaintenanceKey = "maintenance."
)

// Hosts are the hosts of an observation besides those of the spec.
type Hosts struct {
	// Present is the spec with everything that is still part of the cluster (see cluster.State.Present); nil as long as the cluster was
	// not asked.
	Present *spec.Cluster
	// Departing are still part of the cluster, and the spec does not name them any more.
	Departing []spec.Host
	// Removed were removed while they were down. Only the hosts themselves are read: what they say of the cluster does not
	// count.
	Removed []spec.Host
}

// Observe reads everything in the spec, and more hosts, through the given sessions, at the endpoint of the spec that is given. Hosts
// without a session have the error of the connection.
func Observe(ctx context.Context, c *spec.Cluster, conns *host.Set, more Hosts) *facts.Observation {
	if more.Present != nil {
		c = more.Present.WithEndpoint(c.Endpoint())
	}
	obs := &facts.Observation{Time: time.Now(), Hosts: map[string]facts.Host{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	request := hostconfig.Request(c)
	holders := virtualIP(ctx, c, conns)
	for _, h := range c.Spec.Hosts {
		wg.Go(func() {
			seen := observeHost(ctx, c, h, c.Balances(h), conns, request)
			mu.Lock()
			defer mu.Unlock()
			obs.Hosts[h.Name] = seen
		})
	}
	for _, h := range more.Removed {
		wg.Go(func() {
			// Its load balancer may have come back, with an address that the others do not know any more.
			seen := observeHost(ctx, c, spec.Host{Name: h.Name, Address: h.Address}, c.Spec.LoadBalancer.Type == spec.BalancerManaged, conns, request)
			mu.Lock()
			defer mu.Unlock()
			obs.Hosts[h.Name] = seen
		})
	}
	var running programs
	wg.Go(func() { running = readComponents(ctx, c, conns) })
	wg.Wait()

	readEtcd := func() {
		members := etcdMembers(c, conns, obs)
		if len(members) == 0 {
			return
		}
		var err error
		if obs.Etcd, obs.EtcdAbandoned, err = etcd.Observe(ctx, members); err != nil {
			obs.EtcdError = err.Error()
		}
	}
	replaced := len(obs.AbandonedEtcds()) > 0
	if replaced {
		readEtcd() // which API servers may be asked depends on it
	}
	servers := controlPlanes(c, conns, obs)
	if !replaced {
		wg.Go(readEtcd)
	}
	wg.Go(func() { obs.Backups = backups(ctx, c, servers) })
	silent := map[string]map[string]facts.Answer{}
	for _, h := range more.Departing {
		if obs.Hosts[h.Name].Facts == nil {
			wg.Go(func() {
				by := seenBy(ctx, c, h, conns, obs)
				mu.Lock()
				defer mu.Unlock()
				silent[h.Name] = by
			})
		}
	}
	if len(servers) > 0 {
		wg.Go(func() {
			var err error
			if obs.API, err = observeAPI(ctx, servers); err != nil {
				obs.APIError = err.Error()
			}
		})
		wg.Go(func() { obs.Endpoint = endpoint(ctx, c, conns, obs) })
	} else {
		obs.APIError = "no control plane that can be reached runs an API server"
		obs.Endpoint.Unknown = obs.APIError
	}
	wg.Wait()
	emptyHosts(c, obs)
	for name, by := range silent {
		seen := obs.Hosts[name]
		seen.SeenBy = by
		obs.Hosts[name] = seen
	}
	if c.ExistingEtcd() {
		existingEtcd(ctx, c, conns, obs)
	}
	addComponents(ctx, c, conns, obs, running)
	holders(obs)
	return obs
}

func observeHost(ctx context.Context, c *spec.Cluster, h spec.Host, balances bool, conns *host.Set, request facts.Request) facts.Host {
	conn, err := conns.Get(h.Name)
	if err != nil {
		return facts.Host{Error: err.Error(), OtherBuild: errors.Is(err, host.ErrOtherBuild)}
	}
	f, err := readFacts(ctx, conn, request)
	if err != nil {
		return facts.Host{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hostTimeout, fmt.Errorf("no answer within %s", hostTimeout))
	defer cancel()
	seen := facts.Host{Facts: &f}
	if balances {
		b, err := balancer.Read.On(ctx, conn, c.Spec.LoadBalancer.Address)
		if err != nil {
			seen.BalancerError = err.Error()
		} else {
			if b.Others != nil && !b.Healthy { // its socket may be in a different place than ours
				b.Healthy = f.Units["haproxy.service"] == "active" && f.Units["keepalived.service"] == "active"
			}
			seen.Balancer = &b
		}
	}
	if h.Has(spec.RoleControlPlane) && f.Kubernetes.CA != "" {
		a := APIServer(ctx, conn, h, hostconfig.EndpointHost(c), f.Kubernetes.CA)
		seen.APIServer = &a
	}
	return seen
}

// controlPlanes are the reachable hosts on which an API server can be expected. One that uses a member of a cluster that a recovery has replaced serves what
// does not count any more.
func controlPlanes(c *spec.Cluster, conns *host.Set, obs *facts.Observation) (servers []kube.Server) {
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		f := obs.Hosts[h.Name].Facts
		conn, err := conns.Get(h.Name)
		if f == nil || err != nil || len(f.Kubernetes.Manifests) == 0 || cluster.ServesAbandoned(c, obs, h.Name) {
			continue
		}
		servers = append(servers, kube.Server{Conn: conn, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)})
	}
	// Ready servers come first: one that hangs would cost its timeout before the next one is tried.
	slices.SortStableFunc(servers, func(a, b kube.Server) int {
		return rank(obs.Hosts[a.Conn.Name()].APIServer) - rank(obs.Hosts[b.Conn.Name()].APIServer)
	})
	return servers
}

func rank(a *facts.Answer) int {
	if a != nil && a.OK {
		return 0
	}
	return 1
}

func observeAPI(ctx context.Context, servers []kube.Server) (*facts.API, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	client, err := kube.Connect(ctx, servers)
	if err != nil {
		return nil, err
	}
	current, cancel := context.WithTimeout(ctx, currentTimeout)
	defer cancel()
	if api, err := API(current, client); err == nil {
		return api, nil
	}
	return readAPI(ctx, client, cached)
}

// API reads what a plan needs from the API.
func API(ctx context.Context, client *kube.Client) (*facts.API, error) {
	return readAPI(ctx, client, "")
}

// cached is the resource version that makes an API server answer from its cache. The cache is at most a little stale, and it
// is available even while requests to an etcd member that has just disappeared have not timed out yet.
const cached = "0"

func readAPI(ctx context.Context, client *kube.Client, version string) (*facts.API, error) {
	var (
		api  facts.API
		errs [9]error
		wg   sync.WaitGroup
	)
	wg.Go(func() {
		v, err := discovery.ToServerVersionInterfaceWithContext(client.Discovery()).ServerVersionWithContext(ctx)
		if err == nil {
			api.Version = v.GitVersion
		}
		errs[0] = err
	})
	wg.Go(func() { errs[1] = readNodes(ctx, client, version, &api) })
	wg.Go(func() { errs[2] = readDNS(ctx, client, version, &api) })
	wg.Go(func() {
		maps := client.CoreV1().ConfigMaps("kube-system")
		config, err := maps.Get(ctx, "kubeadm-config", metav1.GetOptions{ResourceVersion: version})
		if api.Initialised = err == nil; err == nil {
			api.Kubeadm = kubeadmConfig(config.Data["ClusterConfiguration"])
			var kubelet *corev1.ConfigMap
			if kubelet, err = maps.Get(ctx, "kubelet-config", metav1.GetOptions{ResourceVersion: version}); err == nil {
				api.KubeletConfig = kubeletFields(kubelet.Data["kubelet"])
			}
		}
		if err == nil || apierrors.IsNotFound(err) {
			var own *corev1.ConfigMap
			if own, err = maps.Get(ctx, ConfigMap, metav1.GetOptions{ResourceVersion: version}); err == nil {
				remembered(own.Data, &api)
			}
			if api.Applied[manifest.Prometheus] != "" {
				api.Prometheus = readPrometheus(ctx, client, version)
			}
		}
		if !apierrors.IsNotFound(err) {
			errs[3] = err
		}
	})
	wg.Go(func() { api.JoinTokens, errs[4] = joinTokens(ctx, client, version) })
	wg.Go(func() { errs[6] = clientServers(ctx, client, version, &api) })
	var sets []appsv1.DaemonSet
	wg.Go(func() { sets, errs[5] = daemonSets(ctx, client, version) })
	wg.Go(func() { api.APIServers, errs[7] = registeredAPIServers(ctx, client, version) })
	wg.Go(func() { api.Service, errs[8] = APIService(ctx, client, version) })
	wg.Wait()
	api.DaemonSets = counts(sets)
	if api.Initialised && api.Applied[manifest.Flannel] == "" && api.Applied[manifest.CNI] == "" {
		api.Networks = networks(sets)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return &api, nil
}

// registeredAPIServers counts the endpoints of the API's own Service. The list is called like the Service; an API server keeps
// none if it was told so (--endpoint-reconciler-type=none).
func registeredAPIServers(ctx context.Context, client *kube.Client, version string) (*int, error) {
	list, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, facts.APIServiceName, metav1.GetOptions{ResourceVersion: version})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := len(list.Endpoints)
	return &n, nil
}

// stored is a text in a ConfigMap.
type stored struct{ Namespace, Name, Key string }

// StoredKubeconfigs are the ConfigMaps that hold a kubeconfig for clients of the API, with the namespace and the key.
var StoredKubeconfigs = []stored{
	{metav1.NamespacePublic, "cluster-info", "kubeconfig"},
	{metav1.NamespaceSystem, facts.KubeProxy, "kubeconfig.conf"},
}

// clientServers reads where they say that the API is, and which keys clients should trust, in pods as well, and until when.
func clientServers(ctx context.Context, client *kube.Client, version string, out *facts.API) error {
	servers, trusted, until := map[string]string{}, map[string][]string{}, map[string]map[string]time.Time{}
	trust := func(name string, text []byte) {
		trusted[name], until[name] = pkifile.KeyIDs(text), pkifile.Expiries(text)
	}
	other := []stored{{metav1.NamespaceSystem, facts.RootCA, facts.RootCAKey}, {metav1.NamespaceSystem, facts.AuthenticationConfigMap, ""}}
	for _, m := range append(slices.Clone(StoredKubeconfigs), other...) {
		have, err := client.CoreV1().ConfigMaps(m.Namespace).Get(ctx, m.Name, metav1.GetOptions{ResourceVersion: version})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		text := have.Data[m.Key]
		switch m.Name {
		case facts.RootCA:
			trust(m.Name, []byte(text))
			out.RootCAWritten = WrittenAt(have)
			continue
		case facts.AuthenticationConfigMap:
			for _, key := range []string{facts.ClientAuthorityKey, facts.ProxyAuthorityKey} {
				trust(key, []byte(have.Data[key]))
			}
			continue
		}
		if server := kubeadm.ServerOf(text); server != "" {
			servers[m.Name] = server
		}
		if ca := kubeadm.AuthorityOf(text); ca != nil {
			trust(m.Name, ca)
		}
	}
	out.Servers, out.Trusted, out.TrustedUntil = servers, trusted, until
	return nil
}

// WrittenAt is when a ConfigMap was last written; zero if the API does not say.
func WrittenAt(m *corev1.ConfigMap) (at time.Time) {
	for _, f := range m.ManagedFields {
		if f.Time != nil && f.Time.After(at) {
			at = f.Time.Time
		}
	}
	return at
}

// remembered reads what Quorate stored in its ConfigMap.
func remembered(data map[string]string, api *facts.API) {
	for key, value := range data {
		name, maintenance := strings.CutPrefix(key, MaintenanceKey)
		switch {
		case key == SpecKey:
			api.Record = value
		case key == RemovedKey:
			api.Removed = value
		case key == VerifiedKey:
			api.Verified = value
		case key == SettingsKey:
			api.Settings = value
		case key == EndpointsKey:
			api.Endpoints = value
		case key == AccountKey:
			api.AccountKey = value
		case key == TakeoverKey:
			api.TakeoverTested = value
		case key == facts.DrillKey:
			var d facts.LastDrill
			// What cannot be read was written by another version, and nothing depends on it.
			if json.Unmarshal([]byte(value), &d) == nil {
				api.LastDrill = &d
			}
		case key == RecoveryKey:
		case maintenance:
			if api.Maintenance == nil {
				api.Maintenance = map[string]facts.Maintenance{}
			}
			var m facts.Maintenance
			// What cannot be read was written by another version: the host is in maintenance all the same.
			_ = json.Unmarshal([]byte(value), &m)
			api.Maintenance[name] = m
		default:
			if api.Applied == nil {
				api.Applied = map[string]string{}
			}
			api.Applied[key] = value
		}
	}
}

// JoinTokens finds the bootstrap tokens that Quorate made, by the names of their secrets.
func JoinTokens(ctx context.Context, client *kube.Client) ([]string, error) {
	return joinTokens(ctx, client, "")
}

func joinTokens(ctx context.Context, client *kube.Client, version string) ([]string, error) {
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{ResourceVersion: version, FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list.Items {
		if string(s.Data["description"]) == kubeadm.TokenDescription {
			names = append(names, s.Name)
		}
	}
	return names, nil
}

func readNodes(ctx context.Context, client *kube.Client, version string, api *facts.API) error {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		return err
	}
	for _, n := range list.Items {
		if n.Labels[facts.SimulatedLabel] != "" {
			api.Simulated++
			continue
		}
		out := facts.Node{Name: n.Name, Version: n.Status.NodeInfo.KubeletVersion, Runtime: n.Status.NodeInfo.ContainerRuntimeVersion, Labels: n.Labels,
			Unschedulable: n.Spec.Unschedulable, BootID: n.Status.NodeInfo.BootID, PodCIDR: n.Spec.PodCIDR, OverlayAddress: n.Annotations["flannel.alpha.coreos.com/public-ip"]}
		// The routes of IPv4 are looked at, also where it is the second family (see facts.Overlay).
		if i := slices.IndexFunc(n.Spec.PodCIDRs, func(cidr string) bool { return !strings.Contains(cidr, ":") }); i >= 0 {
			out.PodCIDR = n.Spec.PodCIDRs[i]
		} else if strings.Contains(out.PodCIDR, ":") {
			out.OverlayAddress = n.Annotations["flannel.alpha.coreos.com/public-ipv6"]
		}
		_, out.Cordoned = n.Annotations[facts.CordonedAnnotation]
		readiness(&out, n.Status.Conditions)
		for _, a := range n.Status.Addresses {
			switch {
			case a.Type != corev1.NodeInternalIP:
			case out.Address == "":
				out.Address = a.Address
			case out.SecondaryAddress == "" && strings.Contains(a.Address, ":") != strings.Contains(out.Address, ":"):
				out.SecondaryAddress = a.Address
			}
		}
		for _, t := range n.Spec.Taints {
			out.Taints = append(out.Taints, facts.Taint{Key: t.Key, Value: t.Value, Effect: string(t.Effect)})
		}
		api.Nodes = append(api.Nodes, out)
	}
	return nil
}

var pressures = []corev1.NodeConditionType{corev1.NodeDiskPressure, corev1.NodeMemoryPressure, corev1.NodePIDPressure}

// readiness takes the reason from the pod network if that gives one, because the kubelet only knows that there is no network.
func readiness(out *facts.Node, conditions []corev1.NodeCondition) {
	network := ""
	for _, c := range conditions {
		switch {
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue:
			out.Ready = true
		case c.Type == corev1.NodeReady:
			out.NotReady = c.Message
			out.NoNetwork = strings.Contains(c.Message, "NetworkPluginNotReady")
		case c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue:
			network = c.Message
		case slices.Contains(pressures, c.Type) && c.Status == corev1.ConditionTrue:
			out.Short = c.Message
		}
	}
	if out.NoNetwork {
		out.NotReady = cmp.Or(network, "its pod network is not ready yet")
	}
}

func readDNS(ctx context.Context, client *kube.Client, version string, api *facts.API) error {
	d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{ResourceVersion: version})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.Spec.Replicas != nil {
		api.DNSReplicas = int(*d.Spec.Replicas)
	}
	api.DNSReplacing = d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < d.Status.Replicas
	for _, c := range d.Spec.Template.Spec.Containers {
		api.DNSVersion = cmp.Or(api.DNSVersion, components.Tag(c.Image))
	}
	for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
		required := c.WhenUnsatisfiable == corev1.DoNotSchedule && c.MinDomains != nil
		api.DNSSpread = api.DNSSpread || required && c.TopologyKey == corev1.LabelHostname
		api.DNSInZones = api.DNSInZones || required && c.TopologyKey == corev1.LabelTopologyZone
	}
	pods, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{ResourceVersion: version, LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		return err
	}
	readReplicas(pods.Items, time.Now(), api)
	return nil
}

// restartsWithin is how long a replica of CoreDNS may take to restart. Until then, it counts in its zone: whenever one restarts, the other would be alone
// in its zone otherwise.
const restartsWithin = 2 * time.Minute

// readReplicas reads the pods of CoreDNS.
func readReplicas(pods []corev1.Pod, now time.Time, api *facts.API) {
	ready, on := map[string]bool{}, map[string]bool{}
	for _, p := range pods {
		ended := p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		if at := started(&p); !ended && !at.IsZero() && (api.DNSStarted.IsZero() || at.Before(api.DNSStarted)) {
			api.DNSStarted = at
		}
		switch reason := whyNotReady(&p); {
		case ended: // others take its place
		case reason == "":
			api.DNSReady++
			ready[p.Spec.NodeName], on[p.Spec.NodeName] = true, true
		default:
			api.DNSNotReady = cmp.Or(api.DNSNotReady, reason)
			if p.Spec.NodeName != "" && now.Sub(notReadySince(&p)) < restartsWithin {
				on[p.Spec.NodeName] = true
			}
		}
	}
	api.DNSNodes, api.DNSOn = len(ready), slices.Sorted(maps.Keys(on))
}

// notReadySince is since when a pod is not ready. Nobody has said so yet of one that was just created.
func notReadySince(p *corev1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Time
		}
	}
	return p.CreationTimestamp.Time
}

// started is when the first container of a pod was started that runs, and not before the pod was created, whatever the clock of its node says; zero
// if none runs.
func started(p *corev1.Pod) (at time.Time) {
	for _, c := range p.Status.ContainerStatuses {
		if r := c.State.Running; r != nil && (at.IsZero() || r.StartedAt.Time.Before(at)) {
			at = r.StartedAt.Time
		}
	}
	if created := p.CreationTimestamp.Time; !at.IsZero() && created.After(at) {
		return created
	}
	return at
}

// whyNotReady is empty for a pod that is ready.
func whyNotReady(p *corev1.Pod) string {
	name := p.Name
	if p.Spec.NodeName != "" {
		name += " on " + p.Spec.NodeName
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			return strings.TrimSuffix(name+": "+w.Reason+": "+w.Message, ": ")
		}
		if !c.Ready && c.RestartCount > 0 {
			return fmt.Sprintf("%s: container %s was restarted %d times and is not ready", name, c.Name, c.RestartCount)
		}
	}
	reason := name + ": its state is unknown"
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return ""
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			return fmt.Sprintf("%s: %s: %s", name, c.Reason, c.Message)
		case c.Type == corev1.PodReady:
			reason = fmt.Sprintf("%s: %s", name, cmp.Or(c.Message, "it does not answer yet"))
		}
	}
	return reason
}
