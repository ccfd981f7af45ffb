package observe

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/facts"
)

const (
	// workloadsTimeout is for everything that Workloads reads: thousands of pods through one SSH session.
	workloadsTimeout = 30 * time.Second
	// objectsPerPage bounds the answers of one request.
	objectsPerPage = 500
	// reportedImages is how many images a kubelet reports at most unless it is configured otherwise.
	reportedImages = 50
)

// Workloads reads the pods of a cluster and what they depend on. What could not be read is unknown, and the rest is there.
func Workloads(ctx context.Context, client kubernetes.Interface) *facts.Workloads {
	ctx, cancel := context.WithTimeoutCause(ctx, workloadsTimeout, fmt.Errorf("no answer within %s", workloadsTimeout))
	defer cancel()
	out := &facts.Workloads{Unknown: map[string]string{}}
	var (
		pods    []corev1.Pod
		budgets []policyv1.PodDisruptionBudget
		mu      sync.Mutex
		wg      sync.WaitGroup
	)
	read := func(part string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				out.Unknown[part] = err.Error()
			}
		})
	}
	read(facts.PodsPart, func() (err error) { pods, err = allPods(ctx, client); return err })
	read(facts.BudgetsPart, func() error {
		list, err := client.PolicyV1().PodDisruptionBudgets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err == nil {
			budgets = list.Items
		}
		return err
	})
	claims := map[string]string{}
	read(facts.VolumesPart, func() (err error) { out.Volumes, err = tiedVolumes(ctx, client, claims); return err })
	read(facts.WebhooksPart, func() (err error) { out.Webhooks, err = strictWebhooks(ctx, client); return err })
	read(facts.ImagesOfNodesPart, func() (err error) { out.Images, err = imagesOfNodes(ctx, client); return err })
	wg.Wait()

	byName(pods, func(p corev1.Pod) string { return p.Namespace + "/" + p.Name })
	byName(budgets, func(b policyv1.PodDisruptionBudget) string { return b.Namespace + "/" + b.Name })
	byName(out.Volumes, func(v facts.Volume) string { return v.Name })
	byName(out.Webhooks, func(w facts.Webhook) string { return w.Name + "/" + w.Configuration })
	tied := map[string]bool{}
	for _, v := range out.Volumes {
		tied[v.Name] = true
	}
	used := map[string]bool{}
	for i := range pods {
		if p, counts := podOf(&pods[i]); counts {
			for _, v := range pods[i].Spec.Volumes {
				if v.PersistentVolumeClaim == nil {
					continue
				}
				if name := claims[p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName]; tied[name] {
					p.Volumes, used[name] = append(p.Volumes, name), true
				}
			}
			out.Pods = append(out.Pods, p)
		}
	}
	out.Volumes = slices.DeleteFunc(out.Volumes, func(v facts.Volume) bool { return !used[v.Name] })
	out.Budgets = budgetsOf(budgets, pods)
	wanted := map[string]bool{}
	for _, p := range out.Pods {
		for _, image := range p.Images {
			wanted[image.Name] = true
		}
	}
	for node, images := range out.Images {
		out.Images[node] = slices.DeleteFunc(images, func(name string) bool { return !wanted[name] })
	}
	return out
}

func byName[T any](list []T, name func(T) string) {
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(name(a), name(b)) })
}

func allPods(ctx context.Context, client kubernetes.Interface) (out []corev1.Pod, err error) {
	for next := ""; ; {
		page, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: objectsPerPage, Continue: next})
		if err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if next = page.Continue; next == "" {
			return out, nil
		}
	}
}

// podOf leaves out pods that have ended or are about to, static pods, because the control plane is observed on its hosts, and pods that run
// nowhere, because they are for simulated nodes.
func podOf(p *corev1.Pod) (facts.Pod, bool) {
	_, static := p.Annotations[corev1.MirrorPodAnnotationKey]
	if static || p.Spec.NodeSelector[facts.SimulatedLabel] != "" || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return facts.Pod{}, false
	}
	out := facts.Pod{Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, Ready: whyNotReady(p) == "",
		DNS: p.Namespace == metav1.NamespaceSystem && p.Labels["k8s-app"] == "kube-dns"}
	if owner := metav1.GetControllerOf(p); owner != nil {
		out.Kind, out.Owner = owner.Kind, owner.Name
		if hash := p.Labels["pod-template-hash"]; owner.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(owner.Name, "-"+hash) {
			out.Kind, out.Owner = "Deployment", strings.TrimSuffix(owner.Name, "-"+hash)
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		image := facts.PodImage{Name: ImageName(c.Image), Always: c.ImagePullPolicy == corev1.PullAlways}
		if !slices.Contains(out.Images, image) {
			out.Images = append(out.Images, image)
		}
	}
	out.Evicted = evicted(p.Spec.Tolerations)
	return out, true
}

