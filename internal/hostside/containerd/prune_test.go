package containerd

import (
	"context"
	"slices"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

type imageStore struct {
	imagesapi.ImagesClient
	images []*imagesapi.Image
}

func (s *imageStore) List(context.Context, *imagesapi.ListImagesRequest, ...grpc.CallOption) (*imagesapi.ListImagesResponse, error) {
	return &imagesapi.ListImagesResponse{Images: slices.Clone(s.images)}, nil
}

func (s *imageStore) Delete(_ context.Context, r *imagesapi.DeleteImageRequest, _ ...grpc.CallOption) (*emptypb.Empty, error) {
	s.images = slices.DeleteFunc(s.images, func(i *imagesapi.Image) bool { return i.Name == r.Name })
	return &emptypb.Empty{}, nil
}

type containerStore struct {
	containersapi.ContainersClient
	uses []string
}

func (s containerStore) List(context.Context, *containersapi.ListContainersRequest, ...grpc.CallOption) (*containersapi.ListContainersResponse, error) {
	out := &containersapi.ListContainersResponse{}
	for _, image := range s.uses {
		out.Containers = append(out.Containers, &containersapi.Container{Image: image})
	}
	return out, nil
}

// TestImagesOfFormerBundlesAreRemoved, and only those that nothing uses.
func TestImagesOfFormerBundlesAreRemoved(t *testing.T) {
	image := func(name, digest, bundle string) *imagesapi.Image {
		labels := map[string]string{}
		if bundle != "" {
			labels[bundleLabel] = bundle
		}
		return &imagesapi.Image{Name: name, Labels: labels, Target: &types.Descriptor{Digest: digest}}
	}
	s := &imageStore{images: []*imagesapi.Image{
		image("old/used", "d1", "old"), image("sha256:1", "d1", "old"), image("old/unused", "d2", "old"), image("new/unused", "d3", "new"), image("theirs", "d4", ""),
	}}
	removed, err := pruneImages(t.Context(), s, containerStore{uses: []string{"old/used"}}, []string{"new"})
	if err != nil || !slices.Equal(removed, []string{"old/unused"}) || len(s.images) != 4 {
		t.Errorf("removed %v, %v; %d are left", removed, err, len(s.images))
	}
}
