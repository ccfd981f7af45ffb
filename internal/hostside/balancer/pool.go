package balancer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// poolPace is how often HAProxy is asked whether connections are left.
const poolPace = 100 * time.Millisecond

// PoolRequest takes an API server out of the pools of this host's HAProxy, or puts it back.
type PoolRequest struct {
	Server   string        `json:"server"`
	Drain    bool          `json:"drain"`
	Patience time.Duration `json:"patience"` // after this time, the remaining connections are closed
}

// drainedPools are those that a drained server leaves. It stays in the unchecked pool, which serves only when every other
// server has failed.
var drainedPools = []string{hostconfig.PoolWithEtcd, hostconfig.PoolWithoutEtcd, hostconfig.PoolListening}

// SetPool changes the pools and returns the number of connections that it closed. Connections are closed between two requests; after
// the patience, the others as well. A drain outlives starts and reloads of
// HAProxy, but not of the host.
var SetPool = host.DefineChange("node.set-pool", func(ctx context.Context, r PoolRequest) (closed int, err error) {
	state := "ready"
	if r.Drain {
		state = "drain"
	}
	rows, err := haproxyStats(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking HAProxy for its pools: %w", err)
	}
	if len(having(rows, r.Server, drainedPools)) == 0 {
		return 0, fmt.Errorf("HAProxy has no server %s", r.Server)
	}
	if err := remember(r.Server, r.Drain); err != nil { // first, because the watchdog would otherwise undo it
		return 0, err
	}
	if err := setState(ctx, rows, r.Server, state); err != nil || !r.Drain {
		return 0, err
	}
	deadline := time.Now().Add(r.Patience)
	closed, _, err = closeBetweenRequests(ctx, sessionWatch{}, deadline, func(s session) bool { return s.server == r.Server })
	if err != nil {
		return closed, fmt.Errorf("closing the connections to %s: %w", r.Server, err)
	}
	// What is left was never silent, or its sessions could not be read.
	for {
		if rows, err = haproxyStats(ctx); err != nil {
			return closed, fmt.Errorf("asking HAProxy for the connections to %s: %w", r.Server, err)
		}
		left := sessions(rows, r.Server)
		switch {
		case left == 0:
			return closed, nil
		case time.Now().After(deadline):
			return closed + left, shutdown(ctx, rows, r.Server)
		}
		select {
		case <-ctx.Done():
			return closed, context.Cause(ctx)
		case <-time.After(poolPace):
		}
	}
})

// having are the pools that contain the server. A HAProxy that Quorate has not configured yet does not have all of them.
func having(rows []stats, server string, pools []string) []string {
	return slices.DeleteFunc(slices.Clone(pools), func(pool string) bool {
		return !slices.ContainsFunc(rows, func(r stats) bool { return r["pxname"] == pool && r["svname"] == server })
	})
}

// shutdown closes the connections of a server in every pool.
func shutdown(ctx context.Context, rows []stats, server string) error {
	for _, pool := range having(rows, server, hostconfig.Pools) {
		if err := tell(ctx, "shutdown sessions server "+pool+"/"+server); err != nil {
			return err
		}
	}
	return nil
}
