package kubeadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/staticpod"
)

// stopPatience is how long static pods may take to end: the kubelet gives them 30 seconds, and notices late when it is busy.
const stopPatience = 90 * time.Second

// StopStaticPods takes the manifests of static pods away, and returns when the kubelet has ended them.
var StopStaticPods = host.DefineChange("kubeadm.stop-static-pods", func(ctx context.Context, pods []string) (struct{}, error) {
	for _, pod := range pods {
		if _, known := restorePhases[pod]; !known {
			return struct{}{}, fmt.Errorf("%s is not a static pod of a control plane", pod)
		}
		if err := durable.Remove(filepath.Join(staticpod.Dir, pod+".yaml")); err != nil {
			return struct{}{}, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("it did not end within %s", stopPatience))
	defer cancel()
	for {
		var left []string
		for _, pod := range pods {
			n, err := containerd.Held(ctx, pod)
			if err != nil {
				return struct{}{}, err
			}
			if n > 0 {
				left = append(left, pod)
			}
		}
		if len(left) == 0 {
			return struct{}{}, nil
		}
		select {
		case <-ctx.Done():
			return struct{}{}, fmt.Errorf("stopping %s: %w", strings.Join(left, " and "), context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
})

// etcdServers is the flag in the manifest of kube-apiserver.
var etcdServers = regexp.MustCompile(`--etcd-servers=[^\s"']+`)

// WithEtcdServers is the manifest of an API server that uses these members of an external etcd, by their client URLs.
func WithEtcdServers(manifest []byte, servers []string) ([]byte, error) {
	want := []byte("--etcd-servers=" + strings.Join(servers, ","))
	out := etcdServers.ReplaceAllLiteral(manifest, want)
	if len(servers) == 0 || !bytes.Contains(out, want) {
		return nil, fmt.Errorf("the manifest of %s has no flag --etcd-servers", facts.APIServer)
	}
	return out, nil
}

// SetEtcdServers changes which members of an external etcd the API server on this host uses. The API server restarts; it returns
// when another one runs.
var SetEtcdServers = host.DefineChange("kubeadm.set-etcd-servers", func(ctx context.Context, servers []string) (struct{}, error) {
	return struct{}{}, setEtcdServers(ctx, withdrawal.Host{}, servers, containerd.Held, func(ctx context.Context, pod string) (bool, error) {
		ids, err := containerd.IDs(ctx, pod)
		return len(ids) > 0, err
	})
})

// setEtcdServers ends the API server before it writes the new manifest: wherever it is interrupted, no API server runs with other members than its
// manifest names, which is what an observation reads.
func setEtcdServers(ctx context.Context, h withdrawal.Host, servers []string, held func(context.Context, string) (int, error), runs func(context.Context, string) (bool, error)) error {
	path := filepath.Join(h.Root, staticpod.Dir, facts.APIServer+".yaml")
	text, err := os.ReadFile(path)
	inPlace := err == nil
	if errors.Is(err, fs.ErrNotExist) {
		text, err = h.Manifest(facts.APIServer) // an earlier call was interrupted
	}
	if err != nil {
		return err
	}
	changed, err := WithEtcdServers(text, servers)
	if err != nil {
		return err
	}
	if inPlace && bytes.Equal(text, changed) {
		return h.Return(facts.APIServer) // an earlier call may have left what it had set aside
	}
	ending, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("not within %s", stopPatience))
	defer cancel()
	if err := h.Withdraw(ending, facts.APIServer, held); err != nil {
		return errors.Join(err, h.Return(facts.APIServer))
	}
	if err := durable.WriteFile(path, changed, 0o600); err != nil {
		return err
	}
	if err := h.Return(facts.APIServer); err != nil { // what was set aside is older
		return err
	}
	starting, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("not within %s", stopPatience))
	defer cancel()
	for {
		if again, err := runs(starting, facts.APIServer); err != nil || again {
			return err
		}
		select {
		case <-starting.Done():
			return fmt.Errorf("restarting %s: %w", facts.APIServer, context.Cause(starting))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
