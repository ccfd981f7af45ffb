package deep

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"quorate.dev/quorate/internal/bundle"
)

// BundleFor finds the bundle on this machine whose API server can read a backup of a version of Kubernetes: that of the version, or of
// another patch release of the same minor version, which stores the same APIs in the same way.
func BundleFor(version string) (*bundle.Bundle, error) {
	if !semver.IsValid(version) {
		return nil, errors.New("the backup does not say which version of Kubernetes it is of, because the cluster has no ConfigMap kubeadm-config")
	}
	for _, monitoring := range []bool{false, true} { // both have the same API server
		b, err := bundle.Find(version, runtime.GOARCH, monitoring)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, bundle.ErrNotBuilt) {
			return nil, err
		}
	}
	all, err := bundle.List()
	same := slices.DeleteFunc(all, func(b *bundle.Bundle) bool {
		return semver.MajorMinor(b.Version()) != semver.MajorMinor(version) || b.Arch() != runtime.GOARCH
	})
	if len(same) > 0 {
		return slices.MaxFunc(same, func(a, b *bundle.Bundle) int { return semver.Compare(a.Version(), b.Version()) }), nil
	}
	return nil, errors.Join(missing(version, bundle.Versions()), err)
}

// missing says how to get a bundle, if these versions can be built here.
func missing(version string, buildable []string) error {
	minor := semver.MajorMinor(version)
	fix := fmt.Sprintf("Copy one of %s from a machine that has it: `quorate bundle export` there, and `quorate bundle import FILE` here. This version of Quorate can build only %s", minor, strings.Join(buildable, " and "))
	for _, v := range buildable {
		if v == version || semver.MajorMinor(v) == minor {
			fix = "Run `quorate bundle build --kubernetes-version " + v + "`, or `quorate bundle import FILE` with one from another machine"
		}
	}
	return fmt.Errorf("the backup is of Kubernetes %s, and no bundle of %s is on this machine, which has the API server. %s", version, minor, fix)
}
