package kubeadm

import (
	"strings"
	"testing"
)

func TestConfigurationIsSecure(t *testing.T) {
	c := config()
	out, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, "name: encryption-provider-config\n    value: /etc/kubernetes/pki/encryption.yaml", "name: audit-policy-file", "name: authentication-config",
		"name: kubelet-certificate-authority", "mountPath: /var/log/kubernetes/audit", "serverTLSBootstrap: true", "seccompDefault: true", "value: TLS1.2")
	if n := strings.Count(string(out), "name: profiling\n    value: \"false\""); n != 3 {
		t.Errorf("profiling is off in %d of 3 programs", n)
	}
	if strings.Contains(string(out), "secret:") {
		t.Error("what goes into the cluster's ConfigMap holds a key")
	}
}
