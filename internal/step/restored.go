package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/restore"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Restoration is what the steps of a restore take from a backup, and what they report.
type Restoration struct {
	Manifest backup.Manifest
	// PKI are the keys that control planes share. They are in memory only.
	PKI kubeadm.PKI
	// Snapshot is the file with the snapshot of etcd.
	Snapshot string
	// Bump is by how much the revision of etcd is raised, and Nonce tells this restore from every other one of the same backup (see facts.Restore).
	Bump  int64
	Nonce string
	// Before is the spec in the backup; nil if it has none.
	Before *spec.Cluster
	// Fenced says that what is outside of the cluster cannot be reached from it, as in a lab.
	Fenced bool

	mu sync.Mutex
	// repaired and notes are what Repaired and Notes return.
	repaired, notes []string
}

// Repaired is what was removed or changed in the API, because it belonged to the hosts of before.
func (r *Restoration) Repaired() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.repaired)
}

// Notes are what somebody has to look at after the restore.
func (r *Restoration) Notes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.notes)
}

// moment is what the restored content of etcd is of.
func (r *Restoration) moment() string {
	if r.Manifest.Salvaged != "" {
		return "the last write"
	}
	return "the backup"
}

func (r *Restoration) did(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.repaired, text) { // each part is repeated until it succeeds
		r.repaired = append(r.repaired, text)
	}
}

func (r *Restoration) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.notes, text) {
		r.notes = append(r.notes, text)
	}
}

var errNoBackup = errors.New("this run has no backup: run `quorate restore` with it again")

// backupID identifies the restore with which etcd begins: the backup, and which of its restores it is. It is empty if etcd begins without data.
func (e *Env) backupID() string {
	if e.Restoration == nil {
		return ""
	}
	id := e.Restoration.Manifest.ID()
	if e.Restoration.Nonce != "" {
		id += "-" + e.Restoration.Nonce
	}
	return id
}

// restorePKI gives a control plane the keys of the backup, inside the session.
func restorePKI(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	if e.Restoration == nil {
		return errNoBackup
	}
	pki := kubeadm.PKI{}
	names := hostconfig.SharedPKI(e.Cluster)
	for name, content := range e.Restoration.PKI {
		if slices.Contains(names, name) || name == facts.ServiceAccountKey.FormerPublic() {
			pki[name] = content
		}
	}
	_, err = kubeadm.WritePKI.On(ctx, c, pki)
	return err
}

// restoreEtcd streams the snapshot to a host and has it make the data of its member.
func restoreEtcd(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	if e.Restoration == nil {
		return errNoBackup
	}
	in := restore.Request{Name: h.Name, Bump: e.Restoration.Bump}
	if e.Cluster.StackedEtcd() {
		cfg := e.kubeadm()
		if cfg.CA, err = e.ca(); err != nil {
			return err
		}
		if in.Cluster, err = cfg.StackedEtcd(s.Members); err != nil {
			return err
		}
	} else {
		_, _, _, token, err := e.etcdHost(s)
		if err != nil {
			return err
		}
		in.Cluster = hostconfig.ExternalEtcd(e.Cluster, token)
	}
	part, _ := e.Restoration.Manifest.Part(backup.SnapshotPart)
	in.Bytes, in.SHA256 = part.Bytes, part.SHA256
	file, err := os.Open(e.Restoration.Snapshot)
	if err != nil {
		return err
	}
	defer file.Close()
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = restore.Etcd.Send(ctx, c, permit, in, io.Reader(file))
	return err
}

// webhooksAnnotation remembers on a webhook configuration which of its webhooks failed closed before the restore.
const webhooksAnnotation = "quorate.dev/failed-closed-before-restore"

