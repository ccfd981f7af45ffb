package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/version"
)

// Options is what validation needs to know about the world.
type Options struct {
	// Versions are the Kubernetes versions that bundles can be compiled of. Nil means [DefaultVersion] alone. With a source that compiles nothing,
	// every patch release of their minor releases is valid.
	Versions []string
	// Managed are the minor releases (such as v1.36) of clusters that a command can work with that needs no bundle. For such a
	// command a version is valid if it is one of Versions or belongs to one of these.
	Managed []string
	// Lab says that the hosts will be lab machines, so that addresses and the virtual IP may be missing.
	Lab bool
}

func (o Options) versions() []string {
	if o.Versions == nil {
		return []string{DefaultVersion}
	}
	return o.Versions
}

// maxClusterName leaves room for what is built on the name: host names, context names, device names.
const maxClusterName = 40

// Validate returns all problems that prevent a spec, with its defaults filled in, from becoming a cluster. If the
// spec was parsed, each problem names its line.
func Validate(c *Cluster, opts Options) Errors {
	return validate(c, opts, nil).sorted()
}

// validate checks what does not rest on a spoiled path: one that the decoder already complained about.
func validate(c *Cluster, opts Options, spoiled []string) Errors {
	k := &checker{c: c, opts: opts, spoiled: spoiled}
	k.header()
	k.version()
	k.endpoint()
	k.etcd()
	k.balancer()
	k.network()
	k.size()
	k.components()
	k.choose("spec.controlPlane.topology", "ControlPlane.topology", c.Spec.ControlPlane.Topology)
	k.choose("spec.controlPlane.placement", "ControlPlane.placement", c.Spec.ControlPlane.Placement)
	k.choose("spec.failover.profile", "Failover.profile", c.Spec.Failover.Profile)
	k.electionTimeout()
	k.settings()
	k.backup()
	k.objectives(objectivesPath, c.Spec.Drill.Objectives)
	k.hosts()
	k.shape()
	k.pools()
	k.monitoring()
	k.regions()
	return k.errs
}

// checker collects the problems of one spec.
type checker struct {
	c       *Cluster
	opts    Options
	spoiled []string
	errs    Errors
}

// refuse notes a problem: the reason from format, and what to do about it.
func (k *checker) refuse(path, fix, format string, args ...any) {
	if k.sound(path) {
		k.errs = append(k.errs, k.c.src.problem(path, fmt.Sprintf(format, args...), fix))
	}
}

// sound reports whether the decoder understood everything at, below and above the path.
func (k *checker) sound(path string) bool {
	return !slices.ContainsFunc(k.spoiled, func(s string) bool { return within(s, path) || within(path, s) })
}

// within reports whether path is at or below root.
func within(path, root string) bool {
	rest, ok := strings.CutPrefix(path, root)
	return ok && (rest == "" || root == "" || rest[0] == '.' || rest[0] == '[')
}

func (k *checker) header() {
	k.choose("apiVersion", "Cluster.apiVersion", k.c.APIVersion)
	k.choose("kind", "Cluster.kind", k.c.Kind)
	name := k.c.Metadata.Name
	switch {
	case name == "":
		k.refuse("metadata.name", "give the cluster a short name, such as `prod`", "the cluster has no name")
	case len(name) > maxClusterName:
		k.refuse("metadata.name", "shorten it", "the name has %d characters; at most %d are allowed, because other names are derived from it", len(name), maxClusterName)
	default:
		k.label("metadata.name", name)
	}
}

// label refuses what is not a DNS label, which names of clusters, hosts and pools must be.
func (k *checker) label(path, name string) bool {
	if len(validation.IsDNS1123Label(name)) == 0 {
		return true
	}
	fix := "use at most 63 lower-case letters, digits, and dashes, with a letter or digit at both ends"
	if low := strings.ReplaceAll(strings.ToLower(name), "_", "-"); len(validation.IsDNS1123Label(low)) == 0 {
		fix = "write `" + low + "`"
	} else if short, _, dotted := strings.Cut(low, "."); dotted && len(validation.IsDNS1123Label(short)) == 0 {
		fix = fmt.Sprintf("use the short name, `%s`", short)
	}
	k.refuse(path, fix, "`%s` is not a DNS label", name)
	return false
}

func (k *checker) version() {
	const path = "spec.kubernetes.version"
	v, known := k.c.Spec.Kubernetes.Version, k.opts.versions()
	if slices.Contains(known, v) {
		return
	}
	if len(known) == 0 {
		k.refuse(path, "build or import a bundle first: `quorate bundle build`", "no bundle is available for any Kubernetes version")
		return
	}
	parsed, err := version.ParseSemantic(v)
	if err != nil {
		k.refuse(path, "write the full version, such as "+newest(known), "`%s` is not a Kubernetes release", v)
		return
	}
	if slices.Contains(k.opts.Managed, fmt.Sprintf("v%d.%d", parsed.Major(), parsed.Minor())) && strings.HasPrefix(v, "v") {
		return
	}
	// What its projects publish, and a bundle that somebody made, may be of any patch release.
	source := k.c.Spec.Components.Source
	sameMinor := slices.ContainsFunc(known, func(s string) bool {
		v, err := version.ParseSemantic(s)
		return err == nil && v.Major() == parsed.Major() && v.Minor() == parsed.Minor()
	})
	if sameMinor && (k.c.Published() || source == SourceBundle) && v == "v"+parsed.String() && parsed.PreRelease() == "" && parsed.BuildMetadata() == "" {
		return
	}
	near := nearestVersion(parsed, known)
	if near == "v"+v {
		k.refuse(path, "write "+near, "`%s` lacks the prefix v", v)
		return
	}
	fix := fmt.Sprintf("the nearest supported version is %s", near)
	if sameMinor && parsed.PreRelease() == "" && parsed.BuildMetadata() == "" {
		fix += "; or download this one (`components: {source: official}`, or mirror), if it is published: `quorate bundle versions`"
	}
	k.refuse(path, fix, "this version of Quorate cannot build Kubernetes %s", v)
}

// nearestVersion prefers the same minor release, then the nearest one; the newer of two that are equally near.
func nearestVersion(v *version.Version, known []string) string {
	away := func(s string) []uint {
		k, err := version.ParseSemantic(s)
		switch {
		case err != nil:
			return []uint{^uint(0)}
		case k.Major() != v.Major():
			return []uint{apart(k.Major(), v.Major())}
		case k.Minor() != v.Minor():
			return []uint{0, apart(k.Minor(), v.Minor())}
		}
		return []uint{0, 0, apart(k.Patch(), v.Patch())}
	}
	return slices.MinFunc(known, func(a, b string) int {
		return cmp.Or(slices.Compare(away(a), away(b)), compareVersions(b, a))
	})
}

func apart(a, b uint) uint { return max(a, b) - min(a, b) }

// compareVersions orders releases by number; what is none comes first.
func compareVersions(a, b string) int {
	x, errX := version.ParseSemantic(a)
	y, errY := version.ParseSemantic(b)
	switch {
	case errX != nil && errY != nil:
		return strings.Compare(a, b)
	case errX != nil:
		return -1
	case errY != nil:
		return 1
	case x.LessThan(y):
		return -1
	case y.LessThan(x):
		return 1
	}
	return 0
}
