package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

// rolloutTimeout is how long kube-proxy and CoreDNS may take to be replaced.
const rolloutTimeout = 5 * time.Minute

// snapshotEtcd saves a snapshot on a host with a member.
func snapshotEtcd(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	saved, err := etcd.Snapshot.On(ctx, c, s.Detail)
	if err == nil {
		e.report(s, fmt.Sprintf("%s (%.1f MiB) was saved and read again", saved.File, float64(saved.Bytes)/(1<<20)))
	}
	return err
}

// keepSnapshots copies snapshots of etcd from one host to another, through this process.
func keepSnapshots(ctx context.Context, e *Env, s plan.Step) error {
	from, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	to, err := e.Conns.Get(s.Detail)
	if err != nil {
		return err
	}
	for _, name := range s.Snapshots {
		size, err := etcd.SnapshotSize.On(ctx, from, name)
		if err != nil {
			return fmt.Errorf("copying the snapshot %s to %s: %w", name, s.Detail, err)
		}
		all := host.Pieces(func(offset int64) ([]byte, error) {
			return etcd.ReadSnapshot.On(ctx, from, etcd.SnapshotPiece{Name: name, Offset: offset})
		})
		saved, err := etcd.KeepSnapshot.Send(ctx, to, etcd.KeptSnapshot{Name: name, Bytes: size}, all)
		if err != nil {
			return fmt.Errorf("copying the snapshot %s to %s: %w", name, s.Detail, err)
		}
		e.report(s, fmt.Sprintf("%s (%.1f MiB) was copied to %s and read again", name, float64(saved.Bytes)/(1<<20), s.Detail))
	}
	return nil
}

// checkStored refuses to go on if etcd holds what the new API servers could not read.
func checkStored(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	local := hostconfig.EtcdLoopback(func(address string) bool {
		return strings.HasPrefix(address, "[") == (spec.FamilyOf(h.Address) == spec.IPv6)
	})
	request := etcd.StoredRequest{Endpoints: []string{"https://" + local}}
	if !e.Cluster.StackedEtcd() {
		request.Endpoints = hostconfig.EtcdEndpoints(e.Cluster)
	}
	for _, t := range cluster.Unreadable(e.Cluster.Spec.Kubernetes.Version) {
		request.Types = append(request.Types, etcd.StoredType{APIVersion: t.APIVersion, Resources: t.Resources})
	}
	if len(request.Types) == 0 {
		return nil
	}
	found, err := etcd.Stored.On(ctx, c, request)
	if err != nil || len(found) == 0 {
		return err
	}
	return unreadable(found, e.Cluster.Spec.Kubernetes.Version)
}

// unreadable names the objects.
func unreadable(found []etcd.StoredObject, version string) *cluster.Refusal {
	const shown = 10
	var names []string
	for _, o := range found[:min(shown, len(found))] {
		names = append(names, o.Key+" ("+o.APIVersion+")")
	}
	if more := len(found) - shown; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return &cluster.Refusal{Rule: "readable-objects", Have: len(found), Why: fmt.Sprintf("etcd holds objects in versions that Kubernetes %s cannot read: %s", version, cluster.List(names)),
		Fix: "Nothing was changed. Delete these objects, or have the API store them in another version first (apply them again in a version that both know, where there is one)."}
}

