package run

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/audit"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/inspect"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// evidenceTimeout is for one host, or one kubelet.
const evidenceTimeout = 10 * time.Second

// Evidence reads from hosts and kubelets what the audit evaluates; it changes nothing.
func (e *Engine) Evidence(ctx context.Context) audit.Cluster {
	out := audit.Cluster{Unreachable: map[string]string{}}
	client, apiErr := e.client(ctx)
	var mu sync.Mutex
	var wg sync.WaitGroup
	found := map[string]audit.Host{}
	for _, h := range e.Cluster.Spec.Hosts {
		if !h.IsNode() && !h.Has(spec.RoleEtcd) {
			continue
		}
		wg.Go(func() {
			seen, err := e.evidence(ctx, h, client)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Unreachable[h.Name] = err.Error()
				return
			}
			found[h.Name] = seen
		})
	}
	if client != nil {
		out.KubeProxy = kubeProxy(ctx, client)
		out.Access, apiErr = access(ctx, client)
	}
	if apiErr != nil {
		out.Unreachable["the API"], out.AccessError = apiErr.Error(), apiErr.Error()
	}
	if e.Cluster.ExistingEtcd() {
		out.ExistingEtcd = e.Cluster.Spec.Etcd.Endpoints
	}
	wg.Wait()
	for _, h := range e.Cluster.Spec.Hosts {
		if seen, ok := found[h.Name]; ok {
			out.Hosts = append(out.Hosts, seen)
		}
	}
	return out
}

func (e *Engine) evidence(ctx context.Context, h spec.Host, client *kube.Client) (audit.Host, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceTimeout, fmt.Errorf("no answer within %s", evidenceTimeout))
	defer cancel()
	out := audit.Host{Name: h.Name, ControlPlane: h.Has(spec.RoleControlPlane), Node: h.IsNode(),
		Etcd: slices.ContainsFunc(e.Cluster.EtcdHosts(), func(m spec.Host) bool { return m.Name == h.Name })}
	conn, err := e.Conns.Get(h.Name)
	if err != nil {
		return out, err
	}
	if out.Security, err = inspect.ReadSecurity.On(ctx, conn, struct{}{}); err != nil {
		return out, err
	}
	if client != nil && h.IsNode() {
		// Through the API server, which verifies the kubelet's certificate on the way.
		raw, err := client.CoreV1().RESTClient().Get().Resource("nodes").Name(h.Name).SubResource("proxy").Suffix("configz").DoRaw(ctx)
		var answer struct {
			Kubeletconfig map[string]any `json:"kubeletconfig"`
		}
		if err == nil && json.Unmarshal(raw, &answer) == nil {
			out.Kubelet = answer.Kubeletconfig
		}
	}
	return out, nil
}

// client is one of the API. It leaves out API servers that serve what a recovery of the quorum has replaced, as far as the last observation
// tells.
func (e *Engine) client(ctx context.Context) (*kube.Client, error) {
	e.mu.Lock()
	abandoned := e.abandoned
	e.mu.Unlock()
	var servers []kube.Server
	var away []error
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		if e.Cluster.StackedEtcd() && slices.ContainsFunc(abandoned, func(m facts.EtcdMember) bool { return m.Name == h.Name }) {
			continue
		}
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			away = append(away, err)
			continue
		}
		servers = append(servers, kube.Server{Conn: c, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)})
	}
	return kube.Connect(ctx, servers, away...)
}

func kubeProxy(ctx context.Context, client *kube.Client) map[string]any {
	m, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err != nil {
		return nil
	}
	var config map[string]any
	if yaml.Unmarshal([]byte(m.Data["config.conf"]), &config) != nil {
		return nil
	}
	return config
}
