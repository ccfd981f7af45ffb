//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	state "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spof"
)

// singlePoints looks for single points of failure: of the whole cluster, and while CoreDNS has one replica.
func singlePoints(t *testing.T, c *cluster) {
	ctx := testContext(t)
	// audit returns the warnings, as capabilities: elements.
	audit := func() (spof.Report, []string, error) {
		r := c.run(ctx, "audit", "-f", c.specFile(), "-o", "json")
		var report spof.Report
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
			return report, nil, fmt.Errorf("%w: %s", err, r)
		}
		var out []string
		for _, f := range report.Findings {
			if f.Severity.Rank() <= state.Warning.Rank() {
				out = append(out, fmt.Sprintf("%s: %s", strings.Join(f.Capabilities, ", "), strings.Join(f.Subjects, ", ")))
			}
		}
		if r.code != 1 {
			return report, out, fmt.Errorf("the default cluster has no backup, and the exit status is %d", r.code)
		}
		return report, out, nil
	}
	const noBackup = "cluster data: a single command of an administrator"
	var report spof.Report
	settles(t, ctx, 300*time.Millisecond, "everything is known, and only the backup is missing", func() ([]string, error) {
		var found []string
		var err error
		if report, found, err = audit(); err != nil {
			return nil, err
		}
		if report.From != spof.FromCluster || !slices.Contains(found, noBackup) {
			return nil, fmt.Errorf("%s", c.run(ctx, "audit", "-f", c.specFile()))
		}
		wrong := slices.DeleteFunc(found, func(f string) bool { return f == noBackup })
		wrong = slices.AppendSeq(wrong, maps.Keys(report.Unknown))
		if len(wrong) > 0 {
			return wrong, fmt.Errorf("wrong: %q; unknown: %q", wrong, report.Unknown)
		}
		return nil, nil
	})
	if !slices.ContainsFunc(report.Inherent, func(x spof.Inherent) bool { return x.Element.Kind == spof.Machine }) {
		t.Errorf("the machine below the lab is not recognized: %+v", report.Inherent)
	}
	c.exits(t, ctx, 1, "audit", "-f", c.specFile(), "--spec-only", "--depth", "2")
	printArtifact(t, "audit.txt", c.exits(t, ctx, 1, "audit", "-f", c.specFile(), "--depth", "2").stdout)
	if page := c.exits(t, ctx, 1, "audit", "-f", c.specFile(), "-o", "html").stdout; !strings.HasPrefix(page, "<!DOCTYPE html>") || !strings.Contains(page, "</html>") {
		t.Errorf("the page is %q", page)
	}

	c.ssh(t, ctx, "cp-a", "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system scale deployment coredns --replicas=1")
	eventually(t, ctx, "the only replica of CoreDNS is found", func() error {
		report, found, err := audit()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(report.Findings, func(f spof.Finding) bool {
			return f.Elements[0].Kind == spof.CoreDNS && f.Size == 1 && slices.Equal(f.Capabilities, []string{spof.ClusterDNS})
		}) {
			return fmt.Errorf("found %v", found)
		}
		return nil
	})
	c.ssh(t, ctx, "cp-a", "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system scale deployment coredns --replicas=2")
	c.whole(t, ctx)
}
