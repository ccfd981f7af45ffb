package kubeadm

import "testing"

func TestNodeLabelsInTheKubeletsFlags(t *testing.T) {
	for _, tc := range []struct{ flags, want string }{
		{`KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.1 --node-labels=topology.kubernetes.io/zone=a"`, `KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.1 --node-labels=topology.kubernetes.io/zone=b"`},
		{`KUBELET_KUBEADM_ARGS="--node-labels=x=1,topology.kubernetes.io/zone=a --v=2"`, `KUBELET_KUBEADM_ARGS="--node-labels=topology.kubernetes.io/zone=b,x=1 --v=2"`},
		{`KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.1"`, `KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.1"`},
		{"", ""},
	} {
		if got := withNodeLabels(tc.flags, map[string]string{"topology.kubernetes.io/zone": "b"}); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}
