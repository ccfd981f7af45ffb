// Package fetch downloads files whose digest is known. It retries after temporary errors, resumes interrupted downloads, and
// never accepts any other content.
package fetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/durable"
)

// Client downloads files. The zero value uses Go's default transport.
type Client struct {
	// HTTP sends requests, with credentials if the server requires them.
	HTTP http.RoundTripper
	// Patience is how long a server may be unavailable or silent before the download fails. 0 means DefaultPatience.
	Patience time.Duration
}

// DefaultPatience is long enough for a server to restart.
const DefaultPatience = 2 * time.Minute

// File is what to download.
type File struct {
	What   string // for messages: "kubeadm v1.37.2", "image registry.k8s.io/pause:3.10"
	URL    string
	Digest digest.Digest
	// Size is how many bytes it has, 0 if that is not known. A source that sends more, or announces another size, is not read
	// any further.
	Size int64
	// Origin is where the digest comes from, for messages.
	Origin string
	// Progress is called from time to time with the bytes received and the total, -1 if unknown.
	Progress func(have, total int64)
}

// limitUnknown is the size of a file of which no size is known. No released program is that large.
const limitUnknown = 2 << 30

func (f File) limit() int64 {
	if f.Size > 0 {
		return f.Size
	}
	return limitUnknown
}

func (f File) otherSize(size int64) error {
	return Final(fmt.Sprintf("its content has %d bytes instead of %d, as %s says", size, f.Size, f.Origin), "the file is truncated, damaged, or a different one: do not use it")
}

// Error says what could not be transferred, why, and what to do.
type Error struct {
	Verb      string // of what was done; empty is download
	What, URL string
	Why, Fix  string
	Err       error
}

func (e *Error) Error() string {
	text := cmp.Or(e.Verb, "download") + " " + e.What
	if e.URL != "" {
		text += " from " + e.URL
	}
	text += ": " + e.Why
	if e.Fix != "" {
		text += "; " + e.Fix
	}
	return text
}

// Unwrap returns the cause, if there is one.
func (e *Error) Unwrap() error { return e.Err }

// DigestError says that a server serves other content than expected.
type DigestError struct {
	What, URL, Origin string
	Want, Got         digest.Digest
	Size              int64
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("download %s from %s: its content (%d bytes) has the digest %s instead of %s, as %s says: the file is truncated, damaged, or a different one; do not use it; correct the mirror, or use another one",
		e.What, e.URL, e.Size, e.Got, e.Want, e.Origin)
}

// Get downloads a file to target, complete and verified. It resumes what an earlier attempt left in target's directory, even
// that of another process.
func (c *Client) Get(ctx context.Context, f File, target string) error {
	if err := f.Digest.Validate(); err != nil {
		return &Error{What: f.What, URL: f.URL, Why: err.Error(), Fix: "correct the digest", Err: err}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	part := target + ".part"
	resumed := false
	for {
		fresh, err := c.receive(ctx, f, part)
		if err != nil {
			return err
		}
		got, size, err := sum(ctx, part, f.Digest.Algorithm())
		if err != nil {
			return err
		}
		if got == f.Digest {
			return durable.Rename(part, target)
		}
		if err := os.Remove(part); err != nil {
			return err
		}
		// The file may have been replaced since an earlier attempt: try once more from the start.
		if fresh || resumed {
			return &DigestError{f.What, f.URL, f.Origin, f.Digest, got, size}
		}
		resumed = true
	}
}

// receive completes the part file. fresh says that all of it came in one piece.
func (c *Client) receive(ctx context.Context, f File, part string) (fresh bool, err error) {
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return false, err
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err == nil && have > f.limit() { // it was begun of something else
		have, err = 0, out.Truncate(0)
	}
	if err != nil {
		return false, err
	}
	fresh = have == 0
	err = c.Again(ctx, f.What, f.URL, func(ctx context.Context, alive func()) error {
		begin := have
		n, err := c.piece(ctx, f, out, have, alive)
		have = n
		fresh = fresh && (begin == 0 || n < begin)
		return err
	})
	return fresh, err
}

// piece makes one request for what is missing and returns how much there is afterwards.
func (c *Client) piece(ctx context.Context, f File, out *os.File, have int64, alive func()) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return have, Final(err.Error(), "correct the address: it is not a URL")
	}
	// Go would otherwise offer gzip, and a range of a compressed answer is not one of the file.
	r.Header.Set("Accept-Encoding", "identity")
	if have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := c.client().Do(r)
	if err != nil {
		return have, err
	}
	defer resp.Body.Close()
	total := int64(-1)
	switch {
	case resp.StatusCode == http.StatusPartialContent && begins(resp, have):
		if resp.ContentLength >= 0 {
			total = have + resp.ContentLength
		}
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusPartialContent:
		if resp.StatusCode == http.StatusPartialContent {
			return 0, errors.Join(errors.New("the server sent a different range than requested"), out.Truncate(0))
		}
		have, total = 0, resp.ContentLength
		if err := out.Truncate(0); err != nil {
			return 0, err
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && have > 0:
		// All of it is there already, or more than all: the digest decides.
		return have, nil
	default:
		return have, Status(resp)
	}
	if f.Size > 0 && total >= 0 && total != f.Size {
		return have, f.otherSize(total)
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return have, err
	}
	limit := f.limit()
	n, err := io.Copy(out, io.LimitReader(&watched{r: resp.Body, alive: alive, have: have, total: total, progress: f.Progress}, limit-have+1))
	have += n
	switch {
	case have > limit:
		return 0, errors.Join(Final(fmt.Sprintf("it sends more than %d bytes", limit), "it is another file: do not use it"), out.Truncate(0))
	case err == nil && total >= 0 && have < total:
		err = io.ErrUnexpectedEOF
	case err == nil && have < f.Size && complete(resp):
		err = f.otherSize(have)
	case err == nil && have < f.Size:
		err = io.ErrUnexpectedEOF
	}
	return have, err
}

