package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxValues bounds how many values are decoded, so that aliases cannot blow a small file up.
const maxValues = 1 << 18

// decoder fills a Cluster from a tree of YAML nodes. It goes on after a problem, so that all are
// found, and keeps the paths that a problem spoiled, so that validation does not
// complain about what only follows from it.
type decoder struct {
	format   format
	src      *source
	problems Errors
	spoiled  []string
	budget   int

	// lenient collects unknown fields instead of refusing them.
	lenient       bool
	unknownFields []string
}

// format is a kind of file: the type of its content, and what to do about a file that is empty, one that is too large to be one, and one
// that has a second document.
type format struct {
	of                   reflect.Type
	empty, large, second string
}

// specFile is a cluster.yaml.
var specFile = format{reflect.TypeFor[Cluster](), "`quorate init` writes a spec to start from", "check that it is a spec", "one file describes one cluster: move it to its own file"}

func (d *decoder) note(path, message, fix string) {
	d.problems = append(d.problems, d.src.problem(path, message, fix))
}

func (d *decoder) root(n *yaml.Node, c *Cluster) {
	d.src.at[""] = position{n.Line, n.Column}
	d.value(n, reflect.ValueOf(c).Elem(), "")
}

// value decodes one node into a Go value. A null leaves the value as it is: a key with nothing
// behind it is a field that was not set, as in Kubernetes' own manifests.
func (d *decoder) value(n *yaml.Node, into reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.budget--; d.budget <= 0 {
		if d.budget == 0 {
			d.note(path, "the aliases of the file expand to too many values", "write the values out")
		}
		return
	}
	if isNull(n) {
		return
	}
	switch t := into.Type(); {
	case t.Kind() == reflect.Pointer: // a number that can be 0, and can be left out
		v := reflect.New(t.Elem())
		d.value(n, v.Elem(), path)
		into.Set(v)
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		d.object(n, into, path)
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		d.labels(n, into, path)
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		d.list(n, into, path)
	case t.Kind() == reflect.String && n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		into.SetString(n.Value)
	case t.Kind() == reflect.Int && n.Kind == yaml.ScalarNode && n.Tag == "!!int":
		i, err := strconv.Atoi(n.Value)
		if err != nil {
			d.mismatch(n, t, path)
			return
		}
		into.SetInt(int64(i))
	case t.Kind() == reflect.Bool && n.Kind == yaml.ScalarNode && n.Tag == "!!bool":
		b, err := strconv.ParseBool(n.Value)
		if err != nil {
			d.mismatch(n, t, path)
			return
		}
		into.SetBool(b)
	default:
		d.mismatch(n, t, path)
	}
}

func (d *decoder) object(n *yaml.Node, into reflect.Value, path string) {
	fields := fieldsOf(into.Type())
	d.entries(n, path, func(key, value *yaml.Node, at string) {
		index, ok := fields[key.Value]
		if !ok {
			d.unknown(key, into.Type(), path, at)
			return
		}
		d.value(value, into.Field(index), at)
	})
}

func (d *decoder) labels(n *yaml.Node, into reflect.Value, path string) {
	d.entries(n, path, func(key, value *yaml.Node, _ string) {
		at := path + "[" + key.Value + "]"
		d.src.at[at] = position{key.Line, key.Column}
		v := reflect.New(into.Type().Elem()).Elem()
		d.value(value, v, at)
		if into.IsNil() {
			into.Set(reflect.MakeMap(into.Type()))
		}
		into.SetMapIndex(reflect.ValueOf(key.Value), v)
	})
}

func (d *decoder) list(n *yaml.Node, into reflect.Value, path string) {
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.src.at[at] = position{item.Line, item.Column}
		v := reflect.New(into.Type().Elem()).Elem()
		d.value(item, v, at)
		into.Set(reflect.Append(into, v))
	}
}