// repairRestored removes from the API what the cluster in the backup knew about hosts, an endpoint, and joins. It can be repeated.
func repairRestored(ctx context.Context, e *Env, s plan.Step) error {
	r := e.Restoration
	if r == nil {
		return errNoBackup
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	if err := awaitAPI(ctx, e, s); err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	for _, repair := range []struct {
		what string
		do   func(context.Context, *kube.Client) error
	}{
		{"letting webhooks fail", r.openWebhooks}, // first: they could refuse everything else
		{"letting removed hosts register", func(ctx context.Context, client *kube.Client) error { return lockOut(ctx, client, nil) }},
		{"removing stale leases", r.staleLeases},
		{"removing tokens for joins", r.tokens},
		{"removing nodes", func(ctx context.Context, client *kube.Client) error { return r.nodes(ctx, e.Cluster, client) }},
		{"removing the former endpoint", r.clusterInfo},
		{"removing the former endpoint for pods", func(ctx context.Context, client *kube.Client) error { return r.podsEndpoint(ctx, e.Cluster, client) }},
		{"removing authorities of before", r.authentication},
		{"removing notes", r.ownNotes}, // last: they say who was in maintenance
	} {
		ctx, cancel := withDeadline(ctx, apiPatience, repair.what)
		err := retry(ctx, time.Second, func(ctx context.Context) error { return repair.do(ctx, client) })
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", repair.what, err)
		}
	}
	return r.volumes(ctx, e.Cluster, client)
}

// openWebhooks lets webhooks be ignored that fail closed: the pods that answer them do not run yet, and their own creation could be what
// nobody can allow. Those with an address outside of the cluster are among them.
func (r *Restoration) openWebhooks(ctx context.Context, client *kube.Client) error {
	admission := client.AdmissionregistrationV1()
	validating, err := admission.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range validating.Items {
		c := &validating.Items[i]
		if opened := open(&c.ObjectMeta, c.Webhooks, validatingWebhook); len(opened) > 0 {
			if _, err := admission.ValidatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
				return err
			}
		}
	}
	mutating, err := admission.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range mutating.Items {
		c := &mutating.Items[i]
		if opened := open(&c.ObjectMeta, c.Webhooks, mutatingWebhook); len(opened) > 0 {
			if _, err := admission.MutatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
				return err
			}
		}
	}
	return nil
}

// hook is what both kinds of webhooks have.
type hook struct {
	name   string
	policy **admissionv1.FailurePolicyType
	client *admissionv1.WebhookClientConfig
}

func validatingWebhook(w *admissionv1.ValidatingWebhook) hook {
	return hook{w.Name, &w.FailurePolicy, &w.ClientConfig}
}

func mutatingWebhook(w *admissionv1.MutatingWebhook) hook {
	return hook{w.Name, &w.FailurePolicy, &w.ClientConfig}
}

// open lets the webhooks of a configuration be ignored that fail closed, and notes which.
func open[W any](m *metav1.ObjectMeta, all []W, of func(*W) hook) (opened []string) {
	for i := range all {
		if h := of(&all[i]); *h.policy == nil || **h.policy == admissionv1.Fail {
			*h.policy = new(admissionv1.Ignore)
			opened = append(opened, h.name)
		}
	}
	if len(opened) > 0 {
		names := append(closedBefore(m), opened...)
		slices.Sort(names)
		metav1.SetMetaDataAnnotation(m, webhooksAnnotation, strings.Join(slices.Compact(names), ","))
	}
	return opened
}

