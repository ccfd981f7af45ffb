package drill

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/ui"
)

// The measures of the picture of the topology in pixels.
const (
	zoneWidth, zoneGap, zonesInRow = 262, 16, 4
	zoneTitle                      = 30
	hostHeight, hostFaulted        = 44, 60 // without and with a line of faults
	hostGap                        = 8
)

// drawTopology draws zones as boxes with their hosts. Hosts that were faulted come first in theirs.
func (r *Report) drawTopology(hosts []htmlHost) template.HTML {
	var zones []string
	members := map[string][]htmlHost{}
	for _, h := range hosts {
		if members[h.Zone] == nil {
			zones = append(zones, h.Zone)
		}
		members[h.Zone] = append(members[h.Zone], h)
	}
	slices.Sort(zones)
	faulted, missed := 0, map[int]bool{}
	for i, o := range r.Faults {
		_, class := htmlJudgement(o)
		missed[i+1] = class == "bad"
	}
	for _, h := range hosts {
		if len(h.Faults) > 0 {
			faulted++
		}
	}
	more := map[string]int{}
	for zone, all := range members {
		slices.SortStableFunc(all, func(a, b htmlHost) int { return cmp.Compare(min(len(b.Faults), 1), min(len(a.Faults), 1)) })
		for n, h := range all {
			if n >= htmlPicturedHosts && len(h.Faults) == 0 {
				members[zone], more[zone] = all[:n], len(all)-n
				break
			}
		}
	}
	tall := func(zone string) int {
		height := zoneTitle
		for _, h := range members[zone] {
			height += hostRoom(h)
		}
		if more[zone] > 0 {
			height += 24
		}
		return height + hostGap/2
	}
	width := min(len(zones), zonesInRow)*(zoneWidth+zoneGap) - zoneGap + 4
	var b strings.Builder
	y := 2
	for row := range slices.Chunk(zones, zonesInRow) {
		highest := 0
		for i, zone := range row {
			highest = max(highest, tall(zone))
			drawZone(&b, 2+i*(zoneWidth+zoneGap), y, tall(zone), zone, members[zone], more[zone], missed)
		}
		y += highest + zoneGap
	}
	height := y - zoneGap + 2
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" class="topology" role="img" aria-labelledby="topology-t topology-d" viewBox="0 0 %d %d" width="%d" height="%d"><title id="topology-t">The hosts of %s by zone</title><desc id="topology-d">%s in %s, of which %d were faulted. The table below lists them.</desc>`,
		width, height, width, height, html.EscapeString(r.Cluster), ui.Plural(len(hosts), "host"), ui.Plural(len(zones), "zone"), faulted)
	return template.HTML(head + b.String() + `</svg>`) //nolint:gosec // every text was escaped
}

// hostRoom is the height that a host takes with the gap below it.
func hostRoom(h htmlHost) int {
	if len(h.Faults) > 0 {
		return hostFaulted + hostGap
	}
	return hostHeight + hostGap
}

func drawZone(b *strings.Builder, x, y, height int, zone string, hosts []htmlHost, more int, missed map[int]bool) {
	title := "zone " + zone
	if zone == "" {
		title = "no zone"
	}
	fmt.Fprintf(b, `<g class="zone"><rect x="%d" y="%d" width="%d" height="%d" rx="8"/><text x="%d" y="%d">%s</text></g>`, x, y, zoneWidth, height, x+12, y+20, html.EscapeString(ui.Truncate(title, 34)))
	y += zoneTitle
	for _, h := range hosts {
		class, mark := "host", ""
		if len(h.Faults) > 0 {
			class, mark = "host faulted", "⚡ "
			if slices.ContainsFunc(h.Faults, func(n int) bool { return missed[n] }) {
				class = "host missed"
			}
		}
		room := hostRoom(h) - hostGap
		fmt.Fprintf(b, `<g class="%s"><rect x="%d" y="%d" width="%d" height="%d" rx="5"/><text x="%d" y="%d">%s</text><text class="detail" x="%d" y="%d">%s</text>`, class, x+8, y, zoneWidth-16, room,
			x+18, y+18, html.EscapeString(mark+ui.Truncate(h.Name, 30)), x+18, y+34, html.EscapeString(ui.Truncate(h.Roles, 40)))
		if len(h.Faults) > 0 {
			fmt.Fprintf(b, `<text class="detail" x="%d" y="%d">%s</text>`, x+18, y+50, ui.Truncate(numbered(h.Faults), 40))
		}
		b.WriteString(`</g>`)
		y += hostRoom(h)
	}
	if more > 0 {
		fmt.Fprintf(b, `<text class="detail" x="%d" y="%d">… and %d more</text>`, x+18, y+12, more)
	}
}

// numbered names faults by their numbers.
func numbered(faults []int) string {
	words := make([]string, len(faults))
	for i, n := range faults {
		words[i] = strconv.Itoa(n)
	}
	if len(words) == 1 {
		return "fault " + words[0]
	}
	return "faults " + strings.Join(words, ", ")
}
