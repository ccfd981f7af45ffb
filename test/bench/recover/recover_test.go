package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestRead(t *testing.T) {
	all := names(parts, partName)
	for _, tc := range []struct {
		only, sizes, rotate string
		o                   options
		more                []string
		parts, etcds        string // of what was read
		authorities         string
		err                 string
	}{
		{only: all, sizes: "2.5MB,500MB,4GB", rotate: "ca,sa", parts: "backup,restore,quorum,certs", etcds: "2.5MB,500MB,4GB", authorities: "ca,sa"},
		{only: "certs,backup", sizes: "4GB,2.5MB", parts: "backup,certs", etcds: "2.5MB,4GB"},
		{only: "drill", sizes: "4GB", err: `-only: there is no "drill", only backup,restore,quorum,certs`},
		{only: "", sizes: "4GB", err: `-only: there is no ""`},
		{only: all, sizes: "1GB", err: `-sizes: there is no "1GB"`},
		{only: all, sizes: "4GB", rotate: "kubelet", err: `-rotate: there is no "kubelet"`},
		{only: all, sizes: "4GB", o: options{controlPlanes: 2}, err: "-control-planes 2: 1 or 3"},
		{only: all, sizes: "4GB", o: options{pace: -1}, err: "-pace"},
		{only: all, sizes: "4GB", more: []string{"restore"}, err: "there are only flags"},
	} {
		if tc.o.pace == 0 {
			tc.o.pace = time.Second
		}
		what, err := tc.o.read(tc.only, tc.sizes, tc.rotate, tc.more)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%+v: got %v, want %s", tc, err, tc.err)
			}
			continue
		}
		if err != nil || names(what, partName) != tc.parts || names(tc.o.sizes, sizeName) != tc.etcds || names(tc.o.authorities, authorityName) != tc.authorities {
			t.Errorf("%+v: parts %q, %v", tc, names(what, partName), err)
		}
	}
}

// TestAuthorities: figures are wanted for each of them.
func TestAuthorities(t *testing.T) {
	if got := names(facts.Authorities, authorityName); got != "ca,front-proxy-ca,etcd-ca,sa" {
		t.Errorf("%s: say so in the README", got)
	}
}

func TestShapes(t *testing.T) {
	many := whole
	many.Workers = -1
	for _, tc := range []struct {
		shape         spec.InitOptions
		controlPlanes int
	}{{whole, 3}, {many, 3}, {single, 1}} {
		c, err := shaped(tc.shape)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(c.HostsWith(spec.RoleControlPlane)); n != tc.controlPlanes || c.Metadata.Name != name {
			t.Errorf("%s has %d control planes", c.Metadata.Name, n)
		}
	}
}

func TestSpace(t *testing.T) {
	if one, three := space(4e9, 1), space(4e9, 3); one != 5*4e9+around || three != 9*4e9+around {
		t.Errorf("%d and %d bytes", one, three)
	}
}

func result(path string, o probe.Operation, failed int) probe.Result {
	r := probe.Result{Client: probe.Client{Path: path, Operation: o, Connection: probe.New}}
	r.Requests, r.Failed = 100, failed
	if failed > 0 {
		r.Errors = map[string]int{"reset": failed}
	}
	return r
}

func TestFailures(t *testing.T) {
	own, ready := result(clients.OwnServer+"cp-a", probe.Read, 7), result(clients.OwnServer+"cp-a", probe.Ready, 9)
	results := []probe.Result{result("endpoint", probe.Read, 0), result("endpoint", probe.Write, 2), own, ready}
	requests, failed, why := failures(results, map[string]probe.Excuse{own.Client.String(): {Requests: 7}})
	if requests != 300 || failed != 2 || len(why) != 1 || !strings.Contains(slices.Collect(maps.Keys(why))[0], "reset") {
		t.Errorf("%d requests, %d failed: %v", requests, failed, why)
	}
	if _, failed, _ := failures(results, nil); failed != 9 {
		t.Errorf("%d failed, and nothing is excused", failed)
	}
}

func TestFirstWrite(t *testing.T) {
	decided := time.Unix(1000, 0)
	outage := func(o probe.Operation, since, long time.Duration) probe.Result {
		r := result("endpoint", o, 5)
		r.Since, r.Longest = decided.Add(since), long
		return r
	}
	const s = time.Second
	for name, tc := range map[string]struct {
		results []probe.Result
		want    time.Duration // after the decision; 0 for never
	}{
		"the first of two counts":         {[]probe.Result{outage(probe.Write, -60*s, 90*s), outage(probe.Write, -60*s, 80*s)}, 20 * s},
		"reads do not":                    {[]probe.Result{outage(probe.Read, -60*s, 70*s), outage(probe.Write, -60*s, 80*s)}, 20 * s},
		"an outage that is over does not": {[]probe.Result{outage(probe.Write, -60*s, 50*s)}, 0},
		"a later one does not":            {[]probe.Result{outage(probe.Write, 10*s, 50*s)}, 0},
		"none":                            {nil, 0},
	} {
		want := time.Time{}
		if tc.want > 0 {
			want = decided.Add(tc.want)
		}
		if got := firstWrite(tc.results, decided); !got.Equal(want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