func closedBefore(m *metav1.ObjectMeta) []string {
	text := m.Annotations[webhooksAnnotation]
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// closeAgain lets the webhooks fail closed again that did before, unless one of them cannot be answered. It returns their names, and why
// those that could not be answered could not.
func closeAgain[W any](m *metav1.ObjectMeta, all []W, of func(*W) hook, answered func(*admissionv1.WebhookClientConfig) string) (closed []string, left map[string]string) {
	left = map[string]string{}
	var names []string
	for i := range all {
		h := of(&all[i])
		if !slices.Contains(closedBefore(m), h.name) {
			continue
		}
		if why := answered(h.client); why != "" {
			left[h.name] = why
			names = append(names, h.name)
			continue
		}
		*h.policy = new(admissionv1.Fail)
		closed = append(closed, h.name)
	}
	if len(names) == 0 {
		delete(m.Annotations, webhooksAnnotation)
	} else {
		metav1.SetMetaDataAnnotation(m, webhooksAnnotation, strings.Join(names, ","))
	}
	return closed, left
}

// staleLeases removes the leases of controllers and API servers that nobody has renewed since the backup: new controllers would wait until
// those run out.
func (r *Restoration) staleLeases(ctx context.Context, client *kube.Client) error {
	leases, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	n := 0
	for _, l := range leases.Items {
		if !staleLease(l, r.Manifest.Created) {
			continue
		}
		err := client.CoordinationV1().Leases(l.Namespace).Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &l.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		n++
	}
	if n > 0 {
		r.did("%d leases of controllers and API servers that nobody has renewed since %s were removed", n, r.moment())
	}
	return nil
}

// staleLease says that a lease is as it was in the backup. Clocks may differ a little.
func staleLease(l coordinationv1.Lease, taken time.Time) bool {
	return l.Spec.RenewTime == nil || l.Spec.RenewTime.Time.Before(taken.Add(time.Minute))
}

// tokens removes what hosts could have joined with when the backup was taken.
func (r *Restoration) tokens(ctx context.Context, client *kube.Client) error {
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	all, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return err
	}
	names := []string{"kubeadm-certs"}
	for _, s := range all.Items {
		names = append(names, s.Name)
	}
	n := 0
	for _, name := range names {
		switch err := secrets.Delete(ctx, name, metav1.DeleteOptions{}); {
		case apierrors.IsNotFound(err):
		case err != nil:
			return err
		default:
			n++
		}
	}
	if n > 0 {
		r.did("%d bootstrap tokens and uploaded certificates were removed: some may have been revoked after %s", n, r.moment())
	}
	return nil
}

// nodes removes the nodes that have no host in the spec, with the pods on them, and gives the others the roles that they have now. Simulated nodes
// never had a host: `quorate lab scale` removes them.
func (r *Restoration) nodes(ctx context.Context, c *spec.Cluster, client *kube.Client) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	own, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, observe.ConfigMap, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	var gone []string
	for _, n := range nodes.Items {
		if n.Labels[facts.SimulatedLabel] != "" {
			continue
		}
		h, known := c.Host(n.Name)
		if known && h.IsNode() {
			maintained := own != nil && own.Data[observe.MaintenanceKey+n.Name] != ""
			if err := r.adjust(ctx, c, client, h, n, maintained); err != nil {
				return err
			}
			continue
		}
		if err := r.removePods(ctx, client, n.Name); err != nil {
			return err
		}
		if err := client.CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(n.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		gone = append(gone, n.Name)
	}
	if len(gone) > 0 {
		r.did("the nodes %s, which have no host in the spec, were removed with the pods on them", strings.Join(gone, ", "))
	}
	return nil
}

// removePods removes the pods of a node that does not exist, without waiting for a kubelet that could confirm it.
func (r *Restoration) removePods(ctx context.Context, client *kube.Client, node string) error {
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		err := client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		if metav1.GetControllerOf(&p) == nil {
			r.note("the pod %s/%s ran on %s, which does not exist any more, and nothing creates it again", p.Namespace, p.Name, node)
		}
	}
	return nil
}

