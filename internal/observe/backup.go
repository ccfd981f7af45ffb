package observe

import (
	"context"
	"fmt"
	"sync"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/spec"
)

// backups asks the control planes that have an API server what is noted about backups. All of them read the same from etcd, so one
// answer is enough; they are asked at the same time, because one may hang.
func backups(ctx context.Context, c *spec.Cluster, servers []kube.Server) *facts.Backups {
	if !c.Spec.Backup.Given() {
		return nil
	}
	out := backup.Describe(c)
	if len(servers) == 0 {
		out.Unknown = "no control plane that can be reached runs an API server"
		return out
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hostTimeout, fmt.Errorf("no answer within %s", hostTimeout))
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			r, err := backup.Report.On(ctx, s.Conn, struct{}{})
			mu.Lock()
			defer mu.Unlock()
			merge(out, r, err)
		})
	}
	wg.Wait()
	return out
}

// merge adds what one control plane reports. The schedule began with the first control plane that got it.
func merge(out *facts.Backups, r facts.BackupReport, err error) {
	switch {
	case err != nil && out.Report == nil:
		out.Unknown = err.Error()
	case err != nil:
	case out.Report == nil:
		out.Report, out.Unknown = &r, ""
	case !r.Since.IsZero() && (out.Report.Since.IsZero() || r.Now.Sub(r.Since) > out.Report.Now.Sub(out.Report.Since)):
		r.Last, r.Failed = out.Report.Last, out.Report.Failed
		out.Report = &r
	}
}
