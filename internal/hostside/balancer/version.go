package balancer

import (
	"context"
	"os/exec"
	"os/user"
	"regexp"
	"strings"

	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

var printed = regexp.MustCompile(`(?i)^(?:ha-?proxy version|keepalived v) ?([0-9]+(?:\.[0-9]+)+)`)

// Versions are those of the installed programs that a load balancer needs, by name; what a program printed where that
// contains no version.
func Versions(ctx context.Context) map[string]string {
	out := map[string]string{}
	for _, need := range hostconfig.BalancerVersions {
		path, err := exec.LookPath(hostconfig.ProgramPath(need.Program))
		if err != nil {
			continue
		}
		text, err := system.Command{Name: path, Args: []string{"-v"}}.CombinedOutput(ctx) // keepalived prints it to standard error
		if err != nil && len(text) == 0 {
			text = []byte(err.Error())
		}
		out[need.Program] = version(string(text))
	}
	return out
}

func version(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if m := printed.FindStringSubmatch(line); m != nil {
		return m[1]
	}
	return line
}

// UserExists reports whether the user and the group that HAProxy runs as exist.
func UserExists() bool {
	_, userErr := user.Lookup(hostconfig.HAProxyUser)
	_, groupErr := user.LookupGroup(hostconfig.HAProxyUser)
	return userErr == nil && groupErr == nil
}