// upgradeControlPlane replaces the static pods and the kubelet of a control plane.
func upgradeControlPlane(ctx context.Context, e *Env, s plan.Step) error {
	h, c, config, err := e.upgradedConfig(ctx, s)
	if err != nil {
		return err
	}
	upgrade, err := kubeadmconfig.Upgrade(s.Change.Kubernetes)
	if err != nil {
		return err
	}
	b, err := e.bundleFor(s.Host)
	if err != nil {
		return err
	}
	request := kubeadm.UpgradeRequest{Config: config, Upgrade: string(upgrade), Kubernetes: s.Change.Kubernetes, Etcd: s.Change.Etcd,
		Programs: programs.SwitchRequest{Bundle: b.Digest(), Programs: s.Programs}}
	if len(e.Cluster.HostsWith(spec.RoleControlPlane)) > 1 {
		request.Node = h.Name
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.UpgradeControlPlane.Make(ctx, c, permit, request)
	return err
}

// upgradedConfig is kubeadm's configuration as the cluster has it, with the version of the spec. While no API server answers, it
// is the one that Quorate renders.
func (e *Env) upgradedConfig(ctx context.Context, s plan.Step) (spec.Host, *host.Conn, string, error) {
	h, c, own, err := e.initConfig(s)
	if err != nil {
		return h, nil, "", err
	}
	client, err := e.api(ctx)
	if err != nil {
		return h, c, own, nil //nolint:nilerr // as the comment says
	}
	var stored string
	limited, cancel := withDeadline(ctx, 30*time.Second, "reading kubeadm's configuration")
	defer cancel()
	if err := retry(limited, time.Second, func(ctx context.Context) error {
		m, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubeadm-config", metav1.GetOptions{})
		if err == nil {
			stored = m.Data["ClusterConfiguration"]
		}
		return err
	}); err != nil {
		return h, c, own, ctx.Err()
	}
	raw, err := kubeadmconfig.Upgraded(h, stored, e.Cluster.Spec.Kubernetes.Version)
	return h, c, string(raw), err
}

// upgradeNode switches containerd and the kubelet of a worker, and waits until the API sees the new kubelet.
func upgradeNode(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	config, err := kubeadmconfig.Upgrade(s.Change.Kubernetes)
	if err != nil {
		return err
	}
	b, err := e.bundleFor(s.Host)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.PrepareKubelet.Make(ctx, c, permit, string(config)); err != nil {
		return err
	}
	if _, err := programs.SwitchRunning.Make(ctx, c, permit, programs.SwitchRequest{Bundle: b.Digest(), Programs: s.Programs, Restart: s.Restart}); err != nil {
		return err
	}
	if _, err := kubeadm.KubeletRestarted.On(ctx, c, struct{}{}); err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, 2*time.Minute, "starting the kubelet of "+s.Host)
	defer cancel()
	return retry(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		n, err := client.CoreV1().Nodes().Get(ctx, s.Host, metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case n.Status.NodeInfo.KubeletVersion != s.Change.Kubernetes:
			return fmt.Errorf("the node says that it runs %s", n.Status.NodeInfo.KubeletVersion)
		case !nodeReady(n):
			return errors.New("the node is not Ready")
		}
		return nil
	})
}

// convertEtcd has etcd prepare for older members, or ends that.
func convertEtcd(ctx context.Context, e *Env, s plan.Step) error {
	var members []etcd.Member
	for _, h := range e.Cluster.EtcdHosts() {
		c, err := e.Conns.Get(h.Name)
		members = append(members, etcd.On(h.Name, h.Address, c, err, e.Seen))
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	if s.Etcd == "" {
		return etcd.CancelDowngrade(ctx, members)
	}
	return etcd.Downgrade(ctx, members, s.Etcd)
}

// switchAddons changes nothing but the images of kube-proxy and CoreDNS.
func switchAddons(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	for _, name := range s.Pods {
		image, ok := e.Bundle.Image(name)
		if !ok {
			return fmt.Errorf("the bundle has no image %s", name)
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
			"containers": []map[string]any{{"name": name, "image": image.Name}}}}}})
		if err != nil {
			return err
		}
		err = e.onAPI(ctx, "changing the image of "+name, func(ctx context.Context) error {
			options := metav1.PatchOptions{FieldManager: fieldManager}
			if name == "coredns" {
				_, err = client.AppsV1().Deployments(metav1.NamespaceSystem).Patch(ctx, name, types.StrategicMergePatchType, patch, options)
			} else {
				_, err = client.AppsV1().DaemonSets(metav1.NamespaceSystem).Patch(ctx, name, types.StrategicMergePatchType, patch, options)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return e.addonsRolledOut(ctx, client, s.Pods)
}

// upgradeCluster runs on one control plane what kubeadm does once.
func upgradeCluster(ctx context.Context, e *Env, s plan.Step) error {
	_, c, config, err := e.upgradedConfig(ctx, s)
	if err != nil {
		return err
	}
	upgrade, err := kubeadmconfig.Upgrade(e.Cluster.Spec.Kubernetes.Version)
	if err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if err := e.apiServersReported(ctx, client); err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if err := e.onAPI(ctx, "enabling the addons in kubeadm's configuration", func(ctx context.Context) error { return enableAddons(ctx, client) }); err != nil {
		return err
	}
	if _, err := kubeadm.UpgradeCluster.Make(ctx, c, permit, kubeadm.ClusterUpgrade{Config: config, Upgrade: string(upgrade)}); err != nil {
		return err
	}
	return e.addonsRolledOut(ctx, client, []string{"kube-proxy"}) // CoreDNS is changed once more right after this
}

// apiServersReported waits until the API shows that all API servers run the version. The kubelet reports it some seconds after it has started
// the pod, and the pod of a host that was removed stays for about a minute. As long as one has another version, kubeadm skips the
// addons, and succeeds.
func (e *Env) apiServersReported(ctx context.Context, client *kube.Client) error {
	const name = "kube-apiserver"
	want, ok := e.Bundle.Image(name)
	if !ok {
		return fmt.Errorf("the bundle has no image %s", name)
	}
	ctx, cancel := withDeadline(ctx, 3*time.Minute, "waiting until the API shows the new version of all API servers")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "component=" + name}) // as kubeadm does
		if err != nil {
			return err
		}
		missing := cluster.Names(e.Cluster.HostsWith(spec.RoleControlPlane))
		for _, pod := range pods.Items {
			missing = slices.DeleteFunc(missing, func(host string) bool { return host == pod.Spec.NodeName })
			if have := containerImage(pod.Spec.Containers, name); have != want.Name {
				return fmt.Errorf("the API says that the API server of %s runs %s instead of %s", pod.Spec.NodeName, have, want.Name)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("the API does not show the API server of %s", strings.Join(missing, " and "))
		}
		return nil
	})
}

