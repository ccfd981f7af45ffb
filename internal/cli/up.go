package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
	"quorate.dev/quorate/internal/ui"
	"quorate.dev/quorate/internal/up"
)

func (a *app) up() *cobra.Command {
	var (
		name, from, identity, keys string
		lab                        spec.LabOptions
		ignore                     []string
		source, family             string
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Create a real highly available cluster on this machine: bundle, lab, apply, verify",
		Long: `Creates a highly available cluster and prints how to use it.

Without -f and without ./cluster.yaml, it creates the default cluster in a lab on this machine: 3 control planes in 3
zones with stacked etcd, 2 workers, and 2 load balancers with a virtual IP. With -f, it builds the cluster of any spec:
hosts without an address become lab machines, and hosts with an address are used as they are.
It is safe to interrupt and to run again.

The bundle of the default cluster comes from --source: official is what the projects publish, and modules is compiled here.
auto, the default, keeps the source of a cluster that exists already, uses a bundle that is in the cache, and otherwise asks the
projects' servers, for a few seconds: if all of them answer, the bundle is downloaded; otherwise, it is compiled. The source is
written into the cluster's spec, which every later command uses.

With --from-backup, it creates a copy of the cluster in a backup, to look at it: machines of a lab take the names and roles of
its hosts, and nothing outside of the lab can be reached from there. The workloads in the backup run in the copy
(docs/restoring.md).`,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case from == "" && (identity != "" || keys != "" || lab != (spec.LabOptions{})):
				return usageError{errors.New("--identity, --keys, --control-planes, and --workers belong to --from-backup")}
			case from == "":
				if err := knownSource(source, family); err != nil {
					return err
				}
			case source != sourceAuto:
				return usageError{errors.New("--source cannot be combined with --from-backup: the bundle of a copy is compiled")}
			case lab.ControlPlanes < 0 || lab.Workers < 0:
				return usageError{errors.New("--control-planes and --workers are numbers of hosts, and 0 stands for all")}
			case family != "":
				return usageError{errors.New("--ip-family cannot be combined with --from-backup: a copy has the families of its cluster")}
			case a.file != "":
				return usageError{errors.New("--from-backup takes the spec from the backup: leave out -f. To restore with a spec, use `quorate restore`")}
			case identity == "":
				return errNoIdentity
			}
			return knownChecks(ignore)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from != "" {
				lab.Name = name
				return a.upFromBackup(cmd.Context(), from, identity, lab, run.RestoreOptions{KeysDir: keys, Ignore: ignore})
			}
			c, otherwise, err := a.upSpec(cmd.Context(), name, source, family, func(*spec.Cluster) error { return nil })
			if err != nil {
				return err
			}
			sink, done := a.progress()
			r, err := up.Up(cmd.Context(), c, otherwise, ignore, sink)
			done()
			if err != nil {
				return explainLab(cmd.Context(), err)
			}
			return a.printUp(r)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the cluster's name (default: the name in the spec, or "+spec.DefaultName+")")
	cmd.Flags().StringVar(&from, "from-backup", "", "create a copy of the cluster in this backup (a file)")
	identityFlag(cmd, &identity)
	keysFlag(cmd, &keys)
	cmd.Flags().IntVar(&lab.ControlPlanes, "control-planes", 0, "with --from-backup: how many control planes the copy has at most (default: all)")
	cmd.Flags().IntVar(&lab.Workers, "workers", 0, "with --from-backup: how many workers the copy has at most (default: all)")
	cmd.Flags().StringVar(&source, "source", sourceAuto, "where the bundle of the default cluster comes from: auto, official, or modules")
	familyFlag(cmd, &family)
	ignoreFlag(cmd, &ignore)
	return cmd
}

// ipFamilies are the values of --ip-family.
var ipFamilies = map[string][]spec.Family{"ipv4": {spec.IPv4}, "ipv6": {spec.IPv6}, "dual": {spec.IPv4, spec.IPv6}}

func familyFlag(cmd *cobra.Command, family *string) {
	cmd.Flags().StringVar(family, "ip-family", "", "the IP families of the default cluster and its machines: ipv4, ipv6, or dual (default: those of the cluster if it exists, or else ipv4)")
}

