//go:build lab

package programs

import "testing"

// TestPowerCutAnywhere is TestPowerCut with so many cuts that hardly a moment is left out.
func TestPowerCutAnywhere(t *testing.T) { cutOften(t, 120) }
