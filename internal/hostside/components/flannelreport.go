package components

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"quorate.dev/quorate/components/programs/flannel/health"
	"quorate.dev/quorate/internal/facts"
)

// judgeReport reads the report of Quorate's flanneld about the network of its node; the project's flanneld writes none. A
// stale report means that flanneld no longer works, although it runs.
func judgeReport(path string, now time.Time) (facts.Answer, []facts.Restored) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return facts.Answer{OK: true}, nil
	}
	var r health.Report
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return facts.Answer{Unknown: "its report could not be read: " + err.Error()}, nil
	}
	var restored []facts.Restored
	for _, p := range r.Problems {
		if p.Restored != nil {
			restored = append(restored, facts.Restored{What: describeProblem(p), Times: p.Times, Last: p.LastSeen})
		}
	}
	if r.Stale(now) {
		problem := fmt.Sprintf("flanneld has not compared the network of this node with what it should be for %s", now.Sub(r.LastSync).Round(time.Second))
		if r.LastSync.IsZero() {
			problem = "flanneld has never compared the network of this node with what it should be"
		}
		if r.SyncError != "" {
			problem += ": " + r.SyncError
		}
		return facts.Answer{Problem: problem}, restored
	}
	var remaining []string
	for _, p := range r.Remaining() {
		what := describeProblem(p)
		if p.Error != "" {
			what += " (" + p.Error + ")"
		}
		remaining = append(remaining, what)
	}
	if len(remaining) > 0 {
		return facts.Answer{Problem: "flanneld cannot restore " + strings.Join(remaining, ", ")}, restored
	}
	return facts.Answer{OK: true}, restored
}

func describeProblem(p health.Problem) string {
	what := string(p.Kind) + ": " + strings.Join(p.Objects, "; ")
	if more := p.Count - len(p.Objects); more > 0 {
		what += fmt.Sprintf("; and %d more", more)
	}
	return what
}
