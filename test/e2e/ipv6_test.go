//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/test/e2e/parts"
)

// TestIPv6 builds a cluster without IPv4, and a dual-stack one. Pods reach each other and Services in each family, an unchanged spec
// changes nothing, and the virtual IP moves when its holder loses power.
func TestIPv6(t *testing.T) {
	parts.Of(t, func(run func(string, func(*testing.T)) bool) {
		for family, families := range map[string][]corev1.IPFamily{
			"ipv6": {corev1.IPv6Protocol},
			"dual": {corev1.IPv4Protocol, corev1.IPv6Protocol},
		} {
			run(family, func(t *testing.T) {
				c := newCluster(t, "e2e-"+family)
				ctx := testContext(t)
				c.must(t, ctx, "up", "--name", c.name, "--ip-family", family)
				s := c.whole(t, ctx)
				if vip := familyOf(t, s.Endpoint.VirtualIP); vip != families[0] {
					t.Errorf("the virtual IP %s is %s", s.Endpoint.VirtualIP, vip)
				}
				c.unchanged(t, ctx, "-f", c.specFile())
				// up finds the cluster again without being told its families.
				c.must(t, ctx, "up", "--name", c.name)

				_, api := c.client(t, ctx)
				nodesHave(t, ctx, api, families)
				connected(t, ctx, api, families)

				holder := s.Endpoint.Holder
				c.must(t, ctx, "lab", "--lab", c.name, "fault", "power-off", holder)
				eventually(t, ctx, "another load balancer takes the virtual IP", func() error {
					now, _, err := c.status(ctx)
					if err == nil && (now.Endpoint.Holder == "" || now.Endpoint.Holder == holder) {
						err = fmt.Errorf("the holder is %q", now.Endpoint.Holder)
					}
					return err
				})
				if _, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
					t.Errorf("the API is not reached at the virtual IP of the successor: %v", err)
				}
				c.must(t, ctx, "lab", "--lab", c.name, "heal")
				c.whole(t, ctx)
			})
		}
	})
}

func familyOf(t *testing.T, address string) corev1.IPFamily {
	t.Helper()
	a, err := netip.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// nodesHave expects an address and a range of pods of each family on each node, in this order.
func nodesHave(t *testing.T, ctx context.Context, api kubernetes.Interface, families []corev1.IPFamily) {
	t.Helper()
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		var addresses, ranges []corev1.IPFamily
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				addresses = append(addresses, familyOf(t, a.Address))
			}
		}
		for _, cidr := range n.Spec.PodCIDRs {
			address, _, _ := strings.Cut(cidr, "/")
			ranges = append(ranges, familyOf(t, address))
		}
		if !slices.Equal(addresses, families) || !slices.Equal(ranges, families) {
			t.Errorf("%s has the addresses %v and the ranges %v", n.Name, n.Status.Addresses, n.Spec.PodCIDRs)
		}
	}
}

// connected expects that the pods of all nodes reach those of all others, and a Service, in each family.
func connected(t *testing.T, ctx context.Context, api kubernetes.Interface, families []corev1.IPFamily) {
	t.Helper()
	image := workloadsIn(t, ctx, api, namespace)
	service := deployWeb(t, ctx, api, image)
	policy := corev1.IPFamilyPolicyPreferDualStack
	service.Spec.IPFamilyPolicy = &policy
	service, err := api.CoreV1().Services(namespace).Update(ctx, service, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(service.Spec.IPFamilies, families) {
		t.Errorf("the Service has %v", service.Spec.IPFamilies)
	}
	deployClients(t, ctx, api, image)
	web, clients := pods(t, ctx, api, "web", 2), pods(t, ctx, api, "client", 5)
	both := []string{web[0].Name, web[1].Name}
	slices.Sort(both)
	for _, from := range clients {
		for _, address := range append(slices.Clone(service.Spec.ClusterIPs), "web") {
			eventually(t, ctx, fmt.Sprintf("from %s to the Service at %s", from.Spec.NodeName, address), func() error {
				got, err := dial(ctx, api, from, address, 80, 10)
				if err == nil && !slices.Equal(got, both) {
					err = fmt.Errorf("%v answer, want %v", got, both)
				}
				return err
			})
		}
		for _, to := range append(slices.Clone(web), clients...) {
			if len(to.Status.PodIPs) != len(families) {
				t.Errorf("%s has %v", to.Name, to.Status.PodIPs)
			}
			for _, ip := range to.Status.PodIPs {
				eventually(t, ctx, fmt.Sprintf("from a pod on %s to %s on %s", from.Spec.NodeName, ip.IP, to.Spec.NodeName), func() error {
					got, err := dial(ctx, api, from, ip.IP, webPort, 1)
					if err == nil && !slices.Equal(got, []string{to.Name}) {
						err = fmt.Errorf("%v answers, want %s", got, to.Name)
					}
					return err
				})
			}
		}
	}
}
