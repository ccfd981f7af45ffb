package main

import "testing"

// A new version starts from the modules of the one before it.
func TestNearest(t *testing.T) {
	versions := []string{"v1.10.0", "v1.9.1", "v2.0.0"}
	for wanted, want := range map[string]string{"v1.11.0": "v1.10.0", "v1.9.2": "v1.9.1", "v3.0.0": "v2.0.0", "v1.0.0": "v1.9.1"} {
		if got := nearest(versions, wanted); got != want {
			t.Errorf("%s starts from %s, want %s", wanted, got, want)
		}
	}
}
