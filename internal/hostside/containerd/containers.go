package containerd

import (
	"context"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

// socket is where containerd answers; a variable for tests.
var socket = "/run/containerd/containerd.sock"

// Version is the version of the containerd that runs. It is an error if containerd does not answer.
func Version(ctx context.Context) (string, error) {
	conn, err := containerd()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := versionapi.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", fmt.Errorf("asking containerd for its version: %w", err)
	}
	return answer.Version, nil
}

// Container is what containerd knows about one of Kubernetes' containers.
type Container struct {
	Image  string
	Labels map[string]string
}

// Labels with which the CRI plugin marks the pod of a container.
const (
	PodLabel          = "io.kubernetes.pod.name"
	PodNamespaceLabel = "io.kubernetes.pod.namespace"
)

// Containers finds containers by ID. Containers that containerd does not know have no entry.
func Containers(ctx context.Context, ids ...string) (map[string]Container, error) {
	conn, err := containerd()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var filters []string
	for _, id := range ids {
		filters = append(filters, "id=="+id)
	}
	answer, err := containersapi.NewContainersClient(conn).List(kube(ctx), &containersapi.ListContainersRequest{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("asking containerd for containers: %w", err)
	}
	out := map[string]Container{}
	for _, c := range answer.Containers {
		out[c.ID] = Container{Image: c.Image, Labels: c.Labels}
	}
	return out, nil
}
