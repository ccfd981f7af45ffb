// Package flags reads the flags with which other programs run. It is pure.
package flags

import "strings"

// Flag is a flag of a program, without its dashes.
type Flag struct{ Name, Value string }

// Parse reads the flags of a program: --name=value, --name value, and --name, which is true. A single dash works, too. If a flag is
// given several times, the last one counts.
func Parse(args []string) map[string]string {
	out := map[string]string{}
	for _, f := range List(args) {
		out[f.Name] = f.Value
	}
	return out
}

// List is Parse for flags that can be given several times.
func List(args []string) (out []Flag) {
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
