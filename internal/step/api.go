package step

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/inspect"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/coredns"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

const fieldManager = "quorate"

var force = metav1.ApplyOptions{FieldManager: fieldManager, Force: true}

// retry calls f until it succeeds, for as long as ctx allows: an API server that is just starting, or an election, is no
// reason to fail.
func retry(ctx context.Context, every time.Duration, f func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // the actual problem, rather than that this attempt was interrupted
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func withDeadline(ctx context.Context, d time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%s took longer than %s", what, d))
}

// apiPatience is how long an API server of a new cluster may take to start, as in kubeadm's configuration.
const apiPatience = 4 * time.Minute

// awaitAPI waits until the API's own roles are made, which is part of being ready, and until the administrator is let in:
// kubeadm's initialization, which runs at the same time, begins by making him one.
func awaitAPI(ctx context.Context, e *Env, _ plan.Step) error {
	ctx, cancel := withDeadline(ctx, apiPatience, "starting the API")
	defer cancel()
	return retry(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		client, err := e.api(ctx)
		if err != nil {
			return err
		}
		if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
			return err
		}
		_, err = client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		return err
	})
}

// awaitControllers waits for an object that only a controller creates, and that every system pod needs.
func awaitControllers(ctx context.Context, e *Env, _ plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, apiPatience, "starting the controllers")
	defer cancel()
	return retry(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func makeToken(ctx context.Context, e *Env, _ plan.Step) error { return e.keepToken(ctx) }

// keepToken creates this run's bootstrap token, or lets the one that exists live on for another kubeadm.TokenLifetime. Each
// join does so before it begins: a token that no run keeps ends within minutes.
func (e *Env) keepToken(ctx context.Context) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	now, err := e.clusterTime(ctx)
	if err != nil {
		return err
	}
	id, secret, _ := strings.Cut(e.token, ".")
	_, err = client.CoreV1().Secrets(metav1.NamespaceSystem).Apply(ctx, applycorev1.Secret("bootstrap-token-"+id, metav1.NamespaceSystem).
		WithType(corev1.SecretTypeBootstrapToken).WithStringData(map[string]string{
		"token-id": id, "token-secret": secret, "description": kubeadmconfig.TokenDescription,
		"expiration":                     now.Add(kubeadmconfig.TokenLifetime).UTC().Format(time.RFC3339),
		"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
		"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
	}), force)
	return err
}

// clusterTime is the time by the clock of a control plane, which decides how long a token is valid.
func (e *Env) clusterTime(ctx context.Context) (time.Time, error) {
	var errs []error
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		c, err := e.Conns.Get(h.Name)
		if err == nil {
			var now time.Time
			if now, err = inspect.ReadClock.On(ctx, c, struct{}{}); err == nil {
				return now, nil
			}
		}
		errs = append(errs, err)
	}
	return time.Time{}, fmt.Errorf("no control plane reports its time: %w", errors.Join(errs...))
}

func removeTokens(ctx context.Context, e *Env, _ plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, time.Minute, "removing the bootstrap token")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		names, err := observe.JoinTokens(ctx, client)
		for _, name := range names {
			if derr := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{}); derr != nil && !apierrors.IsNotFound(derr) {
				err = errors.Join(err, derr)
			}
		}
		return err
	})
}

func labelNode(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if conn, err := e.Conns.Get(s.Host); err == nil {
		h, _ := e.Cluster.Host(s.Host)
		if _, err := kubeadm.SetNodeLabels.On(ctx, conn, plan.NodeLabels(h)); err != nil {
			return err
		}
	}
	node := applycorev1.Node(s.Host).WithLabels(s.Labels)
	ctx, cancel := withDeadline(ctx, 3*time.Minute, "registering the node "+s.Host)
	defer cancel()
	return retry(ctx, 250*time.Millisecond, func(ctx context.Context) error {
		// Applying would create a node that has not registered yet.
		have, err := client.CoreV1().Nodes().Get(ctx, s.Host, metav1.GetOptions{})
		if err != nil {
			return err
		}
		// What Quorate applied earlier and does not apply now is removed by the API server. Labels that somebody else set too
		// would stay, so those that left the spec are removed by name.
		if _, err = client.CoreV1().Nodes().Apply(ctx, node, force); err != nil {
			return err
		}
		if err := removeLabels(ctx, client, have, s.RemoveLabels); err != nil || len(s.Taints)+len(s.RemoveTaints) == 0 {
			return err
		}
		return setTaints(ctx, client, have, s)
	})
}

