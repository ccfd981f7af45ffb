// Command quorate builds highly available Kubernetes clusters and checks that they are.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"quorate.dev/quorate/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
