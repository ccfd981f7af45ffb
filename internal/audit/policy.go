package audit

import (
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// auditRule is as much of an audit policy's rule as it takes to know which one decides.
type auditRule struct {
	Level           string
	Users           []string
	UserGroups      []string
	Verbs           []string
	NonResourceURLs []string
	Resources       []struct {
		Group     string
		Resources []string
	}
}

// policy judges the audit policy by what an ordinary user's requests would leave behind: of what matters at least who did
// what; of what may hold secrets never the bodies.
func policy(h Host) verdict {
	var p struct{ Rules []auditRule }
	if err := yaml.Unmarshal([]byte(h.AuditPolicy), &p); err != nil || len(p.Rules) == 0 {
		return found("there is no audit policy")
	}
	var missing, leaking []string
	for _, r := range []struct {
		group, resource, verb string
		confidential          bool
	}{
		{"", "secrets", "get", true}, {"", "secrets", "create", true}, {"", "configmaps", "update", true},
		{"", "serviceaccounts/token", "create", true}, {"authentication.k8s.io", "tokenreviews", "create", true},
		{"", "pods", "create", false}, {"apps", "deployments", "update", false}, {"", "pods/exec", "create", false},
		{"", "pods/portforward", "create", false}, {"", "pods/proxy", "get", false}, {"", "services/proxy", "get", false},
		{"rbac.authorization.k8s.io", "clusterrolebindings", "create", false}, {"", "nodes", "delete", false},
	} {
		switch level(p.Rules, r.group, r.resource, r.verb) {
		case "", "None":
			missing = append(missing, r.verb+" "+r.resource)
		case "Request", "RequestResponse":
			if r.confidential {
				leaking = append(leaking, r.verb+" "+r.resource)
			}
		}
	}
	switch {
	case len(leaking) > 0:
		return found("request bodies are logged for: %s", strings.Join(leaking, ", "))
	case len(missing) > 0:
		return found("nothing is logged for: %s", strings.Join(missing, ", "))
	}
	return verdict{}
}

// level is that of the first rule that matches a request of somebody who is in no special group.
func level(rules []auditRule, group, resource, verb string) string {
	for _, r := range rules {
		if len(r.Users) > 0 || len(r.UserGroups) > 0 || len(r.NonResourceURLs) > 0 && len(r.Resources) == 0 {
			continue
		}
		if len(r.Verbs) > 0 && !slices.Contains(r.Verbs, verb) {
			continue
		}
		matches := len(r.Resources) == 0
		for _, res := range r.Resources {
			matches = matches || res.Group == group && (len(res.Resources) == 0 || slices.Contains(res.Resources, resource) || slices.Contains(res.Resources, "*"))
		}
		if matches {
			return r.Level
		}
	}
	return ""
}