// adjust takes from a node the labels and taints of a role, a zone, or a pool that its host no longer has, and ends a maintenance, or a drain.
func (r *Restoration) adjust(ctx context.Context, c *spec.Cluster, client *kube.Client, h spec.Host, n corev1.Node, maintained bool) error {
	labels, taints := plan.Outdated(r.Before, c, h, n.Labels)
	_, marked := n.Annotations[facts.CordonedAnnotation]
	kept := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool {
		return slices.Contains(taints, facts.Taint{Key: t.Key, Value: t.Value, Effect: string(t.Effect)}) || (maintained || marked) && t.Key == corev1.TaintNodeUnschedulable
	})
	change := map[string]any{}
	if len(kept) != len(n.Spec.Taints) {
		change["taints"] = kept
	}
	if n.Spec.Unschedulable && (maintained || marked) {
		change["unschedulable"] = nil
	}
	removed, marks := map[string]any{}, map[string]any{}
	for _, k := range labels {
		removed[k] = nil
	}
	if marked {
		marks[facts.CordonedAnnotation] = nil
	}
	if len(change)+len(removed)+len(marks) > 0 {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": removed, "annotations": marks, "resourceVersion": n.ResourceVersion}, "spec": change})
		if err != nil {
			return err
		}
		if _, err := client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
			return err
		}
	}
	switch {
	case maintained:
		r.did("the node %s was in maintenance before %s, and no longer is", n.Name, r.moment())
	case marked:
		r.did("the node %s was being drained before %s, and takes pods again", n.Name, r.moment())
	case n.Spec.Unschedulable:
		r.note("the node %s was cordoned before %s, and still is: `kubectl uncordon %s` lets pods be placed on it", n.Name, r.moment(), n.Name)
	}
	return nil
}

// podsEndpoint removes the endpoint for pods that the cluster in the backup had, if this one is to have none. Otherwise it gets its own.
func (r *Restoration) podsEndpoint(ctx context.Context, c *spec.Cluster, client *kube.Client) error {
	if hostconfig.PodsUseEndpoint(c) {
		return nil
	}
	err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(ctx, facts.OwnSlice, metav1.DeleteOptions{})
	if err == nil {
		r.did("the endpoint of before was removed from the addresses at which pods reach the API")
	}
	return ignoreAbsent(err)
}

// clusterInfo removes what kubeadm only creates where it is missing.
func (r *Restoration) clusterInfo(ctx context.Context, client *kube.Client) error {
	err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Delete(ctx, "cluster-info", metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		r.did("kubeadm's configuration, cluster-info, and the configuration of kube-proxy and of the kubelets are those of the spec")
	}
	return err
}

// authentication removes what servers of aggregated APIs trusted, if that is more than what the restored cluster has: the backup was taken in the
// middle of a rotation. API servers write it again, and never remove anything from it.
func (r *Restoration) authentication(ctx context.Context, client *kube.Client) error {
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := maps.Get(ctx, facts.AuthenticationConfigMap, metav1.GetOptions{})
	if err != nil {
		return ignoreAbsent(err)
	}
	for key, a := range map[string]facts.Authority{facts.ClientAuthorityKey: facts.KubernetesAuthority, facts.ProxyAuthorityKey: facts.FrontProxyAuthority} {
		own := pkifile.KeyIDs(r.PKI[a.Public()])
		if slices.ContainsFunc(pkifile.KeyIDs([]byte(have.Data[key])), func(id string) bool { return !slices.Contains(own, id) }) {
			r.did("servers of aggregated APIs do not trust the other key of %s, which was being replaced", a.Title())
			return ignoreAbsent(maps.Delete(ctx, have.Name, metav1.DeleteOptions{}))
		}
	}
	return nil
}

// ownNotes removes what Quorate remembers of the cluster: the spec, the hosts that were removed, maintenance, and what was applied. All of
// it is noted again.
func (r *Restoration) ownNotes(ctx context.Context, client *kube.Client) error {
	err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Delete(ctx, observe.ConfigMap, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		r.did("what Quorate had noted in the cluster (the spec, removed hosts, maintenance, settings) is that of the spec")
	}
	return err
}

// volumes names what was stored on hosts that do not exist any more.
func (r *Restoration) volumes(ctx context.Context, c *spec.Cluster, client *kube.Client) error {
	all, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, v := range all.Items {
		if hosts := onlyOn(v); len(hosts) > 0 && !slices.ContainsFunc(hosts, func(name string) bool { h, known := c.Host(name); return known && h.IsNode() }) {
			r.note("the volume %s is on %s, which does not exist any more: its data is not in a backup of etcd, and pods that use it stay pending", v.Name, strings.Join(hosts, ", "))
		}
	}
	return nil
}

