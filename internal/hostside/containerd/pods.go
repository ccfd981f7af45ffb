package containerd

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopPods kills and removes all pods of this host. The kubelet must be stopped, because it would start them again.
func StopPods(ctx context.Context) error {
	conn, err := containerd()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	pods, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("asking containerd for its pods: %w", err)
	}
	var errs []error
	for _, p := range pods.Items {
		_, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id})
		if err == nil {
			_, err = client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("stopping the pod %s: %w", p.Metadata.GetName(), err))
		}
	}
	return errors.Join(errs...)
}
