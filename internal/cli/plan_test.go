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

// TestFilesThatChange: a summary by default, and every line with --diff.
func TestFilesThatChange(t *testing.T) {
	files := []plan.FileChange{
		{Path: "/etc/haproxy/haproxy.cfg", Hosts: []string{"lb-a", "lb-b"}, Added: 1, Removed: 2, Diff: "--- a\n+++ b\n-x\n-y\n+z\n"},
		{Path: "/etc/hosts", Block: "cluster prod", Hosts: []string{"lb-a"}, Added: 1, Diff: "--- a\n+++ b\n+1.1.1.1 a\n"},
		{Path: "/etc/keepalived/keepalived.conf", Hosts: []string{"lb-b"}, Withheld: "it may contain a credential"},
		{Path: "/etc/new", Hosts: []string{"lb-a"}, New: true, Added: 1, Diff: "--- /dev/null\n+++ b\n+n\n"},
	}
	for _, tc := range []struct {
		diff bool
		want string
	}{
		{false, `
Files whose content changes (--diff shows the lines):

FILE                               HOSTS       LINES
/etc/haproxy/haproxy.cfg           lb-a, lb-b  +1 -2
/etc/hosts (block "cluster prod")  lb-a        +1 -0
/etc/keepalived/keepalived.conf    lb-b        differs; not shown: it may contain a credential

New files (--diff shows them): 1
`},
		{true, `
/etc/haproxy/haproxy.cfg on lb-a, lb-b
--- a
+++ b
-x
-y
+z

/etc/hosts (block "cluster prod") on lb-a
--- a
+++ b
+1.1.1.1 a

/etc/keepalived/keepalived.conf on lb-b differs; not shown: it may contain a credential

/etc/new on lb-a
--- /dev/null
+++ b
+n
`},
	} {
		var out bytes.Buffer
		if err := printFiles(&out, files, tc.diff); err != nil {
			t.Fatal(err)
		}
		if out.String() != tc.want {
			t.Errorf("diff %t:\n%s", tc.diff, &out)
		}
	}
}
