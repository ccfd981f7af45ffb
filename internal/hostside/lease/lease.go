// Package lease keeps two runs from changing one host at the same time.
package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/host"
)

const leaseFile = "/run/quorate/lease"

// held keeps the lock for as long as this process, which is one SSH session, lives.
var held *os.File

// ErrLeased is in the message of Take's error when somebody else holds it.
var ErrLeased = errors.New("another run is changing this host")

// Take takes the host for the caller's session. It ends with the session, however that ends: a caller that is
// killed frees it at once, one that vanished from the network within half a minute.
var Take = host.Define("node.lease", func(_ context.Context, owner string) (struct{}, error) {
	if held != nil {
		return struct{}{}, nil
	}
	if err := os.MkdirAll("/run/quorate", 0o755); err != nil {
		return struct{}{}, err
	}
	f, err := os.OpenFile(leaseFile, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return struct{}{}, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		other, _ := os.ReadFile(leaseFile)
		f.Close()
		return struct{}{}, fmt.Errorf("%w: %s; wait until it is done, or end it", ErrLeased, strings.TrimSpace(string(other)))
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(owner+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return struct{}{}, err
	}
	held = f
	return struct{}{}, nil
})