func containerImage(containers []corev1.Container, name string) string {
	for _, c := range containers {
		if c.Name == name {
			return c.Image
		}
	}
	return ""
}

// storeVersion has kubeadm's configuration in the cluster name the version with which a control plane joins.
func storeVersion(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	return changeStored(ctx, client, "kubeadm-config", "ClusterConfiguration", func(text string) (string, error) {
		return kubeadmconfig.WithVersion(text, s.Record)
	})
}

// enableAddons takes back that kubeadm's configuration calls addons disabled that the cluster has.
func enableAddons(ctx context.Context, client *kube.Client) error {
	_, err := client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
	if ignoreAbsent(err) != nil {
		return err
	}
	proxy := err == nil
	_, err = client.AppsV1().Deployments(metav1.NamespaceSystem).Get(ctx, "coredns", metav1.GetOptions{})
	if ignoreAbsent(err) != nil {
		return err
	}
	dns := err == nil
	return changeStored(ctx, client, "kubeadm-config", "ClusterConfiguration", func(text string) (string, error) {
		return kubeadmconfig.WithAddons(text, proxy, dns)
	})
}

// onAPI does something that an election or an API server that restarts must not end.
func (e *Env) onAPI(ctx context.Context, what string, f func(context.Context) error) error {
	ctx, cancel := withDeadline(ctx, time.Minute, what)
	defer cancel()
	return retry(ctx, time.Second, f)
}

// addonsRolledOut waits until the pods of addons run the bundle's images. An addon that is not there is none to wait for.
func (e *Env) addonsRolledOut(ctx context.Context, client *kube.Client, names []string) error {
	ctx, cancel := withDeadline(ctx, rolloutTimeout, "replacing "+strings.Join(names, " and "))
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		if slices.Contains(names, "kube-proxy") {
			set, err := client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
			if ignoreAbsent(err) != nil {
				return err
			}
			if err == nil && !e.runsOurs(set.Spec.Template, "kube-proxy") {
				return errors.New("kube-proxy still has another image")
			}
			if err == nil && !setRolledOut(set) {
				return fmt.Errorf("kube-proxy runs its new version on %d of %d nodes", set.Status.UpdatedNumberScheduled, set.Status.DesiredNumberScheduled)
			}
		}
		if slices.Contains(names, "coredns") {
			d, err := client.AppsV1().Deployments(metav1.NamespaceSystem).Get(ctx, "coredns", metav1.GetOptions{})
			if ignoreAbsent(err) != nil {
				return err
			}
			if err == nil && !e.runsOurs(d.Spec.Template, "coredns") {
				return errors.New("CoreDNS still has another image")
			}
			if err == nil && !deploymentRolledOut(d) {
				return fmt.Errorf("CoreDNS runs its new version in %d of %d replicas", d.Status.UpdatedReplicas, d.Status.Replicas)
			}
		}
		return nil
	})
}

// runsOurs says that a container of a pod has the bundle's image.
func (e *Env) runsOurs(pod corev1.PodTemplateSpec, container string) bool {
	want, ok := e.Bundle.Image(container)
	return ok && containerImage(pod.Spec.Containers, container) == want.Name
}

func deploymentRolledOut(d *appsv1.Deployment) bool {
	st := d.Status
	return st.ObservedGeneration >= d.Generation && st.UpdatedReplicas >= st.Replicas && st.UnavailableReplicas == 0
}

func setRolledOut(set *appsv1.DaemonSet) bool {
	st := set.Status
	return st.ObservedGeneration >= set.Generation && st.UpdatedNumberScheduled >= st.DesiredNumberScheduled && st.NumberUnavailable == 0
}

func ignoreAbsent(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