// evicted is how long a pod stays on a node that became unreachable. Without a toleration, it is evicted immediately.
func evicted(tolerations []corev1.Toleration) *int64 {
	for _, t := range tolerations {
		matches := t.Key == corev1.TaintNodeUnreachable || t.Key == "" && t.Operator == corev1.TolerationOpExists
		if matches && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return t.TolerationSeconds
		}
	}
	return new(int64(0))
}

// ImageName completes the name of an image as containerd does: nginx is docker.io/library/nginx:latest.
func ImageName(image string) string {
	first, _, path := strings.Cut(image, "/")
	switch {
	case path && (strings.ContainsAny(first, ".:") || first == "localhost"):
	case path:
		image = "docker.io/" + image
	default:
		image = "docker.io/library/" + image
	}
	if !strings.Contains(image, "@") && !strings.Contains(image[strings.LastIndex(image, "/"):], ":") {
		image += ":latest"
	}
	return image
}

// tiedVolumes reads the volumes that not every node can reach, and which volume each claim (namespace/name) is bound to.
func tiedVolumes(ctx context.Context, client kubernetes.Interface, claims map[string]string) (out []facts.Volume, err error) {
	list, err := client.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	volumes, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, c := range list.Items {
		claims[c.Namespace+"/"+c.Name] = c.Spec.VolumeName
	}
	for _, v := range volumes.Items {
		if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
			continue
		}
		if tied := tie(v.Name, v.Spec.NodeAffinity.Required.NodeSelectorTerms); len(tied.Zones)+len(tied.Nodes) > 0 {
			out = append(out, tied)
		}
	}
	return out, nil
}

// tie reads to which zones or nodes a volume is tied. The terms are alternatives: one that names neither allows other nodes.
func tie(name string, terms []corev1.NodeSelectorTerm) facts.Volume {
	out := facts.Volume{Name: name}
	for _, term := range terms {
		var zones, nodes []string
		for _, e := range term.MatchExpressions {
			switch {
			case e.Operator != corev1.NodeSelectorOpIn:
			case e.Key == corev1.LabelHostname:
				nodes = e.Values
			case e.Key == corev1.LabelTopologyZone || strings.HasSuffix(e.Key, "/zone"): // drivers have keys of their own
				zones = e.Values
			}
		}
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn {
				nodes = f.Values
			}
		}
		if len(zones)+len(nodes) == 0 {
			return facts.Volume{Name: name}
		}
		out.Nodes = append(out.Nodes, nodes...)
		if len(nodes) == 0 {
			out.Zones = append(out.Zones, zones...)
		}
	}
	if len(out.Nodes) > 0 && len(out.Zones) > 0 {
		return facts.Volume{Name: name} // a mixture of both is tied to nothing that one failure takes away
	}
	return out
}

func budgetsOf(budgets []policyv1.PodDisruptionBudget, pods []corev1.Pod) (out []facts.Budget) {
	byNamespace := map[string][]*corev1.Pod{}
	for i := range pods {
		byNamespace[pods[i].Namespace] = append(byNamespace[pods[i].Namespace], &pods[i])
	}
	for _, b := range budgets {
		x := facts.Budget{Namespace: b.Namespace, Name: b.Name, Expected: int(b.Status.ExpectedPods), Desired: int(b.Status.DesiredHealthy), Allowed: int(b.Status.DisruptionsAllowed)}
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			continue // the API accepts no selector that cannot be read
		}
		for _, p := range byNamespace[b.Namespace] {
			if _, counts := podOf(p); counts && selector.Matches(labels.Set(p.Labels)) {
				x.Pods = append(x.Pods, p.Name)
			}
		}
		out = append(out, x)
	}
	return out
}

