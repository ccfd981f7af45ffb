package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

const (
	namespace = "quorate-bench"
	// timeout is that of OpenShift's disruption monitor, so that the seconds of disruption can be compared.
	timeout = 10 * time.Second
	// late is four fifths of the shutdown delay of Quorate's API servers: load balancers and Services have had that long.
	late = 4 * time.Second
	// aftermath is how long after a change its failures still count.
	aftermath = 10 * time.Second
	// patience is how long the workload and the clients may take to start, and for how long a command of kubectl is repeated that no API
	// server answers.
	patience = 5 * time.Minute
)

// bench is one cluster with its clients.
type bench struct {
	name    string
	cluster *spec.Cluster
	lab     *lab.Lab
	config  *rest.Config // through the endpoint
	api     kubernetes.Interface
	options probe.Options
	dir     string // for what clients log
	// announces says that its API servers announce at /readyz that they stop.
	announces bool

	service   *corev1.Service // of the workload
	expected  []*expected     // all clients of all processes
	processes map[string]*process
	steps     *os.File // what Quorate does, and when
	// unseen says what of the present change is not known.
	unseen []string
}

// expected is a client and the interval in which it must run. It ends with its node. The interval of one that came with a new node
// begins with its first log line.
type expected struct {
	probe.Client
	from, to time.Time
}

// process is a set of clients in this process, with a log of its own.
type process struct {
	set    *probe.Set
	enough context.CancelFunc
	logged chan error
}

