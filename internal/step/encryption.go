package step

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	// reloadTimeout is several times what an API server takes: it looks at the file once a minute.
	reloadTimeout = 4 * time.Minute
	// reloadEach is how often it is asked. All its metrics are a lot to write for one line.
	reloadEach = 3 * time.Second

	secretsPerPage = 250
)

func readEncryptionKeys(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	keys, err := kubeadm.ReadEncryptionKeys.On(ctx, c, s.NewKey)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys = keys
	return nil
}

// setEncryptionKeys is done when the API server itself says that it works with the new file.
func setEncryptionKeys(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	e.mu.Lock()
	keys, err := e.keys.Select(s.EncryptionKeys)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	hash, err := kubeadm.WriteEncryptionKeys.On(ctx, c, keys)
	if err != nil {
		return err
	}
	client, err := kube.Connect(ctx, []kube.Server{{Conn: c, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)}})
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, reloadTimeout, "reloading the encryption keys on "+h.Name)
	defer cancel()
	return retry(ctx, reloadEach, func(ctx context.Context) error {
		metrics, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			return err
		}
		if !uses(string(metrics), hash) {
			return e.waiting(s, []string{"the API server still uses the previous keys"})
		}
		return nil
	})
}

// uses reports whether an API server's metrics name the encryption configuration of this hash as the one in use.
func uses(metrics, hash string) bool {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, encryption.Metric+"{") && strings.Contains(line, `hash="`+hash+`"`) {
			return true
		}
	}
	return false
}

// rewriteSecrets updates every secret with what is in it. The API server leaves out writes that change nothing, but not where
// the key that was used is not the first one any more.
func rewriteSecrets(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, 30*time.Minute, "rewriting the secrets")
	defer cancel()
	done := 0
	for next := ""; ; {
		var page *corev1.SecretList
		err := retry(ctx, time.Second, func(ctx context.Context) (err error) {
			page, err = client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{Limit: secretsPerPage, Continue: next})
			if apierrors.IsResourceExpired(err) {
				next = "" // what is done already is done again: that changes nothing
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, secret := range page.Items {
			if err := patiently(ctx, client, secret.Namespace, secret.Name); err != nil {
				return fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err)
			}
			done++
		}
		e.waiting(s, []string{fmt.Sprintf("%d secrets so far", done)}) //nolint:errcheck // only to show it
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

// patiently outlives an election or a restarting API server, not a webhook that refuses.
func patiently(ctx context.Context, client *kube.Client, namespace, name string) error {
	ctx, cancel := withDeadline(ctx, time.Minute, "rewriting it")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error { return rewrite(ctx, client, namespace, name) })
}

func rewrite(ctx context.Context, client *kube.Client, namespace, name string) error {
	secrets := client.CoreV1().Secrets(namespace)
	for {
		secret, err := secrets.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: fieldManager})
		}
		switch {
		case apierrors.IsConflict(err) && ctx.Err() == nil:
			continue // somebody else has just written it, with the new key; seeing is better than believing
		case apierrors.IsNotFound(err):
			return nil
		case err != nil && ctx.Err() != nil:
			return errors.Join(err, context.Cause(ctx))
		}
		return err
	}
}
