package backup

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/snapshot"
)

// TestObjectsAreReadAsTheyAreWritten: what Objects makes of kubeadm-config is what Networking reads.
func TestObjectsAreReadAsTheyAreWritten(t *testing.T) {
	in := snapshot.Contents{Values: map[string][]byte{
		SystemNamespace:              []byte(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "1a2b3c4d-5e6f"}}`),
		configMapsAt + kubeadmConfig: []byte(`{"apiVersion": "v1", "kind": "ConfigMap", "data": {"ClusterConfiguration": "kubernetesVersion: v1.37.2\nnetworking: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16, dnsDomain: cluster.local}\n"}}`),
		configMapsAt + "quorate":     []byte(`{"apiVersion": "v1", "kind": "ConfigMap", "data": {"spec": "kind: Cluster\n"}}`),
	}}
	var m Manifest
	parts, err := Objects(in, &m)
	if err != nil {
		t.Fatal(err)
	}
	if m.Cluster.UID != "1a2b3c4d-5e6f" || m.Cluster.Kubernetes != "v1.37.2" || string(parts[SpecPart]) != "kind: Cluster\n" || !slices.Equal(m.Missing, []string{ConfigMaps + "kubelet-config.json"}) {
		t.Errorf("%+v, %q", m, parts)
	}
	n, err := Unpacked{Parts: parts}.Networking()
	if want := (Networking{"10.1.0.0/16", "10.2.0.0/16", "cluster.local"}); err != nil || n != want {
		t.Errorf("%+v, %v", n, err)
	}
	delete(in.Values, SystemNamespace)
	if _, err := Objects(in, &m); err == nil {
		t.Error("without the namespace that identifies the cluster")
	}
}
