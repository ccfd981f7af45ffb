package components

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// flannelReport is what Quorate's flanneld writes about the network of its node, with the names of its own type
// (components.quorate.dev/flannel/health). The project's flanneld writes none.
type flannelReport struct {
	LastSync      time.Time `json:"lastSync"`
	ResyncSeconds int       `json:"resyncSeconds"`
	SyncError     string    `json:"syncError"`
	Problems      []struct {
		Kind     string     `json:"kind"`
		Objects  []string   `json:"objects"`
		Count    int        `json:"count"`
		LastSeen time.Time  `json:"lastSeen"`
		Times    int        `json:"times"`
		Restored *time.Time `json:"restored"`
		Error    string     `json:"error"`
	} `json:"problems"`
}

// flannelReportFile is where it is unless flanneld was told otherwise.
const flannelReportFile = "/run/flannel/health.json"

// judgeReport reads the report of flanneld, if there is one: a report that is no longer renewed means that flanneld does not
// work any more, although it runs.
func judgeReport(path string, now time.Time) (facts.Answer, []facts.Restored) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return facts.Answer{OK: true}, nil
	}
	var r flannelReport
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return facts.Answer{Unknown: "its report could not be read: " + err.Error()}, nil
	}
	var remaining []string
	var restored []facts.Restored
	for _, p := range r.Problems {
		what := p.Kind + ": " + strings.Join(p.Objects, "; ")
		if more := p.Count - len(p.Objects); more > 0 {
			what += fmt.Sprintf("; and %d more", more)
		}
		if p.Restored != nil {
			restored = append(restored, facts.Restored{What: what, Times: p.Times, Last: p.LastSeen})
			continue
		}
		if p.Error != "" {
			what += " (" + p.Error + ")"
		}
		remaining = append(remaining, what)
	}
	const missed = 3 // comparisons in a row
	switch silent := now.Sub(r.LastSync); {
	case silent > missed*time.Duration(r.ResyncSeconds)*time.Second:
		problem := fmt.Sprintf("flanneld has not compared the network of this node with what it should be for %s", silent.Round(time.Second))
		if r.LastSync.IsZero() {
			problem = "flanneld has never compared the network of this node with what it should be"
		}
		if r.SyncError != "" {
			problem += ": " + r.SyncError
		}
		return facts.Answer{Problem: problem}, restored
	case len(remaining) > 0:
		return facts.Answer{Problem: "flanneld cannot restore " + strings.Join(remaining, ", ")}, restored
	}
	return facts.Answer{OK: true}, restored
}