func imagesOfNodes(ctx context.Context, client kubernetes.Interface) (map[string][]string, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, n := range list.Items {
		if len(n.Status.Images) >= reportedImages || n.Labels[facts.SimulatedLabel] != "" {
			continue
		}
		names := []string{}
		for _, image := range n.Status.Images {
			names = append(names, image.Names...)
		}
		out[n.Name] = names
	}
	return out, nil
}

// strictWebhooks reads the webhooks whose failure policy is Fail.
func strictWebhooks(ctx context.Context, client kubernetes.Interface) (out []facts.Webhook, err error) {
	validating, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	mutating, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	add := func(configuration, name string, policy *admissionv1.FailurePolicyType, rules []admissionv1.RuleWithOperations, at admissionv1.WebhookClientConfig, selective bool) {
		if policy != nil && *policy != admissionv1.Fail {
			return
		}
		w := facts.Webhook{Name: name, Configuration: configuration, Resources: judged(rules), Selective: selective}
		switch {
		case len(w.Resources) == 0:
			return
		case at.Service != nil:
			w.Service = at.Service.Namespace + "/" + at.Service.Name
		case at.URL != nil:
			w.URL = *at.URL
		}
		out = append(out, w)
	}
	for _, c := range validating.Items {
		for _, w := range c.Webhooks {
			add(c.Name, w.Name, w.FailurePolicy, w.Rules, w.ClientConfig, selects(w.NamespaceSelector, w.ObjectSelector, w.MatchConditions))
		}
	}
	for _, c := range mutating.Items {
		for _, w := range c.Webhooks {
			add(c.Name, w.Name, w.FailurePolicy, w.Rules, w.ClientConfig, selects(w.NamespaceSelector, w.ObjectSelector, w.MatchConditions))
		}
	}
	endpoints := map[string][]string{}
	problems := map[string]string{}
	for i, w := range out {
		if w.Service == "" {
			continue
		}
		if _, asked := endpoints[w.Service]; !asked {
			nodes, err := readyEndpoints(ctx, client, w.Service)
			if err != nil {
				problems[w.Service] = err.Error()
			}
			endpoints[w.Service] = nodes
		}
		out[i].Nodes, out[i].Ready, out[i].Unknown = endpoints[w.Service], len(endpoints[w.Service]), problems[w.Service]
	}
	return out, nil
}

func selects(namespaces, objects *metav1.LabelSelector, conditions []admissionv1.MatchCondition) bool {
	some := func(s *metav1.LabelSelector) bool {
		return s != nil && len(s.MatchLabels)+len(s.MatchExpressions) > 0
	}
	return some(namespaces) || some(objects) || len(conditions) > 0
}

// judged names the resources whose changes a webhook judges: * if it judges everything, and pods if it judges new pods.
func judged(rules []admissionv1.RuleWithOperations) []string {
	all := map[string]bool{}
	for _, r := range rules {
		does := func(o admissionv1.OperationType) bool {
			return slices.Contains(r.Operations, o) || slices.Contains(r.Operations, admissionv1.OperationAll)
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				everything := resource == "*" || resource == "*/*"
				switch {
				case everything && group == "*" && does(admissionv1.Create) && does(admissionv1.Update):
					all["*"] = true
				case everything && group == "*":
					all["every resource"] = true
				case everything && group != "":
					all["every resource of "+group] = true
				case !everything && group != "" && group != "*":
					all[resource+"."+group] = true
				case !everything && resource != "pods":
					all[resource] = true
				}
				switch {
				case group != "" && group != "*" || !everything && resource != "pods":
				case does(admissionv1.Create):
					all["pods"] = true
				case !everything:
					all["existing pods"] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// readyEndpoints are the nodes of the endpoints that are ready, one for each.
func readyEndpoints(ctx context.Context, client kubernetes.Interface, service string) (nodes []string, err error) {
	namespace, name, _ := strings.Cut(service, "/")
	list, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 || seen[e.Addresses[0]] {
				continue
			}
			seen[e.Addresses[0]] = true
			node := ""
			if e.NodeName != nil {
				node = *e.NodeName
			}
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes, nil
}
