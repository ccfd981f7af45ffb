package plan

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/confidential"
	"quorate.dev/quorate/internal/facts"
)

// FileChange is a file that the plan writes with another content than hosts have. Hosts on which the same lines of it change
// are listed together.
type FileChange struct {
	Path string `json:"path"`
	// Block is the name of the marked block in the file, if only that is written.
	Block string   `json:"block,omitempty"`
	Hosts []string `json:"hosts"`
	// New says that the hosts do not have the file, or the block.
	New bool `json:"new,omitempty"`
	// Withheld is why the difference is not shown. The counts are 0 and the diff is empty then.
	Withheld string `json:"withheld,omitempty"`
	// Added and Removed count lines.
	Added   int `json:"added"`
	Removed int `json:"removed"`
	// Diff is a unified diff from what the hosts have to what they will have. `quorate plan` leaves it out without --diff.
	Diff string `json:"diff,omitempty"`
}

// Writes are the files that the plan writes with another content than hosts have, by host and File.Key. Where two steps write
// one file, the later one counts.
func (p *Plan) Writes(s *cluster.State) map[string]map[string]facts.File {
	out := map[string]map[string]facts.File{}
	for _, step := range p.Steps {
		f := s.Facts(step.Host)
		if step.Desired == nil || f == nil {
			continue
		}
		for _, file := range step.Desired.Files {
			if out[step.Host] == nil {
				out[step.Host] = map[string]facts.File{}
			}
			out[step.Host][file.Key()] = file
		}
	}
	for host, files := range out {
		maps.DeleteFunc(files, func(key string, file facts.File) bool { return s.Facts(host).Files[key] == file.Sum() })
		if len(files) == 0 {
			delete(out, host)
		}
	}
	return out
}

// Compare sets p.Files from what hosts have: contents by host and File.Key. A file without an entry does not exist.
func (p *Plan) Compare(writes map[string]map[string]facts.File, have map[string]map[string]facts.Shown) {
	type same struct {
		key, withheld, diff string
		isNew               bool
	}
	changes := map[same]*FileChange{}
	for host, files := range writes {
		for key, file := range files {
			shown, exists := have[host][key]
			c := compared(file, shown, exists)
			if c.Withheld == "" && c.Diff == "" && exists { // it has changed since it was observed
				continue
			}
			k := same{key, c.Withheld, c.Diff, c.New}
			if changes[k] == nil {
				changes[k] = &c
			}
			changes[k].Hosts = append(changes[k].Hosts, host)
		}
	}
	p.Files = nil
	for _, c := range changes {
		slices.Sort(c.Hosts)
		p.Files = append(p.Files, *c)
	}
	slices.SortFunc(p.Files, func(x, y FileChange) int {
		return cmp.Or(strings.Compare(x.Path, y.Path), strings.Compare(x.Block, y.Block), slices.Compare(x.Hosts, y.Hosts))
	})
}

// Summarize leaves out the diffs.
func (p *Plan) Summarize() {
	for i := range p.Files {
		p.Files[i].Diff = ""
	}
}

// compared is the change of one file on one host.
func compared(file facts.File, have facts.Shown, exists bool) FileChange {
	c := FileChange{Path: file.Path, Block: file.Block, New: !exists, Withheld: cmp.Or(have.Withheld, confidential.Reason(file.Path, file.Content))}
	if file.ClusterCA && file.Content == "" {
		c.Withheld = cmp.Or(c.Withheld, "the cluster's CA does not exist yet")
	}
	if c.Withheld != "" {
		return c
	}
	from := file.Path
	if !exists {
		from = "/dev/null"
	}
	const context = 3 // lines
	u, err := udiff.ToUnifiedDiff(from, file.Path, have.Content, udiff.Lines(have.Content, file.Content), context)
	if err != nil {
		c.Withheld = "it could not be compared: " + err.Error()
		return c
	}
	for _, hunk := range u.Hunks {
		for _, line := range hunk.Lines {
			switch line.Kind {
			case udiff.Insert:
				c.Added++
			case udiff.Delete:
				c.Removed++
			}
		}
	}
	c.Diff = u.String()
	return c
}
