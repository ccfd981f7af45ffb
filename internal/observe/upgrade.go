package observe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/spec"
)

// upgradeTimeout is for everything that Upgrade reads.
const upgradeTimeout = 20 * time.Second

// Upgrade reads what has to be known before the version of a cluster changes.
func Upgrade(ctx context.Context, s *cluster.State, conns *host.Set) *facts.Upgrade {
	ctx, cancel := context.WithTimeoutCause(ctx, upgradeTimeout, fmt.Errorf("no answer within %s", upgradeTimeout))
	defer cancel()
	var (
		out  facts.Upgrade
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs []error
		all  []kube.Server
	)
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		c, err := conns.Get(h.Name)
		if err != nil || !s.APIServer(h.Name).OK {
			continue // one that does not serve has not been used either
		}
		server := kube.Server{Conn: c, Address: h.Address + ":6443"}
		all = append(all, server)
		wg.Go(func() {
			used, err := deprecatedOf(ctx, server)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", h.Name, err))
			}
			for _, d := range used {
				if !slices.Contains(out.Deprecated, d) {
					out.Deprecated = append(out.Deprecated, d)
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		out.DeprecatedError = err.Error()
	}
	slices.SortFunc(out.Deprecated, func(a, b facts.DeprecatedAPI) int { return strings.Compare(a.Resource+a.Version, b.Resource+b.Version) })
	if err := webhooksAndBudgets(ctx, all, &out); err != nil {
		out.Error = err.Error()
	}
	return &out
}

func deprecatedOf(ctx context.Context, server kube.Server) ([]facts.DeprecatedAPI, error) {
	client, err := kube.Connect(ctx, []kube.Server{server})
	if err != nil {
		return nil, err
	}
	raw, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	return deprecated(raw), nil
}

// deprecated reads the metric by which an API server says which deprecated APIs it was asked for.
func deprecated(metrics []byte) (out []facts.DeprecatedAPI) {
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := bytes.CutPrefix(lines.Bytes(), []byte("apiserver_requested_deprecated_apis{"))
		if !ok {
			continue
		}
		labels, value, _ := bytes.Cut(rest, []byte("}"))
		if string(bytes.TrimSpace(value)) != "1" {
			continue
		}
		d := facts.DeprecatedAPI{Group: label(labels, "group"), Version: label(labels, "version"), Resource: label(labels, "resource"), RemovedIn: label(labels, "removed_release")}
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// label finds the value of a label of a metric. The values of this metric contain no quotes.
func label(labels []byte, name string) string {
	for _, part := range bytes.Split(labels, []byte(",")) {
		if value, ok := bytes.CutPrefix(part, []byte(name+`="`)); ok {
			return string(bytes.TrimSuffix(value, []byte(`"`)))
		}
	}
	return ""
}

func webhooksAndBudgets(ctx context.Context, servers []kube.Server, out *facts.Upgrade) error {
	client, err := kube.Connect(ctx, servers)
	if err != nil {
		return err
	}
	budgets, err := client.PolicyV1().PodDisruptionBudgets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, b := range budgets.Items {
		if b.Status.DisruptionsAllowed == 0 && b.Status.ExpectedPods > 0 {
			out.Budgets = append(out.Budgets, b.Namespace+"/"+b.Name)
		}
	}
	validating, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	mutating, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	note := func(configuration, name string, policy *admissionv1.FailurePolicyType, service *admissionv1.ServiceReference) error {
		if service == nil || policy != nil && *policy != admissionv1.Fail { // Fail is the default
			return nil
		}
		slices, err := client.DiscoveryV1().EndpointSlices(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service.Name})
		if err != nil {
			return err
		}
		w := facts.Webhook{Configuration: configuration, Name: name, Service: service.Namespace + "/" + service.Name}
		for _, slice := range slices.Items {
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					w.Ready++
				}
			}
		}
		out.Webhooks = append(out.Webhooks, w)
		return nil
	}
	for _, c := range validating.Items {
		for _, w := range c.Webhooks {
			if err := note(c.Name, w.Name, w.FailurePolicy, w.ClientConfig.Service); err != nil {
				return err
			}
		}
	}
	for _, c := range mutating.Items {
		for _, w := range c.Webhooks {
			if err := note(c.Name, w.Name, w.FailurePolicy, w.ClientConfig.Service); err != nil {
				return err
			}
		}
	}
	return nil
}
