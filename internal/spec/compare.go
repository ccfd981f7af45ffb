package spec

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// EditKind says what an edit does to its path.
type EditKind string

const (
	Changed EditKind = "changed"
	Added   EditKind = "added"   // a host, a pool, a label, or a taint
	Removed EditKind = "removed" // likewise
)

// Edit is one difference between two specs of a cluster.
type Edit struct {
	// Path is the field as a user writes it. Elements of lists and maps are named by their key and not by their position:
	// spec.hosts[cp-a].address, spec.nodePools[web].labels[example.com/tier].
	Path string   `json:"path"`
	Kind EditKind `json:"kind"`
	// Before and After are the values as text, lists joined by commas. Empty stands for a field that is not set. For a
	// host that is added or removed they are its roles.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Meaning is what the edit means for a cluster that exists.
	Meaning Meaning `json:"meaning"`
	// How says what to do about an edit that is fixed: how to undo it, and how to make the change another way. It is
	// empty for other edits.
	How string `json:"how,omitempty"`
	// Host is the host whose entry is edited; empty outside spec.hosts.
	Host string `json:"host,omitempty"`
	// Roles are the roles of a host that is added or removed, sorted.
	Roles []string `json:"roles,omitempty"`
}

// String says what was edited, without what it means: spec.network.cni changed from flannel to none.
func (e Edit) String() string {
	switch {
	case len(e.Roles) > 0:
		return fmt.Sprintf("%s %s (%s)", e.Path, e.Kind, strings.Join(e.Roles, ", "))
	case e.Kind == Added && e.After != "":
		return fmt.Sprintf("%s added: %s", e.Path, e.After)
	case e.Kind == Removed && e.Before != "":
		return fmt.Sprintf("%s removed: %s", e.Path, e.Before)
	case e.Kind != Changed:
		return fmt.Sprintf("%s %s", e.Path, e.Kind)
	}
	return fmt.Sprintf("%s changed from %s to %s", e.Path, cmp.Or(e.Before, "nothing"), cmp.Or(e.After, "nothing"))
}

// Compare lists how the spec of a cluster was edited: before is the spec that the cluster was built or last changed by,
// after the one that it is to match. Both are compared with their defaults filled in, so that writing a default
// explicitly is no edit. Hosts, pools, and taints are matched by name: their order means nothing. The result is in the
// order of the format, elements of lists in the order of their names.
//
// Specs that do not pass [Validate] can be compared, but if two hosts or two pools have the same name, only the last counts.
func Compare(before, after *Cluster) []Edit {
	d := &comparison{before: before.completed(), after: after.completed()}
	d.fields("", reflect.ValueOf(*d.before), reflect.ValueOf(*d.after))
	return d.edits
}

// completed returns a copy with the defaults filled in.
func (c *Cluster) completed() *Cluster {
	out := *c
	out.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	out.Spec.NodePools = slices.Clone(c.Spec.NodePools)
	out.Spec.Settings.Registries = slices.Clone(c.Spec.Settings.Registries)
	out.Default()
	return &out
}

type comparison struct {
	before, after *Cluster
	edits         []Edit
	// The host whose entry is being compared; the zero value outside spec.hosts and on the side that does not have it.
	hostBefore, hostAfter Host
}

// fields compares two values of a struct type, field by field.
func (d *comparison) fields(path string, before, after reflect.Value) {
	t := before.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name := yamlName(f)
		if name == "" {
			continue
		}
		d.field(join(path, name), t.Name()+"."+name, declared(f), before.Field(i), after.Field(i))
	}
}

func (d *comparison) field(path, field string, decl declaration, before, after reflect.Value) {
	switch t := before.Type(); {
	case t.Kind() == reflect.Struct:
		d.fields(path, before, after)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		d.elements(path, field, decl, before, after)
	case t.Kind() == reflect.Map:
		d.entries(path, field, decl, before, after)
	default:
		if b, a := text(before, decl), text(after, decl); b != a {
			d.note(field, Edit{Path: path, Kind: Changed, Before: b, After: a, Meaning: decl.meaning})
		}
	}
}

// elements compares lists of structs by the keys of their elements.
func (d *comparison) elements(path, field string, decl declaration, before, after reflect.Value) {
	b, a := byKey(before), byKey(after)
	keys := slices.AppendSeq(slices.Collect(maps.Keys(b)), maps.Keys(a))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		at := path + "[" + key + "]"
		x, was := b[key]
		y, is := a[key]
		if before.Type().Elem() == reflect.TypeFor[Host]() {
			d.hostBefore, d.hostAfter = hostOf(x), hostOf(y)
		}
		switch {
		case was && is:
			d.fields(at, x, y)
		case was:
			d.note(field, Edit{Path: at, Kind: Removed, Before: summary(x), Meaning: decl.meaning})
		default:
			d.note(field, Edit{Path: at, Kind: Added, After: summary(y), Meaning: decl.meaning})
		}
	}
	if before.Type().Elem() == reflect.TypeFor[Host]() {
		d.hostBefore, d.hostAfter = Host{}, Host{}
	}
}

func hostOf(v reflect.Value) Host {
	if !v.IsValid() {
		return Host{}
	}
	return v.Interface().(Host)
}

