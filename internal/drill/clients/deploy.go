package clients

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/spec"
)

const (
	// webApp is the workload, and clientsApp the pods with the clients of the nodes. Both name the objects as well.
	webApp     = "web"
	clientsApp = "clients"
	// replicas is how many pods the workload has: as many as a cluster needs to survive the loss of one node.
	replicas = 2
	// readyPath is what the kubelet asks a replica.
	readyPath = "/ready"

	appLabel = "app"
	// createdBy marks the namespace, so that one of the same name that somebody else created is left alone.
	createdBy = "app.kubernetes.io/managed-by"
	creator   = "quorate"
	// leavingLabel is on nodes that leave: the pod with their clients ends in time to log its last seconds.
	leavingLabel = "quorate.dev/clients-leave"
	controlPlane = "node-role.kubernetes.io/control-plane"
	// kubernetesTaints begins the taints with which Kubernetes says that something is wrong with a node.
	kubernetesTaints = "node.kubernetes.io/"
)

// The commands of the host side that pods run: RunInPod and RunWorkload.
const (
	ClientsCommand  = "drill-clients"
	WorkloadCommand = "drill-workload"
)

func selectorOf(app string) string { return appLabel + "=" + app }

// createNamespace creates the namespace and what all clients share.
func createNamespace(ctx context.Context, api kubernetes.Interface, name string) error {
	_, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		createdBy: creator,
		// Pods with files of their host.
		"pod-security.kubernetes.io/enforce": "privileged",
	}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return probe.Prepare(ctx, api, name)
}

// removeNamespace deletes the namespace with everything in it, and waits until it is gone.
func removeNamespace(ctx context.Context, api kubernetes.Interface, name string) error {
	ns, err := api.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for what earlier clients left: %w", err)
	}
	if ns.Labels[createdBy] != creator {
		return fmt.Errorf("the namespace %s exists, and Quorate has not created it: clients need one of this name; rename or delete it", name)
	}
	if err := probe.Remove(ctx, api, name); err != nil {
		return err
	}
	// Nobody needs what the pods would still log, or waits for what they would still serve.
	if err := api.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}, metav1.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("ending the pods in the namespace %s: %w", name, err)
	}
	return eventually(ctx, "the namespace "+name+" is gone", func(ctx context.Context) error {
		ns, err := api.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				return fmt.Errorf("it is being deleted: %s", c.Message)
			}
		}
		return errors.New("it is being deleted")
	})
}

// template is a pod whose program is this one, from its host: every host that was connected to has that for its own architecture. The image only has to
// exist on every node, because a pod needs one.
func (c *Clients) template(app, command, arch string) (corev1.PodTemplateSpec, error) {
	program, err := host.RemotePathFor(arch)
	if err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	dir := filepath.Dir(program)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{appLabel: app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(30)),
			// A host with SELinux lets no other container look at files of its own.
			SecurityContext: &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"}},
			Containers: []corev1.Container{{
				Name: app, Image: c.image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{program, "host", command},
				SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(0))},
				// Without a request, whatever else runs on a busy computer goes first, and that is what the clients would measure.
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}},
				VolumeMounts: []corev1.VolumeMount{{Name: "program", MountPath: dir, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{hostDirectory("program", dir)},
		},
	}, nil
}

func hostDirectory(name, path string) corev1.Volume {
	kind := corev1.HostPathDirectory
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

// deployWorkload creates replicas on different workers, a budget that keeps one of them, and a Service.
func (c *Clients) deployWorkload(ctx context.Context, nodes []corev1.Node) (*corev1.Service, error) {
	api, namespace := c.options.API, c.options.Namespace
	archs := architectures(nodes, c.options.Cluster.Spec.Hosts)
	arch := mostOf(nodes, c.options.Cluster.Spec.Hosts, archs, c.tolerated)
	template, err := c.template(webApp, WorkloadCommand, arch)
	if err != nil {
		return nil, err
	}
	labels := template.Labels
	template.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: readyPath, Port: intstr.FromInt32(webPort)}}}
	// Not DoNotSchedule: while a worker is drained or away, both replicas run on the other one.
	template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
		WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}}
	// Every host of the spec has the program.
	template.Spec.Affinity = without(nodes, c.options.Cluster.Spec.Hosts)
	if len(archs) > 1 { // one controller has one path of the program
		only(template.Spec.Affinity, arch)
		c.arch = arch
	}
	template.Spec.Tolerations = c.tolerated
	if _, err := api.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: webApp},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	one := intstr.FromInt32(1)
	if _, err := api.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: webApp},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}},
	}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	return api.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: webApp},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromInt32(webPort)}, {Name: "echo", Port: echoPort, TargetPort: intstr.FromInt32(echoPort)}}},
	}, metav1.CreateOptions{})
}

