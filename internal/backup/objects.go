package backup

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/snapshot"
)

const (
	// objectsAt is where API servers keep their objects.
	objectsAt = "/registry/"
	// SystemNamespace is the key in etcd of the namespace whose UID identifies a cluster.
	SystemNamespace = objectsAt + "namespaces/kube-system"

	configMapsAt  = objectsAt + "configmaps/kube-system/"
	kubeadmConfig = "kubeadm-config"
)

// configMaps are those in kube-system that backups have as files of their own, too.
var configMaps = []string{kubeadmConfig, "kubelet-config", facts.ConfigMap}

// ObjectKeys are the keys in etcd of the objects that Objects reads.
func ObjectKeys() []string {
	keys := []string{SystemNamespace}
	for _, name := range configMaps {
		keys = append(keys, configMapsAt+name)
	}
	return keys
}

// Object reads an object of Kubernetes from etcd's values. It is false if there is none.
func Object(in snapshot.Contents, key string, into runtime.Object) (bool, error) {
	value, has := in.Values[key]
	if !has {
		return false, nil
	}
	if mark := encryption.Mark(value); mark != "" {
		return true, fmt.Errorf("%s in etcd is encrypted (%s), and backups need it as it is: take its resource out of the encryption configuration, and write the object again", key, strings.TrimSuffix(mark, ":"))
	}
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(value, nil, into); err != nil {
		return true, fmt.Errorf("reading %s from etcd: %w", key, err)
	}
	return true, nil
}

// Objects reads the objects of ObjectKeys from a snapshot, as parts of a backup, and completes the manifest with what they say. No API server is
// needed for that, and they are as old as everything else in the backup.
func Objects(in snapshot.Contents, m *Manifest) (map[string][]byte, error) {
	var system corev1.Namespace
	switch has, err := Object(in, SystemNamespace, &system); {
	case err != nil:
		return nil, err
	case !has:
		return nil, fmt.Errorf("etcd has no %s, which identifies the cluster: backups need an etcd with the objects of Kubernetes below %s", SystemNamespace, objectsAt)
	}
	m.Cluster.UID = string(system.UID)
	out := map[string][]byte{}
	var own corev1.ConfigMap
	for _, name := range configMaps {
		var found corev1.ConfigMap
		part := ConfigMaps + name + ".json"
		has, err := Object(in, configMapsAt+name, &found)
		if err != nil {
			return nil, err
		}
		if !has {
			m.Missing = append(m.Missing, part)
			continue
		}
		if out[part], err = json.MarshalIndent(found.Data, "", "  "); err != nil {
			return nil, err
		}
		if name == facts.ConfigMap {
			own = found
		}
		var kubeadm struct {
			KubernetesVersion string `json:"kubernetesVersion"`
		}
		if name == kubeadmConfig && yaml.Unmarshal([]byte(found.Data["ClusterConfiguration"]), &kubeadm) == nil {
			m.Cluster.Kubernetes = kubeadm.KubernetesVersion
		}
	}
	if text := own.Data[facts.SpecKey]; text != "" {
		out[SpecPart] = []byte(text)
	} else {
		m.Missing = append(m.Missing, SpecPart)
	}
	return out, nil
}
