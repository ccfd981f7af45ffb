package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/backup/deep"
	"quorate.dev/quorate/internal/durable"
	hostbackup "quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) backup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Take an encrypted backup of etcd, the PKI, and the encryption keys; list, verify, and fetch backups",
		Long: `Takes a backup now: a snapshot of etcd from a healthy follower, the PKI, the keys that encrypt secrets, kubeadm's
configuration, and the recorded spec. A control plane takes it, encrypts it to spec.backup.recipients, writes it to the store
that the spec names, and reads it again. Nothing of it leaves the control plane unencrypted. Then it removes the backups that
spec.backup.keep no longer keeps.

The control planes also take backups by themselves, as often as spec.backup.every says. 'quorate apply' sets that up, and
'quorate status' shows the last good backup.

docs/backup.md describes the stores, the identities, and what a backup contains.`,
		Example: `  quorate backup
  quorate backup list
  quorate backup verify --identity backup-identity.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out *hostbackup.Result
			err := a.withEngine(cmd.Context(), func(e *run.Engine) (err error) {
				out, err = e.Backup(cmd.Context())
				return err
			})
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(out, func(w io.Writer) error { return printBackup(w, out) })
		},
	}
	cmd.AddCommand(sendsSecrets(reads(a.backupList())), sendsSecrets(a.backupVerify()), sendsSecrets(a.backupFetch()))
	return cmd
}

// withEngine connects to the hosts of the spec and shows the progress.
func (a *app) withEngine(ctx context.Context, do func(*run.Engine) error) error {
	c, err := a.running(ctx)
	if err != nil {
		return err
	}
	sink, done := a.progress()
	defer done()
	e := run.Open(ctx, c, sink)
	defer e.Close()
	return do(e)
}

func printBackup(w io.Writer, r *hostbackup.Result) error {
	m := r.Manifest
	fmt.Fprintf(w, "%s: %s, taken by %s in %s, stored and read again.\n", r.File, ui.Bytes(r.Bytes), m.Host, ui.Duration(r.Took))
	fmt.Fprintf(w, "It holds etcd at revision %d with %d keys, and %d files of the control plane's configuration.\n", m.Etcd.Revision, m.Etcd.Keys, files(m))
	if m.Etcd.Leads {
		fmt.Fprintln(w, "Note: the snapshot is of the leader, because no follower of etcd is healthy.")
	}
	if !m.Etcd.KeysCompared {
		fmt.Fprintln(w, "Note: the number of keys was not compared with the member that the snapshot is of, because etcd was compacted in the meantime.")
	}
	if len(m.Missing) > 0 {
		fmt.Fprintf(w, "Note: this control plane does not have %s, so the backup does not either.\n", strings.Join(m.Missing, ", "))
	}
	if r.NotLocked != "" {
		fmt.Fprintf(w, "Note: the backup was taken without the lock: %s.\n", r.NotLocked)
	}
	if r.NotRecorded != "" {
		fmt.Fprintf(w, "Note: it could not be noted in etcd, and `quorate status` does not know of it: %s.\n", r.NotRecorded)
	}
	for _, old := range r.Removed {
		fmt.Fprintf(w, "Removed: %s.\n", old)
	}
	if r.NotRemoved != "" {
		fmt.Fprintf(w, "Note: old backups were not removed: %s.\n", r.NotRemoved)
	}
	return nil
}

// files counts those of /etc/kubernetes.
func files(m backup.Manifest) (n int) {
	for _, p := range m.Parts {
		if strings.HasPrefix(p.Name, backup.Kubernetes) {
			n++
		}
	}
	return n
}

func (a *app) backupList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the backups of the cluster in its store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out *run.StoredBackups
			err := a.withEngine(cmd.Context(), func(e *run.Engine) (err error) {
				out, err = e.Backups(cmd.Context())
				return err
			})
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(out, func(w io.Writer) error { return printBackups(w, out, time.Now()) })
		},
	}
}

func printBackups(w io.Writer, out *run.StoredBackups, now time.Time) error {
	if len(out.Backups) == 0 {
		fmt.Fprintf(w, "There is no backup of %s.\n", out.Cluster)
	} else {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "NAME\tAGE\tSIZE\tON")
		for _, b := range out.Backups {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", b.File, ui.Duration(now.Sub(b.Time)), ui.Bytes(b.Bytes), strings.Join(b.Hosts, ", "))
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if out.Unidentified {
		fmt.Fprintf(w, "Note: etcd does not answer. If other clusters with the name %s use this store, their backups are listed as well.\n", out.Cluster)
	}
	for _, b := range out.Others {
		fmt.Fprintf(w, "Note: %s is of another cluster with this name, or of this one before it was restored.\n", b.File)
	}
	for _, host := range slices.Sorted(maps.Keys(out.Unreachable)) {
		why := out.Unreachable[host]
		fmt.Fprintf(w, "Note: what %s has is unknown: %s\n", host, why)
	}
	return nil
}

// verified is the result of `backup verify`.
type verified struct {
	backup.Verified
	Deep *deep.Report `json:"deep,omitempty"`
}

func (a *app) backupVerify() *cobra.Command {
	var identity string
	var deeply bool
	cmd := &cobra.Command{
		Use:   "verify [NAME|FILE]",
		Short: "Restore a backup into a scratch etcd and compare it with what it was taken from",
		Long: `Reads a backup from the store (the newest one without NAME), or from a FILE on this machine, and decrypts it here. It compares
