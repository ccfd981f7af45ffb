package cli

import (
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/host"
	_ "quorate.dev/quorate/internal/hostside" // every operation that `host serve` answers
	"quorate.dev/quorate/internal/hostside/approve"
	"quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/hostside/leases"
	"quorate.dev/quorate/internal/hostside/limited"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/run"
)

// host is the host side of Quorate. The caller and systemd run these commands, not users.
func (a *app) host() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "The part of Quorate that runs on hosts", Hidden: true}
	var forRepairs string
	serve := &cobra.Command{
		Use: "serve", Short: "Answer one caller on stdin and stdout",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := system.Isolate(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("for-repairs") {
				return host.ServeStdio(cmd.Context())
			}
			admission, err := watch.ReadAdmission()
			if err == nil {
				err = host.SameBuild(forRepairs)
			}
			if err != nil {
				return err
			}
			return host.ServeLimited(cmd.Context(), limited.For(admission))
		},
	}
	serve.Flags().StringVar(&forRepairs, "for-repairs", "", "answer within the limits of the unit that repairs, which came with this command")
	var cluster, address string
	export := &cobra.Command{
		Use: "exporter", Short: "Serve the metrics of the cluster to Prometheus",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run.ExportHere(cmd.Context(), a.out, cluster, address)
		},
	}
	export.Flags().StringVar(&cluster, "cluster", "", "the name of the cluster")
	export.Flags().StringVar(&address, "address", "", "where, as host:port")
	cmd.AddCommand(
		serve, export,
		&cobra.Command{
			Use: "watch", Short: "Repair what breaks in the cluster while this control plane leads",
			RunE: func(cmd *cobra.Command, _ []string) error { return run.WatchHere(cmd.Context(), a.out) },
		},
		&cobra.Command{
			Use: "watchdog", Short: "Tell keepalived whether HAProxy's event loop is running",
			RunE: func(cmd *cobra.Command, _ []string) error { return balancer.Watchdog(cmd.Context()) },
		},
		&cobra.Command{
			Use: "approve", Short: "Approve the serving certificates that the cluster's kubelets request",
			RunE: func(cmd *cobra.Command, _ []string) error { return approve.Run(cmd.Context(), a.out) },
		},
		&cobra.Command{
			Use: "leases", Short: "Give back the leases of controller managers and schedulers that have ended here",
			RunE: func(cmd *cobra.Command, _ []string) error { return leases.Keep(cmd.Context()) },
		},
		&cobra.Command{
			Use: "approver-credentials", Short: "Renew the certificate of the approver's user",
			RunE: func(cmd *cobra.Command, _ []string) error { return approve.Renew(cmd.Context(), a.out) },
		},
		&cobra.Command{
			Use: "backup", Short: "Take a backup if one is due",
			RunE: func(cmd *cobra.Command, _ []string) error { return backup.Scheduled(cmd.Context(), a.out) },
		},
	)
	for name, c := range fault.Commands {
		cmd.AddCommand(&cobra.Command{
			Use: name, Short: c.Does,
			Args: func(_ *cobra.Command, args []string) error { return c.Fits(name, args) },
			RunE: func(cmd *cobra.Command, args []string) error { return fault.Command(cmd.Context(), name, args) },
		})
	}
	for _, name := range lostquorum.ApartCommands {
		cmd.AddCommand(&cobra.Command{
			Use: name, Short: "Work on data of etcd that may be damaged; the request comes on stdin",
			RunE: func(cmd *cobra.Command, _ []string) error {
				in, err := io.ReadAll(a.in)
				if err != nil {
					return err
				}
				out, err := lostquorum.Apart(cmd.Context(), name, in)
				if err == nil {
					_, err = a.out.Write(out)
				}
				return err
			},
		})
	}
	// These run in pods of a drill, with the binary of the host.
	cmd.AddCommand(
		&cobra.Command{
			Use: clients.ClientsCommand, Short: "Use the cluster as clients do, and log what they experience",
			RunE: func(cmd *cobra.Command, _ []string) error { return clients.RunInPod(cmd.Context()) },
		},
		&cobra.Command{
			Use: clients.WorkloadCommand, Short: "Serve the clients of a drill",
			RunE: func(cmd *cobra.Command, _ []string) error { return clients.RunWorkload(cmd.Context()) },
		},
	)
	return cmd
}
