// Package host connects to hosts over SSH and runs typed operations on them.
//
// The host side is the same binary: Dial uploads it once, addressed by its digest, and runs `quorate host serve` in one
// SSH session. Requests and replies are HTTP/2 over that session's stdin and stdout, so a well-tested protocol
// multiplexes, streams, and cancels them. Nothing listens on the network and nothing stays running.
//
// Connections from a host to other addresses (the API, etcd, a load balancer) are streams of the same session: see
// Conn.DialContext. They use neither the port forwarding of sshd nor the network of the caller.
package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
)

// Op is an operation of the host side, from a request of type In to a reply of type Out.
type Op[In, Out any] struct {
	name string
	kind Kind
}

// Kind says what an operation may do and what it carries.
type Kind uint8

const (
	// Reads marks an operation that only reads. If its session is lost, it is repeated once in a new session.
	Reads Kind = 1 << iota
	// Secret marks an operation whose request contains a secret, or whose reply is key material that the caller passes on
	// to other hosts. It is refused in a session whose host key nobody confirmed: see UnconfirmedError.
	Secret
)

// Operation describes a defined operation, for tests that check all of them.
type Operation struct {
	Name    string
	Kind    Kind
	In, Out reflect.Type
}

type operation struct {
	Operation
	run func(ctx context.Context, in json.RawMessage, body io.Reader) (any, error)
}

var operations = map[string]operation{}

// Operations returns all operations that the packages of this program define, ordered by name.
func Operations() []Operation {
	var out []Operation
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		out = append(out, operations[name].Operation)
	}
	return out
}

// Define defines an operation. Call it from a package-level variable: both sides are the same binary, so both know the
// same operations.
func Define[In, Out any](name string, run func(context.Context, In) (Out, error), kinds ...Kind) Op[In, Out] {
	return DefineStream(name, func(ctx context.Context, in In, _ io.Reader) (Out, error) { return run(ctx, in) }, kinds...)
}

// DefineStream defines an operation that also reads a stream of bytes from the caller.
func DefineStream[In, Out any](name string, run func(context.Context, In, io.Reader) (Out, error), kinds ...Kind) Op[In, Out] {
	if _, taken := operations[name]; taken {
		panic("host: operation " + name + " is defined twice")
	}
	var kind Kind
	for _, k := range kinds {
		kind |= k
	}
	operations[name] = operation{
		Operation: Operation{Name: name, Kind: kind, In: reflect.TypeFor[In](), Out: reflect.TypeFor[Out]()},
		run: func(ctx context.Context, raw json.RawMessage, body io.Reader) (any, error) {
			var in In
			if err := json.Unmarshal(raw, &in); err != nil {
				return nil, fmt.Errorf("request for %s: %w", name, err)
			}
			return run(ctx, in, body)
		},
	}
	return Op[In, Out]{name: name, kind: kind}
}

// Name is the name of the operation.
func (o Op[In, Out]) Name() string { return o.name }

// On runs the operation on the host. Canceling ctx cancels the operation on the host, too.
func (o Op[In, Out]) On(ctx context.Context, c *Conn, in In) (Out, error) {
	return o.Send(ctx, c, in, nil)
}

// Send runs the operation and streams body to it. The host side may stop reading before the end of body.
func (o Op[In, Out]) Send(ctx context.Context, c *Conn, in In, body io.Reader) (Out, error) {
	var out Out
	err := c.call(ctx, o.name, o.kind, in, body, &out)
	return out, err
}

// serveOperation is the host side of one call. The path names the operation. The body is one JSON value, the request,
// followed by the bytes that the caller streams.
func (l *Limits) serveOperation(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("op")
	op, ok := operations[name]
	if !ok {
		http.Error(w, "this version of quorate does not know the operation "+name, http.StatusNotFound)
		return
	}
	dec := json.NewDecoder(r.Body)
	var in json.RawMessage
	if err := dec.Decode(&in); err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if l != nil {
		if err := l.Allow(name, in); err != nil {
			writeError(w, err)
			return
		}
	}
	out, err := op.run(r.Context(), in, io.MultiReader(dec.Buffered(), r.Body))
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		// The connection is gone, which the caller notices without being told.
		return
	}
}
