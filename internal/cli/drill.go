package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
	"quorate.dev/quorate/internal/version"
)

// The clients that are slower than --pace are not much slower: what is measured at longer intervals is no outage of clients.
const (
	slowestStream = 500 * time.Millisecond
	slowestPod    = time.Second
)

// drillFlags are the flags of drill.
type drillFlags struct {
	only             []string
	list, heal, yes  bool
	noPods, beyond   bool
	repeat           int
	seed             uint64
	duration, lasts  time.Duration
	abort, pace      time.Duration
	objectives       string
	html, json, unit string
}

func (a *app) drill() *cobra.Command {
	var f drillFlags
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Inject faults, measure what clients notice of each, and judge it",
		Long: `Injects faults one at a time while clients use the cluster, and measures what they notice: how long nobody was served, how
many requests failed, when the fault was found, and when the margins were back. Acknowledged writes are read back, and the
history of reads and writes is checked. Each fault is compared with its objective: the spec's (spec.drill.objectives), those of
--objectives, or the default ones of the failover profile.

Without --only, it injects the single failures that a cluster must survive. --list shows all faults, and why some of them cannot
be injected here. A fault is injected only if the margins allow it at that moment; otherwise it is listed as skipped.

In a lab, machines lose their power, freeze, and are cut off. On hosts of your own, only faults are injected that undo
themselves: each host heals its fault on its own if this program does not. Ctrl-C heals immediately; --heal heals what an
interrupted drill left.

To break one thing after the other, name hosts instead of roles: stop/etcd/on=cp-a. To see what is really lost with a single
point of failure that the audit found, pass --beyond-margins. Only a lab accepts it: the cluster may be down until the fault is
healed.

The exit status is 0 if all objectives were met, 4 if one was missed, a write was lost, or a measurement is not valid, and 3 if
nothing could be injected safely. docs/drill.md describes the report.`,
		Example: `  quorate drill                                the default faults
  quorate drill --list
  quorate drill --only 'kill/*' --repeat 20 --html drill.html
  quorate drill --only hang/etcd/leader,power-off/zone/b
  quorate drill --only 'stop/haproxy/on=lb-a' --beyond-margins
  quorate drill --duration 1h --seed 7 --junit drill.xml`,
		PreRunE: func(*cobra.Command, []string) error { return f.check(a.output) },
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDrill(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.only, "only", nil, "inject only faults whose name matches a pattern, such as kill/*, */etcd/leader, power-off/zone/b")
	flags.BoolVar(&f.list, "list", false, "list the faults, and those that cannot be injected, and inject nothing")
	flags.BoolVar(&f.heal, "heal", false, "heal the faults that an interrupted drill left, and inject nothing")
	flags.BoolVar(&f.yes, "yes", false, "do not ask for confirmation")
	flags.BoolVar(&f.beyond, "beyond-margins", false, "in a lab only: inject the faults of --only even if the margins do not allow them")
	flags.BoolVar(&f.noPods, "no-pods", false, "run no clients and no workload in the cluster: only the API is measured, from here")
	flags.IntVar(&f.repeat, "repeat", 1, "how often each fault is injected")
	flags.Uint64Var(&f.seed, "seed", 0, "what decides the order of the faults (0: as they are listed, or by chance with --duration)")
	flags.DurationVar(&f.duration, "duration", 0, "inject faults by chance for this long, instead of each once")
	flags.DurationVar(&f.lasts, "lasts", 10*time.Second, "how long a fault lasts that does not end on its own")
	flags.DurationVar(&f.abort, "abort-after", time.Minute, "heal, and end the drill, if a kind of clients was not served for this long")
	flags.DurationVar(&f.pace, "pace", 50*time.Millisecond, "the time between two requests of clients that open a connection for each; others are slower in proportion. Raise it on a computer that is too slow")
	flags.StringVar(&f.objectives, "objectives", "", "a file with objectives, which replace those of the spec")
	flags.StringVar(&f.html, "html", "", "write the report as one self-contained page to this file")
	flags.StringVar(&f.unit, "junit", "", "write the report as JUnit XML to this file")
	flags.StringVar(&f.json, "json", "", "write the report as JSON to this file")
	cmd.AddCommand(reads(a.drillHistory()))
	return outputs(cmd, "text", "json", "yaml", "junit")
}

