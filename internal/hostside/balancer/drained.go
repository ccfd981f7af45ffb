package balancer

import (
	"context"
	"fmt"
	"log"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// remembered are the servers whose drain lasts until it is undone, however often HAProxy starts or reloads.
func remembered() []string { return strings.Fields(system.ReadTrimmed(hostconfig.DrainedFile)) }

// remember records that a server is drained, or no longer drained.
func remember(server string, drained bool) error {
	names := slices.DeleteFunc(remembered(), func(s string) bool { return s == server })
	if drained {
		names = append(names, server)
	}
	slices.Sort(names)
	if err := durable.WriteFile(hostconfig.DrainedFile, []byte(strings.Join(names, "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("noting that %s is drained: %w", server, err)
	}
	return nil
}

// forgotten are the remembered servers that get new connections: HAProxy has started or reloaded since they were drained. A
// server that is down is drained when it comes up.
func forgotten(rows []stats, drained []string) []string {
	return slices.DeleteFunc(slices.Clone(drained), func(server string) bool {
		return !slices.ContainsFunc(rows, func(r stats) bool {
			return r["svname"] == server && slices.Contains(drainedPools, r["pxname"]) && strings.HasPrefix(r["status"], "UP")
		})
	})
}

// drainAgain drains them. The connections that they got in the meantime stay, as in SetPool.
func drainAgain(ctx context.Context, logger *log.Logger, rows []stats, drained []string) {
	for _, server := range forgotten(rows, drained) {
		if err := setState(ctx, rows, server, "drain"); err != nil {
			logger.Printf("draining API server %s again after a start of HAProxy: %v", server, err)
			continue
		}
		logger.Printf("drained API server %s again: HAProxy has started since it was drained", server)
	}
}

// setState changes whether a server may get new connections.
func setState(ctx context.Context, rows []stats, server, state string) error {
	for _, pool := range having(rows, server, drainedPools) {
		if err := tell(ctx, "set server "+pool+"/"+server+" state "+state); err != nil {
			return err
		}
	}
	return nil
}
