// Package machine takes a host out of service and brings it back: it stops what must end gracefully before the host is powered
// off, and reboots the host.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// endTimeout is how long one static pod may take to end: the kubelet gives it half a minute.
const endTimeout = 90 * time.Second

// Programs are what is stopped before a host is powered off, or started afterwards.
type Programs struct {
	// Pods are static pods, in the order in which they are stopped. They are started in the opposite order.
	Pods []string `json:"pods,omitempty"`
	// Etcd is the etcd member of an etcd host.
	Etcd bool `json:"etcd,omitempty"`
}

// Stop ends programs gracefully, and keeps them from being started again: static pods until Start, etcd until the host boots.
var Stop = host.DefineChange("node.stop-programs", func(ctx context.Context, in Programs) (struct{}, error) {
	for _, name := range in.Pods {
		ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("not within %s", endTimeout))
		err := withdrawal.Host{}.Withdraw(ctx, name, containerd.Held)
		cancel()
		if err != nil {
			return struct{}{}, err
		}
	}
	if in.Etcd {
		return struct{}{}, system.Run(ctx, "systemctl", "stop", hostconfig.EtcdUnit)
	}
	return struct{}{}, nil
})

// Start starts what Stop ended.
var Start = host.DefineChange("node.start-programs", func(ctx context.Context, in Programs) (struct{}, error) {
	if in.Etcd {
		if err := system.Run(ctx, "systemctl", "start", hostconfig.EtcdUnit); err != nil {
			return struct{}{}, err
		}
	}
	var errs []error
	for _, name := range slices.Backward(in.Pods) {
		errs = append(errs, withdrawal.Host{}.Return(name))
	}
	return struct{}{}, errors.Join(errs...)
})

// NoteMaintenance has the host note that it is in maintenance, or with nil that it is not: see facts.Kubernetes.Maintenance.
var NoteMaintenance = host.Define("node.note-maintenance", func(_ context.Context, in *facts.Maintenance) (struct{}, error) {
	return struct{}{}, noteMaintenance("", in)
})

func noteMaintenance(root string, in *facts.Maintenance) error {
	path := filepath.Join(root, facts.MaintenanceFile)
	if in == nil {
		return durable.Remove(path)
	}
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text, 0o600)
}

// Reboot reboots the host, unless it has booted since it had the given boot ID. The answer may not arrive any more.
var Reboot = host.DefineChange("node.reboot", func(ctx context.Context, before string) (struct{}, error) {
	if system.BootID() != before {
		return struct{}{}, nil
	}
	return struct{}{}, system.Run(ctx, "systemctl", "reboot", "--no-block")
})

// BootID reads the boot ID of the host.
var BootID = host.Define("node.boot-id", func(context.Context, struct{}) (string, error) { return system.BootID(), nil }, host.Reads)
