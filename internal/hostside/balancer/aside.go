package balancer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// asideFor is how long a host stands aside after one request. A caller that needs longer repeats the request; if the caller
// dies, nothing has to be cleaned up.
const asideFor = 15 * time.Second

// StandAside keeps the virtual IP away from this host for 15 seconds, or stops doing so. The watchdog does it, as if HAProxy
// hung.
var StandAside = host.DefineChange("node.stand-aside", func(_ context.Context, aside bool) (struct{}, error) {
	if aside {
		return struct{}{}, stepAside()
	}
	err := os.Remove(hostconfig.AsideFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return struct{}{}, err
})

func stepAside() error {
	return durable.WriteFile(hostconfig.AsideFile, asideUntil(bootID(), monotonic()+asideFor), 0o644)
}

// asideUntil is the content of the file: which start of the machine it belongs to, and until when on a clock that counts from
// that start. The wall clock is not suitable, because it can be set back.
func asideUntil(boot string, deadline time.Duration) []byte {
	return fmt.Appendf(nil, "%s %d\n", boot, deadline)
}

// standsAside reads the content of the file at the time now.
func standsAside(content []byte, boot string, now time.Duration) bool {
	var id string
	var deadline time.Duration
	_, err := fmt.Sscanf(string(content), "%s %d", &id, &deadline)
	return err == nil && id == boot && now < deadline
}

func bootID() string { return system.ReadTrimmed("/proc/sys/kernel/random/boot_id") }
