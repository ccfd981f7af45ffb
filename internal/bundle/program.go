package bundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// programsDir is where images have their programs.
const programsDir = "usr/local/bin"

// maxLinks bounds how many links lead to a program.
const maxLinks = 4

// Program writes a program of a container image to a new file of this machine, which this user can execute. The program behaves according to
// its name, so the file must have the same. Without an error, the content is what the bundle's digest says.
func (b *Bundle) Program(ctx context.Context, image, name, file string) error {
	i, ok := b.Image(image)
	if !ok {
		return fmt.Errorf("the bundle %s has no image %s", b.dir, image)
	}
	wanted := path.Join(programsDir, name)
	for range maxLinks {
		link, err := b.extract(ctx, i, wanted, file)
		if err != nil {
			return fmt.Errorf("extracting %s from the bundle %s: %w", name, b.dir, errors.Join(err, removeIfThere(file)))
		}
		if link == "" {
			return nil
		}
		wanted = link
	}
	return fmt.Errorf("extracting %s from the bundle %s: too many links lead to it", name, b.dir)
}

func removeIfThere(file string) error {
	if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// extract writes the regular file with a path in an image, or returns where the link with this path leads. A later layer hides what an
// earlier one has.
func (b *Bundle) extract(ctx context.Context, i Image, wanted, file string) (link string, _ error) {
	for _, layer := range slices.Backward(i.Layers) {
		found, link, err := b.extractFrom(ctx, layer, wanted, file)
		if err != nil {
			return "", fmt.Errorf("%s: %w", layer.Digest, err)
		}
		if found {
			return link, nil
		}
	}
	return "", fmt.Errorf("the image %s has no %s", i.Name, wanted)
}

func (b *Bundle) extractFrom(ctx context.Context, layer Blob, wanted, file string) (found bool, link string, err error) {
	blob, err := b.OpenBlob(layer.Digest)
	if err != nil {
		return false, "", err
	}
	defer blob.Close()
	return extractFile(ctx, blob, layer.MediaType, wanted, file)
}

// extractFile writes a regular file of a layer to a new file, or returns where the link with this path leads.
func extractFile(ctx context.Context, layer io.Reader, mediaType, wanted, file string) (found bool, link string, err error) {
	in := reader{ctx, layer}
	plain, done, err := decompress(in, mediaType)
	if err != nil {
		return false, "", err
	}
	defer done()
	for t := tar.NewReader(plain); ; {
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, "", err
		}
		if path.Clean(strings.TrimPrefix(head.Name, "/")) != wanted {
			continue
		}
		found = true
		switch head.Typeflag {
		case tar.TypeReg:
			err = writeProgram(ctx, file, t)
		case tar.TypeSymlink:
			link = linked(wanted, head.Linkname)
		case tar.TypeLink:
			link = path.Clean(strings.TrimPrefix(head.Linkname, "/"))
		default:
			err = fmt.Errorf("%s is no program", wanted)
		}
		if err != nil {
			return false, "", err
		}
	}
	// The blob is compared with its digest at its end, which is after that of the archive.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return false, "", err
	}
	_, err = io.Copy(io.Discard, in)
	return found, link, err
}

// linked is where a symbolic link in an image leads to.
func linked(from, target string) string {
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(from), target)
	}
	return strings.TrimPrefix(path.Clean(target), "/")
}

// decompress reads a layer of any of the types that images have.
func decompress(in io.Reader, mediaType string) (io.Reader, func(), error) {
	switch {
	case strings.HasSuffix(mediaType, "zstd"):
		z, err := zstd.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case strings.HasSuffix(mediaType, "gzip"):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	}
	return in, func() {}, nil
}
