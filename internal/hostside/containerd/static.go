package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

const (
	kubeletUnit = "kubelet.service"
	kubeSystem  = "kube-system"
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
	containers, err := runningContainers(ctx, client, kubeSystem, in.Container)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, c := range containers {
		if _, err := client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: in.GraceSeconds}); err != nil {
			errs = append(errs, fmt.Errorf("stopping the container %s: %w", in.Container, err))
		}
	}
	return len(containers), errors.Join(errs...)
}

// Running counts the running containers of a name in kube-system.
func Running(ctx context.Context, name string) (int, error) {
	conn, err := containerd()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	containers, err := runningContainers(ctx, runtimeapi.NewRuntimeServiceClient(conn), kubeSystem, name)
	return len(containers), err
}

// Held counts what shows that the kubelet still holds a static pod of kubeadm's (by its label component): the running containers or,
// if there are none, the sandboxes that are ready. A container that has failed does not run until the kubelet starts it again, so the
// lack of a running one does not show that the kubelet has noticed that the manifest is gone. While the kubelet does not run, sandboxes
// do not count: nothing would start the container, and the kubelet reads the manifests again when it starts.
func Held(ctx context.Context, pod string) (int, error) {
	conn, err := containerd()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	containers, err := runningContainers(ctx, client, kubeSystem, pod)
	if err != nil || len(containers) > 0 {
		return len(containers), err
	}
	list, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{"component": pod, PodNamespaceLabel: kubeSystem},
	}})
	if err != nil {
		return 0, fmt.Errorf("asking containerd for the pod %s: %w", pod, err)
	}
	if len(list.Items) == 0 {
		return 0, nil
	}
	units, err := system.Units(ctx, kubeletUnit)
	if err != nil {
		return 0, err
	}
	if kubelet := units[kubeletUnit]; kubelet.Active == "inactive" || kubelet.Active == "failed" {
		return 0, nil
	}
	return len(list.Items), nil
}

func runningContainers(ctx context.Context, client runtimeapi.RuntimeServiceClient, namespace, name string) ([]*runtimeapi.Container, error) {
	list, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.container.name": name, PodNamespaceLabel: namespace},
	}})
	if err != nil {
		return nil, fmt.Errorf("asking containerd for the container %s: %w", name, err)
	}
	return list.Containers, nil
}

// IDs are the containers of a static pod that run on this host.
func IDs(ctx context.Context, name string) (out []string, _ error) {
	return IDsIn(ctx, kubeSystem, name)
}

// IDsIn are the containers of a name that run on this host in pods of a namespace.
func IDsIn(ctx context.Context, namespace, name string) (out []string, _ error) {
	conn, err := containerd()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := runningContainers(ctx, runtimeapi.NewRuntimeServiceClient(conn), namespace, name)
	for _, c := range list {
		out = append(out, c.Id)
	}
	return out, err
}

// Stop ends containers, within a time after which they are killed. One that has ended already is no error.
func Stop(ctx context.Context, ids []string, grace time.Duration) error {
	conn, err := containerd()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	var errs []error
	for _, id := range ids {
		_, err := client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: int64(grace.Seconds())})
		if err != nil && status.Code(err) != codes.NotFound {
			errs = append(errs, fmt.Errorf("stopping the container %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}
