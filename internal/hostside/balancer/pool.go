package balancer

import (
	"context"
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// PoolRequest takes an API server out of the pools of this host's HAProxy, or puts it back.
type PoolRequest struct {
	Server string `json:"server"`
	Drain  bool   `json:"drain"`
}

// drainedPools are those that a drained server leaves. It stays in the unchecked pool, which serves only when every other
// server has failed.
var drainedPools = []string{hostconfig.PoolWithEtcd, hostconfig.PoolWithoutEtcd, hostconfig.PoolListening}

// SetPool changes the pools. A server that is drained gets no new connections. Those that it has stay with it until it stops: HAProxy
// could only cut them, and a request that a client sends at that moment would fail. The API server sends GOAWAY when it stops, after which
// a client repeats what was not processed on another connection. A drain outlives starts and reloads of HAProxy, but not of the host.
var SetPool = host.DefineChange("node.set-pool", func(ctx context.Context, r PoolRequest) (struct{}, error) {
	state := "ready"
	if r.Drain {
		state = "drain"
	}
	rows, err := haproxyStats(ctx)
	if err != nil {
		return struct{}{}, fmt.Errorf("asking HAProxy for its pools: %w", err)
	}
	if len(having(rows, r.Server, drainedPools)) == 0 {
		return struct{}{}, fmt.Errorf("HAProxy has no server %s", r.Server)
	}
	if err := remember(r.Server, r.Drain); err != nil { // first, because the watchdog would otherwise undo it
		return struct{}{}, err
	}
	return struct{}{}, setState(ctx, rows, r.Server, state)
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
