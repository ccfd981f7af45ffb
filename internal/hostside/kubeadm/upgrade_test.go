package kubeadm

import "testing"

func TestEtcdsVersionIsAmongItsMetrics(t *testing.T) {
	const metrics = "# TYPE etcd_server_version gauge\netcd_server_id{server_id=\"8e9e05c52164694d\"} 1\netcd_server_version{server_version=\"3.7.3\"} 1\n"
	if got := serverVersion(metrics); got != "3.7.3" {
		t.Errorf("%q", got)
	}
	for _, other := range []string{"", "etcd_server_version 1\n", "# etcd_server_version{server_version=\"3.7.3\"} 1"} {
		if got := serverVersion(other); got != "" {
			t.Errorf("%q in %q", got, other)
		}
	}
}
