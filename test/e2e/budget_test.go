//go:build e2e

package e2e

import (
	"flag"
	"strings"
	"sync"
	"testing"
	"time"
)

// budget is how long all tests together may take. Computers differ: on one whose kernel runs in a slow hypervisor, clusters are built at a
// third of the speed. With a budget, a test that is not essential is skipped, and says so, if the essential ones would not end in time after it.
var budget = flag.Duration("budget", 0, "skip tests that are not essential and for which no time is left; 0: skip none; negative: there is none left")

// estimate is what a test takes on two cores on which `quorate up` takes 26 s. The figures are from a run of `make test-e2e`, rounded up.
type estimate struct {
	takes     time.Duration
	essential bool
}

// estimates are of tests, and of those parts of TestCluster and TestExternalEtcd that need not run for the others. What is not here is essential and takes no time.
var estimates = map[string]estimate{
	"TestAdoption":                               {takes: 210 * time.Second},
	"TestAirGapped":                              {takes: 150 * time.Second},
	"TestColocatedBalancer":                      {takes: 190 * time.Second},
	"TestExternalBalancer":                       {takes: 40 * time.Second},
	"TestByHand":                                 {takes: 90 * time.Second},
	"TestCertificates":                           {takes: 330 * time.Second},
	"TestCrash":                                  {takes: 150 * time.Second},
	"TestCluster":                                {takes: 350 * time.Second, essential: true},
	"TestCluster/backup_schedule":                {takes: 140 * time.Second},
	"TestCluster/kubeadm":                        {takes: 90 * time.Second},
	"TestCluster/maintenance":                    {takes: 120 * time.Second},
	"TestCluster/packages":                       {takes: 30 * time.Second},
	"TestCluster/faults":                         {takes: 200 * time.Second},
	"TestCluster/drill":                          {takes: 150 * time.Second},
	"TestCluster/repairs":                        {takes: 120 * time.Second},
	"TestCluster/repairs_by_control_planes":      {takes: 240 * time.Second},
	"TestCluster/restore":                        {takes: 200 * time.Second},
	"TestExternalEtcd":                           {takes: 90 * time.Second, essential: true},
	"TestExternalEtcd/repairs":                   {takes: 60 * time.Second},
	"TestExternalEtcd/certificates_are_renewed":  {takes: 30 * time.Second},
	"TestExternalEtcd/certificates_have_expired": {takes: 120 * time.Second},
	"TestExistingEtcd":                           {takes: 60 * time.Second},
	"TestHosts":                                  {takes: 220 * time.Second},
	"TestInterrupted":                            {takes: 50 * time.Second, essential: true},
	"TestNetwork":                                {takes: 100 * time.Second},
	"TestPowerCut":                               {takes: 330 * time.Second},
	"TestPreflight":                              {takes: 50 * time.Second},
	"TestEmptyMember":                            {takes: 80 * time.Second},
	"TestInterruptedJoin":                        {takes: 90 * time.Second},
	"TestSettings":                               {takes: 300 * time.Second},
	"TestUpgrade":                                {takes: 300 * time.Second, essential: true},
	"TestZonal":                                  {takes: 50 * time.Second},
}

// pace is how fast the tests have been so far.
type pace struct {
	mu    sync.Mutex
	begin time.Time
	done  map[string]bool
}

var thisRun = pace{begin: time.Now(), done: map[string]bool{}}

// inTime skips a test for which no time is left.
func inTime(t *testing.T) {
	t.Helper()
	name := t.Name()
	p := &thisRun
	p.mu.Lock()
	defer p.mu.Unlock()
	if *budget != 0 {
		if needs, left := needed(name, time.Since(p.begin), p.done), *budget-time.Since(p.begin); !estimates[name].essential && needs > left {
			t.Skipf("not run for want of time: it and the essential tests need %s, and %s of %s are left; go test -run '^%s$' runs it",
				needs.Round(time.Second), left.Round(time.Second), *budget, name)
		}
	}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.done[name] = true
	})
}

// needed is how long a test and the essential ones that are not done will take, if they are as slow as those before.
func needed(name string, elapsed time.Duration, done map[string]bool) time.Duration {
	all, expected := estimates[name].takes, time.Duration(0)
	for other, e := range estimates {
		switch {
		case done[other] || strings.HasPrefix(name, other+"/"): // the parts of a test come last
			expected += e.takes
		case e.essential && other != name:
			all += e.takes
		}
	}
	if expected == 0 {
		return all
	}
	return time.Duration(float64(all) * max(1, float64(elapsed)/float64(expected)))
}

func TestNeeded(t *testing.T) {
	const essential = 790 * time.Second
	for name, tc := range map[string]struct {
		test    string
		elapsed time.Duration
		done    []string
		want    time.Duration
	}{
		"nothing is known yet":         {"TestAdoption", time.Minute, nil, 210*time.Second + essential},
		"as fast as expected":          {"TestNetwork", 200 * time.Second, []string{"TestAdoption"}, 100*time.Second + essential},
		"three times as slow":          {"TestNetwork", 630 * time.Second, []string{"TestAdoption"}, 3 * (100*time.Second + essential)},
		"essential ones that are done": {"TestZonal", 350 * time.Second, []string{"TestCluster"}, 50*time.Second + essential - 350*time.Second},
		"a part of a test":             {"TestCluster/faults", 350 * time.Second, nil, 200*time.Second + essential - 350*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			done := map[string]bool{}
			for _, d := range tc.done {
				done[d] = true
			}
			if got := needed(tc.test, tc.elapsed, done); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
