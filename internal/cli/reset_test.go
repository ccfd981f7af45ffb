package cli

import (
	"errors"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// TestAResetIsConfirmedWithTheNameOfTheCluster, after everything that will happen was shown.
func TestAResetIsConfirmedWithTheNameOfTheCluster(t *testing.T) {
	p := &plan.Plan{Cluster: "prod", Unreachable: map[string]string{"cp-c": "cp-c: no route"}, Notes: []string{"the existing etcd keeps it"},
		Steps: []plan.Step{{Kind: plan.ResetHost, Host: "cp-a", Title: "reset the host", Reason: "the whole cluster is removed"}}}
	for answer, want := range map[string]string{"prod": "", " prod ": "", "yes": "nothing was changed", "": "nothing was changed"} {
		asked := ""
		a := &app{askAloud: func(question string) (string, error) { asked = question; return answer, nil }}
		err := a.confirmReset(p, true)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || exitStatus(err) != exitUsage) {
			t.Errorf("%q: %v", answer, err)
		}
		for _, part := range []string{"cp-a", "cp-c: no route", "the existing etcd keeps it", "everything that is stored in it will be gone"} {
			if !strings.Contains(asked, part) {
				t.Errorf("the question does not show %q: %s", part, asked)
			}
		}
	}
	alone := &app{askAloud: func(string) (string, error) { return "", errors.New("there is no terminal to prompt on") }}
	if err := alone.confirmReset(p, false); err == nil || exitStatus(err) != exitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("without a terminal: %v", err)
	}
	if err := knownHosts(&spec.Cluster{Metadata: spec.Metadata{Name: "prod"}}, []string{"cp-z"}); exitStatus(err) != exitUsage {
		t.Errorf("a host that is not there: %v", err)
	}
}
