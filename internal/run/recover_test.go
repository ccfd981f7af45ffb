package run

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/recovery"
)

// TestHostsThatARecoveryLeaves: whoever was declared lost, by the name of the host or of its member, now or when the recovery was decided, is not expected.
func TestHostsThatARecoveryLeaves(t *testing.T) {
	judgment := &recovery.Judgment{Voters: []recovery.Voter{{Name: "member-c", Host: "cp-c", Standing: recovery.Lost}, {Name: "gone", Standing: recovery.Lost}, {Name: "cp-b", Host: "cp-b", Standing: recovery.Unknown}},
		UnderWay: &facts.EtcdRecovery{Lost: []string{"cp-d"}}}
	for name, tc := range map[string]struct {
		left, lost []string
		complete   bool
	}{
		"none":            {nil, nil, true},
		"by the host":     {[]string{"cp-a"}, []string{"cp-a"}, true},
		"by the member":   {[]string{"cp-c"}, []string{"cp-c"}, true},
		"it goes on":      {[]string{"cp-d"}, []string{"cp-d"}, true},
		"not declared":    {[]string{"cp-b"}, nil, false},
		"one of the two":  {[]string{"cp-b", "cp-c"}, []string{"cp-c"}, false},
		"not of the lost": {[]string{"new"}, nil, false},
	} {
		r := &Recovered{Judgment: judgment, Left: map[string]string{}}
		for _, h := range tc.left {
			r.Left[h] = "no route to host"
		}
		if r.conclude(&facts.EtcdDecision{Lost: []string{"cp-a"}}); r.Complete != tc.complete || r.Unfinished() == tc.complete || !slices.Equal(r.Lost, tc.lost) {
			t.Errorf("%s: complete: %t, lost: %v", name, r.Complete, r.Lost)
		}
	}
}
