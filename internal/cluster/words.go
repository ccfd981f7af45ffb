package cluster

import (
	"strings"

	"quorate.dev/quorate/internal/spec"
)

// List joins words as a sentence does: a, b and c.
func List(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// Names are the names of hosts, in their order.
func Names(hosts []spec.Host) (out []string) {
	for _, h := range hosts {
		out = append(out, h.Name)
	}
	return out
}
