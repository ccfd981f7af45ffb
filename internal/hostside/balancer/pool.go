package balancer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// PoolRequest takes an apiserver out of the pool of this host's HAProxy, or back into it.
type PoolRequest struct {
	Server   string        `json:"server"`
	Drain    bool          `json:"drain"`
	Patience time.Duration `json:"patience"` // until connections that do not end by themselves are closed
}

// poolPace is how often HAProxy is asked whether connections are left.
const poolPace = 100 * time.Millisecond

// SetPool does so, and says how many connections it had to close. HAProxy itself forgets it when it starts anew.
var SetPool = host.DefineChange("node.set-pool", func(ctx context.Context, r PoolRequest) (closed int, err error) {
	server, state := hostconfig.HAProxyBackend+"/"+r.Server, "ready"
	if r.Drain {
		state = "drain"
	}
	if err := tell(ctx, "set server "+server+" state "+state); err != nil || !r.Drain {
		return 0, err
	}
	deadline := time.After(r.Patience)
	tick := time.NewTicker(poolPace)
	defer tick.Stop()
	for {
		rows, err := haproxyStat(ctx)
		if err != nil {
			return 0, err
		}
		left := 0
		for _, b := range backends(rows, nil) {
			if b.Name == r.Server {
				left = b.Sessions
			}
		}
		if left == 0 {
			return 0, nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-deadline:
			return left, tell(ctx, "shutdown sessions server "+server)
		case <-tick.C:
		}
	}
})

// tell gives HAProxy a command that is silent when it works.
func tell(ctx context.Context, command string) error {
	said, err := haproxyCommand(ctx, command)
	if err != nil {
		return fmt.Errorf("speaking to HAProxy: %w", err)
	}
	if said = strings.TrimSpace(said); said != "" {
		return fmt.Errorf("HAProxy does not do %q: %s", command, said)
	}
	return nil
}
