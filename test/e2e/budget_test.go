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
// quarter of the speed. With a budget, the essential tests come first, and a test for which no time is left is skipped, and says so.
var budget = flag.Duration("budget", 0, "run the essential tests first, and skip those for which no time is left; 0: skip none; negative: there is none left")

// estimate is what a test takes on two cores on which `quorate up` takes 26 s. The figures are from a run of `make test-e2e`, rounded up.
type estimate struct {
	takes     time.Duration
	essential bool
}

// estimates are of tests, and of those parts of some of them that need not run for the others. What is not here is essential and takes no time.
var estimates = map[string]estimate{
	"TestAdoption":                               {takes: 240 * time.Second},
	"TestAdoption/growth":                        {takes: 120 * time.Second},
	"TestAirGapped":                              {takes: 150 * time.Second},
	"TestColocatedBalancer":                      {takes: 190 * time.Second},
	"TestExternalBalancer":                       {takes: 60 * time.Second},
	"TestAuditAgrees":                            {takes: 360 * time.Second},
	"TestByHand":                                 {takes: 90 * time.Second},
	"TestCertificates":                           {takes: 330 * time.Second},
	"TestCrash":                                  {takes: 240 * time.Second},
	"TestCluster":                                {takes: 350 * time.Second, essential: true},
	"TestCluster/backup_schedule":                {takes: 140 * time.Second},
	"TestCluster/kubeadm":                        {takes: 90 * time.Second},
	"TestCluster/labels_and_taints":              {takes: 100 * time.Second},
	"TestCluster/maintenance":                    {takes: 340 * time.Second},
	"TestCluster/metrics":                        {takes: 150 * time.Second},
	"TestCluster/packages":                       {takes: 30 * time.Second},
	"TestCluster/drill":                          {takes: 290 * time.Second},
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
	"TestIPv6":                                   {takes: 150 * time.Second},
	"TestNetwork":                                {takes: 100 * time.Second},
	"TestNetworks":                               {takes: 120 * time.Second},
	"TestPowerCut":                               {takes: 330 * time.Second},
	"TestPreflight":                              {takes: 50 * time.Second},
	"TestRealHosts":                              {takes: 20 * time.Second},
	"TestEmptyMember":                            {takes: 80 * time.Second},
	"TestInterruptedJoin":                        {takes: 90 * time.Second},
	"TestSettings":                               {takes: 360 * time.Second},
	"TestUpgrade":                                {takes: 420 * time.Second, essential: true},
	"TestUpgrade/a_control_plane_dies_during_the_upgrade": {takes: 300 * time.Second},
	"TestZonal": {takes: 90 * time.Second},
}

// pace is how fast the tests have been so far.
type pace struct {
	mu    sync.Mutex
	begin time.Time
	done  map[string]bool
	// without are tests that were skipped for want of time: none is kept for them any more.
	without map[string]bool
}

var thisRun = pace{begin: time.Now(), done: map[string]bool{}, without: map[string]bool{}}

// runInOrder runs the tests. With a budget, it runs the essential ones first, so that they are not left out for the others; those others know then
// how fast this computer is.
func runInOrder(m *testing.M) (code int) {
	if *budget == 0 || flag.Lookup("test.run").Value.String() != "" {
		return m.Run()
	}
	var names []string
	for name, e := range estimates {
		if e.essential {
			names = append(names, name)
		}
	}
	essential := "^(" + strings.Join(names, "|") + ")$"
	for _, filter := range []string{"test.run", "test.skip"} {
		if err := flag.Set(filter, essential); err != nil {
			panic(err) // package testing has these flags
		}
		code = max(code, m.Run())
		if err := flag.Set(filter, ""); err != nil {
			panic(err)
		}
	}
	return code
}

// indispensable is the one test that no lack of time leaves out: without it, nothing would be tested.
const indispensable = "TestCluster"

// spare is the part of an estimate that is added to it: no test takes the same time twice.
const spare = 7

// inTime skips a test for which no time is left.
func inTime(t *testing.T) {
	t.Helper()
	name := estimated(t.Name())
	p := &thisRun
	p.mu.Lock()
	defer p.mu.Unlock()
	if *budget != 0 && name != indispensable {
		elapsed := time.Since(p.begin)
		needs, left := needed(name, elapsed, p.done, p.without), *budget-elapsed
		if needs += needs / spare; needs > left {
			p.without[name] = true
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

// inTimePart skips a part of a test if it has an estimate of its own and no time is left for it.
func inTimePart(t *testing.T) {
	t.Helper()
	if _, optional := estimates[t.Name()]; optional {
		inTime(t)
	}
}

// estimated is the name under which a test, or the test that it is a part of, has an estimate.
func estimated(name string) string {
	for test := name; ; {
		if _, ok := estimates[test]; ok {
			return test
		}
		i := strings.LastIndexByte(test, '/')
		if i < 0 {
			return name
		}
		test = test[:i]
	}
}

// needed is how long a test and, if it is not one of them, the essential ones that are not done will take, if they are as slow as those before.
func needed(name string, elapsed time.Duration, done, without map[string]bool) time.Duration {
	all, expected := estimates[name].takes, time.Duration(0)
	for other, e := range estimates {
		switch {
		case done[other] || strings.HasPrefix(name, other+"/"): // the parts of a test come last
			expected += e.takes
		case e.essential && other != name && !without[other] && !estimates[name].essential:
			all += e.takes
		}
	}
	if expected == 0 {
		return all
	}
	return time.Duration(float64(all) * max(1, float64(elapsed)/float64(expected)))
}

func TestNeeded(t *testing.T) {
	const essential = 910 * time.Second
	for name, tc := range map[string]struct {
		test    string
		elapsed time.Duration
		done    []string
		want    time.Duration
		without map[string]bool
	}{
		"nothing is known yet":         {"TestAdoption", time.Minute, nil, 240*time.Second + essential, nil},
		"as fast as expected":          {"TestNetwork", 200 * time.Second, []string{"TestAdoption"}, 100*time.Second + essential, nil},
		"three times as slow":          {"TestNetwork", 720 * time.Second, []string{"TestAdoption"}, 3 * (100*time.Second + essential), nil},
		"essential ones that are done": {"TestZonal", 350 * time.Second, []string{"TestCluster"}, 90*time.Second + essential - 350*time.Second, nil},
		"a part of a test":             {"TestCluster/drill", 350 * time.Second, nil, 290*time.Second + essential - 350*time.Second, nil},
		"an essential one, slow":       {"TestUpgrade", 700 * time.Second, []string{"TestCluster"}, 840 * time.Second, nil},
		"an essential one is skipped":  {"TestNetwork", 350 * time.Second, []string{"TestCluster"}, 100*time.Second + essential - 770*time.Second, map[string]bool{"TestUpgrade": true}},
	} {
		t.Run(name, func(t *testing.T) {
			done := map[string]bool{}
			for _, d := range tc.done {
				done[d] = true
			}
			if got := needed(tc.test, tc.elapsed, done, tc.without); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestEstimated(t *testing.T) {
	for name, want := range map[string]string{
		"TestCrash": "TestCrash", "TestCrash/kills": "TestCrash", "TestCluster/drill/killed": "TestCluster/drill", "TestCluster/status": "TestCluster",
		"TestUnheardOf/part": "TestUnheardOf/part",
	} {
		if got := estimated(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
