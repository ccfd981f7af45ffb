// Package system provides what operations need from a host's operating system: running programs, reading files, systemd units,
// network addresses.
package system

import "strings"

// LastLines returns the end of a program's output.
func LastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Flag is a flag of a program, without its dashes.
type Flag struct{ Name, Value string }

// Flags reads the flags of a program: --name=value, --name value, and --name, which is true. A single dash works, too. If a flag is
// given several times, the last one counts.
func Flags(args []string) map[string]string {
	out := map[string]string{}
	for _, f := range FlagList(args) {
		out[f.Name] = f.Value
	}
	return out
}

// FlagList is Flags for flags that can be given several times.
func FlagList(args []string) (out []Flag) {
	for i := 0; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "-")
		if !isFlag {
			continue
		}
		name, value, has := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		if !has {
			value = "true"
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++
				value = args[i]
			}
		}
		out = append(out, Flag{name, value})
	}
	return out
}
