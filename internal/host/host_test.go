package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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
	began     = make(chan struct{}, 1)
	cancelled = make(chan error, 1)
	waits     = Define("test.waits", func(ctx context.Context, _ struct{}) (struct{}, error) {
		began <- struct{}{}
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
	<-began
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

var (
	absent = Define("test.absent", func(context.Context, struct{}) (struct{}, error) {
		_, err := os.Open("/does/not/exist")
		return struct{}{}, err
	})
	errBusy = NewCause("test.busy", "it is busy")
	busy    = Define("test.busy", func(context.Context, struct{}) (struct{}, error) {
		return struct{}{}, fmt.Errorf("taking it: %w", errBusy)
	})
	huge = Define("test.huge", func(_ context.Context, n int) (string, error) { return strings.Repeat("x", n), nil })
)

func TestCausesSurvive(t *testing.T) {
	c := local(t)
	for _, tc := range []struct {
		op   Op[struct{}, struct{}]
		want error
	}{{absent, fs.ErrNotExist}, {busy, errBusy}} {
		_, err := tc.op.On(t.Context(), c, struct{}{})
		if !errors.Is(err, tc.want) || Unanswered(err) || !strings.HasPrefix(err.Error(), "cp-a: ") {
			t.Errorf("%s: got %v", tc.op.name, err)
		}
	}
	if _, err := fails.On(t.Context(), c, "x"); errors.Is(err, fs.ErrNotExist) || errors.Is(err, errBusy) {
		t.Errorf("an error without a cause has one: %v", err)
	}
}

// TestRepliesAreLimited: a host that was taken over must not fill the caller's memory.
func TestRepliesAreLimited(t *testing.T) {
	c := local(t)
	if s, err := huge.On(t.Context(), c, replyLimit/2); err != nil || len(s) != replyLimit/2 {
		t.Fatalf("%d bytes, %v", len(s), err)
	}
	if _, err := huge.On(t.Context(), c, replyLimit); err == nil || !strings.Contains(err.Error(), "larger than 16 MiB") {
		t.Errorf("got %v", err)
	}
}

// TestServeWaitsForWhatRuns: the process, and with it the lease, must not end before the work does.
func TestServeWaitsForWhatRuns(t *testing.T) {
	fromServer, toClient := io.Pipe()
	fromClient, toServer := io.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.WithoutCancel(t.Context()), fromClient, toClient) }()
	s, err := newSession(t.Context(), newPipeConn(fromServer, toServer))
	if err != nil {
		t.Fatal(err)
	}
	c := connOf("cp-a", s)
	go works.On(t.Context(), c, struct{}{}) //nolint:errcheck // its session ends
	<-working
	c.Close()
	<-told // the operation was canceled, and is not done
	select {
	case err := <-served:
		t.Fatalf("the host side ended (%v) while an operation ran", err)
	default:
	}
	close(finish)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

var (
	working, told, finish = make(chan struct{}), make(chan struct{}), make(chan struct{})
	works                 = Define("test.works", func(ctx context.Context, _ struct{}) (struct{}, error) {
		close(working)
		<-ctx.Done()
		close(told)
		<-finish
		return struct{}{}, nil
	})
)

// TestALostSessionIsOpenedAgain: a call that only reads is repeated; one that may have changed something fails, and says
// that its outcome is unknown.
func TestALostSessionIsOpenedAgain(t *testing.T) {
	c := local(t)
	dials := 0
	c.redial = func(ctx context.Context) (*session, error) {
		dials++
		return localSession(context.WithoutCancel(ctx), "cp-a", nil)
	}
	drop := func() { c.now.Load().close() }
	lost := make(chan struct{})
	*atLook.Load() = func() { drop(); close(lost) }
	if got, err := look.On(t.Context(), c, struct{}{}); err != nil || got != "seen" || dials != 1 {
		t.Fatalf("a call that reads: %q, %v, %d dials", got, err, dials)
	}
	<-lost
	drop()
	if got, err := sum.On(t.Context(), c, sumIn{1, 2}); err != nil || got != 3 || dials != 2 {
		t.Fatalf("a call after the loss: %d, %v, %d dials", got, err, dials)
	}
	lost = make(chan struct{})
	*atChange.Load() = func() { drop(); close(lost) }
	var session *SessionError
	if _, err := changes.On(t.Context(), c, struct{}{}); !errors.As(err, &session) || dials != 2 {
		t.Fatalf("a call that changes something: %v, %d dials", err, dials)
	}
	<-lost

	// What was held with the session is taken again before anything else is done.
	taken := 0
	c.OnNewSession(func(ctx context.Context) error {
		taken++
		_, err := sum.On(ctx, c, sumIn{1, 1})
		return err
	})
	if _, err := sum.On(t.Context(), c, sumIn{1, 2}); err != nil || taken != 1 {
		t.Fatalf("%v, taken %d times", err, taken)
	}
	drop()
	c.OnNewSession(func(context.Context) error { return errors.New("somebody else has the lease") })
	_, err := sum.On(t.Context(), c, sumIn{1, 2})
	if !errors.As(err, &session) || !strings.Contains(err.Error(), "somebody else has the lease") {
		t.Fatalf("a session without the lease was used: %v", err)
	}
	// A host that cannot be reached again is not dialed by every call.
	before := dials
	if _, err := sum.On(t.Context(), c, sumIn{1, 2}); err == nil || dials != before {
		t.Errorf("%v, %d dials", err, dials-before)
	}
}

var (
	atLook, atChange = hook(), hook()
	look             = Define("test.look", func(context.Context, struct{}) (string, error) { return "seen", once(atLook) }, Reads)
	changes          = Define("test.changes", func(context.Context, struct{}) (string, error) { return "changed", once(atChange) })
)

func hook() *atomic.Pointer[func()] {
	p := new(atomic.Pointer[func()])
	p.Store(new(func()))
	return p
}

// once runs a hook the first time.
func once(p *atomic.Pointer[func()]) error {
	if f := *p.Swap(new(func())); f != nil {
		f()
		return errors.New("nobody hears this")
	}
	return nil
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
