package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// toVersion takes the cluster to a version with quorate apply.
func toVersion(version string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		next := at(b.cluster, version)
		if err := applied(ctx, next, b.progress()); err != nil {
			return err
		}
		b.cluster = next
		return nil
	}
}

// maintain takes every host out of service and back, one after the other.
func maintain(ctx context.Context, b *bench) error {
	for _, h := range b.cluster.Spec.Hosts {
		target := plan.Target{Hosts: []spec.Host{h}}
		said("%s: maintain %s", b.name, h.Name)
		e := run.Open(ctx, b.cluster, b.progress())
		_, err := e.Maintain(ctx, target, plan.MaintainOptions{})
		e.Close()
		if err != nil {
			return fmt.Errorf("taking %s out of service: %w", h.Name, err)
		}
		said("%s: maintain --undo %s", b.name, h.Name)
		e = run.OpenAwaiting(ctx, b.cluster, b.progress(), []string{h.Name})
		_, err = e.EndMaintenance(ctx, target)
		e.Close()
		if err != nil {
			return fmt.Errorf("bringing %s back into service: %w", h.Name, err)
		}
	}
	return nil
}

// successor names the machine that replaces a control plane.
func successor(name string) string { return name + "-new" }

// makeSuccessors makes an empty machine for every control plane, in the same zone, and puts on it what its pod will run.
func makeSuccessors(ctx context.Context, b *bench) error {
	var machines []lab.Machine
	old := b.cluster.HostsWith(spec.RoleControlPlane)
	for _, h := range old {
		machines = append(machines, lab.Machine{Name: successor(h.Name), Zone: h.Zone, Roles: h.Roles})
	}
	if err := b.lab.AddMachines(ctx, machines, nil); err != nil {
		return err
	}
	for _, h := range old {
		next, err := b.successor(h)
		if err == nil {
			b.engine.Conns.Add(ctx, run.TargetsOf([]spec.Host{next}))
			err = b.clients.Equip(ctx, next)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// successor is the host that replaces a control plane.
func (b *bench) successor(old spec.Host) (spec.Host, error) {
	m, err := b.lab.Machine(successor(old.Name))
	if err != nil {
		return spec.Host{}, err
	}
	next := old
	next.Name, next.Address = m.Name, m.Address.String()
	return next, nil
}

// exchanged is the cluster with another host in the place of one.
func exchanged(c *spec.Cluster, old string, next spec.Host) *spec.Cluster {
	out := *c
	out.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	for i, h := range out.Spec.Hosts {
		if h.Name == old {
			out.Spec.Hosts[i] = next
		}
	}
	return &out
}

// replaceControlPlanes replaces every control plane, one edit of the spec after the other.
func replaceControlPlanes(ctx context.Context, b *bench) error {
	for _, old := range b.cluster.HostsWith(spec.RoleControlPlane) {
		next, err := b.successor(old)
		if err != nil {
			return err
		}
		if err := b.replace(ctx, old, next); err != nil {
			return fmt.Errorf("replacing %s with %s: %w", old.Name, next.Name, err)
		}
	}
	return nil
}

func (b *bench) replace(ctx context.Context, old, next spec.Host) error {
	said("%s: %s replaces %s", b.name, next.Name, old.Name)
	applying, done := context.WithCancel(ctx)
	defer done()
	left := make(chan error, 1)
	go func() { left <- b.leave(applying, old) }()
	target := exchanged(b.cluster, old.Name, next)
	err := applied(ctx, target, b.progress())
	done()
	if unseen := <-left; unseen != nil {
		b.unseen = append(b.unseen, fmt.Sprintf("what the clients on %s met in the end is not known: %v", old.Name, unseen))
	}
	if err != nil {
		return err
	}
	b.cluster = target
	if err := b.clients.Left(old); err != nil {
		return err
	}
	return b.clients.Join(ctx, next)
}

// leave ends the clients of a node when it is drained, and reads what they have logged before the host is reset. ctx ends when the host has left.
func (b *bench) leave(ctx context.Context, h spec.Host) error {
	for {
		n, err := b.api.CoreV1().Nodes().Get(ctx, h.Name, metav1.GetOptions{})
		if err == nil && n.Spec.Unschedulable {
			break
		}
		if serr := sleep(ctx, 200*time.Millisecond); serr != nil {
			return errors.Join(fmt.Errorf("the node %s was not drained", h.Name), err)
		}
	}
	// What remains to be done does not end with the apply.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return b.clients.Leave(ctx, h)
}
