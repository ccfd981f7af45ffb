package fetch

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// content is larger than any buffer on the way, so that it is cut in the middle.
var content = bytes.Repeat([]byte("0123456789abcdef"), 256<<10)

// server serves the content with ranges, and does each misdeed once.
type server struct {
	*httptest.Server
	requests, ranges atomic.Int32
	sent             atomic.Int64
	misdeeds         chan func(http.ResponseWriter, *http.Request)
}

func serve(t *testing.T, misdeeds ...func(http.ResponseWriter, *http.Request)) *server {
	t.Helper()
	s := &server{misdeeds: make(chan func(http.ResponseWriter, *http.Request), 10)}
	for _, m := range misdeeds {
		s.misdeeds <- m
	}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if r.Header.Get("Range") != "" {
			s.ranges.Add(1)
		}
		select {
		case misdeed := <-s.misdeeds:
			misdeed(w, r)
		default:
			http.ServeContent(&counting{w, &s.sent}, r, "", time.Time{}, bytes.NewReader(content))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (s *server) client(t *testing.T, patience time.Duration) *Client {
	t.Helper()
	transport, err := Access{CAFile: s.caFile(t)}.Transport()
	if err != nil {
		t.Fatal(err)
	}
	return &Client{HTTP: transport, Patience: patience}
}

func (s *server) caFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *server) file() File {
	return File{What: "the file", URL: s.URL + "/file", Digest: digest.FromBytes(content), Origin: "SUMS"}
}

// part sends the first n bytes of an answer that promises all, and breaks the connection.
func part(n int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func answer(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", code) }
}

func TestGet(t *testing.T) {
	half := len(content) / 2
	for name, tc := range map[string]struct {
		misdeeds []func(http.ResponseWriter, *http.Request)
		begun    []byte // what an earlier process left
		ranges   int32
		atMost   int64 // bytes that may be sent by well-behaved answers
	}{
		"at once":            {atMost: int64(len(content))},
		"cut in the middle":  {misdeeds: []func(http.ResponseWriter, *http.Request){part(half)}, ranges: 1, atMost: int64(len(content) - half + 1<<16)},
		"cut twice":          {misdeeds: []func(http.ResponseWriter, *http.Request){part(half), answer(503)}, ranges: 2, atMost: int64(len(content) - half + 1<<16)},
		"busy":               {misdeeds: []func(http.ResponseWriter, *http.Request){answer(429), answer(500)}, atMost: int64(len(content))},
		"begun earlier":      {begun: content[:half], ranges: 1, atMost: int64(len(content) - half)},
		"all there":          {begun: content, ranges: 1},
		"begun of another":   {begun: []byte("something else"), ranges: 1, atMost: 2 * int64(len(content))},
		"more than there is": {begun: append(bytes.Clone(content), "x"...), ranges: 1, atMost: int64(len(content))},
		"no ranges": {begun: content[:half], ranges: 1, misdeeds: []func(http.ResponseWriter, *http.Request){
			func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.misdeeds...)
			target := filepath.Join(t.TempDir(), "sub", "file")
			if tc.begun != nil {
				if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(target+".part", tc.begun, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.client(t, 10*time.Second).Get(t.Context(), s.file(), target); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, content) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if n := s.ranges.Load(); n != tc.ranges {
				t.Errorf("%d requests for a part, want %d", n, tc.ranges)
			}
			const refusal = 64 // the words of an answer that has no content
			if n := s.sent.Load(); n > tc.atMost+refusal {
				t.Errorf("%d bytes sent, at most %d are needed", n, tc.atMost)
			}
			if _, err := os.Stat(target + ".part"); !os.IsNotExist(err) {
				t.Error("the part file is still there")
			}
		})
	}
}

func TestGetRefuses(t *testing.T) {
	other := func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("truncated")) }
	for name, tc := range map[string]struct {
		misdeeds []func(http.ResponseWriter, *http.Request)
		want     []string
	}{
		"other content": {[]func(http.ResponseWriter, *http.Request){other}, []string{"9 bytes", digest.FromString("truncated").String(), digest.FromBytes(content).String(), "as SUMS says", "/file"}},
		"no login":      {[]func(http.ResponseWriter, *http.Request){answer(401)}, []string{"401", "components.username", "/file"}},
		"no right":      {[]func(http.ResponseWriter, *http.Request){answer(403)}, []string{"403", "may not read"}},
		"nothing there": {[]func(http.ResponseWriter, *http.Request){answer(404)}, []string{"404", "quorate bundle sources"}},
		"a downgrade": {[]func(http.ResponseWriter, *http.Request){func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}}, []string{"redirected from https to http"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.misdeeds...)
			target := filepath.Join(t.TempDir(), "file")
			err := s.client(t, 10*time.Second).Get(t.Context(), s.file(), target)
			for _, w := range tc.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("got %v, want %q", err, w)
				}
			}
			if n := s.requests.Load(); n != 1 {
				t.Errorf("%d requests for what does not pass", n)
			}
			if _, err := os.Stat(target); !os.IsNotExist(err) {
				t.Error("something is there")
			}
		})
	}
	t.Run("a stranger's certificate", func(t *testing.T) {
		s := serve(t)
		err := (&Client{}).Get(t.Context(), s.file(), filepath.Join(t.TempDir(), "file"))
		if err == nil || !strings.Contains(err.Error(), "caFile") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("in the clear", func(t *testing.T) {
		transport, err := Access{}.Transport()
		if err != nil {
			t.Fatal(err)
		}
		f := File{What: "x", URL: "http://192.0.2.1/x", Digest: digest.FromBytes(nil)}
		if err := (&Client{HTTP: transport}).Get(t.Context(), f, filepath.Join(t.TempDir(), "file")); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
			t.Errorf("got %v", err)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	s := serve(t, part(1<<20))
	target := filepath.Join(t.TempDir(), "file")
	f, c := s.file(), s.client(t, 2*time.Second)
	f.Progress = func(have, _ int64) {
		if have >= 1<<20 {
			go s.CloseClientConnections()
			s.Listener.Close()
		}
	}
	err := c.Get(t.Context(), f, target)
	var failed *Error
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), "what was downloaded is kept") {
		t.Fatalf("got %v", err)
	}
	if info, err := os.Stat(target + ".part"); err != nil || info.Size() < 1<<19 {
		t.Errorf("kept %v, %v", info, err)
	}
}

func TestSilenceEnds(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Write(content[:1<<16])
		w.(http.Flusher).Flush()
		<-hang
	})
	if err := s.client(t, time.Second).Get(t.Context(), s.file(), filepath.Join(t.TempDir(), "file")); err == nil || !strings.Contains(err.Error(), "stopped sending") {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	s := serve(t, answer(503), answer(503), answer(503), answer(503), answer(503))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.client(t, time.Minute).Get(ctx, s.file(), filepath.Join(t.TempDir(), "file")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestPasswordStaysAtItsHost(t *testing.T) {
	seen := make(chan string, 1)
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		w.Write(content)
	}))
	defer elsewhere.Close()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "secret" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, elsewhere.URL, http.StatusFound)
	})
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := s.caFile(t)
	f, err := os.OpenFile(ca, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Bytes: elsewhere.Certificate().Raw}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	c, err := Access{CAFile: ca, Username: "u", PasswordFile: password}.Client(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), s.file(), filepath.Join(t.TempDir(), "file")); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != "" {
		t.Errorf("another host was told %q", got)
	}
}

func TestParseChecksum(t *testing.T) {
	sum256, sum512 := digest.SHA256.FromString("x"), digest.SHA512.FromString("x")
	for name, tc := range map[string]struct {
		text string
		want digest.Digest
		err  string
	}{
		"bare":       {sum512.Encoded(), sum512, ""},
		"bare, line": {sum256.Encoded() + "\n", sum256, ""},
		"with name":  {sum256.Encoded() + "  f.tgz\n", sum256, ""},
		"binary":     {sum256.Encoded() + " *dist/f.tgz\n", sum256, ""},
		"of many":    {strings.Repeat("0", 64) + "  g\n" + sum256.Encoded() + "  f.tgz\n", sum256, ""},
		"of others":  {sum256.Encoded() + "  g\n", "", "no checksum of f.tgz"},
		"empty":      {"", "", "no checksum of f.tgz"},
		"a page":     {"<html>\nnot found\n</html>", "", "no checksum of f.tgz"},
		"no sum":     {"abc", "", "neither a SHA-256 nor a SHA-512"},
		"two bare":   {sum256.Encoded() + "\n" + sum256.Encoded(), "", "no checksum of f.tgz"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseChecksum(tc.text, "f.tgz")
			if got != tc.want || (tc.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
