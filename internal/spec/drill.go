package spec

import (
	"errors"
	"fmt"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Drill says what a drill has to prove.
type Drill struct {
	// Objectives are limits for what clients notice of the faults of a drill. They are added to those of the failover profile. For each
	// limit, the last objective that matches the fault and the kind of client, and that sets the limit, counts.
	Objectives []Objective `yaml:"objectives,omitempty" json:"objectives,omitempty" edit:"free"`
}

// Objective is what a drill has to prove of some faults and some kinds of clients. It needs at least one limit.
type Objective struct {
	// Faults is a pattern for the names of faults, such as kill/*, hang/etcd/leader, or * for all. Several are joined by commas.
	Faults string `yaml:"faults" json:"faults" edit:"free,key"`
	// Clients is a pattern for kinds of clients, such as endpoint/*/new or kubernetes-service. Several are joined by commas. The default
	// is all.
	Clients string `yaml:"clients,omitempty" json:"clients,omitempty" edit:"free,key"`
	// MaxGap is the longest time that such a client may go without a success, such as 800ms.
	MaxGap string `yaml:"maxGap,omitempty" json:"maxGap,omitempty" edit:"free"`
	// MaxFailed is how many requests of such clients may fail: 0 for none.
	MaxFailed *int `yaml:"maxFailed,omitempty" json:"maxFailed,omitempty" jsonschema:"minimum=0" edit:"free"`
	// MaxDisruptionSeconds is in how many seconds the request may fail that such a client sends once a second with a timeout of 10 s.
	MaxDisruptionSeconds *int `yaml:"maxDisruptionSeconds,omitempty" json:"maxDisruptionSeconds,omitempty" jsonschema:"minimum=0" edit:"free"`
	// MaxMarginsBack is how long it may take after the fault until the cluster survives as many failures as before, such as 2m.
	MaxMarginsBack string `yaml:"maxMarginsBack,omitempty" json:"maxMarginsBack,omitempty" edit:"free"`
}

const (
	objectivesPath = "spec.drill.objectives"
	// partsOfNames are how many parts the longest names of faults and of kinds of clients have.
	partsOfNames = 3
)

// objectivesFile is a file that holds what a spec has in spec.drill.
var objectivesFile = format{reflect.TypeFor[Drill](), "write `objectives:`, and below it a list as in spec.drill.objectives", "check that it is a file of objectives",
	"put all objectives into one list"}

// limits are the limits of an objective in words.
func (o Objective) limits() string {
	var out []string
	add := func(name, value string) {
		if value != "" {
			out = append(out, name+" "+value)
		}
	}
	number := func(n *int) string {
		if n == nil {
			return ""
		}
		return strconv.Itoa(*n)
	}
	add("maxGap", o.MaxGap)
	add("maxFailed", number(o.MaxFailed))
	add("maxDisruptionSeconds", number(o.MaxDisruptionSeconds))
	add("maxMarginsBack", o.MaxMarginsBack)
	return strings.Join(out, ", ")
}

// ParseObjectives reads objectives from a file of their own, in YAML or JSON, with the same fields as spec.drill. The error is [Errors]
// and holds everything that is wrong. filename is only for messages.
func ParseObjectives(data []byte, filename string) ([]Objective, error) {
	d := newDecoder(filename)
	d.format = objectivesFile
	root := d.document(data)
	if root == nil {
		return nil, d.problems.orNil()
	}
	d.src.at[""] = position{root.Line, root.Column}
	var out Drill
	d.value(root, reflect.ValueOf(&out).Elem(), "")
	k := &checker{c: &Cluster{src: d.src}, spoiled: d.spoiled}
	if len(out.Objectives) == 0 && len(d.problems) == 0 {
		k.refuse("", "add one, with the fields faults and maxGap", "the file has no objectives")
	}
	k.objectives("objectives", out.Objectives)
	if found := append(d.problems, k.errs...); len(found) > 0 {
		return nil, found.sorted()
	}
	return out.Objectives, nil
}

// objectives checks a list of objectives. Whether there are faults and clients that match is known only when a drill begins.
func (k *checker) objectives(at string, all []Objective) {
	seen := map[[2]string]int{}
	for i, o := range all {
		here := fmt.Sprintf("%s[%d]", at, i)
		if !k.sound(here) {
			continue
		}
		if o.Faults == "" {
			k.refuse(here+".faults", "write a pattern such as `kill/*`, or `*` for all", "the objective is for no fault")
		} else {
			k.pattern(here+".faults", o.Faults)
		}
		if o.Clients != "" {
			k.pattern(here+".clients", o.Clients)
		}
		key := [2]string{o.Faults, o.Clients}
		if first, twice := seen[key]; twice && o.Faults != "" {
			k.refuse(here, "write their limits into one objective", "%s[%d] is for the same faults and clients", at, first)
		} else {
			seen[key] = i
		}
		k.limit(here+".maxGap", "800ms", o.MaxGap)
		k.limit(here+".maxMarginsBack", "2m", o.MaxMarginsBack)
		for _, n := range []struct {
			name  string
			value *int
		}{{"maxFailed", o.MaxFailed}, {"maxDisruptionSeconds", o.MaxDisruptionSeconds}} {
			if n.value != nil && *n.value < 0 {
				k.refuse(here+"."+n.name, "use 0 or more, or leave it out", "%d is no limit", *n.value)
			}
		}
		if o.MaxGap == "" && o.MaxMarginsBack == "" && o.MaxFailed == nil && o.MaxDisruptionSeconds == nil {
			k.refuse(here, "set maxGap, maxFailed, maxDisruptionSeconds, or maxMarginsBack", "the objective has no limit")
		}
	}
}

// limit checks a duration, if there is one.
func (k *checker) limit(path, example, value string) {
	if value == "" {
		return
	}
	if d, err := time.ParseDuration(value); err != nil || d < time.Millisecond {
		k.refuse(path, "write it like `"+example+"`; the shortest is 1ms", "`%s` is not a duration that can be a limit", value)
	}
}

func (k *checker) pattern(path, patterns string) {
	if err := CheckPattern(patterns); err != nil {
		k.refuse(path, "write it like `kill/*`, with * for any part", "%v", err)
	}
}

// CheckPattern says what is wrong with a pattern for names of faults or kinds of clients, or with one of several that are joined by
// commas. Package drill says what matches.
func CheckPattern(patterns string) error {
	for p := range strings.SplitSeq(patterns, ",") {
		p = strings.TrimSpace(p)
		parts := strings.Split(p, "/")
		switch {
		case p == "":
			return errors.New("a pattern is empty")
		case len(parts) > partsOfNames:
			return fmt.Errorf("`%s` matches nothing: names have at most %d parts", p, partsOfNames)
		}
		for _, part := range parts {
			if _, err := path.Match(part, ""); err != nil || part == "" {
				return fmt.Errorf("`%s` is not a pattern", p)
			}
		}
	}
	return nil
}
