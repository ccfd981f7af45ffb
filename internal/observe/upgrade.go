package observe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
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
		server := kube.Server{Conn: c, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)}
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
	webhooks, err := strictWebhooks(ctx, client)
	if err != nil {
		return err
	}
	for _, w := range webhooks {
		switch {
		case w.Service == "": // one outside of the cluster goes on whatever happens here
		case w.Unknown != "":
			return errors.New(w.Unknown)
		default:
			out.Webhooks = append(out.Webhooks, w)
		}
	}
	return nil
}
