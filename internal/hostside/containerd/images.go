// Package containerd imports the images of a bundle into a host's containerd, and checks the images that containerd has.
package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/system"
)

const (
	kubeNamespace = "k8s.io"
	// containerdContent is where containerd keeps blobs, in a directory by digest like our own.
	containerdContent = "/var/lib/containerd/io.containerd.content.v1.content"
	// checkedFile records which of containerd's blobs were read and found intact.
	checkedFile = "/var/lib/quorate/images.json"
)

// contentFile is where containerd keeps a blob.
func contentFile(d string) string {
	parsed := digest.Digest(d)
	return filepath.Join(containerdContent, "blobs", parsed.Algorithm().String(), parsed.Encoded())
}

// ImageProblem is an image that containerd does not have as the bundle has it.
type ImageProblem struct {
	Image   string `json:"image"`
	Problem string `json:"problem"`
	Detail  string `json:"detail,omitempty"`
}

func (p ImageProblem) String() string {
	if p.Detail == "" {
		return p.Image + " " + p.Problem
	}
	return p.Image + " " + p.Problem + ": " + p.Detail
}

// VerifyImages reads every blob of the images again and compares it with its digest.
var VerifyImages = host.Define("bundle.verify-images", func(ctx context.Context, images []bundle.Image) ([]ImageProblem, error) {
	records, err := imageRecords(ctx)
	if err != nil {
		return nil, err
	}
	return readImages(ctx, images, records, &checked{blobs: map[string]stamp{}})
}, host.Reads)

// ImageProblems compares the images that containerd has with those of the bundle, without reading a blob: a blob that was
// written since it was last compared with its digest is a problem, because its content is no longer known. ImportImages reads
// these, and repairs them. The error says why containerd could not be queried.
func ImageProblems(ctx context.Context) ([]string, error) {
	b, err := blobs.Host.Open(blobs.Imported())
	if err != nil {
		return []string{err.Error()}, nil
	}
	records, err := imageRecords(ctx)
	if err != nil {
		return nil, err
	}
	known := loadChecked()
	problems, err := checkImages(b.Images(), records, func(d string) (problem, detail string, err error) { return known.look(d, contentFile(d)) })
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range problems {
		out = append(out, p.Image+" "+p.Problem)
	}
	return out, nil
}

// readImages checks images and reads those blobs that are not known to be intact.
func readImages(ctx context.Context, images []bundle.Image, records map[string]string, known *checked) ([]ImageProblem, error) {
	problems, err := checkImages(images, records, func(d string) (problem, detail string, err error) {
		detail, err = known.check(ctx, d)
		return "is damaged", detail, err
	})
	if err != nil {
		return nil, err
	}
	return problems, known.save()
}

// checkImages compares images with containerd's records of them and with their blobs. check checks the blob of a digest: it is
// intact if there is no detail.
func checkImages(images []bundle.Image, records map[string]string, check func(digest string) (problem, detail string, err error)) ([]ImageProblem, error) {
	type verdict struct{ problem, detail string }
	var problems []ImageProblem
	seen := map[string]verdict{}
	for _, image := range images {
		switch target, ok := records[image.Name]; {
		case !ok:
			problems = append(problems, ImageProblem{Image: image.Name, Problem: "is missing"})
			continue
		case target != image.Manifest.Digest:
			problems = append(problems, ImageProblem{image.Name, "is a different image", target})
			continue
		}
		for _, blob := range image.Blobs() {
			v, ok := seen[blob.Digest]
			if !ok {
				var err error
				if v.problem, v.detail, err = check(blob.Digest); err != nil {
					return nil, err
				}
				seen[blob.Digest] = v
			}
			if v.detail != "" {
				problems = append(problems, ImageProblem{image.Name, v.problem, "its blob " + blob.Digest + " " + v.detail})
				break
			}
		}
	}
	return problems, nil
}

// stamp shows whether a file has been written since.
type stamp struct {
	Size     int64 `json:"size"`
	Modified int64 `json:"modified"` // nanoseconds
}

// checked are the stamps of intact blobs, by digest.
type checked struct {
	blobs   map[string]stamp
	changed bool
}

// checking keeps two checks from writing the file at the same time.
var checking sync.Mutex

