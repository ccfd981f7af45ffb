package exporter

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/host"
)

const (
	// allowedFor and deniedFor are how long a decision of the API counts. Prometheus asks several times a minute.
	allowedFor = time.Minute
	deniedFor  = 10 * time.Second
	// heldFor is how much longer the last decision counts by which somebody may read the metrics while no API server can be asked: when all of
	// them are down, the metrics say so, and nobody else may.
	heldFor = time.Hour
	// askTimeout is how long the API may take.
	askTimeout = 5 * time.Second
	// mostKnown is of how many tokens the decision is remembered.
	mostKnown = 1000
)

// verdict is whether somebody may read the metrics.
type verdict int

const (
	undecided verdict = iota // the API could not be asked
	allowed
	stranger  // nobody knows who it is
	forbidden // somebody who may not
)

// api is what decides.
type api interface {
	// authenticate says whose token it is; false if it is nobody's.
	authenticate(ctx context.Context, token string) (authenticationv1.UserInfo, bool, error)
	// authorize says whether a user may get the metrics.
	authorize(ctx context.Context, user authenticationv1.UserInfo) (bool, error)
}

// access decides who may read the metrics.
type access struct {
	api api
	now func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]decision
}

// decision is what the API said of a token, and when.
type decision struct {
	verdict verdict
	why     string
	at      time.Time
}

func (d decision) counts(now time.Time) bool {
	age := now.Sub(d.at)
	return d.verdict == allowed && age < allowedFor || d.verdict != allowed && age < deniedFor
}

// held says that a decision counts while nobody else decides.
func (d decision) held(now time.Time) bool {
	return d.verdict == allowed && now.Sub(d.at) < allowedFor+heldFor
}

// of is the verdict about the owner of a token, and its reason.
func (a *access) of(ctx context.Context, token string) (verdict, string) {
	if token == "" {
		return stranger, ""
	}
	key := sha256.Sum256([]byte(token))
	a.mu.Lock()
	before, had := a.known[key]
	a.mu.Unlock()
	if had && before.counts(a.now()) {
		return before.verdict, before.why
	}
	d, err := a.ask(ctx, token)
	if err != nil {
		if had && before.held(a.now()) {
			return before.verdict, ""
		}
		return undecided, "the API cannot be asked who may read the metrics: " + err.Error()
	}
	a.remember(key, d)
	return d.verdict, d.why
}

func (a *access) ask(ctx context.Context, token string) (decision, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer within %s", askTimeout))
	defer cancel()
	d := decision{at: a.now()}
	user, known, err := a.api.authenticate(ctx, token)
	if err != nil {
		return d, err
	}
	if !known {
		d.verdict = stranger
		return d, nil
	}
	may, err := a.api.authorize(ctx, user)
	if err != nil {
		return d, err
	}
	d.verdict = allowed
	if !may {
		d.verdict, d.why = forbidden, fmt.Sprintf("%s may not get the nonResourceURL %s", user.Username, Path)
	}
	return d, nil
}

// remember notes a decision. What does not count any more is forgotten, and refusals before permissions.
func (a *access) remember(key [sha256.Size]byte, d decision) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[[sha256.Size]byte]decision{}
	}
	delete(a.known, key) // a permission from before is not held after a refusal, even if that is not remembered
	if len(a.known) >= mostKnown {
		for k, old := range a.known {
			if !old.counts(d.at) && !old.held(d.at) {
				delete(a.known, k)
			}
		}
	}
	if len(a.known) >= mostKnown && d.verdict != allowed {
		return
	}
	if len(a.known) >= mostKnown {
		for k, old := range a.known {
			if old.verdict != allowed {
				delete(a.known, k)
			}
		}
	}
	a.known[key] = d
}

// bearer is the token of a request; empty if it has none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// kubeAPI asks the API at the endpoint of a kubeconfig, which is read again when it changes.
type kubeAPI struct {
	path string

	mu     sync.Mutex
	read   fs.FileInfo
	client kubernetes.Interface
}

func (k *kubeAPI) open() (kubernetes.Interface, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	info, err := os.Stat(k.path)
	if err != nil {
		return nil, err
	}
	if k.client != nil && unchanged(k.read, info) {
		return k.client, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", k.path)
	if err != nil {
		return nil, err
	}
	config.Proxy, config.Timeout = host.Direct, askTimeout
	config.QPS, config.Burst = 10, 20 // who asks with ever other tokens does not keep the API busy
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	k.client, k.read = client, info
	return client, nil
}

func (k *kubeAPI) authenticate(ctx context.Context, token string) (authenticationv1.UserInfo, bool, error) {
	client, err := k.open()
	if err != nil {
		return authenticationv1.UserInfo{}, false, err
	}
	r, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, false, err
	}
	// With an error in its status, the token is not known to be anybody's.
	return r.Status.User, r.Status.Authenticated && r.Status.Error == "", nil
}

func (k *kubeAPI) authorize(ctx context.Context, user authenticationv1.UserInfo) (bool, error) {
	client, err := k.open()
	if err != nil {
		return false, err
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	r, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: Path, Verb: "get"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return r.Status.Allowed && !r.Status.Denied, nil
}
