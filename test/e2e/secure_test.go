//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/audit"
	"quorate.dev/quorate/internal/spec"
)

const (
	secretName  = "e2e-secret"
	secretValue = "this-must-not-be-readable-anywhere"
)

// rotation is a rotation of the encryption key that runs while other parts of the test use the cluster.
type rotation struct {
	again  *exec.Cmd
	output bytes.Buffer

	stop  context.CancelFunc
	done  chan struct{}
	began time.Time
	// What became of the reads. It may be read when done is closed.
	reads  int
	failed []string // reads without an answer
	wrong  []string // answers
}

// begin checks what is secure from the start, starts a rotation, kills it halfway, and starts it again.
func (r *rotation) begin(t *testing.T, c *cluster) {
	ctx := testContext(t)
	config, api := c.client(t, ctx)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName}, StringData: map[string]string{"value": secretValue}}
	if _, err := api.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "e2e-role"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
	if _, err := api.RbacV1().Roles("default").Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	encryptedWith(t, ctx, c, "key1")

	// Every API server is queried through the load balancers during the rotation.
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop, r.done, r.began = stop, make(chan struct{}), time.Now()
	ownClock()
	go func() {
		defer close(r.done)
		for watch.Err() == nil {
			got, err := api.CoreV1().Secrets("default").Get(watch, secretName, metav1.GetOptions{})
			switch at := time.Now().Format(time.TimeOnly) + ": "; {
			case watch.Err() != nil:
			case apierrors.IsInternalError(err) && !strings.Contains(err.Error(), "etcdserver: "): // such as about a key that an API server does not have
				r.wrong = append(r.wrong, at+err.Error())
			case err != nil:
				r.failed = append(r.failed, at+err.Error())
			case string(got.Data["value"]) != secretValue:
				r.wrong = append(r.wrong, at+fmt.Sprintf("the secret reads %q", got.Data["value"]))
			}
			r.reads++
			time.Sleep(100 * time.Millisecond)
		}
	}()
	killed := c.command(ctx, "certs", "rotate-encryption-key", "-f", c.specFile())
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "a second key on cp-b", func() error {
		if got := keysOf(t, ctx, c, "cp-b"); got != "key1 key2" {
			return errors.New(got)
		}
		return nil
	})
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed.Wait() //nolint:errcheck // it was killed
	r.again = c.command(context.WithoutCancel(ctx), "certs", "rotate-encryption-key", "-f", c.specFile())
	r.again.Stdout, r.again.Stderr = &r.output, &r.output
	if err := r.again.Start(); err != nil {
		t.Fatal(err)
	}

	t.Run("anonymous", func(t *testing.T) { strangers(t, ctx, config) })
	t.Run("audit log", func(t *testing.T) { auditLog(t, ctx, c) })
	t.Run("kubelets", func(t *testing.T) { kubeletCertificates(t, ctx, c, config) })
	t.Run("tokens", func(t *testing.T) {
		list, err := api.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
		if err != nil || len(list.Items) > 0 {
			t.Errorf("%d bootstrap tokens are left, %v", len(list.Items), err)
		}
	})
	t.Run("benchmark", func(t *testing.T) { benchmark(t, ctx, c, "cis.txt") })
}

// end waits for the rotation. The API must have answered all the time, and nothing may need the old key afterwards.
func (r *rotation) end(t *testing.T, c *cluster) {
	if r.again == nil || r.again.Process == nil {
		t.Skip("no rotation was begun")
	}
	ctx := testContext(t)
	err := r.again.Wait()
	r.stop()
	<-r.done
	if err != nil {
		t.Fatalf("the rotation that was killed is not finished by running it again: %v\n%s", err, &r.output)
	}
	failed := c.unserved(t, ctx, "reads of a secret", r.began, time.Now(), r.failed)
	if failed = append(failed, r.wrong...); len(failed) > 0 || r.reads == 0 {
		t.Errorf("a secret could not be read during the rotation: %d of %d reads: %v", len(failed), r.reads, failed)
	}
	t.Logf("%d reads during the rotation", r.reads)
	encryptedWith(t, ctx, c, "key2")
	for _, cp := range controlPlanes {
		if got := keysOf(t, ctx, c, cp); got != "key2" {
			t.Errorf("%s has the keys %s", cp, got)
		}
	}
	c.unchanged(t, ctx)
}