// deployClients runs the clients of every node in a pod there. Their account may use the objects of the probe, and nothing else.
func (c *Clients) deployClients(ctx context.Context, nodes []corev1.Node) error {
	api, namespace, meta := c.options.API, c.options.Namespace, metav1.ObjectMeta{Name: clientsApp}
	if _, err := api.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := api.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "watch", "create", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}, // whose addresses the others use
	}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := api.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: namespace}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	archs := architectures(nodes, c.nodes)
	for _, arch := range archs {
		if err := c.deployClientsOn(ctx, nodes, arch, len(archs) > 1); err != nil {
			return err
		}
	}
	return nil
}

// deployClientsOn runs them on the nodes of an architecture. Where there are several, each has a DaemonSet of its own, because the path of the program
// depends on it.
func (c *Clients) deployClientsOn(ctx context.Context, nodes []corev1.Node, arch string, several bool) error {
	meta := metav1.ObjectMeta{Name: clientsApp}
	template, err := c.template(clientsApp, ClientsCommand, arch)
	if err != nil {
		return err
	}
	template.Spec.ServiceAccountName = meta.Name
	// No pressure on a node evicts them, and no other pod takes their place: they are to see what happens then.
	template.Spec.PriorityClassName = "system-node-critical"
	template.Spec.Containers[0].VolumeMounts = append(template.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "logs", MountPath: facts.DrillDir})
	template.Spec.Volumes = append(template.Spec.Volumes, hostDirectory("logs", facts.DrillDir))
	// They stay on their nodes whatever happens. Kubernetes adds what lets pods of a DaemonSet stay on a node that is drained. None comes to a node
	// that is not Ready yet: what fails there then is nobody's failure.
	template.Spec.Tolerations = append(tolerations(nodes, c.nodes), corev1.Toleration{Key: controlPlane, Operator: corev1.TolerationOpExists},
		corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	template.Spec.Affinity = without(nodes, c.nodes)
	if several {
		meta.Name += "-" + arch
		template.Labels[corev1.LabelArchStable] = arch // whose pods are whose
		only(template.Spec.Affinity, arch)
	}
	_, err = c.options.API.AppsV1().DaemonSets(c.options.Namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta,
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}}, metav1.CreateOptions{})
	return err
}

// tolerations let pods run on nodes whatever these are for, but not although something is wrong with them.
func tolerations(nodes []corev1.Node, own []spec.Host) (out []corev1.Toleration) {
	for _, n := range nodes {
		if !isOne(n, own) {
			continue
		}
		for _, t := range n.Spec.Taints {
			if t.Effect != corev1.TaintEffectPreferNoSchedule && !strings.HasPrefix(t.Key, kubernetesTaints) && !tolerates(out, t) {
				out = append(out, corev1.Toleration{Key: t.Key, Operator: corev1.TolerationOpExists})
			}
		}
	}
	return out
}

func tolerates(all []corev1.Toleration, taint corev1.Taint) bool {
	return slices.ContainsFunc(all, func(t corev1.Toleration) bool { return t.Key == taint.Key })
}

func isOne(n corev1.Node, of []spec.Host) bool {
	return slices.ContainsFunc(of, func(h spec.Host) bool { return h.Name == n.Name })
}

// accepts says that a node accepts pods, apart from those that do not fit.
func accepts(n corev1.Node, tolerated []corev1.Toleration) bool {
	return !n.Spec.Unschedulable && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(tolerated, t)
	})
}

// forWorkload are the tolerations of the workload: none, unless no node accepts it without.
func forWorkload(nodes []corev1.Node, own []spec.Host) []corev1.Toleration {
	if slices.ContainsFunc(nodes, func(n corev1.Node) bool { return isOne(n, own) && accepts(n, nil) }) {
		return nil
	}
	return tolerations(nodes, own)
}

// without keeps pods away from nodes that are not wanted: those that the spec does not name have no program, and may not even be machines. It
// also keeps them away from nodes that leave. Nodes that join later are not known yet, and are wanted. Simulated nodes are not named one by one: there
// may be thousands, and each pod would carry all of the names.
func without(nodes []corev1.Node, wanted []spec.Host) *corev1.Affinity {
	term := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: leavingLabel, Operator: corev1.NodeSelectorOpDoesNotExist}}}
	if slices.ContainsFunc(nodes, isSimulated) {
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: facts.SimulatedLabel, Operator: corev1.NodeSelectorOpDoesNotExist})
	}
	for _, n := range nodes {
		if !isOne(n, wanted) && !isSimulated(n) {
			term.MatchFields = append(term.MatchFields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpNotIn, Values: []string{n.Name}})
		}
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}}
}

// only keeps pods on the nodes of an architecture.
func only(a *corev1.Affinity, arch string) {
	term := &a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
	term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{arch}})
}

