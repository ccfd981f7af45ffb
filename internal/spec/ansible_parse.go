package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

const ansibleHint = "pass an inventory of Ansible in INI or YAML format, or the output of `ansible-inventory --list`"

// maxInventoryHosts bounds what ranges expand to: the largest cluster that Kubernetes supports.
const maxInventoryHosts = 5000

// section is the header of a section of an inventory in INI format.
var section = regexp.MustCompile(`^\[([^\]:]+)(?::(\w+))?\]\s*([#;].*)?$`)

// parse reads the inventory in either format.
func (r *ansibleReader) parse(data []byte) {
	switch ini := slices.ContainsFunc(strings.Split(string(data), "\n"), func(line string) bool { return section.MatchString(strings.TrimSpace(line)) }); {
	case len(data) > maxSize:
		r.refuse(0, "", ansibleHint, "it is larger than 4 MiB")
	case len(bytes.TrimSpace(data)) == 0:
		r.refuse(0, "", ansibleHint, "it is empty")
	case bytes.HasPrefix(data, []byte("$ANSIBLE_VAULT")):
		r.refuse(0, "", "decrypt it: `ansible-vault view`", "it is encrypted (Ansible Vault)")
	case bytes.HasPrefix(data, []byte("#!")):
		r.refuse(0, "", "run `ansible-inventory --list` with it, and pass the output", "it is a program that prints an inventory")
	case slices.Contains([]string{".yml", ".yaml", ".json"}, filepath.Ext(r.file)) || !ini && isMapping(data):
		r.yaml(data)
	default:
		r.ini(string(data))
	}
}

func isMapping(data []byte) bool {
	var n yaml.Node
	return yaml.Load(data, &n) == nil && len(n.Content) == 1 && n.Content[0].Kind == yaml.MappingNode
}

// ini reads an inventory in INI format.
func (r *ansibleReader) ini(text string) {
	group, kind := r.group("ungrouped"), ""
	group.defined = true
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if inside, _, _ := strings.Cut(line, "]"); line[0] == '[' && FamilyOf(inside[1:]) != IPv6 { // otherwise, it is a host: [fd00::1]:22
			m := section.FindStringSubmatch(line)
			if m == nil || !slices.Contains([]string{"", "children", "vars"}, m[2]) {
				r.refuse(number, "", "write [group], [group:children], or [group:vars]", "`%s` is not a section", line)
				return
			}
			group, kind = r.group(m[1]), m[2]
			if kind != "vars" {
				group.defined = true
			}
			if group.line == 0 {
				group.line = number
			}
			continue
		}
		switch kind {
		case "vars":
			name, value, ok := strings.Cut(line, "=")
			if name = strings.TrimSpace(name); !ok || name == "" {
				r.refuse(number, group.name, "write name=value", "this line is not a variable")
				continue
			}
			group.vars[name] = literal(strings.TrimSpace(value))
		case "children":
			name, _, _ := strings.Cut(line, "#")
			group.children = append(group.children, strings.TrimSpace(name))
		default:
			r.hostLine(group, line, number)
		}
	}
}

// hostLine reads a host with its variables.
func (r *ansibleReader) hostLine(group *ansibleGroup, line string, number int) {
	words, ok := splitWords(line, true)
	if !ok {
		r.refuse(number, group.name, "close the quote", "a quote is not closed")
		return
	}
	if len(words) == 0 {
		return
	}
	vars := map[string]any{}
	before := words[0]
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok { // it is not shown: it may be a password
			r.refuse(number, group.name, "write name=value behind the name of the host, without spaces around the =", "what follows `%s` is not a variable", before)
			return
		}
		before = name
		vars[name] = literal(value)
	}
	pattern := words[0]
	if name, port, ok := strings.Cut(pattern, ":"); ok && !strings.Contains(port, ":") && !strings.Contains(name, "[") { // host:port
		pattern = name
		vars["ansible_port"] = port
	} else if i := strings.LastIndex(pattern, "]:"); i >= 0 && !strings.Contains(pattern[i+2:], "]") { // node[1:3]:port, or [fd00::1]:port
		pattern, vars["ansible_port"] = pattern[:i+1], pattern[i+2:]
	}
	if address := bracketed(pattern); address != "" {
		pattern = address
	}
	r.addHosts(group, pattern, vars, number)
}

// addHosts adds the hosts of a pattern to a group.
func (r *ansibleReader) addHosts(group *ansibleGroup, pattern string, vars map[string]any, line int) {
	names, err := expandHosts(pattern)
	if err == nil && len(names)+len(r.names) > maxInventoryHosts {
		err = fmt.Errorf("there are more than %d hosts", maxInventoryHosts)
	}
	if err != nil {
		r.refuse(line, group.name, "write ranges like node[01:03] or node[a:c]", "`%s`: %v", pattern, err)
		return
	}
	for _, name := range names {
		maps.Copy(r.host(name, line).own, vars)
		group.add(name)
	}
}

