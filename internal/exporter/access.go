package exporter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
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

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
)

const (
	// allowedFor and deniedFor are how long a decision of the API counts. Prometheus asks several times a minute.
	allowedFor = time.Minute
	deniedFor  = 10 * time.Second
	// heldFor is how old a permission may be when the API answers for the last time. It then counts until the API answers again, however long that takes:
	// when all API servers are down, the metrics say so, and nobody can get another token. Nobody else may read them.
	heldFor = time.Hour
	// rememberAfter is the time after which permissions are written to the disk again. What changes who may read is written immediately.
	rememberAfter = 5 * time.Minute
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
	// ready returns an error if the API is not ready. An API server without etcd refuses tokens that are good.
	ready(ctx context.Context) error
}

// access decides who may read the metrics.
type access struct {
	api api
	now func() time.Time
	// memory is the file that keeps permissions over a restart, and forgot is told when it cannot be written. Without a file, none are kept. Nobody waits for the
	// disk: one that hangs is a reason to read the metrics.
	memory string
	forgot func(error)

	mu       sync.Mutex
	known    map[digest]decision
	answered time.Time // when the API last answered
	written  time.Time // when memory was
	unsaved  []byte    // waits to be written to the file memory; nil if nothing does
	saving   bool
}

// digest is that of a token. Tokens themselves are not kept.
type digest [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler.
func (d digest) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(d[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return errors.New("it is no digest")
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// decision is what the API said of a token, and when.
type decision struct {
	verdict verdict
	why     string
	at      time.Time
}

func (d decision) counts(now time.Time) bool {
	age := now.Sub(d.at)
	return age >= 0 && (d.verdict == allowed && age < allowedFor || d.verdict != allowed && age < deniedFor)
}

// held says that a decision counts until the API answers again, which it last did then.
func (d decision) held(answered time.Time) bool {
	return d.verdict == allowed && answered.Sub(d.at) < allowedFor+heldFor
}

// of is the verdict about the owner of a token, and its reason.
func (a *access) of(ctx context.Context, token string) (verdict, string) {
	if token == "" {
		return stranger, ""
	}
	key := digest(sha256.Sum256([]byte(token)))
	a.mu.Lock()
	before, had := a.known[key]
	held := had && before.held(a.answered)
	a.mu.Unlock()
	if had && before.counts(a.now()) {
		return before.verdict, before.why
	}
	d, err := a.ask(ctx, token)
	if err == nil && held && d.verdict != allowed {
		err = a.ready(ctx)
	}
	if err != nil {
		if held {
			return before.verdict, ""
		}
		return undecided, "the API cannot be asked who may read the metrics: " + err.Error()
	}
	a.remember(key, d)
	return d.verdict, d.why
}

func (a *access) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer within %s", askTimeout))
	defer cancel()
	return a.api.ready(ctx)
}

// probe asks the API now and then until the context ends. A permission that is not used while the API answers is not held when it does not.
func (a *access) probe(ctx context.Context) {
	tick := time.NewTicker(probeAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if at := a.now(); a.ready(ctx) == nil {
			a.mu.Lock()
			a.answer(at)
			a.mu.Unlock()
		}
	}
}

// answer notes that the API answered a question of that time.
func (a *access) answer(at time.Time) {
	if at.After(a.answered) {
		a.answered = at
	}
	if at.Sub(a.written).Abs() >= rememberAfter {
		a.write(at)
	}
}

// memory is what is kept over a restart.
type memory struct {
	Answered    time.Time            `json:"answered"`
	Permissions map[digest]time.Time `json:"permissions"`
}

// write has permissions written to the disk.
func (a *access) write(at time.Time) {
	if a.memory == "" {
		return
	}
	m := memory{a.answered, map[digest]time.Time{}}
	for k, d := range a.known {
		if d.held(a.answered) {
			m.Permissions[k] = d.at
		}
	}
	a.written = at
	text, err := json.Marshal(m)
	if err != nil {
		a.forgot(err)
		return
	}
	if a.unsaved = text; !a.saving {
		a.saving = true
		go a.save()
	}
}

// save writes what is unsaved, until nothing is.
func (a *access) save() {
	for {
		a.mu.Lock()
		text := a.unsaved
		a.unsaved, a.saving = nil, text != nil
		a.mu.Unlock()
		if text == nil {
			return
		}
		if err := durable.WriteFile(a.memory, text, 0o600); err != nil {
			a.forgot(err)
		}
	}
}

// recall reads the permissions from before a restart. Each of them counts only if the API cannot be asked.
func (a *access) recall() {
	if a.memory == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	text, err := os.ReadFile(a.memory)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var m memory
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		a.forgot(err)
		return
	}
	a.answered, a.known = m.Answered, map[digest]decision{}
	for k, at := range m.Permissions {
		if len(a.known) < mostKnown {
			a.known[k] = decision{verdict: allowed, at: at}
		}
	}
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
func (a *access) remember(key digest, d decision) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[digest]decision{}
	}
	a.answered = d.at
	before := a.known[key]
	delete(a.known, key) // a permission from before is not held after a refusal, even if that is not remembered
	defer func() {
		if (before.verdict == allowed) != (d.verdict == allowed) {
			a.write(d.at)
		} else {
			a.answer(d.at)
		}
	}()
	if len(a.known) >= mostKnown {
		for k, old := range a.known {
			if !old.counts(d.at) && !old.held(a.answered) {
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

// kubeAPI asks the API at the endpoint of a kubeconfig.
type kubeAPI struct{ client kubernetes.Interface }

func openAPI(path string) (*kubeAPI, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, &credentialsError{"the certificate to ask the API with who may read the metrics cannot be used", err}
	}
	config.Proxy, config.Timeout = host.Direct, askTimeout
	config.QPS, config.Burst = 10, 20 // who asks with ever other tokens does not keep the API busy
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &kubeAPI{client}, nil
}

func (k *kubeAPI) ready(ctx context.Context) error {
	return k.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

func (k *kubeAPI) authenticate(ctx context.Context, token string) (authenticationv1.UserInfo, bool, error) {
	r, err := k.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, false, err
	}
	// With an error in its status, the token is not known to be anybody's.
	return r.Status.User, r.Status.Authenticated && r.Status.Error == "", nil
}

func (k *kubeAPI) authorize(ctx context.Context, user authenticationv1.UserInfo) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	r, err := k.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: Path, Verb: "get"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return r.Status.Allowed && !r.Status.Denied, nil
}
