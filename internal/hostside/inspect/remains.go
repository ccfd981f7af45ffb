package inspect

import (
	"slices"

	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/programs"
)

// remains are the bundles of which something is left on the host besides those that are unpacked, and that nothing uses.
func remains(installed programs.State) []string {
	used := append(slices.Clone(installed.Bundles), blobs.Imported())
	for _, b := range installed.Programs {
		used = append(used, b)
	}
	accepted, _ := blobs.Host.Bundles() // what is not known is not removed
	out := slices.DeleteFunc(slices.Concat(installed.Remains, accepted), func(d string) bool { return slices.Contains(used, d) })
	slices.Sort(out)
	return slices.Compact(out)
}
