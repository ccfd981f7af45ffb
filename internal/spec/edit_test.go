package spec

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var updateEditing = flag.Bool("update-editing", false, "write docs/editing.md")

const editingFile = "../../docs/editing.md"

// visit calls f for every field of a struct type that is written in the file, and of the types below it. path is like
// spec.hosts[].ssh.user, field like SSH.user.
func visit(t reflect.Type, path string, f func(path, field string, sf reflect.StructField)) {
	for i := range t.NumField() {
		sf := t.Field(i)
		name := yamlName(sf)
		if name == "" {
			continue
		}
		at := join(path, name)
		f(at, t.Name()+"."+name, sf)
		switch ft := sf.Type; {
		case ft.Kind() == reflect.Struct:
			visit(ft, at, f)
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			visit(ft.Elem(), at+"[]", f)
		}
	}
}

func TestEveryFieldDeclaresWhatEditingItMeans(t *testing.T) {
	seen := map[string]bool{}
	visit(reflect.TypeFor[Cluster](), "", func(path, field string, sf reflect.StructField) {
		seen[field] = true
		tag, d := sf.Tag.Get("edit"), declared(sf)
		options := strings.Split(tag, ",")
		for _, o := range options[1:] {
			if !slices.Contains([]string{"key", "set", "local"}, o) {
				t.Errorf("%s: the tag `edit` has the unknown option %q", path, o)
			}
		}
		switch kind := sf.Type.Kind(); {
		case kind == reflect.Struct:
			if tag != "" {
				t.Errorf("%s declares %q, and its own fields already declare", path, tag)
			}
			return
		case field == "Spec.hosts":
			if d.meaning != perRole {
				t.Errorf("%s declares %q, want %q", path, d.meaning, perRole)
			}
			return
		case !slices.Contains([]Meaning{Fixed, Rolling, Free}, d.meaning):
			t.Errorf("%s does not declare what editing it means (%q): add edit:\"fixed\", \"rolling\", or \"free\"", path, tag)
		case editing[field] == "":
			t.Errorf("%s is %s and has no explanation in `editing`", path, d.meaning)
		case d.set && sf.Type != reflect.TypeFor[[]string]():
			t.Errorf("%s is declared as a set and is no list of strings", path)
		}
		if elem := sf.Type; elem.Kind() == reflect.Slice && elem.Elem().Kind() == reflect.Struct {
			keys := 0
			for i := range elem.Elem().NumField() {
				if declared(elem.Elem().Field(i)).key {
					keys++
				}
			}
			if keys == 0 {
				t.Errorf("%s: nothing identifies its elements: declare a key", path)
			}
		}
	})
	for field := range editing {
		if !seen[field] {
			t.Errorf("`editing` explains %s, which is no field", field)
		}
	}
}

func TestEveryRoleDeclaresWhatAddingAndRemovingAHostMeans(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(roleEdits)), slices.Sorted(slices.Values(choices["Host.roles"])); !slices.Equal(got, want) {
		t.Fatalf("declared are %v, the roles are %v", got, want)
	}
	for role, r := range roleEdits {
		for _, m := range []Meaning{r.added, r.removed} {
			if !slices.Contains([]Meaning{Fixed, Rolling, Free}, m) {
				t.Errorf("%s: unknown meaning %q", role, m)
			}
		}
		if r.howAdded == "" || r.howRemoved == "" {
			t.Errorf("%s: an explanation is missing", role)
		}
	}
}

// The page is generated: what users read is what the code does.
func TestEditingPageIsUpToDate(t *testing.T) {
	want := editingPage()
	if *updateEditing {
		if err := os.WriteFile(editingFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(editingFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("docs/editing.md does not say what the types declare; run `go generate ./internal/spec`")
	}
}

const editingIntro = `# Editing the spec of a cluster

<!-- Generated from internal/spec by go generate; do not edit. -->

` + "`quorate plan`" + ` compares the spec with the cluster and with the spec that was last applied, which is recorded in the cluster (the
key ` + "`spec`" + ` of the ConfigMap kube-system/quorate). Every field of the spec declares what an edit means for a cluster that exists:

| meaning | what happens |
|---|---|
| fixed | The edit is refused, and the refusal says how to undo it and how to make the change another way |
| rolling | ` + "`quorate apply`" + ` carries the edit out, in steps that keep the cluster available |
| free | The edit has no effect on what runs |

Writing a default explicitly is not an edit. The order of hosts, roles, zones, pools, taints, and etcd endpoints means nothing. Paths
on the machine that runs Quorate are not recorded: the files that they name are compared by content.

`

const editingRemoved = `
Hosts that are added join before hosts leave, and hosts leave one at a time. [Changing hosts](changing-hosts.md) describes what
happens in each case: a host that is dead, a new machine with the name and address of an old one, and the first control plane.
`

const editingByHand = `
## After a change by hand

Some explanations describe a change that you make yourself, with kubectl or on a host. The recorded spec then still has the old
value, and Quorate refuses the new one. When the change is complete, record it, too:

    kubectl -n kube-system edit configmap quorate

The key ` + "`spec`" + ` holds the spec in the format of cluster.yaml, with all defaults. Change there exactly what you changed in the
cluster, and then your own spec. ` + "`quorate plan`" + ` compares both with the cluster and shows what is left to do.

The record is also a copy of the spec, without paths, in case cluster.yaml is lost:

    kubectl -n kube-system get configmap quorate -o jsonpath='{.data.spec}'
`

func editingPage() []byte {
	var b strings.Builder
	b.WriteString(editingIntro)
	b.WriteString("## Fields\n\n| field | meaning | what to do, or what apply does |\n|---|---|---|\n")
	visit(reflect.TypeFor[Cluster](), "", func(path, field string, sf reflect.StructField) {
		d := declared(sf)
		switch {
		case sf.Type.Kind() == reflect.Struct:
		case d.meaning == perRole:
			fmt.Fprintf(&b, "| `%s` | by role | See [below](#adding-and-removing-hosts) |\n", path)
		default:
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", path, d.meaning, sentences(editing[field]))
		}
	})
	b.WriteString("\nThe zone and the region of a host that is not a node (an etcd host or a load balancer) are free.\n")
	fmt.Fprintf(&b, "\n**Adding the role `worker` to a control plane, or removing it,** is fixed as well. %s\n", sentences(workerOnControlPlane))
	fmt.Fprintf(&b, "\n**Adding the role `load-balancer` to a host that stays, or removing it,** is rolling. Without any host that has the role, the load balancers run on the control planes, "+
		"so adding the first such host moves them away from there, and removing the last one moves them back. %s\n", sentences(balancersMove))
	b.WriteString("\n## Adding and removing hosts\n\n| role | added | |\n|---|---|---|\n")
	for _, role := range choices["Host.roles"] {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", role, roleEdits[role].added, sentences(roleEdits[role].howAdded))
	}
	b.WriteString("\n| role | removed | |\n|---|---|---|\n")
	for _, role := range choices["Host.roles"] {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", role, roleEdits[role].removed, sentences(roleEdits[role].howRemoved))
	}
	b.WriteString(editingRemoved)
	b.WriteString(editingByHand)
	return []byte(b.String())
}