// architectures are those of nodes, that of this machine first if it is among them. Nodes that do not say theirs have this machine's.
func architectures(nodes []corev1.Node, of []spec.Host) (out []string) {
	for _, n := range nodes {
		if arch := archOf(n); isOne(n, of) && !slices.Contains(out, arch) {
			out = append(out, arch)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if own := map[bool]int{true: 0, false: 1}; own[a == runtime.GOARCH] != own[b == runtime.GOARCH] {
			return own[a == runtime.GOARCH] - own[b == runtime.GOARCH]
		}
		return strings.Compare(a, b)
	})
	if len(out) == 0 {
		return []string{runtime.GOARCH}
	}
	return out
}

func archOf(n corev1.Node) string {
	return cmp.Or(n.Labels[corev1.LabelArchStable], n.Status.NodeInfo.Architecture, runtime.GOARCH)
}

// mostOf is the architecture of most nodes that accept the workload: its replicas need more than one of them.
func mostOf(nodes []corev1.Node, own []spec.Host, archs []string, tolerated []corev1.Toleration) string {
	count := map[string]int{}
	for _, n := range nodes {
		if isOne(n, own) && accepts(n, tolerated) {
			count[archOf(n)]++
		}
	}
	best := archs[0]
	for _, arch := range archs {
		if count[arch] > count[best] {
			best = arch
		}
	}
	return best
}

func isSimulated(n corev1.Node) bool { return n.Labels[facts.SimulatedLabel] != "" }

// imageOf is an image that every one of the nodes reports to have: the smallest one, and by its tag, because that is how the kubelet finds it
// without asking a registry.
func imageOf(nodes []corev1.Node, own []spec.Host) (string, error) {
	count, size := map[string]int{}, map[string]int64{}
	for _, n := range nodes {
		if !isOne(n, own) {
			continue
		}
		for _, image := range n.Status.Images {
			for _, name := range image.Names {
				count[name]++
				size[name] = image.SizeBytes
			}
		}
	}
	best := ""
	for name, n := range count {
		if n < len(own) || strings.Contains(name, "@") {
			continue
		}
		if best == "" || size[name] < size[best] || size[name] == size[best] && name < best {
			best = name
		}
	}
	if best == "" {
		return "", errors.New("there is no image that all nodes have, and the pods of the clients need one")
	}
	return best, nil
}

// ready waits until n pods of an app are ready.
func (c *Clients) ready(ctx context.Context, app string, n int) error {
	return eventually(ctx, fmt.Sprintf("%d ready pods of %s", n, app), func(ctx context.Context) error {
		list, err := c.options.API.CoreV1().Pods(c.options.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(app)})
		if err != nil {
			return err
		}
		ready, states := 0, ""
		for _, p := range list.Items {
			states += fmt.Sprintf(" %s on %s: %s;", p.Name, p.Spec.NodeName, p.Status.Phase)
			if p.DeletionTimestamp == nil && isReady(p) {
				ready++
			}
		}
		if ready != n {
			return fmt.Errorf("%d are:%s", ready, states)
		}
		return nil
	})
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// spread moves a replica of the workload if both are on one node although they need not be: after the fault of a worker, both are on the other
// one, and the next fault would end both. That would be the workload's own mistake.
func (c *Clients) spread(ctx context.Context) error {
	api, namespace := c.options.API, c.options.Namespace
	list, err := api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(webApp)})
	if err != nil {
		return err
	}
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	move := crowded(list.Items, slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool {
		return !isOne(n, c.options.Cluster.Spec.Hosts) || !accepts(n, c.tolerated) || !isReadyNode(n) || c.arch != "" && archOf(n) != c.arch
	}))
	if move == "" {
		return nil
	}
	// An eviction keeps the budget, and the replica says good-bye: clients do not notice it.
	if err := api.PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: move, Namespace: namespace}}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("spreading the workload again: %w", err)
	}
	if err := pause(ctx, leaving); err != nil { // until then, the former one serves
		return err
	}
	return c.ready(ctx, webApp, replicas)
}

// crowded is the younger one of the replicas if all of them are on one node, and there is another one of these nodes for it; none otherwise.
func crowded(pods []corev1.Pod, nodes []corev1.Node) string {
	var on []string
	var youngest *corev1.Pod
	for i, p := range pods {
		if p.DeletionTimestamp != nil || p.Spec.NodeName == "" {
			continue
		}
		if !isReady(p) {
			return "" // the budget does not allow it, and the next look is soon enough
		}
		on = append(on, p.Spec.NodeName)
		if youngest == nil || youngest.CreationTimestamp.Before(&p.CreationTimestamp) {
			youngest = &pods[i]
		}
	}
	if slices.Sort(on); len(on) < replicas || len(slices.Compact(on)) > 1 {
		return ""
	}
	if slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name != youngest.Spec.NodeName }) {
		return youngest.Name
	}
	return ""
}

func isReadyNode(n corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// patience is how long the workload and the clients may take to start, and pods and namespaces to end.
const patience = 5 * time.Minute

// eventually waits until f succeeds.
func eventually(ctx context.Context, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if perr := pause(ctx, time.Second); perr != nil {
			return fmt.Errorf("%s: %w; last: %w", what, perr, err)
		}
	}
}

// pause waits, unless ctx is done before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
