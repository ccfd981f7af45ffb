// Package registry reads from and writes to OCI registries. It uses go-containerregistry for names, logins, and uploads, and
// package fetch for downloads, because those can be resumed.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/fetch"
)

// Client is a client for registries. It is safe for concurrent use.
type Client struct {
	base  http.RoundTripper
	login authn.Keychain
	files fetch.Client

	mu    sync.Mutex
	repos map[string]http.RoundTripper
}

// New returns a client. Without a user name, it uses the credentials in Docker's configuration file, as other registry tools do.
func New(a fetch.Access) (*Client, error) {
	base, err := a.Transport()
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, login: authn.DefaultKeychain, repos: map[string]http.RoundTripper{}}
	if a.Username != "" {
		password, err := a.Password()
		if err != nil {
			return nil, err
		}
		c.login = one{authn.FromConfig(authn.AuthConfig{Username: a.Username, Password: password})}
	}
	return c, nil
}

// one is a keychain with the same login everywhere: a client with a user name speaks to one registry.
type one struct{ authn.Authenticator }

func (o one) Resolve(authn.Resource) (authn.Authenticator, error) { return o.Authenticator, nil }

// Manifest is a manifest or an index as it is stored.
type Manifest struct {
	Raw       []byte
	MediaType string
	Digest    digest.Digest
	// Index is the digest of the index of several platforms in which it was found, if it was in one.
	Index digest.Digest
}

// Descriptor refers to the manifest.
func (m Manifest) Descriptor() specs.Descriptor {
	return specs.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}
}

// Hurry makes the client give up after that much time without an answer.
func (c *Client) Hurry(patience time.Duration) *Client {
	c.files.Patience = patience
	return c
}

// ReferenceError says that a text is no reference.
type ReferenceError struct{ Text string }

func (e *ReferenceError) Error() string {
	return e.Text + " is not a registry reference: write it as registry.example.com/repository@sha256:… or with a :tag"
}

// Parse checks a reference: registry/repository@sha256:… or registry/repository:tag.
func Parse(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref, name.StrictValidation)
	if err != nil {
		return nil, &ReferenceError{ref}
	}
	return r, nil
}

// maxManifest bounds what a registry can make us hold in memory.
const maxManifest = 4 << 20

