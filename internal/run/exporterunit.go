package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/exporter"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// exporterReports is the time between two reports of the unit that serves metrics, and between two checks whether it was replaced.
const exporterReports = 5 * time.Second

// ExportHere is the unit on a control plane that serves metrics, at an address. It returns without an error when its program or the directory that it reads
// was replaced, and now and then for want of credentials: systemd starts it again.
func ExportHere(ctx context.Context, log io.Writer, cluster, address string) error {
	credentials, state := os.Getenv("CREDENTIALS_DIRECTORY"), os.Getenv("STATE_DIRECTORY")
	if credentials == "" || state == "" {
		return errors.New("systemd gave this unit no credentials or no directory, which takes systemd 247 or later")
	}
	files := []string{hostconfig.SelfPath, hostconfig.ExporterUnitFile}
	stamps := stampsOf(files)
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
	system.Notify("READY=1")
	tick := time.NewTicker(exporterReports)
	defer tick.Stop()
	for last := ""; ; {
		if now := saysOf(s); now != last {
			system.Notify("STATUS=" + now)
			last = now
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-done:
			return nil
		case <-tick.C:
		}
		if !slices.Equal(stamps, stampsOf(files)) || !mounted(hostconfig.ExporterSees) {
			fmt.Fprintln(log, errReplaced)
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

// mounted says that a directory was not removed. If it is mounted from elsewhere, that may have happened there, and nothing will ever be written into it again.
func mounted(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 0
}