// complete reports whether the end of an answer without a length is its end, and not that of a connection that was cut.
func complete(resp *http.Response) bool {
	return resp.ProtoMajor > 1 || slices.Contains(resp.TransferEncoding, "chunked")
}

// begins reports whether a partial response starts where it should.
func begins(resp *http.Response, have int64) bool {
	rest, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	start, _, dash := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(start, 10, 64)
	return ok && dash && err == nil && n == have
}

// Text downloads a small file that is not verified beyond the TLS connection.
func (c *Client) Text(ctx context.Context, what, url string, limit int64) (string, error) {
	var text string
	err := c.Again(ctx, what, url, func(ctx context.Context, _ func()) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return Final(err.Error(), "correct the address: it is not a URL")
		}
		resp, err := c.client().Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return Status(resp)
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err == nil && int64(len(raw)) > limit {
			return Final(fmt.Sprintf("it has more than %d bytes", limit), "check the address: this is not the expected file")
		}
		text = string(raw)
		return err
	})
	return text, err
}

func (c *Client) client() *http.Client {
	return &http.Client{Transport: c.HTTP, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
			return Final("it is redirected from https to "+r.URL.Scheme, "do not use this mirror: an attacker could change what it serves")
		}
		return nil
	}}
}

// Again retries after temporary failures until the client's patience has passed without a byte.
func (c *Client) Again(ctx context.Context, what, url string, try func(ctx context.Context, alive func()) error) error {
	patience := c.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	last := time.Now()
	pause := 500 * time.Millisecond
	for {
		attempt, cancel := context.WithCancelCause(ctx)
		silence := time.AfterFunc(patience, func() { cancel(errSilent) })
		err := try(attempt, func() {
			last, pause = time.Now(), 500*time.Millisecond
			silence.Reset(patience)
		})
		silence.Stop()
		if errors.Is(context.Cause(attempt), errSilent) {
			err = errSilent
		}
		cancel(nil)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("download %s: %w", what, context.Cause(ctx))
		}
		why, fix, passing, wait := judge(err)
		if !passing {
			return &Error{What: what, URL: url, Why: why, Fix: fix, Err: err}
		}
		pause = min(pause*2, 15*time.Second)
		// Add jitter: clients that lost the same server should not all reconnect at the same moment.
		wait = max(wait, pause/2+rand.N(pause/2))
		if time.Since(last)+wait > patience {
			fix = fmt.Sprintf("it has failed for %s; run it again when the source is available, what was downloaded is kept", time.Since(last).Round(time.Second))
			return &Error{What: what, URL: url, Why: why, Fix: fix, Err: err}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("download %s: %w", what, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

var errSilent = errors.New("the server has stopped sending")

// watched reports that bytes arrive.
type watched struct {
	r           io.Reader
	alive       func()
	have, total int64
	progress    func(have, total int64)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.alive()
		w.have += int64(n)
		if w.progress != nil {
			w.progress(w.have, w.total)
		}
	}
	return n, err
}

func sum(ctx context.Context, file string, algorithm digest.Algorithm) (digest.Digest, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := algorithm.Hash()
	buf := make([]byte, 1<<20)
	var size int64
	for {
		if ctx.Err() != nil {
			return "", 0, context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		size += int64(n)
		if err == io.EOF {
			return digest.NewDigest(algorithm, h), size, nil
		}
		if err != nil {
			return "", 0, fmt.Errorf("read %s: %w", file, err)
		}
	}
}

// Has reports whether file exists and matches the digest. It removes a file that does not match.
func Has(ctx context.Context, file string, want digest.Digest) (bool, error) {
	got, _, err := sum(ctx, file, want.Algorithm())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case got != want:
		return false, os.Remove(file)
	}
	return true, nil
}

// ParseChecksum finds a file's digest in a published checksum file: a bare checksum, or lines of checksums and names.
// The length of the sum says whether it is SHA-256 or SHA-512.
func ParseChecksum(text, name string) (digest.Digest, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range lines {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 1 && len(lines) == 1:
		case len(fields) == 2 && filepath.Base(strings.TrimPrefix(fields[1], "*")) == name:
		default:
			continue
		}
		raw, err := hex.DecodeString(fields[0])
		switch {
		case err == nil && len(raw) == sha256.Size:
			return digest.NewDigestFromBytes(digest.SHA256, raw), nil
		case err == nil && len(raw) == sha512.Size:
			return digest.NewDigestFromBytes(digest.SHA512, raw), nil
		}
		return "", fmt.Errorf("%q is neither a SHA-256 nor a SHA-512", fields[0])
	}
	return "", fmt.Errorf("it contains no checksum of %s", name)
}
