package observe

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/facts"
)

func TestKubeadmConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want *facts.Kubeadm
	}{
		"kubeadm's own": {`apiServer: {extraArgs: [{name: v, value: "2"}]}
apiVersion: kubeadm.k8s.io/v1beta4
controlPlaneEndpoint: api.example.com
etcd: {local: {dataDir: /var/lib/etcd, extraArgs: [{name: election-timeout, value: "300"}, {name: heartbeat-interval, value: "30"}]}}
kind: ClusterConfiguration
networking: {dnsDomain: cluster.local, podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}
`, &facts.Kubeadm{DNSDomain: "cluster.local", Endpoint: "api.example.com:6443", PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/12", EtcdTimers: &facts.EtcdTimers{Heartbeat: 30, Election: 300},
			Arguments: map[string]map[string]string{facts.APIServer: {"v": "2"}}}},
		"an operator's": {`apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
clusterName: prod
controlPlaneEndpoint: 10.0.0.9:8443
apiServer: {extraArgs: {v: "2"}, extraVolumes: [{name: a, hostPath: /etc/audit, mountPath: /etc/audit}]}
scheduler: {extraVolumes: [{name: s, hostPath: /etc/scheduler, mountPath: /x}, {name: a, hostPath: /etc/audit, mountPath: /y}]}
etcd: {external: {endpoints: ["https://e:2379/"], caFile: /a, certFile: /b, keyFile: /c}}
`, &facts.Kubeadm{Cluster: "prod", Endpoint: "10.0.0.9:8443", EtcdEndpoints: []string{"https://e:2379"}, Paths: []string{"/a", "/b", "/c", "/etc/audit", "/etc/scheduler"},
			Arguments: map[string]map[string]string{facts.APIServer: {"v": "2"}}}},
		"nothing":        {"", nil},
		"something else": {"kind: InitConfiguration\n", nil},
		"no YAML":        {"{", nil},
	} {
		if got := kubeadmConfig(tc.text); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestConfiguresNetwork(t *testing.T) {
	for path, want := range map[string]bool{"/etc/cni/net.d": true, "/etc/cni/net.d/": true, "/etc/cni": false, "": false} {
		var d appsv1.DaemonSet
		d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "x"}}
		if path != "" {
			d.Spec.Template.Spec.Volumes[0].HostPath = &corev1.HostPathVolumeSource{Path: path}
		}
		if got := configuresNetwork(d); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}
