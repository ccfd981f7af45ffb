package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/engine"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostconfig"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/kubeadm"
	"quorate.dev/quorate/internal/node"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// throughEndpoint makes a client that goes where every client goes.
func throughEndpoint(ctx context.Context, e *engine.Engine) (*kube.Client, error) {
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := engine.ForCaller(e.Cluster, admin, true)
	if err != nil {
		return nil, err
	}
	rest, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	return kube.FromConfig(rest)
}

// runDocumented types what kubeadm's documentation for highly available clusters says, in its order: the load
// balancer, init with --upload-certs, the CNI plugin, then one control plane after another, then the workers.
func runDocumented(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, sink progress.Sink) error {
	e := engine.Open(ctx, c, sink)
	defer e.Close()
	if err := prepareDocumented(ctx, e, b); err != nil {
		return err
	}
	cps := c.HostsWith(spec.RoleControlPlane)
	if err := shareEncryptionKey(ctx, cps); err != nil {
		return err
	}
	_, manifests, err := engine.Describe(c, b)
	if err != nil {
		return err
	}
	config, err := initConfig(ctx, e, cps[0])
	if err != nil {
		return err
	}
	if _, err := ssh(ctx, cps[0], config, "cat > /root/init.yaml"); err != nil {
		return err
	}
	// What a lab machine's kernel or cgroups cannot offer, by name; everything else is checked.
	const ignore = " --ignore-preflight-errors=SystemVerification,Swap,FileContent--proc-sys-net-bridge-bridge-nf-call-iptables"
	out, err := ssh(ctx, cps[0], nil, "kubeadm init --upload-certs --config /root/init.yaml"+ignore)
	if err != nil {
		return err
	}
	if _, err := ssh(ctx, cps[0], manifests["flannel"], "kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f -"); err != nil {
		return err
	}
	key := regexp.MustCompile(`--certificate-key ([0-9a-f]{64})`).FindSubmatch(out)
	token := regexp.MustCompile(`--token (\S+)`).FindSubmatch(out)
	if key == nil || token == nil {
		return fmt.Errorf("kubeadm init printed no join command: %s", out)
	}
	hash, err := caHash(ctx, cps[0])
	if err != nil {
		return err
	}
	for _, h := range append(cps[1:], c.HostsWith(spec.RoleWorker)...) {
		join := fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {token: %q, apiServerEndpoint: %q, caCertHashes: [%q]}
nodeRegistration:
  name: %s
  criSocket: unix:///run/containerd/containerd.sock
  kubeletExtraArgs: [{name: node-ip, value: %q}]
`, token[1], c.Spec.ControlPlane.Endpoint, hash, h.Name, h.Address)
		if h.Has(spec.RoleControlPlane) {
			join += fmt.Sprintf("controlPlane:\n  localAPIEndpoint: {advertiseAddress: %q}\n  certificateKey: %q\n", h.Address, key[1])
		}
		if _, err := ssh(ctx, h, []byte(join), "cat > /root/join.yaml && kubeadm join --config /root/join.yaml"+ignore); err != nil {
			return err
		}
	}
	return nil
}

// prepareDocumented gives hosts their names and the balancers their configuration, on all hosts at once: faster than
// by hand. Before init there is no CA to check apiservers with, so this HAProxy only connects.
func prepareDocumented(ctx context.Context, e *engine.Engine, b *bundle.Bundle) error {
	errs := make(chan error)
	pause, _ := b.Image("pause")
	for _, h := range e.Cluster.Spec.Hosts {
		go func() {
			errs <- func() error {
				conn, err := e.Conns.Get(h.Name)
				if err != nil {
					return err
				}
				f, err := node.ReadFacts.On(ctx, conn, facts.Request{})
				if err != nil {
					return err
				}
				d := hostconfig.Hosts(e.Cluster)
				if h.IsNode() {
					r := hostconfig.Runtime(&f, pause.Name)
					d.Files, d.Sysctls, d.Modules, d.Enable = append(d.Files, r.Files...), r.Sysctls, r.Modules, r.Enable
				}
				if h.Has(spec.RoleControlPlane) {
					d.Files = append(d.Files, hostconfig.ControlPlane(e.Cluster).Files...)
				}
				if h.Has(spec.RoleLoadBalancer) {
					d.Files = append(d.Files, documentedBalancer(e.Cluster, h, &f)...)
					d.Enable = []string{"haproxy.service", "keepalived.service"}
				}
				_, err = node.Configure.On(ctx, conn, d)
				return err
			}()
		}()
	}
	var all []error
	for range e.Cluster.Spec.Hosts {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// shareEncryptionKey puts the file on every control plane that the apiservers' configuration, which both sides of the race
// share, refers to and that kubeadm neither makes nor uploads.
func shareEncryptionKey(ctx context.Context, cps []spec.Host) error {
	file, err := encryption.Keys{encryption.NewKey(encryption.FirstKey)}.Marshal()
	if err != nil {
		return err
	}
	for _, h := range cps {
		if _, err := ssh(ctx, h, file, "umask 077 && mkdir -p /etc/kubernetes/pki && cat > /etc/kubernetes/pki/"+encryption.File); err != nil {
			return err
		}
	}
	return nil
}

func documentedBalancer(c *spec.Cluster, h spec.Host, f *facts.Facts) []facts.File {
	var keep []facts.File
	for _, file := range hostconfig.Balancer(c, h, f, "").Files {
		switch file.Path {
		case "/etc/haproxy/quorate-ca.crt", "/etc/systemd/system/" + hostconfig.WatchdogUnit:
			continue
		case "/etc/haproxy/haproxy.cfg":
			var lines []string
			for line := range strings.Lines(file.Content) {
				if strings.Contains(line, "http-check") || strings.Contains(line, "option httpchk") {
					continue
				}
				if strings.Contains(line, "check-ssl") {
					line = "    default-server check\n"
				}
				lines = append(lines, line)
			}
			file.Content = strings.Join(lines, "")
		}
		keep = append(keep, file)
	}
	return keep
}

// initConfig is quorate's configuration for one control plane, without what makes its bootstrap special.
func initConfig(ctx context.Context, e *engine.Engine, h spec.Host) ([]byte, error) {
	conn, err := e.Conns.Get(h.Name)
	if err != nil {
		return nil, err
	}
	f, err := node.ReadFacts.On(ctx, conn, facts.Request{})
	if err != nil {
		return nil, err
	}
	plain := *e.Cluster
	plain.Spec.Failover.Profile = spec.ProfileStandard
	config, err := kubeadm.Config{Cluster: &plain, Token: "abcdef.0123456789abcdef", Facts: []*facts.Facts{&f}}.Init(h, nil)
	// kubeadm's default, RSA, is what the documentation uses.
	return bytes.ReplaceAll(config, []byte("encryptionAlgorithm: ECDSA-P256\n"), nil), err
}

func caHash(ctx context.Context, h spec.Host) (string, error) {
	raw, err := ssh(ctx, h, nil, "cat /etc/kubernetes/pki/ca.crt")
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return "", errors.New("ca.crt holds no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

func ssh(ctx context.Context, h spec.Host, stdin []byte, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ssh", "-i", h.SSH.KeyFile, "-o", "UserKnownHostsFile="+h.SSH.KnownHostsFile, "-o", "IdentitiesOnly=yes", "root@"+h.Address, command)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %s: %w\n%s%s", h.Name, command, err, out.String(), errOut.String())
	}
	return out.Bytes(), nil
}
