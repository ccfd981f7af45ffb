// Package host reaches hosts over SSH and runs typed operations on them.
//
// The host side is the same binary: Dial uploads it once, addressed by its digest, and runs
// `quorate host serve` in one SSH session. Requests and replies are HTTP/2 over that session's
// stdin and stdout, so they are multiplexed, streamed and cancelled by a protocol that is well
// tested, while nothing listens on the network and nothing is left running.
package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Op is an operation that the host side knows, from a request of type In to a reply of type Out.
type Op[In, Out any] struct{ name string }

type handler func(ctx context.Context, in json.RawMessage, body io.Reader) (any, error)

var handlers = map[string]handler{}

// Define registers an operation. Call it from a package-level variable: both sides are one binary,
// so both know the same operations.
func Define[In, Out any](name string, run func(context.Context, In) (Out, error)) Op[In, Out] {
	return DefineStream(name, func(ctx context.Context, in In, _ io.Reader) (Out, error) { return run(ctx, in) })
}

// DefineStream registers an operation that also reads a stream of bytes from the caller.
func DefineStream[In, Out any](name string, run func(context.Context, In, io.Reader) (Out, error)) Op[In, Out] {
	if _, taken := handlers[name]; taken {
		panic("host: operation " + name + " is defined twice")
	}
	handlers[name] = func(ctx context.Context, raw json.RawMessage, body io.Reader) (any, error) {
		var in In
		if err := json.Unmarshal(raw, &in); err != nil {
			return nil, fmt.Errorf("request for %s: %w", name, err)
		}
		return run(ctx, in, body)
	}
	return Op[In, Out]{name: name}
}

// On runs the operation on the host. Cancelling ctx cancels it there too.
func (o Op[In, Out]) On(ctx context.Context, c *Conn, in In) (Out, error) {
	return o.Send(ctx, c, in, nil)
}

// Send runs the operation and streams body to it. The host side may stop reading early.
func (o Op[In, Out]) Send(ctx context.Context, c *Conn, in In, body io.Reader) (Out, error) {
	var out Out
	err := c.call(ctx, o.name, in, body, &out)
	return out, err
}

// Error is a failure of an operation, with the host that it happened on.
type Error struct {
	Host, Op string
	Message  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Host, e.Message) }

// serveHTTP is the host side of one call. The request line carries the operation; the body is one
// JSON value (the request) followed by whatever the caller streams.
func serveHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("op")
	h, ok := handlers[name]
	if !ok {
		http.Error(w, "this quorate does not know the operation "+name, http.StatusNotFound)
		return
	}
	dec := json.NewDecoder(r.Body)
	var in json.RawMessage
	if err := dec.Decode(&in); err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	out, err := h(r.Context(), in, io.MultiReader(dec.Buffered(), r.Body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		// The connection is gone; the caller sees that itself.
		return
	}
}