// entries compares maps of plain values.
func (d *comparison) entries(path, field string, decl declaration, before, after reflect.Value) {
	b, a := texts(before), texts(after)
	keys := slices.AppendSeq(slices.Collect(maps.Keys(b)), maps.Keys(a))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		x, was := b[key]
		y, is := a[key]
		e := Edit{Path: path + "[" + key + "]", Kind: Changed, Before: x, After: y, Meaning: decl.meaning}
		switch {
		case was && is && x == y:
			continue
		case !was:
			e.Kind = Added
		case !is:
			e.Kind = Removed
		}
		d.note(field, e)
	}
}

// texts renders the values of a map.
func texts(m reflect.Value) map[string]string {
	out := map[string]string{}
	for _, key := range m.MapKeys() {
		out[key.String()] = fmt.Sprint(m.MapIndex(key).Interface())
	}
	return out
}

// note adds an edit. What its meaning depends on beyond the field is decided here.
func (d *comparison) note(field string, e Edit) {
	before, after := d.hostBefore, d.hostAfter
	e.Host = cmp.Or(before.Name, after.Name)
	switch {
	case e.Meaning == perRole && e.Kind == Added:
		e.Roles = sortedRoles(after)
		if former, address := d.formerAt(after); former != "" {
			e.Meaning, e.How = Fixed, sentences(strings.NewReplacer("FORMER", former, "ADDRESS", address).Replace(renamed))
		} else {
			e.Meaning, e.How = added(after)
		}
	case e.Meaning == perRole:
		e.Roles = sortedRoles(before)
		e.Meaning, e.How = removed(before)
	case field == "Host.region" && before.Region == d.before.Spec.Region && after.Region == d.after.Spec.Region:
		return // it follows spec.region, which is an edit of its own
	case (field == "Host.zone" || field == "Host.region") && !before.IsNode():
		e.Meaning = Free // both are labels of nodes, and this host is none
	case field == "Host.roles" && onlyDiffer(before, after, RoleLoadBalancer):
		e.Meaning = Rolling // load balancers come to hosts that stay, and leave them
	case field == "Host.frontAddress" && !d.before.Balances(before) && !d.after.Balances(after):
		e.Meaning = Free // no load balancer uses it
	case field == "Host.frontAddress" && (e.Before == "" || !d.before.Balances(before) || !d.after.Balances(after)):
		e.Meaning = Rolling // the virtual IP can move into that network; one that comes or leaves uses one address only
	case field == "Network.cni" && ownNetwork(e.Before) && ownNetwork(e.After):
		e.Meaning = Rolling // another source of the user's own pod network, whose objects are applied
	case e.Meaning == Fixed:
		e.How = d.how(field, e.Before)
	}
	if e.Host != "" {
		e.How = strings.ReplaceAll(e.How, "HOST", e.Host)
	}
	d.edits = append(d.edits, e)
}

// formerAt is the host that is removed and one of whose addresses a new one gets, and that address; both are empty if there is none. Nobody can tell
// whether it is the same machine, which would be reset as one host and used as the other.
func (d *comparison) formerAt(h Host) (name, address string) {
	for _, former := range d.before.Spec.Hosts {
		if _, stays := d.after.Host(former.Name); stays {
			continue
		}
		if address := former.sharedAddress(h); address != "" {
			return former.Name, address
		}
	}
	return "", ""
}

// ownNetwork says that the user brings the pod network and Quorate applies it.
func ownNetwork(cni string) bool { return cni == CNIManifest || cni == CNIChart }

// byKey maps the elements of a list by the fields that identify them.
func byKey(list reflect.Value) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	for i := range list.Len() {
		out[keyOf(list.Index(i))] = list.Index(i)
	}
	return out
}

// keyOf joins the key fields of a list's element that are set: the name of a host or a pool, key:effect of a taint.
func keyOf(element reflect.Value) string {
	var parts []string
	for i := range element.NumField() {
		if f := element.Type().Field(i); declared(f).key && element.Field(i).String() != "" {
			parts = append(parts, element.Field(i).String())
		}
	}
	return strings.Join(parts, ":")
}

// summary is what is shown of an element that is added or removed.
func summary(element reflect.Value) string {
	switch e := element.Interface().(type) {
	case Host:
		return strings.Join(sortedRoles(e), ", ")
	case NodePool:
		return strings.Join(slices.Sorted(slices.Values(e.Hosts)), ", ")
	case Taint:
		return e.Value
	case Registry:
		return strings.Join(e.Mirrors, ", ")
	case Objective:
		return e.limits()
	}
	return ""
}

// text renders a plain value or a list of strings.
func text(v reflect.Value, decl declaration) string {
	switch v.Kind() {
	case reflect.Bool:
		if v.IsZero() {
			return ""
		}
		return "true"
	case reflect.Int:
		if v.IsZero() {
			return ""
		}
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		return fmt.Sprint(v.Elem().Interface())
	case reflect.Slice:
		items := v.Interface().([]string)
		if decl.set {
			items = slices.Sorted(slices.Values(items))
		}
		return strings.Join(items, ", ")
	}
	return v.String()
}

// yamlName is the name of a field in the file; empty for what is not written there.
func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}
