package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/run"
)

// statusOf is the exit status of a command that ends with an error, or without one.
func statusOf(err error) int {
	if err == nil {
		return exitDone
	}
	return exitStatus(err)
}

// TestUnfinishedRotation: a script can tell a rotation that waits from one that is complete, in every format.
func TestUnfinishedRotation(t *testing.T) {
	complete := run.Rotated{Authority: facts.KubernetesAuthority, Complete: true, Stages: []cluster.RotationStage{cluster.DropStage}}
	waits := run.Rotated{Authority: facts.KubernetesAuthority, Stages: []cluster.RotationStage{cluster.TrustStage, cluster.SignStage}, Waits: "these workloads were started before. Then run the command again"}
	for _, tc := range []struct {
		r    run.Rotated
		code int
		says string
	}{{complete, exitDone, "Done: "}, {waits, exitFailed, "Not complete: these workloads"}} {
		for _, format := range []string{"text", "json", "yaml"} {
			var out bytes.Buffer
			a := &app{out: &out, output: format}
			if code := statusOf(a.rotated("test", tc.r)); code != tc.code {
				t.Errorf("%s: exit status %d, want %d", format, code, tc.code)
			}
			if format == "text" && !strings.HasPrefix(out.String(), tc.says) {
				t.Errorf("it says %q", out.String())
			}
			var back run.Rotated
			if format == "json" && (json.Unmarshal(out.Bytes(), &back) != nil || back.Complete != tc.r.Complete || back.Waits != tc.r.Waits) {
				t.Errorf("it prints %s", out.String())
			}
		}
	}
}

// TestUnfinishedRepair: what was not repaired yet is not repaired.
func TestUnfinishedRepair(t *testing.T) {
	ended := func(outcomes ...run.Outcome) *run.RepairReport {
		r := &run.RepairReport{}
		for _, o := range outcomes {
			r.Repairs = append(r.Repairs, run.Mended{Repair: plan.Repair{Name: "unit", Host: "cp-a"}, Outcome: o})
		}
		return r
	}
	left := func(unmet bool) *run.RepairReport {
		return &run.RepairReport{Left: []cluster.Finding{{Summary: "it is so", Unmet: unmet}}}
	}
	for name, tc := range map[string]struct {
		r      *run.RepairReport
		dryRun bool
		err    error
		want   int
	}{
		"nothing":                    {ended(), false, nil, exitDone},
		"repaired":                   {ended(run.Repaired), false, nil, exitDone},
		"failed":                     {ended(run.Repaired, run.RepairFailed, run.RepairRefused), false, nil, exitFailed},
		"refused":                    {ended(run.RepairRefused, run.RepairLimited), false, nil, exitRefused},
		"it waits":                   {ended(run.Repaired, run.RepairLimited), false, nil, exitFailed},
		"no match with the spec":     {left(true), false, nil, exitFailed},
		"a risk":                     {left(false), false, nil, exitDone},
		"planned":                    {ended(run.RepairPlanned), true, nil, exitDone},
		"interrupted after a repair": {ended(run.Repaired), false, errors.New("interrupted"), exitFailed},
	} {
		var out bytes.Buffer
		a := &app{out: &out, output: "text"}
		if code := statusOf(a.repaired(t.Context(), tc.r, tc.dryRun, tc.err)); code != tc.want || out.Len() == 0 {
			t.Errorf("%s: exit status %d, want %d; it says %q", name, code, tc.want, out.String())
		}
	}
}

// TestUnfinishedRecovery: a recovery that left hosts is not finished, unless they were declared lost.
func TestUnfinishedRecovery(t *testing.T) {
	for name, tc := range map[string]struct {
		r    *run.Recovered
		err  error
		want int
		says string
	}{
		"all are back":     {&run.Recovered{Complete: true}, nil, exitDone, ""},
		"declared lost":    {&run.Recovered{Complete: true, Left: map[string]string{"cp-c": "no route to host"}, Lost: []string{"cp-c"}}, nil, exitDone, "cp-c: declared lost; no route to host"},
		"one is left":      {&run.Recovered{Left: map[string]string{"cp-b": "it may run a rescue system"}}, nil, exitFailed, "cp-b: it may run a rescue system"},
		"joining failed":   {&run.Recovered{}, errors.New("no answer"), exitFailed, ""},
		"nothing was done": {nil, &cluster.Refusal{Rule: "quorum"}, exitRefused, ""},
	} {
		var out bytes.Buffer
		a := &app{out: &out, output: "text"}
		if code := statusOf(a.recovered(t.Context(), tc.r, tc.err)); code != tc.want || !strings.Contains(out.String(), tc.says) {
			t.Errorf("%s: exit status %d, want %d; it says %q", name, code, tc.want, out.String())
		}
	}
}
