package cli

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/existing"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/sshconfig"
)

// fromCluster describes a running cluster. The configuration of OpenSSH is nil if it is not to be used.
func (a *app) fromCluster(cmd *cobra.Command, login string, usual spec.SSH, config *sshconfig.Config, given []spec.Host, flags spec.InitOptions) (existing.Description, error) {
	ctx := cmd.Context()
	var none existing.Description
	for _, name := range hostFlags {
		if name != "host" && cmd.Flags().Changed(name) {
			return none, usageError{fmt.Errorf("--%s cannot be combined with --from-cluster: the hosts are those of the cluster; name more of them with --host", name)}
		}
	}
	address, ssh, err := spec.ParseLogin(login)
	if err != nil {
		return none, usageError{fmt.Errorf("--from-cluster: %w", err)}
	}
	usual.User = ssh.User
	first := []spec.Host{{Name: address, SSH: usual}}
	first[0].SSH.Port = ssh.Port
	if config != nil {
		notes, err := config.Apply(ctx, first)
		if err != nil {
			return none, usageError{err}
		}
		a.notes(notes)
	}
	first[0].Address = cmp.Or(first[0].Address, address)
	a.unlock(ctx, reachable(&spec.Cluster{Spec: spec.Spec{Hosts: first}}))
	sink, done := a.progress()
	seen, api, err := run.ReadOne(ctx, first[0], sink)
	done()
	if err != nil {
		return none, explain(ctx, err)
	}

	g := existing.Given{Login: login, SSH: usual, Hosts: given, Zones: flags.Zones, Options: flags}
	c := existing.Outline(api, g)
	if config != nil {
		notes, err := config.Apply(ctx, c.Spec.Hosts)
		if err != nil {
			return none, usageError{err}
		}
		a.notes(notes)
	}
	guessed := atPort(c.Spec.Hosts, ssh.Port)
	all := reachable(c)
	a.unlock(ctx, all)
	sink, done = a.progress()
	obs := run.ReadAll(ctx, all, seen, api, sink)
	var lost []spec.Host
	for _, h := range c.Spec.Hosts {
		if obs.Hosts[h.Name].Error != "" && slices.Contains(guessed, h.Name) {
			lost = append(lost, h)
		}
	}
	if found := run.FindPorts(ctx, lost, func(h spec.Host) []int { return portsToTry(h, c.Spec.Hosts) }, sink); len(found) > 0 {
		for i, h := range c.Spec.Hosts {
			if j := slices.IndexFunc(lost, func(l spec.Host) bool { return l.Name == h.Name }); j >= 0 {
				c.Spec.Hosts[i].SSH.Port = lost[j].SSH.Port
			}
		}
		obs = run.ReadAll(ctx, reachable(c), seen, api, sink)
	}
	done()
	if err := ctx.Err(); err != nil {
		return none, explain(ctx, err)
	}
	return existing.Describe(c, obs, g), nil
}

// atPort gives the port of the login to hosts of which nobody says another one, and returns their names.
func atPort(hosts []spec.Host, port int) (guessed []string) {
	for i, h := range hosts {
		if h.SSH.Port == 0 {
			hosts[i].SSH.Port = port
			guessed = append(guessed, h.Name)
		}
	}
	return guessed
}

// portsToTry are where sshd of a host may listen that is not reached at the port of the login: where this machine has reached it before, at the usual
// port, or where it is on other hosts.
func portsToTry(h spec.Host, all []spec.Host) []int {
	ports := append(host.KnownPorts(h.SSH.KnownHostsFile, h.SSHAddress()), spec.DefaultSSHPort)
	for _, other := range all {
		if other.SSH.Port != 0 {
			ports = append(ports, other.SSH.Port)
		}
	}
	return ports
}

// reachable returns a copy of a spec that says how each host is reached, also where that is as usual.
func reachable(c *spec.Cluster) *spec.Cluster {
	out := *c
	out.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	out.Default()
	return &out
}

// writeDraft writes the spec of what exists. One that is not valid yet is written as well, and what is wrong with it is the error.
func (a *app) writeDraft(to string, replace bool, d existing.Description) error {
	d.Options.Notes = d.Notes
	data, problems, err := spec.Draft(d.Options, to)
	if err != nil {
		return err
	}
	a.notes(d.Notes)
	if to == "-" {
		if _, err := a.out.Write(data); err != nil {
			return err
		}
	} else if err := writeSpec(to, data, 0o644, replace); err != nil {
		return err
	}
	if len(problems) > 0 {
		fmt.Fprintln(a.err, "The spec was written, but it is not valid yet. Correct these problems, then run quorate validate"+fileFlag(to)+":")
		return problems
	}
	if to != "-" {
		fmt.Fprintf(a.err, "Wrote %s. Read the notes at its top. Next, run quorate plan%[2]s, which shows what adoption would change, then quorate apply%[2]s --adopt.\n", to, fileFlag(to))
	}
	return nil
}
