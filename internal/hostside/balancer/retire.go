package balancer

import (
	"context"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Retire stops the load balancer of this host for good. keepalived goes first: when it stops, it announces to its peers that it
// gives the virtual IP up, so that one of them takes it immediately.
var Retire = host.DefineChange("node.retire-balancer", func(ctx context.Context, _ struct{}) (struct{}, error) {
	for _, unit := range []string{"keepalived.service", hostconfig.WatchdogUnit, "haproxy.service"} {
		units, err := system.Units(ctx, unit)
		if err != nil {
			return struct{}{}, err
		}
		if !units[unit].Exists {
			continue
		}
		if err := system.Run(ctx, "systemctl", "disable", "--now", unit); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, nil
})