var accepted = []string{
	specs.MediaTypeImageIndex, specs.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// Manifest reads the manifest that a reference names, and checks it against the digest if the reference has one.
func (c *Client) Manifest(ctx context.Context, ref name.Reference) (Manifest, error) {
	var m Manifest
	repo := ref.Context()
	url := address(repo) + "/manifests/" + ref.Identifier()
	err := c.files.Again(ctx, "the manifest "+ref.String(), url, func(ctx context.Context, _ func()) error {
		t, err := c.transport(ctx, repo)
		if err != nil {
			return err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fetch.Final(err.Error(), "check the reference")
		}
		r.Header.Set("Accept", strings.Join(accepted, ", "))
		resp, err := (&http.Client{Transport: t}).Do(r)
		if err != nil {
			return converted(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fetch.Status(resp)
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		if err != nil {
			return err
		}
		if len(raw) > maxManifest {
			return fetch.Final("the manifest is too large", "check the reference")
		}
		m = Manifest{Raw: raw, MediaType: resp.Header.Get("Content-Type"), Digest: digest.FromBytes(raw)}
		return nil
	})
	if err != nil {
		return m, err
	}
	if _, pinned := ref.(name.Digest); pinned && m.Digest.String() != ref.Identifier() {
		return m, &fetch.DigestError{What: ref.String(), URL: url, Origin: "the reference", Want: digest.Digest(ref.Identifier()), Got: m.Digest, Size: int64(len(m.Raw))}
	}
	return m, nil
}

// Image reads an image's manifest. For a multi-platform image, it reads the one for Linux on arch.
func (c *Client) Image(ctx context.Context, ref name.Reference, arch string) (Manifest, error) {
	m, err := c.Manifest(ctx, ref)
	if err != nil {
		return m, err
	}
	var index specs.Index
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return m, fmt.Errorf("read the manifest of image %s: %w", ref, err)
	}
	if len(index.Manifests) == 0 {
		return m, nil
	}
	for _, d := range index.Manifests {
		if p := d.Platform; p != nil && p.OS == "linux" && p.Architecture == arch && d.Digest.Validate() == nil {
			found, err := c.Manifest(ctx, ref.Context().Digest(d.Digest.String()))
			found.Index = m.Digest
			return found, err
		}
	}
	return m, fmt.Errorf("image %s: there is none for linux/%s; use a mirror that has it", ref, arch)
}

// Blob downloads a content of a repository, as a manifest describes it, to a file.
func (c *Client) Blob(ctx context.Context, repo name.Repository, what string, d specs.Descriptor, target string, progress func(have, total int64)) error {
	files := c.from(repo)
	return files.Get(ctx, fetch.File{What: what, URL: blob(repo, d.Digest), Digest: d.Digest, Size: d.Size, Origin: "its manifest", Progress: progress}, target)
}

// Small reads a blob of a repository into memory. It reads no more than limit bytes, whatever the manifest says.
func (c *Client) Small(ctx context.Context, repo name.Repository, what string, d digest.Digest, limit int64) ([]byte, error) {
	files := c.from(repo)
	text, err := files.Text(ctx, what, blob(repo, d), limit)
	if err != nil {
		return nil, err
	}
	if got := d.Algorithm().FromString(text); got != d {
		return nil, &fetch.DigestError{What: what, URL: blob(repo, d), Origin: "its manifest", Want: d, Got: got, Size: int64(len(text))}
	}
	return []byte(text), nil
}

func blob(repo name.Repository, d digest.Digest) string {
	return address(repo) + "/blobs/" + d.String()
}

// from is how contents of a repository are downloaded, logged in to it.
func (c *Client) from(repo name.Repository) fetch.Client {
	files := c.files
	files.HTTP = lazy(func(r *http.Request) (*http.Response, error) {
		t, err := c.transport(r.Context(), repo)
		if err != nil {
			return nil, err
		}
		resp, err := t.RoundTrip(r)
		return resp, converted(err)
	})
	return files
}

type lazy func(*http.Request) (*http.Response, error)

func (f lazy) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func address(repo name.Repository) string {
	return "https://" + repo.RegistryStr() + "/v2/" + repo.RepositoryStr()
}

// transport logs in to a repository, once.
func (c *Client) transport(ctx context.Context, repo name.Repository) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.repos[repo.Name()]; ok {
		return t, nil
	}
	auth, err := authn.Resolve(ctx, c.login, repo)
	if err != nil {
		return nil, fetch.Final(err.Error(), "correct Docker's configuration file, or set components.username and passwordFile")
	}
	t, err := transport.NewWithContext(ctx, repo.Registry, auth, c.base, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, converted(err)
	}
	c.repos[repo.Name()] = t
	return t, nil
}

// converted turns the library's errors into those that package fetch can classify.
func converted(err error) error {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return fetch.Status(&http.Response{StatusCode: answer.StatusCode, Status: fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))})
	}
	return err
}

// Push uploads the index of an OCI layout and everything that it refers to, except what the registry already has.
func (c *Client) Push(ctx context.Context, dir string, ref name.Reference, progress func(have, total int64)) error {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fmt.Errorf("push %s: %w", dir, err)
	}
	updates := make(chan v1.Update, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for u := range updates {
			if progress != nil && u.Error == nil {
				progress(u.Complete, u.Total)
			}
		}
	}()
	err = remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(c.login), remote.WithTransport(c.base), remote.WithProgress(updates))
	<-done
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("push to %s: %w", ref, context.Cause(ctx))
		}
		why, fix := fetch.Explain(converted(err))
		return &fetch.Error{Verb: "push", What: "to " + ref.String(), Why: why, Fix: fix, Err: err}
	}
	return nil
}
