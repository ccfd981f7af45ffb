package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) restore() *cobra.Command {
	var (
		identity, replace, data, keys string
		yes                           bool
		o                             run.RestoreOptions
		from                          run.SalvageOptions
	)
	cmd := &cobra.Command{
		Use:   "restore NAME|FILE|--from-data [HOST:]DIRECTORY",
		Short: "Build the cluster of the spec from a backup or from a disk, on the same hosts or on others",
		Long: `Builds the cluster of the spec from a backup: NAME in the store of the spec, or a FILE on this machine. The hosts may be
those of the backup or others, with other names, addresses, zones, and another endpoint. The ranges of pods and Services, the pod
network, and the minor release of Kubernetes must be those of the backup.

Everything is checked before any host is changed: the backup is decrypted here, compared with its manifest, and restored into a
scratch etcd, as quorate backup verify does. Then all members of etcd begin with the snapshot, with a raised revision, and the
API is freed from what it remembers of hosts that are no longer there.

Everything that was written after the backup is lost. If there is a cluster on the hosts, the restore is refused with exit status
3 unless you give it up twice: with --replace-cluster NAME, and by typing its name (in scripts, --yes). Its hosts are then
reset, and its etcd data and keys are kept on them.

With --from-data, the cluster is built from the data directory of one member of etcd instead: all machines were installed again, and one
disk is left. It is mounted on a host of the spec, or it was copied to this machine. The keys of the cluster are looked for on the same disk
(/etc/kubernetes/pki); --keys names another directory, and a backup as the argument brings them, too. What the data are, up to when they go, and
what is lost is shown before the name of the cluster has to be typed (in scripts, --yes). The data stay as they are: a copy is used.

If it is interrupted, run the same command again: it then finishes. docs/restoring.md and docs/recovery.md describe every case.`,
		Example: `  quorate restore --identity backup-identity.txt ./prod.1a2b3c4d.5e6f7a8b.20260304T050607Z.cp-a.backup.age
  quorate restore --identity backup-identity.txt --replace-cluster prod prod.1a2b3c4d.5e6f7a8b.20260304T050607Z.cp-a.backup.age
  quorate restore --from-data cp-a:/mnt/var/lib/etcd
  quorate restore --from-data ./etcd --keys ./pki --lost cp-b --lost cp-c`,
		Args: cobra.MaximumNArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && data == "":
				return usageError{errors.New("name a backup, or the data of a member of etcd with --from-data; `quorate backup list` shows the backups")}
			case data == "" && (from.NewKeys || len(from.Lost) > 0):
				return usageError{errors.New("--new-keys and --lost need --from-data")}
			case len(args) == 1 && identity == "":
				return errNoIdentity
			}
			return knownChecks(o.Ignore)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var given *givenBackup
			if len(args) == 1 {
				o.KeysDir = keys // what the backup does not have
				var err error
				if given, err = openBackup(args[0], identity, keys, isFile(args[0])); err != nil {
					return usageError{err}
				}
				defer given.close()
			}
			c, err := a.cluster(ctx, func(c *spec.Cluster) (err error) {
				if replace != "" && replace != c.Metadata.Name {
					return usageError{fmt.Errorf("--replace-cluster %s: the spec is of the cluster %s; nothing was changed", replace, c.Metadata.Name)}
				}
				if from.Data, err = dataSource(c, "--from-data", data); err == nil && len(args) == 0 {
					from.Keys, err = dataSource(c, "--keys", keys)
				}
				if err != nil {
					return usageError{err}
				}
				return nil
			})
			if err != nil {
				return err
			}
			dir, remove, err := backup.Scratch()
			if err != nil {
				return err
			}
			defer remove()
			sink, done := a.progress()
			e := run.Open(ctx, c, sink)
			defer e.Close()
			var out *run.Restored
			o.Replace, o.Confirm = replace != "", func(w *run.Work) error {
				if yes {
					return nil
				}
				return a.confirmReplace(w, o)
			}
			if err = e.AnyReached(ctx); err == nil && given != nil { // before a bundle is compiled, which may take half an hour
				err = given.read(ctx, dir, &o, e, sink)
			}
			if data != "" && err == nil {
				o.Begin = func(w *run.Work) error {
					if yes {
						return nil
					}
					return a.confirmData(w, o)
				}
				err = a.readData(ctx, dir, e, from, &o)
			}
			if err == nil {
				var b *bundle.Bundle
				if b, err = sources.Bundle(ctx, c, sink); err == nil {
					out, err = e.Restore(ctx, b, o)
				}
			}
			done()
			if err != nil {
				return explain(ctx, err)
			}
			return a.print(out, func(w io.Writer) error { return printRestored(w, out, time.Now()) })
		},
	}
	identityFlag(cmd, &identity)
	cmd.Flags().StringVar(&keys, "keys", "", "a directory with keys that the backup does not have, such as ca.key; with --from-data, one like /etc/kubernetes/pki, as [HOST:]DIRECTORY")
	cmd.Flags().StringVar(&replace, "replace-cluster", "", "give up the cluster of this name that is on the hosts")
	cmd.Flags().StringVar(&data, "from-data", "", "the data directory of a member of etcd, as HOST:DIRECTORY, or a copy of it on this machine")
	cmd.Flags().BoolVar(&from.NewKeys, "new-keys", false, "with --from-data: create keys again that are lost, or that the backup named for its keys does not have, and leave out what cannot be decrypted without them")
	cmd.Flags().StringArrayVar(&from.Lost, "lost", nil, "with --from-data: a member of etcd that will never come back (can be repeated)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for the confirmation of --from-data, or for the second one of --replace-cluster")
	ignoreFlag(cmd, &o.Ignore)
	return cmd
}

func keysFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "keys", "", "a directory with keys that the backup does not have, such as ca.key")
}

// givenBackup is a backup that a command line names, and the identities that decrypt it. Each file is read only once: it may be a pipe.
type givenBackup struct {
	name       string
	file       *os.File // nil for a backup in the store
	identities []age.Identity
}

// openBackup opens what a command line names: the identity, the backup, if that is a file on this machine, and the directory of keys, which it only checks.
func openBackup(name, identity, keys string, file bool) (*givenBackup, error) {
	out := &givenBackup{name: name}
	var err error
	if out.identities, err = identitiesIn(identity); err != nil {
		return nil, err
	}
	if keys != "" {
		if err := directory("--keys", keys); err != nil {
			return nil, err
		}
	}
	if file {
		if out.file, err = openFile(name); err != nil {
			return nil, fmt.Errorf("reading the backup: %w", err)
		}
	}
	return out, nil
}

func (g *givenBackup) close() {
	if g.file != nil {
		g.file.Close()
	}
}

// isFile says whether a backup is named as a file on this machine, and not as one in the store.
func isFile(name string) bool {
	_, missing := os.Stat(name)
	return missing == nil || strings.ContainsRune(name, filepath.Separator)
}

// directory refuses what is no directory on this machine.
func directory(flag, dir string) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("%s %s: there is no such directory on this machine", flag, dir)
	}
	return nil
}

// dataSource reads [HOST:]DIRECTORY. It is empty for an empty text.
func dataSource(c *spec.Cluster, flag, text string) (run.DataSource, error) {
	if text == "" {
		return run.DataSource{}, nil
	}
	if name, path, given := strings.Cut(text, ":"); given && !strings.ContainsRune(name, filepath.Separator) {
		host, path, err := copyOf(c, name+":"+path)
		if err != nil {
			return run.DataSource{}, fmt.Errorf("%s %s: %w", flag, text, err)
		}
		return run.DataSource{Host: host, Dir: path}, nil
	}
	dir, err := filepath.Abs(text)
	if err != nil {
		return run.DataSource{}, err
	}
	if err := directory(flag, text); err != nil {
		return run.DataSource{}, fmt.Errorf("%w; a directory on a host is HOST:DIRECTORY", err)
	}
	return run.DataSource{Dir: dir}, nil
}

// readData reads the data of a member and what is left of the keys of its cluster. The copy is below dir.
func (a *app) readData(ctx context.Context, dir string, e *run.Engine, from run.SalvageOptions, o *run.RestoreOptions) error {
	below := filepath.Join(dir, "d") // a backup may be in dir, too
	if err := os.Mkdir(below, 0o700); err != nil {
		return err
	}
	return e.Salvage(ctx, below, from, o)
}

// confirmData shows what the data are, what is lost with them, and what will be done, and asks for the name of the cluster.
func (a *app) confirmData(w *run.Work, o run.RestoreOptions) error {
	var text strings.Builder
	if err := printPlan(&text, w.Plan); err != nil {
		return err
	}
	text.WriteString("\n")
	if err := printSalvaged(&text, o.Salvaged, time.Now()); err != nil {
		return err
	}
	text.WriteString("\nThe cluster is built from a copy of these data; they stay as they are.\n")
	return a.typeName(text.String(), w.Plan.Cluster, "building "+w.Plan.Cluster+" from the data of a member needs a confirmation")
}

func printSalvaged(w io.Writer, s *run.Salvaged, now time.Time) error {
	if err := printCopies(w, s.Judgment, now); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThey have %d keys at revision %d.", s.Objects, s.Revision)
	if s.Unconfirmed > 0 {
		fmt.Fprintf(w, " The last %d entries of the log count, although the member did not know yet that a majority had them.", s.Unconfirmed)
	}
	keys := "There are no keys of the cluster."
	if s.Keys != "" {
		keys = "The keys of the cluster are those in " + s.Keys + "."
	}
	fmt.Fprintf(w, "\n%s\n", keys)
	printMissing(w, s.Costs())
	return nil
}