// sourceAuto has up choose the source of the bundle.
const sourceAuto = "auto"

// upFromBackup creates a copy of the cluster in a backup.
func (a *app) upFromBackup(ctx context.Context, file, identity string, lab spec.LabOptions, o run.RestoreOptions) error {
	given, err := openBackup(file, identity, o.KeysDir, true)
	if err != nil {
		return usageError{err}
	}
	defer given.close()
	if lab.Name != "" {
		if errs := spec.Validate(spec.DefaultLab(lab.Name), spec.Options{Versions: bundle.Versions(), Lab: true}); len(errs) > 0 {
			return errs
		}
	}
	dir, remove, err := backup.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	sink, done := a.progress()
	c, err := fromBackup(ctx, given, dir, lab, &o, sink)
	var r *up.Result
	if err == nil {
		r, err = up.FromBackup(ctx, c, o, sink)
	}
	done()
	if err != nil {
		return explainLab(ctx, err)
	}
	if err := a.printUp(r); err != nil || r.Restored == nil {
		return err
	}
	out := a.out
	if a.output != "text" {
		out = a.err // what was lost is shown in any case
	}
	return printRestored(out, r.Restored, time.Now())
}

// knownSource refuses values of --source and --ip-family that do not exist.
func knownSource(source, family string) error {
	if !slices.Contains([]string{sourceAuto, spec.SourceOfficial, spec.SourceModules}, source) {
		return usageError{fmt.Errorf("unknown --source %q: must be auto, official, or modules; for mirror and bundle, write a spec (`quorate init`) and use -f", source)}
	}
	if _, known := ipFamilies[family]; family != "" && !known {
		return usageError{fmt.Errorf("unknown --ip-family %q: must be ipv4, ipv6, or dual", family)}
	}
	return nil
}

// upSpec is the spec of the cluster that up creates, and the one that it creates if the bundle of the first cannot be obtained; nil if there is
// no other. What the arguments ask of the hosts is checked before any server is asked for a bundle.
func (a *app) upSpec(ctx context.Context, name, source, family string, check func(*spec.Cluster) error) (c, otherwise *spec.Cluster, _ error) {
	path := a.file
	if path == "" {
		if _, err := os.Stat(usualFile); err == nil {
			path = usualFile
		}
	}
	if path == "" {
		if name == "" {
			name = spec.DefaultName
		}
		return a.upDefault(ctx, name, source, family, check)
	}
	if source != sourceAuto {
		return nil, nil, usageError{fmt.Errorf("--source is for the cluster that up creates without a spec; in %s, components.source says it", path)}
	}
	if family != "" {
		return nil, nil, usageError{fmt.Errorf("--ip-family is for the cluster that is created without a spec; in %s, network.podCIDR and network.serviceCIDR say it", path)}
	}
	c, err := a.load(path, true)
	if err != nil {
		return nil, nil, err
	}
	if name != "" {
		c.Metadata.Name = name
	}
	if !c.NeedsLab() {
		if c, err = a.load(path, false); err != nil {
			return nil, nil, err
		}
		if err := check(c); err != nil {
			return nil, nil, err
		}
		a.unlock(ctx, c)
		return c, nil, nil
	}
	// --name may be invalid.
	if errs := spec.Validate(c, spec.Options{Versions: bundle.Versions(), Lab: true}); len(errs) > 0 {
		return nil, nil, errs
	}
	return c, nil, check(c)
}

