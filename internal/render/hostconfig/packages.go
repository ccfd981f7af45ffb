package hostconfig

import (
	"cmp"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Programs that come from the host's own distribution and not from the bundle: HAProxy and keepalived on load balancers, and
// on nodes the programs that the kubelet calls and those that load kernel modules.
var (
	balancerPrograms = []string{"haproxy", "keepalived"}
	nodePrograms     = []string{"losetup", "modprobe", "mount"}
)

// unitPaths are the programs that units run by these paths, which are those of the distributions' packages.
var unitPaths = map[string]string{"haproxy": "/usr/sbin/haproxy", "keepalived": "/usr/sbin/keepalived"}

// ProgramPath is where a program has to be. For most of them the name is enough, because they are called by it. A copy that someone
// compiled into /usr/local is found by its name first, but it is not the one that a unit runs.
func ProgramPath(name string) string { return cmp.Or(unitPaths[name], name) }

// BalancerVersions are the oldest versions of programs on load balancers that understand the configuration: keepalived has
// down_timer_adverts since 2.2.3, and HAProxy was tested from 2.4 on.
var BalancerVersions = []struct{ Program, Version string }{{"haproxy", "2.4"}, {"keepalived", "2.2.3"}}

// Lacks returns the programs that a host needs for its roles and does not have.
func Lacks(c *spec.Cluster, h spec.Host, f *facts.Facts) []string {
	var need []string
	if c.Balances(h) {
		need = append(need, balancerPrograms...)
	}
	if h.IsNode() {
		need = append(need, nodePrograms...)
	}
	return slices.DeleteFunc(need, func(p string) bool { return !slices.Contains(f.Lacks, p) })
}
