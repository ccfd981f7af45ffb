package kubeadm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
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
var etcdServers = regexp.MustCompile(`--etcd-servers=\S+`)

// SetEtcdServers changes which members of an external etcd the API server on this host uses. The API server restarts; it returns
// when the former one has ended and another one runs.
var SetEtcdServers = host.DefineChange("kubeadm.set-etcd-servers", func(ctx context.Context, servers []string) (struct{}, error) {
	const pod = "kube-apiserver"
	path := filepath.Join(staticpod.Dir, pod+".yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return struct{}{}, err
	}
	want := []byte("--etcd-servers=" + strings.Join(servers, ","))
	changed := etcdServers.ReplaceAllLiteral(text, want)
	switch {
	case len(servers) == 0 || !bytes.Contains(changed, want):
		return struct{}{}, fmt.Errorf("%s has no flag --etcd-servers", path)
	case bytes.Equal(text, changed):
		return struct{}{}, nil
	}
	before, err := containerd.IDs(ctx, pod)
	if err != nil {
		return struct{}{}, err
	}
	if err := durable.WriteFile(path, changed, 0o600); err != nil {
		return struct{}{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopPatience, fmt.Errorf("not within %s", stopPatience))
	defer cancel()
	for {
		now, err := containerd.IDs(ctx, pod)
		if err != nil {
			return struct{}{}, err
		}
		if len(now) > 0 && !slices.ContainsFunc(now, func(id string) bool { return slices.Contains(before, id) }) {
			return struct{}{}, nil
		}
		select {
		case <-ctx.Done():
			return struct{}{}, fmt.Errorf("restarting %s: %w", pod, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
})
