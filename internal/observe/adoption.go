package observe

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/components"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// kubeadmConfig reads kubeadm's ClusterConfiguration; nil if there is none.
func kubeadmConfig(text string) *facts.Kubeadm {
	type part struct {
		CertSANs     []string `json:"certSANs"`
		ExtraArgs    any      `json:"extraArgs"` // a map until v1beta3, and a list since v1beta4
		ExtraVolumes []struct {
			HostPath string `json:"hostPath"`
		} `json:"extraVolumes"`
	}
	var c struct {
		Kind       string `json:"kind"`
		Version    string `json:"kubernetesVersion"`
		Cluster    string `json:"clusterName"`
		Endpoint   string `json:"controlPlaneEndpoint"`
		Networking struct {
			DNSDomain     string `json:"dnsDomain"`
			PodSubnet     string `json:"podSubnet"`
			ServiceSubnet string `json:"serviceSubnet"`
		} `json:"networking"`
		Etcd struct {
			Local *struct {
				ExtraArgs any `json:"extraArgs"`
			} `json:"local"`
			External *struct {
				Endpoints                 []string `json:"endpoints"`
				CAFile, CertFile, KeyFile string
			} `json:"external"`
		} `json:"etcd"`
		Validity          string `json:"certificateValidityPeriod"`
		APIServer         part   `json:"apiServer"`
		ControllerManager part   `json:"controllerManager"`
		Scheduler         part   `json:"scheduler"`
	}
	if yaml.Unmarshal([]byte(text), &c) != nil || c.Kind != "ClusterConfiguration" {
		return nil
	}
	out := &facts.Kubeadm{Version: c.Version, Cluster: c.Cluster, DNSDomain: c.Networking.DNSDomain, Endpoint: c.Endpoint, PodCIDR: c.Networking.PodSubnet, ServiceCIDR: c.Networking.ServiceSubnet, ServingNames: c.APIServer.CertSANs}
	out.CertificateLifetime, _ = time.ParseDuration(c.Validity)
	if _, _, err := net.SplitHostPort(c.Endpoint); c.Endpoint != "" && err != nil {
		out.Endpoint = net.JoinHostPort(strings.Trim(c.Endpoint, "[]"), "6443") // kubeadm's default
	}
	for program, p := range map[string]part{facts.APIServer: c.APIServer, facts.ControllerManager: c.ControllerManager, facts.Scheduler: c.Scheduler} {
		if given := extraArgs(p.ExtraArgs); len(given) > 0 {
			if out.Arguments == nil {
				out.Arguments = map[string]map[string]string{}
			}
			out.Arguments[program] = given
		}
		for _, v := range p.ExtraVolumes {
			out.Paths = append(out.Paths, v.HostPath)
		}
	}
	if l := c.Etcd.Local; l != nil {
		out.EtcdTimers = new(hostconfig.ReadEtcdTimers(extraArgs(l.ExtraArgs)))
	}
	if e := c.Etcd.External; e != nil {
		for _, endpoint := range e.Endpoints {
			out.EtcdEndpoints = append(out.EtcdEndpoints, strings.TrimRight(endpoint, "/")) // as the spec has them
		}
		out.Paths = append(out.Paths, e.CAFile, e.CertFile, e.KeyFile)
	}
	slices.Sort(out.Paths)
	out.Paths = slices.Compact(out.Paths)
	return out
}

// extraArgs reads arguments in either format.
func extraArgs(v any) map[string]string {
	out := map[string]string{}
	switch list := v.(type) {
	case map[string]any:
		for name, value := range list {
			out[name] = fmt.Sprint(value)
		}
	case []any:
		for _, x := range list {
			a, _ := x.(map[string]any)
			name, _ := a["name"].(string)
			value, _ := a["value"].(string)
			out[name] = value
		}
	}
	return out
}

// kubeletFields reads a KubeletConfiguration; nil for anything else.
func kubeletFields(text string) map[string]any {
	var out map[string]any
	if yaml.Unmarshal([]byte(text), &out) != nil || out["kind"] != "KubeletConfiguration" {
		return nil
	}
	return out
}

// cniDir is where every CNI plugin puts its configuration.
const cniDir = "/etc/cni/net.d"

func daemonSets(ctx context.Context, client *kube.Client, version string) ([]appsv1.DaemonSet, error) {
	list, err := client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// counts are the DaemonSets of the cluster's own programs.
func counts(sets []appsv1.DaemonSet) (out []facts.DaemonSet) {
	for _, d := range sets {
		if (d.Namespace != metav1.NamespaceSystem || d.Name != facts.KubeProxy) && !configuresNetwork(d) {
			continue
		}
		n := facts.DaemonSet{Namespace: d.Namespace, Name: d.Name, Desired: int(d.Status.DesiredNumberScheduled), Current: int(d.Status.CurrentNumberScheduled),
			Ready: int(d.Status.NumberReady), Updated: int(d.Status.UpdatedNumberScheduled), Stale: d.Status.ObservedGeneration < d.Generation, Endpoint: d.Spec.Template.Annotations[facts.EndpointAnnotation],
			Authority: d.Spec.Template.Annotations[facts.AuthorityAnnotation]}
		if c := d.Spec.Template.Spec.Containers; len(c) > 0 {
			n.Version = components.Tag(c[0].Image)
		}
		out = append(out, n)
	}
	return out
}

// AgentSets are these DaemonSets, as namespace/name.
func AgentSets(ctx context.Context, client *kube.Client) (out []string, err error) {
	sets, err := daemonSets(ctx, client, "")
	for _, d := range counts(sets) {
		out = append(out, d.Namespace+"/"+d.Name)
	}
	return out, err
}

// networks are the DaemonSets that configure the pod network.
func networks(sets []appsv1.DaemonSet) (out []facts.Network) {
	for _, d := range sets {
		if !configuresNetwork(d) {
			continue
		}
		n := facts.Network{Namespace: d.Namespace, Name: d.Name}
		for _, c := range d.Spec.Template.Spec.Containers {
			n.Images = append(n.Images, c.Image)
		}
		out = append(out, n)
	}
	return out
}

func configuresNetwork(d appsv1.DaemonSet) bool {
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.HostPath != nil && strings.TrimSuffix(v.HostPath.Path, "/") == cniDir {
			return true
		}
	}
	return false
}
