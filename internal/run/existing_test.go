package run

import (
	"fmt"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/spec"
)

// TestFindPorts: each host gets the first port at which it is reached, and is asked at none twice.
func TestFindPorts(t *testing.T) {
	listens := map[string]int{"a": 22, "b": 2200, "c": 1}
	hosts := []spec.Host{{Name: "a", SSH: spec.SSH{Port: 2222}}, {Name: "b", SSH: spec.SSH{Port: 2222}}, {Name: "c"}}
	var asked []string
	found := findPorts(hosts, func(spec.Host) []int { return []int{22, 2222, 22, 2200} }, func(tried []spec.Host) (reached []string) {
		for _, h := range tried {
			asked = append(asked, fmt.Sprint(h.Name, ":", h.SSH.Port))
			if listens[h.Name] == h.SSH.Port {
				reached = append(reached, h.Name)
			}
		}
		return reached
	})
	if !slices.Equal(found, []string{"a", "b"}) {
		t.Errorf("found %v", found)
	}
	if want := []string{"a:22", "b:22", "c:2222", "b:2200", "c:2200"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	for i, want := range []int{22, 2200, 0} {
		if got := hosts[i].SSH.Port; got != want {
			t.Errorf("%s: port %d, want %d", hosts[i].Name, got, want)
		}
	}
	findPorts(nil, nil, func([]spec.Host) []string { t.Error("no host should be asked"); return nil })
}
