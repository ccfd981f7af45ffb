//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

const (
	namespace = "e2e"
	webPort   = 8080
)

// workloadsIn creates a namespace for the time of the test, and returns the image of the programs that run in it.
func workloadsIn(t *testing.T, ctx context.Context, api kubernetes.Interface, namespace string) (image string) {
	t.Helper()
	b, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		t.Fatal(err)
	}
	agnhost, ok := b.Image("agnhost")
	if !ok {
		t.Fatal("the bundle has no agnhost")
	}
	if _, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := api.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return agnhost.Name
}

// workloads runs a service on both workers and a client on every node, and checks that every client reaches every address of
// the service, and every other client.
func workloads(t *testing.T, c *cluster) {
	ctx := testContext(t)
	_, api := c.client(t, ctx)
	image := workloadsIn(t, ctx, api, namespace)
	service := deployWeb(t, ctx, api, image)
	deployClients(t, ctx, api, image)

	web := pods(t, ctx, api, "web", 2)
	clients := pods(t, ctx, api, "client", 5)
	if web[0].Spec.NodeName == web[1].Spec.NodeName {
		t.Errorf("both replicas run on %s", web[0].Spec.NodeName)
	}
	both := []string{web[0].Name, web[1].Name}
	slices.Sort(both)

	for _, from := range clients {
		for name, host := range map[string]string{
			"cluster IP": service.Spec.ClusterIP,
			"short name": "web",
			"full name":  "web." + namespace + ".svc.cluster.local",
		} {
			eventually(t, ctx, fmt.Sprintf("from %s to the service by its %s", from.Spec.NodeName, name), func() error {
				got, err := dial(ctx, api, from, host, 80, 10)
				if err == nil && !slices.Equal(got, both) {
					err = fmt.Errorf("%v answer, want %v", got, both)
				}
				return err
			})
		}
		for _, to := range append(slices.Clone(web), clients...) {
			eventually(t, ctx, fmt.Sprintf("from a pod on %s to one on %s", from.Spec.NodeName, to.Spec.NodeName), func() error {
				got, err := dial(ctx, api, from, to.Status.PodIP, webPort, 1)
				if err == nil && !slices.Equal(got, []string{to.Name}) {
					err = fmt.Errorf("%v answers, want %s", got, to.Name)
				}
				return err
			})
		}
		nodePort(t, ctx, from.Status.HostIP, service.Spec.Ports[0].NodePort, both)
	}

	policies(t, ctx, c, api, web, clients)
	flushed(t, ctx, c, api, web[0], clients)

	// kubectl logs and exec use a connection from the API server to the kubelet that stays open.
	cp := c.whole(t, ctx).Etcd.Members[0].Name
	if got := c.ssh(t, ctx, cp, fmt.Sprintf("kubectl -n %s exec %s -- agnhost connect web:80 && echo reached", namespace, clients[0].Name)); !strings.HasSuffix(got, "reached") {
		t.Errorf("kubectl exec: %q", got)
	}
	if got := c.ssh(t, ctx, cp, fmt.Sprintf("kubectl -n %s logs %s", namespace, web[0].Name)); got == "" {
		t.Error("kubectl logs finds nothing")
	}
}

func deployWeb(t *testing.T, ctx context.Context, api kubernetes.Interface, image string) *corev1.Service {
	t.Helper()
	return deployWebIn(t, ctx, api, namespace, func(*corev1.PodTemplateSpec) {}, image)
}

func deployWebIn(t *testing.T, ctx context.Context, api kubernetes.Interface, namespace string, edit func(*corev1.PodTemplateSpec), image string) *corev1.Service {
	t.Helper()
	labels := map[string]string{"app": "web"}
	template := netexec(labels, image)
	edit(&template)
	template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
	}}
	_, err := api.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service, err := api.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(webPort)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// deployClients runs a client on every node, including control planes.
func deployClients(t *testing.T, ctx context.Context, api kubernetes.Interface, image string) {
	t.Helper()
	labels := map[string]string{"app": "client"}
	template := netexec(labels, image)
	template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	_, err := api.AppsV1().DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "client"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// blockedForNow has a disruption budget hold the two pods of web in a namespace: a third pod of theirs, on a node, is not ready. So the budget may allow an eviction
// later, and a drain waits for that. What it returns ends this.
func blockedForNow(t *testing.T, ctx context.Context, api kubernetes.Interface, namespace, node string) (end func()) {
	t.Helper()
	labels := map[string]string{"app": "web"}
	slow := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "slow", Labels: labels}, Spec: netexec(labels, podsIn(t, ctx, api, namespace, "web", 2)[0].Spec.Containers[0].Image).Spec}
	slow.Spec.NodeName = node
	slow.Spec.Containers[0].ReadinessProbe.HTTPGet.Port = intstr.FromInt32(1)
	budgets := api.PolicyV1().PodDisruptionBudgets(namespace)
	if _, err := api.CoreV1().Pods(namespace).Create(ctx, slow, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "for-now"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: new(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the budget is judged", func() error {
		b, err := budgets.Get(ctx, "for-now", metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration == 0 || b.Status.ExpectedPods != 3 || b.Status.CurrentHealthy != 2 || b.Status.DisruptionsAllowed != 0) {
			err = fmt.Errorf("%+v", b.Status)
		}
		return err
	})
	return func() {
		t.Helper()
		if err := errors.Join(budgets.Delete(ctx, "for-now", metav1.DeleteOptions{}), api.CoreV1().Pods(namespace).Delete(ctx, "slow", metav1.DeleteOptions{})); err != nil {
			t.Fatal(err)
		}
	}
}