func loadChecked() *checked {
	c := &checked{blobs: map[string]stamp{}}
	if raw, err := os.ReadFile(checkedFile); err == nil {
		_ = json.Unmarshal(raw, &c.blobs) // a damaged file only means that everything is read again
	}
	return c
}

func (c *checked) save() error {
	if !c.changed {
		return nil
	}
	raw, err := json.Marshal(c.blobs)
	if err != nil {
		return err
	}
	checking.Lock()
	defer checking.Unlock()
	return durable.WriteFile(checkedFile, raw, 0o644)
}

func (c *checked) check(ctx context.Context, d string) (problem string, err error) {
	if err := digest.Digest(d).Validate(); err != nil {
		return "", fmt.Errorf("blob %q: %w", d, err)
	}
	info, err := os.Stat(contentFile(d))
	if err == nil && c.blobs[d] == stampOf(info) {
		return "", nil
	}
	if problem, err = blobs.CheckFile(ctx, contentFile(d), digest.Digest(d)); err != nil {
		return "", err
	}
	c.changed = true
	if delete(c.blobs, d); problem == "" && info != nil {
		c.blobs[d] = stampOf(info)
	}
	return problem, nil
}

// look reports what is wrong with the file of a blob, without reading it.
func (c *checked) look(d, path string) (problem, detail string, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is damaged", "is missing", nil
	case err == nil && c.blobs[d] != stampOf(info):
		return "was written to since it was verified", "was written to", nil
	}
	return "", "", err
}

func stampOf(info fs.FileInfo) stamp { return stamp{info.Size(), info.ModTime().UnixNano()} }

// ImportImages imports the images of the bundle with this index into the running containerd, and replaces damaged blobs of
// containerd.
var ImportImages = host.Define("bundle.import-images", func(ctx context.Context, index []byte) (struct{}, error) {
	b, err := blobs.Host.Accept(index)
	if err != nil {
		return struct{}{}, err
	}
	if err := mendContent(ctx, b); err != nil {
		return struct{}{}, fmt.Errorf("repairing containerd's blobs: %w", err)
	}
	// This lasts until everything is done: the import removes the labels, and they are set again last.
	if err := blobs.SetImported(""); err != nil {
		return struct{}{}, err
	}
	if err := importArchive(ctx, b); err != nil {
		return struct{}{}, err
	}
	records, err := imageRecords(ctx)
	if err != nil {
		return struct{}{}, err
	}
	problems, err := readImages(ctx, b.Images(), records, loadChecked())
	if err != nil {
		return struct{}{}, err
	}
	if len(problems) > 0 {
		return struct{}{}, fmt.Errorf("containerd imported the images, but %s", problems[0])
	}
	if err := pinImages(ctx, b); err != nil {
		return struct{}{}, fmt.Errorf("protecting the images from the kubelet's garbage collection: %w", err)
	}
	return struct{}{}, blobs.SetImported(b.Digest())
})

func importArchive(ctx context.Context, b *bundle.Bundle) error {
	archive, images := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := b.ImageArchive(ctx, images, nil)
		images.CloseWithError(err)
		written <- err
	}()
	// Each layer is synced to the disk first, which only the local import can do. Otherwise, after a power cut, containerd's
	// database could record empty layers as unpacked, and containerd would never unpack them again.
	err := system.Command{Name: "ctr", Args: []string{"--namespace", kubeNamespace, "images", "import", "--local", "--sync-fs", "--digests=false", "-"}, Stdin: archive}.Run(ctx)
	archive.CloseWithError(io.ErrClosedPipe) // ends the writing if ctr has ended before it
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}

const (
	// pinLabel keeps an image from the kubelet's garbage collection, in containerd's CRI plugin.
	pinLabel, pinned = "io.cri-containerd.pinned", "pinned"
	// bundleLabel is the bundle of an image, and marks an image that Quorate pinned.
	bundleLabel = "quorate.dev/bundle"
)

