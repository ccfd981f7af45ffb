package step

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

// makeAuthority has a control plane make the authority that is to follow, or reads it. It stays in memory.
func makeAuthority(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	pair, err := kubeadm.MakeNextAuthority.On(ctx, c, s.Authority)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.authority = pair
	return nil
}

func shareAuthority(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	e.mu.Lock()
	pair := e.authority
	e.mu.Unlock()
	pair.Trusted = nil
	_, err = kubeadm.WriteNextAuthority.On(ctx, c, pair)
	return err
}

// renewAuthority has a host sign the certificate of an authority again. It stays in memory until hosts get it.
func renewAuthority(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	public, err := kubeadm.RenewAuthority.On(ctx, c, s.Authority)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.renewed == nil {
		e.renewed = map[facts.Authority][]byte{}
	}
	e.renewed[s.Authority] = public
	return nil
}

// renews says that a step is about a certificate that was renewed for its key, and not about the stage of a rotation.
func renews(s plan.Step) bool { return s.Detail != "" }

// setTrust brings a host to the stage of a rotation, or gives it certificates that were renewed.
func setTrust(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	in, err := e.trust(s)
	if err != nil {
		return err
	}
	in.Renewed = renews(s)
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.SetTrust.Make(ctx, c, permit, in); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.client = nil // admin.conf says something else now
	if s.Authority == facts.KubernetesAuthority {
		e.trusted = string(in.Trusted)
	}
	return nil
}

// trust is what a step of a rotation has hosts or the API trust, in PEM.
func (e *Env) trust(s plan.Step) (kubeadm.TrustRequest, error) {
	out := kubeadm.TrustRequest{Authority: s.Authority}
	for _, key := range s.Trusted {
		text, err := e.certificateOf(s.Authority, key)
		if err != nil {
			return out, err
		}
		out.Trusted = append(out.Trusted, text...)
	}
	if s.Former != "" {
		var err error
		if out.Former, err = e.certificateOf(s.Authority, s.Former); err != nil {
			return out, err
		}
	}
	return out, nil
}

// certificateOf is the certificate for a key of an authority, or the public key itself, from this run or as it was observed. Of several, it is
// the one that expires last: it was renewed, and not all hosts have it.
func (e *Env) certificateOf(a facts.Authority, key string) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	texts := [][]byte{e.renewed[a]}
	if e.authority.Authority == a {
		texts = append(texts, e.authority.Public, e.authority.Trusted)
		if made := pkifile.KeyIDs(e.authority.Public); key == facts.NextKey && len(made) > 0 {
			key = made[0]
		}
	}
	for _, seen := range e.Seen.Hosts {
		if seen.Facts != nil {
			t := seen.Facts.Kubernetes.Trust[a]
			texts = append(texts, []byte(t.PEM), []byte(t.NextPEM), []byte(t.FormerPEM))
		}
	}
	var found []byte
	var until time.Time
	for _, text := range texts {
		for _, k := range pkifile.Keys(text) {
			if at := pkifile.Expiries(k.PEM)[k.ID]; k.ID == key && (found == nil || at.After(until)) {
				found, until = k.PEM, at
			}
		}
	}
	if found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("no host has what belongs to the key %.12s of %s", key, a.Title())
}

// publishPatience is how long the controller manager, and API servers, may take to publish what they have read.
const publishPatience = 5 * time.Minute

// awaited is what the API has to tell clients before a step may go on, and whether it may tell them nothing else. While an authority is being
// replaced, hosts may be in different stages, and API servers and the controller manager publish what is on theirs: then, the certificate that was
// renewed is enough.
func awaited(s plan.Step, in kubeadm.TrustRequest) (trusted []byte, only bool) {
	if renews(s) && len(s.Trusted) > 1 {
		return pkifile.Keys(in.Trusted)[0].PEM, false
	}
	return in.Trusted, true
}

// publishTrust has the API tell clients what to trust. What nobody but Quorate writes is written here; for the rest it waits.
func publishTrust(ctx context.Context, e *Env, s plan.Step) error {
	in, err := e.trust(s)
	if err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if s.Authority == facts.KubernetesAuthority {
		for _, m := range observe.StoredKubeconfigs {
			holds, err := holdsKubeconfig(ctx, e, client, m.Namespace, m.Name)
			if err != nil {
				return err
			}
			if !holds {
				continue
			}
			if err := changeStoredIn(ctx, client, m.Namespace, m.Name, m.Key, func(text string) (string, error) {
				return kubeadmconfig.WithAuthority(text, in.Trusted), nil
			}); err != nil {
				return err
			}
		}
	}
	trusted, only := awaited(s, in)
	ctx, cancel := withDeadline(ctx, publishPatience, "publishing what clients trust")
	defer cancel()
	return retry(ctx, 2*time.Second, func(ctx context.Context) error {
		if err := publishAuthentication(ctx, client, s.Authority, trusted, len(s.Trusted) == 1); err != nil {
			return err
		}
		if s.Authority != facts.KubernetesAuthority {
			return nil
		}
		return publishedToPods(ctx, client, trusted, only)
	})
}