// entries calls f for each key of a mapping. What a merge key (<<) brings in comes last and never
// replaces what is written in the mapping itself.
func (d *decoder) entries(n *yaml.Node, path string, f func(key, value *yaml.Node, at string)) {
	seen := map[string]*yaml.Node{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		at := join(path, key.Value)
		switch first := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			d.src.at[at] = position{key.Line, key.Column}
			d.note(at, "a field's name must be plain text", "look for a stray bracket or question mark")
		case key.Tag == "!!merge":
			merged = append(merged, value)
		case first != nil:
			d.src.at[at] = position{key.Line, key.Column}
			d.note(at, fmt.Sprintf("`%s` is set twice, first in line %d", key.Value, first.Line), "remove one of the two")
		default:
			seen[key.Value] = key
			d.src.at[at] = position{key.Line, key.Column}
			f(key, value, at)
		}
	}
	// A mapping that was merged once has nothing to add, and may be part of a circle.
	visited := map[*yaml.Node]bool{n: true}
	for len(merged) > 0 {
		m := merged[0]
		merged = merged[1:]
		if m.Kind == yaml.AliasNode {
			m = m.Alias
		}
		if visited[m] {
			continue
		}
		visited[m] = true
		switch m.Kind {
		case yaml.SequenceNode:
			merged = append(slices.Clone(m.Content), merged...)
		case yaml.MappingNode:
			for i := 0; i+1 < len(m.Content); i += 2 {
				key, value := m.Content[i], m.Content[i+1]
				switch {
				case key.Tag == "!!merge":
					merged = append(merged, value)
				case key.Kind == yaml.ScalarNode && seen[key.Value] == nil:
					seen[key.Value] = key
					at := join(path, key.Value)
					d.src.at[at] = position{key.Line, key.Column}
					f(key, value, at)
				}
			}
		default:
			d.src.at[join(path, "<<")] = position{m.Line, m.Column}
			d.note(join(path, "<<"), "only a mapping can be merged", "refer to the anchor of a mapping: `<<: *name`")
		}
	}
}

// unknown notes a field that does not exist, with the one that was likely meant: a near name
// here, or the same name in another place, which is an indentation slip.
func (d *decoder) unknown(key *yaml.Node, t reflect.Type, path, at string) {
	if d.lenient {
		d.unknownFields = append(d.unknownFields, at)
		return
	}
	names := fieldNames(t)
	fix := "the fields here are " + strings.Join(names, ", ")
	if near := Nearest(key.Value, names); near != "" {
		fix = fmt.Sprintf("did you mean `%s`?", near)
		d.spoiled = append(d.spoiled, join(path, near))
	} else if home, ok := homeOf(d.format.of, key.Value); ok {
		fix = fmt.Sprintf("`%s` belongs in %s: check the indentation", key.Value, home)
		d.spoiled = append(d.spoiled, join(home, key.Value))
	}
	d.note(at, fmt.Sprintf("unknown field `%s`", key.Value), fix)
}

func (d *decoder) mismatch(n *yaml.Node, want reflect.Type, path string) {
	var fix string
	switch {
	case want.Kind() == reflect.String && n.Kind == yaml.ScalarNode:
		fix = fmt.Sprintf("put it in quotes: %q", n.Value)
	case want.Kind() == reflect.Slice && want.Elem().Kind() == reflect.String && n.Kind == yaml.ScalarNode:
		fix = fmt.Sprintf("write [%s]", n.Value)
	case want.Kind() == reflect.Slice:
		fix = "start each item with `- `"
	case want.Kind() == reflect.Int:
		fix = "write it in digits, without quotes"
	case want.Kind() == reflect.Bool:
		fix = "write true or false, without quotes"
	case want.Kind() == reflect.String:
		fix = "give one value"
	case want.Kind() == reflect.Struct:
		fix = "its fields are " + strings.Join(fieldNames(want), ", ")
	default:
		fix = "write key: value pairs"
	}
	p := d.src.problem(path, fmt.Sprintf("expected %s, got %s", wanted(want), given(n)), fix)
	p.Line, p.Column = n.Line, n.Column // the value's own place, which may be below its key
	d.problems = append(d.problems, p)
	d.spoiled = append(d.spoiled, path)
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "a list of strings"
		}
		return "a list"
	default:
		return "a mapping"
	}
}

func given(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	kind := map[string]string{"!!str": "string", "!!int": "number", "!!float": "number", "!!bool": "boolean", "!!timestamp": "date"}[n.Tag]
	if kind == "" {
		kind = "value"
	}
	return fmt.Sprintf("the %s `%s`", kind, n.Value)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// fieldsOf maps the names of a struct's fields to their indices.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" {
			fields[name] = i
		}
	}
	return fields
}

// fieldNames returns the same names in the order of the type, which is the order of the docs.
func fieldNames(t reflect.Type) []string {
	fields := fieldsOf(t)
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return fields[a] - fields[b] })
	return names
}

// homeOf finds where a field of this name lives in a file of the type, leaving out lists: a field of a list's items
// has no one home.
func homeOf(file reflect.Type, name string) (string, bool) {
	var search func(t reflect.Type, path string) (string, bool)
	search = func(t reflect.Type, path string) (string, bool) {
		for _, field := range fieldNames(t) {
			if field == name {
				return path, true
			}
			if ft := t.Field(fieldsOf(t)[field]).Type; ft.Kind() == reflect.Struct {
				if home, ok := search(ft, join(path, field)); ok {
					return home, true
				}
			}
		}
		return "", false
	}
	return search(file, "")
}
