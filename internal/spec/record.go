package spec

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	kubeversion "k8s.io/apimachinery/pkg/version"
)

// Record is the spec by which a cluster was last built or changed, as it is stored in the cluster itself. It is an
// ordinary spec with its defaults filled in, without what makes sense only on the machine of the caller: paths, and the
// login for a registry. It holds no secrets.
type Record struct {
	cluster *Cluster
	unknown []string
}

// ErrNewerRecord is returned by [ParseRecord] for a format that only a newer version of Quorate knows.
var ErrNewerRecord = errors.New("the recorded spec was written by a newer version of Quorate")

// NewRecord makes the record of a spec.
func NewRecord(c *Cluster) *Record {
	out := c.completed()
	out.src, out.files = nil, nil
	strip(reflect.ValueOf(out).Elem())
	return &Record{cluster: out}
}

// strip empties the fields that are declared as local.
func strip(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch {
		case yamlName(f) == "":
		case declared(f).local:
			v.Field(i).SetZero()
		case f.Type.Kind() == reflect.Struct:
			strip(v.Field(i))
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			for j := range v.Field(i).Len() {
				strip(v.Field(i).Index(j))
			}
		}
	}
}

// Cluster is the recorded spec. It must not be changed. It may fail [Validate], because it has no paths.
func (r *Record) Cluster() *Cluster { return r.cluster }

// Unknown lists the fields that a newer version of Quorate recorded and that this one does not know, by their paths. They
// are not compared, and recording the spec again loses them.
func (r *Record) Unknown() []string { return slices.Clone(r.unknown) }

// Compare lists how the spec was edited since it was recorded; see [Compare]. What is not recorded is not compared.
func (r *Record) Compare(c *Cluster) []Edit { return Compare(r.cluster, NewRecord(c).cluster) }

// Marshal writes the record as YAML that [ParseRecord] reads back.
func (r *Record) Marshal() ([]byte, error) { return Marshal(r.cluster) }

// ParseRecord reads what Marshal wrote, also that of a newer version of Quorate: fields that are not known are listed by
// Unknown. The error wraps [ErrNewerRecord] if the whole format is newer.
func ParseRecord(data []byte) (*Record, error) {
	d := newDecoder("recorded spec")
	d.lenient = true
	c := d.cluster(data)
	if c != nil {
		if newerFormat(c.APIVersion) {
			return nil, fmt.Errorf("%w: its format is %s, and this version reads %s; use the version that wrote it, or a newer one", ErrNewerRecord, c.APIVersion, APIVersion)
		}
		c.recordable(d)
	}
	if len(d.problems) > 0 {
		return nil, fmt.Errorf("reading the recorded spec: %w", d.problems.sorted())
	}
	return &Record{cluster: NewRecord(c).cluster, unknown: d.unknownFields}, nil
}

// newerFormat reports whether an apiVersion is a later version of the same group.
func newerFormat(apiVersion string) bool {
	group, own, _ := strings.Cut(APIVersion, "/")
	v, ok := strings.CutPrefix(apiVersion, group+"/")
	return ok && kubeversion.CompareKubeAwareVersionStrings(v, own) > 0
}

// recordable notes what nothing can be compared with.
func (c *Cluster) recordable(d *decoder) {
	if c.APIVersion != APIVersion || c.Kind != Kind {
		d.note("apiVersion", fmt.Sprintf("`%s %s` is not a recorded spec", c.APIVersion, c.Kind), fmt.Sprintf("it starts with `apiVersion: %s` and `kind: %s`", APIVersion, Kind))
	}
	hosts := hostNames(c.Spec.Hosts)
	var pools []string
	for _, p := range c.Spec.NodePools {
		pools = append(pools, p.Name)
	}
	for path, names := range map[string][]string{"spec.hosts": hosts, "spec.nodePools": pools} {
		for i, name := range names {
			if name == "" || slices.Contains(names[:i], name) {
				d.note(fmt.Sprintf("%s[%d].name", path, i), fmt.Sprintf("the name `%s` is empty or given twice", name), "give each its own name")
			}
		}
	}
}