func newBench(ctx context.Context, name string, announces bool, c *spec.Cluster, pace time.Duration) (*bench, error) {
	l, err := lab.Open(c.Metadata.Name)
	if err != nil {
		return nil, err
	}
	e := run.Open(ctx, c, progress.Discard)
	defer e.Close()
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := run.ForCaller(c, admin, true)
	if err != nil {
		return nil, err
	}
	through, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	through.QPS = -1
	api, err := kubernetes.NewForConfig(through)
	if err != nil {
		return nil, err
	}
	b := &bench{name: name, announces: announces, cluster: c, lab: l, config: through, api: api, processes: map[string]*process{}, dir: filepath.Join("artifacts", "bench-upgrade", name),
		options: probe.Options{Pace: pace, Timeout: timeout, Namespace: namespace}}
	if err := os.RemoveAll(b.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	b.steps, err = os.Create(filepath.Join(b.dir, "steps.json"))
	return b, err
}

// progress writes what Quorate does to a file next to what clients log: one JSON object per line.
func (b *bench) progress() progress.Sink {
	out := json.NewEncoder(b.steps)
	return progress.Func(func(e progress.Event) { _ = out.Encode(e) }) // for people; nothing is judged by it
}

func (b *bench) nodes() (out []spec.Host) {
	for _, h := range b.cluster.Spec.Hosts {
		if h.IsNode() {
			out = append(out, h)
		}
	}
	return out
}

// start starts the workload and all clients.
func (b *bench) start(ctx context.Context) error {
	if err := probe.Prepare(ctx, b.api, namespace); err != nil {
		return err
	}
	// Pods with files of their host.
	privileged := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`)
	if _, err := b.api.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, privileged, metav1.PatchOptions{}); err != nil {
		return err
	}
	var err error
	if b.service, err = b.deployWorkload(ctx); err != nil {
		return fmt.Errorf("starting the workload: %w", err)
	}
	for _, h := range b.nodes() {
		if err := b.equip(ctx, h); err != nil {
			return err
		}
		b.expect(b.podClients(h), time.Time{})
	}
	if err := b.ready(ctx, "web", 2); err != nil {
		return err
	}
	if err := b.deployClients(ctx); err != nil {
		return fmt.Errorf("starting the clients: %w", err)
	}
	if err := b.ready(ctx, "clients", len(b.nodes())); err != nil {
		return err
	}

	if err := b.run(ctx, "endpoint", endpointClients()); err != nil {
		return err
	}
	for _, h := range b.nodes() {
		if err := b.runFor(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) podClients(h spec.Host) []probe.Client {
	return podClients(h, b.service.Spec.ClusterIP)
}

func (b *bench) nodePort() int32 { return b.service.Spec.Ports[0].NodePort }

// expect expects clients to run from a moment on, or, if that is not known, from their first request.
func (b *bench) expect(clients []probe.Client, from time.Time) {
	for _, c := range clients {
		b.expected = append(b.expected, &expected{Client: c, from: from})
	}
}

// expectEnd expects clients to end at a moment.
func (b *bench) expectEnd(clients []probe.Client, at time.Time) {
	for _, h := range b.expected {
		if h.to.IsZero() && slices.Contains(clients, h.Client) {
			h.to = at
		}
	}
}

// run starts clients in this process. Each process has its own log.
func (b *bench) run(ctx context.Context, name string, clients []probe.Client) error {
	log, err := os.Create(filepath.Join(b.dir, "outside-"+name+".jsonl"))
	if err != nil {
		return err
	}
	set, err := probe.Run(ctx, b.config, clients, b.options)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	logging, enough := context.WithCancel(context.Background())
	p := &process{set: set, enough: enough, logged: make(chan error, 1)}
	go func() { p.logged <- errors.Join(set.Log(logging, log), log.Close()) }()
	b.processes[name] = p
	b.expect(clients, time.Now())
	return nil
}

const (
	nodePortOf = "nodeport-"
	readyzOf   = "readyz-"
)

// runFor starts the clients in this process that use one host. The one that learns when an API server stops is not on its host: it goes
// on until that server has stopped, also if the host leaves.
func (b *bench) runFor(ctx context.Context, h spec.Host) error {
	if err := b.run(ctx, nodePortOf+h.Name, nodePortClients(h, b.nodePort())); err != nil || !h.Has(spec.RoleControlPlane) {
		return err
	}
	return b.run(ctx, readyzOf+h.Name, readyClients(h))
}

// end ends clients of this process, by the names of their processes.
func (b *bench) end(names ...string) (err error) {
	for _, name := range names {
		if p := b.processes[name]; p != nil {
			p.enough()
		}
	}
	for _, name := range names {
		if p := b.processes[name]; p != nil {
			err = errors.Join(err, <-p.logged)
			p.set.Stop()
			delete(b.processes, name)
		}
	}
	return err
}

// stop ends the clients of this process. Those in pods end with their machines.
func (b *bench) stop() error {
	return errors.Join(b.end(slices.Collect(maps.Keys(b.processes))...), b.steps.Close())
}

// endpointClients use the endpoint.
func endpointClients() []probe.Client {
	endpoint := func(o probe.Operation, c probe.Connection) probe.Client {
		return probe.Client{Path: "endpoint", Connection: c, Operation: o}
	}
	return []probe.Client{
		endpoint(probe.Read, probe.New), endpoint(probe.Read, probe.Kept), endpoint(probe.Read, probe.HTTP2), endpoint(probe.CachedRead, probe.HTTP2),
		endpoint(probe.Write, probe.New), endpoint(probe.Write, probe.HTTP2), endpoint(probe.Beat, probe.New),
		endpoint(probe.Watch, probe.Kept), endpoint(probe.Watch, probe.HTTP2),
	}
}

// nodePortClients use the NodePort of a node, from outside.
func nodePortClients(h spec.Host, port int32) []probe.Client {
	return []probe.Client{{Path: "NodePort of " + h.Name, Connection: probe.New, Operation: probe.Get,
		Address: "http://" + net.JoinHostPort(h.Address, strconv.Itoa(int(port)))}}
}

// readyClients learn when the API server of a control plane stops.
func readyClients(h spec.Host) []probe.Client {
	return []probe.Client{{Path: ownServer + h.Name, Connection: probe.Kept, Operation: probe.Ready, Address: serverOf(h)}}
}

func serverOf(h spec.Host) string { return "https://" + net.JoinHostPort(h.Address, "6443") }

// ownServer begins the names of clients that use one API server and no other.
const ownServer = "API server of "

// podClients are the clients in the pod of a node.
func podClients(h spec.Host, service string) (out []probe.Client) {
	add := func(path string, o probe.Operation, c probe.Connection, address string) {
		out = append(out, probe.Client{Path: path + h.Name, Connection: c, Operation: o, Address: address})
	}
	const api = "Service kubernetes, pod on "
	add(api, probe.Read, probe.New, "")
	add(api, probe.Read, probe.HTTP2, "")
	add(api, probe.Watch, probe.HTTP2, "")
	if h.Has(spec.RoleControlPlane) {
		add(ownServer, probe.Read, probe.Kept, serverOf(h))
	} else {
		add(api, probe.Write, probe.HTTP2, "")
	}
	const web = "Service web, pod on "
	add(web, probe.Get, probe.New, "http://"+service)
	add(web, probe.Echo, probe.Kept, net.JoinHostPort(service, strconv.Itoa(echoPort)))
	add("DNS, pod on ", probe.Lookup, "", "kubernetes.default.svc.cluster.local.")
	return out
}

// equip puts on a host what its pods run. It need not be a node yet.
func (b *bench) equip(ctx context.Context, h spec.Host) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("bringing the clients to %s: %w", h.Name, err)
		}
	}()
	own, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open(own)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := b.on(ctx, h.Name, f, "mkdir -p "+logs+"; cat >"+program+".new; chmod 755 "+program+".new; mv "+program+".new "+program); err != nil {
		return err
	}
	text, err := json.Marshal(clients{b.options, b.podClients(h)})
	if err != nil {
		return err
	}
	_, err = b.on(ctx, h.Name, bytes.NewReader(text), "cat >"+clientsFile)
	return err
}

// pod is a pod whose program is this one, from its host. The image only has to exist on every node, with both versions.
func (b *bench) pod(app, command string) (corev1.PodTemplateSpec, error) {
	have, err := bundle.Open(bundle.DefaultDir(from))
	if err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	pause, ok := have.Image("pause")
	if !ok {
		return corev1.PodTemplateSpec{}, fmt.Errorf("the bundle of %s has no image pause", from)
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(30)),
			Containers: []corev1.Container{{
				Name: app, Image: pause.Name, Command: []string{program, command},
				SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(0))},
				// Without a request, whatever else runs on a busy computer goes first, and that is what the clients would measure.
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}},
				VolumeMounts: []corev1.VolumeMount{{Name: "bench", MountPath: dir}},
			}},
			Volumes: []corev1.Volume{{Name: "bench", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}},
		},
	}, nil
}

// deployWorkload creates two replicas on different workers, a budget that keeps one of them, and a Service.
func (b *bench) deployWorkload(ctx context.Context) (*corev1.Service, error) {
	template, err := b.pod("web", "workload")
	if err != nil {
		return nil, err
	}
	labels := template.Labels
	template.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(webPort)}}}
	// Not DoNotSchedule: while a worker is drained, both replicas run on the other one.
	template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
		WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}}
	if _, err := b.api.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	one := intstr.FromInt32(1)
	if _, err := b.api.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}},
	}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	return b.api.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromInt32(webPort)}, {Name: "echo", Port: echoPort, TargetPort: intstr.FromInt32(echoPort)}}},
	}, metav1.CreateOptions{})
}

// deployClients runs the clients of every node in a pod there. Their account may use the objects of the probe, and nothing else.
func (b *bench) deployClients(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: "clients"}
	if _, err := b.api.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := b.api.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "watch", "create", "patch"}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := b.api.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: namespace}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	template, err := b.pod("clients", "clients")
	if err != nil {
		return err
	}
	template.Spec.ServiceAccountName = meta.Name
	// Kubernetes adds what lets pods of a DaemonSet stay on a node that is drained. None comes to a node before it is Ready.
	template.Spec.Tolerations = []corev1.Toleration{{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists}}
	template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: leavingLabel, Operator: corev1.NodeSelectorOpDoesNotExist}}}}}}}
	_, err = b.api.AppsV1().DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta,
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}}, metav1.CreateOptions{})
	return err
}

// ready waits until n pods of an app are ready.
func (b *bench) ready(ctx context.Context, app string, n int) error {
	return b.eventually(ctx, fmt.Sprintf("%d ready pods of %s", n, app), func() error {
		list, err := b.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err
		}
		ready, states := 0, ""
		for _, p := range list.Items {
			states += fmt.Sprintf(" %s on %s: %s;", p.Name, p.Spec.NodeName, p.Status.Phase)
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if ready != n {
			return fmt.Errorf("%d are:%s", ready, states)
		}
		return nil
	})
}

// allRun waits until every client has logged some seconds without a failure: those in pods create their ledgers first. From then
// on, all of them must run.
func (b *bench) allRun(ctx context.Context) error {
	err := b.eventually(ctx, "all clients succeed", func() error {
		now := time.Now()
		s, err := b.summary(ctx, now.Add(-15*time.Second), now)
		if err != nil {
			return err
		}
		good := map[string]bool{}
		for _, r := range s.Results() {
			good[r.Client.String()] = r.Requests > 0 && r.Failed == 0
		}
		for _, h := range b.expected {
			if h.to.IsZero() && !good[h.String()] {
				return fmt.Errorf("%s does not", h)
			}
		}
		return nil
	})
	for _, h := range b.expected {
		if h.from.IsZero() {
			h.from = time.Now()
		}
	}
	return err
}

func (b *bench) eventually(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if serr := sleep(ctx, 2*time.Second); serr != nil {
			return fmt.Errorf("%s: %w; last: %w", what, serr, err)
		}
	}
}

// collect brings what the pods of a host have logged to this computer.
func (b *bench) collect(ctx context.Context, name string) error {
	// One file per process: the last line of one that was killed may be incomplete.
	files, err := b.on(ctx, name, nil, "cd "+logs+"; ls")
	if err != nil {
		return err
	}
	for file := range strings.FieldsSeq(files) {
		text, err := b.on(ctx, name, nil, "cat "+logs+"/"+file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.dir, name+"-"+file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// keepLogs keeps what the load balancers said: why one closed a connection is known to nobody else. A machine without any says nothing.
func (b *bench) keepLogs(ctx context.Context) error {
	for _, m := range b.lab.Machines() {
		text, err := b.on(ctx, m.Name, nil, "journalctl -q -o short-iso-precise -u haproxy -u keepalived -u "+hostconfig.WatchdogUnit+" || true")
		if err == nil {
			err = os.WriteFile(filepath.Join(b.dir, m.Name+"-balancer.log"), []byte(text), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// summary reads what all clients have logged, also those on hosts that have left.
func (b *bench) summary(ctx context.Context, from, to time.Time) (*probe.Summary, error) {
	for _, h := range b.nodes() {
		if err := b.collect(ctx, h.Name); err != nil {
			return nil, err
		}
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	s := probe.NewSummary(from, to)
	for _, file := range files {
		if err := readLog(s, file); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return s, nil
}

func readLog(s *probe.Summary, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.Read(f)
}

// measure does something and reports what clients experienced meanwhile. stops are the control planes whose API servers stop.
func (b *bench) measure(ctx context.Context, way string, stops []spec.Host, do func(context.Context) error) (outcome, error) {
	before, err := b.term(ctx)
	if err != nil {
		return outcome{}, err
	}
	begin := time.Now()
	err = do(ctx)
	took := time.Since(begin)
	if err != nil {
		return outcome{}, err
	}
	end := time.Now()
	if stops != nil {
		end = end.Add(aftermath)
	}
	// Requests of the last second may still be under way, and are logged when they have ended.
	if err := sleep(ctx, time.Until(end)+timeout+5*time.Second); err != nil {
		return outcome{}, err
	}
	after, err := b.term(ctx)
	if err != nil {
		return outcome{}, err
	}
	s, err := b.summary(ctx, begin, end)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{Contender: b.name, Way: way, Seconds: took.Seconds(), Elections: after - before, AllowedElections: len(stops)}
	o.Invalid = b.unseen
	b.unseen = nil
	o.judge(s, b.expected, stops, b.announces, b.options.Pace)
	lost, acknowledged, err := s.Ledgers.Lost(ctx, b.api, namespace)
	if err != nil {
		return outcome{}, err
	}
	o.LostWrites, o.Writes = len(lost), acknowledged
	return o, b.save(o)
}

// judge takes from the logs what clients experienced, and finds out whether they tell the whole truth.
func (o *outcome) judge(s *probe.Summary, clients []*expected, stops []spec.Host, announces bool, pace time.Duration) {
	o.Results, o.Excused = s.Results(), s.Excused(announces)
	for _, h := range clients {
		o.Invalid = append(o.Invalid, s.Starved(h.Client, pace, h.from, h.to)...)
	}
	connections, announced, unknown := s.Late(late)
	o.LateConnections = connections
	for _, n := range announced {
		o.Shutdowns += n
	}
	for _, h := range stops {
		if announces && announced[ownServer+h.Name] == 0 {
			o.Invalid = append(o.Invalid, ownServer+h.Name+" did not announce that it stops, so late connections to it are not known")
		}
	}
	for _, path := range unknown {
		o.Invalid = append(o.Invalid, path+" announced that it stops, and its certificate is not known, so late connections to it are not known")
	}
}

func (b *bench) save(o outcome) error {
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, o.Way+".json"), text, 0o644)
}

// term is the number of etcd's elections so far: every election has a term of its own.
func (b *bench) term(ctx context.Context) (int, error) {
	text, err := b.on(ctx, b.cluster.HostsWith(spec.RoleControlPlane)[0].Name, nil, "etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt "+
		"--cert /etc/kubernetes/pki/apiserver-etcd-client.crt --key /etc/kubernetes/pki/apiserver-etcd-client.key endpoint status -w json")
	if err != nil {
		return 0, err
	}
	var members []struct {
		Status struct {
			RaftTerm int `json:"raftTerm"`
		}
	}
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) == 0 {
		return 0, fmt.Errorf("etcdctl endpoint status printed %q: %w", text, err)
	}
	return members[0].Status.RaftTerm, nil
}
