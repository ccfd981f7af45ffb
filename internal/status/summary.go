package status

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Part is how long one part of a build took.
type Part struct {
	Name    string
	Elapsed time.Duration
}

// Use is how a new cluster is reached.
type Use struct {
	Kubeconfig string
	// Spec is the file that commands on hosts of the user's own need; commands on a lab find it themselves.
	Spec  string
	Lab   bool
	Parts []Part
}

// Summary writes what `quorate up` ends with: what there is now, how to use it, what it survives and how long it took.
func Summary(w io.Writer, s Status, u Use, width int, color bool) error {
	p := &page{width: width, color: color}
	p.line(ui.Span{Text: s.Cluster, Style: ui.Bold}, ui.Span{Text: "  " + s.Version + "  "}, s.Verdict())
	p.wrapped(nil, ui.Span{Text: s.shape()})
	p.blank()
	p.commands(s, u)
	p.blank()
	words, style := s.Survives()
	p.field("survives", ui.Span{Text: words, Style: style})
	var total time.Duration
	var took []string
	for _, part := range u.Parts {
		total += part.Elapsed
		took = append(took, part.Name+" "+ui.Duration(part.Elapsed))
	}
	if len(took) > 0 {
		p.field("took", ui.Span{Text: ui.Duration(total) + ": " + strings.Join(took, ", ")})
	}
	p.problems(s)
	_, err := io.WriteString(w, p.b.String())
	return err
}

// shape counts what the cluster consists of.
func (s Status) shape() string {
	count := map[string]int{}
	for _, n := range s.Nodes {
		for _, r := range n.Roles {
			count[r]++
		}
	}
	parts := []string{ui.Plural(count[spec.RoleControlPlane], "control plane")}
	if n := count[spec.RoleWorker]; n > 0 {
		parts = append(parts, ui.Plural(n, "worker"))
	}
	if n := len(s.Etcd.Members); n > 0 && s.Etcd.Topology == spec.TopologyExternal {
		parts = append(parts, ui.Plural(n, "etcd member"))
	}
	if n := len(s.LoadBalancers); n > 0 {
		parts = append(parts, ui.Plural(n, "load balancer"))
	}
	return fmt.Sprintf("%s in %s, endpoint %s", cluster.List(parts), ui.Plural(s.zones, "zone"), s.Endpoint.Address)
}

func (p *page) commands(s Status, u Use) {
	file := ""
	if !u.Lab && u.Spec != "" && filepath.Clean(u.Spec) != "cluster.yaml" {
		file = " -f " + ui.Quote(u.Spec)
	}
	type command struct{ text, about string }
	var all []command
	if u.Kubeconfig != "" {
		all = append(all, command{"export KUBECONFIG=" + ui.Quote(u.Kubeconfig), ""}, command{"kubectl get nodes", "talk to the cluster"})
	}
	all = append(all, command{"quorate status" + file, "nodes, etcd, load balancers, margins"})
	if u.Lab {
		if len(s.Nodes) > 0 {
			all = append(all, command{"quorate lab ssh " + s.Nodes[0].Name, "a shell on a machine"})
		}
		all = append(all, command{"quorate down", "delete it again"})
	}
	column := 0
	for _, c := range all {
		if c.about != "" {
			column = max(column, ui.Cells(c.text))
		}
	}
	for _, c := range all {
		p.whole(append(ui.Line{{Text: "  "}, {Text: c.text, Style: ui.Cyan}}.Pad(column+5), ui.Span{Text: c.about, Style: ui.Dim}))
	}
}
