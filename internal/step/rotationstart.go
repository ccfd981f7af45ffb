package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// askPatience is how long a program that has just restarted may take to answer what it trusts.
const askPatience = time.Minute

// checkKeys asks everything that runs which keys it trusts: it may use other files than those that were written. The cluster remembers since when
// API servers sign with the new key, if it was asked for that.
func checkKeys(ctx context.Context, e *Env, s plan.Step) error {
	if err := sleepUntil(ctx, time.Now().Add(time.Duration(s.WaitSeconds)*time.Second)); err != nil {
		return err
	}
	in, err := e.trust(s)
	if err != nil {
		return err
	}
	if err := askKeys(ctx, e, s, in); err != nil || s.Record == "" {
		return err
	}
	return e.record(ctx, observe.AccountKey, s.Record)
}

func askKeys(ctx context.Context, e *Env, s plan.Step, in kubeadm.TrustRequest) error {
	ctx, cancel := withDeadline(ctx, askPatience, "asking which keys are trusted")
	defer cancel()
	if s.Authority == facts.EtcdAuthority {
		for _, h := range e.Cluster.EtcdHosts() {
			if err := e.checkMember(ctx, h, in); err != nil {
				return err
			}
		}
		return nil
	}
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		client, err := e.ownAPI(ctx, h)
		if err != nil {
			return err
		}
		if err := retry(ctx, time.Second, func(ctx context.Context) error {
			return checkAccountKeys(ctx, client, in, s.Detail == plan.SignsDetail)
		}); err != nil {
			return fmt.Errorf("asking the API server on %s: %w", h.Name, err)
		}
	}
	return nil
}

// checkMember asks a member of etcd, as a client and as another member.
func (e *Env) checkMember(ctx context.Context, h spec.Host, in kubeadm.TrustRequest) error {
	c, err := e.Conns.Get(h.Name)
	if err != nil {
		return err
	}
	return retry(ctx, time.Second, func(ctx context.Context) error {
		_, err := kubeadm.CheckMemberTrust.On(ctx, c, kubeadm.MemberTrust{Trusted: in.Trusted, Former: in.Former, Addresses: []string{net.JoinHostPort(h.Address, "2379"), net.JoinHostPort(h.Address, "2380")}})
		return err
	})
}

// ownAPI is a client of the API server on one control plane.
func (e *Env) ownAPI(ctx context.Context, h spec.Host) (*kube.Client, error) {
	c, err := e.Conns.Get(h.Name)
	if err != nil {
		return nil, err
	}
	return kube.Connect(ctx, []kube.Server{{Conn: c, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)}})
}

// keysPath is where an API server lists the keys with which it verifies tokens of service accounts.
const keysPath = "/openid/v1/jwks"

// checkAccountKeys returns an error unless an API server accepts the trusted keys and not the former one, and, if it is asked for that, signs
// with the first of them. An API server whose issuer is not a URL does not list its keys: what it signs is all that it shows.
func checkAccountKeys(ctx context.Context, client *kube.Client, in kubeadm.TrustRequest, signs bool) error {
	trusted := pkifile.KeyIDs(in.Trusted)
	raw, err := client.Discovery().RESTClient().Get().AbsPath(keysPath).DoRaw(ctx)
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	default:
		accepted, err := listedKeys(raw)
		if err != nil {
			return err
		}
		for _, id := range trusted {
			if !slices.Contains(accepted, id) {
				return fmt.Errorf("it does not accept tokens that the key %.12s signs", id)
			}
		}
		for _, id := range pkifile.KeyIDs(in.Former) {
			if slices.Contains(accepted, id) {
				return fmt.Errorf("it still accepts tokens that the key %.12s signed", id)
			}
		}
	}
	if !signs {
		return nil
	}
	const shortest = 10 * 60 // seconds, of the API
	made, err := client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, "default",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(shortest))}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	switch token, is := pkifile.ReadToken([]byte(made.Status.Token)); {
	case !is:
		return errors.New("the token that it made cannot be read")
	case token.SignedBy != trusted[0]:
		return fmt.Errorf("it signs tokens with another key than %.12s", trusted[0])
	}
	return nil
}

// listedKeys reads the keys that an API server lists, by their IDs as of facts.Trust.
func listedKeys(raw []byte) (out []string, _ error) {
	var list struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", keysPath, err)
	}
	for _, k := range list.Keys {
		out = append(out, pkifile.FromTokenKeyID(k.ID))
	}
	return out, nil
}

// refreshPatience is how long a kubelet that has restarted may take to request the tokens of all of its pods, and to write them. It looks at
// each pod at least every minute and a half.
const refreshPatience = 5 * time.Minute

// refreshTokens restarts a kubelet, which keeps tokens in memory alone, and waits until the files of no pod have a token of the former key.
func refreshTokens(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.RestartKubelet.Make(ctx, c, permit, struct{}{}); err != nil {
		return err
	}
	if _, err := kubeadm.KubeletRestarted.On(ctx, c, struct{}{}); err != nil {
		return err
	}
	if err := e.nodeIsReady(ctx, s.Host); err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, refreshPatience, "requesting tokens again on "+s.Host)
	defer cancel()
	return retry(ctx, 2*time.Second, func(ctx context.Context) error {
		have, err := observe.Tokens(ctx, client, c, s.Host, s.Former)
		if err == nil && len(have.Old) > 0 {
			err = fmt.Errorf("these pods still have the former token: %s", strings.Join(have.Old, ", "))
		}
		return err
	})
}

// forgetAuthority ends the rotation of an authority on a host.
func forgetAuthority(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	_, err = kubeadm.ForgetAuthority.On(ctx, c, s.Authority)
	return err
}
