package components

import (
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

func TestReleasesAreWhole(t *testing.T) {
	pinned := map[string]bool{}
	wholes := Releases()
	for _, r := range Releases() {
		wholes = append(wholes, r.Monitored())
	}
	for _, r := range wholes {
		t.Run(r.Kubernetes, func(t *testing.T) {
			if found, ok := Lookup(r.Kubernetes); !ok || found.Kubernetes != r.Kubernetes {
				t.Errorf("Lookup finds %v", found.Kubernetes)
			}
			used := map[string]bool{}
			for _, i := range append(slices.Clone(r.Images), r.Host) {
				for _, name := range i.Components {
					used[name] = true
					if _, ok := r.Component(name); !ok {
						t.Errorf("image %s wants component %q, which is none", i.Short, name)
					}
				}
				if i.Name != "" && !strings.Contains(i.Name, "/"+i.Short+":") {
					t.Errorf("image %s is called %s", i.Short, i.Name)
				}
			}
			for _, c := range r.Components {
				if !used[c.Name] {
					t.Errorf("no image uses component %s", c.Name)
				}
				checkComponent(t, c)
				for _, name := range c.ModuleFiles() {
					pinned[filepath.ToSlash(name)] = true
				}
			}
		})
	}
	for _, c := range Extras() {
		checkComponent(t, c)
		for _, r := range Releases() {
			if _, ok := r.Component(c.Name); ok {
				t.Errorf("%s has %s, but only a command that needs it may compile it", r.Kubernetes, c.Name)
			}
		}
		for _, name := range c.ModuleFiles() {
			pinned[filepath.ToSlash(name)] = true
		}
	}
	all, err := fs.Glob(sources, "modules/*/*")
	if err != nil || len(all) == 0 {
		t.Fatalf("no modules are pinned: %v", err)
	}
	for _, name := range all {
		if !pinned[name] {
			t.Errorf("no release uses %s: run `go run ./components/tidy`", name)
		}
	}
}

// TestMonitoredAddsOnly: a bundle without monitoring is what it was, and one with it has the same programs for the cluster.
func TestMonitoredAddsOnly(t *testing.T) {
	for _, r := range Releases() {
		m := r.Monitored()
		if !reflect.DeepEqual(m.Components[:len(r.Components)], r.Components) || !reflect.DeepEqual(m.Images[:len(r.Images)], r.Images) || !reflect.DeepEqual(m.Host, r.Host) {
			t.Errorf("%s: what the cluster itself is made of differs", r.Kubernetes)
		}
		var added []string
		for _, i := range m.Images[len(r.Images):] {
			added = append(added, i.Name)
		}
		if want := []string{"quorate.dev/prometheus:v3.16.0", "quorate.dev/alertmanager:v0.31.1", "quorate.dev/kube-state-metrics:v2.18.0", "quorate.dev/node-exporter:v1.12.1"}; !slices.Equal(added, want) {
			t.Errorf("%s: %v", r.Kubernetes, added)
		}
		if again, _ := Lookup(r.Kubernetes); len(again.Images) != len(r.Images) || len(again.Components) != len(r.Components) {
			t.Errorf("%s: the release itself has changed", r.Kubernetes)
		}
	}
}

// TestManaged: clusters of minor releases that cannot be built can be looked at, and those that can be built are among them.
func TestManaged(t *testing.T) {
	managed := Managed()
	if managed[0] != "v1.33" {
		t.Errorf("the oldest is %s", managed[0])
	}
	for _, r := range Releases() {
		if !slices.Contains(managed, "v1."+r.versions.minor()) {
			t.Errorf("clusters of %s can be built and not managed: %v", r.Kubernetes, managed)
		}
	}
}

// TestPublishedReleases: every patch release of a minor that can be compiled has addresses, and nothing else has.
func TestPublishedReleases(t *testing.T) {
	for version, known := range map[string]bool{"v1.37.2": true, "v1.37.0": true, "v1.36.11": true, "v1.38.0": false, "v1.35.9": false, "v1.37.1-rc.0": false, "v1.37.01": false, "v1.37": false, "1.37.1": false, "": false} {
		r, p, ok := PublishedFor(version, "amd64")
		if ok != known {
			t.Errorf("%s is known: %t", version, ok)
		}
		if !ok {
			continue
		}
		if want := "https://dl.k8s.io/release/" + version + "/bin/linux/"; !strings.HasPrefix(p.Files[0].URL, want) || r.Kubernetes != version {
			t.Errorf("%s is at %s", r.Kubernetes, p.Files[0].URL)
		}
	}
	pinned, _ := Lookup("v1.37.2")
	other, _ := PublishedRelease("v1.37.3")
	a, _ := pinned.Published("amd64")
	b, _ := other.Published("amd64")
	for i, f := range a.Files { // everything but Kubernetes is the same, and so is stored once
		if same := f.URL == b.Files[i].URL; same != (f.Component != "kubernetes") {
			t.Errorf("%s and %s", f.URL, b.Files[i].URL)
		}
	}
	if _, ok := Lookup("v1.37.3"); ok {
		t.Error("a release that is published is taken for one that can be compiled")
	}
	if got := Minors(); len(got) != 2 || got[1] != "v1.37" || StableURL(got[1]) != "https://dl.k8s.io/release/stable-1.37.txt" {
		t.Errorf("%q", got)
	}
}

// TestEtcdCanBeUpgraded: members below 3.6.11 cannot be in one cluster with 3.7.
func TestEtcdCanBeUpgraded(t *testing.T) {
	if semver.Compare(v1_36.Etcd, "v3.6.11") < 0 {
		t.Errorf("etcd %s cannot be upgraded to 3.7", v1_36.Etcd)
	}
}

// A minor that differs in Kubernetes only shares everything else, and so do those that exist.
func TestMinorsShareComponents(t *testing.T) {
	for _, c := range v1_36.release().Components {
		same, _ := v1_37.release().Component(c.Name)
		if shared := reflect.DeepEqual(c, same); shared != (c.Name != "kubernetes") {
			t.Errorf("1.36 and 1.37: %s: the same %v", c.Name, shared)
		}
	}
	other := v1_37
	other.Kubernetes = "v1.36.9"
	for _, c := range other.release().Components {
		same, _ := v1_37.release().Component(c.Name)
		if shared := reflect.DeepEqual(c, same); shared != (c.Name != "kubernetes") {
			t.Errorf("%s: the same %v", c.Name, shared)
		}
		if c.Name == "kubernetes" && (c.Go.Staging != "v0.36.9" || c.Go.Stamp["k8s.io/component-base/version.gitMinor"] != "36") {
			t.Errorf("staging %s, stamp %v", c.Go.Staging, c.Go.Stamp)
		}
	}
}

func checkComponent(t *testing.T, c Component) {
	files, err := c.Files()
	if err != nil {
		t.Fatal(err)
	}
	for name := range files {
		if strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s: %s has no place in a build", c.Name, name)
		}
	}
	if c.C != nil && files[c.C.Source] == nil {
		t.Errorf("%s: no source %s", c.Name, c.C.Source)
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(c.Links)), slices.Collect(maps.Keys(c.Texts))) {
		if strings.HasPrefix(name, "/") || path.Clean(name) != name {
			t.Errorf("%s: %q is not a path in a layer", c.Name, name)
		}
	}
	if c.Go == nil {
		return
	}
	mod, err := modfile.Parse(c.Name+"/go.mod", files["go.mod"], nil)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]string{}
	for _, m := range mod.Require {
		required[m.Mod.Path] = m.Mod.Version
	}
	for m, version := range c.Go.Require {
		if required[m] != version {
			t.Errorf("%s: go.mod has %s %s, the table %s: run `go run ./components/tidy`", c.Name, m, required[m], version)
		}
		if !strings.Contains(string(files["go.sum"]), m+" "+version+" h1:") {
			t.Errorf("%s: go.sum does not pin %s %s", c.Name, m, version)
		}
	}
	if (len(mod.Replace) > 0) != (c.Go.Staging != "") {
		t.Errorf("%s: %d replaced modules, staging version %q", c.Name, len(mod.Replace), c.Go.Staging)
	}
	for _, m := range mod.Replace {
		if m.New.Path != m.Old.Path || m.New.Version != c.Go.Staging {
			t.Errorf("%s: %s is replaced by %s, staging is at %s", c.Name, m.Old.Path, m.New, c.Go.Staging)
		}
	}
}

// TestVariants: a variant replaces files that exist, and every one is used.
func TestVariants(t *testing.T) {
	used := map[string]bool{}
	for _, r := range Releases() {
		for _, c := range r.Components {
			if c.Variant == "" {
				continue
			}
			used[c.Name+"/"+c.Variant] = true
			files, err := c.Files()
			if err != nil {
				t.Fatal(err)
			}
			c.Variant = ""
			common, err := c.Files()
			if err != nil {
				t.Fatal(err)
			}
			differ := 0
			for name := range files {
				if common[name] == nil {
					t.Errorf("%s has %s, which takes the place of nothing", c.Name, name)
				} else if string(common[name]) != string(files[name]) {
					differ++
				}
			}
			if differ == 0 {
				t.Errorf("the variant of %s for %s is what all have in common", c.Name, r.Kubernetes)
			}
		}
	}
	found, err := fs.Glob(sources, "variants/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		if !used[strings.TrimPrefix(name, "variants/")] {
			t.Errorf("no release uses %s", name)
		}
	}
	if _, err := (Component{Name: "kubernetes", Variant: "none"}).Files(); err == nil {
		t.Error("a variant that does not exist is taken for no variant")
	}
}
