package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

const (
	// certificateTimeout is longer than the minute after which an API server reads its certificate again if it was not told that
	// the file changed.
	certificateTimeout = 100 * time.Second
	// newEndpointTimeout is how long a new endpoint may take to answer from every host.
	newEndpointTimeout = time.Minute
)

// checkAddress refuses a virtual IP that a machine outside of the load balancers has.
func checkAddress(ctx context.Context, e *Env, s plan.Step) error {
	address := s.Endpoint.To.Address
	var own []string // hardware addresses of load balancers, which have the address when an earlier run was interrupted
	for _, h := range e.Cluster.BalancerHosts() {
		if f := e.Seen.Hosts[h.Name].Facts; f != nil {
			for _, a := range f.Addresses {
				own = append(own, a.MAC)
			}
		}
	}
	for _, h := range e.Cluster.BalancerHosts() {
		conn, err := e.Conns.Get(h.Name)
		if err != nil {
			return err
		}
		seen, err := balancer.WhoHas.On(ctx, conn, balancer.WhoHasRequest{Address: address, From: h.VIPAddresses()})
		if err != nil {
			return fmt.Errorf("asking from %s who has the address %s: %w", h.Name, address, err)
		}
		for _, mac := range seen.Answers {
			if !slices.Contains(own, mac) {
				return &cluster.Refusal{Rule: plan.RuleEndpoint, Subjects: []string{h.Name}, Why: fmt.Sprintf("the address %s is in use: the machine with the hardware address %s answers for it in the network of %s", address, mac, h.Name),
					Fix: "Choose a free address (loadBalancer.address), or take this one away from that machine. Nothing was changed."}
			}
		}
	}
	return nil
}

// tryEndpoint waits until the API answers at a new endpoint, from every host.
func tryEndpoint(ctx context.Context, e *Env, s plan.Step) error {
	ca, err := e.ca()
	if err != nil {
		return err
	}
	var from []string
	for _, h := range e.Cluster.Spec.Hosts {
		from = append(from, h.Name)
	}
	ctx, cancel := withDeadline(ctx, newEndpointTimeout, "reaching the API at "+s.Endpoint.To.String())
	defer cancel()
	err = retry(ctx, time.Second, func(ctx context.Context) error {
		asked := observe.Endpoint(ctx, e.Cluster, e.Conns, from, ca)
		for _, name := range slices.Sorted(maps.Keys(asked)) {
			if a := asked[name]; !a.OK {
				return fmt.Errorf("asked from %s: %s", name, a.Problem+a.Unknown)
			}
		}
		return nil
	})
	switch {
	case err == nil:
		return nil
	case e.Cluster.Spec.LoadBalancer.Type == spec.BalancerExternal:
		return fmt.Errorf("%w. Let your load balancer serve %s in addition to the old endpoint, in front of port 6443 of all control planes, and run `quorate apply` again. No client has moved yet", err, s.Endpoint.To)
	}
	return fmt.Errorf("%w. Firewalls must let the hosts reach port %s of the load balancers, and nothing else may listen there (`ss -ltnp`). No client has moved yet: everything serves as before", err, s.Endpoint.To.Port)
}

func rememberEndpoints(ctx context.Context, e *Env, s plan.Step) error {
	return e.record(ctx, observe.EndpointsKey, s.Record)
}

// widenCertificate waits until the API server presents its new certificate.
func widenCertificate(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	ca, err := e.ca()
	if err != nil {
		return err
	}
	if _, err := kubeadm.WidenCertificate.On(ctx, c, s.Endpoint.Names); err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, certificateTimeout, "waiting until the API server uses its new certificate")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		for _, name := range s.Endpoint.Names {
			if a := observe.APIServer(ctx, c, h, name, ca); !a.OK {
				return errors.New(a.Problem + a.Unknown)
			}
		}
		return nil
	})
}

// storeEndpoint changes kubeadm's configuration and, with an endpoint, what the cluster tells those who discover it.
func storeEndpoint(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	endpoint := ""
	if s.Endpoint.To.Name != "" {
		endpoint = s.Endpoint.To.HostPort()
	}
	if err := changeStored(ctx, client, "kubeadm-config", "ClusterConfiguration", func(text string) (string, error) {
		return kubeadmconfig.WithEndpoint(text, endpoint, s.Endpoint.Names, s.Endpoint.FormerNames)
	}); err != nil || endpoint == "" {
		return err
	}
	return e.moveStored(ctx, "cluster-info", s)
}

// moveStored has the kubeconfig in a ConfigMap name the new endpoint. A cluster without the ConfigMap needs nothing.
func (e *Env) moveStored(ctx context.Context, name string, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	for _, m := range observe.StoredKubeconfigs {
		if _, there := e.Seen.API.Servers[name]; m.Name == name && there {
			return changeStoredIn(ctx, client, m.Namespace, m.Name, m.Key, func(text string) (string, error) {
				move := movement(s)
				return kubeadmconfig.WithServer(text, move.From, move.To), nil
			})
		}
	}
	return nil
}

func movement(s plan.Step) kubeadm.MoveRequest {
	move := kubeadm.MoveRequest{To: s.Endpoint.To.Server()}
	for _, from := range s.Endpoint.From {
		move.From = append(move.From, from.Server())
	}
	return move
}

// moveClients has the programs of a host use the new endpoint. Names resolve first. The note that the kubelet has to restart comes
// before that, so that the step is repeated if it is interrupted.
func moveClients(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	if s.Change != nil {
		if _, err := kubeadm.KubeletIsDue.On(ctx, c, struct{}{}); err != nil {
			return err
		}
	}
	if _, err := files.Configure.On(ctx, c, *s.Desired); err != nil {
		return err
	}
	if _, err := kubeadm.MoveKubeconfigs.On(ctx, c, movement(s)); err != nil || s.Change == nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.MoveKubelet.Make(ctx, c, permit, movement(s)); err != nil {
		return err
	}
	return e.nodeIsReady(ctx, s.Host)
}

// moveAgents has kube-proxy and the pod network use the new endpoint, and waits until their pods were replaced.
func moveAgents(ctx context.Context, e *Env, s plan.Step) error {
	if _, err := e.permittedAPI(ctx, s); err != nil {
		return err
	}
	if err := e.moveStored(ctx, facts.KubeProxy, s); err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{facts.EndpointAnnotation: s.Endpoint.To.String()}}}}})
	if err != nil {
		return err
	}
	return e.replacePods(ctx, s.Pods, patch)
}

// replacePods changes the template of DaemonSets (namespace/name), and waits until their pods were replaced.
func (e *Env) replacePods(ctx context.Context, pods []string, patch []byte) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		namespace, name, _ := strings.Cut(pod, "/")
		if err := e.onAPI(ctx, "restarting "+pod, func(ctx context.Context) error {
			_, err := client.AppsV1().DaemonSets(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
			return err
		}); err != nil {
			return err
		}
	}
	ctx, cancel := withDeadline(ctx, rolloutTimeout, "restarting "+strings.Join(pods, " and "))
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		for _, pod := range pods {
			namespace, name, _ := strings.Cut(pod, "/")
			set, err := client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !setRolledOut(set) {
				return fmt.Errorf("the pods of %s were replaced on %d of %d nodes", pod, set.Status.UpdatedNumberScheduled-set.Status.NumberUnavailable, set.Status.DesiredNumberScheduled)
			}
		}
		return nil
	})
}
