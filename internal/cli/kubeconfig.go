package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
)

func (a *app) kubeconfig() *cobra.Command {
	var (
		to        string
		merge     bool
		byAddress bool
	)
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Write or merge an administrator's kubeconfig",
		Long:  "Prints an administrator's kubeconfig, writes it with --to, or adds it to an existing one with --to FILE --merge.",
		PreRunE: func(*cobra.Command, []string) error {
			if merge && to == "" {
				return usageError{errors.New("--merge requires --to FILE, the kubeconfig to add this cluster to")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to != "" {
				if _, err := os.Stat(to); err == nil && !merge {
					return usageError{fmt.Errorf("%s already exists: pass --merge to add to it, or choose another file", to)}
				}
				if err := a.canWrite(to); err != nil {
					return err
				}
				if _, _, err := readKubeconfig(to); err != nil {
					return usageError{err}
				}
			}
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			e := run.OpenToRead(cmd.Context(), c, progress.Discard)
			defer e.Close()
			admin, err := e.Kubeconfig(cmd.Context())
			if err != nil {
				return err
			}
			if in, err := kube.ReadAdmin(admin); err == nil && in.Expired(time.Now()) {
				fmt.Fprintln(a.err, "Every administrator's kubeconfig that could be read has expired. Run `quorate apply`, which renews them, and then this command again.")
			}
			_, labErr := lab.Open(c.Metadata.Name)
			config, err := run.ForCaller(c, admin, byAddress || labErr == nil)
			if err != nil {
				return err
			}
			if to == "" {
				data, err := clientcmd.Write(*config)
				if err != nil {
					return err
				}
				_, err = a.out.Write(data)
				return err
			}
			kept, err := writeKubeconfig(to, config)
			if kept != "" {
				fmt.Fprintf(a.err, "Existing entries with the same names were replaced. The previous file was saved as %s.\n", kept)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the file to write")
	cmd.Flags().BoolVar(&merge, "merge", false, "add the cluster to the file and make it the current context")
	cmd.Flags().BoolVar(&byAddress, "by-address", false, "use the virtual IP instead of the endpoint's name (always the case for a lab)")
	return cmd
}

// readKubeconfig reads a kubeconfig to add to; both are nil if there is no such file.
func readKubeconfig(file string) (content []byte, config *api.Config, err error) {
	content, err = paths.Read(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if config, err = clientcmd.Load(content); err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return content, config, nil
}

// writeKubeconfig writes a kubeconfig, or adds it to the one that is in the file. When an entry that is there is replaced
// by another one, the file as it was is kept under the name that is returned.
func writeKubeconfig(file string, config *api.Config) (kept string, err error) {
	have, into, err := readKubeconfig(file)
	if err != nil {
		return "", err
	}
	if into != nil {
		if replaced := run.Merge(into, config); replaced {
			if kept, err = keepKubeconfig(file, have); err != nil {
				return "", err
			}
		}
		config = into
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return kept, err
	}
	return kept, durable.Update(file, data, 0o600)
}

// keepKubeconfig writes a copy next to the file, under a name that nothing has.
func keepKubeconfig(file string, content []byte) (name string, err error) {
	for n := 1; ; n++ {
		name = fmt.Sprintf("%s%s.%d", file, facts.KeptSuffix, n)
		f, err := durable.CreateNew(name, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		defer f.Abort()
		if _, err := f.Write(content); err != nil {
			return "", err
		}
		return name, f.Commit()
	}
}