// endsInTime runs a command with --timeout that drains a node while blockedForNow holds a pod there. It ends in time, evicts nothing, names what
// blocks, and leaves the node cordoned, so that the same command can go on.
func (c *cluster) endsInTime(t *testing.T, ctx context.Context, api kubernetes.Interface, namespace, node string, args ...string) {
	t.Helper()
	names := func() (out []string) {
		for _, p := range podsIn(t, ctx, api, namespace, "web", 2) {
			out = append(out, p.Name)
		}
		slices.Sort(out)
		return out
	}
	before := names()
	r := c.run(ctx, append(args, "--timeout", "1m")...)
	if r.code != 1 || r.took < 50*time.Second || r.took > 2*time.Minute {
		t.Errorf("it ended after %s: %s", r.took, r)
	}
	for _, word := range []string{"draining node " + node, "--timeout 1m0s", namespace + "/for-now", "2 of 3 pods are healthy", "Bring these pods back first: " + namespace + "/slow", "Then run it again"} {
		if !strings.Contains(r.stderr, word) {
			t.Errorf("it does not say %q: %s", word, r)
		}
	}
	if after := names(); !slices.Equal(after, before) {
		t.Errorf("pods were evicted past the budget: %v before, %v after", before, after)
	}
	if n, err := api.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err != nil || !n.Spec.Unschedulable || n.Annotations[facts.CordonedAnnotation] == "" {
		t.Errorf("node %s is not cordoned with Quorate's mark: %v", node, err)
	}
}

func netexec(labels map[string]string, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{{
				Name: "netexec", Image: image, Args: []string{"netexec", fmt.Sprintf("--http-port=%d", webPort)},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/hostname", Port: intstr.FromInt32(webPort)}}},
			}},
		},
	}
}

// pods waits for the ready pods of an app.
func pods(t *testing.T, ctx context.Context, api kubernetes.Interface, app string, n int) []corev1.Pod {
	t.Helper()
	return podsIn(t, ctx, api, namespace, app, n)
}

func podsIn(t *testing.T, ctx context.Context, api kubernetes.Interface, namespace, app string, n int) []corev1.Pod {
	t.Helper()
	var ready []corev1.Pod
	eventually(t, ctx, fmt.Sprintf("%d ready pods of %s", n, app), func() error {
		list, err := api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err
		}
		ready = nil
		var state []string
		for _, p := range list.Items {
			state = append(state, p.Name+" "+string(p.Status.Phase))
			if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }) {
				ready = append(ready, p)
			}
		}
		if len(ready) != n {
			return errors.New(strings.Join(state, ", "))
		}
		return nil
	})
	return ready
}

// dial makes a pod request the host name from an address, tries times, and returns the answers, sorted.
func dial(ctx context.Context, api kubernetes.Interface, from corev1.Pod, host string, port, tries int) ([]string, error) {
	answers, err := askFrom(ctx, api, from, "hostname", host, port, tries)
	slices.Sort(answers)
	return slices.Compact(answers), err
}

// askFrom makes a pod request something from an address, tries times. The request to the pod itself goes through the API server.
func askFrom(ctx context.Context, api kubernetes.Interface, from corev1.Pod, request, host string, port, tries int) ([]string, error) {
	raw, err := api.CoreV1().RESTClient().Get().Namespace(from.Namespace).Resource("pods").Name(fmt.Sprintf("%s:%d", from.Name, webPort)).
		SubResource("proxy").Suffix("dial").Param("request", request).Param("protocol", "http").
		Param("host", host).Param("port", fmt.Sprint(port)).Param("tries", fmt.Sprint(tries)).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, raw)
	}
	var answer struct {
		Responses, Errors []string
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, err
	}
	if len(answer.Errors) > 0 {
		return nil, errors.New(strings.Join(answer.Errors, "; "))
	}
	return answer.Responses, nil
}

// nodePort sends requests to a node from outside the cluster until both replicas have answered.
func nodePort(t *testing.T, ctx context.Context, node string, port int32, want []string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var seen []string
	eventually(t, ctx, "the NodePort on "+node, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/hostname", node, port), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		seen = append(seen, string(body))
		slices.Sort(seen)
		if seen = slices.Compact(seen); !slices.Equal(seen, want) {
			return fmt.Errorf("%v answered so far, want %v", seen, want)
		}
		return nil
	})
}
