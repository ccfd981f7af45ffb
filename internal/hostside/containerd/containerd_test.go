package containerd

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"quorate.dev/quorate/internal/bundle"
)

// fake is a containerd with containers.
type fake struct {
	containersapi.UnimplementedContainersServer
	versionapi.UnimplementedVersionServer
	all []*containersapi.Container
}

func (fake) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: "v2.4.2"}, nil
}

func (f fake) List(ctx context.Context, req *containersapi.ListContainersRequest) (*containersapi.ListContainersResponse, error) {
	var out containersapi.ListContainersResponse
	if md, _ := metadata.FromIncomingContext(ctx); !slices.Equal(md.Get("containerd-namespace"), []string{kubeNamespace}) {
		return &out, nil
	}
	for _, c := range f.all {
		if slices.Contains(req.Filters, "id=="+c.ID) {
			out.Containers = append(out.Containers, c)
		}
	}
	return &out, nil
}

func TestContainers(t *testing.T) {
	before := socket
	socket = filepath.Join(t.TempDir(), "containerd.sock")
	t.Cleanup(func() { socket = before })
	if _, err := Version(t.Context()); err == nil || !strings.Contains(err.Error(), "does not run") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a socket: %v", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	f := fake{all: []*containersapi.Container{
		{ID: "a", Image: "registry.k8s.io/kube-proxy:v1.37.2", Labels: map[string]string{PodLabel: "kube-proxy-x"}}, {ID: "b"}, {ID: "c"}}}
	containersapi.RegisterContainersServer(server, f)
	versionapi.RegisterVersionServer(server, f)
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	t.Cleanup(server.Stop)
	if v, err := Version(t.Context()); err != nil || v != "v2.4.2" {
		t.Errorf("%q, %v", v, err)
	}
	got, err := Containers(t.Context(), "a", "b", "missing")
	if err != nil || len(got) != 2 || got["a"].Image != "registry.k8s.io/kube-proxy:v1.37.2" || got["a"].Labels[PodLabel] != "kube-proxy-x" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestBlobsAreNotReadForFacts: one that was written to is a problem until an import has read it.
func TestBlobsAreNotReadForFacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, []byte("sound"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	known := &checked{blobs: map[string]stamp{"sha256:verified": stampOf(info)}}
	for d, want := range map[string]string{"sha256:verified": "", "sha256:never-read": "was written to"} {
		if _, detail, err := known.look(d, path); err != nil || detail != want {
			t.Errorf("%s: %q, %v", d, detail, err)
		}
	}
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // looking does not make it sound
		if problem, detail, err := known.look("sha256:verified", path); err != nil || detail == "" || problem != "was written to since it was verified" {
			t.Errorf("%q %q, %v", problem, detail, err)
		}
	}
	if problem, detail, err := known.look("sha256:verified", path+".missing"); err != nil || problem != "is damaged" || detail != "is missing" {
		t.Errorf("%q %q, %v", problem, detail, err)
	}
	if known.changed {
		t.Error("looking would write")
	}

	image := bundle.Image{Name: "a", Manifest: bundle.Blob{Digest: "sha256:m"}}
	problems, err := checkImages([]bundle.Image{image, {Name: "b"}}, map[string]string{"a": "sha256:m"}, func(d string) (problem, detail string, err error) {
		return "was written to since it was verified", "was written to", nil
	})
	if err != nil || len(problems) != 2 || problems[0].String() != "a was written to since it was verified: its blob sha256:m was written to" || problems[1].Problem != "is missing" {
		t.Errorf("%q, %v", problems, err)
	}
}

func TestPauseImage(t *testing.T) {
	for want, names := range map[string][]string{
		"registry.k8s.io/pause:3.10.1":  {"registry.k8s.io/kube-proxy:v1.37.2", "registry.k8s.io/pause:3.10.1", "sha256:0123", "registry.k8s.io/pause@sha256:0123"},
		"mirror.example:5000/k/pause:3": {"mirror.example:5000/k/pause:3", "example/pausebox:1"},
		"":                              {"sha256:0123", "example/pausebox:1", "pause"},
	} {
		if have := pauseAmong(names); have != want {
			t.Errorf("%q, want %q", have, want)
		}
	}
}