// holdsKubeconfig says that the API has one of the ConfigMaps that tell clients what to trust. While the cluster was observed, the API may not
// have answered.
func holdsKubeconfig(ctx context.Context, e *Env, client *kube.Client, namespace, name string) (holds bool, err error) {
	if api := e.Seen.API; api != nil {
		_, holds = api.Trusted[name]
		return holds, nil
	}
	ctx, cancel := withDeadline(ctx, publishPatience, "reading the ConfigMap "+name)
	defer cancel()
	err = retry(ctx, 2*time.Second, func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		holds = err == nil
		return ignoreAbsent(err)
	})
	return holds, err
}

// publishAuthentication looks at what servers of aggregated APIs trust. API servers add what they trust, and never remove anything: what
// is not trusted any more is removed here.
func publishAuthentication(ctx context.Context, client *kube.Client, a facts.Authority, trusted []byte, only bool) error {
	key := facts.ClientAuthorityKey
	if a == facts.FrontProxyAuthority {
		key = facts.ProxyAuthorityKey
	}
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := maps.Get(ctx, facts.AuthenticationConfigMap, metav1.GetOptions{})
	if err != nil {
		return ignoreAbsent(err)
	}
	want, published := pkifile.Certificates(trusted), pkifile.Certificates([]byte(have.Data[key]))
	if len(published) == 0 {
		return nil // it authenticates nobody with certificates
	}
	for _, c := range want {
		if !slices.ContainsFunc(published, c.Equal) {
			return fmt.Errorf("the ConfigMap %s does not have the new certificate yet", facts.AuthenticationConfigMap)
		}
	}
	if !only || len(published) == len(want) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": have.ResourceVersion}, "data": map[string]string{key: string(trusted)}})
	if err != nil {
		return err
	}
	_, err = maps.Patch(ctx, have.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// publishedToPods returns an error unless the pods of every namespace are told to trust these certificates, and, if only is set, no others.
func publishedToPods(ctx context.Context, client *kube.Client, trusted []byte, only bool) error {
	spaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	published, err := client.CoreV1().ConfigMaps(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + facts.RootCA})
	if err != nil {
		return err
	}
	right := map[string]bool{}
	for _, m := range published.Items {
		have := pkifile.Certificates([]byte(m.Data[facts.RootCAKey]))
		lacks := slices.ContainsFunc(pkifile.Certificates(trusted), func(c *x509.Certificate) bool { return !slices.ContainsFunc(have, c.Equal) })
		right[m.Namespace] = !lacks && (!only || pkifile.SameCertificates([]byte(m.Data[facts.RootCAKey]), trusted))
	}
	var wait []string
	for _, n := range spaces.Items {
		if n.Status.Phase != corev1.NamespaceTerminating && !right[n.Name] {
			wait = append(wait, n.Name)
		}
	}
	if len(wait) > 0 {
		return fmt.Errorf("the controller manager has not published the certificates yet in %s", strings.Join(wait, ", "))
	}
	return nil
}

// awaitPublished waits until the pods of every namespace are told to trust these certificates.
func awaitPublished(ctx context.Context, client *kube.Client, trusted []byte, only bool) error {
	ctx, cancel := withDeadline(ctx, publishPatience, "publishing what pods trust")
	defer cancel()
	return retry(ctx, 2*time.Second, func(ctx context.Context) error { return publishedToPods(ctx, client, trusted, only) })
}

// clientReload is how often a client of client-go reads again with what it verifies servers (transport/ca_rotation.go), and some more.
const clientReload = 5*time.Minute + 10*time.Second

// awaitReload waits until a request that API servers send to a kubelet has them read again with what they verify it, and sends one from
// each of them: the connections of kubectl exec do not have them do that. For the service account key it only waits.
func awaitReload(ctx context.Context, e *Env, s plan.Step) error {
	if s.Authority == facts.ServiceAccountKey {
		return sleepUntil(ctx, time.Now().Add(time.Duration(s.WaitSeconds)*time.Second))
	}
	if s.Detail != "" {
		for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
			f := e.Seen.Hosts[h.Name].Facts
			if f == nil {
				return fmt.Errorf("nobody knows since when %s has the new certificate", h.Name)
			}
			// The host's own clock tells when it was observed, and when its file was written.
			left := clientReload - f.Time.Sub(f.Kubernetes.Trust[s.Authority].Written)
			if err := sleepUntil(ctx, e.Seen.Time.Add(left)); err != nil {
				return err
			}
		}
	}
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		client, err := e.ownAPI(ctx, h)
		if err != nil {
			return err
		}
		within, cancel := withDeadline(ctx, time.Minute, "asking a kubelet through the API server on "+h.Name)
		err = retry(within, time.Second, func(ctx context.Context) error {
			return client.CoreV1().RESTClient().Get().Resource("nodes").Name(h.Name).SubResource("proxy").Suffix("healthz").Do(ctx).Error()
		})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// renewApprover has the approver on a control plane get new credentials.
func renewApprover(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, publishPatience, "renewing the approver's certificate")
	defer cancel()
	return retry(ctx, 5*time.Second, func(ctx context.Context) error {
		_, err := kubeadm.RenewApprover.On(ctx, c, struct{}{})
		return err
	})
}
