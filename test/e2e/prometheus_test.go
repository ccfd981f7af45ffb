//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/spec"
)

// TestPrometheus builds a cluster with Prometheus in it: both servers scrape everything, know both Alertmanagers, and answer only namespaces that may ask
// them. Then all of it is removed.
func TestPrometheus(t *testing.T) {
	if !*whole {
		t.Skip("its bundle takes minutes more to compile; this one runs with -whole")
	}
	c := newCluster(t, "e2e-prometheus")
	ctx := testContext(t)
	s := shapeOf(t, spec.InitOptions{Name: c.name})
	s.Spec.Monitoring = spec.Monitoring{Exporter: true, Prometheus: spec.Prometheus{Install: true, Storage: "1Gi"}}
	upWith(t, c, s)
	c.unchanged(t, ctx, "-f", c.specFile())

	_, api := c.client(t, ctx)
	servers := apartIn(t, c, "prometheus")
	apartIn(t, c, "alertmanager")
	const reader = "e2e-reader"
	deployWebIn(t, ctx, api, reader, func(*corev1.PodTemplateSpec) {}, workloadsIn(t, ctx, api, reader))
	from := podsIn(t, ctx, api, reader, "web", 2)[0]
	if answers, err := askFrom(ctx, api, from, "api/v1/targets", servers[0].Status.PodIP, 9090, 1); err == nil {
		t.Errorf("Prometheus answers pods of any namespace: %q", answers)
	}
	allow := fmt.Sprintf(`{"metadata":{"labels":{%q:"true"}}}`, "quorate.dev/reads-metrics")
	if _, err := api.CoreV1().Namespaces().Patch(ctx, reader, types.MergePatchType, []byte(allow), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, server := range servers {
		var seen struct {
			Data struct {
				ActiveTargets []struct{ ScrapeURL, Health, LastError string }
			}
		}
		eventually(t, ctx, server.Name+" scrapes everything", func() error {
			answers, err := askFrom(ctx, api, from, "api/v1/targets", server.Status.PodIP, 9090, 1)
			if err == nil {
				err = json.Unmarshal([]byte(answers[0]), &seen)
			}
			// Of 5 nodes the kubelet, cAdvisor, and the node exporter; of 3 control planes the API server and Quorate's exporter; both Alertmanagers,
			// kube-state-metrics, and Prometheus itself.
			if n := len(seen.Data.ActiveTargets); err == nil && n != 5*3+3*2+2+1+1 {
				err = fmt.Errorf("%d targets", n)
			}
			for _, x := range seen.Data.ActiveTargets {
				if x.Health != "up" {
					err = errors.Join(err, fmt.Errorf("%s is %s: %s", x.ScrapeURL, x.Health, x.LastError))
				}
			}
			return err
		})
		answers, err := askFrom(ctx, api, from, "api/v1/alertmanagers", server.Status.PodIP, 9090, 1)
		if err != nil || strings.Count(answers[0], "/api/v2/alerts") != 2 {
			t.Errorf("the Alertmanagers of %s: %q, %v", server.Name, answers, err)
		}
	}

	c.must(t, ctx, "apply", "-f", c.edited(t, func(s *spec.Cluster) { s.Spec.Monitoring.Prometheus = spec.Prometheus{} }))
	eventually(t, ctx, "all of it is removed", func() error {
		left, err := api.CoreV1().Pods(monitoring.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(left.Items))
		}
		return err
	})
}

// apartIn are the two pods of a program, which run in different zones.
func apartIn(t *testing.T, c *cluster, program string) []corev1.Pod {
	t.Helper()
	ctx := testContext(t)
	_, api := c.client(t, ctx)
	var d *appsv1.Deployment
	eventually(t, ctx, "both replicas of "+program+" are ready", func() (err error) {
		if d, err = api.AppsV1().Deployments(monitoring.Namespace).Get(ctx, program, metav1.GetOptions{}); err == nil && d.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%d are", d.Status.ReadyReplicas)
		}
		return err
	})
	list, err := api.CoreV1().Pods(monitoring.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil {
		t.Fatal(err)
	}
	zones := map[string]bool{}
	for _, p := range list.Items {
		n, err := api.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		zones[n.Labels[corev1.LabelTopologyZone]] = true
	}
	if len(list.Items) != 2 || len(zones) != 2 {
		t.Errorf("%s runs in the zones %v: %d pods", program, zones, len(list.Items))
	}
	return list.Items
}
