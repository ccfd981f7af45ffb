package spec

import (
	"fmt"
	"net/netip"
	"strings"
)

// PatternOf is a regular expression for the addresses in any of the ranges, in their usual form. flannel finds its interface with it. The prefix length of a
// range of IPv6 is a multiple of 16.
func PatternOf(ranges []netip.Prefix) string {
	var all []string
	for _, p := range ranges {
		if p.Addr().Is4() {
			all = append(all, pattern4(p))
		} else {
			all = append(all, pattern6(p)...)
		}
	}
	return "^(" + strings.Join(all, "|") + ")$"
}

func pattern4(p netip.Prefix) string {
	var octets []string
	for i, first := range p.Masked().Addr().As4() {
		switch bits := min(max(p.Bits()-8*i, 0), 8); bits {
		case 8:
			octets = append(octets, fmt.Sprint(first))
		case 0:
			octets = append(octets, "[0-9]+")
		default:
			var some []string
			for n := range 1 << (8 - bits) {
				some = append(some, fmt.Sprint(int(first)+n))
			}
			octets = append(octets, "("+strings.Join(some, "|")+")")
		}
	}
	return strings.Join(octets, `\.`)
}

// pattern6 has an alternative for each place in which the zeros of an address can be left out: nowhere within the range's own groups, at their end and beyond, or
// within them.
func pattern6(p netip.Prefix) (out []string) {
	const groups, any = 8, "[0-9a-f:]+"
	own := p.Bits() / 16
	bytes := p.Masked().Addr().As16()
	var values []string
	for i := range own {
		values = append(values, fmt.Sprintf("%x", int(bytes[2*i])<<8|int(bytes[2*i+1])))
	}
	text := func(from, to int) string { return strings.Join(values[from:to], ":") }
	// rest is up to n groups, or exactly n.
	rest := func(n int) string { return fmt.Sprintf("[0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,%d}", n-1) }
	exactly := func(n int) string { return strings.Repeat(":[0-9a-f]{1,4}", n) }
	if own == groups {
		return []string{p.Addr().String()}
	}
	if own == 0 {
		return []string{any}
	}
	out = append(out, text(0, own)+":"+any)
	for from := 0; from < own; from++ {
		if values[from] != "0" || from > 0 && values[from-1] == "0" {
			continue
		}
		to := from
		for to < own && values[to] == "0" {
			to++
		}
		switch {
		case to == own: // what is left out may go on after the range's own groups
			out = append(out, text(0, from)+"::("+rest(groups-own)+")?")
		case to-from > 1:
			out = append(out, text(0, from)+"::"+text(to, own)+exactly(groups-own))
		}
	}
	return out
}
