package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
)

const (
	// fullBytes and fullPart are the free space below which a file system counts as almost full: so many bytes, or that part of a small one.
	fullBytes = 2 << 30
	fullPart  = 0.1
)

// FullDisk says which file system below /var/lib of a host is almost full; empty if none is known to be.
func (s *State) FullDisk(host string) string {
	f := s.Facts(host)
	if f == nil {
		return ""
	}
	if (f.DiskFreeBytes > 0 || f.DiskBytes > 0) && almostFull(f.DiskFreeBytes, f.DiskBytes) {
		return freeText("/var/lib", f.DiskFreeBytes)
	}
	for _, dir := range slices.Sorted(maps.Keys(f.Disks)) {
		if d := f.Disks[dir]; almostFull(d.FreeBytes, d.SizeBytes) {
			return freeText(dir, d.FreeBytes)
		}
	}
	return ""
}

// almostFull compares the free space of a file system with its size; 0 if that is not known.
func almostFull(free, size int64) bool {
	limit := int64(fullBytes)
	if size > 0 {
		limit = min(limit, int64(fullPart*float64(size)))
	}
	return free < limit
}

func freeText(dir string, free int64) string {
	return fmt.Sprintf("%d MiB are free below %s", free>>20, dir)
}

// Pressed says that the kubelet of a host is short of disk, in its words; empty if it is not known to be.
func (s *State) Pressed(host string) string {
	if n := s.Node(host); n != nil && strings.Contains(strings.ToLower(n.Short), "disk") {
		return n.Short
	}
	return ""
}

// disks reports file systems that are almost full, with what Quorate has to do with it.
func (f *findings) disks() {
	for _, h := range f.Spec.Spec.Hosts {
		why := f.FullDisk(h.Name)
		if why == "" {
			continue
		}
		f.add(RuleFullDisk, Warning, "a disk of "+h.Name+" is almost full: "+why,
			f.removableText(h.Name)+"Free space there (`du -xhd2 /var/lib` shows what uses it), or give "+h.Name+" a larger disk."+f.keptText(h.Name), h.Name)
	}
}

// removableText says what a repair would remove; empty if there is nothing.
func (f *findings) removableText(host string) string {
	x := f.Facts(host)
	sum := x.Kubernetes.Removable
	for d, n := range x.Unused {
		if d != "" {
			sum += n
		}
	}
	if sum == 0 || f.stage == Foreign {
		return ""
	}
	return fmt.Sprintf("`quorate repair` removes what Quorate put there and does not need (up to %d MiB). ", max(sum>>20, 1))
}

// keptText names what Quorate keeps on a host and leaves to people; empty if there is nothing.
func (f *findings) keptText(host string) string {
	x := f.Facts(host)
	if x == nil || len(x.Kept) == 0 {
		return ""
	}
	all := slices.SortedStableFunc(slices.Values(x.Kept), func(a, b facts.Kept) int { return cmp.Compare(b.Bytes, a.Bytes) })
	var out []string
	for _, k := range all {
		out = append(out, fmt.Sprintf("%s (%d MiB)", k.Path, k.Bytes>>20))
	}
	return " Restores, recoveries, and repairs kept these, and Quorate leaves them as they are; remove those that nobody needs any more: " + strings.Join(out, ", ") + "."
}

// pressureText is what Quorate has to do with the pressure of a node; empty unless that is about its disk.
func (f *findings) pressureText(host string) string {
	if f.Pressed(host) == "" {
		return ""
	}
	return strings.TrimRight(" "+f.removableText(host), " ") + f.keptText(host)
}
