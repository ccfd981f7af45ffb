package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	etcdutlcmd "go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func etcd()    { etcdmain.Main(os.Args) }
func etcdctl() { ctlv3.MustStart() }

// etcdutl's root command is part of its main package, so it is put together here.
func etcdutl() {
	root := &cobra.Command{Use: "etcdutl", Short: "An administrative command line tool for etcd3."}
	root.PersistentFlags().StringVarP(&etcdutlcmd.OutputFormat, "write-out", "w", "simple",
		"set the output format (fields, json, protobuf, simple, table)")
	root.AddCommand(
		etcdutlcmd.NewDefragCommand(),
		etcdutlcmd.NewSnapshotCommand(),
		etcdutlcmd.NewHashKVCommand(),
		etcdutlcmd.NewVersionCommand(),
		etcdutlcmd.NewCompletionCommand(),
		etcdutlcmd.NewMigrateCommand(),
	)
	if err := root.Execute(); err != nil {
		cobrautl.ExitWithError(cobrautl.ExitError, err)
	}
}