// check refuses flags that are wrong, or that cannot be combined with each other or with the output.
func (f drillFlags) check(output string) error {
	switch {
	case f.repeat < 1:
		return usageError{errors.New("--repeat must be 1 or more")}
	case f.duration > 0 && f.repeat > 1:
		return usageError{errors.New("--duration and --repeat cannot be combined: with --duration, faults are injected by chance")}
	case f.duration < 0:
		return usageError{errors.New("--duration must not be negative")}
	case f.lasts < time.Second || f.lasts > 10*time.Minute:
		return usageError{errors.New("--lasts must be between 1s and 10m")}
	case f.abort < 5*time.Second:
		return usageError{errors.New("--abort-after must be 5s or more")}
	case f.pace < 10*time.Millisecond || f.pace > time.Second:
		return usageError{errors.New("--pace must be between 10ms and 1s")}
	case output == "junit" && (f.list || f.heal):
		return usageError{errors.New("-o junit is the report of a drill: it cannot be combined with --list and --heal")}
	case f.list && f.heal:
		return usageError{errors.New("--list and --heal cannot be combined")}
	case f.beyond && (f.list || f.heal):
		return usageError{errors.New("--beyond-margins injects faults: it cannot be combined with --list and --heal")}
	case f.beyond && len(f.only) == 0:
		return usageError{errors.New("--beyond-margins needs --only: say which faults may take away what the cluster needs")}
	case f.beyond && f.abort <= f.lasts:
		return usageError{errors.New("with --beyond-margins, --abort-after must be longer than --lasts: nobody may be served while a fault lasts")}
	}
	return nil
}

func (a *app) runDrill(ctx context.Context, f drillFlags) error {
	if err := a.canWrite(f.html, f.unit, f.json); err != nil {
		return err
	}
	var objectives, own []drill.Objective
	var plug *labPlug
	c, err := a.running(ctx, func(c *spec.Cluster) (err error) {
		if objectives, own, err = f.objectivesOf(c); err != nil {
			return usageError{err}
		}
		if plug, err = plugOf(c); err == nil && f.beyond && plug == nil {
			return cluster.OnlyInLab()
		}
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case f.heal:
		return a.healFaults(ctx, c, plug)
	case f.list:
		return a.listFaults(ctx, c, f, plug)
	}
	switch {
	case f.yes:
	case f.beyond:
		text := fmt.Sprintf("Faults will be injected into %s although the margins may not allow them. Each one may take away the whole cluster until it is healed, after %s.\n\n", c.Metadata.Name, f.lasts)
		if err := a.typeName(text, c.Metadata.Name, "a drill beyond the margins needs a confirmation"); err != nil {
			return err
		}
	case plug == nil:
		text := fmt.Sprintf("Faults will be injected into %s, one at a time: programs are killed and suspended, and hosts are cut off from each other.\nWhat the margins allow, clients should survive; `quorate drill --list` shows each fault.\n\n", c.Metadata.Name)
		if err := a.typeName(text, c.Metadata.Name, "a drill on hosts of your own needs a confirmation"); err != nil {
			return err
		}
	}
	if f.duration > 0 && f.seed == 0 {
		f.seed = uint64(time.Now().UnixNano())
	}
	sink, done := a.progress()
	e := run.Open(ctx, c, sink)
	defer e.Close()
	build, revision := version.Read()
	o := run.DrillOptions{Choose: f.choose(plug, own), Repeat: f.repeat, Seed: f.seed, Duration: f.duration, Lasts: f.lasts, AbortAfter: f.abort, BeyondMargins: f.beyond, Objectives: objectives,
		Clients: clients.Options{Pace: f.pace, StreamPace: min(4*f.pace, slowestStream), PodPace: min(10*f.pace, slowestPod), Pods: !f.noPods}, Version: build + " " + revision}
	if plug != nil {
		o.Plug = plug
	}
	o.Tell = func(o drill.Outcome) {
		verdict := "passed"
		if !o.Pass {
			why := slices.Concat(o.Missed, o.Invalid)
			if verdict = "missed: " + strings.Join(why[:min(len(why), 1)], ""); len(why) > 1 {
				verdict += fmt.Sprintf("; and %d more", len(why)-1)
			}
		}
		sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "drill/outcome", Title: o.Name + " on " + o.Target, Detail: verdict})
	}
	o.Announce = func(i drill.Injection) {
		sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "drill/announce", Title: i.Name(), Detail: "now on " + i.Where()})
	}
	report, err := e.Drill(ctx, o)
	done()
	if report == nil {
		return explain(ctx, err)
	}
	if e := a.writeDrill(report, f); e != nil {
		return e
	}
	switch {
	case errors.Is(err, run.ErrNothingDrilled):
		fmt.Fprintf(a.err, "quorate: %v\n", err)
		return &statusError{exitRefused}
	case err != nil:
		return explain(ctx, err)
	case !report.Pass:
		return &statusError{exitMissed}
	}
	return nil
}

