package ledger

import (
	"context"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// partSize is how many operations a part of a history has at least, except for the last one. The memory that a search needs grows with
// the square of the size of a part.
const partSize = 64

// search looks for an order of the operations that a register would allow. It expects a history without a flaw. If ctx ends first, the
// answer means nothing.
//
// The history is searched in parts of at least the given size, from its end. It is cut where no operation is under way, so all operations
// before a cut precede all operations after it, and a legal order of the whole is one of the first part followed by one of the second, in
// which the register begins with the value with which the first one ended. No value is written twice, so that value matters only if a read in
// the second part returns a value that is not written there, and then it is this value. So the whole is legal if and only if the second part
// is, beginning with this value, and the first part is, followed by a read of it.
func (r *register) search(ctx context.Context, size int) bool {
	var after *Operation // a read of the value with which the next part begins
	for i, p := range slices.Backward(parts(r.operations, size)) {
		if after != nil {
			p.operations = append(slices.Clip(p.operations), after)
		}
		values := p.inherited()
		begin := state{known: i == 0}
		after = nil
		if i > 0 && len(values) == 1 {
			begin = state{known: true, value: values[0]}
			after = &Operation{Outcome: OK, Value: values[0]}
		}
		if len(values) > 1 || !porcupine.CheckOperations(model(ctx, begin), inputs(p.operations)) {
			return false
		}
		if after != nil {
			after.Called, after.Returned = p.before+1, p.before+1
		}
	}
	return true
}

// part is a part of a history.
type part struct {
	operations []*Operation
	// before is when the last operation before it returned. The first one of the part was called later.
	before time.Duration
}

// parts cuts a history.
func parts(operations []*Operation, size int) (out []part) {
	begin, end := 0, beginning // of the present part; the last return so far
	before := beginning
	for i, o := range operations {
		if i-begin >= size && o.Called > end {
			out = append(out, part{operations[begin:i], before})
			begin, before = i, end
		}
		end = max(end, o.Returned)
	}
	return append(out, part{operations[begin:], before})
}

// inherited lists the values that are read and not written in a part.
func (p part) inherited() (out []string) {
	written := map[string]bool{}
	for _, o := range p.operations {
		if o.Write {
			written[o.Value] = true
		}
	}
	for _, o := range p.operations {
		if !o.Write && !written[o.Value] && !slices.Contains(out, o.Value) {
			out = append(out, o.Value)
		}
	}
	return out
}

// state is the value of a register. If it is not known, no read is legal before the next write.
type state struct {
	known bool
	value string
}

// model is a register as porcupine knows it. When ctx ends, it allows nothing any more, which ends a search soon.
func model(ctx context.Context, begin state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(s, input, _ any) (bool, any) {
			now, o := s.(state), input.(*Operation)
			switch {
			case ctx.Err() != nil:
				return false, s
			case o.Write:
				return true, state{true, o.Value}
			}
			return now == state{true, o.Value}, s
		},
	}
}

// inputs are operations as porcupine knows them.
func inputs(operations []*Operation) []porcupine.Operation {
	out := make([]porcupine.Operation, 0, len(operations))
	for _, o := range operations {
		out = append(out, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Called), Return: int64(o.Returned)})
	}
	return out
}
