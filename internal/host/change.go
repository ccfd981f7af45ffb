package host

import (
	"context"
	"fmt"
	"io"
)

// Permit is the proof that a change of a host was evaluated and is allowed; see cluster.Permit.
type Permit interface {
	// Covers returns an error unless the permit is for a change of the host.
	Covers(host string) error
}

// Change is an operation that stops, restarts, adds or removes something on a host. It has no method On, so it cannot run
// without a permit.
type Change[In, Out any] struct{ op Op[In, Out] }

// DefineChange is Define for operations that need a permit.
func DefineChange[In, Out any](name string, run func(context.Context, In) (Out, error), kinds ...Kind) Change[In, Out] {
	return Change[In, Out]{op: Define(name, run, kinds...)}
}

// DefineStreamChange is DefineStream for operations that need a permit.
func DefineStreamChange[In, Out any](name string, run func(context.Context, In, io.Reader) (Out, error), kinds ...Kind) Change[In, Out] {
	return Change[In, Out]{op: DefineStream(name, run, kinds...)}
}

// Name is the name of the operation.
func (c Change[In, Out]) Name() string { return c.op.Name() }

// Make runs the operation on the host. The permit must be for this host.
func (c Change[In, Out]) Make(ctx context.Context, conn *Conn, permit Permit, in In) (Out, error) {
	return c.Send(ctx, conn, permit, in, nil)
}

// Send is Make for an operation that also reads a stream of bytes from the caller.
func (c Change[In, Out]) Send(ctx context.Context, conn *Conn, permit Permit, in In, body io.Reader) (Out, error) {
	var none Out
	if permit == nil {
		return none, fmt.Errorf("%s: %s: nothing was permitted", conn.Name(), c.op.name)
	}
	if err := permit.Covers(conn.Name()); err != nil {
		return none, err
	}
	return c.op.Send(ctx, conn, in, body)
}