every part with the manifest, checks that the spec, the keys of the authorities, the files that the manifests name, and the keys of
what is encrypted in etcd are there, restores the snapshot into an etcd that runs inside this process, and compares the revision, the
number of keys, and the hash with what the member answered when the backup was taken.

With --deep, it also starts an API server of the bundle on that etcd, with the keys of the backup, and has it read every object
of every kind. It reports what cannot be decrypted or decoded, and what is in etcd that no kind accounts for. The API server listens
on this machine only, and connects to nothing.

The identity stays on this machine. The snapshot is decrypted into a temporary directory (TMPDIR), which needs about twice the
size of etcd, and is removed afterwards.`,
		Example: `  quorate backup verify --identity backup-identity.txt
  quorate backup verify --deep --identity backup-identity.txt
  quorate backup verify --identity ~/.ssh/id_ed25519 ./prod.1a2b3c4d.5e6f7a8b.20260304T050607Z.cp-a.backup.age`,
		Args: cobra.MaximumNArgs(1),
		PreRunE: func(*cobra.Command, []string) error {
			if identity == "" {
				return errNoIdentity
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			identities, err := identitiesIn(identity)
			if err != nil {
				return err
			}
			var out verified
			name := append(args, "")[0]
			verify := func(in io.Reader) error {
				r, err := backup.Open(in, identities...)
				if err != nil {
					return err
				}
				defer r.Close()
				dir, remove, err := backup.Scratch()
				if err != nil {
					return err
				}
				defer remove()
				var then func(context.Context, backup.Running) error
				if deeply {
					b, err := deep.BundleFor(r.Manifest().Cluster.Kubernetes)
					if err != nil {
						return err
					}
					then = func(ctx context.Context, running backup.Running) error {
						report, err := deep.Look(ctx, b, running, dir)
						out.Deep = &report
						return err
					}
				}
				out.Verified, err = backup.Verify(cmd.Context(), r, dir, then)
				return err
			}
			if name != "" && isFile(name) {
				f, ferr := openFile(name)
				if ferr != nil {
					return ferr
				}
				defer f.Close()
				err = verify(f)
			} else {
				err = a.withEngine(cmd.Context(), func(e *run.Engine) error {
					found, in, err := e.OpenBackup(cmd.Context(), name)
					if err != nil {
						return err
					}
					name = found
					return verify(in)
				})
			}
			if err != nil {
				return explain(cmd.Context(), fmt.Errorf("verifying the backup %s: %w", cmp.Or(name, "that is the newest"), err))
			}
			if err := a.print(out, func(w io.Writer) error { return printVerified(w, name, out) }); err != nil || out.Deep == nil {
				return err
			}
			if err := out.Deep.Err(); err != nil {
				return fmt.Errorf("verifying the backup %s: %w", name, err)
			}
			return nil
		},
	}
	identityFlag(cmd, &identity)
	cmd.Flags().BoolVar(&deeply, "deep", false, "also start an API server on the restored etcd and read every object (needs the bundle of the backup's Kubernetes version)")
	return cmd
}

func identityFlag(cmd *cobra.Command, identity *string) {
	cmd.Flags().StringVar(identity, "identity", "", "a file with an identity of age, or a private key of SSH")
}

// errNoIdentity is the error of commands that decrypt a backup and were not told with what.
var errNoIdentity = usageError{errors.New("--identity is required: a file with an identity of age, or a private key of SSH, whose public key is one of spec.backup.recipients")}

// identitiesIn reads the identity that decrypts a backup.
func identitiesIn(file string) ([]age.Identity, error) {
	identities, err := backup.ReadIdentities(file)
	if err != nil {
		return nil, usageError{err}
	}
	return identities, nil
}

func printVerified(w io.Writer, name string, v verified) error {
	m, is := v.Manifest, "is good"
	if v.Deep != nil && v.Deep.Err() != nil {
		is = "is not good"
	}
	fmt.Fprintf(w, "%s %s: %d parts match the manifest, and belong together.\n", name, is, len(m.Parts))
	fmt.Fprintf(w, "Cluster %s (%s), Kubernetes %s, taken %s by %s.\n", m.Cluster.Name, m.Cluster.UID, m.Cluster.Kubernetes, m.Created.UTC().Format(time.RFC3339), m.Host)
	hash := fmt.Sprintf("hash %08x", v.Restored.KVHash)
	if !v.KVHashCompared {
		hash = fmt.Sprintf("hash of the database %08x (that of the keys cannot be compared: etcd was compacted while the backup was taken)", v.Snapshot.Hash)
	}
	had := "member"
	if !m.Etcd.KeysCompared {
		had = "snapshot"
	}
	fmt.Fprintf(w, "etcd %s, restored in %s: revision %d, %d keys, %s. All of them are what the %s had.\n", m.Etcd.Version, ui.Duration(v.Restored.Took), v.Restored.Revision, v.Restored.Keys, hash, had)
	if len(m.Missing) > 0 {
		fmt.Fprintf(w, "Note: it does not contain %s.\n", strings.Join(m.Missing, ", "))
	}
	if v.Deep == nil {
		return nil
	}
	return printDeep(w, *v.Deep)
}

func printDeep(w io.Writer, r deep.Report) error {
	fmt.Fprintf(w, "The API server of Kubernetes %s read %s of %s in %s.\n\n", r.APIServer, ui.Plural(r.Objects, "object"), ui.Plural(len(r.Kinds), "kind"), ui.Duration(r.Took))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tVERSION\tOBJECTS\tUNREADABLE")
	none := 0
	for _, k := range r.Kinds {
		unreadable := strconv.Itoa(len(k.Unreadable))
		switch {
		case k.More:
			unreadable += " or more"
		case k.Error != "":
			unreadable = "all"
		case k.Objects == 0 && len(k.Unreadable) == 0:
			none++
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", k.Name(), k.Version, k.Objects, unreadable)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThere are no objects of %s. %s in etcd hold no objects.\n", ui.Plural(none, "other kind"), ui.Plural(r.Internal, "key"))
	for _, k := range r.Kinds {
		if k.Error != "" {
			fmt.Fprintf(w, "Unreadable: %s: %s\n", k.Name(), k.Error)
		}
		for _, u := range k.Unreadable {
			fmt.Fprintf(w, "Unreadable: %s: %s\n", u.Key, u.Error)
		}
	}
	for _, n := range r.NotServed {
		keys := ""
		if n.Keys > 0 {
			keys = " (" + ui.Plural(n.Keys, "key") + " in etcd)"
		}
		fmt.Fprintf(w, "Note: not read: %s%s: %s.\n", n.What, keys, n.Why)
	}
	for _, u := range r.Unclaimed {
		fmt.Fprintf(w, "Note: no kind that the API server knows accounts for %s below %s, such as %s.\n", ui.Plural(u.Keys, "key"), u.Below, u.Example)
	}
	return nil
}

func (a *app) backupFetch() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch NAME [FILE]",
		Short: "Copy a backup from the store to a file on this machine, still encrypted",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[len(args)-1]
			if len(args) == 1 {
				file = filepath.Base(file)
			}
			if _, err := os.Lstat(file); err == nil {
				return usageError{fmt.Errorf("%s already exists: name another file", file)}
			}
			if err := a.canWrite(file); err != nil {
				return err
			}
			var size int64
			err := a.withEngine(cmd.Context(), func(e *run.Engine) error {
				_, in, err := e.OpenBackup(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				f, err := durable.CreateNew(file, 0o600)
				if err != nil {
					return err
				}
				defer f.Abort()
				if size, err = io.Copy(f, in); err != nil {
					return err
				}
				return f.Commit()
			})
			if err != nil {
				return explain(cmd.Context(), fmt.Errorf("fetching the backup %s: %w", args[0], err))
			}
			return a.print(map[string]any{"backup": args[0], "file": file, "bytes": size}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %s\n", file, ui.Bytes(size))
				return err
			})
		},
	}
}
