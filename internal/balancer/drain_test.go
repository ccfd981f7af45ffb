package balancer

import (
	"errors"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

func TestCanDrain(t *testing.T) {
	backends := func(a, b, c facts.Backend) []facts.Backend {
		a.Name, b.Name, c.Name = "cp-a", "cp-b", "cp-c"
		return []facts.Backend{a, b, c}
	}
	up, down, drained := facts.Backend{Healthy: true}, facts.Backend{}, facts.Backend{Healthy: true, Drained: true}
	whole := backends(up, up, up)
	for name, tc := range map[string]struct {
		one, other []facts.Backend // of lb-a and lb-b; nil for one that does not answer
		refused    bool
		fails      bool
	}{
		"whole":                        {one: whole, other: whole},
		"one balancer is dead":         {one: whole},
		"both are":                     {fails: true},
		"the others are down":          {one: backends(up, down, down), other: whole, refused: true},
		"the others are drained":       {one: backends(up, drained, drained), other: whole, refused: true},
		"only one balancer sees it so": {one: whole, other: backends(up, down, down), refused: true},
		"it is down itself":            {one: backends(down, up, down), other: backends(down, up, down)},
	} {
		c := spec.DefaultLab("test")
		obs := &facts.Observation{Hosts: map[string]facts.Host{}}
		for host, b := range map[string][]facts.Backend{"lb-a": tc.one, "lb-b": tc.other} {
			if b != nil {
				obs.Hosts[host] = facts.Host{Balancer: &facts.Balancer{Healthy: true, Backends: b}}
			}
		}
		err := CanDrain(c, obs, "cp-a")
		var refusal *quorum.Refusal
		if errors.As(err, &refusal) != tc.refused || (err != nil) != (tc.refused || tc.fails) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