// onlyOn are the nodes that a volume is bound to by their names; empty if it is not.
func onlyOn(v corev1.PersistentVolume) (out []string) {
	if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
		return nil
	}
	for _, t := range v.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, m := range t.MatchExpressions {
			if m.Key == corev1.LabelHostname && m.Operator == corev1.NodeSelectorOpIn {
				out = append(out, m.Values...)
			}
		}
	}
	return out
}

// webhookPatience is how long the pods that answer webhooks may take to run again.
const webhookPatience = 2 * time.Minute

// settleRestored lets the webhooks fail closed again whose pods run. The others stay as they are, and are named: closing them would keep
// the pods from being created that could answer them.
func settleRestored(ctx context.Context, e *Env, _ plan.Step) error {
	r := e.Restoration
	if r == nil {
		return errNoBackup
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	limit := time.Now().Add(webhookPatience)
	for {
		left, err := r.closeWebhooks(ctx, client)
		if err != nil && (ctx.Err() != nil || time.Now().After(limit)) {
			return err
		}
		if err == nil && (len(left) == 0 || time.Now().After(limit) || r.Fenced) {
			for _, l := range left {
				r.note("%s", l)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Second):
		}
	}
}

func (r *Restoration) closeWebhooks(ctx context.Context, client *kube.Client) (open []string, _ error) {
	admission := client.AdmissionregistrationV1()
	answered := func(w *admissionv1.WebhookClientConfig) string { return r.answered(ctx, client, w) }
	settle := func(kind, name string, closed []string, left map[string]string, update func() error) error {
		if len(closed) > 0 {
			if err := update(); err != nil {
				return err
			}
			r.did("the webhooks %s of %s %s, which fail closed, were ignored until their pods ran", strings.Join(closed, ", "), kind, name)
		}
		for hook, why := range left {
			open = append(open, fmt.Sprintf("the webhook %s of %s %s failed closed before, and is ignored now, because %s. When it works, set its failurePolicy to Fail: `kubectl edit %s %s`",
				hook, kind, name, why, strings.ToLower(kind), name))
		}
		return nil
	}
	validating, err := admission.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range validating.Items {
		c := &validating.Items[i]
		closed, left := closeAgain(&c.ObjectMeta, c.Webhooks, validatingWebhook, answered)
		if err := settle("ValidatingWebhookConfiguration", c.Name, closed, left, func() error {
			_, err := admission.ValidatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager})
			return err
		}); err != nil {
			return nil, err
		}
	}
	mutating, err := admission.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range mutating.Items {
		c := &mutating.Items[i]
		closed, left := closeAgain(&c.ObjectMeta, c.Webhooks, mutatingWebhook, answered)
		if err := settle("MutatingWebhookConfiguration", c.Name, closed, left, func() error {
			_, err := admission.MutatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager})
			return err
		}); err != nil {
			return nil, err
		}
	}
	slices.Sort(open)
	return open, nil
}

// answered says why a webhook cannot be answered; empty if it can. Whether an address outside of the cluster answers is not known here.
func (r *Restoration) answered(ctx context.Context, client *kube.Client, w *admissionv1.WebhookClientConfig) string {
	if w.Service == nil {
		if r.Fenced {
			return "nothing outside can be reached from here"
		}
		return ""
	}
	slicesOf, err := client.DiscoveryV1().EndpointSlices(w.Service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + w.Service.Name})
	if err != nil {
		return "its endpoints could not be read: " + err.Error()
	}
	for _, s := range slicesOf.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				return ""
			}
		}
	}
	return "the Service " + w.Service.Namespace + "/" + w.Service.Name + " has no ready endpoint"
}
