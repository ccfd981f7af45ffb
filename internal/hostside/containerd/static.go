package containerd

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"quorate.dev/quorate/internal/host"
)

// StopRequest names a container of this host's pods in kube-system: a static pod has one, of the same name.
type StopRequest struct {
	Container string `json:"container"`
	// GraceSeconds is how long it may take to end before it is killed.
	GraceSeconds int64 `json:"graceSeconds"`
}

// StopContainer ends the container as the kubelet would, and returns how many there were when it has ended. The kubelet starts
// it again, unless its manifest was taken away.
var StopContainer = host.DefineChange("node.stop-container", func(ctx context.Context, in StopRequest) (int, error) {
	return stopContainers(ctx, in)
})

func stopContainers(ctx context.Context, in StopRequest) (int, error) {
	conn, err := containerd()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	list, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.container.name": in.Container, PodNamespaceLabel: "kube-system"},
	}})
	if err != nil {
		return 0, fmt.Errorf("asking containerd for the container %s: %w", in.Container, err)
	}
	var errs []error
	for _, c := range list.Containers {
		if _, err := client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: in.GraceSeconds}); err != nil {
			errs = append(errs, fmt.Errorf("stopping the container %s: %w", in.Container, err))
		}
	}
	return len(list.Containers), errors.Join(errs...)
}
