package etcd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// Timers are those that the static pod or the environment file of the member sets; nil if it has neither, or they cannot be read.
func (m Member) Timers() *facts.EtcdTimers {
	if pod, err := staticpod.Read(m.path(hostconfig.EtcdManifest)); err == nil {
		return new(hostconfig.ReadEtcdTimers(staticpod.Arguments(pod)))
	}
	env, err := os.ReadFile(m.path(hostconfig.EtcdEnvFile))
	if err != nil {
		return nil
	}
	return new(hostconfig.ReadEtcdTimers(variables(strings.Split(string(env), "\n"))))
}

// Runs are the timers with which the process of an external etcd's unit was started; nil if nobody can tell.
func (m Member) Runs(pid int) *facts.EtcdTimers {
	env := system.ReadAll(m.path(filepath.Join("/proc", strconv.Itoa(pid), "environ")))
	if len(env) == 0 { // it has ended
		return nil
	}
	return new(hostconfig.ReadEtcdTimers(variables(strings.Split(string(env), "\x00"))))
}

// variables are those of an environment.
func variables(lines []string) map[string]string {
	out := map[string]string{}
	for _, line := range lines {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[name] = value
		}
	}
	return out
}
