package facts

import (
	"slices"
	"strings"
)

// Family is a family of distributions that share a package manager and names of packages.
type Family string

// The families that Quorate can install packages on.
const (
	Debian Family = "debian" // Debian, Ubuntu and what descends from them
	RHEL   Family = "rhel"   // Red Hat Enterprise Linux, its rebuilds, CentOS Stream, Fedora
)

// FamilyOf reads a family from the fields of os-release; it is empty for any other system.
func FamilyOf(osRelease map[string]string) Family {
	like := append([]string{osRelease["ID"]}, strings.Fields(osRelease["ID_LIKE"])...)
	has := func(ids ...string) bool {
		return slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(like, id) })
	}
	switch {
	case has("debian", "ubuntu"):
		return Debian
	case has("rhel", "centos", "fedora"):
		return RHEL
	}
	return ""
}

// Manager is the family's package manager.
func (f Family) Manager() string { return map[Family]string{Debian: "apt-get", RHEL: "dnf"}[f] }

// packages are those whose name is not that of their program.
var packages = map[Family]map[string]string{
	Debian: {"losetup": "mount", "modprobe": "kmod"},
	RHEL:   {"losetup": "util-linux", "mount": "util-linux", "modprobe": "kmod"},
}

// Packages are what holds the programs, in the names of the family.
func (f Family) Packages(programs []string) []string {
	var out []string
	for _, p := range programs {
		name := packages[f][p]
		if name == "" {
			name = p
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Packages are programs that a host lacks and what they come in.
type Packages struct {
	Family   Family   `json:"family"`
	Programs []string `json:"programs"`
	Names    []string `json:"names"`
}

// Command is what an operator would type to install packages.
func (f Family) Command(packages []string) string {
	return f.Manager() + " install -y " + strings.Join(packages, " ")
}