// expandHosts expands the ranges of a pattern: node[01:03], node[a:c], and node[0:10:5]. Both ends belong to a range.
func expandHosts(pattern string) ([]string, error) {
	before, rest, ok := strings.Cut(pattern, "[")
	if !ok {
		if strings.Contains(pattern, "]") {
			return nil, errors.New("a range is not opened")
		}
		return []string{pattern}, nil
	}
	inside, after, ok := strings.Cut(rest, "]")
	if !ok {
		return nil, errors.New("a range is not closed")
	}
	values, err := expandRange(inside)
	if err != nil {
		return nil, err
	}
	tails, err := expandHosts(after)
	if err != nil {
		return nil, err
	}
	if len(values)*len(tails) > maxInventoryHosts {
		return nil, fmt.Errorf("it is more than %d hosts", maxInventoryHosts)
	}
	var out []string
	for _, v := range values {
		for _, t := range tails {
			out = append(out, before+v+t)
		}
	}
	return out, nil
}

// expandRange expands what is between the brackets of a range.
func expandRange(s string) (out []string, _ error) {
	parts := strings.Split(s, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return nil, fmt.Errorf("`[%s]` is not a range", s)
	}
	step := 1
	if len(parts) == 3 {
		var err error
		if step, err = strconv.Atoi(parts[2]); err != nil || step < 1 {
			return nil, fmt.Errorf("the step of `[%s]` is not a number above 0", s)
		}
	}
	begin, end := parts[0], parts[1]
	if letter(begin) && letter(end) {
		for c := int(begin[0]); c <= int(end[0]); c += step {
			out = append(out, string(rune(c)))
		}
	} else {
		if begin == "" {
			begin = "0"
		}
		from, err1 := strconv.Atoi(begin)
		to, err2 := strconv.Atoi(end)
		if err1 != nil || err2 != nil || from < 0 {
			return nil, fmt.Errorf("`[%s]` is not a range", s)
		}
		width := 0
		if strings.HasPrefix(begin, "0") && len(begin) > 1 {
			if width = len(begin); len(end) != width {
				return nil, fmt.Errorf("the ends of `[%s]` have different lengths, although the first begins with 0", s)
			}
		}
		if (to-from)/step >= maxInventoryHosts {
			return nil, fmt.Errorf("it is more than %d hosts", maxInventoryHosts)
		}
		for n := from; n <= to; n += step {
			out = append(out, fmt.Sprintf("%0*d", width, n))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("`[%s]` is empty: its end is before its beginning", s)
	}
	return out, nil
}

func letter(s string) bool {
	return len(s) == 1 && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// literal reads a value of an inventory in INI format. Lists and mappings are written as in Python, which YAML reads as well.
func literal(s string) any {
	if strings.HasPrefix(s, "'") || strings.HasPrefix(s, `"`) {
		if words, ok := splitWords(s, true); ok && len(words) == 1 {
			return words[0]
		}
	}
	if number, _, ok := strings.Cut(s, " #"); ok {
		if _, err := strconv.Atoi(strings.TrimSpace(number)); err == nil {
			return strings.TrimSpace(number)
		}
	}
	if strings.HasPrefix(s, "{") && !strings.HasPrefix(s, "{{") || strings.HasPrefix(s, "[") {
		var n yaml.Node
		if yaml.Load([]byte(s), &n) == nil && len(n.Content) == 1 {
			budget := maxValues
			if v, ok := plain(n.Content[0], &budget); ok {
				return v
			}
		}
	}
	return s
}

// plain turns a node into texts, lists, and mappings. ok is false if its aliases expand to too many values.
func plain(n *yaml.Node, budget *int) (v any, ok bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if *budget--; *budget <= 0 {
		return nil, false
	}
	switch {
	case n.Tag == "!vault":
		return encrypted{}, true
	case isNull(n):
		return nil, true
	case n.Kind == yaml.ScalarNode:
		return n.Value, true
	case n.Kind == yaml.SequenceNode:
		list := []any{}
		for _, e := range n.Content {
			x, ok := plain(e, budget)
			if !ok {
				return nil, false
			}
			list = append(list, x)
		}
		return list, true
	}
	m := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		x, ok := plain(n.Content[i+1], budget)
		if !ok {
			return nil, false
		}
		m[n.Content[i].Value] = x
	}
	return m, true
}

// yaml reads an inventory in YAML format, or what ansible-inventory prints as JSON or YAML.
func (r *ansibleReader) yaml(data []byte) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	var doc yaml.Node
	if err == nil {
		err = loader.Load(&doc)
	}
	if errors.Is(err, io.EOF) {
		r.refuse(0, "", ansibleHint, "it is empty")
		return
	}
	if err != nil {
		p := Problem{File: r.file, Message: "it is not YAML: " + err.Error(), Fix: ansibleHint}
		if le, ok := errors.AsType[*yaml.LoadError](err); ok {
			p.Line, p.Column, p.Message = le.Mark.Line, le.Mark.Column, "it is not YAML: "+le.Message
		}
		r.errs = append(r.errs, p)
		return
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		r.refuse(0, "", ansibleHint, "it is not a mapping of groups")
		return
	}
	y := &yamlInventory{ansibleReader: r, budget: maxValues}
	y.each(doc.Content[0], func(name string, n *yaml.Node) {
		if name == "_meta" {
			y.meta(n)
			return
		}
		y.yamlGroup(name, n, 0)
	})
	if y.budget <= 0 {
		r.errs = nil
		r.refuse(0, "", "write the values out", "the aliases of the file expand to too many values")
	}
}