// upDefault is the default cluster, with its bundle from a source that is chosen if nobody says it.
func (a *app) upDefault(ctx context.Context, name, source, family string, check func(*spec.Cluster) error) (c, otherwise *spec.Cluster, _ error) {
	file := machines.SpecFile(name)
	existing, unread := spec.Load(file)
	families := ipFamilies[family]
	if family == "" && unread == nil { // a cluster keeps its families
		families = existing.Spec.Network.Families()
	}
	from := func(source string) (*spec.Cluster, error) {
		// Check it like any other spec: --name may be invalid.
		data, err := spec.Marshal(spec.DefaultLabFrom(name, source, families...))
		if err != nil {
			return nil, err
		}
		return spec.Check(data, "the default cluster", spec.Options{Lab: true})
	}
	compiled, err := from(spec.SourceModules)
	if err != nil {
		return nil, nil, err
	}
	if err := check(compiled); err != nil { // its hosts are those of every source
		return nil, nil, err
	}
	if source == sourceAuto {
		_, missing := os.Stat(file)
		switch {
		case errors.Is(missing, os.ErrNotExist):
			var why string
			source, why = sources.Choose(ctx, compiled.Spec.Kubernetes.Version)
			fmt.Fprintf(a.err, "The source of the bundle is %s, because %s. --source selects another one.\n", source, why)
			otherwise = compiled
		case unread != nil: // a cluster whose programs may be of either kind
			return nil, nil, fmt.Errorf("reading which source the cluster %s was built from: %w. Say it with --source, or remove the cluster: `quorate down --name %s`", name, unread, name)
		case existing.Published(): // a cluster keeps what it was built from
			source = spec.SourceOfficial
		default:
			source = spec.SourceModules
		}
	}
	if source == spec.SourceModules {
		return compiled, nil, nil
	}
	c, err = from(source)
	return c, otherwise, err
}

// errInterrupted says what to do next.
var errInterrupted = errors.New("interrupted: run the same command again to finish")

// explain adds what to do next if the error does not say it.
func explain(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

// explainLab is explain for commands that create machines of a lab.
func explainLab(ctx context.Context, err error) error {
	if err = explain(ctx, err); errors.Is(err, errInterrupted) {
		return fmt.Errorf("%w, or `quorate down` to remove what there is of a lab", err)
	}
	return err
}

func (a *app) printUp(r *up.Result) error {
	s := status.Of(r.State)
	if a.output != "text" {
		return a.print(s, nil)
	}
	var parts []status.Part
	for _, p := range r.Parts {
		parts = append(parts, status.Part{Name: p.Name, Elapsed: p.Elapsed})
	}
	return status.Summary(a.out, s, status.Use{Kubeconfig: r.Kubeconfig, Spec: r.SpecFile, Lab: r.Lab, Parts: parts}, ui.Width(a.out), ui.Color(a.out))
}

func (a *app) down() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster that up created, and its machines",
		Long:  "Deletes the lab's machines, networks, and files. Caches are kept. It also removes incomplete labs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				c, err := a.downSpec()
				if err != nil {
					return err
				}
				name = c
			}
			return a.deleteLab(cmd.Context(), name, "Removed the cluster %s.\n")
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the cluster's name (default: the name in the spec)")
	return cmd
}

// deleteLab deletes a lab, also one of which only parts are left, and its cluster. It says so if there was none: the name may be wrong.
func (a *app) deleteLab(ctx context.Context, name, done string) error {
	_, missing := lab.Open(name)
	switch err := machines.Delete(ctx, name); {
	case errors.Is(err, lab.ErrName):
		return usageError{err}
	case err != nil:
		return explain(ctx, err)
	case errors.Is(missing, lab.ErrNotFound):
		done = "There is no lab %s, and nothing is left of one.\n"
	}
	fmt.Fprintf(a.err, done, name)
	return nil
}

// downSpec returns the name of the cluster to remove. It requires little of the lab, because a damaged lab must be removable, too.
func (a *app) downSpec() (string, error) {
	path, err := a.specPath()
	if err != nil {
		if labs, lerr := lab.List(); lerr == nil && len(labs) == 1 {
			return labs[0].Name(), nil
		}
		return spec.DefaultName, nil
	}
	c, err := a.named(path)
	if err != nil {
		return "", fmt.Errorf("%w (or set the cluster's name with --name)", err)
	}
	if _, err := lab.Open(c.Metadata.Name); errors.Is(err, lab.ErrNotFound) && !c.NeedsLab() {
		return "", usageError{fmt.Errorf("%s names hosts that Quorate did not create: down only removes labs", path)}
	}
	return c.Metadata.Name, nil
}
