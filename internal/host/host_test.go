package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

type sumIn struct{ A, B int }

var (
	sum   = Define("test.sum", func(_ context.Context, in sumIn) (int, error) { return in.A + in.B, nil })
	fails = Define("test.fails", func(_ context.Context, what string) (struct{}, error) {
		return struct{}{}, fmt.Errorf("reading %s: no such file", what)
	})
	count = DefineStream("test.count", func(_ context.Context, _ struct{}, r io.Reader) (int64, error) {
		return io.Copy(io.Discard, r)
	})
	cancelled = make(chan error, 1)
	waits     = Define("test.waits", func(ctx context.Context, _ struct{}) (struct{}, error) {
		<-ctx.Done()
		cancelled <- ctx.Err()
		return struct{}{}, ctx.Err()
	})
)

func local(t *testing.T) *Conn {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Local(ctx, "cp-a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); cancel() })
	return c
}

func TestCallsAreTypedAndConcurrent(t *testing.T) {
	c := local(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if got, err := sum.On(t.Context(), c, sumIn{i, 1}); err != nil || got != i+1 {
				t.Errorf("sum(%d, 1) = %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestErrorNamesTheHost(t *testing.T) {
	_, err := fails.On(t.Context(), local(t), "/etc/x")
	var he *Error
	if !errors.As(err, &he) || err.Error() != "cp-a: reading /etc/x: no such file" {
		t.Fatalf("got %v", err)
	}
}

func TestStreamsLargeBodies(t *testing.T) {
	const size = 64 << 20
	got, err := count.Send(t.Context(), local(t), struct{}{}, io.LimitReader(zeros{}, size))
	if err != nil || got != size {
		t.Fatalf("host read %d of %d bytes, %v", got, size, err)
	}
}

func TestCancelReachesTheHost(t *testing.T) {
	c := local(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := waits.On(ctx, c, struct{}{}); done <- err }()
	if _, err := sum.On(t.Context(), c, sumIn{1, 1}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("caller got %v", err)
	}
	select {
	case <-cancelled:
	case <-time.After(10 * time.Second):
		t.Error("the operation on the host was not cancelled")
	}
}

func TestClosedSessionSaysSo(t *testing.T) {
	c := local(t)
	c.Close()
	if _, err := sum.On(t.Context(), c, sumIn{}); err == nil || !strings.HasPrefix(err.Error(), "cp-a: ") {
		t.Fatalf("got %v", err)
	}
}

func TestUnknownOperation(t *testing.T) {
	op := Op[struct{}, struct{}]{name: "test.unknown"}
	if _, err := op.On(t.Context(), local(t), struct{}{}); err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Fatalf("got %v", err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tl tail
	fmt.Fprint(&tl, strings.Repeat("x", 5000), "the end")
	if s := tl.String(); len(s) != 4096 || !strings.HasSuffix(s, "the end") {
		t.Fatalf("%d bytes, ends %q", len(s), s[len(s)-10:])
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
