package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// examined is what recover prints as JSON when it only looks.
type examined struct {
	Cluster  string                       `json:"cluster"`
	Hosts    map[string]facts.EtcdRemains `json:"hosts"`
	Judgment *recovery.Judgment           `json:"judgment"`
}

func (a *app) recover() *cobra.Command {
	var (
		data []string
		from string
		yes  bool
		d    facts.EtcdDecision
	)
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Bring a cluster back after etcd has lost its quorum",
		Long: `Without --from, it only looks: it reads what is left of etcd on every host that can be reached, and prints for each copy of the
data to which cluster and member it belongs, how far its log goes, when it was last written to, and whether it is sound. It says
which copy loses the least, what would be lost, and what stands in the way. No etcd has to run. A machine that only boots a
rescue system with SSH works, too: name the directory at which its disk is mounted with --data.

With --from, it makes the copy on that host the cluster. First everything that is left of etcd and the API servers stop. Then
the copy becomes a cluster of one with another cluster ID and later revisions, the API accepts writes, and the other hosts join one
after another: those that have their installation get a new member, and machines that were installed again join as new ones. All
old data directories are renamed and kept in /var/lib/etcd-kept. Nothing else is changed: edits of the spec wait for apply.

It is refused, with exit status 3, while etcd has a quorum, and while powering on machines could bring the quorum back. A machine that
will never come back is declared lost with --lost. Only do this if you know it: if the machine still runs and cannot be reached only
from here, you make a second cluster.

With --from, the exit status is 0 only if every host joined again, apart from those that were declared lost. If others are left, the API accepts
writes, the command says what brings them back, and the exit status is 1; -o json has "complete", "left", and "lost".

It is safe to interrupt: run the same command again. docs/recovery.md is the runbook.`,
		Example: `  quorate recover
  quorate recover --data cp-c:/mnt/var/lib/etcd
  quorate recover --from cp-a --lost cp-b --lost cp-c
  quorate recover --from cp-a:/srv/old-disk/etcd --data cp-a:/srv/old-disk/etcd --yes`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if from == "" && (yes || d.AcceptLoss) {
				return usageError{errors.New("--yes and --accept-loss need --from HOST: nothing is chosen for you")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			o := run.RecoverOptions{}
			var host, path string
			c, err := a.running(ctx, func(c *spec.Cluster) (err error) {
				if o.Data, err = namedData(c, data); err == nil && from != "" {
					host, path, err = copyOf(c, from)
				}
				if err != nil {
					return usageError{err}
				}
				return nil
			})
			if err != nil {
				return err
			}
			if from == "" {
				o.Decision = &d
				return a.examine(ctx, c, o)
			}
			if path != "" && !slices.Contains(o.Data[host], path) {
				o.Data[host] = append(o.Data[host], path)
			}
			d.Host, d.Path = host, path
			o.Decision = &d
			o.Confirm = func(w *run.Work, j *recovery.Judgment) error {
				if yes {
					return nil
				}
				return a.confirmRecovery(w.Plan, j)
			}
			sink, done := a.progress()
			o.Bundle = func(ctx context.Context) (*bundle.Bundle, error) { return sources.Bundle(ctx, c, sink) }
			e := run.Open(ctx, c, sink)
			defer e.Close()
			out, err := e.Recover(ctx, o)
			done()
			return a.recovered(ctx, out, err)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "the copy that becomes the cluster: HOST for its data in place, or HOST:DIRECTORY")
	flags.StringArrayVar(&data, "data", nil, "a data directory to look at in addition, as HOST:DIRECTORY (can be repeated)")
	flags.StringArrayVar(&d.Lost, "lost", nil, "a host, or a member of etcd, that will never come back (can be repeated)")
	flags.StringVar(&d.ClusterID, "cluster-id", "", "the etcd cluster that counts, if there are data of several")
	flags.BoolVar(&d.AcceptLoss, "accept-loss", false, "use the copy of --from even if another one has more writes")
	flags.BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

// copyOf reads HOST or HOST:DIRECTORY.
func copyOf(c *spec.Cluster, text string) (host, path string, err error) {
	host, path, given := strings.Cut(text, ":")
	if _, known := c.Host(host); !known {
		return "", "", unknownHost(c, host)
	}
	if given && !filepath.IsAbs(path) {
		return "", "", fmt.Errorf("%s: the directory must be an absolute path", text)
	}
	if given {
		path = filepath.Clean(path)
	}
	return host, path, nil
}

func namedData(c *spec.Cluster, args []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, arg := range args {
		host, path, err := copyOf(c, arg)
		if err == nil && path == "" {
			err = fmt.Errorf("--data %s: name a directory, as HOST:DIRECTORY", arg)
		}
		if err != nil {
			return nil, err
		}
		out[host] = append(out[host], path)
	}
	return out, nil
}

// examine prints what is left of etcd.
func (a *app) examine(ctx context.Context, c *spec.Cluster, o run.RecoverOptions) error {
	sink, done := a.progress()
	e := run.Open(ctx, c, sink)
	defer e.Close()
	s := e.Examine(ctx, o)
	done()
	if ctx.Err() != nil {
		return explain(ctx, context.Cause(ctx))
	}
	out := examined{Cluster: c.Metadata.Name, Hosts: s.Seen.LostQuorum.Remains, Judgment: s.Judgment()}
	return a.print(out, func(w io.Writer) error { return printExamined(w, out, time.Now()) })
}

func printExamined(w io.Writer, x examined, now time.Time) error {
	j := x.Judgment
	if err := printCopies(w, j, now); err != nil {
		return err
	}
	if len(j.Voters) > 0 {
		fmt.Fprintf(w, "\n%d of the %d members of the lost cluster are needed for a quorum:\n", j.Need, len(j.Voters))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, v := range j.Voters {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", v.Name, v.Standing, firstLine(v.Why))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if j.UnderWay != nil {
		fmt.Fprintf(w, "\nA recovery from %s:%s was begun at %s and did not finish. To finish it: quorate recover --from %s\n", j.UnderWay.Host, j.UnderWay.Path, j.UnderWay.Decided.Format(time.RFC3339), j.UnderWay.Host)
	}
	if j.Best != nil {
		fmt.Fprintf(w, "\nThe data on %s lose the least. ", j.Best)
		printMissing(w, j.Missing)
	}
	for _, o := range j.Obstacles {
		fmt.Fprintf(w, "\nNot possible now: %s.\n  → %s\n", o.Why, o.Fix)
	}
	if len(j.Obstacles) == 0 && j.Best != nil {
		fmt.Fprintf(w, "\nTo make them the cluster: quorate recover --from %s\nThat stops what is left of etcd and the API servers, makes a cluster of one of a copy of these data, and adds the other hosts one after another. Nothing is removed.\n", j.Best)
	}
	return nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// printCopies prints a table of all copies, the one that loses least first.
func printCopies(w io.Writer, j *recovery.Judgment, now time.Time) error {
	if len(j.Candidates) == 0 {
		where := ""
		if slices.ContainsFunc(j.Voters, func(v recovery.Voter) bool { return v.Standing == recovery.Unknown }) {
			where = " on the hosts that could be examined"
		}
		_, err := fmt.Fprintln(w, "No data of etcd were found"+where+".")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tDATA\tMEMBER\tCLUSTER\tLOG ENDS AT\tREVISION\tLAST WRITE\tSIZE\tHEALTH")
	for _, c := range j.Candidates {
		health := "sound"
		switch {
		case c.Error != "":
			health = firstLine(c.Error)
		case c.Unread != "":
			health = firstLine(c.Unread)
		case c.Torn:
			health = "sound; the last entry is incomplete and does not count"
		}
		if j.Corrupt(c) {
			health += "; etcd raised the alarm CORRUPT for this member"
		}
		if c.Foreign {
			health = "of another cluster; " + health
		}
		revision := fmt.Sprint(c.Revision)
		if c.Pending > 0 {
			revision += fmt.Sprintf(" and %d writes in the log", c.Pending)
		}
		last := "-"
		if !c.LastWrite.IsZero() {
			last = c.LastWrite.UTC().Format(time.RFC3339) + " (" + ui.Duration(now.Sub(c.LastWrite)) + " ago)"
		}
		fmt.Fprintf(t, "%s\t%s (%s)\t%s\t%s\tterm %d, index %d\t%s\t%s\t%s\t%s\n", c.Host, c.Path, c.Kind, cmp.Or(c.Of, c.MemberID, "-"), cmp.Or(c.ClusterID, "-"), c.LastTerm, c.LastIndex, revision, last, ui.Bytes(c.Bytes), health)
	}
	return t.Flush()
}

func printMissing(w io.Writer, missing []string) {
	if len(missing) == 0 {
		fmt.Fprintln(w, "As far as the copies show, no acknowledged write is lost.")
		return
	}
	fmt.Fprintln(w, "What is lost, or may be:")
	for _, m := range missing {
		fmt.Fprintf(w, "  - %s\n", m)
	}
}

// confirmRecovery shows what will happen and asks for the name of the cluster.
func (a *app) confirmRecovery(p *plan.Plan, j *recovery.Judgment) error {
	var text strings.Builder
	if err := printCopies(&text, j, time.Now()); err != nil {
		return err
	}
	text.WriteString("\n")
	if err := printPlan(&text, p); err != nil {
		return err
	}
	text.WriteString("\n")
	printMissing(&text, j.Missing)
	text.WriteString("\nAfter this there is another cluster of etcd, and what is missing in the copy stays lost.\n")
	return a.typeName(text.String(), p.Cluster, "recovering "+p.Cluster+" needs a confirmation")
}

// recovered prints what a recovery did, and tells with the exit status whether every host that was not declared lost is back.
func (a *app) recovered(ctx context.Context, r *run.Recovered, err error) error {
	if r != nil {
		if perr := a.printDone(r, func(w io.Writer) error { return printRecovered(w, r) }); err == nil {
			err = perr
		}
	}
	if err != nil {
		return explain(ctx, err)
	}
	return nil
}

func printRecovered(w io.Writer, r *run.Recovered) error {
	fmt.Fprintf(w, "%s is back, from the data on %s.\n", r.Cluster, r.From)
	fmt.Fprintf(w, "Writes were accepted %s after the decision.\n", ui.Duration(r.ToWrite))
	switch {
	case r.ToThree > 0:
		fmt.Fprintf(w, "etcd had three voters %s after the decision, and has %d now.\n", ui.Duration(r.ToThree), r.Voters)
	default:
		fmt.Fprintf(w, "etcd has %s.\n", ui.Plural(r.Voters, "voter"))
	}
	if len(r.Left) > 0 {
		fmt.Fprintln(w, "These hosts did not join again:")
		for _, h := range slices.Sorted(maps.Keys(r.Left)) {
			why := firstLine(r.Left[h])
			if slices.Contains(r.Lost, h) {
				why = "declared lost; " + why
			}
			fmt.Fprintf(w, "  - %s: %s\n", h, why)
		}
		fmt.Fprintln(w, "Take those that are lost for good out of the spec. `quorate apply` has the others join when they are back (one that comes back as it was, with its old data, `quorate repair`). It also carries out what was edited in the spec: `quorate plan` shows it.")
	}
	printMissing(w, r.Missing)
	_, err := fmt.Fprintln(w, "The old data are kept in "+facts.EtcdKeptDir+" on their hosts. Remove them when nobody needs them any more.")
	return err
}