// objectivesOf are the default ones of the profile and after them the user's own: those of the file, or of the spec. Of each limit, the last one that matches
// counts.
func (f drillFlags) objectivesOf(c *spec.Cluster) (all, own []drill.Objective, err error) {
	all = drill.DefaultObjectives(c.Spec.Failover.Profile)
	if f.noPods {
		all = drill.Outside(all)
	}
	own = drill.FromSpec(c)
	if f.objectives != "" {
		data, err := paths.Read(f.objectives)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the objectives: %w", err)
		}
		if own, err = drill.ParseObjectives(data); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.objectives, err)
		}
	}
	return append(all, own...), own, nil
}

// choose finds the faults of a cluster, and keeps those that are wanted. The user's own objectives must fit what there is.
func (f drillFlags) choose(plug *labPlug, own []drill.Objective) func(*cluster.State) ([]drill.Fault, []drill.Skipped, error) {
	return func(s *cluster.State) ([]drill.Fault, []drill.Skipped, error) {
		all, cannot := drill.Catalogue(s, limitsOf(plug))
		onHosts, not := drill.OnHosts(s, limitsOf(plug))
		all, cannot = append(all, onHosts...), append(cannot, not...)
		if err := drill.CheckObjectives(own, all, cannot, clients.Kinds(!f.noPods)); err != nil {
			return nil, nil, usageError{err}
		}
		faults, err := drill.Select(all, f.only)
		if err != nil {
			return nil, nil, usageError{err}
		}
		wanted := cmp.Or(strings.Join(f.only, ","), "*")
		cannot = slices.DeleteFunc(cannot, func(s drill.Skipped) bool { return !drill.Chooses(wanted, s.Name) })
		return faults, cannot, nil
	}
}

func limitsOf(plug *labPlug) drill.Limits {
	if plug == nil {
		return drill.Limits{}
	}
	return drill.Limits{Lab: true, OwnDisks: plug.lab.OwnDisks()}
}

// listFaults prints what could be injected.
func (a *app) listFaults(ctx context.Context, c *spec.Cluster, f drillFlags, plug *labPlug) error {
	sink, done := a.progress()
	e := run.OpenToRead(ctx, c, sink)
	defer e.Close()
	s := e.State(ctx)
	done()
	faults, cannot, err := f.choose(plug, nil)(s)
	if err != nil {
		return err
	}
	all, _ := drill.Catalogue(s, limitsOf(plug))
	for _, fault := range faults {
		if fault.On != "" { // one for each host and kind would be too many to list if nobody asks for them
			all = append(all, fault)
		}
	}
	known := e.KnownForDrill(ctx)
	type listed struct {
		Name    string `json:"name"`
		Target  string `json:"target,omitempty"`
		Chosen  bool   `json:"chosen"`
		Refused string `json:"refused,omitempty"`
	}
	out := struct {
		Faults  []listed        `json:"faults"`
		Skipped []drill.Skipped `json:"skipped,omitempty"`
	}{Skipped: cannot}
	for _, fault := range all {
		l := listed{Name: fault.Name(), Chosen: slices.Contains(faults, fault)}
		i, err := drill.Place(s, fault, f.lasts, known)
		if err == nil {
			l.Target = i.Where()
			if _, refused := drill.Permit(s, i); refused != nil {
				l.Refused = refused.Why
			}
		} else {
			l.Refused = err.Error()
		}
		out.Faults = append(out.Faults, l)
	}
	return a.print(out, func(w io.Writer) error {
		fmt.Fprintln(w, "* is injected without --only, or matches it.")
		for _, l := range out.Faults {
			mark := " "
			if l.Chosen {
				mark = "*"
			}
			fmt.Fprintf(w, "%s %-42s %s\n", mark, l.Name, l.Target)
			if l.Refused != "" {
				fmt.Fprintf(w, "    not now: %s\n", l.Refused)
			}
		}
		if len(cannot) > 0 {
			fmt.Fprintln(w, "\nCannot be injected here:")
		}
		for _, s := range cannot {
			fmt.Fprintf(w, "  %-42s %s\n", s.Name, s.Why)
		}
		return nil
	})
}

