package step

import (
	"context"
	"fmt"

	"quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// scheduleBackups reads the credentials for the store on this machine and hands them to a control plane inside the session.
func scheduleBackups(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	schedule, err := backup.ScheduleOf(e.Cluster, s.Host)
	if err != nil {
		return fmt.Errorf("reading the credentials for backups: %w", err)
	}
	_, err = backup.SetSchedule.On(ctx, c, schedule)
	return err
}

// unscheduleBackups removes the schedule and the credentials from a host.
func unscheduleBackups(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	h, _ := e.Cluster.Host(s.Host)
	_, err = backup.RemoveSchedule.On(ctx, c, backup.Removal{Cluster: e.Cluster.Spec.Backup.Interval() == 0 && h.Has(spec.RoleControlPlane)})
	return err
}
