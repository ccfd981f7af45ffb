package drill

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/spec"
)

// Match reports whether a name of a fault or of a kind of client matches a pattern, or one of several that are joined by commas. Names and
// patterns have parts that are separated by slashes, and each part of the pattern is matched as path.Match does. A pattern may have
// fewer parts: "kill" and "kill/*" match "kill/etcd/leader". Parts beyond the name must be *. An invalid pattern matches nothing.
func Match(patterns, name string) bool {
	for p := range strings.SplitSeq(patterns, ",") {
		if matchOne(strings.TrimSpace(p), name) {
			return true
		}
	}
	return false
}

func matchOne(pattern, name string) bool {
	of := strings.Split(name, "/")
	for i, part := range strings.Split(pattern, "/") {
		if i >= len(of) {
			if part != "*" {
				return false
			}
			continue
		}
		if ok, err := path.Match(part, of[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Chooses reports whether a pattern, or one of several that are joined by commas, chooses the fault of that name. It is Match, except that the faults
// of certain hosts are chosen only by patterns that name a host: "kill/*" is a kind of fault, and not a list of all hosts.
func Chooses(patterns, name string) bool {
	for p := range strings.SplitSeq(patterns, ",") {
		if choosesOne(strings.TrimSpace(p), name) {
			return true
		}
	}
	return false
}

func choosesOne(pattern, name string) bool {
	return matchOne(pattern, name) && (!namesHost(name) || namesHost(pattern))
}

// namesHost says that a name is of a fault of a certain host, or that a pattern is for such names.
func namesHost(name string) bool { return strings.Contains(name, "/"+onHost) }

// Select returns the faults that one of the patterns chooses, in the order in which they are given. Each of only can be several
// patterns that are joined by commas (see Chooses). Without any, it returns those of DefaultSet. A pattern that is invalid or that chooses no
// fault is an error.
func Select(faults []Fault, only []string) ([]Fault, error) {
	if len(only) == 0 {
		return DefaultSet(faults), nil
	}
	wanted := map[Fault]bool{}
	for _, patterns := range only {
		if err := spec.CheckPattern(patterns); err != nil {
			return nil, fmt.Errorf("choosing faults: %w", err)
		}
		for p := range strings.SplitSeq(patterns, ",") {
			p = strings.TrimSpace(p)
			found := false
			for _, f := range faults {
				if choosesOne(p, f.Name()) {
					wanted[f], found = true, true
				}
			}
			if !found {
				names := slices.DeleteFunc(namesOf(faults), func(name string) bool { return namesHost(name) != namesHost(p) })
				return nil, fmt.Errorf("choosing faults: no fault that can be injected here matches `%s`%s; `quorate drill --list` shows all faults, and why some cannot be injected", p, meant(p, names))
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(faults), func(f Fault) bool { return !wanted[f] }), nil
}

func namesOf(faults []Fault) (out []string) {
	for _, f := range faults {
		out = append(out, f.Name())
	}
	return out
}

// maxMeant is how many patterns an error suggests.
const maxMeant = 6

// meant suggests patterns that match some of the names and are close to one that matches none, as the end of a sentence.
func meant(pattern string, names []string) string {
	near := nearPatterns(pattern, names)
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + either(near) + "?"
}

// nearPatterns correct the first part of a pattern that matches nothing. What cannot be corrected is replaced by everything that is
// possible there.
func nearPatterns(pattern string, names []string) (out []string) {
	for _, anywhere := range []string{"*/" + pattern, "*/*/" + pattern} {
		if slices.ContainsFunc(names, func(n string) bool { return matchOne(anywhere, n) }) && spec.CheckPattern(anywhere) == nil {
			return []string{anywhere}
		}
	}
	fixed := ""
	for part := range strings.SplitSeq(pattern, "/") {
		var words []string
		for _, n := range names {
			if rest, ok := after(fixed, n); ok {
				word, _, _ := strings.Cut(rest, "/")
				if !slices.Contains(words, word) {
					words = append(words, word)
				}
			}
		}
		if !slices.ContainsFunc(words, func(w string) bool { return matchOne(part, w) }) {
			near := spec.Nearest(part, words)
			if near == "" {
				for _, w := range words[:min(len(words), maxMeant)] {
					out = append(out, fixed+w)
				}
				return out
			}
			part = near
		}
		fixed += part + "/"
	}
	return []string{strings.TrimSuffix(fixed, "/")}
}

// after returns the parts of a name behind those that match a pattern, which is empty or ends with a slash.
func after(pattern, name string) (rest string, ok bool) {
	parts, n := strings.Split(name, "/"), strings.Count(pattern, "/")
	if n >= len(parts) || n > 0 && !matchOne(strings.TrimSuffix(pattern, "/"), strings.Join(parts[:n], "/")) {
		return "", false
	}
	return strings.Join(parts[n:], "/"), true
}

// either lists patterns as a choice: `a`, `b` or `c`.
func either(patterns []string) string {
	quoted := make([]string, len(patterns))
	for i, p := range patterns {
		quoted[i] = "`" + p + "`"
	}
	if n := len(quoted); n > 1 {
		return strings.Join(quoted[:n-1], ", ") + " or " + quoted[n-1]
	}
	return strings.Join(quoted, "")
}