type yamlInventory struct {
	*ansibleReader
	budget int
}

// each goes through a mapping, or through a list of names.
func (y *yamlInventory) each(n *yaml.Node, f func(name string, value *yaml.Node)) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case isNull(n):
	case n.Kind == yaml.SequenceNode:
		for _, e := range n.Content {
			if y.budget--; y.budget > 0 && e.Kind == yaml.ScalarNode {
				f(e.Value, nil)
			}
		}
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if y.budget--; y.budget > 0 {
				f(n.Content[i].Value, n.Content[i+1])
			}
		}
	default:
		return false
	}
	return true
}

// vars reads variables into a map.
func (y *yamlInventory) vars(n *yaml.Node, into map[string]any) bool {
	if n == nil {
		return true
	}
	var merged []*yaml.Node
	ok := y.each(n, func(name string, value *yaml.Node) {
		switch {
		case value == nil:
		case name == "<<":
			merged = append(merged, value)
		default:
			if v, ok := plain(value, &y.budget); ok {
				into[name] = v
			}
		}
	})
	for _, m := range merged {
		y.merge(m, into)
	}
	return ok
}

// merge adds the variables of one mapping, or of several, that are not there yet. The first of several counts.
func (y *yamlInventory) merge(n *yaml.Node, into map[string]any) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode {
		for _, e := range n.Content {
			if y.budget--; y.budget > 0 {
				y.merge(e, into)
			}
		}
		return
	}
	more := map[string]any{}
	y.vars(n, more)
	maps.Copy(more, into)
	maps.Copy(into, more)
}

// maxGroupDepth is how deep groups are nested at most. A deeper nesting is an alias that contains itself.
const maxGroupDepth = 64

func (y *yamlInventory) yamlGroup(name string, n *yaml.Node, depth int) {
	g := y.group(name)
	g.defined = true
	if n == nil {
		return
	}
	if g.line == 0 {
		g.line = n.Line
	}
	if depth > maxGroupDepth {
		y.refuse(n.Line, name, "write the groups out", "the groups are nested more than %d deep", maxGroupDepth)
		return
	}
	if n.Kind == yaml.SequenceNode { // an old form of dynamic inventories: the hosts alone
		y.hostsOf(g, n)
		return
	}
	ok := y.each(n, func(field string, value *yaml.Node) {
		switch {
		case value == nil:
		case field == "hosts":
			if !y.hostsOf(g, value) {
				y.refuse(value.Line, name+".hosts", "write each host as a key, with a colon behind it", "it must be a mapping of hosts")
			}
		case field == "vars":
			if !y.vars(value, g.vars) {
				y.refuse(value.Line, name+".vars", "write name: value", "it must be a mapping of variables")
			}
		case field == "children":
			if !y.each(value, func(child string, c *yaml.Node) {
				if !slices.Contains(g.children, child) {
					g.children = append(g.children, child)
				}
				if c != nil || y.groups[child] == nil {
					y.yamlGroup(child, c, depth+1)
				}
			}) {
				y.refuse(value.Line, name+".children", "write each group as a key, with a colon behind it", "it must be a mapping of groups")
			}
		default:
			y.refuse(value.Line, name+"."+field, suggest(field, []string{"hosts", "vars", "children"}, "a group has hosts, vars, and children"), "unknown field")
		}
	})
	if !ok {
		y.refuse(n.Line, name, ansibleHint, "a group must be a mapping with hosts, vars, and children")
	}
}

// hostsOf reads the hosts of a group: a mapping from names to variables, or a list of names.
func (y *yamlInventory) hostsOf(g *ansibleGroup, n *yaml.Node) bool {
	return y.each(n, func(pattern string, value *yaml.Node) {
		own, line := map[string]any{}, n.Line
		if value != nil {
			line = value.Line
			if !y.vars(value, own) {
				y.refuse(value.Line, g.name+".hosts."+pattern, "write name: value", "it must be a mapping of variables")
			}
		}
		y.addHosts(g, pattern, own, line)
	})
}

// meta reads the variables of hosts in the output of ansible-inventory.
func (y *yamlInventory) meta(n *yaml.Node) {
	y.each(n, func(field string, value *yaml.Node) {
		if field != "hostvars" || value == nil {
			return
		}
		y.each(value, func(name string, vars *yaml.Node) {
			h := y.host(name, 0)
			if vars != nil && !y.vars(vars, h.own) {
				y.refuse(vars.Line, "_meta.hostvars."+name, ansibleHint, "it must be a mapping of variables")
			}
		})
	})
}
