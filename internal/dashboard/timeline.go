package dashboard

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/status"
	"quorate.dev/quorate/internal/ui"
)

// DateRow is something that happened, or is about to: a certificate that expires, a backup that was taken, or that is due.
type DateRow struct {
	What, Where, When, Words, Class string
	at                              time.Time
	lane                            string
}

// The lanes of the picture.
const (
	laneBackups      = "backups"
	laneCertificates = "certificates"
	laneAuthorities  = "authorities"
)

func (p *Page) dates(s *cluster.State, x status.Status) {
	now := s.Seen.Time
	p.Dates = slices.Concat(backupDates(x.Backups, s.Spec.Spec.Backup.Interval(), now), certificateDates(s))
	switch {
	case x.Backups != nil:
		t := textOf(x.Backups.Words())
		p.Backups = []Fact{{"Backups", t.Words, t.Class}}
	case s.Exists():
		p.Backups = []Fact{{"Backups", "the spec has none", "warn"}}
	}
	if len(p.Dates) > 0 {
		p.Timeline = drawDates(p.Dates, now)
	}
}

// backupDates are the last good backup, the next one, and the attempts that failed. The control plane that was asked has a clock of its own, so ages count, and
// not times.
func backupDates(b *status.Backups, every time.Duration, now time.Time) (out []DateRow) {
	if b == nil {
		return nil
	}
	add := func(what, where, words, class string, at time.Time) {
		out = append(out, DateRow{What: what, Where: where, When: moment(at), Words: words, Class: class, at: at, lane: laneBackups})
	}
	for _, name := range slices.Sorted(maps.Keys(b.Failed)) {
		add("a backup failed", name, b.Failed[name].Error, "bad", b.Failed[name].Time)
	}
	if b.Last == nil {
		return out
	}
	age := time.Duration(b.Last.AgeSeconds) * time.Second
	add("the last good backup", b.Last.Host, ui.Duration(age)+" old, "+ui.Bytes(b.Last.Bytes)+", in "+b.Last.Store, "good", now.Add(-age))
	if every > 0 {
		due, words, class := now.Add(every-age), "one every "+ui.Duration(every), ""
		if age > every {
			words, class = "it is late: "+words, "warn"
		}
		add("the next backup is due", "", words, class, due)
	}
	return out
}

// certificateDates are the certificates, those of one name together: the first of them to expire counts.
func certificateDates(s *cluster.State) (out []DateRow) {
	hosts := map[string][]string{}
	rows := map[string]int{}
	for _, c := range s.Certificates() { // the first to expire comes first
		hosts[c.Name] = append(hosts[c.Name], c.Host)
		if _, known := rows[c.Name]; known {
			continue
		}
		row := DateRow{What: c.Name, When: moment(c.Expires), Words: cluster.Expiry(c.Expires, s.Seen.Time), Class: "good", at: c.Expires, lane: laneCertificates}
		if c.CA {
			row.lane = laneAuthorities
		}
		if severity := s.Expiring(c); severity != cluster.Info {
			row.Class = severities[severity].Class
		}
		rows[c.Name] = len(out)
		out = append(out, row)
	}
	for i := range out {
		on := hosts[out[i].What]
		out[i].Where = names(on)
		if len(on) > 1 {
			out[i].Words = "the first, on " + on[0] + ", " + out[i].Words
		}
	}
	return out
}

// The measures of the picture in pixels. Time is logarithmic in both directions: an hour and ten years have to fit.
const (
	datesWidth, datesLabels, datesMargin = 760, 110, 16
	datesLane, datesTop                  = 26, 10
	datesUnit                            = time.Hour
	datesPast, datesFuture               = 30 * 24 * time.Hour, 10 * 365 * 24 * time.Hour
)

