package cli

import (
	"bytes"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
)

// TestAnEmptyPlanClaimsWhatWasSeen: nothing to do is not the same as a cluster that matches its spec.
func TestAnEmptyPlanClaimsWhatWasSeen(t *testing.T) {
	broken := []cluster.Finding{{Rule: cluster.RuleVirtualIP, Severity: cluster.Critical, Summary: "lb-a and lb-b have the virtual IP", Fix: "Allow VRRP."}}
	for name, tc := range map[string]struct {
		plan    plan.Plan
		says    string
		differs bool
	}{
		"all is well":       {plan.Plan{Cluster: "prod"}, "Nothing to do: prod matches the spec.", false},
		"something is not":  {plan.Plan{Cluster: "prod", Unmet: broken}, "prod does not match the spec:\n  critical: lb-a and lb-b have the virtual IP\n      Allow VRRP.", true},
		"one cannot be met": {plan.Plan{Cluster: "prod", Unreachable: map[string]string{"w-a": "w-a: timeout"}}, "the part of prod that could be observed", false},
		"there are steps":   {plan.Plan{Cluster: "prod", Steps: []plan.Step{{ID: "x", Kind: plan.LabelNode, Host: "w-a", Title: "label the node"}}}, "1 steps for prod", true},
	} {
		var out bytes.Buffer
		if err := printPlan(&out, &tc.plan); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), tc.says) || tc.says != "Nothing to do: prod matches the spec." && strings.Contains(out.String(), "Nothing to do: prod matches") {
			t.Errorf("%s: %s", name, &out)
		}
		if differs(&tc.plan) != tc.differs {
			t.Errorf("%s: it differs: %t", name, !tc.differs)
		}
	}
}
