package preflight

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
)

func TestUpgrade(t *testing.T) {
	for name, tc := range map[string]struct {
		seen          facts.Upgrade
		free          int64
		severity      cluster.Severity
		check, expect string // empty: nothing is found
	}{
		"nothing":                      {},
		"an API that goes":             {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Group: "networking.k8s.io", Version: "v1beta1", Resource: "ipaddresses", RemovedIn: "1.37"}}}, severity: failure, check: DeprecatedCheck, expect: "ipaddresses.v1beta1.networking.k8s.io"},
		"an API that went before":      {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "widgets", RemovedIn: "1.36"}}}, severity: failure, check: DeprecatedCheck, expect: "widgets.v1, which"},
		"an API that goes later":       {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "endpoints", RemovedIn: "1.38"}}}},
		"an API that stays so far":     {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "endpoints"}}}},
		"an API server that is silent": {seen: facts.Upgrade{DeprecatedError: "cp-b: timeout"}, severity: warning, check: DeprecatedCheck, expect: "cp-b: timeout"},
		"a webhook that is down":       {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Configuration: "policy", Name: "check.example.com", Service: "policy/hook"}}}, severity: failure, check: WebhooksCheck, expect: "policy/hook has no endpoint"},
		"a webhook with one endpoint":  {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Service: "policy/hook", Ready: 1}}}, severity: warning, check: WebhooksCheck, expect: "a single endpoint"},
		"a webhook with two":           {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Service: "policy/hook", Ready: 2}}}},
		"webhooks that are not known":  {seen: facts.Upgrade{Error: "timeout"}, severity: warning, check: WebhooksCheck, expect: "timeout"},
		"a budget":                     {seen: facts.Upgrade{Budgets: []string{"web/front"}}, severity: info, check: BudgetsCheck, expect: "web/front"},
		"a full disk":                  {free: 200 << 20, severity: failure, check: SpaceCheck, expect: "cp-a has 200.0 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			c := labSpec()
			c.Spec.Kubernetes.Version = "v1.37.2"
			obs, _ := healthy(c)
			if tc.free > 0 {
				obs.Hosts["cp-a"].Facts.DiskFreeBytes = tc.free
			}
			found := JudgeUpgrade(cluster.Evaluate(c, obs), &tc.seen)
			if tc.check == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Severity != tc.severity || found[0].Rule != tc.check || !strings.Contains(found[0].Summary, tc.expect) || found[0].Fix == "" {
				t.Errorf("%+v", found)
			}
		})
	}
}
