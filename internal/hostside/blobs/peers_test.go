package blobs

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/distribute"
)

// serving is a store that answers on loopback as a host does for the time of an installation.
func serving(t *testing.T, content []byte) (Store, distribute.Offer, func()) {
	t.Helper()
	s := Store{t.TempDir()}
	if err := s.Put(digest.FromBytes(content), bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	o, err := offer("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, o.Token) }()
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return s, o, stop
}

func TestBlobsGoFromHostToHost(t *testing.T) {
	content := bytes.Repeat([]byte("blob"), 1<<20)
	d := digest.FromBytes(content)
	_, o, stop := serving(t, content)
	to := Store{t.TempDir()}
	if err := to.fetch(t.Context(), FetchRequest{d, o}); err != nil {
		t.Fatal(err)
	}
	if lacking, err := to.lacking(t.Context(), []digest.Digest{d}); err != nil || len(lacking) > 0 {
		t.Errorf("lacks %v, %v", lacking, err)
	}
	stop()
	if c, err := net.Dial("tcp", o.Address); err == nil {
		c.Close()
		t.Error("the host still listens after the call has ended")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	content := []byte("blob")
	from, o, _ := serving(t, content)
	other, err := offer("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer claim(other.Token).Close()
	damaged := []byte("other content under this name")
	wrong := digest.FromString("what it should be")
	if err := os.WriteFile(from.file(wrong), damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*FetchRequest)
		want   string
	}{
		"a wrong token":           {func(r *FetchRequest) { r.From.Token = other.Token }, "401"},
		"no token":                {func(r *FetchRequest) { r.From.Token = "" }, "401"},
		"another's certificate":   {func(r *FetchRequest) { r.From.Fingerprint = other.Fingerprint }, "somebody else answers there"},
		"a blob that is not here": {func(r *FetchRequest) { r.Digest = digest.FromString("?") }, "404"},
		"a damaged blob":          {func(r *FetchRequest) { r.Digest = wrong }, digest.FromBytes(damaged).String()},
		"nobody":                  {func(r *FetchRequest) { r.From.Address = "127.0.0.1:1" }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			r := FetchRequest{digest.FromBytes(content), o}
			tc.change(&r)
			to := Store{t.TempDir()}
			if err := to.fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if lacking, err := to.lacking(t.Context(), []digest.Digest{r.Digest}); err != nil || len(lacking) != 1 {
				t.Errorf("something was stored: %v, %v", lacking, err)
			}
		})
	}
	t.Run("in the clear", func(t *testing.T) {
		resp, err := http.Get("http://" + o.Address + "/blobs/" + digest.FromBytes(content).String())
		if err == nil {
			if resp.Body.Close(); resp.StatusCode == http.StatusOK {
				t.Error("a blob was given without TLS")
			}
		}
	})
}

func TestAnOfferIsServedOnce(t *testing.T) {
	content := []byte("x")
	_, o, _ := serving(t, content)
	// Once it has answered, it is the first that serves.
	if err := (Store{t.TempDir()}).fetch(t.Context(), FetchRequest{digest.FromBytes(content), o}); err != nil {
		t.Fatal(err)
	}
	if err := (Store{t.TempDir()}).serve(t.Context(), o.Token); err == nil {
		t.Error("the same listener was served twice")
	}
}

func TestDamagedBlobsCountAsLacking(t *testing.T) {
	s := Store{t.TempDir()}
	whole, hurt, gone := digest.FromString("whole"), digest.FromString("hurt"), digest.FromString("gone")
	for _, c := range []string{"whole", "hurt"} {
		if err := s.Put(digest.FromString(c), strings.NewReader(c)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.file(hurt), []byte("HURT"), 0o600); err != nil {
		t.Fatal(err)
	}
	lacking, err := s.lacking(t.Context(), []digest.Digest{whole, hurt, gone})
	if err != nil || len(lacking) != 2 || lacking[0] != hurt || lacking[1] != gone {
		t.Errorf("lacks %v, %v", lacking, err)
	}
	if err := s.Put(hurt, strings.NewReader("HURT again")); err == nil {
		t.Error("a blob of other content was stored")
	}
	if _, err := s.lacking(t.Context(), []digest.Digest{"sha256:../../x"}); err == nil {
		t.Error("a digest that is a path was accepted")
	}
}