func removeLabels(ctx context.Context, client *kube.Client, node *corev1.Node, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	labels := map[string]any{}
	for _, k := range keys {
		labels[k] = nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// setTaints adds the taints of the step to a node, and removes those that left the spec. Taints of others stay.
func setTaints(ctx context.Context, client *kube.Client, node *corev1.Node, s plan.Step) error {
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		if !slices.ContainsFunc(s.RemoveTaints, func(r facts.Taint) bool {
			return r.Key == t.Key && r.Value == t.Value && r.Effect == string(t.Effect)
		}) {
			taints = append(taints, t)
		}
	}
	for _, t := range s.Taints {
		want := corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)}
		found := false
		for i := range taints {
			if taints[i].MatchTaint(&want) {
				taints[i].Value, found = want.Value, true
			}
		}
		if !found {
			taints = append(taints, want)
		}
	}
	// Taints are one list that several controllers write: the resource version makes a concurrent change a conflict.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": node.ResourceVersion}, "spec": map[string]any{"taints": taints}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsConflict(err) {
		if node, err = client.CoreV1().Nodes().Get(ctx, s.Host, metav1.GetOptions{}); err == nil {
			return setTaints(ctx, client, node, s)
		}
	}
	return err
}

// applyManifest applies a manifest's objects and then notes its digest, so that the next plan knows. Before, it notes that it is about to: a run that is
// killed in between leaves objects that the next plan applies again, or removes.
func applyManifest(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	m, ok := e.Manifests[s.Manifest]
	if !ok {
		return fmt.Errorf("there is no manifest named %s", s.Manifest)
	}
	ctx, cancel := withDeadline(ctx, 2*time.Minute, "applying "+s.Manifest)
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		if e.notesIntent(s.Manifest) {
			if err := Note(ctx, client, s.Manifest, plan.BeingApplied); err != nil {
				return err
			}
		}
		if err := applyObjects(ctx, client, m); err != nil {
			return err
		}
		if err := Note(ctx, client, s.Manifest, m.Digest()); err != nil {
			return err
		}
		if s.Change == nil {
			return nil
		}
		return rolledOut(ctx, client, m)
	})
}

// notesIntent says whether a manifest is noted before its objects are applied: one that may be removed later, or that is applied in another version. What
// the first build applies, and nobody removes, is applied again by any later run.
func (e *Env) notesIntent(name string) bool {
	_, removable := manifest.Optional()[name]
	return removable || e.Seen.API != nil && e.Seen.API.Applied[name] != ""
}

// Note stores one entry of the ConfigMap in which Quorate remembers what the cluster is. Each entry has a field manager of its
// own: storing one must not remove the others.
func Note(ctx context.Context, client *kube.Client, key, value string) error {
	entry := applycorev1.ConfigMap(observe.ConfigMap, metav1.NamespaceSystem).WithData(map[string]string{key: value})
	_, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Apply(ctx, entry, metav1.ApplyOptions{FieldManager: fieldManager + "-" + key, Force: true})
	return err
}

