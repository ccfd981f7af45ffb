package kubeadm

import (
	"errors"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
)

// sections are where a ClusterConfiguration has the arguments of a program.
var sections = map[string]string{facts.APIServer: "apiServer", facts.ControllerManager: "controllerManager", facts.Scheduler: "scheduler"}

// WithArguments is a stored ClusterConfiguration with other arguments, by program and name; of a stacked etcd as well. One without a value is removed. All
// other arguments stay as they are.
func WithArguments(stored string, changed map[string]map[string]string) (string, error) {
	var cluster object
	if err := read(stored, "kubeadm-config", "ClusterConfiguration", &cluster); err != nil {
		return "", err
	}
	for program, section := range sections {
		part, _ := cluster[section].(object)
		if part == nil {
			part = object{}
		}
		if err := setArguments(part, changed[program]); err != nil {
			return "", err
		}
		cluster[section] = part
	}
	if etcd, _ := cluster["etcd"].(object); len(changed[facts.Etcd]) > 0 {
		local, _ := etcd["local"].(object)
		if local == nil {
			return "", errors.New("the etcd of kubeadm's configuration in the cluster is not stacked")
		}
		if err := setArguments(local, changed[facts.Etcd]); err != nil {
			return "", err
		}
	}
	text, err := yaml.Marshal(cluster)
	return string(text), err
}

// setArguments changes the arguments of one program.
func setArguments(part object, changed map[string]string) error {
	if _, old := part["extraArgs"].(object); old {
		return errors.New("kubeadm's configuration in the cluster has the format v1beta3 or an older one; `kubeadm config migrate` converts it")
	}
	given, _ := part["extraArgs"].([]any)
	given = slices.DeleteFunc(given, func(x any) bool {
		a, _ := x.(object)
		name, _ := a["name"].(string)
		_, other := changed[name]
		return other
	})
	for _, a := range args(changed) {
		if a.Value != "" {
			given = append(given, object{"name": a.Name, "value": a.Value})
		}
	}
	if delete(part, "extraArgs"); len(given) > 0 {
		part["extraArgs"] = given
	}
	return nil
}

// read reads what a ConfigMap stores.
func read(stored, name, kind string, into *object) error {
	if err := yaml.Unmarshal([]byte(stored), into); err != nil {
		return fmt.Errorf("reading the %s in the ConfigMap %s: %w", kind, name, err)
	}
	if (*into)["kind"] != kind {
		return fmt.Errorf("the ConfigMap %s holds no %s", name, kind)
	}
	return nil
}

// WithKubeletFields is a stored KubeletConfiguration with other fields. One without a value is removed.
func WithKubeletFields(stored string, changed map[string]any) (string, error) {
	var kubelet object
	if err := read(stored, "kubelet-config", "KubeletConfiguration", &kubelet); err != nil {
		return "", err
	}
	for name, value := range changed {
		if value == nil {
			delete(kubelet, name)
		} else {
			kubelet[name] = value
		}
	}
	text, err := yaml.Marshal(kubelet)
	return string(text), err
}
