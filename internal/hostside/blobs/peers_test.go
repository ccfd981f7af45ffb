package blobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	if err := to.fetch(t.Context(), FetchRequest{distribute.Blob{Digest: d, Size: int64(len(content))}, o}); err != nil {
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
		"another's certificate":   {func(r *FetchRequest) { r.From.Fingerprint = other.Fingerprint }, "another server answers there"},
		"a blob that is not here": {func(r *FetchRequest) { r.Blob.Digest = digest.FromString("?") }, "404"},
		"a damaged blob":          {func(r *FetchRequest) { r.Blob = distribute.Blob{Digest: wrong, Size: int64(len(damaged))} }, digest.FromBytes(damaged).String()},
		"nobody":                  {func(r *FetchRequest) { r.From.Address = "127.0.0.1:1" }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			r := FetchRequest{distribute.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}, o}
			tc.change(&r)
			to := Store{t.TempDir()}
			if err := to.fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if lacking, err := to.lacking(t.Context(), []digest.Digest{r.Blob.Digest}); err != nil || len(lacking) != 1 {
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

// TestPeersThatMisbehave: what a host receives from another is bounded by the size that the blob has, and by time.
func TestPeersThatMisbehave(t *testing.T) {
	content := bytes.Repeat([]byte("blob"), 1<<18)
	blob := distribute.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"without end": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(content); err != nil {
					return
				}
			}
		}, "more than 1048576 bytes"},
		"more than it is, as announced": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9999999999")
			w.Write(content)
			<-r.Context().Done()
		}, "9999999999 bytes instead of 1048576"},
		"too little, as announced": {func(w http.ResponseWriter, _ *http.Request) { w.Write(content[:1000]) }, "1000 bytes instead of 1048576"},
		"too little": {func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush() // no length is announced
			w.Write(content[:1000])
		}, "1000 bytes instead of 1048576"},
		"a byte now and then": {func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			for i := range content {
				if _, err := w.Write(content[i : i+1]); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					panic(http.ErrAbortHandler) // to return would be to say that this is all
				case <-time.After(100 * time.Millisecond):
				}
			}
		}, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewTLSServer(tc.answer)
			t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
			sum := sha256.Sum256(srv.Certificate().Raw)
			o := distribute.Offer{Address: srv.Listener.Addr().String(), Fingerprint: hex.EncodeToString(sum[:])}
			to := Store{t.TempDir()}
			err := to.get(t.Context(), FetchRequest{blob, o}, 8*time.Second)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			var left int64
			filepath.WalkDir(to.Dir, func(_ string, e fs.DirEntry, err error) error { //nolint:errcheck // it never fails
				if info, ierr := e.Info(); err == nil && ierr == nil && !e.IsDir() {
					left += info.Size()
				}
				return nil
			})
			if left > 0 {
				t.Errorf("%d bytes were left", left)
			}
		})
	}
	if err := (Store{t.TempDir()}).fetch(t.Context(), FetchRequest{distribute.Blob{Digest: blob.Digest}, distribute.Offer{}}); err == nil {
		t.Error("a blob of unknown size was fetched")
	}
}

// TestReceivedBytesAreBounded while they arrive, not only afterwards.
func TestReceivedBytesAreBounded(t *testing.T) {
	content := bytes.Repeat([]byte("blob"), 1<<18)
	var sent atomic.Int64
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			n, err := w.Write(content)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	defer srv.Close()
	sum := sha256.Sum256(srv.Certificate().Raw)
	o := distribute.Offer{Address: srv.Listener.Addr().String(), Fingerprint: hex.EncodeToString(sum[:])}
	err := (Store{t.TempDir()}).fetch(t.Context(), FetchRequest{distribute.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}, o})
	if err == nil {
		t.Error("more than the blob was taken for it")
	}
	// Beyond the blob, only what was on the way.
	if n := sent.Load(); n > int64(len(content))+32<<20 {
		t.Errorf("%d bytes were taken for a blob of %d", n, len(content))
	}
	err = (Store{t.TempDir()}).fetch(t.Context(), FetchRequest{distribute.Blob{Digest: digest.FromBytes(content)}, o})
	if err == nil || !strings.Contains(err.Error(), "its size is not known") {
		t.Errorf("a blob of which no size is known: %v", err)
	}
}

// TestStrangersDoNotUseUpConnections: those that say nothing are dropped when they are too many, and hosts are served.
func TestStrangersDoNotUseUpConnections(t *testing.T) {
	content := []byte("blob")
	_, o, _ := serving(t, content)
	_, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		t.Fatal(err)
	}
	dropped := 0
	for range 3 * maxFromOne {
		// From another address than the one that the host uses.
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			dropped++
		}
	}
	if dropped != 2*maxFromOne {
		t.Errorf("%d of %d silent connections were dropped", dropped, 3*maxFromOne)
	}
	if err := (Store{t.TempDir()}).fetch(t.Context(), FetchRequest{distribute.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}, o}); err != nil {
		t.Errorf("a host was not served: %v", err)
	}
}

func TestAnOfferIsServedOnce(t *testing.T) {
	content := []byte("x")
	_, o, _ := serving(t, content)
	// Once it has answered, it is the first that serves.
	if err := (Store{t.TempDir()}).fetch(t.Context(), FetchRequest{distribute.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}, o}); err != nil {
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