var controlPlanes = []string{"cp-a", "cp-b", "cp-c"}

func keysOf(t *testing.T, ctx context.Context, c *cluster, machine string) string {
	t.Helper()
	return strings.Join(strings.Fields(c.ssh(t, ctx, machine, "sed -n 's/.*name: //p' /etc/kubernetes/pki/encryption.yaml")), " ")
}

// encryptedWith reads etcd's own copy of every secret.
func encryptedWith(t *testing.T, ctx context.Context, c *cluster, key string) {
	t.Helper()
	const get = "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt " +
		"--cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt --key=/etc/kubernetes/pki/etcd/healthcheck-client.key get --prefix /registry/secrets/ "
	out := strings.Fields(c.ssh(t, ctx, "cp-a", get+"--keys-only | grep -c ^/; "+get+"| grep -a -c -e ^k8s:enc:secretbox:v1:"+key+": ; "+get+"| grep -a -c "+secretValue+"; true"))
	if len(out) != 3 || out[0] == "0" || out[0] != out[1] || out[2] != "0" {
		t.Errorf("secrets in etcd, those encrypted with %s, those in plain text: %v", key, out)
	}
}

// strangers sends requests without credentials.
func strangers(t *testing.T, ctx context.Context, config *rest.Config) {
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/livez": 200, "/livez?exclude=etcd": 200, "/readyz": 200, "/healthz": 200, "/readyz?exclude=etcd": 200, "/api/v1/namespaces/kube-public/configmaps/cluster-info": 200,
		"/": 401, "/version": 401, "/api": 401, "/metrics": 401, "/livez/etcd": 401, "/api/v1/namespaces": 401, "/api/v1/namespaces/kube-public/configmaps": 401,
		"/apis/rbac.authorization.k8s.io/v1/clusterroles": 401,
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s answers %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// auditLog checks that recent requests are in the log, and that secrets are not.
func auditLog(t *testing.T, ctx context.Context, c *cluster) {
	var lines []string
	for _, cp := range controlPlanes {
		if got := c.ssh(t, ctx, cp, "stat -c %a:%U /var/log/kubernetes/audit /var/log/kubernetes/audit/audit.log"); got != "700:root\n600:root" {
			t.Errorf("on %s: %s", cp, got)
		}
		lines = append(lines, strings.Split(c.ssh(t, ctx, cp, "grep -h -e '\"resource\":\"secrets\"' -e '\"resource\":\"configmaps\"' -e '\"resource\":\"roles\"' /var/log/kubernetes/audit/*.log; true"), "\n")...)
	}
	secret, role := false, false
	for _, line := range lines {
		var e struct {
			Level, Verb   string
			ObjectRef     struct{ Resource, Name string }
			RequestObject map[string]any
		}
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch e.ObjectRef.Resource {
		case "roles":
			role = role || e.Verb == "create" && e.ObjectRef.Name == "e2e-role" && e.RequestObject["rules"] != nil
		default:
			secret = secret || e.Verb == "create" && e.ObjectRef.Name == secretName
			if e.Level != "Metadata" || strings.Contains(line, `"requestObject"`) || strings.Contains(line, `"responseObject"`) {
				t.Errorf("the body of one of the %s is in the log", e.ObjectRef.Resource)
			}
		}
		if strings.Contains(line, secretValue) || strings.Contains(line, base64.StdEncoding.EncodeToString([]byte(secretValue))) {
			t.Errorf("a secret is in the log: %s", line)
		}
	}
	if !secret || !role {
		t.Errorf("in %d lines: the new secret %t, the new role with its rules %t", len(lines), secret, role)
	}
}

// kubeletCertificates checks that kubelets have the cluster's certificates from the start, and that a kubelet gets a renewed
// one while quorate is not running.
func kubeletCertificates(t *testing.T, ctx context.Context, c *cluster, config *rest.Config) {
	parsed, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	serial := func(h spec.Host) (string, error) {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(config.CAData)
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		conn, err := d.DialContext(ctx, "tcp", h.Address+":10250")
		if err != nil {
			return "", err
		}
		defer conn.Close()
		leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		return leaf.SerialNumber.String(), leaf.VerifyHostname(h.Name)
	}
	for _, h := range parsed.Spec.Hosts {
		if h.IsNode() {
			if _, err := serial(h); err != nil {
				t.Errorf("the kubelet on %s: %v", h.Name, err)
			}
		}
	}
	asking, _ := parsed.Host("worker-b")
	before, err := serial(asking)
	if err != nil {
		t.Fatal(err)
	}
	c.ssh(t, ctx, asking.Name, "rm /var/lib/kubelet/pki/kubelet-server-*; systemctl restart kubelet")
	eventually(t, ctx, "a new certificate for the kubelet on "+asking.Name, func() error {
		c.ssh(t, ctx, "cp-c", "systemctl start quorate-approver.service") // what its timer does every five minutes
		after, err := serial(asking)
		if err == nil && after == before {
			err = errors.New("it still has the old one")
		}
		return err
	})
	// An attacker who controls the approver gains little.
	may := strings.Fields(c.ssh(t, ctx, "cp-c", "kubectl --kubeconfig /var/lib/quorate/approver.conf auth can-i --list --no-headers 2>/dev/null | grep certificates.k8s.io | sort"))
	if want := strings.Fields(`certificatesigningrequests.certificates.k8s.io [] [] [get list watch]
certificatesigningrequests.certificates.k8s.io/approval [] [] [update]
signers.certificates.k8s.io [] [kubernetes.io/kubelet-serving] [approve]`); !slices.Equal(may, want) {
		t.Errorf("the approver may %q", may)
	}
	for _, what := range []string{"get nodes", "get secrets", "create certificatesigningrequests"} {
		if got := c.ssh(t, ctx, "cp-c", "kubectl --kubeconfig /var/lib/quorate/approver.conf auth can-i "+what+" 2>/dev/null || true"); got != "no" {
			t.Errorf("may the approver %s? %s", what, got)
		}
	}
	if got := c.ssh(t, ctx, "cp-c", "systemctl show --value --property=InaccessiblePaths quorate-approver.service"); !strings.Contains(got, "/etc/kubernetes") {
		t.Errorf("the approver can read %q", got)
	}
	if got := c.ssh(t, ctx, "cp-a", "kubectl get --raw /api/v1/nodes/"+asking.Name+"/proxy/healthz"); got != "ok" {
		t.Errorf("through the apiserver it says %q", got)
	}
	_, api := c.client(t, ctx)
	eventually(t, ctx, asking.Name+" is Ready", func() error { return ready(ctx, api, asking.Name) })
}

func benchmark(t *testing.T, ctx context.Context, c *cluster, artifact string) {
	r := c.run(ctx, "audit", "cis", "-f", c.specFile(), "-o", "json")
	var report audit.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if r.code != 0 || !report.OK() {
		t.Errorf("%s", c.run(ctx, "audit", "cis", "-f", c.specFile()))
	}
	printArtifact(t, artifact, c.must(t, ctx, "audit", "cis", "-f", c.specFile()).stdout)

	// And it finds what is wrong.
	c.ssh(t, ctx, "cp-b", "chmod 644 /etc/kubernetes/admin.conf")
	defer c.ssh(t, ctx, "cp-b", "chmod 600 /etc/kubernetes/admin.conf")
	if r := c.exits(t, ctx, 1, "audit", "cis", "-f", c.specFile()); !strings.Contains(r.stdout, "cp-b: /etc/kubernetes/admin.conf has 0644") {
		t.Errorf("a readable admin.conf is not found:\n%s", r.stdout)
	}
}
