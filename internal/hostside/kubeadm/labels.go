package kubeadm

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
)

// kubeletFlags is where kubeadm keeps the kubelet's flags.
const kubeletFlags = "/var/lib/kubelet/kubeadm-flags.env"

// SetNodeLabels updates the labels that the kubelet gives its node each time it starts. Without it, a label that was changed in
// the API would be reset at the next restart. The running kubelet is left alone.
var SetNodeLabels = host.Define("kubeadm.set-node-labels", func(_ context.Context, labels map[string]string) (struct{}, error) {
	old, err := os.ReadFile(kubeletFlags)
	if errors.Is(err, os.ErrNotExist) {
		return struct{}{}, nil // set up without kubeadm's file, so its flags are elsewhere
	}
	if err != nil {
		return struct{}{}, err
	}
	updated := withNodeLabels(string(old), labels)
	if updated == string(old) {
		return struct{}{}, nil
	}
	return struct{}{}, durable.WriteFile(kubeletFlags, []byte(updated), 0o644)
})

var nodeLabelsFlag = regexp.MustCompile(`--node-labels=([^\s"]*)`)

// withNodeLabels replaces the labels in a line of flags; labels that are not named stay. A line without the flag is left alone:
// the kubelet then resets nothing.
func withNodeLabels(flags string, labels map[string]string) string {
	return nodeLabelsFlag.ReplaceAllStringFunc(flags, func(flag string) string {
		all := map[string]string{}
		for pair := range strings.SplitSeq(strings.TrimPrefix(flag, "--node-labels="), ",") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				all[k] = v
			}
		}
		maps.Copy(all, labels)
		var pairs []string
		for _, k := range slices.Sorted(maps.Keys(all)) {
			pairs = append(pairs, k+"="+all[k])
		}
		return "--node-labels=" + strings.Join(pairs, ",")
	})
}
