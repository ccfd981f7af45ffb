package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/lab"
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			if merge && to == "" {
				return usageError{errors.New("--merge needs --to FILE: the kubeconfig to add this cluster to")}
			}
			e := run.Open(cmd.Context(), c, progress.Discard)
			defer e.Close()
			admin, err := e.Kubeconfig(cmd.Context())
			if err != nil {
				return err
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
			if merge {
				into, err := clientcmd.LoadFromFile(to)
				switch {
				case err == nil:
					run.Merge(into, config)
					config = into
				case !errors.Is(err, os.ErrNotExist):
					return fmt.Errorf("reading %s: %w", to, err)
				}
			} else if _, err := os.Stat(to); err == nil {
				return usageError{fmt.Errorf("%s exists already: add --merge, or choose another file", to)}
			}
			return clientcmd.WriteToFile(*config, to)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the file to write")
	cmd.Flags().BoolVar(&merge, "merge", false, "add to the file, and make this cluster its current context")
	cmd.Flags().BoolVar(&byAddress, "by-address", false, "go to the virtual IP instead of the endpoint's name (always so for a lab)")
	return cmd
}
