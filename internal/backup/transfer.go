package backup

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// stallTimeout is how long a store may take without a byte in either direction. How long all of it may take depends on the size of etcd and
// on the network, and is not limited here.
const stallTimeout = 3 * time.Minute

// transfer counts what goes over the connections to a store, and ends what makes no progress.
type transfer struct {
	bytes atomic.Int64
	// stall is stallTimeout, except in tests. abort ends operations that do not end with their context; it may be nil.
	stall time.Duration
	abort func()
}

// stalled is the cause of an operation that was ended because it made no progress.
func (t *transfer) stalled() error {
	return fmt.Errorf("the store transferred nothing for %s", t.stall)
}

// moving runs an operation, and ends it when nothing was transferred for too long.
func (t *transfer) moving(ctx context.Context, operation func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(t.stall)
		defer tick.Stop()
		for last := t.bytes.Load(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := t.bytes.Load()
			if now == last {
				cancel(t.stalled())
				if t.abort != nil {
					t.abort()
				}
				return
			}
			last = now
		}
	}()
	err := operation(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	<-done
	return err
}

// opening runs an operation whose context has to outlive it, such as one that opens a stream, and aborts it if it takes too long.
func (t *transfer) opening(operation func() error) error {
	stuck := time.AfterFunc(t.stall, t.abort)
	err := operation()
	if !stuck.Stop() && err != nil {
		return t.stalled()
	}
	return err
}

// reader ends with the context, and when nothing comes for too long. What it reads counts as a transfer.
func (t *transfer) reader(ctx context.Context, in io.Reader) io.Reader {
	return &movingReader{t, ctx, in}
}

type movingReader struct {
	t   *transfer
	ctx context.Context
	in  io.Reader
}

func (r *movingReader) Read(b []byte) (n int, err error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	stuck := time.AfterFunc(r.t.stall, func() {
		if r.t.abort != nil {
			r.t.abort()
		}
	})
	n, err = r.in.Read(b)
	if !stuck.Stop() && err != nil && err != io.EOF { //nolint:errorlint // readers return it as it is
		err = r.t.stalled()
	}
	r.t.bytes.Add(int64(n))
	return n, err
}

// counted counts what goes over a connection.
func (t *transfer) counted(c net.Conn) net.Conn { return &countedConn{c, t} }

type countedConn struct {
	net.Conn
	t *transfer
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.t.bytes.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.t.bytes.Add(int64(n))
	return n, err
}
