package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong with a spec: where, what, and what to do about it.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"` // from 1; 0 when the place is not known
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"` // such as spec.hosts[2].zone
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

// String renders the problem as one line: cluster.yaml:12:7: spec.hosts[2].zone: message; fix.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	} else if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	// What was read is quoted in messages: it must neither break the line nor steer a terminal.
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, b.String())
}

// Errors is everything that is wrong with a spec, in the order of the file.
type Errors []Problem

// Error renders one problem per line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// orNil keeps an empty list from becoming a non-nil error.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// sorted puts the problems in the order in which a reader of the file meets them; those without
// a line come first, in the order in which they were found.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}

// source knows where in the file each path was written.
type source struct {
	file string
	at   map[string]position
}

type position struct{ line, column int }

// problem places the message at path, or at the nearest ancestor that was written:
// a defaulted or missing field has no line of its own.
func (s *source) problem(path, message, fix string) Problem {
	p := Problem{Path: path, Message: message, Fix: fix}
	if s == nil {
		return p
	}
	p.File = s.file
	for at := path; ; at = at[:max(strings.LastIndexAny(at, ".["), 0)] {
		if pos, ok := s.at[at]; ok {
			p.Line, p.Column = pos.line, pos.column
			return p
		}
		if at == "" {
			return p
		}
	}
}