var datesTicks = []struct {
	at    time.Duration
	label string
}{
	{-30 * 24 * time.Hour, "−30 d"}, {-7 * 24 * time.Hour, "−7 d"}, {-24 * time.Hour, "−1 d"}, {-time.Hour, "−1 h"}, {0, "now"}, {time.Hour, "1 h"}, {24 * time.Hour, "1 d"},
	{7 * 24 * time.Hour, "7 d"}, {30 * 24 * time.Hour, "30 d"}, {365 * 24 * time.Hour, "1 y"}, {10 * 365 * 24 * time.Hour, "10 y"},
}

// datesX is where a time is, relative to now.
func datesX(d time.Duration) int {
	log := func(d time.Duration) float64 { return math.Log10(1 + math.Abs(float64(d))/float64(datesUnit)) }
	from, to := log(datesPast), log(datesFuture)
	x := log(d)
	if d < 0 {
		x = -x
	}
	part := (min(max(x, -from), to) + from) / (from + to)
	return datesLabels + datesMargin + int(math.Round(part*(datesWidth-datesLabels-2*datesMargin)))
}

// drawDates draws them as an inline SVG, in lanes. It needs the style sheet of the page. The table below it says the same in words.
func drawDates(rows []DateRow, now time.Time) template.HTML {
	lanes := []string{laneBackups, laneCertificates, laneAuthorities}
	bottom := datesTop + len(lanes)*datesLane
	height := bottom + 22
	soon, first := 0, rows[0]
	for _, r := range rows {
		if r.Class == "warn" || r.Class == "bad" {
			soon++
		}
		if r.lane != laneBackups && (first.lane == laneBackups || r.at.Before(first.at)) {
			first = r
		}
	}
	description := fmt.Sprintf("%s, of which %d need attention.", ui.Plural(len(rows), "date"), soon)
	if first.lane != laneBackups {
		description += " The first certificate is " + first.What + ": " + first.Words + "."
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="dates" role="img" aria-labelledby="dates-t dates-d" viewBox="0 0 %d %d" width="%d" height="%d">`, datesWidth, height, datesWidth, height)
	fmt.Fprintf(&b, `<title id="dates-t">Backups and certificates on a logarithmic timeline</title><desc id="dates-d">%s</desc>`, html.EscapeString(description))
	for _, t := range datesTicks {
		kind := "tick"
		if t.at == 0 {
			kind = "now"
		}
		fmt.Fprintf(&b, `<path class="%s" d="M%d %dV%d"/><text class="detail" text-anchor="middle" x="%d" y="%d">%s</text>`, kind, datesX(t.at), datesTop-4, bottom+4, datesX(t.at), bottom+17, t.label)
	}
	for i, lane := range lanes {
		middle := datesTop + i*datesLane + datesLane/2
		fmt.Fprintf(&b, `<text x="0" y="%d">%s</text><path class="lane" d="M%d %dH%d"/>`, middle+4, lane, datesLabels, middle, datesWidth-datesMargin/2)
		for _, r := range slices.SortedStableFunc(slices.Values(rows), func(a, b DateRow) int { return cmp.Compare(urgency(a.Class), urgency(b.Class)) }) {
			if r.lane == lane {
				fmt.Fprintf(&b, `<g class="%s"><title>%s</title>%s</g>`, cmp.Or(r.Class, "due"), html.EscapeString(r.What+" "+r.Where+": "+r.Words), mark(r.Class, datesX(r.at.Sub(now)), middle))
			}
		}
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // every text was escaped
}

// urgency orders marks: the most urgent one is drawn last, above the others.
func urgency(class string) int { return slices.Index([]string{"good", "", "warn", "bad"}, class) }

// mark draws one date. Shapes differ, because not everybody sees the colors.
func mark(class string, x, y int) string {
	switch class {
	case "bad":
		return fmt.Sprintf(`<path d="M%d %dl6 6m0 -6l-6 6" class="cross"/>`, x-3, y-3)
	case "warn":
		return fmt.Sprintf(`<path d="M%d %dl7 12h-14z"/>`, x, y-7)
	case "":
		return fmt.Sprintf(`<circle cx="%d" cy="%d" r="5" class="ring"/>`, x, y)
	}
	return fmt.Sprintf(`<circle cx="%d" cy="%d" r="5"/>`, x, y)
}
