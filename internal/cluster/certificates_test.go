package cluster_test

import (
	"slices"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

// TestWhenACertificateIsReported: one that is renewed every few days is not reported all the time, as one of a year would be.
func TestWhenACertificateIsReported(t *testing.T) {
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		life, left time.Duration
		want       cluster.Severity
	}{
		"a year, and 31 days left":     {365 * day, 31 * day, ""},
		"a year, and 29 days left":     {365 * day, 29 * day, cluster.Warning},
		"a year, and 6 days left":      {365 * day, 6 * day, cluster.Critical},
		"a week, and 3 days left":      {7 * day, 3 * day, ""},
		"a week, and 1.5 days left":    {7 * day, 36 * time.Hour, cluster.Warning},
		"a week, and hours left":       {7 * day, 12 * time.Hour, cluster.Critical},
		"expired":                      {365 * day, -time.Hour, cluster.Critical},
		"unknown, and 29 days left":    {0, 29 * day, cluster.Warning},
		"unknown, and 100 days left":   {0, 100 * day, ""},
		"minutes, and seconds expired": {2 * time.Minute, -time.Second, cluster.Critical},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			c := facts.Certificate{Name: "pki/apiserver.crt", Expires: clustertest.Now.Add(tc.left)}
			if tc.life > 0 {
				c.Begins = c.Expires.Add(-tc.life)
			}
			f.Kubernetes("cp-a").Certificates = []facts.Certificate{c}
			var got cluster.Severity
			for _, x := range cluster.Evaluate(f.Spec, f.Seen).Findings() {
				if x.Rule == cluster.RuleCertificate {
					got = x.Severity
				}
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatIsOutdated(t *testing.T) {
	for name, tc := range map[string]struct {
		started, written time.Duration // from now
		want             []string
	}{
		"started before the file was written": {-2 * time.Hour, -time.Hour, []string{facts.ControllerManager}},
		"started after that":                  {-time.Hour, -2 * time.Hour, nil},
		"a file from the future":              {-time.Hour, time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			f.Change("cp-a", func(h *facts.Host) { h.Facts.Time = clustertest.Now })
			f.Kubernetes("cp-a").Certificates = []facts.Certificate{{Name: "controller-manager.conf", Expires: clustertest.Now.AddDate(1, 0, 0), Written: clustertest.Now.Add(tc.written)}}
			f.Seen.Hosts["cp-a"].Components[facts.ControllerManager] = facts.Component{Answer: clustertest.OK(), Started: clustertest.Now.Add(tc.started)}
			if got := cluster.Evaluate(f.Spec, f.Seen).Outdated("cp-a"); !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}
