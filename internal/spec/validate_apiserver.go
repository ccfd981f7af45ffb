package spec

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// An API server does not start with a file of these kinds that it finds to be wrong, and apply replaces the API servers one after another. What follows are
// the rules of v1.36 and v1.37 that are about single fields.

var (
	auditLevels = []string{"None", "Metadata", "Request", "RequestResponse"}
	auditStages = []string{"RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"}
)

// judgePolicy says what is wrong with an audit policy.
func judgePolicy(content []byte) (problem, fix string) {
	var policy struct {
		OmitStages []string `yaml:"omitStages"`
		Rules      []struct {
			Level           string   `yaml:"level"`
			OmitStages      []string `yaml:"omitStages"`
			NonResourceURLs []string `yaml:"nonResourceURLs"`
			Namespaces      []string `yaml:"namespaces"`
			Resources       []struct {
				Resources     []string `yaml:"resources"`
				ResourceNames []string `yaml:"resourceNames"`
			} `yaml:"resources"`
		} `yaml:"rules"`
	}
	if err := yaml.Load(content, &policy); err != nil {
		return "is no audit policy: " + err.Error(), "correct it"
	}
	stages := func(at string, names []string) string {
		for _, name := range names {
			if !slices.Contains(auditStages, name) {
				return fmt.Sprintf("has the stage `%s` in %somitStages, which is not known", name, at)
			}
		}
		return ""
	}
	if problem = stages("", policy.OmitStages); problem != "" {
		return problem, "use " + or(auditStages)
	}
	for i, r := range policy.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		if !slices.Contains(auditLevels, r.Level) {
			return fmt.Sprintf("has the level `%s` in %s, which is not known", r.Level, at), "use " + or(auditLevels)
		}
		if problem = stages(at+".", r.OmitStages); problem != "" {
			return problem, "use " + or(auditStages)
		}
		if len(r.NonResourceURLs) > 0 && len(r.Resources)+len(r.Namespaces) > 0 {
			return "has both nonResourceURLs and resources or namespaces in " + at, "make two rules of it"
		}
		for _, u := range r.NonResourceURLs {
			if u != "*" && (!strings.HasPrefix(u, "/") || strings.Contains(strings.TrimSuffix(u, "*"), "*")) {
				return fmt.Sprintf("has `%s` in %s.nonResourceURLs", u, at), "write a path like `/healthz*`, with an asterisk only at the end"
			}
		}
		for _, g := range r.Resources {
			if len(g.ResourceNames) > 0 && len(g.Resources) == 0 {
				return "has resourceNames without resources in " + at, "name the resources, too"
			}
		}
	}
	return "", ""
}

// claim is from which claim of a token a user's name, or groups, come.
type claim struct {
	Claim      string  `yaml:"claim"`
	Prefix     *string `yaml:"prefix"`
	Expression string  `yaml:"expression"`
}

// judgeIssuers says what is wrong with the issuers of tokens.
func judgeIssuers(content []byte) (problem, fix string) {
	var config struct {
		JWT []struct {
			Issuer struct {
				URL                 string   `yaml:"url"`
				Audiences           []string `yaml:"audiences"`
				AudienceMatchPolicy string   `yaml:"audienceMatchPolicy"`
			} `yaml:"issuer"`
			ClaimMappings struct {
				Username claim `yaml:"username"`
				Groups   claim `yaml:"groups"`
			} `yaml:"claimMappings"`
		} `yaml:"jwt"`
	}
	if err := yaml.Load(content, &config); err != nil {
		return "is no AuthenticationConfiguration: " + err.Error(), "correct it"
	}
	seen := map[string]bool{}
	for i, j := range config.JWT {
		at := fmt.Sprintf("jwt[%d]", i)
		u, err := url.Parse(j.Issuer.URL)
		switch {
		case j.Issuer.URL == "" || err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return fmt.Sprintf("has the URL `%s` in %s.issuer", j.Issuer.URL, at), "write it like `https://id.example.com`"
		case seen[j.Issuer.URL]:
			return fmt.Sprintf("has the issuer %s twice", j.Issuer.URL), "remove one of them"
		case len(j.Issuer.Audiences) == 0 || slices.Contains(j.Issuer.Audiences, ""):
			return fmt.Sprintf("has no audience in %s.issuer", at), "name the client ID that the issuer has for this cluster, like `audiences: [kubernetes]`"
		case len(j.Issuer.Audiences) > 1 && j.Issuer.AudienceMatchPolicy != "MatchAny":
			return fmt.Sprintf("has several audiences in %s.issuer", at), "add `audienceMatchPolicy: MatchAny`, or name one audience"
		case j.ClaimMappings.Username.Claim == "" && j.ClaimMappings.Username.Expression == "":
			return fmt.Sprintf("does not say in %s.claimMappings.username which claim is the user's name", at), "write it like `username: {claim: email, prefix: \"oidc:\"}`"
		}
		seen[j.Issuer.URL] = true
		for _, c := range []struct {
			name string
			of   claim
		}{{"username", j.ClaimMappings.Username}, {"groups", j.ClaimMappings.Groups}} {
			switch {
			case c.of.Claim != "" && c.of.Expression != "":
				return fmt.Sprintf("has both a claim and an expression in %s.claimMappings.%s", at, c.name), "keep one of them"
			case c.of.Claim != "" && c.of.Prefix == nil:
				return fmt.Sprintf("has no prefix in %s.claimMappings.%s", at, c.name), "add one, like `prefix: \"oidc:\"`, so that nobody gets the name of one of the cluster's own users; `prefix: \"\"` is none"
			case c.of.Expression != "" && c.of.Prefix != nil:
				return fmt.Sprintf("has both an expression and a prefix in %s.claimMappings.%s", at, c.name), "remove the prefix: the expression says everything"
			}
		}
	}
	return "", ""
}
