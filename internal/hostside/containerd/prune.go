package containerd

import (
	"context"
	"fmt"
	"slices"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"quorate.dev/quorate/internal/host"
)

// PruneImages removes from containerd the images that came with other bundles than these. An image that a container uses stays,
// and so does every image that somebody else pulled.
var PruneImages = host.Define("bundle.prune-images", func(ctx context.Context, keep []string) ([]string, error) {
	conn, err := containerd()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return pruneImages(ctx, imagesapi.NewImagesClient(conn), containersapi.NewContainersClient(conn), keep)
})

func pruneImages(ctx context.Context, images imagesapi.ImagesClient, containers containersapi.ContainersClient, keep []string) (removed []string, err error) {
	all, err := images.List(kube(ctx), &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking containerd for images: %w", err)
	}
	running, err := containers.List(kube(ctx), &containersapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking containerd for containers: %w", err)
	}
	// A container names its image as it was asked for, and the CRI plugin also by the ID: an image is in use under all of its names.
	used := map[string]bool{}
	for _, c := range running.Containers {
		used[c.Image] = true
	}
	for _, i := range all.Images {
		if used[i.Name] {
			used[i.Target.GetDigest()] = true
		}
	}
	for _, i := range all.Images {
		bundle := i.Labels[bundleLabel]
		if bundle == "" || slices.Contains(keep, bundle) || used[i.Name] || used[i.Target.GetDigest()] {
			continue
		}
		if _, err := images.Delete(kube(ctx), &imagesapi.DeleteImageRequest{Name: i.Name}); err != nil && status.Code(err) != codes.NotFound {
			return removed, fmt.Errorf("removing the image %s: %w", i.Name, err)
		}
		removed = append(removed, i.Name)
	}
	return removed, nil
}
