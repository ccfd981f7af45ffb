package inspect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/pkifile"
)

// podsDir is where a kubelet keeps what pods mount.
const podsDir = "/var/lib/kubelet/pods"

// ReadTokens says of the tokens that the kubelet on this host keeps for pods which key signed them. The tokens stay on the host.
var ReadTokens = host.Define("node.tokens", func(ctx context.Context, _ struct{}) ([]facts.PodToken, error) {
	return tokens(ctx, podsDir, time.Now())
}, host.Reads)

// largestToken is the size of a file that may hold a token. Those of Kubernetes have about one KiB.
const largestToken = 64 << 10

// tokens reads those of all pods. A volume without its link to the files is not mounted any more.
func tokens(ctx context.Context, dir string, now time.Time) (out []facts.PodToken, _ error) {
	volumes, err := filepath.Glob(filepath.Join(dir, "*", "volumes", "kubernetes.io~projected", "*"))
	if err != nil {
		return nil, err
	}
	for _, volume := range volumes {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		relative, err := filepath.Rel(dir, volume)
		if err != nil {
			return nil, err
		}
		pod, _, _ := strings.Cut(relative, string(filepath.Separator))
		found, err := tokensIn(volume, pod, now)
		if err != nil {
			return nil, fmt.Errorf("reading the tokens of pods: %w", err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// tokensIn reads the tokens in a volume that are bound to its pod. The kubelet replaces all files of a volume together, by a link to
// another directory: whoever meets that reads again.
func tokensIn(volume, pod string, now time.Time) (out []facts.PodToken, err error) {
	for range 3 {
		dir, failed := filepath.EvalSymlinks(filepath.Join(volume, "..data"))
		if errors.Is(failed, fs.ErrNotExist) {
			return nil, nil
		}
		if failed != nil {
			return nil, failed
		}
		out = nil
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			st, err := d.Info()
			if err != nil || st.Size() > largestToken {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if token, is := pkifile.ReadToken(content); is && token.Pod == pod {
				out = append(out, facts.PodToken{Pod: pod, SignedBy: token.SignedBy, Age: max(0, now.Sub(st.ModTime()))})
			}
			return nil
		})
		if !errors.Is(err, fs.ErrNotExist) {
			return out, err
		}
	}
	return nil, err
}
