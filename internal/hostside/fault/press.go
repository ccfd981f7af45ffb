package fault

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/hostside/system"
)

// The load of a fault is a process in a unit of its own. It ends with the fault even if nothing heals it: systemd limits how long it runs.

// load starts a process that is the load of a fault, and waits until it says that the load is there.
func (h *machine) load(ctx context.Context, r *record, properties []string, command ...string) error {
	program, err := h.install()
	if err != nil {
		return err
	}
	args := append([]string{"--quiet", "--collect", "--unit=" + newUnit(r.ID) + loadSuffix, "--description=The load of the fault " + r.ID,
		"--service-type=notify", "--property=KillSignal=SIGKILL", "--property=TimeoutStartSec=" + milliseconds(r.Lasts), "--property=RuntimeMaxSec=" + milliseconds(r.Lasts)}, properties...)
	return h.run(ctx, "systemd-run", append(append(args, program, "host"), command...)...)
}

const loadSuffix = "-load.service"

// unload ends that process. What it held is free when that returns.
func (h *machine) unload(ctx context.Context, r record) error {
	return h.systemctl(ctx, "stop", unitPrefix(r.ID)+"*"+loadSuffix)
}

// pressing keeps the processors busy, or takes memory.
type pressing struct{ *machine }

func (p pressing) look(_ context.Context, r *record) error {
	switch r.Target {
	case targetCPU:
		r.What = "all processors are kept busy"
		return nil
	case targetMemory:
		if r.Percent < 1 || r.Percent > 100 {
			return fmt.Errorf("the fault %s: %d%% of the memory: it must be between 1 and 100", r.ID, r.Percent)
		}
		if kind := p.container(); kind != "" {
			return impossible("this host is a container (%s), and shares its memory with the computer below it", kind)
		}
		r.What = fmt.Sprintf("%d%% of the memory that was available are taken", r.Percent)
		return nil
	}
	return fmt.Errorf("the fault %s: a host injects no %s of %q", r.ID, r.Kind, r.Target)
}

func (p pressing) inject(ctx context.Context, r *record) error {
	if r.Target == targetCPU {
		return p.load(ctx, r, nil, commandCPU)
	}
	// When memory is short, the kernel kills this process before any other.
	return p.load(ctx, r, []string{"--property=OOMScoreAdjust=1000"}, commandMemory, strconv.Itoa(r.Percent))
}

func (p pressing) heal(ctx context.Context, r record) error { return p.unload(ctx, r) }

// pressCPU keeps all processors busy until ctx ends.
func pressCPU(ctx context.Context) error {
	for range runtime.NumCPU() {
		go func() {
			for n := 0; ; n++ {
				if n%(1<<20) == 0 && ctx.Err() != nil {
					return
				}
			}
		}()
	}
	system.Notify("READY=1")
	<-ctx.Done()
	return nil
}

const (
	// memoryPiece is how much memory is taken at a time.
	memoryPiece = 16 << 20
	// touchPace is how often the memory is used, so that it stays in memory on a host with swap.
	touchPace = time.Second
)

// pressMemory takes a part of the memory that is available now, and uses it until ctx ends.
func pressMemory(ctx context.Context, percent int) error {
	available, err := availableMemory("/proc/meminfo")
	if err != nil {
		return err
	}
	var taken [][]byte
	for size := available / 100 * int64(percent); size >= memoryPiece && ctx.Err() == nil; size -= memoryPiece {
		piece, err := unix.Mmap(-1, 0, memoryPiece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			break // there is no more
		}
		touch(piece)
		taken = append(taken, piece)
	}
	system.Notify("READY=1")
	tick := time.NewTicker(touchPace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, piece := range taken {
				touch(piece)
			}
		}
	}
}

func touch(piece []byte) {
	for i := 0; i < len(piece); i += os.Getpagesize() {
		piece[i]++
	}
}

// availableMemory is how much memory programs can use without swapping, in bytes.
func availableMemory(meminfo string) (int64, error) {
	for line := range strings.Lines(system.ReadTrimmed(meminfo)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s does not say how much memory is available", meminfo)
}
