package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

func netnsPath(name string) string { return filepath.Join(netnsDir, name) }

// coreNS and machineNS cannot collide between labs: a lab's name has no dot.
func (l *Lab) coreNS() string                  { return "qr-" + l.Name() }
func (l *Lab) machineNS(machine string) string { return "qr-" + l.Name() + "." + machine }

// onOwnThread runs f on a thread that ends with it, so that f may change the thread's namespaces. The main thread is never
// used: it cannot end, and its namespaces are those that /proc/self shows.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// inNetNS runs f with the calling thread in the named network namespace. Processes and sockets that f creates belong to that
// namespace.
func inNetNS(name string, f func() error) error {
	return onOwnThread(func() error {
		ns, err := netns.GetFromName(name)
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return f()
	})
}

// makeNetNS creates a named network namespace, unless it exists, and applies its sysctls.
func makeNetNS(name string, sysctls map[string]string) error {
	return onOwnThread(func() error {
		ns, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(ns)
		} else {
			if err := deleteNetNS(name); err != nil { // a file without a namespace behind it, left by a crash
				return err
			}
			ns, err = netns.NewNamed(name)
		}
		if err != nil {
			return fmt.Errorf("create network namespace %s: %w", name, err)
		}
		defer ns.Close()
		for key, value := range sysctls {
			err := os.WriteFile("/proc/sys/"+key, []byte(value), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a feature that this kernel lacks
				return fmt.Errorf("network namespace %s: set %s: %w", name, key, err)
			}
		}
		return nil
	})
}

func deleteNetNS(name string) error {
	path := netnsPath(name)
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err == nil {
			continue // mounted twice after a race: unmount all of them
		}
		if err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("delete network namespace %s: %w", name, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", name, err)
	}
	return nil
}

// linksOf opens a netlink connection into a named namespace.
func linksOf(name string) (*netlink.Handle, func(), error) {
	ns, err := netns.GetFromName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	return h, func() { h.Close(); ns.Close() }, nil
}
