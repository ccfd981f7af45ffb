package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/exporter"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	// exporterReports is the time between two reports of the unit that serves metrics, and between two checks whether it was replaced.
	exporterReports = 5 * time.Second
	// exporterHelpless is the time after which it ends if systemd gives it no credentials.
	exporterHelpless = time.Minute
)

// errUnmounted ends the unit that serves metrics, so that systemd starts it again, with the directory that it reads.
var errUnmounted = errors.New("the directory of the metrics was made, or removed, after this unit was started")

// ExportHere is the unit on a control plane that serves metrics, at an address. It returns without an error when it is stopped, when its program or the
// directory that it reads was replaced, and now and then for want of credentials: systemd starts it again.
func ExportHere(ctx context.Context, log io.Writer, cluster, address string) error {
	credentials, state := os.Getenv("CREDENTIALS_DIRECTORY"), os.Getenv("STATE_DIRECTORY")
	files := []string{hostconfig.SelfPath, hostconfig.ExporterUnitFile}
	stamps := stampsOf(files)
	system.Notify("READY=1") // whatever follows: nobody who starts this unit can do anything about it, and who observes the cluster reads what it says
	if credentials == "" || state == "" {
		err := errors.New("systemd gave this unit no credentials or no directory, which takes systemd 247 or later")
		system.Notify("STATUS=" + err.Error())
		if pause(ctx, exporterHelpless) != nil {
			return nil
		}
		return err
	}
	s := &exporter.Server{Address: address, CertificateFile: filepath.Join(credentials, hostconfig.ExporterCertificate), KubeconfigFile: filepath.Join(credentials, hostconfig.ExporterKubeconfig),
		Memory: filepath.Join(state, "permissions.json"),
		Metrics: metrics.Exposed{Cluster: cluster, Now: time.Now, Last: func() (metrics.Snapshot, time.Time, error) {
			return exporter.Snapshot(hostconfig.ExporterSees)
		}},
		Log: func(problem string) {
			if problem == "" {
				problem = "metrics are served at " + address
			}
			fmt.Fprintln(log, problem)
		}}
	ctx, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	defer func() { end(); <-done }()
	tick := time.NewTicker(exporterReports)
	defer tick.Stop()
	for last := ""; ; {
		if now := saysOf(s); now != last {
			system.Notify("STATUS=" + now)
			last = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			return nil
		case <-tick.C:
		}
		switch {
		case !slices.Equal(stamps, stampsOf(files)):
			fmt.Fprintln(log, errReplaced)
			return nil
		case !mounted():
			fmt.Fprintln(log, errUnmounted)
			return nil
		}
	}
}

// saysOf is what the unit says of itself to systemd, in one line: see facts.Watch.
func saysOf(s *exporter.Server) string {
	problem, known := s.Problem()
	switch {
	case !known:
		return ""
	case problem == "":
		return facts.ExporterServes
	}
	return string(slices.DeleteFunc([]byte(problem), func(b byte) bool { return b == '\n' || b == '\r' }))
}

// mounted says that systemd mounted facts.SnapshotsDir for this unit, and that nobody removed it since. Otherwise nothing will ever be written into what the unit
// sees. If that cannot be told, it is taken for granted.
func mounted() bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	at, err := filepath.EvalSymlinks(hostconfig.ExporterSees)
	if err != nil {
		return true
	}
	return mountsSnapshots(string(mounts), at)
}

// mountsSnapshots says that facts.SnapshotsDir is mounted on a directory, according to a mountinfo file: see proc(5). The kernel marks one that was removed. While
// there was nothing to mount, systemd may have mounted the directory on itself.
func mountsSnapshots(mountinfo, dir string) bool {
	const root, point = 3, 4
	what := ""
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > point && f[point] == dir {
			what = f[root] // the last one is on top
		}
	}
	_, below, _ := strings.Cut(facts.SnapshotsDir[1:], "/") // its file system may be mounted on /run, or on /
	return strings.HasSuffix(what, "/"+below)
}
