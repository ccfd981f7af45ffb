package kubeadm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// kubeadm's own renewal writes a certificate and its key in place, one after the other. While it does, and for good if it is killed
// in between, the two do not belong together, and a program that reads them refuses connections. So a certificate is signed here, for
// the key that it has, and its file is replaced in one moment. A kubeconfig is a single file, so it gets a new key. Names, usages,
// and places are those of the former certificate: kubeadm goes on managing them.

// RenewRequest names certificates of this host as facts.Certificate does.
type RenewRequest struct {
	Names []string
	// Lifetime is how long the new ones are valid. If it is 0, that is as long as the former ones were, and a year for those that were
	// made for less than shortest.
	Lifetime time.Duration
	// Await says that the programs that serve with them must present the new ones before the operation returns, as far as they run.
	Await bool
}

// shortest is the shortest lifetime that somebody may have chosen for a cluster. Shorter ones are those of a test or a mistake.
const shortest = 24 * time.Hour

// reloadPatience is how long a program may take to read a certificate again. API servers look once a minute if they missed a change.
const reloadPatience = 3 * time.Minute

// RenewCertificates signs new certificates with the authorities whose keys are on this host, expired ones as well. No
// program restarts.
var RenewCertificates = host.DefineChange("kubeadm.renew-certificates", func(ctx context.Context, in RenewRequest) (struct{}, error) {
	if err := renewCertificates(kubernetesDir, in, time.Now()); err != nil {
		return struct{}{}, err
	}
	if !in.Await {
		return struct{}{}, nil
	}
	return struct{}{}, awaitPrograms(ctx, kubernetesDir, in.Names, map[string][]string{"pki/apiserver.crt": {"127.0.0.1:6443"}, "pki/etcd/server.crt": hostconfig.EtcdLoopbacks})
})

