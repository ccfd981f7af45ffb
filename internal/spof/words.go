package spof

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// What a finding says: what is lost, for how long, and what to do.

// losses says what nobody can do any more.
func losses(capabilities []string) string {
	has := func(c string) bool { return slices.Contains(capabilities, c) }
	var out, workloads, replacements []string
	add := func(text string) { out = append(out, text) }
	switch {
	case has(APIReads) && has(APIWrites):
		add("the API answers no requests")
	case has(APIReads):
		add("the API cannot be read")
	case has(APIWrites):
		add("the API accepts no changes")
	}
	if has(Scheduling) {
		add("new pods stay Pending")
	}
	if has(NewPods) {
		add("pods that are lost are not replaced")
	}
	if has(ClusterDNS) {
		add("pods cannot resolve names")
	}
	if has(ServiceTraffic) {
		add("no node carries traffic of Services")
	}
	if has(ClusterData) {
		add("everything in etcd is lost, and cannot be brought back")
	}
	for _, c := range capabilities {
		if w, is := strings.CutPrefix(c, WorkloadPrefix); is {
			workloads = append(workloads, w)
		}
		if w, is := strings.CutPrefix(c, ReplacementPrefix); is {
			replacements = append(replacements, w)
		}
		if w, is := strings.CutPrefix(c, ChangesPrefix); is {
			add("the API rejects changes of " + w)
		}
	}
	if len(workloads) > 0 {
		add("no replica of " + cluster.List(some(workloads, "workloads")) + " works")
	}
	if len(replacements) > 0 {
		add("lost pods of " + cluster.List(some(replacements, "workloads")) + " are not replaced")
	}
	text := strings.Join(out, "; ")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// lasts says for how long, in sentences.
func (m *model) lasts(set []Element, reasons []*reason) (out []string) {
	until := cluster.List(words(set)) + map[bool]string{true: " works", false: " work"}[len(set) == 1] + " again"
	if set[0].Kind == Certificates {
		return []string{"It begins on " + set[0].Name + ", and lasts until they are renewed."}
	}
	add := func(texts ...string) {
		for _, text := range texts {
			if !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
	}
	back := "It lasts until " + until + "."
	for _, r := range reasons {
		switch {
		case r.kind == BackupStore:
			add("This is permanent.")
		case r.kind == Pod && set[0].Kind == Pod, r.kind == CoreDNS && r.pods != nil && set[0].Kind == CoreDNS:
			add("It lasts seconds, until the kubelet has restarted its containers; if the pod was deleted, until another one has started.")
		case r.kind == Pod, r.kind == CoreDNS && r.pods != nil: // for a spec alone, nobody knows what the pods tolerate
			add(m.reschedule(r.pods, until))
		case r.kind == Host && r.pods != nil:
			add("This is permanent: nothing creates the pod again.")
		case r.kind == Kind(quorum.Members.Name) && !m.c.ExistingEtcd():
			add(back, "If data of etcd is lost with it, `quorate recover` shows how to bring the cluster back.")
		default:
			add(back)
		}
	}
	if len(out) == 0 {
		add(back)
	}
	return out
}

// reschedule says until when a workload is away whose nodes failed.
func (m *model) reschedule(w *workload, until string) string {
	switch w.kind {
	case "StatefulSet":
		return "It lasts until " + until + ": a StatefulSet starts no second pod of a name while the first one may still run. If the node is lost for good, taint it with `node.kubernetes.io/out-of-service`."
	case "DaemonSet", "":
		return "It lasts until " + until + "."
	}
	silent := 50
	if m.c.Spec.Failover.Profile == spec.ProfileFast {
		silent = 6
	}
	var wait int64
	for _, p := range w.pods {
		if p.Evicted == nil {
			return "It lasts until " + until + ": the pods tolerate nodes that do not answer, and are never evicted from them."
		}
		wait = max(wait, *p.Evicted)
	}
	return fmt.Sprintf("It lasts about %d s and the time that the pods need to start on other nodes: a node that does not answer is NotReady after %d s, and its pods are evicted %d s later.", silent+int(wait), silent, wait)
}

// fix says what to do about a cut set: to repair what does not work, if the cluster as its spec describes it has no such cut set; otherwise
// to change the spec, or the workload.
func (a *auditor) fix(m *model, c capability, set []Element, reasons []*reason) (out []string) {
	add := func(text string) {
		if text != "" && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	repaired := a.intended != nil && !ofWorkload(c.name) && !strings.HasPrefix(c.name, ChangesPrefix) && !a.designed(c.name, set)
	for _, r := range reasons {
		if repaired {
			if text := a.repair(m, r); text != "" {
				add(text)
				continue
			}
		}
		add(m.design(r, set))
	}
	if len(out) == 0 {
		add("Add a second one that does not fail with it.")
	}
	return out
}

// designed says that the spec alone has the cut set, or a part of it.
func (a *auditor) designed(name string, set []Element) bool {
	c, has := a.intended.capability(name)
	if !has {
		return true
	}
	failed := map[Element]bool{}
	for _, e := range set {
		failed[e] = true
	}
	return a.intended.fails(c.top, failed)[c.top]
}

// repair names what runs short because it does not work, or is not there.
func (a *auditor) repair(m *model, r *reason) string {
	if r.kind == CoreDNS {
		if m.s.Seen.API != nil && !m.s.DNSSpread() && m.s.Stage() != cluster.Foreign {
			return "`quorate apply` keeps the CoreDNS replicas on different nodes, and in different zones where there are three."
		}
		return "`kubectl -n kube-system rollout restart deployment coredns` spreads the replicas again."
	}
	if r.kind == BackupStore {
		return "`quorate backup` takes a backup now, and says what is wrong."
	}
	var texts []string
	note := func(text string) {
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	related := func(k Kind) bool {
		return k == r.kind || r.kind == Kind(quorum.APIServers.Name) && k == Kind(quorum.Members.Name) ||
			slices.Contains(kindsOfControlPlane[2:], r.kind) && slices.Contains(kindsOfControlPlane[:2], k)
	}
	for _, b := range m.broken {
		if related(b.kind) {
			note(b.text)
		}
	}
	now := map[string]quorum.Placement{}
	for _, p := range m.placements {
		now[p.Host] = p
	}
	for _, p := range a.intended.placements {
		for _, k := range []quorum.Kind{quorum.Members, quorum.APIServers, quorum.ControllerManagers, quorum.Schedulers, quorum.Balancers, quorum.Workers} {
			have := now[p.Host]
			if state := *k.Part(&have); *k.Part(&p) == quorum.Up && related(Kind(k.Name)) && (state == quorum.Absent || state == quorum.Learner) {
				note("the " + k.Name + " on " + p.Host + " (the spec has it, and the cluster does not)")
			}
		}
	}
	if len(texts) == 0 {
		return ""
	}
	end := " `quorate status` shows what is wrong, and `quorate apply` brings back what it can."
	if m.s.Stage() == cluster.Foreign {
		end = " `quorate status` shows what is wrong."
	}
	if away := m.s.InMaintenance(); len(away) > 0 {
		end += " `quorate maintain --undo " + away[0] + "` ends a maintenance."
	}
	return "Repair first what does not work: " + strings.Join(texts, ", ") + "." + end
}

// design is what to change so that a redundancy suffices.
func (m *model) design(r *reason, set []Element) string {
	domain := ""
	for _, e := range set {
		switch e.Kind {
		case Zone, Region, Shared, Machine:
			domain = e.String()
		case Certificates:
			return "`quorate certs renew` renews them now. `quorate apply` does so when less than a third of their lifetime is left: run it once in each release of Kubernetes."
		}
	}
	count := func(k quorum.Kind) int {
		total, _ := quorum.Count(m.placements, k.Part)
		return total
	}
	pair := len(set) > 1
	switch r.kind {
	case Kind(quorum.Members.Name), Kind(quorum.APIServers.Name), Kind(quorum.ControllerManagers.Name), Kind(quorum.Schedulers.Name):
		return m.controlPlanes(r.kind, domain, pair)
	case Kind(quorum.Balancers.Name):
		switch n := count(quorum.Balancers); {
		case pair:
			return fmt.Sprintf("Load balancers in %d zones survive any two of these failures.", max(n+1, 3))
		case domain != "" && n > 1:
			return "Move a load balancer out of " + domain + ", or add one elsewhere."
		}
		return "Add a second load balancer in another zone, or remove the role load-balancer, so that the control planes run the load balancers."
	case Kind(quorum.Workers.Name):
		switch n := count(quorum.Workers); {
		case pair:
			return fmt.Sprintf("Workers in %d zones survive any two of these failures.", max(n+1, 3))
		case domain != "" && n > 1:
			return "Add workers outside of " + domain + "."
		}
		return "Add a second worker in another zone."
	case CoreDNS:
		if pair {
			return "`kubectl -n kube-system scale deployment coredns --replicas=3` runs a third replica."
		}
		if domain != "" {
			return "Add nodes outside of " + domain + "; `kubectl -n kube-system rollout restart deployment coredns` then spreads the replicas."
		}
		return "Add a second node; CoreDNS needs two."
	case BackupStore:
		if m.c.Spec.Backup.Given() {
			return "Keep copies of the backups in a second place. `quorate backup` takes one now, and says what is wrong."
		}
		return "Add `spec.backup`, so that the control planes take encrypted backups; see docs/backup.md."
	case Pod:
		return m.spreadOut(r.pods, set, domain)
	case Host:
		return "Let a Deployment, or another controller, create the pod."
	case "volume":
		return fmt.Sprintf("Use storage that other %s reach, or replicate the data in the application: volume %s is tied to %s.", map[bool]string{true: "nodes", false: "zones"}[len(r.volume.Nodes) > 0],
			r.volume.Name, cluster.List(append(slices.Clone(r.volume.Zones), r.volume.Nodes...)))
	case Registry:
		fix := "Add a mirror of " + r.image.registry + " to `spec.settings.registries`"
		if r.image.always {
			return fix + ". The image pull policy Always asks the registry even on nodes that have the image; IfNotPresent does not."
		}
		return fix + ", or load the images on all nodes."
	case Endpoint:
		return "Run two or more replicas of " + behind(r.webhook.Service) + " on different nodes and in different zones, or use `failurePolicy: Ignore` in its configuration, " + r.webhook.Configuration + "."
	}
	return ""
}

// behind names a webhook by its Service.
func behind(service string) string {
	if service == "" {
		return "the webhook"
	}
	return "the webhook behind Service " + service
}

// controlPlanes is what to change about control planes, or about the hosts of etcd.
func (m *model) controlPlanes(kind Kind, domain string, pair bool) string {
	what, one := "control planes", "control plane"
	k := quorum.APIServers
	if kind == Kind(quorum.Members.Name) && !m.c.StackedEtcd() {
		if m.c.ExistingEtcd() {
			return "Add members to your etcd, so that three of them fail separately; Quorate does not change it."
		}
		what, one, k = "etcd hosts", "etcd host", quorum.Members
	}
	n, _ := quorum.Count(m.placements, k.Part)
	voting := kind == Kind(quorum.Members.Name) || m.c.StackedEtcd()
	switch {
	case pair && voting:
		return fmt.Sprintf("%s %s in as many zones survive any two of these failures.", map[bool]string{true: "Five", false: "Seven"}[n < 5], what)
	case pair:
		return "A third " + one + " in a third zone survives any two of these failures."
	case domain != "" && n > 1 && voting:
		return fmt.Sprintf("Spread the %s over three zones or more, so that a majority is outside of %s.", what, domain)
	case domain != "" && n > 1:
		return fmt.Sprintf("Move a part of the %s out of %s.", what, domain)
	case n == 1 && voting:
		return fmt.Sprintf("Add two more %s, each in another zone, and use `placement: regional`.", what)
	case n == 1:
		return "Add a second " + one + " in another zone."
	case voting && n%2 == 0:
		return fmt.Sprintf("Use %d %s: %d tolerate no more failures than %d.", n+1, what, n, n-1)
	}
	return fmt.Sprintf("Add %s in other zones.", what)
}

// spreadOut is what to change about a workload.
func (m *model) spreadOut(w *workload, set []Element, domain string) string {
	places := m.roomFor()
	failing := map[string]bool{}
	for _, e := range set {
		for _, h := range m.spread[e] {
			failing[h] = true
		}
	}
	if len(set) == 1 && set[0].Kind != Pod && !slices.ContainsFunc(places, func(h string) bool { return !failing[h] }) {
		if domain != "" {
			return "Add workers outside of " + domain + "."
		}
		return "Add a second worker in another zone."
	}
	switch {
	case len(set) > 1:
		return "Run more replicas, on more nodes and in more zones."
	case w.kind == "":
		return "Let a Deployment create the pod, with two or more replicas on different nodes."
	case w.kind == "DaemonSet":
		return "Let the DaemonSet run on more nodes."
	case len(w.pods) == 1:
		return "Run two or more replicas, with a `topologySpreadConstraints` for nodes and zones."
	case domain != "":
		return "Spread the replicas over zones: add a `topologySpreadConstraints` with the key topology.kubernetes.io/zone."
	}
	return "Spread the replicas over nodes: add a `topologySpreadConstraints` with the key kubernetes.io/hostname."
}
