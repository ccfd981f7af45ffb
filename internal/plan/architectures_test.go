package plan

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// mixedBundle has a bundle for each of two architectures.
var mixedBundle = func() Bundle {
	b := testBundle
	b.Arch, b.Others = "amd64", map[string]string{"arm64": "sha256:arm"}
	return b
}()

// mixed gives every second host of an observation the architecture arm64, and the others amd64.
func mixed(c *spec.Cluster, obs *facts.Observation) (arm []string) {
	for i, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Arch = "amd64"
		if i%2 == 1 {
			f.Arch = "arm64"
			arm = append(arm, h.Name)
		}
	}
	return arm
}

// TestEachHostRunsTheBundleOfItsArchitecture: a plan leaves such a host alone, and replaces the bundle of a host that has another one.
func TestEachHostRunsTheBundleOfItsArchitecture(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	runningFrom(c, obs, mixedBundle.Digest)
	for _, name := range mixed(c, obs) {
		f := obs.Hosts[name].Facts
		f.Images = mixedBundle.Others["arm64"]
		if h, _ := c.Host(name); !h.IsNode() {
			continue
		}
		f.Binaries, f.Bundles = f.Images, []string{f.Images}
		for p := range f.Programs {
			f.Programs[p] = f.Images
		}
	}
	kinds := []Kind{InstallBundle, SwitchPrograms, ImportImages, PruneBundles, UpgradeNode, UpgradeControlPlane}
	p, err := Build(cluster.Evaluate(c, obs), mixedBundle)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(p.Bundles, mixedBundle.Others) || p.Bundle != mixedBundle.Digest {
		t.Errorf("the plan has %s and %v", p.Bundle, p.Bundles)
	}
	for _, h := range c.Spec.Hosts {
		if s := stepsOf(p, h.Name, kinds...); len(s) > 0 {
			t.Errorf("%s runs the bundle of its architecture, and gets %+v", h.Name, s)
		}
	}

	// A machine with another processor has taken the place of one whose disk it has.
	f := obs.Hosts["cp-a"].Facts
	if f.Arch != "amd64" {
		t.Fatal("cp-a is not amd64")
	}
	f.Arch = "arm64"
	if p, err = Build(cluster.Evaluate(c, obs), mixedBundle); err != nil {
		t.Fatal(err)
	}
	var got []Kind
	for _, s := range stepsOf(p, "cp-a", kinds...) {
		got = append(got, s.Kind)
	}
	for _, k := range []Kind{InstallBundle, ImportImages, PruneBundles} {
		if !slices.Contains(got, k) {
			t.Errorf("cp-a gets %v, and not %s", got, k)
		}
	}
}

func TestHostsWithoutABundleAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		host, arch string
		only       bool // there is one bundle
		why        string
	}{
		"unknown":                {"cp-b", "", false, "does not say what architecture"},
		"unsupported":            {"worker-a", "riscv64", false, "cp"},
		"no bundle":              {"worker-a", "arm64", true, "worker-a is linux/arm64"},
		"both":                   {"worker-a", "arm64", false, ""},
		"only a load balancer":   {"lb-a", "riscv64", false, ""},
		"only a load balancer's": {"lb-a", "arm64", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := empty(c)
			for _, h := range c.Spec.Hosts {
				obs.Hosts[h.Name].Facts.Arch = "amd64"
			}
			obs.Hosts[tc.host].Facts.Arch = tc.arch
			bundle := mixedBundle
			if tc.only {
				bundle.Others = nil
			}
			p, err := Build(cluster.Evaluate(c, obs), bundle)
			var r *cluster.Refusal
			switch {
			case tc.why == "":
				if err != nil || len(stepsOf(p, "cp-a", InstallBundle)) != 1 {
					t.Errorf("refused: %v", err)
				}
			case !errors.As(err, &r) || r.Rule != RuleArch || !strings.Contains(r.Why, tc.host) || tc.arch != "" && !strings.Contains(r.Why, tc.arch) || r.Fix == "":
				t.Errorf("got %v", err)
			case tc.arch == "" && !strings.Contains(r.Why, tc.why):
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestTheMarkOfOneBundleIsAsItWas: clusters whose hosts have one architecture are not verified again, and another bundle is noticed whichever it is.
func TestTheMarkOfOneBundleIsAsItWas(t *testing.T) {
	c := testCluster()
	mark := func(b Bundle) string {
		return (&builder{State: cluster.Evaluate(c, empty(c)), c: c, bundle: b}).verifiedMark()
	}
	text, err := spec.NewRecord(c).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if mark(testBundle) != facts.Sum(append(text, testBundle.Digest...)) {
		t.Error("the mark of a cluster with one bundle has changed")
	}
	other := mixedBundle
	other.Others = map[string]string{"arm64": "sha256:other"}
	if mark(mixedBundle) == mark(testBundle) || mark(mixedBundle) == mark(other) {
		t.Error("the mark does not depend on the bundle for another architecture")
	}
}