// awaitPrograms returns when the programs that listen at the addresses present the certificates with these names. Where nothing listens, there
// is nothing to wait for.
func awaitPrograms(ctx context.Context, dir string, names []string, at map[string][]string) error {
	for name, addresses := range at {
		if !slices.Contains(names, name) {
			continue
		}
		for _, address := range addresses {
			err := within(ctx, reloadPatience, "reading "+name+" again, in the program that listens on "+address, func(ctx context.Context) error {
				return presents(ctx, address, filepath.Join(dir, name))
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func renewCertificates(dir string, in RenewRequest, now time.Time) error {
	authorities := map[string]tls.Certificate{}
	for _, name := range in.Names {
		authority := facts.Certificate{Name: name}.Signer()
		if authority == "" {
			return fmt.Errorf("the certificate %s is not one that kubeadm makes", name)
		}
		if _, read := authorities[authority]; read {
			continue
		}
		ca, err := readAuthority(dir, authority, now)
		if err != nil {
			return err
		}
		authorities[authority] = ca
	}
	for _, name := range in.Names {
		renew := renewPair
		if strings.HasSuffix(name, ".conf") {
			renew = renewKubeconfig
		}
		if err := renew(filepath.Join(dir, name), authorities[facts.Certificate{Name: name}.Signer()], in.Lifetime, now); err != nil {
			return fmt.Errorf("renewing %s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}

// readAuthority reads an authority that can sign.
func readAuthority(dir, certificate string, now time.Time) (tls.Certificate, error) {
	ca, err := loadAuthority(filepath.Join(dir, certificate), filepath.Join(dir, "pki", facts.KeyOf(certificate)))
	if err != nil {
		return ca, fmt.Errorf("reading the authority %s: %w", certificate, err)
	}
	if !now.Before(ca.Leaf.NotAfter) {
		return ca, fmt.Errorf("the authority %s expired on %s: nobody accepts what it signs", certificate, ca.Leaf.NotAfter.Format(time.DateOnly))
	}
	return ca, nil
}

// loadAuthority reads the certificate and the key of an authority. Of several certificates for that key in the file, it is the one that expires
// last: somebody put a renewed one next to it.
func loadAuthority(certificate, key string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return pair, err
	}
	text, err := os.ReadFile(certificate)
	if err == nil {
		pair.Leaf = pkifile.Latest(pair.Leaf, text)
	}
	return pair, err
}

// renewPair signs a certificate again for the key in the file next to it.
func renewPair(path string, ca tls.Certificate, lifetime time.Duration, now time.Time) error {
	pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".crt")+".key")
	if err != nil {
		return err
	}
	signed, err := signAgain(pair.Leaf, pair.PrivateKey.(crypto.Signer).Public(), ca, lifetime, now)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, signed, 0o644)
}

// renewKubeconfig gives the current user of a kubeconfig a new key and a certificate for it.
func renewKubeconfig(path string, ca tls.Certificate, lifetime time.Duration, now time.Time) error {
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return err
	}
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.AuthInfos[current.AuthInfo] == nil || len(config.AuthInfos[current.AuthInfo].ClientCertificateData) == 0 {
		return errors.New("it holds no certificate of its current user")
	}
	user := config.AuthInfos[current.AuthInfo]
	pair, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	if err != nil {
		return err
	}
	key, err := likewise(pair.PrivateKey)
	if err != nil {
		return err
	}
	if user.ClientCertificateData, err = signAgain(pair.Leaf, key.Public(), ca, lifetime, now); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	user.ClientKeyData = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, content, 0o600)
}

// likewise generates a key of the same kind.
func likewise(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return ecdsa.GenerateKey(k.Curve, rand.Reader)
	case *rsa.PrivateKey:
		return rsa.GenerateKey(rand.Reader, k.N.BitLen())
	}
	return nil, fmt.Errorf("it has a key of an unknown kind, %T", key)
}

// signAgain signs a certificate with the names and usages of a former one. It does not outlive its authority.
func signAgain(former *x509.Certificate, public crypto.PublicKey, ca tls.Certificate, lifetime time.Duration, now time.Time) ([]byte, error) {
	if lifetime == 0 {
		if lifetime = former.NotAfter.Sub(former.NotBefore); lifetime < shortest {
			lifetime = kubeletLifetime
		}
	}
	template := &x509.Certificate{Subject: former.Subject, DNSNames: former.DNSNames, IPAddresses: former.IPAddresses, URIs: former.URIs, EmailAddresses: former.EmailAddresses,
		KeyUsage: former.KeyUsage, ExtKeyUsage: former.ExtKeyUsage, BasicConstraintsValid: true, NotBefore: now.Add(-backdated), NotAfter: now.Add(lifetime)}
	if template.NotAfter.After(ca.Leaf.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, public, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// presents returns an error unless the server at an address presents the certificate in a file. A server that does not run reads the
// file when it starts.
func presents(ctx context.Context, address, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	want, _ := pem.Decode(content)
	if want == nil {
		return fmt.Errorf("%s holds no certificate", path)
	}
	var have []byte
	config := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error { //nolint:gosec // only to compare what it presents
		have = s.PeerCertificates[0].Raw
		return nil
	}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	nc, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: config}).DialContext(ctx, "tcp", address)
	if err == nil {
		nc.Close()
	}
	switch {
	case have == nil && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
		return nil // nothing listens there, or the host has no IPv6
	case have == nil && err != nil:
		return err
	case !bytes.Equal(have, want.Bytes):
		return errors.New("it still presents the former certificate")
	}
	return nil
}

// RestartRequest names static pods of a control plane. On a host of an external etcd, etcd is the unit.
type RestartRequest struct {
	Pods []string
	// Kubelet says that the kubelet restarts as well: programs may have ended again and again (see ForgetBackOff).
	Kubelet bool
	// Await says that the new containers must work before the operation returns.
	Await bool
	// Node is the name of the host's node, if there are other API servers that can be told that it lives while its own is away.
	Node string
}

// healthPorts are where the programs of a control plane answer on the loopback address.
var healthPorts = map[string]string{facts.ControllerManager: "10257", facts.Scheduler: "10259"}

// RestartPrograms ends the containers of static pods; the kubelet starts them again. They then read their kubeconfigs, and what else they
// read only when they start. It can be killed anywhere and run again.
//
// A stacked member of etcd and its API server restart together: the API server would keep its clients waiting while its member is away. The
// kubelet is stopped until both have ended, so that it does not start the API server before.
var RestartPrograms = host.DefineChange("kubeadm.restart-programs", func(ctx context.Context, in RestartRequest) (struct{}, error) {
	if in.Node != "" {
		alive, stop := context.WithCancel(ctx)
		defer stop()
		if err := keepAlive(alive, in.Node); err != nil {
			return struct{}{}, err
		}
	}
	if slices.Contains(in.Pods, etcdPod) && slices.Contains(in.Pods, facts.APIServer) {
		return struct{}{}, restartTogether(ctx, in)
	}
	running := map[string][]string{}
	for _, pod := range in.Pods {
		if isUnit(pod) {
			continue // on a host that may have no containerd
		}
		ids, err := containerd.IDs(ctx, pod)
		if err != nil {
			return struct{}{}, err
		}
		running[pod] = ids
	}
	if in.Kubelet { // before they end: one that has failed often would have to wait from now on
		if err := ForgetBackOff(ctx); err != nil {
			return struct{}{}, err
		}
	}
	for _, pod := range in.Pods {
		if isUnit(pod) {
			if err := system.Systemctl(ctx, "restart", hostconfig.EtcdUnit); err != nil {
				return struct{}{}, err
			}
			if in.Await {
				if err := awaitEtcd(ctx); err != nil {
					return struct{}{}, err
				}
			}
			continue
		}
		if err := endContainers(ctx, pod, running[pod]); err != nil {
			return struct{}{}, err
		}
		if !in.Await {
			continue
		}
		if err := awaitPod(ctx, pod, running[pod]); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, nil
})

// isUnit says that a program runs as a unit of this host: the etcd of an external cluster.
func isUnit(pod string) bool { return pod == etcdPod && !system.Exists(hostconfig.EtcdManifest) }

// restartTogether restarts static pods of which one uses another: the API server ends first. Whatever fails, the kubelet starts again; if
// this process is killed, that is left to the next run.
func restartTogether(ctx context.Context, in RestartRequest) (err error) {
	if err := system.Systemctl(ctx, "stop", kubeletUnit); err != nil {
		return err
	}
	defer func() {
		started := system.Systemctl(context.WithoutCancel(ctx), "start", kubeletUnit)
		if err = errors.Join(err, started); err != nil || !in.Await {
			return
		}
		if err = AwaitKubelet(ctx); err != nil {
			return
		}
		for _, pod := range in.Pods {
			if err = awaitPod(ctx, pod, nil); err != nil {
				return
			}
		}
	}()
	ordered := append([]string{facts.APIServer}, slices.DeleteFunc(slices.Clone(in.Pods), func(pod string) bool { return pod == facts.APIServer })...)
	for _, pod := range ordered {
		ids, err := containerd.IDs(ctx, pod)
		if err != nil {
			return err
		}
		if err := endContainers(ctx, pod, ids); err != nil {
			return err
		}
	}
	return nil
}

// endContainers ends containers of a static pod.
func endContainers(ctx context.Context, pod string, ids []string) error {
	grace := stopGrace
	if pod == facts.APIServer {
		grace = apiStopGrace
	}
	return containerd.Stop(ctx, ids, grace)
}

// restartPatience is how long a static pod may take until it works again. A kubelet that has started one several times within minutes waits
// before it does so once more.
func restartPatience(pod string) time.Duration {
	switch pod {
	case facts.APIServer:
		return apiStartPatience
	case etcdPod:
		return etcdStartPatience
	}
	return stopPatience
}

// awaitPod waits until a static pod works in another container than those that were ended.
func awaitPod(ctx context.Context, pod string, before []string) error {
	err := within(ctx, restartPatience(pod), "restarting "+pod, func(ctx context.Context) error {
		now, err := containerd.IDs(ctx, pod)
		switch {
		case err != nil:
			return err
		case len(now) == 0 || slices.ContainsFunc(now, func(id string) bool { return slices.Contains(before, id) }):
			return errors.New("the kubelet has not started it again yet")
		case pod == etcdPod:
			_, err := ofEtcd(ctx, hostconfig.EtcdReady)
			return err
		case pod == facts.APIServer:
			return apiReady(ctx)
		}
		return healthy(ctx, "https://127.0.0.1:"+healthPorts[pod]+"/healthz")
	})
	if err != nil {
		return fmt.Errorf("%w: see /var/log/pods/kube-system_%s-*", err, pod)
	}
	return nil
}
