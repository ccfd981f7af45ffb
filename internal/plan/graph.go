package plan

import (
	"fmt"
	"slices"
)

// graph collects the steps of a plan. A reference to a step is a pointer to it; nil stands for something that needs no step,
// because it is so already. So a step can name what it depends on without asking whether that is part of the plan.
type graph struct {
	steps []*Step
	// before are the steps that come before all others: a step that depends on nothing else depends on them.
	before []*Step
}

// add puts a step into the graph, to run after others. It panics on a step that the rest of the program cannot run safely: a
// second one with the same ID, or one that takes something away without saying so. Tests build plans of every shape.
func (g *graph) add(s Step, after ...*Step) *Step {
	s.ID = id(s)
	if slices.ContainsFunc(g.steps, func(o *Step) bool { return o.ID == s.ID }) {
		panic("plan: two steps with the ID " + s.ID)
	}
	switch effect, known := effects[s.Kind]; {
	case !known:
		panic(fmt.Sprintf("plan: the kind %s does not declare its effect", s.Kind))
	case effect == changes && s.Change == nil:
		panic("plan: the step " + s.ID + " changes what runs and carries no change")
	case (effect == harmless || effect == waits) && s.Change != nil:
		panic("plan: the step " + s.ID + " is of a harmless kind and carries a change")
	}
	after = slices.DeleteFunc(slices.Clone(after), func(o *Step) bool { return o == nil })
	if len(after) == 0 {
		after = g.before
	}
	for _, o := range after {
		if !slices.Contains(s.Needs, o.ID) {
			s.Needs = append(s.Needs, o.ID)
		}
	}
	out := &s
	g.steps = append(g.steps, out)
	return out
}

// beginWith makes the steps come before everything that is added later.
func (g *graph) beginWith(steps ...*Step) {
	steps = slices.DeleteFunc(slices.Clone(steps), func(o *Step) bool { return o == nil })
	if len(steps) > 0 {
		g.before = steps
	}
}

// all are references to every step so far, for a step that comes after all of them.
func (g *graph) all() []*Step { return slices.Clone(g.steps) }

// ofKind are the steps of some kinds.
func (g *graph) ofKind(kinds ...Kind) (out []*Step) {
	for _, s := range g.steps {
		if slices.Contains(kinds, s.Kind) {
			out = append(out, s)
		}
	}
	return out
}

// list returns the steps as the plan has them.
func (g *graph) list() []Step {
	out := []Step{}
	for _, s := range g.steps {
		out = append(out, *s)
	}
	return out
}

// id names a step: its host, its kind, and what tells it from others of the same kind on the same host.
func id(s Step) string {
	where := s.Host
	if where == "" {
		where = "cluster"
	}
	out := where + "/" + string(s.Kind)
	if s.Detail != "" {
		out += "/" + s.Detail
	}
	return out
}
