package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// ignored is what kubeadm's preflight finds wrong with a lab machine: a kernel configuration that it cannot read, and cgroup v1.
const ignored = "--ignore-preflight-errors=SystemVerification"

// programs is where the programs of the new version are before the upgrade: the place of a package that was downloaded.
const programs = "/opt/" + to

// install does what pulling images and downloading packages does, before the clock starts. quorate apply does it while the clock
// runs.
func install(ctx context.Context, b *bench) error {
	next, err := sources.Bundle(ctx, at(b.cluster, to), progress.Discard)
	if err != nil {
		return err
	}
	for _, h := range b.nodes() {
		archive, w := io.Pipe()
		var group errgroup.Group
		group.Go(func() error {
			err := next.ImageArchive(ctx, w, func(string) bool { return false })
			w.CloseWithError(err)
			return err
		})
		_, err := b.on(ctx, h.Name, archive, "ctr --namespace k8s.io images import --local --digests=false -")
		archive.CloseWithError(err)
		if werr := group.Wait(); err == nil {
			err = werr
		}
		if err != nil {
			return fmt.Errorf("importing images on %s: %w", h.Name, err)
		}
		// The images have every program in one file.
		_, err = b.on(ctx, h.Name, nil, fmt.Sprintf(`mkdir -p %[1]s /run/next
ctr --namespace k8s.io images mount registry.k8s.io/kube-apiserver:%[2]s /run/next
cp /run/next/usr/local/bin/kubernetes %[1]s/
ctr --namespace k8s.io images unmount --rm /run/next
for p in kubeadm kubelet kubectl; do ln -sf kubernetes %[1]s/$p; done`, programs, to))
		if err != nil {
			return fmt.Errorf("copying programs to %s: %w", h.Name, err)
		}
	}
	return nil
}

// documented is https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/: kubeadm, drain, kubelet, and uncordon on
// one node after the other, control planes first. With sigterm, it does what that page recommends against requests that fail because an API server
// ends while etcd is upgraded. What fails is repeated as the page says, and as operators do.
func documented(ctx context.Context, b *bench, sigterm bool) error {
	first := b.cluster.HostsWith(spec.RoleControlPlane)[0].Name
	for _, command := range documentedCommands(b.cluster, sigterm) {
		host := command.host
		if host == "" {
			host = first
		}
		begun := time.Now()
		for tries := 1; ; tries++ {
			said("%s: %s: %s", b.name, host, command.line)
			_, err := b.on(ctx, host, nil, command.line)
			if err == nil {
				break
			}
			err = fmt.Errorf("%s on %s: %w", command.line, host, err)
			if ctx.Err() != nil || !command.repeats(tries, time.Since(begun)) {
				return err
			}
			b.retried++
			said("%s: %v", b.name, err)
			if err := sleep(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

// repeats says that the command is tried again after it has failed so often, for so long. The page says of kubeadm upgrade that it is idempotent and
// can be run again, and an operator repeats a kubectl command that reached no API server, or one that was just stopping.
func (c command) repeats(tries int, since time.Duration) bool {
	switch {
	case strings.HasPrefix(c.line, "kubectl "):
		return since < patience
	case strings.HasPrefix(c.line, "kubeadm upgrade "):
		return tries < upgradeTries
	}
	return false
}

// command is one line on a host. An empty host is the one from which the operator uses kubectl.
type command struct{ host, line string }

func documentedCommands(c *spec.Cluster, sigterm bool) (out []command) {
	// Workers after control planes.
	cps, workers := c.HostsWith(spec.RoleControlPlane), c.HostsWith(spec.RoleWorker)
	for i, h := range append(append([]spec.Host{}, cps...), workers...) {
		do := func(lines ...string) {
			for _, line := range lines {
				out = append(out, command{h.Name, line})
			}
		}
		kubectl := func(line string) { out = append(out, command{"", "kubectl " + line}) }
		do("ln -sfn " + programs + "/kubeadm /usr/local/bin/kubeadm")
		if i == 0 {
			do("kubeadm upgrade plan " + to + " " + ignored)
		}
		if sigterm && i < len(cps) {
			// If none runs at this moment, there is nothing to wait for: whoever types it goes on.
			do("pkill -TERM -x kube-apiserver || true", "sleep 20")
		}
		if i == 0 {
			do("kubeadm upgrade apply --yes " + to + " " + ignored)
		} else {
			do("kubeadm upgrade node " + ignored)
		}
		kubectl("drain " + h.Name + " --ignore-daemonsets --delete-emptydir-data --timeout=5m")
		do("ln -sfn "+programs+"/kubelet /usr/local/bin/kubelet; ln -sfn "+programs+"/kubectl /usr/local/bin/kubectl", "systemctl daemon-reload", "systemctl restart kubelet")
		kubectl("wait --timeout=5m --for=jsonpath={.status.nodeInfo.kubeletVersion}=" + to + " node/" + h.Name)
		kubectl("wait --timeout=5m --for=condition=Ready node/" + h.Name)
		kubectl("uncordon " + h.Name)
	}
	return out
}

// on runs a command on a machine and returns what it prints.
func (b *bench) on(ctx context.Context, machine string, stdin io.Reader, line string) (string, error) {
	var out, said bytes.Buffer
	line = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf\n" + line
	err := b.lab.Exec(ctx, machine, []string{"sh", "-ec", line}, stdin, &out, &said)
	if err != nil {
		text := strings.TrimSpace(out.String() + said.String())
		return "", fmt.Errorf("%w\n%s", err, text[max(0, len(text)-4000):])
	}
	return out.String(), nil
}
