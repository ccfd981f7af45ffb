// Package system provides what operations need from a host's operating system: running programs, reading files, systemd units,
// network addresses.
package system

import "strings"

// LastLines returns the end of a program's output.
func LastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
