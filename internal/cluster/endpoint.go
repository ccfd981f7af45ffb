package cluster

import (
	"encoding/json"
	"slices"

	"quorate.dev/quorate/internal/spec"
)

// FormerEndpoints are the endpoints besides that of the spec that clients may still use: the one that the cluster recorded, and
// those that it remembers from a change that did not end. There are none unless the endpoint changes.
func (s *State) FormerEndpoints() (out []spec.Endpoint) {
	add := func(e spec.Endpoint) {
		if e != s.Spec.Endpoint() && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	if record, err := s.Record(); record != nil && err == nil {
		add(record.Cluster().Endpoint())
	}
	if s.Seen.API != nil && s.Seen.API.Endpoints != "" {
		var remembered []spec.Endpoint
		// What cannot be read was written by a newer version. What hosts and the API say of their endpoint shows the rest.
		_ = json.Unmarshal([]byte(s.Seen.API.Endpoints), &remembered)
		for _, e := range remembered {
			add(e)
		}
	}
	return out
}
