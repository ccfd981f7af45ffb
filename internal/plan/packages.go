package plan

import (
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// packages plans what the host's own distribution has to provide, if it is not there.
func (p *builder) packages(h spec.Host, f *facts.Facts) {
	lacks := hostconfig.Lacks(p.c, h, f)
	if len(lacks) == 0 {
		return
	}
	names := f.Family.Packages(lacks)
	p.add(Step{Kind: InstallPackages, Host: h.Name, Title: "install packages",
		Reason:   "its roles need " + strings.Join(lacks, " and ") + ": " + f.Family.Command(names),
		Packages: &facts.Packages{Family: f.Family, Programs: lacks, Names: names}})
}
