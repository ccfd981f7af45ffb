package cli

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
)

func TestTargetsOf(t *testing.T) {
	c := spec.DefaultLab("test")
	for _, tc := range []struct {
		args string
		all  bool
		want string // the targets, or a part of the error after a colon
	}{
		{"cp-a", false, "cp-a"},
		{"zone/b", false, "zone/b=cp-b,worker-b,lb-b"},
		{"cp-a cp-b", false, "cp-a cp-b"},
		{"zone/c worker-a", false, "zone/c=cp-c worker-a"},
		{"", true, "cp-a cp-b cp-c worker-a worker-b lb-a lb-b"},
		{"cp-x", false, ":cp-x is not a host of test; did you mean cp-a? its hosts are cp-a"},
		{"zone/x", false, `:"x" is not a zone of test; its zones are a, b, c`},
		{"zone/", false, `:"" is not a zone of test; its zones are a, b, c`},
		{"zone/b cp-b", false, ":cp-b is named twice"},
	} {
		targets, err := targetsOf(c, strings.Fields(tc.args), tc.all)
		var got []string
		for _, x := range targets {
			names := strings.Join(cluster.Names(x.Hosts), ",")
			if x.Zone != "" {
				names = "zone/" + x.Zone + "=" + names
			}
			got = append(got, names)
		}
		if part, fails := strings.CutPrefix(tc.want, ":"); fails {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v, %v", tc.args, got, err)
			}
		} else if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%q: %v, %v", tc.args, got, err)
		}
	}
}