// pinImages pins the bundle's images and unpins those of the previous bundle. The host may be unable to pull images: one that
// no container uses at the moment would be missing when a pod is scheduled there. Those of the previous bundle keep its label until
// PruneImages removes them.
func pinImages(ctx context.Context, b *bundle.Bundle) error {
	conn, err := containerd()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := imagesapi.NewImagesClient(conn)
	answer, err := client.List(kube(ctx), &imagesapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, image := range b.Images() {
		ours[image.Name] = true
	}
	for _, image := range answer.Images {
		var labels map[string]string
		switch pinnedBy := image.Labels[bundleLabel]; {
		case ours[image.Name] && pinnedBy != b.Digest():
			labels = map[string]string{pinLabel: pinned, bundleLabel: b.Digest()}
		case !ours[image.Name] && pinnedBy != "" && image.Labels[pinLabel] != "":
			labels = map[string]string{bundleLabel: pinnedBy}
		default:
			continue
		}
		_, err := client.Update(kube(ctx), &imagesapi.UpdateImageRequest{
			Image:      &imagesapi.Image{Name: image.Name, Target: image.Target, Labels: labels},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels." + pinLabel, "labels." + bundleLabel}},
		})
		if err != nil && status.Code(err) != codes.NotFound {
			return fmt.Errorf("%s: %w", image.Name, err)
		}
	}
	return nil
}

// mendContent replaces damaged blobs that containerd has recorded, because an import skips recorded blobs.
func mendContent(ctx context.Context, b *bundle.Bundle) error {
	conn, err := containerd()
	if err != nil {
		return err
	}
	defer conn.Close()
	content := contentapi.NewContentClient(conn)
	known := loadChecked()
	done := map[string]bool{}
	for _, image := range b.Images() {
		for _, blob := range image.Blobs() {
			if done[blob.Digest] {
				continue
			}
			done[blob.Digest] = true
			_, err := content.Info(kube(ctx), &contentapi.InfoRequest{Digest: blob.Digest})
			if status.Code(err) == codes.NotFound && !system.Exists(contentFile(blob.Digest)) {
				continue // the import adds it
			}
			if err != nil && status.Code(err) != codes.NotFound {
				return fmt.Errorf("asking containerd for %s: %w", blob.Digest, err)
			}
			problem, err := known.check(ctx, blob.Digest)
			if err != nil {
				return err
			}
			if problem != "" {
				if err := putBack(b, blob.Digest); err != nil {
					return err
				}
			}
		}
	}
	return known.save()
}

// putBack writes the correct content of a blob under its name, atomically.
func putBack(b *bundle.Bundle, d string) error {
	r, err := b.OpenBlob(d)
	if err != nil {
		return err
	}
	defer r.Close()
	return blobs.Store{Dir: containerdContent}.Put(digest.Digest(d), r)
}

// imageRecords are the names of the images that containerd knows, with the digests of their manifests.
func imageRecords(ctx context.Context) (map[string]string, error) {
	conn, err := containerd()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := imagesapi.NewImagesClient(conn).List(kube(ctx), &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("containerd does not answer: %w: see journalctl -u containerd", err)
	}
	records := map[string]string{}
	for _, i := range answer.Images {
		records[i.Name] = i.Target.GetDigest()
	}
	return records, nil
}

// PauseImage is the name of an image on this host that a pod can run which does nothing: the sandbox image, which every node has.
var PauseImage = host.Define("node.pause-image", func(ctx context.Context, _ struct{}) (string, error) {
	records, err := imageRecords(ctx)
	if err != nil {
		return "", err
	}
	if name := pauseAmong(slices.Collect(maps.Keys(records))); name != "" {
		return name, nil
	}
	return "", errors.New("containerd has no image whose name ends in /pause, as every node should: see sandbox in /etc/containerd/config.toml")
})

// pauseAmong is the last of these names that has a tag and is that of a pause image; empty if there is none.
func pauseAmong(names []string) string {
	slices.Sort(names)
	for _, name := range slices.Backward(names) {
		if repository, _, tagged := strings.Cut(path.Base(name), ":"); tagged && repository == "pause" {
			return name
		}
	}
	return ""
}

func containerd() (*grpc.ClientConn, error) {
	if _, err := os.Stat(socket); err != nil {
		return nil, fmt.Errorf("containerd does not run (%w): see journalctl -u containerd", err)
	}
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func kube(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", kubeNamespace)
}