// forget removes an entry of that ConfigMap.
func forget(ctx context.Context, client *kube.Client, key string) error {
	patch, err := json.Marshal(map[string]any{"data": map[string]any{key: nil}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Patch(ctx, observe.ConfigMap, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func recordSpec(ctx context.Context, e *Env, s plan.Step) error {
	return e.record(ctx, observe.SpecKey, s.Record)
}

func recordVerified(ctx context.Context, e *Env, s plan.Step) error {
	return e.record(ctx, observe.VerifiedKey, s.Record)
}

// record stores an entry, and outlives an election or an API server that restarts.
func (e *Env) record(ctx context.Context, key, value string) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, 2*time.Minute, "storing the "+key+" in the cluster")
	defer cancel()
	return retry(ctx, 500*time.Millisecond, func(ctx context.Context) error { return Note(ctx, client, key, value) })
}

func applyObjects(ctx context.Context, client *kube.Client, m manifest.Manifest) error {
	return eachObject(ctx, client, m, func(resource dynamic.ResourceInterface, o *unstructured.Unstructured) error {
		if err := applyObject(ctx, resource, o); err != nil {
			return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		return nil
	})
}

// removeManifest removes the objects of a manifest that the spec does not need any more, and then forgets that it was applied.
func removeManifest(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	m, ok := manifest.Optional()[s.Manifest]
	if !ok {
		return fmt.Errorf("there is no manifest named %s that could be removed", s.Manifest)
	}
	ctx, cancel := withDeadline(ctx, 2*time.Minute, "removing "+s.Manifest)
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		if err := removeObjects(ctx, client, m); err != nil {
			return err
		}
		return forget(ctx, client, s.Manifest)
	})
}

func removeObjects(ctx context.Context, client *kube.Client, m manifest.Manifest) error {
	return eachObject(ctx, client, m, func(resource dynamic.ResourceInterface, o *unstructured.Unstructured) error {
		if err := resource.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("removing %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		return nil
	})
}

// eachObject calls do for the objects of a manifest, in their order.
func eachObject(ctx context.Context, client *kube.Client, m manifest.Manifest, do func(dynamic.ResourceInterface, *unstructured.Unstructured) error) error {
	groups, err := restmapper.GetAPIGroupResourcesWithContext(ctx, discovery.ToDiscoveryInterfaceWithContext(client.Discovery()))
	if err != nil {
		return err
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	objects, err := m.Decode()
	if err != nil {
		return err
	}
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return err
		}
		var resource dynamic.ResourceInterface = client.Dynamic.Resource(mapping.Resource)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = client.Dynamic.Resource(mapping.Resource).Namespace(cmp.Or(o.GetNamespace(), m.Namespace))
		}
		if err := do(resource, &o); err != nil {
			return err
		}
	}
	return nil
}

// applyObject exchanges a Job that is to be another one: what a Job runs cannot be changed, and Helm, too, removes a hook's
// Job before it makes the next.
func applyObject(ctx context.Context, resource dynamic.ResourceInterface, o *unstructured.Unstructured) error {
	_, err := resource.Apply(ctx, o.GetName(), o, force)
	if !apierrors.IsInvalid(err) || o.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: batchv1.GroupName, Kind: "Job"}) {
		return err
	}
	background := metav1.DeletePropagationBackground // its pods go, too; a Job's default of old is to leave them
	if derr := resource.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background}); apierrors.IsNotFound(derr) {
		return err // it never was there: the Job is wrong, and not the change
	} else if derr != nil {
		return errors.Join(err, derr)
	}
	if err := retry(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		_, err := resource.Get(ctx, o.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return cmp.Or(err, errors.New("the previous one is still being removed"))
	}); err != nil {
		return err
	}
	_, err = resource.Apply(ctx, o.GetName(), o, force)
	return err
}

// spreadDNS keeps CoreDNS replicas apart, and scales it if the step says so.
func spreadDNS(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, time.Minute, "finding CoreDNS")
	defer cancel()
	deployments := client.AppsV1().Deployments(metav1.NamespaceSystem)
	return retry(ctx, time.Second, func(ctx context.Context) error {
		d, err := deployments.Get(ctx, "coredns", metav1.GetOptions{})
		if err != nil {
			return err
		}
		has := 0
		if d.Spec.Replicas != nil {
			has = int(*d.Spec.Replicas)
		}
		patch, err := json.Marshal(coredns.Spread(has, s.Replicas, s.Zones))
		if err != nil {
			return err
		}
		_, err = deployments.Patch(ctx, "coredns", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		return err
	})
}