// healFaults heals what an interrupted drill left.
func (a *app) healFaults(ctx context.Context, c *spec.Cluster, plug *labPlug) error {
	if plug != nil { // first, so that the hosts can be reached
		if err := plug.lab.HealAll(ctx); err != nil {
			return err
		}
	}
	sink, done := a.progress()
	e := run.OpenAwaiting(ctx, c, sink, cluster.Names(c.Spec.Hosts))
	defer e.Close()
	healed, err := e.HealFaults(ctx)
	done()
	if err != nil {
		return explain(ctx, err)
	}
	return a.print(map[string]any{"healed": healed}, func(w io.Writer) error {
		if len(healed) == 0 {
			_, err := fmt.Fprintln(w, "No host has a fault that a drill injected.")
			return err
		}
		_, err := fmt.Fprintf(w, "Healed the faults on %s.\n", cluster.List(healed))
		return err
	})
}

// writeDrill prints the report, and writes it to the files that are wanted.
func (a *app) writeDrill(r *drill.Report, f drillFlags) error {
	var failed []error
	for _, file := range []struct {
		path  string
		write func(io.Writer) error
	}{{f.html, r.WriteHTML}, {f.unit, r.WriteJUnit}, {f.json, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}}} {
		if file.path == "" {
			continue
		}
		var text strings.Builder
		if err := file.write(&text); err != nil {
			return err
		}
		if err := durable.Update(file.path, []byte(text.String()), 0o644); err != nil {
			failed = append(failed, fmt.Errorf("writing the report to %s: %w", file.path, err))
		}
	}
	if a.output == "junit" {
		return errors.Join(append(failed, r.WriteJUnit(a.out))...)
	}
	// What a drill has cost is not lost with a full disk.
	return errors.Join(append(failed, a.print(r, func(w io.Writer) error { return r.WriteText(w, ui.Width(w), ui.Color(w)) }))...)
}

// labPlug pulls the plugs of a lab.
type labPlug struct{ lab *lab.Lab }

// plugOf is the lab of a spec's hosts; nil if they are not machines of a lab.
func plugOf(c *spec.Cluster) (*labPlug, error) {
	l, err := lab.Open(c.Metadata.Name)
	switch {
	case errors.Is(err, lab.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	for _, h := range c.Spec.Hosts {
		m, err := l.Machine(h.Name)
		if err != nil || !slices.Contains(h.Addresses(), m.Address.String()) {
			return nil, nil // a lab of the same name, and hosts that are not its machines
		}
	}
	return &labPlug{l}, nil
}

// target is how the lab names the place of a fault, and kind the fault.
func (p *labPlug) kind(i drill.Injection) (kind, target string, ok bool) {
	switch i.Kind {
	case drill.PowerOff, drill.Reboot:
		return "power-off", i.Where(), true
	case drill.Freeze:
		return "freeze", i.Host, true
	case drill.Cut:
		switch i.Target {
		case drill.Host, drill.Zone, drill.Link:
			return "cut", i.Where(), true
		}
	}
	return "", "", false
}

// Does says whether the lab injects the fault.
func (p *labPlug) Does(i drill.Injection) bool { _, _, ok := p.kind(i); return ok }

// Inject injects a fault.
func (p *labPlug) Inject(ctx context.Context, i drill.Injection) error {
	kind, target, _ := p.kind(i)
	err := faults[kind].inject(p.lab, ctx, target)
	if err == nil && i.Kind == drill.Reboot {
		return faults[kind].heal(p.lab, context.WithoutCancel(ctx), target)
	}
	return err
}

// Heal ends a fault.
func (p *labPlug) Heal(ctx context.Context, i drill.Injection) error {
	kind, target, _ := p.kind(i)
	return faults[kind].heal(p.lab, ctx, target)
}
