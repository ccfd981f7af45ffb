package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/spec"
)

const (
	pki = "/etc/kubernetes/pki"
	// quota is what etcd needs for the largest size.
	quota = 8 << 30
	// objectBytes is the size of the objects that etcd is filled with: that of a large Secret or ConfigMap.
	objectBytes = 50_000
	// writers is how many objects are written at a time.
	writers   = 32
	startWait = time.Minute
)

// controlPlane is what a backup needs of a control plane: an etcd, a PKI, and the API server's manifest.
type controlPlane struct {
	store
	cmd   *exec.Cmd
	ended chan struct{}
}

// store is an etcd that can be filled.
type store struct{ client *clientv3.Client }

// startControlPlane starts a real etcd below dir, and writes the files of a control plane that uses it.
func startControlPlane(ctx context.Context, dir string) (*controlPlane, error) {
	b, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "etcd")
	if err := b.Program(ctx, "etcd", "etcd", program); err != nil {
		return nil, err
	}
	config, err := files(dir)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	at, peer := fmt.Sprintf("https://127.0.0.1:%d", ports[0]), fmt.Sprintf("https://127.0.0.1:%d", ports[1])
	if err := os.WriteFile("/etc/kubernetes/manifests/kube-apiserver.yaml", []byte(fmt.Sprintf(apiServer, at)), 0o600); err != nil {
		return nil, err
	}
	c := &controlPlane{ended: make(chan struct{})}
	c.cmd = exec.Command(program, "--name=bench", "--data-dir="+filepath.Join(dir, "data"), fmt.Sprintf("--quota-backend-bytes=%d", int64(quota)),
		"--listen-client-urls="+at, "--advertise-client-urls="+at, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=bench="+peer,
		"--cert-file="+pki+"/etcd/server.crt", "--key-file="+pki+"/etcd/server.key", "--client-cert-auth", "--trusted-ca-file="+pki+"/etcd/ca.crt",
		"--peer-cert-file="+pki+"/etcd/server.crt", "--peer-key-file="+pki+"/etcd/server.key", "--peer-trusted-ca-file="+pki+"/etcd/ca.crt",
		"--log-level=error", "--snapshot-count=1000")
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel ends etcd with this thread
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.cmd.Wait() //nolint:errcheck // it is killed
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if c.client, err = clientv3.New(clientv3.Config{Endpoints: []string{at}, TLS: config, Logger: zap.NewNop(), DialTimeout: startWait}); err != nil {
		c.stop()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		if _, err = c.client.Status(ctx, at); err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			c.stop()
			return nil, fmt.Errorf("etcd is not ready: %w", err)
		case <-c.ended:
			c.stop()
			return nil, errors.New("etcd ended")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *controlPlane) stop() {
	if c.client != nil {
		c.client.Close()
	}
	c.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-c.ended
}

const apiServer = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system, labels: {component: kube-apiserver, tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --etcd-servers=%s, --encryption-provider-config=/etc/kubernetes/pki/encryption.yaml, --service-account-signing-key-file=/etc/kubernetes/pki/sa.key]
    volumeMounts:
    - {name: pki, mountPath: /etc/kubernetes/pki}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki}}
status: {}
`

// files writes the PKI of a control plane, and returns how its etcd is reached.
func files(dir string) (*tls.Config, error) {
	if err := errors.Join(os.MkdirAll(pki+"/etcd", 0o700), os.MkdirAll("/etc/kubernetes/manifests", 0o700), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	all := map[string][]byte{}
	issue := func(name string, t *x509.Certificate, key *ecdsa.PrivateKey) error {
		t.SerialNumber, t.NotBefore, t.NotAfter = big.NewInt(int64(len(all)+1)), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
		if err != nil {
			return err
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		all[name+".crt"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		all[name+".key"] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
		return nil
	}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd/ca", "etcd/server", "apiserver-etcd-client", "sa"} {
		key, t := caKey, ca
		if !strings.HasSuffix(name, "ca") {
			if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
				return nil, err
			}
			t = &x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		}
		if err := issue(name, t, key); err != nil {
			return nil, err
		}
	}
	delete(all, "sa.crt")
	if all[encryption.File], err = (encryption.Keys{encryption.NewKey(encryption.FirstKey)}).Marshal(); err != nil {
		return nil, err
	}
	for name, content := range all {
		if err := os.WriteFile(filepath.Join(pki, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair(all["apiserver-etcd-client.crt"], all["apiserver-etcd-client.key"])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(all["etcd/ca.crt"])
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}}, err
}

func freePorts(n int) (out []int, _ error) {
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after all of them are known
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// fill puts objects into etcd until its database has a size.
func (c *controlPlane) fill(ctx context.Context, bytesWanted int64) error {
	system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "1a2b3c4d-5e6f-4a5b-8c9d-0e1f2a3b4c5d"}}
	kubeadm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kubeadm-config", Namespace: "kube-system"}, Data: map[string]string{"ClusterConfiguration": "kubernetesVersion: " + spec.DefaultVersion + "\n"}}
	for key, o := range map[string]apiruntime.Object{"/registry/namespaces/kube-system": system, "/registry/configmaps/kube-system/kubeadm-config": kubeadm} {
		if err := c.put(ctx, key, o); err != nil {
			return err
		}
	}
	return c.grow(ctx, "/registry/configmaps/default/", bytesWanted)
}

// grow puts objects below a prefix until the database has a size.
func (s store) grow(ctx context.Context, prefix string, bytesWanted int64) error {
	have, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	for next := have.Count; ; next += writers {
		status, err := s.client.Status(ctx, s.client.Endpoints()[0])
		if err != nil {
			return err
		}
		if status.DbSizeInUse >= bytesWanted {
			return nil
		}
		work, ctx := errgroup.WithContext(ctx)
		for i := range int64(writers) {
			work.Go(func() error {
				o := object(fmt.Sprintf("data-%d", next+i))
				return s.put(ctx, prefix+o.Name, o)
			})
		}
		if err := work.Wait(); err != nil {
			return err
		}
	}
}

// object is one whose first half can be compressed, and whose second cannot.
func object(name string) *corev1.ConfigMap {
	const text = "every object of a cluster has much that others have, too. "
	random := make([]byte, objectBytes*3/8)
	rand.Read(random) //nolint:errcheck // it never fails
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Data: map[string]string{"text": strings.Repeat(text, objectBytes/2/len(text)), "random": base64.StdEncoding.EncodeToString(random)}}
}

// put stores an object as API servers do.
func (s store) put(ctx context.Context, key string, o apiruntime.Object) error {
	var out bytes.Buffer
	codec := scheme.Codecs.EncoderForVersion(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), corev1.SchemeGroupVersion)
	if err := codec.Encode(o, &out); err != nil {
		return err
	}
	_, err := s.client.Put(ctx, key, out.String())
	return err
}