// read reads a backup from its file or, through an engine, from the store, and verifies it. What it decrypts on this machine is in dir.
func (g *givenBackup) read(ctx context.Context, dir string, o *run.RestoreOptions, e *run.Engine, sink progress.Sink) error {
	var in io.Reader = g.file
	o.File = filepath.Base(g.name)
	if g.file == nil {
		var err error
		if o.File, in, err = e.OpenBackup(ctx, g.name); err != nil {
			return fmt.Errorf("reading the backup %s: %w", g.name, err)
		}
	}
	return progress.Track(ctx, sink, "", "backup", "verify the backup "+o.File, func(ctx context.Context) error {
		r, err := backup.Open(in, g.identities...)
		if err == nil {
			defer r.Close()
			o.Backup, err = backup.Unpack(ctx, r, dir)
		}
		if err != nil {
			return fmt.Errorf("verifying the backup %s: %w; nothing was changed", o.File, err)
		}
		return nil
	})
}

// confirmReplace shows what is given up and asks for the name of the cluster.
func (a *app) confirmReplace(w *run.Work, o run.RestoreOptions) error {
	var text strings.Builder
	if err := printPlan(&text, w.Plan); err != nil {
		return err
	}
	text.WriteString("\n")
	m := o.Backup.Manifest
	with := fmt.Sprintf("the backup of %s (etcd at revision %d). Everything that was written since is lost", m.Created.UTC().Format(time.RFC3339), m.Etcd.Revision)
	if o.Salvaged != nil {
		if err := printSalvaged(&text, o.Salvaged, time.Now()); err != nil {
			return err
		}
		text.WriteString("\n")
		with = "what is built from these data; they stay as they are"
	}
	fmt.Fprintf(&text, "The cluster on these hosts is reset, and replaced by %s.\nIts etcd data and keys are kept on the hosts, in %s.\n", with, facts.KeptDir)
	return a.typeName(text.String(), w.Plan.Cluster, "replacing the cluster "+w.Plan.Cluster+" needs a second confirmation")
}

func printRestored(w io.Writer, r *run.Restored, now time.Time) error {
	from := r.File
	if r.Data != nil {
		from = "the data in " + r.File
	}
	fmt.Fprintf(w, "Restored %s in %s from %s, and verified that it matches the spec.\n", r.Cluster, ui.Duration(r.Took), from)
	before := "in the backup"
	if r.Data != nil {
		before = "before"
		fmt.Fprintf(w, "The last write to these data was at %s, %s ago.\n", r.Taken.UTC().Format(time.RFC3339), ui.Duration(now.Sub(r.Taken)))
		printMissing(w, r.Lost)
	} else {
		fmt.Fprintf(w, "The backup was taken %s, %s ago: everything that was written after that is lost.\n", r.Taken.UTC().Format(time.RFC3339), ui.Duration(now.Sub(r.Taken)))
	}
	fmt.Fprintf(w, "etcd has its %d keys. The revision goes on from %d (%d %s): clients that watch list again.\n", r.Keys, r.FirstRevision, r.Revision, before)
	for _, line := range r.Repaired {
		fmt.Fprintf(w, "Repaired: %s.\n", line)
	}
	if r.Kept != "" {
		fmt.Fprintf(w, "Kept: the etcd data and the keys of the cluster before, on its hosts in %s. Remove them when nobody needs them any more.\n", r.Kept)
	}
	for _, line := range r.Notes {
		fmt.Fprintf(w, "Note: %s.\n", strings.TrimSuffix(line, "."))
	}
	return nil
}

// fromBackup reads a backup for a copy of its cluster in a lab, and makes the spec of the lab.
func fromBackup(ctx context.Context, given *givenBackup, dir string, lab spec.LabOptions, o *run.RestoreOptions, sink progress.Sink) (*spec.Cluster, error) {
	if err := given.read(ctx, dir, o, nil, sink); err != nil {
		return nil, err
	}
	before, err := o.Backup.Spec()
	if err != nil {
		return nil, err
	}
	if before == nil {
		return nil, errors.New("the backup has no spec, because its cluster had recorded none: restore it with a spec (quorate restore)")
	}
	if lab.Version, err = buildable(before.Spec.Kubernetes.Version); err != nil {
		return nil, err
	}
	c := before.ForLab(lab)
	if errs := spec.Validate(c, spec.Options{Versions: bundle.Versions(), Lab: true}); len(errs) > 0 {
		return nil, errs
	}
	return c, nil
}

// buildable is a version of Kubernetes that can be built with the minor release of another one.
func buildable(version string) (string, error) {
	if slices.Contains(bundle.Versions(), version) {
		return version, nil
	}
	want, err := utilversion.ParseGeneric(version)
	if err != nil {
		return "", fmt.Errorf("the backup is of Kubernetes %q: %w", version, err)
	}
	for _, v := range bundle.Versions() {
		if have, err := utilversion.ParseGeneric(v); err == nil && have.Minor() == want.Minor() {
			return v, nil
		}
	}
	return "", fmt.Errorf("the backup is of Kubernetes %s, and this version of Quorate builds %s: use the version that took it", version, strings.Join(bundle.Versions(), ", "))
}
