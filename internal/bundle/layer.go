package bundle

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is one file, link or folder of a layer.
type entry struct {
	name           string // with slashes, from the root, without a leading one
	mode           fs.FileMode
	source         string // file on disk that holds the content
	link           string // or a symbolic link's target
	dir            bool
	netBindService bool
}

// layer is a written layer.
type layer struct {
	Descriptor specs.Descriptor
	DiffID     digest.Digest // of the uncompressed tar
}

// writeLayer writes entries as a compressed tar. The same entries give the same bytes: sorted names,
// no times, no owners but root, one compressing goroutine.
func writeLayer(file string, entries []entry) (layer, error) {
	f, err := os.Create(file)
	if err != nil {
		return layer{}, fmt.Errorf("write layer: %w", err)
	}
	defer f.Close()
	packed, plain := digest.SHA256.Digester(), digest.SHA256.Digester()
	z, err := zstd.NewWriter(io.MultiWriter(f, packed.Hash()), zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return layer{}, fmt.Errorf("write layer: %w", err)
	}
	err = writeTar(io.MultiWriter(z, plain.Hash()), entries)
	if err = errors.Join(err, z.Close()); err != nil {
		return layer{}, fmt.Errorf("write layer %s: %w", file, err)
	}
	info, err := f.Stat()
	if err != nil {
		return layer{}, fmt.Errorf("write layer: %w", err)
	}
	if err := f.Close(); err != nil {
		return layer{}, fmt.Errorf("write layer: %w", err)
	}
	return layer{
		Descriptor: specs.Descriptor{MediaType: specs.MediaTypeImageLayerZstd, Digest: packed.Digest(), Size: info.Size()},
		DiffID:     plain.Digest(),
	}, nil
}

func writeTar(w io.Writer, entries []entry) error {
	t := tar.NewWriter(w)
	for _, e := range withParents(entries) {
		if err := e.write(t); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return t.Close()
}

// withParents adds the folders that entries lie in and sorts all by name, which puts each folder
// before its content.
func withParents(entries []entry) []entry {
	all := slices.Clone(entries)
	known := map[string]bool{".": true}
	for _, e := range entries {
		known[e.name] = true
	}
	for _, e := range entries {
		for dir := path.Dir(e.name); !known[dir]; dir = path.Dir(dir) {
			known[dir] = true
			all = append(all, entry{name: dir, mode: 0o755, dir: true})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all
}

func (e entry) write(t *tar.Writer) error {
	h := &tar.Header{Name: e.name, Mode: int64(e.mode), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch {
	case e.dir:
		h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
		return t.WriteHeader(h)
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		return t.WriteHeader(h)
	}
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if e.netBindService {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": netBindCapability}
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// netBindCapability is the kernel's struct vfs_cap_data, version 2, with CAP_NET_BIND_SERVICE (10)
// permitted and effective: what `setcap cap_net_bind_service=+ep` stores.
var netBindCapability = string(slices.Concat(
	binary.LittleEndian.AppendUint32(nil, 0x02000001),
	binary.LittleEndian.AppendUint32(nil, 1<<10), // permitted
	make([]byte, 12), // inheritable, and the upper halves
))
