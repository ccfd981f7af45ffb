package inspect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/host"
)

// How a disk is measured: with writes as large as those of etcd's log, as etcd's documentation does it, and not for longer than anybody notices.
const (
	fsyncBytes  = 2300
	fsyncWrites = 200
	fsyncTime   = 500 * time.Millisecond
)

// MeasureFsync is within how long 99 of 100 writes are on the disk that holds a directory, or will hold it. It writes to a file there, which it
// removes.
var MeasureFsync = host.Define("node.fsync", func(ctx context.Context, dir string) (time.Duration, error) { return measureFsync(ctx, dir) })

func measureFsync(ctx context.Context, dir string) (time.Duration, error) {
	for { // the next directory above that exists
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".quorate-fsync-")
	if err != nil {
		return 0, fmt.Errorf("measuring the disk of %s: %w", dir, err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // the kernel keeps it until it is closed, also if this process is killed
		return 0, err
	}
	// etcd writes into space that its log has already.
	if _, err = f.Write(make([]byte, fsyncBytes*fsyncWrites)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return 0, fmt.Errorf("measuring the disk of %s: %w", dir, err)
	}
	var took []time.Duration
	piece := make([]byte, fsyncBytes)
	for began := time.Now(); len(took) < fsyncWrites && (time.Since(began) < fsyncTime || len(took) == 0) && ctx.Err() == nil; {
		begin := time.Now()
		if _, err = f.WriteAt(piece, int64(len(took)*fsyncBytes)); err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return 0, fmt.Errorf("measuring the disk of %s: %w", dir, err)
		}
		took = append(took, time.Since(begin))
	}
	return percentile99(took), ctx.Err()
}

// percentile99 is the least that 99 of 100 do not exceed; 0 of none.
func percentile99(took []time.Duration) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[(99*len(took)+99)/100-1]
}
