package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
)

// storeSettings puts settings into kubeadm's configuration in the cluster. What the cluster remembers of them is first, so that
// no setting is there that a later run would not remove.
func storeSettings(ctx context.Context, e *Env, s plan.Step) error {
	if s.Record != "" {
		if err := e.record(ctx, observe.SettingsKey, s.Record); err != nil {
			return err
		}
	}
	if s.Settings == nil {
		return nil
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if len(s.Settings.Arguments) > 0 {
		err = changeStored(ctx, client, "kubeadm-config", "ClusterConfiguration", func(text string) (string, error) {
			return kubeadmconfig.WithArguments(text, s.Settings.Arguments)
		})
	}
	if err != nil || len(s.Settings.Kubelet) == 0 {
		return err
	}
	return changeStored(ctx, client, "kubelet-config", "kubelet", func(text string) (string, error) {
		return kubeadmconfig.WithKubeletFields(text, s.Settings.Kubelet)
	})
}

// changeStored changes what a ConfigMap of kubeadm's has under a key. It repeats that while the API does not answer.
func changeStored(ctx context.Context, client *kube.Client, name, key string, change func(string) (string, error)) error {
	return changeStoredIn(ctx, client, metav1.NamespaceSystem, name, key, change)
}

func changeStoredIn(ctx context.Context, client *kube.Client, namespace, name, key string, change func(string) (string, error)) error {
	ctx, cancel := withDeadline(ctx, time.Minute, "changing the ConfigMap "+name)
	defer cancel()
	maps := client.CoreV1().ConfigMaps(namespace)
	return retry(ctx, time.Second, func(ctx context.Context) error {
		have, err := maps.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		text, err := change(have.Data[key])
		if err != nil {
			return err
		}
		if text == have.Data[key] {
			return nil
		}
		// The resource version makes a concurrent change a conflict.
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": have.ResourceVersion}, "data": map[string]string{key: text}})
		if err != nil {
			return err
		}
		_, err = maps.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		return err
	})
}

// restartKubelet gives a kubelet the configuration that the cluster has, and waits until its node is Ready.
func restartKubelet(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	config, err := kubeadmconfig.Upgrade(e.Cluster.Spec.Kubernetes.Version)
	if err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if err := e.fits(ctx, client, s.Host); err != nil { // pods may have come since the check
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.RestartWithSettings.Make(ctx, c, permit, string(config)); err != nil {
		return err
	}
	return e.nodeIsReady(ctx, s.Host)
}

// nodeIsReady waits until the node of a kubelet that restarted is Ready.
func (e *Env) nodeIsReady(ctx context.Context, host string) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, 2*time.Minute, "restarting the kubelet of "+host)
	defer cancel()
	return retry(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		n, err := client.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !nodeReady(n) {
			return errors.New("the node is not Ready")
		}
		return nil
	})
}

// checkFit refuses settings with which nodes have no room for the pods that they run.
func checkFit(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	for _, node := range s.Nodes {
		if err := e.fits(ctx, client, node); err != nil {
			return fmt.Errorf("checking the pods of %s: %w", node, err)
		}
	}
	return nil
}
